//! rtnetlink: links, addresses, routes, neighbours. The messages are those of `netlink-packet-route`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{Emitable as _, NlasIterator, Parseable, ParseableParametrized as _};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkHeader, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::message::Reply;
use super::socket::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Result, Socket};

/// A hardware address.
pub type Mac = [u8; 6];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `veth`, `bridge`, `vxlan` ...; empty for hardware and `lo`.
    pub kind: String,
    pub up: bool,
    /// The link has a carrier, and packets sent on it are not dropped any more.
    pub operational: bool,
    pub loopback: bool,
    pub mtu: u32,
    /// The other end of a veth, in whatever namespace it is.
    pub peer: Option<u32>,
    /// Free text of whoever made the link.
    pub alias: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    pub ip: IpAddr,
    pub prefix_len: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub destination: IpAddr,
    pub prefix_len: u8,
    pub target: Target,
    /// The preferred source address of packets that this host sends this way.
    pub source: Option<IpAddr>,
    pub metric: u32,
    /// Who made the route (RTPROT_*).
    pub protocol: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Link(u32),
    /// A gateway that is reached on `link`, whatever the addresses there say.
    Gateway {
        link: u32,
        gateway: IpAddr,
    },
    /// An error to the sender.
    Unreachable,
}

/// A pair of virtual Ethernet links, one of them in another network namespace.
#[derive(Debug, Clone, Copy)]
pub struct VethPair<'a> {
    pub name: &'a str,
    pub mac: Mac,
    pub alias: &'a str,
    pub mtu: u32,
    pub peer_name: &'a str,
    pub peer_mac: Mac,
    pub peer_namespace: BorrowedFd<'a>,
}

/// All links of the socket's namespace.
pub fn links(socket: &mut Socket) -> Result<Vec<Link>> {
    let replies = dump(socket, RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(replies.iter().filter(|r| r.kind == libc::RTM_NEWLINK).filter_map(read_link).collect())
}

pub fn link_by_name(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    let question = RouteNetlinkMessage::GetLink(link_message(0, false, vec![LinkAttribute::IfName(name.to_owned())]));
    match socket.query(question.message_type(), &encode(&question), |_| {}) {
        Ok(reply) => Ok(reply.as_ref().and_then(read_link)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a link of a kind that needs no more: `bridge`, `dummy`.
pub fn add_link(socket: &mut Socket, kind: &str, name: &str, mac: Mac) -> Result<()> {
    let attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(mac.to_vec()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind.into())]),
    ];
    let message = RouteNetlinkMessage::NewLink(link_message(0, false, attributes));
    request(socket, NLM_F_CREATE | NLM_F_EXCL, message)
}

/// Makes both ends where they are to be, which costs a twentieth of making and moving them. The
/// peer is down.
pub fn add_veth(socket: &mut Socket, pair: &VethPair<'_>) -> Result<()> {
    let end = |name: &str, mac: Mac, more| {
        vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Mtu(pair.mtu),
            more,
        ]
    };
    let namespace = LinkAttribute::NetNsFd(pair.peer_namespace.as_raw_fd());
    let peer = link_message(0, false, end(pair.peer_name, pair.peer_mac, namespace));
    let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))];
    let message = link_message(0, true, end(pair.name, pair.mac, LinkAttribute::LinkInfo(info)));
    request(socket, NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(message))?;
    // The alias is not taken while a link is made.
    let alias = vec![LinkAttribute::IfName(pair.name.to_owned()), LinkAttribute::IfAlias(pair.alias.to_owned())];
    request(socket, 0, RouteNetlinkMessage::NewLink(link_message(0, false, alias)))
}

pub fn set_up(socket: &mut Socket, link: u32) -> Result<()> {
    request(socket, 0, RouteNetlinkMessage::NewLink(link_message(link, true, Vec::new())))
}

/// Costs up to 20 ms for a veth. One that is gone is fine.
pub fn delete_link(socket: &mut Socket, link: u32) -> Result<()> {
    forgive_gone(request(socket, 0, RouteNetlinkMessage::DelLink(link_message(link, false, Vec::new()))))
}

pub fn addresses(socket: &mut Socket) -> Result<Vec<Address>> {
    let replies = dump(socket, RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    Ok(replies.iter().filter(|r| r.kind == libc::RTM_NEWADDR).filter_map(read_address).collect())
}

/// One that is there already is fine.
pub fn add_address(socket: &mut Socket, address: &Address) -> Result<()> {
    let mut message = address_message(address);
    if address.ip.is_ipv6() {
        // It would not be usable until duplicates were looked for; ours have none.
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes.push(AddressAttribute::Address(address.ip));
    let added = request(socket, NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewAddress(message));
    if matches!(&added, Err(e) if e.is_exists()) { Ok(()) } else { added }
}

/// One that is gone is fine.
pub fn delete_address(socket: &mut Socket, address: &Address) -> Result<()> {
    forgive_gone(request(socket, 0, RouteNetlinkMessage::DelAddress(address_message(address))))
}

/// The routes of the main table.
pub fn routes(socket: &mut Socket) -> Result<Vec<Route>> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        // A kernel without IPv6 refuses the second question.
        let replies = match dump(socket, RouteNetlinkMessage::GetRoute(question)) {
            Err(_) if family == AddressFamily::Inet6 => continue,
            replies => replies?,
        };
        found.extend(replies.iter().filter(|r| r.kind == libc::RTM_NEWROUTE).filter_map(read_route));
    }
    Ok(found)
}

/// Makes the route, in place of one with the same destination and metric.
pub fn replace_route(socket: &mut Socket, route: &Route) -> Result<()> {
    request(socket, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewRoute(route_message(route)))
}

/// One that is gone is fine.
pub fn delete_route(socket: &mut Socket, route: &Route) -> Result<()> {
    forgive_gone(request(socket, 0, RouteNetlinkMessage::DelRoute(route_message(route))))
}

/// A neighbour that is never asked for: `ip` on `link` has the address `mac`.
pub fn replace_neighbour(socket: &mut Socket, link: u32, ip: IpAddr, mac: Mac) -> Result<()> {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip);
    message.header.ifindex = link;
    message.header.state = NeighbourState::Permanent;
    message.attributes =
        vec![NeighbourAttribute::Destination(ip.into()), NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
    request(socket, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewNeighbour(message))
}

fn request(socket: &mut Socket, flags: u16, message: RouteNetlinkMessage) -> Result<()> {
    socket.request(message.message_type(), flags, &encode(&message), |_| {})
}

fn dump(socket: &mut Socket, message: RouteNetlinkMessage) -> Result<Vec<Reply>> {
    socket.dump(message.message_type(), &encode(&message), |_| {})
}

/// Without the header that all of netlink shares, which is the socket's.
fn encode(message: &RouteNetlinkMessage) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn forgive_gone(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_gone() => Ok(()),
        result => result,
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// The only flag that is ever changed is that the link is up.
fn link_message(index: u32, up: bool, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    if up {
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
    }
    message.attributes = attributes;
    message
}

fn address_message(address: &Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.ip);
    message.header.prefix_len = address.prefix_len;
    message.header.index = address.link;
    message.attributes = vec![AddressAttribute::Local(address.ip)];
    message
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(route.destination);
    header.destination_prefix_length = route.prefix_len;
    header.table = libc::RT_TABLE_MAIN;
    header.protocol = RouteProtocol::from(route.protocol);
    header.kind = RouteType::Unicast;
    let attributes = &mut message.attributes;
    if route.prefix_len > 0 {
        attributes.push(RouteAttribute::Destination(route.destination.into()));
    }
    if route.metric > 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    attributes.extend(route.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
    match route.target {
        Target::Link(link) => {
            if route.destination.is_ipv4() {
                header.scope = RouteScope::Link;
            }
            attributes.push(RouteAttribute::Oif(link));
        }
        Target::Gateway { link, gateway } => {
            header.flags = RouteFlags::Onlink;
            attributes.push(RouteAttribute::Oif(link));
            attributes.push(RouteAttribute::Gateway(gateway.into()));
        }
        Target::Unreachable => header.kind = RouteType::Unreachable,
    }
    message
}

/// Reads one attribute after the other, and leaves out what it can't: a host has links of newer kernels and stranger
/// kinds than the crate knows, and they are links all the same.
fn read_link(reply: &Reply) -> Option<Link> {
    let header = LinkHeader::parse(&reply.body).ok()?;
    let mut link = Link {
        index: header.index,
        name: String::new(),
        kind: String::new(),
        up: header.flags.contains(LinkFlags::Up),
        operational: false,
        loopback: header.flags.contains(LinkFlags::Loopback),
        mtu: 0,
        peer: None,
        alias: String::new(),
    };
    for nla in NlasIterator::new(reply.body.get(header.buffer_len()..)?).flatten() {
        if nla.kind() == libc::IFLA_LINKINFO {
            let mut inside = NlasIterator::new(nla.value()).flatten();
            link.kind = inside.find_map(|nla| InfoKind::parse(&nla).ok()).map(|k| k.to_string()).unwrap_or_default();
            continue;
        }
        match LinkAttribute::parse_with_param(&nla, header.interface_family) {
            Ok(LinkAttribute::IfName(name)) => link.name = name,
            Ok(LinkAttribute::Mtu(mtu)) => link.mtu = mtu,
            Ok(LinkAttribute::OperState(state)) => link.operational = state == State::Up,
            Ok(LinkAttribute::Link(peer)) => link.peer = Some(peer),
            Ok(LinkAttribute::IfAlias(alias)) => link.alias = alias,
            _ => {}
        }
    }
    Some(link)
}

fn read_address(reply: &Reply) -> Option<Address> {
    let message = AddressMessage::parse(&reply.body).map_err(unreadable).ok()?;
    // IFA_ADDRESS is the other end of a point-to-point link; IPv6 has no IFA_LOCAL there.
    let local =
        message.attributes.iter().find_map(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    let other =
        || message.attributes.iter().find_map(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None });
    Some(Address { link: message.header.index, ip: local.or_else(other)?, prefix_len: message.header.prefix_len })
}

fn read_route(reply: &Reply) -> Option<Route> {
    let message = RouteMessage::parse(&reply.body).map_err(unreadable).ok()?;
    let header = &message.header;
    if header.table != libc::RT_TABLE_MAIN {
        return None;
    }
    let zero = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let (mut destination, mut source, mut metric) = (zero, None, 0);
    let (mut link, mut gateway) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    let target = match (header.kind, link, gateway) {
        (RouteType::Unicast, Some(link), Some(gateway)) => Target::Gateway { link, gateway },
        (RouteType::Unicast, Some(link), None) => Target::Link(link),
        (RouteType::Unreachable, _, _) => Target::Unreachable,
        // Multipath and other kinds are of no use to anyone here.
        _ => return None,
    };
    let (prefix_len, protocol) = (header.destination_prefix_length, header.protocol.into());
    Some(Route { destination, prefix_len, target, source, metric, protocol })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

/// What is not understood is not ours.
fn unreadable(error: netlink_packet_core::DecodeError) {
    tracing::debug!(%error, "an rtnetlink message is not understood");
}
