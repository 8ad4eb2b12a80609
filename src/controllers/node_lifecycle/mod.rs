//! Watches over nodes: those that no longer report become unknown, those that can't run pods are tainted,
//! and pods that don't tolerate it go away.
//!
//! `health` sees heartbeats (leases and the node's own status) and writes conditions and taints; `taints`
//! plans them; `evict` deletes pods.

mod evict;
mod health;
mod taints;

use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};

use crate::Context;

/// Pods by the name of their node.
const BY_NODE: &str = "node";

pub fn start(context: &Context) {
    context.informers.lister::<Pod>().add_index(BY_NODE, node_name);
    health::start(context);
    evict::start(context);
}

pub fn node_name(pod: &Pod) -> Vec<String> {
    let name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    name.filter(|name| !name.is_empty()).into_iter().collect()
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

pub fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Somebody has said, by a taint, that the node is shut down and will not come back by itself.
pub fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.key == "node.kubernetes.io/out-of-service")
}
