//! What the worker does next: looks at what it knows, starts tasks, never waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Node, Pod, PodStatus};
use skiff_base::{chain, time};
use skiff_client::{EventKind, PatchKind};
use skiff_runtime::ContainerId;
use tokio::sync::oneshot;

use super::start::Start;
use super::stop::{self, Kill};
use super::{Event, Making, Phase, QUIET, Room, Sight, Worker, finish};
use crate::admit::{self, Rejection};
use crate::context::Context;
use crate::plan::{Action, ContainerView, Plan, plan_containers, plan_ephemeral, resets, restarts};
use crate::pod::{self, RestartPolicy, Role};
use crate::preempt;
use crate::probe::{self, ProbeKind, Subject};
use crate::sandbox;
use crate::slot::{RunState, Slot};
use crate::status::{self, Seen};
use crate::volume;

/// A failed pull or start is shown as such for this long, then as waiting.
const SHOW_ERROR: SignedDuration = SignedDuration::from_secs(3);

/// Gives a pod what it has for itself alone.
async fn equip(ctx: &Context, pod: &Pod) -> Result<(), String> {
    ctx.devices.allocate(pod).await?;
    ctx.cpus.allocate(pod).await
}

/// The earliest of several moments.
#[derive(Default)]
struct Wake(Option<Timestamp>);

impl Wake {
    fn at(&mut self, at: Timestamp) {
        self.0 = Some(self.0.map_or(at, |now| now.min(at)));
    }
}

impl Worker {
    /// Returns when to look again without an event.
    pub(super) fn step(&mut self) -> Option<Timestamp> {
        let now = time::now();
        let mut wake = Wake::default();
        if self.phase == Phase::Syncing {
            self.sync(now, &mut wake);
        }
        if self.phase == Phase::Terminating {
            self.terminate();
        }
        self.publish(now, &mut wake);
        if self.phase == Phase::Terminated {
            self.finish(now, &mut wake);
        }
        wake.0
    }

    fn sync(&mut self, now: Timestamp, wake: &mut Wake) {
        if self.removed || pod::is_deleted(&self.pod) {
            self.begin_end(self.asked_grace_s().unwrap_or_default());
            return;
        }
        if self.ended_by_api().is_some() {
            tracing::info!(pod = %pod::format(&self.pod), "the API says that a pod has ended: its containers do");
            self.begin_end(pod::grace_s(&self.pod));
            return;
        }
        if !self.admit() {
            return;
        }
        if self.past_deadline(now, wake) {
            let message = "Pod was active on the node longer than the specified deadline";
            self.ctx.event(&self.pod, EventKind::Normal, "DeadlineExceeded", message);
            self.failed = Some(("DeadlineExceeded".to_owned(), message.to_owned()));
            self.begin_end(pod::grace_s(&self.pod));
            return;
        }
        self.make_frame(now, wake);
        if self.phase != Phase::Syncing {
            return;
        }
        match &self.volumes {
            Making::Absent => {
                self.volumes = Making::Working;
                self.mount();
            }
            Making::Failed { until } if *until <= now => {
                self.volumes = Making::Working;
                self.mount();
            }
            Making::Failed { until } => wake.at(*until),
            Making::Working => {}
            Making::Ready(volumes) => match volumes.renew {
                Some(at) if at <= now && !self.refreshing => self.refresh_volumes(),
                Some(at) if at > now => wake.at(at),
                _ => {}
            },
        }
        self.show_back_off(now, wake);
        if !matches!((&self.frame, &self.volumes), (Making::Ready(_), Making::Ready(_))) {
            return;
        }
        self.resize(now, |at| wake.at(at));
        let plan = self.plan(now);
        if let Some(at) = plan.wake {
            wake.at(at);
        }
        self.resetting = plan.reset;
        if plan.reset {
            return self.reset(now, wake);
        }
        if plan.ended {
            self.begin_end(pod::grace_s(&self.pod));
            return;
        }
        for action in plan.actions {
            self.apply(action, now);
        }
        self.start_probes();
    }

    /// Whether the node takes the pod; what has begun is not asked again.
    fn admit(&mut self) -> bool {
        if self.admitted.is_some() || self.equipping || self.room == Room::Awaited {
            return self.admitted == Some(true);
        }
        let fresh = pod::is_pending(&self.pod) && self.sandboxes.is_empty() && self.slots.is_empty();
        let judged = if fresh {
            let Some(judged) = self.judge() else { return false };
            judged
        } else {
            super::resize::promise(&self.ctx, &self.uid, &self.pod);
            if !pod::is_terminal(&self.pod) {
                self.ctx.ports.hold(&self.uid, &self.pod);
            }
            Ok(())
        };
        let wanted = self.ctx.devices.are_wanted(&self.pod) || self.ctx.cpus.are_wanted(&self.pod);
        if fresh && judged.is_ok() && wanted {
            self.equipping = true;
            let (ctx, pod, tell) = (self.ctx.clone(), self.pod.clone(), self.tell.clone());
            let ending = self.starts.clone();
            self.background(async move {
                // A plugin may hang; what was given until then goes with the pod.
                let equipped = tokio::select! {
                    () = ending.cancelled() => Err("the pod is ending".to_owned()),
                    equipped = equip(&ctx, &pod) => equipped,
                };
                drop(tell.send(Event::Equipped(equipped)).await);
            });
            return false;
        }
        self.settle(judged);
        self.admitted == Some(true)
    }

    pub(super) fn settle(&mut self, judged: Result<(), Rejection>) {
        self.admitted = Some(judged.is_ok());
        if let Err(rejection) = judged {
            tracing::info!(pod = %pod::format(&self.pod), reason = &*rejection.reason, "a pod is rejected");
            self.ctx.event(&self.pod, EventKind::Warning, &rejection.reason, rejection.message.clone());
            self.failed = Some((rejection.reason.into_owned(), format!("Pod was rejected: {}", rejection.message)));
            self.begin_end(0);
        }
    }

    /// `None`: not before the node's object has been asked for.
    fn judge(&mut self) -> Option<Result<(), Rejection>> {
        let (ctx, pod) = (&self.ctx, &self.pod);
        if let Err(rejection) = admit::admit(pod, &ctx.host, &ctx.pressure.now()) {
            return Some(Err(rejection));
        }
        let lack = match self.room {
            Room::Made => None,
            _ => self.take_share().err().and_then(|lacks| lacks.into_iter().next()),
        };
        // For a critical one room is made, if nothing else speaks against it.
        if let Some(lack) = lack.clone().filter(|_| !pod::is_critical(pod)) {
            return Some(Err(lack.into()));
        }
        let fits = match &self.sight {
            Sight::Asked => return None,
            Sight::Fresh(node) => node.as_ref().map_or(Ok(()), |node| admit::fits(pod, node)),
            Sight::Cached => ctx.node().map_or(Ok(()), |node| admit::fits(pod, &node)),
        };
        if let (Err(_), Sight::Cached) = (&fits, &self.sight) {
            // Whoever bound the pod may have seen labels and taints that have not come here yet.
            self.sight = Sight::Asked;
            let (ctx, tell) = (self.ctx.clone(), self.tell.clone());
            self.background(async move {
                let asked = ctx.client.all::<Node>().get(&ctx.options.node_name).await;
                let node = asked.map(Box::new).inspect_err(|e| {
                    tracing::warn!(error = %chain(e), "the node's object can't be asked for: the pod is taken");
                });
                drop(tell.send(Event::NodeSeen(node.ok())).await);
            });
            return None;
        }
        let ports = || ctx.ports.take(&self.uid, pod);
        let up = || if ctx.ready().is_ok() { Ok(()) } else { Err(admit::goes_down()) };
        let fits = fits.and_then(|()| ports()).and_then(|()| up());
        if fits.is_ok() && lack.is_some() {
            self.make_room();
            return None;
        }
        Some(fits)
    }

    /// Has others end for the pod.
    fn make_room(&mut self) {
        self.room = Room::Awaited;
        let (ctx, pod, tell, ending) = (self.ctx.clone(), self.pod.clone(), self.tell.clone(), self.starts.clone());
        self.background(async move {
            let (answer, answered) = oneshot::channel();
            // Nobody makes room any more when the agent stops.
            drop(ctx.preemptions.send(preempt::Request { pod, ending, answer }).await);
            if let Ok(made) = answered.await {
                drop(tell.send(Event::RoomMade(made)).await);
            }
        });
    }

    fn plan(&self, now: Timestamp) -> Plan {
        let view = |c: &Container| Some((c.name.clone(), self.slots.get(&c.name)?.view(c)));
        let ephemeral = pod::ephemeral(&self.pod);
        let all = pod::containers(&self.pod).map(|(_, c)| c).chain(&ephemeral);
        let views: BTreeMap<String, ContainerView> = all.filter_map(view).collect();
        let mut plan = plan_containers(&self.pod, &views, now);
        if !plan.ended {
            let target = |name: &str| pod::target(&self.pod, name).map(str::to_owned);
            plan_ephemeral(&ephemeral, target, &views, now, &mut plan);
        }
        plan
    }

    fn past_deadline(&self, now: Timestamp, wake: &mut Wake) -> bool {
        let (Some(limit), Some(since)) = (pod::spec(&self.pod).active_deadline_seconds, &self.status.wanted.start_time)
        else {
            return false;
        };
        let end = since.0 + SignedDuration::from_secs(limit);
        if end > now {
            wake.at(end);
        }
        end <= now
    }

    /// Whether the pod may have a sandbox: with its volumes. At first it is made beside them, since they mostly come at
    /// once; where they do not, it goes again, unseen, and waits for them.
    fn may_have_frame(&self) -> bool {
        match self.volumes {
            Making::Ready(_) => true,
            Making::Absent | Making::Working => self.volumes_backoff.failures() == 0,
            Making::Failed { .. } => false,
        }
    }

    /// Makes the sandbox; before, what earlier ones hold is freed.
    fn make_frame(&mut self, now: Timestamp, wake: &mut Wake) {
        match &self.frame {
            Making::Absent => {}
            Making::Failed { until } if *until <= now => {}
            Making::Failed { until } => {
                wake.at(*until);
                return;
            }
            Making::Working | Making::Ready(_) => return,
        }
        let wanted = self.may_have_frame();
        if !wanted && self.sandboxes.is_empty() {
            return;
        }
        if self.slots.values().any(|s| s.starting || s.is_alive()) {
            // What is left of a lost sandbox ends first.
            self.end_lost();
            return;
        }
        // Containers of an earlier sandbox are history; some pods don't want a second one.
        let ran = self.slots.values().any(|s| s.current.is_some());
        if wanted && ran {
            let never = pod::restart_policy(&self.pod) == RestartPolicy::Never;
            if never || self.plan(now).ended {
                self.begin_end(pod::grace_s(&self.pod));
                return;
            }
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.ctx.event(&self.pod, EventKind::Normal, "SandboxChanged", message);
            self.retire_runs();
        }
        self.frame = Making::Working;
        self.early = !matches!(self.volumes, Making::Ready(_));
        self.resizing.group_as_made = true;
        let (ctx, pod, tell) = (self.ctx.clone(), self.pod.clone(), self.tell.clone());
        let (attempt, old) = (self.next_sandbox, self.sandboxes.clone());
        // One that could not be made whole, and not be taken down either, is known to the runtime alone.
        let more = self.frame_backoff.failures() > 0;
        self.background(async move {
            let framed = match sandbox::free(&ctx, &pod::uid(&pod), &old, more).await {
                Ok(()) if wanted => sandbox::create(&ctx, &pod, attempt).await.map(Some),
                Ok(()) => Ok(None),
                Err(error) => Err(error),
            };
            drop(tell.send(Event::Framed(framed)).await);
        });
    }

    /// Ends the containers of a sandbox that is lost; hooks have nowhere to run.
    fn end_lost(&mut self) {
        let pod = self.pod.clone();
        for (role, container) in self.everyone() {
            let alive = self.slots.get(&container.name).and_then(|s| s.current.as_ref());
            if alive.is_none_or(|run| run.stopping) {
                continue;
            }
            let message = format!("Stopping container {}", container.name);
            if let Some(kill) = self.kill(&container.name, role, pod::grace_s(&pod), message, false) {
                self.end_probes(&kill.id);
                self.background(async move { kill.run().await });
            }
        }
    }

    /// A new sandbox starts everything over, but for what need not run again.
    fn retire_runs(&mut self) {
        let pod = self.pod.clone();
        for (role, container) in pod::containers(&pod) {
            let Some(slot) = self.slots.get_mut(&container.name) else { continue };
            let done = match slot.current.as_ref().map(|r| &r.state) {
                Some(RunState::Exited(exit)) => role == Role::Main && !restarts(&pod, role, container, exit.code),
                _ => false,
            };
            if !done && let Some(run) = slot.current.take() {
                slot.next_attempt = slot.next_attempt.max(run.attempt + 1);
                slot.previous = Some(run);
            }
        }
    }

    /// All containers begin anew, since one has ended so that its rules ask for that: those that run end at once, and when none
    /// is left, they are history. The sandbox and the volumes stay.
    fn reset(&mut self, now: Timestamp, wake: &mut Wake) {
        let pod = self.pod.clone();
        let (mut ending, mut due, mut last) = (false, now, None);
        for (role, container) in pod::containers(&pod) {
            let Some(slot) = self.slots.get(&container.name) else { continue };
            let stopping = slot.current.as_ref().is_some_and(|run| run.stopping);
            ending |= slot.starting || slot.is_alive();
            if let Some(RunState::Exited(exit)) = slot.current.as_ref().map(|run| &run.state) {
                last = last.max(Some(exit.finished));
                if resets(container, exit.code) {
                    due = due.max(exit.finished + slot.backoff.wait(exit.finished));
                }
            }
            if !slot.starting
                && !stopping
                && let Some(kill) = self.kill(&container.name, role, 0, "killing".to_owned(), false)
            {
                self.end_probes(&kill.id);
                self.background(async move { kill.run().await });
            }
        }
        if ending {
            return;
        }
        // That they begin anew is told, whatever write is under way; who can't be told is not waited for.
        if status::holds(&self.status.written, status::RESETS).is_none()
            && let Some(last) = last
        {
            due = due.max(last + QUIET);
        }
        // One that does it again and again waits as if it were alone.
        if due > now {
            return wake.at(due);
        }
        tracing::info!(pod = %pod::format(&pod), "all containers of a pod begin anew");
        for (_, container) in pod::containers(&pod) {
            let Some(slot) = self.slots.get_mut(&container.name) else { continue };
            let Some(mut run) = slot.current.take() else { continue };
            slot.next_attempt = slot.next_attempt.max(run.attempt + 1);
            (slot.failure, slot.crash_loop) = (None, None);
            if let RunState::Exited(exit) = &mut run.state {
                if resets(container, exit.code) {
                    slot.backoff.count(exit.finished, now);
                } else {
                    status::reset(exit);
                }
            }
            let older = slot.previous.replace(run);
            self.forget(&container.name, older);
        }
        self.resetting = false;
        // The next step, which starts them, comes at once.
        wake.at(now);
    }

    pub(super) fn mount(&self) {
        let (ctx, pod, tell) = (self.ctx.clone(), self.pod.clone(), self.tell.clone());
        let (objects, ending) = (self.objects.clone(), self.starts.clone());
        self.background(async move {
            // The API server may never answer; the end of the pod does not wait for it.
            let known = tokio::select! {
                () = ending.cancelled() => false,
                () = objects.known() => true,
            };
            let mounted =
                if known { volume::ensure(&ctx, &pod, &objects).await } else { Err("the pod is ending".to_owned()) };
            drop(tell.send(Event::Mounted(mounted)).await);
        });
    }

    fn show_back_off(&mut self, now: Timestamp, wake: &mut Wake) {
        let pod = self.pod.clone();
        for (role, container) in self.everyone() {
            let Some(slot) = self.slots.get_mut(&container.name).filter(|s| !s.starting) else { continue };
            let Some(failure) = slot.failure.as_mut().filter(|f| f.is_passing()) else { continue };
            let due = failure.at + SHOW_ERROR;
            if due > now {
                wake.at(due);
                continue;
            }
            if failure.has_begun() {
                slot.failure = None;
                continue;
            }
            let told = format!("Back-off pulling image {:?}", container.image.as_deref().unwrap_or_default());
            failure.reason = "ImagePullBackOff";
            failure.message = format!("{told}: ErrImagePull: {}", failure.message);
            self.ctx.container_event(&pod, role, &container.name, EventKind::Normal, "BackOff", told);
            let error = "Error: ImagePullBackOff";
            self.ctx.container_event(&pod, role, &container.name, EventKind::Warning, "Failed", error);
        }
    }

    fn apply(&mut self, action: Action, now: Timestamp) {
        match action {
            Action::Start { name } => self.start(&name, now),
            Action::Kill { name, because, message } => {
                let Some((role, container)) = self.spec_of(&name) else { return };
                let grace_s = stop::probe_grace_s(&self.pod, &container, because);
                if let Some(kill) = self.kill(&name, role, grace_s, message, true) {
                    self.end_probes(&kill.id);
                    self.background(async move { kill.run().await });
                }
            }
            Action::BackOff { name, wait } => {
                let Some((role, container)) = self.spec_of(&name) else { return };
                let slot = self.slot(&name);
                if slot.crash_loop.replace(wait) != Some(wait) {
                    let message =
                        format!("Back-off restarting failed container {name} in pod {}", pod::format(&self.pod));
                    let kind = EventKind::Warning;
                    self.ctx.container_event(&self.pod, role, &container.name, kind, "BackOff", message);
                }
            }
        }
    }

    fn start(&mut self, name: &str, now: Timestamp) {
        let Some((role, container)) = self.spec_of(name) else { return };
        let (Making::Ready(frame), Making::Ready(volumes)) = (&self.frame, &self.volumes) else { return };
        let (sandbox, pod_ips, volumes) = (frame.sandbox.id.clone(), frame.pod_ips.clone(), volumes.clone());
        let slot = self.slot(name);
        if let Some(RunState::Exited(exit)) = slot.current.as_ref().map(|r| &r.state) {
            let finished = exit.finished;
            slot.backoff.count(finished, now);
        }
        slot.starting = true;
        slot.crash_loop = None;
        let attempt = slot.next_attempt;
        let target = pod::target(&self.pod, name).map(|target| {
            let run = self.slots.get(target).and_then(|slot| slot.current.as_ref());
            let run = run.filter(|run| matches!(run.state, RunState::Running { .. }));
            run.map(|run| run.id.clone()).ok_or_else(|| format!("unable to find target container {target}"))
        });
        let start = Start {
            ctx: self.ctx.clone(),
            pod: self.pod.clone(),
            role,
            container,
            attempt,
            sandbox,
            group: self.group_resources(),
            pod_ips,
            objects: self.objects.clone(),
            volumes,
            target,
            tell: self.tell.clone(),
            cancelled: self.starts.clone(),
        };
        self.background(start.run());
    }

    /// Marks the running container as stopping; `None` where nothing runs.
    pub(super) fn kill(&mut self, name: &str, role: Role, grace_s: i64, message: String, hook: bool) -> Option<Kill> {
        let (_, container) = self.spec_of(name)?;
        let pod_ip = match &self.frame {
            Making::Ready(frame) => frame.pod_ips.first().map(ToString::to_string).unwrap_or_default(),
            _ => String::new(),
        };
        let run = self.slots.get_mut(name)?.current.as_mut().filter(|r| !matches!(r.state, RunState::Exited(_)))?;
        run.stopping = true;
        Some(Kill {
            ctx: self.ctx.clone(),
            pod: self.pod.clone(),
            role,
            container,
            id: run.id.clone(),
            pod_ip,
            grace_s,
            message,
            hook,
            tell: self.tell.clone(),
        })
    }

    fn start_probes(&mut self) {
        let pod = self.pod.clone();
        let Making::Ready(frame) = &self.frame else { return };
        let pod_ip = frame.pod_ips.first().map(ToString::to_string).unwrap_or_default();
        for (role, container) in pod::containers(&pod) {
            if role == Role::Init {
                continue;
            }
            let Some(slot) = self.slots.get(&container.name).filter(|s| !s.starting) else { continue };
            let Some(run) = slot.current.as_ref().filter(|r| !r.stopping && r.unhealthy.is_none()) else { continue };
            let RunState::Running { since } = run.state else { continue };
            let kinds: &[ProbeKind] =
                if run.started { &[ProbeKind::Readiness, ProbeKind::Liveness] } else { &[ProbeKind::Startup] };
            for kind in kinds {
                if kind.of(container).is_none() || self.probes.contains_key(&(run.id.clone(), *kind)) {
                    continue;
                }
                // Whether it is ready is asked until it is gone.
                let parent = if *kind == ProbeKind::Readiness { self.tasks.token() } else { &self.starts };
                let stop = parent.child_token();
                self.probes.insert((run.id.clone(), *kind), stop.clone());
                let subject = Subject {
                    pod: pod.clone(),
                    role,
                    container: container.clone(),
                    id: run.id.clone(),
                    pod_ip: pod_ip.clone(),
                    since,
                    kind: *kind,
                    ready: run.ready,
                };
                let (tell, id, kind) = (self.tell.clone(), run.id.clone(), *kind);
                let tell = async move |healthy| {
                    drop(tell.send(Event::Probed { id: id.clone(), kind, healthy }).await);
                };
                self.tasks.spawn(probe::run(self.ctx.clone(), subject, stop, tell));
            }
        }
    }

    pub(super) fn end_probes(&mut self, id: &ContainerId) {
        self.probes.retain(|(of, _), stop| {
            if of == id {
                stop.cancel();
            }
            of != id
        });
    }

    pub(super) fn begin_end(&mut self, grace_s: i64) {
        self.phase = Phase::Terminating;
        self.grace_s = Some(grace_s);
        self.starts.cancel();
    }

    fn any_alive(&self) -> bool {
        self.slots.values().any(Slot::is_alive)
    }

    /// What the API says of a pod that has ended for it, whoever told that. The object of a static pod says nothing.
    fn ended_by_api(&self) -> Option<&PodStatus> {
        let ended = |status: &PodStatus| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let written = Some(&self.status.written).filter(|_| !pod::is_static(&self.pod));
        written.filter(|status| ended(status)).or_else(|| self.pod.status.as_ref().filter(|status| ended(status)))
    }

    /// What the API asks for, where it asks for an end. Of a pod that it no longer has nobody waits for the end:
    /// the documentation promises "a small grace period".
    fn asked_grace_s(&self) -> Option<i64> {
        match () {
            () if self.removed => Some(1),
            () if pod::is_deleted(&self.pod) => Some(pod::deletion_grace_s(&self.pod)),
            () => None,
        }
    }

    fn terminate(&mut self) {
        // Volumes may take long to come: the containers end meanwhile, and what comes goes after them.
        let busy = self.slots.values().any(|s| s.starting) || self.equipping || matches!(self.frame, Making::Working);
        if busy {
            return;
        }
        let asked = self.asked_grace_s();
        let grace_s = self.grace_s.or(asked).unwrap_or_else(|| pod::grace_s(&self.pod));
        match asked {
            // Someone lost patience.
            Some(shorter) if self.killing && shorter < grace_s && !self.terminated && self.any_alive() => {
                self.grace_s = Some(shorter);
                self.kill_all(shorter, false);
            }
            _ if !self.killing => {
                self.killing = true;
                self.grace_s = Some(grace_s);
                self.kill_all(grace_s, true);
            }
            _ => {}
        }
        if self.terminated {
            if self.any_alive() {
                // The runtime could not do it: once more.
                self.terminated = false;
                self.kill_all(self.grace_s.unwrap_or_default(), false);
            } else {
                self.phase = Phase::Terminated;
                self.release_share();
                self.ctx.devices.release(&self.uid);
                self.ctx.cpus.release(&self.uid);
            }
        }
    }

    fn kill_all(&mut self, grace_s: i64, hook: bool) {
        let mut kills = Vec::new();
        for (role, container) in self.everyone() {
            let message = format!("Stopping container {}", container.name);
            kills.extend(self.kill(&container.name, role, grace_s, message, hook));
        }
        if kills.is_empty() {
            self.terminated = true;
            return;
        }
        self.background(stop::terminate(kills, self.tell.clone()));
    }

    fn publish(&mut self, now: Timestamp, wake: &mut Wake) {
        // Not before the addresses of an adopted pod are known; and what has ended says so already.
        let adopting = self.phase == Phase::Syncing
            && matches!(self.frame, Making::Working)
            && self.slots.values().any(|s| s.current.is_some());
        let told = matches!(self.status.written.phase.as_deref(), Some("Succeeded" | "Failed"));
        // Others may have said that it has ended, not that its containers have.
        let told = told && !status::tells_of_running(&self.status.written);
        if adopting || self.removed || (told && !pod::is_deleted(&self.pod)) || self.phase == Phase::Finished {
            return;
        }
        if let Some(ended) = self.ended_by_api() {
            let (phase, reason, message) = (ended.phase.clone(), ended.reason.clone(), ended.message.clone());
            let wanted = &mut self.status.wanted;
            (wanted.phase, wanted.reason, wanted.message) = (phase, reason, message);
        }
        let (sandbox_ready, pod_ips) = match &self.frame {
            Making::Ready(frame) if !self.early => (self.phase != Phase::Terminated, frame.pod_ips.as_slice()),
            _ => (false, [].as_slice()),
        };
        let given = self.is_resizing().then(|| self.given());
        let wanted = status::plan_status(&Seen {
            pod: &self.pod,
            last: &self.status.wanted,
            slots: &self.slots,
            sandbox_ready,
            pod_ips,
            host_ip: self.ctx.options.node_ip.into(),
            terminal: self.phase == Phase::Terminated,
            failed: self.failed.as_ref().map(|(reason, message)| (reason.as_str(), message.as_str())),
            rejected: self.admitted == Some(false),
            disrupted: self.disrupted.as_deref(),
            resetting: self.resetting && self.phase == Phase::Syncing,
            given: given.as_ref().unwrap_or(&self.pod),
            resize_pending: self.resizing.pending.as_ref().map(|(reason, message)| (*reason, message.as_str())),
            resizing: self.is_resizing().then_some(self.resizing.error.as_deref()),
            devices: &|container| self.ctx.devices.health(&self.uid, container),
            now,
        });
        self.status.wanted = wanted;
        if self.status.busy {
            return;
        }
        // A static pod without a mirror has nobody to tell.
        let Some(uid) = &self.status.uid else { return };
        if self.status.written == self.status.wanted {
            return;
        }
        let mut not_before = self.status.retry_at;
        let waits = self.status.wanted.phase.as_deref() == Some("Pending")
            && !self.resetting
            && self.slots.values().all(|s| s.failure.is_none())
            && self.phase == Phase::Syncing;
        if waits {
            not_before = not_before.max(Some(self.status.quiet_until));
        }
        if let Some(at) = not_before.filter(|at| *at > now) {
            wake.at(at);
            return;
        }
        let Some(patch) = status::plan_patch(uid, &self.status.written, &self.status.wanted) else { return };
        self.status.busy = true;
        self.status.quiet_until = now + QUIET;
        let (ctx, pod, tell) = (self.ctx.clone(), self.pod.clone(), self.tell.clone());
        self.background(async move {
            let api = ctx.client.namespaced::<Pod>(pod::namespace(&pod));
            let written = api.patch_status(pod::name(&pod), PatchKind::Strategic, &patch).await;
            drop(tell.send(Event::StatusWritten(written.map(Box::new))).await);
        });
    }

    fn is_told(&self) -> bool {
        !self.status.busy && status::plan_patch("", &self.status.written, &self.status.wanted).is_none()
    }

    fn finish(&mut self, now: Timestamp, wake: &mut Wake) {
        let end = &mut self.end;
        if let Some(at) = end.retry_at {
            if at > now {
                wake.at(at);
                return;
            }
            end.retry_at = None;
        }
        let whole = self.removed || pod::is_deleted(&self.pod);
        // Volumes that no container ever had may take as long to go as they like (their driver hangs, say): the object does
        // not wait for them, as upstream. They go none the less, when they have come.
        let unused = self.slots.values().all(|slot| slot.current.is_none() && slot.previous.is_none());
        let coming = self.refreshing || matches!(self.volumes, Making::Working);
        if coming && !unused {
            return;
        }
        let (ctx, uid, tell, sandboxes) =
            (self.ctx.clone(), self.uid.clone(), self.tell.clone(), self.sandboxes.clone());
        if unused && !end.down {
            if !end.cleaning {
                end.cleaning = true;
                self.background(async move {
                    let good = finish::take_down(&ctx, &uid, &sandboxes, whole).await;
                    drop(tell.send(Event::Down { good }).await);
                });
            }
            return;
        }
        if !coming && !end.cleaning && (!end.cleaned || (whole && !end.discarded)) {
            end.cleaning = true;
            end.cleaned = false;
            end.discarded = whole;
            self.background(async move {
                let good = finish::clean(&ctx, &uid, &sandboxes, whole).await;
                drop(tell.send(Event::Cleaned { good }).await);
            });
        }
        if !self.end.cleaned && !unused {
            return;
        }
        let told = || matches!(self.status.written.phase.as_deref(), Some("Succeeded" | "Failed"));
        if self.end.cleaned && (self.removed || self.status.uid.is_none() || told()) {
            self.held.clear();
        }
        if self.removed {
            if self.end.cleaned {
                self.phase = Phase::Finished;
            }
        } else if whole && self.is_told() && !self.end.deleting && !self.end.deleted {
            self.end.deleting = true;
            let (ctx, pod, tell) = (self.ctx.clone(), Arc::clone(&self.pod), self.tell.clone());
            self.background(async move {
                let deleted = finish::delete(&ctx, &pod).await;
                drop(tell.send(Event::Deleted(deleted)).await);
            });
        }
    }
}
