//! The images of a node: pulled or imported, unpacked once per layer, found again after a crash.
//!
//! - `reference` reads names, `registries` says where to ask, `registry` asks.
//! - `manifest` picks the image of this machine and names its layers.
//! - `bounded`, `layer` and `unpack` turn a layer's stream into a directory for overlayfs.
//! - `archive` reads `docker save` and OCI archives.
//! - [`ImageStore`] (here) keeps the records and the snapshots.
//!
//! On disk, below the agent's data directory: `snapshots/<chain>/` one directory per unpacked layer,
//! named by the start of its chain id (short, since overlayfs' mount options are limited);
//! `content/images/<id>.json` one record per image. Compressed layers are not kept.
//!
//! Several processes may have the store open (`skiff server`, `skiff ctr`): records are replaced as whole
//! files and read again when their directory changes; who brings layers holds `content/lock` shared, who
//! collects them holds it alone. Who begins to use an image holds `content/use` shared until that is written down, who
//! removes one holds it alone.
//!
//! Invariants: a directory in `snapshots/` that is not a `tmp-…` is complete, verified and synced; a
//! record names only such directories and is written after them. So a crash leaves at most a `tmp-…` or a part of a record,
//! removed at the next start, or a snapshot without a record, removed with the next image that is.
//!
//! Must not know: containers, and who uses an image (callers say what to keep).

mod archive;
mod bounded;
mod layer;
mod manifest;
mod reference;
mod registries;
mod registry;
mod unpack;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::BodyExt;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};
use tracing::{info, warn};

pub use reference::Reference;

use crate::{Error, Image, ImageConfig, ImageId, RegistryAuth};
pub(crate) use layer::sha256;
use layer::{ChannelReader, unpack_verified};
use manifest::{chain_names, pick_platform};
use registries::Registries;
use registry::Session;

/// Layers that one pull downloads at a time, as upstream's `max_concurrent_downloads`.
const PARALLEL_LAYERS: usize = 3;
/// Chunks of a download that wait for the unpacker.
const DOWNLOAD_QUEUE: usize = 32;
/// Times that a broken download is taken up again where it ended.
const RESUMES: u32 = 5;
/// More than the steps in which the kernel moves file times on.
const TIMESTAMP_TICK: Duration = Duration::from_millis(50);
const CONFIG_LIMIT: usize = 8 << 20;

/// What overlayfs stacks for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers {
    /// Topmost first, as `lowerdir` wants them.
    pub lower_directories: Vec<PathBuf>,
}

/// See the module. A cheap handle.
#[derive(Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

struct Inner {
    data_directory: PathBuf,
    registries_file: Option<PathBuf>,
    records: Mutex<Records>,
    /// One lock per reference that is being pulled: a second pull waits, then finds everything there.
    pulling: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// The records as they were when their directory had last changed at `read_at`.
#[derive(Default)]
struct Records {
    by_id: BTreeMap<String, Record>,
    damaged: Damaged,
    read_at: Option<SystemTime>,
}

/// What is left of images that can't be used for new containers; earlier ones may still run of them.
#[derive(Default)]
struct Damaged {
    /// Layers of images that lack others.
    snapshots: BTreeSet<String>,
    /// A record does not say which layers it needs.
    unreadable: bool,
}

/// One image on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    id: String,
    tags: BTreeSet<String>,
    digests: BTreeSet<String>,
    size_bytes: u64,
    pinned: bool,
    /// Names of snapshot directories, lowest first.
    snapshots: Vec<String>,
    config: ConfigRecord,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct ConfigRecord {
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    env: Vec<String>,
    working_dir: String,
    user: String,
    stop_signal: Option<String>,
    volumes: Vec<String>,
}

/// An image whose layers are unpacked, before it has a name.
struct Unpacked {
    id: String,
    size_bytes: u64,
    snapshots: Vec<String>,
    config: ConfigRecord,
}

impl ImageStore {
    /// Reads the records and removes what a crash left half done.
    pub fn open(data_directory: &Path, registries_file: Option<PathBuf>) -> Result<Self, Error> {
        let inner = Inner {
            data_directory: data_directory.to_owned(),
            registries_file,
            records: Mutex::default(),
            pulling: Mutex::default(),
        };
        for directory in [inner.snapshots(), inner.images()] {
            // Programs of images may be for everybody inside, and root's (set-user-id): not for the host's users.
            std::fs::create_dir_all(&directory)
                .and_then(|()| std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o700)))
                .map_err(|source| Error::Io { operation: "create image store", source })?;
        }
        let failed = |source| Error::Io { operation: "read image records", source };
        inner.sweep().map_err(failed)?;
        drop(inner.lock_records().map_err(failed)?);
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The completed form of a reference.
    pub fn normalize(reference: &str) -> Result<String, Error> {
        Ok(Reference::parse(reference)?.to_string())
    }

    /// By id, id without `sha256:`, tag or digest reference.
    pub fn image(&self, reference_or_id: &str) -> Result<Option<Image>, Error> {
        let records = self.records()?;
        Ok(find(&records.by_id, reference_or_id)?.map(Record::image))
    }

    pub fn images(&self) -> Result<Vec<Image>, Error> {
        Ok(self.records()?.by_id.values().map(Record::image).collect())
    }

    /// The directories to stack for a container.
    pub fn layers(&self, id: &ImageId) -> Result<Layers, Error> {
        let records = self.records()?;
        let record = records.by_id.get(&id.0).ok_or_else(|| Error::ImageNotFound(id.0.clone()))?;
        let root = self.inner.snapshots();
        Ok(Layers { lower_directories: record.snapshots.iter().rev().map(|name| root.join(name)).collect() })
    }

    /// Brings an image here, with all of its layers. A tag is always resolved anew.
    pub async fn pull(&self, reference: &str, auth: Option<&RegistryAuth>) -> Result<Image, Error> {
        let reference = Reference::parse(reference)?;
        let name = reference.to_string();
        let lock =
            self.inner.pulling.lock().expect("no panic while it is held").entry(name.clone()).or_default().clone();
        let pulled = {
            let _alone = lock.lock().await;
            self.pull_from_endpoints(&reference, auth).await
        };
        let mut pulling = self.inner.pulling.lock().expect("no panic while it is held");
        // Two handles are left when nobody else waits: the map's and ours.
        if Arc::strong_count(&lock) <= 2 {
            pulling.remove(&name);
        }
        drop(pulling);
        pulled.map_err(|error| match error {
            PullError::Own(error) => error,
            PullError::Said(why) => Error::Pull { reference: name, why },
        })
    }

    /// Where the records are: one comes or goes with each image.
    pub fn records_directory(&self) -> PathBuf {
        self.inner.images()
    }

    /// Imports every image of a `docker save` or OCI archive, plain or compressed. What comes back has the names that the
    /// archive gives them, and no others.
    pub async fn import(&self, archive: &Path) -> Result<Vec<Image>, Error> {
        self.import_with(archive, false).await
    }

    /// Imports the archives in `<data>/images/` that are new or changed since they were last imported.
    /// Their images are never collected. A bad archive is reported and skipped.
    pub async fn import_directory(&self) -> Result<(), Error> {
        let directory = self.inner.data_directory.join("images");
        let failed = |source| Error::Io { operation: "read the image directory", source };
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(failed(source)),
        };
        let seen_file = self.inner.data_directory.join("content/imported.json");
        let mut seen: BTreeMap<String, String> =
            std::fs::read(&seen_file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let metadata = entry.metadata().map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !metadata.is_file() || name.starts_with('.') {
                continue;
            }
            let state = format!("{} {:?}", metadata.len(), metadata.modified().ok());
            if seen.get(&name) == Some(&state) {
                continue;
            }
            match self.import_with(&entry.path(), true).await {
                Ok(images) => {
                    info!(archive = %name, images = images.len(), "imported");
                    seen.insert(name, state);
                }
                Err(error) => warn!(archive = %name, error = %skiff_base::chain(&error), "skipped an image archive"),
            }
        }
        let bytes = serde_json::to_vec(&seen).expect("a map of strings always encodes");
        skiff_base::file::replace(&seen_file, &bytes, 0o644).map_err(failed)
    }

    async fn import_with(&self, archive: &Path, pinned: bool) -> Result<Vec<Image>, Error> {
        let (inner, archive) = (self.inner.clone(), archive.to_owned());
        blocking(move || {
            let _bringing = inner.bring().map_err(|source| Error::Io { operation: "lock image store", source })?;
            let found = archive::import(&inner, &archive).map_err(|e| Error::Failed {
                operation: "import archive",
                why: format!("{}: {e}", archive.display()),
            })?;
            let mut images = Vec::new();
            for (unpacked, tags, digests) in found {
                let recorded = inner.record(unpacked, &tags, &digests, pinned);
                let image = recorded.map_err(|source| Error::Io { operation: "write image record", source })?;
                images.push(Image { tags, digests, ..image });
            }
            Ok(images)
        })
        .await
    }

    /// Removes one name of an image, and the image when it was the last one (or an id was given).
    /// Snapshots go unless another image needs them. `in_use`: the images that have to stay; it is asked while nobody
    /// begins to use one ([`ImageStore::hold`]).
    pub async fn remove(
        &self,
        reference_or_id: &str,
        in_use: impl FnOnce() -> io::Result<Vec<ImageId>> + Send + 'static,
    ) -> Result<(), Error> {
        let (store, asked) = (self.clone(), reference_or_id.to_owned());
        blocking(move || {
            let failed = |source| Error::Io { operation: "remove image", source };
            let inner = &store.inner;
            let _nobody = store.hold_alone().map_err(failed)?;
            let in_use = in_use().map_err(failed)?;
            let mut records = inner.lock_records().map_err(failed)?;
            let record = find(&records.by_id, &asked)?.ok_or_else(|| Error::ImageNotFound(asked.clone()))?.clone();
            let mut left = record.clone();
            if let Ok(name) = ImageStore::normalize(&asked) {
                left.tags.remove(&name);
                left.digests.remove(&name);
            }
            let by_id = left.tags.len() == record.tags.len() && left.digests.len() == record.digests.len();
            if !by_id && !left.tags.is_empty() {
                // Who sweeps takes a record that is being replaced for one that a crash left.
                let _bringing = inner.bring().map_err(failed)?;
                inner.write(&left).map_err(failed)?;
                records.by_id.insert(left.id.clone(), left);
                return Ok(());
            }
            if in_use.iter().any(|id| id.0 == record.id) {
                return Err(Error::Failed {
                    operation: "remove image",
                    why: format!("{asked} is used by a container or a volume"),
                });
            }
            std::fs::remove_file(inner.record_path(&record.id)).map_err(failed)?;
            records.by_id.remove(&record.id);
            let surplus = inner.collect(&records);
            // Large ones take their time to go, and nobody waits for that.
            drop(records);
            surplus.map(drop).map_err(failed)
        })
        .await
    }

    /// Held from a look at an image until it is written down who uses it: no image is removed meanwhile.
    pub(crate) fn hold(&self) -> io::Result<File> {
        let file = self.inner.lock_file("use")?;
        file.lock_shared()?;
        Ok(file)
    }

    /// As [`ImageStore::hold`], and nobody else holds it.
    pub(crate) fn hold_alone(&self) -> io::Result<File> {
        let file = self.inner.lock_file("use")?;
        file.lock()?;
        Ok(file)
    }

    fn records(&self) -> Result<MutexGuard<'_, Records>, Error> {
        self.inner.lock_records().map_err(|source| Error::Io { operation: "read image records", source })
    }

    async fn pull_from_endpoints(
        &self,
        reference: &Reference,
        auth: Option<&RegistryAuth>,
    ) -> Result<Image, PullError> {
        let inner = self.inner.clone();
        let bring = move || inner.bring().map_err(|source| Error::Io { operation: "lock image store", source });
        let _bringing = blocking(bring).await?;
        let registries = match &self.inner.registries_file {
            Some(file) => Registries::load(file)?,
            None => Registries::default(),
        };
        let mut failures = Vec::new();
        for endpoint in registries.endpoints(&reference.registry, &reference.repository) {
            let base = endpoint.base.clone();
            match self.pull_from(reference, endpoint, auth).await {
                Ok(image) => return Ok(image),
                Err(PullError::Said(why)) => {
                    info!(image = %reference, endpoint = %base, error = %why, "could not pull here");
                    failures.push(why);
                }
                Err(own) => return Err(own),
            }
        }
        Err(PullError::Said(failures.join("; ")))
    }

    async fn pull_from(
        &self,
        reference: &Reference,
        endpoint: registries::Endpoint,
        auth: Option<&RegistryAuth>,
    ) -> Result<Image, PullError> {
        let session = Arc::new(Session::new(endpoint, auth.and_then(registries::pull_credentials))?);
        let (manifest, digest) = resolve(&session, reference).await?;
        let config_bytes = small_blob(&session, manifest.config().digest().as_ref()).await?;
        let config = ImageConfiguration::from_reader(config_bytes.as_ref())
            .map_err(|e| PullError::Said(format!("read the image's configuration: {e}")))?;
        let diff_ids = config.rootfs().diff_ids().clone();
        if diff_ids.len() != manifest.layers().len() {
            return Err(PullError::Said("the image's configuration and manifest disagree on its layers".to_owned()));
        }
        let snapshots = chain_names(&diff_ids).map_err(PullError::Said)?;
        let slots = Arc::new(Semaphore::new(PARALLEL_LAYERS));
        let mut downloads = tokio::task::JoinSet::new();
        for (index, (layer, diff_id)) in manifest.layers().iter().zip(&diff_ids).enumerate() {
            if self.inner.snapshots().join(&snapshots[index]).exists() {
                continue;
            }
            let (inner, session, slots) = (self.inner.clone(), session.clone(), slots.clone());
            let (layer, diff_id) = (layer.clone(), diff_id.clone());
            downloads.spawn(async move {
                let _slot = slots.acquire_owned().await.expect("the semaphore is never closed");
                download_layer(inner, session, layer, diff_id).await.map(|staged| (index, staged))
            });
        }
        let mut staged = BTreeMap::new();
        while let Some(done) = downloads.join_next().await {
            match done.unwrap_or_else(|e| Err(PullError::Said(e.to_string()))) {
                Ok((index, layer)) => staged.insert(index, layer),
                Err(error) => {
                    drop(downloads);
                    // Large ones take their time to go.
                    drop(tokio::task::spawn_blocking(move || drop(staged)).await);
                    return Err(error);
                }
            };
        }
        let sizes = manifest.layers().iter().map(Descriptor::size);
        let size_bytes = sizes.fold(config_bytes.len() as u64, u64::saturating_add);
        let id = manifest.config().digest().to_string();
        let unpacked = Unpacked { id, size_bytes, snapshots, config: config_record(&config) };
        let digests = vec![format!("{}@{digest}", reference.name())];
        let tags = reference.tag.iter().filter(|_| reference.digest.is_none());
        let tags: Vec<String> = tags.map(|tag| format!("{}:{tag}", reference.name())).collect();
        let inner = self.inner.clone();
        Ok(blocking(move || {
            inner
                .publish(staged, &unpacked.snapshots)
                .and_then(|()| inner.record(unpacked, &tags, &digests, false))
                .map_err(|source| Error::Io { operation: "store image", source })
        })
        .await?)
    }
}

impl Inner {
    fn snapshots(&self) -> PathBuf {
        self.data_directory.join("snapshots")
    }

    fn images(&self) -> PathBuf {
        self.data_directory.join("content/images")
    }

    fn record_path(&self, id: &str) -> PathBuf {
        self.images().join(format!("{}.json", id.trim_start_matches("sha256:")))
    }

    fn lock_file(&self, name: &str) -> io::Result<File> {
        File::options().create(true).append(true).open(self.data_directory.join("content").join(name))
    }

    /// Held while layers are brought here: nobody collects them before their record is written.
    fn bring(&self) -> io::Result<File> {
        let file = self.lock_file("lock")?;
        file.lock_shared()?;
        Ok(file)
    }

    /// Held while layers are removed; `None` while someone brings some.
    fn alone(&self) -> io::Result<Option<File>> {
        let file = self.lock_file("lock")?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Removes what crashes left half done.
    fn sweep(&self) -> io::Result<()> {
        let Some(_alone) = self.alone()? else { return Ok(()) };
        for entry in std::fs::read_dir(self.snapshots())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("tmp-") {
                match std::fs::remove_dir_all(entry.path()) {
                    // Another process was about to remove it as well.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    removed => removed?,
                }
            }
        }
        skiff_base::file::sweep(&self.images())
    }

    /// The records, read again when their directory has changed.
    fn lock_records(&self) -> io::Result<MutexGuard<'_, Records>> {
        let mut records = self.records.lock().expect("no panic while it is held");
        let changed = std::fs::metadata(self.images())?.modified()?;
        if records.read_at != Some(changed) {
            // File times tick coarsely: a change right after this one could look like it.
            let settled = changed.elapsed().is_ok_and(|age| age > TIMESTAMP_TICK);
            let (by_id, damaged) = self.load()?;
            *records = Records { by_id, damaged, read_at: settled.then_some(changed) };
        }
        Ok(records)
    }

    fn load(&self) -> io::Result<(BTreeMap<String, Record>, Damaged)> {
        let (mut records, mut damaged) = (BTreeMap::new(), Damaged::default());
        for entry in std::fs::read_dir(self.images())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') || !name.ends_with(".json") {
                continue;
            }
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                // Removed by another process meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            match serde_json::from_slice::<Record>(&bytes) {
                Ok(record) if record.snapshots.iter().all(|name| self.snapshots().join(name).is_dir()) => {
                    records.insert(record.id.clone(), record);
                    continue;
                }
                Ok(record) => damaged.snapshots.extend(record.snapshots),
                Err(_) => damaged.unreadable = true,
            }
            warn!(record = %path.display(), "an image's record or layers are damaged; it has to be pulled again");
        }
        Ok((records, damaged))
    }

    /// An empty directory for a layer that is being unpacked.
    fn stage(&self) -> io::Result<Staged> {
        let path = self.unnamed();
        std::fs::create_dir(&path)?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
        Ok(Staged { path, implied: Vec::new() })
    }

    /// A place for what is not a snapshot yet, or not any more.
    fn unnamed(&self) -> PathBuf {
        self.snapshots().join(format!("tmp-{}", uuid::Uuid::new_v4().simple()))
    }

    /// Makes staged layers durable and gives them their names, lowest first.
    fn publish(&self, staged: BTreeMap<usize, Staged>, names: &[String]) -> io::Result<()> {
        if staged.is_empty() {
            return Ok(());
        }
        let root = self.snapshots();
        for (index, layer) in &staged {
            let below: Vec<PathBuf> = (0..*index)
                .rev()
                .map(|below| staged.get(&below).map_or_else(|| root.join(&names[below]), |s| s.path.clone()))
                .collect();
            unpack::adopt_attributes(&layer.path, &layer.implied, &below)?;
        }
        nix::unistd::syncfs(std::fs::File::open(&root)?)?;
        for (index, layer) in staged {
            match std::fs::rename(&layer.path, root.join(&names[index])) {
                Ok(()) => {}
                // Another pull that shares the layer was first.
                Err(e) if matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {}
                Err(e) => return Err(e),
            }
        }
        skiff_base::file::sync_directory(&root)
    }

    fn record(&self, image: Unpacked, tags: &[String], digests: &[String], pinned: bool) -> io::Result<Image> {
        let mut records = self.lock_records()?;
        let records = &mut records.by_id;
        // A tag names one image: the one that it named before loses it.
        let previous: Vec<String> = records
            .values()
            .filter(|r| r.id != image.id && tags.iter().any(|t| r.tags.contains(t)))
            .map(|r| r.id.clone())
            .collect();
        for id in previous {
            let record = records.get_mut(&id).expect("found above");
            record.tags.retain(|tag| !tags.contains(tag));
            self.write(record)?;
        }
        let record = records.entry(image.id.clone()).or_insert_with(|| Record {
            id: image.id,
            tags: BTreeSet::new(),
            digests: BTreeSet::new(),
            size_bytes: image.size_bytes,
            pinned: false,
            snapshots: image.snapshots,
            config: image.config,
        });
        record.tags.extend(tags.iter().cloned());
        record.digests.extend(digests.iter().cloned());
        record.pinned |= pinned;
        self.write(record)?;
        Ok(record.image())
    }

    fn write(&self, record: &Record) -> io::Result<()> {
        let bytes = serde_json::to_vec(record).expect("a record always encodes");
        skiff_base::file::replace(&self.record_path(&record.id), &bytes, 0o644)
    }

    /// Takes their names from snapshots that no record names; they go with what comes back.
    fn collect(&self, records: &Records) -> io::Result<Vec<Staged>> {
        // Layers of a pull under way have no record yet; what is left over is found the next time.
        let Some(_alone) = self.alone()? else { return Ok(Vec::new()) };
        if records.damaged.unreadable {
            warn!("layers that no image needs stay: a record does not say which ones it needs");
            return Ok(Vec::new());
        }
        let needed = records.by_id.values().flat_map(|r| &r.snapshots).chain(&records.damaged.snapshots);
        let needed: BTreeSet<&str> = needed.map(String::as_str).collect();
        let mut surplus = Vec::new();
        for entry in std::fs::read_dir(self.snapshots())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with("tmp-") && !needed.contains(name.as_str()) {
                let unnamed = Staged { path: self.unnamed(), implied: Vec::new() };
                std::fs::rename(entry.path(), &unnamed.path)?;
                surplus.push(unnamed);
            }
        }
        Ok(surplus)
    }
}

impl Record {
    fn image(&self) -> Image {
        let config = self.config.clone();
        Image {
            id: ImageId(self.id.clone()),
            tags: self.tags.iter().cloned().collect(),
            digests: self.digests.iter().cloned().collect(),
            size_bytes: self.size_bytes,
            pinned: self.pinned,
            user: config.user.clone(),
            config: ImageConfig {
                entrypoint: config.entrypoint,
                cmd: config.cmd,
                env: config.env,
                working_dir: config.working_dir,
                user: config.user,
                stop_signal: config.stop_signal,
                volumes: config.volumes,
            },
        }
    }
}

/// A layer that has no name yet, and is gone with this handle unless it got one.
struct Staged {
    path: PathBuf,
    implied: unpack::Implied,
}

impl Drop for Staged {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(path = %self.path.display(), %error, "what is left of a layer is removed at the next start");
            }
            _ => {}
        }
    }
}

enum PullError {
    /// What the registry or the network says: another endpoint may do better.
    Said(String),
    /// Trouble of this node.
    Own(Error),
}

impl From<Error> for PullError {
    fn from(error: Error) -> Self {
        Self::Own(error)
    }
}

impl From<registry::Error> for PullError {
    fn from(error: registry::Error) -> Self {
        Self::Said(error.to_string())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Failed { operation: "image store", why: error.to_string() }),
    }
}

fn find<'a>(records: &'a BTreeMap<String, Record>, asked: &str) -> Result<Option<&'a Record>, Error> {
    if let Some(record) = records.get(asked).or_else(|| records.get(&format!("sha256:{asked}"))) {
        return Ok(Some(record));
    }
    let name = match Reference::parse(asked) {
        Ok(reference) if reference.digest.is_some() => {
            format!("{}@{}", reference.name(), reference.version())
        }
        Ok(reference) => reference.to_string(),
        Err(error) => return Err(error),
    };
    Ok(records.values().find(|r| r.tags.contains(&name) || r.digests.contains(&name)))
}

/// The manifest for this machine's platform, and the digest that the reference stands for.
async fn resolve(session: &Session, reference: &Reference) -> Result<(ImageManifest, String), PullError> {
    let said = |e: &dyn std::fmt::Display| PullError::Said(format!("read the manifest of {reference}: {e}"));
    let answer = session.manifest(reference.version()).await?;
    let digest = sha256(&answer.body);
    if let Some(expect) = &reference.digest {
        layer::compare("manifest", expect, &digest).map_err(|e| said(&e))?;
    }
    let body: serde_json::Value = serde_json::from_slice(&answer.body).map_err(|e| said(&e))?;
    if body.get("manifests").is_none() {
        if body.get("config").is_none() {
            return Err(said(&format!("unsupported media type {:?}", answer.media_type)));
        }
        return Ok((ImageManifest::from_reader(answer.body.as_ref()).map_err(|e| said(&e))?, digest));
    }
    let index = ImageIndex::from_reader(answer.body.as_ref()).map_err(|e| said(&e))?;
    let child = pick_platform(index.manifests()).ok_or_else(|| said(&"no match for platform in manifest"))?;
    let answer = session.manifest(child.digest().as_ref()).await?;
    layer::compare("manifest", child.digest().as_ref(), &sha256(&answer.body)).map_err(|e| said(&e))?;
    Ok((ImageManifest::from_reader(answer.body.as_ref()).map_err(|e| said(&e))?, digest))
}

async fn small_blob(session: &Session, digest: &str) -> Result<Bytes, PullError> {
    let body = http_body_util::Limited::new(session.blob(digest, 0).await?, CONFIG_LIMIT);
    let bytes = body.collect().await.map_err(|e| PullError::Said(format!("{digest}: {e}")))?.to_bytes();
    layer::compare("configuration", digest, &sha256(&bytes)).map_err(|e| PullError::Said(e.to_string()))?;
    Ok(bytes)
}

async fn download_layer(
    inner: Arc<Inner>,
    session: Arc<Session>,
    layer: Descriptor,
    diff_id: String,
) -> Result<Staged, PullError> {
    let digest = layer.digest().to_string();
    let (sender, receiver) = mpsc::channel(DOWNLOAD_QUEUE);
    let feed = feed(&session, &digest, layer.size(), sender);
    let expect = digest.clone();
    let unpacked = tokio::task::spawn_blocking(move || {
        let mut staged = inner.stage()?;
        staged.implied = unpack_verified(ChannelReader::new(receiver), &staged.path, Some(&expect), &diff_id)?;
        io::Result::Ok(staged)
    });
    let ((), unpacked) = tokio::join!(feed, unpacked);
    match unpacked {
        Ok(Ok(staged)) => Ok(staged),
        Ok(Err(error)) => Err(PullError::Said(format!("failed to extract layer {digest}: {error}"))),
        Err(error) => Err(PullError::Said(error.to_string())),
    }
}

/// Sends a blob's bytes, taking a broken download up again where it ended.
async fn feed(session: &Session, digest: &str, size: u64, sender: mpsc::Sender<io::Result<Bytes>>) {
    let mut sent = 0;
    let mut resumes = 0;
    let why = loop {
        let mut why = match session.blob(digest, sent).await {
            Err(error) => error.to_string(),
            Ok(mut body) => loop {
                match body.frame().await {
                    Some(Ok(frame)) => {
                        let Ok(data) = frame.into_data() else { continue };
                        sent += data.len() as u64;
                        if sender.send(Ok(data)).await.is_err() {
                            // The unpacker has found an error of its own.
                            return;
                        }
                    }
                    Some(Err(error)) => break skiff_base::chain(&error).to_string(),
                    None if sent < size => break "the connection ended early".to_owned(),
                    None => return,
                }
            },
        };
        resumes += 1;
        if resumes > RESUMES {
            why = format!("{why} (after {RESUMES} resumed downloads)");
            break why;
        }
        if sent == 0 && resumes > 1 {
            break why;
        }
    };
    // The receiver is gone only when the unpacker has failed already.
    drop(sender.send(Err(io::Error::other(why))).await);
}

fn config_record(config: &ImageConfiguration) -> ConfigRecord {
    let Some(config) = config.config() else { return ConfigRecord::default() };
    ConfigRecord {
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        cmd: config.cmd().clone().unwrap_or_default(),
        env: config.env().clone().unwrap_or_default(),
        working_dir: config.working_dir().clone().unwrap_or_default(),
        user: config.user().clone().unwrap_or_default(),
        stop_signal: config.stop_signal().clone(),
        volumes: config.volumes().clone().unwrap_or_default(),
    }
}
