//! Volumes of pods: made before the first container, kept up to date, and taken away by name.

pub(crate) mod claim;
pub(crate) mod payload;
pub(crate) mod persistent;
pub(crate) mod subpath;
pub(crate) mod tree;
pub(crate) mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, HostPathVolumeSource, ImageVolumeSource, Pod, Secret, Volume};
use skiff_base::chain;
use skiff_linux::mount;
use skiff_runtime::ImageId;
use tokio::sync::Notify;

use crate::context::Context;
use crate::csi;
use crate::environment::Objects;
use crate::fields::Facts;
use crate::image;
use crate::leftovers;
use crate::pod::{self, PodUid};
use crate::quantity;
use crate::resources;
use crate::source::Observed;
use crate::trust;
use crate::unsupported::source_kind;
use payload::Fetched;
use persistent::Mounting;
use writer::Files;

/// The ConfigMaps and Secrets of one pod.
pub(crate) struct PodObjects {
    config_maps: BTreeMap<String, Arc<Observed<ConfigMap>>>,
    secrets: BTreeMap<String, Arc<Observed<Secret>>>,
}

impl Objects for PodObjects {
    fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
        self.config_maps.get(name)?.now()
    }

    fn secret(&self, name: &str) -> Option<Arc<Secret>> {
        self.secrets.get(name)?.now()
    }
}

impl PodObjects {
    /// Observes everything that the pod refers to; `changed` is told of changes.
    pub(crate) fn observe(ctx: &Context, pod: &Pod, changed: &Arc<Notify>) -> Self {
        let (config_maps, secrets) = references(pod);
        let namespace = pod::namespace(pod);
        let config_maps = config_maps.into_iter().map(|name| {
            let observed = ctx.config_maps.observe(namespace, &name, changed);
            (name, observed)
        });
        let secrets = secrets.into_iter().map(|name| {
            let observed = ctx.secrets.observe(namespace, &name, changed);
            (name, observed)
        });
        Self { config_maps: config_maps.collect(), secrets: secrets.collect() }
    }

    /// Completes when the first answer about each is there.
    pub(crate) async fn known(&self) {
        for map in self.config_maps.values() {
            map.get().await;
        }
        for secret in self.secrets.values() {
            secret.get().await;
        }
    }

    pub(crate) fn pull_secrets(&self, pod: &Pod) -> Vec<Arc<Secret>> {
        image::pull_secrets(pod).filter_map(|name| self.secret(name)).collect()
    }
}

/// Names of ConfigMaps and of Secrets that a pod needs.
fn references(pod: &Pod) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for volume in pod::spec(pod).volumes.iter().flatten() {
        maps.extend(volume.config_map.as_ref().map(|s| s.name.clone()));
        secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.clone()));
        for source in volume.projected.iter().filter_map(|p| p.sources.as_ref()).flatten() {
            maps.extend(source.config_map.as_ref().map(|s| s.name.clone()));
            secrets.extend(source.secret.as_ref().map(|s| s.name.clone()));
        }
    }
    let ephemeral = pod::ephemeral(pod);
    for container in pod::containers(pod).map(|(_, c)| c).chain(&ephemeral) {
        for from in container.env_from.iter().flatten() {
            maps.extend(from.config_map_ref.as_ref().map(|s| s.name.clone()));
            secrets.extend(from.secret_ref.as_ref().map(|s| s.name.clone()));
        }
        for from in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            maps.extend(from.config_map_key_ref.as_ref().map(|s| s.name.clone()));
            secrets.extend(from.secret_key_ref.as_ref().map(|s| s.name.clone()));
        }
    }
    secrets.extend(image::pull_secrets(pod).map(str::to_owned));
    for list in [&mut maps, &mut secrets] {
        list.sort();
        list.dedup();
        list.retain(|name| !name.is_empty());
    }
    (maps, secrets)
}

/// Where a volume is on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mounted {
    pub(crate) path: PathBuf,
    /// Containers may not write to it, whatever they ask.
    pub(crate) read_only: bool,
    /// With SELinux: it gets the label of the container's files.
    pub(crate) relabel: bool,
    /// The image whose files it shows.
    pub(crate) image: Option<ImageId>,
    /// In place of a file system.
    pub(crate) device: Option<PathBuf>,
}

impl Mounted {
    /// A directory of the pod's own.
    fn ours(path: &Path, read_only: bool) -> Self {
        Self { path: path.to_owned(), read_only, relabel: true, image: None, device: None }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Volumes {
    pub(crate) mounted: BTreeMap<String, Mounted>,
    /// When a token has to be renewed.
    pub(crate) renew: Option<Timestamp>,
}

/// What an emptyDir is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Medium {
    Disk,
    Memory { size_bytes: Option<i64> },
    HugePages { page_bytes: u64 },
}

/// One step for one volume, decided before anything is touched.
enum Make {
    Files { path: PathBuf, files: Files, memory: bool },
    EmptyDir { path: PathBuf, medium: Medium },
    HostPath(HostPathVolumeSource),
    Persistent(Mounting),
}

/// Makes every volume of a pod, or brings it up to date, as far as `objects` are known; idempotent. The error is the
/// text of `FailedMount`.
pub(crate) async fn ensure(ctx: &Arc<Context>, pod: &Arc<Pod>, objects: &PodObjects) -> Result<Volumes, String> {
    let directory = ctx.options.pod_directory(&pod::uid(pod));
    let facts =
        Facts { host_ip: ctx.options.node_ip.into(), pod_ips: Vec::new(), allocatable: ctx.allocatable.clone() };
    let group = pod::spec(pod).security_context.as_ref().and_then(|c| c.fs_group).and_then(|g| u32::try_from(g).ok());
    let mut volumes = Volumes::default();
    let mut makes = Vec::new();
    for volume in pod::spec(pod).volumes.iter().flatten() {
        let failed = |why: String| format!("MountVolume.SetUp failed for volume {:?} : {why}", volume.name);
        if let Some(source) = &volume.image {
            let mounted = ensure_image(ctx, pod, &volume.name, source, objects).await.map_err(failed)?;
            volumes.mounted.insert(volume.name.clone(), mounted);
            continue;
        }
        let claimed = claim::resolve(ctx, pod, volume).await?;
        let inline = || volume.csi.as_ref().map(|source| csi::volume::of_pod(pod, &volume.name, source));
        if let Some(wanted) = claimed.as_ref().and_then(csi::volume::of_claim).or_else(inline) {
            let (mounted, again) = csi::volume::ensure(ctx, pod, &wanted, claimed.as_ref()).await.map_err(failed)?;
            volumes.renew = volumes.renew.into_iter().chain(again).min();
            volumes.mounted.insert(volume.name.clone(), mounted);
            continue;
        }
        let planned = persistent::plan(ctx, pod, volume, claimed.as_ref(), &directory).await.map_err(failed)?;
        if let Some((mounted, mounting)) = planned {
            volumes.mounted.insert(volume.name.clone(), mounted);
            makes.push((volume.name.clone(), Make::Persistent(mounting)));
            continue;
        }
        let fetched = fetch(ctx, pod, volume, &mut volumes.renew).await.map_err(failed)?;
        let make = plan(pod, volume, &directory, &facts, objects, &fetched).map_err(failed)?;
        let mounted = match &make {
            Make::Files { path, .. } => Mounted::ours(path, true),
            Make::EmptyDir { path, .. } => Mounted::ours(path, false),
            Make::HostPath(source) => Mounted { relabel: false, ..Mounted::ours(Path::new(&source.path), false) },
            Make::Persistent(_) => continue,
        };
        volumes.mounted.insert(volume.name.clone(), mounted);
        makes.push((volume.name.clone(), make));
    }
    let work = move || {
        leftovers::ensure_ours(&directory, 0o750)
            .map_err(|e| format!("failed to make the directory of the pod: {e}"))?;
        for (name, make) in makes {
            apply(make, group).map_err(|e| format!("MountVolume.SetUp failed for volume {name:?} : {e}"))?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(format!("the work on volumes was lost: {e}")))?;
    Ok(volumes)
}

/// The files of an image; one that is mounted stays what it is.
async fn ensure_image(
    ctx: &Arc<Context>,
    pod: &Pod,
    name: &str,
    source: &ImageVolumeSource,
    objects: &PodObjects,
) -> Result<Mounted, String> {
    let path = ctx.options.pod_directory(&pod::uid(pod)).join("volumes/kubernetes.io~image").join(name);
    let reference = source.reference.as_deref().unwrap_or_default();
    let failed = |e: skiff_runtime::Error| chain(&e).to_string();
    let mut known = ctx.engine.mounted_image(&path).await.map_err(failed)?;
    if known.is_none() && mount::mounts_below(&path).map_err(|e| e.to_string())?.contains(&path) {
        // An earlier version has mounted it, and did not note what.
        known = ctx.engine.image(reference).await.map_err(failed)?.map(|image| image.id);
    }
    let id = match known {
        Some(id) => id,
        None => {
            let image = image::ensure_for_volume(ctx, pod, source, &objects.pull_secrets(pod)).await;
            image.map_err(|e| format!("{}: {}", e.reason, e.message))?.id
        }
    };
    ctx.engine.mount_image(&id, &path).await.map_err(failed)?;
    Ok(Mounted { relabel: false, image: Some(id), ..Mounted::ours(&path, true) })
}

/// Asks for what is not the node's; `renew` says when to ask again.
async fn fetch(ctx: &Context, pod: &Pod, volume: &Volume, renew: &mut Option<Timestamp>) -> Result<Fetched, String> {
    let mut fetched = Fetched::default();
    for projection in payload::projections(volume) {
        let until = if let Some(token) = &projection.service_account_token {
            let text = ctx.tokens.get(pod, token.audience.as_deref(), token.expiration_seconds).await;
            let text = text.map_err(|e| format!("failed to fetch token: {}", chain(&e)))?;
            fetched.tokens.insert(payload::token_key(token), text.text);
            text.renew
        } else if let Some(bundle) = &projection.cluster_trust_bundle {
            fetched.anchors.insert(bundle.path.clone(), trust::anchors(&ctx.client, bundle).await?);
            skiff_base::time::now() + trust::RENEW
        } else {
            continue;
        };
        *renew = Some(renew.map_or(until, |at| at.min(until)));
    }
    Ok(fetched)
}

fn plan(
    pod: &Pod,
    volume: &Volume,
    directory: &Path,
    facts: &Facts,
    objects: &dyn Objects,
    fetched: &Fetched,
) -> Result<Make, String> {
    let at = |plugin: &str| directory.join("volumes").join(format!("kubernetes.io~{plugin}")).join(&volume.name);
    if let Some(files) = payload::plan_files(pod, volume, facts, objects, fetched) {
        let (plugin, memory) = match () {
            () if volume.config_map.is_some() => ("configmap", false),
            () if volume.secret.is_some() => ("secret", true),
            () if volume.downward_api.is_some() => ("downward-api", true),
            () => ("projected", true),
        };
        return Ok(Make::Files { path: at(plugin), files: files?, memory });
    }
    if let Some(source) = &volume.empty_dir {
        let size_limit = source.size_limit.as_ref().map(quantity::value);
        let medium = match source.medium.as_deref() {
            None | Some("") => Medium::Disk,
            Some("Memory") => Medium::Memory { size_bytes: memory_size(pod, facts, size_limit) },
            Some(other) if other.starts_with("HugePages") => Medium::HugePages { page_bytes: page_size(pod, other)? },
            Some(other) => return Err(format!("the storage medium {other:?} is not supported by this node")),
        };
        return Ok(Make::EmptyDir { path: at("empty-dir"), medium });
    }
    if let Some(source) = &volume.host_path {
        return Ok(Make::HostPath(source.clone()));
    }
    Err(format!("{} volumes are not supported by this node", source_kind(volume)))
}

/// The pages of the medium `HugePages` or `HugePages-<size>`, which a container has to ask for.
fn page_size(pod: &Pod, medium: &str) -> Result<u64, String> {
    let wanted = medium.strip_prefix("HugePages-").map(|size| resources::page_size(&format!("hugepages-{size}")));
    let asked = resources::huge_page_names(pod).into_iter().filter_map(|name| resources::page_size(name));
    let mut fitting = asked.filter(|size| wanted.is_none_or(|wanted| wanted == Some(*size)));
    match (fitting.next(), fitting.next()) {
        (Some(size), None) => Ok(size),
        (Some(_), Some(_)) => {
            Err(format!("medium: {medium} can't be used if container requests multiple huge page sizes"))
        }
        (None, _) => Err(format!(
            "medium {medium}: hugePages storage requested, but there is no resource request for huge pages"
        )),
    }
}

/// As upstream: the least of the volume's limit, the pod's, and what the node has for pods.
fn memory_size(pod: &Pod, facts: &Facts, size_limit: Option<i64>) -> Option<i64> {
    let node = facts.allocatable.get("memory").map(quantity::value);
    let limits = [node, resources::pod(pod).memory_limit_bytes, size_limit];
    limits.into_iter().flatten().filter(|bytes| *bytes > 0).min()
}

fn apply(make: Make, group: Option<u32>) -> io::Result<()> {
    match make {
        Make::Files { path, files, memory } => {
            if memory {
                tree::ensure_tmpfs(&path, None, None)?;
            } else {
                tree::ensure_directory(&path, 0o777)?;
            }
            writer::write(&path, &files, group).map(drop)
        }
        // The directory outlives a reboot; what is in memory does not.
        Make::EmptyDir { path, medium } => match medium {
            Medium::Memory { size_bytes } => tree::ensure_tmpfs(&path, size_bytes, group),
            Medium::HugePages { page_bytes } => tree::ensure_huge_pages(&path, page_bytes, group),
            Medium::Disk => tree::ensure_empty_directory(&path, group),
        },
        Make::HostPath(source) => ensure_host_path(&source),
        Make::Persistent(mounting) => persistent::apply(&mounting),
    }
}

fn ensure_host_path(source: &HostPathVolumeSource) -> io::Result<()> {
    let path = Path::new(&source.path);
    let found = match fs::metadata(path) {
        Ok(meta) => Some(meta.file_type()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let check = |good: bool, what: &str| {
        if good {
            Ok(())
        } else {
            Err(io::Error::other(format!("hostPath type check failed: {} is not {what}", path.display())))
        }
    };
    let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_some_and(test);
    match source.type_.as_deref().unwrap_or_default() {
        "" if found.is_none() => tree::ensure_directory(path, 0o755),
        "" => Ok(()),
        "DirectoryOrCreate" if found.is_none() => tree::ensure_directory(path, 0o755),
        "FileOrCreate" if found.is_none() => fs::write(path, []),
        "Directory" | "DirectoryOrCreate" => check(is(fs::FileType::is_dir), "a directory"),
        "File" | "FileOrCreate" => check(is(fs::FileType::is_file), "a file"),
        "Socket" => check(is(FileTypeExt::is_socket), "a socket file"),
        "CharDevice" => check(is(FileTypeExt::is_char_device), "a character device"),
        "BlockDevice" => check(is(FileTypeExt::is_block_device), "a block device"),
        other => Err(io::Error::other(format!("{other:?} is no hostPath type"))),
    }
}

/// Takes everything away that a pod has in its directory; idempotent.
pub(crate) async fn remove(ctx: &Context, uid: &PodUid) -> io::Result<()> {
    csi::volume::remove(ctx, uid).await.map_err(io::Error::other)?;
    let directory = ctx.options.pod_directory(uid);
    let gone = directory.clone();
    let removed = tokio::task::spawn_blocking(move || tree::remove_tree(&directory)).await;
    removed.unwrap_or_else(|e| Err(io::Error::other(e)))?;
    ctx.engine.forget_images_below(&gone).await.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn host_path_types() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
        fs::write(at("file"), "1").expect("a file");
        for (name, kind, good) in [
            ("file", "File", true),
            ("file", "", true),
            ("file", "Directory", false),
            ("file", "FileOrCreate", true),
            ("new-file", "FileOrCreate", true),
            ("new-file", "File", true),
            ("none", "Directory", false),
            ("none", "File", false),
            ("new/dir", "DirectoryOrCreate", true),
            ("new/dir", "Directory", true),
            ("new/dir", "Socket", false),
            ("other", "", true),
            ("other", "Directory", true),
        ] {
            let source = HostPathVolumeSource { path: at(name), type_: Some(kind.to_owned()) };
            assert_eq!(ensure_host_path(&source).is_ok(), good, "{name} {kind}");
        }
        let source = HostPathVolumeSource { path: "/dev/null".into(), type_: Some("CharDevice".into()) };
        ensure_host_path(&source).expect("a character device");
    }

    #[test]
    fn how_large_memory_may_get() {
        let facts = Facts {
            host_ip: "192.0.2.1".parse().expect("an address"),
            pod_ips: Vec::new(),
            allocatable: [("memory".to_owned(), k8s_openapi::apimachinery::pkg::api::resource::Quantity("1Gi".into()))]
                .into(),
        };
        for (pod_limit, size_limit, expected) in [
            (None, None, 1 << 30),
            (Some("64Mi"), None, 64 << 20),
            (Some("64Mi"), Some("16Mi"), 16 << 20),
            (Some("64Mi"), Some("1Gi"), 64 << 20),
            (Some("4Gi"), Some("0"), 1 << 30),
        ] {
            let limits = pod_limit.map_or(json!({}), |limit| json!({"limits": {"memory": limit}}));
            let pod: Pod = serde_json::from_value(
                json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": limits}]}}),
            )
            .expect("a pod");
            let volume: Volume =
                serde_json::from_value(json!({"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": size_limit}}))
                    .expect("a volume");
            let objects = PodObjects { config_maps: BTreeMap::new(), secrets: BTreeMap::new() };
            match plan(&pod, &volume, Path::new("/p"), &facts, &objects, &Fetched::default()) {
                Ok(Make::EmptyDir { medium: Medium::Memory { size_bytes }, .. }) => {
                    assert_eq!(size_bytes, Some(expected), "{pod_limit:?} {size_limit:?}")
                }
                _ => panic!("an emptyDir in memory"),
            }
        }
    }

    #[test]
    fn pages_of_a_medium() {
        for (asked, medium, expected) in [
            (vec!["hugepages-2Mi"], "HugePages", Ok(2 << 20)),
            (vec!["hugepages-2Mi", "hugepages-1Gi"], "HugePages-1Gi", Ok(1 << 30)),
            (vec!["hugepages-2Mi", "hugepages-1Gi"], "HugePages", Err("multiple huge page sizes")),
            (vec!["hugepages-2Mi"], "HugePages-1Gi", Err("there is no resource request for huge pages")),
            (vec![], "HugePages", Err("there is no resource request for huge pages")),
        ] {
            let limits: BTreeMap<&str, &str> = asked.iter().map(|name| (*name, "1Gi")).collect();
            let pod: Pod = serde_json::from_value(
                json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": {"limits": limits}}]}}),
            )
            .expect("a pod");
            match (page_size(&pod, medium), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{medium}"),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                (found, _) => panic!("{medium} {asked:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn finds_every_reference() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [{"name": "a", "configMap": {"name": "m1"}}, {"name": "b", "secret": {"secretName": "s1"}},
                {"name": "c", "projected": {"sources": [{"configMap": {"name": "m2"}}, {"secret": {"name": "s2"}}]}}],
            "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "m3"}}, {"secretRef": {"name": "s3"}}]}],
            "containers": [{"name": "c", "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "m1", "key": "k"}}},
                {"name": "Y", "valueFrom": {"secretKeyRef": {"name": "s4", "key": "k"}}}]}]}}))
        .expect("a pod");
        let (maps, secrets) = references(&pod);
        assert_eq!(maps, ["m1", "m2", "m3"]);
        assert_eq!(secrets, ["pull", "s1", "s2", "s3", "s4"]);
    }
}
