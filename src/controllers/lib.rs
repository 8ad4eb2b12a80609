//! Kubernetes' own control loops.
//!
//! Bottom-up: `pod`, `owner`, `expectations` and `pod_control` are what several need: facts of pods, claiming by
//! controller references, what was done and is not yet seen, making and deleting pods; `history` keeps the
//! revisions of templates, `node_fit` says which nodes pods are meant for. Then one module per controller, by its
//! upstream name; each has a `start(&Context)` that makes its caches, queue and workers, a reconciler,
//! and pure `plan_*` functions that decide.
//!
//! `replicas` (ReplicaSet and ReplicationController, one engine), `deployment`, `endpoints` (Endpoints, EndpointSlices
//! and the mirrors of one in the other), `namespace` and `garbage` (both ask `discovery` what there is), `node_ipam`,
//! `node_lifecycle`, `pod_gc`, `service_account`, `root_ca`, `cluster_role_aggregation`, `resource_quota`, `disruption`,
//! `job`, `daemon_set`, `stateful_set`, `cron_job`, `ttl_after_finished`, `tokens` (of secrets), `token_cleaner`,
//! `bootstrap_signer`, `certificates` (signing requests), `horizontal_pod_autoscaler`,
//! `persistent_volume` (the binder), `storage_protection`, `ephemeral_volume`, `attach_detach`.
//!
//! Invariants: a reconciler gets a key and reads the caches; it may run twice or late and does no harm;
//! whoever creates or deletes several objects keeps expectations, since the cache lags its own writes.
//!
//! Must not know: the store, the API server.

mod attach_detach;
mod bootstrap_signer;
mod certificates;
mod cluster_role_aggregation;
mod cron_job;
mod daemon_set;
mod deployment;
mod discovery;
mod disruption;
mod endpoints;
mod ephemeral_volume;
mod expectations;
mod garbage;
mod history;
mod horizontal_pod_autoscaler;
mod job;
mod namespace;
mod node_fit;
mod node_ipam;
mod node_lifecycle;
mod owner;
mod persistent_volume;
mod pod;
mod pod_control;
mod pod_gc;
mod replicas;
mod resource_quota;
mod root_ca;
mod service_account;
mod stateful_set;
mod storage_protection;
#[cfg(test)]
mod testing;
mod token_cleaner;
mod tokens;
mod ttl_after_finished;

use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;

use skiff_base::Scope;
use skiff_client::{Client, EventRecorder, Informers, Queue, Reconciler};
use skiff_pki::ClusterPki;

/// What the controllers need to know of the cluster.
#[derive(Clone)]
pub struct Options {
    /// The addresses of pods: network and prefix length.
    pub cluster_cidr: (Ipv4Addr, u8),
    /// The prefix length of one node's part of them.
    pub node_cidr_mask: u8,
    /// The certificate authority that clients in pods trust the API server by.
    pub ca_pem: String,
    /// Signs tokens and certificates.
    pub pki: Arc<ClusterPki>,
}

/// Gives the client of a controller, which acts as the service account of that name in `kube-system`: it has the
/// permissions of upstream's controller, and no more.
pub type Clients = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// What every controller is made from.
struct Context {
    /// All controllers read what all may read.
    informers: Informers,
    clients: Clients,
    options: Options,
    scope: Scope,
}

impl Context {
    /// `account` is upstream's service account of the controller.
    fn client(&self, account: &str) -> Client {
        (self.clients)(account)
    }

    /// `component` is upstream's name of the source of events.
    fn events(&self, account: &str, component: &'static str) -> EventRecorder {
        EventRecorder::new(self.client(account), &self.scope, component, "")
    }
}

/// Starts all controllers in the scope; each works as soon as its own caches are filled.
pub fn start(informers: &Informers, clients: Clients, options: Options, scope: &Scope) {
    let context = Context { informers: informers.clone(), clients, options, scope: scope.clone() };
    node_ipam::start(&context);
    replicas::start(&context);
    deployment::start(&context);
    endpoints::start(&context);
    service_account::start(&context);
    root_ca::start(&context);
    namespace::start(&context);
    garbage::start(&context);
    node_lifecycle::start(&context);
    pod_gc::start(&context);
    cluster_role_aggregation::start(&context);
    resource_quota::start(&context);
    disruption::start(&context);
    job::start(&context);
    daemon_set::start(&context);
    stateful_set::start(&context);
    cron_job::start(&context);
    ttl_after_finished::start(&context);
    tokens::start(&context);
    token_cleaner::start(&context);
    bootstrap_signer::start(&context);
    certificates::start(&context);
    horizontal_pod_autoscaler::start(&context);
    persistent_volume::start(&context);
    storage_protection::start(&context);
    ephemeral_volume::start(&context);
    attach_detach::start(&context);
}

/// Runs a reconciler once its caches are filled.
fn drive<R: Reconciler>(
    context: &Context,
    reconciler: Arc<R>,
    queue: Queue<R::Key>,
    workers: usize,
    synced: impl Future<Output = ()> + Send + 'static,
) {
    let scope = context.scope.clone();
    context.scope.spawn(async move {
        tokio::select! {
            () = scope.token().cancelled() => return,
            () = synced => {}
        }
        skiff_client::run(&scope, reconciler, queue, workers);
    });
}
