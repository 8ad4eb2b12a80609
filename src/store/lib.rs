//! Bytes by key, replicated by Raft, every version in memory, durable before it is acknowledged.
//!
//! Must not know: Kubernetes objects; it holds bytes.

mod types;

pub use types::*;
