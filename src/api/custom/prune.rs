//! What reading an object does to it: unknown fields go, nulls that mean nothing go, embedded metadata is checked.

use std::fmt::Write as _;

use serde_json::{Number, Value};

use super::schema::{Additional, Schema};
use crate::decode;
use crate::schema::{Type, definition};

const META: [&str; 3] = ["apiVersion", "kind", "metadata"];
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Drops what the schema does not know, and says what that was: paths, those of embedded metadata last. The metadata of
/// the object itself has been read before. The error is a sentence about embedded metadata of a wrong type.
pub fn prune(object: &mut Value, schema: &Schema) -> Result<Vec<String>, String> {
    let mut unknown = Vec::new();
    fields(object, schema, true, &mut String::new(), &mut unknown);
    unknown.sort();
    nulls(object, Some(schema));
    numbers(object);
    let mut in_meta = Vec::new();
    embedded(object, schema, false, &mut String::new(), &mut in_meta)?;
    unknown.append(&mut in_meta);
    Ok(unknown)
}

/// Runs `inner` with the path one step longer.
fn at<T>(path: &mut String, step: Step<'_>, inner: impl FnOnce(&mut String) -> T) -> T {
    let length = path.len();
    match step {
        Step::Field(name) => {
            if length > 0 {
                path.push('.');
            }
            path.push_str(name);
        }
        Step::Index(index) => write!(path, "[{index}]").expect("writing to memory"),
    }
    let result = inner(path);
    path.truncate(length);
    result
}

enum Step<'a> {
    Field(&'a str),
    Index(usize),
}

/// `is_resource`: the value is a whole object, whose type and metadata are not in the schema.
fn fields(value: &mut Value, schema: &Schema, is_resource: bool, path: &mut String, unknown: &mut Vec<String>) {
    let is_resource = is_resource || schema.embedded;
    match value {
        Value::Object(map) => {
            map.retain(|name, value| {
                if is_resource && META.contains(&name.as_str()) {
                    return true;
                }
                match schema.field(name) {
                    (Some(schema), _) => {
                        at(path, Step::Field(name), |path| fields(value, schema, false, path, unknown))
                    }
                    (None, true) => at(path, Step::Field(name), |path| everything(value, path, unknown)),
                    (None, false) if schema.preserve_unknown => {}
                    (None, false) => {
                        let dot = if path.is_empty() { "" } else { "." };
                        unknown.push(format!("{path}{dot}{name}"));
                        return false;
                    }
                }
                true
            });
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                at(path, Step::Index(index), |path| match (&schema.items, schema.preserve_unknown) {
                    (Some(items), false) => fields(item, items, false, path, unknown),
                    // What is kept as a whole is only looked into where the items say more.
                    (Some(items), true) => kept(item, items, path, unknown),
                    (None, false) => everything(item, path, unknown),
                    (None, true) => {}
                });
            }
        }
        _ => {}
    }
}

/// Below a list that keeps unknown fields, items keep theirs.
fn kept(value: &mut Value, schema: &Schema, path: &mut String, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                if schema.embedded && META.contains(&name.as_str()) {
                    continue;
                }
                at(path, Step::Field(name), |path| match schema.field(name) {
                    (Some(schema), _) => fields(value, schema, false, path, unknown),
                    (None, true) => everything(value, path, unknown),
                    (None, false) => {}
                });
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                if let Some(schema) = &schema.items {
                    at(path, Step::Index(index), |path| kept(item, schema, path, unknown));
                }
            }
        }
        _ => {}
    }
}

/// No schema at all: no field of any object is known.
fn everything(value: &mut Value, path: &mut String, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            unknown.extend(map.keys().map(|name| format!("{path}.{name}")));
            map.clear();
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                at(path, Step::Index(index), |path| everything(item, path, unknown));
            }
        }
        _ => {}
    }
}

/// A null where none is allowed and no default waits for it is as good as absent.
fn nulls(value: &mut Value, schema: Option<&Schema>) {
    match value {
        Value::Object(map) => map.retain(|name, value| {
            let schema = schema.and_then(|schema| schema.field(name).0);
            if value.is_null() && schema.is_some_and(|schema| !schema.nullable && schema.default.is_none()) {
                return false;
            }
            nulls(value, schema);
            true
        }),
        Value::Array(items) => {
            let schema = schema.and_then(|schema| schema.items.as_deref());
            items.iter_mut().for_each(|item| nulls(item, schema));
        }
        _ => {}
    }
}

/// A whole number is written without a point, whatever the client wrote: clients read it into integers.
fn numbers(value: &mut Value) {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Object(map) => map.values_mut().for_each(numbers),
        Value::Array(items) => items.iter_mut().for_each(numbers),
        Value::Number(number) if number.is_f64() => {
            if let Some(whole) = number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < EXACT) {
                *number = Number::from(whole as i64);
            }
        }
        _ => {}
    }
}

/// Types and metadata of embedded objects, as those of objects.
fn embedded(
    value: &mut Value,
    schema: &Schema,
    below: bool,
    path: &mut String,
    unknown: &mut Vec<String>,
) -> Result<(), String> {
    match value {
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                if schema.embedded && below {
                    at(path, Step::Field(name), |path| match name.as_str() {
                        "apiVersion" | "kind" if !value.is_string() => {
                            Err(format!("{path}: Invalid value: {value}: must be a string"))
                        }
                        "metadata" => meta(value, path, unknown),
                        _ => Ok(()),
                    })?;
                }
                if let (Some(schema), _) = schema.field(name) {
                    at(path, Step::Field(name), |path| embedded(value, schema, true, path, unknown))?;
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                if let Some(schema) = &schema.items {
                    at(path, Step::Index(index), |path| embedded(item, schema, true, path, unknown))?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn meta(value: &mut Value, path: &str, unknown: &mut Vec<String>) -> Result<(), String> {
    let Some(ty) = definition(OBJECT_META) else { return Ok(()) };
    let (read, found) = decode::part(value.take(), &ty).map_err(|why| format!("{path}: Invalid value: {why}"))?;
    *value = read;
    unknown.extend(found.into_iter().map(|field| format!("{path}.{field}")));
    Ok(())
}

/// What reads a whole object before its own schema does: its type and metadata; the rest passes through.
pub fn envelope() -> Type {
    use crate::schema::{Field, ObjectType, PatchStrategy, Scalar};
    let field = |name: &'static str, ty: Type| Field {
        name: name.into(),
        ty,
        required: false,
        drop_zero: false,
        atomic: false,
        declared_atomic_list: false,
        patch: PatchStrategy::default(),
        patch_merge_key: None,
        tags: Vec::new(),
        default: None,
    };
    let text = || Type::Scalar(Scalar::String);
    let metadata = definition(OBJECT_META).unwrap_or(Type::Any);
    Type::Object(std::sync::Arc::new(ObjectType {
        fields: vec![field("apiVersion", text()), field("kind", text()), field("metadata", metadata)],
        preserve_unknown: true,
        ..ObjectType::default()
    }))
}

/// Fills in what the schema has a default for.
pub fn defaults(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                if map.get(&**name).is_none_or(|value| value.is_null() && !property.nullable) {
                    map.insert(name.to_string(), (**default).clone());
                }
            }
            for (name, value) in map.iter_mut() {
                match (schema.property(name), &schema.additional) {
                    (Some(property), _) => defaults(value, property),
                    (None, Additional::Schema(values)) => default_item(value, values),
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                items.iter_mut().for_each(|item| default_item(item, schema));
            }
        }
        _ => {}
    }
}

fn default_item(value: &mut Value, schema: &Schema) {
    if value.is_null() && !schema.nullable {
        *value = schema.default.as_deref().cloned().unwrap_or(Value::Null);
    }
    defaults(value, schema);
}
