//! NamespaceLifecycle: nothing new where a namespace is missing or going; some never go.

use serde_json::Value;
use skiff_api::ApiError;
use skiff_api::status::Cause;

use crate::meta;
use crate::registry::Row;
use crate::server::Server;

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
    let Some(found) = found else {
        return Err(ApiError::not_found("", "namespaces", namespace));
    };
    if found.meta.deletion_timestamp.is_none() {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut error = ApiError::forbidden(row.group(), row.resource(), meta::text(object, "name"), &why);
    error.details.get_or_insert_default().causes.push(Cause {
        reason: "NamespaceTerminating".into(),
        message: format!("namespace {namespace} is being terminated"),
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
