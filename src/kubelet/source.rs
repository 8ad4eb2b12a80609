//! The ConfigMaps and Secrets that pods of this node refer to, each observed by its name for as long as a pod needs
//! it: an agent sees no others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use serde::de::DeserializeOwned;
use skiff_api::{Gvr, ObjectKey};
use skiff_base::{CancellationToken, Scope, chain};
use skiff_client::{Client, Selector, Update};
use tokio::sync::{Notify, watch};

/// Hands out observations; two pods that refer to one object share one.
pub(crate) struct Sources<K> {
    client: Client,
    scope: Scope,
    observed: Mutex<HashMap<ObjectKey, Weak<Observed<K>>>>,
}

/// One object, kept up to date until the last holder drops it.
pub(crate) struct Observed<K> {
    /// `None` until the first answer; then what is there.
    value: watch::Sender<Option<Option<Arc<K>>>>,
    listeners: Mutex<Vec<Weak<Notify>>>,
    stop: CancellationToken,
}

impl<K> Drop for Observed<K> {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl<K> Observed<K> {
    /// The object as it is now, once that is known.
    pub(crate) async fn get(&self) -> Option<Arc<K>> {
        let mut value = self.value.subscribe();
        match value.wait_for(Option::is_some).await {
            Ok(found) => found.clone().flatten(),
            // The sender lives in `self`.
            Err(_) => None,
        }
    }

    /// The object as far as it is known.
    pub(crate) fn now(&self) -> Option<Arc<K>> {
        self.value.borrow().clone().flatten()
    }

    fn put(&self, value: Option<Arc<K>>) {
        if self.value.send_replace(Some(value)).is_none() {
            // The first answer is waited for, not told.
            return;
        }
        self.listeners.lock().expect("no holder of this lock panics").retain(|l| match l.upgrade() {
            Some(listener) => {
                listener.notify_one();
                true
            }
            None => false,
        });
    }
}

impl<K> Sources<K>
where
    K: Resource + Metadata<Ty = ObjectMeta> + DeserializeOwned + Send + Sync + 'static,
{
    pub(crate) fn new(client: Client, scope: Scope) -> Self {
        Self { client, scope, observed: Mutex::default() }
    }

    /// `listener` is told of every change for as long as it exists.
    pub(crate) fn observe(&self, namespace: &str, name: &str, listener: &Arc<Notify>) -> Arc<Observed<K>> {
        let key = ObjectKey::new(namespace, name);
        let mut all = self.observed.lock().expect("no holder of this lock panics");
        let observed = all.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            all.retain(|_, weak| weak.strong_count() > 0);
            let observed = Arc::new(Observed {
                value: watch::channel(None).0,
                listeners: Mutex::default(),
                stop: self.scope.token().child_token(),
            });
            all.insert(key, Arc::downgrade(&observed));
            self.spawn(namespace, name, &observed);
            observed
        });
        {
            let mut listeners = observed.listeners.lock().expect("no holder of this lock panics");
            // An object that never changes tells nobody, and so would never learn who is gone.
            listeners.retain(|other| other.strong_count() > 0);
            listeners.push(Arc::downgrade(listener));
        }
        observed
    }

    fn spawn(&self, namespace: &str, name: &str, observed: &Arc<Observed<K>>) {
        let selector = Selector {
            namespace: namespace.to_owned(),
            fields: format!("metadata.name={name}"),
            labels: String::new(),
        };
        let mut feed = self.client.transport().observe(&Gvr::of::<K>(), &selector);
        let (weak, stop, name) = (Arc::downgrade(observed), observed.stop.clone(), name.to_owned());
        self.scope.spawn(async move {
            loop {
                let update = tokio::select! {
                    () = stop.cancelled() => return,
                    update = feed.next() => update,
                };
                let (Some(update), Some(observed)) = (update, weak.upgrade()) else { return };
                let object = match update {
                    Update::Replace(objects) => objects.into_iter().find(|o| *o.meta.name == *name),
                    Update::Put(object) | Update::Delete(object) if *object.meta.name != *name => continue,
                    Update::Put(object) => Some(object),
                    Update::Delete(_) => None,
                };
                match object.map(|o| o.typed::<K>()).transpose() {
                    Ok(value) => observed.put(value),
                    Err(e) => tracing::warn!(kind = K::KIND, error = %chain(&e), "an object can't be decoded"),
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use skiff_client::fake::FakeTransport;

    #[tokio::test]
    async fn who_is_gone_is_not_kept() {
        let (scope, client) = (Scope::new(), Client::new(Arc::new(FakeTransport::new())));
        let sources: Sources<ConfigMap> = Sources::new(client, scope.clone());
        let stays = Arc::new(Notify::new());
        let observed = sources.observe("n", "map", &stays);
        for _ in 0..10 {
            drop(sources.observe("n", "map", &Arc::new(Notify::new())));
        }
        // The last one is found out by the next.
        assert_eq!(observed.listeners.lock().expect("no holder of this lock panics").len(), 2);
        scope.stop().await;
    }
}
