//! Moves containers to the CPUs that are left to them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use skiff_base::chain;
use skiff_runtime::{ContainerState, Resources};

use crate::context::Context;
use crate::pod::{PodUid, label};

/// Moves containers that share, whenever what they share has changed, until the agent stops.
pub(crate) async fn keep(ctx: Arc<Context>) {
    let Some(machine) = &ctx.cpus.machine else { return };
    let stop = ctx.scope.token().clone();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = ctx.cpus.changed.notified() => {}
        }
        if ctx.cpus.unwritten.load(Ordering::Relaxed)
            && let Err(error) = ctx.cpus.write().await
        {
            tracing::warn!(%error, "who has which CPUs is not written");
        }
        let containers = match ctx.engine.containers().await {
            Ok(containers) => containers,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "containers stay on the CPUs that they have");
                continue;
            }
        };
        let shared = Resources { cpus: Some(ctx.cpus.shared(machine).to_string()), ..Resources::default() };
        for container in containers.iter().filter(|one| !matches!(one.state, ContainerState::Exited(_))) {
            let Some(uid) = container.labels.get(label::POD_UID) else { continue };
            let own = ctx.cpus.lock().get(&PodUid(uid.clone())).is_some_and(|of| of.contains_key(&container.name));
            if own {
                continue;
            }
            if let Err(error) = ctx.engine.update_container(&container.id, &shared).await {
                tracing::warn!(container = container.id.0, error = %chain(&error), "a container stays on its CPUs");
            }
        }
    }
}
