use k8s_openapi::api::core::v1::Taint;
use skiff_api::taint::tolerates;

use crate::framework::{Filter, Happening, Refusal, Score, stretch};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// Nodes refuse, or are worse for, pods that don't tolerate their taints.
pub struct TaintToleration;

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        if allows(pod, node) {
            return Ok(());
        }
        Err(Refusal::final_("node(s) had untolerated taint(s)"))
    }

    fn wakes(&self) -> Happening {
        Happening::NODE_ADDED.or(Happening::NODE_TAINTS)
    }
}

/// Whether the pod tolerates all taints that keep pods out.
pub fn allows(pod: &PodInfo, node: &NodeInfo) -> bool {
    let tolerations = pod.spec().tolerations.as_deref();
    let keeps_out = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    node.taints().iter().filter(keeps_out).all(|taint| tolerates(tolerations, taint))
}

impl Score for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> i64 {
        let tolerations = pod.spec().tolerations.as_deref();
        let unwelcome = node.taints().iter().filter(|t| t.effect == "PreferNoSchedule" && !tolerates(tolerations, t));
        i64::try_from(unwelcome.count()).unwrap_or(i64::MAX)
    }

    fn normalize(&self, scores: &mut [i64]) {
        stretch(scores, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{info, pod};
    use serde_json::json;

    #[test]
    fn hard_taints_keep_out() {
        let plain = pod("a", json!({"containers": []}));
        for (effect, expect) in [("NoSchedule", false), ("NoExecute", false), ("PreferNoSchedule", true)] {
            let node = info("n", json!({"spec": {"taints": [{"key": "k", "effect": effect}]}}));
            assert_eq!(TaintToleration.filter(&plain, &node).is_ok(), expect, "{effect}");
        }
    }

    #[test]
    fn soft_taints_make_a_node_worse() {
        let plain = pod("a", json!({"containers": []}));
        let soft = info("n", json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}}));
        assert!(TaintToleration.filter(&plain, &soft).is_ok());
        let mut scores = [TaintToleration.score(&plain, &soft, &Snapshot::default()), 0];
        TaintToleration.normalize(&mut scores);
        assert_eq!(scores, [0, 100]);
    }
}
