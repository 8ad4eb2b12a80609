//! The node agent: makes the pods that are bound to this node run, and says how they are.
//!
//! Must not know: the store, the API server.

/* Contract.
pub struct Options { pub node_name: String, pub node_ip: Ipv4Addr, pub root_directory: PathBuf /* /var/lib/kubelet */, pub log_directory: PathBuf /* /var/log/pods */, pub containers_log_directory: PathBuf /* /var/log/containers */,
    pub cluster_dns: Ipv4Addr, pub cluster_domain: String, pub resolv_conf: PathBuf, pub labels: BTreeMap<String,String>, pub taints: Vec<Taint>, pub listen: SocketAddr /* 10250 */, pub serving: KeyPairPem, pub client_ca_pem: String,
    pub cluster_cidr, pub service_cidr, pub data_directory /* /var/lib/skiff/agent */ , ... }
/// Registers the node, waits for its podCIDR, opens the network, runs pods until the scope is stopped. Pods keep running then.
pub async fn start(options: Options, informers: &skiff_client::Informers, runtime: skiff_runtime::Runtime, scope: &Scope) -> Result<Kubelet, Error>;
impl Kubelet { pub fn network(&self) -> skiff_network::Network  // for proxy and dns
}
*/
