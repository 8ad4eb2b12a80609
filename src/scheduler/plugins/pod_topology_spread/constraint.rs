//! A constraint as the pod gives it, with upstream's defaults.

use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use skiff_api::selector::LabelSelector;

use crate::plugins::{node_affinity, taint_toleration};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub const DO_NOT_SCHEDULE: &str = "DoNotSchedule";
pub const SCHEDULE_ANYWAY: &str = "ScheduleAnyway";
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// What pods without constraints are spread over: key and skew.
const SYSTEM_DEFAULTS: [(&str, i64); 2] = [("topology.kubernetes.io/zone", 5), (HOSTNAME, 3)];

#[derive(Debug, Clone)]
pub struct Constraint {
    pub key: String,
    pub max_skew: i64,
    pub min_domains: usize,
    /// Which pods are equal. `matchLabelKeys` went into it when the pod was created.
    pub selector: LabelSelector,
    /// Leave out nodes that the pod's node affinity excludes.
    honors_affinity: bool,
    /// Leave out nodes with taints that the pod does not tolerate.
    honors_taints: bool,
}

impl Constraint {
    fn new(given: &TopologySpreadConstraint) -> Self {
        let honors = |policy: &Option<String>, default: bool| policy.as_ref().map_or(default, |p| p == "Honor");
        Self {
            key: given.topology_key.clone(),
            max_skew: given.max_skew.into(),
            min_domains: given.min_domains.and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
            // The API server lets no other through.
            selector: LabelSelector::from_typed(given.label_selector.as_ref())
                .unwrap_or_else(|_| LabelSelector::nothing()),
            honors_affinity: honors(&given.node_affinity_policy, true),
            honors_taints: honors(&given.node_taints_policy, false),
        }
    }

    /// The pod's own constraints of one kind.
    pub fn of(pod: &PodInfo, when_unsatisfiable: &str) -> Vec<Self> {
        let given = pod.spec().topology_spread_constraints.iter().flatten();
        given.filter(|c| c.when_unsatisfiable == when_unsatisfiable).map(Self::new).collect()
    }

    /// What a pod without constraints gets, if it has a service or a controller.
    pub fn defaults(all: &Snapshot) -> Vec<Self> {
        if all.equals == LabelSelector::nothing() {
            return Vec::new();
        }
        let default = |(key, max_skew): &(&str, i64)| Self {
            key: (*key).to_owned(),
            max_skew: *max_skew,
            min_domains: 1,
            selector: all.equals.clone(),
            honors_affinity: true,
            honors_taints: false,
        };
        SYSTEM_DEFAULTS.iter().map(default).collect()
    }

    /// Whether the pods of the node count.
    pub fn includes(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        (!self.honors_affinity || node_affinity::allows(pod, node))
            && (!self.honors_taints || taint_toleration::allows(pod, node))
    }

    /// Whether the other pod counts. An empty selector counts none.
    pub fn counts(&self, pod: &PodInfo, other: &PodInfo) -> bool {
        !self.selector.is_everything()
            && !other.is_terminating()
            && other.key.namespace == pod.key.namespace
            && self.selector.matches(other.labels())
    }

    /// How many pods of the node count.
    pub fn count(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        i64::try_from(node.pods.values().filter(|other| self.counts(pod, other)).count()).unwrap_or(i64::MAX)
    }
}
