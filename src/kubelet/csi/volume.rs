//! Staging and publishing of one volume for one pod, and the way back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{CSIVolumeSource, Node, Pod, Secret};
use k8s_openapi::api::storage::v1::{CSIDriverSpec, VolumeAttachment};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skiff_api::{ObjectKey, volume as rules};
use skiff_base::{Backoff, chain};
use skiff_client::PatchKind;

use super::request::{self, Places};
use super::{Driver, expand};
use crate::context::Context;
use crate::grpc::NOT_FOUND;
use crate::leftovers;
use crate::options::Options;
use crate::pod::{self, PodUid};
use crate::volume::claim::Claimed;
use crate::volume::persistent::{self, Ownership};
use crate::volume::{Mounted, tree};

/// How long one attempt waits for the volume to be attached; the next one goes on.
const ATTACH_LIMIT: Duration = Duration::from_secs(15);
/// How often drivers are told of a volume again that ask for it, and claims are looked at that may have grown: a node may
/// ask for them one by one, and not watch them.
const REPUBLISH: Duration = Duration::from_secs(60);
/// A volume that could not grow is tried once more after this; then it is a look like others.
const GROW_AGAIN: Duration = Duration::from_secs(5);
const RECORD: &str = "vol_data.json";
const PLUGIN: &str = "kubernetes.io~csi";

/// A volume of a driver, as a pod asks for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted {
    pub(super) driver: String,
    pub(super) handle: String,
    /// Of the directory in the pod's.
    name: String,
    pub(super) read_only: bool,
    pub(super) block: bool,
    pub(super) fs_type: String,
    pub(super) mount_options: Vec<String>,
    pub(super) access_modes: Vec<String>,
    pub(super) attributes: BTreeMap<String, String>,
    stage_secret: Option<ObjectKey>,
    publish_secret: Option<ObjectKey>,
    pub(super) expand_secret: Option<ObjectKey>,
    /// It lives in the pod's manifest, and no longer than the pod.
    ephemeral: bool,
}

/// What is known of a volume that was published, for whoever takes it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    driver_name: String,
    volume_handle: String,
    #[serde(rename = "specVolID")]
    spec_volume: String,
    node_name: String,
    volume_lifecycle_mode: String,
    target_path: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    staging_path: Option<PathBuf>,
    /// It is to be its pod's group's, and is not yet in whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unfinished: bool,
}

/// The volume of a claim, if a driver has it.
pub(crate) fn of_claim(claimed: &Claimed) -> Option<Wanted> {
    let spec = claimed.volume.spec.as_ref()?;
    let source = spec.csi.as_ref()?;
    let secret = |reference: &Option<k8s_openapi::api::core::v1::SecretReference>| {
        let reference = reference.as_ref()?;
        Some(ObjectKey::new(reference.namespace.as_deref()?, reference.name.as_deref()?))
    };
    Some(Wanted {
        driver: source.driver.clone(),
        handle: source.volume_handle.clone(),
        name: claimed.name().to_owned(),
        read_only: claimed.read_only || source.read_only == Some(true),
        block: claimed.is_block(),
        fs_type: source.fs_type.clone().unwrap_or_default(),
        mount_options: spec.mount_options.clone().unwrap_or_default(),
        access_modes: spec.access_modes.clone().unwrap_or_default(),
        attributes: source.volume_attributes.clone().unwrap_or_default(),
        stage_secret: secret(&source.node_stage_secret_ref),
        publish_secret: secret(&source.node_publish_secret_ref),
        expand_secret: secret(&source.node_expand_secret_ref),
        ephemeral: false,
    })
}

/// A volume that the pod's manifest describes.
pub(crate) fn of_pod(pod: &Pod, name: &str, source: &CSIVolumeSource) -> Wanted {
    let secret = source.node_publish_secret_ref.as_ref();
    Wanted {
        driver: source.driver.clone(),
        handle: format!("csi-{}", rules::digest(&format!("{}{name}", pod::uid(pod)))),
        name: name.to_owned(),
        read_only: source.read_only == Some(true),
        block: false,
        fs_type: source.fs_type.clone().unwrap_or_default(),
        mount_options: Vec::new(),
        access_modes: vec!["ReadWriteOnce".to_owned()],
        attributes: source.volume_attributes.clone().unwrap_or_default(),
        stage_secret: None,
        publish_secret: secret.map(|secret| ObjectKey::new(pod::namespace(pod), &secret.name)),
        expand_secret: None,
        ephemeral: true,
    }
}

struct Paths {
    /// Holds the record.
    directory: PathBuf,
    target: PathBuf,
    staging: PathBuf,
}

fn paths(options: &Options, uid: &PodUid, wanted: &Wanted) -> Paths {
    let plugin = options.root_directory.join("plugins/kubernetes.io/csi");
    if wanted.block {
        let devices = plugin.join("volumeDevices");
        return Paths {
            directory: options.pod_directory(uid).join("volumeDevices").join(PLUGIN).join(&wanted.name),
            target: devices.join("publish").join(&wanted.name).join(&uid.0),
            staging: devices.join("staging").join(&wanted.name),
        };
    }
    let directory = options.pod_directory(uid).join("volumes").join(PLUGIN).join(&wanted.name);
    let staging = plugin.join(&wanted.driver).join(rules::digest(&wanted.handle)).join("globalmount");
    Paths { target: directory.join("mount"), directory, staging }
}

/// Brings the volume to the pod; one that is there stays as it is, but for its size. With when to look at it again.
pub(crate) async fn ensure(
    ctx: &Context,
    pod: &Pod,
    wanted: &Wanted,
    claimed: Option<&Claimed>,
) -> Result<(Mounted, Option<jiff::Timestamp>), String> {
    let driver = ctx
        .csi
        .get(&wanted.driver)
        .map_err(|why| format!("kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: {why}"))?;
    let about = ctx.csi_drivers.get(&ObjectKey::cluster(&wanted.driver)).map(|found| found.spec.clone());
    let about = about.unwrap_or_default();
    check_lifecycle(wanted, &about)?;
    let paths = paths(&ctx.options, &pod::uid(pod), wanted);
    let device = wanted.block.then(|| paths.target.clone());
    let mounted = Mounted {
        path: paths.target.clone(),
        read_only: wanted.read_only,
        relabel: !wanted.read_only && !wanted.block,
        image: None,
        device,
    };
    let republish = about.requires_republish == Some(true);
    let after = |wait: Duration| skiff_base::time::now() + jiff::SignedDuration::try_from(wait).unwrap_or_default();
    let mut again = (republish || (driver.expands && claimed.is_some())).then(|| after(REPUBLISH));
    let published = published(&paths).map_err(|e| e.to_string())?;
    let done = published.is_some();
    let ownership = persistent::ownership(pod).filter(|_| !driver.mount_group && takes_group(wanted, &about));
    // One that failed, or was broken off, is taken up again.
    let ownership = ownership.filter(|_| published.is_none_or(|record| record.unfinished));
    if done && again.is_none() && ownership.is_none() {
        return Ok((mounted, None));
    }
    let _turn = ctx.csi.turn(&wanted.driver, &wanted.handle).await;
    let staging = (driver.stages && !wanted.ephemeral).then_some(paths.staging.as_path());
    let places = Places { staging, target: &paths.target };
    if !done || republish {
        let unfinished = ownership.is_some();
        publish(ctx, pod, wanted, &driver, &about, &paths, &places, done, unfinished).await?;
    }
    if let Some(ownership) = ownership {
        give(&paths, ownership).await?;
    }
    if let Some(claimed) = claimed {
        let expanded = expand::ensure(ctx, pod, &driver, wanted, claimed, &places).await;
        // What runs with it goes on with what it has.
        match expanded {
            Err(why) if done => {
                tracing::warn!(volume = claimed.name(), error = why, "a volume does not grow yet, trying again");
                again = if expand::has_failed(claimed) { again } else { Some(after(GROW_AGAIN)) };
            }
            expanded => expanded?,
        }
    }
    Ok((mounted, again))
}

#[allow(clippy::too_many_arguments, reason = "called once, by the function above")]
async fn publish(
    ctx: &Context,
    pod: &Pod,
    wanted: &Wanted,
    driver: &Driver,
    about: &CSIDriverSpec,
    paths: &Paths,
    places: &Places<'_>,
    done: bool,
    unfinished: bool,
) -> Result<(), String> {
    let record = Record {
        driver_name: wanted.driver.clone(),
        volume_handle: wanted.handle.clone(),
        spec_volume: wanted.name.clone(),
        node_name: ctx.options.node_name.clone(),
        volume_lifecycle_mode: if wanted.ephemeral { "Ephemeral" } else { "Persistent" }.to_owned(),
        target_path: paths.target.clone(),
        staging_path: places.staging.map(Path::to_owned),
        unfinished,
    };
    // Known before it exists: whatever happens now is found again.
    leftovers::ensure_ours(&ctx.options.pod_directory(&pod::uid(pod)), 0o750).map_err(|e| e.to_string())?;
    let saved = if done { Ok(()) } else { write_record(paths, &record) };
    saved.map_err(|e| format!("kubernetes.io/csi: failed to save volume info data: {e}"))?;
    // Before it is attached: nobody detaches what is in use.
    tell_in_use(ctx).await?;
    let context = match wanted.ephemeral || about.attach_required == Some(false) {
        true => BTreeMap::new(),
        false => attached(ctx, wanted).await?,
    };
    let group = persistent::ownership(pod).map(|ownership| ownership.group);
    if record.staging_path.is_some() && !done && !ctx.csi.is_staged(&wanted.driver, &wanted.handle) {
        tree::ensure_directory(&paths.staging, 0o750).map_err(|e| e.to_string())?;
        let secrets = secrets(ctx, wanted.stage_secret.as_ref()).await?;
        let request = request::stage(driver, wanted, &paths.staging, &context, &secrets, group);
        driver.call("NodeStageVolume", request).await.map_err(|failure| failure.to_string())?;
        ctx.csi.set_staged(&wanted.driver, &wanted.handle, true);
    }
    let secrets = secrets(ctx, wanted.publish_secret.as_ref()).await?;
    let mut attributes = wanted.attributes.clone();
    if about.pod_info_on_mount == Some(true) {
        attributes.extend(pod_info(pod, wanted.ephemeral));
    }
    attributes.extend(tokens(ctx, pod, about).await?);
    let request = request::publish(driver, wanted, places, &context, &secrets, &attributes, group);
    driver.call("NodePublishVolume", request).await.map_err(|failure| failure.to_string())?;
    Ok(())
}

/// Makes the volume the group's, and notes it.
async fn give(paths: &Paths, ownership: Ownership) -> Result<(), String> {
    let (directory, target) = (paths.directory.clone(), paths.target.clone());
    let work = move || {
        persistent::give(&target, ownership)?;
        match read_record(&directory)? {
            Some(record) => save_record(&directory, &Record { unfinished: false, ..record }),
            None => Ok(()),
        }
    };
    let given = tokio::task::spawn_blocking(work).await;
    given.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(|e| format!("applyFSGroup failed: {e}"))
}

/// A driver takes only the volumes that it says it does.
fn check_lifecycle(wanted: &Wanted, about: &CSIDriverSpec) -> Result<(), String> {
    let asked = if wanted.ephemeral { "Ephemeral" } else { "Persistent" };
    let persistent = || vec!["Persistent".to_owned()];
    let modes = about.volume_lifecycle_modes.clone().filter(|modes| !modes.is_empty()).unwrap_or_else(persistent);
    if modes.iter().any(|mode| mode == asked) {
        return Ok(());
    }
    Err(format!("volume mode {asked:?} not supported by driver {} (only supports {modes:?})", wanted.driver))
}

/// By the driver's policy; without one, what one node alone writes to.
fn takes_group(wanted: &Wanted, about: &CSIDriverSpec) -> bool {
    if wanted.block || wanted.read_only {
        return false;
    }
    match about.fs_group_policy.as_deref() {
        Some("None") => false,
        Some("File") => true,
        _ => {
            let once = ["ReadWriteOnce", "ReadWriteOncePod"];
            !wanted.fs_type.is_empty() && wanted.access_modes.iter().any(|mode| once.contains(&mode.as_str()))
        }
    }
}

fn pod_info(pod: &Pod, ephemeral: bool) -> [(String, String); 5] {
    let account = pod::spec(pod).service_account_name.clone().unwrap_or_default();
    [
        ("pod.name", pod::name(pod).to_owned()),
        ("pod.namespace", pod::namespace(pod).to_owned()),
        ("pod.uid", pod::uid(pod).0),
        ("serviceAccount.name", account),
        ("ephemeral", ephemeral.to_string()),
    ]
    .map(|(name, value)| (format!("csi.storage.k8s.io/{name}"), value))
}

/// Tokens of the pod's service account that the driver asks for.
async fn tokens(ctx: &Context, pod: &Pod, about: &CSIDriverSpec) -> Result<Option<(String, String)>, String> {
    let requests = about.token_requests.as_deref().unwrap_or_default();
    if requests.is_empty() {
        return Ok(None);
    }
    let mut all = serde_json::Map::<String, Value>::new();
    for request in requests {
        let audience = Some(request.audience.as_str());
        let token = ctx.tokens.get(pod, audience, request.expiration_seconds).await;
        let token = token.map_err(|e| format!("failed to fetch token: {}", chain(&e)))?;
        let ends = token.ends.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        all.insert(request.audience.clone(), json!({"token": token.text, "expirationTimestamp": ends}));
    }
    Ok(Some(("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), Value::Object(all).to_string())))
}

pub(super) async fn secrets(ctx: &Context, key: Option<&ObjectKey>) -> Result<BTreeMap<String, String>, String> {
    let Some(key) = key else { return Ok(BTreeMap::new()) };
    let found = ctx.client.namespaced::<Secret>(&key.namespace).get(&key.name).await;
    let found = found.map_err(|e| format!("fetching the secret {key} failed: {}", chain(&e)))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(found.data.unwrap_or_default().into_iter().map(|(name, value)| (name, text(&value.0))).collect())
}

/// What the driver's controller says of the volume on this node, once it is attached.
async fn attached(ctx: &Context, wanted: &Wanted) -> Result<BTreeMap<String, String>, String> {
    let name = rules::attachment_name(&wanted.handle, &wanted.driver, &ctx.options.node_name);
    let api = ctx.client.all::<VolumeAttachment>();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let wait = async {
        loop {
            match api.get(&name).await {
                Ok(found) => {
                    let status = found.status.unwrap_or_default();
                    if status.attached {
                        return Ok(status.attachment_metadata.unwrap_or_default());
                    }
                    if let Some(message) = status.attach_error.and_then(|error| error.message) {
                        return Err(format!("volume attachment {name} failed: {message}"));
                    }
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(format!("volume attachment {name}: {}", chain(&error))),
            }
            // A node may only ask for its attachments one by one, and not watch them.
            tokio::time::sleep(backoff.next_wait()).await;
        }
    };
    tokio::time::timeout(ATTACH_LIMIT, wait).await.unwrap_or_else(|_| {
        Err(format!(
            "timed out waiting for external-attacher of {} CSI driver to attach volume {}",
            wanted.driver, wanted.handle
        ))
    })
}

/// The record of a volume that is there.
fn published(paths: &Paths) -> io::Result<Option<Record>> {
    let mounted = skiff_linux::mount::mounts_below(&paths.target)?.contains(&paths.target);
    if mounted { read_record(&paths.directory) } else { Ok(None) }
}

fn read_record(directory: &Path) -> io::Result<Option<Record>> {
    match fs::read(directory.join(RECORD)) {
        // One that is damaged is written anew.
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_record(paths: &Paths, record: &Record) -> io::Result<()> {
    tree::ensure_directory(&paths.directory, 0o750)?;
    if let Some(parent) = paths.target.parent() {
        tree::ensure_directory(parent, 0o750)?;
    }
    save_record(&paths.directory, record)
}

fn save_record(directory: &Path, record: &Record) -> io::Result<()> {
    let text = serde_json::to_vec(record).map_err(io::Error::other)?;
    skiff_base::file::replace(&directory.join(RECORD), &text, 0o644)
}

/// The records of a pod, or of whatever else is in a directory like a pod's.
fn records(pod_directory: &Path) -> Vec<(PathBuf, Record)> {
    let mut found = Vec::new();
    for kind in ["volumes", "volumeDevices"] {
        let Ok(entries) = fs::read_dir(pod_directory.join(kind).join(PLUGIN)) else { continue };
        for entry in entries.flatten() {
            let path = entry.path().join(RECORD);
            match fs::read(&path).map(|text| serde_json::from_slice(&text)) {
                Ok(Ok(record)) => found.push((entry.path(), record)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => tracing::warn!(path = %path.display(), ?other, "what a volume was is not known any more"),
            }
        }
    }
    found
}

/// Whether a pod's directory has volumes of drivers.
pub(crate) fn any(pod_directory: &Path) -> bool {
    !records(pod_directory).is_empty()
}

/// Whether a pod other than `uid` has the volume.
fn is_used(options: &Options, uid: &PodUid, record: &Record) -> bool {
    let Ok(entries) = fs::read_dir(options.pods_directory()) else { return false };
    entries.flatten().filter(|entry| entry.file_name().to_string_lossy() != uid.0.as_str()).any(|entry| {
        records(&entry.path()).iter().any(|(_, other)| {
            (&other.driver_name, &other.volume_handle) == (&record.driver_name, &record.volume_handle)
        })
    })
}

/// Takes back all volumes of a pod that drivers have published; idempotent.
pub(crate) async fn remove(ctx: &Context, uid: &PodUid) -> Result<(), String> {
    let mut failures = Vec::new();
    for (directory, record) in records(&ctx.options.pod_directory(uid)) {
        if let Err(why) = remove_one(ctx, uid, &directory, &record).await {
            failures.push(format!("UnmountVolume.TearDown failed for volume {:?} : {why}", record.spec_volume));
        }
    }
    if !failures.is_empty() {
        return Err(failures.join("; "));
    }
    tell_in_use(ctx).await
}

/// Says in the node's status which volumes pods of it have.
pub(super) async fn tell_in_use(ctx: &Context) -> Result<(), String> {
    let mut volumes = Vec::new();
    for pod in fs::read_dir(ctx.options.pods_directory()).into_iter().flatten().flatten() {
        let records = records(&pod.path()).into_iter().map(|(_, record)| record);
        volumes.extend(
            records
                .filter(|record| record.volume_lifecycle_mode == "Persistent")
                .map(|record| rules::name_in_use(&record.driver_name, &record.volume_handle)),
        );
    }
    volumes.sort();
    volumes.dedup();
    if ctx.csi.is_told(&volumes) {
        return Ok(());
    }
    let patch = json!({"status": {"volumesInUse": volumes}});
    let nodes = ctx.client.all::<Node>();
    match nodes.patch_status(&ctx.options.node_name, PatchKind::Merge, &patch).await {
        // Of a node that is gone from the API nothing is in use.
        Err(error) if !error.is_not_found() => {
            return Err(format!("tell which volumes are in use: {}", chain(&error)));
        }
        _ => {}
    }
    ctx.csi.set_told(volumes);
    Ok(())
}

async fn remove_one(ctx: &Context, uid: &PodUid, directory: &Path, record: &Record) -> Result<(), String> {
    let driver = ctx.csi.get(&record.driver_name)?;
    let _turn = ctx.csi.turn(&record.driver_name, &record.volume_handle).await;
    let undo = async |method: &str, path: &Path| {
        match driver.call(method, request::undo(&record.volume_handle, path)).await {
            // What the driver does not know any more is not there.
            Err(failure) if failure.code != NOT_FOUND => Err(failure.to_string()),
            _ => Ok(()),
        }
    };
    undo("NodeUnpublishVolume", &record.target_path).await?;
    remove_place(&record.target_path).map_err(|e| e.to_string())?;
    if let Some(staging) = &record.staging_path
        && !is_used(&ctx.options, uid, record)
    {
        undo("NodeUnstageVolume", staging).await?;
        ctx.csi.set_staged(&record.driver_name, &record.volume_handle, false);
        remove_place(staging).map_err(|e| e.to_string())?;
    }
    fs::remove_file(directory.join(RECORD)).map_err(|e| e.to_string())
}

/// Drivers leave the place itself, or take it with them.
fn remove_place(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wanted(fs_type: &str, modes: &[&str]) -> Wanted {
        let claimed = Claimed {
            volume: serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": {"accessModes": modes,
                "csi": {"driver": "d", "volumeHandle": "h", "fsType": fs_type}}}))
            .expect("a volume"),
            claim: Default::default(),
            read_only: false,
        };
        of_claim(&claimed).expect("a driver's")
    }

    #[test]
    fn who_gets_volumes_as_a_group() {
        let about =
            |policy: Option<&str>| CSIDriverSpec { fs_group_policy: policy.map(str::to_owned), ..Default::default() };
        let (rwo, rwx) = (["ReadWriteOnce"], ["ReadWriteMany"]);
        for (policy, fs_type, modes, expect) in [
            (None, "ext4", &rwo, true),
            (None, "", &rwo, false),
            (Some("ReadWriteOnceWithFSType"), "ext4", &rwx, false),
            (Some("File"), "", &rwx, true),
            (Some("None"), "ext4", &rwo, false),
        ] {
            assert_eq!(takes_group(&wanted(fs_type, modes), &about(policy)), expect, "{policy:?} {fs_type}");
        }
        let ephemeral = Wanted { ephemeral: true, ..wanted("", &rwo) };
        let why = check_lifecycle(&ephemeral, &CSIDriverSpec::default()).expect_err("not by default");
        assert_eq!(why, "volume mode \"Ephemeral\" not supported by driver d (only supports [\"Persistent\"])");
        let both = CSIDriverSpec { volume_lifecycle_modes: Some(vec!["Ephemeral".into()]), ..Default::default() };
        assert!(check_lifecycle(&ephemeral, &both).is_ok() && check_lifecycle(&wanted("", &rwo), &both).is_err());
    }

    #[test]
    fn records_are_found_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let pod = directory.path().join("pod");
        assert!(!any(&pod));
        let paths = Paths {
            directory: pod.join("volumes").join(PLUGIN).join("pv"),
            target: pod.join("volumes").join(PLUGIN).join("pv/mount"),
            staging: directory.path().join("staging"),
        };
        let record = Record {
            driver_name: "d".into(),
            volume_handle: "h".into(),
            spec_volume: "pv".into(),
            node_name: "n".into(),
            volume_lifecycle_mode: "Persistent".into(),
            target_path: paths.target.clone(),
            staging_path: None,
            unfinished: true,
        };
        write_record(&paths, &record).expect("written");
        let text = fs::read_to_string(paths.directory.join(RECORD)).expect("there");
        assert!(text.contains("\"driverName\":\"d\"") && text.contains("\"specVolID\":\"pv\""), "{text}");
        assert_eq!(records(&pod), [(paths.directory.clone(), record.clone())]);
        assert!(published(&paths).expect("looked at").is_none());
        let given = Record { unfinished: false, ..record };
        save_record(&paths.directory, &given).expect("written");
        // As an agent wrote it that knew of no such thing: what is in use already is not touched.
        let text = fs::read_to_string(paths.directory.join(RECORD)).expect("there");
        assert!(!text.contains("unfinished"), "{text}");
        assert_eq!(read_record(&paths.directory).expect("read"), Some(given));
        remove_place(&paths.target).expect("nothing is there");
    }
}
