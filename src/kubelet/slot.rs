//! What is known of one container of a pod: its newest run, the one before, and why it is not running.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use skiff_runtime::{ContainerId, ContainerState, ContainerUser, Exit};

use crate::backoff::RestartBackoff;
use crate::plan::{ContainerView, Life, Unhealthy};
use crate::pod::annotation;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RunState {
    Created,
    Running { since: Timestamp },
    Exited(Exit),
}

/// One attempt to run a container.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) id: ContainerId,
    pub(crate) attempt: u32,
    /// As the manifest names it.
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) hash: String,
    /// What it has now.
    pub(crate) resources: ResourceRequirements,
    /// What the pod as a whole had when it was given that.
    pub(crate) whole: Option<ResourceRequirements>,
    /// As whom it was started.
    pub(crate) user: Option<ContainerUser>,
    pub(crate) state: RunState,
    pub(crate) started: bool,
    pub(crate) ready: bool,
    pub(crate) unhealthy: Option<Unhealthy>,
    pub(crate) stopping: bool,
}

/// Why the last try to start failed; it is shown as the waiting reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StartFailure {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) not_before: Timestamp,
    /// When it failed.
    pub(crate) at: Timestamp,
}

/// Reasons of starts that failed after the container was made: it has an exit to show.
pub(crate) const RUN_ERROR: &str = "RunContainerError";
pub(crate) const HOOK_ERROR: &str = "PostStartHookError";

impl StartFailure {
    pub(crate) fn has_begun(&self) -> bool {
        matches!(self.reason, RUN_ERROR | HOOK_ERROR)
    }

    /// Whether it is shown for a while only, and then that the next try is waited for.
    pub(crate) fn is_passing(&self) -> bool {
        self.has_begun() || self.reason == "ErrImagePull"
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Slot {
    pub(crate) current: Option<Run>,
    pub(crate) previous: Option<Run>,
    pub(crate) next_attempt: u32,
    /// A task is at work that ends in a running container or a failure.
    pub(crate) starting: bool,
    pub(crate) failure: Option<StartFailure>,
    pub(crate) backoff: RestartBackoff,
    /// The wait that goes on now, shown as `CrashLoopBackOff`.
    pub(crate) crash_loop: Option<SignedDuration>,
    pub(crate) pull_backoff: RestartBackoff,
}

impl Slot {
    pub(crate) fn view(&self, container: &Container) -> ContainerView {
        let life = match &self.current {
            _ if self.starting => Life::Starting,
            None => Life::Absent,
            Some(run) => match &run.state {
                RunState::Exited(exit) => Life::Exited { code: exit.code, finished: exit.finished },
                _ if run.stopping => Life::Stopping,
                RunState::Created => Life::Starting,
                RunState::Running { .. } => Life::Running {
                    started: run.started,
                    unhealthy: run.unhealthy,
                    outdated: run.hash != hash(container),
                },
            },
        };
        let backoff = match &life {
            Life::Exited { finished, .. } => self.backoff.wait(*finished),
            _ => SignedDuration::ZERO,
        };
        ContainerView { life, backoff, not_before: self.failure.as_ref().map(|f| f.not_before) }
    }

    pub(crate) fn run_mut(&mut self, id: &ContainerId) -> Option<&mut Run> {
        self.current.as_mut().filter(|run| run.id == *id)
    }

    /// Whether a process of this container may be alive.
    pub(crate) fn is_alive(&self) -> bool {
        self.current.as_ref().is_some_and(|r| !matches!(r.state, RunState::Exited(_)))
    }

    /// Takes in a run that an earlier agent made; returns the run that is thereby forgotten: that is itself where it
    /// never began, so that another takes its place whatever the restart policy says, as upstream.
    pub(crate) fn adopt(&mut self, found: &skiff_runtime::Container) -> Option<Run> {
        let text = |key: &str| found.annotations.get(key).cloned().unwrap_or_default();
        let state = match &found.state {
            ContainerState::Running { started } => RunState::Running { since: *started },
            ContainerState::Exited(exit) => RunState::Exited(exit.clone()),
            // Of one that had begun the runtime says that it ended, also where nobody saw how.
            ContainerState::Created | ContainerState::Unknown => RunState::Created,
        };
        let run = Run {
            id: found.id.clone(),
            attempt: found.attempt,
            image: text(annotation::IMAGE),
            image_id: text(annotation::IMAGE_ID),
            hash: text(annotation::HASH),
            resources: ResourceRequirements::default(),
            whole: None,
            user: found.user.clone(),
            state,
            started: false,
            ready: false,
            unhealthy: None,
            stopping: false,
        };
        self.next_attempt = self.next_attempt.max(run.attempt + 1);
        if run.state == RunState::Created {
            return Some(run);
        }
        self.push(run)
    }

    /// Makes `run` the newest one, unless it is older; returns the run that is thereby forgotten.
    pub(crate) fn push(&mut self, run: Run) -> Option<Run> {
        match &self.current {
            Some(current) if current.attempt > run.attempt => match &self.previous {
                Some(previous) if previous.attempt > run.attempt => Some(run),
                _ => self.previous.replace(run),
            },
            _ => {
                let old = self.current.replace(run);
                match old {
                    Some(old) => self.previous.replace(old),
                    None => None,
                }
            }
        }
    }
}

/// Changes when a running container has to be replaced: upstream looks at the name and the image.
pub(crate) fn hash(container: &Container) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in container.name.bytes().chain([0]).chain(container.image.as_deref().unwrap_or_default().bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("{hash:x}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn run(attempt: u32, state: RunState) -> Run {
        Run {
            id: ContainerId(format!("id-{attempt}")),
            attempt,
            image: "i".into(),
            image_id: "sha256:1".into(),
            hash: String::new(),
            resources: ResourceRequirements::default(),
            whole: None,
            user: None,
            state,
            started: true,
            ready: true,
            unhealthy: None,
            stopping: false,
        }
    }

    #[test]
    fn keeps_the_newest_two_runs() {
        let mut slot = Slot::default();
        let mut forgotten = Vec::new();
        for attempt in [1, 0, 3, 2] {
            forgotten.extend(slot.push(run(attempt, RunState::Created)).map(|r| r.attempt));
        }
        assert_eq!(slot.current.map(|r| r.attempt), Some(3));
        assert_eq!(slot.previous.map(|r| r.attempt), Some(2));
        assert_eq!(forgotten, [0, 1]);
    }
}
