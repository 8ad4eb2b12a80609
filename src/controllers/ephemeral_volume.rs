//! Makes the claims of pods' ephemeral volumes; they go with their pods, whose they are.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::{ObjectKey, volume as rules};
use skiff_client::{Change, Client, EventKind, EventRecorder, Lister, Next, Queue, Reconciler, Result};

use crate::persistent_volume::{PODS_BY_CLAIM, index_pods};
use crate::service_account::is_closing;
use crate::{Context, drive, owner};

pub fn start(context: &Context) {
    let pods = context.informers.lister::<Pod>();
    let claims = context.informers.lister::<PersistentVolumeClaim>();
    index_pods(&pods);
    let queue = Queue::new(EphemeralVolumes::NAME);
    let adding = queue.clone();
    pods.subscribe(move |change| {
        let pod = change.object();
        if !matches!(change, Change::Deleted(_)) && rules::claims_of(pod).any(|one| one.ephemeral) {
            adding.add(ObjectKey::of(&**pod));
        }
    });
    let (adding, known) = (queue.clone(), pods.clone());
    claims.subscribe(move |change| {
        // One that somebody has deleted is made again.
        if let Change::Deleted(claim) = change {
            for pod in known.indexed(PODS_BY_CLAIM, &ObjectKey::of(&**claim).to_string()) {
                adding.add(ObjectKey::of(&*pod));
            }
        }
    });
    let controller = Arc::new(EphemeralVolumes {
        client: context.client("ephemeral-volume-controller"),
        events: context.events("ephemeral-volume-controller", "ephemeral_volume"),
        pods: pods.clone(),
        claims: claims.clone(),
    });
    drive(context, controller, queue, 2, async move {
        pods.synced().await;
        claims.synced().await;
    });
}

struct EphemeralVolumes {
    client: Client,
    events: EventRecorder,
    pods: Lister<Pod>,
    claims: Lister<PersistentVolumeClaim>,
}

impl Reconciler for EphemeralVolumes {
    const NAME: &'static str = "ephemeral-volume-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(pod) = self.pods.get(key) else { return Ok(Next::Done) };
        if pod.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        for one in rules::claims_of(&pod).filter(|one| one.ephemeral) {
            if let Some(claim) = self.claims.get(&ObjectKey::new(&key.namespace, &one.claim)) {
                if let Err(why) = rules::is_for_pod(&pod, &claim) {
                    return Err(self.tell(&pod, &one.volume, why));
                }
                continue;
            }
            let Some(claim) = plan_claim(&pod, &one) else { continue };
            match self.client.all::<PersistentVolumeClaim>().create(&claim).await {
                // Made before, and not seen yet; or somebody else's, which is seen soon.
                Err(error) if error.is_already_exists() || is_closing(&error) => {}
                Err(error) => {
                    self.tell(&pod, &one.volume, format!("create PVC {}: {error}", one.claim));
                    return Err(error);
                }
                Ok(_) => {}
            }
        }
        Ok(Next::Done)
    }
}

impl EphemeralVolumes {
    fn tell(&self, pod: &Pod, volume: &str, why: String) -> skiff_client::Error {
        let message = format!("ephemeral volume {volume}: {why}");
        self.events.record(EventRecorder::reference(pod), EventKind::Warning, "FailedBinding", &*message);
        skiff_client::Error::Config(message)
    }
}

fn plan_claim(pod: &Pod, one: &rules::PodClaim) -> Option<PersistentVolumeClaim> {
    let volumes = pod.spec.as_ref()?.volumes.as_ref()?;
    let volume = volumes.iter().find(|volume| volume.name == one.volume)?;
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let meta = template.metadata.clone().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(one.claim.clone()),
            namespace: pod.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![owner::reference_to(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Stage;
    use serde_json::json;

    #[tokio::test]
    async fn claims_are_the_pods_own() {
        let stage = Stage::new();
        let context = stage.context();
        let pod = |name: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n", "uid": name}, "spec": {"containers": [],
                "volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}},
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}}]}})
        };
        stage.put(pod("a"));
        // Somebody's own claim has the name that the second pod's would have.
        stage.put(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "b-v", "namespace": "n"}, "spec": {}}));
        stage.put(pod("b"));
        start(&context);
        let made = |fake: &skiff_client::fake::FakeTransport| {
            fake.objects("/api/v1/persistentvolumeclaims").into_iter().find(|claim| claim["metadata"]["name"] == "a-v")
        };
        stage.until("the claim is made", |fake| made(fake).is_some()).await;
        let claim = made(&stage.fake).expect("it was seen");
        assert_eq!(claim["metadata"]["ownerReferences"][0]["uid"], "a");
        assert_eq!(claim["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "1Gi");
        let told = |fake: &skiff_client::fake::FakeTransport| {
            let why = "ephemeral volume v: PVC n/b-v was not created for pod n/b (pod is not owner)";
            fake.objects("/api/v1/events").iter().any(|event| event["message"] == why)
        };
        stage.until("the other is told of", told).await;
        stage.end().await;
    }
}
