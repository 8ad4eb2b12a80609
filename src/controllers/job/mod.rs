//! Runs pods until enough of them have succeeded.

mod backoff;
mod facts;
mod plan;
mod policy;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::Resource as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use serde_json::json;
use skiff_api::ObjectKey;
use skiff_api::selector::LabelSelector;
use skiff_base::time;
use skiff_client::{Change, Client, Lister, Next, PatchKind, Queue, Reconciler, Result};

use self::facts::{FAILURES, FINALIZER, INDEX, is_finished, is_tracked};
use self::plan::Plan;
use crate::pod_control::{self, PodControl};
use crate::{Context, drive, owner};

const WORKERS: usize = 5;
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// The jobs that this controller runs; others have controllers of their own.
const MANAGED_BY: &str = "kubernetes.io/job-controller";

pub fn start(context: &Context) {
    let jobs = context.informers.lister::<Job>();
    let pods = context.informers.lister::<Pod>();
    pod_control::index(&pods);
    let queue = Queue::new(Jobs::NAME);
    let controller = Arc::new(Jobs {
        client: context.client(Jobs::NAME),
        control: PodControl::new(context.client(Jobs::NAME), context.events(Jobs::NAME, "job-controller")),
        jobs: jobs.clone(),
        pods: pods.clone(),
        written: Mutex::default(),
    });
    let (adding, seeing) = (queue.clone(), controller.clone());
    jobs.subscribe(move |change| {
        let key = ObjectKey::of(&**change.object());
        if matches!(change, Change::Deleted(_)) {
            seeing.forget(&key);
        }
        adding.add(key);
    });
    let (adding, seeing) = (queue.clone(), controller.clone());
    pods.subscribe(move |change| {
        seeing.control.see::<Job>(change, &adding, |pod| seeing.adopters(pod));
        if let Change::Added(pod) | Change::Modified { new: pod, .. } = change {
            seeing.see_orphan(pod, &adding);
        }
    });
    drive(context, controller, queue, WORKERS, async move {
        jobs.synced().await;
        pods.synced().await;
    });
}

struct Jobs {
    client: Client,
    control: PodControl,
    jobs: Lister<Job>,
    pods: Lister<Pod>,
    /// The revision of the status that was written last: what is older must not be planned from, since pods that were
    /// named there and have lost their finalizer would be forgotten.
    written: Mutex<HashMap<ObjectKey, u64>>,
}

fn revision(job: &Job) -> u64 {
    job.metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn selector_of(job: &Job) -> Option<LabelSelector> {
    let selector = LabelSelector::from_typed(job.spec.as_ref()?.selector.as_ref()).ok()?;
    if selector.is_everything() { None } else { Some(selector) }
}

impl Jobs {
    fn forget(&self, key: &ObjectKey) {
        self.control.expectations.forget(key);
        self.written.lock().expect("nothing panics while it holds the map").remove(key);
    }

    fn is_stale(&self, key: &ObjectKey, job: &Job) -> bool {
        let written = self.written.lock().expect("nothing panics while it holds the map");
        written.get(key).is_some_and(|written| revision(job) < *written)
    }

    fn adopters(&self, pod: &Pod) -> Vec<ObjectKey> {
        let Some(labels) = &pod.metadata.labels else { return Vec::new() };
        let jobs = self.jobs.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default());
        let matching = jobs.iter().filter(|job| selector_of(job).is_some_and(|selector| selector.matches(labels)));
        matching.map(|job| ObjectKey::of(&**job)).collect()
    }

    /// A pod whose job is gone would be held by its finalizer for ever.
    fn see_orphan(&self, pod: &Pod, queue: &Queue<ObjectKey>) {
        if is_tracked(pod) && owner::controller(&pod.metadata).is_none_or(|reference| reference.kind != Job::KIND) {
            // The key of the pod, told from a job's by its namespace.
            queue.add(orphan_key(pod));
        }
    }

    async fn release(&self, pod: &Pod) -> Result<()> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let pods = self.client.namespaced::<Pod>(pod.metadata.namespace.as_deref().unwrap_or_default());
        let patch = json!({"metadata": {"uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        match pods.patch(name, PatchKind::Strategic, &patch).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }

    /// The pods of a job that is gone, or finished, are let go.
    async fn release_all(&self, key: &ObjectKey) -> Result<()> {
        for pod in self.pods.in_namespace(&key.namespace).iter().filter(|pod| is_tracked(pod)) {
            if pod_control::key_of::<Job>(&pod.metadata).as_ref() == Some(key) {
                self.release(pod).await?;
            }
        }
        Ok(())
    }

    async fn carry_out(&self, key: &ObjectKey, job: &Job, plan: Plan) -> Result<Next> {
        let uids = plan.delete.iter().filter_map(|pod| pod.metadata.uid.clone());
        let mut status = plan.status;
        let mut failed = None;
        if !plan.create.is_empty() || !plan.delete.is_empty() {
            self.control.expectations.expect(key, plan.create.len(), uids);
            let wanted: Vec<Pod> =
                plan.create.iter().map(|(index, failures)| plan_pod(job, *index, *failures)).collect();
            let count = wanted.len();
            let (made, create_error) = self.control.create(key, job, wanted).await;
            let delete_error = self.control.delete(key, job, plan.delete).await;
            let short = i32::try_from(count - made).unwrap_or(i32::MAX);
            status.active = status.active.map(|active| active - short).filter(|active| *active > 0);
            failed = create_error.or(delete_error);
        }
        if job.status.as_ref() != Some(&status) {
            let mut fresh = job.clone();
            fresh.status = Some(status);
            match self.client.all::<Job>().update_status(&fresh).await {
                Ok(written) => {
                    let mut all = self.written.lock().expect("nothing panics while it holds the map");
                    all.insert(key.clone(), revision(&written));
                }
                Err(error) if error.is_not_found() => return Ok(Next::Done),
                Err(error) => return Err(error),
            }
        }
        for (kind, reason, message) in plan.events {
            self.control.tell(job, kind, reason, message);
        }
        for pod in &plan.release {
            self.release(pod).await?;
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(plan.wait.map_or(Next::Done, |wait| Next::After(wait + Duration::from_millis(10)))),
        }
    }
}

/// Pods that no job controls share the queue: a slash, which no namespace has, tells them apart.
fn orphan_key(pod: &Pod) -> ObjectKey {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    ObjectKey::new(&format!("{namespace}/"), pod.metadata.name.as_deref().unwrap_or_default())
}

impl Reconciler for Jobs {
    const NAME: &'static str = "job-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        if let Some(namespace) = key.namespace.strip_suffix('/') {
            if let Some(pod) = self.pods.get(&ObjectKey::new(namespace, &key.name)) {
                self.release(&pod).await?;
            }
            return Ok(Next::Done);
        }
        let settled = self.control.expectations.are_met(key);
        let Some(job) = self.jobs.get(key) else {
            self.forget(key);
            self.release_all(key).await?;
            return Ok(Next::Done);
        };
        let managed_by = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
        if managed_by.is_some_and(|manager| manager != MANAGED_BY) || self.is_stale(key, &job) {
            return Ok(Next::Done);
        }
        if is_finished(&job) {
            self.release_all(key).await?;
            return Ok(Next::Done);
        }
        let Some(selector) = selector_of(&job) else { return Ok(Next::Done) };
        let candidates = pod_control::candidates(&self.pods, &*job);
        let pods = owner::claim(&self.client, &*job, &selector, candidates).await?;
        let plan = plan::plan(&job, &pods, settled, time::now());
        self.carry_out(key, &job, plan).await
    }
}

/// A pod of the job; `index` where the job has indexes, with how often it failed before.
fn plan_pod(job: &Job, index: Option<i32>, failures: i32) -> Pod {
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = pod_control::plan_pod(job, &template);
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
    pod.metadata.generate_name = Some(format!("{name}-"));
    let Some(index) = index else { return pod };
    pod.metadata.generate_name = Some(format!("{name}-{index}-"));
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if job.spec.as_ref().is_some_and(|spec| spec.backoff_limit_per_index.is_some()) {
        annotations.insert(FAILURES.to_owned(), failures.to_string());
    }
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    if let Some(spec) = &mut pod.spec {
        spec.hostname.get_or_insert_with(|| format!("{name}-{index}"));
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            with_index(container);
        }
    }
    pod
}

/// The container is told its index, unless it says something of that name itself.
fn with_index(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    let from = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    env.push(EnvVar { name: INDEX_VARIABLE.to_owned(), value: None, value_from: Some(from) });
}
