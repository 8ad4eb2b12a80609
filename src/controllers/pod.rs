//! What controllers want to know of a pod.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// It has run to its end.
pub fn is_over(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// It counts as a replica: neither over nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_over(pod) && pod.metadata.deletion_timestamp.is_none()
}

pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Since when it is ready, if it is.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// Whether it has been ready for long enough; if it is ready but not for long enough, how long it takes yet.
pub fn availability(pod: &Pod, min_ready_s: i32, now: Timestamp) -> Availability {
    if !is_ready(pod) {
        return Availability::No;
    }
    if min_ready_s <= 0 {
        return Availability::Yes;
    }
    let Some(since) = ready_since(pod) else { return Availability::No };
    let ready_s = now.duration_since(since);
    let needed = jiff::SignedDuration::from_secs(min_ready_s.into());
    match Duration::try_from(needed - ready_s) {
        Ok(left) if !left.is_zero() => Availability::In(left),
        _ => Availability::Yes,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    Yes,
    In(Duration),
    No,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn available_is_ready_for_long_enough() {
        let check = |ready: &str, min_ready_s: i32, expect: Availability| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "status": {"conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": "2024-01-01T00:00:00Z"}]}}))
            .expect("a pod");
            let now = "2024-01-01T00:00:10Z".parse().expect("a time");
            assert_eq!(availability(&pod, min_ready_s, now), expect, "{ready} {min_ready_s}");
        };
        check("True", 0, Availability::Yes);
        check("True", 10, Availability::Yes);
        check("True", 11, Availability::In(Duration::from_secs(1)));
        check("False", 0, Availability::No);
    }
}
