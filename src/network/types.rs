use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 network such as `10.42.0.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    pub address: Ipv4Addr,
    pub prefix_len: u8,
}

impl Cidr {
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        u32::from(ip) & self.mask() == u32::from(self.address) & self.mask()
    }

    /// The address `index` places after the first one, if it is in the network.
    pub fn nth(&self, index: u32) -> Option<Ipv4Addr> {
        let ip = (u32::from(self.address) & self.mask()).checked_add(index).map(Ipv4Addr::from)?;
        self.contains(ip).then_some(ip)
    }

    /// Where an address of the network stands in it; the opposite of [`Cidr::nth`].
    pub fn index_of(&self, ip: Ipv4Addr) -> u32 {
        u32::from(ip) & !self.mask()
    }

    /// How many addresses the network has.
    pub fn size(&self) -> u64 {
        1 << (32 - u32::from(self.prefix_len))
    }

    fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix_len)).unwrap_or(0)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed = text.split_once('/').and_then(|(address, len)| {
            let prefix_len: u8 = len.parse().ok().filter(|len| *len <= 32)?;
            Some(Self { address: address.parse().ok()?, prefix_len })
        });
        parsed.ok_or_else(|| Error::Invalid(format!("{text:?} is not an IPv4 network such as 10.42.0.0/16")))
    }
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// IPPROTO_*.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// From Kubernetes' `TCP`, `UDP`, `SCTP`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
    /// Those that the traffic policies `Local` choose from: the ready ones on this node (or the terminating, serving
    /// ones where none on this node is ready).
    pub local_endpoints: Vec<Endpoint>,
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
    #[error("no address is left in the node's pod network {0}")]
    NoAddress(String),
    #[error("{0}")]
    Invalid(String),
    #[error("the network thread has ended")]
    Stopped,
}

impl Error {
    pub(crate) fn io(operation: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        |source| Self::Io { operation: operation.into(), source }
    }

    pub(crate) fn netlink(operation: impl Into<String>) -> impl FnOnce(skiff_linux::net::Error) -> Self {
        |source| Self::Netlink { operation: operation.into(), source: Box::new(source) }
    }
}
