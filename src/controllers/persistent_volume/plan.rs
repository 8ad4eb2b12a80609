//! What is next for a claim and for a volume.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use skiff_api::volume as rules;
use skiff_client::EventKind;

use crate::pod;

const DEFAULT_MARKS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// What of the cluster matters to one claim.
pub struct SeenClaim {
    /// The one that the claim names.
    pub volume: Option<Arc<PersistentVolume>>,
    /// The one that the claim names.
    pub class: Option<Arc<StorageClass>>,
    pub default_class: Option<String>,
    /// All that there are, where the claim names none.
    pub volumes: Vec<Arc<PersistentVolume>>,
    /// Those that use the claim.
    pub pods: Vec<Arc<Pod>>,
}

pub type Told = (EventKind, &'static str, String);

#[derive(Debug, PartialEq)]
pub enum ClaimStep {
    Nothing,
    /// It stays Pending; with what is told about it.
    Wait(Option<Told>),
    Lose {
        reason: &'static str,
        message: &'static str,
    },
    /// It named none, and there is a default now.
    TakeClass(String),
    Provision {
        provisioner: String,
    },
    /// Or go on with a binding that is not complete.
    Bind(Arc<PersistentVolume>),
}

#[derive(Debug, PartialEq)]
pub enum VolumeStep {
    Phase(&'static str),
    /// It is kept for a claim, which is bound from the claim's side.
    LeaveToClaim,
    Mismatch(String),
    /// Its claim is gone.
    Release,
    /// Its claim has another volume.
    Unbind(Box<PersistentVolume>),
}

#[derive(Debug, PartialEq)]
pub enum Reclaim {
    Leave,
    Fail { reason: &'static str, message: String },
}

fn name_of(volume: &PersistentVolume) -> &str {
    volume.metadata.name.as_deref().unwrap_or_default()
}

fn has(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta, annotation: &str) -> bool {
    meta.annotations.as_ref().is_some_and(|all| all.contains_key(annotation))
}

/// The newest of the default classes; of equally old ones the first by name.
pub fn default_class(classes: &[Arc<StorageClass>]) -> Option<String> {
    let is_default = |class: &&Arc<StorageClass>| {
        let annotations = class.metadata.annotations.as_ref();
        DEFAULT_MARKS.iter().any(|mark| annotations.and_then(|a| a.get(*mark)).is_some_and(|value| value == "true"))
    };
    let age = |class: &Arc<StorageClass>| class.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let newest =
        classes.iter().filter(is_default).min_by_key(|class| (Reverse(age(class)), class.metadata.name.clone()));
    newest.and_then(|class| class.metadata.name.clone())
}

pub fn plan_claim(claim: &PersistentVolumeClaim, seen: &SeenClaim) -> ClaimStep {
    if has(&claim.metadata, rules::BIND_COMPLETED) {
        return plan_once_bound(claim, seen);
    }
    if !rules::volume_name(claim).is_empty() {
        return plan_named(claim, seen);
    }
    let delayed =
        seen.class.as_ref().is_some_and(|class| waits_for_pod(class)) && rules::selected_node(claim).is_none();
    if let Some(volume) = rules::find_match(claim, &seen.volumes, rules::Look::Anywhere { delayed }) {
        return ClaimStep::Bind(volume);
    }
    let wait = |kind, reason, message: String| ClaimStep::Wait(Some((kind, reason, message)));
    if rules::names_no_class(claim)
        && let Some(class) = &seen.default_class
    {
        return ClaimStep::TakeClass(class.clone());
    }
    if delayed {
        return plan_delayed(seen);
    }
    match (rules::class_of_claim(claim), &seen.class) {
        ("", _) => wait(
            EventKind::Normal,
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set".to_owned(),
        ),
        (name, None) => {
            wait(EventKind::Warning, "ProvisioningFailed", format!("storageclass.storage.k8s.io {name:?} not found"))
        }
        (_, Some(class)) if class.provisioner.starts_with("kubernetes.io/") => wait(
            EventKind::Warning,
            "ProvisioningFailed",
            format!("no volume plugin matched name: {}", class.provisioner),
        ),
        (_, Some(class)) => ClaimStep::Provision { provisioner: class.provisioner.clone() },
    }
}

fn waits_for_pod(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// The scheduler goes first.
fn plan_delayed(seen: &SeenClaim) -> ClaimStep {
    let mut waiting: Vec<&str> = seen
        .pods
        .iter()
        .filter(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none()) && !pod::is_over(pod))
        .filter_map(|pod| pod.metadata.name.as_deref())
        .collect();
    waiting.sort_unstable();
    let told = match waiting.as_slice() {
        [] => ("WaitForFirstConsumer", "waiting for first consumer to be created before binding".to_owned()),
        [one] => ("WaitForPodScheduled", format!("waiting for pod {one} to be scheduled")),
        many => ("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", many.join(","))),
    };
    ClaimStep::Wait(Some((EventKind::Normal, told.0, told.1)))
}

/// The claim names a volume, which may not know of it.
fn plan_named(claim: &PersistentVolumeClaim, seen: &SeenClaim) -> ClaimStep {
    let Some(volume) = &seen.volume else { return ClaimStep::Wait(None) };
    let wait = |reason, message| ClaimStep::Wait(Some((EventKind::Warning, reason, message)));
    if volume.spec.as_ref().is_none_or(|spec| spec.claim_ref.is_none()) {
        return match mismatch(volume, claim) {
            Some(why) => {
                wait("VolumeMismatch", format!("Cannot bind to requested volume {:?}: {why}", name_of(volume)))
            }
            None => ClaimStep::Bind(volume.clone()),
        };
    }
    if rules::is_bound_to(volume, claim) {
        return ClaimStep::Bind(volume.clone());
    }
    wait("FailedBinding", format!("volume {:?} already bound to a different claim.", name_of(volume)))
}

/// Why the volume will not do for a claim that names it.
fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let offered = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    if rules::capacity(volume) < rules::requested(claim) {
        Some("requested PV is too small")
    } else if rules::class_of_volume(volume) != rules::class_of_claim(claim) {
        Some("storageClassName does not match")
    } else if rules::mode_of_volume(volume) != rules::mode_of_claim(claim) {
        Some("incompatible volumeMode")
    } else if !rules::access_modes(claim).iter().all(|mode| offered.contains(mode)) {
        Some("incompatible accessMode")
    } else {
        None
    }
}

fn plan_once_bound(claim: &PersistentVolumeClaim, seen: &SeenClaim) -> ClaimStep {
    if rules::volume_name(claim).is_empty() {
        return ClaimStep::Lose {
            reason: "ClaimLost",
            message: "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        };
    }
    let Some(volume) = &seen.volume else {
        return ClaimStep::Lose {
            reason: "ClaimLost",
            message: "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        };
    };
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if reference.is_none() || rules::is_bound_to(volume, claim) {
        return match is_settled(volume, claim) {
            true => ClaimStep::Nothing,
            false => ClaimStep::Bind(volume.clone()),
        };
    }
    ClaimStep::Lose {
        reason: "ClaimMisbound",
        message: "Two claims are bound to the same volume, this one is bound incorrectly",
    }
}

/// Nothing is left to be written.
fn is_settled(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    volume.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"))
        && plan_bound_volume(volume, claim).is_none()
        && plan_bound_claim(claim, volume).is_none()
        && claim.status.as_ref() == Some(&plan_claim_status(claim, "Bound", Some(volume)))
}

/// The volume as the claim's, if it is not yet.
pub fn plan_bound_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let mut changed = volume.clone();
    let by_controller = !rules::is_bound_to(volume, claim);
    let spec = changed.spec.get_or_insert_default();
    let uid = spec.claim_ref.as_ref().and_then(|reference| reference.uid.clone());
    if by_controller || uid != claim.metadata.uid {
        spec.claim_ref = Some(rules::claim_reference(claim));
    }
    if by_controller {
        let annotations = changed.metadata.annotations.get_or_insert_default();
        annotations.insert(rules::BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    (changed != *volume).then_some(changed)
}

/// The claim as the volume's, if it is not yet.
pub fn plan_bound_claim(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<PersistentVolumeClaim> {
    let mut changed = claim.clone();
    let mut mark = |annotation: &str| {
        changed.metadata.annotations.get_or_insert_default().insert(annotation.to_owned(), "yes".to_owned());
    };
    if !has(&claim.metadata, rules::BIND_COMPLETED) {
        mark(rules::BIND_COMPLETED);
    }
    if rules::volume_name(claim) != name_of(volume) {
        mark(rules::BOUND_BY_CONTROLLER);
        changed.spec.get_or_insert_default().volume_name = Some(name_of(volume).to_owned());
    }
    (changed != *claim).then_some(changed)
}

/// With a volume: what the claim has of it.
pub fn plan_claim_status(
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> PersistentVolumeClaimStatus {
    let mut status = claim.status.clone().unwrap_or_default();
    let spec = volume.and_then(|volume| volume.spec.as_ref());
    let was_bound = status.phase.as_deref() == Some("Bound");
    status.phase = Some(phase.to_owned());
    match spec {
        Some(spec) => {
            status.access_modes.clone_from(&spec.access_modes);
            // Later it is whoever resizes the volume who tells its size.
            if !was_bound || status.capacity.is_none() {
                status.capacity.clone_from(&spec.capacity);
            }
            let class = spec.volume_attributes_class_name.clone().filter(|name| !name.is_empty());
            status.current_volume_attributes_class_name = class;
        }
        None => (status.access_modes, status.capacity) = (None, None),
    }
    status
}

pub fn plan_volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumeStep {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let Some(reference) = reference else { return VolumeStep::Phase("Available") };
    let uid = reference.uid.as_deref().unwrap_or_default();
    if uid.is_empty() {
        // Kept for a claim by name, which may be there.
        return match claim {
            Some(claim) if rules::volume_name(claim).is_empty() => match modes_differ(volume, claim) {
                Some(mismatch) => mismatch,
                None => VolumeStep::LeaveToClaim,
            },
            _ => VolumeStep::Phase("Available"),
        };
    }
    let Some(claim) = claim.filter(|claim| claim.metadata.uid.as_deref() == Some(uid)) else {
        return VolumeStep::Release;
    };
    match rules::volume_name(claim) {
        "" => modes_differ(volume, claim).unwrap_or(VolumeStep::LeaveToClaim),
        named if named == name_of(volume) => VolumeStep::Phase("Bound"),
        _ => {
            let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
            if rules::provisioned_by(volume).is_some() && policy == Some("Delete") {
                // Made for the claim, which took another meanwhile.
                return VolumeStep::Release;
            }
            VolumeStep::Unbind(Box::new(plan_unbound(volume)))
        }
    }
}

fn modes_differ(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<VolumeStep> {
    (rules::mode_of_volume(volume) != rules::mode_of_claim(claim)).then(|| {
        VolumeStep::Mismatch(format!(
            "Cannot bind PersistentVolume to requested PersistentVolumeClaim {:?} due to incompatible volumeMode.",
            claim.metadata.name.as_deref().unwrap_or_default()
        ))
    })
}

/// Free again; one that a person has kept for a claim by name stays kept.
fn plan_unbound(volume: &PersistentVolume) -> PersistentVolume {
    let mut changed = volume.clone();
    let by_controller =
        changed.metadata.annotations.as_mut().and_then(|all| all.remove(rules::BOUND_BY_CONTROLLER)).is_some();
    let spec = changed.spec.get_or_insert_default();
    if by_controller {
        spec.claim_ref = None;
    } else if let Some(reference) = &mut spec.claim_ref {
        (reference.uid, reference.resource_version) = (None, None);
    }
    changed
}

pub fn plan_reclaim(volume: &PersistentVolume) -> Reclaim {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    let by = rules::provisioned_by(volume).unwrap_or_default();
    match policy {
        Some("Recycle") => Reclaim::Fail {
            reason: "VolumeRecycleFailed",
            message: "No recycler plugin found for the volume!".to_owned(),
        },
        // Its provisioner deletes it.
        Some("Delete") if !by.is_empty() && !by.starts_with("kubernetes.io/") => Reclaim::Leave,
        Some("Delete") => Reclaim::Fail {
            reason: "VolumeFailedDelete",
            message: format!(
                "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
                name_of(volume)
            ),
        },
        _ => Reclaim::Leave,
    }
}
