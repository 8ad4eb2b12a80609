//! Which of a name's addresses is tried first: the rules of RFC 6724 that matter on a node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Sorts by what this host can reach, and keeps the servers' order among equals.
pub(crate) fn sort(addresses: &mut [IpAddr]) {
    if addresses.len() > 1 {
        addresses.sort_by_cached_key(|to| rank(*to, source(*to)));
    }
}

/// The address from which this host would send to `to`; nothing is sent.
fn source(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(to, 53)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn rank(to: IpAddr, source: Option<IpAddr>) -> u8 {
    let global = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if ip.segments()[0] & 0xe000 == 0x2000);
    match source {
        Some(source) if global(to) && global(source) => 0,
        Some(_) if to.is_ipv4() => 1,
        Some(_) => 2,
        None => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_reached_comes_first() {
        let check = |to: &str, source: Option<&str>, expect: u8| {
            let source = source.map(|ip| ip.parse().expect("an address"));
            assert_eq!(rank(to.parse().expect("an address"), source), expect, "{to} from {source:?}");
        };
        check("2001:db8::1", Some("2001:db8::2"), 0);
        check("192.0.2.1", Some("10.0.0.1"), 1);
        check("2001:db8::1", Some("fd00::1"), 2);
        check("::1", Some("::1"), 2);
        check("192.0.2.1", None, 3);
        check("2001:db8::1", None, 3);
    }

    #[test]
    fn equals_stay_in_order() {
        let mut addresses: Vec<IpAddr> = ["::1", "127.0.0.3", "127.0.0.1"].map(|ip| ip.parse().expect("ip")).into();
        sort(&mut addresses);
        assert_eq!(addresses[..2], ["127.0.0.3", "127.0.0.1"].map(|ip| ip.parse::<IpAddr>().expect("ip")));
    }
}
