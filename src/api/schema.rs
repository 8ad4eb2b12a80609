//! What the fields of a kind are: one description for built-in kinds and custom resources.

use std::borrow::Cow;
use std::sync::Arc;

use crate::resource::Gvk;

/// The type of a value. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Type {
    Scalar(Scalar),
    /// Anything goes, and unknown fields are kept (RawExtension, JSON, FieldsV1).
    Any,
    List(Arc<ListType>),
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
    /// Go's `1h2m3s`.
    Duration,
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
}

/// The type of a built-in kind.
pub fn lookup(gvk: &Gvk) -> Option<Type> {
    let _ = gvk;
    None
}

impl Type {
    /// The fields, where this is an object with known fields.
    pub fn object(&self) -> Option<&ObjectType> {
        match self {
            Self::Object(object) => Some(object),
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
