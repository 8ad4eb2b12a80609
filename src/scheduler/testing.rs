//! Nodes and pods for tests, from JSON.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// A pod whose uid is its name.
pub fn pod(name: &str, spec: Value) -> Arc<PodInfo> {
    labelled(name, "default", json!({}), spec)
}

pub fn labelled(name: &str, namespace: &str, labels: Value, spec: Value) -> Arc<PodInfo> {
    whole(json!({"metadata": {"name": name, "namespace": namespace, "uid": name, "labels": labels}, "spec": spec}))
}

pub fn whole(pod: Value) -> Arc<PodInfo> {
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    Arc::new(PodInfo::new(Arc::new(pod)))
}

/// A node that says nothing but its labels, with pods on it.
pub fn holding(name: &str, labels: Value, pods: &[Arc<PodInfo>]) -> Arc<NodeInfo> {
    let mut node = info(name, json!({"metadata": {"labels": labels}}));
    pods.iter().for_each(|pod| node.add(pod.clone()));
    Arc::new(node)
}

/// A view of nodes alone, which must come in the order of their names.
pub fn view(nodes: Vec<Arc<NodeInfo>>) -> Snapshot {
    Snapshot { nodes, ..Snapshot::default() }
}

pub fn node(name: &str, mut value: Value) -> Arc<Node> {
    value["metadata"]["name"] = json!(name);
    Arc::new(serde_json::from_value(value).expect("a node"))
}

pub fn info(name: &str, value: Value) -> NodeInfo {
    NodeInfo::with_node(node(name, value))
}
