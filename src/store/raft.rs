//! The types that Raft is used with.

use std::fmt;
use std::sync::Arc;

use openraft::raft::responder::Responder;
use tokio::sync::{OwnedRwLockReadGuard, oneshot};

use crate::space::Permit;
use crate::types::{Revision, Txn, TxnOutcome};

/// Openraft's own types wherever they do; our command, answer and responder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Command;
    type R = Option<TxnOutcome>;
    type NodeId = u64;
    type Node = openraft::BasicNode;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = openraft::Vote<LeaderId>;
    type Payload = openraft::EntryPayload<Command, u64, openraft::BasicNode>;
    type Entry = openraft::Entry<LeaderId, Self::Payload>;
    type AsyncRuntime = openraft::TokioRuntime;
    type Responder<T>
        = Reply<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type EntryPayload = openraft::type_config::alias::PayloadOf<TypeConfig>;
pub(crate) type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, openraft::BasicNode>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type Flushed = openraft::storage::IOFlushed<TypeConfig>;
pub(crate) type Raft = openraft::Raft<TypeConfig, crate::machine::Machine>;

/// What a log entry asks the versioned map to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Command {
    /// `floor`: the leader's revision when it proposed this. Writes to volatile keys take revisions without a log entry;
    /// with the floor a replay gives this command the same revision as the first time.
    Txn { floor: Revision, txn: Arc<Txn> },
    /// Moves the revision up, past the revisions that volatile keys may have had before a restart.
    Advance { to: Revision },
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Txn { floor, txn } => write!(f, "txn of {} ops above {}", txn.ops.len(), floor.0),
            Command::Advance { to } => write!(f, "advance to {}", to.0),
        }
    }
}

/// Answers the caller of a write. Lives from the proposal until the entry is applied, even if the caller is gone, and
/// so do the things that the write holds.
pub(crate) struct Reply<T> {
    pub sender: oneshot::Sender<T>,
    pub held: Held,
}

/// Released when the write is applied.
pub(crate) struct Held {
    /// The log space set aside for the entry.
    pub _space: Permit,
    /// Keeps volatile writes out between the reading of the floor and the apply.
    pub _durable: OwnedRwLockReadGuard<()>,
}

impl<T: Send + 'static> Responder<TypeConfig, T> for Reply<T> {
    fn on_complete(self, result: T) {
        drop(self.held);
        // The caller may have gone away; the write stands.
        drop(self.sender.send(result));
    }
}
