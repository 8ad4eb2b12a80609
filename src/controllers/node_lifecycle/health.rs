use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use skiff_api::ObjectKey;
use skiff_base::{chain, time};
use skiff_client::{
    Change, Client, EventKind, EventRecorder, Lister, Next, PatchKind, Queue, Reconciler, Result, Selector,
};

use super::taints::{plan_taints, plan_unknown};
use super::{BY_NODE, condition, is_ready};
use crate::{Context, drive, pod};

/// A node that was not heard of for so long is unknown.
const GRACE: Duration = Duration::from_secs(50);
/// The same for one that was never heard of.
const STARTUP_GRACE: Duration = Duration::from_secs(60);
const LEASES: &str = "kube-node-lease";

pub fn start(context: &Context) {
    let nodes = context.informers.lister::<Node>();
    let pods = context.informers.lister::<Pod>();
    let leases = context.informers.selected::<Lease>(Selector { namespace: LEASES.to_owned(), ..Selector::default() });
    let queue = Queue::new(Health::NAME);
    let health = Arc::new(Health {
        client: context.client("node-controller"),
        events: context.events("node-controller", "node-controller"),
        nodes: nodes.clone(),
        pods: pods.clone(),
        seen: Mutex::default(),
    });
    let (seeing, adding) = (health.clone(), queue.clone());
    nodes.subscribe(move |change| seeing.see_node(change, &adding));
    let (seeing, adding) = (health.clone(), queue.clone());
    leases.subscribe(move |change| seeing.see_lease(change, &adding));
    drive(context, health, queue, 4, async move {
        nodes.synced().await;
        pods.synced().await;
        leases.synced().await;
    });
}

struct Health {
    client: Client,
    events: EventRecorder,
    nodes: Lister<Node>,
    pods: Lister<Pod>,
    /// By name. Heartbeats count from when they are seen: the clocks of nodes may be wrong.
    seen: Mutex<HashMap<String, Seen>>,
}

struct Seen {
    at: Instant,
    was_ready: bool,
}

impl Health {
    fn seen(&self) -> MutexGuard<'_, HashMap<String, Seen>> {
        self.seen.lock().expect("nothing panics while it holds the heartbeats")
    }

    fn see_node(&self, change: &Change<Node>, queue: &Queue<ObjectKey>) {
        let node = change.object();
        let name = node.metadata.name.as_deref().unwrap_or_default();
        match change {
            Change::Added(node) => {
                self.seen().insert(name.to_owned(), Seen { at: Instant::now(), was_ready: is_ready(node) });
                let message = format!("Node {name} event: Registered Node {name} in Controller");
                self.events.record(EventRecorder::reference(&**node), EventKind::Normal, "RegisteredNode", message);
            }
            Change::Modified { old, new } => {
                let heartbeat = |node: &Node| {
                    condition(node, "Ready").map(|ready| (ready.status.clone(), ready.last_heartbeat_time.clone()))
                };
                // What this controller writes is no heartbeat.
                let silent = condition(new, "Ready").is_none_or(|ready| ready.status == "Unknown");
                if !silent && heartbeat(old) != heartbeat(new) {
                    self.heard(name);
                }
            }
            Change::Deleted(node) => {
                self.seen().remove(name);
                let message = format!("Node {name} event: Removing Node {name} from Controller");
                self.events.record(EventRecorder::reference(&**node), EventKind::Normal, "RemovingNode", message);
            }
        }
        let readiness_changed = match change {
            Change::Modified { old, new } => is_ready(old) != is_ready(new),
            Change::Added(_) | Change::Deleted(_) => true,
        };
        if readiness_changed {
            // Whether there is any ready node at all matters to the others.
            self.nodes.list().iter().for_each(|node| queue.add(ObjectKey::of(&**node)));
        }
        queue.add(ObjectKey::of(&**node));
    }

    fn see_lease(&self, change: &Change<Lease>, queue: &Queue<ObjectKey>) {
        let renewal = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
        let renewed = match change {
            Change::Added(_) => true,
            Change::Modified { old, new } => renewal(old) != renewal(new),
            Change::Deleted(_) => false,
        };
        if renewed {
            let name = change.object().metadata.name.clone().unwrap_or_default();
            self.heard(&name);
            let key = ObjectKey::cluster(&name);
            if self.nodes.get(&key).is_some_and(|node| !is_ready(&node)) {
                queue.add(key);
            }
        }
    }

    fn heard(&self, name: &str) {
        if let Some(seen) = self.seen().get_mut(name) {
            seen.at = Instant::now();
        }
    }

    /// Notes the readiness, and says whether it was just lost.
    fn lost(&self, name: &str, ready: bool) -> bool {
        let mut seen = self.seen();
        let Some(seen) = seen.get_mut(name) else { return false };
        std::mem::replace(&mut seen.was_ready, ready) && !ready
    }

    /// How long ago the node was heard of.
    fn silence(&self, name: &str) -> Duration {
        let mut seen = self.seen();
        let now = Instant::now();
        seen.entry(name.to_owned()).or_insert(Seen { at: now, was_ready: false }).at.elapsed()
    }

    /// The pods of a node that is not ready are not either, whatever they said last.
    async fn mark_pods(&self, node: &str) -> Result<()> {
        for pod in self.pods.indexed(BY_NODE, node).into_iter().filter(|pod| pod::is_ready(pod)) {
            let now = time::now_rfc3339();
            let condition =
                json!({"type": "Ready", "status": "False", "reason": "NodeNotReady", "lastTransitionTime": now});
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
            let pods = self.client.namespaced::<Pod>(pod.metadata.namespace.as_deref().unwrap_or_default());
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            match pods.patch_status(name, PatchKind::Strategic, &patch).await {
                Ok(_) => {
                    let reference = EventRecorder::reference(&*pod);
                    self.events.record(reference, EventKind::Warning, "NodeNotReady", "Node is not ready");
                }
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => tracing::warn!(pod = name, error = %chain(&error), "pod not marked as not ready"),
            }
        }
        Ok(())
    }
}

impl Reconciler for Health {
    const NAME: &'static str = "node-lifecycle-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(mut node) = self.nodes.get(key) else { return Ok(Next::Done) };
        let api = self.client.all::<Node>();
        let grace = if condition(&node, "Ready").is_none() { STARTUP_GRACE } else { GRACE };
        let silence = self.silence(&key.name);
        if silence >= grace
            && let Some(conditions) = plan_unknown(&node, time::now())
        {
            tracing::warn!(node = %key.name, silence_s = silence.as_secs(), "node does not report");
            let mut changed = (*node).clone();
            changed.status.get_or_insert_default().conditions = Some(conditions);
            node = Arc::new(api.update_status(&changed).await?);
        }
        let ready = is_ready(&node);
        if self.lost(&key.name, ready) {
            let message = format!("Node {} status is now: NodeNotReady", key.name);
            self.events.record(EventRecorder::reference(&*node), EventKind::Normal, "NodeNotReady", message);
            self.mark_pods(&key.name).await?;
        }
        let evicts = self.nodes.list().iter().any(|node| is_ready(node));
        if let Some(taints) = plan_taints(&node, evicts, time::now()) {
            let patch = json!({
                "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
                "spec": {"taints": taints},
            });
            match api.patch(&key.name, PatchKind::Merge, &patch).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => return Ok(Next::Done),
                Err(error) => return Err(error),
            }
        }
        // A heartbeat moves this on; no one is asked before it is due.
        Ok(if silence < grace { Next::After(grace - silence) } else { Next::Done })
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Stage;
    use serde_json::{Value, json};
    use skiff_client::fake::FakeTransport;

    fn node(name: &str, ready: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name},
            "spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn taints(fake: &FakeTransport, at: usize) -> Vec<String> {
        let node = fake.objects("/api/v1/nodes")[at].clone();
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        taints.iter().map(|taint| format!("{}:{}", taint["key"], taint["effect"]).replace('"', "")).collect()
    }

    #[tokio::test]
    async fn taints_nodes_by_their_readiness_and_marks_their_pods() {
        let stage = Stage::new();
        stage.put(node("a", "True"));
        stage.put(node("b", "True"));
        stage.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "x", "uid": "p"},
            "spec": {"nodeName": "a", "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}));
        super::super::start(&stage.context());
        stage.until("they are open", |fake| taints(fake, 0).is_empty() && taints(fake, 1).is_empty()).await;
        let mut broken = stage.fake.objects("/api/v1/nodes")[0].clone();
        broken["status"]["conditions"][0]["status"] = json!("False");
        stage.put(broken);
        let not_ready = ["node.kubernetes.io/not-ready:NoSchedule", "node.kubernetes.io/not-ready:NoExecute"];
        stage.until("a is tainted", |fake| taints(fake, 0) == not_ready).await;
        // It does not tolerate that.
        stage.until("its pod is gone", |fake| fake.objects("/api/v1/pods").is_empty()).await;
        let told = |fake: &FakeTransport, reason: &str| {
            fake.objects("/api/v1/events").iter().any(|event| event["reason"] == reason)
        };
        stage.until("it is told", |fake| told(fake, "NodeNotReady") && told(fake, "TaintManagerEviction")).await;
        let mut broken = stage.fake.objects("/api/v1/nodes")[1].clone();
        broken["status"]["conditions"][0]["status"] = json!("False");
        stage.put(broken);
        stage
            .until("with no node left, none drives pods away", |fake| {
                taints(fake, 0) == not_ready[..1] && taints(fake, 1) == not_ready[..1]
            })
            .await;
        stage.end().await;
    }
}
