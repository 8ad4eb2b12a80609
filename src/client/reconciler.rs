use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use skiff_base::Scope;

use crate::{Queue, Result};

/// When a key is to be looked at again without an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Done,
    After(Duration),
}

/// A control loop: makes the world of one key as it should be.
pub trait Reconciler: Send + Sync + 'static {
    /// Upstream's name of the controller.
    const NAME: &'static str;
    type Key: Clone + Debug + Eq + Hash + Send + Sync + 'static;

    /// Gets no event and no old object: it reads the listers. An error is logged, and the key tried
    /// again with back-off.
    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Next>> + Send;
}

/// Runs `workers` tasks in `scope` that take keys from `queue`, until the scope is stopped.
pub fn run<R: Reconciler>(scope: &Scope, reconciler: Arc<R>, queue: Queue<R::Key>, workers: usize) {
    let _ = (scope, reconciler, queue, workers);
    todo!("client helper")
}
