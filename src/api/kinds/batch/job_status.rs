//! What the status of a job may not say.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1 as batch;

use super::indexes::Indexes;
use crate::field::{Errors, Path};
use crate::kinds::checks::{nonnegative, text};

const STATUS: Path<'static> = Path::new("status");

fn is_true(job: &batch::Job, condition: &str) -> bool {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == condition && c.status == "True")
}

pub(super) fn update(job: &batch::Job, old: &batch::Job, errors: &mut Errors) {
    let (Some(status), Some(spec)) = (&job.status, &job.spec) else { return };
    counts(status, errors);
    uncounted(status, errors);
    conditions(job, status, errors);
    indexes(spec, status, errors);
    for condition in ["Failed", "Complete", "FailureTarget", "SuccessCriteriaMet"] {
        if is_true(old, condition) && !is_true(job, condition) {
            let message = match condition {
                "SuccessCriteriaMet" => "cannot disable the SuccessCriteriaMet=True condition".to_owned(),
                other => format!("cannot disable the terminal {other}=True condition"),
            };
            errors.invalid_as_is(&STATUS.child("conditions"), &message);
        }
    }
    let finished = |j: &batch::Job| is_true(j, "Complete") || is_true(j, "Failed");
    let before = old.status.as_ref();
    if before.is_some_and(|s| s.completion_time.is_some() && s.completion_time != status.completion_time) {
        errors.invalid(&STATUS.child("completionTime"), &status.completion_time, "field is immutable");
    }
    let started = before.and_then(|s| s.start_time.as_ref());
    let running = finished(job) || spec.suspend != Some(true);
    if started.is_some() && status.start_time.is_none() && running {
        errors.required(&STATUS.child("startTime"), "startTime cannot be removed for unsuspended job");
    }
    if let (Some(new), Some(old)) = (&status.start_time, started)
        && new != old
        && running
    {
        errors.required(&STATUS.child("startTime"), "startTime cannot be modified for unsuspended job");
    }
}

fn counts(status: &batch::JobStatus, errors: &mut Errors) {
    for (field, count) in [
        ("active", status.active),
        ("succeeded", status.succeeded),
        ("failed", status.failed),
        ("ready", status.ready),
        ("terminating", status.terminating),
    ] {
        nonnegative(count.unwrap_or(0), &STATUS.child(field), errors);
    }
    if let Some(ready) = status.ready.filter(|ready| *ready > status.active.unwrap_or(0)) {
        errors.invalid(&STATUS.child("ready"), ready, "cannot set more ready pods than active");
    }
}

fn uncounted(status: &batch::JobStatus, errors: &mut Errors) {
    let Some(uncounted) = &status.uncounted_terminated_pods else { return };
    let path = STATUS.child("uncountedTerminatedPods");
    let mut seen = BTreeSet::new();
    for (field, list) in [("succeeded", &uncounted.succeeded), ("failed", &uncounted.failed)] {
        for (i, uid) in list.iter().flatten().enumerate() {
            let path = path.child(field);
            if uid.is_empty() {
                errors.invalid(&path.index(i), uid, "must not be empty");
            } else if !seen.insert(uid) {
                errors.duplicate(&path.index(i), uid);
            }
        }
    }
}

fn conditions(job: &batch::Job, status: &batch::JobStatus, errors: &mut Errors) {
    let path = STATUS.child("conditions");
    let [complete, failed, target, met] =
        ["Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"].map(|condition| is_true(job, condition));
    for (wrong, message) in [
        (complete && failed, "cannot set Complete=True and Failed=true conditions"),
        (complete && target, "cannot set Complete=True and FailureTarget=true conditions"),
        (failed && !target, "cannot set Failed=True condition without the FailureTarget=true condition"),
        (complete && !met, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition"),
        (met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
    ] {
        if wrong {
            errors.invalid_as_is(&path, message);
        }
    }
    let completion = STATUS.child("completionTime");
    match (&status.completion_time, complete) {
        (Some(time), false) => {
            errors.invalid(&completion, time, "cannot set completionTime when there is no Complete=True condition");
        }
        (None, true) => errors.required(&completion, "completionTime is required for Complete jobs"),
        _ => {}
    }
    if let (Some(start), Some(end)) = (&status.start_time, &status.completion_time)
        && end < start
    {
        errors.invalid(&completion, end, "completionTime cannot be set before startTime");
    }
    if !(complete || failed) {
        return;
    }
    for (field, count) in [("active", status.active), ("terminating", status.terminating)] {
        if let Some(count) = count.filter(|c| *c > 0) {
            errors.invalid(&STATUS.child(field), count, &format!("{field}>0 is invalid for finished job"));
        }
    }
    if status.start_time.is_none() {
        errors.required(&STATUS.child("startTime"), "startTime is required for finished job");
    }
    let uncounted = status.uncounted_terminated_pods.as_ref();
    let is_empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    if let Some(uncounted) = uncounted.filter(|u| !is_empty(&u.failed) || !is_empty(&u.succeeded)) {
        let message = "uncountedTerminatedPods needs to be empty for finished job";
        errors.invalid(&STATUS.child("uncountedTerminatedPods"), uncounted, message);
    }
}

fn indexes(spec: &batch::JobSpec, status: &batch::JobStatus, errors: &mut Errors) {
    let completed = text(&status.completed_indexes);
    if !completed.is_empty() && spec.completion_mode.as_deref() != Some("Indexed") {
        let message = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.invalid(&STATUS.child("completedIndexes"), completed, message);
    }
    if let Some(failed) = status.failed_indexes.as_ref().filter(|_| spec.backoff_limit_per_index.is_none()) {
        let message = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.invalid(&STATUS.child("failedIndexes"), failed, message);
    }
    let Some(completions) = spec.completions else { return };
    let mut parse = |field: &str, text: &str| match Indexes::parse(text, completions) {
        Ok(indexes) => Some(indexes),
        Err(error) => {
            errors.invalid(&STATUS.child(field), text, &format!("error parsing {field}: {error}"));
            None
        }
    };
    let completed = parse("completedIndexes", completed);
    let failed = status.failed_indexes.as_ref().and_then(|text| parse("failedIndexes", text));
    if let (Some(completed), Some(failed)) = (completed, failed)
        && let Some(both) = failed.iter().find(|index| completed.contains(*index))
    {
        let message = format!("failedIndexes and completedIndexes overlap at index: {both}");
        errors.invalid(&STATUS.child("failedIndexes"), text(&status.failed_indexes), &message);
    }
}
