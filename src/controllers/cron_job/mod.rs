//! Makes jobs at the times of a schedule.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use skiff_api::ObjectKey;
use skiff_api::cron::{Schedule, split_zone};
use skiff_base::{chain, time};
use skiff_client::{Client, DeleteOptions, EventKind, EventRecorder, Lister, Next, Queue, Reconciler, Result};

use self::plan::{outcome, plan_history, plan_missed, plan_wait};
use crate::pod_control::{self, BY_CONTROLLER};
use crate::service_account::is_closing;
use crate::{Context, drive, owner};

const WORKERS: usize = 5;
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

pub fn start(context: &Context) {
    let crons = context.informers.lister::<CronJob>();
    let jobs = context.informers.lister::<Job>();
    jobs.add_index(BY_CONTROLLER, owner::controller_uid::<Job>);
    let queue = Queue::new(CronJobs::NAME);
    let adding = queue.clone();
    crons.subscribe(move |change| adding.add(ObjectKey::of(&**change.object())));
    let adding = queue.clone();
    jobs.subscribe(move |change| {
        if let Some(key) = pod_control::key_of::<CronJob>(&change.object().metadata) {
            adding.add(key);
        }
    });
    let controller = Arc::new(CronJobs {
        client: context.client(CronJobs::NAME),
        events: context.events(CronJobs::NAME, "cronjob-controller"),
        crons: crons.clone(),
        jobs: jobs.clone(),
    });
    drive(context, controller, queue, WORKERS, async move {
        crons.synced().await;
        jobs.synced().await;
    });
}

struct CronJobs {
    client: Client,
    events: EventRecorder,
    crons: Lister<CronJob>,
    jobs: Lister<Job>,
}

/// The schedule, and the zone that its clock stands in.
fn schedule_of(cron: &CronJob) -> std::result::Result<(Schedule, TimeZone), String> {
    let (own, text) = split_zone(&cron.spec.schedule);
    let schedule = Schedule::parse(text).map_err(|error| error.to_string())?;
    match cron.spec.time_zone.as_deref().or(own) {
        None => Ok((schedule, TimeZone::UTC)),
        Some(name) => time::zone(name).map(|zone| (schedule, zone)).ok_or(format!("unknown time zone {name}")),
    }
}

/// Whether the cron job's status tells of the job.
fn is_active(cron: &CronJob, job: &Job) -> bool {
    let active = cron.status.as_ref().and_then(|status| status.active.as_ref());
    active.into_iter().flatten().any(|reference| reference.uid == job.metadata.uid)
}

fn whole_seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// The job of a time; its name tells the minute, so that none is made twice.
fn plan_job(cron: &CronJob, at: Timestamp, zone: &TimeZone) -> Job {
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let name = format!("{}-{}", cron.metadata.name.as_deref().unwrap_or_default(), at.as_second() / 60);
    let mut annotations = meta.annotations.unwrap_or_default();
    let local = at.to_zoned(zone.clone());
    let form = if local.offset().is_zero() { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    annotations.insert(SCHEDULED_AT.to_owned(), local.strftime(form).to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner::reference_to(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

fn reference_to(job: &Job) -> ObjectReference {
    let meta = &job.metadata;
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

impl CronJobs {
    fn tell(&self, cron: &CronJob, kind: EventKind, reason: &str, message: String) {
        self.events.record(EventRecorder::reference(cron), kind, reason, message);
    }

    /// Which of the cron job's jobs run, as its status says it; tells of those that ended or went.
    fn note(&self, cron: &CronJob, jobs: &[Arc<Job>], status: &mut CronJobStatus) {
        let mut active = status.active.take().unwrap_or_default();
        for job in jobs {
            let name = job.metadata.name.as_deref().unwrap_or_default();
            let listed = active.iter().position(|reference| reference.uid == job.metadata.uid);
            match (listed, outcome(job)) {
                (None, None) => {
                    let message = format!("Saw a job that the controller did not create or forgot: {name}");
                    self.tell(cron, EventKind::Warning, "UnexpectedJob", message);
                    active.push(reference_to(job));
                }
                (Some(at), Some(how)) => {
                    active.remove(at);
                    let message = format!("Saw completed job: {name}, condition: {how}");
                    self.tell(cron, EventKind::Normal, "SawCompletedJob", message);
                }
                _ => {}
            }
            if outcome(job) == Some("Complete") {
                let done = job.status.as_ref().and_then(|status| status.completion_time.clone());
                status.last_successful_time = done.max(status.last_successful_time.take());
            }
        }
        active.retain(|reference| {
            let there = jobs.iter().any(|job| job.metadata.uid == reference.uid);
            if !there {
                let name = reference.name.as_deref().unwrap_or_default();
                let message = format!("Active job went missing: {name}");
                self.tell(cron, EventKind::Normal, "MissingJob", message);
            }
            there
        });
        status.active = Some(active).filter(|active| !active.is_empty());
    }

    async fn delete(&self, cron: &CronJob, namespace: &str, name: &str) -> Result<()> {
        let options = DeleteOptions { propagation: Some("Background"), ..DeleteOptions::default() };
        match self.client.namespaced::<Job>(namespace).delete(name, &options).await {
            Ok(()) => {
                self.tell(cron, EventKind::Normal, "SuccessfulDelete", format!("Deleted job {name}"));
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => {
                self.tell(cron, EventKind::Warning, "FailedDelete", format!("Deleted job: {}", chain(&error)));
                Err(error)
            }
        }
    }

    /// Makes the job of that time, unless the policy is against it.
    async fn run(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        status: &mut CronJobStatus,
        at: Timestamp,
        zone: &TimeZone,
    ) -> Result<()> {
        let policy = cron.spec.concurrency_policy.as_deref().unwrap_or("Allow");
        let active = status.active.clone().unwrap_or_default();
        if policy == "Forbid" && !active.is_empty() {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            self.tell(cron, EventKind::Normal, "JobAlreadyActive", message.to_owned());
            return Ok(());
        }
        if policy == "Replace" {
            for reference in &active {
                self.delete(cron, &key.namespace, reference.name.as_deref().unwrap_or_default()).await?;
            }
            status.active = None;
        }
        let job = plan_job(cron, at, zone);
        match self.client.namespaced::<Job>(&key.namespace).create(&job).await {
            Ok(made) => {
                let name = made.metadata.name.as_deref().unwrap_or_default();
                self.tell(cron, EventKind::Normal, "SuccessfulCreate", format!("Created job {name}"));
                status.active.get_or_insert_default().push(reference_to(&made));
            }
            // Made before the status could say so.
            Err(error) if error.is_already_exists() => {}
            Err(error) if is_closing(&error) => return Ok(()),
            Err(error) => {
                self.tell(cron, EventKind::Warning, "FailedCreate", format!("Error creating job: {}", chain(&error)));
                return Err(error);
            }
        }
        status.last_schedule_time = Some(whole_seconds(at));
        Ok(())
    }

    async fn follow_schedule(&self, key: &ObjectKey, cron: &CronJob, status: &mut CronJobStatus) -> Result<Next> {
        let (schedule, zone) = match schedule_of(cron) {
            Ok(found) => found,
            Err(why) => {
                let message = format!("unparseable schedule: {:?} : {why}", cron.spec.schedule);
                self.tell(cron, EventKind::Warning, "UnparseableSchedule", message);
                return Ok(Next::Done);
            }
        };
        let now = time::now();
        if let Some(missed) = plan_missed(cron, &schedule, &zone, now) {
            if missed.too_many {
                let message =
                    "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
                self.tell(cron, EventKind::Warning, "TooManyMissedTimes", message.to_owned());
            }
            let deadline = cron.spec.starting_deadline_seconds.map(SignedDuration::from_secs);
            if deadline.is_some_and(|deadline| missed.last + deadline < now) {
                let message = format!("Missed scheduled time to start a job: {}", missed.last);
                self.tell(cron, EventKind::Warning, "MissSchedule", message);
            } else {
                self.run(key, cron, status, missed.last, &zone).await?;
            }
        }
        // A little later than it is due, lest it be looked at a moment too early.
        Ok(plan_wait(&schedule, &zone, now).map_or(Next::Done, |wait| Next::After(wait + Duration::from_millis(100))))
    }
}

impl Reconciler for CronJobs {
    const NAME: &'static str = "cronjob-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(mut cron) = self.crons.get(key) else { return Ok(Next::Done) };
        let jobs = self.jobs.indexed(BY_CONTROLLER, cron.metadata.uid.as_deref().unwrap_or_default());
        if jobs.iter().any(|job| outcome(job).is_none() && !is_active(&cron, job)) {
            // The job may have come here before the status that tells of it.
            match self.client.namespaced::<CronJob>(&key.namespace).get(&key.name).await {
                Ok(live) if live.metadata.uid == cron.metadata.uid => cron = Arc::new(live),
                // Another one has its name: that will come here too.
                Ok(_) => return Ok(Next::Done),
                Err(error) if error.is_not_found() => return Ok(Next::Done),
                Err(error) => return Err(error),
            }
        }
        let mut status = cron.status.clone().unwrap_or_default();
        self.note(&cron, &jobs, &mut status);
        let old = plan_history(&cron, &jobs);
        for job in &old {
            self.delete(&cron, &key.namespace, job.metadata.name.as_deref().unwrap_or_default()).await?;
        }
        let idle = cron.metadata.deletion_timestamp.is_some() || cron.spec.suspend == Some(true);
        let next = if idle { Ok(Next::Done) } else { self.follow_schedule(key, &cron, &mut status).await };
        if cron.status.as_ref() != Some(&status) {
            let mut fresh = (*cron).clone();
            fresh.status = Some(status);
            pod_control::write_status(&self.client, &fresh).await?;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::Stage;

    #[test]
    fn jobs_are_named_after_their_minute() {
        let cron: CronJob = serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "x", "uid": "u"},
            "spec": {"schedule": "@hourly", "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}}}))
        .expect("a cron job");
        let at = "2024-01-01T01:00:00Z".parse().expect("a time");
        let job = plan_job(&cron, at, &TimeZone::UTC);
        assert_eq!(job.metadata.name.as_deref(), Some("c-28401180"));
        let annotations = job.metadata.annotations.expect("annotations");
        assert_eq!(annotations[SCHEDULED_AT], "2024-01-01T01:00:00Z");
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let local = plan_job(&cron, at, &zone).metadata.annotations.expect("annotations");
        assert_eq!(local[SCHEDULED_AT], "2024-01-01T03:00:00+02:00");
    }

    #[tokio::test]
    async fn a_job_is_no_surprise_whose_mention_is_yet_to_come() {
        let (seen, live) = (Stage::new(), Stage::new());
        let mut cron = json!({"apiVersion": "batch/v1", "kind": "CronJob",
            "metadata": {"name": "c", "namespace": "x", "uid": "c-uid", "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"schedule": "0 0 1 1 *", "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": {"template": {}}}}});
        seen.put(cron.clone());
        seen.put(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "c-1", "namespace": "x",
            "uid": "j-uid", "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "c",
            "uid": "c-uid", "controller": true}]}, "spec": {"template": {}}}));
        cron["status"] = json!({"lastScheduleTime": whole_seconds(time::now()),
            "active": [{"apiVersion": "batch/v1", "kind": "Job", "name": "c-1", "namespace": "x", "uid": "j-uid"}]});
        live.put(cron);
        let context = seen.context();
        let controller = CronJobs {
            client: Client::new(live.fake.clone()),
            events: context.events(CronJobs::NAME, "cronjob-controller"),
            crons: context.informers.lister::<CronJob>(),
            jobs: context.informers.lister::<Job>(),
        };
        controller.jobs.add_index(BY_CONTROLLER, owner::controller_uid::<Job>);
        controller.crons.synced().await;
        controller.jobs.synced().await;
        controller.reconcile(&ObjectKey::new("x", "c")).await.expect("there is nothing to do");
        let asked = live.fake.requests();
        assert!(asked.iter().all(|request| request.starts_with("GET ")), "{asked:?}");
        seen.end().await;
        live.end().await;
    }

    #[tokio::test]
    async fn makes_the_job_that_is_due() {
        let stage = Stage::new();
        stage.put(json!({"apiVersion": "batch/v1", "kind": "CronJob",
            "metadata": {"name": "c", "namespace": "x", "uid": "c-uid", "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": {}}}}}));
        super::start(&stage.context());
        let crons = "/apis/batch/v1/cronjobs";
        stage
            .until("a job and its mention", |fake| {
                fake.objects("/apis/batch/v1/jobs").len() == 1
                    && fake.objects(crons)[0]["status"]["active"].as_array().is_some_and(|active| active.len() == 1)
            })
            .await;
        let mut job = stage.fake.objects("/apis/batch/v1/jobs")[0].clone();
        assert_eq!(job["metadata"]["ownerReferences"][0]["uid"], "c-uid");
        job["status"] =
            json!({"completionTime": "2026-01-01T00:00:09Z", "conditions": [{"type": "Complete", "status": "True"}]});
        stage.put(job);
        stage
            .until("it is done", |fake| {
                let status = &fake.objects(crons)[0]["status"];
                status["lastSuccessfulTime"] == "2026-01-01T00:00:09Z" && status.get("active").is_none()
            })
            .await;
        stage.end().await;
    }
}
