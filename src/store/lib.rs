//! Bytes by key, replicated by Raft, every version in memory, durable before it is acknowledged.
//!
//! Must not know: Kubernetes objects; it holds bytes.

mod mvcc;
mod state;
mod store;
mod types;
mod watch;

pub use store::Store;
pub use types::*;
pub use watch::Watch;
