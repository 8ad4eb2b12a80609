use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use skiff_linux::net::conntrack::Forwarded;
use skiff_linux::net::nft::{Expr, Rule, Verdict};

use super::model::{By, Fragment, Key, LOCAL_INDEX, MASQUERADE_MARK, REFUSE, SetName, Shared, Value};
use crate::leases::Lease;
use crate::names::hash;
use crate::{Cidr, Endpoint, NetworkOptions, Protocol, ServicePort, ServiceRules};

/// What a pod of this node asks for: a way back to itself, and its host ports.
pub(crate) fn plan_pod(lease: &Lease) -> Fragment {
    let mut fragment = Fragment::default();
    fragment.put(SetName::Hairpin, Key::Pair(lease.address, lease.address), Value::Nothing);
    for port in &lease.host_ports {
        let (set, key) = if port.host_ip.is_unspecified() {
            (SetName::HostPorts, Key::Port(port.protocol, port.host_port, None))
        } else {
            (SetName::HostPortIps, Key::Service(port.host_ip, port.protocol, port.host_port, None))
        };
        fragment.put(set, key, Value::To(lease.address, port.container_port));
        if port.protocol == Protocol::Udp {
            fragment.forwarded.insert(Forwarded {
                protocol: port.protocol.number(),
                address: (!port.host_ip.is_unspecified()).then_some(port.host_ip),
                port: port.host_port,
                endpoint: lease.address,
                endpoint_port: port.container_port,
            });
        }
    }
    fragment
}

/// The DNS server's address leads to `port` where port 53 is another program's.
pub(crate) fn plan_dns(dns_ip: Ipv4Addr, port: u16) -> Fragment {
    let mut fragment = Fragment::default();
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        fragment.put(SetName::HostPortIps, Key::Service(dns_ip, protocol, 53, None), Value::To(dns_ip, port));
    }
    fragment
}

/// The node's addresses, where the kernel can't tell them.
pub(crate) fn plan_node(addresses: &[Ipv4Addr]) -> Fragment {
    let mut fragment = Fragment::default();
    for ip in addresses {
        fragment.put(SetName::NodeAddresses, Key::Address(*ip), Value::Nothing);
    }
    fragment
}

/// Leaves each address and port to the first service that asks for it, and tells who lost.
pub(crate) fn without_conflicts(mut rules: ServiceRules, options: &NetworkOptions) -> (ServiceRules, Vec<String>) {
    let mut taken = HashSet::new();
    let mut lost = Vec::new();
    for (name, service) in &mut rules.services {
        let (protocol, port) = (service.protocol, service.port);
        let mut keep = |ip: &IpAddr| match ip {
            // The node answers names itself, whatever stands in the API.
            IpAddr::V4(ip) if *ip == options.dns_ip => false,
            IpAddr::V4(_) => {
                taken.insert((*ip, protocol, port)) || {
                    lost.push(format!("{name} {ip}:{port}/{protocol}"));
                    false
                }
            }
            IpAddr::V6(_) => false,
        };
        service.cluster_ips.retain(&mut keep);
        service.external_ips.retain(&mut keep);
        if let Some(node_port) = service.node_port
            && !taken.insert((IpAddr::V4(Ipv4Addr::UNSPECIFIED), protocol, node_port))
        {
            lost.push(format!("{name} node port {node_port}/{protocol}"));
            service.node_port = None;
        }
    }
    (rules, lost)
}

/// What one port of a service asks for.
pub(crate) fn plan_service(name: &str, service: &ServicePort, cluster: Cidr) -> Fragment {
    let mut planner = Planner { service, cluster, id: hash(name), fragment: Fragment::default() };
    planner.cluster_ips();
    planner.external_ips();
    planner.node_port();
    planner.source_ranges();
    planner.fragment
}

struct Planner<'a> {
    service: &'a ServicePort,
    /// Whose addresses are pods'.
    cluster: Cidr,
    id: u64,
    fragment: Fragment,
}

/// Which endpoints a connection may go to, and who sees its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    All,
    AllMasqueraded,
    AllMasqueradingHosts,
    Local,
}

impl Planner<'_> {
    fn cluster_ips(&mut self) {
        for ip in ipv4(&self.service.cluster_ips) {
            self.fragment.shared_elements.insert((SetName::ClusterIps, Key::Address(ip)));
            self.fragment.put(SetName::ClusterPorts, self.key(Some(ip), None), Value::Nothing);
            if self.is_empty() {
                self.refuse(ip);
            } else if self.service.internal_local {
                self.lead(SetName::ServiceIps, By::Address, Some(ip), Way::Local);
                self.endpoints(Some(ip), false, true);
            } else {
                self.lead(SetName::ServiceIps, By::Address, Some(ip), Way::All);
                self.endpoints(Some(ip), true, false);
            }
        }
    }

    fn external_ips(&mut self) {
        for ip in ipv4(&self.service.external_ips) {
            if self.is_empty() {
                self.refuse(ip);
                continue;
            }
            if self.service.external_local {
                self.lead(SetName::LocalIps, By::Address, Some(ip), Way::Local);
                self.lead(SetName::ServiceIps, By::Address, Some(ip), Way::AllMasqueradingHosts);
            } else {
                self.lead(SetName::ServiceIps, By::Address, Some(ip), Way::AllMasqueraded);
            }
            self.endpoints(Some(ip), true, self.service.external_local);
        }
    }

    fn node_port(&mut self) {
        let Some(port) = self.service.node_port else { return };
        if self.is_empty() {
            let key = Key::Port(self.service.protocol, port, None);
            self.fragment.put(SetName::NoEndpointNodePorts, key, Value::Goto(REFUSE.to_owned()));
            return;
        }
        if self.service.external_local {
            self.lead(SetName::LocalNodePorts, By::NodePort, None, Way::Local);
            self.lead(SetName::NodePorts, By::NodePort, None, Way::AllMasqueradingHosts);
        } else {
            self.lead(SetName::NodePorts, By::NodePort, None, Way::AllMasqueraded);
        }
        self.endpoints(None, true, self.service.external_local);
    }

    /// No endpoint anywhere, not even a terminating one on this node.
    fn is_empty(&self) -> bool {
        self.service.endpoints.is_empty() && self.service.local_endpoints.is_empty()
    }

    fn refuse(&mut self, ip: Ipv4Addr) {
        let key = Key::Service(ip, self.service.protocol, self.service.port, None);
        self.fragment.put(SetName::NoEndpoints, key, Value::Goto(REFUSE.to_owned()));
    }

    /// The key of the service at `ip`, or of its node port.
    fn key(&self, ip: Option<Ipv4Addr>, index: Option<u32>) -> Key {
        match ip {
            Some(ip) => Key::Service(ip, self.service.protocol, self.service.port, index),
            None => Key::Port(self.service.protocol, self.service.node_port.unwrap_or_default(), index),
        }
    }

    /// The way from a verdict map to the endpoints.
    fn lead(&mut self, map: SetName, by: By, ip: Option<Ipv4Addr>, way: Way) {
        let (count, local_count) = (number(&self.service.endpoints), number(&self.service.local_endpoints));
        let value = match way {
            Way::Local if local_count == 0 => Value::Drop,
            _ if self.service.affinity_s.is_some() => self.affine(way),
            Way::All => self.fragment.goto(Shared::Spread { by, count, local: false }),
            Way::AllMasqueraded => self.fragment.goto(Shared::Masquerade { by, count }),
            Way::AllMasqueradingHosts => self.fragment.goto(Shared::MasqueradeHosts { by, count }),
            Way::Local => self.fragment.goto(Shared::Spread { by, count: local_count, local: true }),
        };
        self.fragment.put(map, self.key(ip, None), value);
    }

    /// The endpoints behind an address or node port. With affinity the service's own chains have them.
    fn endpoints(&mut self, ip: Option<Ipv4Addr>, all: bool, local: bool) {
        let set = if ip.is_some() { SetName::Endpoints } else { SetName::NodeEndpoints };
        let numbered = |endpoints: &[Endpoint], first: u32| (first..).zip(endpoints.to_vec()).collect::<Vec<_>>();
        let mut wanted = if all { numbered(&self.service.endpoints, 0) } else { Vec::new() };
        if local {
            wanted.extend(numbered(&self.service.local_endpoints, LOCAL_INDEX));
        }
        for (index, endpoint) in wanted {
            if self.service.affinity_s.is_none() {
                let key = self.key(ip, Some(index));
                self.fragment.put(set, key, Value::To(endpoint.ip, endpoint.port));
            }
            if self.service.protocol == Protocol::Udp {
                self.fragment.forwarded.insert(Forwarded {
                    protocol: self.service.protocol.number(),
                    address: ip,
                    port: if ip.is_some() { self.service.port } else { self.service.node_port.unwrap_or_default() },
                    endpoint: endpoint.ip,
                    endpoint_port: endpoint.port,
                });
            }
        }
    }

    /// Session affinity: a chain for the service, and one with a set of clients for each endpoint.
    fn affine(&mut self, way: Way) -> Value {
        let id = self.id;
        let all = match way {
            Way::Local => {
                let local = self.service.local_endpoints.clone();
                self.affine_chain(&format!("service-local-{id:016x}"), &local)
            }
            _ => {
                let endpoints = self.service.endpoints.clone();
                self.affine_chain(&format!("service-{id:016x}"), &endpoints)
            }
        };
        let goto = Verdict::Goto(all.clone());
        let (name, rules) = match way {
            Way::All | Way::Local => return Value::Goto(all),
            Way::AllMasqueraded => {
                (format!("service-masquerade-{id:016x}"), vec![Rule::new().mark(MASQUERADE_MARK).verdict(goto)])
            }
            Way::AllMasqueradingHosts => {
                let pods = self.cluster;
                let host = Rule::new().source_not_in(pods.address, pods.prefix_len).mark(MASQUERADE_MARK);
                (format!("service-masquerade-hosts-{id:016x}"), vec![host, Rule::new().verdict(goto)])
            }
        };
        self.chain(name.clone(), rules);
        Value::Goto(name)
    }

    fn affine_chain(&mut self, name: &str, endpoints: &[Endpoint]) -> String {
        let timeout_ms = u64::from(self.service.affinity_s.unwrap_or_default()) * 1000;
        let mut remembered = Vec::new();
        let mut fresh = Vec::new();
        for (index, endpoint) in (0..).zip(endpoints) {
            let set = format!("clients-{:016x}-{}-{}", self.id, endpoint.ip, endpoint.port);
            let chain = format!("endpoint-{:016x}-{}-{}", self.id, endpoint.ip, endpoint.port);
            self.fragment.sets.insert(set.clone(), timeout_ms);
            let ([a, b, c, d], port) = (endpoint.ip.octets(), endpoint.port.to_be_bytes());
            let remember = Rule::new().load_source(0).then(Expr::Remember { set: set.clone(), from: 0, timeout_ms });
            let to = remember
                .then(Expr::Immediate { to: 0, value: vec![a, b, c, d] })
                .then(Expr::Immediate { to: 1, value: port.to_vec() })
                .then(super::model::dnat_to_loaded());
            self.chain(chain.clone(), vec![to]);
            let known = Rule::new().load_source(0).then(Expr::InSet { set, from: 0, absent: false });
            remembered.push(known.verdict(Verdict::Goto(chain.clone())));
            fresh.push(one_of(number(endpoints) - index).verdict(Verdict::Goto(chain)));
        }
        remembered.extend(fresh);
        self.chain(name.to_owned(), remembered);
        name.to_owned()
    }

    fn source_ranges(&mut self) {
        if self.service.source_ranges.is_empty() {
            return;
        }
        let ips: Vec<Ipv4Addr> = ipv4(&self.service.external_ips).collect();
        if ips.is_empty() {
            return;
        }
        let chain = format!("firewall-{:016x}", self.id);
        let allowed = self.service.source_ranges.iter();
        let mut rules: Vec<Rule> =
            allowed.map(|c| Rule::new().source_in(c.address, c.prefix_len).verdict(Verdict::Return)).collect();
        rules.push(Rule::new().verdict(Verdict::Drop));
        self.chain(chain.clone(), rules);
        for ip in ips {
            let key = self.key(Some(ip), None);
            self.fragment.put(SetName::Firewall, key, Value::Goto(chain.clone()));
        }
    }

    fn chain(&mut self, name: String, rules: Vec<Rule>) {
        if !self.fragment.chains.iter().any(|(known, _)| *known == name) {
            self.fragment.chains.push((name, rules));
        }
    }
}

/// Matches one in `count` connections at random.
fn one_of(count: u32) -> Rule {
    if count <= 1 {
        return Rule::new();
    }
    let zero = Expr::Compare { op: skiff_linux::net::nft::Compare::Equal, from: 0, value: vec![0; 4] };
    Rule::new().then(Expr::Random { modulus: count, offset: 0, to: 0 }).then(zero)
}

fn number(endpoints: &[Endpoint]) -> u32 {
    u32::try_from(endpoints.len()).expect("fewer endpoints than addresses")
}

fn ipv4(ips: &[IpAddr]) -> impl Iterator<Item = Ipv4Addr> + use<> {
    let ips: Vec<Ipv4Addr> =
        ips.iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None }).collect();
    ips.into_iter()
}
