//! The end of a machine.
//!
//! Where the settings say how long it may take (`shutdown-grace-period`), logind is asked to wait: when the machine is
//! about to go down, the node says so, takes no more pods, and ends those that it has, the least important first; they
//! are Failed then, and their controllers make others elsewhere. Without logind the same is done when systemd stops the
//! agent. In any case, and without such settings: [`end_containers`] lets containers end as their pods would have them end,
//! and they begin again after the next start.

mod logind;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use skiff_base::{Backoff, chain, time};
use skiff_client::EventKind;
use skiff_runtime::{ContainerState, Runtime};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::pod::{self, annotation};
use crate::pods::Pods;
use crate::worker::Ending;

pub(crate) use logind::Places;

const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// Pods that end together: how long that may take, and who.
type Group = (i64, Vec<Arc<Pod>>);

/// Each pod belongs to the last period whose priority it reaches, else to the first.
fn plan_groups(periods: &[(i32, i64)], pods: Vec<Arc<Pod>>) -> Vec<Group> {
    let mut groups: Vec<Group> = periods.iter().map(|(_, seconds)| (*seconds, Vec::new())).collect();
    for pod in pods {
        let priority = pod::spec(&pod).priority.unwrap_or(0);
        let reached = periods.iter().take_while(|(from, _)| *from <= priority).count();
        if let Some((_, group)) = groups.get_mut(reached.saturating_sub(1)) {
            group.push(pod);
        }
    }
    groups.retain(|(_, pods)| !pods.is_empty());
    groups
}

/// Ends all pods, group by group, and waits until they have ended or their time is over. Nothing where the settings give
/// no time.
pub(crate) async fn end_pods(ctx: &Context, pods: &Pods) {
    if ctx.options.settings.shutdown.is_empty() {
        return;
    }
    if !ctx.goes_down.swap(true, Ordering::Relaxed) {
        let name = &ctx.options.node_name;
        ctx.node_event(EventKind::Normal, "NodeNotReady", format!("Node {name} status is now: NodeNotReady"));
    }
    let now = || time::now().as_millisecond() as f64 / 1000.0;
    ctx.counters.shutdown_began(now());
    // The status that is written says so.
    ctx.status_changed.notify_one();
    let active = pods.pods().into_iter().filter(|pod| !pod::is_terminal(pod)).collect();
    for (seconds, group) in plan_groups(&ctx.options.settings.shutdown, active) {
        tracing::info!(pods = group.len(), seconds, "pods end since the machine goes down");
        let (hold, mut ended) = mpsc::channel(1);
        for pod in &group {
            let ending = Ending {
                reason: REASON,
                message: MESSAGE.to_owned(),
                grace_s: pod::grace_s(pod).min(seconds),
                disrupted: Some(MESSAGE.to_owned()),
                hold: Some(hold.clone()),
            };
            // One that has gone meanwhile needs no end.
            pods.end(&pod::uid(pod), ending).await;
        }
        drop(hold);
        let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        if tokio::time::timeout(limit, ended.recv()).await.is_err() {
            tracing::warn!(seconds, "pods did not end in their time");
        }
    }
    ctx.counters.shutdown_ended(now());
}

/// Does what logind tells, until the agent stops; ends where there is no logind.
pub(crate) async fn follow(ctx: Arc<Context>, pods: Arc<Pods>, places: Places) {
    let settings = &ctx.options.settings.shutdown;
    let needed: i64 = settings.iter().map(|(_, seconds)| seconds).sum();
    let needed = Duration::from_secs(u64::try_from(needed).unwrap_or(0));
    if settings.is_empty() {
        return;
    }
    if !places.bus.exists() {
        tracing::info!("there is no logind: pods end when systemd stops this process at the end of the machine");
        return;
    }
    let stop = ctx.scope.token().clone();
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    while !stop.is_cancelled() {
        if let Err(error) = follow_once(&ctx, &pods, &places, needed, &mut backoff).await {
            tracing::warn!(%error, "logind does not tell when the machine goes down, trying again");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Until the connection or the agent ends.
async fn follow_once(
    ctx: &Context,
    pods: &Pods,
    places: &Places,
    needed: Duration,
    backoff: &mut Backoff,
) -> io::Result<()> {
    let own = places.clone();
    let (mut bus, lock, handle) = blocking(move || {
        let mut bus = logind::connect(&own)?;
        logind::ensure_limit(&mut bus, &own, needed)?;
        logind::subscribe(&mut bus)?;
        let lock = logind::inhibit(&mut bus)?;
        let handle = bus.handle()?;
        Ok((bus, lock, handle))
    })
    .await?;
    let mut lock = Some(lock);
    backoff.reset();
    let (tell, mut told) = mpsc::channel(1);
    std::thread::Builder::new().name("logind".to_owned()).spawn(move || {
        while let Ok(goes_down) = logind::next(&mut bus) {
            if tell.blocking_send(goes_down).is_err() {
                return;
            }
        }
    })?;
    let stop = ctx.scope.token().clone();
    loop {
        let goes_down = tokio::select! {
            () = stop.cancelled() => {
                // The thread ends with the connection.
                return handle.shutdown(std::net::Shutdown::Both);
            }
            goes_down = told.recv() => goes_down.ok_or_else(|| io::Error::other("the connection has ended"))?,
        };
        let what = if goes_down { "event" } else { "cancellation" };
        ctx.node_event(EventKind::Normal, "NodeShutdown", format!("Shutdown manager detected shutdown {what}"));
        if goes_down {
            tokio::select! {
                () = stop.cancelled() => {}
                () = end_pods(ctx, pods) => {}
            }
            // Now it may.
            drop(lock.take());
        } else {
            ctx.goes_down.store(false, Ordering::Relaxed);
            ctx.status_changed.notify_one();
            let own = places.clone();
            lock = Some(blocking(move || logind::inhibit(&mut logind::connect(&own)?)).await?);
        }
        tracing::info!(goes_down, held = lock.is_some(), "logind says whether the machine goes down");
    }
}

/// Ends every container, each with its pod's grace period but none with more than `limit`, and then the runtime itself. For
/// when no agent runs any more: one would start them again.
pub async fn end_containers(runtime: &Runtime, limit: Duration) {
    let containers = match runtime.containers().await {
        Ok(containers) => containers,
        Err(e) => return tracing::error!(error = %chain(&e), "the containers of this node can't be ended"),
    };
    let running = containers.iter().filter(|c| matches!(c.state, ContainerState::Running { .. }));
    let ends = running.map(|container| async move {
        let grace = container.annotations.get(annotation::GRACE).and_then(|seconds| seconds.parse().ok());
        let grace = grace.map_or(limit, Duration::from_secs).min(limit);
        if let Err(e) = runtime.stop_container(&container.id, grace).await {
            tracing::warn!(container = container.id.0, error = %chain(&e), "a container can't be stopped");
        }
    });
    join_all(ends).await;
    // What is left of it would be waited for by whoever ends the machine.
    if let Err(e) = runtime.end().await {
        tracing::warn!(error = %chain(&e), "the supervisor does not end");
    }
}

#[cfg(test)]
mod tests;
