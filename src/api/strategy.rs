//! What is particular to a kind: one row of facts ([`Descriptor`]) and its hooks ([`Strategy`]).
//!
//! The request path is the same for every kind; it sees only the dynamic form here. Strategies of
//! built-in kinds are written against the typed object and erased by one generic adapter.

use std::sync::Arc;

use serde_json::Value;

use crate::resource::{Gvk, Gvr};
use crate::status::Cause;

/// The hooks of one kind. Objects are complete `Value`s in the request's version.
///
/// Order on create: `default`, `prepare_create`, (mutating admission, `default` again),
/// `validate`. On update: `default`, `prepare_update`, (…), `validate_update` (which includes what
/// `validate` checks, unless upstream ratchets).
pub trait Strategy: Send + Sync + 'static {
    /// Fills in what the manifest left out. Idempotent.
    fn default(&self, object: &mut Value);
    /// Drops what a client may not set at creation (status ...) and sets first values.
    fn prepare_create(&self, object: &mut Value);
    /// Keeps what an update may not change (status; dropped silently as upstream does), and bumps `metadata.generation` where the spec changed.
    fn prepare_update(&self, object: &mut Value, old: &Value);
    /// The same for the status subresource: everything but the status comes from `old`.
    fn prepare_status_update(&self, object: &mut Value, old: &Value);
    fn validate(&self, object: &Value) -> Vec<Cause>;
    fn validate_update(&self, object: &Value, old: &Value) -> Vec<Cause>;
    fn validate_status_update(&self, object: &Value, old: &Value) -> Vec<Cause>;
    /// Texts for `Warning` headers.
    fn warnings(&self, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }
    /// Seconds between a delete and the end, for kinds that are deleted gracefully (pods);
    /// `asked` is `gracePeriodSeconds` of the request. `None`: removed at once.
    fn grace_period_s(&self, _object: &Value, _asked: Option<i64>) -> Option<i64> {
        None
    }
    /// Whether PUT on a name that does not exist creates it.
    fn allow_create_on_update(&self) -> bool {
        false
    }
    /// Whether an update without `resourceVersion` is accepted.
    fn allow_unconditional_update(&self) -> bool {
        true
    }
    /// The value of a field selector's field (e.g. `spec.nodeName`); `None`: no such selector (400).
    /// `metadata.name` and `metadata.namespace` are answered by the machinery.
    fn field(&self, _object: &Value, _path: &str) -> Option<String> {
        None
    }
    /// The field selectors that `field` knows.
    fn field_labels(&self) -> &'static [&'static str] {
        &[]
    }
    /// The text of a `Warning` header for every request, also reads, to a version that is on its way out.
    fn deprecation(&self) -> Option<&'static str> {
        None
    }
    /// Whether the stored form is another version's than this descriptor's (`events.k8s.io`, stored in the core
    /// group's shape). Where not, stored bytes are served as they are.
    fn converts(&self) -> bool {
        false
    }
    /// From this version's form to the stored one. Leaves the stored form alone.
    fn encode_stored(&self, _object: &mut Value) {}
    /// From the stored form to this version's. Leaves this version's form alone.
    fn decode_stored(&self, _object: &mut Value) {}
    /// The cells of the row of this object, one for each of [`Descriptor::columns`].
    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value>;
}

/// One column of `metav1.Table`.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    /// `string`, `integer`, `number`, `boolean`, `date`.
    pub kind: String,
    /// `name` for the name column, else empty.
    pub format: String,
    pub description: String,
    /// 0 is shown always, 1 with `-o wide`.
    pub priority: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subresource {
    Status,
    Scale,
    /// `binding`, `eviction`, `log`, `token` ...: answered by code of its own in the API server.
    Special(&'static str),
}

/// One kind in one group and version.
pub struct Descriptor {
    pub gvr: Gvr,
    pub gvk: Gvk,
    pub list_kind: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    pub subresources: Vec<Subresource>,
    /// In discovery's form: `create`, `delete`, `deletecollection`, `get`, `list`, `patch`, `update`, `watch`.
    pub verbs: Vec<String>,
    pub columns: Vec<Column>,
    /// For scale: where `spec.replicas`, `status.replicas` and the selector are (`.spec.replicas` ...).
    pub strategy: Arc<dyn Strategy>,
    /// The key prefix in the store, shared by all versions and aliases (Event of both groups): e.g. `apps/deployments`.
    pub storage: String,
}
