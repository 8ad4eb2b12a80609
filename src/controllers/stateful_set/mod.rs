//! Keeps pods with numbers: made in order, each with its own name and claims, replaced in the reverse order.

mod plan;
mod pods;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use skiff_api::ObjectKey;
use skiff_api::selector::LabelSelector;
use skiff_base::{chain, time};
use skiff_client::{
    Change, Client, DeleteOptions, Error, EventKind, EventRecorder, Lister, Next, Queue, Reconciler, Result,
};

use self::plan::{Observed, Step};
use crate::history::{History, Revisions, Style, name_of, template_of};
use crate::service_account::is_closing;
use crate::{Context, drive, owner, pod, pod_control};

const WORKERS: usize = 5;

pub fn start(context: &Context) {
    let sets = context.informers.lister::<StatefulSet>();
    let pods = context.informers.lister::<Pod>();
    let claims = context.informers.lister::<PersistentVolumeClaim>();
    pod_control::index(&pods);
    let queue = Queue::new(StatefulSets::NAME);
    let client = context.client(StatefulSets::NAME);
    let style = Style { hash_label: "controller.kubernetes.io/hash" };
    let controller = Arc::new(StatefulSets {
        events: context.events(StatefulSets::NAME, "statefulset-controller"),
        history: History::new(client.clone(), context.informers.lister::<ControllerRevision>(), style),
        client,
        sets: sets.clone(),
        pods: pods.clone(),
        claims: claims.clone(),
    });
    let adding = queue.clone();
    sets.subscribe(move |change| adding.add(ObjectKey::of(&**change.object())));
    let (adding, all) = (queue.clone(), sets.clone());
    pods.subscribe(move |change| {
        let meta = &change.object().metadata;
        if let Some(key) = pod_control::key_of::<StatefulSet>(meta) {
            adding.add(key);
        } else if owner::controller(meta).is_none()
            && let Some(labels) = &meta.labels
        {
            let sets = all.in_namespace(meta.namespace.as_deref().unwrap_or_default());
            let matching = sets.iter().filter(|set| selector_of(set).is_some_and(|s| s.matches(labels)));
            matching.for_each(|set| adding.add(ObjectKey::of(&**set)));
        }
    });
    let (adding, all) = (queue.clone(), sets.clone());
    claims.subscribe(move |change| {
        // A pod may wait for its end, or for another in its place.
        let Change::Deleted(claim) = change else { return };
        let sets = all.in_namespace(claim.metadata.namespace.as_deref().unwrap_or_default());
        sets.iter().filter(|set| pods::has_claims(set)).for_each(|set| adding.add(ObjectKey::of(&**set)));
    });
    let revisions = controller.clone();
    drive(context, controller, queue, WORKERS, async move {
        sets.synced().await;
        pods.synced().await;
        claims.synced().await;
        revisions.history.synced().await;
    });
}

struct StatefulSets {
    client: Client,
    events: EventRecorder,
    history: History,
    sets: Lister<StatefulSet>,
    pods: Lister<Pod>,
    claims: Lister<PersistentVolumeClaim>,
}

fn selector_of(set: &StatefulSet) -> Option<LabelSelector> {
    let selector = LabelSelector::from_typed(Some(&set.spec.as_ref()?.selector)).ok()?;
    if selector.is_everything() { None } else { Some(selector) }
}

impl StatefulSets {
    /// Tells how an attempt on an object of the set ended.
    fn tell<T>(&self, set: &StatefulSet, verb: &str, what: &str, outcome: &Result<T>) {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let capital = match verb {
            "create" => "Create",
            "update" => "Update",
            _ => "Delete",
        };
        let reference = EventRecorder::reference(set);
        match outcome {
            Ok(_) => {
                let message = format!("{verb} {what} in StatefulSet {name} successful");
                self.events.record(reference, EventKind::Normal, &format!("Successful{capital}"), message);
            }
            Err(error) if is_closing(error) => {}
            Err(error) => {
                let message = format!("{verb} {what} in StatefulSet {name} failed error: {}", chain(error));
                self.events.record(reference, EventKind::Warning, &format!("Failed{capital}"), message);
            }
        }
    }

    async fn create(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        revisions: &Revisions,
        revision: &ControllerRevision,
        ordinal: i32,
    ) -> Result<()> {
        let template = template_of(revision).or_else(|| template_of(&revisions.update)).unwrap_or_default();
        let pod = pods::plan_pod(set, &template, name_of(revision), ordinal);
        let pod_name = pod.metadata.name.clone().unwrap_or_default();
        if self.goes_first(key, set, &pod_name, ordinal) {
            return Ok(());
        }
        let outcome = match self.make_claims(key, set, &pod_name, ordinal).await? {
            Some(going) => Err(Error::Config(format!("pvc {going} is being deleted"))),
            None => self.client.namespaced::<Pod>(&key.namespace).create(&pod).await,
        };
        if outcome.as_ref().is_err_and(Error::is_already_exists) {
            // Made before, and not seen yet; or somebody else's, whose end is waited for.
            return outcome.map(drop);
        }
        self.tell(set, "create", &format!("Pod {pod_name}"), &outcome);
        match outcome {
            Err(error) if is_closing(&error) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Whether a claim goes with the pod that had this name before: the next one comes when it has gone.
    fn goes_first(&self, key: &ObjectKey, set: &StatefulSet, pod_name: &str, ordinal: i32) -> bool {
        let claim = |name: String| self.claims.get(&ObjectKey::new(&key.namespace, &name));
        pods::goes_with_pod(set)
            && pods::claim_names(set, ordinal)
                .filter_map(claim)
                .any(|claim| pods::is_stale::<Pod>(&claim, pod_name, ""))
    }

    /// Makes a pod that was taken over what the set's own are.
    async fn repair(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> Result<()> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let Some(ordinal) = pods::ordinal_of(set, pod) else { return Ok(()) };
        let outcome = match self.make_claims(key, set, name, ordinal).await? {
            Some(going) => Err(Error::Config(format!("pvc {going} is being deleted"))),
            None => self.client.namespaced::<Pod>(&key.namespace).update(pod).await.map(drop),
        };
        if !outcome.as_ref().is_err_and(Error::is_conflict) {
            self.tell(set, "update", &format!("Pod {name}"), &outcome);
        }
        outcome
    }

    /// Makes the claims of a pod that are not there; the name of one that is, but is being deleted.
    async fn make_claims(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        pod_name: &str,
        ordinal: i32,
    ) -> Result<Option<String>> {
        let mut going = None;
        for claim in pods::plan_claims(set, ordinal) {
            let name = claim.metadata.name.clone().unwrap_or_default();
            if let Some(existing) = self.claims.get(&ObjectKey::new(&key.namespace, &name)) {
                going = existing.metadata.deletion_timestamp.is_some().then_some(name).or(going);
                continue;
            }
            let outcome = self.client.namespaced::<PersistentVolumeClaim>(&key.namespace).create(&claim).await;
            if outcome.as_ref().is_err_and(Error::is_already_exists) {
                continue;
            }
            self.tell(set, "create", &format!("Claim {name} Pod {pod_name}"), &outcome);
            outcome?;
        }
        Ok(going)
    }

    /// A pod whose claim was deleted before it got to a node would wait for it for ever.
    async fn replace_claims(&self, key: &ObjectKey, set: &StatefulSet, pods: &[Arc<Pod>]) -> Result<()> {
        for pod in pods.iter().filter(|pod| pod::phase(pod) == "Pending") {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            if let Some(ordinal) = pods::ordinal_of(set, pod).filter(|ordinal| plan::is_wanted(set, *ordinal)) {
                // One that is still going is replaced when it has gone.
                self.make_claims(key, set, name, ordinal).await?;
            }
        }
        Ok(())
    }

    /// Gives the claims of the pods that are wanted, or of the others, to whom they are to go with.
    async fn own_claims(&self, set: &StatefulSet, pods: &[Arc<Pod>], wanted: bool) -> Result<()> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        for pod in pods {
            let Some(ordinal) = pods::ordinal_of(set, pod) else { continue };
            if plan::is_wanted(set, ordinal) != wanted {
                continue;
            }
            for name in pods::claim_names(set, ordinal) {
                let Some(claim) = self.claims.get(&ObjectKey::new(namespace, &name)) else { continue };
                let changed = pods::plan_owners(set, &claim, pod, !wanted);
                if (changed.is_some() || pod::phase(pod) == "Pending") && pods::is_anothers(set, &claim, pod) {
                    let message = format!(
                        "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim"
                    );
                    let reference = EventRecorder::reference(set);
                    self.events.record(reference, EventKind::Warning, "ConflictingController", message);
                }
                if let Some(changed) = changed {
                    self.client.namespaced::<PersistentVolumeClaim>(namespace).update(&changed).await?;
                }
            }
        }
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> Result<()> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let options = DeleteOptions { uid: pod.metadata.uid.clone(), ..DeleteOptions::default() };
        let outcome = self.client.namespaced::<Pod>(&key.namespace).delete(name, &options).await;
        // Gone, or another pod has its name: either way it is no longer ours.
        if outcome.as_ref().is_err_and(|error| error.is_not_found() || error.is_conflict()) {
            return Ok(());
        }
        self.tell(set, "delete", &format!("Pod {name}"), &outcome);
        outcome
    }

    async fn write_status(&self, observed: &Observed<'_>, collisions: i32) -> Result<()> {
        let status = plan::plan_status(observed, collisions);
        if observed.set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut fresh = observed.set.clone();
        fresh.status = Some(status);
        pod_control::write_status(&self.client, &fresh).await
    }
}

impl Reconciler for StatefulSets {
    const NAME: &'static str = "statefulset-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(set) = self.sets.get(key) else { return Ok(Next::Done) };
        let (Some(spec), Some(selector)) = (&set.spec, selector_of(&set)) else { return Ok(Next::Done) };
        let candidates = pod_control::candidates(&self.pods, &*set);
        // Only pods with one of its names can be its own.
        let named = candidates.into_iter().filter(|pod| pods::ordinal_of(&set, pod).is_some()).collect();
        let pods = owner::claim(&self.client, &*set, &selector, named).await?;
        let status = set.status.clone().unwrap_or_default();
        let collisions = status.collision_count.unwrap_or(0);
        let revisions = self.history.ensure(&*set, &selector, &spec.template, collisions).await?;
        let by_name = |name: &str| revisions.all.iter().find(|revision| name_of(revision) == name).cloned();
        let current = status.current_revision.as_deref().and_then(by_name).unwrap_or_else(|| revisions.update.clone());
        let observed = Observed {
            set: &set,
            pods: &pods,
            current: name_of(&current),
            update: name_of(&revisions.update),
            now: time::now(),
        };
        self.write_status(&observed, revisions.collisions).await?;
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        self.own_claims(&set, &pods, true).await?;
        self.replace_claims(key, &set, &pods).await?;
        let plan = plan::plan(&observed);
        if plan.scales_down {
            // Before the pods go: their claims go with them.
            self.own_claims(&set, &pods, false).await?;
        }
        for step in plan.steps {
            match step {
                Step::Create { ordinal, updated } => {
                    let revision = if updated { &revisions.update } else { &current };
                    self.create(key, &set, &revisions, revision, ordinal).await?;
                }
                Step::Delete(pod) => self.delete(key, &set, &pod).await?,
                Step::Repair(pod) => self.repair(key, &set, &pod).await?,
            }
        }
        let mut live: Vec<&str> = pods.iter().map(|pod| pods::revision_of(pod)).collect();
        live.extend([observed.current, observed.update]);
        self.history.truncate(&revisions, &live, spec.revision_history_limit.unwrap_or(10)).await?;
        Ok(plan.wait.map_or(Next::Done, |wait| Next::After(wait + Duration::from_millis(10))))
    }
}
