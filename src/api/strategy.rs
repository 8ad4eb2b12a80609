//! What is particular to a kind: one row of facts ([`Descriptor`]) and its hooks ([`Strategy`]).
//!
//! The request path is the same for every kind; it sees only the dynamic form here. Strategies of
//! built-in kinds are written against the typed object and erased by one generic adapter.

use std::sync::Arc;

use serde_json::Value;

use crate::resource::{Gvk, Gvr};
use crate::schema::Type;
use crate::status::Cause;

/// The hooks of one kind. Objects are complete `Value`s in the request's version.
///
/// Order on create: `default`, `prepare_create`, (mutating admission, `default` again),
/// `validate`. On update: `default`, `prepare_update`, (…), `validate_update` (which includes what
/// `validate` checks, unless upstream ratchets).
pub trait Strategy: Send + Sync + 'static {
    /// What reading does to an object beyond its type: custom resources lose what their schema does not know. With the
    /// paths of what was unknown; the error is a sentence about a wrong type.
    fn conform(&self, _object: &mut Value) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }
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
    /// The same for a subresource that is some fields of the object itself (a pod's `resize`): all others come from `old`.
    fn prepare_part_update(&self, _part: &str, _object: &mut Value, _old: &Value) {}
    fn validate_part_update(&self, _part: &str, _object: &Value, _old: &Value) -> Vec<Cause> {
        Vec::new()
    }
    /// Texts for `Warning` headers.
    fn warnings(&self, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }
    /// The same where only the status is written.
    fn status_warnings(&self, _object: &Value) -> Vec<String> {
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
    fn field_labels(&self) -> Vec<&str> {
        Vec::new()
    }
    /// The place of a field in `field_labels`.
    fn field_index(&self, path: &str) -> Option<usize> {
        self.field_labels().iter().position(|label| *label == path)
    }
    /// Those of `field_labels` that clients may use.
    fn selectable(&self) -> Vec<&str> {
        self.field_labels()
    }
    /// The text of a `Warning` header for every request, also reads, to a version that is on its way out.
    fn deprecation(&self) -> Option<&str> {
        None
    }
    /// Where the scale subresource finds its numbers; `None`: where built-in kinds have them.
    fn scale(&self) -> Option<&ScalePaths> {
        None
    }
    /// How the body of a request is read, where the kind is not built in.
    fn body_type(&self) -> Option<Type> {
        None
    }
    /// The facts for patches and server-side apply, where the kind is not built in.
    fn merge_type(&self) -> Option<Type> {
        None
    }
    /// `openAPIV3Schema` of a kind that is not built in, read anew: documents are made from it.
    fn published_schema(&self) -> Option<Value> {
        None
    }
    /// What changes when a kind that is not built in is defined anew.
    fn identity(&self) -> &str {
        ""
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

/// Simple paths to what a Scale shows: `.spec.replicas`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    pub spec: String,
    pub status: String,
    /// To a label selector as text.
    pub selector: Option<String>,
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
    pub strategy: Arc<dyn Strategy>,
    /// The key prefix in the store, shared by all versions and aliases (Event of both groups): e.g. `apps/deployments`.
    pub storage: String,
}
