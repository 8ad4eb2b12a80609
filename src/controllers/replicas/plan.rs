//! The decisions of the replica engine.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_api::selector::LabelSelector;

use super::kind::{Condition, Status};
use crate::pod::{Availability, availability, is_ready, phase, ready_since};

/// At most this many pods are made or deleted in one go.
pub const BURST: usize = 500;
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    Nothing,
    Create(usize),
    /// How many, of the least valuable.
    Delete(usize),
}

pub fn plan_replicas(have: usize, want: i32) -> Plan {
    let want = usize::try_from(want).unwrap_or(0);
    match have.cmp(&want) {
        Ordering::Less => Plan::Create((want - have).min(BURST)),
        Ordering::Equal => Plan::Nothing,
        Ordering::Greater => Plan::Delete((have - want).min(BURST)),
    }
}

/// The `count` pods whose loss costs least. `related` are all active pods that do the same work (those of
/// all replica sets of one deployment): of nodes with many of them pods are taken first.
pub fn plan_victims(mut pods: Vec<Arc<Pod>>, related: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    if count >= pods.len() {
        return pods;
    }
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related {
        *on_node.entry(node(pod)).or_insert(0) += 1;
    }
    pods.sort_by(|a, b| {
        let crowd = |pod: &Pod| on_node.get(node(pod)).copied().unwrap_or(0);
        compare(a, b, crowd(a), crowd(b), now)
    });
    pods.truncate(count);
    pods
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// Less is to be deleted first.
fn compare(a: &Pod, b: &Pod, crowd_a: usize, crowd_b: usize, now: Timestamp) -> Ordering {
    let scheduled = |pod: &Pod| !node(pod).is_empty();
    let rank = |pod: &Pod| match phase(pod) {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = |pod: &Pod| -> i32 {
        let annotations = pod.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(DELETION_COST)).and_then(|cost| cost.parse().ok()).unwrap_or(0)
    };
    scheduled(a)
        .cmp(&scheduled(b))
        .then_with(|| rank(a).cmp(&rank(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| crowd_b.cmp(&crowd_a))
        .then_with(|| {
            if is_ready(a) && is_ready(b) { youngest(ready_since(a), ready_since(b), now) } else { Ordering::Equal }
        })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| {
            let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            youngest(created(a), created(b), now)
        })
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

/// The younger first, but of about the same age (by powers of two) neither: else the newest pods would
/// always go, which are all on one node after an outage of the others.
fn youngest(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let magnitude = |at: Option<Timestamp>| {
        at.map(|at| {
            let age = now.duration_since(at).as_nanos().max(1);
            127 - age.leading_zeros()
        })
    };
    // An unknown time is that of something brand-new.
    magnitude(a).unwrap_or(0).cmp(&magnitude(b).unwrap_or(0))
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).max().unwrap_or(0)
}

/// What went wrong while pods were made or deleted.
pub struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub reason: &'static str,
    pub message: String,
}

/// The status as it should be, and when it changes by itself because pods have been ready for long enough.
pub fn plan_status(
    old: &Status,
    pods: &[Arc<Pod>],
    template: Option<&PodTemplateSpec>,
    min_ready_s: i32,
    generation: i64,
    failure: Option<&Failure>,
    now: Timestamp,
) -> (Status, Option<Duration>) {
    let labels = template.and_then(|template| template.metadata.as_ref()?.labels.as_ref());
    let full = labels.map(LabelSelector::from_labels).unwrap_or_default();
    let mut status = Status {
        replicas: i32::try_from(pods.len()).unwrap_or(i32::MAX),
        observed_generation: generation,
        conditions: old.conditions.clone(),
        ..Status::default()
    };
    let mut soonest: Option<Duration> = None;
    for pod in pods {
        let labelled = match &pod.metadata.labels {
            Some(labels) => full.matches(labels),
            None => full.is_everything(),
        };
        status.fully_labeled += i32::from(labelled);
        status.ready += i32::from(is_ready(pod));
        match availability(pod, min_ready_s, now) {
            Availability::Yes => status.available += 1,
            Availability::In(wait) => soonest = Some(soonest.map_or(wait, |soonest| soonest.min(wait))),
            Availability::No => {}
        }
    }
    let failing = status.conditions.iter().any(|condition| condition.kind == "ReplicaFailure");
    match failure {
        Some(failure) if !failing => status.conditions.push(Condition {
            kind: "ReplicaFailure".into(),
            status: "True".into(),
            reason: failure.reason.into(),
            message: failure.message.clone(),
            since: Some(Time(now)),
        }),
        None => status.conditions.retain(|condition| condition.kind != "ReplicaFailure"),
        Some(_) => {}
    }
    (status, soonest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(value: Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(value).expect("a pod"))
    }

    fn now() -> Timestamp {
        "2024-01-10T00:00:00Z".parse().expect("a time")
    }

    #[test]
    fn counts() {
        for (have, want, expect) in [
            (0, 3, Plan::Create(3)),
            (3, 3, Plan::Nothing),
            (5, 3, Plan::Delete(2)),
            (0, 9000, Plan::Create(500)),
            (9000, 0, Plan::Delete(500)),
            (1, -1, Plan::Delete(1)),
        ] {
            assert_eq!(plan_replicas(have, want), expect);
        }
    }

    #[test]
    fn the_least_valuable_goes_first() {
        let check = |first: Value, last: Value| {
            let (first, last) = (pod(first), pod(last));
            for pods in [vec![first.clone(), last.clone()], vec![last.clone(), first.clone()]] {
                let victims = plan_victims(pods.clone(), &pods, 1, now());
                assert_eq!(victims, std::slice::from_ref(&first));
            }
        };
        let on = |node: &str, phase: &str, ready: &str, more: Value| {
            let mut pod = json!({"metadata": {"uid": format!("{node}{phase}{ready}{more}")}, "spec": {"containers": [], "nodeName": node},
                "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2024-01-01T00:00:00Z"}]}});
            for (path, value) in more.as_object().expect("an object") {
                let (section, field) = path.split_once('.').expect("section.field");
                pod[section][field] = value.clone();
            }
            pod
        };
        let running = |more: Value| on("n", "Running", "True", more);
        check(on("", "Pending", "False", json!({})), on("n", "Pending", "False", json!({})));
        check(on("n", "Pending", "False", json!({})), on("n", "Running", "False", json!({})));
        check(on("n", "Running", "False", json!({})), running(json!({})));
        check(
            running(json!({"metadata.annotations": {DELETION_COST: "-5"}})),
            running(json!({"metadata.annotations": {DELETION_COST: "3"}})),
        );
        let ready =
            |at: &str| json!({"status.conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at}]});
        check(running(ready("2024-01-09T23:59:00Z")), running(ready("2024-01-01T00:00:00Z")));
        let restarted = |n: i32| json!({"status.containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": n}]});
        check(running(restarted(4)), running(restarted(1)));
        check(
            running(json!({"metadata.creationTimestamp": "2024-01-09T23:59:59Z"})),
            running(json!({"metadata.creationTimestamp": "2024-01-01T00:00:00Z"})),
        );
    }

    #[test]
    fn crowded_nodes_give_first() {
        let on = |uid: &str, node: &str| {
            pod(
                json!({"metadata": {"uid": uid}, "spec": {"containers": [], "nodeName": node}, "status": {"phase": "Running"}}),
            )
        };
        let pods = vec![on("a", "lonely"), on("b", "crowded")];
        let related = [pods.clone(), vec![on("c", "crowded")]].concat();
        assert_eq!(plan_victims(pods.clone(), &related, 1, now())[0].metadata.uid.as_deref(), Some("b"));
    }

    #[test]
    fn status_counts_and_tells_of_failures() {
        let template: PodTemplateSpec =
            serde_json::from_value(json!({"metadata": {"labels": {"a": "b"}}})).expect("a template");
        let ready = |at: &str, label: &str| {
            pod(json!({"metadata": {"labels": {"a": label}}, "status": {"conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": at}]}}))
        };
        let pods =
            [ready("2024-01-09T00:00:00Z", "b"), ready("2024-01-09T23:59:58Z", "c"), pod(json!({"metadata": {}}))];
        let failure = Failure { reason: "FailedCreate", message: "no".into() };
        let plan =
            |old: &Status, failure: Option<&Failure>| plan_status(old, &pods, Some(&template), 10, 7, failure, now());
        let (status, wait) = plan(&Status::default(), Some(&failure));
        assert_eq!((status.replicas, status.fully_labeled, status.ready, status.available), (3, 1, 2, 1));
        assert_eq!((status.observed_generation, wait), (7, Some(Duration::from_secs(8))));
        assert_eq!(status.conditions[0].reason, "FailedCreate");
        assert_eq!(plan(&status, Some(&failure)).0, status);
        assert!(plan(&status, None).0.conditions.is_empty());
    }
}
