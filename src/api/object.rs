//! One object at one revision, shared by everyone who looks at it.
//!
//! Kept as the canonical JSON bytes that the store holds, which carry no `resourceVersion`: it is
//! the store's revision, and is spliced in behind `"metadata":{` when the bytes go out. Parsed to
//! its typed form at most once, and only when someone asks.

use std::any::Any;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, iter};

use bytes::Bytes;
use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Namespace and name; the namespace is empty for cluster-scoped objects.
///
/// Ordered as the text `namespace/name` is, which is the order of the keys in a store: `a-b` comes before `a`, since
/// `-` is less than `/`. A list that begins in one order and goes on in another would lose objects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Ord for ObjectKey {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.namespace == other.namespace {
            return self.name.cmp(&other.name);
        }
        let ending = || iter::once(b'/');
        self.namespace.bytes().chain(ending()).cmp(other.namespace.bytes().chain(ending()))
    }
}

impl PartialOrd for ObjectKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl ObjectKey {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub fn cluster(name: &str) -> Self {
        Self::new("", name)
    }

    pub fn of<K: Metadata<Ty = ObjectMeta>>(object: &K) -> Self {
        let meta = object.metadata();
        Self::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// The part of the metadata that the machinery looks at without parsing the whole object.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub uid: Arc<str>,
    pub labels: BTreeMap<String, String>,
    pub owner_references: Vec<OwnerReference>,
    pub finalizers: Vec<String>,
    pub deletion_timestamp: Option<String>,
    pub generation: Option<i64>,
}

type Typed = Arc<dyn Any + Send + Sync>;

/// See the module.
pub struct Object {
    pub revision: u64,
    pub meta: Meta,
    raw: Bytes,
    /// Where `"resourceVersion":"…",` goes in `raw`: just behind the brace that opens the metadata.
    splice_at: usize,
    /// The value of `managedFields` in `raw`; empty where there is none.
    managed: Range<usize>,
    typed: Mutex<Option<Typed>>,
}

/// Bytes that are no Kubernetes object.
#[derive(Debug, thiserror::Error)]
#[error("decode object")]
pub struct DecodeError(#[from] serde_json::Error);

impl Object {
    /// From the bytes of [`Object::canonical`] and the revision they were written at.
    pub fn parse(raw: Bytes, revision: u64) -> Result<Self, DecodeError> {
        #[derive(Deserialize)]
        struct Skeleton<'a> {
            #[serde(borrow)]
            metadata: &'a serde_json::value::RawValue,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Managed<'a> {
            #[serde(borrow, default)]
            managed_fields: Option<&'a serde_json::value::RawValue>,
        }
        let skeleton: Skeleton<'_> = serde_json::from_slice(&raw)?;
        let metadata = skeleton.metadata.get();
        let meta: Meta = serde_json::from_str(metadata)?;
        let managed: Managed<'_> = serde_json::from_str(metadata)?;
        // Raw values borrow from `raw`, so their addresses are their places.
        let place = |text: &str| text.as_ptr() as usize - raw.as_ptr() as usize;
        let splice_at = place(metadata) + 1;
        let managed =
            managed.managed_fields.map_or(0..0, |list| place(list.get())..place(list.get()) + list.get().len());
        Ok(Self { revision, meta, raw, splice_at, managed, typed: Mutex::default() })
    }

    /// From an object as a client or a server sends it, its `resourceVersion` inside.
    pub fn from_wire(mut value: Value) -> Result<Self, DecodeError> {
        let revision = value
            .pointer_mut("/metadata")
            .and_then(Value::as_object_mut)
            .and_then(|m| m.remove("resourceVersion"))
            .and_then(|v| v.as_str().and_then(|s| s.parse().ok()))
            .unwrap_or(0);
        Self::parse(Self::canonical(&value), revision)
    }

    /// The bytes at rest. The value must carry no `metadata.resourceVersion`, and a name.
    pub fn canonical(value: &Value) -> Bytes {
        Bytes::from(serde_json::to_vec(value).expect("a JSON value with string keys always encodes"))
    }

    /// The same bytes at another revision (the one of its deletion).
    pub fn at(&self, revision: u64) -> Self {
        let Self { meta, raw, splice_at, managed, .. } = self;
        let (meta, raw, managed) = (meta.clone(), raw.clone(), managed.clone());
        Self { revision, meta, raw, splice_at: *splice_at, managed, typed: Mutex::default() }
    }

    pub fn key(&self) -> ObjectKey {
        ObjectKey { namespace: self.meta.namespace.clone(), name: self.meta.name.clone() }
    }

    /// The bytes at rest, without the revision.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Appends the object as clients see it. Revision 0 is that of an object that was never stored
    /// (a dry run), which has none.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        if self.revision == 0 {
            return out.extend_from_slice(&self.raw);
        }
        out.extend_from_slice(&self.raw[..self.splice_at]);
        out.extend_from_slice(b"\"resourceVersion\":\"");
        out.extend_from_slice(self.revision.to_string().as_bytes());
        out.push(b'"');
        if self.raw[self.splice_at] != b'}' {
            out.push(b',');
        }
        out.extend_from_slice(&self.raw[self.splice_at..]);
    }

    /// The object as clients see it.
    pub fn json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.raw.len() + 40);
        self.write_json(&mut out);
        out
    }

    /// The object as clients see it, parsed.
    pub fn value(&self) -> Value {
        let mut value: Value = serde_json::from_slice(&self.raw).expect("parse() read these bytes as JSON");
        if self.revision != 0 {
            value["metadata"]["resourceVersion"] = Value::String(self.revision.to_string());
        }
        value
    }

    /// The typed form, parsed at the first call and shared by all later ones of the same type. It has no
    /// `managedFields`: they would be half of a pod's memory, and whoever writes the object without them changes none.
    pub fn typed<K>(&self) -> Result<Arc<K>, DecodeError>
    where
        K: DeserializeOwned + Metadata<Ty = ObjectMeta> + Send + Sync + 'static,
    {
        let held = self.held().clone();
        if let Some(typed) = held.and_then(|typed| typed.downcast::<K>().ok()) {
            return Ok(typed);
        }
        let mut typed: K = match self.managed.is_empty() {
            true => serde_json::from_slice(&self.raw)?,
            false => {
                let parts = [&self.raw[..self.managed.start], b"null", &self.raw[self.managed.end..]];
                serde_json::from_slice(&parts.concat())?
            }
        };
        typed.metadata_mut().resource_version = Some(self.revision.to_string());
        let typed = Arc::new(typed);
        // Someone else may have been first; both copies are equal.
        self.held().get_or_insert_with(|| typed.clone());
        Ok(typed)
    }

    /// Lets go of the typed form, which is several times as large as the bytes: for what is kept, but hardly looked at
    /// any more. Who asks for it again parses again.
    pub fn forget_typed(&self) {
        *self.held() = None;
    }

    /// Whether a typed form is kept.
    pub fn has_typed(&self) -> bool {
        self.held().is_some()
    }

    fn held(&self) -> MutexGuard<'_, Option<Typed>> {
        // What it holds is whole at any time.
        self.typed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({} @{})", self.key(), self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    #[test]
    fn keys_are_ordered_as_their_texts() {
        let keys = ["", "a", "a-b", "a.b", "a0", "ab", "b"].map(|n| ["x", "x-1", "y"].map(|m| ObjectKey::new(n, m)));
        let mut sorted: Vec<ObjectKey> = keys.into_iter().flatten().collect();
        sorted.sort();
        let text = |key: &ObjectKey| format!("{}/{}", key.namespace, key.name);
        assert!(sorted.is_sorted_by_key(text), "{sorted:?}");
    }

    #[test]
    fn splices_the_revision_and_reads_it_back() {
        let wire = json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"a": "1"},
            "metadata": {"name": "c", "namespace": "d", "resourceVersion": "17", "labels": {"x": "y"}}});
        let object = Object::from_wire(wire.clone()).expect("valid");
        assert_eq!(object.revision, 17);
        assert_eq!(object.key(), ObjectKey::new("d", "c"));
        assert_eq!(object.meta.labels["x"], "y");
        assert!(!String::from_utf8_lossy(object.raw()).contains("resourceVersion"));
        assert_eq!(serde_json::from_slice::<Value>(&object.json()).expect("JSON"), wire);
        assert_eq!(object.value(), wire);
        let typed = object.typed::<ConfigMap>().expect("typed");
        assert_eq!(typed.metadata.resource_version.as_deref(), Some("17"));
        assert!(Arc::ptr_eq(&typed, &object.typed::<ConfigMap>().expect("typed again")));
    }

    #[test]
    fn the_typed_form_does_without_managed_fields() {
        let wire = json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"managedFields": "[]"}, "metadata": {
            "annotations": {"managedFields": "x"}, "name": "c", "namespace": "d", "resourceVersion": "1", "uid": "u",
            "managedFields": [{"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:data": {"f:managedFields": {}}}}]}});
        let object = Object::from_wire(wire.clone()).expect("valid");
        let typed = object.typed::<ConfigMap>().expect("typed");
        assert_eq!(typed.metadata.managed_fields, None);
        assert_eq!(typed.metadata.uid.as_deref(), Some("u"));
        assert_eq!(typed.data.as_ref().and_then(|data| data.get("managedFields")).map(String::as_str), Some("[]"));
        assert_eq!(object.value(), wire);
        assert_eq!(object.at(2).typed::<ConfigMap>().expect("typed").metadata.managed_fields, None);
    }

    #[test]
    fn refuses_what_is_no_object() {
        for bytes in ["", "[]", "{}", r#"{"metadata":3}"#, r#"{"metadata":{"name":1}}"#] {
            assert!(Object::parse(Bytes::from_static(bytes.as_bytes()), 1).is_err(), "{bytes}");
        }
    }
}
