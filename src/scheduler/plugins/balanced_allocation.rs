use crate::framework::{MAX_SCORE, Score};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// A node is better where processor and memory would be used to the same degree.
pub struct BalancedAllocation;

impl Score for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    /// A pod that asks for nothing changes no balance.
    fn cares(&self, pod: &PodInfo) -> bool {
        pod.requests.cpu_milli > 0 || pod.requests.memory > 0
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> i64 {
        let share = |used: i64, asked: i64, has: i64| {
            if has <= 0 { 1.0 } else { (used.saturating_add(asked) as f64 / has as f64).min(1.0) }
        };
        let (asked, has, used) = (&pod.requests, &node.allocatable, &node.requested);
        let cpu = share(used.cpu_milli, asked.cpu_milli, has.cpu_milli);
        let memory = share(used.memory, asked.memory, has.memory);
        // The standard deviation of two.
        let deviation = (cpu - memory).abs() / 2.0;
        ((1.0 - deviation) * MAX_SCORE as f64) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{info, pod};
    use serde_json::json;

    #[test]
    fn balance_is_better() {
        let node = info("n", json!({"status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"}}}));
        let score = |cpu: &str, memory: &str| {
            let requests = json!({"cpu": cpu, "memory": memory});
            let pod = pod("a", json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}));
            BalancedAllocation.score(&pod, &node, &Snapshot::default())
        };
        assert_eq!(score("2", "2Gi"), 100);
        assert_eq!(score("4", "0"), 50);
        assert!(!BalancedAllocation.cares(&pod("a", json!({"containers": [{"name": "c"}]}))));
    }
}
