use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::ClientWriteResult;
use openraft::{BasicNode, Config, RaftMetrics, ReadPolicy, ServerState, SnapshotPolicy};
use skiff_base::{Scope, chain};
use tokio::sync::{RwLock, oneshot};

use crate::checkpoint::Generation;
use crate::codec;
use crate::directory::{Directory, open_error};
use crate::keeper::Keeper;
use crate::log::{Job, Log, Shared};
use crate::machine::Machine;
use crate::mvcc::{Mvcc, op_key};
use crate::peers::Peers;
use crate::raft::{Command, Held, LogId, Raft, Reply, TypeConfig};
use crate::recover::recover;
use crate::space::{Answer, Need, Permit};
use crate::state::State;
use crate::types::{Changes, Consistency, Error, Listing, Op, Options, Range, Record, Revision, Txn, TxnOutcome};
use crate::watch::Watch;
use crate::writer::Writer;

/// etcd's limit for a request, which upstream's API objects stay below.
pub const VALUE_LIMIT: usize = 3 << 19;
/// Keys and values of a transaction together.
pub const TXN_LIMIT: usize = 3 << 20;
/// A checkpoint is written this long after the first change that the last one does not hold ...
const CHECKPOINT_AFTER: Duration = Duration::from_secs(300);
/// ... or when the log has grown by this.
const CHECKPOINT_LOG_BYTES: u64 = 24 << 20;
/// ... or when a start finds more segments than this: each start begins a new one.
const SEGMENTS_AT_START: usize = 3;
/// After a checkpoint that failed.
const CHECKPOINT_RETRY: Duration = Duration::from_secs(15);
/// Memory is given back when much has changed and then hardly anything did for this long ...
const TRIM_WHEN_QUIET: Duration = Duration::from_secs(2);
const QUIET_BYTES: u64 = 256 << 10;
/// ... and when the history shrinks by so much.
const TRIM_HISTORY_BYTES: usize = 2 << 20;
/// Changes of volatile keys take revisions that no disk knows of. So many are allowed beyond what the log knows; a start
/// jumps over as many, so that no revision is ever given out twice.
const VOLATILE_REVISIONS: u64 = 10_000;
/// Jobs that may wait for the log's writer.
const LOG_JOBS: usize = 1024;
/// The one server leads at once; this is for a disk that hangs.
const LEAD_LIMIT: Duration = Duration::from_secs(60);

/// A cheap handle on the store.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Arc<State>,
    log: Log,
    raft: Raft,
    keeper: Keeper,
    /// Durable writes share it from the reading of their floor to their apply; volatile writes hold it alone.
    gate: Arc<RwLock<()>>,
    scope: Scope,
    closed: AtomicBool,
    at_close: Mutex<Option<AtClose>>,
}

#[derive(Debug)]
struct AtClose {
    writer: JoinHandle<()>,
    directory: Directory,
}

impl Store {
    /// Opens or creates the store, and waits until it has recovered everything and leads.
    pub async fn open(options: Options) -> Result<Store, Error> {
        let path = options.directory.clone();
        let keep_history = options.keep_history;
        let volatile = !options.volatile.is_empty();
        let parts = tokio::task::spawn_blocking(move || Parts::open(options));
        let Parts { directory, state, log, keeper, writer } = parts.await.map_err(|e| open_error(&path, e))??;
        let machine = Machine { state: state.clone(), log: log.shared.clone(), keeper: keeper.clone() };
        let config = Arc::new(raft_config().validate().map_err(|e| open_error(&path, e))?);
        let raft = Raft::new(directory.node_id, config, Peers, log.clone(), machine);
        let raft = raft.await.map_err(|e| open_error(&path, e))?;
        let fresh = lead(&raft, directory.node_id).await.map_err(|e| Error::Open { directory: path, source: e })?;
        let at_close = Mutex::new(Some(AtClose { writer, directory }));
        let inner = Inner {
            state,
            log,
            raft,
            keeper,
            gate: Arc::default(),
            scope: Scope::new(),
            closed: AtomicBool::new(false),
            at_close,
        };
        let store = Store { inner: Arc::new(inner) };
        // Reading the checkpoint took more than what is kept of it.
        skiff_linux::memory::trim();
        if volatile && !fresh {
            let to = Revision(store.revision().0 + VOLATILE_REVISIONS);
            store.propose(Command::Advance { to }, Need::Delete).await?;
        }
        store.inner.spawn_keeping();
        store.inner.spawn_compaction(keep_history);
        store.inner.spawn_trimming();
        Ok(store)
    }

    /// The key's record, and the revision of the answer.
    pub async fn get(&self, key: &[u8], consistency: Consistency) -> Result<(Option<Record>, Revision), Error> {
        self.consistent(consistency).await?;
        let held = self.inner.state.read();
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
            self.inner.state.reached(at).await?;
        }
        self.inner.state.read().mvcc.list(range, at, limit)
    }

    /// How many keys the range holds now.
    pub async fn count(&self, range: &Range, consistency: Consistency) -> Result<u64, Error> {
        self.consistent(consistency).await?;
        Ok(self.inner.state.read().mvcc.count(range))
    }

    /// Carries out the ops in one revision if every compare holds; durable when it returns.
    ///
    /// If the caller goes away meanwhile, the transaction is carried out or not, but never in part.
    pub async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        check_size(&txn)?;
        if self.is_volatile(&txn)? {
            return self.volatile_txn(&txn).await;
        }
        let frees = txn.ops.iter().all(|op| matches!(op, Op::Delete { .. }));
        let need = if frees { Need::Delete } else { Need::Write };
        let command = Command::Txn { floor: Revision(0), txn: Arc::new(txn) };
        self.propose(command, need).await?.ok_or(Error::Unknown)
    }

    /// Events with a revision above `after` of the keys with the prefix; `Compacted` if that history is gone.
    ///
    /// The receiver is bounded: one that lags is ended with `Lagged` and has to start over.
    pub fn watch(&self, prefix: Bytes, after: Revision) -> Result<Watch, Error> {
        self.inner.state.watch(prefix, after)
    }

    /// A piece of the history of the keys with the prefix, from behind `after` on; `Compacted` if that history is gone.
    /// For who can't keep up with a watch: nothing is queued for them, they ask for the next piece when they want it.
    pub fn changes(&self, prefix: &[u8], after: Revision) -> Result<Changes, Error> {
        self.inner.state.read().mvcc.changes(prefix, after)
    }

    /// Makes every watch yield a `Progress` at the current revision, after all events up to it. For bookmarks.
    pub fn mark_progress(&self) {
        self.inner.state.mark_progress();
    }

    /// Forgets the history below `to`.
    pub fn compact(&self, to: Revision) {
        self.inner.state.compact(to);
    }

    /// The newest revision that this server has.
    pub fn revision(&self) -> Revision {
        self.inner.state.read().mvcc.revision()
    }

    /// The oldest revision that can be read.
    pub fn compacted(&self) -> Revision {
        self.inner.state.read().mvcc.compacted()
    }

    /// Brings everything to the checkpoint now, and frees the log.
    pub async fn checkpoint(&self) -> Result<(), Error> {
        self.inner.checkpoint().await
    }

    /// Writes a checkpoint and releases the directory. Ends all watches; other handles get `Stopped`.
    pub async fn close(self) {
        self.inner.end(true).await;
    }

    fn is_volatile(&self, txn: &Txn) -> Result<bool, Error> {
        let compares = txn.compares.iter().map(codec::compare_key);
        let mut keys = compares.chain(txn.ops.iter().map(op_key)).map(|key| self.inner.state.is_volatile(key));
        let Some(first) = keys.next() else { return Ok(false) };
        if keys.all(|other| other == first) { Ok(first) } else { Err(Error::MixedVolatile) }
    }

    async fn volatile_txn(&self, txn: &Txn) -> Result<TxnOutcome, Error> {
        if self.inner.closed.load(Ordering::Acquire) {
            return Err(Error::Stopped);
        }
        let ahead = {
            let held = self.inner.state.read();
            let revision = held.mvcc.revision();
            (revision.0 - held.durable.0 >= VOLATILE_REVISIONS / 2).then_some(revision)
        };
        if let Some(to) = ahead {
            self.propose(Command::Advance { to }, Need::Delete).await?;
        }
        let _alone = self.inner.gate.write().await;
        Ok(self.inner.state.apply_volatile(txn))
    }

    async fn propose(&self, command: Command, need: Need) -> Result<Option<TxnOutcome>, Error> {
        if self.inner.closed.load(Ordering::Acquire) {
            return Err(Error::Stopped);
        }
        let bytes = match &command {
            Command::Txn { txn, .. } => codec::txn_bound(txn),
            Command::Advance { .. } => 0,
        };
        let space = self.inner.reserve(bytes, need).await?;
        let durable = self.inner.gate.clone().read_owned().await;
        let command = match command {
            Command::Txn { txn, .. } => Command::Txn { floor: self.revision(), txn },
            other => other,
        };
        let (sender, answer) = oneshot::channel();
        let reply = Reply { sender, held: Held { _space: space, _durable: durable } };
        if let Err(e) = self.inner.raft.client_write_ff(command, Some(reply)).await {
            return Err(self.inner.raft_stopped(&e));
        }
        let result: ClientWriteResult<TypeConfig> = answer.await.map_err(|_| Error::Unknown)?;
        match result {
            Ok(response) => Ok(response.data),
            Err(ClientWriteError::ForwardToLeader(_)) => Err(Error::NotLeader),
            Err(_) => Err(Error::Unknown),
        }
    }

    async fn consistent(&self, consistency: Consistency) -> Result<(), Error> {
        match consistency {
            Consistency::Local => Ok(()),
            // What one server acknowledges, it has applied.
            Consistency::ReadIndex if self.inner.state.sole_voter() => Ok(()),
            Consistency::ReadIndex => {
                let read = self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex).await;
                read.map(drop).map_err(|e| match e {
                    RaftError::APIError(_) => Error::NotLeader,
                    RaftError::Fatal(_) => Error::Stopped,
                })
            }
            Consistency::AtLeast(revision) => self.inner.state.reached(revision).await,
        }
    }
}

/// What is opened before Raft starts.
pub(crate) struct Parts {
    directory: Directory,
    pub state: Arc<State>,
    pub log: Log,
    pub keeper: Keeper,
    writer: JoinHandle<()>,
}

impl Parts {
    pub fn open(options: Options) -> Result<Parts, Error> {
        let path = options.directory.as_path();
        let directory = Directory::open(path)?;
        let mut mvcc = Mvcc::default();
        let current = Generation::open_current(&directory.state, &mut |record| mvcc.load(record));
        let (generation, kept) = current.map_err(|e| open_error(path, e))?.unzip();
        if let Some(kept) = &kept {
            mvcc.loaded(kept.revision);
        }
        let applied = kept.as_ref().and_then(|kept| kept.applied);
        let shared = Arc::new(Shared::default());
        let start = recover(&directory.log, applied, shared.clone()).map_err(|e| open_error(path, e))?;
        let writer = Writer::start(start).map_err(|e| open_error(path, e))?;
        let (jobs, queue) = sync_channel(LOG_JOBS);
        let writer = std::thread::Builder::new().name("skiff-log".into()).spawn(move || writer.run(&queue));
        let writer = writer.map_err(|e| open_error(path, e))?;
        let state = Arc::new(State::new(mvcc, kept, options.volatile));
        let keeper = Keeper::start(directory.state.clone(), state.clone(), generation);
        let keeper = keeper.map_err(|e| open_error(path, e))?;
        Ok(Parts { directory, state, log: Log { shared, jobs }, keeper, writer })
    }
}

fn raft_config() -> Config {
    Config {
        cluster_name: "skiff".into(),
        heartbeat_interval: 100,
        election_timeout_min: 500,
        election_timeout_max: 1000,
        // A single server has nobody to hear from and nobody to tell: no timer runs.
        enable_tick: false,
        enable_pre_vote: Some(true),
        // A leader that comes back as one serves reads before it has applied what it had acknowledged.
        enable_leader_restore: Some(false),
        // Checkpoints are our own affair; Raft is told of them.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        ..Config::default()
    }
}

/// Becomes the leader of the cluster of one, and applies everything that the log holds. True: the cluster is new.
async fn lead(raft: &Raft, id: u64) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let fresh = !raft.is_initialized().await?;
    if fresh {
        raft.initialize(BTreeMap::from([(id, BasicNode::new(""))])).await?;
    } else {
        raft.trigger().elect(false).await?;
    }
    let caught_up = |metrics: &RaftMetrics<TypeConfig>| {
        let last = metrics.last_applied.filter(|applied: &LogId| applied.leader_id.term == metrics.current_term);
        metrics.state == ServerState::Leader && last.is_some_and(|last| metrics.last_log_index == Some(last.index))
    };
    raft.wait(Some(LEAD_LIMIT)).metrics(caught_up, "lead and apply the log").await?;
    Ok(fresh)
}

fn check_size(txn: &Txn) -> Result<(), Error> {
    let mut total = 0;
    for op in &txn.ops {
        let size = match op {
            Op::Put { key, value } => key.len() + value.len(),
            Op::Delete { key } => key.len(),
        };
        total += size;
        let (size, limit) = if size > VALUE_LIMIT { (size, VALUE_LIMIT) } else { (total, TXN_LIMIT) };
        if size > limit {
            return Err(Error::TooLarge { key: op_key(op).clone(), size, limit });
        }
    }
    Ok(())
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Without a close: the tasks hold no handle on the store, and must not stay behind.
        self.scope.token().cancel();
    }
}

impl Inner {
    /// Sets log space aside for an entry; `Full` if there is none and none can be had.
    async fn reserve(&self, bytes: usize, need: Need) -> Result<Permit, Error> {
        // Room for the record's and the segment's heads.
        let bytes = bytes as u64 + 256;
        let space = &self.log.shared.space;
        loop {
            let freed = space.freed();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match space.take(bytes, need) {
                Answer::Granted(permit) => return Ok(permit),
                Answer::Wait => freed.await,
                Answer::Short if self.log.allocate().await.map_err(|_| Error::Stopped)? => {}
                Answer::Short => return Err(Error::Full),
            }
        }
    }

    /// Raft ends by itself only when its storage failed under it: then nothing can be written until a restart, and a
    /// server that stays up without its store helps nobody.
    fn raft_stopped(&self, cause: &(dyn std::error::Error + 'static)) -> Error {
        if !self.closed.load(Ordering::Acquire) {
            tracing::error!(error = %chain(cause), "Raft has stopped: ending the process");
            std::process::abort();
        }
        Error::Stopped
    }

    async fn checkpoint(&self) -> Result<(), Error> {
        let result = self.keeper.checkpoint(false).await.ok_or(Error::Stopped)?;
        result.map_err(|e| match e {
            crate::checkpoint::CheckpointError::Full { .. } => Error::Full,
            other => Error::Checkpoint(Box::new(other)),
        })?;
        // Raft takes note of it, and purges the log.
        self.raft.trigger().snapshot().await.map_err(|_| Error::Stopped)
    }

    /// Writes checkpoints when they are due; sleeps while nothing changes.
    fn spawn_keeping(self: &Arc<Self>) {
        let (weak, state, log) = (Arc::downgrade(self), self.state.clone(), self.log.shared.clone());
        let token = self.scope.token().clone();
        self.scope.spawn(async move {
            let mut from = 0;
            let mut due = log.index().files.len() > SEGMENTS_AT_START;
            loop {
                if !due {
                    tokio::select! {
                        () = token.cancelled() => return,
                        () = state.dirty.notified() => {}
                    }
                    tokio::select! {
                        () = token.cancelled() => return,
                        () = tokio::time::sleep(CHECKPOINT_AFTER) => {}
                        () = grown(&log, from + CHECKPOINT_LOG_BYTES) => {}
                    }
                }
                from = log.written();
                while let Some(inner) = weak.upgrade().filter(|_| due || state.is_dirty()) {
                    due = false;
                    let Err(e) = inner.checkpoint().await else { break };
                    drop(inner);
                    tracing::warn!(error = %chain(&e), "checkpoint the store; it is tried again");
                    tokio::select! {
                        () = token.cancelled() => return,
                        () = tokio::time::sleep(CHECKPOINT_RETRY) => {}
                    }
                }
            }
        });
    }

    /// Compacts what is older than `keep`; sleeps while there is no history.
    fn spawn_compaction(self: &Arc<Self>, keep: Duration) {
        let (state, keeper) = (self.state.clone(), self.keeper.clone());
        let token = self.scope.token().clone();
        self.scope.spawn(async move {
            loop {
                tokio::select! {
                    () = token.cancelled() => return,
                    () = state.changed.notified() => {}
                }
                let mut history = true;
                while history {
                    let mark = state.read().mvcc.revision();
                    tokio::select! {
                        () = token.cancelled() => return,
                        () = tokio::time::sleep(keep) => {}
                    }
                    let before = state.read().mvcc.history_bytes();
                    state.compact(mark);
                    let held = state.read();
                    if held.mvcc.history_bytes() + TRIM_HISTORY_BYTES < before {
                        keeper.trim();
                    }
                    history = held.mvcc.has_history();
                }
            }
        });
    }

    /// Gives back what a load took; sleeps while little changes.
    fn spawn_trimming(self: &Arc<Self>) {
        let (state, keeper) = (self.state.clone(), self.keeper.clone());
        let token = self.scope.token().clone();
        self.scope.spawn(async move {
            loop {
                tokio::select! {
                    () = token.cancelled() => return,
                    () = state.churned.notified() => {}
                }
                let mut is_quiet = false;
                while !is_quiet {
                    let before = state.read().mvcc.churn();
                    tokio::select! {
                        () = token.cancelled() => return,
                        () = tokio::time::sleep(TRIM_WHEN_QUIET) => {}
                    }
                    is_quiet = state.read().mvcc.churn() < before + QUIET_BYTES;
                }
                keeper.trim();
            }
        });
    }

    async fn end(&self, checkpoint: bool) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.scope.stop().await;
        // Writes under way hold the gate until they are applied.
        drop(self.gate.write().await);
        if checkpoint
            && self.state.is_dirty()
            && let Err(e) = self.checkpoint().await
        {
            tracing::warn!(error = %chain(&e), "checkpoint the store; the next start replays the log");
        }
        if let Err(e) = self.raft.shutdown().await {
            tracing::warn!(error = %chain(&e), "stop Raft");
        }
        self.keeper.stop().await;
        self.state.stop();
        let at_close = self.at_close.lock().unwrap_or_else(PoisonError::into_inner).take();
        let jobs = self.log.jobs.clone();
        let Some(AtClose { writer, directory }) = at_close else { return };
        let stopped = tokio::task::spawn_blocking(move || {
            // It may have ended already.
            drop(jobs.send(Job::Stop));
            let ended = writer.join();
            drop(directory);
            ended.is_ok()
        });
        if !stopped.await.unwrap_or(false) {
            tracing::error!("the log's writer ended with a panic");
        }
    }
}

async fn grown(log: &Shared, to: u64) {
    while log.written() < to {
        log.grown.notified().await;
    }
}

/// What only tests look at.
#[cfg(test)]
impl Store {
    pub(crate) fn log_bytes(&self) -> u64 {
        self.inner.log.shared.written()
    }

    /// None: writes that are over still hold space.
    pub(crate) fn free_log_space(&self) -> Option<()> {
        self.inner.log.shared.space.is_free().then_some(())
    }

    /// Ends without a checkpoint.
    pub(crate) async fn crash(self) {
        self.inner.end(false).await;
    }

    /// Waits until Raft has purged the log up to the last checkpoint.
    pub(crate) async fn log_purged(&self) {
        let kept = self.inner.state.kept().and_then(|kept| kept.applied);
        let purged = |metrics: &RaftMetrics<TypeConfig>| metrics.purged >= kept;
        self.inner.raft.wait(Some(LEAD_LIMIT)).metrics(purged, "purge").await.expect("purged in time");
    }
}
