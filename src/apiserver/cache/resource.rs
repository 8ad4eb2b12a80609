//! All objects of one resource, the last changes to them, and those who watch.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use skiff_api::{Object, ObjectKey};
use tokio::sync::mpsc;

use super::filter::{Entry, Filter};
use super::progress::Progress;

/// Changes that a watcher may be behind before it is cut off and has to start over.
const WATCHER_QUEUE: usize = 4096;
/// The ring keeps at least this many changes, then as many as fit into its bytes.
const RING_MIN_EVENTS: usize = 128;
const RING_MAX_EVENTS: usize = 16_384;
const RING_BYTES: usize = 2 << 20;

/// A change, told to every watcher as one shared value.
pub(crate) struct Event {
    pub revision: u64,
    pub what: What,
    /// The JSON frame of a watch that needs no conversion, made by the first that sends it.
    pub frame: OnceLock<Bytes>,
}

pub(crate) enum What {
    Put {
        entry: Arc<Entry>,
        previous: Option<Arc<Entry>>,
    },
    /// The last state, at the revision of the deletion.
    Delete {
        entry: Arc<Entry>,
    },
}

impl Event {
    /// The type of the frame for a watcher who selects the object before and after.
    pub fn natural_kind(&self) -> &'static str {
        match &self.what {
            What::Put { previous: None, .. } => "ADDED",
            What::Put { .. } => "MODIFIED",
            What::Delete { .. } => "DELETED",
        }
    }

    fn bytes(&self) -> usize {
        match &self.what {
            What::Put { entry, .. } | What::Delete { entry } => entry.object.raw().len() + 256,
        }
    }
}

/// What a filtered watcher sees of a change.
pub(crate) enum Seen<'a> {
    Added(&'a Arc<Entry>),
    Modified(&'a Arc<Entry>),
    /// Out of the selection by deletion (`gone`), or by a change: then the state before it.
    Deleted {
        entry: &'a Arc<Entry>,
        gone: bool,
    },
}

impl Event {
    /// A change that moves an object into or out of the selection is seen as its creation or deletion.
    pub fn seen_by(&self, filter: &Filter) -> Option<Seen<'_>> {
        match &self.what {
            What::Delete { entry } => filter.matches(entry).then_some(Seen::Deleted { entry, gone: true }),
            What::Put { entry, previous } => {
                let before = previous.as_ref().filter(|p| filter.matches(p));
                match (before, filter.matches(entry)) {
                    (None, true) => Some(Seen::Added(entry)),
                    (Some(_), true) => Some(Seen::Modified(entry)),
                    (Some(previous), false) => Some(Seen::Deleted { entry: previous, gone: false }),
                    (None, false) => None,
                }
            }
        }
    }
}

/// The revision asked for is no longer in the ring.
#[derive(Debug)]
pub(crate) struct TooOld;

pub(crate) struct ResourceCache {
    state: RwLock<State>,
    progress: Arc<Progress>,
    /// How many changes there were: tells who made something of the objects when to make it anew.
    changes: AtomicU64,
}

struct State {
    objects: BTreeMap<ObjectKey, Arc<Entry>>,
    ring: VecDeque<Arc<Event>>,
    ring_bytes: usize,
    /// Changes up to here are not in the ring.
    floor: u64,
    /// The newest change's revision.
    last: u64,
    watchers: Vec<Watcher>,
}

struct Watcher {
    filter: Arc<Filter>,
    queue: mpsc::Sender<Arc<Event>>,
}

/// Objects at a revision.
pub(crate) struct Snapshot {
    pub entries: Vec<Arc<Entry>>,
    pub revision: u64,
    /// Whether more follow behind the limit, and how many keys those are (before filtering).
    pub more: Option<u64>,
}

/// The queue of one watcher; it ends when the watcher fell behind or the cache started over.
pub(crate) struct Subscription {
    pub backlog: Vec<Arc<Event>>,
    pub events: mpsc::Receiver<Arc<Event>>,
    /// Everything up to here is in the backlog or before it.
    pub revision: u64,
}

impl ResourceCache {
    pub fn new(progress: Arc<Progress>, floor: u64) -> Self {
        let state = State {
            objects: BTreeMap::new(),
            ring: VecDeque::new(),
            ring_bytes: 0,
            floor,
            last: floor,
            watchers: Vec::new(),
        };
        Self { state: RwLock::new(state), progress, changes: AtomicU64::new(1) }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("nothing panics while it changes the cache")
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("nothing panics while it changes the cache")
    }

    /// To change objects. Who has read the new count waits here for the objects to be as it says.
    fn write_changed(&self) -> RwLockWriteGuard<'_, State> {
        let state = self.write();
        self.changes.fetch_add(1, Ordering::Release);
        state
    }

    /// How many changes there were.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    pub fn get(&self, key: &ObjectKey) -> Option<Arc<Object>> {
        self.read().objects.get(key).map(|e| e.object.clone())
    }

    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.get(&ObjectKey::new(namespace, name))
    }

    /// Matching objects in key order, from behind `after` on, up to `limit`.
    pub fn snapshot(&self, filter: &Filter, after: Option<&ObjectKey>, limit: Option<usize>) -> Snapshot {
        let state = self.read();
        let revision = self.current(&state);
        let (entries, more) = state.select(filter, after, limit);
        Snapshot { entries, revision, more }
    }

    /// Every object.
    pub fn all(&self) -> Vec<Arc<Object>> {
        self.read().objects.values().map(|e| e.object.clone()).collect()
    }

    pub fn of_namespace(&self, namespace: &str) -> Vec<Arc<Object>> {
        let state = self.read();
        let range = state.objects.range((Bound::Included(ObjectKey::new(namespace, "")), Bound::Unbounded));
        range.take_while(|(key, _)| *key.namespace == *namespace).map(|(_, e)| e.object.clone()).collect()
    }

    /// The changes after `since`, and all to come.
    pub fn subscribe(&self, filter: &Arc<Filter>, since: u64) -> Result<Subscription, TooOld> {
        let mut state = self.write();
        if since < state.floor {
            return Err(TooOld);
        }
        let start = state.ring.partition_point(|event| event.revision <= since);
        let backlog = state.ring.range(start..).cloned().collect();
        let revision = self.current(&state).max(since);
        Ok(Subscription { backlog, events: state.watch(filter), revision })
    }

    /// What there is now, and all changes to come.
    pub fn subscribe_all(&self, filter: &Arc<Filter>) -> (Snapshot, Subscription) {
        let mut state = self.write();
        let revision = self.current(&state);
        let (entries, more) = state.select(filter, None, None);
        let events = state.watch(filter);
        (Snapshot { entries, revision, more }, Subscription { backlog: Vec::new(), events, revision })
    }

    /// The revision up to which `queue` has been told everything, if nothing waits in it. `None` for one that was cut
    /// off, too: it lacks changes.
    pub fn caught_up(&self, queue: &mpsc::Receiver<Arc<Event>>) -> Option<u64> {
        // While the lock is held no change can be added to the queue, and no queue cut off.
        let state = self.read();
        (queue.is_empty() && !queue.is_closed()).then(|| self.current(&state))
    }

    /// All changes up to here are in, none above.
    fn current(&self, state: &State) -> u64 {
        // A change is entered before the progress says so, so with the lock held the larger one is exact.
        state.last.max(self.progress.reached())
    }

    pub fn put(&self, object: Arc<Object>) {
        let entry = Arc::new(Entry::new(object));
        let mut state = self.write_changed();
        let previous = state.objects.insert(entry.object.key(), entry.clone());
        let revision = entry.object.revision;
        state.publish(Event { revision, what: What::Put { entry, previous }, frame: OnceLock::new() });
    }

    /// `object` is the last state, at the revision of the deletion.
    pub fn remove(&self, object: Arc<Object>) {
        let mut state = self.write_changed();
        state.objects.remove(&object.key());
        let revision = object.revision;
        let what = What::Delete { entry: Arc::new(Entry::new(object)) };
        state.publish(Event { revision, what, frame: OnceLock::new() });
    }

    /// Cuts off all watchers: what they see is defined anew, so they have to start over.
    pub fn end_watches(&self) {
        self.write().watchers.clear();
    }

    /// Forgets everything and cuts off all watchers: the feed starts over.
    pub fn reset(&self, objects: BTreeMap<ObjectKey, Arc<Entry>>, revision: u64) {
        let mut state = self.write_changed();
        *state = State {
            objects,
            ring: VecDeque::new(),
            ring_bytes: 0,
            floor: revision,
            last: revision,
            watchers: Vec::new(),
        };
    }
}

impl State {
    fn select(
        &self,
        filter: &Filter,
        after: Option<&ObjectKey>,
        limit: Option<usize>,
    ) -> (Vec<Arc<Entry>>, Option<u64>) {
        let one_namespace = !filter.namespace.is_empty();
        let start = match after {
            Some(key) => Bound::Excluded(key.clone()),
            None if one_namespace => Bound::Included(ObjectKey::new(&filter.namespace, "")),
            None => Bound::Unbounded,
        };
        let range = self.objects.range((start, Bound::Unbounded));
        let mut candidates = range.take_while(|(key, _)| !one_namespace || *key.namespace == *filter.namespace);
        let limit = limit.unwrap_or(usize::MAX);
        if let (Some(name), true, None) = (filter.name(), one_namespace, after) {
            let found = self.objects.get(&ObjectKey::new(&filter.namespace, name));
            return (found.filter(|e| filter.matches(e)).cloned().into_iter().collect(), None);
        }
        let mut entries = Vec::new();
        for (_, entry) in candidates.by_ref() {
            if filter.matches(entry) {
                entries.push(entry.clone());
                if entries.len() >= limit {
                    break;
                }
            }
        }
        if entries.len() < limit {
            return (entries, None);
        }
        let more = candidates.filter(|(_, entry)| filter.matches(entry)).count() as u64;
        (entries, (more > 0).then_some(more))
    }

    fn watch(&mut self, filter: &Arc<Filter>) -> mpsc::Receiver<Arc<Event>> {
        self.watchers.retain(|w| !w.queue.is_closed());
        let (queue, events) = mpsc::channel(WATCHER_QUEUE);
        self.watchers.push(Watcher { filter: filter.clone(), queue });
        events
    }

    fn publish(&mut self, event: Event) {
        let event = Arc::new(event);
        self.last = event.revision;
        // A watcher that is full loses the queue's sending half here, and notices at its end.
        self.watchers.retain(|w| {
            if event.seen_by(&w.filter).is_some() {
                w.queue.try_send(event.clone()).is_ok()
            } else {
                !w.queue.is_closed()
            }
        });
        self.ring_bytes += event.bytes();
        self.ring.push_back(event);
        while self.ring.len() > RING_MAX_EVENTS || (self.ring.len() > RING_MIN_EVENTS && self.ring_bytes > RING_BYTES) {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.ring_bytes -= oldest.bytes();
            self.floor = oldest.revision;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use skiff_api::kinds;

    #[test]
    fn a_queue_that_was_cut_off_has_caught_up_with_nothing() {
        let progress = Arc::new(Progress::new(0));
        let cache = ResourceCache::new(progress.clone(), 0);
        let put = |revision: u64| {
            let meta = json!({"name": format!("c{revision}"), "resourceVersion": revision.to_string()});
            cache.put(Arc::new(Object::from_wire(json!({"metadata": meta})).expect("an object")));
            progress.advance(revision);
        };
        let descriptors = kinds::builtin();
        let filter = Arc::new(Filter::new("", None, "", "", &descriptors[0].strategy).expect("a filter"));
        let (_, mut subscription) = cache.subscribe_all(&filter);
        let full = WATCHER_QUEUE as u64;
        (1..=full).for_each(put);
        assert_eq!(cache.caught_up(&subscription.events), None, "changes wait");
        put(full + 1);
        for revision in 1..=full {
            assert_eq!(subscription.events.try_recv().expect("a change").revision, revision);
        }
        assert_eq!(cache.caught_up(&subscription.events), None, "the last change was lost");
        let (_, subscription) = cache.subscribe_all(&filter);
        assert_eq!(cache.caught_up(&subscription.events), Some(full + 1));
    }
}
