//! Every version of every key since the last compaction, and the changes in revision order.
//!
//! Pure: no clock, no I/O. What `apply` yields follows from the state and the command alone.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::types::{Changes, Compare, Error, Listing, Op, Range, Record, Revision, Txn, TxnOutcome, WatchEvent};

/// Superseded values and change records together may hold this much; beyond it the oldest history goes early. What the
/// process keeps for it is two to three times as much: what was freed beside a value that stays is not given back.
pub(crate) const HISTORY_BYTES: usize = 16 << 20;
/// What a change costs beside the value that it supersedes.
const CHANGE_BYTES: usize = 320;
/// A piece of the history is found in one look under the lock: so many changes are looked at,
const PIECE_SCAN: usize = 8192;
/// and about so many bytes of values are handed out.
const PIECE_BYTES: usize = 1 << 20;

/// One key's state from `modified` on.
#[derive(Debug, Clone)]
struct Version {
    created: Revision,
    modified: Revision,
    /// `None`: deleted.
    value: Option<Bytes>,
}

/// All versions of one key.
#[derive(Debug)]
struct Chain {
    latest: Version,
    /// Oldest first; empty for most keys.
    older: Vec<Version>,
}

impl Chain {
    fn at(&self, revision: Revision) -> Option<&Version> {
        if self.latest.modified <= revision {
            return Some(&self.latest);
        }
        self.older.iter().rev().find(|v| v.modified <= revision)
    }
}

impl Chain {
    fn supersede(&mut self, version: Version) {
        if self.older.is_empty() {
            // Most keys never have a second one.
            self.older.reserve_exact(1);
        }
        self.older.push(std::mem::replace(&mut self.latest, version));
    }
}

impl Version {
    fn record(&self, key: &Bytes) -> Option<Record> {
        let value = self.value.clone()?;
        Some(Record { key: key.clone(), value, created: self.created, modified: self.modified })
    }
}

/// One key's change at one revision, shared by the history and all watches.
#[derive(Debug)]
pub(crate) struct Change {
    pub revision: Revision,
    pub event: WatchEvent,
}

impl Change {
    pub fn key(&self) -> &Bytes {
        match &self.event {
            WatchEvent::Put { record, .. } | WatchEvent::Delete { previous: record, .. } => &record.key,
            WatchEvent::Progress { .. } => unreachable!("a change is never a progress mark"),
        }
    }

    /// Of the value that it has, or takes away.
    fn bytes(&self) -> usize {
        match &self.event {
            WatchEvent::Put { record, .. } | WatchEvent::Delete { previous: record, .. } => record.value.len(),
            WatchEvent::Progress { .. } => 0,
        }
    }

    fn cost(&self) -> usize {
        let superseded = match &self.event {
            WatchEvent::Put { previous, .. } => previous.as_ref().map_or(0, |p| p.value.len()),
            WatchEvent::Delete { previous, .. } => previous.value.len(),
            WatchEvent::Progress { .. } => 0,
        };
        CHANGE_BYTES + superseded
    }
}

/// The versioned map.
#[derive(Debug, Default)]
pub(crate) struct Mvcc {
    keys: BTreeMap<Bytes, Chain>,
    revision: Revision,
    compacted: Revision,
    /// Changes above `compacted`, in revision order.
    history: VecDeque<Arc<Change>>,
    history_bytes: usize,
    /// What all changes ever took, as `history_bytes` counts it.
    churn: u64,
}

impl Mvcc {
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest revision that can be read.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    pub fn has_history(&self) -> bool {
        !self.history.is_empty()
    }

    /// What the history takes, about.
    pub fn history_bytes(&self) -> usize {
        self.history_bytes
    }

    /// How much changed since the start, in bytes.
    pub fn churn(&self) -> u64 {
        self.churn
    }

    /// Starts from a checkpoint: `load` every record, then `loaded`.
    pub fn load(&mut self, record: Record) {
        let version = Version { created: record.created, modified: record.modified, value: Some(record.value) };
        self.keys.insert(record.key, Chain { latest: version, older: Vec::new() });
    }

    /// History before a checkpoint is not kept, so `compacted` is the checkpoint's revision.
    pub fn loaded(&mut self, revision: Revision) {
        self.revision = revision;
        self.compacted = revision;
    }

    pub fn get(&self, key: &[u8]) -> Option<Record> {
        let (key, chain) = self.keys.get_key_value(key)?;
        chain.latest.record(key)
    }

    pub fn list(&self, range: &Range, at: Option<Revision>, limit: Option<usize>) -> Result<Listing, Error> {
        let at = at.unwrap_or(self.revision);
        self.check_readable(at)?;
        let mut records = Vec::new();
        let mut remaining = 0;
        if range.start >= range.end {
            return Ok(Listing { revision: at, records, remaining });
        }
        let bounds = (Bound::Included(range.start.as_ref()), Bound::Excluded(range.end.as_ref()));
        for (key, chain) in self.keys.range::<[u8], _>(bounds) {
            let Some(version) = chain.at(at).filter(|v| v.value.is_some()) else { continue };
            if limit.is_some_and(|limit| records.len() >= limit) {
                remaining += 1;
            } else {
                records.extend(version.record(key));
            }
        }
        Ok(Listing { revision: at, records, remaining })
    }

    /// The number of live keys in the range, now.
    pub fn count(&self, range: &Range) -> u64 {
        self.list(range, None, Some(0)).map_or(0, |listing| listing.remaining)
    }

    pub fn check_readable(&self, at: Revision) -> Result<(), Error> {
        if at < self.compacted {
            return Err(Error::Compacted { asked: at, oldest: self.compacted });
        }
        Ok(())
    }

    /// The changes above `after`, oldest first.
    pub fn changes_after(&self, after: Revision) -> Result<impl Iterator<Item = &Arc<Change>>, Error> {
        self.check_readable(after)?;
        let from = self.history.partition_point(|change| change.revision <= after);
        Ok(self.history.range(from..))
    }

    /// The next changes above `after` to keys with the prefix: a piece of a bounded size, which ends with a revision.
    pub fn changes(&self, prefix: &[u8], after: Revision) -> Result<Changes, Error> {
        let (mut events, mut bytes, mut through) = (Vec::new(), 0, after);
        for (looked_at, change) in self.changes_after(after)?.enumerate() {
            let is_full = looked_at >= PIECE_SCAN || bytes >= PIECE_BYTES;
            if is_full && change.revision > through {
                return Ok(Changes { events, through });
            }
            through = change.revision;
            if change.key().starts_with(prefix) {
                bytes += change.bytes() + CHANGE_BYTES;
                events.push(change.event.clone());
            }
        }
        Ok(Changes { events, through: self.revision.max(after) })
    }

    /// Carries a transaction out. A command that changes something gets the revision after the greater of the current
    /// one and `floor`; one that changes nothing leaves the revision as it is.
    pub fn apply(&mut self, txn: &Txn, floor: Revision) -> (TxnOutcome, Vec<Arc<Change>>) {
        if let Some((failed, current)) = self.first_refusal(&txn.compares) {
            return (TxnOutcome::Refused { failed, current, revision: self.revision }, Vec::new());
        }
        let revision = Revision(self.revision.max(floor).0 + 1);
        let mut changes = Vec::with_capacity(txn.ops.len());
        for (i, op) in txn.ops.iter().enumerate() {
            // A revision shows one state of a key: the last op on it decides.
            if txn.ops[i + 1..].iter().any(|later| op_key(later) == op_key(op)) {
                continue;
            }
            let event = match op {
                Op::Put { key, value } => Some(self.put(key, value, revision)),
                Op::Delete { key } => self.delete(key, revision),
            };
            changes.extend(event.map(|event| Arc::new(Change { revision, event })));
        }
        if !changes.is_empty() {
            self.revision = revision;
            for change in &changes {
                self.history_bytes += change.cost();
                self.churn += change.cost() as u64;
                self.history.push_back(change.clone());
            }
            self.bound_history();
        }
        (TxnOutcome::Committed { revision: self.revision }, changes)
    }

    /// Moves the revision up to at least `to`, without a change.
    pub fn advance(&mut self, to: Revision) {
        self.revision = self.revision.max(to);
    }

    fn first_refusal(&self, compares: &[Compare]) -> Option<(usize, Option<Record>)> {
        compares.iter().enumerate().find_map(|(i, compare)| {
            let (key, holds): (_, fn(&Compare, &Option<Record>) -> bool) = match compare {
                Compare::Absent { key } => (key, |_, now| now.is_none()),
                Compare::Present { key } => (key, |_, now| now.is_some()),
                Compare::Modified { key, .. } => (key, |compare, now| {
                    let Compare::Modified { at, .. } = compare else { return false };
                    now.as_ref().is_some_and(|record| record.modified == *at)
                }),
            };
            let now = self.get(key);
            (!holds(compare, &now)).then_some((i, now))
        })
    }

    fn put(&mut self, key: &Bytes, value: &Bytes, revision: Revision) -> WatchEvent {
        let Some((held_key, _)) = self.keys.get_key_value(key) else {
            let version = Version { created: revision, modified: revision, value: Some(value.clone()) };
            let record = Record { key: key.clone(), value: value.clone(), created: revision, modified: revision };
            self.keys.insert(key.clone(), Chain { latest: version, older: Vec::new() });
            return WatchEvent::Put { record, previous: None };
        };
        // The key's first buffer is shared by all its versions, so that a command's buffer can go with its value.
        let key = held_key.clone();
        let chain = self.keys.get_mut(&key).expect("looked up above");
        let previous = chain.latest.record(&key);
        let created = previous.as_ref().map_or(revision, |p| p.created);
        let version = Version { created, modified: revision, value: Some(value.clone()) };
        chain.supersede(version);
        WatchEvent::Put { record: Record { key, value: value.clone(), created, modified: revision }, previous }
    }

    fn delete(&mut self, key: &Bytes, revision: Revision) -> Option<WatchEvent> {
        let chain = self.keys.get_mut(key)?;
        let previous = chain.latest.record(key)?;
        let version = Version { created: Revision(0), modified: revision, value: None };
        chain.supersede(version);
        Some(WatchEvent::Delete { revision, previous })
    }

    fn bound_history(&mut self) {
        if self.history_bytes <= HISTORY_BYTES {
            return;
        }
        // An eighth at once, so that one write in many pays.
        let mut spared = self.history_bytes - HISTORY_BYTES / 8 * 7;
        let mut to = self.compacted;
        for change in &self.history {
            to = change.revision;
            spared = spared.saturating_sub(change.cost());
            if spared == 0 {
                break;
            }
        }
        self.compact(to);
    }

    /// Forgets what only reads below `to` could see.
    pub fn compact(&mut self, to: Revision) {
        let to = to.min(self.revision);
        if to <= self.compacted {
            return;
        }
        self.compacted = to;
        while self.history.front().is_some_and(|change| change.revision <= to) {
            let Some(change) = self.history.pop_front() else { break };
            self.history_bytes -= change.cost();
            self.compact_key(change.key(), to);
        }
        if self.history.capacity() > 1024 && self.history.len() < self.history.capacity() / 4 {
            self.history.shrink_to_fit();
        }
    }

    fn compact_key(&mut self, key: &Bytes, to: Revision) {
        let Some(chain) = self.keys.get_mut(key) else { return };
        if chain.latest.modified <= to {
            chain.older = Vec::new();
            if chain.latest.value.is_none() {
                self.keys.remove(key);
            }
            return;
        }
        // The newest version at or below `to` is what a read at `to` sees: it stays unless it is a deletion.
        let below = chain.older.partition_point(|v| v.modified <= to);
        if below > 0 {
            let keep = usize::from(chain.older[below - 1].value.is_some());
            chain.older.drain(..below - keep);
        }
    }

    /// All live records, in key order.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        self.keys.iter().filter_map(|(key, chain)| chain.latest.record(key))
    }
}

pub(crate) fn op_key(op: &Op) -> &Bytes {
    match op {
        Op::Put { key, .. } | Op::Delete { key } => key,
    }
}
