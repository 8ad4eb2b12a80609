use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// An IPv4 network such as `10.42.0.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    pub address: Ipv4Addr,
    pub prefix_len: u8,
}

#[derive(Debug, Clone)]
pub struct NetworkOptions {
    /// Of this node.
    pub pod_cidr: Cidr,
    /// Of all nodes.
    pub cluster_cidr: Cidr,
    pub service_cidr: Cidr,
    pub node_ip: Ipv4Addr,
    /// Bound on `skiff0` for the DNS server.
    pub dns_ip: Ipv4Addr,
    /// Where address leases are kept: `/var/lib/skiff/agent/network`.
    pub data_directory: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub protocol: Protocol,
    /// Unspecified: every address of the node.
    pub host_ip: Ipv4Addr,
    pub host_port: u16,
    pub container_port: u16,
}

/// What every service of the cluster asks of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceRules {
    pub services: BTreeMap<ServicePortKey, ServicePort>,
}

/// `namespace/name:port-name`, for messages and order only.
pub type ServicePortKey = String;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    pub protocol: Protocol,
    /// Cluster IPs, and external IPs / load balancer IPs.
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    pub port: u16,
    pub node_port: Option<u16>,
    /// Every ready endpoint (or the terminating, serving ones where none is ready).
    pub endpoints: Vec<Endpoint>,
    pub internal_local: bool,
    pub external_local: bool,
    /// Seconds of ClientIP affinity.
    pub affinity_s: Option<u32>,
    /// Empty: everyone. Applies to load balancer IPs.
    pub source_ranges: Vec<Cidr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub ip: Ipv4Addr,
    pub port: u16,
    /// On this node.
    pub local: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation}")]
    Io {
        operation: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{operation}")]
    Netlink {
        operation: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("no address is left in {0}")]
    NoAddress(String),
    #[error("{0}")]
    Invalid(String),
}
