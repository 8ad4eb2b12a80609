//! A definition that is deleted takes its objects with it.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use serde_json::Value;
use skiff_api::custom::conditions::{Condition, is_true, set_condition};
use skiff_api::custom::definition::FINALIZER;
use skiff_api::{ApiError, Object, ObjectKey};
use skiff_base::{Backoff, chain};
use tracing::{info, warn};

use super::settle::has_finalizer;
use crate::auth::User;
use crate::cache::Filter;
use crate::meta;
use crate::path::change::Change;
use crate::path::options::{DeleteOptions, WriteOptions};
use crate::path::ownership::Ownership;
use crate::path::part::Part;
use crate::registry::{Defined, Row};
use crate::server::Server;

/// Deletes that are under way at the same time: they share the store's syncs.
const PARALLEL: usize = 128;
/// Objects that others hold are looked at again after this time.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

fn terminating(status: bool, reason: &'static str, message: &str) -> Condition {
    Condition::new("Terminating", status, reason, message)
}

/// What a delete makes of a definition: it waits for its objects.
pub(crate) fn begin(definition: &mut Value) {
    meta::set_finalizer(definition, FINALIZER, true);
    let pending = terminating(
        true,
        "InstanceDeletionPending",
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    );
    set_condition(definition, &pending, &skiff_base::time::now_rfc3339());
}

impl Server {
    /// Removes the objects in a task of its own: that may take long, since others may hold them.
    pub(super) fn finalize_later(&self, row: &Arc<Row>, object: &Arc<Object>) {
        let uid = object.meta.uid.to_string();
        if !has_finalizer(object) || !self.finalizing.lock().expect("nothing panics with the names").insert(uid.clone())
        {
            return;
        }
        let Some(server) = self.me.upgrade() else { return };
        let (row, key) = (row.clone(), object.key());
        self.scope.spawn(async move {
            let stop = server.scope.token().clone();
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
            loop {
                let ended = tokio::select! {
                    ended = server.end_definition(&row, &key, &uid) => ended,
                    () = stop.cancelled() => return,
                };
                match ended {
                    Ok(()) => break,
                    Err(error) => {
                        warn!(definition = %key, error = %chain(&error), "remove the objects of a definition")
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(backoff.next_wait()) => {}
                    () = stop.cancelled() => return,
                }
            }
            server.finalizing.lock().expect("nothing panics with the names").remove(&uid);
        });
    }

    async fn end_definition(&self, row: &Arc<Row>, key: &ObjectKey, uid: &str) -> Result<(), ApiError> {
        let current = match self.current(row, key).await {
            Ok(current) if *current.meta.uid == *uid => current,
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        let ended = if is_true(&current.value(), "Established") {
            let begun = terminating(true, "InstanceDeletionInProgress", "CustomResource deletion is in progress");
            self.mark(row, key, &begun, false).await?;
            if let Err(error) = self.remove_objects(key).await {
                let why = format!("could not issue all deletes: {error}");
                self.mark(row, key, &terminating(true, "InstanceDeletionFailed", &why), false).await?;
                return Err(error);
            }
            terminating(false, "InstanceDeletionCompleted", "removed all instances")
        } else {
            terminating(false, "NeverEstablished", "resource was never established")
        };
        self.mark(row, key, &ended, true).await?;
        info!(definition = %key, "removed with all its objects");
        Ok(())
    }

    /// Writes the condition; `last`: and takes the finalizer away.
    async fn mark(&self, row: &Arc<Row>, key: &ObjectKey, condition: &Condition, last: bool) -> Result<(), ApiError> {
        let (ownership, options) = (Ownership::Keep, WriteOptions::default());
        let change = Change { row, key, part: Part::Own, user: User::server(), ownership, options: &options };
        let now = skiff_base::time::now_rfc3339();
        let mut warnings = Vec::new();
        let marked = self.change(&change, &mut warnings, |old| {
            let mut new = old.clone();
            set_condition(&mut new, condition, &now);
            if last {
                meta::set_finalizer(&mut new, FINALIZER, false);
            }
            Ok(new)
        });
        match marked.await {
            Err(error) if error.is_not_found() => Ok(()),
            marked => marked.map(|_| ()),
        }
    }

    /// Deletes all objects of a definition and waits until they are gone.
    async fn remove_objects(&self, definition: &ObjectKey) -> Result<(), ApiError> {
        let registry = self.registry.load_full();
        let of = |defined: &&Arc<Defined>| {
            defined.home.custom.as_ref().is_some_and(|custom| custom.definition.name == *definition.name)
        };
        let found = registry.definitions().iter().find(of);
        let row = found.map(|defined| defined.home.clone()).ok_or_else(|| {
            ApiError::internal(format!("unable to find a custom resource client for {}", definition.name))
        })?;
        let filter = Arc::new(Filter::new("", "", "", &row.descriptor.strategy)?);
        let options = DeleteOptions::default();
        loop {
            self.cache.fresh().await?;
            let (found, mut subscription) = row.cache.subscribe_all(&filter);
            if found.entries.is_empty() {
                return Ok(());
            }
            let waiting = found.entries.iter().filter(|entry| entry.object.meta.deletion_timestamp.is_none());
            let keys: Vec<ObjectKey> = waiting.map(|entry| entry.object.key()).collect();
            drop(found);
            let deletes = keys.into_iter().map(|key| self.delete_if_there(User::server(), &row, key, &options).boxed());
            let results: Vec<_> = stream::iter(deletes).buffered(PARALLEL).collect().await;
            for (result, _) in results {
                result?;
            }
            tokio::select! {
                told = subscription.next() => drop(told),
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }
}
