//! Whether a configuration fits its type, in upstream's words.

use std::collections::BTreeSet;

use serde_json::Value;

use super::shape::{Shape, Typed, element_of, items};
use crate::field::{go_literal, go_print};
use crate::schema::{ListKind, Scalar, Type};

/// What is wrong with a configuration: `.spec.x: field not declared in schema`. Fields twice in a list of objects or a
/// set are wrong, too.
pub fn check(value: &Value, ty: Typed<'_>) -> Result<(), String> {
    let mut wrong = Vec::new();
    walk(value, ty, &mut String::new(), &mut wrong);
    match wrong.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

fn walk(value: &Value, ty: Typed<'_>, path: &mut String, wrong: &mut Vec<String>) {
    let Some(schema) = ty.ty() else { return };
    if value.is_null() {
        return;
    }
    let mut refuse = |why: String| wrong.push(if path.is_empty() { why } else { format!("{path}: {why}") });
    match schema {
        Type::Any | Type::OrAny(_) => {}
        Type::Scalar(scalar) => {
            if let Some(why) = scalar_mismatch(*scalar, value) {
                refuse(why);
            }
        }
        Type::List(list) if list.kind == ListKind::Atomic || matches!(ty.shape(value), Shape::Leaf) => {
            if !value.is_array() {
                return refuse(format!("expected list, got &{{{}}}", go_print(value)));
            }
            for (at, item) in items(Some(value)).iter().enumerate() {
                below(item, ty.item(), &format!("[{at}]"), path, wrong);
            }
        }
        Type::List(list) => {
            let mut seen = BTreeSet::new();
            for (at, item) in items(Some(value)).iter().enumerate() {
                let element = match element_of(list, item) {
                    Ok(element) => element,
                    Err(why) => return wrong.push(format!("{path}: element {at}: {why}")),
                };
                let text = element.to_string();
                if !seen.insert(element) {
                    wrong.push(format!("{path}: duplicate entries for key {text}"));
                }
                below(item, ty.item(), &text, path, wrong);
            }
        }
        Type::Map(_) | Type::Object(_) | Type::Builtin(_) => {
            let Value::Object(entries) = value else {
                return refuse(format!("expected map, got &{{{}}}", go_print(value)));
            };
            let strict = ty.known_object().filter(|object| !object.preserve_unknown);
            for (name, entry) in entries {
                if strict.is_some_and(|object| object.field(name).is_none()) {
                    wrong.push(format!("{path}.{name}: field not declared in schema"));
                } else {
                    below(entry, ty.entry(name), &format!(".{name}"), path, wrong);
                }
            }
        }
    }
}

fn below(value: &Value, ty: Typed<'_>, step: &str, path: &mut String, wrong: &mut Vec<String>) {
    let length = path.len();
    path.push_str(step);
    walk(value, ty, path, wrong);
    path.truncate(length);
}

fn scalar_mismatch(scalar: Scalar, value: &Value) -> Option<String> {
    let go_type = match value {
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
        _ => "",
    };
    match scalar {
        Scalar::Int32 | Scalar::Int64 | Scalar::Double if !value.is_number() => {
            Some(format!("expected numeric (int or float), got {go_type}"))
        }
        Scalar::Bool if !value.is_boolean() => Some(format!("expected boolean, got &{{{}}}", go_print(value))),
        Scalar::String | Scalar::Bytes | Scalar::Time | Scalar::MicroTime if !value.is_string() => {
            Some(format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_literal(value)))
        }
        Scalar::Quantity | Scalar::IntOrString if !(value.is_string() || value.is_number()) => {
            Some(format!("expected any scalar, got &{{{}}}", go_print(value)))
        }
        _ => None,
    }
}
