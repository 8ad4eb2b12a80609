//! Keeps the node alive when memory, disk, inodes or processes run out: tells the API, frees what nobody uses, and ends
//! pods, one at a time, those first that use more than they asked for. Pods whose disk limits are exceeded end, too.
//!
//! `condition` is what the node lacks. `plan` decides, `disk` measures; here is what is looked at and done.

pub(crate) mod condition;
mod disk;
mod plan;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use skiff_base::{chain, time};
use skiff_client::EventKind;
use skiff_runtime::{Container, ContainerState};
use tokio::time::{Instant, MissedTickBehavior};

use crate::collect::Collector;
use crate::context::Context;
use crate::machine;
use crate::pod::{self, PodUid, label};
use crate::pods::Pods;
use crate::quantity;
use crate::resources;
use crate::settings::Signal;
use crate::stats::{self, Disk, Usage};
use crate::worker::Ending;
use condition::Condition;
use disk::{DiskUse, Places};
use plan::{ContainerFacts, Decision, Memory, Observations, Observed, PodFacts, Resource};

/// Of a pod that goes at once.
const AT_ONCE_S: i64 = 1;
/// How long a pod may take to go before the next one does.
const GOING: Duration = Duration::from_secs(30);
/// Measuring the disk may take so much of the time.
const MEASURE_SHARE: u32 = 20;
/// Images are looked at as often as upstream looks, where the machine is looked at as often.
const COLLECT_EVERY: u32 = 30;

struct Keeper {
    ctx: Arc<Context>,
    pods: Arc<Pods>,
    collector: Collector,
    memory: Memory,
    /// Who is going, and since when.
    victim: Option<(PodUid, Instant)>,
    /// The pods that were evicted and have not ended yet.
    told: HashSet<PodUid>,
    measure_next: Instant,
}

/// Looks after the node until the agent stops.
pub(crate) async fn keep(ctx: Arc<Context>, pods: Arc<Pods>) {
    let stop = ctx.scope.token().clone();
    let mut ticks = tokio::time::interval(ctx.options.settings.housekeeping);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut keeper = Keeper {
        ctx,
        pods,
        collector: Collector::default(),
        memory: Memory::default(),
        victim: None,
        told: HashSet::new(),
        measure_next: Instant::now(),
    };
    let mut count = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let work = async {
            keeper.look().await;
            if count % COLLECT_EVERY == 0 {
                keeper.collector.collect(&keeper.ctx).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = work => {}
        }
        count = count.wrapping_add(1);
    }
}

impl Keeper {
    async fn look(&mut self) {
        let Some(seen) = self.observe().await else { return };
        let settings = &self.ctx.options.settings;
        let decision =
            plan::decide(&settings.thresholds, &seen, &mut self.memory, settings.pressure_transition, time::now());
        self.tell(&decision);
        let active: Vec<Arc<Pod>> =
            self.pods.pods().into_iter().filter(|p| !pod::is_terminal(p) && !pod::is_deleted(p)).collect();
        self.told.retain(|uid| active.iter().any(|pod| pod::uid(pod) == *uid));
        if self.end_those_over_limits(&active).await || decision.reclaim.is_empty() {
            return;
        }
        self.reclaim(&decision, &seen, &active).await;
    }

    /// `None` where the machine can't be looked at: nothing is decided then.
    async fn observe(&self) -> Option<Observations> {
        let options = self.ctx.options.clone();
        let seen = tokio::task::spawn_blocking(move || {
            observe(Path::new("/proc"), &options.root_directory, &options.data_directory)
        });
        seen.await.inspect_err(|error| tracing::warn!(%error, "the machine is not looked at")).ok()
    }

    fn tell(&self, decision: &Decision) {
        let before = self.ctx.pressure.set(decision.conditions.clone());
        if before == decision.conditions {
            return;
        }
        for condition in Condition::ALL {
            let (was, is) = (before.contains(&condition), decision.conditions.contains(&condition));
            if was != is {
                let reason = match (condition, is) {
                    (Condition::Memory, true) => "NodeHasInsufficientMemory",
                    (Condition::Memory, false) => "NodeHasSufficientMemory",
                    (Condition::Disk, true) => "NodeHasDiskPressure",
                    (Condition::Disk, false) => "NodeHasNoDiskPressure",
                    (Condition::Pid, true) => "NodeHasInsufficientPID",
                    (Condition::Pid, false) => "NodeHasSufficientPID",
                };
                tracing::info!(condition = condition.name(), holds = is, "the pressure on the node has changed");
                let message = format!("Node {} status is now: {reason}", self.ctx.options.node_name);
                self.ctx.node_event(EventKind::Normal, reason, message);
            }
        }
        // The status that is written has them.
        self.ctx.status_changed.notify_one();
    }

    /// True where a pod goes.
    async fn end_those_over_limits(&mut self, active: &[Arc<Pod>]) -> bool {
        let limited: Vec<Arc<Pod>> = active.iter().filter(|pod| disk::has_limits(pod)).cloned().collect();
        if limited.is_empty() || Instant::now() < self.measure_next {
            return false;
        }
        let Some(usage) = self.measure(&limited).await else { return false };
        let mut any = false;
        for (pod, usage) in limited.iter().zip(usage) {
            if let Some((signal, message)) = disk::exceeded(pod, &usage) {
                any |= self.evict(pod, signal, message, AT_ONCE_S, false).await;
            }
        }
        any
    }

    /// What pods have on the disk, in their order.
    async fn measure(&mut self, pods: &[Arc<Pod>]) -> Option<Vec<DiskUse>> {
        let containers = match self.ctx.engine.containers().await {
            Ok(containers) => containers,
            Err(e) => {
                tracing::warn!(error = %chain(&e), "containers can't be listed");
                return None;
            }
        };
        let places: Vec<Places> = pods.iter().map(|pod| places(&self.ctx, pod, &containers)).collect();
        let begun = Instant::now();
        let measured = tokio::task::spawn_blocking(move || places.iter().map(Places::measure).collect()).await;
        self.measure_next = Instant::now() + begun.elapsed() * MEASURE_SHARE;
        measured.inspect_err(|error| tracing::warn!(%error, "the disk is not measured")).ok()
    }

    async fn reclaim(&mut self, decision: &Decision, seen: &Observations, active: &[Arc<Pod>]) {
        let thresholds = self.ctx.options.settings.thresholds.clone();
        let threshold = &thresholds[decision.reclaim[0]];
        let resource = plan::resource(threshold.signal);
        let name = resource.name();
        self.ctx.node_event(EventKind::Warning, "EvictionThresholdMet", format!("Attempting to reclaim {name}"));
        if matches!(resource, Resource::EphemeralStorage | Resource::Inodes) {
            self.remove_dead(active).await;
            self.collector.free(&self.ctx, i64::MAX).await;
            if let Some(seen) = self.observe().await
                && plan::is_relieved(&thresholds, &seen)
            {
                tracing::info!(resource = name, "what nobody uses was enough");
                return;
            }
        }
        if let Some((uid, since)) = &self.victim {
            let goes = active.iter().any(|pod| pod::uid(pod) == *uid);
            if goes && since.elapsed() < GOING {
                return;
            }
        }
        let Some(mut facts) = self.facts(active, resource).await else { return };
        plan::rank(&mut facts, resource);
        // What is told is the first threshold of the resource.
        let same = decision.reclaim.iter().map(|at| &thresholds[*at]).find(|t| plan::resource(t.signal) == resource);
        let short = same.and_then(|t| seen.get(&t.signal).map(|o| (t.value.of(o.capacity), o.available)));
        for candidate in &facts {
            let Some(pod) = active.iter().find(|pod| pod::uid(pod).0 == candidate.uid) else { continue };
            let grace_s = match threshold.is_hard {
                true => AT_ONCE_S,
                false => self.ctx.options.settings.max_pod_grace_s.clamp(AT_ONCE_S, pod::grace_s(pod).max(AT_ONCE_S)),
            };
            let message = plan::message(candidate, resource, short);
            if self.evict(pod, threshold.signal.name(), message, grace_s, true).await {
                return;
            }
        }
        tracing::warn!(resource = name, "no pod can go");
    }

    async fn evict(&mut self, pod: &Pod, signal: &'static str, message: String, grace_s: i64, disrupted: bool) -> bool {
        if pod::is_critical(pod) {
            tracing::warn!(pod = %pod::format(pod), "a critical pod stays, whatever it uses");
            return false;
        }
        let uid = pod::uid(pod);
        // One that is told already and does not end: others go.
        if !self.told.insert(uid.clone()) {
            return false;
        }
        tracing::info!(pod = %pod::format(pod), signal, message, "a pod is evicted");
        self.ctx.event(pod, EventKind::Warning, "Evicted", message.clone());
        self.ctx.counters.evicted(signal);
        let disrupted = disrupted.then(|| message.clone());
        let ending = Ending { reason: "Evicted", message, grace_s, disrupted, hold: None };
        self.victim = Some((uid.clone(), Instant::now()));
        let goes = self.pods.end(&uid, ending).await;
        if !goes {
            self.told.remove(&uid);
        }
        goes
    }

    /// Records and layers of containers that ended with their pods.
    async fn remove_dead(&self, active: &[Arc<Pod>]) {
        let containers = match self.ctx.engine.containers().await {
            Ok(containers) => containers,
            Err(e) => return tracing::warn!(error = %chain(&e), "containers can't be listed"),
        };
        let lives = |c: &Container| active.iter().any(|pod| c.labels.get(label::POD_UID) == Some(&pod::uid(pod).0));
        for dead in containers.iter().filter(|c| matches!(c.state, ContainerState::Exited(_)) && !lives(c)) {
            if let Err(e) = self.ctx.engine.remove_container(&dead.id).await {
                tracing::warn!(container = dead.id.0, error = %chain(&e), "a dead container can't be removed");
            }
        }
    }

    async fn facts(&mut self, active: &[Arc<Pod>], resource: Resource) -> Option<Vec<PodFacts>> {
        let usage = match stats::collect(&self.ctx, &self.pods).await {
            Ok(usage) => usage,
            Err(e) => {
                tracing::warn!(error = %chain(&e), "what pods use is not known");
                return None;
            }
        };
        let disks = match resource {
            Resource::EphemeralStorage | Resource::Inodes => {
                self.measure(active).await?.into_iter().map(Some).collect()
            }
            Resource::Memory | Resource::Pids => vec![None; active.len()],
        };
        Some(active.iter().zip(disks).map(|(pod, disk)| facts(pod, &usage, disk.as_ref())).collect())
    }
}

fn facts(pod: &Pod, usage: &Usage, disk: Option<&DiskUse>) -> PodFacts {
    let uid = pod::uid(pod).0;
    let used = usage.of_pod(&uid);
    let total = disk.map(DiskUse::total);
    let containers = pod::containers(pod).map(|(_, container)| ContainerFacts {
        name: container.name.clone(),
        memory: used.as_ref().and_then(|u| u.containers.get(&container.name).copied()),
        memory_request: container
            .resources
            .as_ref()
            .and_then(|r| r.requests.as_ref()?.get("memory"))
            .map_or(0, quantity::value),
        disk: disk.and_then(|d| d.containers.get(&container.name)).map(|space| space.bytes),
        disk_request: disk::request_of(container),
    });
    let whole = pod::spec(pod).resources.as_ref().and_then(|whole| whole.requests.as_ref()?.get("memory"));
    PodFacts {
        name: pod::name(pod).to_owned(),
        whole_request: whole.map(quantity::value),
        priority: pod::spec(pod).priority.unwrap_or(0),
        memory: used.as_ref().map(|u| u.memory),
        memory_request: resources::requests(pod).memory_bytes,
        disk: total.map(|t| t.bytes),
        disk_request: resources::aggregate(pod, |c| Some(disk::request_of(c))).unwrap_or(0),
        inodes: total.map(|t| t.inodes),
        processes: used.as_ref().map(|u| u.processes),
        containers: containers.collect(),
        uid,
    }
}

fn places(ctx: &Context, pod: &Pod, containers: &[Container]) -> Places {
    let uid = pod::uid(pod);
    let own = containers.iter().filter(|c| c.labels.get(label::POD_UID) == Some(&uid.0));
    let layers = own.map(|c| (c.name.clone(), ctx.engine.writable_layer(&c.id)));
    let logs = ctx.options.pod_log_directory(pod);
    let logs = pod::containers(pod).map(|(_, c)| (c.name.clone(), logs.join(&c.name)));
    let volumes = ctx.options.pod_directory(&uid).join("volumes/kubernetes.io~empty-dir");
    let on_disk = pod::spec(pod)
        .volumes
        .iter()
        .flatten()
        .filter(|volume| volume.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref().is_none_or(str::is_empty)));
    Places {
        containers: layers.chain(logs).collect(),
        volumes: on_disk.map(|volume| (volume.name.clone(), volumes.join(&volume.name))).collect(),
    }
}

/// What can't be read is not among them.
fn observe(proc: &Path, nodefs: &Path, imagefs: &Path) -> Observations {
    let mut seen = Observations::new();
    let (total, working_set) = stats::memory(proc);
    if total > 0 {
        let available = total.saturating_sub(working_set);
        seen.insert(Signal::MemoryAvailable, observed(available, total));
    }
    let disks = [
        (nodefs, Signal::NodefsAvailable, Signal::NodefsInodesFree),
        (imagefs, Signal::ImagefsAvailable, Signal::ImagefsInodesFree),
    ];
    for (path, space, inodes) in disks {
        let Some(Disk { capacity, available, inodes: all, inodes_free }) = stats::disk(path) else { continue };
        seen.insert(space, observed(available, capacity));
        // Some file systems count none.
        if all > 0 {
            seen.insert(inodes, observed(inodes_free, all));
        }
    }
    let running = std::fs::read_to_string(proc.join("loadavg")).unwrap_or_default();
    let running = running.split_whitespace().nth(3).and_then(|n| n.split_once('/')?.1.parse::<u64>().ok());
    if let (Some(limit), Some(running)) = (machine::processes(proc), running) {
        seen.insert(Signal::PidAvailable, observed(limit.saturating_sub(running), limit));
    }
    seen
}

fn observed(available: u64, capacity: u64) -> Observed {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    Observed { available: number(available), capacity: number(capacity) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_seen() {
        let seen = observe(Path::new("/proc"), Path::new("/proc/self/cwd"), Path::new("/proc/self/cwd"));
        for signal in [Signal::MemoryAvailable, Signal::NodefsAvailable, Signal::ImagefsAvailable, Signal::PidAvailable]
        {
            let observed = seen.get(&signal).unwrap_or_else(|| panic!("{} is not seen", signal.name()));
            assert!(observed.capacity > 0 && observed.available <= observed.capacity, "{signal:?} {observed:?}");
        }
        assert!(observe(Path::new("/no"), Path::new("/no/such"), Path::new("/no/such")).is_empty());
    }
}
