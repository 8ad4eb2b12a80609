//! What all writes share: the object has to be the one of the URL, and others may have been faster.

use serde_json::Value;
use skiff_api::{ApiError, Object, ObjectKey};

use crate::meta;
use crate::registry::Row;

/// How often a change is tried again when others change the object at the same time.
pub(super) const TRIES: u32 = 100;
pub(crate) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

pub(super) fn parse(bytes: bytes::Bytes, revision: u64) -> Result<Object, ApiError> {
    Object::parse(bytes, revision).map_err(|e| ApiError::bad_request(skiff_base::chain(&e).to_string()))
}

pub(super) fn is_too_large<T>(written: &Result<T, ApiError>) -> bool {
    written.as_ref().is_err_and(|e| e.code == 413)
}

/// The namespace of the URL goes into the object; another one there is an error.
pub(super) fn place(value: &mut Value, row: &Row, namespace: &str) -> Result<(), ApiError> {
    if !row.descriptor.namespaced {
        return Ok(());
    }
    let given = meta::text(value, "namespace");
    if !given.is_empty() && given != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    meta::set(value, "namespace", namespace);
    Ok(())
}

/// The object's name must be the URL's: who sends one without any has most likely lost it.
pub(super) fn check_name(value: &Value, name: &str) -> Result<(), ApiError> {
    let why = match meta::text(value, "name") {
        given if given == name => return Ok(()),
        "" => format!("the name of the object ({name} based on URL) was undeterminable: name must be provided"),
        given => format!("the name of the object ({given}) does not match the name on the URL ({name})"),
    };
    Err(ApiError::bad_request(why))
}

pub(super) fn precondition_uid(row: &Row, key: &ObjectKey, wanted: &str, found: &str) -> ApiError {
    let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
    ApiError::conflict(row.group(), row.resource(), &key.name, &why)
}
