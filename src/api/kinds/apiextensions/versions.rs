//! What a version has beside its schema: subresources, printer columns, selectable fields.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::peek::Peek;

pub const SELECTABLE_MAX: usize = 8;

pub fn subresources(subresources: &Value, path: &Path<'_>, errors: &mut Errors) {
    let scale = subresources.at("scale");
    if !scale.is_object() {
        return;
    }
    let mut check = |key: &str, required: bool, roots: &[&str], why: &str| {
        let key_path = format!("scale.{key}");
        let at = path.child(&key_path);
        let value = scale.text(key);
        if value.is_empty() {
            if required {
                errors.required(&at, "");
            }
        } else if simple_path(value, &at, errors) && !roots.iter().any(|root| value.starts_with(root)) {
            errors.invalid(&at, value, why);
        }
    };
    check("specReplicasPath", true, &[".spec."], "should be a json path under .spec");
    check("statusReplicasPath", true, &[".status."], "should be a json path under .status");
    check("labelSelectorPath", false, &[".spec.", ".status."], "should be a json path under either .spec or .status");
}

fn simple_path(value: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    if !value.starts_with('.') {
        errors.invalid(path, value, "must be a simple json path starting with .");
    }
    value.starts_with('.')
}

pub fn printer_column(column: &Value, path: &Path<'_>, errors: &mut Errors) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    if column.text("name").is_empty() {
        errors.required(&path.child("name"), "");
    }
    let (kind, format) = (column.text("type"), column.text("format"));
    let one_of = |all: &[&str]| format!("must be one of {}", all.join(","));
    if kind.is_empty() {
        errors.required(&path.child("type"), &one_of(&TYPES));
    } else if !TYPES.contains(&kind) {
        errors.invalid(&path.child("type"), kind, &one_of(&TYPES));
    }
    if !format.is_empty() && !FORMATS.contains(&format) {
        errors.invalid(&path.child("format"), format, &one_of(&FORMATS));
    }
    let place = path.child("JSONPath");
    match column.text("jsonPath") {
        "" => errors.required(&place, ""),
        value => {
            simple_path(value, &place, errors);
        }
    }
}

pub fn selectable(fields: &[Value], schema: &Value, path: &Path<'_>, may_be_many: bool, errors: &mut Errors) {
    let mut seen = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let at = path.index(index);
        let at = at.child("jsonPath");
        let value = field.text("jsonPath");
        if value.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let found = match walk(value, schema) {
            Ok(found) => found,
            Err(why) => {
                errors.invalid(&at, value, &format!("is an invalid path: {why}"));
                continue;
            }
        };
        if value == ".metadata" || value.starts_with(".metadata.") {
            errors.invalid(&at, value, "must not point to fields in metadata");
        }
        if !matches!(found.text("type"), "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                       formats are allowed.";
            errors.invalid(&at, value, why);
        }
        if seen.contains(&value) {
            errors.duplicate(&at, value);
        } else {
            seen.push(value);
        }
    }
    if seen.len() > SELECTABLE_MAX && !may_be_many {
        errors.too_many(path, seen.len(), SELECTABLE_MAX);
    }
}

/// The schema that a path of fields leads to.
fn walk<'a>(path: &str, schema: &'a Value) -> Result<&'a Value, String> {
    let Some(rest) = path.strip_prefix('.') else { return Err("expected [ or . but got: ".to_owned() + path) };
    let mut here = schema;
    for step in rest.split('.') {
        if step.contains('[') {
            return Err("array notation is not allowed".to_owned());
        }
        here = here
            .get("properties")
            .and_then(|all| all.get(step))
            .or_else(|| here.get("additionalProperties").filter(|values| values.is_object()))
            .ok_or_else(|| format!("does not refer to a valid field ({step})"))?;
    }
    Ok(here)
}
