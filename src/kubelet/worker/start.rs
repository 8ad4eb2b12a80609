//! Brings one container up, as a task that tells the worker of each step.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use skiff_base::{CancellationToken, chain, time};
use skiff_client::EventKind;
use skiff_runtime::{ContainerId, Exit, Resources, SandboxId};
use tokio::sync::mpsc;

use super::{Event, stop};
use crate::container::{self, Inputs};
use crate::context::Context;
use crate::fields::Facts;
use crate::hook;
use crate::image::{self, StartError};
use crate::pod::{self, Role};
use crate::slot::{self, Run, RunState};
use crate::volume::{PodObjects, Volumes};

pub(super) struct Start {
    pub(super) ctx: Arc<Context>,
    pub(super) pod: Arc<Pod>,
    pub(super) role: Role,
    pub(super) container: Container,
    pub(super) attempt: u32,
    pub(super) sandbox: SandboxId,
    /// What the pod's group is to have first.
    pub(super) group: Option<Resources>,
    pub(super) pod_ips: Vec<IpAddr>,
    pub(super) objects: Arc<PodObjects>,
    pub(super) volumes: Arc<Volumes>,
    /// The container whose processes it joins, or why there is none.
    pub(super) target: Option<Result<ContainerId, String>>,
    pub(super) tell: mpsc::Sender<Event>,
    pub(super) cancelled: CancellationToken,
}

impl Start {
    pub(super) async fn run(self) {
        let name = self.container.name.clone();
        let (running, result) = match self.steps().await {
            Ok(running) => (running, Ok(())),
            Err(error) => (None, Err(error)),
        };
        if let Err(error) = &result {
            tracing::info!(pod = %pod::format(&self.pod), container = name, reason = error.reason, error = error.message, "a container is not started");
        }
        self.send(Event::StartDone { name, running, result }).await;
    }

    /// The worker is gone only when nothing is to be told any more.
    async fn send(&self, event: Event) {
        drop(self.tell.send(event).await);
    }

    fn event(&self, kind: EventKind, reason: &str, message: impl Into<String>) {
        self.ctx.container_event(&self.pod, self.role, &self.container.name, kind, reason, message);
    }

    fn failed(&self, error: StartError) -> StartError {
        self.event(EventKind::Warning, "Failed", format!("Error: {}", error.message));
        error
    }

    /// Gives the container where it is yet to be told that it runs.
    async fn steps(&self) -> Result<Option<(ContainerId, Timestamp)>, StartError> {
        tokio::select! {
            () = self.cancelled.cancelled() => return Ok(None),
            () = self.objects.known() => {}
        }
        let secrets = self.objects.pull_secrets(&self.pod);
        let image = tokio::select! {
            () = self.cancelled.cancelled() => return Ok(None),
            image = image::ensure(&self.ctx, &self.pod, self.role, &self.container, &secrets) => image?,
        };
        let facts = Facts {
            host_ip: self.ctx.options.node_ip.into(),
            pod_ips: self.pod_ips.clone(),
            allocatable: self.ctx.allocatable.clone(),
        };
        let target = self.target.clone().transpose();
        let target = target.map_err(|why| self.failed(StartError::new("CreateContainerConfigError", why)))?;
        let config = container::configure(Inputs {
            ctx: &self.ctx,
            pod: &self.pod,
            container: &self.container,
            image: &image,
            attempt: self.attempt,
            facts: &facts,
            objects: &*self.objects,
            volumes: &self.volumes,
            target,
        })
        .await
        .map_err(|e| self.failed(e))?;
        if self.cancelled.is_cancelled() {
            return Ok(None);
        }
        if let Some(group) = &self.group
            && let Err(error) = self.ctx.engine.update_sandbox(&self.sandbox, group).await
        {
            let error = chain(&error).to_string();
            tracing::warn!(pod = %pod::format(&self.pod), error, "a pod's group keeps the limits that it had");
        }
        let reference = self.container.image.clone().unwrap_or_default();
        let created = self.ctx.engine.create_container(&self.sandbox, config).await;
        let id = created.map_err(|e| self.failed(StartError::new("CreateContainerError", chain(&e).to_string())))?;
        // The runtime has just looked it up; a container that is gone again has none.
        let user = self.ctx.engine.container(&id).await.ok().and_then(|container| container.user);
        let run = Box::new(Run {
            id: id.clone(),
            user,
            attempt: self.attempt,
            image_id: image::image_id(&image, &reference),
            image: reference,
            hash: slot::hash(&self.container),
            resources: self.container.resources.clone().unwrap_or_default(),
            whole: pod::spec(&self.pod).resources.clone(),
            state: RunState::Created,
            started: false,
            ready: false,
            unhealthy: None,
            stopping: false,
        });
        self.send(Event::Created { name: self.container.name.clone(), run }).await;
        self.ctx.route(&id, &pod::uid(&self.pod));
        self.ctx.cpus.look_again();
        self.event(EventKind::Normal, "Created", "Container created");
        self.launch(&id).await
    }

    async fn launch(&self, id: &ContainerId) -> Result<Option<(ContainerId, Timestamp)>, StartError> {
        if self.cancelled.is_cancelled() {
            // It exists but never ran; the sandbox takes it along.
            self.send(Event::Exited { id: id.clone(), exit: never_ran("Killed", "") }).await;
            return Ok(None);
        }
        let started = self.ctx.engine.start_container(id).await;
        self.ctx.counters.started_container(started.is_ok());
        if let Err(e) = started {
            let message = chain(&e).to_string();
            self.event(EventKind::Warning, "Failed", format!("Error: {message}"));
            self.send(Event::Exited { id: id.clone(), exit: never_ran("StartError", &message) }).await;
            return Err(StartError::new(slot::RUN_ERROR, message));
        }
        let since = time::now();
        self.event(EventKind::Normal, "Started", "Container started");
        let hook = self.container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
        let Some(handler) = hook else { return Ok(Some((id.clone(), since))) };
        self.send(Event::Running { id: id.clone(), since }).await;
        let ip = self.pod_ips.first().map(ToString::to_string).unwrap_or_default();
        let ended = tokio::select! {
            () = self.cancelled.cancelled() => return Ok(None),
            ended = hook::run(&self.ctx, &self.pod, &self.container, id, &ip, handler) => ended,
        };
        if let Err(why) = ended {
            self.event(EventKind::Warning, "FailedPostStartHook", "PostStartHook failed");
            let kill = stop::Kill {
                ctx: self.ctx.clone(),
                pod: self.pod.clone(),
                role: self.role,
                container: self.container.clone(),
                id: id.clone(),
                pod_ip: ip,
                grace_s: pod::grace_s(&self.pod),
                message: "FailedPostStartHook".to_owned(),
                hook: true,
                tell: self.tell.clone(),
            };
            kill.run().await;
            return Err(StartError::new(slot::HOOK_ERROR, why));
        }
        Ok(None)
    }
}

fn never_ran(reason: &str, message: &str) -> Exit {
    Exit {
        started: None,
        finished: time::now(),
        code: 128,
        signal: None,
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}
