//! rtnetlink: links, addresses, routes, neighbours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::message::{Attributes, Reply, read_u32};
use super::socket::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Result, Socket};

const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
const VETH_INFO_PEER: u16 = 1;
const IF_OPER_UP: u8 = 6;
const RTNH_F_ONLINK: u32 = 4;

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
    let replies = socket.dump(libc::RTM_GETLINK, &link_header(0, 0), |_| {})?;
    Ok(replies.iter().filter(|r| r.kind == libc::RTM_NEWLINK).filter_map(read_link).collect())
}

pub fn link_by_name(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    let found = socket.query(libc::RTM_GETLINK, &link_header(0, 0), |a| {
        a.string(libc::IFLA_IFNAME, name);
    });
    match found {
        Ok(reply) => Ok(reply.as_ref().and_then(read_link)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a link of a kind that needs no more: `bridge`, `dummy`.
pub fn add_link(socket: &mut Socket, kind: &str, name: &str, mac: Mac) -> Result<()> {
    socket.request(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link_header(0, 0), |a| {
        a.string(libc::IFLA_IFNAME, name).bytes(libc::IFLA_ADDRESS, &mac);
        a.nested(libc::IFLA_LINKINFO, |info| {
            info.string(libc::IFLA_INFO_KIND, kind);
        });
    })
}

/// Makes both ends where they are to be, which costs a twentieth of making and moving them. The
/// peer is down.
pub fn add_veth(socket: &mut Socket, pair: &VethPair<'_>) -> Result<()> {
    let up = link_header(0, libc::IFF_UP as u32);
    socket.request(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &up, |a| {
        a.string(libc::IFLA_IFNAME, pair.name).bytes(libc::IFLA_ADDRESS, &pair.mac).u32(libc::IFLA_MTU, pair.mtu);
        a.nested(libc::IFLA_LINKINFO, |info| {
            info.string(libc::IFLA_INFO_KIND, "veth");
            info.nested(libc::IFLA_INFO_DATA, |data| {
                data.container(VETH_INFO_PEER, &link_header(0, 0), |peer| {
                    peer.string(libc::IFLA_IFNAME, pair.peer_name).bytes(libc::IFLA_ADDRESS, &pair.peer_mac);
                    peer.u32(libc::IFLA_MTU, pair.mtu);
                    peer.u32(libc::IFLA_NET_NS_FD, pair.peer_namespace.as_raw_fd().cast_unsigned());
                });
            });
        });
    })?;
    // The alias is not taken while a link is made.
    socket.request(libc::RTM_NEWLINK, 0, &link_header(0, 0), |a| {
        a.string(libc::IFLA_IFNAME, pair.name).bytes(libc::IFLA_IFALIAS, pair.alias.as_bytes());
    })
}

pub fn set_up(socket: &mut Socket, link: u32) -> Result<()> {
    socket.request(libc::RTM_NEWLINK, 0, &link_header(link, libc::IFF_UP as u32), |_| {})
}

/// Costs up to 20 ms for a veth. One that is gone is fine.
pub fn delete_link(socket: &mut Socket, link: u32) -> Result<()> {
    forgive_gone(socket.request(libc::RTM_DELLINK, 0, &link_header(link, 0), |_| {}))
}

pub fn addresses(socket: &mut Socket) -> Result<Vec<Address>> {
    let replies = socket.dump(libc::RTM_GETADDR, &[0; ADDRESS_HEADER], |_| {})?;
    Ok(replies.iter().filter(|r| r.kind == libc::RTM_NEWADDR).filter_map(read_address).collect())
}

/// One that is there already is fine.
pub fn add_address(socket: &mut Socket, address: &Address) -> Result<()> {
    // An IPv6 address would not be usable until duplicates were looked for; ours have none.
    let flags = if address.ip.is_ipv6() { libc::IFA_F_NODAD as u8 } else { 0 };
    let header = address_header(address, flags);
    let added = socket.request(libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &header, |a| {
        put_ip(a, libc::IFA_LOCAL, address.ip);
        put_ip(a, libc::IFA_ADDRESS, address.ip);
    });
    if matches!(&added, Err(e) if e.is_exists()) { Ok(()) } else { added }
}

/// One that is gone is fine.
pub fn delete_address(socket: &mut Socket, address: &Address) -> Result<()> {
    forgive_gone(socket.request(libc::RTM_DELADDR, 0, &address_header(address, 0), |a| {
        put_ip(a, libc::IFA_LOCAL, address.ip);
    }))
}

/// The routes of the main table.
pub fn routes(socket: &mut Socket) -> Result<Vec<Route>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let header = [family as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        // A kernel without IPv6 refuses the second question.
        let replies = match socket.dump(libc::RTM_GETROUTE, &header, |_| {}) {
            Err(_) if family == libc::AF_INET6 => continue,
            replies => replies?,
        };
        found.extend(replies.iter().filter(|r| r.kind == libc::RTM_NEWROUTE).filter_map(read_route));
    }
    Ok(found)
}

/// Makes the route, in place of one with the same destination and metric.
pub fn replace_route(socket: &mut Socket, route: &Route) -> Result<()> {
    socket.request(libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &route_header(route), |a| put_route(a, route))
}

/// One that is gone is fine.
pub fn delete_route(socket: &mut Socket, route: &Route) -> Result<()> {
    forgive_gone(socket.request(libc::RTM_DELROUTE, 0, &route_header(route), |a| put_route(a, route)))
}

/// A neighbour that is never asked for: `ip` on `link` has the address `mac`.
pub fn replace_neighbour(socket: &mut Socket, link: u32, ip: IpAddr, mac: Mac) -> Result<()> {
    let header = neighbour_header(family(ip), link);
    socket.request(libc::RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &header, |a| {
        put_ip(a, libc::NDA_DST, ip);
        a.bytes(libc::NDA_LLADDR, &mac);
    })
}

fn forgive_gone(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_gone() => Ok(()),
        result => result,
    }
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn put_ip(attributes: &mut Attributes<'_>, kind: u16, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => attributes.bytes(kind, &ip.octets()),
        IpAddr::V6(ip) => attributes.bytes(kind, &ip.octets()),
    };
}

fn get_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))),
        16 => Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))),
        _ => None,
    }
}

/// `struct ifinfomsg`; the flags given are set, no other is changed.
fn link_header(index: u32, flags: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// `struct ifaddrmsg`
fn address_header(address: &Address, flags: u8) -> [u8; ADDRESS_HEADER] {
    let mut header = [family(address.ip), address.prefix_len, flags, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&address.link.to_ne_bytes());
    header
}

/// `struct rtmsg`
fn route_header(route: &Route) -> [u8; ROUTE_HEADER] {
    let (kind, scope, flags) = match route.target {
        Target::Link(_) if route.destination.is_ipv4() => (libc::RTN_UNICAST, libc::RT_SCOPE_LINK, 0),
        Target::Link(_) => (libc::RTN_UNICAST, libc::RT_SCOPE_UNIVERSE, 0),
        Target::Gateway { .. } => (libc::RTN_UNICAST, libc::RT_SCOPE_UNIVERSE, RTNH_F_ONLINK),
        Target::Unreachable => (libc::RTN_UNREACHABLE, libc::RT_SCOPE_UNIVERSE, 0),
    };
    let (family, main) = (family(route.destination), libc::RT_TABLE_MAIN);
    let mut header = [family, route.prefix_len, 0, 0, main, route.protocol, scope, kind, 0, 0, 0, 0];
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header
}

fn put_route(attributes: &mut Attributes<'_>, route: &Route) {
    if route.prefix_len > 0 {
        put_ip(attributes, libc::RTA_DST, route.destination);
    }
    if route.metric > 0 {
        attributes.u32(libc::RTA_PRIORITY, route.metric);
    }
    if let Some(source) = route.source {
        put_ip(attributes, libc::RTA_PREFSRC, source);
    }
    match route.target {
        Target::Link(link) => {
            attributes.u32(libc::RTA_OIF, link);
        }
        Target::Gateway { link, gateway } => {
            attributes.u32(libc::RTA_OIF, link);
            put_ip(attributes, libc::RTA_GATEWAY, gateway);
        }
        Target::Unreachable => {}
    }
}

/// `struct ndmsg`
fn neighbour_header(family: u8, link: u32) -> [u8; 12] {
    let mut header = [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header[8..10].copy_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
    header
}

fn read_link(reply: &Reply) -> Option<Link> {
    let flags = read_u32(reply.body.get(8..)?)?;
    let mut link = Link {
        index: read_u32(reply.body.get(4..)?)?,
        name: String::new(),
        kind: String::new(),
        up: flags & libc::IFF_UP as u32 != 0,
        operational: false,
        loopback: flags & libc::IFF_LOOPBACK as u32 != 0,
        mtu: 0,
        peer: None,
        alias: String::new(),
    };
    for attribute in reply.attributes(LINK_HEADER) {
        match attribute.kind {
            libc::IFLA_IFNAME => link.name = attribute.string().to_owned(),
            libc::IFLA_MTU => link.mtu = attribute.u32()?,
            libc::IFLA_OPERSTATE => link.operational = attribute.value == [IF_OPER_UP],
            libc::IFLA_LINK => link.peer = attribute.u32(),
            libc::IFLA_IFALIAS => link.alias = attribute.string().to_owned(),
            libc::IFLA_LINKINFO => {
                let kind = attribute.children().find(|a| a.kind == libc::IFLA_INFO_KIND);
                link.kind = kind.map(|a| a.string().to_owned()).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

fn read_address(reply: &Reply) -> Option<Address> {
    // IFA_ADDRESS is the other end of a point-to-point link; IPv6 has no IFA_LOCAL there.
    let ip = reply.attribute(ADDRESS_HEADER, libc::IFA_LOCAL);
    let ip = ip.or_else(|| reply.attribute(ADDRESS_HEADER, libc::IFA_ADDRESS))?;
    Some(Address { link: read_u32(reply.body.get(4..)?)?, ip: get_ip(ip)?, prefix_len: *reply.body.get(1)? })
}

fn read_route(reply: &Reply) -> Option<Route> {
    let [family, prefix_len, _, _, table, protocol, _, kind] = *reply.body.first_chunk::<8>()?;
    if table != libc::RT_TABLE_MAIN {
        return None;
    }
    let zero = if i32::from(family) == libc::AF_INET {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let ip = |kind| reply.attribute(ROUTE_HEADER, kind).and_then(get_ip);
    let number = |kind| reply.attribute(ROUTE_HEADER, kind).and_then(read_u32);
    let target = match (kind, number(libc::RTA_OIF), ip(libc::RTA_GATEWAY)) {
        (libc::RTN_UNICAST, Some(link), Some(gateway)) => Target::Gateway { link, gateway },
        (libc::RTN_UNICAST, Some(link), None) => Target::Link(link),
        (libc::RTN_UNREACHABLE, _, _) => Target::Unreachable,
        // Multipath and other kinds are of no use to anyone here.
        _ => return None,
    };
    Some(Route {
        destination: ip(libc::RTA_DST).unwrap_or(zero),
        prefix_len,
        target,
        source: ip(libc::RTA_PREFSRC),
        metric: number(libc::RTA_PRIORITY).unwrap_or(0),
        protocol,
    })
}
