//! What a definition says that is taken, but not acted on or not wise.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{schema_of, structural};
use crate::custom::{is_known_format, schema::Kind};
use crate::kinds::peek::Peek;

pub fn of(object: &Value, old: Option<&Value>) -> Vec<String> {
    let before = old.map(found).unwrap_or_default();
    found(object).into_iter().filter(|warning| !before.contains(warning)).collect()
}

fn found(object: &Value) -> Vec<String> {
    let mut formats = Vec::new();
    let mut sets = BTreeSet::new();
    let mut rules = Vec::new();
    for version in object.list("spec.versions") {
        let mut has_rules = false;
        structural::each(schema_of(version), &mut |schema| {
            let format = schema.text("format");
            if !format.is_empty() && !is_known_format(Kind::parse(schema.text("type")), format) {
                formats.push(format!("unrecognized format {format:?}"));
            }
            let items = schema.text("items.type");
            if schema.text("x-kubernetes-list-type") == "set" && matches!(items, "object" | "array") {
                sets.insert(format!(
                    "x-kubernetes-list-type: set for items of type {items:?} is not supported by server-side apply or CEL \
                     validation rules"
                ));
            }
            has_rules |= schema.count("x-kubernetes-validations") > 0;
        });
        if has_rules {
            rules.push(format!(
                "spec.versions[{}]: x-kubernetes-validations are stored and published, but not enforced by this server",
                version.text("name")
            ));
        }
    }
    formats.into_iter().chain(sets).chain(rules).collect()
}
