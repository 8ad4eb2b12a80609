//! All pods of the node: hands what the API and the runtime tell to the worker of each pod, and ends what belongs to
//! no pod.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use skiff_base::{Backoff, chain};
use skiff_client::{Change, Lister};
use skiff_runtime::{Container, ContainerState, RuntimeEvent};
use tokio::sync::{Notify, broadcast, mpsc};

use crate::context::Context;
use crate::csi;
use crate::leftovers::PodPlaces;
use crate::options::Error;
use crate::pod::{self, PodUid, annotation, label};
use crate::volume::tree;
use crate::worker::{self, Desired, Ending, Event, Handle, Leftover};

/// What a container without a pod gets when nothing is known of it.
const ORPHAN_GRACE_S: u64 = 30;

pub(crate) struct Pods {
    ctx: Arc<Context>,
    state: Mutex<State>,
    statics_changed: Notify,
}

#[derive(Default)]
struct State {
    workers: HashMap<PodUid, Handle>,
    /// What was found at the start and has no worker yet.
    leftovers: HashMap<PodUid, Leftover>,
    /// What the API shows of static pods, by namespace and name.
    mirrors: HashMap<(String, String), Arc<Pod>>,
}

impl Pods {
    /// Takes over what runs, then follows `pods` until the agent stops; `statics` are those that no API tells of.
    pub(crate) async fn start(
        ctx: &Arc<Context>,
        pods: &Lister<Pod>,
        statics: Vec<Arc<Pod>>,
    ) -> Result<Arc<Self>, Error> {
        // Listened to before anything is listed. What ends before its worker has taken it over, that looks for itself.
        let events = ctx.engine.events();
        let leftovers = find_leftovers(ctx).await.map_err(Error::Runtime)?;
        let state = State { leftovers, ..State::default() };
        let all = Arc::new(Self { ctx: ctx.clone(), state: Mutex::new(state), statics_changed: Notify::new() });
        let follower = all.clone();
        ctx.scope.spawn(async move { follower.follow_runtime(events).await });

        let stop = ctx.scope.token().clone();
        tokio::select! {
            () = stop.cancelled() => return Err(Error::Stopped),
            () = pods.synced() => {}
        }
        // Read before the first worker makes any: what is not among these is somebody's.
        let places = PodPlaces::of(&ctx.options);
        let names = tokio::task::spawn_blocking(move || places.ours()).await;
        let earlier = names.unwrap_or_else(|error| Err(std::io::Error::other(error))).unwrap_or_else(|error| {
            tracing::warn!(%error, "directories of earlier pods were not looked at");
            Default::default()
        });
        let weak = Arc::downgrade(&all);
        pods.subscribe(move |change| {
            if let Some(all) = Weak::upgrade(&weak) {
                all.take(change);
            }
        });
        statics.iter().for_each(|pod| all.begin_static(pod));
        all.end_orphans(earlier).await;
        Ok(all)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    fn take(self: &Arc<Self>, change: &Change<Pod>) {
        if pod::mirror_of(change.object()).is_some() {
            return self.take_mirror(change);
        }
        match change {
            Change::Added(pod) => self.put(&of_api(pod)),
            Change::Modified { old, new } => {
                if pod::uid(old) != pod::uid(new) {
                    self.remove(old);
                }
                self.put(&of_api(new));
            }
            Change::Deleted(pod) => self.remove(pod),
        }
    }

    fn put(self: &Arc<Self>, pod: &Arc<Pod>) {
        let uid = pod::uid(pod);
        let mut state = self.lock();
        if let Some(handle) = state.workers.get(&uid) {
            handle.desired.send_modify(|desired| {
                desired.pod = pod.clone();
                desired.removed = false;
            });
            return;
        }
        let leftover = state.leftovers.remove(&uid).unwrap_or_default();
        tracing::debug!(pod = %pod::format(pod), "pod");
        let all = Arc::downgrade(self);
        let handle = worker::spawn(&self.ctx, pod.clone(), leftover, move |uid| {
            if let Some(all) = all.upgrade() {
                all.lock().workers.remove(uid);
                all.statics_changed.notify_one();
            }
        });
        state.workers.insert(uid, handle);
    }

    fn remove(&self, pod: &Arc<Pod>) {
        if let Some(handle) = self.lock().workers.get(&pod::uid(pod)) {
            handle.desired.send_replace(Desired { pod: pod.clone(), removed: true, mirror: None });
        }
    }

    fn take_mirror(&self, change: &Change<Pod>) {
        let mirror = change.object();
        let name = (pod::namespace(mirror).to_owned(), pod::name(mirror).to_owned());
        let mut state = self.lock();
        match change {
            Change::Deleted(_) => drop(state.mirrors.remove(&name)),
            Change::Added(_) | Change::Modified { .. } => drop(state.mirrors.insert(name, mirror.clone())),
        }
        let uid = PodUid(pod::mirror_of(mirror).unwrap_or_default().to_owned());
        if let (Some(handle), false) = (state.workers.get(&uid), matches!(change, Change::Deleted(_))) {
            handle.desired.send_modify(|desired| desired.mirror = Some(mirror.clone()));
        }
        self.statics_changed.notify_one();
    }

    pub(crate) fn begin_static(self: &Arc<Self>, pod: &Arc<Pod>) {
        self.put(pod);
        let state = self.lock();
        let mirror = state.mirrors.values().find(|m| pod::mirror_of(m) == Some(&pod::uid(pod).0)).cloned();
        if let (Some(handle), Some(mirror)) = (state.workers.get(&pod::uid(pod)), mirror) {
            handle.desired.send_modify(|desired| desired.mirror = Some(mirror));
        }
    }

    pub(crate) fn end_static(&self, pod: &Arc<Pod>) {
        if let Some(handle) = self.lock().workers.get(&pod::uid(pod)) {
            handle.desired.send_modify(|desired| desired.removed = true);
        }
    }

    /// Those that run or end.
    pub(crate) fn statics(&self) -> Vec<Arc<Pod>> {
        self.pods().into_iter().filter(|pod| pod::is_static(pod)).collect()
    }

    pub(crate) fn mirrors(&self) -> Vec<Arc<Pod>> {
        self.lock().mirrors.values().cloned().collect()
    }

    /// Waits until a mirror has changed or a pod has gone.
    pub(crate) async fn statics_changed(&self) {
        self.statics_changed.notified().await;
    }

    /// The pods that the agent is at work for.
    pub(crate) fn pods(&self) -> Vec<Arc<Pod>> {
        self.lock().workers.values().map(|h| h.desired.borrow().pod.clone()).collect()
    }

    /// Ends a pod for the agent's own reasons; false where it has gone already.
    pub(crate) async fn end(&self, uid: &PodUid, ending: Ending) -> bool {
        match self.mailbox(uid) {
            Some(mailbox) => mailbox.send(Event::End(ending)).await.is_ok(),
            None => false,
        }
    }

    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let state = self.lock();
        let found = state
            .workers
            .values()
            .map(|handle| handle.desired.borrow())
            .filter(|desired| pod::namespace(&desired.pod) == namespace && pod::name(&desired.pod) == name);
        // One that is gone from the API may still have something to give back.
        found.min_by_key(|desired| desired.removed).map(|desired| desired.pod.clone())
    }

    async fn follow_runtime(&self, mut events: broadcast::Receiver<RuntimeEvent>) {
        let stop = self.ctx.scope.token().clone();
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.recv() => event,
            };
            match event {
                Ok(RuntimeEvent::ContainerExited(id, exit)) => {
                    if let Some(mailbox) = self.ctx.routed(&id).and_then(|uid| self.mailbox(&uid)) {
                        // A worker that has ended needs it no more.
                        drop(mailbox.send(Event::Exited { id, exit }).await);
                    }
                }
                Ok(RuntimeEvent::ContainerStarted(_)) => {}
                Ok(RuntimeEvent::SandboxEnded(id)) => {
                    for mailbox in self.mailboxes() {
                        drop(mailbox.send(Event::SandboxEnded { id: id.clone() }).await);
                    }
                }
                Ok(RuntimeEvent::Resync) | Err(broadcast::error::RecvError::Lagged(_)) => self.resync().await,
                Err(broadcast::error::RecvError::Closed) => {
                    tracing::error!("the runtime tells nothing any more");
                    return;
                }
            }
        }
    }

    fn mailbox(&self, uid: &PodUid) -> Option<mpsc::Sender<Event>> {
        self.lock().workers.get(uid).map(|h| h.events.clone())
    }

    async fn resync(&self) {
        // Each worker looks for itself, since a list would be old by then: a container that began meanwhile is not lost.
        for mailbox in self.mailboxes() {
            drop(mailbox.send(Event::Resync).await);
        }
    }

    fn mailboxes(&self) -> Vec<mpsc::Sender<Event>> {
        self.lock().workers.values().map(|h| h.events.clone()).collect()
    }

    /// Ends sandboxes, directories and logs of pods that the API no longer knows.
    async fn end_orphans(self: &Arc<Self>, [pod_names, log_names]: [Vec<String>; 2]) {
        let (orphans, known) = {
            let mut state = self.lock();
            let known: HashSet<PodUid> = state.workers.keys().cloned().collect();
            (std::mem::take(&mut state.leftovers), known)
        };
        let mut orphans = orphans;
        // Drivers have to take back what they gave, also where nothing else is left of a pod.
        for name in &pod_names {
            let uid = PodUid(name.clone());
            if !known.contains(&uid) && csi::volume::any(&self.ctx.options.pod_directory(&uid)) {
                orphans.entry(uid).or_default();
            }
        }
        let ended: HashSet<PodUid> = orphans.keys().cloned().collect();
        let is_known = |uid: &PodUid| known.contains(uid) || ended.contains(uid);
        self.ctx.devices.retain(is_known);
        self.ctx.cpus.retain(is_known);
        for (uid, leftover) in orphans {
            tracing::info!(pod = %uid, "a pod that is gone from the API is ended");
            let (ctx, stop) = (self.ctx.clone(), self.ctx.scope.token().clone());
            let all = Arc::downgrade(self);
            self.ctx.scope.spawn(async move {
                // The API may know it again: then it is its worker's.
                let is_known = || all.upgrade().is_none_or(|all| all.lock().workers.contains_key(&uid));
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = end_orphan(&ctx, &uid, leftover, is_known) => {}
                }
            });
        }
        let (ctx, places) = (self.ctx.clone(), PodPlaces::of(&self.ctx.options));
        let sweep = move || {
            let keep = |uid: &str| {
                let uid = PodUid(uid.to_owned());
                known.contains(&uid) || ended.contains(&uid)
            };
            for name in pod_names.iter().filter(|name| !keep(name)) {
                let removed = tree::remove_tree(&places.pods.join(name));
                if removed.is_ok() {
                    ctx.user_namespaces.release(&PodUid(name.clone()));
                }
                told(name, removed);
            }
            for name in log_names.iter().filter(|name| !name.rsplit('_').next().is_some_and(keep)) {
                told(name, places.remove_logs(name));
            }
            told("links to logs", places.remove_dangling_links());
        };
        if let Err(e) = tokio::task::spawn_blocking(sweep).await {
            tracing::warn!(error = %e, "directories of earlier pods were not looked at");
        }
    }
}

fn owner(container: &Container) -> Option<PodUid> {
    container.labels.get(label::POD_UID).cloned().map(PodUid)
}

async fn find_leftovers(ctx: &Context) -> Result<HashMap<PodUid, Leftover>, skiff_runtime::Error> {
    let mut found: HashMap<PodUid, Leftover> = HashMap::new();
    let sandboxes = ctx.engine.sandboxes().await?;
    let of_sandbox: HashMap<_, _> = sandboxes.iter().map(|s| (s.id.clone(), PodUid(s.pod_uid.clone()))).collect();
    for container in ctx.engine.containers().await? {
        if let Some(uid) = of_sandbox.get(&container.sandbox).cloned().or_else(|| owner(&container)) {
            found.entry(uid).or_default().containers.push(container);
        }
    }
    for sandbox in sandboxes {
        found.entry(PodUid(sandbox.pod_uid.clone())).or_default().sandboxes.push(sandbox);
    }
    Ok(found)
}

/// A pod of the API as the kubelet takes it: where it comes from is not the pod's to say. As upstream, so that nobody's
/// pod passes for one of the node's files.
fn of_api(pod: &Arc<Pod>) -> Arc<Pod> {
    if !pod::is_static(pod) {
        return pod.clone();
    }
    let mut own = (**pod).clone();
    own.metadata.annotations.get_or_insert_default().insert(pod::CONFIG_SOURCE.to_owned(), "api".to_owned());
    Arc::new(own)
}

async fn end_orphan(ctx: &Arc<Context>, uid: &PodUid, leftover: Leftover, is_known: impl Fn() -> bool) {
    let stops = leftover.containers.iter().filter(|c| !matches!(c.state, ContainerState::Exited(_))).map(|c| async {
        let grace_s = c.annotations.get(annotation::GRACE).and_then(|g| g.parse().ok()).unwrap_or(ORPHAN_GRACE_S);
        if let Err(e) = ctx.engine.stop_container(&c.id, Duration::from_secs(grace_s)).await {
            tracing::warn!(container = c.id.0, error = %chain(&e), "a container without a pod can't be stopped");
        }
    });
    futures::future::join_all(stops).await;
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    let mut drivers = ctx.csi.arrivals();
    while !worker::clean(ctx, uid, &leftover.sandboxes, true).await {
        // The driver that has to take part may have come by now.
        drop(tokio::time::timeout(backoff.next_wait(), drivers.changed()).await);
        if is_known() {
            return;
        }
    }
    let (suffix, places) = (format!("_{uid}"), PodPlaces::of(&ctx.options));
    let sweep = move || match places.ours() {
        Ok([_, logs]) => {
            for name in logs.iter().filter(|name| name.ends_with(&suffix)) {
                told(name, places.remove_logs(name));
            }
        }
        Err(error) => told("logs", Err(error)),
    };
    if let Err(e) = tokio::task::spawn_blocking(sweep).await {
        tracing::warn!(error = %e, "the logs of an earlier pod were not removed");
    }
}

fn told(what: &str, removed: std::io::Result<()>) {
    if let Err(error) = removed {
        tracing::warn!(what, %error, "what an earlier pod left can't be removed");
    }
}
