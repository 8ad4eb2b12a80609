//! What a pod may ask that this node can't give. It is said, and the pod waits: run without it, the pod would not be what
//! its author was promised.

use k8s_openapi::api::core::v1::{Container, PersistentVolumeSpec, Pod, Volume, VolumeProjection};
use serde_json::Value;
use skiff_api::volume as rules;

use crate::pod;

/// The sources of volumes that this node makes.
const VOLUMES: [&str; 11] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "hostPath",
    "image",
    "nfs",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
const PROJECTIONS: [&str; 5] = ["clusterTrustBundle", "configMap", "downwardAPI", "secret", "serviceAccountToken"];

/// The first thing that can't be given.
pub(crate) fn unsupported(pod: &Pod) -> Option<String> {
    let spec = pod::spec(pod);
    let asked = |what: &str| Some(format!("{what} not supported by this node"));
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return asked("dynamic resource allocation (resourceClaims) is");
    }
    for volume in spec.volumes.iter().flatten() {
        if let Some(kind) = other_field(volume, &VOLUMES) {
            return asked(&format!("{kind} volumes are"));
        }
        for projection in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            if let Some(kind) = other_field::<VolumeProjection>(projection, &PROJECTIONS) {
                return asked(&format!("{kind} projections are"));
            }
        }
    }
    pod::containers(pod).find_map(|(_, container)| in_container(pod, container))
}

fn in_container(pod: &Pod, container: &Container) -> Option<String> {
    let name = &container.name;
    let asked = |what: &str| Some(format!("{what} of the container {name:?} not supported by this node"));
    let mut mounts = container.volume_mounts.iter().flatten();
    // What it mounts belongs to its user namespace, and the host's never takes that.
    if pod::has_user_namespace(pod) && mounts.any(|m| m.mount_propagation.as_deref() == Some("Bidirectional")) {
        return asked("mountPropagation Bidirectional (with hostUsers: false)");
    }
    None
}

/// The name of a field that is set and not among `known`.
fn other_field<T: serde::Serialize>(value: &T, known: &[&str]) -> Option<String> {
    let value = serde_json::to_value(value).unwrap_or_default();
    let mut fields = value.as_object().into_iter().flatten().filter(|(_, v)| **v != Value::Null).map(|(k, _)| k);
    fields.find(|name| *name != "name" && !known.contains(&name.as_str())).cloned()
}

/// The field of a persistent volume's source, for a message.
pub(crate) fn source_of_volume(spec: &PersistentVolumeSpec) -> String {
    other_field(spec, &rules::NOT_SOURCE).unwrap_or_else(|| "unknown".to_owned())
}

/// The field of a volume's source, for a message.
pub(crate) fn source_kind(volume: &Volume) -> String {
    other_field(volume, &[]).unwrap_or_else(|| "unknown".to_owned())
}
