use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, Taint};
use serde_json::{Value, json};
use skiff_network::Cidr;
use skiff_pki::KeyPairPem;

use crate::pod::{self, PodUid};
use crate::settings::Settings;

/// Everything that differs between nodes; many agents can run on one machine.
#[derive(Debug, Clone)]
pub struct Options {
    pub node_name: String,
    pub node_ip: Ipv4Addr,
    /// `/var/lib/kubelet`: volumes and files of pods.
    pub root_directory: PathBuf,
    /// `/var/log/pods`.
    pub log_directory: PathBuf,
    /// `/var/log/containers`: links to the logs, for log collectors.
    pub containers_log_directory: PathBuf,
    /// `/var/lib/skiff/agent`: address leases.
    pub data_directory: PathBuf,
    pub cluster_dns: Ipv4Addr,
    pub cluster_domain: String,
    /// The host's resolvers.
    pub resolv_conf: PathBuf,
    pub labels: BTreeMap<String, String>,
    /// Given at the first registration only.
    pub taints: Vec<Taint>,
    pub settings: Settings,
    /// Sysctls that pods may set besides the safe ones; a prefix ends in `*`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// `0.0.0.0:10250`.
    pub listen: SocketAddr,
    pub serving: KeyPairPem,
    /// Who may ask this agent, besides its own API server.
    pub client_ca_pem: String,
    pub cluster_cidr: Cidr,
    pub service_cidr: Cidr,
}

impl Options {
    /// As `/configz` tells it.
    pub(crate) fn configz(&self) -> Value {
        let mut config = self.settings.show();
        let own = [
            ("kind", json!("KubeletConfiguration")),
            ("apiVersion", json!("kubelet.config.k8s.io/v1beta1")),
            ("address", json!(self.listen.ip().to_string())),
            ("port", json!(self.listen.port())),
            ("authentication", json!({"anonymous": {"enabled": false}, "webhook": {"enabled": true}})),
            ("authorization", json!({"mode": "Webhook"})),
            ("clusterDNS", json!([self.cluster_dns])),
            ("clusterDomain", json!(self.cluster_domain)),
            ("resolvConf", json!(self.resolv_conf)),
            ("allowedUnsafeSysctls", json!(self.allowed_unsafe_sysctls)),
            ("imagePullCredentialsVerificationPolicy", json!("NeverVerifyPreloadedImages")),
        ];
        config.extend(own.map(|(name, value)| (name.to_owned(), value)));
        json!({"kubeletconfig": config})
    }

    pub(crate) fn pods_directory(&self) -> PathBuf {
        self.root_directory.join("pods")
    }

    pub(crate) fn pod_directory(&self, uid: &PodUid) -> PathBuf {
        self.pods_directory().join(&uid.0)
    }

    /// Of one pod.
    pub(crate) fn pod_log_directory(&self, pod: &Pod) -> PathBuf {
        let (namespace, name) = (pod::namespace(pod), pod::name(pod));
        self.log_directory.join(format!("{namespace}_{name}_{}", pod::uid(pod)))
    }
}

/// The file whose text a container leaves when it ends.
pub(crate) fn message_file(pod_directory: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_directory.join("containers").join(container).join(attempt.to_string())
}

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("prepare the directory {path}")]
    Directory {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("use the kubelet's certificates: {0}")]
    Certificate(String),
    #[error(
        "another program listens on {address}, mostly another kubelet of this machine: end it (`ss -ltnp` names it), or \
         run this server without a node (--disable-agent)"
    )]
    Taken { address: SocketAddr },
    #[error("listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the pod CIDR {0:?} of the node is no IPv4 network")]
    PodCidr(String),
    #[error("open the network")]
    Network(#[source] skiff_network::Error),
    #[error("list what runs on the node")]
    Runtime(#[source] skiff_runtime::Error),
    #[error("ids for user namespaces: {0}")]
    UserNamespaces(String),
    #[error("{0}")]
    Reserved(String),
    #[error("hold all pods to what is not reserved")]
    Limits(#[source] skiff_runtime::Error),
    #[error("stopped before the node was registered")]
    Stopped,
}
