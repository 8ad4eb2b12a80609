//! What the fields of a kind are: one description for built-in kinds and custom resources.
//!
//! Built-in types refer to each other by their place in one table, since some are recursive; those of custom resources
//! are trees of their own that live as long as somebody holds them.

use std::borrow::Cow;
use std::sync::Arc;

use crate::resource::Gvk;

mod facts;
#[cfg(test)]
pub(crate) mod generate;

pub use facts::Descriptions;
pub(crate) use facts::{facts, fingerprint};

/// The type of a value. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Type {
    Scalar(Scalar),
    /// Anything goes, and unknown fields are kept (RawExtension, JSON, FieldsV1).
    Any,
    List(Arc<ListType>),
    /// This where it is an object, else anything (a schema or a boolean).
    OrAny(Arc<Type>),
    /// String keys, values of one type.
    Map(Arc<Type>),
    /// An object of a custom resource.
    Object(Arc<ObjectType>),
    /// An object of a built-in kind: its place in the table of facts.
    Builtin(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    /// base64 in JSON.
    Bytes,
    /// RFC 3339, seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    Quantity,
    IntOrString,
}

#[derive(Debug, Clone)]
pub struct ListType {
    pub item: Type,
    pub kind: ListKind,
    /// `x-kubernetes-list-map-keys`, for [`ListKind::Map`].
    pub keys: Vec<Cow<'static, str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListKind {
    #[default]
    Atomic,
    Set,
    Map,
}

/// The fields of an object.
#[derive(Debug, Clone, Default)]
pub struct ObjectType {
    /// The definition's name in OpenAPI, e.g. `io.k8s.api.apps.v1.Deployment`.
    pub name: Cow<'static, str>,
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// Unknown fields are kept and not reported.
    pub preserve_unknown: bool,
    /// `x-kubernetes-map-type: atomic`: server-side apply owns it as a whole.
    pub atomic: bool,
}

#[derive(Debug, Clone)]
pub struct Field {
    /// In JSON.
    pub name: Cow<'static, str>,
    pub ty: Type,
    pub required: bool,
    /// The zero value means the same as absence, so it isn't kept.
    pub drop_zero: bool,
    /// Server-side apply owns the object or map as a whole.
    pub atomic: bool,
    /// `x-kubernetes-list-type: atomic` is published; lists without it are atomic, too.
    pub declared_atomic_list: bool,
    pub patch: PatchStrategy,
    /// The key of a list that strategic merge merges by.
    pub patch_merge_key: Option<Cow<'static, str>>,
    /// Tags from the message to the field; more than one where Go inlines a struct. Empty: not in protobuf.
    pub tags: Vec<u32>,
    /// As JSON, where known.
    pub default: Option<Cow<'static, str>>,
}

/// `x-kubernetes-patch-strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PatchStrategy {
    pub merge: bool,
    pub retain_keys: bool,
    /// The object is a value: it is replaced, never merged.
    pub replace: bool,
}

/// The type of a built-in kind.
pub fn lookup(gvk: &Gvk) -> Option<Type> {
    // Every group takes the options of deletion.
    if &*gvk.kind == "DeleteOptions" {
        return definition("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions");
    }
    facts().kind(&gvk.group, &gvk.version, &gvk.kind).map(Type::Builtin)
}

/// The type of an OpenAPI definition, e.g. `io.k8s.api.core.v1.PodSpec`.
pub fn definition(name: &str) -> Option<Type> {
    facts().definition(name).map(Type::Builtin)
}

impl Type {
    /// The fields, where this is an object with known fields.
    pub fn object(&self) -> Option<&ObjectType> {
        match self {
            Self::Object(object) => Some(object),
            Self::Builtin(index) => facts().types.get(usize::from(*index)),
            Self::OrAny(ty) => ty.object(),
            _ => None,
        }
    }

    /// The type of a field, or of a map's values.
    pub fn field(&self, name: &str) -> Option<Type> {
        match self {
            Self::Map(values) => Some((**values).clone()),
            _ => self.object()?.field(name).map(|f| f.ty.clone()),
        }
    }
}

impl ObjectType {
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|f| (*f.name).cmp(name)).ok().map(|at| &self.fields[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_knows_what_upstream_publishes() {
        let ty = lookup(&Gvk::new("apps", "v1", "Deployment")).expect("a built-in kind");
        let spec = ty.field("spec").and_then(|s| s.field("template")).and_then(|s| s.field("spec")).expect("pod spec");
        let object = spec.object().expect("an object");
        assert_eq!(object.name, "io.k8s.api.core.v1.PodSpec");
        let containers = object.field("containers").expect("a field");
        assert!(containers.required && containers.patch.merge && !containers.drop_zero);
        assert_eq!(containers.patch_merge_key.as_deref(), Some("name"));
        assert_eq!(containers.tags, [2]);
        let Type::List(list) = &containers.ty else { panic!("a list") };
        assert_eq!((list.kind, list.keys.as_slice()), (ListKind::Map, &[Cow::Borrowed("name")][..]));
        let volumes = object.field("volumes").expect("a field");
        assert!(volumes.patch.merge && volumes.patch.retain_keys);
        let Type::List(volumes) = &volumes.ty else { panic!("a list") };
        assert_eq!(volumes.item.object().and_then(|v| v.field("configMap")).expect("inlined in Go").tags, [2, 19]);
        assert!(!object.field("activeDeadlineSeconds").expect("a field").drop_zero, "a pointer");
        assert!(object.field("hostNetwork").expect("a field").drop_zero, "a plain bool");
        assert!(lookup(&Gvk::new("apps", "v1", "Deploymint")).is_none());
        assert!(lookup(&Gvk::new("apps", "v1", "DeleteOptions")).is_some());
    }

    #[test]
    fn fields_without_a_description_of_their_own_have_their_type() {
        let name_of = |definition: &str, field: &str| {
            let ty = super::definition(definition).and_then(|ty| ty.field(field)).expect("a field");
            ty.object().map(|object| object.name.to_string())
        };
        let schema = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        for (definition, field, expect) in [
            ("io.k8s.api.networking.v1.IngressRule", "http", "io.k8s.api.networking.v1.HTTPIngressRuleValue"),
            (schema, "not", schema),
            (schema, "additionalItems", schema),
        ] {
            assert_eq!(name_of(definition, field).as_deref(), Some(expect), "{definition} {field}");
        }
        for index in facts().kinds.iter().map(|kind| kind.3) {
            let Some(metadata) = Type::Builtin(index).field("metadata") else { continue };
            assert!(
                metadata.object().is_some_and(|object| object.name.ends_with("Meta")),
                "{:?}",
                facts().types[usize::from(index)].name
            );
        }
    }

    #[test]
    fn every_type_is_sound() {
        let facts = facts();
        assert!(facts.kinds.len() >= 70 && facts.types.len() >= 500);
        assert!(facts.types.is_sorted_by(|a, b| a.name < b.name));
        let descriptions = Descriptions::unpack();
        for (index, ty) in facts.types.iter().enumerate() {
            assert!(ty.fields.is_sorted_by(|a, b| a.name < b.name), "{}", ty.name);
            assert_eq!(descriptions.of(u16::try_from(index).expect("few")).count(), ty.fields.len() + 1);
            for field in &ty.fields {
                if let Type::Builtin(index) = field.ty {
                    assert!(usize::from(index) < facts.types.len());
                }
                if let Some(default) = &field.default {
                    serde_json::from_str::<serde_json::Value>(default).expect("defaults are JSON");
                }
            }
        }
        let pod = facts.definition("io.k8s.api.core.v1.Pod").expect("known");
        assert!(descriptions.of(pod).next().expect("one").starts_with("Pod is a collection of containers"));
    }

    /// With `facts/newer.txt`, nothing that is served is unknown to protobuf or without its markers.
    #[test]
    fn every_field_has_a_tag_and_all_markers_are_there() {
        let facts = facts();
        let mut found = std::collections::BTreeMap::<&str, usize>::new();
        let mut count = |what: &'static str, number: usize| *found.entry(what).or_default() += number;
        for (index, ty) in facts.types.iter().enumerate() {
            let is_kind = facts.kinds.iter().any(|kind| usize::from(kind.3) == index)
                || ty.name.ends_with(".meta.v1.DeleteOptions");
            for field in &ty.fields {
                // Those two stand in the envelope of a message.
                let outside = is_kind && matches!(&*field.name, "apiVersion" | "kind");
                assert!(outside || !field.tags.is_empty(), "{}.{} has no tag", ty.name, field.name);
                if let Type::List(list) = &field.ty {
                    count("set", usize::from(list.kind == ListKind::Set));
                    count("map", usize::from(list.kind == ListKind::Map));
                    count("keys", if list.kind == ListKind::Map { list.keys.len() } else { 0 });
                }
                count("atomic", usize::from(field.declared_atomic_list));
                count("merge keys", usize::from(field.patch_merge_key.is_some()));
                count("merge", usize::from(field.patch.merge));
                count("retainKeys", usize::from(field.patch.retain_keys));
                count("replace", usize::from(field.patch.replace));
                count("required", usize::from(field.required));
            }
        }
        // What upstream's swagger.json says of the same types.
        let expect = [
            ("atomic", 228),
            ("keys", 66),
            ("map", 59),
            ("merge", 56),
            ("merge keys", 54),
            ("replace", 1),
            ("required", 457),
            ("retainKeys", 4),
            ("set", 16),
        ];
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expect);
    }
}
