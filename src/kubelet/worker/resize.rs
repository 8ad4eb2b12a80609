//! Gives the containers of a running pod other resources, as far as the node has them.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use skiff_base::{chain, time};
use skiff_client::EventKind;
use skiff_runtime::{ContainerId, Error, Resources, SandboxId};

use super::{Event, Making, Worker};
use crate::context::Context;
use crate::pod::{self, PodUid, Role};
use crate::resize::{self, Allocation, Fit, Lack, WHOLE};
use crate::resources::{self, Qos};
use crate::slot::RunState;
use crate::status;

/// What could not be done is tried again after this.
const AGAIN: SignedDuration = SignedDuration::from_secs(10);

/// Where a resize is.
#[derive(Debug, Default)]
pub(super) struct Resizing {
    /// Why the node does not give what is asked: reason and message.
    pub(super) pending: Option<(&'static str, String)>,
    /// What an event has told of that: the reason, and of which generation of the pod.
    told_pending: Option<(&'static str, i64)>,
    /// The generation whose resources are being given, until its end is told.
    given: Option<i64>,
    /// Its beginning is told.
    told_start: bool,
    /// The write of the status that is under way is from before.
    outrun: bool,
    busy: bool,
    /// Why it could not be carried out.
    pub(super) error: Option<String>,
    retry_at: Option<Timestamp>,
    /// The pod's group was made by this worker, and no resize came since.
    pub(super) group_as_made: bool,
    /// What the pod as a whole has, where a resize has changed that.
    whole: Option<ResourceRequirements>,
    /// Containers were being started when a resize came: each gives the group the limits that it was to have before.
    overtaken: bool,
}

/// A container whose limits change as it runs.
struct Change {
    id: ContainerId,
    container: Container,
    resources: ResourceRequirements,
}

/// What containers have now, and what the pod as a whole has.
pub(super) type Resized = (Vec<(ContainerId, ResourceRequirements)>, Option<ResourceRequirements>);

/// The pod as the node has taken it: with the resources that it was given.
pub(super) fn effective(asked: &Arc<Pod>, allocation: &Allocation) -> Arc<Pod> {
    if resize::asked(asked) == *allocation { asked.clone() } else { Arc::new(resize::with(asked, allocation)) }
}

impl Resizing {
    /// What an earlier agent has told is not told again.
    pub(super) fn of(pod: &Pod) -> Self {
        let holds = |type_: &str| status::holds(pod.status.as_ref()?, type_);
        let told_pending = holds(status::RESIZE_PENDING).and_then(|c| {
            let known = ["Deferred", "Infeasible"].into_iter().find(|reason| c.reason.as_deref() == Some(reason));
            Some((known?, c.observed_generation?))
        });
        let given = holds(status::RESIZE_IN_PROGRESS).and_then(|c| c.observed_generation);
        Self { told_pending, given, told_start: given.is_some(), ..Self::default() }
    }
}

fn generation(pod: &Pod) -> i64 {
    pod.metadata.generation.unwrap_or(0)
}

impl Worker {
    /// Takes what is asked where the node has it, then brings the containers to it.
    pub(super) fn resize(&mut self, now: Timestamp, wake: impl FnMut(Timestamp)) {
        let asked = resize::asked(&self.asked);
        self.resizing.pending = None;
        if asked != self.allocation && self.ctx.cpus.is_static() && resources::qos(&self.pod) == Qos::Guaranteed {
            let why = "Resize is infeasible for Guaranteed Pods alongside CPU Manager static policy";
            self.resizing.pending = Some(("Infeasible", why.to_owned()));
        } else if asked != self.allocation {
            let (wanted, capacity) = (resize::share(&self.asked), self.ctx.capacity());
            match self.ctx.shares.fit(&self.uid, &wanted, &capacity) {
                Fit::Yes => {
                    tracing::info!(pod = %pod::format(&self.pod), "a pod is resized");
                    let before = std::mem::replace(&mut self.allocation, asked);
                    if self.allocation.get(WHOLE) != before.get(WHOLE) {
                        let had = before.get(WHOLE).cloned().unwrap_or_default();
                        self.resizing.whole.get_or_insert(had);
                    }
                    self.resizing.retry_at = None;
                    self.resizing.group_as_made = false;
                    self.resizing.overtaken |= self.is_starting();
                    self.pod = self.asked.clone();
                    self.ctx.shares.promise(&self.uid, wanted);
                    let generation = generation(&self.pod);
                    self.resizing.told_start &= self.resizing.given == Some(generation);
                    self.resizing.given = Some(generation);
                    self.resizing.outrun = self.status.busy;
                }
                Fit::Deferred(why) => self.resizing.pending = Some(("Deferred", why)),
                Fit::Infeasible(why) => self.resizing.pending = Some(("Infeasible", why)),
            }
        }
        self.tell_pending();
        self.bring_resources(now, wake);
    }

    /// Tells how far a resize is when the API has it in the status (`told`): an agent that comes after this one then knows
    /// what was said, and says none of it twice.
    pub(super) fn tell_progress(&mut self, told: bool) {
        if std::mem::take(&mut self.resizing.outrun) || !told {
            return;
        }
        let Some(generation) = self.resizing.given else { return };
        if !std::mem::replace(&mut self.resizing.told_start, true) {
            self.tell_resize(EventKind::Normal, "ResizeStarted", "Pod resize started", generation, "");
        }
        if !self.is_resizing() && status::holds(&self.status.written, status::RESIZE_IN_PROGRESS).is_none() {
            self.tell_resize(EventKind::Normal, "ResizeCompleted", "Pod resize completed", generation, "");
            (self.resizing.given, self.resizing.told_start) = (None, false);
        }
    }

    /// Once for each reason and generation.
    fn tell_pending(&mut self) {
        let generation = generation(&self.asked);
        let pending = self.resizing.pending.as_ref().map(|(reason, _)| (*reason, generation));
        let before = std::mem::replace(&mut self.resizing.told_pending, pending);
        if let Some((reason, why)) = self.resizing.pending.as_ref().filter(|_| pending != before) {
            let event = if *reason == "Infeasible" { "ResizeInfeasible" } else { "ResizeDeferred" };
            let message = resize::message(&format!("Pod resize {reason}"), &self.asked, generation, why);
            self.ctx.event(&self.pod, EventKind::Warning, event, message);
        }
    }

    /// Of what the pod was given.
    fn tell_resize(&self, kind: EventKind, reason: &str, what: &str, generation: i64, error: &str) {
        self.ctx.event(&self.pod, kind, reason, resize::message(what, &self.pod, generation, error));
    }

    fn bring_resources(&mut self, now: Timestamp, mut wake: impl FnMut(Timestamp)) {
        if self.resizing.busy {
            return;
        }
        let (mut changes, mut kills) = (Vec::new(), Vec::new());
        let of_whole = self.allocation.get(WHOLE);
        for (name, wanted) in &self.allocation {
            let Some(run) = self.slots.get(name).filter(|s| !s.starting).and_then(|s| s.current.as_ref()) else {
                continue;
            };
            if !matches!(run.state, RunState::Running { .. }) || run.stopping {
                continue;
            }
            // Those without limits of their own have the pod's.
            if run.resources == *wanted && run.whole.as_ref() == of_whole {
                continue;
            }
            let Some((role, container)) = pod::find(&self.pod, name) else { continue };
            // What runs to its end is not begun anew.
            if role != Role::Init && resize::restarts(&container, &run.resources, wanted) {
                kills.push((name.clone(), role));
            } else {
                changes.push(Change { id: run.id.clone(), container, resources: wanted.clone() });
            }
        }
        for (name, role) in kills {
            let message = format!("Container {name} resize requires restart");
            if let Some(kill) = self.kill(&name, role, pod::grace_s(&self.pod), message, true) {
                self.end_probes(&kill.id);
                self.background(async move { kill.run().await });
            }
        }
        let overtaken = self.resizing.overtaken && !self.is_starting();
        if changes.is_empty() && !overtaken && !self.is_whole_resized() {
            self.resizing.error = None;
            return;
        }
        if let Some(at) = self.resizing.retry_at.filter(|at| *at > now) {
            wake(at);
            return;
        }
        let Making::Ready(frame) = &self.frame else { return };
        self.resizing.busy = true;
        self.resizing.overtaken &= !overtaken;
        let running = self.slots.values().filter_map(|slot| slot.current.as_ref());
        let running = running.filter(|run| matches!(run.state, RunState::Running { .. })).map(|run| run.id.clone());
        let (running, before): (Vec<ContainerId>, _) = (running.collect(), self.held_resources());
        let (ctx, pod, sandbox) = (self.ctx.clone(), self.pod.clone(), frame.sandbox.id.clone());
        let tell = self.tell.clone();
        let of_whole = self.allocation.get(WHOLE).cloned();
        self.background(async move {
            let result = carry_out(&ctx, &pod, &sandbox, &changes, &running, &before).await;
            let done = changes.into_iter().map(|change| (change.id, change.resources)).collect();
            drop(tell.send(Event::Resized { result: result.map(|()| (done, of_whole)), overtaken }).await);
        });
    }

    /// Whether the pod's group has not yet what the pod as a whole was given.
    fn is_whole_resized(&self) -> bool {
        self.resizing.whole.is_some() && self.resizing.whole.as_ref() != self.allocation.get(WHOLE)
    }

    fn is_starting(&self) -> bool {
        self.slots.values().any(|slot| slot.starting)
    }

    /// `overtaken`: it was also for what starts had put in place of what the group was given.
    pub(super) fn take_resized(&mut self, result: Result<Resized, String>, overtaken: bool) {
        self.resizing.busy = false;
        match result {
            Ok((done, whole)) => {
                self.resizing.whole = whole.clone().filter(|_| self.resizing.whole.is_some());
                (self.resizing.error, self.resizing.retry_at) = (None, None);
                for (id, resources) in done {
                    if let Some(run) = self.run_mut(&id) {
                        (run.resources, run.whole) = (resources, whole.clone());
                    }
                }
            }
            Err(why) => {
                tracing::warn!(pod = %pod::format(&self.pod), error = why, "a pod can't be resized, trying again");
                self.resizing.overtaken |= overtaken;
                if self.resizing.error.as_ref() != Some(&why) {
                    let generation = self.resizing.given.unwrap_or_else(|| generation(&self.pod));
                    self.tell_resize(EventKind::Warning, "ResizeError", "Pod resize error", generation, &why);
                }
                self.resizing.error = Some(why);
                self.resizing.retry_at = Some(time::now() + AGAIN);
            }
        }
    }

    /// Whether a container that runs has not yet what it was given.
    pub(super) fn is_resizing(&self) -> bool {
        let whole = self.is_whole_resized() && matches!(self.frame, Making::Ready(_));
        whole
            || self.allocation.iter().any(|(name, wanted)| {
                let run = self.slots.get(name).and_then(|slot| slot.current.as_ref());
                let run = run.filter(|run| matches!(run.state, RunState::Running { .. }));
                run.is_some_and(|run| run.resources != *wanted || run.whole.as_ref() != self.allocation.get(WHOLE))
            })
    }

    /// What the pod's group must have before another container is made in it, where that may not be what it has: of
    /// containers that run, what they have now; they come down by [`carry_out`] only.
    pub(super) fn group_resources(&self) -> Option<Resources> {
        (!self.resizing.group_as_made).then(|| self.held_resources())
    }

    /// The pod with the resources that it has now, containers that do not run with those that they are to have.
    pub(super) fn given(&self) -> Pod {
        let held = |(name, wanted): (&String, &ResourceRequirements)| {
            if let (WHOLE, Some(whole)) = (name.as_str(), &self.resizing.whole) {
                return (name.clone(), whole.clone());
            }
            let run = self.slots.get(name).and_then(|slot| slot.current.as_ref());
            let run = run.filter(|run| matches!(run.state, RunState::Running { .. }));
            (name.clone(), run.map_or(wanted, |run| &run.resources).clone())
        };
        let held: Allocation = self.allocation.iter().map(held).collect();
        resize::with(&self.pod, &held)
    }

    fn held_resources(&self) -> Resources {
        resources::pod(&self.given())
    }

    /// What a pod that comes new to the node is promised, or what the node lacks for that.
    pub(super) fn take_share(&self) -> Result<(), Vec<Lack>> {
        self.ctx.shares.take(&self.uid, resize::share(&self.pod), &self.ctx.capacity())
    }

    /// Gives back what the pod was promised.
    pub(super) fn release_share(&self) {
        self.ctx.shares.release(&self.uid);
        self.ctx.ports.release(&self.uid);
    }
}

pub(super) fn promise(ctx: &Context, uid: &PodUid, pod: &Pod) {
    if !pod::is_terminal(pod) {
        ctx.shares.promise(uid, resize::share(pod));
    }
}

/// A group below another one never has more than that: the pod's limits rise before those of its containers and fall
/// after them. `before` is what the pod's group has, `running` are all that use it.
async fn carry_out(
    ctx: &Context,
    pod: &Pod,
    sandbox: &SandboxId,
    changes: &[Change],
    running: &[ContainerId],
    before: &Resources,
) -> Result<(), String> {
    let text = |e: Error| chain(&e).to_string();
    let whole = resources::pod(pod);
    let mut sum = 0;
    for id in running {
        let change = changes.iter().find(|change| change.id == *id);
        let used = match ctx.engine.container_stats(id).await {
            Ok(stats) => i64::try_from(stats.memory_working_set_bytes).unwrap_or(i64::MAX),
            Err(e) if change.is_some() => return Err(text(e)),
            // It ends.
            Err(_) => 0,
        };
        sum = used.saturating_add(sum);
        let limit =
            change.and_then(|c| resources::container(pod, &c.container, ctx.memory_capacity).memory_limit_bytes);
        if let Some(limit) = limit.filter(|limit| used > *limit) {
            return Err(format!("attempting to set container memory limit ({limit}) below current usage ({used})"));
        }
    }
    let falls = |limit: &i64| before.memory_limit_bytes.is_none_or(|had| *limit < had);
    if let Some(limit) = whole.memory_limit_bytes.filter(falls).filter(|limit| sum >= *limit) {
        return Err(format!("attempting to set pod memory limit ({limit}) below current usage ({sum})"));
    }
    let open = Resources {
        cpu_quota_us: whole.cpu_quota_us.map(|_| -1),
        memory_limit_bytes: whole.memory_limit_bytes.map(|_| -1),
        ..Resources::default()
    };
    ctx.engine.update_sandbox(sandbox, &open).await.map_err(text)?;
    let mut changed = Ok(());
    for change in changes {
        let resources = resources::container(pod, &change.container, ctx.memory_capacity);
        changed = ctx.engine.update_container(&change.id, &resources).await.map_err(text);
        if changed.is_err() {
            break;
        }
    }
    // However that went, the pod does not stay without limits.
    let closed = ctx.engine.update_sandbox(sandbox, &whole).await.map_err(text);
    if closed.is_err() {
        // More may be in use by now; and some of its containers may have what they had.
        let higher = Resources {
            cpu_quota_us: higher(before.cpu_quota_us, whole.cpu_quota_us),
            memory_limit_bytes: higher(before.memory_limit_bytes, whole.memory_limit_bytes),
            ..whole
        };
        if let Err(e) = ctx.engine.update_sandbox(sandbox, &higher).await {
            tracing::error!(pod = %pod::format(pod), error = %chain(&e), "a pod is left without limits");
        }
    }
    changed.and(closed)
}

/// Of two limits; none is the highest.
fn higher(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.max(other)),
        (None, None) => None,
        _ => Some(-1),
    }
}
