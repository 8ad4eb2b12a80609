use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use serde::de::DeserializeOwned;
use skiff_api::{Gvr, Object, ObjectKey};
use skiff_base::{Backoff, Scope, chain};
use tokio::sync::watch;

use crate::{Client, Selector, Update};

/// What a subscriber is told. It is a hint: reconcilers read the lister.
///
/// An object that was made again under its old name is told as `Deleted` and `Added`.
pub enum Change<K> {
    Added(Arc<K>),
    Modified { old: Arc<K>, new: Arc<K> },
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object as it is now, or as it was last.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Modified { new: object, .. } | Self::Deleted(object) => object,
        }
    }
}

/// Makes and shares one cache per (type, selector). Caches live as long as the scope.
#[derive(Clone)]
pub struct Informers {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    scope: Scope,
    caches: Mutex<HashMap<(TypeId, Selector), Entry>>,
}

struct Entry {
    /// A `Lister<K>` of the type of the key.
    lister: Box<dyn Any + Send + Sync>,
    synced: watch::Receiver<bool>,
}

impl Informers {
    pub fn new(client: Client, scope: Scope) -> Self {
        Self { shared: Arc::new(Shared { client, scope, caches: Mutex::default() }) }
    }

    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// The cache of all objects of a type, started at the first call.
    pub fn lister<K>(&self) -> Lister<K>
    where
        K: Resource + Metadata<Ty = ObjectMeta> + DeserializeOwned + Send + Sync + 'static,
    {
        self.selected(Selector::default())
    }

    /// The cache of the selected objects.
    pub fn selected<K>(&self, selector: Selector) -> Lister<K>
    where
        K: Resource + Metadata<Ty = ObjectMeta> + DeserializeOwned + Send + Sync + 'static,
    {
        let mut caches = self.shared.caches.lock().expect("nothing panics while it holds the caches");
        let entry = caches.entry((TypeId::of::<K>(), selector.clone())).or_insert_with(|| {
            let (told, synced) = watch::channel(false);
            let lister = Lister { cache: Arc::new(Cache::<K>::new(synced.clone())) };
            let feeding = feed(lister.clone(), self.shared.client.clone(), selector, told);
            let token = self.shared.scope.token().clone();
            self.shared.scope.spawn(async move {
                tokio::select! {
                    () = token.cancelled() => {}
                    () = feeding => {}
                }
            });
            Entry { lister: Box::new(lister), synced }
        });
        entry.lister.downcast_ref::<Lister<K>>().expect("the key holds the type").clone()
    }

    /// Completes when every lister made so far holds its first list.
    pub async fn synced(&self) {
        let waiting: Vec<_> = {
            let caches = self.shared.caches.lock().expect("nothing panics while it holds the caches");
            caches.values().map(|entry| entry.synced.clone()).collect()
        };
        for synced in waiting {
            wait(synced).await;
        }
    }
}

/// Where the feeding task ended before the first list, everything is being stopped: never completes.
async fn wait(mut synced: watch::Receiver<bool>) {
    if synced.wait_for(|synced| *synced).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Keeps a cache up to date, for ever.
async fn feed<K>(lister: Lister<K>, client: Client, selector: Selector, synced: watch::Sender<bool>)
where
    K: Resource + Metadata<Ty = ObjectMeta> + DeserializeOwned + Send + Sync + 'static,
{
    let resource = Gvr::of::<K>();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        let mut updates = client.transport().observe(&resource, &selector);
        while let Some(update) = updates.next().await {
            backoff.reset();
            lister.cache.take(update);
            synced.send_if_modified(|synced| !std::mem::replace(synced, true));
        }
        // The contract says that this does not happen; a busy loop would be the worst answer to a bug.
        tracing::warn!(%resource, "the observation ended, starting again");
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// A cache of typed objects; cheap to clone, never blocks.
pub struct Lister<K> {
    cache: Arc<Cache<K>>,
}

impl<K> Clone for Lister<K> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone() }
    }
}

impl<K> Lister<K>
where
    K: Resource + Metadata<Ty = ObjectMeta> + DeserializeOwned + Send + Sync + 'static,
{
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.cache.read(|content| content.get(key).map(|held| held.object.clone()))
    }

    pub fn list(&self) -> Vec<Arc<K>> {
        self.cache.read(|content| content.all().map(|held| held.object.clone()).collect())
    }

    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.cache.read(|content| match content.objects.get(namespace) {
            Some(objects) => objects.values().map(|held| held.object.clone()).collect(),
            None => Vec::new(),
        })
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.cache.read(|content| content.objects.values().map(BTreeMap::len).sum())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an index, before the first use of [`Lister::indexed`] with its name: `values` gives the
    /// values under which an object is found (node name, owner uid ...). Adding one of the same name
    /// again changes nothing, so that all who share the cache may ask for it.
    pub fn add_index(&self, name: &'static str, values: fn(&K) -> Vec<String>) {
        let mut content = self.cache.content.write().expect("nothing panics while it holds the cache");
        if content.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { values, found: HashMap::new() };
        for held in content.all() {
            index.insert(&held.object);
        }
        content.indexes.insert(name, index);
    }

    /// The objects with this value in the index, which [`Lister::add_index`] has made.
    pub fn indexed(&self, name: &'static str, value: &str) -> Vec<Arc<K>> {
        self.cache.read(|content| {
            let index = content.indexes.get(name);
            debug_assert!(index.is_some(), "no index {name:?} was added");
            match index.and_then(|index| index.found.get(value)) {
                Some(objects) => objects.values().cloned().collect(),
                None => Vec::new(),
            }
        })
    }

    /// `tell` is called for every object there is now (as `Added`) and every later change, in order,
    /// after the cache shows it. It must not block, nor subscribe to this same cache.
    pub fn subscribe(&self, tell: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut subscribers = self.cache.subscribers.lock().expect("no subscriber panics");
        for object in self.list() {
            tell(&Change::Added(object));
        }
        subscribers.push(Box::new(tell));
    }

    /// Completes when the first list has arrived.
    pub async fn synced(&self) {
        wait(self.cache.synced.clone()).await;
    }

    pub fn is_synced(&self) -> bool {
        *self.cache.synced.borrow()
    }
}

type Subscriber<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

struct Cache<K> {
    content: RwLock<Content<K>>,
    /// Held from the change of the content until all are told, so that nobody misses or doubles one.
    subscribers: Mutex<Vec<Subscriber<K>>>,
    synced: watch::Receiver<bool>,
}

struct Content<K> {
    /// By namespace, then by name.
    objects: HashMap<Arc<str>, BTreeMap<Arc<str>, Held<K>>>,
    indexes: HashMap<&'static str, Index<K>>,
}

struct Held<K> {
    revision: u64,
    uid: Arc<str>,
    object: Arc<K>,
}

struct Index<K> {
    values: fn(&K) -> Vec<String>,
    found: HashMap<String, BTreeMap<ObjectKey, Arc<K>>>,
}

impl<K: Metadata<Ty = ObjectMeta>> Index<K> {
    fn insert(&mut self, object: &Arc<K>) {
        for value in (self.values)(object) {
            self.found.entry(value).or_default().insert(ObjectKey::of(&**object), object.clone());
        }
    }

    fn remove(&mut self, object: &K) {
        for value in (self.values)(object) {
            if let Some(objects) = self.found.get_mut(&value) {
                objects.remove(&ObjectKey::of(object));
                if objects.is_empty() {
                    self.found.remove(&value);
                }
            }
        }
    }
}

impl<K: Metadata<Ty = ObjectMeta>> Content<K> {
    fn get(&self, key: &ObjectKey) -> Option<&Held<K>> {
        self.objects.get(&key.namespace)?.get(&key.name)
    }

    fn all(&self) -> impl Iterator<Item = &Held<K>> {
        self.objects.values().flat_map(BTreeMap::values)
    }

    fn put(&mut self, key: ObjectKey, held: Held<K>, changes: &mut Vec<Change<K>>) {
        let old = self.objects.get_mut(&key.namespace).and_then(|objects| objects.remove(&key.name));
        if let Some(old) = &old {
            self.indexes.values_mut().for_each(|index| index.remove(&old.object));
        }
        self.indexes.values_mut().for_each(|index| index.insert(&held.object));
        let new = held.object.clone();
        match old {
            Some(old) if old.uid != held.uid => changes.extend([Change::Deleted(old.object), Change::Added(new)]),
            Some(old) if old.revision != held.revision => changes.push(Change::Modified { old: old.object, new }),
            Some(_) => {}
            None => changes.push(Change::Added(new)),
        }
        self.objects.entry(key.namespace).or_default().insert(key.name, held);
    }

    /// An object whose new state can't be read stays as it was last: it is still there, and whoever were told otherwise
    /// would end what runs for it. Only an older namesake goes.
    fn keep(&mut self, unreadable: &Object, changes: &mut Vec<Change<K>>) {
        let key = unreadable.key();
        match self.get(&key) {
            Some(held) if held.uid == unreadable.meta.uid => {
                tracing::warn!(object = %key, revision = held.revision, "the cache keeps the last state that could be read");
            }
            Some(_) => self.remove(&key, None, changes),
            None => {}
        }
    }

    /// `last` is the object as it was when it was deleted, if that is known.
    fn remove(&mut self, key: &ObjectKey, last: Option<Arc<K>>, changes: &mut Vec<Change<K>>) {
        let Some(objects) = self.objects.get_mut(&key.namespace) else { return };
        let Some(old) = objects.remove(&key.name) else { return };
        if objects.is_empty() {
            self.objects.remove(&key.namespace);
        }
        self.indexes.values_mut().for_each(|index| index.remove(&old.object));
        changes.push(Change::Deleted(last.unwrap_or(old.object)));
    }
}

impl<K> Cache<K>
where
    K: Resource + Metadata<Ty = ObjectMeta> + DeserializeOwned + Send + Sync + 'static,
{
    fn new(synced: watch::Receiver<bool>) -> Self {
        let content = Content { objects: HashMap::new(), indexes: HashMap::new() };
        Self { content: RwLock::new(content), subscribers: Mutex::default(), synced }
    }

    fn read<T>(&self, look: impl FnOnce(&Content<K>) -> T) -> T {
        look(&self.content.read().expect("nothing panics while it holds the cache"))
    }

    fn take(&self, update: Update) {
        let subscribers = self.subscribers.lock().expect("no subscriber panics");
        let mut changes = Vec::new();
        match update {
            Update::Replace(objects) => self.replace(&objects, &mut changes),
            Update::Put(object) => {
                let held = hold::<K>(&object);
                self.write(|content| match held {
                    Some(held) => content.put(object.key(), held, &mut changes),
                    None => content.keep(&object, &mut changes),
                });
            }
            Update::Delete(object) => {
                let last = hold::<K>(&object).map(|held| held.object);
                self.write(|content| content.remove(&object.key(), last, &mut changes));
            }
        }
        for change in &changes {
            subscribers.iter().for_each(|tell| tell(change));
        }
    }

    fn replace(&self, objects: &[Arc<Object>], changes: &mut Vec<Change<K>>) {
        // Parsed before the lock is taken: readers don't wait for it.
        let new: Vec<(&Arc<Object>, Option<Held<K>>)> =
            objects.iter().map(|object| (object, hold::<K>(object))).collect();
        let kept: HashSet<ObjectKey> = objects.iter().map(|object| object.key()).collect();
        self.write(|content| {
            let gone: Vec<ObjectKey> = content
                .objects
                .iter()
                .flat_map(|(namespace, objects)| {
                    objects.keys().map(|name| ObjectKey { namespace: namespace.clone(), name: name.clone() })
                })
                .filter(|key| !kept.contains(key))
                .collect();
            for key in gone {
                content.remove(&key, None, changes);
            }
            for (object, held) in new {
                match held {
                    Some(held) => content.put(object.key(), held, changes),
                    None => content.keep(object, changes),
                }
            }
        });
    }

    fn write(&self, change: impl FnOnce(&mut Content<K>)) {
        change(&mut self.content.write().expect("nothing panics while it holds the cache"));
    }
}

/// Nothing for an object that can't be read, which tells why: one broken object must not hide all others.
fn hold<K>(object: &Arc<Object>) -> Option<Held<K>>
where
    K: Resource + Metadata<Ty = ObjectMeta> + DeserializeOwned + Send + Sync + 'static,
{
    match object.typed::<K>() {
        Ok(typed) => Some(Held { revision: object.revision, uid: object.meta.uid.clone(), object: typed }),
        Err(error) => {
            tracing::error!(kind = K::KIND, object = %object.key(), error = %chain(&error), "an object can't be read");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    fn object(name: &str, uid: &str, revision: u64, app: &str) -> Arc<Object> {
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "x", "uid": uid,
            "resourceVersion": revision.to_string(), "labels": {"app": app}}});
        Arc::new(Object::from_wire(value).expect("an object"))
    }

    fn cache() -> (Lister<ConfigMap>, Arc<Mutex<Vec<String>>>) {
        let (_, synced) = watch::channel(false);
        let lister = Lister { cache: Arc::new(Cache::<ConfigMap>::new(synced)) };
        let told = Arc::new(Mutex::new(Vec::new()));
        let (seen, reader) = (told.clone(), lister.clone());
        lister.subscribe(move |change| {
            let name = change.object().metadata.name.clone().expect("named");
            let shown = reader.get(&ObjectKey::new("x", &name)).is_some();
            let what = match change {
                Change::Added(_) => "added",
                Change::Modified { .. } => "modified",
                Change::Deleted(_) => "deleted",
            };
            seen.lock().expect("unpoisoned").push(format!("{what} {name} {shown}"));
        });
        (lister, told)
    }

    #[test]
    fn tells_differences_after_the_cache_shows_them() {
        let (lister, told) = cache();
        let check = |update: Update, expect: &[&str]| {
            lister.cache.take(update);
            let mut told = std::mem::take(&mut *told.lock().expect("unpoisoned"));
            told.sort();
            assert_eq!(told, expect);
        };
        check(
            Update::Replace(vec![object("a", "1", 1, "p"), object("b", "2", 2, "p")]),
            &["added a true", "added b true"],
        );
        check(Update::Put(object("a", "1", 3, "p")), &["modified a true"]);
        check(Update::Put(object("a", "1", 3, "p")), &[]);
        check(Update::Put(object("a", "9", 4, "p")), &["added a true", "deleted a true"]);
        check(Update::Delete(object("a", "9", 5, "p")), &["deleted a false"]);
        check(Update::Delete(object("a", "9", 5, "p")), &[]);
        check(
            Update::Replace(vec![object("b", "2", 7, "p"), object("c", "3", 8, "p")]),
            &["added c true", "modified b true"],
        );
        check(Update::Replace(vec![object("c", "3", 8, "p")]), &["deleted b false"]);
        assert_eq!(lister.len(), 1);
    }

    #[test]
    fn what_can_not_be_read_stays_as_it_was() {
        let (lister, told) = cache();
        let broken = |uid: &str, revision: u64| {
            let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "x", "uid": uid,
                "resourceVersion": revision.to_string()}, "data": ["no map"]});
            Arc::new(Object::from_wire(value).expect("an object"))
        };
        let check = |update: Update, expect: &[&str], version: Option<&str>| {
            lister.cache.take(update);
            assert_eq!(std::mem::take(&mut *told.lock().expect("unpoisoned")), expect);
            let held =
                lister.get(&ObjectKey::new("x", "a")).and_then(|object| object.metadata.resource_version.clone());
            assert_eq!(held.as_deref(), version);
        };
        check(Update::Put(broken("1", 1)), &[], None);
        check(Update::Put(object("a", "1", 2, "p")), &["added a true"], Some("2"));
        check(Update::Put(broken("1", 3)), &[], Some("2"));
        check(Update::Replace(vec![broken("1", 4)]), &[], Some("2"));
        check(Update::Put(object("a", "1", 5, "p")), &["modified a true"], Some("5"));
        // Another object of the name: the one that is held is gone.
        check(Update::Replace(vec![broken("2", 6)]), &["deleted a false"], None);
        check(Update::Put(object("a", "2", 7, "p")), &["added a true"], Some("7"));
        check(Update::Delete(broken("2", 8)), &["deleted a false"], None);
    }

    #[test]
    fn indexes_follow_the_objects() {
        let (lister, _) = cache();
        let names = |value: &str| -> Vec<String> {
            lister.indexed("app", value).iter().filter_map(|o| o.metadata.name.clone()).collect()
        };
        lister.cache.take(Update::Put(object("a", "1", 1, "p")));
        lister.add_index("app", |o| o.metadata.labels.iter().flatten().map(|(_, v)| v.clone()).collect());
        assert_eq!(names("p"), ["a"]);
        lister.cache.take(Update::Put(object("b", "2", 2, "p")));
        lister.cache.take(Update::Put(object("a", "1", 3, "q")));
        assert_eq!((names("p"), names("q")), (vec!["b".to_owned()], vec!["a".to_owned()]));
        lister.cache.take(Update::Delete(object("b", "2", 4, "p")));
        assert!(names("p").is_empty());
        assert_eq!(lister.in_namespace("x").len(), 1);
        assert!(lister.in_namespace("y").is_empty());
    }

    #[tokio::test]
    async fn shares_one_cache_and_follows_the_server() {
        let fake = Arc::new(crate::fake::FakeTransport::new());
        let scope = Scope::new();
        let informers = Informers::new(Client::new(fake.clone()), scope.clone());
        fake.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "x"}}));
        let lister = informers.lister::<ConfigMap>();
        let again = informers.lister::<ConfigMap>();
        assert!(Arc::ptr_eq(&lister.cache, &again.cache));
        informers.synced().await;
        assert!(lister.is_synced() && lister.len() == 1);
        let (told, mut changes) = tokio::sync::mpsc::unbounded_channel();
        lister.subscribe(move |change| drop(told.send(change.object().metadata.name.clone().expect("named"))));
        fake.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b", "namespace": "x"}}));
        assert_eq!(changes.recv().await.as_deref(), Some("a"));
        assert_eq!(changes.recv().await.as_deref(), Some("b"));
        scope.stop().await;
    }
}
