//! Whether pods of a template belong on a node: names, labels, taints. What else a node has is the scheduler's question.

use k8s_openapi::api::core::v1::{Node, PodSpec};
use skiff_api::node_selector::{self, Selected};

fn node_name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

/// Whether name, selector and required affinity let the pod run there.
pub fn is_meant_for(spec: &PodSpec, node: &Node) -> bool {
    let fit = Fit(node);
    let named = spec.node_name.as_deref().is_none_or(|name| name.is_empty() || name == node_name(node));
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| fit.label(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    named && selected && required.is_none_or(|required| node_selector::matches(required, &fit))
}

struct Fit<'a>(&'a Node);

impl Selected for Fit<'_> {
    fn name(&self) -> &str {
        node_name(self.0)
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.0.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }
}

/// Whether a taint of one of these effects keeps the pod away.
pub fn is_repelled(spec: &PodSpec, node: &Node, effects: &[&str]) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| {
        effects.contains(&taint.effect.as_str()) && !skiff_api::taint::tolerates(spec.tolerations.as_deref(), taint)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn where_pods_belong() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"zone": "a", "size": "4"}},
            "spec": {"taints": [{"key": "t", "effect": "NoSchedule"}]}}))
            .expect("a node");
        let affinity = |terms: Value| {
            json!({"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
        };
        let size = |operator: &str, bound: &str| {
            affinity(json!([{"matchExpressions": [{"key": "size", "operator": operator, "values": [bound]}]}]))
        };
        for (spec, expect) in [
            (json!({"containers": []}), true),
            (json!({"containers": [], "nodeName": "m"}), false),
            (json!({"containers": [], "nodeSelector": {"zone": "a"}}), true),
            (json!({"containers": [], "nodeSelector": {"zone": "b"}}), false),
            (size("Gt", "3"), true),
            (size("Lt", "3"), false),
            (size("In", "4"), true),
            (size("NotIn", "4"), false),
            (affinity(json!([{}])), false),
            (affinity(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}])), true),
            (affinity(json!([{}, {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}])), true),
        ] {
            let parsed: PodSpec = serde_json::from_value(spec.clone()).expect("a spec");
            assert_eq!(is_meant_for(&parsed, &node), expect, "{spec}");
            assert!(is_repelled(&parsed, &node, &["NoSchedule"]) && !is_repelled(&parsed, &node, &["NoExecute"]));
        }
        let tolerant = json!({"containers": [], "tolerations": [{"operator": "Exists"}]});
        let tolerant: PodSpec = serde_json::from_value(tolerant).expect("a spec");
        assert!(!is_repelled(&tolerant, &node, &["NoSchedule"]));
    }
}
