//! NamespaceLifecycle: nothing new where a namespace is missing or going; some never go.

use serde_json::Value;
use skiff_api::status::Cause;
use skiff_api::{ApiError, Object, ObjectKey};
use skiff_store::Record;

use crate::meta;
use crate::registry::Row;
use crate::server::Server;
use crate::storage::{self, Guard};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) async fn create(server: &Server, row: &Row, object: &Value) -> Result<(), ApiError> {
    if !row.descriptor.namespaced {
        return Ok(());
    }
    let namespace = meta::text(object, "namespace");
    let namespaces = server.resource("namespaces");
    let found = match namespaces.find("", namespace) {
        Some(found) => Some(found),
        None => {
            // It may have been created a moment ago.
            server.cache.fresh().await?;
            namespaces.find("", namespace)
        }
    };
    admits(row, object, found.as_deref())
}

/// The namespace as the check at the commit must find it. `None`: nothing to check; a heartbeat, which lives in memory
/// alone, shares no transaction with what is written down.
pub(crate) fn guard(server: &Server, row: &Row, object: &Value) -> Result<Option<Guard>, ApiError> {
    let namespace = meta::text(object, "namespace");
    let key = storage::key(&row.descriptor.storage, &meta::key(object));
    let is_volatile = crate::volatile_keys().iter().any(|prefix| key.starts_with(prefix));
    if !row.descriptor.namespaced || is_volatile {
        return Ok(None);
    }
    let found = server.resource("namespaces").find("", namespace);
    admits(row, object, found.as_deref())?;
    Ok(found.map(|found| Guard { key: key_of(namespace), at: found.revision }))
}

/// The guard for the next try, from what the commit found instead of what it should.
pub(crate) fn guard_again(row: &Row, object: &Value, current: Option<Record>) -> Result<Option<Guard>, ApiError> {
    let at = current.as_ref().map_or(0, |record| record.modified.0);
    let found = current.map(|record| Object::parse(record.value, at)).transpose();
    let found = found.map_err(|e| ApiError::internal(skiff_base::chain(&e)))?;
    admits(row, object, found.as_ref())?;
    Ok(Some(Guard { key: key_of(meta::text(object, "namespace")), at }))
}

fn key_of(namespace: &str) -> bytes::Bytes {
    storage::key("namespaces", &ObjectKey::cluster(namespace))
}

/// Whether the namespace, as it stands, takes new objects.
fn admits(row: &Row, object: &Value, namespace: Option<&Object>) -> Result<(), ApiError> {
    let name = meta::text(object, "namespace");
    let Some(found) = namespace else {
        return Err(ApiError::not_found("", "namespaces", name));
    };
    if found.meta.deletion_timestamp.is_none() {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {name} because it is being terminated");
    let mut error = ApiError::forbidden(row.group(), row.resource(), meta::text(object, "name"), &why);
    error.details.get_or_insert_default().causes.push(Cause {
        reason: "NamespaceTerminating".into(),
        message: format!("namespace {name} is being terminated"),
        field: "metadata.namespace".into(),
    });
    Err(error)
}

pub(super) fn delete(row: &Row, name: &str) -> Result<(), ApiError> {
    if row.is("", "namespaces") && IMMORTAL.contains(&name) {
        return Err(ApiError::forbidden("", "namespaces", name, "this namespace may not be deleted"));
    }
    Ok(())
}
