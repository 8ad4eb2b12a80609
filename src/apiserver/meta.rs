//! Reading and writing `metadata` of the dynamic form.

use serde_json::{Map, Value};
use skiff_api::ObjectKey;

pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The metadata, made if absent or no object.
pub(crate) fn of(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let map = object.as_object_mut().expect("made an object above");
    let meta = map.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if !meta.is_object() {
        *meta = Value::Object(Map::new());
    }
    meta.as_object_mut().expect("made an object above")
}

pub(crate) fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    of(object).insert(field.to_owned(), value.into());
}

pub(crate) fn key(object: &Value) -> ObjectKey {
    ObjectKey::new(text(object, "namespace"), text(object, "name"))
}

pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    texts(&object["metadata"]["finalizers"])
}

pub(crate) fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

pub(crate) fn is_deleting(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

/// Copies a field from the old metadata, or drops it where the old has none.
pub(crate) fn keep(object: &mut Value, old: &Value, field: &str) {
    let old = old["metadata"].get(field).cloned();
    let meta = of(object);
    match old {
        Some(value) => meta.insert(field.to_owned(), value),
        None => meta.remove(field),
    };
}

/// Adds or removes a finalizer.
pub(crate) fn set_finalizer(object: &mut Value, name: &str, present: bool) {
    let mut all: Vec<Value> = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let has = all.iter().any(|f| f == name);
    if has == present {
        return;
    }
    if present {
        all.push(name.into());
    } else {
        all.retain(|f| f != name);
    }
    let meta = of(object);
    if all.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.insert("finalizers".to_owned(), all.into());
    }
}
