//! Between the versions of a kind. Objects are stored in the version of the row that was registered
//! first for their storage; so far only Event is served in two.

use serde_json::{Map, Value, json};

use crate::registry::Row;

/// From the stored version to the row's.
pub(crate) fn to_row(value: Value, row: &Row) -> Value {
    if row.home.is_none() { value } else { between(value, row) }
}

/// From the row's version to the stored one.
pub(crate) fn to_home(value: Value, row: &Row) -> Value {
    if row.home.is_none() { value } else { between(value, row.home()) }
}

fn between(mut value: Value, to: &Row) -> Value {
    let gvk = &to.descriptor.gvk;
    value["apiVersion"] = gvk.api_version().into();
    value["kind"] = (&*gvk.kind).into();
    if &*gvk.kind == "Event" {
        rename_event(&mut value, &gvk.group);
    }
    value
}

/// The fields of `core/v1` and `events.k8s.io/v1` that hold the same under other names.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename_event(value: &mut Value, group: &str) {
    let Some(map) = value.as_object_mut() else { return };
    for (core, events) in EVENT_FIELDS {
        let (from, to) = if group.is_empty() { (events, core) } else { (core, events) };
        if let Some(field) = map.remove(from) {
            map.insert(to.to_owned(), field);
        }
    }
    // The core version requires these.
    if group.is_empty() {
        map.entry("involvedObject").or_insert_with(|| Value::Object(Map::new()));
    }
    if map.get("eventTime").is_none() {
        map.insert("eventTime".to_owned(), json!(null));
    }
}
