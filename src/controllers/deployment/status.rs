//! What a deployment's status says.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::spec::{
    Set, actual, available, condition, max_unavailable, name, progress_deadline_s, ready, replicas, size,
};

pub const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";

const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
pub const TIMED_OUT: &str = "ProgressDeadlineExceeded";

pub fn new_condition(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(Time(now)),
        last_update_time: Some(Time(now)),
    }
}

/// Puts a condition in its place; one with the same status and reason stays as it was.
pub fn set_condition(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    let conditions = status.conditions.get_or_insert_default();
    if let Some(old) = conditions.iter().find(|old| old.type_ == new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
    }
    conditions.retain(|old| old.type_ != new.type_);
    conditions.push(new);
}

fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
}

/// Zeros are left out, as Go does.
fn count(value: i32) -> Option<i32> {
    (value != 0).then_some(value)
}

/// The counts, and whether enough is available.
pub fn plan_counts(deployment: &Deployment, new: Option<&Set>, old: &[Set], now: Timestamp) -> DeploymentStatus {
    let sum = |of: fn(&k8s_openapi::api::apps::v1::ReplicaSet) -> i32| -> i32 {
        old.iter().chain(new).map(|set| of(set)).sum()
    };
    let available = sum(available);
    let previous = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: count(sum(actual)),
        updated_replicas: count(new.map_or(0, |new| actual(new))),
        ready_replicas: count(sum(ready)),
        available_replicas: count(available),
        unavailable_replicas: count((sum(size) - available).max(0)),
        ..previous
    };
    let condition = if available >= replicas(deployment) - max_unavailable(deployment) {
        let message = "Deployment has minimum availability.".to_owned();
        new_condition(AVAILABLE, "True", "MinimumReplicasAvailable", message, now)
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        new_condition(AVAILABLE, "False", "MinimumReplicasUnavailable", message, now)
    };
    set_condition(&mut status, condition);
    status
}

/// The counts, and how the rollout goes on.
pub fn plan_rollout(deployment: &Deployment, new: Option<&Set>, old: &[Set], now: Timestamp) -> DeploymentStatus {
    let mut status = plan_counts(deployment, new, old, now);
    let current = condition(deployment, PROGRESSING).cloned();
    let was_complete = status.replicas == status.updated_replicas
        && current.as_ref().is_some_and(|condition| condition.reason.as_deref() == Some(NEW_AVAILABLE));
    if progress_deadline_s(deployment).is_some() && !was_complete {
        let what = match new {
            Some(new) => format!("ReplicaSet {:?}", name(new)),
            None => format!("Deployment {:?}", deployment.metadata.name.as_deref().unwrap_or_default()),
        };
        if is_complete(deployment, &status) {
            let message = format!("{what} has successfully progressed.");
            set_condition(&mut status, new_condition(PROGRESSING, "True", NEW_AVAILABLE, message, now));
        } else if is_progressing(deployment, &status) {
            let message = format!("{what} is progressing.");
            let mut next = new_condition(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
            // Its update time is what the deadline counts from, so it is written anew each time.
            if let Some(current) = current.filter(|current| current.status == "True") {
                next.last_transition_time = current.last_transition_time;
            }
            remove_condition(&mut status, PROGRESSING);
            set_condition(&mut status, next);
        } else if is_timed_out(deployment, now) {
            let message = format!("{what} has timed out progressing.");
            set_condition(&mut status, new_condition(PROGRESSING, "False", TIMED_OUT, message, now));
        }
    }
    match failure(new, old) {
        Some((reason, message)) => {
            set_condition(&mut status, new_condition(REPLICA_FAILURE, "True", &reason, message, now));
        }
        None => remove_condition(&mut status, REPLICA_FAILURE),
    }
    status
}

/// The failure of a replica set, of the new one before others.
fn failure(new: Option<&Set>, old: &[Set]) -> Option<(String, String)> {
    new.into_iter().chain(old).find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        let failure = conditions.iter().find(|c| c.type_ == REPLICA_FAILURE && c.status == "True")?;
        Some((failure.reason.clone().unwrap_or_default(), failure.message.clone().unwrap_or_default()))
    })
}

/// All pods are new, there, and available.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let want = replicas(deployment);
    [status.updated_replicas, status.replicas, status.available_replicas].iter().all(|n| n.unwrap_or(0) == want)
        && status.observed_generation >= deployment.metadata.generation
}

fn is_progressing(deployment: &Deployment, new: &DeploymentStatus) -> bool {
    let none = DeploymentStatus::default();
    let old = deployment.status.as_ref().unwrap_or(&none);
    let number = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(new.updated_replicas) > number(old.updated_replicas)
        || outdated(new) < outdated(old)
        || number(new.ready_replicas) > number(old.ready_replicas)
        || number(new.available_replicas) > number(old.available_replicas)
}

fn is_timed_out(deployment: &Deployment, now: Timestamp) -> bool {
    let Some(current) = condition(deployment, PROGRESSING) else { return false };
    match current.reason.as_deref() {
        Some(NEW_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => time_left(deployment, now).is_some_and(|left| left.is_negative() || left.is_zero()),
    }
}

fn time_left(deployment: &Deployment, now: Timestamp) -> Option<jiff::SignedDuration> {
    let since = condition(deployment, PROGRESSING)?.last_update_time.as_ref()?.0;
    let deadline = jiff::SignedDuration::from_secs(progress_deadline_s(deployment)?.into());
    Some(deadline - now.duration_since(since))
}

/// When to look whether the rollout has exceeded its deadline; nothing else may happen until then.
pub fn plan_deadline(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let current = condition(deployment, PROGRESSING)?;
    if is_complete(deployment, status) || current.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let left = Duration::try_from(time_left(deployment, now)?).unwrap_or(Duration::ZERO);
    // Times are kept in seconds: a second later it is surely over.
    Some(left + Duration::from_secs(1))
}

/// The condition that a pause, or its end, calls for.
pub fn plan_pause(deployment: &Deployment, paused: bool, now: Timestamp) -> Option<DeploymentCondition> {
    progress_deadline_s(deployment)?;
    let reason = condition(deployment, PROGRESSING).and_then(|condition| condition.reason.as_deref());
    match (paused, reason) {
        // What has timed out is told so until it goes on.
        (_, Some(TIMED_OUT)) => None,
        (true, Some("DeploymentPaused")) => None,
        (true, _) => {
            Some(new_condition(PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused".into(), now))
        }
        (false, Some("DeploymentPaused")) => {
            Some(new_condition(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed".into(), now))
        }
        (false, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn now() -> Timestamp {
        "2024-01-01T01:00:00Z".parse().expect("a time")
    }

    fn deployment(status: Value) -> Deployment {
        serde_json::from_value(
            json!({"metadata": {"name": "d", "generation": 2}, "spec": {"replicas": 3, "selector": {},
            "template": {}, "progressDeadlineSeconds": 600}, "status": status}),
        )
        .expect("a deployment")
    }

    fn set(actual: i32, available: i32) -> Set {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "d-x"}, "spec": {"replicas": actual, "selector": {}},
            "status": {"replicas": actual, "readyReplicas": available, "availableReplicas": available}}))
            .expect("a replica set"),
        )
    }

    fn progressing(reason: &str, status: &str, minutes_ago: i64) -> Value {
        let at = skiff_base::time::rfc3339(now() - jiff::SignedDuration::from_mins(minutes_ago));
        json!({"type": "Progressing", "status": status, "reason": reason, "lastUpdateTime": at, "lastTransitionTime": at})
    }

    fn told<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<(&'a str, &'a str)> {
        let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == kind)?;
        Some((condition.status.as_str(), condition.reason.as_deref().unwrap_or_default()))
    }

    #[test]
    fn counts_pods() {
        let status = plan_counts(&deployment(json!({"collisionCount": 1})), Some(&set(2, 1)), &[set(2, 2)], now());
        assert_eq!((status.replicas, status.updated_replicas, status.available_replicas), (Some(4), Some(2), Some(3)));
        assert_eq!((status.unavailable_replicas, status.collision_count), (Some(1), Some(1)));
        assert_eq!(told(&status, AVAILABLE), Some(("True", "MinimumReplicasAvailable")));
        let status = plan_counts(&deployment(json!({})), Some(&set(3, 2)), &[], now());
        assert_eq!(told(&status, AVAILABLE), Some(("False", "MinimumReplicasUnavailable")));
        assert_eq!(plan_counts(&deployment(json!({})), None, &[], now()).replicas, None);
    }

    #[test]
    fn tells_how_the_rollout_goes() {
        let check = |conditions: Value, before: i32, actual: i32, available: i32, expect: (&str, &str)| {
            let old = json!({"conditions": conditions, "replicas": before, "updatedReplicas": before, "readyReplicas": before,
                "availableReplicas": before});
            let status = plan_rollout(&deployment(old.clone()), Some(&set(actual, available)), &[], now());
            assert_eq!(told(&status, PROGRESSING), Some(expect), "{old}");
        };
        let found = progressing("NewReplicaSetCreated", "True", 1);
        check(json!([]), 0, 3, 3, ("True", "NewReplicaSetAvailable"));
        check(json!([found]), 0, 2, 1, ("True", "ReplicaSetUpdated"));
        check(json!([found]), 2, 2, 2, ("True", "NewReplicaSetCreated"));
        check(json!([progressing("ReplicaSetUpdated", "True", 11)]), 2, 2, 2, ("False", "ProgressDeadlineExceeded"));
        check(json!([progressing("ReplicaSetUpdated", "True", 11)]), 1, 2, 2, ("True", "ReplicaSetUpdated"));
        check(json!([progressing("NewReplicaSetAvailable", "True", 99)]), 3, 3, 2, ("True", "NewReplicaSetAvailable"));
        check(json!([progressing(TIMED_OUT, "False", 99)]), 2, 3, 3, ("True", "NewReplicaSetAvailable"));
    }

    #[test]
    fn progress_keeps_its_transition_and_renews_its_update() {
        let old = deployment(json!({"conditions": [progressing("ReplicaSetUpdated", "True", 5)]}));
        let status = plan_rollout(&old, Some(&set(2, 1)), &[], now());
        let next = status.conditions.iter().flatten().find(|c| c.type_ == PROGRESSING).expect("it progresses");
        assert_eq!(next.last_update_time, Some(Time(now())));
        assert_eq!(next.last_transition_time, condition(&old, PROGRESSING).expect("it did").last_transition_time);
    }

    #[test]
    fn looks_again_when_the_deadline_is_over() {
        let check = |condition: Value, expect: Option<u64>| {
            let deployment = deployment(json!({"conditions": [condition]}));
            let wait = plan_deadline(&deployment, &DeploymentStatus::default(), now());
            assert_eq!(wait.map(|wait| wait.as_secs()), expect);
        };
        check(progressing("ReplicaSetUpdated", "True", 4), Some(361));
        check(progressing("ReplicaSetUpdated", "True", 20), Some(1));
        check(progressing(TIMED_OUT, "False", 20), None);
    }

    #[test]
    fn pauses_are_told() {
        let check = |condition: Value, paused: bool, expect: Option<&str>| {
            let told = plan_pause(&deployment(json!({"conditions": [condition]})), paused, now());
            assert_eq!(told.and_then(|condition| condition.reason).as_deref(), expect);
        };
        check(progressing("ReplicaSetUpdated", "True", 1), true, Some("DeploymentPaused"));
        check(progressing("DeploymentPaused", "Unknown", 1), true, None);
        check(progressing("DeploymentPaused", "Unknown", 1), false, Some("DeploymentResumed"));
        check(progressing("ReplicaSetUpdated", "True", 1), false, None);
        check(progressing(TIMED_OUT, "False", 1), true, None);
    }
}
