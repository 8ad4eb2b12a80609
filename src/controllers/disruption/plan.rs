//! How many pods of a budget may be disturbed.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pod;

/// An eviction that has not ended in a deletion by then never will.
const DELETION_TIMEOUT_S: i64 = 120;

/// What a number or a percentage is of `total`; rounded up, as upstream does for budgets.
pub fn scaled(value: &IntOrString, total: i32) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|digits| digits.parse::<i64>().ok()).unwrap_or(0);
            let part = (percent * i64::from(total) + 99).div_euclid(100);
            i32::try_from(part).unwrap_or(i32::MAX)
        }
    }
}

/// Whether what the pods' controllers are asked for counts, rather than the pods.
pub fn needs_scale(spec: &PodDisruptionBudgetSpec) -> bool {
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// How many pods are expected, and how many must be healthy. `scale`: what the controllers are asked for.
pub fn plan_desired(spec: &PodDisruptionBudgetSpec, pods: usize, scale: i32) -> (i32, i32) {
    let pods = i32::try_from(pods).unwrap_or(i32::MAX);
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(max), _) => (scale, (scale - scaled(max, scale)).max(0)),
        (None, Some(IntOrString::Int(min))) => (pods, *min),
        (None, Some(percent)) => (scale, scaled(percent, scale)),
        (None, None) => (pods, 0),
    }
}

/// The pods that were evicted and are still there, and when to look again.
pub fn plan_disrupted(
    old: &BTreeMap<String, Time>,
    pods: &[impl AsRef<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let mut kept = BTreeMap::new();
    let mut wait: Option<Duration> = None;
    for pod in pods.iter().map(AsRef::as_ref).filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let Some(since) = old.get(name) else { continue };
        let left = since.0 + SignedDuration::from_secs(DELETION_TIMEOUT_S) - now;
        let Ok(left) = Duration::try_from(left) else { continue };
        if left.is_zero() {
            continue;
        }
        kept.insert(name.to_owned(), since.clone());
        wait = Some(wait.map_or(left, |wait| wait.min(left)));
    }
    (kept, wait)
}

/// Pods that are ready and stay.
pub fn count_healthy(pods: &[impl AsRef<Pod>], disrupted: &BTreeMap<String, Time>) -> i32 {
    let healthy = |pod: &&Pod| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        pod.metadata.deletion_timestamp.is_none() && !disrupted.contains_key(name) && pod::is_ready(pod)
    };
    i32::try_from(pods.iter().map(AsRef::as_ref).filter(healthy).count()).unwrap_or(i32::MAX)
}

/// Counts to a status.
pub fn plan_status(
    old: Option<&PodDisruptionBudgetStatus>,
    [expected, desired, healthy]: [i32; 3],
    disrupted: BTreeMap<String, Time>,
    generation: i64,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let verdict = if allowed > 0 { ("True", "SufficientPods", "") } else { ("False", "InsufficientPods", "") };
    PodDisruptionBudgetStatus {
        conditions: Some(with_condition(old, verdict, generation, now)),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: Some(generation),
    }
}

/// The status where the pods can't be counted: nothing may be disturbed then.
pub fn plan_failure(
    old: Option<&PodDisruptionBudgetStatus>,
    why: &str,
    generation: i64,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let mut status = old.cloned().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    status.observed_generation = Some(generation);
    status.conditions = Some(with_condition(old, ("False", "SyncFailed", why), generation, now));
    status
}

fn with_condition(
    old: Option<&PodDisruptionBudgetStatus>,
    (status, reason, message): (&str, &str, &str),
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions = old.and_then(|old| old.conditions.clone()).unwrap_or_default();
    let before = conditions.iter().position(|condition| condition.type_ == "DisruptionAllowed");
    let since = before.map(|at| &conditions[at]).filter(|c| c.status == status).map(|c| c.last_transition_time.clone());
    let condition = Condition {
        last_transition_time: since.unwrap_or(Time(whole_seconds(now))),
        message: message.to_owned(),
        observed_generation: Some(generation),
        reason: reason.to_owned(),
        status: status.to_owned(),
        type_: "DisruptionAllowed".to_owned(),
    };
    match before {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
    conditions
}

fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        "2024-01-01T00:10:00Z".parse().expect("a time")
    }

    fn pods(list: Value) -> Vec<Arc<Pod>> {
        serde_json::from_value::<Vec<Pod>>(list).expect("pods").into_iter().map(Arc::new).collect()
    }

    #[test]
    fn what_is_desired() {
        for (spec, pods, scale, expect) in [
            (json!({"minAvailable": 2}), 5, 0, (5, 2)),
            (json!({"minAvailable": "50%"}), 5, 7, (7, 4)),
            (json!({"maxUnavailable": 1}), 5, 5, (5, 4)),
            (json!({"maxUnavailable": 9}), 5, 5, (5, 0)),
            (json!({"maxUnavailable": "30%"}), 5, 10, (10, 7)),
            (json!({}), 5, 0, (5, 0)),
        ] {
            let parsed = serde_json::from_value(spec.clone()).expect("a spec");
            assert_eq!(plan_desired(&parsed, pods, scale), expect, "{spec}");
        }
    }

    #[test]
    fn evicted_pods_count_as_gone_for_a_while() {
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        let pods = pods(json!([
            {"metadata": {"name": "a"}, "status": ready},
            {"metadata": {"name": "b"}, "status": ready},
            {"metadata": {"name": "c"}, "status": ready},
            {"metadata": {"name": "d", "deletionTimestamp": "2024-01-01T00:00:00Z"}, "status": ready},
            {"metadata": {"name": "e"}},
        ]));
        let at = |text: &str| Time(text.parse().expect("a time"));
        let old = BTreeMap::from([
            ("a".to_owned(), at("2024-01-01T00:09:00Z")),
            ("b".to_owned(), at("2024-01-01T00:07:00Z")),
            ("d".to_owned(), at("2024-01-01T00:09:30Z")),
            ("gone".to_owned(), at("2024-01-01T00:09:30Z")),
        ]);
        let (kept, wait) = plan_disrupted(&old, &pods, now());
        assert_eq!(
            (kept.keys().map(String::as_str).collect::<Vec<_>>(), wait),
            (vec!["a"], Some(Duration::from_secs(60)))
        );
        assert_eq!(count_healthy(&pods, &kept), 2);
    }

    #[test]
    fn what_is_allowed() {
        for (counts, allowed, reason) in
            [([3, 2, 3], 1, "SufficientPods"), ([3, 2, 2], 0, "InsufficientPods"), ([0, 0, 2], 0, "InsufficientPods")]
        {
            let status = plan_status(None, counts, BTreeMap::new(), 4, now());
            let condition = &status.conditions.as_ref().expect("one")[0];
            assert_eq!((status.disruptions_allowed, condition.reason.as_str()), (Some(allowed), reason));
            let later = "2024-01-01T01:00:00Z".parse().expect("a time");
            assert_eq!(plan_status(Some(&status), counts, BTreeMap::new(), 4, later), status, "nothing changed");
        }
        let failed = plan_failure(None, "why", 4, now());
        assert_eq!((failed.disruptions_allowed, failed.observed_generation), (Some(0), Some(4)));
    }
}
