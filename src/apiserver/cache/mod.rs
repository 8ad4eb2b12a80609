//! The watch cache: every object of the store by resource, fed by one watch on the whole store.
//!
//! Reads are answered from here. A read that must see all acknowledged writes first waits until the
//! caches have reached the store's revision ([`Cache::fresh`]); since the store counts a write before
//! it acknowledges it, nothing acknowledged is missed.
//!
//! ```text
//! store.watch("") -> follow() -> ResourceCache: map -> lists
//!                                              ring -> watchers, which take from it when they are ready
//!                          store's history ---------> watchers that the ring has left behind
//! ```
//!
//! Bottom-up: [`progress`] is how far the store was followed, [`filter`] what is asked for, [`event`] a change,
//! [`ring`] the last changes, [`watchers`] who waits for them, [`resource`] all of one resource, [`feed`] fills it.

mod event;
pub(crate) mod feed;
mod filter;
mod progress;
mod resource;
mod ring;
mod watchers;

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use skiff_api::ApiError;
use skiff_store::Store;

use crate::error::retry_after;
pub(crate) use event::{Event, Seen};
pub(crate) use filter::{Entry, Filter};
use progress::Progress;
pub(crate) use resource::{ResourceCache, TooOld};
pub(crate) use watchers::{Subscription, Told};

/// How long a read waits for a revision.
const FRESH_LIMIT: Duration = Duration::from_secs(3);

/// Gives the cache of a resource by its key prefix in the store.
pub(crate) type Caches<'a> = &'a dyn Fn(&str) -> Arc<ResourceCache>;

pub(crate) struct Cache {
    store: Store,
    progress: Arc<Progress>,
    resources: RwLock<HashMap<Arc<str>, Arc<ResourceCache>>>,
}

impl Cache {
    /// The cache of one resource, by its key prefix in the store.
    pub fn resource(&self, storage: &str) -> Arc<ResourceCache> {
        if let Some(found) = self.resources.read().expect("nothing panics with the map").get(storage) {
            return found.clone();
        }
        let mut resources = self.resources.write().expect("nothing panics with the map");
        let new = || Arc::new(ResourceCache::new(self.progress.clone(), self.progress.reached()));
        resources.entry(storage.into()).or_insert_with(new).clone()
    }

    /// The revision that the caches have reached.
    pub fn revision(&self) -> u64 {
        self.progress.reached()
    }

    /// Completes when the caches show every write that was acknowledged before the call.
    pub async fn fresh(&self) -> Result<(), ApiError> {
        let revision = self.store.revision().0;
        if self.progress.reached() >= revision {
            return Ok(());
        }
        self.reach(revision).await
    }

    /// Completes when the caches have reached a revision.
    pub async fn reach(&self, revision: u64) -> Result<(), ApiError> {
        if tokio::time::timeout(FRESH_LIMIT, self.progress.wait_for(revision)).await.is_ok() {
            return Ok(());
        }
        let message = format!("Timeout: Too large resource version: {revision}, current: {}", self.revision());
        let mut error = retry_after(ApiError::new(504, "Timeout", message), 1);
        error.details.get_or_insert_default().causes.push(skiff_api::status::Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        });
        Err(error)
    }
}

/// Caches that nobody feeds.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Bare(RwLock<HashMap<String, Arc<ResourceCache>>>);

#[cfg(test)]
impl Bare {
    pub fn resource(&self, storage: &str) -> Arc<ResourceCache> {
        let new = || Arc::new(ResourceCache::new(Arc::new(Progress::new(0)), 0));
        self.0.write().expect("nothing panics with the map").entry(storage.to_owned()).or_insert_with(new).clone()
    }
}
