//! One worker for each pod: it alone decides about the pod's containers, one event after the other.
//!
//! ```text
//!   Syncing ------> Terminating{grace} ------> Terminated ------> Finished
//!   containers      hooks, signals             volumes, network   the pod's object
//!   as planned      (grace may shrink)         taken down         is gone
//! ```
//!
//! Never back for a UID. Nothing here waits: what takes time is a task that reports by an [`Event`], so that a
//! deletion is seen at once, whatever goes on. Between two events, [`Worker::step`] decides.

mod finish;
mod message;
mod observe;
mod resize;
mod start;
mod step;
mod stop;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use skiff_base::{Backoff, CancellationToken, Scope};
use skiff_runtime::{Container, ContainerId, Exit, Sandbox, SandboxId};
use tokio::sync::{Notify, mpsc, watch};

use crate::context::Context;
use crate::image::StartError;
use crate::pod::{self, PodUid};
use crate::probe::ProbeKind;
use crate::resize::{Allocation, known};
use crate::sandbox::{Frame, FrameError};
use crate::slot::{Run, Slot};
use crate::volume::{PodObjects, Volumes};

pub(crate) use finish::clean;
use resize::Resizing;

/// Events that wait for a worker; senders wait when there are more.
const MAILBOX: usize = 64;

/// What the API says of a pod: only the latest counts.
#[derive(Debug, Clone)]
pub(crate) struct Desired {
    pub(crate) pod: Arc<Pod>,
    /// The object is gone from the API.
    pub(crate) removed: bool,
    /// What the API shows of it, where it is a static pod.
    pub(crate) mirror: Option<Arc<Pod>>,
}

/// What an earlier agent left of a pod.
#[derive(Debug, Default)]
pub(crate) struct Leftover {
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) containers: Vec<Container>,
}

#[derive(Debug)]
pub(crate) enum Event {
    /// The sandbox that it has now, or none: what earlier ones held is free.
    Framed(Result<Option<Frame>, FrameError>),
    Mounted(Result<Volumes, String>),
    /// Its containers were given their devices.
    Equipped(Result<(), String>),
    Created {
        name: String,
        run: Box<Run>,
    },
    Running {
        id: ContainerId,
        since: Timestamp,
    },
    /// With the container that runs, where that was not told before: then both are one change.
    StartDone {
        name: String,
        running: Option<(ContainerId, Timestamp)>,
        result: Result<(), StartError>,
    },
    Exited {
        id: ContainerId,
        exit: Exit,
    },
    Probed {
        id: ContainerId,
        kind: ProbeKind,
        healthy: bool,
    },
    /// It is lost, whoever's it is.
    SandboxEnded {
        id: SandboxId,
    },
    Resized {
        result: Result<resize::Resized, String>,
        overtaken: bool,
    },
    /// There is room for a critical pod, or why there is none.
    RoomMade(Result<(), String>),
    /// The node's object, asked for anew: what is known of it may be older than the pod.
    NodeSeen(Option<Box<Node>>),
    /// The agent ends the pod.
    End(Ending),
    /// Events of the runtime were lost: each container is to be looked at.
    Resync,
    Terminated,
    /// Sandboxes and network are taken down; volumes are yet to be.
    Down {
        good: bool,
    },
    Cleaned {
        good: bool,
    },
    Deleted(Result<(), skiff_client::Error>),
    StatusWritten(Result<Box<Pod>, skiff_client::Error>),
}

/// Why the agent itself ends a pod, in upstream's words.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) grace_s: i64,
    /// What its conditions tell then, where it is a disruption.
    pub(crate) disrupted: Option<String>,
    /// Held until the pod has ended, its volumes are gone and the API knows.
    pub(crate) hold: Option<mpsc::Sender<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Syncing,
    Terminating,
    Terminated,
    Finished,
}

/// How the node's object is seen by whoever judges whether the pod fits.
enum Sight {
    Cached,
    Asked,
    Fresh(Option<Box<Node>>),
}

/// How room is made for a critical pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    /// Nobody was asked.
    Given,
    /// Others end.
    Awaited,
    Made,
}

/// Something that is made in the background, and again after a while where it failed.
#[derive(Debug)]
enum Making<T> {
    Absent,
    Working,
    Failed { until: Timestamp },
    Ready(T),
}

/// The way to a worker.
pub(crate) struct Handle {
    pub(crate) desired: watch::Sender<Desired>,
    pub(crate) events: mpsc::Sender<Event>,
}

struct Worker {
    ctx: Arc<Context>,
    uid: PodUid,
    /// As the node has taken it: with the resources that it was given.
    pod: Arc<Pod>,
    /// As the API has it.
    asked: Arc<Pod>,
    allocation: Allocation,
    resizing: Resizing,
    removed: bool,
    phase: Phase,
    tell: mpsc::Sender<Event>,
    tasks: Scope,
    /// Ends starts, probes and hooks when the pod is to end.
    starts: CancellationToken,
    objects: Arc<PodObjects>,
    objects_changed: Arc<Notify>,
    frame: Making<Frame>,
    /// The sandbox was made beside the first try at the volumes: nobody hears of it before they are there.
    early: bool,
    /// All that exist of this pod, the current one included.
    sandboxes: Vec<Sandbox>,
    next_sandbox: u32,
    frame_backoff: Backoff,
    volumes: Making<Arc<Volumes>>,
    volumes_backoff: Backoff,
    refreshing: bool,
    /// Something has changed since the volumes are being brought up to date.
    refresh_again: bool,
    slots: BTreeMap<String, Slot>,
    probes: HashMap<(ContainerId, ProbeKind), CancellationToken>,
    /// All containers end, to begin anew.
    resetting: bool,
    /// The grace period of the termination that goes on.
    grace_s: Option<i64>,
    /// Its containers are being stopped.
    killing: bool,
    terminated: bool,
    /// The agent ended the pod by itself: reason and message.
    failed: Option<(String, String)>,
    /// For whom the pod was ended: the message of its condition.
    disrupted: Option<String>,
    /// Whether the node takes it; `None` until that was asked.
    admitted: Option<bool>,
    /// Devices are being sought for it.
    equipping: bool,
    room: Room,
    sight: Sight,
    /// Who waits for the pod's end.
    held: Vec<mpsc::Sender<()>>,
    status: StatusWriter,
    end: End,
}

/// Brings the status to the API server, one write at a time, each the latest.
struct StatusWriter {
    /// Whose status it is: the pod's own, of a static pod its mirror's.
    uid: Option<String>,
    /// As the API has it.
    written: PodStatus,
    /// The revision that `written` is from.
    revision: u64,
    wanted: PodStatus,
    busy: bool,
    retry_at: Option<Timestamp>,
    backoff: Backoff,
    /// That the pod merely waits for its containers is not told before: mostly they are up sooner.
    quiet_until: Timestamp,
}

/// How far the end of the pod has come.
struct End {
    cleaning: bool,
    /// Nothing is left but volumes.
    down: bool,
    cleaned: bool,
    /// The containers' records are gone too.
    discarded: bool,
    deleting: bool,
    deleted: bool,
    retry_at: Option<Timestamp>,
    backoff: Backoff,
}

/// How long a pod may be Pending before that is written, and how often then what it still waits for.
const QUIET: Duration = Duration::from_secs(1);

impl Worker {
    fn new(ctx: Arc<Context>, pod: Arc<Pod>, tell: mpsc::Sender<Event>) -> Self {
        let objects_changed = Arc::new(Notify::new());
        let objects = Arc::new(PodObjects::observe(&ctx, &pod, &objects_changed));
        let status = pod.status.clone().unwrap_or_default();
        let resizing = Resizing::of(&pod);
        let (asked, allocation) = (pod.clone(), known(&pod));
        let pod = resize::effective(&asked, &allocation);
        // One that waits gets its share when it is admitted.
        if !pod::is_pending(&pod) {
            resize::promise(&ctx, &pod::uid(&pod), &pod);
        }
        let tasks = ctx.scope.child();
        let short = || Backoff::new(Duration::from_millis(500), Duration::from_secs(120));
        Self {
            uid: pod::uid(&pod),
            asked,
            allocation,
            resizing,
            removed: false,
            phase: Phase::Syncing,
            starts: tasks.token().child_token(),
            tasks,
            objects,
            objects_changed,
            frame: Making::Absent,
            early: false,
            sandboxes: Vec::new(),
            next_sandbox: 0,
            frame_backoff: short(),
            volumes: Making::Absent,
            volumes_backoff: short(),
            refreshing: false,
            refresh_again: false,
            slots: BTreeMap::new(),
            probes: HashMap::new(),
            resetting: false,
            grace_s: None,
            killing: false,
            terminated: false,
            failed: None,
            disrupted: None,
            admitted: None,
            equipping: false,
            room: Room::Given,
            sight: Sight::Cached,
            held: Vec::new(),
            status: StatusWriter {
                uid: (!pod::is_static(&pod)).then(|| pod::uid(&pod).0),
                written: status.clone(),
                revision: observe::revision(&pod),
                wanted: status,
                busy: false,
                retry_at: None,
                backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(10)),
                quiet_until: skiff_base::time::now() + QUIET,
            },
            end: End {
                cleaning: false,
                down: false,
                cleaned: false,
                discarded: false,
                deleting: false,
                deleted: false,
                retry_at: None,
                backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(30)),
            },
            ctx,
            pod,
            tell,
        }
    }
}

/// Starts a worker in the agent's scope; `ended` is called when the pod is finished.
pub(crate) fn spawn(
    ctx: &Arc<Context>,
    pod: Arc<Pod>,
    leftover: Leftover,
    ended: impl FnOnce(&PodUid) + Send + 'static,
) -> Handle {
    let (desired, wishes) = watch::channel(Desired { pod: pod.clone(), removed: false, mirror: None });
    let (events, mailbox) = mpsc::channel(MAILBOX);
    let (own_ctx, tell) = (ctx.clone(), events.clone());
    ctx.scope.spawn(async move {
        let mut worker = Worker::new(own_ctx, pod, tell);
        worker.adopt(leftover).await;
        // From now on exits come to this worker; what ended since the containers were listed was told to nobody.
        worker.take_resync().await;
        worker.run(wishes, mailbox).await;
        ended(&worker.uid);
    });
    Handle { desired, events }
}

impl Worker {
    async fn run(&mut self, mut wishes: watch::Receiver<Desired>, mut mailbox: mpsc::Receiver<Event>) {
        let stop = self.ctx.scope.token().clone();
        let changed = self.objects_changed.clone();
        let mut freed = self.ctx.shares.freed();
        let mut health = self.ctx.devices.health_changes();
        let mut drivers = self.ctx.csi.arrivals();
        loop {
            let wake = self.step();
            if self.phase == Phase::Finished {
                break;
            }
            let sleep = async {
                match wake {
                    Some(at) => {
                        let wait = at.duration_since(skiff_base::time::now());
                        // Not before the moment, whatever the clock's grain.
                        let wait = Duration::try_from(wait).unwrap_or_default() + Duration::from_millis(1);
                        tokio::time::sleep(wait).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Ok(()) = wishes.changed() => {
                    let desired = wishes.borrow_and_update().clone();
                    self.desire(desired);
                }
                Some(event) = mailbox.recv() => {
                    self.take(event).await;
                    // Everything that has come in is one change.
                    while let Ok(event) = mailbox.try_recv() {
                        self.take(event).await;
                    }
                }
                () = changed.notified() => self.objects_have_changed(),
                // Whoever waits for resources looks again.
                Ok(()) = freed.changed(), if self.resizing.pending.is_some() => {}
                Ok(()) = drivers.changed() => self.driver_has_come(),
                // The status tells it of what the pod has.
                Ok(()) = health.changed() => {}
                () = sleep => {}
            }
        }
        self.tasks.stop().await;
        self.release_share();
        if self.phase == Phase::Finished {
            self.farewell().await;
        }
    }
}

/// A container that left no trace.
fn lost() -> Exit {
    Exit {
        started: None,
        finished: skiff_base::time::now(),
        code: 137,
        signal: None,
        reason: "ContainerStatusUnknown".to_owned(),
        message: "The container could not be located when the pod was terminated".to_owned(),
    }
}
