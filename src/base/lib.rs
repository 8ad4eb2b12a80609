//! What every crate of Skiff stands on, and what knows nothing of Kubernetes.
//!
//! Bottom-up: [`chain`] prints an error with its causes, [`time`] reads the clock, [`backoff`] says
//! how long to wait before the next try, [`file`] replaces files so that a power cut leaves either
//! the old or the new content, [`scope`] ties tasks to an owner that outlives none of them.
//!
//! Must not know: Kubernetes, HTTP, the network.

mod backoff;
mod chain;
pub mod file;
mod scope;
pub mod time;

pub use backoff::Backoff;
pub use chain::chain;
pub use scope::Scope;
pub use tokio_util::sync::CancellationToken;
