//! Between the versions of a kind. Objects are stored in the version of the row that was registered
//! first for their storage; what differs between versions is the strategy's knowledge, as is the shape of custom resources.

use bytes::Bytes;
use serde_json::Value;
use skiff_api::decode::{Decoded, cannot_be_handled};
use skiff_api::{ApiError, Object};

use crate::registry::Row;

/// From the stored version to the row's.
pub(crate) fn to_row(mut value: Value, row: &Row) -> Value {
    if row.descriptor.strategy.converts() {
        row.descriptor.strategy.decode_stored(&mut value);
    }
    value
}

/// The bytes at rest of an object in the row's version.
pub(crate) fn to_home(value: &Value, row: &Row) -> Bytes {
    let strategy = &row.descriptor.strategy;
    if !strategy.converts() {
        return Object::canonical(value);
    }
    let mut value = value.clone();
    strategy.encode_stored(&mut value);
    Object::canonical(&value)
}

/// What reading does to a custom resource by its schema.
pub(crate) fn conform_custom(decoded: &mut Decoded, row: &Row) -> Result<(), ApiError> {
    if row.custom.is_none() {
        return Ok(());
    }
    let unknown = row.descriptor.strategy.conform(&mut decoded.value);
    let unknown = unknown.map_err(|why| cannot_be_handled(&row.descriptor.gvk, &why))?;
    // As upstream: what came twice first.
    decoded.strict.sort_by_key(|sentence| sentence.starts_with("unknown"));
    decoded.strict.extend(unknown.into_iter().map(|path| format!("unknown field {path:?}")));
    Ok(())
}
