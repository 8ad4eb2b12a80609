//! Removes jobs that ended, when their time to live is over.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use skiff_api::ObjectKey;
use skiff_base::time;
use skiff_client::{Client, DeleteOptions, Lister, Next, Queue, Reconciler, Result};

use crate::{Context, drive};

pub fn start(context: &Context) {
    let jobs = context.informers.lister::<Job>();
    let queue = Queue::new(TtlAfterFinished::NAME);
    let adding = queue.clone();
    jobs.subscribe(move |change| {
        let job = change.object();
        if job.spec.as_ref().is_some_and(|spec| spec.ttl_seconds_after_finished.is_some()) {
            adding.add(ObjectKey::of(&**job));
        }
    });
    let controller = Arc::new(TtlAfterFinished { client: context.client(TtlAfterFinished::NAME), jobs: jobs.clone() });
    drive(context, controller, queue, 1, async move { jobs.synced().await });
}

struct TtlAfterFinished {
    client: Client,
    jobs: Lister<Job>,
}

/// How long the job stays; `None`: it has not ended, or stays for good.
fn plan_stay(job: &Job, now: Timestamp) -> Option<Duration> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ended = conditions.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    let end = ended.last_transition_time.as_ref()?.0 + SignedDuration::from_secs(ttl.into());
    Some(Duration::try_from(end.duration_since(now)).unwrap_or_default())
}

impl Reconciler for TtlAfterFinished {
    const NAME: &'static str = "ttl-after-finished-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(job) = self.jobs.get(key) else { return Ok(Next::Done) };
        match plan_stay(&job, time::now()) {
            None => Ok(Next::Done),
            Some(stay) if !stay.is_zero() => Ok(Next::After(stay + Duration::from_millis(10))),
            Some(_) => {
                let options = DeleteOptions {
                    uid: job.metadata.uid.clone(),
                    propagation: Some("Foreground"),
                    ..DeleteOptions::default()
                };
                match self.client.namespaced::<Job>(&key.namespace).delete(&key.name, &options).await {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
                    _ => Ok(Next::Done),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn how_long_jobs_stay() {
        let now = "2024-01-01T00:00:10Z".parse().expect("a time");
        let ended = json!([{"type": "Complete", "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z"}]);
        for (ttl, conditions, expect) in [
            (json!(30), ended.clone(), Some(20)),
            (json!(5), ended.clone(), Some(0)),
            (Value::Null, ended, None),
            (json!(5), json!([{"type": "Suspended", "status": "True"}]), None),
        ] {
            let job = json!({"metadata": {}, "spec": {"template": {}, "ttlSecondsAfterFinished": ttl}, "status": {"conditions": conditions}});
            let job: Job = serde_json::from_value(job).expect("a job");
            assert_eq!(plan_stay(&job, now), expect.map(Duration::from_secs), "{ttl}");
        }
    }
}
