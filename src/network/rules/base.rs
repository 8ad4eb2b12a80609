use skiff_linux::net::nft::{Chain, Expr, FibOf, Hook, HookPoint, Rule, Verdict};

use super::model::{MASQUERADE_MARK, REFUSE, SetName, dnat_to_loaded};
use super::probe::Features;
use crate::NetworkOptions;

/// Before the chains of others, who may have ports of the node too.
const DNAT: i32 = -101;
const SNAT: i32 = 100;
const FILTER: i32 = 0;
const BEFORE_DNAT: i32 = -110;

/// The chains that every node has, with their rules, in an order in which they can be made.
pub(super) fn chains(options: &NetworkOptions, features: Features) -> Vec<(Chain, Vec<Rule>)> {
    let base = |name: &str, kind, point, priority, rules| {
        (Chain { name: name.to_owned(), hook: Some(Hook { kind, point, priority }) }, rules)
    };
    vec![
        (Chain { name: REFUSE.to_owned(), hook: None }, refuse()),
        base("nat-prerouting", "nat", HookPoint::Prerouting, DNAT, prerouting(options, features)),
        base("nat-output", "nat", HookPoint::Output, DNAT, output(features)),
        base("nat-postrouting", "nat", HookPoint::Postrouting, SNAT, postrouting(options)),
        base(
            "filter-prerouting",
            "filter",
            HookPoint::Prerouting,
            BEFORE_DNAT,
            vec![by_address(SetName::Firewall, Rule::new().new_connection())],
        ),
        base(
            "filter-input",
            "filter",
            HookPoint::Input,
            FILTER,
            vec![
                by_address(SetName::NoEndpoints, Rule::new().new_connection()),
                by_port(SetName::NoEndpointNodePorts, to_node(Rule::new().new_connection(), features)),
            ],
        ),
        base("filter-forward", "filter", HookPoint::Forward, FILTER, forward(options)),
        base("filter-output", "filter", HookPoint::Output, FILTER, {
            let mut rules = vec![Rule::new().destination_in(options.dns_ip, 32).verdict(Verdict::Accept)];
            rules.extend(untranslated(options));
            rules
        }),
    ]
}

/// TCP takes an ICMP error for good only if its socket is not busy at that moment, which in a connection between
/// links of one host it often is: the client would try again after a second.
fn refuse() -> Vec<Rule> {
    const TCP: u8 = 6;
    vec![Rule::new().protocol(TCP).then(Expr::Reset), Rule::new().then(Expr::Reject)]
}

fn prerouting(options: &NetworkOptions, features: Features) -> Vec<Rule> {
    let cluster = options.cluster_cidr;
    let outside = || Rule::new().source_not_in(cluster.address, cluster.prefix_len);
    vec![
        host_port_ips(),
        host_ports(features),
        by_address(SetName::LocalIps, outside()),
        by_address(SetName::ServiceIps, Rule::new()),
        by_port(SetName::LocalNodePorts, to_node(outside(), features)),
        by_port(SetName::NodePorts, to_node(Rule::new(), features)),
    ]
}

/// The host itself is never "outside".
fn output(features: Features) -> Vec<Rule> {
    vec![
        host_port_ips(),
        host_ports(features),
        by_address(SetName::ServiceIps, Rule::new()),
        by_port(SetName::NodePorts, to_node(not_loopback(), features)),
    ]
}

/// Packets from 127.0.0.1 can leave the host only with `route_localnet`, which opens its local services to
/// neighbours; so they stay.
fn not_loopback() -> Rule {
    Rule::new().destination_not_in(std::net::Ipv4Addr::new(127, 0, 0, 0), 8)
}

fn host_port_ips() -> Rule {
    let map = Expr::Map { map: SetName::HostPortIps.name().to_owned(), from: 0, to: 0 };
    Rule::new().load_destination(0).load_protocol_and_port(1).then(map).then(dnat_to_loaded())
}

fn host_ports(features: Features) -> Rule {
    let map = Expr::Map { map: SetName::HostPorts.name().to_owned(), from: 0, to: 0 };
    to_node(not_loopback(), features).load_protocol_and_port(0).then(map).then(dnat_to_loaded())
}

fn postrouting(options: &NetworkOptions) -> Vec<Rule> {
    let (pods, cluster, services) = (options.pod_cidr, options.cluster_cidr, options.service_cidr);
    let hairpin = Expr::InSet { set: SetName::Hairpin.name().to_owned(), from: 0, absent: false };
    vec![
        Rule::new().marked(MASQUERADE_MARK).then(Expr::Masquerade),
        // A pod that reached itself by a service would see its own address as the source.
        Rule::new().translated().load_source(0).load_destination(1).then(hairpin).then(Expr::Masquerade),
        // Someone who routes the services' network to this node can't be answered by pods of other nodes.
        Rule::new()
            .translated()
            .original_destination_in(services.address, services.prefix_len)
            .source_not_in(cluster.address, cluster.prefix_len)
            .then(Expr::Masquerade),
        // Nobody outside knows the pods' addresses.
        Rule::new()
            .source_in(pods.address, pods.prefix_len)
            .destination_not_in(cluster.address, cluster.prefix_len)
            .destination_not_in(std::net::Ipv4Addr::new(224, 0, 0, 0), 4)
            .then(Expr::Masquerade),
    ]
}

/// An endpoint's packet out of its connection's window would not be translated back: the client would answer it with
/// a reset, and lose the connection.
fn forward(options: &NetworkOptions) -> Vec<Rule> {
    let pods = options.cluster_cidr;
    let mut rules = vec![Rule::new().source_in(pods.address, pods.prefix_len).invalid().verdict(Verdict::Drop)];
    rules.extend(untranslated(options));
    rules
}

/// What still has a service's address after translation has no endpoint. A port that a service does not have is
/// refused. Silence lets the sender try again: at an address that no service has (yet), and at a port that a service
/// has, which is a packet that met the maps in the middle of a change (and would not be translated later either, if
/// its connection were let into the conntrack table).
fn untranslated(options: &NetworkOptions) -> Vec<Rule> {
    let services = options.service_cidr;
    let is_in = |set: SetName| Expr::InSet { set: set.name().to_owned(), from: 0, absent: false };
    vec![
        by_address(SetName::NoEndpoints, Rule::new().new_connection()),
        Rule::new()
            .new_connection()
            .load_destination(0)
            .load_protocol_and_port(1)
            .then(is_in(SetName::ClusterPorts))
            .verdict(Verdict::Drop),
        Rule::new()
            .new_connection()
            .load_destination(0)
            .then(is_in(SetName::ClusterIps))
            .verdict(Verdict::Goto(REFUSE.to_owned())),
        Rule::new().destination_in(services.address, services.prefix_len).verdict(Verdict::Drop),
    ]
}

/// The destination is an address of this node.
fn to_node(rule: Rule, features: Features) -> Rule {
    if features.fib {
        return rule.local(FibOf::Destination);
    }
    let set = SetName::NodeAddresses.name().to_owned();
    rule.load_destination(0).then(Expr::InSet { set, from: 0, absent: false })
}

fn by_address(map: SetName, rule: Rule) -> Rule {
    let look_up = Expr::VerdictMap { map: map.name().to_owned(), from: 0 };
    rule.load_destination(0).load_protocol_and_port(1).then(look_up)
}

fn by_port(map: SetName, rule: Rule) -> Rule {
    rule.load_protocol_and_port(0).then(Expr::VerdictMap { map: map.name().to_owned(), from: 0 })
}
