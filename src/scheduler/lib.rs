//! Puts pods on nodes.
//!
//! Bottom-up: `resources` adds up what pods ask for, `terms` reads what they say about other pods;
//! `snapshot` is what a decision sees; `framework` has the points at which `plugins` (upstream's, by
//! upstream's names) take part; `checks` asks all filters, also for what would be if pods came and went;
//! `cycle` decides: filter, score, choose; `preemption` decides who goes where no node is left; all pure.
//! `cache` counts the pods on nodes, those included that are just being bound; `nominations` keeps the
//! nodes that were promised to pods, `volumes` reads the pod's claims and has volumes bound, `queue` the pods that wait, and wakes refused ones by what their
//! refusals named; `equals` knows which pods do the same; `bind` writes to the API; `scheduler` ties them
//! together, `see` takes what the informers tell.
//!
//! Invariants: a decision sees an unchanging snapshot; a pod's room on its node is taken in the same
//! step as the decision; nothing polls, every move is woken by a change or a timer.
//!
//! Must not know: the store, the API server.

mod bind;
mod cache;
mod checks;
mod cycle;
mod equals;
mod framework;
mod nominations;
mod plugins;
mod preemption;
mod queue;
mod resources;
mod scheduler;
mod see;
mod snapshot;
mod terms;
#[cfg(test)]
mod testing;
mod volumes;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use skiff_base::Scope;
use skiff_client::Informers;

use crate::scheduler::Scheduler;

/// Schedules, from when nodes and pods are known until the scope is stopped.
pub fn start(informers: &Informers, scope: &Scope) {
    let scheduler = Arc::new(Scheduler::new(informers, scope));
    let (namespaces, nodes, pods) =
        (informers.lister::<Namespace>(), informers.lister::<Node>(), informers.lister::<Pod>());
    let seeing = scheduler.clone();
    namespaces.subscribe(move |change| seeing.see_namespace(change));
    let seeing = scheduler.clone();
    nodes.subscribe(move |change| seeing.see_node(change));
    let seeing = scheduler.clone();
    pods.subscribe(move |change| seeing.see_pod(change));
    let seeing = scheduler.clone();
    scheduler.storage().subscribe(move |happened| {
        let mut state = seeing.lock();
        seeing.wake(&mut state, happened);
    });
    let token = scope.token().clone();
    scope.spawn(async move {
        let synced = async {
            namespaces.synced().await;
            nodes.synced().await;
            pods.synced().await;
            scheduler.synced().await;
        };
        tokio::select! {
            () = token.cancelled() => return,
            () = synced => {}
        }
        let pre_filters: Vec<_> = plugins::PRE_FILTERS.iter().map(|plugin| plugin.name()).collect();
        let filters: Vec<_> = (plugins::FILTERS.iter().map(|plugin| plugin.name()))
            .chain(plugins::CLUSTER_FILTERS.iter().map(|plugin| plugin.name()))
            .collect();
        let scores: Vec<_> = plugins::SCORES.iter().map(|plugin| plugin.name()).collect();
        let pre_enqueue: Vec<_> = plugins::PRE_ENQUEUE.iter().map(|plugin| plugin.name()).collect();
        tracing::debug!(?pre_enqueue, ?pre_filters, ?filters, ?scores, "scheduling");
        scheduler.run().await;
    });
}
