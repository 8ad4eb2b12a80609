//! Devices that plugins of this node give to containers (`deviceplugin/v1beta1`): GPUs, USB sticks, whatever is counted.
//!
//! Plugins register at a socket (`register`) or are found by theirs, as drivers of volumes are; each then tells, as a stream,
//! which devices there are and how they do. When a pod is admitted its containers are given devices (`plan` chooses, the
//! plugin has its say), and what the plugin answers becomes part of each container that is made (`wire`). Who has what is in
//! `state` and in a file, so that it outlives the agent. `pod_resources` tells others.
//!
//! Must not know: how containers are made, or what a pod does beside asking for devices.

mod plan;
mod pod_resources;
mod register;
mod state;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceStatus};
use skiff_base::Scope;
use tokio::sync::{Notify, Semaphore, watch};

use crate::grpc::proto::Message;
use crate::grpc::{self, Failure};
use crate::pod::{self, PodUid, Role};
use crate::quantity;
use plan::{Choice, Offer};
use state::{Gift, Plugin, Presence, State};
pub(crate) use wire::Edits;

/// How long a plugin may be away before its devices are the node's no more, as upstream.
const GRACE: Duration = Duration::from_secs(5 * 60);
/// As upstream: for a plugin that answers its registration, and for one that prepares devices.
const GREETING_LIMIT: Duration = Duration::from_secs(10);
const PRE_START_LIMIT: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(120);
/// Below the kubelet's directory; upstream's names.
const DIRECTORY: &str = "device-plugins";
const FILE: &str = "kubelet_internal_checkpoint";

/// What the node has of each resource, and what of it pods may have.
pub(crate) type Counts = BTreeMap<String, [usize; 2]>;

pub(crate) struct Devices {
    directory: PathBuf,
    state: Mutex<State>,
    /// One pod at a time is given devices.
    turn: Semaphore,
    /// One at a time writes the file, the latest last.
    writing: Semaphore,
    /// Told when the health of what somebody was given changes.
    health: watch::Sender<()>,
    /// The node's status is to tell it.
    counts_changed: Arc<Notify>,
    /// There was no file yet: what the API says of the node's devices is another machine's.
    fresh: bool,
}

impl Devices {
    /// Knows what an earlier agent wrote below `root`.
    pub(crate) fn open(root: &Path, counts_changed: Arc<Notify>) -> Arc<Self> {
        let directory = root.join(DIRECTORY);
        let path = directory.join(FILE);
        let (state, fresh) = match fs::read(&path) {
            Ok(text) => match serde_json::from_slice(&text).ok().and_then(|file| State::read(&file)) {
                Some(state) => (state, false),
                None => {
                    tracing::warn!(path = %path.display(), "who has which devices can't be read");
                    (State::default(), false)
                }
            },
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "who has which devices can't be read");
                }
                (State::default(), true)
            }
        };
        Arc::new(Self {
            directory,
            state: Mutex::new(state),
            turn: Semaphore::new(1),
            writing: Semaphore::new(1),
            health: watch::channel(()).0,
            counts_changed,
            fresh,
        })
    }

    /// Whether the node's devices of an earlier registration were another machine's.
    pub(crate) fn are_fresh(&self) -> bool {
        self.fresh
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().resources.iter().map(|(name, resource)| (name.clone(), resource.counts())).collect()
    }

    /// Whether a plugin counts what there is of a resource, or did.
    pub(crate) fn knows(&self, resource: &str) -> bool {
        self.lock().knows(resource)
    }

    /// Told of changes that pods' statuses show.
    pub(crate) fn health_changes(&self) -> watch::Receiver<()> {
        self.health.subscribe()
    }

    /// As the status of a container tells it.
    pub(crate) fn health(&self, uid: &PodUid, container: &str) -> Option<Vec<ResourceStatus>> {
        self.lock().health(uid, container)
    }

    /// The devices that a container asks for, with how many.
    fn wanted(&self, container: &Container) -> Vec<(String, usize)> {
        let limits = container.resources.iter().flat_map(|resources| resources.limits.iter().flatten());
        let state = self.lock();
        let amount = |amount| usize::try_from(quantity::value(amount)).unwrap_or(0);
        limits
            .map(|(name, limit)| (name.clone(), amount(limit)))
            .filter(|(name, amount)| *amount > 0 && state.knows(name))
            .collect()
    }

    /// Whether a pod asks for devices.
    pub(crate) fn are_wanted(&self, pod: &Pod) -> bool {
        pod::containers(pod).any(|(_, container)| !self.wanted(container).is_empty())
    }

    /// Gives the containers of a pod their devices; idempotent. What was given before an error stays the pod's until it is
    /// released.
    pub(crate) async fn allocate(&self, pod: &Pod) -> Result<(), String> {
        let _turn = self.turn.acquire().await.expect("it is never closed");
        let uid = pod::uid(pod);
        let mut reusable: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut changed = false;
        for (role, container) in pod::containers(pod) {
            for (resource, required) in self.wanted(container) {
                let given = self.allocate_one(&uid, &container.name, &resource, required, reusable.get(&resource));
                changed |= given.await?;
            }
            let state = self.lock();
            for (resource, gift) in state.gifts(&uid, &container.name).into_iter().flatten() {
                let left = reusable.entry(resource.clone()).or_default();
                match role {
                    // It has ended when the next one begins.
                    Role::Init => left.extend(gift.ids()),
                    _ => left.retain(|id| !gift.devices.contains_key(id)),
                }
            }
        }
        if changed {
            self.write().await.map_err(|e| format!("failed to write checkpoint file {FILE:?}: {e}"))
        } else {
            Ok(())
        }
    }

    /// True where the container was given something.
    async fn allocate_one(
        &self,
        uid: &PodUid,
        container: &str,
        resource: &str,
        required: usize,
        reusable: Option<&BTreeSet<String>>,
    ) -> Result<bool, String> {
        let (choice, plugin) = {
            let state = self.lock();
            let known = state.resources.get(resource);
            let known = known.ok_or_else(|| format!("cannot allocate unregistered device {resource}"))?;
            let had = state.gifts(uid, container).and_then(|gifts| gifts.get(resource)).map(Gift::ids);
            let offer = Offer {
                resource,
                whose: (&uid.0, container),
                required,
                had: had.as_ref(),
                healthy: &known.healthy(),
                used: &state.used(resource),
                reusable,
            };
            (plan::choose(&offer)?, known.plugin().cloned())
        };
        let Choice::Give { taken, available } = choice else { return Ok(false) };
        let plugin = plugin.ok_or_else(|| format!("unknown Device Plugin {resource}"))?;
        let mut preferred = Vec::new();
        if plugin.abilities.preferred && taken.len() < required {
            let open = taken.union(&available).cloned().collect();
            let request = wire::preference(&open, &taken, required);
            let answer = plugin.call("GetPreferredAllocation", request, LIMIT).await;
            let answer =
                answer.map_err(|e| format!("device plugin GetPreferredAllocation rpc failed with err: {e}"))?;
            preferred = wire::preferred(&answer);
        }
        let given = plan::complete(taken, &available, &preferred, required);
        let answer = plugin.call("Allocate", wire::allocate(&given), LIMIT).await.map_err(|e| e.to_string())?;
        let answer = wire::allocation(&answer).ok_or("no containers return in allocation response")?;
        if let Some(name) = wire::cdi_devices(&answer).first() {
            return Err(format!(
                "the plugin of {resource} names the CDI device {name:?}, and this node reads no CDI specs"
            ));
        }
        let mut state = self.lock();
        let known = state.resources.get(resource).map(|resource| &resource.devices);
        let nodes = |id: &String| known.and_then(|known| known.get(id)).map(|device| device.nodes.clone());
        let devices = given.iter().map(|id| (id.clone(), nodes(id).unwrap_or_default())).collect();
        let containers = state.given.entry(uid.clone()).or_default();
        containers.entry(container.to_owned()).or_default().insert(resource.to_owned(), Gift { devices, answer });
        Ok(true)
    }

    /// What becomes part of a container that is about to be made; its plugins prepare its devices.
    pub(crate) async fn edits(&self, pod: &Pod, container: &Container) -> Result<Edits, String> {
        let (uid, wanted) = (pod::uid(pod), self.wanted(container));
        if wanted.is_empty() {
            return Ok(Edits::default());
        }
        // What it has it keeps, whatever has become of the devices; one that was taken before there was a plugin has none.
        if !self.has_all(&uid, container, &wanted) {
            self.allocate(pod).await?;
        }
        for (resource, _) in &wanted {
            self.pre_start(&uid, &container.name, resource).await?;
        }
        let mut edits = Edits::default();
        let state = self.lock();
        state.gifts(&uid, &container.name).into_iter().flatten().for_each(|(_, gift)| edits.add(&gift.answer));
        Ok(edits)
    }

    fn has_all(&self, uid: &PodUid, container: &Container, wanted: &[(String, usize)]) -> bool {
        let state = self.lock();
        let gifts = state.gifts(uid, &container.name);
        wanted.iter().all(|(resource, _)| gifts.is_some_and(|gifts| gifts.contains_key(resource)))
    }

    async fn pre_start(&self, uid: &PodUid, container: &str, resource: &str) -> Result<(), String> {
        let (plugin, ids) = {
            let state = self.lock();
            let known = state.resources.get(resource);
            let gift = state.gifts(uid, container).and_then(|gifts| gifts.get(resource));
            let plugin = match known.map(|known| (known.plugin(), known.unseen)) {
                Some((Some(plugin), _)) => plugin.clone(),
                // The agent was started anew, and the plugin was not yet.
                Some((None, true)) => return Ok(()),
                _ => return Err(format!("endpoint not found in cache for a registered resource: {resource}")),
            };
            (plugin, gift.map(Gift::ids).unwrap_or_default())
        };
        if !plugin.abilities.pre_start {
            return Ok(());
        }
        let answer = plugin.call("PreStartContainer", wire::pre_start(&ids), PRE_START_LIMIT).await;
        answer.map(drop).map_err(|e| format!("device plugin PreStartContainer rpc failed with err: {e}"))
    }

    /// Takes back what a pod was given.
    pub(crate) fn release(&self, uid: &PodUid) {
        let mut state = self.lock();
        state.unwritten |= state.given.remove(uid).is_some();
    }

    /// Takes back what pods have that are no more.
    pub(crate) fn retain(&self, is_known: impl Fn(&PodUid) -> bool) {
        let mut state = self.lock();
        let before = state.given.len();
        state.given.retain(|uid, _| is_known(uid));
        state.unwritten |= state.given.len() < before;
    }

    /// Writes what was taken back since the last time.
    pub(crate) async fn write_changes(&self) {
        let unwritten = self.lock().unwritten;
        if unwritten {
            self.write_or_warn().await;
        }
    }

    /// Writes who has what; others wait for their turn and write what is then.
    pub(crate) async fn write(&self) -> io::Result<()> {
        let _turn = self.writing.acquire().await.expect("it is never closed");
        let text = {
            let mut state = self.lock();
            state.unwritten = false;
            state.show().to_string()
        };
        let path = self.directory.join(FILE);
        let write = move || skiff_base::file::replace(&path, text.as_bytes(), 0o600);
        tokio::task::spawn_blocking(write).await.unwrap_or_else(|e| Err(io::Error::other(e)))
    }

    pub(crate) async fn write_or_warn(&self) {
        if let Err(error) = self.write().await {
            tracing::warn!(%error, "who has which devices is not written");
        }
    }

    /// Begins to hear from a plugin.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        scope: &Scope,
        resource: &str,
        socket: PathBuf,
    ) -> Result<(), Failure> {
        let mut plugin = Plugin {
            socket,
            abilities: Default::default(),
            replaced: scope.token().child_token(),
            removed: scope.token().child_token(),
        };
        let answer = plugin.call("GetDevicePluginOptions", Message::new(), GREETING_LIMIT).await;
        let answer = answer.map_err(|failure| Failure {
            message: format!("failed to get device plugin options: {failure}"),
            ..failure
        })?;
        plugin.abilities = wire::abilities(&answer);
        let generation = {
            let mut state = self.lock();
            let entry = state.resources.entry(resource.to_owned()).or_default();
            if let Some(old) = entry.plugin() {
                old.replaced.cancel();
            }
            entry.generation += 1;
            entry.unseen = false;
            entry.presence = Presence::Present(plugin.clone());
            entry.generation
        };
        tracing::info!(resource, socket = %plugin.socket.display(), "a device plugin is registered");
        let (all, resource) = (self.clone(), resource.to_owned());
        scope.spawn(async move {
            let replaced = plugin.replaced.clone();
            tokio::select! {
                () = replaced.cancelled() => {}
                () = all.follow(&resource, generation, &plugin) => {}
            }
        });
        Ok(())
    }

    /// A plugin that is found by its socket was taken away.
    fn disconnect(&self, resource: &str, socket: &Path) {
        let state = self.lock();
        let plugin = state.resources.get(resource).and_then(|known| known.plugin());
        if let Some(plugin) = plugin.filter(|plugin| plugin.socket == socket) {
            plugin.removed.cancel();
        }
    }

    /// Hears from a plugin until it is gone for good.
    async fn follow(&self, resource: &str, generation: u64, plugin: &Plugin) {
        let ended = tokio::select! {
            () = plugin.removed.cancelled() => "its socket was removed".to_owned(),
            ended = self.listen(resource, generation, plugin) => ended,
        };
        tracing::info!(resource, why = ended, "a device plugin is gone");
        self.set_presence(resource, generation, Presence::Lost(plugin.clone()));
        tokio::time::sleep(GRACE).await;
        self.set_presence(resource, generation, Presence::Absent);
        self.write_or_warn().await;
    }

    /// As long as nobody else has come for the resource.
    fn set_presence(&self, resource: &str, generation: u64, presence: Presence) {
        let mut state = self.lock();
        if let Some(entry) = state.resources.get_mut(resource).filter(|entry| entry.generation == generation) {
            if matches!(presence, Presence::Absent) {
                entry.devices.clear();
            }
            entry.presence = presence;
            self.counts_changed.notify_one();
        }
    }

    /// Takes the plugin's lists as they come; why there are no more.
    async fn listen(&self, resource: &str, generation: u64, plugin: &Plugin) -> String {
        let begun =
            grpc::unix_stream(&plugin.socket, &plugin.method("ListAndWatch"), Message::new(), GREETING_LIMIT).await;
        let mut answers = match begun {
            Ok(answers) => answers,
            Err(failure) => return failure.to_string(),
        };
        loop {
            let answer = match answers.next().await {
                Ok(Some(answer)) => answer,
                Ok(None) => return "it has ended its list".to_owned(),
                Err(failure) => return failure.to_string(),
            };
            let Some(devices) = wire::devices(&answer) else { return "its list is no message".to_owned() };
            tracing::debug!(resource, devices = devices.len(), "a plugin's devices");
            let changed = {
                let mut state = self.lock();
                if state.resources.get(resource).is_none_or(|entry| entry.generation != generation) {
                    return "another one has come".to_owned();
                }
                state.take_devices(resource, devices)
            };
            if changed {
                self.health.send_replace(());
            }
            self.counts_changed.notify_one();
            self.write_or_warn().await;
        }
    }
}

impl Plugin {
    fn method(&self, name: &str) -> String {
        format!("/v1beta1.DevicePlugin/{name}")
    }

    async fn call(&self, method: &str, request: Message, limit: Duration) -> Result<Bytes, Failure> {
        grpc::unix(&self.socket, &self.method(method), request, limit).await
    }
}

pub(crate) use pod_resources::serve as serve_pod_resources;
pub(crate) use register::{begin, end, serve};

#[cfg(test)]
mod tests;
