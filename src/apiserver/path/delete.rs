//! DELETE on an object and on a collection.

use std::sync::Arc;

use futures::{FutureExt, StreamExt, stream};
use serde_json::{Value, json};
use skiff_api::{ApiError, Object, ObjectKey};

use super::create::{key_of, parse};
use super::list::Listed;
use super::options::{DeleteOptions, Propagation};
use super::update::{MODIFIED, is_finished, precondition_uid};
use crate::admission::{self, Operation, Request};
use crate::auth::User;
use crate::call::{Call, Target};
use crate::encode::{self, Encoder, IncludeObject};
use crate::negotiate::negotiate;
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;
use crate::storage::{self, Written};
use crate::{crd, meta};

const TRIES: u32 = 100;
/// Deletes of one collection that are under way at the same time: they share the store's syncs.
const COLLECTION_PARALLEL: usize = 128;

/// What became of the object.
pub(crate) enum Deleted {
    Gone(Arc<Object>),
    /// It waits for its grace period or its finalizers.
    Ending(Arc<Object>),
}

impl Server {
    pub(crate) async fn delete(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let wanted = negotiate(call.header(http::header::ACCEPT), true)?;
        let options = DeleteOptions::of(call)?;
        match self.delete_object(&call.user, row, &key_of(target), &options).await? {
            Deleted::Gone(object) => {
                let details = json!({
                    "name": &*object.meta.name, "group": row.group(), "kind": row.resource(), "uid": &*object.meta.uid,
                });
                let mut details = details;
                if row.group().is_empty() {
                    details.as_object_mut().map(|d| d.remove("group"));
                }
                Ok(encode::value(200, &encode::success(details), wanted.encoding))
            }
            Deleted::Ending(object) => {
                let object = self.served(row, object).await?;
                let encoder = Encoder::new(row, wanted.form, IncludeObject::Metadata);
                Ok(encode::object(200, &object, &encoder, wanted.encoding))
            }
        }
    }

    pub(crate) async fn delete_object(
        &self,
        user: &User,
        row: &Arc<Row>,
        key: &ObjectKey,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let not_found = || ApiError::not_found(row.group(), row.resource(), &key.name);
        let mut old = self.current(row, key).await?;
        // Only they look at what goes.
        let old_value = match !options.admitted && admission::webhook::exist(self) {
            true => Some(self.to_row(&old, row).await?),
            false => None,
        };
        let request = Request {
            server: self,
            user,
            row,
            operation: Operation::Delete,
            subresource: "",
            of: None,
            key: key.clone(),
            old: old_value.as_ref(),
            dry_run: options.dry_run,
        };
        if !options.admitted {
            admission::validate(&request, None, &mut Vec::new()).await?.keep();
        }
        for _ in 0..TRIES {
            if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != &*old.meta.uid) {
                return Err(precondition_uid(row, key, uid, &old.meta.uid));
            }
            if options.resource_version.as_ref().is_some_and(|v| *v != old.revision.to_string()) {
                let wanted = options.resource_version.as_deref().unwrap_or_default();
                let why = format!(
                    "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {}",
                    old.revision
                );
                return Err(ApiError::conflict(row.group(), row.resource(), &key.name, &why));
            }
            match self.delete_once(row, key, options, &old).await? {
                Ok(deleted) => return Ok(deleted),
                Err(Some(record)) => old = Arc::new(parse(record.value, record.modified.0)?),
                Err(None) => return Err(not_found()),
            }
        }
        Err(ApiError::conflict(row.group(), row.resource(), &key.name, MODIFIED))
    }

    /// One try; the inner error is what stands there instead of `old`.
    async fn delete_once(
        &self,
        row: &Arc<Row>,
        key: &ObjectKey,
        options: &DeleteOptions,
        old: &Arc<Object>,
    ) -> Result<Result<Deleted, Option<skiff_store::Record>>, ApiError> {
        let store_key = storage::key(&row.descriptor.storage, key);
        if ends_at_once(row, old, options) {
            return match storage::remove(&self.store, store_key, old.revision).await? {
                Written::At(revision) => Ok(Ok(Deleted::Gone(Arc::new(old.at(revision))))),
                Written::Conflict(current) => Ok(Err(current)),
            };
        }
        let mut old_value = self.to_row(old, row).await?;
        meta::of(&mut old_value).remove("resourceVersion");
        let Some(new) = plan_delete(row, &old_value, options) else {
            if options.dry_run {
                return Ok(Ok(Deleted::Gone(old.clone())));
            }
            return match storage::remove(&self.store, store_key, old.revision).await? {
                Written::At(revision) => {
                    self.services.forget(row, &old_value);
                    Ok(Ok(Deleted::Gone(Arc::new(old.at(revision)))))
                }
                Written::Conflict(current) => Ok(Err(current)),
            };
        };
        let bytes = self.to_home(&new, row).await?;
        if bytes == *old.raw() {
            return Ok(Ok(Deleted::Ending(old.clone())));
        }
        // Before the commit: what can't be read again must not be written.
        let mut object = parse(bytes.clone(), old.revision)?;
        if options.dry_run {
            return Ok(Ok(Deleted::Ending(Arc::new(object))));
        }
        match storage::replace(&self.store, store_key, old.revision, bytes).await? {
            Written::At(revision) => {
                object.revision = revision;
                Ok(Ok(Deleted::Ending(Arc::new(object))))
            }
            Written::Conflict(current) => Ok(Err(current)),
        }
    }

    pub(crate) async fn delete_if_there(
        &self,
        user: &User,
        row: &Arc<Row>,
        key: ObjectKey,
        options: &DeleteOptions,
    ) -> Result<Option<Arc<Object>>, ApiError> {
        match self.delete_object(user, row, &key, options).await {
            Ok(Deleted::Gone(object) | Deleted::Ending(object)) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn delete_collection(
        &self,
        call: &Call,
        row: &Arc<Row>,
        target: &Target,
    ) -> Result<Reply, ApiError> {
        let options = DeleteOptions::of(call)?;
        let wanted = negotiate(call.header(http::header::ACCEPT), true)?;
        let include = IncludeObject::parse(call.query.get("includeObject"))?;
        // As upstream: what a list with these parameters would show goes, and is shown as it was.
        let (objects, meta) = match self.listed(call, row, target).await? {
            Listed::Objects(objects, meta) => (objects, meta),
            Listed::Expired(reply) => return Ok(reply),
        };
        let keys: Vec<ObjectKey> = objects.iter().map(|object| object.key()).collect();
        let deletes = keys.into_iter().map(|key| self.delete_if_there(&call.user, row, key, &options).boxed());
        let results: Vec<_> = stream::iter(deletes).buffered(COLLECTION_PARALLEL).collect().await;
        results.into_iter().try_for_each(|result| result.map(drop))?;
        let objects = self.served_all(row, objects).await?;
        Ok(encode::list(objects, &meta, &Encoder::new(row, wanted.form, include), wanted))
    }
}

/// Whether the metadata alone says that the object is just removed, so that nobody has to parse it.
fn ends_at_once(row: &Row, old: &Object, options: &DeleteOptions) -> bool {
    let waits = matches!(options.propagation, Some(Propagation::Foreground | Propagation::Orphan));
    // Of these the content counts: the grace period, the finalizers of the spec, the addresses, what their pods become.
    let content = ["pods", "namespaces", "services"].iter().any(|resource| row.is("", resource))
        || leaves_dependents(row)
        || is_definition(row);
    !options.dry_run && !waits && !content && old.meta.finalizers.is_empty() && old.meta.deletion_timestamp.is_none()
}

/// Definitions take their objects with them, before they go.
fn is_definition(row: &Row) -> bool {
    row.is("apiextensions.k8s.io", "customresourcedefinitions")
}

/// ReplicationControllers and Jobs of v1 leave their pods where a client does not say what it wants, as they did before
/// there was a garbage collector.
fn leaves_dependents(row: &Row) -> bool {
    row.is("", "replicationcontrollers") || row.is("batch", "jobs")
}

fn default_propagation(row: &Row, old: &Value) -> Option<Propagation> {
    let decided = meta::is_deleting(old) || meta::finalizers(old).contains(&"foregroundDeletion");
    (leaves_dependents(row) && !decided).then_some(Propagation::Orphan)
}

/// What the object becomes by the delete; `None`: it is removed.
fn plan_delete(row: &Row, old: &Value, options: &DeleteOptions) -> Option<Value> {
    let mut new = old.clone();
    if let Some(policy) = options.propagation.or_else(|| default_propagation(row, old)) {
        meta::set_finalizer(&mut new, "orphan", policy == Propagation::Orphan);
        meta::set_finalizer(&mut new, "foregroundDeletion", policy == Propagation::Foreground);
    }
    if is_definition(row) && !meta::is_deleting(old) {
        crd::begin_end(&mut new);
    }
    let grace = row.descriptor.strategy.grace_period_s(old, options.grace_period_s).unwrap_or(0).max(0);
    let held = !meta::finalizers(&new).is_empty()
        || (row.is("", "namespaces") && !meta::texts(&new["spec"]["finalizers"]).is_empty());
    if meta::is_deleting(old) {
        // Only a shorter grace period changes anything.
        let current = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        if grace < current && options.grace_period_s.is_some() {
            set_deletion(&mut new, grace, shorter_by(old, current - grace));
        }
        return if is_finished(row, &new) { None } else { Some(new) };
    }
    if grace == 0 && !held {
        return None;
    }
    set_deletion(&mut new, grace, later(grace));
    if row.is("", "namespaces") {
        new["status"]["phase"] = "Terminating".into();
    }
    if let Some(generation) = new["metadata"]["generation"].as_i64() {
        meta::set(&mut new, "generation", generation + 1);
    }
    Some(new)
}

fn set_deletion(object: &mut Value, grace_s: i64, at: String) {
    meta::set(object, "deletionTimestamp", at);
    meta::set(object, "deletionGracePeriodSeconds", grace_s);
}

fn later(seconds: i64) -> String {
    let at = skiff_base::time::now();
    skiff_base::time::rfc3339(at.saturating_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(at))
}

fn shorter_by(old: &Value, seconds: i64) -> String {
    let text = meta::text(old, "deletionTimestamp");
    match text.parse::<jiff::Timestamp>() {
        Ok(at) => skiff_base::time::rfc3339(at.saturating_sub(jiff::SignedDuration::from_secs(seconds)).unwrap_or(at)),
        Err(_) => later(0),
    }
}
