//! Hands each change to the watches of its key's prefix, once and in revision order.
//!
//! A watch is a queue that `apply` fills while it holds the store's write lock, so what a queue holds is complete up to
//! its newest revision. A receiver that lets its queue run full loses the watch, never an event in between.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::mvcc::Change;
use crate::types::{Error, Revision, WatchEvent};

/// How many events may wait for a receiver, beside the history that it starts with.
pub(crate) const QUEUE_EVENTS: usize = 32_768;

/// A stream of changes; dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    changes: VecDeque<Arc<Change>>,
    limit: usize,
    /// Events up to here are not wanted.
    after: Revision,
    /// The last change's revision may have more changes to come.
    partial: bool,
    /// Every event of this watch up to here is, or was, in `changes`.
    through: Revision,
    /// A progress mark is due even without an event.
    progress: bool,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Lagged(usize),
    Stopped,
    /// The receiver is gone, or was told of the end.
    Over,
}

impl Watch {
    /// The next events, ending with a `Progress`; an error is the last item.
    pub async fn next(&mut self) -> Option<Result<Vec<WatchEvent>, Error>> {
        loop {
            if let Some(item) = self.queue.take() {
                return item;
            }
            self.queue.notify.notified().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock();
        waiting.end = Some(End::Over);
        waiting.changes = VecDeque::new();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics half-way through a change of the queue.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: nothing to tell yet.
    fn take(&self) -> Option<Option<Result<Vec<WatchEvent>, Error>>> {
        let mut waiting = self.lock();
        match waiting.end {
            Some(End::Over) => return Some(None),
            Some(End::Lagged(events)) => {
                waiting.end = Some(End::Over);
                return Some(Some(Err(Error::Lagged(events))));
            }
            Some(End::Stopped) if waiting.partial || waiting.changes.is_empty() => {
                waiting.end = Some(End::Over);
                return Some(Some(Err(Error::Stopped)));
            }
            Some(End::Stopped) | None => {}
        }
        if waiting.partial || (waiting.changes.is_empty() && !waiting.progress) {
            return None;
        }
        let changes = std::mem::take(&mut waiting.changes);
        waiting.limit = QUEUE_EVENTS;
        waiting.progress = false;
        let progress = WatchEvent::Progress { revision: waiting.through };
        drop(waiting);
        let mut events = Vec::with_capacity(changes.len() + 1);
        events.extend(changes.iter().map(|change| change.event.clone()));
        events.push(progress);
        Some(Some(Ok(events)))
    }

    /// False if the watch is over.
    fn push(&self, change: &Arc<Change>) -> bool {
        let mut waiting = self.lock();
        if waiting.end.is_some() {
            return false;
        }
        if waiting.changes.len() >= waiting.limit {
            waiting.end = Some(End::Lagged(waiting.changes.len()));
            waiting.changes = VecDeque::new();
            self.notify.notify_one();
            return false;
        }
        if change.revision > waiting.after {
            waiting.changes.push_back(change.clone());
            waiting.partial = true;
        }
        true
    }

    /// All events of the revision are in the queue.
    fn complete(&self, revision: Revision) {
        let mut waiting = self.lock();
        waiting.through = revision.max(waiting.after);
        waiting.partial = false;
        drop(waiting);
        self.notify.notify_one();
    }

    fn mark_progress(&self, revision: Revision) {
        let mut waiting = self.lock();
        waiting.through = revision.max(waiting.after);
        waiting.progress = true;
        drop(waiting);
        self.notify.notify_one();
    }
}

/// All watches, by prefix.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    watches: HashMap<Bytes, Vec<Arc<Queue>>>,
    /// The distinct lengths of the prefixes, so that a key looks up as many prefixes as there are lengths.
    lengths: Vec<usize>,
    stopped: bool,
}

impl Hub {
    /// `history`: the changes that the watch starts with; `revision`: where they end.
    pub fn watch<'a>(
        &mut self,
        prefix: Bytes,
        history: impl Iterator<Item = &'a Arc<Change>>,
        after: Revision,
        revision: Revision,
    ) -> Watch {
        let changes: VecDeque<_> = history.filter(|change| change.key().starts_with(&prefix)).cloned().collect();
        let waiting = Waiting {
            limit: changes.len() + QUEUE_EVENTS,
            changes,
            after,
            partial: false,
            through: revision.max(after),
            progress: false,
            end: self.stopped.then_some(End::Stopped),
        };
        let queue = Arc::new(Queue { waiting: Mutex::new(waiting), notify: Notify::new() });
        if !self.lengths.contains(&prefix.len()) {
            self.lengths.push(prefix.len());
        }
        let same = self.watches.entry(prefix).or_default();
        same.retain(|other| other.lock().end.is_none());
        same.push(queue.clone());
        Watch { queue }
    }

    /// `changes` are all those of one revision.
    pub fn publish(&mut self, changes: &[Arc<Change>]) {
        let Some(revision) = changes.first().map(|change| change.revision) else { return };
        let mut touched: Vec<Arc<Queue>> = Vec::new();
        for change in changes {
            for length in &self.lengths {
                let Some(prefix) = change.key().get(..*length) else { continue };
                let Some(same) = self.watches.get_mut(prefix) else { continue };
                same.retain(|queue| {
                    let open = queue.push(change);
                    if open && (changes.len() == 1 || !touched.iter().any(|other| Arc::ptr_eq(other, queue))) {
                        touched.push(queue.clone());
                    }
                    open
                });
            }
        }
        for queue in touched {
            queue.complete(revision);
        }
    }

    /// Makes every watch tell its receiver that it has seen everything up to `revision`.
    pub fn mark_progress(&self, revision: Revision) {
        for queue in self.watches.values().flatten() {
            queue.mark_progress(revision);
        }
    }

    /// Ends every watch, now and later.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.end_all(End::Stopped);
    }

    /// Ends every watch, since the history in front of the new state is not known.
    pub fn restart(&mut self) {
        self.end_all(End::Lagged(0));
    }

    fn end_all(&mut self, end: End) {
        for queue in self.watches.drain().flat_map(|(_, queues)| queues) {
            let mut waiting = queue.lock();
            if waiting.end.is_none() {
                waiting.end = Some(end);
            }
            drop(waiting);
            queue.notify.notify_one();
        }
    }
}
