use k8s_openapi::api::core::v1::NodeAffinity as Affinity;
use skiff_api::node_selector;

use crate::framework::{Filter, Happening, Refusal, Score, stretch};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// `nodeSelector` and `affinity.nodeAffinity`.
pub struct NodeAffinity;

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        if allows(pod, node) {
            return Ok(());
        }
        Err(Refusal::final_("node(s) didn't match Pod's node affinity/selector"))
    }

    fn wakes(&self) -> Happening {
        Happening::NODE_ADDED.or(Happening::NODE_LABELS)
    }
}

impl Score for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn cares(&self, pod: &PodInfo) -> bool {
        affinity(pod).is_some_and(|a| a.preferred_during_scheduling_ignored_during_execution.is_some())
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> i64 {
        let preferred = affinity(pod).and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        preferred
            .into_iter()
            .flatten()
            .filter(|term| node_selector::term_matches(&term.preference, node))
            .map(|t| i64::from(t.weight))
            .sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        stretch(scores, false);
    }
}

/// Whether the node is one of those that the pod must have.
pub fn allows(pod: &PodInfo, node: &NodeInfo) -> bool {
    let selected = pod.spec().node_selector.iter().flatten().all(|(key, value)| node.label(key) == Some(value));
    let required = affinity(pod).and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|selector| node_selector::matches(selector, node))
}

fn affinity(pod: &PodInfo) -> Option<&Affinity> {
    pod.spec().affinity.as_ref()?.node_affinity.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{info, pod};
    use serde_json::{Value, json};

    fn fits(spec: Value) -> bool {
        let node = info("n", json!({"metadata": {"name": "n", "labels": {"disk": "ssd", "cores": "8"}}}));
        NodeAffinity.filter(&pod("a", spec), &node).is_ok()
    }

    #[test]
    fn node_selectors_must_all_match() {
        for (selector, expect) in [
            (json!({}), true),
            (json!({"disk": "ssd"}), true),
            (json!({"disk": "ssd", "cores": "9"}), false),
            (json!({"gone": ""}), false),
        ] {
            assert_eq!(fits(json!({"containers": [], "nodeSelector": selector})), expect, "{selector}");
        }
    }

    #[test]
    fn one_term_of_the_affinity_must_match() {
        let check = |terms: Value, expect: bool| {
            let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
            assert_eq!(fits(json!({"containers": [], "affinity": {"nodeAffinity": required}})), expect, "{terms}");
        };
        let one = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        check(json!([one("disk", "In", &["hdd", "ssd"])]), true);
        check(json!([one("disk", "NotIn", &["ssd"])]), false);
        check(json!([one("gone", "NotIn", &["ssd"])]), true);
        check(json!([one("disk", "Exists", &[])]), true);
        check(json!([one("disk", "DoesNotExist", &[])]), false);
        check(json!([one("cores", "Gt", &["7"])]), true);
        check(json!([one("cores", "Gt", &["8"])]), false);
        check(json!([one("cores", "Lt", &["9"])]), true);
        check(json!([one("disk", "Lt", &["9"])]), false);
        check(json!([one("disk", "In", &["hdd"]), one("cores", "In", &["8"])]), true);
        check(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]), true);
        check(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["m"]}]}]), false);
        check(json!([{}]), false);
    }

    #[test]
    fn preferences_add_their_weights() {
        let preferred = json!([
            {"weight": 5, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}},
            {"weight": 7, "preference": {"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["1"]}]}},
            {"weight": 9, "preference": {"matchExpressions": [{"key": "gone", "operator": "Exists"}]}},
        ]);
        let spec = json!({"containers": [], "affinity": {"nodeAffinity":
            {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}});
        let node = info("n", json!({"metadata": {"name": "n", "labels": {"disk": "ssd", "cores": "8"}}}));
        let pod = pod("a", spec);
        assert!(NodeAffinity.cares(&pod));
        assert_eq!(NodeAffinity.score(&pod, &node, &Snapshot::default()), 12);
    }
}
