//! The pods of stateful sets: names, volumes and labels that stay with a number.

use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::history::REVISION_LABEL;
use crate::{owner, pod_control};

const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

fn name_of(set: &StatefulSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

/// The number behind the set's name, if the pod has one.
pub fn ordinal_of(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let name = pod.metadata.name.as_deref()?;
    let number = name.strip_prefix(name_of(set))?.strip_prefix('-')?;
    let plain = number == "0" || !number.starts_with('0');
    number.parse().ok().filter(|_| plain && number.bytes().all(|b| b.is_ascii_digit()))
}

/// The name of the revision that the pod was made from.
pub fn revision_of(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_LABEL)).map_or("", String::as_str)
}

fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", template.metadata.name.as_deref().unwrap_or_default(), name_of(set))
}

fn claim_templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_deref()).unwrap_or_default()
}

/// Whether its pods have claims.
pub fn has_claims(set: &StatefulSet) -> bool {
    !claim_templates(set).is_empty()
}

/// Whether claims are deleted with the set.
fn goes_with_set(set: &StatefulSet) -> bool {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    policy.is_some_and(|policy| policy.when_deleted.as_deref() == Some("Delete"))
}

/// Whether claims are deleted with a pod that is one too many.
pub fn goes_with_pod(set: &StatefulSet) -> bool {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    policy.is_some_and(|policy| policy.when_scaled.as_deref() == Some("Delete"))
}

/// The names of the claims of a number.
pub fn claim_names(set: &StatefulSet, ordinal: i32) -> impl Iterator<Item = String> {
    claim_templates(set).iter().map(move |template| claim_name(set, template, ordinal))
}

fn owners_of(claim: &PersistentVolumeClaim) -> &[OwnerReference] {
    claim.metadata.owner_references.as_deref().unwrap_or_default()
}

/// Whether a reference is to an object of this kind and name, whichever of them it was.
fn names<K: Resource>(owner: &OwnerReference, name: &str) -> bool {
    owner.api_version == K::API_VERSION && owner.kind == K::KIND && owner.name == name
}

/// Whether a claim goes with an object that was of this name before: it is not touched, but waited for.
pub fn is_stale<K: Resource>(claim: &PersistentVolumeClaim, name: &str, uid: &str) -> bool {
    owners_of(claim).iter().find(|owner| names::<K>(owner, name)).is_some_and(|owner| owner.uid != uid)
}

/// Whether another controller has the claim, so that the set's policy does not count.
pub fn is_anothers(set: &StatefulSet, claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let (set_name, pod_name) = (name_of(set), pod.metadata.name.as_deref().unwrap_or_default());
    let is_others = |owner: &OwnerReference| {
        if names::<StatefulSet>(owner, set_name) {
            owner.uid != uid_of(&set.metadata)
        } else if names::<Pod>(owner, pod_name) {
            owner.uid != uid_of(&pod.metadata)
        } else {
            owner.controller == Some(true)
        }
    };
    (goes_with_set(set) || goes_with_pod(set)) && owners_of(claim).iter().any(is_others)
}

/// The claim with the owner that the set's policy asks for, if it has another. `condemned`: its pod is one too many.
pub fn plan_owners(
    set: &StatefulSet,
    claim: &PersistentVolumeClaim,
    pod: &Pod,
    condemned: bool,
) -> Option<PersistentVolumeClaim> {
    let (set_uid, pod_uid) = (uid_of(&set.metadata), uid_of(&pod.metadata));
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    if is_stale::<StatefulSet>(claim, name_of(set), set_uid) || is_stale::<Pod>(claim, pod_name, pod_uid) {
        return None;
    }
    let wanted = if is_anothers(set, claim, pod) {
        None
    } else if condemned && goes_with_pod(set) {
        Some(owner::reference_to(pod))
    } else {
        goes_with_set(set).then(|| owner::reference_to(set))
    };
    let is_ours = |owner: &&OwnerReference| owner.uid == set_uid || owner.uid == pod_uid;
    let ours: Vec<_> = owners_of(claim).iter().filter(is_ours).map(|owner| (&owner.uid, owner.controller)).collect();
    if ours == wanted.iter().map(|owner| (&owner.uid, owner.controller)).collect::<Vec<_>>() {
        return None;
    }
    let others = owners_of(claim).iter().filter(|owner| !is_ours(owner)).cloned();
    let owners: Vec<OwnerReference> = others.chain(wanted).collect();
    let mut changed = claim.clone();
    changed.metadata.owner_references = Some(owners).filter(|owners| !owners.is_empty());
    Some(changed)
}

fn uid_of(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// The claims of a pod's volumes.
pub fn plan_claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let spec = set.spec.as_ref();
    let selected = spec.and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
    let claim = |template: &PersistentVolumeClaim| {
        let mut labels = template.metadata.labels.clone().unwrap_or_default();
        labels.extend(selected.clone());
        let owners = goes_with_set(set).then(|| vec![owner::reference_to(set)]);
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(claim_name(set, template, ordinal)),
                namespace: set.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: template.metadata.annotations.clone(),
                owner_references: owners,
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    };
    claim_templates(set).iter().map(claim).collect()
}

/// The pod of that number, from the template of a revision.
pub fn plan_pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut pod = pod_control::plan_pod(set, template);
    let name = format!("{}-{ordinal}", name_of(set));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(NAME_LABEL.to_owned(), name.clone());
    labels.insert(INDEX_LABEL.to_owned(), ordinal.to_string());
    labels.insert(REVISION_LABEL.to_owned(), revision.to_owned());
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(name.clone());
        spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone()).filter(|name| !name.is_empty());
        let own = spec.volumes.take().unwrap_or_default();
        spec.volumes = Some(with_claims(set, ordinal, own)).filter(|volumes| !volumes.is_empty());
    }
    pod.metadata.name = Some(name);
    pod
}

/// The volumes of a pod of that number: its claims, and of its own those that have other names.
fn with_claims(set: &StatefulSet, ordinal: i32, own: Vec<Volume>) -> Vec<Volume> {
    let templates = claim_templates(set);
    let claimed = |template: &PersistentVolumeClaim| Volume {
        name: template.metadata.name.clone().unwrap_or_default(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, template, ordinal),
            read_only: Some(false),
        }),
        ..Volume::default()
    };
    let is_claim =
        |volume: &Volume| templates.iter().any(|template| template.metadata.name.as_ref() == Some(&volume.name));
    templates.iter().map(claimed).chain(own.into_iter().filter(|volume| !is_claim(volume))).collect()
}

/// Whether a pod has the volumes of its number.
pub fn has_its_claims(set: &StatefulSet, pod: &Pod, ordinal: i32) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    claim_templates(set).iter().all(|template| {
        let volume = volumes.iter().find(|volume| template.metadata.name.as_ref() == Some(&volume.name));
        let claim = volume.and_then(|volume| volume.persistent_volume_claim.as_ref());
        claim.is_some_and(|claim| claim.claim_name == claim_name(set, template, ordinal))
    })
}

/// A pod that the set took over, with the labels and volumes that its own pods have, if it lacks them.
pub fn plan_repair(set: &StatefulSet, pod: &Pod, ordinal: i32) -> Option<Pod> {
    let name = pod.metadata.name.clone()?;
    let is_labeled = pod.metadata.labels.as_ref().is_some_and(|labels| labels.get(NAME_LABEL) == Some(&name));
    let has_claims = has_its_claims(set, pod, ordinal);
    if is_labeled && has_claims {
        return None;
    }
    let mut repaired = pod.clone();
    if !is_labeled {
        let labels = repaired.metadata.labels.get_or_insert_default();
        labels.insert(NAME_LABEL.to_owned(), name);
        labels.insert(INDEX_LABEL.to_owned(), ordinal.to_string());
    }
    if !has_claims && let Some(spec) = &mut repaired.spec {
        spec.volumes = Some(with_claims(set, ordinal, spec.volumes.take().unwrap_or_default()));
    }
    Some(repaired)
}
