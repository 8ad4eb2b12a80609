//! The Kubernetes API over HTTPS and for callers in the same process: one request path for all.
//!
//! Bottom-up:
//!
//! - [`error`]: failures as `Status`; the only place where the store's errors meet HTTP.
//! - [`call`], [`reply`], [`negotiate`]: a request, an answer, and the form that the client reads.
//! - [`meta`], [`convert`], [`storage`]: metadata of the dynamic form, versions, keys and compare-and-swap.
//! - [`cache`]: all objects in memory, fed by one watch on the store; lists and watches live from it.
//! - [`registry`]: what is served; [`crd`]: what CustomResourceDefinitions add to it. [`encode`]: objects to bytes, spliced; tables and metadata lists.
//! - [`request`]: what is asked for, in upstream's words. [`audit`]: the record of it; [`metrics`]: its figures.
//! - [`auth`]: who asks and what they may. [`flow`]: how much of it at a time. [`admission`], [`services`]: what is filled in and refused.
//! - [`path`]: get, list, watch, create, update, patch, delete; scale; binding, eviction (under disruption budgets), finalize, token.
//! - [`discovery`], [`openapi`] (with [`documents`]), [`health`], [`reviews`], [`logs`], [`usage`] (`metrics.k8s.io`): what is no stored object.
//! - [`address`]: where Services of the cluster are reached. [`hook`]: the server as a client of webhooks.
//! - [`proxy`]: what is passed on to kubelets, pods, services and nodes.
//! - [`aggregation`]: what other API servers serve behind this one.
//! - [`router`]: from a path to the above. [`http`]: the wire. [`transport`]: the way in without a wire.
//! - [`bootstrap`] (with [`defaults`]), [`expiry`]: what the server does by itself.
//!
//! ```text
//! HTTPS -> http::serve --.
//!                         >- router -> authorize -> path::* -> admission, strategy -> store (fsync) -.
//! in-process transport --'                            '--- cache <--------- watch on the store <-----'
//! ```
//!
//! Invariants: an object's bytes are written once and spliced ever after. No lock is held across an
//! await. What is read without a `resourceVersion` shows every write acknowledged before. Who watches
//! holds a place, not a queue: who is slow is never waited for and costs no memory. In-process callers are authorized
//! like all others.
//!
//! Must not know: controllers, the scheduler, nodes' insides.

mod address;
mod admission;
mod aggregation;
mod audit;
mod auth;
mod bootstrap;
mod cache;
mod call;
mod convert;
mod crd;
mod defaults;
mod discovery;
mod documents;
mod encode;
mod error;
mod expiry;
mod flow;
mod health;
mod hook;
mod http;
mod logs;
mod meta;
mod metrics;
mod negotiate;
mod openapi;
mod path;
mod proxy;
mod registry;
mod reply;
mod request;
mod reviews;
mod router;
mod server;
mod services;
mod storage;
#[cfg(test)]
mod tests;
mod transport;
mod usage;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use skiff_base::{Scope, chain};
use skiff_client::Transport;
use skiff_store::Store;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tracing::{error, info};

pub use audit::{AuditError, AuditOptions, Rotation};
use auth::{Authorizer, User};
use cache::Cache;
pub use error::Error;
pub use health::KUBERNETES as KUBERNETES_VERSION;
use registry::Registry;
pub use server::ApiServerOptions;
use server::Server;
use services::Allocator;

/// How often the serving certificate's end is looked at.
const RENEWAL_EVERY: Duration = Duration::from_secs(3600);

/// A cheap handle on a running server.
#[derive(Clone)]
pub struct ApiServer {
    server: Arc<Server>,
}

impl ApiServer {
    /// Reads the store, listens, makes what a cluster begins with. Ends when the scope is told to.
    pub async fn start(options: ApiServerOptions, store: Store, scope: &Scope) -> Result<Self, Error> {
        let (cache, watch) = Cache::load(store.clone()).await?;
        let registry = crd::registry(&Registry::new(skiff_api::kinds::builtin(), &cache), &cache);
        let address = options.bind;
        let listener = TcpListener::bind(address).await.map_err(|source| match source.kind() {
            std::io::ErrorKind::AddrInUse => Error::Taken { address },
            _ => Error::Listen { address, source },
        })?;
        let local = listener.local_addr().map_err(|source| Error::Listen { address, source })?;
        let serving = http::tls::Serving::new(&options.pki.server())?;
        let tls = TlsAcceptor::from(Arc::new(http::tls::server_config(&options.pki, serving.clone())?));
        let reserved = vec![bootstrap::first_address(options.service_cidr), options.dns_ip];
        let services = Arc::new(Allocator::new(options.service_cidr, reserved, options.node_port_range.clone()));
        let existing: Vec<_> = cache.resource("services").all().iter().map(|s| s.value()).collect();
        services.load(existing.iter());
        let audit = options.audit.as_ref().map(audit::Audit::open).transpose()?;
        let aggregation = aggregation::Aggregation::new(&options.pki)?;
        let server = Arc::new_cyclic(|me| Server {
            me: me.clone(),
            aggregation,
            metrics: metrics::Metrics::new(),
            options,
            store,
            audit,
            authorizer: Authorizer::new(&|resource| cache.resource(resource)),
            cache: cache.clone(),
            registry: ArcSwap::from_pointee(registry),
            services,
            flow: Arc::default(),
            documents: documents::Documents::default(),
            kubelets: proxy::identity::Kubelets::default(),
            hooks: proxy::idle::Idle::default(),
            finalizing: Mutex::default(),
            ready: AtomicBool::new(false),
            scope: scope.clone(),
            local,
        });
        scope.spawn(cache::feed::follow(cache, watch, scope.token().clone()));
        scope.spawn(http::accept_all(server.clone(), listener, tls));
        scope.spawn(renew(server.clone(), serving));
        server.ensure_system_objects().await?;
        server.reconcile_roles().await?;
        scope.spawn(bootstrap::keep_system_objects(server.clone(), bootstrap::REPAIR_INTERVAL));
        scope.spawn(expiry::expire_events(server.clone()));
        scope.spawn(flow::follow(server.clone()));
        scope.spawn(crd::follow(server.clone()));
        scope.spawn(aggregation::follow::follow(server.clone()));
        server.ready.store(true, Ordering::Release);
        info!(address = %local, "the API is served");
        Ok(Self { server })
    }

    /// A transport for callers in this process, with this identity.
    pub fn transport(&self, user: &str, groups: &[&str]) -> Arc<dyn Transport> {
        let mut user = User::new(user, groups);
        if !user.is_in("system:authenticated") {
            user.groups.push("system:authenticated".to_owned());
        }
        Arc::new(transport::InProcess { server: Arc::downgrade(&self.server), user: Arc::new(user) })
    }

    /// The same, as a service account.
    pub fn as_account(&self, namespace: &str, name: &str) -> Arc<dyn Transport> {
        let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")];
        self.transport(&format!("system:serviceaccount:{namespace}:{name}"), &groups)
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.server.local
    }

    /// The address of the service `kubernetes`.
    pub fn service_ip(&self) -> Ipv4Addr {
        bootstrap::first_address(self.server.options.service_cidr)
    }
}

/// Keys that the store must keep in memory alone: the nodes' heartbeats.
pub fn volatile_keys() -> Vec<Bytes> {
    vec![Bytes::from_static(b"coordination.k8s.io/leases/kube-node-lease/")]
}

async fn renew(server: Arc<Server>, serving: Arc<http::tls::Serving>) {
    let stop = server.scope.token().clone();
    loop {
        tokio::select! {
            () = tokio::time::sleep(RENEWAL_EVERY) => {}
            () = stop.cancelled() => return,
        }
        let pki = server.options.pki.clone();
        // Reads and writes files.
        if let Err(failure) = server.aggregation.renew(&pki) {
            error!(error = %chain(&failure), "renew the front proxy's certificate");
        }
        let renewed = tokio::task::spawn_blocking(move || pki.renew_server()).await;
        let replaced = match renewed {
            Ok(Ok(true)) => serving.replace(&server.options.pki.server()),
            Ok(Ok(false)) => Ok(()),
            Ok(Err(failure)) => Err(Error::Pki(failure)),
            // The runtime is shutting down.
            Err(_) => return,
        };
        if let Err(failure) = replaced {
            error!(error = %chain(&failure), "renew the serving certificate");
        }
    }
}
