//! Bytes by key, replicated by Raft, every version in memory, durable before it is acknowledged.
//!
//! ```text
//! txn -> space -> Raft -> log writer: one write, one fdatasync -> committed -> machine: apply -> answer
//!                                                                                 |
//!                    watches <- hub <- versioned map in memory <------------------+
//!                                          | now and then: what changed
//!                                          v
//!                                    checkpoint in sled -> Raft purges the log up to there
//! ```
//!
//! Memory is the truth for reads, the log is what makes a write durable, the checkpoint is where a start begins; it
//! then replays the log behind it.
//!
//! Bottom-up: [`types`] is the public vocabulary. [`mvcc`] is the versioned map and [`watch`] hands its changes on,
//! both pure; [`state`] holds the two under one lock. [`raft`] names the types Raft works with, [`codec`] encodes
//! them. [`segment`] is the form of a log file, [`faults`] where tests break the disk, [`space`] sets room in the
//! log aside, [`log`] knows where each entry is, [`writer`] is the thread that writes, [`recover`] reads the log at
//! start. [`checkpoint`] is sled behind its guard, [`keeper`] the thread that writes it. [`machine`] and [`peers`]
//! are what Raft asks of us. [`directory`] is the lock and the format. [`store`] puts them together.
//!
//! Invariants:
//! - Acknowledged: the entry was fdatasynced, and is applied. A failed fdatasync of the log ends the process.
//! - A checkpoint is of one moment and says which entry it reaches to; the log is purged at most up to there.
//! - `apply` follows from the state and the entry alone.
//! - The revision grows by exactly one per command that changes something; a transaction has one revision.
//! - A watch yields each event once, in revision order.
//! - Volatile keys reach no disk, and their revisions are never given out twice.
//!
//! Must not know: Kubernetes objects; it holds bytes.

mod checkpoint;
mod codec;
#[cfg(test)]
mod crash_test;
mod directory;
mod faults;
mod keeper;
mod log;
mod machine;
mod mvcc;
#[cfg(test)]
mod mvcc_test;
mod peers;
mod raft;
mod recover;
mod segment;
mod space;
mod state;
mod store;
#[cfg(test)]
mod store_test;
#[cfg(test)]
mod suite_test;
mod types;
mod watch;
mod writer;

pub use store::{Store, TXN_LIMIT, VALUE_LIMIT};
pub use types::*;
pub use watch::Watch;
