//! What this server holds in memory: the versioned map and the watches on it, under one lock, so that a watch starts
//! exactly where the history that it was given ends; and with them what a checkpoint needs to be of one moment.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use openraft::EntryPayload;
use tokio::sync::{Notify, watch};

use crate::checkpoint::{self, Cut, Kept, Meta};
use crate::mvcc::{Change, Mvcc};
use crate::raft::{Command, Entry, LogId, StoredMembership};
use crate::types::{Error, Record, Revision, Txn, TxnOutcome, WatchEvent};
use crate::watch::{Hub, Watch};

/// `churned` is told each time that so much has changed.
const CHURN_BYTES: u64 = 8 << 20;

#[derive(Debug)]
pub(crate) struct State {
    held: RwLock<Held>,
    revision: watch::Sender<Revision>,
    sole_voter: AtomicBool,
    /// Told when a key has changed.
    pub changed: Notify,
    /// Told now and then while much changes.
    pub churned: Notify,
    /// Told when a checkpoint would have something to write.
    pub dirty: Notify,
}

#[derive(Debug, Default)]
pub(crate) struct Held {
    pub mvcc: Mvcc,
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
    /// The revision that a replay of the log reaches by itself.
    pub durable: Revision,
    hub: Hub,
    /// Keys that changed since the last checkpoint was cut, and what that has of them.
    dirty: HashMap<Bytes, Option<Kept>>,
    /// The last checkpoint.
    kept: Option<Meta>,
    volatile: Vec<Bytes>,
}

impl State {
    /// `kept`: the checkpoint that the map was loaded from.
    pub fn new(mvcc: Mvcc, kept: Option<Meta>, volatile: Vec<Bytes>) -> Self {
        let (revision, _) = watch::channel(mvcc.revision());
        let Meta { applied, membership, .. } = kept.clone().unwrap_or_default();
        let sole_voter = AtomicBool::new(is_sole_voter(&membership));
        let durable = mvcc.revision();
        let held = Held { mvcc, applied, membership, durable, kept, volatile, ..Held::default() };
        Self {
            held: RwLock::new(held),
            revision,
            sole_voter,
            changed: Notify::new(),
            churned: Notify::new(),
            dirty: Notify::new(),
        }
    }

    pub fn read(&self) -> RwLockReadGuard<'_, Held> {
        // Nothing panics half-way through a change.
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is this server the whole cluster? Then what it has applied is all that was ever acknowledged.
    pub fn sole_voter(&self) -> bool {
        self.sole_voter.load(Ordering::Acquire)
    }

    pub fn apply_entry(&self, entry: Entry) -> Option<TxnOutcome> {
        let mut held = self.write();
        held.applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => None,
            EntryPayload::Membership(membership) => {
                held.membership = StoredMembership::new(Some(entry.log_id), membership);
                self.sole_voter.store(is_sole_voter(&held.membership), Ordering::Release);
                None
            }
            EntryPayload::Normal(Command::Advance { to }) => {
                held.mvcc.advance(to);
                held.durable = held.mvcc.revision();
                self.revision.send_replace(held.mvcc.revision());
                None
            }
            EntryPayload::Normal(Command::Txn { floor, txn }) => {
                let (outcome, changes) = self.apply(&mut held, &txn, floor);
                if !changes.is_empty() {
                    held.durable = held.mvcc.revision();
                    changes.iter().for_each(|change| held.mark_dirty(change));
                    drop(held);
                    self.dirty.notify_one();
                }
                Some(outcome)
            }
        }
    }

    /// A transaction on volatile keys alone: nothing of it is ever written.
    pub fn apply_volatile(&self, txn: &Txn) -> TxnOutcome {
        self.apply(&mut self.write(), txn, Revision(0)).0
    }

    fn apply(&self, held: &mut Held, txn: &Txn, floor: Revision) -> (TxnOutcome, Vec<Arc<Change>>) {
        let churn = held.mvcc.churn();
        let (outcome, changes) = held.mvcc.apply(txn, floor);
        if !changes.is_empty() {
            held.hub.publish(&changes);
            if held.mvcc.churn() / CHURN_BYTES != churn / CHURN_BYTES {
                self.churned.notify_one();
            }
            self.revision.send_replace(held.mvcc.revision());
            self.changed.notify_one();
        }
        (outcome, changes)
    }

    pub fn is_volatile(&self, key: &[u8]) -> bool {
        self.read().is_volatile(key)
    }

    pub fn watch(&self, prefix: Bytes, after: Revision) -> Result<Watch, Error> {
        let mut held = self.write();
        let Held { mvcc, hub, .. } = &mut *held;
        let revision = mvcc.revision();
        Ok(hub.watch(prefix, mvcc.changes_after(after)?, after, revision))
    }

    pub fn mark_progress(&self) {
        // The write lock keeps a command from being half published.
        let held = self.write();
        held.hub.mark_progress(held.mvcc.revision());
    }

    pub fn compact(&self, to: Revision) {
        self.write().mvcc.compact(to);
    }

    /// Waits until this replica has reached the revision.
    pub async fn reached(&self, revision: Revision) -> Result<(), Error> {
        if *self.revision.borrow() >= revision {
            return Ok(());
        }
        self.revision.subscribe().wait_for(|now| *now >= revision).await.map(drop).map_err(|_| Error::Stopped)
    }

    /// Ends all watches.
    pub fn stop(&self) {
        self.write().hub.stop();
    }

    /// What changed since the last cut, to be written to a checkpoint.
    pub fn cut_changes(&self) -> Cut {
        let mut held = self.write();
        let dirty = std::mem::take(&mut held.dirty);
        let keys = dirty.into_iter().map(|(key, before)| {
            let record = held.mvcc.get(&key);
            checkpoint::Change { key, before, record }
        });
        Cut { keys: keys.collect(), meta: held.meta() }
    }

    /// Everything that a new checkpoint holds.
    pub fn cut_all(&self) -> Cut {
        let mut held = self.write();
        held.dirty = HashMap::new();
        held.all()
    }

    /// Everything that a checkpoint would hold, without taking note of it.
    pub fn image(&self) -> Cut {
        self.read().all()
    }

    /// Starts over from another server's state; every watch is told to do so too.
    pub fn install(&self, cut: Cut) {
        let mut held = self.write();
        let mut mvcc = Mvcc::default();
        cut.keys.into_iter().filter_map(|change| change.record).for_each(|record| mvcc.load(record));
        mvcc.loaded(cut.meta.revision);
        held.mvcc = mvcc;
        held.applied = cut.meta.applied;
        held.membership = cut.meta.membership;
        held.durable = cut.meta.revision;
        held.hub.restart();
        self.sole_voter.store(is_sole_voter(&held.membership), Ordering::Release);
        self.revision.send_replace(cut.meta.revision);
    }

    pub fn kept(&self) -> Option<Meta> {
        self.read().kept.clone()
    }

    pub fn set_kept(&self, meta: Meta) {
        self.write().kept = Some(meta);
    }

    /// Would a checkpoint have a changed key to write?
    pub fn is_dirty(&self) -> bool {
        !self.read().dirty.is_empty()
    }

    pub fn live_bytes(&self) -> u64 {
        self.read().mvcc.records().map(|record| (record.key.len() + record.value.len()) as u64).sum()
    }
}

impl Held {
    fn is_volatile(&self, key: &[u8]) -> bool {
        self.volatile.iter().any(|prefix| key.starts_with(prefix))
    }

    fn mark_dirty(&mut self, change: &Change) {
        // Only the first change since the cut replaces what the checkpoint has.
        self.dirty.entry(change.key().clone()).or_insert_with(|| {
            let kept = |record: &Record| Kept { modified: record.modified, length: record.value.len() };
            match &change.event {
                WatchEvent::Put { previous, .. } => previous.as_ref().map(kept),
                WatchEvent::Delete { previous, .. } => Some(kept(previous)),
                WatchEvent::Progress { .. } => None,
            }
        });
    }

    fn meta(&self) -> Meta {
        Meta { revision: self.mvcc.revision(), applied: self.applied, membership: self.membership.clone() }
    }

    fn all(&self) -> Cut {
        let records = self.mvcc.records().filter(|record| !self.is_volatile(&record.key));
        let keys =
            records.map(|record| checkpoint::Change { key: record.key.clone(), before: None, record: Some(record) });
        Cut { keys: keys.collect(), meta: self.meta() }
    }
}

fn is_sole_voter(membership: &StoredMembership) -> bool {
    membership.voter_ids().count() == 1
}
