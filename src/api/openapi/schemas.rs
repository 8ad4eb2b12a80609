//! The definitions that a set of kinds needs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::paths::{definition_name, definition_of, list_name, reference, special_kind};
use super::{Flavour, custom};
use crate::resource::Gvk;
use crate::schema::{Descriptions, Field, ListKind, Scalar, Type, facts};
use crate::strategy::{Descriptor, Subresource};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const FIELDS_V1: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// Names and schemas.
pub type Definitions<'a> = dyn Iterator<Item = (String, Value)> + 'a;

/// Hands all definitions to `write`, one after the other; what is in memory is one of them and the descriptions.
pub fn each(descriptors: &[&Descriptor], flavour: Flavour, write: &mut dyn FnMut(&mut Definitions<'_>)) {
    let kinds = kinds_by_type(descriptors);
    let descriptions = Descriptions::unpack();
    let types = reachable(kinds.keys().copied().chain(helpers()));
    let objects = types.iter().map(|ty| {
        let facts = &facts().types[usize::from(*ty)];
        (facts.name.to_string(), object(*ty, kinds.get(ty).map_or(&[], Vec::as_slice), &descriptions, flavour))
    });
    let customs = descriptors.iter().filter_map(|descriptor| custom::definition(descriptor, flavour));
    let lists = descriptors.iter().filter(|d| d.verbs.iter().any(|v| v == "list")).filter_map(|d| list(d, flavour));
    write(&mut objects.chain(customs).chain(lists).chain(scalars(flavour)));
}

/// What every document has.
fn helpers() -> impl Iterator<Item = u16> {
    let names = ["DeleteOptions", "Status", "APIResourceList", "ListMeta", "ObjectMeta"];
    names.into_iter().filter_map(|name| facts().definition(&format!("{META}{name}")))
}

/// The types of the kinds, with the kinds that each stands for.
fn kinds_by_type(descriptors: &[&Descriptor]) -> BTreeMap<u16, Vec<Gvk>> {
    let mut kinds: BTreeMap<u16, Vec<Gvk>> = BTreeMap::new();
    let mut add = |gvk: Gvk| {
        if let Some(ty) = facts().definition(&definition_of(&gvk).unwrap_or_default()) {
            let entries = kinds.entry(ty).or_default();
            if !entries.contains(&gvk) {
                entries.push(gvk);
            }
        }
    };
    for descriptor in descriptors {
        add(descriptor.gvk.clone());
        add(Gvk::new(&descriptor.gvk.group, &descriptor.gvk.version, "DeleteOptions"));
        for subresource in &descriptor.subresources {
            match subresource {
                Subresource::Status => {}
                Subresource::Scale => add(Gvk::new("autoscaling", "v1", "Scale")),
                Subresource::Special(name) => special_kind(name).into_iter().for_each(&mut add),
            }
        }
    }
    add(Gvk::new("", "v1", "Status"));
    add(Gvk::new("", "v1", "APIResourceList"));
    kinds
}

fn reachable(roots: impl Iterator<Item = u16>) -> BTreeSet<u16> {
    let mut found = BTreeSet::new();
    let mut open: Vec<u16> = roots.collect();
    while let Some(ty) = open.pop() {
        if found.insert(ty) {
            facts().types[usize::from(ty)].fields.iter().for_each(|field| refers(&field.ty, &mut open));
        }
    }
    found
}

fn refers(ty: &Type, open: &mut Vec<u16>) {
    match ty {
        Type::Builtin(index) => open.push(*index),
        Type::List(list) => refers(&list.item, open),
        Type::Map(inner) | Type::OrAny(inner) => refers(inner, open),
        Type::Scalar(_) | Type::Any | Type::Object(_) => {}
    }
}

fn object(ty: u16, kinds: &[Gvk], descriptions: &Descriptions, flavour: Flavour) -> Value {
    let facts = &facts().types[usize::from(ty)];
    let mut texts = descriptions.of(ty);
    let mut out = json!({"description": texts.next().unwrap_or_default(), "type": "object"});
    if !facts.fields.is_empty() {
        let properties: Map<String, Value> = facts
            .fields
            .iter()
            .zip(texts)
            .map(|(field, text)| {
                let property = match &*field.name {
                    "fieldsV1" => fields_v1(text, flavour),
                    _ => property(field, text, facts.name.contains("apiextensions"), flavour),
                };
                (field.name.to_string(), property)
            })
            .collect();
        out["properties"] = Value::Object(properties);
    }
    let required: Vec<&str> = facts.fields.iter().filter(|f| f.required).map(|f| &*f.name).collect();
    if !required.is_empty() {
        out["required"] = json!(required);
    }
    if facts.atomic {
        out["x-kubernetes-map-type"] = "atomic".into();
    }
    if !kinds.is_empty() {
        let kinds: Vec<Value> = kinds.iter().map(kind_value).collect();
        out["x-kubernetes-group-version-kind"] = Value::Array(kinds);
    }
    out
}

pub fn kind_value(gvk: &Gvk) -> Value {
    json!({"group": &*gvk.group, "version": &*gvk.version, "kind": &*gvk.kind})
}

fn fields_v1(text: &str, flavour: Flavour) -> Value {
    let fields = reference(flavour, FIELDS_V1);
    // In v3 nothing may stand beside a reference.
    let mut out = if flavour == Flavour::OpenApi3 { json!({ "allOf": [fields] }) } else { fields };
    out["description"] = text.into();
    out
}

fn property(field: &Field, text: &str, any_json: bool, flavour: Flavour) -> Value {
    let mut out = schema(&field.ty, any_json, flavour);
    // In v3 nothing may stand beside a reference.
    if flavour == Flavour::OpenApi3 && out.get("$ref").is_some() {
        out = json!({ "allOf": [out] });
    }
    if !text.is_empty() {
        out["description"] = text.into();
    }
    // Upstream tells defaults in v3 alone.
    if flavour == Flavour::OpenApi3
        && let Some(default) = field.default.as_ref().and_then(|d| serde_json::from_str::<Value>(d).ok())
    {
        out["default"] = default;
    }
    if let Type::List(list) = &field.ty {
        match list.kind {
            ListKind::Atomic if field.declared_atomic_list => out["x-kubernetes-list-type"] = "atomic".into(),
            ListKind::Atomic => {}
            ListKind::Set => out["x-kubernetes-list-type"] = "set".into(),
            ListKind::Map => {
                out["x-kubernetes-list-type"] = "map".into();
                out["x-kubernetes-list-map-keys"] = json!(list.keys);
            }
        }
    }
    if field.atomic {
        out["x-kubernetes-map-type"] = "atomic".into();
    }
    if let Some(key) = &field.patch_merge_key {
        out["x-kubernetes-patch-merge-key"] = json!(key);
    }
    let strategies =
        [(field.patch.merge, "merge"), (field.patch.retain_keys, "retainKeys"), (field.patch.replace, "replace")];
    let strategies: Vec<&str> = strategies.into_iter().filter(|s| s.0).map(|s| s.1).collect();
    if !strategies.is_empty() {
        out["x-kubernetes-patch-strategy"] = strategies.join(",").into();
    }
    out
}

/// `any_json`: whatever is of no known type may be no object, either.
fn schema(ty: &Type, any_json: bool, flavour: Flavour) -> Value {
    match ty {
        Type::Scalar(Scalar::String) => json!({"type": "string"}),
        Type::Scalar(Scalar::Bool) => json!({"type": "boolean"}),
        Type::Scalar(Scalar::Int32) => json!({"type": "integer", "format": "int32"}),
        Type::Scalar(Scalar::Int64) => json!({"type": "integer", "format": "int64"}),
        Type::Scalar(Scalar::Double) => json!({"type": "number", "format": "double"}),
        Type::Scalar(Scalar::Bytes) => json!({"type": "string", "format": "byte"}),
        Type::Scalar(Scalar::Time) => reference(flavour, &format!("{META}Time")),
        Type::Scalar(Scalar::MicroTime) => reference(flavour, &format!("{META}MicroTime")),
        Type::Scalar(Scalar::Quantity) => reference(flavour, QUANTITY),
        Type::Scalar(Scalar::IntOrString) => reference(flavour, INT_OR_STRING),
        Type::Any if any_json => json!({}),
        Type::Any | Type::Object(_) => json!({"type": "object"}),
        Type::OrAny(_) => json!({}),
        Type::List(list) => json!({"type": "array", "items": schema(&list.item, any_json, flavour)}),
        Type::Map(values) => json!({"type": "object", "additionalProperties": schema(values, any_json, flavour)}),
        Type::Builtin(index) => reference(flavour, &facts().types[usize::from(*index)].name),
    }
}

fn list(descriptor: &Descriptor, flavour: Flavour) -> Option<(String, Value)> {
    let kind = definition_name(descriptor)?;
    let text = |name: &str| json!({"type": "string", "description": format!("The {name} of the list.")});
    let metadata = reference(flavour, &format!("{META}ListMeta"));
    let list = Gvk::new(&descriptor.gvk.group, &descriptor.gvk.version, &descriptor.list_kind);
    let out = json!({
        "description": format!("{} is a list of {}.", descriptor.list_kind, descriptor.gvk.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text("apiVersion"),
            "kind": text("kind"),
            "items": {"type": "array", "items": reference(flavour, &kind), "description": "The objects."},
            "metadata": if flavour == Flavour::OpenApi3 { json!({"allOf": [metadata]}) } else { metadata },
        },
        "x-kubernetes-group-version-kind": [kind_value(&list)],
    });
    Some((list_name(descriptor, &kind), out))
}

/// Definitions that aren't objects with fields.
fn scalars(flavour: Flavour) -> impl Iterator<Item = (String, Value)> {
    let time = |what: &str| json!({"type": "string", "format": "date-time", "description": format!("A time in RFC 3339{what}.")});
    let (mut quantity, mut either) = match flavour {
        Flavour::Swagger2 => (json!({"type": "string"}), json!({"type": "string", "format": "int-or-string"})),
        Flavour::OpenApi3 => (
            json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"}),
        ),
    };
    quantity["description"] = "A fixed-point number with an optional suffix: 100m, 1.5Gi, 2e3.".into();
    either["description"] = "A number or a string, e.g. a port by number or by name.".into();
    let patch = json!({"type": "object", "description": "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body."});
    [
        (format!("{META}Time"), time("")),
        (format!("{META}MicroTime"), time(" with microseconds")),
        (format!("{META}Patch"), patch),
        (
            FIELDS_V1.to_owned(),
            json!({"type": "object", "description": "Which fields somebody owns, as a tree of their names."}),
        ),
        (QUANTITY.to_owned(), quantity),
        (INT_OR_STRING.to_owned(), either),
    ]
    .into_iter()
}
