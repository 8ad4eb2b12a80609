//! The provisioner `rancher.io/local-path`: directories of this node as volumes. Each node makes those of its own claims
//! (their first pod was given to it by the scheduler), and removes them with their data when their claims are gone; no
//! helper pods. The volumes look as k3s' do, so that what was written for these finds the same.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, LocalVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume,
    PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::{ObjectKey, volume as rules};
use skiff_base::{Scope, chain};
use skiff_client::{
    Change, Client, DeleteOptions, Error, EventKind, EventRecorder, Informers, Lister, Next, Queue, Reconciler, Result,
};

use crate::volume::tree;

/// The name by which storage classes ask for it.
pub const PROVISIONER: &str = "rancher.io/local-path";
/// On the volume.
const SELECTED: &str = "local.path.provisioner/selected-node";
/// On claims and classes: `local` or `hostPath`.
const VOLUME_TYPE: &str = "volumeType";
const DEFAULT_VOLUME_TYPE: &str = "defaultVolumeType";
const HOSTNAME: &str = "kubernetes.io/hostname";

#[derive(Debug, Clone)]
pub struct Options {
    pub node_name: String,
    /// `/var/lib/skiff/storage`; each volume is a directory in it.
    pub directory: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Claim(ObjectKey),
    Volume(String),
}

/// Makes and removes volumes until the scope is stopped.
pub fn start(options: Options, informers: &Informers, scope: &Scope) {
    let (claims, volumes, classes) = (informers.lister(), informers.lister(), informers.lister::<StorageClass>());
    let queue: Queue<Key> = Queue::new(LocalPath::NAME);
    let adding = queue.clone();
    claims.subscribe(move |change: &Change<PersistentVolumeClaim>| {
        if rules::provisioner(change.object()) == Some(PROVISIONER) {
            adding.add(Key::Claim(ObjectKey::of(&**change.object())));
        }
    });
    let adding = queue.clone();
    volumes.subscribe(move |change: &Change<PersistentVolume>| {
        let volume = change.object();
        if rules::provisioned_by(volume) == Some(PROVISIONER) && !matches!(change, Change::Deleted(_)) {
            adding.add(Key::Volume(volume.metadata.name.clone().unwrap_or_default()));
        }
    });
    let client = informers.client().clone();
    let provisioner = Arc::new(LocalPath {
        events: EventRecorder::new(client.clone(), scope, PROVISIONER, &options.node_name),
        client,
        options,
        claims: claims.clone(),
        volumes: volumes.clone(),
        classes: classes.clone(),
    });
    let own = scope.clone();
    scope.spawn(async move {
        let synced = async {
            claims.synced().await;
            volumes.synced().await;
            classes.synced().await;
        };
        tokio::select! {
            () = own.token().cancelled() => return,
            () = synced => {}
        }
        skiff_client::run(&own, provisioner, queue, 2);
    });
}

struct LocalPath {
    client: Client,
    events: EventRecorder,
    options: Options,
    claims: Lister<PersistentVolumeClaim>,
    volumes: Lister<PersistentVolume>,
    classes: Lister<StorageClass>,
}

impl Reconciler for LocalPath {
    const NAME: &'static str = "local-path-provisioner";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Next> {
        match key {
            Key::Claim(key) => match self.claims.get(key) {
                Some(claim) if rules::is_fully_bound(&claim) => self.expand(&claim).await?,
                Some(claim) => self.provision(&claim).await?,
                None => {}
            },
            Key::Volume(name) => {
                if let Some(volume) = self.volumes.get(&ObjectKey::cluster(name)) {
                    self.remove(&volume).await?;
                }
            }
        }
        Ok(Next::Done)
    }
}

impl LocalPath {
    /// A directory has no size of its own: it is given as much as is asked.
    async fn expand(&self, claim: &PersistentVolumeClaim) -> Result<()> {
        let Some(volume) = self.volumes.get(&ObjectKey::cluster(rules::volume_name(claim))) else { return Ok(()) };
        let Some(size) = plan_expansion(claim, &volume, &self.options) else { return Ok(()) };
        let size = [("storage".to_owned(), size)];
        let mut larger = (*volume).clone();
        larger.spec.get_or_insert_default().capacity.get_or_insert_default().extend(size.clone());
        if larger != *volume {
            self.client.all::<PersistentVolume>().update(&larger).await?;
        }
        let mut told = claim.clone();
        told.status.get_or_insert_default().capacity.get_or_insert_default().extend(size);
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        self.client.namespaced::<PersistentVolumeClaim>(namespace).update_status(&told).await?;
        let about = EventRecorder::reference(claim);
        self.events.record(about, EventKind::Normal, "VolumeResizeSuccessful", "Resize volume succeeded");
        Ok(())
    }

    async fn provision(&self, claim: &PersistentVolumeClaim) -> Result<()> {
        if !rules::volume_name(claim).is_empty() || claim.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let Some(class) = self.classes.get(&ObjectKey::cluster(rules::class_of_claim(claim))) else { return Ok(()) };
        // Another node's, or none's yet: the scheduler has the next word.
        let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
        if rules::selected_node(claim) != Some(&self.options.node_name)
            && (waits || rules::selected_node(claim).is_some())
        {
            return Ok(());
        }
        let about = EventRecorder::reference(claim);
        let planned = plan_volume(claim, &class, &self.options);
        let (volume, path) = match planned {
            Ok(planned) => planned,
            Err(why) => {
                let class = class.metadata.name.as_deref().unwrap_or_default();
                let message = format!("failed to provision volume with StorageClass {class:?}: {why}");
                self.events.record(about, EventKind::Warning, "ProvisioningFailed", message);
                return Ok(());
            }
        };
        let name = volume.metadata.name.clone().unwrap_or_default();
        if self.volumes.get(&ObjectKey::cluster(&name)).is_some() {
            return Ok(());
        }
        let key = ObjectKey::of(claim);
        let message = format!("External provisioner is provisioning volume for claim \"{key}\"");
        self.events.record(about.clone(), EventKind::Normal, "Provisioning", message);
        let made = tokio::task::spawn_blocking(move || make(&path)).await.unwrap_or_else(|e| Err(io::Error::other(e)));
        let made = match made {
            Ok(()) => self.client.all::<PersistentVolume>().create(&volume).await.map(drop),
            Err(error) => Err(Error::Config(format!("make the directory of {name}: {error}"))),
        };
        match made {
            Err(error) if error.is_already_exists() => Ok(()),
            Err(error) => {
                let class = class.metadata.name.as_deref().unwrap_or_default();
                let message = format!("failed to provision volume with StorageClass {class:?}: {}", chain(&error));
                self.events.record(about, EventKind::Warning, "ProvisioningFailed", message);
                Err(error)
            }
            Ok(()) => {
                let message = format!("Successfully provisioned volume {name}");
                self.events.record(about, EventKind::Normal, "ProvisioningSucceeded", message);
                Ok(())
            }
        }
    }

    async fn remove(&self, volume: &PersistentVolume) -> Result<()> {
        let Some(path) = plan_removal(volume, &self.options) else { return Ok(()) };
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let removed = match path {
            Ok(path) => {
                let done = tokio::task::spawn_blocking(move || tree::remove_tree(&path)).await;
                done.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(|e| e.to_string())
            }
            Err(why) => Err(why),
        };
        if let Err(why) = removed {
            let message = format!("remove the data of {name}: {why}");
            let about = EventRecorder::reference(volume);
            self.events.record(about, EventKind::Warning, "VolumeFailedDelete", &*message);
            return Err(Error::Config(message));
        }
        let options = DeleteOptions { uid: volume.metadata.uid.clone(), ..DeleteOptions::default() };
        match self.client.all::<PersistentVolume>().delete(name, &options).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whoever the pod runs as may write to it, as k3s has it.
fn make(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        // Not for the other users of the machine.
        tree::ensure_directory(parent, 0o701)?;
    }
    tree::ensure_directory(path, 0o777)
}

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The volume for a claim, and its directory; else why it gets none.
fn plan_volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    options: &Options,
) -> Result<(PersistentVolume, PathBuf), String> {
    let spec = claim.spec.clone().unwrap_or_default();
    if rules::selected_node(claim).is_none() {
        return Err("configuration error, no node was specified".to_owned());
    }
    if spec.selector.is_some() {
        return Err("claim.Spec.Selector is not supported".to_owned());
    }
    if rules::mode_of_claim(claim) == "Block" {
        return Err("block volumes are not supported".to_owned());
    }
    if rules::access_modes(claim).iter().any(|mode| mode != "ReadWriteOnce" && mode != "ReadWriteOncePod") {
        return Err("NodePath only supports ReadWriteOnce and ReadWriteOncePod (1.22+) access modes".to_owned());
    }
    if let Some(unknown) = class.parameters.iter().flatten().map(|(name, _)| name).next() {
        return Err(format!("the parameter {unknown:?} is not supported"));
    }
    let name = format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default());
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let directory = format!("{name}_{}_{}", text(&claim.metadata.namespace), text(&claim.metadata.name));
    let path = options.directory.join(directory);
    let shown = path.to_string_lossy().into_owned();
    let kind = annotation(&claim.metadata, VOLUME_TYPE).or_else(|| annotation(&class.metadata, DEFAULT_VOLUME_TYPE));
    let (local, host_path) = match kind {
        Some("local") => (Some(LocalVolumeSource { path: shown, fs_type: None }), None),
        None | Some("hostPath") => {
            (None, Some(HostPathVolumeSource { path: shown, type_: Some("DirectoryOrCreate".to_owned()) }))
        }
        Some(other) => return Err(format!("{other:?} is not a recognised volume type")),
    };
    let here = NodeSelectorRequirement {
        key: HOSTNAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![options.node_name.clone()]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![here]), ..NodeSelectorTerm::default() };
    let annotations =
        [(SELECTED.to_owned(), options.node_name.clone()), (rules::PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())];
    let volume = PersistentVolume {
        metadata: ObjectMeta { name: Some(name), annotations: Some(annotations.into()), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: spec.resources.and_then(|resources| resources.requests),
            claim_ref: Some(rules::claim_reference(claim)),
            host_path,
            local,
            mount_options: class.mount_options.clone(),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector { node_selector_terms: vec![term] }),
            }),
            persistent_volume_reclaim_policy: class.reclaim_policy.clone(),
            storage_class_name: Some(rules::class_of_claim(claim).to_owned()),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    };
    Ok((volume, path))
}

/// What a claim asks for beyond what it has; `None` where there is nothing to do, or not from this node.
fn plan_expansion(claim: &PersistentVolumeClaim, volume: &PersistentVolume, options: &Options) -> Option<Quantity> {
    let told = claim.status.as_ref()?.capacity.as_ref().and_then(|capacity| capacity.get("storage")?.0.parse().ok());
    let asked = rules::requested(claim);
    let ours = rules::provisioned_by(volume) == Some(PROVISIONER)
        && annotation(&volume.metadata, SELECTED) == Some(&options.node_name)
        && rules::is_bound_to(volume, claim);
    // What is larger already stays as it is.
    let grows = ours && told.is_some_and(|told: skiff_api::quantity::Quantity| told < asked);
    grows.then(|| claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage").cloned()).flatten()
}

/// The directory that goes with a volume; `None` where nothing is to go, or not from this node.
fn plan_removal(volume: &PersistentVolume, options: &Options) -> Option<Result<PathBuf, String>> {
    let spec = volume.spec.as_ref()?;
    let released = volume.status.as_ref()?.phase.as_deref() == Some("Released");
    if !released
        || spec.persistent_volume_reclaim_policy.as_deref() != Some("Delete")
        || volume.metadata.deletion_timestamp.is_some()
        || annotation(&volume.metadata, SELECTED) != Some(&options.node_name)
    {
        return None;
    }
    let path = spec.local.as_ref().map(|local| &local.path).or(spec.host_path.as_ref().map(|host| &host.path))?;
    let path = PathBuf::from(path);
    // Nothing but what was made here, whatever somebody has written into the object.
    let name = path.strip_prefix(&options.directory).ok().map(|rest| rest.components().collect::<Vec<_>>());
    let pattern = format!("{}_", volume.metadata.name.as_deref()?);
    let is_ours =
        matches!(name.as_deref(), Some([Component::Normal(name)]) if name.to_string_lossy().starts_with(&pattern));
    Some(if is_ours { Ok(path) } else { Err(format!("{} is no directory of this provisioner", path.display())) })
}

#[cfg(test)]
mod tests;
