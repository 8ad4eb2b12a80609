use std::sync::Arc;

use bytes::Bytes;

use crate::mvcc::Mvcc;
use crate::state::State;
use crate::types::{Consistency, Error, Listing, Options, Range, Record, Revision, Txn, TxnOutcome};
use crate::watch::Watch;

/// A cheap handle on the store.
#[derive(Debug, Clone)]
pub struct Store {
    state: Arc<State>,
}

impl Store {
    pub async fn open(_options: Options) -> Result<Store, Error> {
        Ok(Store { state: Arc::new(State::new(Mvcc::default())) })
    }

    /// The key's record, and the revision of the answer.
    pub async fn get(&self, key: &[u8], consistency: Consistency) -> Result<(Option<Record>, Revision), Error> {
        self.consistent(consistency).await?;
        let held = self.state.read();
        Ok((held.mvcc.get(key), held.mvcc.revision()))
    }

    /// The records of a range at a revision (now, if none is given), in key order. A revision that this server has not
    /// reached yet is waited for.
    pub async fn list(
        &self,
        range: &Range,
        at: Option<Revision>,
        limit: Option<usize>,
        consistency: Consistency,
    ) -> Result<Listing, Error> {
        self.consistent(consistency).await?;
        if let Some(at) = at {
            self.state.reached(at).await?;
        }
        self.state.read().mvcc.list(range, at, limit)
    }

    /// How many keys the range holds now.
    pub async fn count(&self, range: &Range, consistency: Consistency) -> Result<u64, Error> {
        self.consistent(consistency).await?;
        Ok(self.state.read().mvcc.count(range))
    }

    /// Carries out the ops in one revision if every compare holds; durable when it returns.
    pub async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        Ok(self.state.apply(&txn, Revision(0)))
    }

    /// Events with a revision above `after` of the keys with the prefix; `Compacted` if that history is gone.
    ///
    /// The receiver is bounded: one that lags is ended with `Lagged` and has to start over.
    pub fn watch(&self, prefix: Bytes, after: Revision) -> Result<Watch, Error> {
        self.state.watch(prefix, after)
    }

    /// Makes every watch yield a `Progress` at the current revision, after all events up to it. For bookmarks.
    pub fn mark_progress(&self) {
        self.state.mark_progress();
    }

    /// Forgets the history below `to`.
    pub fn compact(&self, to: Revision) {
        self.state.compact(to);
    }

    /// The newest revision that this server has.
    pub fn revision(&self) -> Revision {
        self.state.read().mvcc.revision()
    }

    /// The oldest revision that can be read.
    pub fn compacted(&self) -> Revision {
        self.state.read().mvcc.compacted()
    }

    /// Flushes, writes a checkpoint and releases the directory. Ends all watches.
    pub async fn close(self) {
        self.state.stop();
    }

    async fn consistent(&self, consistency: Consistency) -> Result<(), Error> {
        match consistency {
            Consistency::Local | Consistency::ReadIndex => Ok(()),
            Consistency::AtLeast(revision) => self.state.reached(revision).await,
        }
    }
}
