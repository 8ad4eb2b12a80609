//! nf_tables: one [`Batch`] is one atomic change of the rule set, sent as one datagram.
//!
//! Numbers that packets are compared with are big-endian, marks and generated numbers are the host's.
//! Fields of a concatenation are padded to four bytes each, both in registers and in elements.

mod batch;
mod expr;

pub use batch::{Batch, Chain, Element, ElementData, Hook, HookPoint, Set, SetData, Type};
pub use expr::{Base, Compare, CtKey, Expr, FibOf, MetaKey, Rule, Verdict};

use super::message::{Reply, attributes};
use super::socket::{Result, Socket};

/// `NFNL_SUBSYS_NFTABLES` in the upper byte of the message's type.
const SUBSYSTEM: u16 = 10 << 8;
const NEWTABLE: u16 = SUBSYSTEM;
const GETTABLE: u16 = SUBSYSTEM | 1;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const GETCHAIN: u16 = SUBSYSTEM | 4;
const DELCHAIN: u16 = SUBSYSTEM | 5;
const NEWRULE: u16 = SUBSYSTEM | 6;
const GETRULE: u16 = SUBSYSTEM | 7;
const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
const GETSET: u16 = SUBSYSTEM | 10;
const DELSET: u16 = SUBSYSTEM | 11;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const GETSETELEM: u16 = SUBSYSTEM | 13;
const DELSETELEM: u16 = SUBSYSTEM | 14;
const NEWGEN: u16 = SUBSYSTEM | 15;

/// Every object's first attribute is the name of its table.
const ANY_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_POLICY: u16 = 5;
const SET_NAME: u16 = 2;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_USERDATA: u16 = 7;
/// `struct nfgenmsg`
const HEADER_LEN: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Ip,
    Ip6,
    Inet,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }

    fn header(self) -> [u8; HEADER_LEN] {
        [self.number(), 0, 0, 0]
    }
}

/// A rule of any table, as far as it is to be found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRule {
    pub handle: u64,
    pub comment: Option<String>,
}

pub fn table_exists(socket: &mut Socket, family: Family, table: &str) -> Result<bool> {
    let found = socket.query(GETTABLE, &family.header(), |a| {
        a.string(ANY_TABLE, table);
    });
    match found {
        Ok(_) => Ok(true),
        Err(error) if error.is_gone() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The policy of a base chain: whether it drops what no rule accepts. `None`: there is no such chain.
pub fn drops_by_default(socket: &mut Socket, family: Family, table: &str, chain: &str) -> Result<Option<bool>> {
    let found = socket.query(GETCHAIN, &family.header(), |a| {
        a.string(ANY_TABLE, table).string(CHAIN_NAME, chain);
    });
    match found {
        Ok(Some(reply)) => Ok(Some(reply.attribute(HEADER_LEN, CHAIN_POLICY) == Some(&[0, 0, 0, 0]))),
        Ok(None) => Ok(None),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

pub fn rules(socket: &mut Socket, family: Family, table: &str, chain: &str) -> Result<Vec<FoundRule>> {
    let found = socket.dump(GETRULE, &family.header(), |a| {
        a.string(ANY_TABLE, table).string(RULE_CHAIN, chain);
    });
    let replies = match found {
        Err(error) if error.is_gone() => return Ok(Vec::new()),
        replies => replies?,
    };
    let rules = replies.iter().filter(|r| r.kind == NEWRULE).filter_map(|reply| {
        let handle = reply.attribute(HEADER_LEN, RULE_HANDLE)?.try_into().ok()?;
        let comment = reply.attribute(HEADER_LEN, RULE_USERDATA).and_then(expr::read_comment);
        Some(FoundRule { handle: u64::from_be_bytes(handle), comment })
    });
    Ok(rules.collect())
}

/// The names of a table's chains.
pub fn chains(socket: &mut Socket, family: Family, table: &str) -> Result<Vec<String>> {
    let replies = socket.dump(GETCHAIN, &family.header(), |_| {})?;
    Ok(names(&replies, NEWCHAIN, table, CHAIN_NAME))
}

/// The names of a table's sets and maps.
pub fn sets(socket: &mut Socket, family: Family, table: &str) -> Result<Vec<String>> {
    let replies = socket.dump(GETSET, &family.header(), |a| {
        a.string(ANY_TABLE, table);
    })?;
    Ok(names(&replies, NEWSET, table, SET_NAME))
}

fn names(replies: &[Reply], kind: u16, table: &str, name: u16) -> Vec<String> {
    let mut names = Vec::new();
    for reply in replies.iter().filter(|r| r.kind == kind) {
        let text = |kind| reply.attributes(HEADER_LEN).find(|a| a.kind == kind).map(|a| a.string());
        if text(ANY_TABLE) == Some(table) {
            names.extend(text(name).map(str::to_owned));
        }
    }
    names
}

/// What is in a set or map.
pub fn elements(socket: &mut Socket, family: Family, table: &str, set: &str) -> Result<Vec<Element>> {
    let replies = socket.dump(GETSETELEM, &family.header(), |a| {
        a.string(ANY_TABLE, table).string(SET_NAME, set);
    })?;
    let lists = replies.iter().filter(|r| r.kind == NEWSETELEM);
    Ok(lists.flat_map(batch::read_elements).collect())
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something in this table changed. The name of a deleted table's parts comes too.
    Changed { family: u8, table: String },
    /// A whole batch is done.
    Committed,
}

impl Event {
    pub fn read(reply: &Reply) -> Option<Self> {
        if reply.kind == NEWGEN {
            return Some(Self::Committed);
        }
        if reply.kind & 0xff00 != SUBSYSTEM {
            return None;
        }
        let table = attributes(reply.body.get(HEADER_LEN..)?).find(|a| a.kind == ANY_TABLE)?;
        Some(Self::Changed { family: *reply.body.first()?, table: table.string().to_owned() })
    }

    pub fn is_about(&self, in_family: Family, name: &str) -> bool {
        matches!(self, Self::Changed { family, table } if *family == in_family.number() && table == name)
    }
}
