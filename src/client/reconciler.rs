use std::any::Any;
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use skiff_base::{Scope, chain};

use crate::{Error, Queue, Result};

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
///
/// A reconcile that panics ends nothing: it is logged, and the key tried again as after an error.
pub fn run<R: Reconciler>(scope: &Scope, reconciler: Arc<R>, queue: Queue<R::Key>, workers: usize) {
    for _ in 0..workers {
        let (token, reconciler, queue) = (scope.token().clone(), reconciler.clone(), queue.clone());
        scope.spawn(async move {
            loop {
                let key = tokio::select! {
                    biased;
                    () = token.cancelled() => return,
                    key = queue.next() => key,
                };
                let outcome = AssertUnwindSafe(reconciler.reconcile(&key)).catch_unwind().await;
                if token.is_cancelled() {
                    // What failed now, failed because everything stops.
                    return;
                }
                settle::<R>(&queue, &key, outcome);
                queue.done(&key);
            }
        });
    }
}

type Outcome = std::result::Result<Result<Next>, Box<dyn Any + Send>>;

/// What becomes of a key after a reconcile.
fn settle<R: Reconciler>(queue: &Queue<R::Key>, key: &R::Key, outcome: Outcome) {
    match outcome {
        Ok(Ok(next)) => {
            queue.forget(key);
            if let Next::After(wait) = next {
                queue.add_after(key.clone(), wait);
            }
        }
        Ok(Err(error)) => {
            log::<R>(key, &error);
            queue.add_failed(key.clone());
        }
        Err(panic) => {
            tracing::error!(controller = R::NAME, ?key, panic = text(&*panic), "reconcile panicked");
            queue.add_failed(key.clone());
        }
    }
}

/// A conflict means that the cache lags; trying again is all that is needed.
fn log<R: Reconciler>(key: &R::Key, error: &Error) {
    if error.is_conflict() {
        tracing::debug!(controller = R::NAME, ?key, error = %chain(error), "reconcile again");
    } else {
        tracing::warn!(controller = R::NAME, ?key, error = %chain(error), "reconcile failed");
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of unknown kind")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::sync::mpsc;

    /// Fails, panics and waits by its number of calls, and tells of each.
    struct Moody {
        calls: Mutex<u32>,
        told: mpsc::UnboundedSender<u32>,
    }

    impl Reconciler for Moody {
        const NAME: &'static str = "moody";
        type Key = &'static str;

        async fn reconcile(&self, _key: &&'static str) -> Result<Next> {
            let call = {
                let mut calls = self.calls.lock().expect("unpoisoned");
                *calls += 1;
                *calls
            };
            self.told.send(call).expect("the test listens");
            match call {
                1 => Err(Error::Config("no".into())),
                2 => panic!("at the second call"),
                3 => Ok(Next::After(Duration::from_millis(1))),
                _ => Ok(Next::Done),
            }
        }
    }

    #[tokio::test]
    async fn tries_again_after_errors_panics_and_when_asked_and_then_rests() {
        let scope = Scope::new();
        let queue = Queue::new("moody");
        let (told, mut calls) = mpsc::unbounded_channel();
        run(&scope, Arc::new(Moody { calls: Mutex::new(0), told }), queue.clone(), 2);
        queue.add("a");
        for expect in 1..=4 {
            assert_eq!(calls.recv().await, Some(expect));
        }
        scope.stop().await;
        assert!(queue.is_empty());
        assert_eq!(queue.failures(&"a"), 0);
        assert_eq!(calls.recv().await, None, "the workers are gone");
    }
}
