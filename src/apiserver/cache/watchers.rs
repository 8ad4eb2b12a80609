//! Those who watch a resource: each a place in the ring, and a bell.
//!
//! Nothing is queued for a watcher. One that does not read costs what one that reads costs; when the ring has gone on
//! without it, it is told so, and finds what it missed in the store's history as long as that is kept.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use super::event::Event;
use super::filter::Filter;
use super::resource::ResourceCache;

pub(super) struct Watcher {
    filter: Arc<Filter>,
    /// The revision of the first change that it has not taken; 0: it has taken all. Set to something by who changes the
    /// cache (under its lock, for writing), to something else by the one who reads (under the lock, for reading).
    next: AtomicU64,
    over: AtomicBool,
    bell: Notify,
}

impl Watcher {
    fn tell(&self, event: &Event) {
        if event.seen_by(&self.filter).is_none() {
            return;
        }
        // Where it is behind already, it finds this change on its way.
        let _ = self.next.compare_exchange(0, event.revision, Ordering::AcqRel, Ordering::Acquire);
        self.bell.notify_one();
    }

    fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.bell.notify_one();
    }
}

type ById = BTreeMap<u64, Arc<Watcher>>;

#[derive(Default)]
pub(super) struct Watchers {
    last_id: u64,
    any: ById,
    /// Those of one object, by its name: they are many, and most changes are none of their business.
    named: HashMap<Box<str>, ById>,
}

impl Watchers {
    fn add(&mut self, filter: &Arc<Filter>, next: u64) -> (u64, Arc<Watcher>) {
        self.last_id += 1;
        let watcher = Arc::new(Watcher {
            filter: filter.clone(),
            next: AtomicU64::new(next),
            over: AtomicBool::new(false),
            bell: Notify::new(),
        });
        let place = match filter.name() {
            Some(name) => self.named.entry(name.into()).or_default(),
            None => &mut self.any,
        };
        place.insert(self.last_id, watcher.clone());
        (self.last_id, watcher)
    }

    fn remove(&mut self, id: u64, filter: &Filter) {
        let Some(name) = filter.name() else {
            self.any.remove(&id);
            return;
        };
        if let Some(same) = self.named.get_mut(name) {
            same.remove(&id);
            if same.is_empty() {
                self.named.remove(name);
            }
        }
    }

    pub fn tell(&self, event: &Event) {
        let named = self.named.get(&*event.entry().object.meta.name);
        self.any.values().chain(named.into_iter().flat_map(BTreeMap::values)).for_each(|w| w.tell(event));
    }

    pub fn end_all(&mut self) {
        std::mem::take(&mut self.any).values().for_each(|w| w.end());
        std::mem::take(&mut self.named).values().flat_map(BTreeMap::values).for_each(|w| w.end());
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.any.len() + self.named.values().map(BTreeMap::len).sum::<usize>()
    }
}

/// What a watcher is told.
pub(crate) enum Told {
    Changes(Vec<Arc<Event>>),
    /// The ring went on without it: it has taken all changes up to this revision, and takes no more here.
    Behind(u64),
    /// What it sees is defined anew: it has to start over.
    Over,
}

/// A watcher's end of the cache.
pub(crate) struct Subscription {
    cache: Arc<ResourceCache>,
    id: u64,
    watcher: Arc<Watcher>,
}

impl Subscription {
    /// `next` is the revision of the first change in the ring to be told; 0: none yet.
    pub(super) fn new(cache: &Arc<ResourceCache>, watchers: &mut Watchers, filter: &Arc<Filter>, next: u64) -> Self {
        let (id, watcher) = watchers.add(filter, next);
        Self { cache: cache.clone(), id, watcher }
    }

    /// Waits for the next changes.
    pub async fn next(&mut self) -> Told {
        loop {
            if let Some(told) = self.ready() {
                return told;
            }
            self.watcher.bell.notified().await;
        }
    }

    /// What can be told at once.
    pub fn ready(&mut self) -> Option<Told> {
        if self.watcher.over.load(Ordering::Acquire) {
            return Some(Told::Over);
        }
        if self.watcher.next.load(Ordering::Acquire) == 0 {
            return None;
        }
        let state = self.cache.read();
        let from = self.watcher.next.load(Ordering::Acquire);
        if from <= state.ring.floor() {
            return Some(Told::Behind(from - 1));
        }
        let (changes, rest) = state.ring.take(from, &self.watcher.filter);
        self.watcher.next.store(rest.unwrap_or(0), Ordering::Release);
        // Of a namespace's watcher that came in the middle, nothing may be left.
        if changes.is_empty() && rest.is_none() { None } else { Some(Told::Changes(changes)) }
    }

    /// The revision up to which everything was told, if nothing waits. `None` for one that has ended, too: it lacks
    /// changes.
    pub fn caught_up(&self) -> Option<u64> {
        // While the lock is held there are no new changes.
        let state = self.cache.read();
        let waits = self.watcher.next.load(Ordering::Acquire) != 0 || self.watcher.over.load(Ordering::Acquire);
        (!waits).then(|| self.cache.current(&state))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.cache.write().watchers.remove(self.id, &self.watcher.filter);
    }
}
