//! How far the caches have followed the store.

use tokio::sync::watch;

/// A revision that only grows; can be waited for.
pub(crate) struct Progress(watch::Sender<u64>);

impl Progress {
    pub fn new(at: u64) -> Self {
        Self(watch::Sender::new(at))
    }

    pub fn reached(&self) -> u64 {
        *self.0.borrow()
    }

    pub fn advance(&self, to: u64) {
        self.0.send_if_modified(|at| {
            let grows = to > *at;
            *at = to.max(*at);
            grows
        });
    }

    /// Completes when `revision` is reached.
    pub async fn wait_for(&self, revision: u64) {
        if self.reached() >= revision {
            return;
        }
        // The sender lives as long as `self`, so this cannot fail.
        drop(self.0.subscribe().wait_for(|at| *at >= revision).await);
    }
}
