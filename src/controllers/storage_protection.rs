//! Keeps volumes that are bound, and claims that pods use, until they are not: both carry a finalizer, which the API server
//! sets on new ones.

use std::sync::Arc;

use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::{ObjectKey, volume as rules};
use skiff_client::{Change, Client, Lister, Next, Queue, Reconciler, Result};

use crate::persistent_volume::{PODS_BY_CLAIM, index_pods};
use crate::{Context, drive};

const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";

pub fn start(context: &Context) {
    start_volumes(context);
    start_claims(context);
}

fn start_volumes(context: &Context) {
    let volumes = context.informers.lister::<PersistentVolume>();
    let queue = Queue::new(Volumes::NAME);
    let adding = queue.clone();
    volumes.subscribe(move |change| adding.add(ObjectKey::of(&**change.object())));
    let client = context.client("pv-protection-controller");
    let controller = Arc::new(Volumes { client, volumes: volumes.clone() });
    drive(context, controller, queue, 1, async move { volumes.synced().await });
}

fn start_claims(context: &Context) {
    let claims = context.informers.lister::<PersistentVolumeClaim>();
    let pods = context.informers.lister::<Pod>();
    index_pods(&pods);
    let queue = Queue::new(Claims::NAME);
    let adding = queue.clone();
    claims.subscribe(move |change| adding.add(ObjectKey::of(&**change.object())));
    let adding = queue.clone();
    pods.subscribe(move |change| {
        let pod = change.object();
        let ends = matches!(change, Change::Deleted(_)) || is_shut_down(pod);
        if ends {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            rules::claims_of(pod).for_each(|one| adding.add(ObjectKey::new(namespace, &one.claim)));
        }
    });
    let client = context.client("pvc-protection-controller");
    let controller = Arc::new(Claims { client, claims: claims.clone(), pods: pods.clone() });
    drive(context, controller, queue, 1, async move {
        claims.synced().await;
        pods.synced().await;
    });
}

/// What is to be done with an object's finalizer.
#[derive(Debug, PartialEq, Eq)]
enum Guard {
    Nothing,
    Set,
    Take,
}

fn plan_guard(meta: &ObjectMeta, finalizer: &str, used: impl FnOnce() -> bool) -> Guard {
    let guarded = meta.finalizers.iter().flatten().any(|one| one == finalizer);
    match (meta.deletion_timestamp.is_some(), guarded) {
        (false, false) => Guard::Set,
        (true, true) if !used() => Guard::Take,
        _ => Guard::Nothing,
    }
}

/// True where anything has changed.
fn apply_guard(meta: &mut ObjectMeta, finalizer: &str, guard: &Guard) -> bool {
    let finalizers = meta.finalizers.get_or_insert_default();
    match guard {
        Guard::Nothing => return false,
        Guard::Set => finalizers.push(finalizer.to_owned()),
        Guard::Take => finalizers.retain(|one| one != finalizer),
    }
    true
}

/// Gone, or changed by another, who is heard of.
fn settled<T>(outcome: Result<T>) -> Result<Next> {
    match outcome {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Next::Done),
    }
}

struct Volumes {
    client: Client,
    volumes: Lister<PersistentVolume>,
}

impl Reconciler for Volumes {
    const NAME: &'static str = "persistentvolume-protection-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(volume) = self.volumes.get(key) else { return Ok(Next::Done) };
        let bound = || volume.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"));
        let guard = plan_guard(volume.metadata(), VOLUME_FINALIZER, bound);
        let mut changed = (*volume).clone();
        if !apply_guard(changed.metadata_mut(), VOLUME_FINALIZER, &guard) {
            return Ok(Next::Done);
        }
        settled(self.client.all::<PersistentVolume>().update(&changed).await)
    }
}

struct Claims {
    client: Client,
    claims: Lister<PersistentVolumeClaim>,
    pods: Lister<Pod>,
}

impl Reconciler for Claims {
    const NAME: &'static str = "persistentvolumeclaim-protection-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(claim) = self.claims.get(key) else { return Ok(Next::Done) };
        let uses = |pods: &[Arc<Pod>]| pods.iter().any(|pod| is_used_by(&claim, pod));
        let seen = || uses(&self.pods.indexed(PODS_BY_CLAIM, &key.to_string()));
        let guard = plan_guard(claim.metadata(), CLAIM_FINALIZER, seen);
        if guard == Guard::Take {
            // The cache may lag: a pod that has just been put on a node must not lose its data.
            let all = self.client.namespaced::<Pod>(&key.namespace).list(&Default::default()).await?;
            let all: Vec<Arc<Pod>> = all.into_iter().map(Arc::new).collect();
            if uses(&all) {
                return Ok(Next::Done);
            }
        }
        let mut changed = (*claim).clone();
        if !apply_guard(changed.metadata_mut(), CLAIM_FINALIZER, &guard) {
            return Ok(Next::Done);
        }
        settled(self.client.all::<PersistentVolumeClaim>().update(&changed).await)
    }
}

/// Only a pod on a node can have the claim's data in use.
fn is_used_by(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref().is_some_and(|name| !name.is_empty()));
    placed
        && rules::claims_of(pod).any(|one| {
            Some(&one.claim) == claim.metadata.name.as_ref()
                && (!one.ephemeral || (!is_shut_down(pod) && rules::is_for_pod(pod, claim).is_ok()))
        })
}

/// Its containers have ended, and it waits only for its object to go.
fn is_shut_down(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
        && pod.metadata.deletion_grace_period_seconds == Some(0)
        && crate::pod::is_over(pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Stage;
    use serde_json::{Value, json};

    #[tokio::test]
    async fn what_is_used_stays() {
        let stage = Stage::new();
        let context = stage.context();
        let finalizers = |kind: &str, finalizer: &str, more: Value| {
            let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x", "namespace": "n", "uid": "u",
                "finalizers": [finalizer], "deletionTimestamp": "2024-01-01T00:00:00Z"}, "spec": {}});
            object.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            object
        };
        let volumes = |name: &str| json!([{"name": "v", "persistentVolumeClaim": {"claimName": name}}]);
        let pod = |name: &str, claim: &str, node: Value| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n"},
                "spec": {"containers": [], "nodeName": node, "volumes": volumes(claim)}})
        };
        stage.put(pod("on-node", "x", json!("m")));
        stage.put(pod("waiting", "y", json!(null)));
        stage.put(finalizers("PersistentVolumeClaim", CLAIM_FINALIZER, json!({})));
        let mut other = finalizers("PersistentVolumeClaim", CLAIM_FINALIZER, json!({}));
        other["metadata"]["name"] = json!("y");
        stage.put(other);
        stage.put(json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "new"}, "spec": {}}));
        start(&context);
        // The claim of the waiting pod goes, that of the other stays, and what has no finalizer gets one.
        let claims = |fake: &skiff_client::fake::FakeTransport| -> Vec<String> {
            let all = fake.objects("/api/v1/persistentvolumeclaims");
            all.iter().map(|claim| claim["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
        };
        stage.until("one claim is gone", |fake| claims(fake) == ["x"]).await;
        let guarded = |fake: &skiff_client::fake::FakeTransport| {
            fake.objects("/api/v1/persistentvolumes")[0]["metadata"]["finalizers"] == json!([VOLUME_FINALIZER])
        };
        stage.until("the volume is guarded", guarded).await;
        stage.delete("/api/v1/namespaces/n/pods/on-node").await;
        stage.until("the other claim is gone", |fake| claims(fake).is_empty()).await;
        stage.end().await;
    }

    #[test]
    fn bound_volumes_stay() {
        let check = |deleted: bool, guarded: bool, used: bool, expect: Guard| {
            let meta: ObjectMeta = serde_json::from_value(json!({
                "deletionTimestamp": deleted.then_some("2024-01-01T00:00:00Z"),
                "finalizers": guarded.then_some([VOLUME_FINALIZER])}))
            .expect("metadata");
            assert_eq!(plan_guard(&meta, VOLUME_FINALIZER, || used), expect);
        };
        check(false, false, false, Guard::Set);
        check(false, true, false, Guard::Nothing);
        check(true, true, true, Guard::Nothing);
        check(true, true, false, Guard::Take);
        check(true, false, false, Guard::Nothing);
    }
}
