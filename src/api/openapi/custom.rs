//! The definition of a custom resource: its own schema, with what every object has.

use serde_json::{Map, Value, json};

use super::Flavour;
use super::paths::{definition_name, reference};
use super::schemas::kind_value;
use crate::strategy::Descriptor;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should \
    convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this \
    from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// Name and schema; `None` for built-in kinds.
pub fn definition(descriptor: &Descriptor, flavour: Flavour) -> Option<(String, Value)> {
    let mut schema = descriptor.strategy.published_schema()?;
    let name = definition_name(descriptor)?;
    unfold(&mut schema);
    let nothing_said = schema.as_object().is_none_or(Map::is_empty);
    let preserves = schema["x-kubernetes-preserve-unknown-fields"] == true;
    if nothing_said || preserves && flavour == Flavour::Swagger2 {
        // With any property, clients of the old form would refuse all others.
        schema = json!({"type": "object"});
    } else {
        if flavour == Flavour::Swagger2 {
            plain(&mut schema);
        }
        common(&mut schema, flavour, API_VERSION, KIND);
        embedded(&mut schema, flavour);
    }
    schema["x-kubernetes-group-version-kind"] = json!([kind_value(&descriptor.gvk)]);
    let fields: Vec<Value> =
        descriptor.strategy.selectable().into_iter().map(|path| json!({ "fieldPath": path })).collect();
    if !fields.is_empty() {
        schema["x-kubernetes-selectable-fields"] = fields.into();
    }
    Some((name, schema))
}

fn common(schema: &mut Value, flavour: Flavour, api_version: &str, kind: &str) {
    let meta = reference(flavour, OBJECT_META);
    let mut meta = if flavour == Flavour::OpenApi3 { json!({ "allOf": [meta] }) } else { meta };
    meta["description"] = METADATA.into();
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    schema["properties"]["apiVersion"] = json!({"type": "string", "description": api_version});
    schema["properties"]["kind"] = json!({"type": "string", "description": kind});
    schema["properties"]["metadata"] = meta;
}

/// The schemas right below this one.
fn children(schema: &mut Value) -> impl Iterator<Item = &mut Value> {
    let map = schema.as_object_mut().into_iter().flatten();
    map.flat_map(|(key, value)| -> Box<dyn Iterator<Item = &mut Value>> {
        match (key.as_str(), value) {
            ("items" | "additionalProperties", value) if value.is_object() => Box::new(std::iter::once(value)),
            ("properties", Value::Object(all)) => Box::new(all.values_mut()),
            _ => Box::new(std::iter::empty()),
        }
    })
}

/// An int-or-string says so in the language of schemas, too.
fn unfold(schema: &mut Value) {
    children(schema).for_each(unfold);
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    if schema["x-kubernetes-int-or-string"] != true
        || schema["anyOf"] == either
        || schema["allOf"].get(0).is_some_and(|first| first["anyOf"] == either)
    {
        return;
    }
    if schema["anyOf"].is_null() {
        schema["anyOf"] = either;
    } else {
        let first = json!({ "anyOf": either });
        match schema["allOf"].as_array_mut() {
            Some(all) => all.insert(0, first),
            None => schema["allOf"] = json!([first]),
        }
    }
}

/// Objects in objects.
fn embedded(schema: &mut Value, flavour: Flavour) {
    for child in children(schema) {
        embedded(child, flavour);
        let keeps_all = child["x-kubernetes-preserve-unknown-fields"] == true && flavour == Flavour::Swagger2;
        if child["x-kubernetes-embedded-resource"] != true || keeps_all {
            continue;
        }
        let lower = |text: &str, from: &str, to: &str| text.replacen(from, to, 1);
        common(child, flavour, &lower(API_VERSION, "APIVersion", "apiVersion"), &lower(KIND, "Kind", "kind"));
        let mut required = child["required"].as_array().cloned().unwrap_or_default();
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|known| known == name) {
                required.push(name.into());
            }
        }
        child["required"] = required.into();
    }
}

/// What the old form, or the clients that still read it, can't express.
fn plain(schema: &mut Value) {
    children(schema).for_each(plain_below);
    plain_here(schema);
}

fn plain_below(schema: &mut Value) {
    let nullable: Vec<String> = schema["properties"]
        .as_object()
        .map(|all| {
            all.iter().filter(|(_, property)| property["nullable"] == true).map(|(name, _)| name.clone()).collect()
        })
        .unwrap_or_default();
    let values_nullable = schema["additionalProperties"]["nullable"] == true;
    children(schema).for_each(plain_below);
    plain_here(schema);
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !values_nullable && !nullable.iter().any(|nullable| name == nullable));
    }
    if schema["required"].as_array().is_some_and(Vec::is_empty) {
        schema.as_object_mut().map(|map| map.remove("required"));
    }
}

fn plain_here(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for key in ["allOf", "oneOf", "anyOf", "not", "default"] {
        map.remove(key);
    }
    let is = |map: &Map<String, Value>, key: &str| map.get(key) == Some(&Value::Bool(true));
    let keeps_all = is(map, "x-kubernetes-preserve-unknown-fields");
    if is(map, "nullable") {
        for key in ["type", "nullable", "items", "properties"] {
            map.remove(key);
        }
    }
    if keeps_all {
        map.remove("items");
        map.remove("properties");
    }
    let kind = map.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind == "array" && !map.contains_key("items") || keeps_all && kind == "object" {
        map.remove("type");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_form_says_less() {
        let mut schema = json!({"type": "object", "properties": {
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}}},
            "none": {"type": "object", "required": ["n", "m"], "properties": {"n": {"type": "string", "nullable": true}, "m": {"type": "string"}}},
            "port": {"x-kubernetes-int-or-string": true},
            "one": {"type": "object", "oneOf": [{"required": ["x"]}], "default": {}}}});
        unfold(&mut schema);
        assert_eq!(schema["properties"]["port"]["anyOf"], json!([{"type": "integer"}, {"type": "string"}]));
        plain(&mut schema);
        assert_eq!(
            schema,
            json!({"type": "object", "properties": {
                "any": {"x-kubernetes-preserve-unknown-fields": true},
                "none": {"type": "object", "required": ["m"], "properties": {"n": {}, "m": {"type": "string"}}},
                "port": {"x-kubernetes-int-or-string": true},
                "one": {"type": "object"}}})
        );
        let mut template = json!({"type": "object", "properties": {"template": {"type": "object",
            "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}}});
        embedded(&mut template, Flavour::OpenApi3);
        let template = &template["properties"]["template"];
        assert_eq!(template["required"], json!(["kind", "apiVersion"]));
        assert!(template["properties"]["metadata"]["allOf"].is_array(), "{template}");
    }
}
