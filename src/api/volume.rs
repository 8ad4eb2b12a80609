//! Persistent volumes and claims: which belong together, and which volume will do for a claim. The controller that binds,
//! the scheduler that chooses a node and the node that mounts must never differ about it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use sha2::{Digest, Sha256};

use crate::node_selector::{self, Selected};
use crate::quantity::Quantity;
use crate::selector::LabelSelector;

/// On a claim: it was bound to its volume once. On both: who bound them was the controller, not a person.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it, and deletes it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: who is to make its volume.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
pub const BETA_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// On a claim: the node that the first pod will run on.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// The provisioner of classes whose volumes are made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// The fields of a volume's spec that say nothing of its source.
pub const NOT_SOURCE: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// An annotation that says something.
fn annotation<'a>(meta: &'a k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Empty: none.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let field = || claim.spec.as_ref()?.storage_class_name.as_deref();
    annotation(&claim.metadata, BETA_CLASS).or_else(field).unwrap_or_default()
}

/// Whether the claim leaves its class to the cluster.
pub fn names_no_class(claim: &PersistentVolumeClaim) -> bool {
    annotation(&claim.metadata, BETA_CLASS).is_none()
        && claim.spec.as_ref().is_none_or(|spec| spec.storage_class_name.is_none())
}

/// Empty: none.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let field = || volume.spec.as_ref()?.storage_class_name.as_deref();
    annotation(&volume.metadata, BETA_CLASS).or_else(field).unwrap_or_default()
}

/// The volume that the claim names; empty: none yet.
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

pub fn is_fully_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_name(claim).is_empty() && annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

/// The node that a pod of the claim was given.
pub fn selected_node(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(&claim.metadata, SELECTED_NODE)
}

/// Who is to make the claim's volume.
pub fn provisioner(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(&claim.metadata, PROVISIONER).or_else(|| annotation(&claim.metadata, BETA_PROVISIONER))
}

/// Who made the volume.
pub fn provisioned_by(volume: &PersistentVolume) -> Option<&str> {
    annotation(&volume.metadata, PROVISIONED_BY)
}

/// `Filesystem` or `Block`.
pub fn mode_of_claim(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()).unwrap_or("Filesystem")
}

/// `Filesystem` or `Block`.
pub fn mode_of_volume(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()).unwrap_or("Filesystem")
}

pub fn access_modes(claim: &PersistentVolumeClaim) -> &[String] {
    claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default()
}

/// Whether the volume is the claim's: bound to it, or kept for it by name.
pub fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    let uid = reference.uid.as_deref().unwrap_or_default();
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

/// What a volume says of the claim that it is kept for.
pub fn claim_reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        name: claim.metadata.name.clone(),
        namespace: claim.metadata.namespace.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

/// Whether the volume can be reached from the node.
pub fn is_reachable(volume: &PersistentVolume, node: &dyn Selected) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    affinity
        .and_then(|affinity| affinity.required.as_ref())
        .is_none_or(|required| node_selector::matches(required, node))
}

fn storage(
    amounts: Option<&std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
) -> Quantity {
    amounts.and_then(|amounts| amounts.get("storage")?.0.parse().ok()).unwrap_or(Quantity::ZERO)
}

/// How much a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    storage(resources.and_then(|resources| resources.requests.as_ref()))
}

pub fn capacity(volume: &PersistentVolume) -> Quantity {
    storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

/// Where a volume for a claim is looked for.
#[derive(Clone, Copy)]
pub enum Look<'a> {
    /// Anywhere; `delayed`: only volumes that are kept for the claim, since the scheduler chooses among others.
    Anywhere { delayed: bool },
    /// Reachable from a node, and none of `taken`, by name.
    On { node: &'a dyn Selected, taken: &'a dyn Fn(&str) -> bool },
}

/// The volume that is the claim's already, or the smallest free one that will do.
pub fn find_match(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    look: Look<'_>,
) -> Option<Arc<PersistentVolume>> {
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    // The API server lets no selector through that can't be read.
    let selector = selector.map(|s| LabelSelector::from_typed(Some(s)).unwrap_or_else(|_| LabelSelector::nothing()));
    let (asked, class) = (requested(claim), class_of_claim(claim));
    let mut best: Option<(usize, Quantity, &Arc<PersistentVolume>)> = None;
    for volume in volumes {
        let Some(spec) = &volume.spec else { continue };
        let bound = is_bound_to(volume, claim);
        if (spec.claim_ref.is_some() && !bound)
            || capacity(volume) < asked
            || mode_of_volume(volume) != mode_of_claim(claim)
            || volume.metadata.deletion_timestamp.is_some()
            || spec.volume_attributes_class_name.as_deref().unwrap_or_default()
                != claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref()).unwrap_or_default()
        {
            continue;
        }
        if let Look::On { taken, .. } = look
            && taken(volume.metadata.name.as_deref().unwrap_or_default())
        {
            continue;
        }
        let near = match look {
            Look::On { node, .. } => is_reachable(volume, node),
            Look::Anywhere { .. } => true,
        };
        if bound {
            // Kept for the claim: no other will do.
            return near.then(|| volume.clone());
        }
        let offered = spec.access_modes.as_deref().unwrap_or_default();
        let free = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Available");
        let labels = volume.metadata.labels.as_ref();
        if matches!(look, Look::Anywhere { delayed: true })
            || !near
            || !free
            || class_of_volume(volume) != class
            || !access_modes(claim).iter().all(|mode| offered.contains(mode))
            || !selector.as_ref().is_none_or(|s| s.matches_with(|key| labels?.get(key).map(String::as_str)))
        {
            continue;
        }
        // One that can be used in fewer ways is kept for nobody else.
        let candidate = (offered.len(), capacity(volume), volume);
        if best.as_ref().is_none_or(|best| (candidate.0, candidate.1) < (best.0, best.1)) {
            best = Some(candidate);
        }
    }
    best.map(|(_, _, volume)| volume.clone())
}

/// A claim that a pod has, by the pod's volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodClaim {
    pub volume: String,
    pub claim: String,
    /// Made for the pod alone, from a template in it.
    pub ephemeral: bool,
    pub read_only: bool,
}

/// The claims of a pod's volumes.
pub fn claims_of(pod: &Pod) -> impl Iterator<Item = PodClaim> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter_map(|volume| {
        let named = volume.persistent_volume_claim.as_ref();
        let claim = match named {
            Some(source) => source.claim_name.clone(),
            None => {
                volume.ephemeral.as_ref()?;
                ephemeral_name(pod, &volume.name)
            }
        };
        Some(PodClaim {
            volume: volume.name.clone(),
            claim,
            ephemeral: named.is_none(),
            read_only: named.is_some_and(|source| source.read_only == Some(true)),
        })
    })
}

/// The name of the claim that is made for an ephemeral volume.
pub fn ephemeral_name(pod: &Pod, volume: &str) -> String {
    format!("{}-{volume}", pod.metadata.name.as_deref().unwrap_or_default())
}

/// Whether the claim was made for the pod's ephemeral volume; else why it may not be used.
pub fn is_for_pod(pod: &Pod, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|owner| owner.controller == Some(true));
    if owner.is_some_and(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref()) {
        return Ok(());
    }
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Err(format!(
        "PVC {}/{} was not created for pod {}/{} (pod is not owner)",
        text(&claim.metadata.namespace),
        text(&claim.metadata.name),
        text(&pod.metadata.namespace),
        text(&pod.metadata.name)
    ))
}

/// The name of the object by which a volume of a CSI driver is attached to a node.
pub fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", digest(&format!("{handle}{driver}{node}")))
}

/// Whether an attachment has a name of that kind: one with another name was made by somebody else.
pub fn is_attachment_name(name: &str) -> bool {
    let digest = name.strip_prefix("csi-").unwrap_or_default();
    digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// How a node's status names a volume that is in use.
pub fn name_in_use(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// SHA-256, as hexadecimal digits: for names of any length that must become names of files and objects.
pub fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let meta = json!({"name": "c", "namespace": "n", "uid": "u"});
        let mut all = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}});
        all.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
        serde_json::from_value(json!({"metadata": meta, "spec": all})).expect("a claim")
    }

    fn volume(name: &str, size: &str, more: Value) -> Arc<PersistentVolume> {
        let mut spec = json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"]});
        spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let meta = json!({"name": name, "labels": {"disk": name}});
        let value = json!({"metadata": meta, "spec": spec, "status": {"phase": "Available"}});
        Arc::new(serde_json::from_value(value).expect("a volume"))
    }

    struct Node(&'static str);

    impl Selected for Node {
        fn name(&self) -> &str {
            self.0
        }

        fn label(&self, key: &str) -> Option<&str> {
            (key == "zone").then_some(self.0)
        }
    }

    #[test]
    fn the_smallest_that_will_do() {
        let near = |zone: &str| {
            json!({"nodeAffinity": {"required": {"nodeSelectorTerms":
                [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]}}})
        };
        let kept = |uid: Value| json!({"claimRef": {"name": "c", "namespace": "n", "uid": uid}});
        let all = vec![
            volume("tiny", "1Gi", json!({})),
            volume("big", "9Gi", json!({})),
            volume("right", "3Gi", json!({})),
            volume("ways", "2Gi", json!({"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]})),
            volume("block", "2Gi", json!({"volumeMode": "Block"})),
            volume("classy", "2Gi", json!({"storageClassName": "x"})),
            volume("others", "2Gi", json!({"claimRef": {"name": "d", "namespace": "n"}})),
        ];
        let anywhere = Look::Anywhere { delayed: false };
        let name = |claim: &PersistentVolumeClaim, all: &[Arc<PersistentVolume>], look: Look<'_>| {
            find_match(claim, all, look).and_then(|volume| volume.metadata.name.clone())
        };
        for (spec, expect) in [
            (json!({}), Some("right")),
            (json!({"accessModes": ["ReadOnlyMany"]}), Some("ways")),
            (json!({"accessModes": ["ReadWriteMany"]}), None),
            (json!({"volumeMode": "Block"}), Some("block")),
            (json!({"storageClassName": "x"}), Some("classy")),
            (json!({"storageClassName": "y"}), None),
            (json!({"selector": {"matchLabels": {"disk": "big"}}}), Some("big")),
            (json!({"resources": {"requests": {"storage": "10Gi"}}}), None),
        ] {
            assert_eq!(name(&claim(spec.clone()), &all, anywhere).as_deref(), expect, "{spec}");
        }
        // What waits for the first pod is bound only to what is kept for it.
        let delayed = Look::Anywhere { delayed: true };
        assert_eq!(name(&claim(json!({})), &all, delayed), None);
        let mut more = all.clone();
        more.push(volume("kept", "8Gi", kept(json!(null))));
        assert_eq!(name(&claim(json!({})), &more, delayed).as_deref(), Some("kept"));
        assert_eq!(name(&claim(json!({})), &more, anywhere).as_deref(), Some("kept"));
        let another = vec![volume("kept", "8Gi", kept(json!("other")))];
        assert_eq!(name(&claim(json!({})), &another, anywhere), None);
        // From a node only what it reaches, and nothing twice.
        let zones = vec![volume("far", "2Gi", near("b")), volume("near", "3Gi", near("a"))];
        let on = |taken: &dyn Fn(&str) -> bool| name(&claim(json!({})), &zones, Look::On { node: &Node("a"), taken });
        assert_eq!(on(&|_| false).as_deref(), Some("near"));
        assert_eq!(on(&|name| name == "near"), None);
    }

    #[test]
    fn names_of_attachments() {
        // sha256 of "volumedrivernode".
        let name = attachment_name("volume", "driver", "node");
        assert_eq!((name.len(), &name[..4]), (68, "csi-"));
        assert!(is_attachment_name(&name));
        for foreign in ["", "csi-", "by-hand", &name[4..], &name[..67], &name.to_uppercase()] {
            assert!(!is_attachment_name(foreign), "{foreign}");
        }
        assert_eq!(digest(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn claims_of_pods() {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": [], "volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "x", "readOnly": true}}, {"name": "b", "emptyDir": {}},
            {"name": "c", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]}}),
        )
        .expect("a pod");
        let found: Vec<_> = claims_of(&pod).map(|c| (c.volume, c.claim, c.ephemeral, c.read_only)).collect();
        let expect = [("a", "x", false, true), ("c", "p-c", true, false)];
        assert_eq!(found, expect.map(|(v, c, e, r)| (v.to_owned(), c.to_owned(), e, r)));
        let mut owned = claim(json!({}));
        let why = "PVC n/c was not created for pod n/p (pod is not owner)";
        assert_eq!(is_for_pod(&pod, &owned), Err(why.to_owned()));
        let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]);
        owned.metadata.owner_references = serde_json::from_value(owner).expect("owners");
        assert_eq!(is_for_pod(&pod, &owned), Ok(()));
    }
}
