//! Removes pods that nobody else will: those of nodes that are gone, those that are to end on a node of which somebody
//! says that it is out of service, those that were deleted before they had a node, and the oldest of very many that are
//! over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use skiff_api::ObjectKey;
use skiff_base::time;
use skiff_client::{Change, Client, DeleteOptions, Lister, Next, PatchKind, Queue, Reconciler, Result};

use crate::node_lifecycle::{is_out_of_service, is_ready, node_name};
use crate::{Context, drive, pod};

/// So many pods that are over are kept.
const KEPT: usize = 12_500;
/// A node must be gone for so long before its pods go: it may only be registering again.
const QUARANTINE: Duration = Duration::from_secs(40);

const BY_NODE: &str = "node";
/// Pods that are over, under one value.
const OVER: &str = "over";

pub fn start(context: &Context) {
    let nodes = context.informers.lister::<Node>();
    let pods = context.informers.lister::<Pod>();
    pods.add_index(BY_NODE, node_name);
    pods.add_index(OVER, |pod| if pod::is_over(pod) { vec![OVER.to_owned()] } else { Vec::new() });
    let queue = Queue::new(PodGc::NAME);
    let (adding, all) = (queue.clone(), pods.clone());
    nodes.subscribe(move |change| {
        let node = change.object();
        if matches!(change, Change::Deleted(_)) || is_shut_down(node) {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            all.indexed(BY_NODE, name).iter().for_each(|pod| adding.add(Work::Pod(ObjectKey::of(&**pod))));
        }
    });
    let (adding, known) = (queue.clone(), nodes.clone());
    pods.subscribe(move |change| {
        let pod = match change {
            Change::Added(pod) | Change::Modified { new: pod, .. } => pod,
            Change::Deleted(_) => return,
        };
        let placed = matches!(change, Change::Added(_)) && !node_name(pod).is_empty();
        let on_shut_down = || {
            let node = node_name(pod).into_iter().next().and_then(|node| known.get(&ObjectKey::cluster(&node)));
            node.is_some_and(|node| is_shut_down(&node))
        };
        if placed || is_stuck(pod) || (pod.metadata.deletion_timestamp.is_some() && on_shut_down()) {
            adding.add(Work::Pod(ObjectKey::of(&**pod)));
        }
        if pod::is_over(pod) && !matches!(change, Change::Modified { old, .. } if pod::is_over(old)) {
            adding.add(Work::Over);
        }
    });
    let controller = Arc::new(PodGc {
        client: context.client("pod-garbage-collector"),
        nodes: nodes.clone(),
        pods: pods.clone(),
        missing: Mutex::default(),
    });
    drive(context, controller, queue, 2, async move {
        nodes.synced().await;
        pods.synced().await;
    });
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Work {
    Pod(ObjectKey),
    /// Look at those that are over.
    Over,
}

struct PodGc {
    client: Client,
    nodes: Lister<Node>,
    pods: Lister<Pod>,
    /// Since when a node is missing.
    missing: Mutex<HashMap<String, Instant>>,
}

/// Deleted, and on no node whose kubelet would finish that.
fn is_stuck(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && node_name(pod).is_empty()
}

/// Somebody has said that the machine is off, and nothing says that it is not.
fn is_shut_down(node: &Node) -> bool {
    is_out_of_service(node) && !is_ready(node)
}

/// The oldest of those that are over, so that not more than `kept` stay.
fn plan_surplus(mut over: Vec<Arc<Pod>>, kept: usize) -> Vec<Arc<Pod>> {
    let Some(surplus) = over.len().checked_sub(kept) else { return Vec::new() };
    over.sort_by(|a, b| {
        let age = |pod: &Pod| (pod.metadata.creation_timestamp.clone(), pod.metadata.name.clone());
        age(a).cmp(&age(b))
    });
    over.truncate(surplus);
    over
}

impl Reconciler for PodGc {
    const NAME: &'static str = "pod-garbage-collector-controller";
    type Key = Work;

    async fn reconcile(&self, work: &Work) -> Result<Next> {
        match work {
            Work::Over => {
                for pod in plan_surplus(self.pods.indexed(OVER, OVER), KEPT) {
                    self.remove(&pod).await?;
                }
                Ok(Next::Done)
            }
            Work::Pod(key) => self.look_at(key).await,
        }
    }
}

impl PodGc {
    async fn look_at(&self, key: &ObjectKey) -> Result<Next> {
        let Some(pod) = self.pods.get(key) else { return Ok(Next::Done) };
        if is_stuck(&pod) {
            self.remove(&pod).await?;
            return Ok(Next::Done);
        }
        let Some(node) = node_name(&pod).into_iter().next() else { return Ok(Next::Done) };
        let found = self.nodes.get(&ObjectKey::cluster(&node));
        if pod.metadata.deletion_timestamp.is_some() && found.is_some_and(|node| is_shut_down(&node)) {
            tracing::info!(pod = %key, node, "removing a pod that ends on a node that is out of service");
            if !pod::is_over(&pod) {
                self.fail(key, &pod, &[]).await?;
            }
            self.remove(&pod).await?;
            return Ok(Next::Done);
        }
        if let Some(wait) = self.quarantine(&node) {
            return Ok(wait);
        }
        // The cache may lag, and what follows can't be undone.
        match self.client.all::<Node>().get(&node).await {
            Ok(_) => return Ok(Next::Done),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        tracing::info!(pod = %key, node, "removing the pod of a node that is gone");
        if !pod::is_over(&pod) {
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists", "lastTransitionTime": time::now_rfc3339()});
            self.fail(key, &pod, &[condition]).await?;
        }
        self.remove(&pod).await?;
        Ok(Next::Done)
    }

    /// What to wait for before a node counts as gone.
    fn quarantine(&self, node: &str) -> Option<Next> {
        let mut missing = self.missing.lock().expect("nothing panics while it holds the times");
        if self.nodes.get(&ObjectKey::cluster(node)).is_some() {
            missing.remove(node);
            return Some(Next::Done);
        }
        let since = *missing.entry(node.to_owned()).or_insert_with(Instant::now);
        let left = QUARANTINE.saturating_sub(since.elapsed());
        // The pods of nodes that are long gone need not be waited for again: the entry stays.
        (!left.is_zero()).then_some(Next::After(left))
    }

    async fn fail(&self, key: &ObjectKey, pod: &Pod, conditions: &[Value]) -> Result<()> {
        let patch = json!({"metadata": {"uid": pod.metadata.uid},
            "status": {"phase": "Failed", "conditions": conditions}});
        let pods = self.client.namespaced::<Pod>(&key.namespace);
        match pods.patch_status(&key.name, PatchKind::Strategic, &patch).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn remove(&self, pod: &Pod) -> Result<()> {
        let pods = self.client.namespaced::<Pod>(pod.metadata.namespace.as_deref().unwrap_or_default());
        let options =
            DeleteOptions { grace_period_s: Some(0), uid: pod.metadata.uid.clone(), ..DeleteOptions::default() };
        match pods.delete(pod.metadata.name.as_deref().unwrap_or_default(), &options).await {
            Ok(()) => Ok(()),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Stage;

    #[test]
    fn the_oldest_go() {
        let pod = |name: &str, at: &str| -> Arc<Pod> {
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name, "creationTimestamp": at}})).expect("a pod"),
            )
        };
        let over =
            vec![pod("b", "2024-01-02T00:00:00Z"), pod("a", "2024-01-01T00:00:00Z"), pod("c", "2024-01-03T00:00:00Z")];
        let names = |kept: usize| -> Vec<String> {
            plan_surplus(over.clone(), kept).iter().filter_map(|pod| pod.metadata.name.clone()).collect()
        };
        assert_eq!(names(1), ["a", "b"]);
        assert!(names(3).is_empty() && names(9).is_empty());
    }

    #[tokio::test]
    async fn removes_what_was_deleted_before_it_had_a_node() {
        let stage = Stage::new();
        let pod = |name: &str, node: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": node, "containers": []},
                "metadata": {"name": name, "namespace": "x", "deletionTimestamp": "2024-01-01T00:00:00Z"}})
        };
        let node = |taints: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {"taints": taints}});
        stage.put(node(json!([])));
        stage.put(pod("stuck", ""));
        stage.put(pod("going", "n"));
        super::start(&stage.context());
        stage
            .until("the stuck one is gone", |fake| {
                let pods = fake.objects("/api/v1/pods");
                pods.len() == 1 && pods[0]["metadata"]["name"] == "going"
            })
            .await;
        // Nor does a node let a pod go that is out of service.
        stage.put(node(json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}])));
        stage.until("the other one is gone, too", |fake| fake.objects("/api/v1/pods").is_empty()).await;
        stage.end().await;
    }
}
