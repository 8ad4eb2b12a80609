//! Volumes of all sources.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;

use super::container::{VOLUME_FIELDS, field_ref};
use super::resources::resource_field_ref;
use crate::field::{Errors, Path};
use crate::kinds::checks::{
    dns_label, dns_subdomain, file_mode, is_absolute, label_selector, local_path, no_backsteps, one_of_if_set,
    quantity, required, template_metadata, text,
};
use crate::kinds::core::persistent_volume_claim::claim_spec;
use crate::names;

const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const TOKEN_MIN_S: i64 = 600;
const TOKEN_MAX_S: i64 = 1 << 32;

/// The good ones, by name.
pub(super) fn volumes<'a>(
    volumes: &'a [core::Volume],
    pod: Option<&str>,
    list: &Path<'_>,
    errors: &mut Errors,
) -> BTreeMap<&'a str, &'a core::Volume> {
    let mut good: BTreeMap<&str, &core::Volume> = BTreeMap::new();
    let pod = pod.filter(|name| !name.is_empty());
    let created: BTreeSet<String> =
        volumes.iter().filter(|v| v.ephemeral.is_some()).filter_map(|v| Some(format!("{}-{}", pod?, v.name))).collect();
    for (i, volume) in volumes.iter().enumerate() {
        let path = list.index(i);
        let before = errors.len();
        source(volume, pod, &path, errors);
        if volume.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            dns_label(&volume.name, &path.child("name"), errors);
        }
        if good.contains_key(volume.name.as_str()) {
            errors.duplicate(&path.child("name"), &volume.name);
        }
        if errors.len() == before {
            good.insert(&volume.name, volume);
        }
        if let Some(claim) = volume.persistent_volume_claim.as_ref().filter(|c| created.contains(&c.claim_name)) {
            let message = "must not reference a PVC that gets created for an ephemeral volume";
            errors.invalid(&path.child("persistentVolumeClaim.claimName"), &claim.claim_name, message);
        }
    }
    good
}

/// Checks one source; the path is the source's.
type Check = fn(&core::Volume, &Path<'_>, &mut Errors);

fn source(volume: &core::Volume, pod: Option<&str>, path: &Path<'_>, errors: &mut Errors) {
    let sources: [(bool, &str, Check); 30] = [
        (volume.empty_dir.is_some(), "emptyDir", empty_dir),
        (volume.host_path.is_some(), "hostPath", host_path),
        (volume.git_repo.is_some(), "gitRepo", git_repo),
        (volume.gce_persistent_disk.is_some(), "gcePersistentDisk", remote),
        (volume.aws_elastic_block_store.is_some(), "awsElasticBlockStore", remote),
        (volume.secret.is_some(), "secret", secret),
        (volume.nfs.is_some(), "nfs", nfs),
        (volume.iscsi.is_some(), "iscsi", remote),
        (volume.glusterfs.is_some(), "glusterfs", remote),
        (volume.flocker.is_some(), "flocker", remote),
        (volume.persistent_volume_claim.is_some(), "persistentVolumeClaim", claim),
        (volume.rbd.is_some(), "rbd", remote),
        (volume.cinder.is_some(), "cinder", remote),
        (volume.cephfs.is_some(), "cephfs", remote),
        (volume.quobyte.is_some(), "quobyte", remote),
        (volume.downward_api.is_some(), "downwardAPI", downward_api),
        (volume.fc.is_some(), "fc", remote),
        (volume.flex_volume.is_some(), "flexVolume", remote),
        (volume.config_map.is_some(), "configMap", config_map),
        (volume.azure_file.is_some(), "azureFile", remote),
        (volume.vsphere_volume.is_some(), "vsphereVolume", remote),
        (volume.photon_persistent_disk.is_some(), "photonPersistentDisk", remote),
        (volume.portworx_volume.is_some(), "portworxVolume", remote),
        (volume.azure_disk.is_some(), "azureDisk", remote),
        (volume.storageos.is_some(), "storageos", remote),
        (volume.projected.is_some(), "projected", projected),
        (volume.scale_io.is_some(), "scaleIO", remote),
        (volume.csi.is_some(), "csi", csi),
        (volume.ephemeral.is_some(), "ephemeral", ephemeral),
        (volume.image.is_some(), "image", image),
    ];
    let mut set = sources.iter().filter(|(set, ..)| *set);
    match set.next() {
        None => errors.required(path, "must specify a volume type"),
        Some((_, name, check)) => check(volume, &path.child(name), errors),
    }
    for (_, name, _) in set {
        errors.forbidden(&path.child(name), "may not specify more than 1 volume type");
    }
    if let (Some(_), Some(pod)) = (&volume.ephemeral, pod)
        && !volume.name.is_empty()
    {
        let claim = format!("{pod}-{}", volume.name);
        for message in names::dns_subdomain(&claim) {
            errors.invalid(&path.child("name"), &volume.name, &format!("PVC name {claim:?}: {message}"));
        }
    }
    if pod.is_some() && volume.image.as_ref().is_some_and(|i| text(&i.reference).is_empty()) {
        errors.required(&path.child("image.reference"), "");
    }
}

/// A source that persistent volumes have in the same form.
pub(in crate::kinds::core) fn same_source(volume: &core::Volume, path: &Path<'_>, errors: &mut Errors) {
    match () {
        () if volume.host_path.is_some() => host_path(volume, path, errors),
        () if volume.nfs.is_some() => nfs(volume, path, errors),
        () => remote(volume, path, errors),
    }
}

fn empty_dir(volume: &core::Volume, path: &Path<'_>, errors: &mut Errors) {
    let limit = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref());
    if let Some(limit) = limit
        && quantity(limit, &path.child("sizeLimit"), errors).is_negative()
    {
        errors.forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
}

fn host_path(volume: &core::Volume, path: &Path<'_>, errors: &mut Errors) {
    let Some(source) = &volume.host_path else { return };
    if source.path.is_empty() {
        return errors.required(&path.child("path"), "");
    }
    no_backsteps(&source.path, &path.child("path"), errors);
    one_of_if_set(&source.type_, HOST_PATH_TYPES, &path.child("type"), errors);
}

fn git_repo(volume: &core::Volume, path: &Path<'_>, errors: &mut Errors) {
    let Some(source) = &volume.git_repo else { return };
    required(&source.repository, &path.child("repository"), errors);
    local_path(text(&source.directory), &path.child("directory"), errors);
}

fn nfs(volume: &core::Volume, path: &Path<'_>, errors: &mut Errors) {
    let Some(source) = &volume.nfs else { return };
    required(&source.server, &path.child("server"), errors);
    required(&source.path, &path.child("path"), errors);
    if !is_absolute(&source.path) {
        errors.invalid(&path.child("path"), &source.path, "must be an absolute path");
    }
}

/// Required fields of sources that only exist for compatibility: drivers have long moved out.
fn remote(volume: &core::Volume, path: &Path<'_>, errors: &mut Errors) {
    let mut need = |field: &str, value: &str| required(value, &path.child(field), errors);
    if let Some(s) = &volume.gce_persistent_disk {
        need("pdName", &s.pd_name);
    } else if let Some(s) = &volume.aws_elastic_block_store {
        need("volumeID", &s.volume_id);
    } else if let Some(s) = &volume.iscsi {
        need("targetPortal", &s.target_portal);
        need("iqn", &s.iqn);
    } else if let Some(s) = &volume.glusterfs {
        need("endpoints", &s.endpoints);
        need("path", &s.path);
    } else if let Some(s) = &volume.rbd {
        need("image", &s.image);
        if s.monitors.is_empty() {
            need("monitors", "");
        }
    } else if let Some(s) = &volume.cinder {
        need("volumeID", &s.volume_id);
    } else if let Some(s) = &volume.cephfs {
        if s.monitors.is_empty() {
            need("monitors", "");
        }
    } else if let Some(s) = &volume.quobyte {
        need("registry", &s.registry);
        need("volume", &s.volume);
    } else if let Some(s) = &volume.flex_volume {
        need("driver", &s.driver);
    } else if let Some(s) = &volume.azure_file {
        need("secretName", &s.secret_name);
        need("shareName", &s.share_name);
    } else if let Some(s) = &volume.vsphere_volume {
        need("volumePath", &s.volume_path);
    } else if let Some(s) = &volume.photon_persistent_disk {
        need("pdID", &s.pd_id);
    } else if let Some(s) = &volume.portworx_volume {
        need("volumeID", &s.volume_id);
    } else if let Some(s) = &volume.azure_disk {
        need("diskName", &s.disk_name);
        need("diskURI", &s.disk_uri);
    } else if let Some(s) = &volume.storageos {
        need("volumeName", text(&s.volume_name));
    } else if let Some(s) = &volume.scale_io {
        need("gateway", &s.gateway);
        need("system", &s.system);
        need("volumeName", text(&s.volume_name));
    } else if let Some(s) = &volume.flocker {
        match (text(&s.dataset_name), text(&s.dataset_uuid)) {
            ("", "") => errors.required(path, "one of datasetName and datasetUUID is required"),
            (name, id) if !name.is_empty() && !id.is_empty() => {
                errors.invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously");
            }
            _ => {}
        }
    } else if let Some(s) = &volume.fc {
        let (names, wwids) = (s.target_wwns.as_deref().unwrap_or_default(), s.wwids.as_deref().unwrap_or_default());
        if names.is_empty() && wwids.is_empty() {
            errors.required(&path.child("targetWWNs"), "must specify either targetWWNs or wwids, but not both");
        }
    }
}

fn key_to_path(items: &[core::KeyToPath], list: &Path<'_>, errors: &mut Errors) {
    for (i, item) in items.iter().enumerate() {
        let path = list.index(i);
        required(&item.key, &path.child("key"), errors);
        required(&item.path, &path.child("path"), errors);
        local_path(&item.path, &path.child("path"), errors);
        file_mode(item.mode, &path.child("mode"), errors);
    }
}

fn secret(volume: &core::Volume, path: &Path<'_>, errors: &mut Errors) {
    let Some(source) = &volume.secret else { return };
    required(text(&source.secret_name), &path.child("secretName"), errors);
    file_mode(source.default_mode, &path.child("defaultMode"), errors);
    key_to_path(source.items.as_deref().unwrap_or_default(), &path.child("items"), errors);
}

fn config_map(volume: &core::Volume, path: &Path<'_>, errors: &mut Errors) {
    let Some(source) = &volume.config_map else { return };
    required(&source.name, &path.child("name"), errors);
    file_mode(source.default_mode, &path.child("defaultMode"), errors);
    key_to_path(source.items.as_deref().unwrap_or_default(), &path.child("items"), errors);
}

fn claim(volume: &core::Volume, path: &Path<'_>, errors: &mut Errors) {
    let Some(source) = &volume.persistent_volume_claim else { return };
    required(&source.claim_name, &path.child("claimName"), errors);
}

fn downward_api(volume: &core::Volume, path: &Path<'_>, errors: &mut Errors) {
    let Some(source) = &volume.downward_api else { return };
    file_mode(source.default_mode, &path.child("defaultMode"), errors);
    for file in source.items.iter().flatten() {
        downward_file(file, path, errors);
    }
}

fn downward_file(file: &core::DownwardAPIVolumeFile, path: &Path<'_>, errors: &mut Errors) {
    required(&file.path, &path.child("path"), errors);
    local_path(&file.path, &path.child("path"), errors);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            field_ref(field, VOLUME_FIELDS, &path.child("fieldRef"), errors);
            if resource.is_some() {
                errors.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (None, Some(resource)) => resource_field_ref(resource, true, &path.child("resourceFieldRef"), errors),
        (None, None) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    file_mode(file.mode, &path.child("mode"), errors);
}

fn projected(volume: &core::Volume, path: &Path<'_>, errors: &mut Errors) {
    let Some(volume) = &volume.projected else { return };
    file_mode(volume.default_mode, &path.child("defaultMode"), errors);
    let list = path.child("sources");
    let mut paths = BTreeSet::new();
    let mut taken = |file: &str, shown: &str, errors: &mut Errors| {
        if !file.is_empty() && !paths.insert(file.to_owned()) {
            errors.invalid(path, shown, "conflicting duplicate paths");
        }
    };
    for (i, source) in volume.sources.iter().flatten().enumerate() {
        let element = list.index(i);
        let mut count = 0;
        let named = [
            ("secret", source.secret.as_ref().map(|s| (&s.name, &s.items))),
            ("configMap", source.config_map.as_ref().map(|s| (&s.name, &s.items))),
        ];
        for (field, (name, items)) in named.into_iter().filter_map(|(f, s)| Some((f, s?))) {
            count += 1;
            let (path, items) = (element.child(field), items.as_deref().unwrap_or_default());
            required(name, &path.child("name"), errors);
            key_to_path(items, &path.child("items"), errors);
            for item in items {
                taken(&item.path, name, errors);
            }
        }
        if let Some(api) = &source.downward_api {
            count += 1;
            for file in api.items.iter().flatten() {
                downward_file(file, &element.child("downwardAPI"), errors);
                taken(&file.path, &file.path, errors);
            }
        }
        if let Some(token) = &source.service_account_token {
            count += 1;
            service_account_token(token, path, &element.child("serviceAccountToken"), errors);
        }
        if let Some(bundle) = &source.cluster_trust_bundle {
            count += 1;
            trust_bundle(bundle, &element.child("clusterTrustBundlePEM"), errors);
            taken(&bundle.path, &bundle.path, errors);
        }
        if let Some(certificate) = &source.pod_certificate {
            count += 1;
            let path = element.child("podCertificate");
            required(&certificate.signer_name, &path.child("signerName"), errors);
            required(&certificate.key_type, &path.child("keyType"), errors);
        }
        if count > 1 {
            errors.forbidden(&element, "may not specify more than 1 volume type per source");
        }
    }
}

fn service_account_token(
    token: &core::ServiceAccountTokenProjection,
    volume: &Path<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let seconds = token.expiration_seconds.unwrap_or(0);
    if seconds < TOKEN_MIN_S {
        errors.invalid(&path.child("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > TOKEN_MAX_S {
        let message = "may not specify a duration larger than 2^32 seconds";
        errors.invalid(&path.child("expirationSeconds"), seconds, message);
    }
    required(&token.path, &volume.child("path"), errors);
    local_path(&token.path, &volume.child("path"), errors);
}

fn trust_bundle(bundle: &core::ClusterTrustBundleProjection, path: &Path<'_>, errors: &mut Errors) {
    match (&bundle.name, &bundle.signer_name) {
        (Some(_), Some(_)) => errors.invalid(path, bundle, "only one of name and signerName may be used"),
        (None, None) => errors.required(path, "either name or signerName must be specified"),
        (Some(name), None) => {
            if name.is_empty() {
                errors.required(&path.child("name"), "must be a valid object name");
            }
            let signer = name.rsplit_once(':').map_or_else(String::new, |(signer, _)| signer.replace(':', "/"));
            for why in names::trust_bundle(name, &signer) {
                errors.invalid(&path.child("name"), name, &format!("not a valid clustertrustbundlename: {why}"));
            }
            if let Some(selector) = &bundle.label_selector {
                let message = "labelSelector must be unset if name is specified";
                errors.invalid(&path.child("labelSelector"), selector, message);
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                errors.required(&path.child("signerName"), "must be a valid signer name");
            }
            if let Some(selector) = &bundle.label_selector {
                label_selector(selector, &path.child("labelSelector"), errors);
            }
        }
    }
    required(&bundle.path, &path.child("path"), errors);
    local_path(&bundle.path, &path.child("path"), errors);
}

fn csi(volume: &core::Volume, path: &Path<'_>, errors: &mut Errors) {
    let Some(source) = &volume.csi else { return };
    if source.driver.is_empty() {
        errors.required(&path.child("driver"), "");
    } else {
        dns_subdomain(&source.driver.to_lowercase(), &path.child("driver"), errors);
    }
    if let Some(secret) = &source.node_publish_secret_ref {
        required(&secret.name, &path.child("nodePublishSecretRef.name"), errors);
    }
}

fn ephemeral(volume: &core::Volume, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("volumeClaimTemplate");
    let Some(template) = volume.ephemeral.as_ref().and_then(|e| e.volume_claim_template.as_ref()) else {
        return errors.required(&path, "");
    };
    if let Some(metadata) = &template.metadata {
        template_metadata(metadata, &path.child("metadata"), errors);
    }
    claim_spec(&template.spec, &path.child("spec"), errors);
}

fn image(volume: &core::Volume, path: &Path<'_>, errors: &mut Errors) {
    let Some(source) = &volume.image else { return };
    one_of_if_set(&source.pull_policy, PULL_POLICIES, &path.child("pullPolicy"), errors);
}
