//! All objects of one resource, the last changes to them, and those who watch.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use skiff_api::{Object, ObjectKey};

use super::event::{Event, What};
use super::filter::{Entry, Filter};
use super::progress::Progress;
use super::ring::Ring;
use super::watchers::{Subscription, Watchers};

/// The revision asked for is no longer in the ring.
#[derive(Debug)]
pub(crate) struct TooOld;

pub(crate) struct ResourceCache {
    state: RwLock<State>,
    progress: Arc<Progress>,
    /// How many changes there were: tells who made something of the objects when to make it anew.
    changes: AtomicU64,
}

pub(super) struct State {
    objects: BTreeMap<ObjectKey, Arc<Entry>>,
    pub(super) ring: Ring,
    /// The newest change's revision.
    last: u64,
    pub(super) watchers: Watchers,
}

/// Objects at a revision.
pub(crate) struct Snapshot {
    pub entries: Vec<Arc<Entry>>,
    pub revision: u64,
    /// How many match behind the limit, if any; with selectors not all of them are counted.
    pub more: Option<u64>,
}

impl ResourceCache {
    pub fn new(progress: Arc<Progress>, floor: u64) -> Self {
        let state =
            State { objects: BTreeMap::new(), ring: Ring::new(floor), last: floor, watchers: Watchers::default() };
        Self { state: RwLock::new(state), progress, changes: AtomicU64::new(1) }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("nothing panics while it changes the cache")
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
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

    /// Matching objects in key order, from `from` on, up to `limit`.
    pub fn snapshot(&self, filter: &Filter, from: Option<&ObjectKey>, limit: Option<usize>) -> Snapshot {
        let state = self.read();
        let revision = self.current(&state);
        let (entries, more) = state.select(filter, from, limit);
        Snapshot { entries, revision, more }
    }

    pub fn len(&self) -> usize {
        self.read().objects.len()
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
    pub fn subscribe(self: &Arc<Self>, filter: &Arc<Filter>, since: u64) -> Result<Subscription, TooOld> {
        let mut state = self.write();
        if since < state.ring.floor() {
            return Err(TooOld);
        }
        let next = state.ring.first_after(since).unwrap_or(0);
        Ok(Subscription::new(self, &mut state.watchers, filter, next))
    }

    /// What there is now, and all changes to come.
    pub fn subscribe_all(self: &Arc<Self>, filter: &Arc<Filter>) -> (Snapshot, Subscription) {
        let mut state = self.write();
        let revision = self.current(&state);
        let (entries, more) = state.select(filter, None, None);
        let subscription = Subscription::new(self, &mut state.watchers, filter, 0);
        (Snapshot { entries, revision, more }, subscription)
    }

    /// All changes up to here are in, none above.
    pub(super) fn current(&self, state: &State) -> u64 {
        // A change is entered before the progress says so, so with the lock held the larger one is exact.
        state.last.max(self.progress.reached())
    }

    pub fn put(&self, object: Arc<Object>) {
        let entry = Arc::new(Entry::new(object));
        let mut state = self.write_changed();
        let previous = state.objects.insert(entry.object.key(), entry.clone());
        let revision = entry.object.revision;
        state.publish(Event::new(revision, What::Put { entry, previous }));
    }

    /// `object` is the last state, at the revision of the deletion.
    pub fn remove(&self, object: Arc<Object>) {
        let mut state = self.write_changed();
        if let Some(last) = state.objects.remove(&object.key()) {
            // The change that made it is in the ring yet.
            last.object.forget_typed();
        }
        let revision = object.revision;
        state.publish(Event::new(revision, What::Delete { entry: Arc::new(Entry::new(object)) }));
    }

    /// Cuts off all watchers: what they see is defined anew, so they have to start over.
    pub fn end_watches(&self) {
        self.write().watchers.end_all();
    }

    /// Forgets everything and cuts off all watchers: the feed starts over.
    pub fn reset(&self, objects: BTreeMap<ObjectKey, Arc<Entry>>, revision: u64) {
        let mut state = self.write_changed();
        state.objects = objects;
        state.ring = Ring::new(revision);
        state.last = revision;
        state.watchers.end_all();
    }

    /// The last changes.
    #[cfg(test)]
    pub fn events(&self) -> Vec<Arc<Event>> {
        self.read().ring.events()
    }

    #[cfg(test)]
    pub fn watchers(&self) -> usize {
        self.read().watchers.count()
    }
}

impl State {
    fn select(
        &self,
        filter: &Filter,
        from: Option<&ObjectKey>,
        limit: Option<usize>,
    ) -> (Vec<Arc<Entry>>, Option<u64>) {
        let one_namespace = !filter.namespace.is_empty();
        let start = match from {
            Some(key) => Bound::Included(key.clone()),
            None if one_namespace => Bound::Included(ObjectKey::new(&filter.namespace, "")),
            None => Bound::Unbounded,
        };
        let range = self.objects.range((start, Bound::Unbounded));
        let mut candidates = range.take_while(|(key, _)| !one_namespace || *key.namespace == *filter.namespace);
        let limit = limit.unwrap_or(usize::MAX);
        if let (Some(name), true, None) = (filter.name(), one_namespace, from) {
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
        let more = match filter.selects() {
            true => u64::from(candidates.any(|(_, entry)| filter.matches(entry))),
            false => candidates.count() as u64,
        };
        (entries, (more > 0).then_some(more))
    }

    fn publish(&mut self, event: Event) {
        let event = Arc::new(event);
        self.last = event.revision;
        self.ring.push(event.clone());
        self.watchers.tell(&event);
    }
}

#[cfg(test)]
mod tests {
    use super::super::ring::TYPED;
    use super::super::watchers::Told;
    use super::*;
    use serde_json::json;
    use skiff_api::k8s::api::core::v1::Namespace;
    use skiff_api::kinds;

    struct Fixture {
        cache: Arc<ResourceCache>,
        progress: Arc<Progress>,
    }

    impl Fixture {
        fn new() -> Self {
            let progress = Arc::new(Progress::new(0));
            Self { cache: Arc::new(ResourceCache::new(progress.clone(), 0)), progress }
        }

        fn filter(&self, name: Option<&str>) -> Arc<Filter> {
            let fields = name.map(|name| format!("metadata.name={name}")).unwrap_or_default();
            Arc::new(Filter::new("", "", &fields, &kinds::builtin()[0].strategy).expect("a filter"))
        }

        fn put(&self, name: &str, revision: u64, bytes: usize) {
            let meta = json!({"name": name, "resourceVersion": revision.to_string()});
            let object = Object::from_wire(json!({"metadata": meta, "data": "x".repeat(bytes)}));
            self.cache.put(Arc::new(object.expect("an object")));
            self.progress.advance(revision);
        }
    }

    fn revisions(told: Option<Told>) -> Vec<u64> {
        match told {
            Some(Told::Changes(changes)) => changes.iter().map(|event| event.revision).collect(),
            Some(Told::Behind(at)) => panic!("behind at {at}"),
            Some(Told::Over) => panic!("over"),
            None => Vec::new(),
        }
    }

    #[test]
    fn each_change_is_told_once_in_order() {
        let f = Fixture::new();
        f.put("a", 1, 0);
        let (_, mut all) = f.cache.subscribe_all(&f.filter(None));
        let mut late = f.cache.subscribe(&f.filter(None), 0).expect("the ring holds it");
        let mut one = f.cache.subscribe(&f.filter(Some("b")), 0).expect("the ring holds it");
        for revision in 2..=200 {
            f.put(if revision % 50 == 0 { "b" } else { "a" }, revision, 0);
        }
        for (subscription, expect) in
            [(&mut all, (2..=200).collect()), (&mut late, (1..=200).collect()), (&mut one, vec![50, 100, 150, 200])]
        {
            assert_eq!(subscription.caught_up(), None, "changes wait");
            let mut seen = Vec::new();
            while let Some(told) = subscription.ready() {
                seen.extend(revisions(Some(told)));
            }
            assert_eq!(seen, expect);
            assert_eq!(subscription.caught_up(), Some(200));
        }
        f.put("c", 201, 0);
        assert_eq!(one.caught_up(), Some(201), "what is of others does not wait");
        drop((all, late, one));
        assert_eq!(f.cache.watchers(), 0);
    }

    #[test]
    fn who_falls_behind_is_told_where_and_holds_nothing() {
        let f = Fixture::new();
        let (_, mut subscription) = f.cache.subscribe_all(&f.filter(None));
        f.put("a", 1, 0);
        assert_eq!(revisions(subscription.ready()), [1]);
        f.put("a", 2, 1 << 20);
        let early = Arc::downgrade(&f.cache.find("", "a").expect("it is there"));
        for revision in 3..40 {
            f.put("a", revision, 1 << 20);
        }
        assert!(early.upgrade().is_none(), "nothing is queued for who does not read");
        assert_eq!(subscription.caught_up(), None);
        assert!(matches!(subscription.ready(), Some(Told::Behind(1))));
        assert!(f.cache.subscribe(&f.filter(None), 1).is_err());
    }

    #[test]
    fn of_what_is_over_only_the_bytes_are_kept() {
        let f = Fixture::new();
        let typed = |revision: u64| -> Vec<u64> {
            let events = f.cache.events();
            let objects = events.iter().filter(|event| event.revision <= revision).map(|event| &event.entry().object);
            objects.filter(|object| object.has_typed()).map(|object| object.revision).collect()
        };
        let read = || drop(f.cache.find("", "a").expect("it is there").typed::<Namespace>().expect("typed"));
        f.put("b", 1, 0);
        f.cache.find("", "b").expect("it is there").typed::<Namespace>().expect("typed");
        for revision in 2..=100 {
            f.put("a", revision, 0);
            read();
        }
        // The last few may be asked for yet, and what there is now is what the caches hold.
        let last = 100 - TYPED as u64..=100;
        assert_eq!(typed(100), std::iter::once(1).chain(last).collect::<Vec<_>>());
        f.cache.remove(Arc::new(f.cache.find("", "a").expect("it is there").at(101)));
        for revision in 102..200 {
            f.put("c", revision, 0);
        }
        assert_eq!(typed(200), [1]);
    }

    #[test]
    fn who_starts_over_is_told_so() {
        let f = Fixture::new();
        let (_, mut subscription) = f.cache.subscribe_all(&f.filter(None));
        f.put("a", 1, 0);
        f.cache.reset(BTreeMap::new(), 5);
        assert!(matches!(subscription.ready(), Some(Told::Over)));
        assert_eq!(subscription.caught_up(), None);
        let (_, other) = f.cache.subscribe_all(&f.filter(None));
        drop(subscription);
        assert_eq!(f.cache.watchers(), 1, "the other one stays");
        drop(other);
    }
}
