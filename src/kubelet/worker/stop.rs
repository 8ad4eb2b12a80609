//! Ends containers: preStop hook, stop signal, SIGKILL; of a whole pod in order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod};
use skiff_base::{Backoff, chain};
use skiff_client::EventKind;
use skiff_runtime::{ContainerId, ContainerState, Error};
use tokio::sync::{mpsc, oneshot};

use super::Event;
use crate::context::Context;
use crate::hook;
use crate::pod::{self, Role};

/// What a container has left at least when its hook took all the time.
const MIN_GRACE: Duration = Duration::from_secs(2);
/// A stop that fails (the supervisor is away) is tried again after.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
const TRIES: u32 = 20;

/// One container that is to end.
pub(super) struct Kill {
    pub(super) ctx: Arc<Context>,
    pub(super) pod: Arc<Pod>,
    pub(super) role: Role,
    pub(super) container: Container,
    pub(super) id: ContainerId,
    pub(super) pod_ip: String,
    pub(super) grace_s: i64,
    /// Of the Killing event.
    pub(super) message: String,
    /// Whether the preStop hook is to run.
    pub(super) hook: bool,
    pub(super) tell: mpsc::Sender<Event>,
}

impl Kill {
    /// Returns when the container has ended and the worker knows.
    pub(super) async fn run(&self) {
        let begun = Instant::now();
        self.prepare().await;
        self.stop(self.left(begun)).await;
    }

    fn grace(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.grace_s).unwrap_or(0))
    }

    /// What there is of its time when some is spent.
    fn left(&self, begun: Instant) -> Duration {
        self.grace().saturating_sub(begun.elapsed()).max(MIN_GRACE.min(self.grace()))
    }

    /// Tells, and lets the container do what it is to do before it hears the signal.
    async fn prepare(&self) {
        let (name, grace) = (&self.container.name, self.grace());
        self.ctx.container_event(&self.pod, self.role, name, EventKind::Normal, "Killing", self.message.clone());
        let handler = self.container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
        let Some(handler) = handler.filter(|_| self.hook && !grace.is_zero()) else { return };
        let hook = hook::run(&self.ctx, &self.pod, &self.container, &self.id, &self.pod_ip, handler);
        match tokio::time::timeout(grace, hook).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => {
                tracing::info!(container = self.id.0, error = why, "a preStop hook failed");
                let (kind, reason) = (EventKind::Warning, "FailedPreStopHook");
                self.ctx.container_event(&self.pod, self.role, name, kind, reason, "PreStopHook failed");
            }
            Err(_) => {
                let id = &self.id.0;
                tracing::info!(container = id, "the preStop hook took the whole grace period");
            }
        }
    }

    async fn stop(&self, grace: Duration) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        for _ in 0..TRIES {
            match self.ctx.engine.stop_container(&self.id, grace).await {
                Ok(()) | Err(Error::ContainerNotFound(_)) => break,
                Err(e) => {
                    tracing::warn!(container = self.id.0, error = %chain(&e), "a container can't be stopped, trying again");
                    tokio::time::sleep(backoff.next_wait()).await;
                }
            }
        }
        // The runtime's own event tells the same; whichever comes first counts.
        let exit = match self.ctx.engine.container(&self.id).await {
            Ok(container) => match container.state {
                ContainerState::Exited(exit) => Some(exit),
                _ => None,
            },
            Err(_) => Some(super::lost()),
        };
        if let Some(exit) = exit {
            drop(self.tell.send(Event::Exited { id: self.id.clone(), exit }).await);
        }
    }
}

/// Ends all containers of a pod: the main ones together, then the sidecars, last first. Their preStop hooks all run at once.
pub(super) async fn terminate(kills: Vec<Kill>, tell: mpsc::Sender<Event>) {
    let begun = Instant::now();
    let (sidecars, others): (Vec<Kill>, Vec<Kill>) = kills.into_iter().partition(|k| k.role == Role::Sidecar);
    // Whose turn it is hears that nobody before it is left when their end of the channel is dropped.
    let (before, mut turn) = oneshot::channel::<()>();
    let others = async {
        futures::future::join_all(others.iter().map(Kill::run)).await;
        drop(before);
    };
    let mut ends = Vec::new();
    for sidecar in sidecars.into_iter().rev() {
        let (done, next) = oneshot::channel();
        let turn = std::mem::replace(&mut turn, next);
        ends.push(async move {
            sidecar.prepare().await;
            drop(turn.await);
            // Those that others waited for get what is left of the time.
            sidecar.stop(sidecar.left(begun)).await;
            drop(done);
        });
    }
    tokio::join!(others, futures::future::join_all(ends));
    drop(tell.send(Event::Terminated).await);
}

/// The grace period of a container whose probe failed.
pub(super) fn probe_grace_s(pod: &Pod, container: &Container, because: Option<crate::plan::Unhealthy>) -> i64 {
    let probe = match because {
        Some(crate::plan::Unhealthy::Liveness) => container.liveness_probe.as_ref(),
        Some(crate::plan::Unhealthy::Startup) => container.startup_probe.as_ref(),
        None => None,
    };
    probe.and_then(|p| p.termination_grace_period_seconds).unwrap_or_else(|| pod::grace_s(pod))
}
