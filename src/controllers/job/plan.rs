//! What a job's pods are to become, and what its status says.
//!
//! A pod that ended is first named in the status (`uncountedTerminatedPods`), then loses its finalizer, and is counted
//! when that is seen: so none is counted twice, and none is lost, whenever the process ends in between.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_api::kinds::batch::Indexes;
use skiff_client::EventKind;

use super::backoff;
use super::facts::{
    failures_before, has_failed, has_succeeded, index_of, is_indexed, is_tracked, is_true, replaces_only_failed,
    set_condition,
};
use super::policy::{self, Verdict};
use crate::pod;

/// So many pods are made or deleted in one go.
const BURST: usize = 500;

#[derive(Debug, Default)]
pub struct Plan {
    pub status: JobStatus,
    /// Pods to make: their index and how often that failed, where the job has indexes.
    pub create: Vec<(Option<i32>, i32)>,
    pub delete: Vec<Arc<Pod>>,
    /// Pods that are named in the status, and may lose their finalizer once it is written.
    pub release: Vec<Arc<Pod>>,
    /// When to look again.
    pub wait: Option<Duration>,
    pub events: Vec<(EventKind, &'static str, String)>,
}

/// Why a job ends.
#[derive(Debug, Clone, PartialEq)]
struct End {
    failed: bool,
    reason: String,
    message: String,
}

/// `may_change`: whether pods may be made and deleted; not while some are expected to be seen.
pub fn plan(job: &Job, pods: &[Arc<Pod>], may_change: bool, now: Timestamp) -> Plan {
    let empty = JobSpec::default();
    let spec = job.spec.as_ref().unwrap_or(&empty);
    let mut plan = Plan { status: job.status.clone().unwrap_or_default(), ..Plan::default() };
    let only_failed = replaces_only_failed(spec);
    count_those_released(&mut plan.status, pods);
    let fail_now = name_those_that_ended(&mut plan, spec, pods, only_failed);
    let tally = Tally::of(spec, &plan.status, pods);
    let suspended = spec.suspend == Some(true);
    // What ends is no longer stopped.
    if !is_true(&plan.status, "FailureTarget") && !is_true(&plan.status, "SuccessCriteriaMet") {
        start_or_suspend(&mut plan, suspended, now);
    }
    let end = ending(spec, &plan.status, &tally, fail_now, suspended, now);
    let active = tally.active.len();
    let mut stays = active;
    match &end {
        Some(end) => {
            let kind = if end.failed { "FailureTarget" } else { "SuccessCriteriaMet" };
            set_condition(&mut plan.status, (kind, "True", &end.reason, &end.message), now);
            if may_change {
                plan.delete = tally.active.iter().take(BURST).cloned().collect();
                stays -= plan.delete.len();
            }
        }
        None if may_change && job.metadata.deletion_timestamp.is_none() => {
            manage(&mut plan, spec, &tally, pods, suspended, now);
            stays = stays + plan.create.len() - plan.delete.len();
        }
        None => {}
    }
    if let (None, false, Some(seconds), Some(start)) =
        (&end, suspended, spec.active_deadline_seconds, &plan.status.start_time)
    {
        let left = start.0 + SignedDuration::from_secs(seconds) - now;
        sooner(&mut plan.wait, Duration::try_from(left).ok());
    }
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    plan.status.active = Some(count(stays)).filter(|n| *n != 0);
    let ready = tally.active.iter().filter(|pod| pod::is_ready(pod)).count().min(stays);
    plan.status.ready = Some(count(ready));
    let terminating = tally.terminating + plan.delete.len();
    plan.status.terminating = Some(count(terminating));
    let all_counted =
        plan.status.uncounted_terminated_pods.as_ref().is_none_or(|u| u.failed.is_none() && u.succeeded.is_none());
    if let Some(end) = end
        && stays == 0
        && terminating == 0
        && all_counted
        && plan.release.is_empty()
    {
        finish(&mut plan, &end, now);
    }
    plan
}

fn sooner(wait: &mut Option<Duration>, other: Option<Duration>) {
    *wait = match (*wait, other) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
}

/// Those that were named and have lost their finalizer are in the counts from now on.
fn count_those_released(status: &mut JobStatus, pods: &[Arc<Pod>]) {
    let tracked: BTreeSet<&str> =
        pods.iter().filter(|pod| is_tracked(pod)).filter_map(|pod| pod.metadata.uid.as_deref()).collect();
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    let take = |list: &mut Option<Vec<String>>| -> i32 {
        let Some(uids) = list else { return 0 };
        let before = uids.len();
        uids.retain(|uid| tracked.contains(uid.as_str()));
        let gone = before - uids.len();
        if uids.is_empty() {
            *list = None;
        }
        i32::try_from(gone).unwrap_or(i32::MAX)
    };
    let (succeeded, failed) = (take(&mut uncounted.succeeded), take(&mut uncounted.failed));
    for (count, more) in [(&mut status.succeeded, succeeded), (&mut status.failed, failed)] {
        if more > 0 {
            *count = Some(count.unwrap_or(0) + more);
        }
    }
}

/// Names those that ended and still have their finalizer. Gives the message if one of them ends the job.
fn name_those_that_ended(plan: &mut Plan, spec: &JobSpec, pods: &[Arc<Pod>], only_failed: bool) -> Option<String> {
    let completions = spec.completions.unwrap_or(0);
    let indexed = is_indexed(spec);
    let status = &mut plan.status;
    let mut completed =
        Indexes::parse(status.completed_indexes.as_deref().unwrap_or(""), completions).unwrap_or_default();
    let mut broken: BTreeSet<i32> = Indexes::parse(status.failed_indexes.as_deref().unwrap_or(""), completions)
        .unwrap_or_default()
        .iter()
        .collect();
    let ending = is_true(status, "FailureTarget") || is_true(status, "SuccessCriteriaMet");
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    let mut fail = None;
    let mut new_indexes: BTreeSet<i32> = completed.iter().collect();
    for pod in pods.iter().filter(|pod| is_tracked(pod)) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let index = index_of(pod, completions).filter(|_| indexed);
        if has_succeeded(pod) {
            plan.release.push(pod.clone());
            match (indexed, index) {
                (true, Some(index)) => {
                    new_indexes.insert(index);
                }
                (true, None) => {}
                (false, _) => name(&mut uncounted.succeeded, uid),
            }
        } else if has_failed(pod, only_failed) {
            plan.release.push(pod.clone());
            if indexed && index.is_none() {
                continue;
            }
            let verdict = policy::judge(spec, pod);
            if let (Some(limit), Some(index)) = (spec.backoff_limit_per_index, index) {
                let counts = i32::from(verdict != Verdict::Ignore);
                if verdict == Verdict::FailIndex || failures_before(pod) + counts > limit {
                    broken.insert(index);
                }
            }
            match verdict {
                Verdict::Ignore => continue,
                Verdict::FailJob(message) => fail = fail.or(Some(message)),
                Verdict::Count | Verdict::FailIndex => {}
            }
            name(&mut uncounted.failed, uid);
        } else if ending && pod.metadata.deletion_timestamp.is_some() && !only_failed {
            plan.release.push(pod.clone());
        }
    }
    if indexed {
        completed = Indexes::of(new_indexes);
        broken.retain(|index| !completed.contains(*index));
        status.succeeded = Some(completed.count()).filter(|n| *n != 0);
        status.completed_indexes = Some(completed.to_string()).filter(|text| !text.is_empty());
        if spec.backoff_limit_per_index.is_some() {
            status.failed_indexes = Some(Indexes::of(broken).to_string());
        }
    }
    fail
}

fn name(list: &mut Option<Vec<String>>, uid: String) {
    let list = list.get_or_insert_default();
    if !list.contains(&uid) {
        list.push(uid);
    }
}

/// What counts now.
struct Tally {
    active: Vec<Arc<Pod>>,
    terminating: usize,
    succeeded: i32,
    failed: i32,
    completed: Indexes,
    broken: Indexes,
}

impl Tally {
    fn of(spec: &JobSpec, status: &JobStatus, pods: &[Arc<Pod>]) -> Self {
        let completions = spec.completions.unwrap_or(0);
        let parse =
            |text: &Option<String>| Indexes::parse(text.as_deref().unwrap_or(""), completions).unwrap_or_default();
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let count = |list: &Option<Vec<String>>| i32::try_from(list.as_ref().map_or(0, Vec::len)).unwrap_or(i32::MAX);
        let terminating = |pod: &&Arc<Pod>| !pod::is_over(pod) && pod.metadata.deletion_timestamp.is_some();
        Self {
            active: pods.iter().filter(|pod| pod::is_active(pod)).cloned().collect(),
            terminating: pods.iter().filter(terminating).count(),
            succeeded: status.succeeded.unwrap_or(0) + count(&uncounted.succeeded),
            failed: status.failed.unwrap_or(0) + count(&uncounted.failed),
            completed: parse(&status.completed_indexes),
            broken: parse(&status.failed_indexes),
        }
    }
}

fn start_or_suspend(plan: &mut Plan, suspended: bool, now: Timestamp) {
    let seconds = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let status = &mut plan.status;
    if suspended {
        status.start_time = None;
        if set_condition(status, ("Suspended", "True", "JobSuspended", "Job suspended"), now) {
            plan.events.push((EventKind::Normal, "Suspended", "Job suspended".to_owned()));
        }
        return;
    }
    if is_true(status, "Suspended") {
        set_condition(status, ("Suspended", "False", "JobResumed", "Job resumed"), now);
        plan.events.push((EventKind::Normal, "Resumed", "Job resumed".to_owned()));
        status.start_time = Some(seconds.clone());
    }
    status.start_time.get_or_insert(seconds);
}

/// Why the job ends, if it does. What was decided before stays.
fn ending(
    spec: &JobSpec,
    status: &JobStatus,
    tally: &Tally,
    fail_now: Option<String>,
    suspended: bool,
    now: Timestamp,
) -> Option<End> {
    for (kind, failed) in [("FailureTarget", true), ("SuccessCriteriaMet", false)] {
        if let Some(condition) = super::facts::condition(status, kind).filter(|c| c.status == "True") {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            return Some(End { failed, reason: text(&condition.reason), message: text(&condition.message) });
        }
    }
    let fail = |reason: &str, message: &str| Some(End { failed: true, reason: reason.into(), message: message.into() });
    if let Some(message) = fail_now {
        return fail("PodFailurePolicy", &message);
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    let restarts = restarts_of(spec, &tally.active);
    if tally.failed > limit || restarts.is_some_and(|n| if limit == 0 { n > 0 } else { n >= limit }) {
        return fail("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if !suspended
        && let (Some(seconds), Some(start)) = (spec.active_deadline_seconds, &status.start_time)
        && start.0 + SignedDuration::from_secs(seconds) <= now
    {
        return fail("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    if is_indexed(spec) {
        if let Some(rule) = policy::met_rule(spec, &tally.completed) {
            let message = format!("Matched rules at index {rule}");
            return Some(End { failed: false, reason: "SuccessPolicy".into(), message });
        }
        if spec.max_failed_indexes.is_some_and(|max| tally.broken.count() > max) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return fail("MaxFailedIndexesExceeded", message);
        }
        let settled = tally.completed.count() + tally.broken.count();
        if !tally.broken.is_empty() && settled >= spec.completions.unwrap_or(0) {
            return fail("FailedIndexes", "Job has failed indexes");
        }
    }
    let complete = match spec.completions {
        None => tally.succeeded > 0 && tally.active.is_empty(),
        Some(completions) => tally.succeeded >= completions && tally.active.is_empty(),
    };
    complete.then(|| End {
        failed: false,
        reason: "CompletionsReached".into(),
        message: "Reached expected number of succeeded pods".into(),
    })
}

/// How often containers of running pods were started anew, where that is how failures show.
fn restarts_of(spec: &JobSpec, active: &[Arc<Pod>]) -> Option<i32> {
    let policy = spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    (policy == Some("OnFailure")).then(|| {
        let running = active.iter().filter(|pod| matches!(pod::phase(pod), "Running" | "Pending"));
        let statuses = running.filter_map(|pod| pod.status.as_ref()).flat_map(|status| {
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten())
        });
        statuses.map(|status| status.restart_count).sum()
    })
}

/// Pods to make and to delete.
fn manage(plan: &mut Plan, spec: &JobSpec, tally: &Tally, pods: &[Arc<Pod>], suspended: bool, now: Timestamp) {
    if suspended {
        plan.delete = tally.active.iter().take(BURST).cloned().collect();
        return;
    }
    let parallelism = spec.parallelism.unwrap_or(1).max(0);
    let active = i32::try_from(tally.active.len()).unwrap_or(i32::MAX);
    let wanted = match spec.completions {
        None if tally.succeeded > 0 => active,
        None => parallelism,
        Some(completions) if is_indexed(spec) => {
            (completions - tally.completed.count() - tally.broken.count()).clamp(0, parallelism)
        }
        Some(completions) => (completions - tally.succeeded).clamp(0, parallelism),
    };
    let too_many = usize::try_from(active - wanted).unwrap_or(0);
    let doubles = if is_indexed(spec) { without_index(spec, tally) } else { Vec::new() };
    if too_many > 0 || !doubles.is_empty() {
        plan.delete = victims(tally, doubles, too_many);
        return;
    }
    let only_failed = replaces_only_failed(spec);
    let held = if only_failed { i32::try_from(tally.terminating).unwrap_or(i32::MAX) } else { 0 };
    let missing = usize::try_from(wanted - active - held).unwrap_or(0).min(BURST);
    if missing == 0 {
        return;
    }
    if is_indexed(spec) {
        return next_indexes(plan, spec, tally, pods, missing, now);
    }
    match backoff::plan_wait(pods.iter().map(|pod| &**pod), only_failed, now) {
        Some(wait) => sooner(&mut plan.wait, Some(wait)),
        None => plan.create = vec![(None, 0); missing],
    }
}

/// The indexes that have no pod, the lowest first; those that failed wait.
fn next_indexes(plan: &mut Plan, spec: &JobSpec, tally: &Tally, pods: &[Arc<Pod>], missing: usize, now: Timestamp) {
    let completions = spec.completions.unwrap_or(0);
    let only_failed = replaces_only_failed(spec);
    let per_index = spec.backoff_limit_per_index.is_some();
    let running = |pod: &&Arc<Pod>| {
        pod::is_active(pod) || only_failed && !pod::is_over(pod) && pod.metadata.deletion_timestamp.is_some()
    };
    let taken: BTreeSet<i32> = pods.iter().filter(running).filter_map(|pod| index_of(pod, completions)).collect();
    if !per_index && let Some(wait) = backoff::plan_wait(pods.iter().map(|pod| &**pod), only_failed, now) {
        return sooner(&mut plan.wait, Some(wait));
    }
    for index in 0..completions {
        if plan.create.len() == missing {
            return;
        }
        if taken.contains(&index) || tally.completed.contains(index) || tally.broken.contains(index) {
            continue;
        }
        if !per_index {
            plan.create.push((Some(index), 0));
            continue;
        }
        let own = || pods.iter().map(|pod| &**pod).filter(|pod| index_of(pod, completions) == Some(index));
        match backoff::plan_wait(own(), only_failed, now) {
            Some(wait) => sooner(&mut plan.wait, Some(wait)),
            None => {
                let counted = |pod: &&Pod| has_failed(pod, only_failed) && policy::judge(spec, pod) != Verdict::Ignore;
                let failures = own().filter(counted).map(|pod| failures_before(pod) + 1).max().unwrap_or(0);
                plan.create.push((Some(index), failures));
            }
        }
    }
}

/// Active pods of indexes that are done, that another pod has, or that there are not.
fn without_index(spec: &JobSpec, tally: &Tally) -> Vec<Arc<Pod>> {
    let completions = spec.completions.unwrap_or(0);
    let mut seen = BTreeSet::new();
    let surplus = |pod: &&Arc<Pod>| match index_of(pod, completions) {
        Some(index) => tally.completed.contains(index) || !seen.insert(index),
        None => true,
    };
    tally.active.iter().filter(surplus).take(BURST).cloned().collect()
}

/// Those that have got the least far go first; with indexes, the highest.
fn victims(tally: &Tally, first: Vec<Arc<Pod>>, count: usize) -> Vec<Arc<Pod>> {
    let mut all = first;
    let chosen: BTreeSet<Option<String>> = all.iter().map(|pod| pod.metadata.uid.clone()).collect();
    let mut rest: Vec<Arc<Pod>> =
        tally.active.iter().filter(|pod| !chosen.contains(&pod.metadata.uid)).cloned().collect();
    let rank = |pod: &Pod| {
        let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        (placed, pod::phase(pod) == "Running", pod::is_ready(pod))
    };
    rest.sort_by(|a, b| {
        let index = |pod: &Pod| index_of(pod, i32::MAX).unwrap_or(0);
        let age = |pod: &Pod| pod.metadata.creation_timestamp.clone();
        (index(b), rank(a), age(b)).cmp(&(index(a), rank(b), age(a)))
    });
    let left = count.saturating_sub(all.len());
    all.extend(rest.into_iter().take(left));
    all.truncate(BURST);
    all
}

fn finish(plan: &mut Plan, end: &End, now: Timestamp) {
    let kind = if end.failed { "Failed" } else { "Complete" };
    if !set_condition(&mut plan.status, (kind, "True", &end.reason, &end.message), now) {
        return;
    }
    if end.failed {
        plan.events.push((EventKind::Warning, reason_of(&end.reason), end.message.clone()));
    } else {
        plan.status.completion_time = Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
        plan.events.push((EventKind::Normal, "Completed", "Job completed".to_owned()));
    }
    plan.wait = None;
}

fn reason_of(reason: &str) -> &'static str {
    ["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy", "MaxFailedIndexesExceeded", "FailedIndexes"]
        .into_iter()
        .find(|known| *known == reason)
        .unwrap_or("Failed")
}
