use super::expr::{self, Rule, Verdict};
use super::{
    ANY_TABLE, CHAIN_NAME, DELCHAIN, DELRULE, DELSET, DELSETELEM, DELTABLE, Family, HEADER_LEN, NEWCHAIN, NEWRULE,
    NEWSET, NEWSETELEM, NEWTABLE, RULE_CHAIN, RULE_HANDLE, RULE_USERDATA, SET_NAME,
};
use crate::net::message::{Attributes, Reply, write_message};
use crate::net::socket::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, Result, Socket};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// For both ends of a batch: the subsystem that it is for.
const BATCH_HEADER: [u8; 4] = [0, 0, 0, 10];

const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_ID: u16 = 10;
const SET_TIMEOUT: u16 = 11;
const ELEM_LIST_SET: u16 = 2;
const ELEM_LIST_ELEMENTS: u16 = 3;
const LIST_ELEM: u16 = 1;
const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const FLAG_MAP: u32 = 0x8;
const FLAG_TIMEOUT: u32 = 0x10;
const FLAG_EVAL: u32 = 0x20;
const VERDICT_TYPE: u32 = 0xffff_ff00;
/// A nested attribute ends at 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// Types of fields of keys and values, with the numbers that nft(8) gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Ipv4,
    Protocol,
    Port,
    Mark,
}

impl Type {
    fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Mark => 19,
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Ipv4 | Self::Mark => 4,
            Self::Protocol => 1,
            Self::Port => 2,
        }
    }
}

/// The number and length of a type or a concatenation of types.
fn concatenated(types: &[Type]) -> (u32, u32) {
    let number = types.iter().fold(0, |all, one| all << 6 | one.number());
    let len = match types {
        [one] => one.len(),
        several => several.iter().map(|t| t.len().next_multiple_of(4)).sum(),
    };
    (number, u32::try_from(len).expect("a few bytes"))
}

/// A set, or with data, a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub name: String,
    pub key: &'static [Type],
    pub data: SetData,
    /// Rules put elements in, that vanish after this time.
    pub dynamic_timeout_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetData {
    None,
    Verdict,
    Values(&'static [Type]),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    pub key: Vec<u8>,
    pub data: ElementData,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ElementData {
    None,
    Value(Vec<u8>),
    Verdict(Verdict),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    /// Of a base chain.
    pub hook: Option<Hook>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// `nat` or `filter`.
    pub kind: &'static str,
    pub point: HookPoint,
    pub priority: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPoint {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// Changes of one family's tables that are made together or not at all.
#[derive(Debug)]
pub struct Batch {
    family: Family,
    bytes: Vec<u8>,
    /// Where the last message begins.
    last: usize,
    sequence: u32,
}

impl Batch {
    pub fn new(family: Family) -> Self {
        let mut bytes = Vec::with_capacity(4096);
        write_message(&mut bytes, BATCH_BEGIN, NLM_F_REQUEST, 1, &BATCH_HEADER, |_| {});
        Self { family, bytes, last: 0, sequence: 1 }
    }

    pub fn is_empty(&self) -> bool {
        self.sequence == 1
    }

    /// How many messages it holds.
    pub fn len(&self) -> usize {
        self.sequence as usize - 1
    }

    fn push(&mut self, kind: u16, flags: u16, write: impl FnOnce(&mut Attributes<'_>)) {
        self.last = self.bytes.len();
        self.sequence += 1;
        write_message(&mut self.bytes, kind, flags | NLM_F_REQUEST, self.sequence, &self.family.header(), write);
    }

    /// One that exists is left as it is.
    pub fn add_table(&mut self, table: &str) {
        self.push(NEWTABLE, NLM_F_CREATE, |a| {
            a.string(ANY_TABLE, table);
        });
    }

    /// With all that is in it.
    pub fn delete_table(&mut self, table: &str) {
        self.push(DELTABLE, 0, |a| {
            a.string(ANY_TABLE, table);
        });
    }

    pub fn add_chain(&mut self, table: &str, chain: &Chain) {
        self.push(NEWCHAIN, NLM_F_CREATE, |a| {
            a.string(ANY_TABLE, table).string(CHAIN_NAME, &chain.name);
            if let Some(hook) = &chain.hook {
                a.string(CHAIN_TYPE, hook.kind);
                a.nested(CHAIN_HOOK, |h| {
                    h.be32(HOOK_NUMBER, hook.point as u32).be32(HOOK_PRIORITY, hook.priority.cast_unsigned());
                });
            }
        });
    }

    pub fn delete_chain(&mut self, table: &str, chain: &str) {
        self.push(DELCHAIN, 0, |a| {
            a.string(ANY_TABLE, table).string(CHAIN_NAME, chain);
        });
    }

    /// Appends a rule to a chain.
    pub fn add_rule(&mut self, table: &str, chain: &str, rule: &Rule) {
        self.push(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |a| write_rule(a, table, chain, rule));
    }

    /// Puts a rule before all others of a chain.
    pub fn insert_rule(&mut self, table: &str, chain: &str, rule: &Rule) {
        self.push(NEWRULE, NLM_F_CREATE, |a| write_rule(a, table, chain, rule));
    }

    pub fn delete_rule(&mut self, table: &str, chain: &str, handle: u64) {
        self.push(DELRULE, 0, |a| {
            a.string(ANY_TABLE, table).string(RULE_CHAIN, chain).be64(RULE_HANDLE, handle);
        });
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, table: &str, chain: &str) {
        self.push(DELRULE, 0, |a| {
            a.string(ANY_TABLE, table).string(RULE_CHAIN, chain);
        });
    }

    pub fn add_set(&mut self, table: &str, set: &Set) {
        let id = self.sequence;
        self.push(NEWSET, NLM_F_CREATE, |a| {
            let mut flags = 0;
            let (key_type, key_len) = concatenated(set.key);
            a.string(ANY_TABLE, table).string(SET_NAME, &set.name);
            a.be32(SET_KEY_TYPE, key_type).be32(SET_KEY_LEN, key_len).be32(SET_ID, id);
            match set.data {
                SetData::None => {}
                SetData::Verdict => {
                    flags |= FLAG_MAP;
                    a.be32(SET_DATA_TYPE, VERDICT_TYPE).be32(SET_DATA_LEN, 0);
                }
                SetData::Values(types) => {
                    flags |= FLAG_MAP;
                    let (data_type, data_len) = concatenated(types);
                    a.be32(SET_DATA_TYPE, data_type).be32(SET_DATA_LEN, data_len);
                }
            }
            if let Some(timeout_ms) = set.dynamic_timeout_ms {
                flags |= FLAG_TIMEOUT | FLAG_EVAL;
                a.be64(SET_TIMEOUT, timeout_ms);
            }
            a.be32(SET_FLAGS, flags);
        });
    }

    pub fn delete_set(&mut self, table: &str, set: &str) {
        self.push(DELSET, 0, |a| {
            a.string(ANY_TABLE, table).string(SET_NAME, set);
        });
    }

    /// An element that is there with other data is refused: delete it first.
    pub fn add_elements(&mut self, table: &str, set: &str, elements: &[Element]) {
        self.elements(NEWSETELEM, NLM_F_CREATE, table, set, elements);
    }

    /// An element that is not there is refused.
    pub fn delete_elements(&mut self, table: &str, set: &str, elements: &[Element]) {
        self.elements(DELSETELEM, 0, table, set, elements);
    }

    fn elements(&mut self, kind: u16, flags: u16, table: &str, set: &str, elements: &[Element]) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.push(kind, flags, |a| {
                a.string(ANY_TABLE, table).string(ELEM_LIST_SET, set);
                a.nested(ELEM_LIST_ELEMENTS, |list| chunk.iter().for_each(|element| write_element(list, element)));
            });
        }
    }

    /// Sends the batch. On an error nothing of it was done.
    pub fn commit(mut self, socket: &mut Socket) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let flags = self.last + 6;
        let with_ack = u16::from_ne_bytes([self.bytes[flags], self.bytes[flags + 1]]) | NLM_F_ACK;
        self.bytes[flags..flags + 2].copy_from_slice(&with_ack.to_ne_bytes());
        let end = self.sequence + 1;
        write_message(&mut self.bytes, BATCH_END, NLM_F_REQUEST, end, &BATCH_HEADER, |_| {});
        socket.ensure_send_buffer(self.bytes.len())?;
        socket.send(&self.bytes)?;
        socket.batch_status(self.sequence)
    }
}

fn write_rule(a: &mut Attributes<'_>, table: &str, chain: &str, rule: &Rule) {
    a.string(ANY_TABLE, table).string(RULE_CHAIN, chain);
    a.nested(RULE_EXPRESSIONS, |list| rule.exprs.iter().for_each(|e| e.write(list)));
    if let Some(comment) = &rule.comment {
        a.bytes(RULE_USERDATA, &expr::write_comment(comment));
    }
}

/// The elements that a message tells of.
pub(super) fn read_elements(reply: &Reply) -> Vec<Element> {
    let mut elements = Vec::new();
    let list = reply.attributes(HEADER_LEN).find(|a| a.kind == ELEM_LIST_ELEMENTS);
    for element in list.iter().flat_map(|list| list.children()) {
        let part = |kind| element.children().find(|a| a.kind == kind);
        let Some(key) = part(ELEM_KEY).and_then(|key| expr::read_value(&key)) else { continue };
        let data = match part(ELEM_DATA) {
            None => Some(ElementData::None),
            Some(data) => expr::read_value(&data)
                .map(ElementData::Value)
                .or_else(|| expr::read_verdict(&data).map(ElementData::Verdict)),
        };
        elements.extend(data.map(|data| Element { key, data }));
    }
    elements
}

fn write_element(list: &mut Attributes<'_>, element: &Element) {
    list.nested(LIST_ELEM, |a| {
        expr::write_value(a, ELEM_KEY, &element.key);
        match &element.data {
            ElementData::None => {}
            ElementData::Value(value) => expr::write_value(a, ELEM_DATA, value),
            ElementData::Verdict(verdict) => expr::write_verdict(a, ELEM_DATA, verdict),
        }
    });
}
