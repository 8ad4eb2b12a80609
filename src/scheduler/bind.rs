//! What a decision does to the API: the binding, the pod's condition, the events.

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use skiff_base::chain;
use skiff_client::{Client, DeleteOptions, PatchKind, Result};

use crate::snapshot::PodInfo;

/// Puts a pod on a node (upstream's DefaultBinder).
pub async fn bind(client: &Client, pod: &PodInfo, node: &str) -> Result<()> {
    let (namespace, name) = (&*pod.key.namespace, &*pod.key.name);
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"namespace": namespace, "name": name, "uid": pod.uid},
        "target": {"kind": "Node", "name": node},
    });
    client.namespaced::<Pod>(namespace).create_subresource(name, "binding", &binding).await.map(drop)
}

/// What becomes of the node that a pod is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nomination {
    Keep,
    Clear,
    Set(String),
}

/// Tells in the pod's status why it is on no node, and which one it is to have.
pub async fn report(client: &Client, pod: &PodInfo, reason: &str, message: &str, nomination: &Nomination) {
    let condition = plan_condition(&pod.pod, reason, message, skiff_base::time::now());
    let mut status = serde_json::Map::new();
    if let Some(condition) = condition {
        status.insert("conditions".into(), json!([condition]));
    }
    match nomination {
        Nomination::Set(node) if pod.nominated_node() != Some(node) => {
            status.insert("nominatedNodeName".into(), json!(node));
        }
        Nomination::Clear if pod.nominated_node().is_some() => {
            status.insert("nominatedNodeName".into(), Value::Null);
        }
        _ => {}
    }
    if !status.is_empty() {
        patch_status(client, pod, status.into()).await;
    }
}

/// Takes back what a pod was promised.
pub async fn clear_nomination(client: &Client, pod: &PodInfo) {
    patch_status(client, pod, json!({"nominatedNodeName": null})).await;
}

/// Deletes a pod so that a more important one has its room; the condition says why.
pub async fn evict(client: &Client, victim: &PodInfo, preemptor: &PodInfo) -> Result<()> {
    let scheduler = preemptor.spec().scheduler_name.as_deref().unwrap_or_default();
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
        "observedGeneration": victim.pod.metadata.generation,
        "lastTransitionTime": skiff_base::time::now_rfc3339()});
    let patch = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}});
    let pods = client.namespaced::<Pod>(&victim.key.namespace);
    let options = DeleteOptions { uid: Some(victim.uid.clone()), ..DeleteOptions::default() };
    pods.patch_status(&victim.key.name, PatchKind::Strategic, &patch).await?;
    pods.delete(&victim.key.name, &options).await
}

async fn patch_status(client: &Client, pod: &PodInfo, status: Value) {
    // Not for another pod that has taken the name meanwhile.
    let patch = json!({"metadata": {"uid": pod.uid}, "status": status});
    let pods = client.namespaced::<Pod>(&pod.key.namespace);
    match pods.patch_status(&pod.key.name, PatchKind::Strategic, &patch).await {
        Ok(_) => {}
        Err(error) if error.is_not_found() || error.is_conflict() => {}
        Err(error) => tracing::warn!(pod = %pod.key, error = %chain(&error), "status not written"),
    }
}

/// The condition `PodScheduled`, unless the pod says it already.
fn plan_condition(pod: &Pod, reason: &str, message: &str, now: jiff::Timestamp) -> Option<PodCondition> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let old = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
    let condition = PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        observed_generation: pod.metadata.generation,
        last_transition_time: match old {
            Some(old) if old.status == "False" => old.last_transition_time.clone(),
            _ => Some(Time(now)),
        },
        ..PodCondition::default()
    };
    let same = |old: &PodCondition| {
        (&old.status, &old.reason, &old.message) == (&condition.status, &condition.reason, &condition.message)
    };
    if old.is_some_and(same) { None } else { Some(condition) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;
    use jiff::Timestamp;

    #[test]
    fn the_condition_is_written_once_and_keeps_its_transition() {
        let now = Timestamp::UNIX_EPOCH;
        let fresh = pod("a", json!({"containers": []}));
        let first = plan_condition(&fresh.pod, "Unschedulable", "m", now).expect("there is none yet");
        assert_eq!(first.last_transition_time, Some(Time(now)));
        let mut told = (*fresh.pod).clone();
        told.status.get_or_insert_default().conditions = Some(vec![first]);
        assert_eq!(plan_condition(&told, "Unschedulable", "m", Timestamp::MAX), None);
        let second = plan_condition(&told, "Unschedulable", "n", Timestamp::MAX).expect("the message changed");
        assert_eq!(second.last_transition_time, Some(Time(now)));
    }
}
