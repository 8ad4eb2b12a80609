use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Owns tasks: they are told to stop together, and the scope ends when all of them have ended.
///
/// Tasks watch [`Scope::token`]; nothing is aborted, so a task that holds something can put it
/// down. Cloning gives another handle on the same scope.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Scope {
    pub fn new() -> Self {
        Self::default()
    }

    /// A scope that is told to stop when this one is, and that this one waits for only through the
    /// task that owns it.
    pub fn child(&self) -> Self {
        Self { tracker: TaskTracker::new(), token: self.token.child_token() }
    }

    /// Cancelled when the scope is to stop.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Starts a task in this scope.
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// Tells every task to stop, and waits until all have.
    pub async fn stop(&self) {
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn stop_waits_for_every_task() {
        let ended = Arc::new(AtomicU32::new(0));
        let scope = Scope::new();
        for _ in 0..3 {
            let (ended, token) = (ended.clone(), scope.token().clone());
            scope.spawn(async move {
                token.cancelled().await;
                tokio::task::yield_now().await;
                ended.fetch_add(1, Ordering::SeqCst);
            });
        }
        scope.stop().await;
        assert_eq!(ended.load(Ordering::SeqCst), 3);
    }
}
