//! Reading and filling in the dynamic form of an object without ceremony. What is absent, null or
//! of another type reads as empty: the schema has already said so to the client.

use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// Reading by dotted paths (`spec.nodeName`).
pub(crate) trait Peek {
    fn at(&self, path: &str) -> &Value;

    fn text(&self, path: &str) -> &str {
        self.at(path).as_str().unwrap_or("")
    }

    fn int(&self, path: &str) -> i64 {
        self.at(path).as_i64().unwrap_or(0)
    }

    fn flag(&self, path: &str) -> bool {
        self.at(path).as_bool().unwrap_or(false)
    }

    fn list(&self, path: &str) -> &[Value] {
        self.at(path).as_array().map_or(&[], Vec::as_slice)
    }

    fn map(&self, path: &str) -> Option<&Map<String, Value>> {
        self.at(path).as_object()
    }

    /// How many entries the list or map has.
    fn count(&self, path: &str) -> usize {
        match self.at(path) {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        }
    }
}

impl Peek for Value {
    fn at(&self, path: &str) -> &Value {
        path.split('.').try_fold(self, |value, key| value.get(key)).unwrap_or(&NULL)
    }
}

/// Filling in what is missing.
pub(crate) trait Fill {
    /// The object below `key`, made if absent; `None` where something else is there.
    fn object(&mut self, key: &str) -> Option<&mut Map<String, Value>>;
    /// Sets `key` where it is absent, null or an empty text.
    fn fill(&mut self, key: &str, value: impl Into<Value>);
    /// Whether `key` is absent, null, or an empty text.
    fn lacks(&self, key: &str) -> bool;
    fn items(&mut self, key: &str) -> impl Iterator<Item = &mut Map<String, Value>>;
    /// The object below `key`, if there is one.
    fn existing(&mut self, key: &str) -> Option<&mut Map<String, Value>>;
}

impl Fill for Map<String, Value> {
    fn object(&mut self, key: &str) -> Option<&mut Map<String, Value>> {
        if self.get(key).is_none_or(Value::is_null) {
            self.insert(key.to_owned(), Value::Object(Map::new()));
        }
        self.existing(key)
    }

    fn fill(&mut self, key: &str, value: impl Into<Value>) {
        if self.lacks(key) {
            self.insert(key.to_owned(), value.into());
        }
    }

    fn lacks(&self, key: &str) -> bool {
        match self.get(key) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            _ => false,
        }
    }

    fn items(&mut self, key: &str) -> impl Iterator<Item = &mut Map<String, Value>> {
        self.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
    }

    fn existing(&mut self, key: &str) -> Option<&mut Map<String, Value>> {
        self.get_mut(key).and_then(Value::as_object_mut)
    }
}

/// The object's `spec`, made if absent.
pub(crate) fn spec_of(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object.as_object_mut().and_then(|o| o.object("spec"))
}
