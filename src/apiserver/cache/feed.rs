//! From the store's records to the caches.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skiff_api::{Object, ObjectKey};
use skiff_base::{Backoff, CancellationToken, chain};
use skiff_store::{Consistency, Error, Range, Record, Revision, Store, Watch, WatchEvent};
use tracing::{error, warn};

use super::{Cache, Entry, Progress};
use crate::storage;

impl Cache {
    /// Filled with what the store holds; [`follow`] keeps it so.
    pub async fn load(store: Store) -> Result<(Arc<Self>, Watch), Error> {
        let cache = Arc::new(Self {
            store,
            progress: Arc::new(Progress::new(0)),
            resources: std::sync::RwLock::new(HashMap::new()),
        });
        let watch = cache.start_over().await?;
        Ok((cache, watch))
    }

    async fn start_over(&self) -> Result<Watch, Error> {
        let everything = Range { start: Bytes::new(), end: Bytes::from_static(&[0xff]) };
        let listing = self.store.list(&everything, None, None, Consistency::ReadIndex).await?;
        let revision = listing.revision;
        let mut by_resource: HashMap<String, BTreeMap<ObjectKey, Arc<Entry>>> = HashMap::new();
        for record in listing.records {
            let Some((resource, object)) = read(&record, record.modified) else { continue };
            by_resource.entry(resource).or_default().insert(object.key(), Arc::new(Entry::new(object)));
        }
        let known: Vec<Arc<str>> =
            self.resources.read().expect("nothing panics with the map").keys().cloned().collect();
        for resource in known {
            by_resource.entry(resource.to_string()).or_default();
        }
        for (resource, objects) in by_resource {
            self.resource(&resource).reset(objects, revision.0);
        }
        self.progress.advance(revision.0);
        self.store.watch(Bytes::new(), revision)
    }

    fn apply(&self, event: WatchEvent) {
        match event {
            WatchEvent::Put { record, .. } => {
                if let Some((resource, object)) = read(&record, record.modified) {
                    self.resource(&resource).put(object);
                }
            }
            WatchEvent::Delete { revision, previous } => {
                if let Some((resource, object)) = read(&previous, revision) {
                    self.resource(&resource).remove(object);
                }
            }
            WatchEvent::Progress { revision } => self.progress.advance(revision.0),
        }
    }
}

/// Keeps the caches as the store is, until cancelled.
pub(crate) async fn follow(cache: Arc<Cache>, mut watch: Watch, stop: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(5));
    loop {
        let batch = tokio::select! {
            batch = watch.next() => batch,
            () = stop.cancelled() => return,
        };
        match batch {
            Some(Ok(events)) => {
                backoff.reset();
                for event in events {
                    cache.apply(event);
                }
            }
            Some(Err(Error::Stopped)) | None => return,
            Some(Err(failure)) => {
                warn!(error = %chain(&failure), "the watch on the store broke, all watchers start over");
                loop {
                    tokio::select! {
                        () = tokio::time::sleep(backoff.next_wait()) => {}
                        () = stop.cancelled() => return,
                    }
                    match cache.start_over().await {
                        Ok(again) => {
                            watch = again;
                            break;
                        }
                        Err(failure) => error!(error = %chain(&failure), "read the store again"),
                    }
                }
            }
        }
    }
}

/// The resource's prefix and the object. A record that is none is reported and left out.
pub(super) fn read(record: &Record, revision: Revision) -> Option<(String, Arc<Object>)> {
    let resource = storage::resource_of(&record.key)?.to_owned();
    match Object::parse(record.value.clone(), revision.0) {
        Ok(object) => Some((resource, Arc::new(object))),
        Err(failure) => {
            error!(key = %String::from_utf8_lossy(&record.key), error = %chain(&failure), "a record holds no object");
            None
        }
    }
}
