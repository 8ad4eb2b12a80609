//! What makes a schema structural: every field that is spoken of has its place, and nothing but its place says what it is.

use serde_json::{Map, Value, json};

use crate::custom::pattern;
use crate::field::{Errors, Path};
use crate::kinds::peek::Peek;
use crate::status::Cause;

/// Calls `visit` for the schema and each one in it.
pub fn each(schema: Option<&Value>, visit: &mut dyn FnMut(&Value)) {
    let Some(schema) = schema.filter(|schema| schema.is_object()) else { return };
    visit(schema);
    for key in ["items", "not", "additionalProperties"] {
        each(schema.get(key), visit);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        schema.list(key).iter().for_each(|schema| each(Some(schema), visit));
    }
    properties(schema).for_each(|(_, schema)| each(Some(schema), visit));
}

/// Whether one of the schemas in it has what is looked for.
pub fn any(schema: Option<&Value>, test: impl Fn(&Value) -> bool) -> bool {
    let mut found = false;
    each(schema, &mut |schema| found |= test(schema));
    found
}

pub fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten()
}

/// Keys that a structural schema can't even be read with.
pub fn unsupported(schema: &Value) -> Option<&'static str> {
    const KEYS: [&str; 7] =
        ["id", "$schema", "$ref", "patternProperties", "dependencies", "additionalItems", "definitions"];
    let mut found = None;
    each(Some(schema), &mut |schema| {
        found = found.or_else(|| KEYS.into_iter().find(|key| schema.get(*key).is_some_and(is_set)));
    });
    found
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What keeps the schema from being structural, in the order of the texts.
pub(crate) fn violations(schema: &Value, path: &Path<'_>) -> Vec<Cause> {
    let mut errors = Errors::new();
    invariants(schema, Level::Root, path, &mut errors);
    // As upstream, only what the root says: its fields are not looked into.
    complete_values(schema, schema, path, path, &mut errors);
    let mut causes = errors.into_causes();
    causes.sort_by_cached_key(|cause| format!("{}: {}", cause.field, cause.message));
    causes
}

fn invariants(schema: &Value, level: Level, path: &Path<'_>, errors: &mut Errors) {
    let kind = schema.text("type");
    if kind == "array" && !schema.at("items").is_object() {
        errors.required(&path.child("items"), "must be specified");
    }
    if schema.at("items").is_object() {
        invariants(schema.at("items"), Level::Item, &path.child("items"), errors);
    }
    for (name, property) in properties(schema) {
        invariants(property, Level::Field, &path.child("properties").key(name), errors);
    }
    let additional = schema.at("additionalProperties");
    if !additional.is_null() {
        let place = path.child("additionalProperties");
        if level == Level::Root {
            errors.forbidden(&place, "must not be used at the root");
        }
        if additional.is_object() {
            invariants(additional, Level::Field, &place, errors);
        }
    }
    extensions(schema, path, errors);
    let any_of = either(schema.list("anyOf"));
    let first_all_of = schema.list("allOf").first().is_some_and(|first| either(first.list("anyOf")));
    values(schema, any_of, first_all_of, level, path, errors);
    types(schema, level, path, errors);
    metadata(schema, level, path, errors);
}

/// `anyOf: [{type: integer}, {type: string}]`, the two forms of an int-or-string.
fn either(any_of: &[Value]) -> bool {
    any_of == [json!({"type": "integer"}), json!({"type": "string"})]
}

fn extensions(schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    if !schema.flag("x-kubernetes-int-or-string") {
        return;
    }
    for key in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        if schema.flag(key) {
            errors.invalid(&path.child(key), true, "must be false if x-kubernetes-int-or-string is true");
        }
    }
}

fn types(schema: &Value, level: Level, path: &Path<'_>, errors: &mut Errors) {
    let kind = schema.text("type");
    let embedded = schema.flag("x-kubernetes-embedded-resource");
    let place = path.child("type");
    if embedded && kind != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        match kind {
            "" => errors.required(&place, why),
            kind => errors.invalid(&place, kind, why),
        }
    } else if kind.is_empty()
        && !schema.flag("x-kubernetes-int-or-string")
        && !schema.flag("x-kubernetes-preserve-unknown-fields")
    {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.required(&place, why);
    }
    if embedded && !schema.at("additionalProperties").is_null() {
        let why = "must not be used if x-kubernetes-embedded-resource is set";
        errors.forbidden(&path.child("additionalProperties"), why);
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.invalid(&place, kind, "must be object at the root");
    }
    if embedded && !schema.flag("x-kubernetes-preserve-unknown-fields") && schema.count("properties") == 0 {
        let why =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.required(&path.child("properties"), why);
    }
}

/// Of the type and the metadata of an object only names may be limited.
fn metadata(schema: &Value, level: Level, path: &Path<'_>, errors: &mut Errors) {
    let checked = level == Level::Root || schema.flag("x-kubernetes-embedded-resource");
    let all = path.child("properties");
    for (name, property) in properties(schema) {
        let place = all.key(name);
        match name.as_str() {
            "kind" | "apiVersion" if checked && property.text("type") != "string" => {
                errors.invalid(&place.child("type"), property.text("type"), "must be string");
            }
            "metadata" => {
                if checked && property.text("type") != "object" {
                    errors.invalid(&place.child("type"), property.text("type"), "must be object");
                }
                if level == Level::Root && !names_only(property) {
                    let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
                    errors.forbidden(&place, why);
                }
            }
            _ => {}
        }
    }
}

fn names_only(metadata: &Value) -> bool {
    let known =
        |map: &Map<String, Value>| map.keys().all(|key| matches!(key.as_str(), "type" | "properties" | "default"));
    metadata.as_object().is_some_and(known)
        && properties(metadata).all(|(name, _)| matches!(name.as_str(), "name" | "generateName"))
}

fn values(
    schema: &Value,
    skip_any_of: bool,
    skip_first_all_of: bool,
    level: Level,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if !skip_any_of {
        for (index, nested) in schema.list("anyOf").iter().enumerate() {
            nested_values(nested, false, level, &path.child("anyOf").index(index), errors);
        }
    }
    for (index, nested) in schema.list("allOf").iter().enumerate() {
        nested_values(nested, skip_first_all_of && index == 0, level, &path.child("allOf").index(index), errors);
    }
    for (index, nested) in schema.list("oneOf").iter().enumerate() {
        nested_values(nested, false, level, &path.child("oneOf").index(index), errors);
    }
    if schema.at("not").is_object() {
        nested_values(schema.at("not"), false, level, &path.child("not"), errors);
    }
    let expression = schema.text("pattern");
    if let (false, Err(why)) = (expression.is_empty(), pattern::compile(expression)) {
        let why = format!("must be a valid regular expression, but isn't: {why}");
        errors.invalid(&path.child("pattern"), expression, &why);
    }
}

fn nested_values(nested: &Value, skip_any_of: bool, level: Level, path: &Path<'_>, errors: &mut Errors) {
    values(nested, skip_any_of, false, level, path, errors);
    if nested.at("items").is_object() {
        nested_values(nested.at("items"), false, level, &path.child("items"), errors);
    }
    for (name, property) in properties(nested) {
        nested_values(property, false, Level::Field, &path.child("properties").key(name), errors);
    }
    let empty = |key: &str| match nested.get(key) {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    };
    for (key, why) in [
        ("type", "must be empty to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("nullable", "must be false to be structural"),
        ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
        ("x-kubernetes-embedded-resource", "must be false to be structural"),
        ("x-kubernetes-int-or-string", "must be false to be structural"),
        ("x-kubernetes-list-map-keys", "must be empty to be structural"),
        ("x-kubernetes-list-type", "must be undefined to be structural"),
        ("x-kubernetes-map-type", "must be undefined to be structural"),
        ("x-kubernetes-validations", "must be empty to be structural"),
    ] {
        if !empty(key) {
            errors.forbidden(&path.child(key), why);
        }
    }
    if properties(nested).any(|(name, _)| name == "metadata") {
        errors.forbidden(&path.child("properties").key("metadata"), "must not be specified in a nested context");
    }
}

/// What `values` says in its alternatives must have a place in `schema`.
fn complete_values(values: &Value, schema: &Value, at: &Path<'_>, said: &Path<'_>, errors: &mut Errors) {
    if values.at("not").is_object() {
        complete_nested(values.at("not"), Some(schema), at, &said.child("not"), errors);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (index, nested) in values.list(key).iter().enumerate() {
            complete_nested(nested, Some(schema), at, &said.child(key).index(index), errors);
        }
    }
}

fn complete_nested(nested: &Value, schema: Option<&Value>, at: &Path<'_>, said: &Path<'_>, errors: &mut Errors) {
    let Some(schema) = schema.filter(|schema| schema.is_object()) else {
        return errors.required(at, &format!("because it is defined in {said}"));
    };
    complete_values(nested, schema, at, said, errors);
    if nested.at("items").is_object() {
        complete_nested(nested.at("items"), schema.get("items"), &at.child("items"), &said.child("items"), errors);
    }
    for (name, property) in properties(nested) {
        let place = schema.get("properties").and_then(|all| all.get(name));
        let (at, said) = (at.child("properties"), said.child("properties"));
        complete_nested(property, place, &at.key(name), &said.key(name), errors);
    }
}
