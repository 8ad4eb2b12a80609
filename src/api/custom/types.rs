//! A schema as the facts that merging and server-side apply work from.

use std::borrow::Cow;
use std::sync::Arc;

use super::schema::{Additional, Kind, Schema};
use crate::schema::{Field, ListType, ObjectType, PatchStrategy, Scalar, Type, definition};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The type of a whole object: its schema, and what every object has.
pub fn merge_type(schema: &Schema) -> Type {
    match object(schema, true) {
        Some(object) => Type::Object(Arc::new(object)),
        None => Type::Any,
    }
}

fn field(name: &str, ty: Type, atomic: bool) -> Field {
    Field {
        name: Cow::Owned(name.to_owned()),
        ty,
        required: false,
        drop_zero: false,
        atomic,
        declared_atomic_list: false,
        patch: PatchStrategy::default(),
        patch_merge_key: None,
        tags: Vec::new(),
        default: None,
    }
}

fn object(schema: &Schema, is_resource: bool) -> Option<ObjectType> {
    let is_resource = is_resource || schema.embedded;
    if schema.properties.is_empty() && !is_resource {
        return None;
    }
    let mut fields: Vec<Field> = schema
        .properties
        .iter()
        .filter(|(name, _)| !is_resource || !matches!(&**name, "apiVersion" | "kind" | "metadata"))
        .map(|(name, property)| {
            // Of the keys of lists.
            let default = property.default.as_ref().map(|default| Cow::Owned(default.to_string()));
            Field { default, ..field(name, ty(property), property.atomic_map) }
        })
        .collect();
    if is_resource {
        fields.push(field("apiVersion", Type::Scalar(Scalar::String), false));
        fields.push(field("kind", Type::Scalar(Scalar::String), false));
        fields.push(field("metadata", definition(OBJECT_META).unwrap_or(Type::Any), false));
        fields.sort_by(|a, b| a.name.cmp(&b.name));
    }
    Some(ObjectType {
        fields,
        preserve_unknown: schema.preserve_unknown,
        atomic: schema.atomic_map,
        ..ObjectType::default()
    })
}

fn ty(schema: &Schema) -> Type {
    if schema.int_or_string {
        return Type::Scalar(Scalar::IntOrString);
    }
    match schema.kind {
        Some(Kind::String) => Type::Scalar(Scalar::String),
        Some(Kind::Boolean) => Type::Scalar(Scalar::Bool),
        Some(Kind::Integer) => Type::Scalar(Scalar::Int64),
        Some(Kind::Number) => Type::Scalar(Scalar::Double),
        Some(Kind::Array) => Type::List(Arc::new(ListType {
            item: schema.items.as_deref().map_or(Type::Any, ty),
            kind: schema.list,
            keys: schema.list_keys.iter().map(|key| Cow::Owned(key.to_string())).collect(),
        })),
        Some(Kind::Object) | None => match (object(schema, false), &schema.additional) {
            (Some(object), _) => Type::Object(Arc::new(object)),
            (None, Additional::Schema(values)) => Type::Map(Arc::new(ty(values))),
            (None, _) => Type::Any,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::ListKind;
    use serde_json::json;

    #[test]
    fn merging_sees_keys_and_atoms() {
        let schema = Schema::parse(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
                "items": {"type": "object", "properties": {"port": {"type": "integer"}}}},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "ref": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"name": {"type": "string"}}}}}}}));
        let ty = merge_type(&schema);
        assert!(ty.field("metadata").and_then(|meta| meta.field("labels")).is_some());
        let spec = ty.field("spec").expect("a field");
        let Some(Type::List(ports)) = spec.field("ports") else { panic!("a list") };
        assert_eq!((ports.kind, ports.keys.as_slice()), (ListKind::Map, &[Cow::Borrowed("port")][..]));
        let Some(Type::List(tags)) = spec.field("tags") else { panic!("a list") };
        assert_eq!(tags.kind, ListKind::Set);
        assert!(matches!(spec.field("labels"), Some(Type::Map(_))));
        let object = spec.object().expect("an object");
        assert!(object.field("ref").expect("a field").atomic && !object.field("ports").expect("a field").atomic);
    }
}
