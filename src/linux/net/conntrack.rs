//! Dropping tracked connections that would go on being sent to an endpoint that is gone.

use std::net::Ipv4Addr;

use super::message::{Attribute, Attributes, Reply, attributes};
use super::socket::{Result, Socket};

const SUBSYSTEM: u16 = 1 << 8;
const CT_GET: u16 = SUBSYSTEM | 1;
const CT_DELETE: u16 = SUBSYSTEM | 2;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const FILTER: u16 = 25;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
const FILTER_IP_SRC: u32 = 1;
const FILTER_IP_DST: u32 = 1 << 1;
const FILTER_PROTO_NUM: u32 = 1 << 3;
const FILTER_PROTO_SRC_PORT: u32 = 1 << 4;
const FILTER_PROTO_DST_PORT: u32 = 1 << 5;

/// `struct nfgenmsg` for IPv4.
const HEADER: [u8; 4] = [libc::AF_INET as u8, 0, 0, 0];

/// Connections to `port`, at `address` or at any, that were sent on to `endpoint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Forwarded {
    /// IPPROTO_*.
    pub protocol: u8,
    pub address: Option<Ipv4Addr>,
    pub port: u16,
    pub endpoint: Ipv4Addr,
    pub endpoint_port: u16,
}

/// Forgets the connections, so that their next packet is looked at anew.
pub fn forget(socket: &mut Socket, connections: &Forwarded) -> Result<()> {
    match socket.request(CT_DELETE, 0, &HEADER, |a| put_filter(a, connections)) {
        Ok(()) => Ok(()),
        // Kernels before 5.8 know no filter.
        Err(_) => forget_one_by_one(socket, connections),
    }
}

/// The same by looking through the whole table.
fn forget_one_by_one(socket: &mut Socket, connections: &Forwarded) -> Result<()> {
    for entry in socket.dump(CT_GET, &HEADER, |_| {})? {
        if !matches(&entry, connections) {
            continue;
        }
        let Some(tuple) = entry.attribute(HEADER.len(), TUPLE_ORIG) else { continue };
        match socket.request(CT_DELETE, 0, &HEADER, |a| put_raw_nested(a, TUPLE_ORIG, tuple)) {
            Err(error) if !error.is_gone() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn put_raw_nested(a: &mut Attributes<'_>, kind: u16, content: &[u8]) {
    a.container(kind | 1 << 15, content, |_| {});
}

fn put_filter(a: &mut Attributes<'_>, c: &Forwarded) {
    a.nested(TUPLE_ORIG, |tuple| {
        if let Some(address) = c.address {
            tuple.nested(TUPLE_IP, |ip| {
                ip.bytes(IP_V4_DST, &address.octets());
            });
        }
        tuple.nested(TUPLE_PROTO, |proto| {
            proto.u8(PROTO_NUM, c.protocol).be16(PROTO_DST_PORT, c.port);
        });
    });
    a.nested(TUPLE_REPLY, |tuple| {
        tuple.nested(TUPLE_IP, |ip| {
            ip.bytes(IP_V4_SRC, &c.endpoint.octets());
        });
        tuple.nested(TUPLE_PROTO, |proto| {
            proto.u8(PROTO_NUM, c.protocol).be16(PROTO_SRC_PORT, c.endpoint_port);
        });
    });
    let address = if c.address.is_some() { FILTER_IP_DST } else { 0 };
    a.nested(FILTER, |filter| {
        filter.u32(FILTER_ORIG_FLAGS, address | FILTER_PROTO_NUM | FILTER_PROTO_DST_PORT);
        filter.u32(FILTER_REPLY_FLAGS, FILTER_IP_SRC | FILTER_PROTO_NUM | FILTER_PROTO_SRC_PORT);
    });
}

#[derive(Debug, Default)]
struct Tuple {
    source: Option<Ipv4Addr>,
    destination: Option<Ipv4Addr>,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
}

fn matches(entry: &Reply, c: &Forwarded) -> bool {
    let tuple = |kind| entry.attribute(HEADER.len(), kind).map(read_tuple).unwrap_or_default();
    let (original, reply) = (tuple(TUPLE_ORIG), tuple(TUPLE_REPLY));
    original.protocol == c.protocol
        && original.destination_port == c.port
        && c.address.is_none_or(|address| original.destination == Some(address))
        && reply.source == Some(c.endpoint)
        && reply.source_port == c.endpoint_port
}

fn read_tuple(bytes: &[u8]) -> Tuple {
    let mut tuple = Tuple::default();
    for group in attributes(bytes) {
        for Attribute { kind, value } in group.children() {
            match (group.kind, kind, value) {
                (TUPLE_IP, IP_V4_SRC, &[a, b, c, d]) => tuple.source = Some(Ipv4Addr::new(a, b, c, d)),
                (TUPLE_IP, IP_V4_DST, &[a, b, c, d]) => tuple.destination = Some(Ipv4Addr::new(a, b, c, d)),
                (TUPLE_PROTO, PROTO_NUM, &[number, ..]) => tuple.protocol = number,
                (TUPLE_PROTO, PROTO_SRC_PORT, &[high, low]) => tuple.source_port = u16::from_be_bytes([high, low]),
                (TUPLE_PROTO, PROTO_DST_PORT, &[high, low]) => tuple.destination_port = u16::from_be_bytes([high, low]),
                _ => {}
            }
        }
    }
    tuple
}
