//! What an `openAPIV3Schema` may hold, structural or not.

use serde_json::Value;

use super::structural::properties;
use crate::field::{Errors, Path};
use crate::kinds::peek::Peek;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// What is borne because it was there before the rule was.
#[derive(Debug, Clone, Copy)]
pub struct Strictness {
    pub valid_types: bool,
    pub atomic_sets: bool,
    pub key_defaults: bool,
}

/// Where in an object the schema is.
#[derive(Clone, Copy)]
pub struct Place {
    pub is_root: bool,
    /// Why defaults are not possible; `None`: they are.
    pub no_defaults: Option<&'static str>,
    pub in_meta: bool,
}

pub fn check(schema: &Value, path: &Path<'_>, place: Place, strict: Strictness, errors: &mut Errors) {
    if !schema.is_object() {
        return;
    }
    standard(schema, path, place, strict, errors);
    if schema.flag("uniqueItems") {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&path.child("uniqueItems"), why);
    }
    children(schema, path, place, strict, errors);
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        errors.invalid(&path.child("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined");
    }
    topology(schema, path, strict, errors);
    keyed_lists(schema, path, errors);
    if strict.key_defaults {
        keys(schema, path, errors);
    }
    rules(schema, path, errors);
}

fn standard(schema: &Value, path: &Path<'_>, place: Place, strict: Strictness, errors: &mut Errors) {
    let kind = schema.text("type");
    if strict.valid_types && !kind.is_empty() && !TYPES.contains(&kind) {
        errors.not_supported(&path.child("type"), kind, &TYPES);
    }
    if let (Some(reason), true) = (place.no_defaults, schema.get("default").is_some_and(|d| !d.is_null())) {
        errors.forbidden(&path.child("default"), &format!("must not be set {reason}"));
    }
    let set = |key: &str| match schema.get(key) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Object(map)) => !map.is_empty() || key == "dependencies",
        Some(_) => true,
    };
    for key in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if set(key) {
            errors.forbidden(&path.child(key), &format!("{key} is not supported"));
        }
    }
    if kind == "null" {
        errors.forbidden(&path.child("type"), "type cannot be set to null, use nullable as an alternative");
    }
    if schema.count("items") > 0 && schema.at("items").is_array() {
        errors.forbidden(&path.child("items"), "items must be a schema object and not an array");
    }
    if place.in_meta && schema.flag("x-kubernetes-embedded-resource") {
        errors.forbidden(&path.child("x-kubernetes-embedded-resource"), "must not be used inside of resource meta");
    }
}

fn children(schema: &Value, path: &Path<'_>, place: Place, strict: Strictness, errors: &mut Errors) {
    let inner = Place { is_root: false, ..place };
    let additional = schema.at("additionalProperties");
    if !additional.is_null() {
        let at = path.child("additionalProperties");
        if schema.count("properties") > 0 && (additional.is_object() || *additional == Value::Bool(false)) {
            errors.forbidden(&at, "additionalProperties and properties are mutual exclusive");
        }
        let why = "inside additionalProperties applying to object metadata";
        let inner = if place.in_meta { Place { no_defaults: Some(why), ..inner } } else { inner };
        check(additional, &at, inner, strict, errors);
    }
    for (name, property) in properties(schema) {
        let mut inner = inner;
        if place.is_root || schema.flag("x-kubernetes-embedded-resource") {
            let top = match name.as_str() {
                "metadata" => Some("in top-level metadata"),
                "kind" => Some("in top-level kind"),
                "apiVersion" => Some("in top-level apiVersion"),
                _ => None,
            };
            inner.in_meta |= top.is_some();
            if place.is_root && top.is_some() {
                inner.no_defaults = top;
            }
        }
        check(property, &path.child("properties").key(name), inner, strict, errors);
    }
    check(schema.at("not"), &path.child("not"), inner, strict, errors);
    for key in ["allOf", "oneOf", "anyOf"] {
        for (index, nested) in schema.list(key).iter().enumerate() {
            check(nested, &path.child(key).index(index), inner, strict, errors);
        }
    }
    check(schema.at("items"), &path.child("items"), inner, strict, errors);
}

/// `x-kubernetes-map-type` and `x-kubernetes-list-type`.
fn topology(schema: &Value, path: &Path<'_>, strict: Strictness, errors: &mut Errors) {
    let kind = schema.text("type");
    let at = path.child("type");
    let mut must_be = |wanted: &str, key: &str| {
        let why = format!("must be {wanted} if {key} is specified");
        match kind {
            "" => errors.required(&at, &why),
            kind => errors.invalid(&at, kind, &why),
        }
    };
    let map_type = schema.get("x-kubernetes-map-type").and_then(Value::as_str);
    let list_type = schema.get("x-kubernetes-list-type").and_then(Value::as_str);
    if map_type.is_some() && kind != "object" {
        must_be("object", "x-kubernetes-map-type");
    }
    if list_type.is_some() && kind != "array" {
        must_be("array", "x-kubernetes-list-type");
    }
    if let Some(other) = map_type.filter(|t| !matches!(*t, "atomic" | "granular")) {
        errors.not_supported(&path.child("x-kubernetes-map-type"), other, &["atomic", "granular"]);
    }
    let merged = not_atomic(schema).filter(|_| kind == "array" && strict.atomic_sets);
    if let Some(is_list) = merged {
        let items = path.child("items");
        let key = if is_list { "x-kubernetes-list-type" } else { "x-kubernetes-map-type" };
        let value = schema.at("items").get("x-kubernetes-list-type").cloned().unwrap_or_default();
        errors.invalid(&items.child(key), value, "must be atomic as item of a list with x-kubernetes-list-type=set");
    }
    if let Some(other) = list_type.filter(|t| !matches!(*t, "atomic" | "set" | "map")) {
        errors.not_supported(&path.child("x-kubernetes-list-type"), other, &["atomic", "set", "map"]);
    }
}

/// A set whose items are merged, not replaced: lists (`true`) or maps.
pub fn not_atomic(schema: &Value) -> Option<bool> {
    if schema.text("x-kubernetes-list-type") != "set" {
        return None;
    }
    let items = schema.at("items");
    match items.text("type") {
        "array" => (!matches!(items.text("x-kubernetes-list-type"), "" | "atomic")).then_some(true),
        "object" => (items.text("x-kubernetes-map-type") != "atomic").then_some(false),
        _ => None,
    }
}

fn keyed_lists(schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    let list_type = schema.get("x-kubernetes-list-type").and_then(Value::as_str);
    let keys = schema.list("x-kubernetes-list-map-keys");
    if !keys.is_empty() && list_type != Some("map") {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        let at = path.child("x-kubernetes-list-type");
        match list_type {
            None => errors.required(&at, why),
            Some(other) => errors.invalid(&at, other, why),
        }
    }
    if list_type != Some("map") {
        return;
    }
    let keys_at = path.child("x-kubernetes-list-map-keys");
    if keys.is_empty() {
        errors.required(&keys_at, "must not be empty if x-kubernetes-list-type is map");
    }
    let items = schema.at("items");
    let items_at = path.child("items");
    if items.is_null() {
        return errors.required(&items_at, "must have a schema if x-kubernetes-list-type is map");
    }
    if items.text("type") != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        return errors.invalid(&items_at.child("type"), items.text("type"), why);
    }
    let mut seen = Vec::new();
    for key in keys.iter().filter_map(Value::as_str) {
        match items.get("properties").and_then(|all| all.get(key)) {
            Some(property) if matches!(property.text("type"), "array" | "object") => {
                let all = items_at.child("properties");
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                errors.invalid(&all.key(key).child("type"), items.text("type"), why);
            }
            Some(_) => {}
            None => errors.invalid(&keys_at, keys, "entries must all be names of item properties"),
        }
        if seen.contains(&key) {
            errors.invalid(&keys_at, keys, "must not contain duplicate entries");
        }
        seen.push(key);
    }
}

/// Keys are always there, and items of sets and maps are never null.
pub fn keys(schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    let items = schema.at("items");
    let list_type = schema.text("x-kubernetes-list-type");
    if !items.is_object() || !matches!(list_type, "set" | "map") {
        return;
    }
    let items_at = path.child("items");
    if items.flag("nullable") {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.forbidden(&items_at.child("nullable"), &why);
    }
    if list_type != "map" {
        return;
    }
    let all = items_at.child("properties");
    for key in schema.list("x-kubernetes-list-map-keys").iter().filter_map(Value::as_str) {
        let Some(property) = items.get("properties").and_then(|all| all.get(key)) else { continue };
        if !items.list("required").iter().any(|name| name == key) && property.get("default").is_none() {
            let why =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required(&all.key(key).child("default"), why);
        }
        if property.flag("nullable") {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(&all.key(key).child("nullable"), why);
        }
    }
}

/// The form of `x-kubernetes-validations`; the expressions themselves are not read.
fn rules(schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    const REASONS: [&str; 4] =
        ["FieldValueRequired", "FieldValueForbidden", "FieldValueInvalid", "FieldValueDuplicate"];
    let all = path.child("x-kubernetes-validations");
    let lines = |text: &str| text.contains(['\n', '\r']);
    for (index, rule) in schema.list("x-kubernetes-validations").iter().enumerate() {
        let at = all.index(index);
        let (expression, message) = (rule.text("rule").trim(), rule.text("message"));
        if expression.is_empty() {
            errors.required(&at.child("rule"), "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(&at.child("message"), message, "must be non-empty if specified");
        } else if lines(message.trim()) {
            errors.invalid(&at.child("message"), message, "must not contain line breaks");
        } else if lines(expression) && message.is_empty() {
            errors.required(&at.child("message"), "message must be specified if rule contains line breaks");
        }
        let (in_expression, field) = (rule.text("messageExpression"), rule.text("fieldPath"));
        if !in_expression.is_empty() && in_expression.trim().is_empty() {
            errors.required(&at.child("messageExpression"), "messageExpression must be non-empty if specified");
        }
        if let Some(reason) = rule.get("reason").and_then(Value::as_str).filter(|reason| !REASONS.contains(reason)) {
            errors.not_supported(&at.child("reason"), reason, &REASONS);
        }
        if !field.is_empty() && field.trim().is_empty() {
            errors.invalid(&at.child("fieldPath"), field, "must be non-empty if specified");
        }
        if lines(field) {
            errors.invalid(&at.child("fieldPath"), field, "must not contain line breaks");
        }
    }
}
