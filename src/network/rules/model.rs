use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use skiff_linux::net::conntrack::Forwarded;
use skiff_linux::net::nft::{Element, ElementData, Expr, Rule, Set, SetData, Type, Verdict};

use crate::Protocol;

/// Of packets whose source is to be replaced; the bit that upstream's proxy uses too.
pub(super) const MASQUERADE_MARK: u32 = 0x4000;
/// The chain that refuses.
pub(super) const REFUSE: &str = "refuse";
/// Endpoints on this node are numbered from here.
pub(super) const LOCAL_INDEX: u32 = 0x1_0000;

/// Who asked for a fragment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    Dns,
    Node,
    Pod(String),
    Service(String),
}

/// The sets and maps that every node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum SetName {
    ServiceIps,
    LocalIps,
    Endpoints,
    NodePorts,
    LocalNodePorts,
    NodeEndpoints,
    NoEndpoints,
    NoEndpointNodePorts,
    Firewall,
    HostPorts,
    HostPortIps,
    Hairpin,
    ClusterIps,
    ClusterPorts,
    NodeAddresses,
}

impl SetName {
    pub(super) const ALL: [Self; 15] = [
        Self::ServiceIps,
        Self::LocalIps,
        Self::Endpoints,
        Self::NodePorts,
        Self::LocalNodePorts,
        Self::NodeEndpoints,
        Self::NoEndpoints,
        Self::NoEndpointNodePorts,
        Self::Firewall,
        Self::HostPorts,
        Self::HostPortIps,
        Self::Hairpin,
        Self::ClusterIps,
        Self::ClusterPorts,
        Self::NodeAddresses,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ServiceIps => "service-ips",
            Self::LocalIps => "local-ips",
            Self::Endpoints => "endpoints",
            Self::NodePorts => "node-ports",
            Self::LocalNodePorts => "local-node-ports",
            Self::NodeEndpoints => "node-endpoints",
            Self::NoEndpoints => "no-endpoints",
            Self::NoEndpointNodePorts => "no-endpoint-node-ports",
            Self::Firewall => "firewall",
            Self::HostPorts => "host-ports",
            Self::HostPortIps => "host-port-ips",
            Self::Hairpin => "hairpin",
            Self::ClusterIps => "cluster-ips",
            Self::ClusterPorts => "cluster-ports",
            Self::NodeAddresses => "node-addresses",
        }
    }

    pub(super) fn set(self) -> Set {
        use Type::{Ipv4, Mark, Port, Protocol};
        const ADDRESS_AND_PORT: SetData = SetData::Values(&[Ipv4, Port]);
        let (key, data): (&'static [Type], SetData) = match self {
            Self::ServiceIps | Self::LocalIps | Self::NoEndpoints | Self::Firewall => {
                (&[Ipv4, Protocol, Port], SetData::Verdict)
            }
            Self::NodePorts | Self::LocalNodePorts | Self::NoEndpointNodePorts => (&[Protocol, Port], SetData::Verdict),
            Self::Endpoints => (&[Ipv4, Protocol, Port, Mark], ADDRESS_AND_PORT),
            Self::NodeEndpoints => (&[Protocol, Port, Mark], ADDRESS_AND_PORT),
            Self::HostPorts => (&[Protocol, Port], ADDRESS_AND_PORT),
            Self::HostPortIps => (&[Ipv4, Protocol, Port], ADDRESS_AND_PORT),
            Self::Hairpin => (&[Ipv4, Ipv4], SetData::None),
            Self::ClusterIps | Self::NodeAddresses => (&[Ipv4], SetData::None),
            Self::ClusterPorts => (&[Ipv4, Protocol, Port], SetData::None),
        };
        Set { name: self.name().to_owned(), key, data, dynamic_timeout_ms: None }
    }
}

/// What an element is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Address(Ipv4Addr),
    Pair(Ipv4Addr, Ipv4Addr),
    /// With an index: one endpoint of those of an address and port.
    Service(Ipv4Addr, Protocol, u16, Option<u32>),
    /// The same for a port of the node.
    Port(Protocol, u16, Option<u32>),
}

impl Key {
    pub(super) fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16);
        let (address, protocol, port, index) = match self {
            Self::Address(ip) => return ip.octets().to_vec(),
            Self::Pair(a, b) => return [a.octets(), b.octets()].concat(),
            Self::Service(ip, protocol, port, index) => (Some(ip), protocol, port, index),
            Self::Port(protocol, port, index) => (None, protocol, port, index),
        };
        bytes.extend(address.iter().flat_map(|ip| ip.octets()));
        bytes.extend([protocol.number(), 0, 0, 0]);
        let [high, low] = port.to_be_bytes();
        bytes.extend([high, low, 0, 0]);
        bytes.extend(index.iter().flat_map(|index| index.to_ne_bytes()));
        bytes
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) => write!(f, "{ip}"),
            Self::Pair(a, b) => write!(f, "{a} . {b}"),
            Self::Service(ip, protocol, port, None) => write!(f, "{ip} . {protocol} . {port}"),
            Self::Service(ip, protocol, port, Some(index)) => write!(f, "{ip} . {protocol} . {port} . {index:#x}"),
            Self::Port(protocol, port, None) => write!(f, "{protocol} . {port}"),
            Self::Port(protocol, port, Some(index)) => write!(f, "{protocol} . {port} . {index:#x}"),
        }
    }
}

/// What an element gives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Value {
    Nothing,
    Drop,
    Goto(String),
    To(Ipv4Addr, u16),
}

impl Value {
    pub(super) fn data(&self) -> ElementData {
        match self {
            Self::Nothing => ElementData::None,
            Self::Drop => ElementData::Verdict(Verdict::Drop),
            Self::Goto(chain) => ElementData::Verdict(Verdict::Goto(chain.clone())),
            Self::To(ip, port) => {
                let ([a, b, c, d], [high, low]) = (ip.octets(), port.to_be_bytes());
                ElementData::Value(vec![a, b, c, d, high, low, 0, 0])
            }
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::Drop => f.write_str(" : drop"),
            Self::Goto(chain) => write!(f, " : goto {chain}"),
            Self::To(ip, port) => write!(f, " : {ip} . {port}"),
        }
    }
}

pub(super) fn element(key: Key, value: &Value) -> Element {
    Element { key: key.bytes(), data: value.data() }
}

/// By what a connection's endpoints are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum By {
    Address,
    NodePort,
}

/// A chain that depends on a number of endpoints only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Shared {
    /// Sends a connection to one of `count` endpoints at random.
    Spread { by: By, count: u32, local: bool },
    /// The same, for connections whose source is to be replaced.
    Masquerade { by: By, count: u32 },
    /// The same, for those whose source is to be replaced unless it is a pod.
    MasqueradeHosts { by: By, count: u32 },
}

impl Shared {
    pub(super) fn name(self) -> String {
        let prefix = |by| if by == By::NodePort { "port-" } else { "" };
        match self {
            Self::Spread { by, count, local: false } => format!("{}spread-{count}", prefix(by)),
            Self::Spread { by, count, local: true } => format!("{}spread-local-{count}", prefix(by)),
            Self::Masquerade { by, count } => format!("{}masquerade-{count}", prefix(by)),
            Self::MasqueradeHosts { by, count } => format!("{}masquerade-hosts-{count}", prefix(by)),
        }
    }

    /// The chain that this one goes to.
    pub(super) fn next(self) -> Option<Self> {
        match self {
            Self::Spread { .. } => None,
            Self::Masquerade { by, count } | Self::MasqueradeHosts { by, count } => {
                Some(Self::Spread { by, count, local: false })
            }
        }
    }

    pub(super) fn rules(self, cluster: crate::Cidr) -> Vec<Rule> {
        let goto = |by, count| Verdict::Goto(Self::Spread { by, count, local: false }.name());
        match self {
            Self::Spread { by, count, local } => spread_rules(by, count, local),
            Self::Masquerade { by, count } => {
                vec![Rule::new().mark(MASQUERADE_MARK).verdict(goto(by, count))]
            }
            Self::MasqueradeHosts { by, count } => vec![
                Rule::new().source_not_in(cluster.address, cluster.prefix_len).mark(MASQUERADE_MARK),
                Rule::new().verdict(goto(by, count)),
            ],
        }
    }
}

/// To a random endpoint; if that one was taken away since the chain was chosen, to the first one.
fn spread_rules(by: By, count: u32, local: bool) -> Vec<Rule> {
    let offset = if local { LOCAL_INDEX } else { 0 };
    // The first index is "random" too: a constant would do, but nft(8) could not show it.
    let random = |modulus| to_endpoint(by, Expr::Random { modulus, offset, to: 3 });
    if count > 1 { vec![random(count), random(1)] } else { vec![random(1)] }
}

fn to_endpoint(by: By, index: Expr) -> Rule {
    let (rule, map, from) = match by {
        By::Address => (Rule::new().load_destination(0).load_protocol_and_port(1), SetName::Endpoints, 0),
        By::NodePort => (Rule::new().load_protocol_and_port(1), SetName::NodeEndpoints, 1),
    };
    rule.then(index).then(Expr::Map { map: map.name().to_owned(), from, to: 0 }).then(dnat_to_loaded())
}

/// To the address in register 0 and the port in register 1.
pub(super) fn dnat_to_loaded() -> Expr {
    Expr::Dnat { family: 2, address: 0, port: Some(1) }
}

/// What one owner asks of the rule set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// No other owner has them.
    pub(super) elements: BTreeMap<(SetName, Key), Value>,
    /// Elements without a value that several owners may ask for.
    pub(super) shared_elements: BTreeSet<(SetName, Key)>,
    pub(super) shared_chains: BTreeSet<Shared>,
    /// Chains of this owner alone. A rule goes only to chains that come before in this order, or in `shared_chains`.
    pub(super) chains: Vec<(String, Vec<Rule>)>,
    /// Dynamic sets of this owner alone, with their elements' life in milliseconds.
    pub(super) sets: BTreeMap<String, u64>,
    /// Connections of a protocol without an end of its own, to be forgotten when they are asked for no more.
    pub(super) forwarded: BTreeSet<Forwarded>,
}

impl Fragment {
    pub(super) fn put(&mut self, set: SetName, key: Key, value: Value) {
        self.elements.insert((set, key), value);
    }

    /// Asks for a chain, and gives the way to it.
    pub(super) fn goto(&mut self, chain: Shared) -> Value {
        self.shared_chains.insert(chain);
        self.shared_chains.extend(chain.next());
        Value::Goto(chain.name())
    }
}
