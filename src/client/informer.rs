//! Listers and informers: typed caches that control loops read, shared by all who ask for the same.

use std::any::TypeId;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use serde::de::DeserializeOwned;
use skiff_api::{Gvr, ObjectKey};
use skiff_base::Scope;
use tokio::sync::watch;

use crate::cache::{Cache, Step, Typed, feed};
use crate::{Client, Selector};

/// What a subscriber is told. It is a hint: reconcilers read the lister.
///
/// An object that was made again under its old name is told as `Deleted` and `Added`.
pub enum Change<K> {
    Added(Arc<K>),
    Modified { old: Arc<K>, new: Arc<K> },
    Deleted(Arc<K>),
}

impl<K: Send + Sync + 'static> Change<K> {
    fn of(step: &Step) -> Self {
        match step {
            Step::Added(object) => Self::Added(typed(object.clone())),
            Step::Modified { old, new } => Self::Modified { old: typed(old.clone()), new: typed(new.clone()) },
            Step::Deleted(object) => Self::Deleted(typed(object.clone())),
        }
    }
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
    /// Each holds objects of the type of its key.
    caches: Mutex<HashMap<(TypeId, Selector), Arc<Cache>>>,
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
        let made = |synced| Cache::new(K::KIND, |object| object.typed::<K>().map(|typed| typed as Typed), synced);
        Lister::of(self.shared.cache(TypeId::of::<K>(), Gvr::of::<K>(), selector, made))
    }

    /// Completes when every lister made so far holds its first list.
    pub async fn synced(&self) {
        let waiting: Vec<_> = {
            let caches = self.shared.caches.lock().expect("nothing panics while it holds the caches");
            caches.values().map(|cache| cache.synced()).collect()
        };
        for synced in waiting {
            wait(synced).await;
        }
    }
}

impl Shared {
    fn cache(
        &self,
        of: TypeId,
        resource: Gvr,
        selector: Selector,
        made: fn(watch::Receiver<bool>) -> Cache,
    ) -> Arc<Cache> {
        let mut caches = self.caches.lock().expect("nothing panics while it holds the caches");
        let start = || {
            let (told, synced) = watch::channel(false);
            let cache = Arc::new(made(synced));
            let feeding = feed(cache.clone(), self.client.clone(), resource, selector.clone(), told);
            let token = self.scope.token().clone();
            self.scope.spawn(async move {
                tokio::select! {
                    () = token.cancelled() => {}
                    () = feeding => {}
                }
            });
            cache
        };
        caches.entry((of, selector.clone())).or_insert_with(start).clone()
    }
}

/// Where the feeding task ended before the first list, everything is being stopped: never completes.
async fn wait(mut synced: watch::Receiver<bool>) {
    if synced.wait_for(|synced| *synced).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A cache of typed objects; cheap to clone, never blocks.
pub struct Lister<K> {
    cache: Arc<Cache>,
    of: PhantomData<fn() -> K>,
}

impl<K> Clone for Lister<K> {
    fn clone(&self) -> Self {
        Self::of(self.cache.clone())
    }
}

impl<K> Lister<K> {
    fn of(cache: Arc<Cache>) -> Self {
        Self { cache, of: PhantomData }
    }
}

fn typed<K: Send + Sync + 'static>(object: Typed) -> Arc<K> {
    object.downcast().expect("a cache holds objects of one type")
}

fn all_typed<K: Send + Sync + 'static>(objects: Vec<Typed>) -> Vec<Arc<K>> {
    objects.into_iter().map(typed).collect()
}

impl<K> Lister<K>
where
    K: Resource + Metadata<Ty = ObjectMeta> + DeserializeOwned + Send + Sync + 'static,
{
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.cache.get(key).map(typed)
    }

    pub fn list(&self) -> Vec<Arc<K>> {
        all_typed(self.cache.list())
    }

    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        all_typed(self.cache.in_namespace(namespace))
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an index, before the first use of [`Lister::indexed`] with its name: `values` gives the
    /// values under which an object is found (node name, owner uid ...). Adding one of the same name
    /// again changes nothing, so that all who share the cache may ask for it.
    pub fn add_index(&self, name: &'static str, values: fn(&K) -> Vec<String>) {
        self.cache.add_index(name, Box::new(move |object| object.downcast_ref().map(values).unwrap_or_default()));
    }

    /// The objects with this value in the index, which [`Lister::add_index`] has made.
    pub fn indexed(&self, name: &'static str, value: &str) -> Vec<Arc<K>> {
        all_typed(self.cache.indexed(name, value))
    }

    /// `tell` is called for every object there is now (as `Added`) and every later change, in order,
    /// after the cache shows it. It must not block, nor subscribe to this same cache.
    pub fn subscribe(&self, tell: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.cache.subscribe(Box::new(move |step| tell(&Change::of(step))));
    }

    /// Completes when the first list has arrived.
    pub async fn synced(&self) {
        wait(self.cache.synced()).await;
    }

    pub fn is_synced(&self) -> bool {
        *self.cache.synced().borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Update;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;
    use skiff_api::Object;

    fn object(name: &str, uid: &str, revision: u64, app: &str) -> Arc<Object> {
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "x", "uid": uid,
            "resourceVersion": revision.to_string(), "labels": {"app": app}}});
        Arc::new(Object::from_wire(value).expect("an object"))
    }

    fn cache() -> (Lister<ConfigMap>, Arc<Mutex<Vec<String>>>) {
        let (_, synced) = watch::channel(false);
        let lister = Lister::<ConfigMap>::of(Arc::new(Cache::new(
            "ConfigMap",
            |object| object.typed::<ConfigMap>().map(|typed| typed as Typed),
            synced,
        )));
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
