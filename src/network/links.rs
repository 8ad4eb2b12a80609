//! The node's link, and the pair of links of each pod.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use skiff_linux::net::route::{self, Address, Link, Mac, Route, Target, VethPair};
use skiff_linux::net::{Protocol, Socket, netns};

use crate::leases::Lease;
use crate::{Error, NetworkOptions};

/// The node's own link: it has the gateway's and the DNS server's address, and nothing is ever sent on it.
pub(crate) const NODE_LINK: &str = "skiff0";
/// What the host's ends of pods' links are called, followed by digits.
pub(crate) const POD_LINK_PREFIX: &str = "skf";
/// The pod's end.
pub(crate) const POD_LINK: &str = "eth0";
/// Who made our routes (RTPROT_*), a number that no one else is known to use.
pub(crate) const ROUTE_PROTOCOL: u8 = 83;
/// The host's end of every pod's link; nothing asks for it, neighbours are permanent.
const HOST_MAC: Mac = [0xee; 6];
/// An empty bridge is as good as a dummy, and more kernels have it.
const NODE_LINK_KINDS: [&str; 2] = ["bridge", "dummy"];
const NODE_MAC: Mac = [0x0a, 0x58, 0, 0, 0, 1];
const ETHERNET_MTU: u32 = 1500;
const ACTIVATION_LIMIT: Duration = Duration::from_secs(2);
const ACTIVATION_PAUSE: Duration = Duration::from_micros(50);

/// The state of the thread that makes links and routes.
pub(crate) struct Links {
    socket: Socket,
    gateway: Ipv4Addr,
    mtu: u32,
}

/// The first address of the node's pod network.
pub(crate) fn gateway(options: &NetworkOptions) -> Result<Ipv4Addr, Error> {
    let gateway = options.pod_cidr.nth(1).filter(|_| options.pod_cidr.size() >= 4);
    gateway.ok_or_else(|| Error::Invalid(format!("the node's pod network {} is too small", options.pod_cidr)))
}

impl Links {
    /// Makes the node's link, its addresses and its routes.
    pub(crate) fn open(options: &NetworkOptions) -> Result<Self, Error> {
        let mut socket = Socket::open(Protocol::Route).map_err(Error::netlink("open a netlink socket"))?;
        let gateway = gateway(options)?;
        let mtu = uplink_mtu(&mut socket, options.node_ip)?;
        let mut links = Self { socket, gateway, mtu };
        links.ensure_node_link(options)?;
        Ok(links)
    }

    fn ensure_node_link(&mut self, options: &NetworkOptions) -> Result<(), Error> {
        let socket = &mut self.socket;
        let mut made = Ok(());
        for kind in NODE_LINK_KINDS {
            made = route::add_link(socket, kind, NODE_LINK, NODE_MAC);
            match &made {
                Err(error) if error.errno == Errno::EOPNOTSUPP => tracing::info!(kind, "the kernel has no such links"),
                _ => break,
            }
        }
        match made {
            Err(error) if !error.is_exists() => {
                let what = format!("make the link {NODE_LINK} (a kernel module 'bridge' or 'dummy' is needed)");
                return Err(Error::netlink(what)(error));
            }
            _ => {}
        }
        let link = route::link_by_name(socket, NODE_LINK).map_err(Error::netlink(format!("read {NODE_LINK}")))?;
        let link = link.ok_or_else(|| Error::Invalid(format!("the link {NODE_LINK} is gone again")))?.index;
        let failed = |what: String| Error::netlink(format!("{what} {NODE_LINK}"));
        let wanted = [self.gateway, options.dns_ip].map(|ip| Address { link, ip: ip.into(), prefix_len: 32 });
        for old in route::addresses(socket).map_err(failed("read the addresses of".to_owned()))? {
            if old.link == link && old.ip.is_ipv4() && !wanted.contains(&old) {
                route::delete_address(socket, &old).map_err(failed(format!("remove {} from", old.ip)))?;
            }
        }
        for address in wanted {
            route::add_address(socket, &address).map_err(failed(format!("put {} on", address.ip)))?;
        }
        route::set_up(socket, link).map_err(failed("start".to_owned()))?;
        let routes = node_routes(options, self.gateway, link);
        self.ensure_routes(&routes, |old| old.prefix_len < 32)
    }

    /// Makes `wanted`, and removes what else of ours is `in_scope`.
    fn ensure_routes(&mut self, wanted: &[Route], in_scope: impl Fn(&Route) -> bool) -> Result<(), Error> {
        let present = route::routes(&mut self.socket).map_err(Error::netlink("read the routes"))?;
        for old in &present {
            if old.protocol == ROUTE_PROTOCOL && in_scope(old) && !wanted.contains(old) {
                route::delete_route(&mut self.socket, old).map_err(Error::netlink("remove a route"))?;
            }
        }
        for route in wanted.iter().filter(|r| !present.contains(r)) {
            let what = format!("make the route to {}/{}", route.destination, route.prefix_len);
            route::replace_route(&mut self.socket, route).map_err(Error::netlink(what))?;
        }
        Ok(())
    }

    /// Gives the pod's namespace its link, address and routes. What is there already stays.
    pub(crate) fn attach(&mut self, lease: &Lease, namespace: &Path) -> Result<(), Error> {
        if !netns::is_namespace(namespace).map_err(Error::io(format!("look at {}", namespace.display())))? {
            return Err(Error::Invalid(format!("{} is not a network namespace but a plain file", namespace.display())));
        }
        let name = link_name(&lease.sandbox_id);
        let pod = Pod { address: lease.address, gateway: self.gateway };
        let link = self.ensure_pair(&name, lease, namespace)?;
        let inside = netns::within(namespace, move || pod.configure());
        inside.map_err(Error::io(format!("set up the network of {}", namespace.display())))?;
        let route = Route {
            destination: lease.address.into(),
            prefix_len: 32,
            target: Target::Link(link),
            source: Some(self.gateway.into()),
            metric: 0,
            protocol: ROUTE_PROTOCOL,
        };
        route::replace_neighbour(&mut self.socket, link, lease.address.into(), pod_mac(lease.address))
            .map_err(Error::netlink(format!("make the neighbour {}", lease.address)))?;
        route::replace_route(&mut self.socket, &route)
            .map_err(Error::netlink(format!("make the route to {}", lease.address)))?;
        self.await_activation(&name)
    }

    /// When a link's other end comes up, the kernel activates its queue in the background, mostly within
    /// microseconds; what is sent before is lost. A lost first packet costs TCP a second, and DNS five.
    fn await_activation(&mut self, name: &str) -> Result<(), Error> {
        let since = Instant::now();
        while since.elapsed() < ACTIVATION_LIMIT {
            let link = route::link_by_name(&mut self.socket, name).map_err(Error::netlink(format!("read {name}")))?;
            if link.is_none_or(|link| link.operational) {
                return Ok(());
            }
            std::thread::sleep(ACTIVATION_PAUSE);
        }
        tracing::warn!(link = name, "the link of a pod is slow to come up");
        Ok(())
    }

    /// The host's end of a pair whose other end is `eth0` in `namespace`.
    fn ensure_pair(&mut self, name: &str, lease: &Lease, namespace: &Path) -> Result<u32, Error> {
        let failed = || Error::netlink(format!("make the link {name}"));
        let file = File::open(namespace).map_err(Error::io(format!("open {}", namespace.display())))?;
        let pair = VethPair {
            name,
            mac: HOST_MAC,
            alias: &lease.sandbox_id,
            mtu: self.mtu,
            peer_name: POD_LINK,
            peer_mac: pod_mac(lease.address),
            peer_namespace: file.as_fd(),
        };
        match route::add_veth(&mut self.socket, &pair) {
            Err(error) if error.is_exists() => {}
            made => {
                made.map_err(failed())?;
                return self
                    .index_of(name)
                    .map_err(failed())?
                    .ok_or_else(|| Error::Invalid(format!("{name} is gone again")));
            }
        }
        // One end, or both, are there: from an earlier attach, or left by a crash.
        let host = self.index_of(name).map_err(failed())?;
        let inside = netns::within(namespace, || {
            let mut socket = Socket::open(Protocol::Route)?;
            Ok(route::link_by_name(&mut socket, POD_LINK)?)
        });
        let inside = inside.map_err(Error::io(format!("look into {}", namespace.display())))?;
        match (host, inside) {
            (Some(host), Some(peer)) if peer.peer == Some(host) => return Ok(host),
            (host, inside) => self.remove_halves(host, inside, namespace)?,
        }
        route::add_veth(&mut self.socket, &pair).map_err(failed())?;
        self.index_of(name).map_err(failed())?.ok_or_else(|| Error::Invalid(format!("{name} is gone again")))
    }

    fn remove_halves(&mut self, host: Option<u32>, inside: Option<Link>, namespace: &Path) -> Result<(), Error> {
        tracing::warn!(namespace = %namespace.display(), "removing links that do not belong together");
        if let Some(host) = host {
            route::delete_link(&mut self.socket, host).map_err(Error::netlink("remove a pod's link"))?;
        }
        let Some(inside) = inside else { return Ok(()) };
        let removed = netns::within(namespace, move || {
            let mut socket = Socket::open(Protocol::Route)?;
            Ok(route::delete_link(&mut socket, inside.index)?)
        });
        removed.map_err(Error::io(format!("remove a link from {}", namespace.display())))
    }

    fn index_of(&mut self, name: &str) -> skiff_linux::net::Result<Option<u32>> {
        Ok(route::link_by_name(&mut self.socket, name)?.map(|link| link.index))
    }

    /// Takes the route away. The link ends with its namespace: deleting it would cost 20 ms.
    pub(crate) fn detach(&mut self, lease: &Lease) -> Result<(), Error> {
        let what = format!("remove the route to {}", lease.address);
        let Some(link) = self.index_of(&link_name(&lease.sandbox_id)).map_err(Error::netlink(what.clone()))? else {
            return Ok(());
        };
        let route = Route {
            destination: lease.address.into(),
            prefix_len: 32,
            target: Target::Link(link),
            source: None,
            metric: 0,
            protocol: ROUTE_PROTOCOL,
        };
        route::delete_route(&mut self.socket, &route).map_err(Error::netlink(what))
    }

    /// Removes the pods' links that no lease names, and the routes that lead to no pod.
    pub(crate) fn retain(&mut self, leases: &[Lease]) -> Result<(), Error> {
        let names: Vec<String> = leases.iter().map(|lease| link_name(&lease.sandbox_id)).collect();
        for link in pod_links(&mut self.socket)? {
            if !names.contains(&link.name) {
                tracing::info!(link = link.name, sandbox = link.alias, "removing the link of a pod that is gone");
                route::delete_link(&mut self.socket, link.index).map_err(Error::netlink("remove a pod's link"))?;
            }
        }
        let present = route::routes(&mut self.socket).map_err(Error::netlink("read the routes"))?;
        for old in present.iter().filter(|r| r.protocol == ROUTE_PROTOCOL && r.prefix_len == 32) {
            if !leases.iter().any(|lease| IpAddr::V4(lease.address) == old.destination) {
                route::delete_route(&mut self.socket, old).map_err(Error::netlink("remove a route"))?;
            }
        }
        Ok(())
    }
}

/// Removes every link and route of ours, and goes on after failures.
pub(crate) fn remove_all() -> Vec<Error> {
    let mut socket = match Socket::open(Protocol::Route) {
        Ok(socket) => socket,
        Err(error) => return vec![Error::netlink("open a netlink socket")(error)],
    };
    let mut errors = Vec::new();
    match route::routes(&mut socket) {
        Ok(routes) => {
            for old in routes.iter().filter(|r| r.protocol == ROUTE_PROTOCOL) {
                errors.extend(route::delete_route(&mut socket, old).map_err(Error::netlink("remove a route")).err());
            }
        }
        Err(error) => errors.push(Error::netlink("read the routes")(error)),
    }
    let links = route::links(&mut socket).map_err(Error::netlink("read the links"));
    for link in links.map_err(|error| errors.push(error)).unwrap_or_default() {
        if link.name == NODE_LINK || is_pod_link(&link) {
            let what = format!("remove the link {}", link.name);
            errors.extend(route::delete_link(&mut socket, link.index).map_err(Error::netlink(what)).err());
        }
    }
    errors
}

fn pod_links(socket: &mut Socket) -> Result<Vec<Link>, Error> {
    let links = route::links(socket).map_err(Error::netlink("read the links"))?;
    Ok(links.into_iter().filter(is_pod_link).collect())
}

fn is_pod_link(link: &Link) -> bool {
    let digits = link.name.strip_prefix(POD_LINK_PREFIX);
    link.kind == "veth" && digits.is_some_and(|d| d.len() == 12 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The routes of a node with no pods: services by the node's link (they are translated before they get
/// there; the route gives packets of the host itself a source that pods can answer), and an error at
/// once for what is sent to a pod that is gone.
fn node_routes(options: &NetworkOptions, gateway: Ipv4Addr, link: u32) -> [Route; 2] {
    let to = |cidr: &crate::Cidr, target, source| Route {
        destination: cidr.nth(0).unwrap_or(cidr.address).into(),
        prefix_len: cidr.prefix_len,
        target,
        source,
        metric: 0,
        protocol: ROUTE_PROTOCOL,
    };
    [
        to(&options.service_cidr, Target::Link(link), Some(gateway.into())),
        to(&options.pod_cidr, Target::Unreachable, None),
    ]
}

/// The largest packet of the way out of this node: of the link with the default route, or else of
/// the link that has the node's address.
fn uplink_mtu(socket: &mut Socket, node_ip: Ipv4Addr) -> Result<u32, Error> {
    let failed = || Error::netlink("find the node's uplink");
    let routes = route::routes(socket).map_err(failed())?;
    let default = routes.iter().filter(|r| r.prefix_len == 0 && r.destination.is_ipv4()).min_by_key(|r| r.metric);
    let uplink = match default.map(|r| r.target) {
        Some(Target::Link(link) | Target::Gateway { link, .. }) => Some(link),
        _ => route::addresses(socket).map_err(failed())?.iter().find(|a| a.ip == node_ip).map(|a| a.link),
    };
    let links = route::links(socket).map_err(failed())?;
    let found = links.iter().find(|link| Some(link.index) == uplink && !link.loopback);
    Ok(found.map_or(ETHERNET_MTU, |link| link.mtu))
}

/// The pod's side, done in its namespace.
struct Pod {
    address: Ipv4Addr,
    gateway: Ipv4Addr,
}

impl Pod {
    fn configure(&self) -> io::Result<()> {
        let mut socket = Socket::open(Protocol::Route)?;
        let link = route::link_by_name(&mut socket, POD_LINK)?;
        let link = link.ok_or_else(|| io::Error::other(format!("the pod's {POD_LINK} is gone again")))?.index;
        route::set_up(&mut socket, 1)?;
        route::add_address(&mut socket, &Address { link, ip: self.address.into(), prefix_len: 32 })?;
        route::set_up(&mut socket, link)?;
        route::replace_neighbour(&mut socket, link, self.gateway.into(), HOST_MAC)?;
        let default = Route {
            destination: Ipv4Addr::UNSPECIFIED.into(),
            prefix_len: 0,
            target: Target::Gateway { link, gateway: self.gateway.into() },
            source: None,
            metric: 0,
            protocol: ROUTE_PROTOCOL,
        };
        Ok(route::replace_route(&mut socket, &default)?)
    }
}

/// Unique per sandbox, and within the 15 letters of a link's name.
pub(crate) fn link_name(sandbox_id: &str) -> String {
    format!("{POD_LINK_PREFIX}{:012x}", crate::names::hash(sandbox_id) & 0xffff_ffff_ffff)
}

/// Follows from the address, so that the host need not ask.
fn pod_mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_are_stable_and_short() {
        assert_eq!(link_name("0123456789abcdef").len(), 15);
        assert_eq!(link_name("a"), link_name("a"));
        assert_ne!(link_name("a"), link_name("b"));
    }

    #[test]
    fn services_go_by_the_node_link_and_dead_pods_are_refused() {
        let options = crate::packets::options();
        let routes = node_routes(&options, Ipv4Addr::new(10, 42, 0, 1), 7);
        let told: Vec<_> = routes.iter().map(|r| (r.destination.to_string(), r.prefix_len, r.target)).collect();
        assert_eq!(
            told,
            [("10.43.0.0".to_owned(), 16, Target::Link(7)), ("10.42.0.0".to_owned(), 24, Target::Unreachable)]
        );
    }
}
