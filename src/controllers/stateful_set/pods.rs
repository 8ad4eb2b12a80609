//! The pods of stateful sets: names, volumes and labels that stay with a number.

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
fn goes_with_pod(set: &StatefulSet) -> bool {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    policy.is_some_and(|policy| policy.when_scaled.as_deref() == Some("Delete"))
}

/// The names of the claims of a number.
pub fn claim_names(set: &StatefulSet, ordinal: i32) -> impl Iterator<Item = String> {
    claim_templates(set).iter().map(move |template| claim_name(set, template, ordinal))
}

/// The claim with the owners that the set's policy asks for, if it has others. `condemned`: its pod is one too many.
pub fn plan_owners(
    set: &StatefulSet,
    claim: &PersistentVolumeClaim,
    pod: &Pod,
    condemned: bool,
) -> Option<PersistentVolumeClaim> {
    let mut owners: Vec<OwnerReference> = claim.metadata.owner_references.clone().unwrap_or_default();
    // A controller of its own decides by itself.
    if owners.iter().any(|owner| owner.controller == Some(true)) {
        return None;
    }
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let is_pods = |owner: &OwnerReference| owner.kind == "Pod" && name.ends_with(&format!("-{}", owner.name));
    owners.retain(|owner| owner.uid != uid_of(&set.metadata) && !is_pods(owner));
    if condemned && goes_with_pod(set) {
        owners.push(owner::dependence_on(pod));
    } else if goes_with_set(set) {
        owners.push(owner::dependence_on(set));
    }
    if claim.metadata.owner_references.as_deref().unwrap_or_default() == owners {
        return None;
    }
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
        let owners = goes_with_set(set).then(|| vec![owner::dependence_on(set)]);
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
        let claimed = |template: &PersistentVolumeClaim| Volume {
            name: template.metadata.name.clone().unwrap_or_default(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(set, template, ordinal),
                read_only: Some(false),
            }),
            ..Volume::default()
        };
        let mut volumes: Vec<Volume> = claim_templates(set).iter().map(claimed).collect();
        let own = spec.volumes.take().unwrap_or_default();
        volumes.extend(own.into_iter().filter(|v| {
            claim_templates(set).iter().all(|template| template.metadata.name.as_deref() != Some(v.name.as_str()))
        }));
        spec.volumes = Some(volumes).filter(|volumes| !volumes.is_empty());
    }
    pod.metadata.name = Some(name);
    pod
}
