//! What holds of values beyond their schema: lists that are sets or maps, and embedded objects.

use serde_json::{Map, Value};

use super::schema::{Additional, Schema};
use crate::field::shown;
use crate::metadata;
use crate::names;
use crate::schema::ListKind;
use crate::status::Cause;

fn cause(field: &str, reason: &str, message: String) -> Cause {
    Cause { reason: reason.to_owned(), message, field: field.to_owned() }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Items that are there twice, in lists of type set and map.
pub fn duplicates(value: &Value, schema: &Schema) -> Vec<Cause> {
    let mut causes = Vec::new();
    lists(value, schema, "", &mut causes);
    causes
}

fn lists(value: &Value, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match (schema.property(name), &schema.additional) {
                    (Some(property), _) => lists(value, property, &below(path, name), causes),
                    (None, Additional::Schema(values)) => lists(value, values, &format!("{path}[{name}]"), causes),
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            match schema.list {
                ListKind::Set => twice(&items.iter().collect::<Vec<_>>(), path, causes),
                ListKind::Map => keyed(items, schema, path, causes),
                ListKind::Atomic => {}
            }
            if let Some(items_schema) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    lists(item, items_schema, &format!("{path}[{index}]"), causes);
                }
            }
        }
        _ => {}
    }
}

fn keyed(items: &[Value], schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    if let Some((index, item)) = items.iter().enumerate().find(|(_, item)| !item.is_object() && !item.is_null()) {
        let message = format!("Invalid value: {}: must be an object for an array of list-type map", shown(item));
        return causes.push(cause(&format!("{path}[{index}]"), "FieldValueInvalid", message));
    }
    let key = |item: &Value| -> Value {
        let part = |key: &str| item.get(key).map(|value| (key.to_owned(), value.clone()));
        Value::Object(schema.list_keys.iter().filter_map(|key| part(key)).collect::<Map<String, Value>>())
    };
    let keys: Vec<Value> = items.iter().map(key).collect();
    twice(&keys.iter().collect::<Vec<_>>(), path, causes);
}

/// Tells of each value where it comes the second time.
fn twice(values: &[&Value], path: &str, causes: &mut Vec<Cause>) {
    let mut seen: std::collections::HashMap<String, u32> = std::collections::HashMap::new();
    for (index, value) in values.iter().enumerate() {
        let times = seen.entry(value.to_string()).or_default();
        *times += 1;
        if *times == 2 {
            let message = format!("Duplicate value: {}", shown(value));
            causes.push(cause(&format!("{path}[{index}]"), "FieldValueDuplicate", message));
        }
    }
}

/// Embedded objects must say what they are, and their metadata follows the rules of metadata.
pub fn embedded(value: &Value, schema: &Schema) -> Vec<Cause> {
    let mut causes = Vec::new();
    objects(value, schema, "", &mut causes);
    causes
}

fn objects(value: &Value, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    match value {
        Value::Object(map) => {
            if schema.embedded {
                object(map, path, causes);
            }
            for (name, value) in map {
                match (schema.property(name), &schema.additional) {
                    (Some(property), _) => objects(value, property, &below(path, name), causes),
                    (None, Additional::Schema(values)) => objects(value, values, &format!("{path}[{name}]"), causes),
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(items_schema) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    objects(item, items_schema, &format!("{path}[{index}]"), causes);
                }
            }
        }
        _ => {}
    }
}

fn object(map: &Map<String, Value>, path: &str, causes: &mut Vec<Cause>) {
    for field in ["apiVersion", "kind"] {
        let place = below(path, field);
        let wrong = |value: &Value, why: &str| {
            cause(&place, "FieldValueInvalid", format!("Invalid value: {}: {why}", shown(value)))
        };
        match map.get(field) {
            None => causes.push(cause(&place, "FieldValueRequired", "Required value".to_owned())),
            Some(value) => match value.as_str() {
                None => causes.push(wrong(value, "must be a string")),
                Some("") => causes.push(wrong(value, "must not be empty")),
                Some(text) if field == "apiVersion" && text.matches('/').count() > 1 => {
                    causes.push(wrong(value, &format!("unexpected GroupVersion string: {text}")));
                }
                Some(text) if field == "kind" => {
                    let errors = names::dns_label_1035(&text.to_lowercase());
                    if !errors.is_empty() {
                        let why = format!("may have mixed case, but should otherwise match: {}", errors.join(","));
                        causes.push(wrong(value, &why));
                    }
                }
                Some(_) => {}
            },
        }
    }
    let Some(meta) = map.get("metadata") else { return };
    let mut meta = meta.clone();
    if let Some(fields) = meta.as_object_mut().filter(|fields| !fields.contains_key("name")) {
        // Something has to be there; templates have no names.
        fields.insert("name".to_owned(), "fakename".into());
    }
    let namespaced = meta.get("namespace").and_then(Value::as_str).is_some_and(|namespace| !namespace.is_empty());
    let mut errors = crate::field::Errors::new();
    metadata::validate(&meta, namespaced, path_segment, &mut errors);
    causes.extend(errors.into_causes().into_iter().map(|mut cause| {
        cause.field = below(path, &cause.field);
        cause
    }));
}

/// A name that can stand in a path.
fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    let mut errors = Vec::new();
    if !prefix && matches!(name, "." | "..") {
        errors.push(format!("may not be '{name}'"));
    }
    errors.extend(['/', '%'].into_iter().filter(|c| name.contains(*c)).map(|c| format!("may not contain '{c}'")));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(causes: Vec<Cause>) -> Vec<String> {
        causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn lists_hold_things_once() {
        let schema = Schema::parse(&json!({"type": "object", "properties": {
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "one": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"], "items": {"type": "object"}},
            "two": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"], "items": {"type": "object"}}}}));
        let value = json!({"set": ["x", "y", "x", "x"], "one": [{"a": 1}, {"a": 1, "c": 2}, {}, {}],
            "two": [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 1}]});
        assert_eq!(
            texts(duplicates(&value, &schema)),
            [
                r#"one[1]: Duplicate value: {"a":1}"#,
                "one[3]: Duplicate value: {}",
                r#"set[2]: Duplicate value: "x""#,
                r#"two[2]: Duplicate value: {"a":1,"b":1}"#,
            ]
        );
        assert_eq!(
            texts(duplicates(&json!({"one": [1]}), &schema)),
            ["one[0]: Invalid value: 1: must be an object for an array of list-type map"]
        );
    }

    #[test]
    fn embedded_objects_are_objects() {
        let schema = Schema::parse(&json!({"type": "object", "properties": {"template": {"type": "object",
            "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}));
        let good = json!({"template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": "b"}}}});
        assert_eq!(texts(embedded(&good, &schema)), Vec::<String>::new());
        assert_eq!(
            texts(embedded(&json!({"template": {"kind": ""}}), &schema)),
            ["template.apiVersion: Required value", r#"template.kind: Invalid value: "": must not be empty"#]
        );
        let labels = json!({"template": {"apiVersion": "a/b/c", "kind": "Pod", "metadata": {"labels": {"a": "-"}}}});
        let found = texts(embedded(&labels, &schema));
        assert_eq!(found[0], r#"template.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c"#);
        assert!(found[1].starts_with(r#"template.metadata.labels: Invalid value: "-": a valid label"#), "{found:?}");
    }
}
