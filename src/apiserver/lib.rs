//! The Kubernetes API over HTTPS and for callers in the same process: one request path for all.
//!
//! Must not know: controllers, the scheduler, nodes' insides.

/* Contract.

pub struct ApiServerOptions { pub bind: SocketAddr, pub advertise_ip: Ipv4Addr, pub service_cidr: (Ipv4Addr, u8), pub node_port_range: RangeInclusive<u16>, pub pki: Arc<ClusterPki>, ... }
impl ApiServer {                                                           // cheap clonable handle
    pub async fn start(options: ApiServerOptions, store: Store, scope: &Scope) -> Result<ApiServer, Error>;
    /// A transport for callers in this process, with this identity (`system:kube-controller-manager`, groups ...).
    pub fn transport(&self, user: &str, groups: &[&str]) -> Arc<dyn skiff_client::Transport>;
    pub fn local_addr(&self) -> SocketAddr;
}
*/
