//! DELETE on an object and on a collection.

use std::sync::Arc;

use futures::{FutureExt, StreamExt, stream};
use serde_json::{Value, json};
use skiff_api::{ApiError, Object, ObjectKey};

use super::change::is_finished;
use super::list::Listed;
use super::options::{DeleteOptions, Propagation};
use super::warn_all;
use super::writes::{MODIFIED, parse};
use crate::admission::{self, Operation, Request};
use crate::auth::User;
use crate::call::{Call, Target};
use crate::crd::finalize;
use crate::encode::{self, Encoder, IncludeObject};
use crate::meta;
use crate::negotiate::negotiate;
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;
use crate::storage::{self, Written};

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
        let mut warnings = Vec::new();
        let deleted = self.delete_object(&call.user, row, &target.key(), &options, &mut warnings).await?;
        let mut reply = match deleted {
            Deleted::Gone(object) => {
                let details = json!({
                    "name": &*object.meta.name, "group": row.group(), "kind": row.resource(), "uid": &*object.meta.uid,
                });
                let mut details = details;
                if row.group().is_empty() {
                    details.as_object_mut().map(|d| d.remove("group"));
                }
                encode::value(200, &encode::success(details), wanted.encoding)
            }
            Deleted::Ending(object) => {
                let object = self.served(row, object).await?;
                let encoder = Encoder::new(row, wanted.form, IncludeObject::Metadata);
                encode::object(200, &object, &encoder, wanted.encoding)
            }
        };
        warn_all(&mut reply, &warnings);
        Ok(reply)
    }

    pub(crate) async fn delete_object(
        &self,
        user: &User,
        row: &Arc<Row>,
        key: &ObjectKey,
        options: &DeleteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Deleted, ApiError> {
        let not_found = || ApiError::not_found(row.group(), row.resource(), &key.name);
        let mut old = self.current(row, key).await?;
        let before = warnings.len();
        for _ in 0..TRIES {
            warnings.truncate(before);
            check_preconditions(row, &old.meta.name, &old.meta.uid, &old.revision.to_string(), options)?;
            if !options.admitted {
                // About every state anew: what may go may have become what may not.
                self.admit_delete(user, row, key, options, &old, warnings).await?;
            }
            match self.delete_once(row, key, options, &old).await? {
                Ok(deleted) => return Ok(deleted),
                Err(Some(record)) => old = Arc::new(parse(record.value, record.modified.0)?),
                Err(None) => return Err(not_found()),
            }
        }
        Err(ApiError::conflict(row.group(), row.resource(), &key.name, MODIFIED))
    }

    async fn admit_delete(
        &self,
        user: &User,
        row: &Arc<Row>,
        key: &ObjectKey,
        options: &DeleteOptions,
        old: &Arc<Object>,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        // Only they look at what goes.
        let old = match admission::webhook::exist(self) {
            true => Some(self.to_row(old, row).await?),
            false => None,
        };
        let shown = old.as_ref().map_or(Value::Null, |old| {
            let of_kind = row.descriptor.strategy.grace_period_s(old, options.grace_period_s);
            options.shown(of_kind.or(options.grace_period_s))
        });
        let request = Request {
            server: self,
            user,
            row,
            operation: Operation::Delete,
            subresource: "",
            of: None,
            key: key.clone(),
            old: old.as_ref(),
            dry_run: options.dry_run,
            options: &shown,
        };
        admission::validate(&request, None, warnings).await?.keep();
        Ok(())
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

    /// With the warnings about it.
    pub(crate) async fn delete_if_there(
        &self,
        user: &User,
        row: &Arc<Row>,
        key: ObjectKey,
        options: &DeleteOptions,
    ) -> (Result<(), ApiError>, Vec<String>) {
        let mut warnings = Vec::new();
        let deleted = match self.delete_object(user, row, &key, options, &mut warnings).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        };
        (deleted, warnings)
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
        let mut warnings = Vec::new();
        for (deleted, told) in results {
            warnings.extend(told);
            deleted?;
        }
        let objects = self.served_all(row, objects).await?;
        let mut reply = encode::list(objects, &meta, &Encoder::new(row, wanted.form, include), wanted);
        warn_all(&mut reply, &warnings);
        Ok(reply)
    }
}

/// Whether the metadata alone says that the object is just removed, so that nobody has to parse it.
fn ends_at_once(row: &Row, old: &Object, options: &DeleteOptions) -> bool {
    let waits = matches!(options.propagation(), Some(Propagation::Foreground | Propagation::Orphan));
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
    if let Some(policy) = options.propagation().or_else(|| default_propagation(row, old)) {
        meta::set_finalizer(&mut new, "orphan", policy == Propagation::Orphan);
        meta::set_finalizer(&mut new, "foregroundDeletion", policy == Propagation::Foreground);
    }
    if is_definition(row) && !meta::is_deleting(old) {
        finalize::begin(&mut new);
    }
    let grace = row.descriptor.strategy.grace_period_s(old, options.grace_period_s).unwrap_or(0).max(0);
    let held = !meta::finalizers(&new).is_empty()
        || (row.is("", "namespaces") && !meta::texts(&new["spec"]["finalizers"]).is_empty());
    if meta::is_deleting(old) {
        // Only a shorter grace period changes anything.
        let current = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        if let Some(asked) = options.grace_period_s.filter(|asked| *asked < current) {
            let (grace, at) = shortened(old, current, asked, skiff_base::time::now());
            set_deletion(&mut new, grace, at);
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

/// The grace period that is left of a shorter one, and when it ends: not before now. What is not to end at once gets a
/// last second, in which whoever ends it still may.
fn shortened(old: &Value, current_s: i64, asked_s: i64, now: jiff::Timestamp) -> (i64, String) {
    let earlier = jiff::SignedDuration::from_secs(current_s - asked_s);
    let at = meta::text(old, "deletionTimestamp").parse::<jiff::Timestamp>().ok();
    match at.and_then(|at| at.saturating_sub(earlier).ok()).filter(|at| *at >= now) {
        Some(at) => (asked_s, skiff_base::time::rfc3339(at)),
        None => (asked_s.min(1), skiff_base::time::rfc3339(now)),
    }
}

/// Upstream tells of the kind here, and not of the resource.
/// Whether the object that was found is the one that is meant.
pub(super) fn check_preconditions(
    row: &Row,
    name: &str,
    uid: &str,
    version: &str,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let conflict = |why: String| Err(ApiError::conflict(row.group(), &row.descriptor.gvk.kind, name, &why));
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        return conflict(format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been \
             deleted and then recreated"
        ));
    }
    if let Some(wanted) = options.resource_version.as_deref().filter(|wanted| *wanted != version) {
        return conflict(format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). \
             The object might have been modified"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_period_does_not_end_in_the_past() {
        let old = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:01:00Z", "deletionGracePeriodSeconds": 60}});
        let check = |now: &str, asked: i64, expect: (i64, &str)| {
            let (grace, at) = shortened(&old, 60, asked, now.parse().expect("a time"));
            assert_eq!((grace, at.as_str()), expect, "{asked} at {now}");
        };
        check("2026-01-01T00:00:10Z", 30, (30, "2026-01-01T00:00:30Z"));
        check("2026-01-01T00:00:40Z", 30, (1, "2026-01-01T00:00:40Z"));
        check("2026-01-01T00:00:40Z", 0, (0, "2026-01-01T00:00:40Z"));
    }
}
