//! The handle: opening, images, events, and the end of everything.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use skiff_linux::cgroup::Cgroups;
use skiff_linux::mount;
use tokio::sync::broadcast;
use tracing::{info, warn};

use crate::images::ImageStore;
use crate::in_use::{self, MOUNTED};
use crate::link::Link;
use crate::plan::cgroup_path;
use crate::protocol::{Call, Layout};
use crate::record::{self, RECORD, SandboxRecord, ensure_removed};
use crate::recover::pod_groups;
use crate::state::{Inner, Tables};
use crate::{Error, Image, ImageId, RegistryAuth, RuntimeEvent, RuntimeOptions, SandboxConfig};

/// A cheap handle on the containers of this node.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) fn io(operation: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { operation, source }
}

/// Runs what waits for disks and the kernel on a thread made for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Failed { operation: "run blocking work", why: error.to_string() }),
    }
}

impl Runtime {
    /// Connects to the running supervisor or starts one (`/proc/self/exe supervisor`), recovers records,
    /// removes leftovers of crashes. A second process gets a handle that removes nothing.
    pub async fn open(options: RuntimeOptions) -> Result<Runtime, Error> {
        let inner = blocking(move || {
            // The table of mounts knows real paths only (`/var/run` is a link).
            let real = |directory: &Path| {
                std::fs::create_dir_all(directory)
                    .and_then(|()| directory.canonicalize())
                    .map_err(io("create directory"))
            };
            let layout = Layout { run: real(&options.run_directory)?, data: real(&options.data_directory)? };
            let lock = std::fs::File::create(layout.run.join("agent.lock")).map_err(io("create lock"))?;
            let owner = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock).ok();
            if owner.is_some() {
                // Files of images and containers, which may be for everybody inside, are not for the host's users.
                let ours = ["sandboxes", "containers"].map(|name| [layout.run.join(name), layout.data.join(name)]);
                for directory in ours.iter().flatten().chain([&layout.data]) {
                    std::fs::create_dir_all(directory)
                        .and_then(|()| std::fs::set_permissions(directory, PermissionsExt::from_mode(0o700)))
                        .map_err(io("create directory"))?;
                }
                in_use::forget_unmounted(&layout.data).map_err(io("forget where images were mounted"))?;
                // Mounts made below are nobody else's.
                mount::ensure_private(&layout.run).map_err(io("make the run directory private"))?;
            }
            let cgroups = Cgroups::detect().map_err(io("find cgroups"))?;
            let images = ImageStore::open(&options.data_directory, options.registries_file.clone())?;
            let inner = Arc::new(Inner::new(options, layout, cgroups, images, owner));
            let link = inner.connect()?;
            let weak = Arc::downgrade(&inner);
            std::thread::Builder::new()
                .name("runtime-link".to_owned())
                .spawn(move || Inner::follow(&weak, link))
                .map_err(io("start a thread"))?;
            Ok(inner)
        })
        .await?;
        Ok(Runtime { inner })
    }

    /// Whether no agent looks after what is here, but this handle.
    pub fn is_owner(&self) -> bool {
        self.inner.owner.is_some()
    }

    /// What happens from now on. A receiver that lags must list again, as after [`RuntimeEvent::Resync`].
    pub fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.inner.events.subscribe()
    }

    pub async fn pull(&self, reference: &str, auth: Option<&RegistryAuth>) -> Result<Image, Error> {
        self.inner.images.pull(reference, auth).await
    }

    pub async fn image(&self, reference_or_id: &str) -> Result<Option<Image>, Error> {
        self.inner.images.image(reference_or_id)
    }

    pub async fn images(&self) -> Result<Vec<Image>, Error> {
        self.inner.images.images()
    }

    /// The directory that changes with every image that comes or goes, whichever process did it.
    pub fn image_records(&self) -> std::path::PathBuf {
        self.inner.images.records_directory()
    }

    pub async fn remove_image(&self, reference_or_id: &str) -> Result<(), Error> {
        let data = self.inner.layout.data.clone();
        self.inner.images.remove(reference_or_id, move || in_use::images_in_use(&data)).await
    }

    /// The images that can't be removed now.
    pub async fn images_in_use(&self) -> Result<Vec<ImageId>, Error> {
        let data = self.inner.layout.data.clone();
        blocking(move || in_use::images_in_use(&data).map_err(io("see which images are in use"))).await
    }

    /// The image that [`Runtime::mount_image`] shows there.
    pub async fn mounted_image(&self, target: &Path) -> Result<Option<ImageId>, Error> {
        let (data, target) = (self.inner.layout.data.clone(), target.to_owned());
        blocking(move || {
            let mounted = mount::mounts_below(&target).map_err(io("read the table of mounts"))?.contains(&target);
            Ok(in_use::mounted(&data, &target).filter(|_| mounted))
        })
        .await
    }

    /// Shows the files of an image at a directory, read-only, none of them to be executed; nothing if they are there.
    /// Removed by an unmount; until then the image stays.
    pub async fn mount_image(&self, id: &ImageId, target: &Path) -> Result<(), Error> {
        let (inner, id, target) = (self.inner.clone(), id.clone(), target.to_owned());
        blocking(move || {
            let _nobody = inner.images.hold_alone().map_err(io("lock image store"))?;
            let noted = in_use::mounted(&inner.layout.data, &target).is_some();
            let mounted = mount::mounts_below(&target).map_err(io("read the table of mounts"))?.contains(&target);
            if mounted && noted {
                return Ok(());
            }
            let layers = inner.images.layers(&id)?.lower_directories;
            in_use::note(&inner.layout.data, &id, &target).map_err(io("note a mounted image"))?;
            if mounted {
                return Ok(());
            }
            std::fs::create_dir_all(&target).map_err(io("create directory"))?;
            mount::read_only_view(&layers, &target).map_err(io("mount an image"))
        })
        .await
    }

    /// What was mounted below a directory that is gone is mounted no more.
    pub async fn forget_images_below(&self, directory: &Path) -> Result<(), Error> {
        let (data, directory) = (self.inner.layout.data.clone(), directory.to_owned());
        let forget = move || in_use::forget(&data, |target| target.starts_with(&directory));
        blocking(move || forget().map_err(io("forget where images were mounted"))).await
    }

    pub async fn import(&self, archive: &Path) -> Result<Vec<Image>, Error> {
        self.inner.images.import(archive).await
    }

    /// Imports the archives in `<data>/images/` that are new.
    pub async fn import_directory(&self) -> Result<(), Error> {
        self.inner.images.import_directory().await
    }

    pub fn normalize(reference: &str) -> Result<String, Error> {
        ImageStore::normalize(reference)
    }

    /// Kills what runs and ends the supervisor, for the end of the machine: this handle is of no use then. Records stay.
    pub async fn end(&self) -> Result<(), Error> {
        self.inner.ended.store(true, Ordering::Relaxed);
        let link = self.inner.link()?;
        link.call("end the supervisor", Call::Shutdown, &[]).await.map(drop)
    }

    /// Waits until `ready` gives something, looking again at every change of the tables; `None` at the limit.
    pub(crate) async fn eventually<T>(
        &self,
        limit: Option<Duration>,
        ready: impl Fn(&mut Tables) -> Option<T>,
    ) -> Option<T> {
        let wait = async {
            loop {
                let changed = self.inner.changed.notified();
                tokio::pin!(changed);
                // Registered before looking, so that no change falls between.
                changed.as_mut().enable();
                if let Some(found) = ready(&mut self.inner.tables()) {
                    return found;
                }
                changed.await;
            }
        };
        within(limit, wait).await
    }

    /// The sandboxes that this machine has records of, for when nothing runs that could be asked.
    pub fn recorded_sandboxes(options: &RuntimeOptions) -> Result<Vec<SandboxConfig>, Error> {
        let directory = options.data_directory.join("sandboxes");
        let ids = record::names(&directory).map_err(io("read sandbox records"))?;
        let records = ids.iter().filter_map(|id| record::read::<SandboxRecord>(&directory.join(id).join(RECORD)));
        Ok(records.map(|record| record.config).collect())
    }

    /// Ends the supervisor and removes everything that the runtime has on the host: processes, mounts, cgroups, the run
    /// directory. The records of sandboxes and containers stay, as after a power cut: whoever opens the runtime next finds
    /// by them what ran. So do images.
    pub async fn kill_all(options: &RuntimeOptions) -> Result<(), Error> {
        let options = options.clone();
        blocking(move || kill_all(&options)).await
    }
}

async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.ok(),
        None => Some(work.await),
    }
}

fn kill_all(options: &RuntimeOptions) -> Result<(), Error> {
    let layout = Layout { run: options.run_directory.clone(), data: options.data_directory.clone() };
    let cgroups = Cgroups::detect().map_err(io("find cgroups"))?;
    let mut errors: Vec<String> = Vec::new();
    if let Ok(link) = Link::connect(&layout) {
        info!("ending the supervisor and its containers");
        // It may leave before its answer does.
        if let Err(error) = link.call_alone("end the supervisor", Call::Shutdown, &mut Vec::new()) {
            warn!(error = %skiff_base::chain(&error), "the supervisor gave no answer");
        }
    }
    // Another kubelet of this machine may have pods below the same group.
    let pods = cgroup_path(&options.cgroup_root, "kubepods");
    let mut groups = pod_groups(&cgroups, &pods);
    for id in record::names(&layout.data.join("sandboxes")).map_err(io("read sandbox records"))? {
        let record = record::read::<SandboxRecord>(&layout.sandbox_data(&id).join(RECORD));
        groups.extend(record.map(|record| record.cgroup));
    }
    groups.push(cgroup_path(&options.cgroup_root, "skiff-supervisor"));
    for path in groups {
        let until = Instant::now() + options.kill_timeout;
        loop {
            let left = cgroups.kill(&path).map_or(0, |count| count);
            match cgroups.remove(&path) {
                Ok(()) => break,
                Err(error) if Instant::now() > until => {
                    errors.push(format!("cgroup {path} with {left} processes: {error}"));
                    break;
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
    for class in ["guaranteed", "burstable", "besteffort"] {
        cgroups.remove_empty(&format!("{pods}/{class}"));
    }
    cgroups.remove_empty(&pods);
    if !options.cgroup_root.trim_matches('/').is_empty() {
        // Made for us; it stays where others are in it.
        cgroups.remove_empty(&options.cgroup_root);
    }
    if let Err(error) = cgroups.restore_root() {
        // Others have groups there meanwhile, that need it so.
        warn!(%error, "processes that were moved out of the root group stay in a group below it");
    }
    if layout.run.exists() {
        let run = layout.run.canonicalize().map_err(io("find the run directory"))?;
        errors.extend(mount::ensure_unmounted_below(&run).err().map(|error| error.to_string()));
        let directories = ["sandboxes", "containers"].map(|name| run.join(name));
        for directory in directories {
            errors.extend(ensure_removed(&directory).err().map(|error| format!("{}: {error}", directory.display())));
        }
        for file in [crate::protocol::SOCKET, "supervisor.lock", "supervisor.log", "agent.lock"] {
            // Those that are not there are what is wanted.
            let _ = std::fs::remove_file(run.join(file));
        }
        // Others may have things there.
        let _ = std::fs::remove_dir(&run);
    }
    let mounted = layout.data.join(MOUNTED);
    errors.extend(ensure_removed(&mounted).err().map(|error| format!("{}: {error}", mounted.display())));
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Error::Failed { operation: "remove everything", why: errors.join("; ") })
    }
}
