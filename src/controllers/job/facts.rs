//! What a job wants to know of its pods, and of itself.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pod;

/// Keeps a pod until it has been counted.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// The annotation and label of the pod's index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often the index had failed before this pod.
pub const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

pub fn has_succeeded(pod: &Pod) -> bool {
    pod::phase(pod) == "Succeeded"
}

/// `only_failed`: pods that are being deleted are waited for, and have not failed yet.
pub fn has_failed(pod: &Pod, only_failed: bool) -> bool {
    match pod::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => !only_failed && pod.metadata.deletion_timestamp.is_some(),
    }
}

pub fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

pub fn replaces_only_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed")
}

/// The index of a pod, if it is one that the job has.
pub fn index_of(pod: &Pod, completions: i32) -> Option<i32> {
    let text = pod.metadata.annotations.as_ref()?.get(INDEX)?;
    text.parse().ok().filter(|index| (0..completions).contains(index))
}

/// How often the index had failed before this pod.
pub fn failures_before(pod: &Pod) -> i32 {
    let text = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(FAILURES));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// When the last of its containers ended; else when it was deleted, or now.
pub fn finished_at(pod: &Pod, now: Timestamp) -> Timestamp {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let ends = statuses.iter().filter_map(|s| s.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let deleted = pod.metadata.deletion_timestamp.as_ref();
    ends.max().or(deleted).map_or(now, |time| time.0)
}

pub fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

pub fn is_true(status: &JobStatus, kind: &str) -> bool {
    condition(status, kind).is_some_and(|condition| condition.status == "True")
}

pub fn is_finished(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|status| is_true(status, "Complete") || is_true(status, "Failed"))
}

/// Sets a condition; whether that changed its status.
pub fn set_condition(
    status: &mut JobStatus,
    (kind, value, reason, message): (&str, &str, &str, &str),
    now: Timestamp,
) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    let time = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let new = JobCondition {
        last_probe_time: Some(time.clone()),
        last_transition_time: Some(time),
        message: Some(message.to_owned()),
        reason: Some(reason.to_owned()),
        status: value.to_owned(),
        type_: kind.to_owned(),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == kind) {
        Some(old) if old.status == value => false,
        Some(old) => {
            *old = new;
            true
        }
        None => {
            conditions.push(new);
            true
        }
    }
}
