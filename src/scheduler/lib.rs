//! Puts pods on nodes.
//!
//! Bottom-up: `resources` adds up what pods ask for; `snapshot` is what a decision sees; `framework` has
//! the points at which `plugins` (upstream's, by upstream's names) take part; `cycle` decides: filter,
//! score, choose, all pure; `cache` counts the pods on nodes, those included that are just being bound;
//! `queue` holds the pods that wait, and wakes refused ones by what their refusals named; `bind` writes to
//! the API; `scheduler` ties them together.
//!
//! Invariants: a decision sees an unchanging snapshot; a pod's room on its node is taken in the same
//! step as the decision; nothing polls, every move is woken by a change or a timer.
//!
//! Must not know: the store, the API server.

mod bind;
mod cache;
mod cycle;
mod framework;
mod plugins;
mod queue;
mod resources;
mod scheduler;
mod snapshot;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use skiff_base::Scope;
use skiff_client::Informers;

use crate::scheduler::Scheduler;

/// Schedules, from when nodes and pods are known until the scope is stopped.
pub fn start(informers: &Informers, scope: &Scope) {
    let scheduler = Arc::new(Scheduler::new(informers.client().clone(), scope));
    let (nodes, pods) = (informers.lister::<Node>(), informers.lister::<Pod>());
    let seeing = scheduler.clone();
    nodes.subscribe(move |change| seeing.see_node(change));
    let seeing = scheduler.clone();
    pods.subscribe(move |change| seeing.see_pod(change));
    let token = scope.token().clone();
    scope.spawn(async move {
        let synced = async {
            nodes.synced().await;
            pods.synced().await;
        };
        tokio::select! {
            () = token.cancelled() => return,
            () = synced => {}
        }
        let filters: Vec<_> = plugins::FILTERS.iter().map(|plugin| plugin.name()).collect();
        let scores: Vec<_> = plugins::SCORES.iter().map(|plugin| plugin.name()).collect();
        let pre_enqueue: Vec<_> = plugins::PRE_ENQUEUE.iter().map(|plugin| plugin.name()).collect();
        tracing::debug!(?pre_enqueue, ?filters, ?scores, "scheduling");
        scheduler.run().await;
    });
}
