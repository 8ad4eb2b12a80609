//! Keeps one pod on every node that should have one.

mod plan;
mod pods;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use skiff_api::ObjectKey;
use skiff_api::selector::LabelSelector;
use skiff_base::time;
use skiff_client::{Change, Client, EventKind, Lister, Next, Queue, Reconciler, Result};

use self::plan::{Place, Plan, Rules};
use self::pods::plan_pod;
use crate::history::{History, REVISION_LABEL, Revisions, Style, name_of};
use crate::pod_control::{self, PodControl};
use crate::{Context, drive, owner, pod};

const WORKERS: usize = 2;
/// Pods made or deleted in one go.
const BURST: usize = 250;
/// Pods that end on a node are made anew: after this, twice as long each time, up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(900);

pub fn start(context: &Context) {
    let sets = context.informers.lister::<DaemonSet>();
    let pods = context.informers.lister::<Pod>();
    let nodes = context.informers.lister::<Node>();
    pod_control::index(&pods);
    let queue = Queue::new(DaemonSets::NAME);
    let client = context.client(DaemonSets::NAME);
    let style = Style { hash_label: REVISION_LABEL };
    let controller = Arc::new(DaemonSets {
        control: PodControl::new(client.clone(), context.events(DaemonSets::NAME, "daemonset-controller")),
        history: History::new(client.clone(), context.informers.lister::<ControllerRevision>(), style),
        client,
        sets: sets.clone(),
        pods: pods.clone(),
        nodes: nodes.clone(),
        ended: Mutex::default(),
    });
    let (adding, seeing) = (queue.clone(), controller.clone());
    sets.subscribe(move |change| {
        let key = ObjectKey::of(&**change.object());
        if matches!(change, Change::Deleted(_)) {
            seeing.control.expectations.forget(&key);
        }
        adding.add(key);
    });
    let (adding, seeing) = (queue.clone(), controller.clone());
    pods.subscribe(move |change| {
        seeing.control.see::<DaemonSet>(change, &adding, |pod| seeing.adopters(pod));
    });
    let (adding, all) = (queue.clone(), sets.clone());
    nodes.subscribe(move |change| {
        if decides(change) {
            all.list().iter().for_each(|set| adding.add(ObjectKey::of(&**set)));
        }
    });
    let revisions = controller.clone();
    drive(context, controller, queue, WORKERS, async move {
        sets.synced().await;
        pods.synced().await;
        nodes.synced().await;
        revisions.history.synced().await;
    });
}

/// Whether a change of a node can change which sets have a pod there; most are heartbeats.
fn decides(change: &Change<Node>) -> bool {
    let Change::Modified { old, new } = change else { return true };
    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
    old.metadata.labels != new.metadata.labels || taints(old) != taints(new)
}

struct DaemonSets {
    client: Client,
    control: PodControl,
    history: History,
    sets: Lister<DaemonSet>,
    pods: Lister<Pod>,
    nodes: Lister<Node>,
    /// When a pod that ended on a node was last removed, and how long to wait for the next.
    ended: Mutex<HashMap<(ObjectKey, String), (Instant, Duration)>>,
}

fn selector_of(set: &DaemonSet) -> Option<LabelSelector> {
    let selector = LabelSelector::from_typed(Some(&set.spec.as_ref()?.selector)).ok()?;
    if selector.is_everything() { None } else { Some(selector) }
}

impl DaemonSets {
    fn adopters(&self, pod: &Pod) -> Vec<ObjectKey> {
        let Some(labels) = &pod.metadata.labels else { return Vec::new() };
        let sets = self.sets.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default());
        let matching = sets.iter().filter(|set| selector_of(set).is_some_and(|selector| selector.matches(labels)));
        matching.map(|set| ObjectKey::of(&**set)).collect()
    }

    /// Whether a pod that ended there may be removed now; else how long to wait.
    fn may_remove(&self, key: &ObjectKey, node: &str) -> std::result::Result<(), Duration> {
        let mut all = self.ended.lock().expect("nothing panics while it holds the map");
        all.retain(|_, (last, wait)| last.elapsed() < *wait * 2 + FIRST_WAIT);
        let entry = all.entry((key.clone(), node.to_owned()));
        let mut first = false;
        let (last, wait) = entry.or_insert_with(|| {
            first = true;
            (Instant::now(), FIRST_WAIT)
        });
        if !first {
            let left = wait.saturating_sub(last.elapsed());
            if !left.is_zero() {
                return Err(left);
            }
            (*last, *wait) = (Instant::now(), (*wait * 2).min(LONGEST_WAIT));
        }
        Ok(())
    }

    async fn manage(&self, key: &ObjectKey, set: &DaemonSet, hash: &str, plan: Plan) -> Result<Option<Duration>> {
        let mut wait: Option<Duration> = None;
        let mut delete = plan.delete;
        for (node, ended) in plan.ended {
            match self.may_remove(key, &node) {
                Err(left) => wait = Some(wait.map_or(left, |wait| wait.min(left))),
                Ok(()) => {
                    let (namespace, name) = (&key.namespace, ended.metadata.name.as_deref().unwrap_or_default());
                    let (kind, reason, what) = match pod::phase(&ended) {
                        "Failed" => (EventKind::Warning, "FailedDaemonPod", "failed"),
                        _ => (EventKind::Normal, "SucceededDaemonPod", "succeeded"),
                    };
                    let message = match what {
                        "failed" => {
                            format!("Found failed daemon pod {namespace}/{name} on node {node}, will try to kill it")
                        }
                        _ => format!(
                            "Found succeeded daemon pod {namespace}/{name} on node {node}, will try to delete it"
                        ),
                    };
                    self.control.tell(set, kind, reason, message);
                    delete.push(ended);
                }
            }
        }
        delete.truncate(BURST);
        let mut create = plan.create;
        create.truncate(BURST);
        if create.is_empty() && delete.is_empty() {
            return Ok(wait);
        }
        let uids = delete.iter().filter_map(|pod| pod.metadata.uid.clone());
        self.control.expectations.expect(key, create.len(), uids);
        let wanted = create.iter().map(|node| plan_pod(set, hash, node)).collect();
        let (_, failed) = self.control.create(key, set, wanted).await;
        let delete_failed = self.control.delete(key, set, delete).await;
        match failed.or(delete_failed) {
            Some(error) => Err(error),
            None => Ok(wait),
        }
    }

    async fn finish(
        &self,
        set: &DaemonSet,
        places: &[Place],
        rules: &Rules<'_>,
        revisions: &Revisions,
    ) -> Result<Option<Duration>> {
        let (status, wait) = plan::plan_status(set, places, rules, revisions.collisions);
        if set.status.as_ref() != Some(&status) {
            let mut fresh = set.clone();
            fresh.status = Some(status);
            pod_control::write_status(&self.client, &fresh).await?;
        }
        Ok(wait)
    }
}

/// The hash of a revision, from its label.
fn hash_of(revision: &ControllerRevision) -> &str {
    revision.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_LABEL)).map_or("", String::as_str)
}

impl Reconciler for DaemonSets {
    const NAME: &'static str = "daemon-set-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let settled = self.control.expectations.are_met(key);
        let Some(set) = self.sets.get(key) else {
            self.control.expectations.forget(key);
            return Ok(Next::Done);
        };
        let (Some(spec), Some(selector)) = (&set.spec, selector_of(&set)) else { return Ok(Next::Done) };
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let revisions = self.history.ensure(&*set, &selector, &spec.template, collisions).await?;
        let candidates = pod_control::candidates(&self.pods, &*set);
        let pods = owner::claim(&self.client, &*set, &selector, candidates).await?;
        let strategy = spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let rules = Rules {
            hash: hash_of(&revisions.update),
            min_ready_s: spec.min_ready_seconds.unwrap_or(0),
            rolling: strategy.is_some_and(|s| s.type_.as_deref() == Some("RollingUpdate")),
            max_unavailable: rolling.and_then(|r| r.max_unavailable.as_ref()),
            max_surge: rolling.and_then(|r| r.max_surge.as_ref()),
            now: time::now(),
        };
        let places = plan::places(&set, &self.nodes.list(), &pods);
        let mut wait = None;
        if settled {
            wait = self.manage(key, &set, rules.hash, plan::plan(&places, &rules)).await?;
            let in_use =
                |revision: &&Arc<ControllerRevision>| pods.iter().any(|p| pods::is_updated(p, hash_of(revision)));
            let mut live: Vec<&str> = revisions.all.iter().filter(in_use).map(|revision| name_of(revision)).collect();
            live.push(name_of(&revisions.update));
            self.history.truncate(&revisions, &live, spec.revision_history_limit.unwrap_or(10)).await?;
        }
        let later = self.finish(&set, &places, &rules, &revisions).await?;
        let next = wait.into_iter().chain(later).min();
        Ok(next.map_or(Next::Done, |wait| Next::After(wait + Duration::from_millis(10))))
    }
}
