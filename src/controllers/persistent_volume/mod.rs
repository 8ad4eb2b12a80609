//! Binds claims to volumes, and says what becomes of volumes whose claim is gone.
//!
//! ```text
//!   volume:  Available <──────> Bound ──────> Released ──────> (deleted by who made it) | Failed
//!   claim:   Pending ─────────> Bound ──────> Lost
//! ```
//!
//! A binding is four writes, volume first: its `claimRef`, its phase, the claim's `volumeName`, the claim's phase. Whoever
//! looks in between sees whose the volume is, and the next reconcile goes on where the last one ended. `plan` decides
//! from what is seen; volumes are made by provisioners, here a claim is only told by whom.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_api::{ObjectKey, volume as rules};
use skiff_base::time;
use skiff_client::{Change, Client, EventKind, EventRecorder, Lister, Next, Queue, Reconciler, Result};

use self::plan::{ClaimStep, Reclaim, SeenClaim, VolumeStep};
use crate::{Context, drive};

/// Volumes by the claim that they refer to.
const BY_CLAIM: &str = "claim";
/// Claims that are not bound by their class.
const UNBOUND: &str = "unbound-class";
/// Claims by the volume that they name.
const BY_VOLUME: &str = "volume";
/// Pods by their claims.
pub const PODS_BY_CLAIM: &str = "claims";

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Claim(ObjectKey),
    Volume(String),
}

pub fn start(context: &Context) {
    let claims = context.informers.lister::<PersistentVolumeClaim>();
    let volumes = context.informers.lister::<PersistentVolume>();
    let classes = context.informers.lister::<StorageClass>();
    let pods = context.informers.lister::<Pod>();
    volumes.add_index(BY_CLAIM, |volume| claim_key(volume).map(|key| key.to_string()).into_iter().collect());
    claims.add_index(UNBOUND, |claim| {
        let unbound = rules::volume_name(claim).is_empty();
        unbound.then(|| rules::class_of_claim(claim).to_owned()).into_iter().collect()
    });
    claims.add_index(BY_VOLUME, |claim| {
        Some(rules::volume_name(claim).to_owned()).filter(|name| !name.is_empty()).into_iter().collect()
    });
    index_pods(&pods);
    let queue: Queue<Key> = Queue::new(Binder::NAME);
    let (adding, seen) = (queue.clone(), volumes.clone());
    let expanding = context.events("expand-controller", "volume_expand");
    claims.subscribe(move |change| {
        let claim = change.object();
        if matches!(change, Change::Modified { old, new } if grows(old, new)) {
            let message = "waiting for an external controller to expand this PVC";
            expanding.record(EventRecorder::reference(&**claim), EventKind::Normal, "ExternalExpanding", message);
        }
        let key = ObjectKey::of(&**claim);
        let named = rules::volume_name(claim);
        if !named.is_empty() {
            adding.add(Key::Volume(named.to_owned()));
        }
        for volume in seen.indexed(BY_CLAIM, &key.to_string()) {
            adding.add(Key::Volume(volume.metadata.name.clone().unwrap_or_default()));
        }
        adding.add(Key::Claim(key));
    });
    let (adding, seen) = (queue.clone(), claims.clone());
    volumes.subscribe(move |change| {
        let volume = change.object();
        let name = volume.metadata.name.clone().unwrap_or_default();
        // It may be what these wait for.
        let waiting = seen.indexed(UNBOUND, rules::class_of_volume(volume)).into_iter();
        let waiting = waiting.filter(|_| claim_key(volume).is_none() && !matches!(change, Change::Deleted(_)));
        for claim in seen.indexed(BY_VOLUME, &name).into_iter().chain(waiting) {
            adding.add(Key::Claim(ObjectKey::of(&*claim)));
        }
        adding.add(Key::Volume(name));
    });
    let (adding, seen) = (queue.clone(), claims.clone());
    classes.subscribe(move |change| {
        let name = change.object().metadata.name.as_deref().unwrap_or_default();
        // Those without a class may get this one.
        for claim in seen.indexed(UNBOUND, name).into_iter().chain(seen.indexed(UNBOUND, "")) {
            adding.add(Key::Claim(ObjectKey::of(&*claim)));
        }
    });
    let binder = Arc::new(Binder {
        client: context.client("persistent-volume-binder"),
        events: context.events("persistent-volume-binder", "persistentvolume-controller"),
        claims: claims.clone(),
        volumes: volumes.clone(),
        classes: classes.clone(),
        pods: pods.clone(),
    });
    // One worker: what one decision takes, the next must not give away again.
    drive(context, binder, queue, 1, async move {
        claims.synced().await;
        volumes.synced().await;
        classes.synced().await;
        pods.synced().await;
    });
}

/// Whether more is asked of a volume that is there.
fn grows(old: &PersistentVolumeClaim, new: &PersistentVolumeClaim) -> bool {
    rules::is_fully_bound(new) && rules::requested(old) < rules::requested(new)
}

/// Makes pods be found by the claims that they use.
pub fn index_pods(pods: &Lister<Pod>) {
    pods.add_index(PODS_BY_CLAIM, |pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        rules::claims_of(pod).map(|one| ObjectKey::new(namespace, &one.claim).to_string()).collect()
    });
}

fn claim_key(volume: &PersistentVolume) -> Option<ObjectKey> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Some(ObjectKey::new(&text(&reference.namespace), &text(&reference.name)))
}

struct Binder {
    client: Client,
    events: EventRecorder,
    claims: Lister<PersistentVolumeClaim>,
    volumes: Lister<PersistentVolume>,
    classes: Lister<StorageClass>,
    pods: Lister<Pod>,
}

impl Reconciler for Binder {
    const NAME: &'static str = "persistentvolume-binder-controller";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Next> {
        match key {
            Key::Claim(key) => {
                if let Some(claim) = self.claims.get(key) {
                    self.sync_claim(key, &claim).await?;
                }
            }
            Key::Volume(name) => {
                if let Some(volume) = self.volumes.get(&ObjectKey::cluster(name)) {
                    self.sync_volume(&volume).await?;
                }
            }
        }
        Ok(Next::Done)
    }
}

impl Binder {
    async fn sync_claim(&self, key: &ObjectKey, claim: &PersistentVolumeClaim) -> Result<()> {
        let named = rules::volume_name(claim);
        let seen = SeenClaim {
            volume: if named.is_empty() { None } else { self.volumes.get(&ObjectKey::cluster(named)) },
            class: self.classes.get(&ObjectKey::cluster(rules::class_of_claim(claim))),
            default_class: plan::default_class(&self.classes.list()),
            volumes: if named.is_empty() { self.volumes.list() } else { Vec::new() },
            pods: self.pods.indexed(PODS_BY_CLAIM, &key.to_string()),
        };
        match plan::plan_claim(claim, &seen) {
            ClaimStep::Nothing => Ok(()),
            ClaimStep::Wait(told) => {
                if let Some((kind, reason, message)) = told {
                    self.events.record(EventRecorder::reference(claim), kind, reason, message);
                }
                self.set_claim_phase(claim.clone(), "Pending", None).await
            }
            ClaimStep::Lose { reason, message } => {
                let was = claim.status.as_ref().and_then(|status| status.phase.as_deref());
                if was != Some("Lost") {
                    self.events.record(EventRecorder::reference(claim), EventKind::Warning, reason, message);
                }
                self.set_claim_phase(claim.clone(), "Lost", None).await
            }
            ClaimStep::TakeClass(class) => {
                let mut changed = claim.clone();
                changed.spec.get_or_insert_default().storage_class_name = Some(class);
                self.client.all::<PersistentVolumeClaim>().update(&changed).await.map(drop)
            }
            ClaimStep::Provision { provisioner } => self.ask_provisioner(claim, &provisioner).await,
            ClaimStep::Bind(volume) => self.bind(&volume, claim).await,
        }
    }

    /// Says on the claim who is to make its volume.
    async fn ask_provisioner(&self, claim: &PersistentVolumeClaim, provisioner: &str) -> Result<()> {
        let mut changed = claim.clone();
        let annotations = changed.metadata.annotations.get_or_insert_default();
        for key in [rules::BETA_PROVISIONER, rules::PROVISIONER] {
            annotations.insert(key.to_owned(), provisioner.to_owned());
        }
        if changed == *claim {
            return self.set_claim_phase(changed, "Pending", None).await;
        }
        let changed = self.client.all::<PersistentVolumeClaim>().update(&changed).await?;
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
             system administrator. If volume creation is delayed, please verify that the provisioner is running and \
             correctly registered."
        );
        self.events.record(EventRecorder::reference(&changed), EventKind::Normal, "ExternalProvisioning", message);
        self.set_claim_phase(changed, "Pending", None).await
    }

    async fn bind(&self, volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<()> {
        let volume = match plan::plan_bound_volume(volume, claim) {
            Some(changed) => self.client.all::<PersistentVolume>().update(&changed).await?,
            None => volume.clone(),
        };
        self.set_volume_phase(volume.clone(), "Bound", "").await?;
        let claim = match plan::plan_bound_claim(claim, &volume) {
            Some(changed) => self.client.all::<PersistentVolumeClaim>().update(&changed).await?,
            None => claim.clone(),
        };
        self.set_claim_phase(claim, "Bound", Some(&volume)).await
    }

    async fn sync_volume(&self, volume: &PersistentVolume) -> Result<()> {
        let claim = claim_key(volume).and_then(|key| self.claims.get(&key));
        match plan::plan_volume(volume, claim.as_deref()) {
            VolumeStep::Phase(phase) => self.set_volume_phase(volume.clone(), phase, "").await,
            // The claim is looked at when it changes, and when this volume does.
            VolumeStep::LeaveToClaim => match claim {
                Some(claim) => self.sync_claim(&ObjectKey::of(&*claim), &claim).await,
                None => Ok(()),
            },
            VolumeStep::Mismatch(message) => {
                self.events.record(EventRecorder::reference(volume), EventKind::Warning, "VolumeMismatch", message);
                if let Some(claim) = claim {
                    let message =
                        "Cannot bind PersistentVolumeClaim to PersistentVolume due to incompatible volumeMode.";
                    let about = EventRecorder::reference(&*claim);
                    self.events.record(about, EventKind::Warning, "VolumeMismatch", message);
                }
                Ok(())
            }
            VolumeStep::Release => {
                // The cache may lag: a claim that has just been made must not lose its volume.
                if self.is_claimed(volume).await? {
                    return Ok(());
                }
                let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
                let volume = match phase {
                    "Released" | "Failed" => volume.clone(),
                    _ => self.write_volume_phase(volume.clone(), "Released", "").await?,
                };
                self.reclaim(volume).await
            }
            VolumeStep::Unbind(changed) => {
                let volume = self.client.all::<PersistentVolume>().update(&changed).await?;
                self.set_volume_phase(volume, "Available", "").await
            }
        }
    }

    /// Whether the API server knows the claim that the volume refers to.
    async fn is_claimed(&self, volume: &PersistentVolume) -> Result<bool> {
        let Some(key) = claim_key(volume) else { return Ok(false) };
        match self.client.namespaced::<PersistentVolumeClaim>(&key.namespace).get(&key.name).await {
            Ok(claim) => Ok(rules::is_bound_to(volume, &claim) && {
                let named = rules::volume_name(&claim);
                named.is_empty() || Some(named) == volume.metadata.name.as_deref()
            }),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What nobody claims any more is deleted by who made it, or stays.
    async fn reclaim(&self, volume: PersistentVolume) -> Result<()> {
        match plan::plan_reclaim(&volume) {
            Reclaim::Leave => Ok(()),
            Reclaim::Fail { reason, message } => {
                let was = volume.status.as_ref().and_then(|status| status.phase.as_deref());
                if was != Some("Failed") {
                    self.events.record(EventRecorder::reference(&volume), EventKind::Warning, reason, &*message);
                }
                self.set_volume_phase(volume, "Failed", &message).await
            }
        }
    }

    async fn set_volume_phase(&self, volume: PersistentVolume, phase: &str, message: &str) -> Result<()> {
        let same = volume.status.as_ref().is_some_and(|status| {
            status.phase.as_deref() == Some(phase) && status.message.as_deref().unwrap_or_default() == message
        });
        if same { Ok(()) } else { self.write_volume_phase(volume, phase, message).await.map(drop) }
    }

    async fn write_volume_phase(
        &self,
        mut volume: PersistentVolume,
        phase: &str,
        message: &str,
    ) -> Result<PersistentVolume> {
        let status = volume.status.get_or_insert_default();
        if status.phase.as_deref() != Some(phase) {
            status.phase = Some(phase.to_owned());
            status.last_phase_transition_time = Some(Time(time::now()));
        }
        status.message = Some(message.to_owned()).filter(|text| !text.is_empty());
        self.client.all::<PersistentVolume>().update_status(&volume).await
    }

    /// With a volume: what the claim has of it, too.
    async fn set_claim_phase(
        &self,
        mut claim: PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<()> {
        let status = plan::plan_claim_status(&claim, phase, volume);
        if claim.status.as_ref() == Some(&status) {
            return Ok(());
        }
        claim.status = Some(status);
        self.client.all::<PersistentVolumeClaim>().update_status(&claim).await.map(drop)
    }
}
