//! The end of a machine: containers end as their pods would have them end, and begin again after the next start.

use std::time::Duration;

use futures::future::join_all;
use skiff_base::chain;
use skiff_runtime::{ContainerState, Runtime};

use crate::pod::annotation;

/// Ends every container, each with its pod's grace period but none with more than `limit`. For when no agent runs any
/// more: one would start them again.
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
}
