//! What the worker learns: from the API, from its own tasks, from the runtime, from what an earlier agent left.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Spec, ContainerStatus, Pod};
use skiff_base::{chain, time};
use skiff_client::EventKind;
use skiff_runtime::{Container, ContainerId, ContainerState, Exit, SandboxId};

use super::{Desired, Ending, Event, Leftover, Making, Phase, Room, Sight, Worker, finish, lost, message, resize};
use crate::admit::Rejection;
use crate::image::StartError;
use crate::options::message_file;
use crate::plan::Unhealthy;
use crate::pod;
use crate::probe::ProbeKind;
use crate::resize::WHOLE;
use crate::sandbox::{self, Frame, FrameError};
use crate::slot::{HOOK_ERROR, RUN_ERROR, Run, RunState, Slot, StartFailure};
use crate::volume::{PodObjects, Volumes};

/// Volumes that can't be brought up to date are tried again after this, at the latest.
const RENEW_AGAIN: Duration = Duration::from_secs(30);

pub(super) fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

fn api_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = status.container_statuses.iter().chain(&status.init_container_statuses);
    let lists = lists.chain(&status.ephemeral_container_statuses);
    lists.flatten().find(|s| s.name == name)
}

/// The message of a run that ended, as the API has it already.
fn told_message(pod: &Pod, name: &str, id: &ContainerId) -> Option<String> {
    let status = api_status(pod, name)?;
    let states = [&status.state, &status.last_state].into_iter().flatten();
    let id = format!("skiff://{}", id.0);
    let told =
        states.filter_map(|state| state.terminated.as_ref()).find(|told| told.container_id.as_ref() == Some(&id));
    told.and_then(|told| told.message.clone())
}

impl Worker {
    /// A task of this worker; it ends with the agent, and everything it does can be done again.
    pub(super) fn background(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.tasks.token().clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    pub(super) fn slot(&mut self, name: &str) -> &mut Slot {
        let pod = &self.pod;
        self.slots.entry(name.to_owned()).or_insert_with(|| {
            // Runs that this node has forgotten (a reboot, a cleaned disk) count too.
            let next_attempt = api_status(pod, name)
                .filter(|s| s.container_id.is_some() || s.last_state.as_ref().is_some_and(|l| l.terminated.is_some()))
                .map_or(0, |s| u32::try_from(s.restart_count + 1).unwrap_or(0));
            Slot { next_attempt, ..Slot::default() }
        })
    }

    pub(super) fn spec_of(&self, name: &str) -> Option<(pod::Role, Spec)> {
        pod::find(&self.pod, name)
    }

    /// The containers of every sort.
    pub(super) fn everyone(&self) -> Vec<(pod::Role, Spec)> {
        let main = pod::containers(&self.pod).map(|(role, c)| (role, c.clone()));
        main.chain(pod::ephemeral(&self.pod).into_iter().map(|c| (pod::Role::Ephemeral, c))).collect()
    }

    /// Goes on with what runs already: nothing that is healthy is touched.
    pub(super) async fn adopt(&mut self, leftover: Leftover) {
        let Leftover { mut sandboxes, mut containers } = leftover;
        sandboxes.sort_by_key(|s| s.attempt);
        containers.sort_by_key(|c| c.attempt);
        self.next_sandbox = sandboxes.last().map_or(0, |s| s.attempt + 1);
        let current = sandboxes.iter().rev().find(|s| sandbox::is_ready(s)).cloned();
        self.sandboxes = sandboxes;
        for found in containers {
            self.adopt_container(found).await;
        }
        if pod::is_terminal(&self.pod) {
            self.phase = if self.slots.values().any(Slot::is_alive) { Phase::Terminating } else { Phase::Terminated };
            return;
        }
        if let Some(sandbox) = current {
            self.frame = Making::Working;
            self.early = self.slots.is_empty();
            let (ctx, pod, tell) = (self.ctx.clone(), self.pod.clone(), self.tell.clone());
            self.background(async move {
                let connected = sandbox::connect(&ctx, &pod, &sandbox).await;
                let framed = connected.map(|pod_ips| Some(Frame { sandbox, pod_ips }));
                drop(tell.send(Event::Framed(framed)).await);
            });
        }
    }

    async fn adopt_container(&mut self, mut found: Container) {
        let Some((_, spec)) = self.spec_of(&found.name) else { return };
        if let ContainerState::Exited(exit) = &mut found.state {
            // What was told of it is true also where its file is gone.
            match told_message(&self.pod, &found.name, &found.id) {
                Some(told) => exit.message = told,
                None => self.add_message(&found.name, found.attempt, exit).await,
            }
        }
        let known = api_status(&self.pod, &found.name)
            .filter(|s| s.container_id.as_deref() == Some(&format!("skiff://{}", found.id.0)))
            .map(|s| (s.started == Some(true), s.ready, s.resources.clone()));
        let (known, resources) = match known {
            Some((started, ready, resources)) => (Some((started, ready)), resources),
            None => (None, None),
        };
        self.ctx.route(&found.id, &self.uid);
        let forgotten = self.slot(&found.name).adopt(&found);
        let whole = self.allocation.get(WHOLE).cloned();
        if let Some(run) = self.slot(&found.name).run_mut(&found.id) {
            run.resources = resources.or_else(|| spec.resources.clone()).unwrap_or_default();
            run.whole = whole;
            // What probes said before the agent went away, until they say otherwise. Without a probe nobody would.
            let (started, ready) = known.unwrap_or_default();
            run.started = started || spec.startup_probe.is_none();
            run.ready = ready || (run.started && spec.readiness_probe.is_none());
        }
        self.forget(&found.name, forgotten);
    }

    pub(super) fn forget(&self, name: &str, run: Option<Run>) {
        let Some(run) = run else { return };
        let (ctx, pod, name) = (self.ctx.clone(), self.pod.clone(), name.to_owned());
        self.background(async move { finish::forget(&ctx, &pod, &name, &run).await });
    }

    pub(super) fn desire(&mut self, desired: Desired) {
        let effective = resize::effective(&desired.pod, &self.allocation);
        self.asked = desired.pod;
        let old = std::mem::replace(&mut self.pod, effective);
        self.removed |= desired.removed;
        if self.removed {
            // The scheduler counts it no more, and gives to others what it had.
            self.release_share();
        }
        let (pod, now) = (self.pod.clone(), time::now());
        for (_, container) in pod::containers(&pod) {
            let before = pod::container(&old, &container.name).and_then(|(_, c)| c.image.as_ref());
            if before != container.image.as_ref()
                && let Some(slot) = self.slots.get_mut(&container.name)
            {
                // Another image may be there.
                slot.pull_backoff = Default::default();
                if let Some(failure) = &mut slot.failure {
                    failure.not_before = now;
                }
            }
        }
        if pod::spec(&old).ephemeral_containers != pod::spec(&pod).ephemeral_containers {
            // The new ones may need others.
            self.objects = Arc::new(PodObjects::observe(&self.ctx, &pod, &self.objects_changed));
        }
        if let Some(mirror) = desired.mirror {
            self.take_mirror(&mirror);
        }
        let revision = revision(&pod);
        if !self.status.busy && revision > self.status.revision {
            self.status.revision = revision;
            self.status.written = pod.status.clone().unwrap_or_default();
        }
        let (a, b) = (&old.metadata, &pod.metadata);
        if (&a.labels, &a.annotations) != (&b.labels, &b.annotations) {
            self.refresh_volumes();
        }
    }

    /// The status of a static pod is its mirror's.
    fn take_mirror(&mut self, mirror: &Pod) {
        let is_other = self.status.uid != mirror.metadata.uid;
        if is_other || (!self.status.busy && revision(mirror) > self.status.revision) {
            self.status.uid = mirror.metadata.uid.clone();
            self.status.revision = revision(mirror);
            self.status.written = mirror.status.clone().unwrap_or_default();
        }
    }

    pub(super) fn objects_have_changed(&mut self) {
        let now = time::now();
        if let Making::Failed { until } = &mut self.volumes {
            *until = now;
        }
        for slot in self.slots.values_mut() {
            if let Some(failure) = slot.failure.as_mut().filter(|f| f.reason == "CreateContainerConfigError") {
                failure.not_before = now;
            }
        }
        self.refresh_volumes();
    }

    /// After a start of the node pods are there before the drivers of their volumes: nobody waits longer than for them.
    pub(super) fn driver_has_come(&mut self) {
        if let Making::Failed { until } = &mut self.volumes {
            *until = time::now();
        }
        self.end.retry_at = self.end.retry_at.filter(|_| self.end.cleaned);
    }

    pub(super) fn refresh_volumes(&mut self) {
        if !matches!(self.volumes, Making::Ready(_)) || self.phase != Phase::Syncing {
            return;
        }
        if self.refreshing {
            self.refresh_again = true;
            return;
        }
        self.refreshing = true;
        self.mount();
    }

    pub(super) async fn take(&mut self, event: Event) {
        match event {
            Event::Framed(framed) => {
                self.take_frame(framed);
                // It may have ended while it was nobody's.
                self.look_at_frame().await;
            }
            Event::Mounted(mounted) => self.take_volumes(mounted),
            Event::Equipped(result) => {
                self.equipping = false;
                if self.phase == Phase::Syncing {
                    self.settle(result.map_err(Rejection::of_devices));
                }
            }
            Event::Created { name, run } => self.take_created(&name, *run),
            Event::Running { id, since } => self.take_running(&id, since),
            Event::StartDone { name, running, result } => {
                if let Some((id, since)) = running {
                    self.take_running(&id, since);
                }
                self.take_start(&name, result);
            }
            Event::Exited { id, exit } => self.take_exit(&id, exit).await,
            Event::Probed { id, kind, healthy } => self.take_probe(&id, kind, healthy),
            Event::SandboxEnded { id } => self.lose_frame(&id),
            Event::Resized { result, overtaken } => self.take_resized(result, overtaken),
            Event::RoomMade(made) => {
                self.room = Room::Made;
                if let (Err(why), Phase::Syncing) = (made, self.phase) {
                    self.settle(Err(Rejection::of_preemption(&why)));
                }
            }
            Event::NodeSeen(node) => self.sight = Sight::Fresh(node),
            Event::End(ending) => self.take_ending(ending),
            Event::Resync => self.take_resync().await,
            Event::Terminated => self.terminated = true,
            Event::Down { good } => {
                self.end.cleaning = false;
                self.end.down = good;
                if !good {
                    self.end.retry_at = Some(time::now() + self.end.backoff.next_wait());
                }
            }
            Event::Cleaned { good } => {
                self.end.cleaning = false;
                if good {
                    self.end.cleaned = true;
                    self.end.backoff.reset();
                } else {
                    self.end.discarded = false;
                    self.end.retry_at = Some(time::now() + self.end.backoff.next_wait());
                }
            }
            Event::Deleted(result) => {
                self.end.deleting = false;
                match result {
                    Ok(()) => self.end.deleted = true,
                    Err(e) => {
                        tracing::warn!(pod = %pod::format(&self.pod), error = %chain(&e), "the end of a pod can't be confirmed, trying again");
                        self.end.retry_at = Some(time::now() + self.end.backoff.next_wait());
                    }
                }
            }
            Event::StatusWritten(result) => self.take_written(result),
        }
    }

    /// Those that look into a container try again as soon as it runs, however long they were to wait.
    fn target_runs(&mut self, id: &ContainerId) {
        let of = self.slots.iter().find(|(_, slot)| slot.current.as_ref().is_some_and(|run| run.id == *id));
        let Some(of) = of.map(|(name, _)| name.clone()) else { return };
        let pod = self.pod.clone();
        for container in pod::ephemeral(&pod).iter().filter(|c| pod::target(&pod, &c.name) == Some(of.as_str())) {
            if let Some(failure) = self.slots.get_mut(&container.name).and_then(|slot| slot.failure.as_mut()) {
                failure.not_before = time::now();
            }
        }
    }

    fn take_frame(&mut self, framed: Result<Option<Frame>, FrameError>) {
        match framed {
            Ok(frame) => {
                self.frame_backoff.reset();
                let is_known = |frame: &Frame| self.sandboxes.iter().any(|s| s.id == frame.sandbox.id);
                if !frame.as_ref().is_some_and(is_known) {
                    // The earlier ones are gone.
                    self.sandboxes = frame.iter().map(|frame| frame.sandbox.clone()).collect();
                }
                self.frame = frame.map_or(Making::Absent, Making::Ready);
                if let Making::Ready(frame) = &self.frame {
                    self.next_sandbox = self.next_sandbox.max(frame.sandbox.attempt + 1);
                }
                self.withdraw_frame();
            }
            Err(FrameError { reason, message }) => {
                tracing::warn!(pod = %pod::format(&self.pod), error = message, "no sandbox");
                self.ctx.event(&self.pod, EventKind::Warning, reason, message);
                self.frame = Making::Failed { until: time::now() + self.frame_backoff.next_wait() };
            }
        }
    }

    /// A pod whose volumes do not come has no sandbox: the next step takes down what was made before that was known.
    fn withdraw_frame(&mut self) {
        let failed = matches!(self.volumes, Making::Failed { .. });
        if self.early && failed && self.phase == Phase::Syncing && matches!(self.frame, Making::Ready(_)) {
            self.frame = Making::Absent;
        }
    }

    fn take_volumes(&mut self, mounted: Result<Volumes, String>) {
        let refreshed = std::mem::take(&mut self.refreshing);
        match (mounted, &mut self.volumes) {
            (Ok(volumes), _) => {
                self.early = false;
                self.volumes_backoff.reset();
                self.volumes = Making::Ready(Arc::new(volumes));
            }
            (Err(why), Making::Ready(volumes)) if refreshed => {
                // Containers keep what they have.
                tracing::info!(pod = %pod::format(&self.pod), error = why, "volumes are not brought up to date");
                // What has changed stays unseen until then.
                let again = time::now() + self.volumes_backoff.next_wait().min(RENEW_AGAIN);
                let renew = volumes.renew.filter(|at| *at > time::now()).map_or(again, |at| at.min(again));
                Arc::make_mut(volumes).renew = Some(renew);
            }
            (Err(why), _) => {
                if !self.starts.is_cancelled() {
                    self.ctx.event(&self.pod, EventKind::Warning, "FailedMount", why);
                }
                self.volumes = Making::Failed { until: time::now() + self.volumes_backoff.next_wait() };
                self.withdraw_frame();
            }
        }
        if std::mem::take(&mut self.refresh_again) {
            self.refresh_volumes();
        }
    }

    fn take_created(&mut self, name: &str, run: Run) {
        let (ctx, pod, own, linked) = (self.ctx.clone(), self.pod.clone(), name.to_owned(), run.clone());
        self.tasks.spawn(async move {
            let link = move || finish::link_log(&ctx, &pod, &own, &linked);
            if let Err(e) = tokio::task::spawn_blocking(link).await {
                tracing::warn!(error = %e, "a log was not linked");
            }
        });
        let slot = self.slot(name);
        slot.failure = None;
        slot.pull_backoff = Default::default();
        slot.next_attempt = run.attempt + 1;
        let forgotten = slot.push(run);
        self.forget(name, forgotten);
    }

    fn take_running(&mut self, id: &ContainerId, since: Timestamp) {
        if let Some(run) = self.run_mut(id).filter(|r| r.state == RunState::Created) {
            run.state = RunState::Running { since };
            self.target_runs(id);
        }
    }

    fn take_start(&mut self, name: &str, result: Result<(), StartError>) {
        let Some((_, spec)) = self.spec_of(name) else { return };
        let now = time::now();
        let slot = self.slot(name);
        slot.starting = false;
        match result {
            Ok(()) => {
                if let Some(run) = slot.current.as_mut().filter(|r| matches!(r.state, RunState::Running { .. })) {
                    run.started = spec.startup_probe.is_none();
                    run.ready = run.started && spec.readiness_probe.is_none();
                }
            }
            // Its exit says when it is tried again.
            Err(StartError { reason: reason @ (RUN_ERROR | HOOK_ERROR), message }) => {
                slot.failure = Some(StartFailure { reason, message, not_before: now, at: now });
            }
            Err(StartError { reason, message }) => {
                slot.pull_backoff.count(now, now);
                let not_before = now + slot.pull_backoff.wait(now);
                slot.failure = Some(StartFailure { reason, message, not_before, at: now });
            }
        }
    }

    pub(super) fn run_mut(&mut self, id: &ContainerId) -> Option<&mut Run> {
        self.slots.values_mut().find_map(|slot| slot.run_mut(id))
    }

    /// What the container itself had to say of its end, where nobody has said anything yet.
    async fn add_message(&self, name: &str, attempt: u32, exit: &mut Exit) {
        let Some((_, spec)) = self.spec_of(name).filter(|_| exit.message.is_empty()) else { return };
        let options = &self.ctx.options;
        let file = message_file(&options.pod_directory(&self.uid), name, attempt);
        let fallback = spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        let log = options.pod_log_directory(&self.pod).join(name).join(format!("{attempt}.log"));
        let log = Some(log).filter(|_| fallback && exit.code != 0);
        let read = tokio::task::spawn_blocking(move || message::read(&file, log.as_deref())).await;
        exit.message = read.unwrap_or_else(|e| format!("Error reading termination message: {e}"));
    }

    async fn take_exit(&mut self, id: &ContainerId, mut exit: Exit) {
        let Some((name, run)) = self.slots.iter().find_map(|(name, slot)| {
            let run = slot.current.as_ref().filter(|r| r.id == *id && !matches!(r.state, RunState::Exited(_)))?;
            Some((name.clone(), run.clone()))
        }) else {
            return;
        };
        self.add_message(&name, run.attempt, &mut exit).await;
        if exit.started.is_none()
            && let RunState::Running { since } = run.state
        {
            exit.started = Some(since);
        }
        tracing::debug!(pod = %pod::format(&self.pod), container = name, code = exit.code, "container ended");
        self.ctx.unroute(id);
        self.end_probes(id);
        if let Some(run) = self.run_mut(id) {
            run.state = RunState::Exited(exit);
            run.ready = false;
            run.started = false;
            run.stopping = false;
        }
    }

    /// One that ends already ends as it was to.
    fn take_ending(&mut self, ending: Ending) {
        self.held.extend(ending.hold);
        if self.phase != Phase::Syncing {
            return;
        }
        self.disrupted = ending.disrupted;
        self.failed = Some((ending.reason.to_owned(), ending.message));
        self.begin_end(ending.grace_s);
    }

    fn take_probe(&mut self, id: &ContainerId, kind: ProbeKind, healthy: bool) {
        let waits = |spec: &Spec| spec.readiness_probe.is_some();
        let name =
            self.slots.iter().find(|(_, s)| s.current.as_ref().is_some_and(|r| r.id == *id)).map(|(n, _)| n.clone());
        let readiness = name.and_then(|n| self.spec_of(&n)).is_some_and(|(_, spec)| waits(&spec));
        let Some(run) = self.run_mut(id).filter(|r| matches!(r.state, RunState::Running { .. })) else { return };
        match (kind, healthy) {
            (ProbeKind::Readiness, healthy) => run.ready = healthy,
            (ProbeKind::Startup, true) => {
                run.started = true;
                run.ready = !readiness;
            }
            (ProbeKind::Startup, false) => run.unhealthy = Some(Unhealthy::Startup),
            (ProbeKind::Liveness, false) => run.unhealthy = Some(Unhealthy::Liveness),
            (ProbeKind::Liveness, true) => {}
        }
    }

    /// A lost sandbox is made anew by the next step.
    fn lose_frame(&mut self, id: &SandboxId) {
        let is_own = matches!(&self.frame, Making::Ready(frame) if frame.sandbox.id == *id);
        // That of a pod which ends is stopped on purpose.
        if is_own && self.phase == Phase::Syncing {
            tracing::info!(pod = %pod::format(&self.pod), sandbox = id.0, "a sandbox is lost");
            self.frame = Making::Absent;
        }
    }

    async fn look_at_frame(&mut self) {
        if let Making::Ready(frame) = &self.frame {
            let id = frame.sandbox.id.clone();
            match self.ctx.engine.sandboxes().await {
                Ok(all) if !all.iter().any(|s| s.id == id && sandbox::is_ready(s)) => self.lose_frame(&id),
                Ok(_) => {}
                Err(e) => tracing::warn!(sandbox = id.0, error = %chain(&e), "a sandbox can't be looked at"),
            }
        }
    }

    pub(super) async fn take_resync(&mut self) {
        self.look_at_frame().await;
        let alive: Vec<ContainerId> = self
            .slots
            .values()
            .filter_map(|s| s.current.as_ref())
            .filter(|r| !matches!(r.state, RunState::Exited(_)))
            .map(|r| r.id.clone())
            .collect();
        for id in alive {
            match self.ctx.engine.container(&id).await.map(|c| c.state) {
                Ok(ContainerState::Exited(exit)) => self.take_exit(&id, exit).await,
                Ok(ContainerState::Unknown) | Err(skiff_runtime::Error::ContainerNotFound(_)) => {
                    self.take_exit(&id, lost()).await
                }
                Ok(ContainerState::Running { .. } | ContainerState::Created) => {}
                Err(e) => tracing::warn!(container = id.0, error = %chain(&e), "a container can't be looked at"),
            }
        }
    }

    fn take_written(&mut self, result: Result<Box<Pod>, skiff_client::Error>) {
        self.status.busy = false;
        let told = result.is_ok();
        match result {
            Ok(pod) => {
                self.status.backoff.reset();
                self.status.retry_at = None;
                self.status.revision = self.status.revision.max(revision(&pod));
                self.status.written = pod.status.unwrap_or_default();
            }
            // The pod is gone, or another one has its name: nobody is left to be told.
            Err(e) if e.is_not_found() || e.is_conflict() => self.status.written = self.status.wanted.clone(),
            Err(e) => {
                tracing::warn!(pod = %pod::format(&self.pod), error = %chain(&e), "the status can't be written, trying again");
                self.status.retry_at = Some(time::now() + self.status.backoff.next_wait());
            }
        }
        self.tell_progress(told);
    }

    /// The last thing: what the pod has left on the node goes.
    pub(super) async fn farewell(&mut self) {
        for run in self.slots.values().flat_map(|slot| slot.current.iter().chain(&slot.previous)) {
            self.ctx.unroute(&run.id);
        }
        finish::remove_logs(&self.ctx, &self.pod).await;
    }
}
