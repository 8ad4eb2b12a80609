use crate::framework::{Filter, Happening, MAX_SCORE, Refusal, Score};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// The node has what the pod asks for; the emptier the node, the better (`LeastAllocated`).
pub struct NodeResourcesFit;

impl Filter for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let mut reasons = Vec::new();
        let mut resolvable = true;
        if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= node.allowed_pods {
            reasons.push("Too many pods".to_owned());
        }
        let mut check = |name: &str, asked: i64, has: i64, used: i64| {
            if asked > 0 && asked > has.saturating_sub(used) {
                reasons.push(format!("Insufficient {name}"));
                // More than the node has at all: no pod that goes makes room.
                resolvable &= asked <= has;
            }
        };
        let (asked, has, used) = (&pod.requests, &node.allocatable, &node.requested);
        check("cpu", asked.cpu_milli, has.cpu_milli, used.cpu_milli);
        check("memory", asked.memory, has.memory, used.memory);
        check("ephemeral-storage", asked.ephemeral_storage, has.ephemeral_storage, used.ephemeral_storage);
        for (name, amount) in &asked.others {
            let of = |all: &std::collections::BTreeMap<String, i64>| all.get(name).copied().unwrap_or(0);
            check(name, *amount, of(&has.others), of(&used.others));
        }
        if reasons.is_empty() { Ok(()) } else { Err(Refusal { reasons, resolvable }) }
    }

    fn wakes(&self) -> Happening {
        Happening::NODE_ADDED.or(Happening::NODE_ALLOCATABLE).or(Happening::POD_GONE)
    }
}

impl Score for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> i64 {
        let (asked, has, used) = (&pod.modest, &node.allocatable, &node.modest);
        let parts = [
            (used.cpu_milli.saturating_add(asked.cpu_milli), has.cpu_milli),
            (used.memory.saturating_add(asked.memory), has.memory),
        ];
        let known: Vec<i64> =
            parts.into_iter().filter(|(_, has)| *has > 0).map(|(used, has)| least_allocated(used, has)).collect();
        match i64::try_from(known.len()) {
            Ok(count @ 1..) => known.iter().sum::<i64>() / count,
            _ => 0,
        }
    }
}

fn least_allocated(used: i64, has: i64) -> i64 {
    if used > has {
        0
    } else {
        i64::try_from(i128::from(has - used) * i128::from(MAX_SCORE) / i128::from(has)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{info, pod};
    use serde_json::{Value, json};

    fn asking(name: &str, requests: Value) -> std::sync::Arc<PodInfo> {
        pod(name, json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
    }

    fn node(pods: &str) -> NodeInfo {
        info("n", json!({"status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": pods, "x.io/gpu": "1"}}}))
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let check = |held: Value, asked: Value, expect: Result<(), (&[&str], bool)>| {
            let mut node = node("10");
            node.add(asking("held", held));
            let refusal = NodeResourcesFit.filter(&asking("new", asked.clone()), &node);
            let expect = expect
                .map_err(|(r, resolvable)| Refusal { reasons: r.iter().map(|r| (*r).into()).collect(), resolvable });
            assert_eq!(refusal, expect, "{asked}");
        };
        check(json!({}), json!({}), Ok(()));
        check(json!({"cpu": "2"}), json!({"cpu": "2"}), Ok(()));
        check(json!({"cpu": "2"}), json!({"cpu": "2001m"}), Err((&["Insufficient cpu"], true)));
        check(json!({}), json!({"cpu": "5"}), Err((&["Insufficient cpu"], false)));
        check(
            json!({"cpu": "4", "memory": "8Gi"}),
            json!({"cpu": "1m", "memory": "1"}),
            Err((&["Insufficient cpu", "Insufficient memory"], true)),
        );
        check(json!({"x.io/gpu": "1"}), json!({"x.io/gpu": "1"}), Err((&["Insufficient x.io/gpu"], true)));
        check(json!({}), json!({"y.io/gpu": "1"}), Err((&["Insufficient y.io/gpu"], false)));
    }

    #[test]
    fn counts_pods() {
        let mut node = node("1");
        assert!(NodeResourcesFit.filter(&asking("new", json!({})), &node).is_ok());
        node.add(asking("held", json!({})));
        let refusal = NodeResourcesFit.filter(&asking("new", json!({})), &node).expect_err("full");
        assert_eq!(refusal.reasons, ["Too many pods"]);
    }

    #[test]
    fn emptier_is_better() {
        let score = |held: Value, asked: Value| {
            let mut node = node("10");
            node.add(asking("held", held));
            NodeResourcesFit.score(&asking("new", asked), &node, &Snapshot::default())
        };
        assert_eq!(score(json!({"cpu": "1", "memory": "2Gi"}), json!({"cpu": "1", "memory": "2Gi"})), 50);
        assert_eq!(score(json!({"cpu": "4", "memory": "8Gi"}), json!({"cpu": "1", "memory": "2Gi"})), 0);
        assert!(score(json!({}), json!({})) > 90);
    }
}
