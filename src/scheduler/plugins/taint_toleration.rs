use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::framework::{Filter, Happening, Refusal, Score, stretch};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// Nodes refuse, or are worse for, pods that don't tolerate their taints.
pub struct TaintToleration;

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let tolerations = pod.spec().tolerations.as_deref();
        let keeps_out = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
        if node.taints().iter().filter(keeps_out).all(|taint| tolerates(tolerations, taint)) {
            return Ok(());
        }
        Err(Refusal::final_("node(s) had untolerated taint(s)"))
    }

    fn wakes(&self) -> Happening {
        Happening::NODE_ADDED.or(Happening::NODE_TAINTS)
    }
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

/// Whether one of the tolerations tolerates the taint.
pub fn tolerates(tolerations: Option<&[Toleration]>, taint: &Taint) -> bool {
    tolerations.unwrap_or_default().iter().any(|toleration| {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let (effect, key) = (text(&toleration.effect), text(&toleration.key));
        if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
            return false;
        }
        let (asked, held) = (text(&toleration.value), taint.value.as_deref().unwrap_or_default());
        match toleration.operator.as_deref() {
            None | Some("" | "Equal") => asked == held,
            Some("Exists") => true,
            Some(operator @ ("Lt" | "Gt")) => match (held.parse::<i64>(), asked.parse::<i64>()) {
                (Ok(held), Ok(asked)) => (operator == "Lt" && held < asked) || (operator == "Gt" && held > asked),
                _ => false,
            },
            Some(_) => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{info, pod};
    use serde_json::{Value, json};

    #[test]
    fn tolerations_match_taints() {
        let check = |toleration: Value, expect: bool| {
            let node = info("n", json!({"spec": {"taints": [{"key": "k", "value": "5", "effect": "NoSchedule"}]}}));
            let pod = pod("a", json!({"containers": [], "tolerations": [toleration]}));
            assert_eq!(TaintToleration.filter(&pod, &node).is_ok(), expect, "{toleration}");
        };
        check(json!({"key": "k", "operator": "Equal", "value": "5", "effect": "NoSchedule"}), true);
        check(json!({"key": "k", "value": "5"}), true);
        check(json!({"key": "k", "value": "6"}), false);
        check(json!({"key": "k", "operator": "Exists"}), true);
        check(json!({"operator": "Exists"}), true);
        check(json!({"operator": "Exists", "effect": "NoExecute"}), false);
        check(json!({"key": "other", "operator": "Exists"}), false);
        check(json!({"key": "k", "operator": "Gt", "value": "4"}), true);
        check(json!({"key": "k", "operator": "Lt", "value": "4"}), false);
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
