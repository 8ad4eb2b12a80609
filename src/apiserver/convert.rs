//! Between the versions of a kind. Objects are stored in the version of the row that was registered
//! first for their storage; what differs between versions is the strategy's knowledge.

use bytes::Bytes;
use serde_json::Value;
use skiff_api::Object;

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
