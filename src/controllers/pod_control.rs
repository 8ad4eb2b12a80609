//! Making and deleting pods for an owner: in parallel, with expectations and events.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use serde::de::DeserializeOwned;
use skiff_api::ObjectKey;
use skiff_base::chain;
use skiff_client::{Change, Client, DeleteOptions, Error, EventKind, EventRecorder, Lister, Queue, Result};

use crate::expectations::Expectations;
use crate::owner;
use crate::service_account::is_closing;

/// Requests for one key that are under way at once.
const REQUESTS: usize = 32;
/// Objects by the uid of their controller.
pub const BY_CONTROLLER: &str = "controller-uid";
/// Objects without a controller by namespace.
pub const ORPHANS: &str = "orphans";

/// An object that owns others or is owned.
pub trait Owner: Resource + Metadata<Ty = ObjectMeta> + Send + Sync + 'static {}

impl<K: Resource + Metadata<Ty = ObjectMeta> + Send + Sync + 'static> Owner for K {}

/// Adds the indexes by which a controller finds what is its own.
pub fn index<K: Owner + DeserializeOwned>(objects: &Lister<K>) {
    objects.add_index(BY_CONTROLLER, owner::controller_uid::<K>);
    objects.add_index(ORPHANS, owner::orphan_namespace::<K>);
}

/// The objects that carry the owner's reference, and those of its namespace that are nobody's.
pub fn candidates<K: Owner + DeserializeOwned, O: Owner>(objects: &Lister<K>, owner: &O) -> Vec<Arc<K>> {
    let meta = owner.metadata();
    let mut all = objects.indexed(BY_CONTROLLER, meta.uid.as_deref().unwrap_or_default());
    all.extend(objects.indexed(ORPHANS, meta.namespace.as_deref().unwrap_or_default()));
    all
}

/// The owner of this kind that controls an object.
pub fn key_of<O: Owner>(meta: &ObjectMeta) -> Option<ObjectKey> {
    let reference = owner::controller(meta)?;
    (reference.kind == O::KIND && reference.api_version == O::API_VERSION)
        .then(|| ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), &reference.name))
}

/// A pod from an owner's template, without a name.
pub fn plan_pod<O: Owner>(owner: &O, template: &PodTemplateSpec) -> Pod {
    let PodTemplateSpec { metadata, spec } = template.clone();
    let template = metadata.unwrap_or_default();
    let meta = owner.metadata();
    Pod {
        metadata: ObjectMeta {
            namespace: meta.namespace.clone(),
            labels: template.labels,
            annotations: template.annotations,
            finalizers: template.finalizers,
            owner_references: Some(vec![owner::reference_to(owner)]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

pub struct PodControl {
    client: Client,
    events: EventRecorder,
    pub expectations: Expectations,
}

/// The sizes of the batches in which pods are made: 1, 2, 4 ... so that a refusal (a quota, say) costs a
/// few requests and not five hundred.
fn slow_start(count: usize) -> impl Iterator<Item = usize> {
    let (mut left, mut next) = (count, 1);
    std::iter::from_fn(move || {
        let batch = left.min(next);
        left -= batch;
        next *= 2;
        (batch > 0).then_some(batch)
    })
}

impl PodControl {
    pub fn new(client: Client, events: EventRecorder) -> Self {
        Self { client, events, expectations: Expectations::default() }
    }

    pub fn tell<O: Owner>(&self, owner: &O, kind: EventKind, reason: &str, message: impl Into<String>) {
        self.events.record(EventRecorder::reference(owner), kind, reason, message.into());
    }

    /// Takes note of a change of a pod, and wakes its owner, the one before, or those that may adopt it.
    pub fn see<O: Owner>(
        &self,
        change: &Change<Pod>,
        queue: &Queue<ObjectKey>,
        adopters: impl FnOnce(&Pod) -> Vec<ObjectKey>,
    ) {
        let pod = change.object();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let key = key_of::<O>(&pod.metadata);
        match change {
            Change::Added(_) => {
                if let Some(key) = &key {
                    self.expectations.created(key);
                }
            }
            Change::Modified { old, .. } => {
                let before = key_of::<O>(&old.metadata);
                if before != key
                    && let Some(before) = before
                {
                    queue.add(before);
                }
            }
            Change::Deleted(_) => {}
        }
        let going = pod.metadata.deletion_timestamp.is_some() || matches!(change, Change::Deleted(_));
        if going && let Some(key) = &key {
            self.expectations.deleted(key, uid);
        }
        match key {
            Some(key) => queue.add(key),
            None if owner::controller(&pod.metadata).is_none() && !going => {
                adopters(pod).into_iter().for_each(|key| queue.add(key));
            }
            None => {}
        }
    }

    /// Makes pods; how many were made, and why it ended early. Their creation must be expected already.
    pub async fn create<O: Owner>(&self, key: &ObjectKey, owner: &O, wanted: Vec<Pod>) -> (usize, Option<Error>) {
        let pods = self.client.namespaced::<Pod>(&key.namespace);
        let (mut made, mut failed) = (0, None);
        let mut left = wanted.len();
        let mut waiting = wanted.iter();
        for batch in slow_start(left) {
            let mut open = batch;
            let mut under_way = FuturesUnordered::new();
            while open > 0 || !under_way.is_empty() {
                while open > 0 && under_way.len() < REQUESTS {
                    open -= 1;
                    under_way.extend(waiting.next().map(|pod| pods.create(pod)));
                }
                let Some(outcome) = under_way.next().await else { break };
                left -= 1;
                match outcome {
                    Ok(created) => {
                        made += 1;
                        let name = created.metadata.name.unwrap_or_default();
                        self.tell(owner, EventKind::Normal, "SuccessfulCreate", format!("Created pod: {name}"));
                    }
                    Err(error) => {
                        self.expectations.created(key);
                        failed = Some(error);
                    }
                }
            }
            if failed.is_some() {
                break;
            }
        }
        // Those that were not tried any more will not be seen.
        (0..left).for_each(|_| self.expectations.created(key));
        (made, self.failure(owner, failed, "FailedCreate", "Error creating"))
    }

    /// Deletes pods. Their deletion must be expected already.
    pub async fn delete<O: Owner>(&self, key: &ObjectKey, owner: &O, victims: Vec<Arc<Pod>>) -> Option<Error> {
        let pods = &self.client.namespaced::<Pod>(&key.namespace);
        let outcomes = futures::stream::iter(victims)
            .map(|pod| async move {
                let name = pod.metadata.name.clone().unwrap_or_default();
                let options = DeleteOptions { uid: pod.metadata.uid.clone(), ..DeleteOptions::default() };
                (pod, pods.delete(&name, &options).await)
            })
            .buffer_unordered(REQUESTS)
            .collect::<Vec<_>>()
            .await;
        let mut failed = None;
        for (pod, outcome) in outcomes {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            match outcome {
                Ok(()) => self.tell(owner, EventKind::Normal, "SuccessfulDelete", format!("Deleted pod: {name}")),
                Err(error) => {
                    self.expectations.deleted(key, pod.metadata.uid.as_deref().unwrap_or_default());
                    // Gone, or another pod has its name: either way it is no longer ours.
                    if !error.is_not_found() && !error.is_conflict() {
                        failed = Some(error);
                    }
                }
            }
        }
        self.failure(owner, failed, "FailedDelete", "Error deleting")
    }

    /// Tells of a failure, unless nothing can be made because the namespace is going, or gone.
    fn failure<O: Owner>(&self, owner: &O, failed: Option<Error>, reason: &str, what: &str) -> Option<Error> {
        let error = failed.filter(|error| !is_closing(error) && !error.is_not_found())?;
        self.tell(owner, EventKind::Warning, reason, format!("{what}: {}", chain(&error)));
        Some(error)
    }
}

/// Writes a status; an owner that is gone needs none.
pub async fn write_status<O>(client: &Client, owner: &O) -> Result<()>
where
    O: Owner + serde::Serialize + serde::de::DeserializeOwned,
{
    match client.all::<O>().update_status(owner).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_grow() {
        assert_eq!(slow_start(10).collect::<Vec<_>>(), [1, 2, 4, 3]);
        assert_eq!(slow_start(0).count(), 0);
    }
}
