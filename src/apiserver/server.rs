//! What all requests share.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Weak};

use arc_swap::ArcSwap;
use skiff_base::Scope;
use skiff_pki::ClusterPki;
use skiff_store::Store;

use crate::aggregation::Aggregation;
use crate::audit::{Audit, AuditOptions};
use crate::auth::Authorizer;
use crate::cache::{Cache, ResourceCache};
use crate::documents::Documents;
use crate::flow::Flow;
use crate::metrics::Metrics;
use crate::proxy::identity::Kubelets;
use crate::proxy::idle::Idle;
use crate::registry::Registry;
use crate::services::Allocator;

/// What a server is started with.
pub struct ApiServerOptions {
    pub bind: SocketAddr,
    /// Where clients reach this server; the endpoint of the service `kubernetes`.
    pub advertise_ip: Ipv4Addr,
    /// Network and prefix length that cluster addresses are taken from.
    pub service_cidr: (Ipv4Addr, u8),
    /// Kept for the cluster's DNS service: given only to a Service that asks for it.
    pub dns_ip: Ipv4Addr,
    pub node_port_range: RangeInclusive<u16>,
    pub pki: Arc<ClusterPki>,
    pub audit: Option<AuditOptions>,
}

impl ApiServerOptions {
    /// Kubernetes' and k3s's usual networks.
    pub fn new(bind: SocketAddr, advertise_ip: Ipv4Addr, pki: Arc<ClusterPki>) -> Self {
        Self {
            bind,
            advertise_ip,
            service_cidr: (Ipv4Addr::new(10, 43, 0, 0), 16),
            dns_ip: Ipv4Addr::new(10, 43, 0, 10),
            node_port_range: 30_000..=32_767,
            pki,
            audit: None,
        }
    }
}

pub(crate) struct Server {
    /// For tasks that outlive a request.
    pub me: Weak<Server>,
    pub options: ApiServerOptions,
    pub store: Store,
    pub cache: Arc<Cache>,
    pub authorizer: Authorizer,
    /// `None`: nothing is recorded.
    pub audit: Option<Audit>,
    pub registry: ArcSwap<Registry>,
    pub services: Arc<Allocator>,
    pub flow: Arc<Flow>,
    pub documents: Documents,
    pub aggregation: Aggregation,
    pub metrics: Metrics,
    pub kubelets: Kubelets,
    pub hooks: Idle,
    /// Definitions (by uid) whose objects are being removed.
    pub finalizing: Mutex<HashSet<String>>,
    pub ready: AtomicBool,
    pub scope: Scope,
    /// The port that was bound, for the service `kubernetes`.
    pub local: SocketAddr,
}

impl Server {
    /// The cache of a resource by its storage prefix (`pods`, `apps/deployments`).
    pub fn resource(&self, storage: &str) -> Arc<ResourceCache> {
        self.cache.resource(storage)
    }
}
