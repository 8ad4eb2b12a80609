use k8s_openapi::api::core::v1::Taint;
use skiff_api::taint::tolerates;

use crate::framework::{Filter, Happening, Refusal};
use crate::snapshot::{NodeInfo, PodInfo};

/// Cordoned nodes take only pods that tolerate it.
pub struct NodeUnschedulable;

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        if !node.is_unschedulable() {
            return Ok(());
        }
        let taint =
            Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
        if tolerates(pod.spec().tolerations.as_deref(), &taint) {
            return Ok(());
        }
        Err(Refusal::final_("node(s) were unschedulable"))
    }

    fn wakes(&self) -> Happening {
        Happening::NODE_ADDED.or(Happening::NODE_TAINTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{info, pod};
    use serde_json::json;

    #[test]
    fn cordoned_nodes_refuse() {
        let cordoned = info("n", json!({"spec": {"unschedulable": true}}));
        let plain = pod("a", json!({"containers": []}));
        let tolerant = pod(
            "b",
            json!({"containers": [], "tolerations": [
            {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}]}),
        );
        assert!(NodeUnschedulable.filter(&plain, &info("n", json!({}))).is_ok());
        assert_eq!(
            NodeUnschedulable.filter(&plain, &cordoned).expect_err("cordoned").reasons,
            ["node(s) were unschedulable"]
        );
        assert!(NodeUnschedulable.filter(&tolerant, &cordoned).is_ok());
    }
}
