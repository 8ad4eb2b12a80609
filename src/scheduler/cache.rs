//! Nodes and the pods on them as far as the informers tell, and the pods that this scheduler has just
//! placed and that no informer shows there yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use crate::snapshot::{NodeInfo, PodInfo, Snapshot};
use crate::terms::{Labels, Namespaces};

#[derive(Default)]
pub struct Cache {
    /// By name. Shared with snapshots, and copied when changed while one is looked at.
    nodes: BTreeMap<String, Arc<NodeInfo>>,
    /// On which node a pod counts, by uid.
    placed: HashMap<String, Placed>,
    namespaces: Arc<Namespaces>,
}

struct Placed {
    node: String,
    /// Placed by this scheduler and not yet confirmed by the API server.
    assumed: bool,
}

impl Cache {
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            nodes: self.nodes.values().filter(|node| node.is_known()).cloned().collect(),
            namespaces: self.namespaces.clone(),
            ..Snapshot::default()
        }
    }

    /// Says whether that is new.
    pub fn put_namespace(&mut self, name: &str, labels: Labels) -> bool {
        if self.namespaces.get(name) == Some(&labels) {
            return false;
        }
        Arc::make_mut(&mut self.namespaces).insert(name.to_owned(), labels);
        true
    }

    pub fn remove_namespace(&mut self, name: &str) {
        Arc::make_mut(&mut self.namespaces).remove(name);
    }

    pub fn put_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        self.info(&name).set_node(Some(node));
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.get_mut(name) {
            Arc::make_mut(node).set_node(None);
            self.tidy(name);
        }
    }

    /// A pod that the API server shows on a node.
    pub fn put_pod(&mut self, node: &str, pod: Arc<PodInfo>) {
        self.place(node, pod, false);
    }

    /// A pod that is about to be bound.
    pub fn assume(&mut self, node: &str, pod: Arc<PodInfo>) {
        self.place(node, pod, true);
    }

    /// The binding failed; says whether the pod was only assumed.
    pub fn forget(&mut self, uid: &str) -> bool {
        let assumed = self.placed.get(uid).is_some_and(|placed| placed.assumed);
        if assumed {
            self.remove_pod(uid);
        }
        assumed
    }

    /// Says whether the pod was on a node.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(placed) = self.placed.remove(uid) else { return false };
        self.info(&placed.node).remove(uid);
        self.tidy(&placed.node);
        true
    }

    pub fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    fn place(&mut self, node: &str, pod: Arc<PodInfo>, assumed: bool) {
        let uid = pod.uid.clone();
        if self.placed.get(&uid).is_some_and(|placed| placed.node != node) {
            self.remove_pod(&uid);
        }
        self.info(node).add(pod);
        self.placed.insert(uid, Placed { node: node.to_owned(), assumed });
    }

    fn info(&mut self, name: &str) -> &mut NodeInfo {
        Arc::make_mut(self.nodes.entry(name.to_owned()).or_insert_with(|| Arc::new(NodeInfo::new())))
    }

    /// Drops a node that is gone when its last pod is.
    fn tidy(&mut self, name: &str) {
        if self.nodes.get(name).is_some_and(|node| !node.is_known() && node.pods.is_empty()) {
            self.nodes.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};
    use serde_json::json;

    #[test]
    fn counts_pods_once_wherever_they_come_from() {
        let mut cache = Cache::default();
        let a = pod("a", json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}));
        let used = |cache: &Cache| cache.snapshot().nodes.iter().map(|n| n.requested.cpu_milli).sum::<i64>();
        cache.put_pod("n", a.clone());
        assert!(cache.snapshot().nodes.is_empty(), "its node is unknown yet");
        cache.put_node(node("n", json!({})));
        assert_eq!(used(&cache), 1000);
        cache.put_pod("n", a.clone());
        assert_eq!(used(&cache), 1000);
        assert!(!cache.forget("a"), "it is confirmed");
        cache.assume("n", a.clone());
        assert!(cache.forget("a"));
        assert_eq!(used(&cache), 0);
        cache.assume("n", a);
        cache.remove_node("n");
        assert!(cache.remove_pod("a") && !cache.remove_pod("a"));
        assert!(cache.nodes.is_empty());
    }

    #[test]
    fn a_snapshot_does_not_change() {
        let mut cache = Cache::default();
        cache.put_node(node("n", json!({})));
        let snapshot = cache.snapshot();
        cache.assume("n", pod("a", json!({"containers": []})));
        assert_eq!((snapshot.nodes[0].pods.len(), cache.snapshot().nodes[0].pods.len()), (0, 1));
    }
}
