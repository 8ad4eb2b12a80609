use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use serde_json::json;
use skiff_api::ObjectKey;
use skiff_api::taint::toleration_of;
use skiff_base::time;
use skiff_client::{
    Change, Client, DeleteOptions, EventKind, EventRecorder, Lister, Next, PatchKind, Queue, Reconciler, Result,
};

use super::BY_NODE;
use crate::{Context, drive, pod};

pub fn start(context: &Context) {
    let nodes = context.informers.lister::<Node>();
    let pods = context.informers.lister::<Pod>();
    let queue = Queue::new(Evictor::NAME);
    let (adding, all) = (queue.clone(), pods.clone());
    nodes.subscribe(move |change| {
        let driven = |node: &Node| drivers(node).next().is_some();
        let matters = match change {
            Change::Added(node) => driven(node),
            Change::Modified { old, new } => (driven(old) || driven(new)) && !drivers(old).eq(drivers(new)),
            Change::Deleted(_) => false,
        };
        if matters {
            let name = change.object().metadata.name.clone().unwrap_or_default();
            all.indexed(BY_NODE, &name).iter().for_each(|pod| adding.add(ObjectKey::of(&**pod)));
        }
    });
    let evictor = Arc::new(Evictor {
        client: context.client("node-controller"),
        events: context.events("node-controller", "taint-eviction-controller"),
        nodes: nodes.clone(),
        pods: pods.clone(),
        since: Mutex::default(),
    });
    let (adding, seeing) = (queue.clone(), evictor.clone());
    pods.subscribe(move |change| {
        let facts = |pod: &Pod| pod.spec.as_ref().map(|spec| (spec.node_name.clone(), spec.tolerations.clone()));
        match change {
            Change::Added(pod) => adding.add(ObjectKey::of(&**pod)),
            Change::Modified { old, new } if facts(old) != facts(new) => adding.add(ObjectKey::of(&**new)),
            Change::Modified { .. } => {}
            Change::Deleted(pod) => {
                let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                seeing.since.lock().expect("nothing panics while it holds the times").remove(uid);
            }
        }
    });
    drive(context, evictor, queue, 4, async move {
        nodes.synced().await;
        pods.synced().await;
    });
}

/// The taints that drive pods away.
fn drivers(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).filter(|taint| taint.effect == "NoExecute")
}

struct Evictor {
    client: Client,
    events: EventRecorder,
    nodes: Lister<Node>,
    pods: Lister<Pod>,
    /// Since when a pod (by uid) stands under taints that it does not tolerate for ever.
    since: Mutex<HashMap<String, Timestamp>>,
}

/// How long a pod stays on a node with these taints; `None`: for ever.
fn plan_stay(tolerations: Option<&[Toleration]>, taints: &[&Taint]) -> Option<Duration> {
    let mut shortest: Option<Duration> = None;
    for taint in taints {
        let Some(toleration) = toleration_of(tolerations, taint) else { return Some(Duration::ZERO) };
        if let Some(seconds) = toleration.toleration_seconds {
            let stay = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            shortest = Some(shortest.map_or(stay, |shortest| shortest.min(stay)));
        }
    }
    shortest
}

impl Reconciler for Evictor {
    const NAME: &'static str = "taint-eviction-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(pod) = self.pods.get(key).filter(|pod| pod::is_active(pod)) else { return Ok(Next::Done) };
        let Some(spec) = &pod.spec else { return Ok(Next::Done) };
        let node = spec.node_name.as_deref().and_then(|name| self.nodes.get(&ObjectKey::cluster(name)));
        let taints: Vec<&Taint> = node.iter().flat_map(|node| drivers(node)).collect();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let Some(stay) = plan_stay(spec.tolerations.as_deref(), &taints) else {
            let was_going = self.since.lock().expect("nothing panics while it holds the times").remove(&uid);
            if was_going.is_some() {
                let message = format!("Cancelling deletion of Pod {key}");
                self.events.record(EventRecorder::reference(&*pod), EventKind::Normal, "TaintManagerEviction", message);
            }
            return Ok(Next::Done);
        };
        let now = time::now();
        let since = *self.since.lock().expect("nothing panics while it holds the times").entry(uid).or_insert(now);
        let left = SignedDuration::try_from(stay).unwrap_or(SignedDuration::MAX) - now.duration_since(since);
        if let Ok(left) = Duration::try_from(left)
            && !left.is_zero()
        {
            return Ok(Next::After(left));
        }
        self.evict(key, &pod).await?;
        Ok(Next::Done)
    }
}

impl Evictor {
    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<()> {
        let message = format!("Marking for deletion Pod {key}");
        self.events.record(EventRecorder::reference(pod), EventKind::Normal, "TaintManagerEviction", message);
        let why = "Taint manager: deleting due to NoExecute taint";
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": why, "lastTransitionTime": time::now_rfc3339()});
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        let pods = self.client.namespaced::<Pod>(&key.namespace);
        let options = DeleteOptions { uid: pod.metadata.uid.clone(), ..DeleteOptions::default() };
        let outcome = async {
            pods.patch_status(&key.name, PatchKind::Strategic, &patch).await?;
            pods.delete(&key.name, &options).await
        };
        match outcome.await {
            Ok(()) => Ok(()),
            // It is gone, or another has its name.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn pods_stay_as_long_as_they_tolerate_all_taints() {
        let taint = |key: &str| Taint { key: key.into(), effect: "NoExecute".into(), ..Taint::default() };
        let check = |tolerations: Value, taints: &[&str], expect: Option<u64>| {
            let typed: Vec<Toleration> = serde_json::from_value(tolerations.clone()).expect("tolerations");
            let taints: Vec<Taint> = taints.iter().map(|key| taint(key)).collect();
            let taints: Vec<&Taint> = taints.iter().collect();
            let stay = plan_stay(Some(&typed), &taints).map(|stay| stay.as_secs());
            assert_eq!(stay, expect, "{tolerations}");
        };
        let all = json!([{"operator": "Exists"}]);
        let some = json!([{"key": "a", "operator": "Exists", "tolerationSeconds": 300},
            {"key": "b", "operator": "Exists", "tolerationSeconds": 5}, {"key": "c", "operator": "Exists"},
            {"key": "d", "operator": "Exists", "tolerationSeconds": -1}]);
        check(json!([]), &[], None);
        check(json!([]), &["a"], Some(0));
        check(all, &["a"], None);
        check(some.clone(), &["a"], Some(300));
        check(some.clone(), &["a", "b", "c"], Some(5));
        check(some.clone(), &["c"], None);
        check(some.clone(), &["d"], Some(0));
        check(some, &["a", "z"], Some(0));
    }
}
