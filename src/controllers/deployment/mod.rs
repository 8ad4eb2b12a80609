//! Moves a Deployment's pods from one template to the next, by way of replica sets.
//!
//! `spec` reads deployments and replica sets; `hash` names sets; `revision` says what a set is told;
//! `plan` says how big which set becomes; `status` says how it goes; `sync` does it.

pub mod hash;
mod plan;
mod revision;
mod spec;
mod status;
mod sync;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::ObjectKey;
use skiff_api::selector::LabelSelector;
use skiff_client::{Change, Queue, Reconciler};

use self::sync::Deployments;
use crate::pod_control::BY_CONTROLLER;
use crate::{Context, drive, owner, pod_control};

/// Keys that are worked on at once.
const WORKERS: usize = 5;

pub fn start(context: &Context) {
    let deployments = context.informers.lister::<Deployment>();
    let sets = context.informers.lister::<ReplicaSet>();
    let pods = context.informers.lister::<Pod>();
    pod_control::index(&sets);
    pods.add_index(BY_CONTROLLER, owner::controller_uid::<Pod>);
    let queue = Queue::new(Deployments::NAME);
    let adding = queue.clone();
    deployments.subscribe(move |change| adding.add(ObjectKey::of(&**change.object())));
    let (adding, all) = (queue.clone(), deployments.clone());
    sets.subscribe(move |change| {
        let set = change.object();
        if let Change::Modified { old, new } = change
            && owner::controller_uid(&**old) != owner::controller_uid(&**new)
            && let Some(key) = key_of(&old.metadata)
        {
            adding.add(key);
        }
        if let Some(key) = key_of(&set.metadata) {
            return adding.add(key);
        }
        if owner::controller(&set.metadata).is_none() && !matches!(change, Change::Deleted(_)) {
            let Some(labels) = &set.metadata.labels else { return };
            for deployment in all.in_namespace(set.metadata.namespace.as_deref().unwrap_or_default()) {
                if selector(&deployment).is_some_and(|selector| selector.matches(labels)) {
                    adding.add(ObjectKey::of(&*deployment));
                }
            }
        }
    });
    // `Recreate` goes on when the last old pod is gone; anything else shows in the replica sets.
    let (adding, all, owners) = (queue.clone(), deployments.clone(), sets.clone());
    pods.subscribe(move |change| {
        let (Change::Deleted(pod) | Change::Modified { new: pod, .. }) = change else { return };
        if matches!(change, Change::Modified { .. }) && !crate::pod::is_over(pod) {
            return;
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let set = owner::controller(&pod.metadata).filter(|reference| reference.kind == "ReplicaSet");
        let set = set.and_then(|reference| owners.get(&ObjectKey::new(namespace, &reference.name)));
        if let Some(key) = set.and_then(|set| key_of(&set.metadata))
            && all.get(&key).is_some_and(|deployment| spec::is_recreate(&deployment))
        {
            adding.add(key);
        }
    });
    let controller = Arc::new(Deployments {
        client: context.client(Deployments::NAME),
        events: context.events(Deployments::NAME, Deployments::NAME),
        deployments: deployments.clone(),
        sets: sets.clone(),
        pods: pods.clone(),
    });
    drive(context, controller, queue, WORKERS, async move {
        deployments.synced().await;
        sets.synced().await;
        pods.synced().await;
    });
}

fn key_of(meta: &ObjectMeta) -> Option<ObjectKey> {
    let reference = owner::controller(meta).filter(|reference| reference.kind == "Deployment")?;
    Some(ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), &reference.name))
}

/// `None`: it can't be understood, or would select everything.
fn selector(deployment: &Deployment) -> Option<LabelSelector> {
    let selector = LabelSelector::from_typed(Some(&deployment.spec.as_ref()?.selector)).ok()?;
    if selector.is_everything() { None } else { Some(selector) }
}
