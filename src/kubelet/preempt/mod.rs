//! Room for a critical pod: where the node has too little of something for it, others end. As upstream's kubelet: pods of the
//! lowest class of service that suffice, as few as possible. One critical pod after the other, since each counts what the
//! one before has freed.
//!
//! `plan` chooses them, `keep` has them end.

pub(crate) mod keep;
mod plan;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use skiff_base::CancellationToken;
use tokio::sync::oneshot;

/// Critical pods that wait for room.
pub(crate) const WAITING: usize = 16;

/// A critical pod for which there is no room.
pub(crate) struct Request {
    pub(crate) pod: Arc<Pod>,
    /// It is to end itself.
    pub(crate) ending: CancellationToken,
    /// Told when there is room, or why there is none.
    pub(crate) answer: oneshot::Sender<Result<(), String>>,
}
