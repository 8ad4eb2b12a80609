//! PersistentVolume.

use k8s_openapi::api::core::v1 as core;
use serde_json::{Map, Value, json};

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{
    csi_driver_name, dns_subdomain, immutable, no_backsteps, one_of_if_set, positive_quantity, required, text,
};
use crate::kinds::core::pod::{defaults, validate};
use crate::kinds::facts::{self, AGE, Col, Facts, NAME, wide};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::Row;
use crate::kinds::warnings;
use crate::strategy::Subresource;
use crate::volume::NOT_SOURCE;

pub(super) const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
pub(super) const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
const RECLAIM_POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
pub(super) const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const OLD_ANNOTATIONS: &[(&str, &str)] = &[
    (CLASS_ANNOTATION, "deprecated since v1.8; use \"storageClassName\" attribute instead"),
    ("volume.beta.kubernetes.io/mount-options", "deprecated since v1.31; use \"mountOptions\" attribute instead"),
];
/// Sources on their way out, their names in messages, and what is said of them.
const OLD_SOURCES: &[(&str, &str, &str)] = &[
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const INLINE: &str = "may not be specified in the context of inline volumes";

/// The columns that volumes and claims share.
pub(super) const STATUS: Col = facts::text("Status", "Whether it is bound.");
pub(super) const ACCESS: Col = facts::text("Access Modes", "Who may use it at the same time.");
pub(super) const CLASS: Col = facts::text("StorageClass", "Its class.");
pub(super) const ATTRIBUTES: Col = facts::text("VolumeAttributesClass", "The class of its attributes.");
pub(super) const MODE: Col = wide("VolumeMode", "Whether it has a file system.");

pub(super) struct PersistentVolumes;

impl Kind for PersistentVolumes {
    type Typed = core::PersistentVolume;
    const FACTS: Facts = Facts {
        short_names: &["pv"],
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: &[
            NAME,
            facts::text("Capacity", "How big it is."),
            ACCESS,
            facts::text("Reclaim Policy", "What becomes of it when its claim is gone."),
            STATUS,
            facts::text("Claim", "The claim that it is bound to."),
            CLASS,
            ATTRIBUTES,
            facts::text("Reason", "Why it is in this state."),
            AGE,
            MODE,
        ],
        ..Facts::new("", "v1", "persistentvolumes", "PersistentVolume")
    };

    fn default(volume: &mut Value) {
        let Some(spec) = spec_of(volume) else { return };
        spec.fill("persistentVolumeReclaimPolicy", "Retain");
        spec.fill("volumeMode", "Filesystem");
        if let Some(capacity) = spec.existing("capacity") {
            defaults::resource_list(capacity);
        }
        defaults::source(spec);
    }

    fn prepare_create(volume: &mut Value) {
        let created = volume.at("metadata.creationTimestamp").clone();
        if let Some(map) = volume.as_object_mut() {
            map.insert("status".to_owned(), json!({"phase": "Pending", "lastPhaseTransitionTime": created}));
        }
    }

    fn validate(volume: &core::PersistentVolume, errors: &mut Errors) {
        let empty = core::PersistentVolumeSpec::default();
        let spec = volume.spec.as_ref().unwrap_or(&empty);
        let path = Path::new("spec");
        access_modes(spec.access_modes.as_deref().unwrap_or_default(), "", &path, errors);
        capacity(spec, &path.child("capacity"), errors);
        let policy = &spec.persistent_volume_reclaim_policy;
        one_of_if_set(policy, RECLAIM_POLICIES, &path.child("persistentVolumeReclaimPolicy"), errors);
        source(spec, &path, errors);
        if spec.host_path.as_ref().is_some_and(|h| is_root(&h.path)) && policy.as_deref() == Some("Recycle") {
            let message = "may not be 'recycle' for a hostPath mount of '/'";
            errors.forbidden(&path.child("persistentVolumeReclaimPolicy"), message);
        }
        if !text(&spec.storage_class_name).is_empty() {
            dns_subdomain(text(&spec.storage_class_name), &path.child("storageClassName"), errors);
        }
        one_of_if_set(&spec.volume_mode, VOLUME_MODES, &path.child("volumeMode"), errors);
        if let Some(class) = &spec.volume_attributes_class_name {
            attributes_class(class, spec, &path, errors);
        }
    }

    fn validate_update(volume: &core::PersistentVolume, old: &core::PersistentVolume, errors: &mut Errors) {
        Self::validate(volume, errors);
        let (Some(new), Some(old)) = (&volume.spec, &old.spec) else { return };
        same_source(new, old, errors);
        immutable(&new.volume_mode, &old.volume_mode, &Path::new("volumeMode"), errors);
        if old.node_affinity.is_some() {
            immutable(&new.node_affinity, &old.node_affinity, &Path::new("nodeAffinity"), errors);
        }
        if old.volume_attributes_class_name.is_some() && new.volume_attributes_class_name.is_none() {
            let path = Path::new("spec");
            let message = "update from non-nil value to nil is forbidden";
            errors.forbidden(&path.child("volumeAttributesClassName"), message);
        }
    }

    fn warnings(volume: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        warnings::annotations(volume, OLD_ANNOTATIONS, "", &mut out);
        if volume.text("spec.persistentVolumeReclaimPolicy") == "Recycle" {
            let message = "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic \
                           provisioning.";
            out.push(format!("spec.persistentVolumeReclaimPolicy: {message}"));
        }
        let terms = "spec.nodeAffinity.required.nodeSelectorTerms";
        for (i, term) in volume.list(terms).iter().enumerate() {
            warnings::expressions(term, "matchExpressions", false, &format!("{terms}[{i}]"), &mut out);
        }
        for (_, name, what) in OLD_SOURCES.iter().filter(|(source, ..)| volume.at("spec").at(source).is_object()) {
            out.push(format!("spec.{name}: {what}"));
        }
        out
    }

    fn cells(volume: &Value, row: &mut Row) {
        let claim = match (volume.text("spec.claimRef.namespace"), volume.text("spec.claimRef.name")) {
            ("", "") => String::new(),
            (namespace, name) => format!("{namespace}/{name}"),
        };
        row.name(volume);
        row.push(volume.text("spec.capacity.storage"));
        row.push(short_modes(volume.list("spec.accessModes")));
        row.push(volume.text("spec.persistentVolumeReclaimPolicy"));
        row.push(phase(volume));
        row.push(claim);
        row.push(class(volume));
        row.or(volume.text("spec.volumeAttributesClassName"), "<unset>");
        row.push(volume.text("status.reason"));
        row.age(volume);
        row.or(volume.text("spec.volumeMode"), "<unset>");
    }
}

/// `RWO,ROX`, always in this order.
pub(super) fn short_modes(modes: &[Value]) -> String {
    let names =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let set: Vec<&str> = names.iter().filter(|(mode, _)| modes.iter().any(|m| m == mode)).map(|(_, s)| *s).collect();
    set.join(",")
}

/// What a table shows for the phase.
pub(super) fn phase(object: &Value) -> &str {
    if object.at("metadata.deletionTimestamp").is_null() { object.text("status.phase") } else { "Terminating" }
}

/// The storage class of a volume or a claim; an old annotation has the first word.
pub(super) fn class(object: &Value) -> &str {
    let annotation = object.at("metadata.annotations").get(CLASS_ANNOTATION).and_then(Value::as_str);
    annotation.unwrap_or_else(|| object.text("spec.storageClassName"))
}

/// Of volumes and claims.
pub(super) fn access_modes(modes: &[String], none: &str, spec: &Path<'_>, errors: &mut Errors) {
    let path = spec.child("accessModes");
    if modes.is_empty() {
        errors.required(&path, none);
    }
    for mode in modes.iter().filter(|m| !ACCESS_MODES.contains(&m.as_str())) {
        errors.not_supported(&path, mode, ACCESS_MODES);
    }
    let known = |mode: &&String| ACCESS_MODES.contains(&mode.as_str());
    if modes.iter().any(|m| m == "ReadWriteOncePod") && modes.iter().filter(known).any(|m| m != "ReadWriteOncePod") {
        errors.forbidden(&path, "may not use ReadWriteOncePod with other access modes");
    }
}

fn capacity(spec: &core::PersistentVolumeSpec, path: &Path<'_>, errors: &mut Errors) {
    let empty = std::collections::BTreeMap::new();
    let capacity = spec.capacity.as_ref().unwrap_or(&empty);
    if capacity.is_empty() {
        errors.required(path, "");
    }
    if !capacity.contains_key("storage") || capacity.len() > 1 {
        errors.not_supported(path, capacity, &["storage"]);
    }
    for (name, amount) in capacity {
        positive_quantity(amount, &path.key(name), errors);
    }
}

fn attributes_class(class: &str, spec: &core::PersistentVolumeSpec, path: &Path<'_>, errors: &mut Errors) {
    if class.is_empty() {
        errors.required(&path.child("volumeAttributesClassName"), "an empty string is disallowed");
    } else {
        dns_subdomain(class, &path.child("volumeAttributesClassName"), errors);
    }
    if spec.csi.is_none() {
        errors.required(&path.child("csi"), "has to be specified when using volumeAttributesClassName");
    }
}

fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| matches!(part, "" | "."))
}

/// The volume of an attachment that no object stands for.
pub(in crate::kinds) fn inline(spec: &core::PersistentVolumeSpec, path: &Path<'_>, errors: &mut Errors) {
    for (field, set) in [
        ("claimRef", spec.claim_ref.is_some()),
        ("capacity", spec.capacity.as_ref().is_some_and(|c| !c.is_empty())),
        ("nodeAffinity", spec.node_affinity.is_some()),
        ("storageClassName", !text(&spec.storage_class_name).is_empty()),
    ] {
        if set {
            errors.forbidden(&path.child(field), INLINE);
        }
    }
    access_modes(spec.access_modes.as_deref().unwrap_or_default(), "", path, errors);
    match &spec.csi {
        None => errors.required(&path.child("csi"), "has to be specified in the context of inline volumes"),
        Some(source) => csi(source, &path.child("csi"), errors),
    }
}

fn same_source(new: &core::PersistentVolumeSpec, old: &core::PersistentVolumeSpec, errors: &mut Errors) {
    let source = |spec: &core::PersistentVolumeSpec| {
        let mut value = serde_json::to_value(spec).unwrap_or_default();
        if let Some(map) = value.as_object_mut() {
            map.retain(|key, _| !NOT_SOURCE.contains(&key.as_str()));
        }
        value
    };
    let (mut new, old) = (source(new), source(old));
    // The secret for expansion may come later.
    if old.at("csi").is_object()
        && old.at("csi.controllerExpandSecretRef").is_null()
        && let Some(csi) = new.get_mut("csi").and_then(Value::as_object_mut)
    {
        csi.remove("controllerExpandSecretRef");
    }
    let mut differences = Vec::new();
    validate::update::diff("spec", &old, &new, &mut differences);
    if !differences.is_empty() {
        let path = Path::new("spec");
        let message = format!("spec.persistentvolumesource is immutable after creation\n{}", differences.join("\n"));
        errors.forbidden(&path.child("persistentvolumesource"), &message);
    }
}

/// Checks one source; the path is the source's.
type Check = fn(&core::PersistentVolumeSpec, &Path<'_>, &mut Errors);

fn source(spec: &core::PersistentVolumeSpec, path: &Path<'_>, errors: &mut Errors) {
    let affinity = path.child("nodeAffinity");
    if let Some(node_affinity) = &spec.node_affinity {
        match &node_affinity.required {
            Some(selector) => validate::node_selector(selector, &affinity.child("required"), errors),
            None => errors.required(&affinity.child("required"), "must specify required node constraints"),
        }
    }
    let sources: [(bool, &str, Check); 21] = [
        (spec.host_path.is_some(), "hostPath", as_of_pods),
        (spec.gce_persistent_disk.is_some(), "gcePersistentDisk", as_of_pods),
        (spec.aws_elastic_block_store.is_some(), "awsElasticBlockStore", as_of_pods),
        (spec.glusterfs.is_some(), "glusterfs", other),
        (spec.flocker.is_some(), "flocker", as_of_pods),
        (spec.nfs.is_some(), "nfs", as_of_pods),
        (spec.rbd.is_some(), "rbd", other),
        (spec.quobyte.is_some(), "quobyte", as_of_pods),
        (spec.cephfs.is_some(), "cephfs", other),
        (spec.iscsi.is_some(), "iscsi", other),
        (spec.cinder.is_some(), "cinder", other),
        (spec.fc.is_some(), "fc", as_of_pods),
        (spec.flex_volume.is_some(), "flexVolume", other),
        (spec.azure_file.is_some(), "azureFile", other),
        (spec.vsphere_volume.is_some(), "vsphereVolume", as_of_pods),
        (spec.photon_persistent_disk.is_some(), "photonPersistentDisk", as_of_pods),
        (spec.portworx_volume.is_some(), "portworxVolume", as_of_pods),
        (spec.azure_disk.is_some(), "azureDisk", as_of_pods),
        (spec.scale_io.is_some() || spec.storageos.is_some(), "scaleIO", other),
        (spec.local.is_some(), "local", local),
        (spec.csi.is_some(), "csi", |s, p, e| s.csi.iter().for_each(|source| csi(source, p, e))),
    ];
    let mut set = sources.iter().filter(|(set, ..)| *set);
    match set.next() {
        None => errors.required(path, "must specify a volume type"),
        Some((_, name, check)) => check(spec, &path.child(name), errors),
    }
    for (_, name, _) in set {
        errors.forbidden(&path.child(name), "may not specify more than 1 volume type");
    }
    if spec.local.is_some() && spec.node_affinity.as_ref().is_none_or(|a| a.required.is_none()) {
        errors.required(&affinity, "Local volume requires node affinity");
    }
}

fn as_of_pods(spec: &core::PersistentVolumeSpec, path: &Path<'_>, errors: &mut Errors) {
    let volume = core::Volume {
        host_path: spec.host_path.clone(),
        gce_persistent_disk: spec.gce_persistent_disk.clone(),
        aws_elastic_block_store: spec.aws_elastic_block_store.clone(),
        flocker: spec.flocker.clone(),
        nfs: spec.nfs.clone(),
        quobyte: spec.quobyte.clone(),
        fc: spec.fc.clone(),
        vsphere_volume: spec.vsphere_volume.clone(),
        photon_persistent_disk: spec.photon_persistent_disk.clone(),
        portworx_volume: spec.portworx_volume.clone(),
        azure_disk: spec.azure_disk.clone(),
        ..core::Volume::default()
    };
    validate::same_source(&volume, path, errors);
}

/// Required fields of sources that only exist for compatibility: drivers have long moved out.
fn other(spec: &core::PersistentVolumeSpec, path: &Path<'_>, errors: &mut Errors) {
    let mut need = |field: &str, value: &str| required(value, &path.child(field), errors);
    if let Some(s) = &spec.glusterfs {
        need("endpoints", &s.endpoints);
        need("path", &s.path);
    } else if let Some(s) = &spec.rbd {
        need("monitors", s.monitors.first().map_or("", String::as_str));
        need("image", &s.image);
    } else if let Some(s) = &spec.cephfs {
        need("monitors", s.monitors.first().map_or("", String::as_str));
    } else if let Some(s) = &spec.iscsi {
        need("targetPortal", &s.target_portal);
        need("iqn", &s.iqn);
    } else if let Some(s) = &spec.cinder {
        need("volumeID", &s.volume_id);
    } else if let Some(s) = &spec.flex_volume {
        need("driver", &s.driver);
    } else if let Some(s) = &spec.azure_file {
        need("secretName", &s.secret_name);
        need("shareName", &s.share_name);
    } else if let Some(s) = &spec.scale_io {
        need("gateway", &s.gateway);
        need("system", &s.system);
        need("volumeName", text(&s.volume_name));
    } else if let Some(s) = &spec.storageos {
        need("volumeName", text(&s.volume_name));
    }
}

fn local(spec: &core::PersistentVolumeSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(local) = &spec.local else { return };
    required(&local.path, &path.child("path"), errors);
    no_backsteps(&local.path, &path.child("path"), errors);
}

fn csi(source: &core::CSIPersistentVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    csi_driver_name(&source.driver, &path.child("driver"), errors);
    required(&source.volume_handle, &path.child("volumeHandle"), errors);
    for (field, reference) in [
        ("controllerPublishSecretRef", &source.controller_publish_secret_ref),
        ("controllerExpandSecretRef", &source.controller_expand_secret_ref),
        ("nodePublishSecretRef", &source.node_publish_secret_ref),
        ("nodeExpandSecretRef", &source.node_expand_secret_ref),
    ] {
        let Some(reference) = reference else { continue };
        let path = path.child(field);
        required(text(&reference.name), &path.child("name"), errors);
        required(text(&reference.namespace), &path.child("namespace"), errors);
    }
}

/// Quantities of a status in their canonical form.
pub(super) fn canonical_capacity(status: Option<&mut Map<String, Value>>) {
    if let Some(status) = status {
        for list in ["capacity", "allocatedResources"] {
            if let Some(list) = status.existing(list) {
                defaults::resource_list(list);
            }
        }
    }
}
