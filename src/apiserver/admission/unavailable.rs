//! Objects that would promise what nobody does yet are refused, rather than taken and not acted on.

use serde_json::Value;
use skiff_api::ApiError;

use crate::meta;
use crate::registry::Row;

pub(super) fn create(row: &Row, object: &Value) -> Result<(), ApiError> {
    let why = match (row.group(), row.resource()) {
        ("admissionregistration.k8s.io", resource) if resource.contains("admissionpolic") => {
            "policies in CEL are not available yet"
        }
        _ => return Ok(()),
    };
    Err(ApiError::forbidden(row.group(), row.resource(), meta::text(object, "name"), why))
}
