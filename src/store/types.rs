use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

/// Grows by exactly one per mutating command. Not the Raft index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// One key's value at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub key: Bytes,
    pub value: Bytes,
    pub created: Revision,
    pub modified: Revision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// What this replica has now.
    Local,
    /// Linearizable.
    ReadIndex,
    /// Waits until this replica has reached the revision.
    AtLeast(Revision),
}

/// Keys in `start..end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    pub start: Bytes,
    /// Exclusive.
    pub end: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The revision that the listing shows.
    pub revision: Revision,
    /// In key order.
    pub records: Vec<Record>,
    /// How many more keys of the range follow behind the limit.
    pub remaining: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    Absent { key: Bytes },
    Modified { key: Bytes, at: Revision },
    Present { key: Bytes },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put { key: Bytes, value: Bytes },
    Delete { key: Bytes },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Txn {
    pub compares: Vec<Compare>,
    /// Carried out in one revision when every compare holds.
    pub ops: Vec<Op>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnOutcome {
    Committed {
        revision: Revision,
    },
    /// A compare did not hold; what stands now at its key.
    Refused {
        failed: usize,
        current: Option<Record>,
        revision: Revision,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// `previous` is the version that this one replaces.
    Put { record: Record, previous: Option<Record> },
    /// `revision` is that of the deletion.
    Delete { revision: Revision, previous: Record },
    /// All events up to here have been sent (sent when a batch of events ends).
    Progress { revision: Revision },
}

/// A piece of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// In revision order; no `Progress` among them.
    pub events: Vec<WatchEvent>,
    /// The events are all there are up to here.
    pub through: Revision,
}

#[derive(Debug, Clone)]
pub struct Options {
    /// `/var/lib/skiff/server/db`.
    pub directory: PathBuf,
    /// History older than this is compacted (5 minutes).
    pub keep_history: Duration,
    /// Keys with one of these prefixes live in memory alone: no log entry, no disk write, gone after a restart.
    /// Meant for heartbeats (the Leases of `kube-node-lease`). The same on every server, always.
    pub volatile: Vec<Bytes>,
}

impl Options {
    /// Five minutes of history, no volatile keys.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), keep_history: Duration::from_secs(300), volatile: Vec::new() }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open the store in {directory}")]
    Open { directory: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    /// Made by another version of Skiff; the text says which and what to do.
    #[error("{0}")]
    Format(String),
    #[error("another process uses the store in {0}")]
    InUse(PathBuf),
    #[error("revision {asked:?} is compacted, the oldest is {oldest:?}")]
    Compacted { asked: Revision, oldest: Revision },
    /// Not appended: may be tried again at the leader.
    #[error("this server is not the leader")]
    NotLeader,
    /// The outcome is unknown.
    #[error("the write was not confirmed in time")]
    Unknown,
    /// Nothing was written: the disk is full or the store is over its quota.
    #[error("the store's disk is full")]
    Full,
    /// Nothing is lost: the log keeps what the checkpoint would hold.
    #[error("write a checkpoint")]
    Checkpoint(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the store has stopped")]
    Stopped,
    /// A watch whose receiver did not keep up is closed with this; it has to list and watch again.
    #[error("the watch fell behind by {0} events")]
    Lagged(usize),
    /// Nothing was written.
    #[error("a transaction touches both volatile and durable keys")]
    MixedVolatile,
    #[error("the value for {key:?} has {size} bytes, {limit} are allowed")]
    TooLarge { key: Bytes, size: usize, limit: usize },
}
