use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use skiff_base::{Scope, chain};
use skiff_client::{Client, EventKind, EventRecorder, Informers, Lister};
use tokio::sync::{Notify, Semaphore};

use crate::bind::{Nomination, bind, clear_nomination, evict, report};
use crate::cache::Cache;
use crate::cycle::choose;
use crate::equals::Groups;
use crate::framework::{Happening, NoFit};
use crate::nominations::Nominations;
use crate::preemption::{Budget, Outcome, preempt};
use crate::queue::Queue;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};
use crate::volumes::{Bindings, Storage};

/// Pods that name no other scheduler are ours.
pub const NAME: &str = "default-scheduler";
/// Requests to the API server that may be under way at once.
const REQUESTS: usize = 64;

/// One decision at a time; what it does to the API goes on beside the next one.
pub struct Scheduler {
    client: Client,
    events: EventRecorder,
    scope: Scope,
    groups: Groups,
    budgets: Lister<PodDisruptionBudget>,
    storage: Arc<Storage>,
    state: Mutex<State>,
    changed: Notify,
    requests: Arc<Semaphore>,
}

#[derive(Default)]
pub struct State {
    pub cache: Cache,
    pub queue: Queue,
    pub nominations: Nominations,
    /// Pods that this scheduler is preempting, by uid: they count as going before the API server shows it.
    pub going: HashSet<String>,
    /// Volumes that are just being bound to claims of a pod: its uid by their names.
    promised: HashMap<String, String>,
    /// Where the look at the nodes starts.
    start: usize,
}

impl Scheduler {
    pub fn new(informers: &Informers, scope: &Scope) -> Self {
        let client = informers.client().clone();
        Self {
            events: EventRecorder::new(client.clone(), scope, NAME, ""),
            client,
            scope: scope.clone(),
            groups: Groups::new(informers),
            budgets: informers.lister(),
            storage: Arc::new(Storage::new(informers)),
            state: Mutex::default(),
            changed: Notify::new(),
            requests: Arc::new(Semaphore::new(REQUESTS)),
        }
    }

    /// Completes when all is known that decisions ask for beside nodes and pods.
    pub async fn synced(&self) {
        self.groups.synced().await;
        self.budgets.synced().await;
        self.storage.synced().await;
    }

    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the scheduler's state")
    }

    /// Tells the loop that there may be something to do.
    pub fn notify(&self) {
        self.changed.notify_one();
    }

    pub fn wake(&self, state: &mut State, happened: Happening) {
        if happened != Happening::NONE && state.queue.happened(happened, Instant::now()) {
            self.notify();
        }
    }

    /// Schedules until the scope is stopped.
    pub async fn run(self: Arc<Self>) {
        let token = self.scope.token().clone();
        loop {
            let pod = tokio::select! {
                biased;
                () = token.cancelled() => return,
                pod = self.next() => pod,
            };
            let permit = tokio::select! {
                () = token.cancelled() => return,
                permit = self.requests.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
            };
            let decision = self.decide(&pod);
            let this = self.clone();
            self.scope.spawn(async move {
                match decision {
                    Decision::Bind { node, volumes: None } => this.bind(&pod, &node).await,
                    Decision::Bind { node, volumes: Some(volumes) } => {
                        // They may take long: others go on meanwhile.
                        drop(permit);
                        if this.bind_volumes(&pod, volumes).await {
                            this.bind(&pod, &node).await;
                        }
                        return;
                    }
                    Decision::Refuse(refused) => this.refuse(&pod, &refused).await,
                    Decision::Drop => {}
                }
                drop(permit);
            });
        }
    }

    async fn next(&self) -> Arc<PodInfo> {
        loop {
            let timer = {
                let mut state = self.lock();
                if let Some(pod) = state.queue.pop(Instant::now()) {
                    return pod;
                }
                state.queue.next_timer()
            };
            match timer {
                Some(at) => {
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(at.into()) => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// Decides on an unchanging view, and takes the room on the node at once, so that the next decision sees it.
    fn decide(&self, pod: &Arc<PodInfo>) -> Decision {
        let equals = self.groups.equals(pod);
        let (snapshot, mut start, going) = {
            let state = self.lock();
            let nominated = state.nominations.shared();
            let volumes = Arc::new(self.storage.of(pod, &state.promised));
            let snapshot = Snapshot { nominated, equals, volumes, ..state.cache.snapshot() };
            (snapshot, state.start, state.going.clone())
        };
        let choice = choose(pod, &snapshot, &mut start, |equals| rand::random_range(0..equals)).map_err(|none| {
            let budgets: Vec<Budget> = self.budgets.list().iter().map(|budget| Budget::of(budget)).collect();
            let outcome = preempt(pod, &snapshot, &none, &budgets, &going, rand::random_range(0..=none.nodes));
            (none, outcome)
        });
        let volumes = choice.as_ref().ok().and_then(|name| {
            let node = snapshot.node(name)?;
            let bindings = snapshot.volumes.bindings_on(node).ok().filter(|bindings| !bindings.is_empty())?;
            Some(Box::new(Volumes { node: node.clone(), bindings }))
        });
        // Else the node's facts would have to be copied to be changed.
        drop(snapshot);
        let mut state = self.lock();
        state.start = start;
        if !state.queue.is_in_flight(&pod.uid) {
            return Decision::Drop;
        }
        match choice {
            Ok(node) => {
                state.nominations.remove(&pod.uid);
                state.cache.assume(&node, pod.clone());
                let names = volumes.iter().flat_map(|volumes| volumes.bindings.volumes());
                state.promised.extend(names.map(|name| (name.to_owned(), pod.uid.clone())));
                Decision::Bind { node, volumes }
            }
            Err((none, outcome)) => Decision::Refuse(refused(&mut state, pod, none, outcome)),
        }
    }

    async fn bind(&self, pod: &Arc<PodInfo>, node: &str) {
        let reference = EventRecorder::reference(&*pod.pod);
        match bind(&self.client, pod, node).await {
            Ok(()) => {
                self.lock().queue.remove(&pod.uid);
                tracing::debug!(pod = %pod.key, node, "scheduled");
                let message = format!("Successfully assigned {} to {node}", pod.key);
                self.events.record(reference, EventKind::Normal, "Scheduled", message);
            }
            Err(error) => {
                let gone = error.is_not_found();
                self.fail(pod, gone, format!("binding rejected: {}", chain(&error))).await;
            }
        }
    }

    /// Takes the pod from its node again, to be tried later unless it is `gone`.
    async fn fail(&self, pod: &Arc<PodInfo>, gone: bool, message: String) {
        {
            let mut state = self.lock();
            if !state.cache.forget(&pod.uid) || gone {
                // It is on a node already, or there is no such pod any more.
                state.queue.remove(&pod.uid);
            } else {
                state.queue.failed(&pod.uid, Instant::now());
                state.nominations.see(None, pod);
            }
            self.wake(&mut state, Happening::POD_GONE);
        }
        self.notify();
        if gone || self.scope.token().is_cancelled() {
            return;
        }
        tracing::warn!(pod = %pod.key, error = message, "binding failed");
        let reference = EventRecorder::reference(&*pod.pod);
        self.events.record(reference, EventKind::Warning, "FailedScheduling", message.clone());
        report(&self.client, pod, "SchedulerError", &message, &Nomination::Keep).await;
    }

    /// Waits until the pod has its volumes; false where it gets none.
    async fn bind_volumes(&self, pod: &Arc<PodInfo>, volumes: Box<Volumes>) -> bool {
        let goes_on = || self.lock().queue.is_in_flight(&pod.uid);
        let Volumes { node, bindings } = *volumes;
        let done = tokio::select! {
            () = self.scope.token().cancelled() => return false,
            done = self.storage.bind(&self.client, &node, &bindings, goes_on) => done,
        };
        self.lock().promised.retain(|_, uid| *uid != pod.uid);
        let Err(why) = done else { return true };
        let gone = !self.lock().queue.is_in_flight(&pod.uid);
        self.fail(pod, gone, format!("running PreBind plugin \"VolumeBinding\": {why}")).await;
        false
    }

    async fn refuse(&self, pod: &PodInfo, refused: &Refused) {
        let message = refused.none.message();
        tracing::debug!(pod = %pod.key, message, "no node will do");
        // The timer of its next try is new to the one who waits.
        self.notify();
        let reference = EventRecorder::reference(&*pod.pod);
        self.events.record(reference, EventKind::Warning, "FailedScheduling", message.clone());
        let telling = report(&self.client, pod, "Unschedulable", &message, &refused.nomination);
        let clearing =
            futures::future::join_all(refused.unpromised.iter().map(|pod| clear_nomination(&self.client, pod)));
        let evicting =
            futures::future::join_all(refused.victims.iter().map(|victim| self.preempt(pod, victim, refused)));
        tokio::join!(telling, clearing, evicting);
    }

    /// Sends one pod away from the node that another is to have.
    async fn preempt(&self, pod: &PodInfo, victim: &PodInfo, refused: &Refused) {
        match evict(&self.client, victim, pod).await {
            Ok(()) => {
                let Nomination::Set(node) = &refused.nomination else { return };
                tracing::info!(pod = %pod.key, victim = %victim.key, node, "preempted");
                let message = format!("Preempted by pod {} on node {node}", pod.uid);
                self.events.record(EventRecorder::reference(&*victim.pod), EventKind::Normal, "Preempted", message);
            }
            // It is gone already, or another has its name.
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => {
                if self.scope.token().is_cancelled() {
                    return;
                }
                tracing::warn!(pod = %pod.key, victim = %victim.key, error = %chain(&error), "preemption failed");
                let mut state = self.lock();
                state.going.remove(&victim.uid);
                state.queue.wake(&pod.uid, Instant::now());
                drop(state);
                self.notify();
            }
        }
    }
}

/// Books what was decided for a pod that no node takes.
fn refused(state: &mut State, pod: &Arc<PodInfo>, mut none: NoFit, outcome: Outcome) -> Refused {
    let (mut victims, mut unpromised) = (Vec::new(), Vec::new());
    let nomination = match outcome {
        Outcome::Nominate { node, victims: going } => {
            unpromised = state.nominations.take_from_lesser(&node, pod.priority);
            state.nominations.put(&node, pod.clone());
            state.going.extend(going.iter().map(|victim| victim.uid.clone()));
            victims = going;
            Nomination::Set(node)
        }
        Outcome::Wait(why) => {
            none.preemption = Some(why.to_owned());
            Nomination::Keep
        }
        Outcome::Hopeless(why) => {
            none.preemption = Some(why);
            state.nominations.remove(&pod.uid);
            Nomination::Clear
        }
    };
    let now = Instant::now();
    state.queue.refused(&pod.uid, none.wakes, now);
    // They may find room elsewhere.
    unpromised.iter().for_each(|lesser| state.queue.wake(&lesser.uid, now));
    Refused { none, nomination, victims, unpromised }
}

/// A pod that no node takes, and what follows.
struct Refused {
    none: NoFit,
    nomination: Nomination,
    /// Those that must go for it.
    victims: Vec<Arc<PodInfo>>,
    /// Those that were to have the node that is promised to it now.
    unpromised: Vec<Arc<PodInfo>>,
}

/// Volumes that are to be bound before the pod is.
struct Volumes {
    node: Arc<NodeInfo>,
    bindings: Bindings,
}

enum Decision {
    Bind {
        node: String,
        volumes: Option<Box<Volumes>>,
    },
    Refuse(Refused),
    /// The pod went away, or onto a node, while it was looked at.
    Drop,
}

#[cfg(test)]
mod tests;
