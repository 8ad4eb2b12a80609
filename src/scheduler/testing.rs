//! Nodes and pods for tests, from JSON.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::snapshot::{NodeInfo, PodInfo};

/// A pod whose uid is its name.
pub fn pod(name: &str, spec: Value) -> Arc<PodInfo> {
    let pod = json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": spec});
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    Arc::new(PodInfo::new(Arc::new(pod)))
}

pub fn node(name: &str, mut value: Value) -> Arc<Node> {
    value["metadata"]["name"] = json!(name);
    Arc::new(serde_json::from_value(value).expect("a node"))
}

pub fn info(name: &str, value: Value) -> NodeInfo {
    NodeInfo::with_node(node(name, value))
}
