//! Between the versions of a kind. Objects are stored in the version of the row that was registered
//! first for their storage; what differs between versions is the strategy's knowledge.

use serde_json::Value;

use crate::registry::Row;

/// From the stored version to the row's.
pub(crate) fn to_row(mut value: Value, row: &Row) -> Value {
    if row.descriptor.strategy.converts() {
        row.descriptor.strategy.from_storage(&mut value);
    }
    value
}

/// From the row's version to the stored one.
pub(crate) fn to_home(mut value: Value, row: &Row) -> Value {
    if row.descriptor.strategy.converts() {
        row.descriptor.strategy.to_storage(&mut value);
    }
    value
}
