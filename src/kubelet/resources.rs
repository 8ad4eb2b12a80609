//! Requests and limits: quality of service, cgroup values, out-of-memory scores.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skiff_runtime::Resources;

use crate::pod::{self, PodUid, Role};
use crate::quantity;
use crate::resize::Share;

const CPU_PERIOD_US: u64 = 100_000;
const MIN_QUOTA_US: i64 = 1_000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
/// Pods of this priority and above are critical to the node.
const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

pub(crate) fn has_critical_priority(pod: &Pod) -> bool {
    pod::spec(pod).priority.is_some_and(|p| p >= SYSTEM_CRITICAL_PRIORITY)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

fn amounts(container: &Container, limits: bool) -> Option<&BTreeMap<String, Quantity>> {
    let resources = container.resources.as_ref()?;
    if limits { resources.limits.as_ref() } else { resources.requests.as_ref() }
}

fn amount<'a>(container: &'a Container, limits: bool, resource: &str) -> Option<&'a Quantity> {
    amounts(container, limits)?.get(resource).filter(|q| !quantity::is_zero(q))
}

/// A request falls back to its limit, as the API server's defaults have it.
fn request<'a>(container: &'a Container, resource: &str) -> Option<&'a Quantity> {
    amount(container, false, resource).or_else(|| amount(container, true, resource))
}

pub(crate) fn cpu_request_milli(container: &Container) -> i64 {
    request(container, "cpu").map_or(0, quantity::milli)
}

pub(crate) fn memory_request(container: &Container) -> i64 {
    request(container, "memory").map_or(0, quantity::value)
}

pub(crate) fn qos(pod: &Pod) -> Qos {
    let (mut any, mut guaranteed) = (false, true);
    for (_, container) in pod::containers(pod) {
        for resource in ["cpu", "memory"] {
            let (limit, request) = (amount(container, true, resource), request(container, resource));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && limit.map(quantity::milli) == request.map(quantity::milli);
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// The pod's cgroup below the root.
pub(crate) fn cgroup_parent(qos: Qos, uid: &PodUid) -> String {
    format!("/kubepods/{}/pod{uid}", qos.as_str().to_lowercase())
}

fn shares(milli: i64) -> u64 {
    let milli = u64::try_from(milli).unwrap_or(0);
    if milli == 0 { MIN_SHARES } else { (milli * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES) }
}

fn quota_us(milli: i64) -> i64 {
    (milli * CPU_PERIOD_US as i64 / 1000).max(MIN_QUOTA_US)
}

/// What one container may use; `memory_capacity` is the node's, in bytes.
pub(crate) fn container(pod: &Pod, container: &Container, memory_capacity: i64) -> Resources {
    let cpu_limit = amount(container, true, "cpu").map(quantity::milli);
    Resources {
        cpu_shares: Some(shares(cpu_request_milli(container))),
        cpu_quota_us: cpu_limit.map(quota_us),
        cpu_period_us: cpu_limit.map(|_| CPU_PERIOD_US),
        memory_limit_bytes: amount(container, true, "memory").map(quantity::value),
        pids_limit: None,
        oom_score_adj: Some(oom_score_adj(pod, container, memory_capacity)),
    }
}

/// Guaranteed and critical ones go last; of the others, the more is asked for, the later.
fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i32 {
    match qos(pod) {
        _ if has_critical_priority(pod) => -997,
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let adjust = 1000 - 1000 * memory_request(container) / memory_capacity.max(1);
            i32::try_from(adjust.clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// What a pod needs at once, of one resource: the main containers and the sidecars together, or an init container
/// and the sidecars before it, whichever is more. `None` where a container says nothing (a limit is no limit then).
pub(crate) fn aggregate(pod: &Pod, one: impl Fn(&Container) -> Option<i64>) -> Option<i64> {
    let (mut sidecars, mut init_peak, mut main) = (0i64, 0i64, 0i64);
    for (role, container) in pod::containers(pod) {
        let amount = one(container)?;
        match role {
            Role::Sidecar => {
                sidecars += amount;
                init_peak = init_peak.max(sidecars);
            }
            Role::Init => init_peak = init_peak.max(sidecars + amount),
            Role::Main => main += amount,
            // It has no share of its own.
            Role::Ephemeral => {}
        }
    }
    Some(init_peak.max(main + sidecars))
}

/// What a pod is promised.
pub(crate) fn requests(pod: &Pod) -> Share {
    let overhead = |resource: &str| pod::spec(pod).overhead.as_ref().and_then(|o| o.get(resource));
    Share {
        cpu_milli: aggregate(pod, |c| Some(cpu_request_milli(c))).unwrap_or(0)
            + overhead("cpu").map_or(0, quantity::milli),
        memory_bytes: aggregate(pod, |c| Some(memory_request(c))).unwrap_or(0)
            + overhead("memory").map_or(0, quantity::value),
    }
}

/// Limits of the pod's own cgroup.
pub(crate) fn pod(pod: &Pod) -> Resources {
    let overhead = |resource: &str| pod::spec(pod).overhead.as_ref().and_then(|o| o.get(resource));
    let cpu = aggregate(pod, |c| Some(cpu_request_milli(c))).unwrap_or(0) + overhead("cpu").map_or(0, quantity::milli);
    let cpu_limit = aggregate(pod, |c| amount(c, true, "cpu").map(quantity::milli))
        .map(|limit| limit + overhead("cpu").map_or(0, quantity::milli));
    let memory_limit = aggregate(pod, |c| amount(c, true, "memory").map(quantity::value))
        .map(|limit| limit + overhead("memory").map_or(0, quantity::value));
    Resources {
        cpu_shares: Some(shares(cpu)),
        cpu_quota_us: cpu_limit.map(quota_us),
        cpu_period_us: cpu_limit.map(|_| CPU_PERIOD_US),
        memory_limit_bytes: memory_limit,
        pids_limit: None,
        oom_score_adj: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn sample(containers: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": containers}})).expect("a pod")
    }

    #[test]
    fn classes() {
        let full = json!({"limits": {"cpu": "1", "memory": "64Mi"}});
        for (resources, expected) in [
            (vec![json!({})], Qos::BestEffort),
            (vec![json!({"requests": {"cpu": "0"}})], Qos::BestEffort),
            (vec![full.clone()], Qos::Guaranteed),
            (
                vec![
                    json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}),
                ],
                Qos::Guaranteed,
            ),
            (vec![json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}})], Qos::Burstable),
            (vec![full, json!({})], Qos::Burstable),
            (vec![json!({"requests": {"memory": "1Mi"}})], Qos::Burstable),
        ] {
            let containers: Vec<Value> =
                resources.iter().enumerate().map(|(i, r)| json!({"name": format!("c{i}"), "resources": r})).collect();
            assert_eq!(qos(&sample(json!(containers))), expected, "{resources:?}");
        }
    }

    #[test]
    fn cgroup_values() {
        let pod = sample(json!([
            {"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "250m", "memory": "512Mi"}}},
            {"name": "b", "resources": {"limits": {"cpu": "1m"}}}]));
        let memory = 1 << 30;
        let a = container(&pod, &pod::spec(&pod).containers[0], memory);
        assert_eq!((a.cpu_shares, a.cpu_quota_us, a.cpu_period_us), (Some(102), Some(25_000), Some(100_000)));
        assert_eq!((a.memory_limit_bytes, a.oom_score_adj), (Some(512 << 20), Some(750)));
        let b = container(&pod, &pod::spec(&pod).containers[1], memory);
        assert_eq!((b.cpu_shares, b.cpu_quota_us, b.oom_score_adj), (Some(2), Some(1_000), Some(999)));
        let whole = super::pod(&pod);
        assert_eq!((whole.cpu_shares, whole.cpu_quota_us, whole.memory_limit_bytes), (Some(103), Some(25_100), None));
    }

    #[test]
    fn init_containers_count_while_they_run() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {
            "initContainers": [
                {"name": "i", "resources": {"requests": {"cpu": "700m"}}},
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "200m"}}},
                {"name": "j", "resources": {"requests": {"cpu": "300m"}}}],
            "containers": [{"name": "m", "resources": {"requests": {"cpu": "400m"}}}]}}))
        .expect("a pod");
        assert_eq!(aggregate(&pod, |c| Some(cpu_request_milli(c))), Some(700));
    }
}
