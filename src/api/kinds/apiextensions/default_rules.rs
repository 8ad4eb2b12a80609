//! Defaults in a schema.

use serde_json::{Value, json};

use super::structural::properties;
use crate::custom::{self, schema::Schema};
use crate::field::{Errors, Path};
use crate::kinds::peek::Peek;

/// Defaults must be what their own schemas allow.
pub fn defaults(schema: &Value, is_root: bool, in_meta: bool, path: &Path<'_>, pruned: bool, errors: &mut Errors) {
    let embedded = is_root || schema.flag("x-kubernetes-embedded-resource");
    let in_meta = in_meta && !embedded;
    if let Some(default) = schema.get("default").filter(|default| !default.is_null()) {
        default_value(default, schema, in_meta, path, pruned, errors);
    }
    if schema.at("items").is_object() {
        defaults(schema.at("items"), false, in_meta, &path.child("items"), pruned, errors);
    }
    for (name, property) in properties(schema) {
        let meta = embedded && matches!(name.as_str(), "metadata" | "apiVersion" | "kind");
        let at = path.child("properties");
        defaults(property, false, in_meta || meta, &at.key(name), pruned, errors);
    }
}

fn default_value(default: &Value, schema: &Value, in_meta: bool, path: &Path<'_>, pruned: bool, errors: &mut Errors) {
    let at = path.child("default");
    let parsed = Schema::parse(schema);
    if !in_meta {
        let mut cut = default.clone();
        // A whole object is only what is embedded: its type and metadata are known.
        let unknown = match schema.flag("x-kubernetes-embedded-resource") {
            true => custom::prune(&mut cut, &parsed),
            false => {
                let mut inside = json!({ "value": cut });
                let wrapper = Schema::parse(&json!({"type": "object", "properties": {"value": schema}}));
                custom::prune(&mut inside, &wrapper)
            }
        };
        match unknown {
            Ok(unknown) if pruned && !unknown.is_empty() => {
                errors.invalid(&at, default, "must not have unknown fields");
            }
            Err(why) => errors.invalid(&at, default, &why),
            Ok(_) => {}
        }
        for mut cause in custom::check_embedded(default, &parsed) {
            cause.field = format!("{at}.{}", cause.field);
            errors.push(cause);
        }
    }
    for cause in custom::check(default, &parsed, None, &at.to_string()) {
        errors.push(cause);
    }
}
