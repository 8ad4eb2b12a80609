//! The names of the cluster, as the Kubernetes DNS specification 1.1.0 has them. Pure: objects in, records out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use skiff_network::Cidr;

use crate::wire::{A, AAAA, ANY, Answer, Code, Data, Record, SRV};

/// Short, since pods come and go; clients ask over a local link.
const TTL_S: u32 = 5;
const SPECIFICATION: &str = "1.1.0";

/// Where the objects are.
pub(crate) trait Source {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    fn slices(&self, namespace: &str, name: &str) -> Vec<Arc<EndpointSlice>>;
    fn has_namespace(&self, name: &str) -> bool;
    fn services_at(&self, ip: IpAddr) -> Vec<Arc<Service>>;
    fn slices_at(&self, ip: IpAddr) -> Vec<Arc<EndpointSlice>>;
    /// The service that a slice is of.
    fn service_of(&self, slice: &EndpointSlice) -> Option<Arc<Service>>;
}

/// The zone that this server knows all about.
#[derive(Debug)]
pub(crate) struct Zone {
    domain: String,
    labels: Vec<String>,
    server_ip: IpAddr,
    /// Whose addresses are the cluster's.
    networks: Vec<Cidr>,
    turn: AtomicUsize,
}

/// What the zone says to a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Another server's question.
    Elsewhere,
    Answer(Answer),
    /// An alias to a name that is to be asked for too.
    Alias {
        alias: Record,
        target: String,
    },
}

/// The records of a name, or that there is no such name.
enum Name {
    Missing,
    Records { answers: Vec<Record>, additionals: Vec<Record> },
    Alias(String),
}

impl Name {
    fn with(answers: Vec<Record>) -> Self {
        Self::Records { answers, additionals: vec![] }
    }

    fn existing(exists: bool) -> Self {
        if exists { Self::with(vec![]) } else { Self::Missing }
    }
}

/// An address that is ready, under its name in the service.
struct Member {
    hostname: String,
    ip: IpAddr,
    /// Name, protocol, number.
    ports: Vec<(String, String, u16)>,
}

impl Zone {
    pub(crate) fn new(domain: &str, server_ip: IpAddr, networks: Vec<Cidr>) -> Self {
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        let labels = domain.split('.').map(str::to_owned).collect();
        Self { domain, labels, server_ip, networks, turn: AtomicUsize::new(0) }
    }

    pub(crate) fn find(&self, source: &impl Source, labels: &[String], kind: u16) -> Found {
        let name = labels.join(".");
        let found = if let Some(inside) = labels.strip_suffix(&self.labels[..]) {
            self.find_inside(source, inside, &name)
        } else if let Some(ip) = self.reversed(labels) {
            self.find_reverse(source, ip, &name)
        } else {
            return Found::Elsewhere;
        };
        match found {
            Name::Missing => Found::Answer(self.negative(Code::NameError)),
            Name::Alias(target) if matches!(kind, A | AAAA) => {
                Found::Alias { alias: Record { name, ttl_s: TTL_S, data: Data::Cname(target.clone()) }, target }
            }
            Name::Alias(target) => self.chosen(kind, vec![record(&name, Data::Cname(target))], vec![]),
            Name::Records { answers, additionals } => self.chosen(kind, answers, additionals),
        }
    }

    fn chosen(&self, kind: u16, mut answers: Vec<Record>, additionals: Vec<Record>) -> Found {
        answers.retain(|record| kind == ANY || record.data.kind() == kind);
        if answers.is_empty() {
            return Found::Answer(self.negative(Code::NoError));
        }
        // Clients take the first one; so each is the first in its turn.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % answers.len();
        answers.rotate_left(turn);
        let additionals = if kind == SRV { additionals } else { vec![] };
        Found::Answer(Answer { authoritative: true, answers, additionals, ..Answer::empty(Code::NoError) })
    }

    fn negative(&self, code: Code) -> Answer {
        Answer { authoritative: true, authorities: vec![self.authority()], ..Answer::empty(code) }
    }

    fn authority(&self) -> Record {
        record(
            &self.domain,
            Data::Soa {
                server: format!("ns.dns.{}", self.domain),
                mail: format!("hostmaster.{}", self.domain),
                serial: 1,
                refresh_s: 7200,
                retry_s: 1800,
                expire_s: 86_400,
                minimum_s: TTL_S,
            },
        )
    }

    fn find_inside(&self, source: &impl Source, labels: &[String], name: &str) -> Name {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels[..] {
            [] => Name::with(vec![self.authority(), record(name, Data::Ns(format!("ns.dns.{}", self.domain)))]),
            ["svc"] | ["pod"] | ["dns"] => Name::existing(true),
            ["dns-version"] => Name::with(vec![record(name, Data::Txt(SPECIFICATION.to_owned()))]),
            ["ns", "dns"] => Name::with(vec![address(name, self.server_ip)]),
            [namespace, "svc" | "pod"] => Name::existing(source.has_namespace(namespace)),
            [pod, _, "pod"] => match dashed(pod) {
                Some(ip) => Name::with(vec![address(name, ip)]),
                None => Name::Missing,
            },
            [service, namespace, "svc"] => match source.service(namespace, service) {
                Some(object) => self.service(source, &object, name),
                None => Name::Missing,
            },
            [part, service, namespace, "svc"] => match source.service(namespace, service) {
                Some(object) => part_of_service(source, &object, part, name),
                None => Name::Missing,
            },
            [port, protocol, service, namespace, "svc"] => match source.service(namespace, service) {
                Some(object) => self.port(source, &object, port, protocol, name),
                None => Name::Missing,
            },
            _ => Name::Missing,
        }
    }

    fn service(&self, source: &impl Source, service: &Service, name: &str) -> Name {
        match kind_of(service) {
            Kind::External(target) => match target.parse() {
                Ok(ip) => Name::with(vec![address(name, ip)]),
                Err(_) => Name::Alias(target),
            },
            Kind::WithIps(ips) => {
                let mut answers: Vec<Record> = ips.iter().map(|ip| address(name, *ip)).collect();
                answers.extend(ports(service).map(|(_, _, port)| srv(name, port, 1, name.to_owned())));
                Name::Records { additionals: answers.iter().filter(|r| is_address(r)).cloned().collect(), answers }
            }
            Kind::Headless => {
                let members = members(source, service);
                if members.is_empty() {
                    return Name::Missing;
                }
                let mut answers: Vec<Record> = members.iter().map(|m| address(name, m.ip)).collect();
                answers.sort_by_key(|r| format!("{:?}", r.data));
                answers.dedup();
                answers.extend(member_services(&members, name, |_, _| true));
                Name::Records { answers, additionals: member_addresses(&members, name) }
            }
        }
    }

    fn port(&self, source: &impl Source, service: &Service, port: &str, protocol: &str, name: &str) -> Name {
        let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
            return Name::Missing;
        };
        let is_it = |name: &str, of: &str| name == port && of.eq_ignore_ascii_case(protocol);
        let owner = self.owner(service);
        match kind_of(service) {
            Kind::External(_) => Name::Missing,
            Kind::WithIps(ips) => {
                let found = ports(service).filter(|(n, p, _)| is_it(n, p));
                let answers: Vec<Record> = found.map(|(_, _, number)| srv(name, number, 1, owner.clone())).collect();
                if answers.is_empty() {
                    return Name::Missing;
                }
                Name::Records { answers, additionals: ips.iter().map(|ip| address(&owner, *ip)).collect() }
            }
            Kind::Headless => {
                let members = members(source, service);
                let mut answers = member_services(&members, &owner, is_it);
                answers.iter_mut().for_each(|record| name.clone_into(&mut record.name));
                if answers.is_empty() {
                    return Name::Missing;
                }
                Name::Records { answers, additionals: member_addresses(&members, &owner) }
            }
        }
    }

    /// `service.namespace.svc.domain`
    fn owner(&self, service: &Service) -> String {
        let meta = &service.metadata;
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{}.{}.svc.{}", part(&meta.name), part(&meta.namespace), self.domain)
    }

    /// The address of a name such as `20.0.43.10.in-addr.arpa`, if it is the cluster's.
    fn reversed(&self, labels: &[String]) -> Option<IpAddr> {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let [a, b, c, d, "in-addr", "arpa"] = labels[..] else { return None };
        let octet = |text: &str| text.parse::<u8>().ok();
        let ip = Ipv4Addr::new(octet(d)?, octet(c)?, octet(b)?, octet(a)?);
        self.networks.iter().any(|network| network.contains(ip)).then_some(IpAddr::V4(ip))
    }

    fn find_reverse(&self, source: &impl Source, ip: IpAddr, name: &str) -> Name {
        let mut names: Vec<String> = source.services_at(ip).iter().map(|service| self.owner(service)).collect();
        if names.is_empty() {
            for slice in source.slices_at(ip) {
                let Some(service) = source.service_of(&slice) else { continue };
                if !matches!(kind_of(&service), Kind::Headless) {
                    continue;
                }
                let here = slice_members(&slice).into_iter().filter(|member| member.ip == ip);
                names.extend(here.map(|member| format!("{}.{}", member.hostname, self.owner(&service))));
            }
        }
        names.sort();
        names.dedup();
        match names.is_empty() {
            true => Name::Missing,
            false => Name::with(names.into_iter().map(|target| record(name, Data::Ptr(target))).collect()),
        }
    }
}

enum Kind {
    External(String),
    Headless,
    WithIps(Vec<IpAddr>),
}

fn kind_of(service: &Service) -> Kind {
    let empty = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    if spec.type_.as_deref() == Some("ExternalName") {
        let target = spec.external_name.as_deref().unwrap_or_default();
        return Kind::External(target.trim_end_matches('.').to_ascii_lowercase());
    }
    let mut ips: Vec<IpAddr> =
        spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok()).collect();
    ips.sort();
    ips.dedup();
    if ips.is_empty() { Kind::Headless } else { Kind::WithIps(ips) }
}

/// Name, protocol and number of the ports that a service gives names to.
fn ports(service: &Service) -> impl Iterator<Item = (&str, &str, u16)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter_map(|port: &ServicePort| {
        let number = u16::try_from(port.port).ok()?;
        Some((port.name.as_deref().unwrap_or_default(), port.protocol.as_deref().unwrap_or("TCP"), number))
    })
}

/// A member's name, or the protocol of a port.
fn part_of_service(source: &impl Source, service: &Service, part: &str, name: &str) -> Name {
    let members = || members(source, service).into_iter();
    if let Some(protocol) = part.strip_prefix('_') {
        let known = ports(service).any(|(_, of, _)| of.eq_ignore_ascii_case(protocol));
        return Name::existing(known);
    }
    let answers: Vec<Record> = members().filter(|m| m.hostname == part).map(|m| address(name, m.ip)).collect();
    if answers.is_empty() { Name::Missing } else { Name::with(answers) }
}

/// The ready members of a service, each once.
fn members(source: &impl Source, service: &Service) -> Vec<Member> {
    let meta = &service.metadata;
    let slices = source.slices(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    let mut members: Vec<Member> = slices.iter().flat_map(|slice| slice_members(slice)).collect();
    members.sort_by(|a, b| (a.ip, &a.hostname, &a.ports).cmp(&(b.ip, &b.hostname, &b.ports)));
    members.dedup_by(|a, b| a.ip == b.ip && a.hostname == b.hostname && a.ports == b.ports);
    members
}

fn slice_members(slice: &EndpointSlice) -> Vec<Member> {
    let port = |port: &EndpointPort| {
        let number = u16::try_from(port.port?).ok()?;
        Some((port.name.clone().unwrap_or_default(), port.protocol.clone().unwrap_or_else(|| "TCP".into()), number))
    };
    let ports: Vec<(String, String, u16)> = slice.ports.iter().flatten().filter_map(port).collect();
    let is_ready = |endpoint: &&Endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
    let mut members = Vec::new();
    for endpoint in slice.endpoints.iter().flatten().filter(is_ready) {
        for ip in endpoint.addresses.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
            let named = endpoint.hostname.as_ref().filter(|name| !name.is_empty());
            let hostname =
                named.map_or_else(|| ip.to_string().replace(['.', ':'], "-"), |name| name.to_ascii_lowercase());
            members.push(Member { hostname, ip, ports: ports.clone() });
        }
    }
    members
}

/// SRV records of the members of the service that is called `owner`.
fn member_services(members: &[Member], owner: &str, is_wanted: impl Fn(&str, &str) -> bool) -> Vec<Record> {
    let wanted =
        || members.iter().flat_map(|m| m.ports.iter().filter(|(n, p, _)| is_wanted(n, p)).map(move |port| (m, port.2)));
    let count = wanted().count();
    wanted().map(|(member, port)| srv(owner, port, count, format!("{}.{owner}", member.hostname))).collect()
}

fn member_addresses(members: &[Member], owner: &str) -> Vec<Record> {
    members.iter().map(|member| address(&format!("{}.{owner}", member.hostname), member.ip)).collect()
}

fn srv(name: &str, port: u16, of: usize, target: String) -> Record {
    let weight = u16::try_from(100 / of.max(1)).unwrap_or(1).max(1);
    record(name, Data::Srv { priority: 0, weight, port, target })
}

fn address(name: &str, ip: IpAddr) -> Record {
    match ip {
        IpAddr::V4(ip) => record(name, Data::A(ip)),
        IpAddr::V6(ip) => record(name, Data::Aaaa(ip)),
    }
}

fn is_address(record: &Record) -> bool {
    matches!(record.data, Data::A(_) | Data::Aaaa(_))
}

fn record(name: &str, data: Data) -> Record {
    Record { name: name.to_owned(), ttl_s: TTL_S, data }
}

/// `10-42-0-7` or `fd00--7`
fn dashed(text: &str) -> Option<IpAddr> {
    let v4 = text.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| text.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}

#[cfg(test)]
mod tests;
