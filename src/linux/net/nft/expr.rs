use std::net::Ipv4Addr;

use crate::net::message::{Attribute, Attributes};

const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const LIST_ELEM: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// Registers are named by their 32-bit number; a value of more bytes takes the following ones too.
const FIRST_REGISTER: u32 = 8;
const VERDICT_REGISTER: u32 = 0;
const NAT_DNAT: u32 = 1;
const NAT_RANDOM_FULLY: u32 = 1 << 4;
const RTN_LOCAL: u32 = 2;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    Network = 1,
    Transport = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaKey {
    Mark = 3,
    InputName = 6,
    OutputName = 7,
    L4Protocol = 16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CtKey {
    State = 0,
    Status = 2,
    DestinationIp = 20,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    Equal = 0,
    NotEqual = 1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FibOf {
    Source = 1,
    Destination = 2,
}

/// One step of a rule. `to` and `from` are registers, counted in 32-bit words from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    Payload {
        base: Base,
        offset: u32,
        len: u32,
        to: u32,
    },
    Meta {
        key: MetaKey,
        to: u32,
    },
    SetMark {
        from: u32,
    },
    Ct {
        key: CtKey,
        original: bool,
        to: u32,
    },
    Compare {
        op: Compare,
        from: u32,
        value: Vec<u8>,
    },
    /// `to = (from & mask) ^ xor`
    Bitwise {
        from: u32,
        to: u32,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    Immediate {
        to: u32,
        value: Vec<u8>,
    },
    Verdict(Verdict),
    /// Goes on only when the set has (or with `absent`, lacks) the value.
    InSet {
        set: String,
        from: u32,
        absent: bool,
    },
    /// Puts what the map has for the value in a register.
    Map {
        map: String,
        from: u32,
        to: u32,
    },
    /// Does what the verdict map has for the value.
    VerdictMap {
        map: String,
        from: u32,
    },
    /// The type of an address (RTN_*) in the host's order.
    AddressType {
        of: FibOf,
        to: u32,
    },
    /// A random number in `offset..offset + modulus`, in the host's order.
    Random {
        modulus: u32,
        offset: u32,
        to: u32,
    },
    Dnat {
        family: u8,
        address: u32,
        port: Option<u32>,
    },
    Masquerade,
    /// ICMP port unreachable.
    Reject,
    /// A TCP reset.
    Reset,
    /// Puts the value in a set, or starts its time anew.
    Remember {
        set: String,
        from: u32,
        timeout_ms: u64,
    },
}

impl Expr {
    pub(super) fn write(&self, list: &mut Attributes<'_>) {
        list.nested(LIST_ELEM, |a| {
            a.string(EXPR_NAME, self.name());
            a.nested(EXPR_DATA, |data| self.write_data(data));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Payload { .. } => "payload",
            Self::Meta { .. } | Self::SetMark { .. } => "meta",
            Self::Ct { .. } => "ct",
            Self::Compare { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::InSet { .. } | Self::Map { .. } | Self::VerdictMap { .. } => "lookup",
            Self::AddressType { .. } => "fib",
            Self::Random { .. } => "numgen",
            Self::Dnat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Reject | Self::Reset => "reject",
            Self::Remember { .. } => "dynset",
        }
    }

    fn write_data(&self, a: &mut Attributes<'_>) {
        match self {
            Self::Payload { base, offset, len, to } => {
                a.be32(1, reg(*to)).be32(2, *base as u32).be32(3, *offset).be32(4, *len);
            }
            Self::Meta { key, to } => {
                a.be32(1, reg(*to)).be32(2, *key as u32);
            }
            Self::SetMark { from } => {
                a.be32(2, MetaKey::Mark as u32).be32(3, reg(*from));
            }
            Self::Ct { key, original, to } => {
                a.be32(1, reg(*to)).be32(2, *key as u32);
                if *original {
                    a.u8(3, 0);
                }
            }
            Self::Compare { op, from, value } => {
                a.be32(1, reg(*from)).be32(2, *op as u32);
                write_value(a, 3, value);
            }
            Self::Bitwise { from, to, mask, xor } => {
                a.be32(1, reg(*from)).be32(2, reg(*to)).be32(3, u32::try_from(mask.len()).expect("a register's size"));
                write_value(a, 4, mask);
                write_value(a, 5, xor);
            }
            Self::Immediate { to, value } => {
                a.be32(1, reg(*to));
                write_value(a, 2, value);
            }
            Self::Verdict(verdict) => {
                a.be32(1, VERDICT_REGISTER);
                write_verdict(a, 2, verdict);
            }
            Self::InSet { set, from, absent } => {
                a.string(1, set).be32(2, reg(*from));
                if *absent {
                    a.be32(5, 1);
                }
            }
            Self::Map { map, from, to } => {
                a.string(1, map).be32(2, reg(*from)).be32(3, reg(*to));
            }
            Self::VerdictMap { map, from } => {
                a.string(1, map).be32(2, reg(*from)).be32(3, VERDICT_REGISTER);
            }
            Self::AddressType { of, to } => {
                a.be32(1, reg(*to)).be32(2, 3).be32(3, *of as u32);
            }
            Self::Random { modulus, offset, to } => {
                a.be32(1, reg(*to)).be32(2, *modulus).be32(3, 1).be32(4, *offset);
            }
            Self::Dnat { family, address, port } => {
                a.be32(1, NAT_DNAT).be32(2, u32::from(*family)).be32(3, reg(*address));
                if let Some(port) = port {
                    a.be32(5, reg(*port));
                }
            }
            Self::Masquerade => {
                a.be32(1, NAT_RANDOM_FULLY);
            }
            Self::Reject => {
                // NFT_REJECT_ICMP_UNREACH with ICMP_PORT_UNREACH
                a.be32(1, 0).u8(2, 3);
            }
            Self::Reset => {
                a.be32(1, 1).u8(2, 0);
            }
            Self::Remember { set, from, timeout_ms } => {
                a.string(1, set).be32(3, 1).be32(4, reg(*from)).be64(6, *timeout_ms);
            }
        }
    }
}

fn reg(number: u32) -> u32 {
    FIRST_REGISTER + number
}

pub(super) fn write_value(a: &mut Attributes<'_>, kind: u16, value: &[u8]) {
    a.nested(kind, |data| {
        data.bytes(DATA_VALUE, value);
    });
}

pub(super) fn read_value(data: &Attribute<'_>) -> Option<Vec<u8>> {
    data.children().find(|a| a.kind == DATA_VALUE).map(|a| a.value.to_vec())
}

pub(super) fn read_verdict(data: &Attribute<'_>) -> Option<Verdict> {
    let verdict = data.children().find(|a| a.kind == DATA_VERDICT)?;
    let part = |kind| verdict.children().find(|a| a.kind == kind);
    let chain = part(VERDICT_CHAIN).map(|a| a.string().to_owned());
    let code = i32::from_be_bytes(part(VERDICT_CODE)?.value.try_into().ok()?);
    match (code, chain) {
        (0, None) => Some(Verdict::Drop),
        (1, None) => Some(Verdict::Accept),
        (-5, None) => Some(Verdict::Return),
        (-3, Some(chain)) => Some(Verdict::Jump(chain)),
        (-4, Some(chain)) => Some(Verdict::Goto(chain)),
        _ => None,
    }
}

pub(super) fn write_verdict(a: &mut Attributes<'_>, kind: u16, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Return => (-5, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4_i32, Some(chain)),
    };
    a.nested(kind, |data| {
        data.nested(DATA_VERDICT, |v| {
            v.be32(VERDICT_CODE, code.cast_unsigned());
            if let Some(chain) = chain {
                v.string(VERDICT_CHAIN, chain);
            }
        });
    });
}

/// A rule, built step by step: what does not match ends it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    pub exprs: Vec<Expr>,
    pub comment: Option<String>,
}

impl Rule {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn then(mut self, expr: Expr) -> Self {
        self.exprs.push(expr);
        self
    }

    pub fn comment(mut self, text: &str) -> Self {
        self.comment = Some(text.to_owned());
        self
    }

    pub fn verdict(self, verdict: Verdict) -> Self {
        self.then(Expr::Verdict(verdict))
    }

    /// Loads the IPv4 source address.
    pub fn load_source(self, to: u32) -> Self {
        self.then(Expr::Payload { base: Base::Network, offset: 12, len: 4, to })
    }

    /// Loads the IPv4 destination address.
    pub fn load_destination(self, to: u32) -> Self {
        self.then(Expr::Payload { base: Base::Network, offset: 16, len: 4, to })
    }

    /// Loads the transport protocol and the destination port, which all of them have at one place.
    pub fn load_protocol_and_port(self, to: u32) -> Self {
        self.then(Expr::Meta { key: MetaKey::L4Protocol, to }).then(Expr::Payload {
            base: Base::Transport,
            offset: 2,
            len: 2,
            to: to + 1,
        })
    }

    pub fn source_in(self, network: Ipv4Addr, prefix_len: u8) -> Self {
        self.load_source(0).masked(network, prefix_len, Compare::Equal)
    }

    pub fn source_not_in(self, network: Ipv4Addr, prefix_len: u8) -> Self {
        self.load_source(0).masked(network, prefix_len, Compare::NotEqual)
    }

    pub fn destination_in(self, network: Ipv4Addr, prefix_len: u8) -> Self {
        self.load_destination(0).masked(network, prefix_len, Compare::Equal)
    }

    pub fn destination_not_in(self, network: Ipv4Addr, prefix_len: u8) -> Self {
        self.load_destination(0).masked(network, prefix_len, Compare::NotEqual)
    }

    /// The destination before NAT.
    pub fn original_destination_in(self, network: Ipv4Addr, prefix_len: u8) -> Self {
        let load = Expr::Ct { key: CtKey::DestinationIp, original: true, to: 0 };
        self.then(load).masked(network, prefix_len, Compare::Equal)
    }

    /// The address is one of this host.
    pub fn local(self, of: FibOf) -> Self {
        self.then(Expr::AddressType { of, to: 0 }).equal(&RTN_LOCAL.to_ne_bytes())
    }

    pub fn protocol(self, number: u8) -> Self {
        self.then(Expr::Meta { key: MetaKey::L4Protocol, to: 0 }).equal(&[number])
    }

    pub fn destination_port(self, port: u16) -> Self {
        let load = Expr::Payload { base: Base::Transport, offset: 2, len: 2, to: 0 };
        self.then(load).equal(&port.to_be_bytes())
    }

    /// The first packet of a connection.
    pub fn new_connection(self) -> Self {
        const NEW: u32 = 8;
        self.then(Expr::Ct { key: CtKey::State, original: false, to: 0 }).any_bit(NEW)
    }

    /// A packet that belongs to no connection, or is out of its window.
    pub fn invalid(self) -> Self {
        const INVALID: u32 = 1;
        self.then(Expr::Ct { key: CtKey::State, original: false, to: 0 }).any_bit(INVALID)
    }

    /// A connection whose destination was changed.
    pub fn translated(self) -> Self {
        const IPS_DST_NAT: u32 = 1 << 5;
        self.then(Expr::Ct { key: CtKey::Status, original: false, to: 0 }).any_bit(IPS_DST_NAT)
    }

    pub fn marked(self, mark: u32) -> Self {
        self.then(Expr::Meta { key: MetaKey::Mark, to: 0 }).any_bit(mark)
    }

    /// Sets the bits of `mark`, and leaves the others.
    pub fn mark(self, mark: u32) -> Self {
        let (mask, xor) = ((!mark).to_ne_bytes().to_vec(), mark.to_ne_bytes().to_vec());
        self.then(Expr::Meta { key: MetaKey::Mark, to: 0 })
            .then(Expr::Bitwise { from: 0, to: 0, mask, xor })
            .then(Expr::SetMark { from: 0 })
    }

    fn equal(self, value: &[u8]) -> Self {
        self.then(Expr::Compare { op: Compare::Equal, from: 0, value: value.to_vec() })
    }

    fn any_bit(self, bits: u32) -> Self {
        self.then(Expr::Bitwise { from: 0, to: 0, mask: bits.to_ne_bytes().to_vec(), xor: vec![0; 4] })
            .then(Expr::Compare { op: Compare::NotEqual, from: 0, value: vec![0; 4] })
    }

    fn masked(self, network: Ipv4Addr, prefix_len: u8, op: Compare) -> Self {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32))).unwrap_or(0);
        let value = (u32::from(network) & mask).to_be_bytes().to_vec();
        let rule = match prefix_len {
            32.. => self,
            _ => self.then(Expr::Bitwise { from: 0, to: 0, mask: mask.to_be_bytes().to_vec(), xor: vec![0; 4] }),
        };
        rule.then(Expr::Compare { op, from: 0, value })
    }
}

/// A comment as nft(8) keeps it: type 0, length, text with its NUL.
pub(super) fn write_comment(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(127)];
    let mut bytes = vec![0, u8::try_from(text.len() + 1).expect("cut to 127")];
    bytes.extend_from_slice(text);
    bytes.push(0);
    bytes
}

pub(super) fn read_comment(mut bytes: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*len))?;
        if *kind == 0 {
            return String::from_utf8(value.strip_suffix(&[0]).unwrap_or(value).to_vec()).ok();
        }
        bytes = &rest[usize::from(*len)..];
    }
    None
}
