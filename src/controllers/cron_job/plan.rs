//! When a cron job makes a job, and which of its old ones go.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use skiff_api::cron::Schedule;

/// With more missed times than this something is wrong: a clock, or a deadline that is not set.
const MISSED_MAX: usize = 100;

/// How a job ended, if it did.
pub fn outcome(job: &Job) -> Option<&str> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ended = |kind: &&str| conditions.iter().any(|c| c.type_ == *kind && c.status == "True");
    ["Complete", "Failed"].into_iter().find(ended)
}

/// The schedule's times that have passed and were not acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed {
    pub last: Timestamp,
    /// There were more than anybody would expect.
    pub too_many: bool,
}

/// The last time until now that was not acted on yet.
pub fn plan_missed(cron: &CronJob, schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Option<Missed> {
    let status = cron.status.as_ref();
    let created = cron.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let mut from = status.and_then(|status| status.last_schedule_time.as_ref()).map_or(created, |time| time.0);
    if let Some(seconds) = cron.spec.starting_deadline_seconds {
        from = from.max(now - SignedDuration::from_secs(seconds));
    }
    let mut last = schedule.next(from, zone).filter(|at| *at <= now)?;
    for _ in 0..MISSED_MAX {
        match schedule.next(last, zone).filter(|at| *at <= now) {
            Some(next) => last = next,
            None => return Some(Missed { last, too_many: false }),
        }
    }
    // From here on the exact one is looked for from near its end.
    for back_s in [60, 3_600, 86_400, 86_400 * 31, 86_400 * 366] {
        let from = now - SignedDuration::from_secs(back_s);
        let mut found = schedule.next(from, zone).filter(|at| *at <= now);
        while let Some(at) = found {
            last = last.max(at);
            found = schedule.next(at, zone).filter(|at| *at <= now);
        }
        if last >= from {
            break;
        }
    }
    Some(Missed { last, too_many: true })
}

/// How long until the next time.
pub fn plan_wait(schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Option<Duration> {
    Duration::try_from(schedule.next(now, zone)?.duration_since(now)).ok()
}

/// The jobs that ended and are more than are kept; the oldest.
pub fn plan_history(cron: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let spec = &cron.spec;
    let mut surplus = Vec::new();
    for (kind, limit) in [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)]
    {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
        let mut ended: Vec<Arc<Job>> = jobs.iter().filter(|job| outcome(job) == Some(kind)).cloned().collect();
        ended.sort_by_key(|job| {
            let start = job.status.as_ref().and_then(|status| status.start_time.clone());
            (start, job.metadata.name.clone())
        });
        let count = ended.len().saturating_sub(limit);
        surplus.extend(ended.into_iter().take(count));
    }
    surplus
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cron(spec: Value, last: Option<&str>) -> CronJob {
        let mut all = json!({"schedule": "*/10 * * * *", "jobTemplate": {}});
        all.as_object_mut().expect("a map").extend(spec.as_object().expect("a map").clone());
        let value = json!({"metadata": {"name": "c", "creationTimestamp": "2024-01-01T00:00:00Z"}, "spec": all,
            "status": {"lastScheduleTime": last}});
        serde_json::from_value(value).expect("a cron job")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn what_was_missed() {
        let schedule = Schedule::parse("*/10 * * * *").expect("a schedule");
        for (cron, now, expect) in [
            (cron(json!({}), None), "2024-01-01T00:05:00Z", None),
            (cron(json!({}), None), "2024-01-01T00:10:00Z", Some(("2024-01-01T00:10:00Z", false))),
            (cron(json!({}), None), "2024-01-01T00:35:00Z", Some(("2024-01-01T00:30:00Z", false))),
            (cron(json!({}), Some("2024-01-01T00:30:00Z")), "2024-01-01T00:35:00Z", None),
            (cron(json!({"startingDeadlineSeconds": 60}), None), "2024-01-01T00:35:00Z", None),
            (
                cron(json!({"startingDeadlineSeconds": 600}), None),
                "2024-01-01T00:35:00Z",
                Some(("2024-01-01T00:30:00Z", false)),
            ),
            (cron(json!({}), None), "2024-01-09T00:05:00Z", Some(("2024-01-09T00:00:00Z", true))),
        ] {
            let missed = plan_missed(&cron, &schedule, &TimeZone::UTC, at(now));
            assert_eq!(missed, expect.map(|(last, too_many)| Missed { last: at(last), too_many }), "{now}");
        }
        let wait = plan_wait(&schedule, &TimeZone::UTC, at("2024-01-01T00:05:30Z"));
        assert_eq!(wait, Some(Duration::from_secs(270)));
    }

    #[test]
    fn what_goes_of_the_past() {
        let job = |name: &str, kind: &str, start: &str| -> Arc<Job> {
            let value = json!({"metadata": {"name": name}, "status": {"startTime": start,
                "conditions": [{"type": kind, "status": "True"}]}});
            Arc::new(serde_json::from_value(value).expect("a job"))
        };
        let jobs = [
            job("b", "Complete", "2024-01-01T00:02:00Z"),
            job("a", "Complete", "2024-01-01T00:01:00Z"),
            job("c", "Failed", "2024-01-01T00:01:00Z"),
            job("r", "Suspended", "2024-01-01T00:01:00Z"),
        ];
        for (limits, expect) in
            [((Some(1), Some(1)), vec!["a"]), ((Some(0), Some(0)), vec!["a", "b", "c"]), ((None, Some(3)), vec![])]
        {
            let cron = cron(json!({"successfulJobsHistoryLimit": limits.0, "failedJobsHistoryLimit": limits.1}), None);
            let names: Vec<String> =
                plan_history(&cron, &jobs).iter().filter_map(|j| j.metadata.name.clone()).collect();
            assert_eq!(names, expect, "{limits:?}");
        }
    }
}
