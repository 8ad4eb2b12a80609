//! Our own encoding of what is kept on disk: little-endian numbers, byte strings behind their length.
//!
//! Never a dump of a library's structures: a new version of Raft must read the old version's files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use openraft::{BasicNode, EntryPayload as Payload};

use crate::raft::{Command, Entry, EntryPayload, LeaderId, LogId, Membership, StoredMembership, Vote};
use crate::types::{Compare, Op, Revision, Txn};

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub(crate) struct Malformed(pub &'static str);

type Decoded<T> = Result<T, Malformed>;

mod tag {
    pub const BLANK: u8 = 0;
    pub const TXN: u8 = 1;
    pub const ADVANCE: u8 = 2;
    pub const MEMBERSHIP: u8 = 3;

    pub const ABSENT: u8 = 0;
    pub const PRESENT: u8 = 1;
    pub const MODIFIED: u8 = 2;

    pub const DELETE: u8 = 0;
    pub const PUT: u8 = 1;
}

pub(crate) fn put_u32(out: &mut Vec<u8>, number: usize) {
    let number = u32::try_from(number).expect("lengths are bounded by the size limits of a transaction");
    out.extend_from_slice(&number.to_le_bytes());
}

pub(crate) fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Takes values off the front; byte strings share the buffer.
pub(crate) struct Reader {
    rest: Bytes,
    what: &'static str,
}

impl Reader {
    pub fn new(bytes: Bytes, what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub fn u8(&mut self) -> Decoded<u8> {
        self.rest.try_get_u8().map_err(|_| Malformed(self.what))
    }

    pub fn u32(&mut self) -> Decoded<u32> {
        self.rest.try_get_u32_le().map_err(|_| Malformed(self.what))
    }

    pub fn u64(&mut self) -> Decoded<u64> {
        self.rest.try_get_u64_le().map_err(|_| Malformed(self.what))
    }

    pub fn bytes(&mut self) -> Decoded<Bytes> {
        let length = self.u32()? as usize;
        if self.rest.len() < length {
            return Err(Malformed(self.what));
        }
        Ok(self.rest.split_to(length))
    }

    /// How many items follow; each takes at least one byte, so a wrong number can't ask for much memory.
    fn count(&mut self) -> Decoded<usize> {
        let count = self.u32()? as usize;
        if count > self.rest.len() {
            return Err(Malformed(self.what));
        }
        Ok(count)
    }

    pub fn rest(self) -> Bytes {
        self.rest
    }

    pub fn end(self) -> Decoded<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed(self.what)) }
    }
}

pub(crate) fn put_log_id(out: &mut Vec<u8>, id: &LogId) {
    put_u64(out, id.index);
    put_u64(out, id.leader_id.term);
    put_u64(out, id.leader_id.node_id);
}

fn log_id(reader: &mut Reader) -> Decoded<LogId> {
    let index = reader.u64()?;
    let leader = LeaderId { term: reader.u64()?, node_id: reader.u64()? };
    Ok(LogId::new(leader, index))
}

pub(crate) fn put_optional_log_id(out: &mut Vec<u8>, id: Option<&LogId>) {
    out.push(u8::from(id.is_some()));
    if let Some(id) = id {
        put_log_id(out, id);
    }
}

pub(crate) fn optional_log_id(reader: &mut Reader) -> Decoded<Option<LogId>> {
    Ok(if reader.u8()? == 0 { None } else { Some(log_id(reader)?) })
}

pub(crate) fn put_vote(out: &mut Vec<u8>, vote: &Vote) {
    put_u64(out, vote.leader_id.term);
    put_u64(out, vote.leader_id.node_id);
    out.push(u8::from(vote.committed));
}

pub(crate) fn vote(bytes: Bytes) -> Decoded<Vote> {
    let mut reader = Reader::new(bytes, "vote");
    let (term, node) = (reader.u64()?, reader.u64()?);
    let vote = if reader.u8()? == 0 { Vote::new(term, node) } else { Vote::new_committed(term, node) };
    reader.end()?;
    Ok(vote)
}

fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    let configs = membership.get_joint_config();
    put_u32(out, configs.len());
    for voters in configs {
        put_u32(out, voters.len());
        voters.iter().for_each(|id| put_u64(out, *id));
    }
    put_u32(out, membership.nodes().count());
    for (id, node) in membership.nodes() {
        put_u64(out, *id);
        put_bytes(out, node.addr.as_bytes());
    }
}

fn membership(reader: &mut Reader) -> Decoded<Membership> {
    let mut configs = Vec::new();
    for _ in 0..reader.count()? {
        let voters: BTreeSet<u64> = (0..reader.count()?).map(|_| reader.u64()).collect::<Decoded<_>>()?;
        configs.push(voters);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..reader.count()? {
        let id = reader.u64()?;
        let address = String::from_utf8(reader.bytes()?.into()).map_err(|_| Malformed("node address"))?;
        nodes.insert(id, BasicNode::new(address));
    }
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|_| Malformed("membership"))
}

pub(crate) fn put_stored_membership(out: &mut Vec<u8>, stored: &StoredMembership) {
    put_optional_log_id(out, stored.log_id().as_ref());
    put_membership(out, stored.membership());
}

pub(crate) fn stored_membership(reader: &mut Reader) -> Decoded<StoredMembership> {
    let id = optional_log_id(reader)?;
    Ok(StoredMembership::new(id, membership(reader)?))
}

/// At least as many bytes as `put_entry` writes.
pub(crate) fn payload_bound(payload: &EntryPayload) -> usize {
    const FIXED: usize = 64;
    FIXED
        + match payload {
            Payload::Blank => 0,
            Payload::Normal(Command::Advance { .. }) => 8,
            Payload::Normal(Command::Txn { txn, .. }) => txn_bound(txn),
            Payload::Membership(membership) => {
                let voters: usize = membership.get_joint_config().iter().map(|voters| 4 + 8 * voters.len()).sum();
                let nodes: usize = membership.nodes().map(|(_, node)| 12 + node.addr.len()).sum();
                8 + voters + nodes
            }
        }
}

pub(crate) fn txn_bound(txn: &Txn) -> usize {
    let compares: usize = txn.compares.iter().map(|compare| 16 + compare_key(compare).len()).sum();
    let ops: usize = txn.ops.iter().map(|op| 16 + op_len(op)).sum();
    16 + compares + ops
}

pub(crate) fn compare_key(compare: &Compare) -> &Bytes {
    match compare {
        Compare::Absent { key } | Compare::Present { key } | Compare::Modified { key, .. } => key,
    }
}

fn op_len(op: &Op) -> usize {
    match op {
        Op::Put { key, value } => key.len() + value.len(),
        Op::Delete { key } => key.len(),
    }
}

pub(crate) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    put_log_id(out, &entry.log_id);
    match &entry.payload {
        Payload::Blank => out.push(tag::BLANK),
        Payload::Normal(Command::Txn { floor, txn }) => {
            out.push(tag::TXN);
            put_u64(out, floor.0);
            put_txn(out, txn);
        }
        Payload::Normal(Command::Advance { to }) => {
            out.push(tag::ADVANCE);
            put_u64(out, to.0);
        }
        Payload::Membership(membership) => {
            out.push(tag::MEMBERSHIP);
            put_membership(out, membership);
        }
    }
}

/// The log id of an encoded entry.
pub(crate) fn entry_log_id(bytes: Bytes) -> Decoded<LogId> {
    log_id(&mut Reader::new(bytes, "log entry"))
}

pub(crate) fn entry(bytes: Bytes) -> Decoded<Entry> {
    let mut reader = Reader::new(bytes, "log entry");
    let log_id = log_id(&mut reader)?;
    let payload = match reader.u8()? {
        tag::BLANK => Payload::Blank,
        tag::TXN => {
            let floor = Revision(reader.u64()?);
            Payload::Normal(Command::Txn { floor, txn: Arc::new(txn(&mut reader)?) })
        }
        tag::ADVANCE => Payload::Normal(Command::Advance { to: Revision(reader.u64()?) }),
        tag::MEMBERSHIP => Payload::Membership(membership(&mut reader)?),
        _ => return Err(Malformed("kind of log entry")),
    };
    reader.end()?;
    Ok(Entry { log_id, payload })
}

fn put_txn(out: &mut Vec<u8>, txn: &Txn) {
    put_u32(out, txn.compares.len());
    for compare in &txn.compares {
        out.push(match compare {
            Compare::Absent { .. } => tag::ABSENT,
            Compare::Present { .. } => tag::PRESENT,
            Compare::Modified { .. } => tag::MODIFIED,
        });
        put_bytes(out, compare_key(compare));
        if let Compare::Modified { at, .. } = compare {
            put_u64(out, at.0);
        }
    }
    put_u32(out, txn.ops.len());
    for op in &txn.ops {
        match op {
            Op::Delete { key } => {
                out.push(tag::DELETE);
                put_bytes(out, key);
            }
            Op::Put { key, value } => {
                out.push(tag::PUT);
                put_bytes(out, key);
                put_bytes(out, value);
            }
        }
    }
}

fn txn(reader: &mut Reader) -> Decoded<Txn> {
    let mut compares = Vec::new();
    for _ in 0..reader.count()? {
        let kind = reader.u8()?;
        let key = reader.bytes()?;
        compares.push(match kind {
            tag::ABSENT => Compare::Absent { key },
            tag::PRESENT => Compare::Present { key },
            tag::MODIFIED => Compare::Modified { key, at: Revision(reader.u64()?) },
            _ => return Err(Malformed("kind of compare")),
        });
    }
    let mut ops = Vec::new();
    for _ in 0..reader.count()? {
        let kind = reader.u8()?;
        let key = reader.bytes()?;
        ops.push(match kind {
            tag::DELETE => Op::Delete { key },
            tag::PUT => Op::Put { key, value: reader.bytes()? },
            _ => return Err(Malformed("kind of op")),
        });
    }
    Ok(Txn { compares, ops })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(entry: &Entry) -> Bytes {
        let mut out = Vec::new();
        put_entry(&mut out, entry);
        assert!(out.len() <= payload_bound(&entry.payload), "{entry:?}");
        out.into()
    }

    #[test]
    fn entries_read_back_as_written_and_no_shorter_prefix_does() {
        let key = |k: &str| Bytes::copy_from_slice(k.as_bytes());
        let txn = Txn {
            compares: vec![
                Compare::Absent { key: key("a") },
                Compare::Present { key: key("") },
                Compare::Modified { key: key("c"), at: Revision(7) },
            ],
            ops: vec![Op::Put { key: key("a"), value: key("value") }, Op::Delete { key: key("b") }],
        };
        let nodes: BTreeMap<u64, BasicNode> = [(1, BasicNode::new("one")), (2, BasicNode::new(""))].into();
        let joint = vec![BTreeSet::from([1]), BTreeSet::from([1, 2])];
        let payloads = [
            Payload::Blank,
            Payload::Normal(Command::Txn { floor: Revision(9), txn: Arc::new(txn) }),
            Payload::Normal(Command::Advance { to: Revision(u64::MAX) }),
            Payload::Membership(Membership::new(joint, nodes).unwrap()),
            Payload::Membership(Membership::default()),
        ];
        for payload in payloads {
            let written = Entry { log_id: LogId::new(LeaderId { term: 3, node_id: 4 }, 5), payload };
            let bytes = encoded(&written);
            assert_eq!(entry(bytes.clone()), Ok(written));
            for length in 0..bytes.len() {
                assert!(entry(bytes.slice(..length)).is_err(), "{length} of {} bytes", bytes.len());
            }
        }
    }

    #[test]
    fn votes_read_back() {
        for written in [Vote::new(3, 9), Vote::new_committed(u64::MAX, 0)] {
            let mut out = Vec::new();
            put_vote(&mut out, &written);
            assert_eq!(vote(out.into()), Ok(written));
        }
    }
}
