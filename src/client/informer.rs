use std::marker::PhantomData;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use serde::de::DeserializeOwned;
use skiff_api::ObjectKey;
use skiff_base::Scope;

use crate::{Client, Selector};

/// What a subscriber is told. It is a hint: reconcilers read the lister.
pub enum Change<K> {
    Added(Arc<K>),
    Modified { old: Arc<K>, new: Arc<K> },
    Deleted(Arc<K>),
}

/// Makes and shares one cache per (type, selector).
#[derive(Clone)]
pub struct Informers {}

impl Informers {
    pub fn new(client: Client, scope: Scope) -> Self {
        let _ = (client, scope);
        todo!("client helper")
    }

    pub fn client(&self) -> &Client {
        todo!("client helper")
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
        let _ = selector;
        todo!("client helper")
    }

    /// Completes when every lister made so far holds its first list.
    pub async fn synced(&self) {
        todo!("client helper")
    }
}

/// A cache of typed objects; cheap to clone, never blocks.
pub struct Lister<K> {
    todo: PhantomData<K>,
}

impl<K> Clone for Lister<K> {
    fn clone(&self) -> Self {
        todo!("client helper")
    }
}

impl<K: Send + Sync + 'static> Lister<K> {
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        let _ = key;
        todo!("client helper")
    }

    pub fn list(&self) -> Vec<Arc<K>> {
        todo!("client helper")
    }

    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let _ = namespace;
        todo!("client helper")
    }

    /// Adds an index, before the first use of [`Lister::indexed`] with its name: `values` gives the
    /// values under which an object is found (node name, owner uid ...).
    pub fn add_index(&self, name: &'static str, values: fn(&K) -> Vec<String>) {
        let _ = (name, values);
        todo!("client helper")
    }

    pub fn indexed(&self, name: &'static str, value: &str) -> Vec<Arc<K>> {
        let _ = (name, value);
        todo!("client helper")
    }

    /// `tell` is called for every object there is now (as `Added`) and every later change, in order,
    /// after the cache shows it. It must not block.
    pub fn subscribe(&self, tell: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let _ = tell;
        todo!("client helper")
    }

    /// Completes when the first list has arrived.
    pub async fn synced(&self) {
        todo!("client helper")
    }

    pub fn is_synced(&self) -> bool {
        todo!("client helper")
    }
}
