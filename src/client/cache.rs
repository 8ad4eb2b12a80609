//! The cache under a lister: the same code for all types, of which there are dozens. What differs is how an object is read,
//! and by which values an index finds it.

use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use futures::StreamExt as _;
use skiff_api::{Gvr, Object, ObjectKey};
use skiff_base::{Backoff, chain};
use tokio::sync::watch;

use crate::{Client, Selector, Update};

/// An object in the form of the cache's type.
pub(crate) type Typed = Arc<dyn Any + Send + Sync>;
/// Reads an object.
pub(crate) type Read = fn(&Arc<Object>) -> Result<Typed, skiff_api::DecodeError>;
type Values = Box<dyn Fn(&Typed) -> Vec<String> + Send + Sync>;
type Subscriber = Box<dyn Fn(&Step) + Send + Sync>;

/// One difference, as subscribers are told.
pub(crate) enum Step {
    Added(Typed),
    Modified { old: Typed, new: Typed },
    Deleted(Typed),
}

pub(crate) struct Cache {
    kind: &'static str,
    read: Read,
    content: RwLock<Content>,
    /// Held from the change of the content until all are told, so that nobody misses or doubles one.
    subscribers: Mutex<Vec<Subscriber>>,
    synced: watch::Receiver<bool>,
}

#[derive(Default)]
struct Content {
    /// By namespace, then by name.
    objects: HashMap<Arc<str>, BTreeMap<Arc<str>, Held>>,
    indexes: HashMap<&'static str, Index>,
}

struct Held {
    revision: u64,
    uid: Arc<str>,
    object: Typed,
}

struct Index {
    values: Values,
    found: HashMap<String, BTreeMap<ObjectKey, Typed>>,
}

impl Index {
    fn insert(&mut self, key: &ObjectKey, object: &Typed) {
        for value in (self.values)(object) {
            self.found.entry(value).or_default().insert(key.clone(), object.clone());
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &Typed) {
        for value in (self.values)(object) {
            if let Some(objects) = self.found.get_mut(&value) {
                objects.remove(key);
                if objects.is_empty() {
                    self.found.remove(&value);
                }
            }
        }
    }
}

impl Content {
    fn get(&self, key: &ObjectKey) -> Option<&Held> {
        self.objects.get(&key.namespace)?.get(&key.name)
    }

    fn keys(&self) -> impl Iterator<Item = (ObjectKey, &Held)> {
        let of = |(namespace, objects): (&Arc<str>, _)| (namespace.clone(), objects);
        self.objects.iter().map(of).flat_map(|(namespace, objects): (Arc<str>, &BTreeMap<Arc<str>, Held>)| {
            let key = move |name: &Arc<str>| ObjectKey { namespace: namespace.clone(), name: name.clone() };
            objects.iter().map(move |(name, held)| (key(name), held))
        })
    }

    fn put(&mut self, key: ObjectKey, held: Held, steps: &mut Vec<Step>) {
        let old = self.objects.get_mut(&key.namespace).and_then(|objects| objects.remove(&key.name));
        if let Some(old) = &old {
            self.indexes.values_mut().for_each(|index| index.remove(&key, &old.object));
        }
        self.indexes.values_mut().for_each(|index| index.insert(&key, &held.object));
        let new = held.object.clone();
        match old {
            Some(old) if old.uid != held.uid => steps.extend([Step::Deleted(old.object), Step::Added(new)]),
            Some(old) if old.revision != held.revision => steps.push(Step::Modified { old: old.object, new }),
            Some(_) => {}
            None => steps.push(Step::Added(new)),
        }
        self.objects.entry(key.namespace).or_default().insert(key.name, held);
    }

    /// An object whose new state can't be read stays as it was last: it is still there, and whoever were told otherwise
    /// would end what runs for it. Only an older namesake goes.
    fn keep(&mut self, unreadable: &Object, steps: &mut Vec<Step>) {
        let key = unreadable.key();
        match self.get(&key) {
            Some(held) if held.uid == unreadable.meta.uid => {
                tracing::warn!(object = %key, revision = held.revision, "the cache keeps the last state that could be read");
            }
            Some(_) => self.remove(&key, None, steps),
            None => {}
        }
    }

    /// `last` is the object as it was when it was deleted, if that is known.
    fn remove(&mut self, key: &ObjectKey, last: Option<Typed>, steps: &mut Vec<Step>) {
        let Some(objects) = self.objects.get_mut(&key.namespace) else { return };
        let Some(old) = objects.remove(&key.name) else { return };
        if objects.is_empty() {
            self.objects.remove(&key.namespace);
        }
        self.indexes.values_mut().for_each(|index| index.remove(key, &old.object));
        steps.push(Step::Deleted(last.unwrap_or(old.object)));
    }
}

impl Cache {
    pub fn new(kind: &'static str, read: Read, synced: watch::Receiver<bool>) -> Self {
        Self { kind, read, content: RwLock::default(), subscribers: Mutex::default(), synced }
    }

    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.clone()
    }

    pub fn get(&self, key: &ObjectKey) -> Option<Typed> {
        self.look(|content| content.get(key).map(|held| held.object.clone()))
    }

    pub fn list(&self) -> Vec<Typed> {
        let all = |content: &Content| {
            let held = content.objects.values().flat_map(BTreeMap::values);
            held.map(|held| held.object.clone()).collect()
        };
        self.look(all)
    }

    pub fn in_namespace(&self, namespace: &str) -> Vec<Typed> {
        self.look(|content| match content.objects.get(namespace) {
            Some(objects) => objects.values().map(|held| held.object.clone()).collect(),
            None => Vec::new(),
        })
    }

    pub fn len(&self) -> usize {
        self.look(|content| content.objects.values().map(BTreeMap::len).sum())
    }

    pub fn add_index(&self, name: &'static str, values: Values) {
        self.write(|content| {
            if content.indexes.contains_key(name) {
                return;
            }
            let mut index = Index { values, found: HashMap::new() };
            for (key, held) in content.keys() {
                index.insert(&key, &held.object);
            }
            content.indexes.insert(name, index);
        });
    }

    pub fn indexed(&self, name: &'static str, value: &str) -> Vec<Typed> {
        self.look(|content| {
            let index = content.indexes.get(name);
            debug_assert!(index.is_some(), "no index {name:?} was added");
            match index.and_then(|index| index.found.get(value)) {
                Some(objects) => objects.values().cloned().collect(),
                None => Vec::new(),
            }
        })
    }

    pub fn subscribe(&self, tell: Subscriber) {
        let mut subscribers = self.subscribers.lock().expect("no subscriber panics");
        for object in self.list() {
            tell(&Step::Added(object));
        }
        subscribers.push(tell);
    }

    pub fn take(&self, update: Update) {
        let subscribers = self.subscribers.lock().expect("no subscriber panics");
        let mut steps = Vec::new();
        match update {
            Update::Replace(objects) => self.replace(&objects, &mut steps),
            Update::Put(object) => {
                let held = self.hold(&object);
                self.write(|content| match held {
                    Some(held) => content.put(object.key(), held, &mut steps),
                    None => content.keep(&object, &mut steps),
                });
            }
            Update::Delete(object) => {
                let last = self.hold(&object).map(|held| held.object);
                self.write(|content| content.remove(&object.key(), last, &mut steps));
            }
        }
        for step in &steps {
            subscribers.iter().for_each(|tell| tell(step));
        }
    }

    fn replace(&self, objects: &[Arc<Object>], steps: &mut Vec<Step>) {
        // Parsed before the lock is taken: readers don't wait for it.
        let new: Vec<(&Arc<Object>, Option<Held>)> = objects.iter().map(|object| (object, self.hold(object))).collect();
        let kept: HashSet<ObjectKey> = objects.iter().map(|object| object.key()).collect();
        self.write(|content| {
            let gone: Vec<ObjectKey> = content.keys().map(|(key, _)| key).filter(|key| !kept.contains(key)).collect();
            for key in gone {
                content.remove(&key, None, steps);
            }
            for (object, held) in new {
                match held {
                    Some(held) => content.put(object.key(), held, steps),
                    None => content.keep(object, steps),
                }
            }
        });
    }

    /// Nothing for an object that can't be read, which tells why: one broken object must not hide all others.
    fn hold(&self, object: &Arc<Object>) -> Option<Held> {
        match (self.read)(object) {
            Ok(typed) => Some(Held { revision: object.revision, uid: object.meta.uid.clone(), object: typed }),
            Err(error) => {
                tracing::error!(kind = self.kind, object = %object.key(), error = %chain(&error), "an object can't be read");
                None
            }
        }
    }

    fn look<T>(&self, look: impl FnOnce(&Content) -> T) -> T {
        look(&self.content.read().expect("nothing panics while it holds the cache"))
    }

    fn write(&self, change: impl FnOnce(&mut Content)) {
        change(&mut self.content.write().expect("nothing panics while it holds the cache"));
    }
}

/// Keeps a cache up to date, for ever.
pub(crate) async fn feed(
    cache: Arc<Cache>,
    client: Client,
    resource: Gvr,
    selector: Selector,
    synced: watch::Sender<bool>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        let mut updates = client.transport().observe(&resource, &selector);
        while let Some(update) = updates.next().await {
            backoff.reset();
            cache.take(update);
            synced.send_if_modified(|synced| !std::mem::replace(synced, true));
        }
        // The contract says that this does not happen; a busy loop would be the worst answer to a bug.
        tracing::warn!(%resource, "the observation ended, starting again");
        tokio::time::sleep(backoff.next_wait()).await;
    }
}
