use crate::framework::PreEnqueue;
use crate::snapshot::PodInfo;

/// A pod waits until all its gates are taken away.
pub struct SchedulingGates;

impl PreEnqueue for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn admits(&self, pod: &PodInfo) -> bool {
        pod.spec().scheduling_gates.as_ref().is_none_or(Vec::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;
    use serde_json::json;

    #[test]
    fn holds_gated_pods_back() {
        for (spec, expect) in [
            (json!({"containers": []}), true),
            (json!({"containers": [], "schedulingGates": []}), true),
            (json!({"containers": [], "schedulingGates": [{"name": "g"}]}), false),
        ] {
            assert_eq!(SchedulingGates.admits(&pod("a", spec.clone())), expect, "{spec}");
        }
    }
}
