//! What this server holds in memory: the versioned map and the watches on it, under one lock, so that a watch starts
//! exactly where the history that it was given ends.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use crate::mvcc::Mvcc;
use crate::types::{Error, Revision, Txn, TxnOutcome};
use crate::watch::{Hub, Watch};

#[derive(Debug)]
pub(crate) struct State {
    state: RwLock<Held>,
    revision: tokio::sync::watch::Sender<Revision>,
}

#[derive(Debug, Default)]
pub(crate) struct Held {
    pub mvcc: Mvcc,
    hub: Hub,
}

impl State {
    pub fn new(mvcc: Mvcc) -> Self {
        let (revision, _) = tokio::sync::watch::channel(mvcc.revision());
        Self { state: RwLock::new(Held { mvcc, hub: Hub::default() }), revision }
    }

    pub fn read(&self) -> RwLockReadGuard<'_, Held> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn apply(&self, txn: &Txn, floor: Revision) -> TxnOutcome {
        let mut held = self.write();
        let (outcome, changes) = held.mvcc.apply(txn, floor);
        held.hub.publish(&changes);
        let revision = held.mvcc.revision();
        drop(held);
        if !changes.is_empty() {
            self.revision.send_replace(revision);
        }
        outcome
    }

    pub fn watch(&self, prefix: Bytes, after: Revision) -> Result<Watch, Error> {
        let mut held = self.write();
        let Held { mvcc, hub } = &mut *held;
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
        self.revision.subscribe().wait_for(|now| *now >= revision).await.map(drop).map_err(|_| Error::Stopped)
    }

    pub fn stop(&self) {
        self.write().hub.stop();
    }
}
