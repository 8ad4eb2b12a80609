//! Raft's view of the state: applies committed entries, and hands checkpoints out as Raft's snapshots.

use std::io;
use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta};

use crate::checkpoint::{Cut, Meta};
use crate::keeper::Keeper;
use crate::log;
use crate::raft::{LeaderId, LogId, StoredMembership, TypeConfig};
use crate::state::State;

/// What a snapshot carries to another server. None where Raft asks only for the meta data.
pub(crate) type Image = Option<Cut>;
type RaftSnapshot = Snapshot<LeaderId, u64, openraft::BasicNode, Image>;
type RaftSnapshotMeta = SnapshotMeta<LeaderId, u64, openraft::BasicNode>;

#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub state: Arc<State>,
    pub log: Arc<log::Shared>,
    pub keeper: Keeper,
}

/// Tells Raft of a checkpoint, so that it purges the log up to there.
pub(crate) struct Builder {
    machine: Machine,
    /// A checkpoint that is there already; without one it is made now.
    kept: Option<Meta>,
}

fn raft_meta(meta: &Meta) -> RaftSnapshotMeta {
    SnapshotMeta { last_log_id: meta.applied, last_membership: meta.membership.clone() }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        let meta = match self.kept.take() {
            Some(meta) => meta,
            None => self.machine.checkpoint(false).await?,
        };
        Ok(Snapshot { meta: raft_meta(&meta), snapshot: None })
    }
}

impl Machine {
    async fn checkpoint(&self, full: bool) -> io::Result<Meta> {
        let result = self.keeper.checkpoint(full).await;
        result.ok_or_else(|| io::Error::other("the store has stopped"))?.map_err(io::Error::other)
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Image;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let held = self.state.read();
        Ok((held.applied, held.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut last = None;
        while let Some((entry, responder)) = entries.try_next().await? {
            last = Some(entry.log_id.index);
            let outcome = self.state.apply_entry(entry);
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        if let Some(last) = last {
            self.log.evict(last);
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        let kept = if force { None } else { Some(self.state.kept()?) };
        Some(Builder { machine: self.clone(), kept })
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { machine: self.clone(), kept: None }
    }

    async fn install_snapshot(&mut self, _meta: &RaftSnapshotMeta, image: Image) -> Result<(), io::Error> {
        let cut = image.ok_or_else(|| io::Error::other("the snapshot carries no records"))?;
        self.state.install(cut);
        self.checkpoint(true).await.map(drop)
    }

    /// Cut from memory now: newer than the last checkpoint, and complete in itself.
    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        if self.state.kept().is_none() {
            return Ok(None);
        }
        let cut = self.state.image();
        Ok(Some(Snapshot { meta: raft_meta(&cut.meta), snapshot: Some(cut) }))
    }
}
