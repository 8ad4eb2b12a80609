//! The hooks of custom resources: one implementation for all, told by the definition.

use std::sync::{Arc, OnceLock, RwLock};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::columns::Printer;
use super::schema::Schema;
use super::{check, invariants, prune, types};
use crate::field::Errors;
use crate::metadata;
use crate::names;
use crate::resource::Gvk;
use crate::schema::Type;
use crate::status::Cause;
use crate::strategy::{ScalePaths, Strategy};

/// The hooks of one version of one definition.
pub struct Custom {
    pub(super) gvk: Gvk,
    pub(super) namespaced: bool,
    pub(super) has_status: bool,
    pub(super) scale: Option<ScalePaths>,
    pub(super) printers: Vec<Printer>,
    /// Paths without the leading dot: those of all versions, in one order, since they share what was read of an object.
    pub(super) fields: Arc<[String]>,
    /// Those of this version.
    pub(super) selectable: Vec<String>,
    pub(super) deprecation: Option<String>,
    /// What tells this schema from others of the same kind.
    pub(super) identity: String,
    pub(super) source: Source,
    pub(super) schema: OnceLock<Arc<Schema>>,
    pub(super) merge_type: OnceLock<Type>,
}

/// The bytes of a definition at its last revision, shared with whoever caches them: never a copy.
pub(super) type DefinitionBytes = Arc<RwLock<Bytes>>;

/// Where the schema stands: the definition's bytes, and the place of the version in them.
pub(super) struct Source {
    pub definition: DefinitionBytes,
    pub version: usize,
}

impl Source {
    /// `openAPIV3Schema`, read anew.
    pub fn schema(&self) -> Option<Value> {
        let bytes = self.definition.read().expect("nothing panics with the bytes").clone();
        let mut definition: Value = serde_json::from_slice(&bytes).ok()?;
        let place = format!("/spec/versions/{}/schema/openAPIV3Schema", self.version);
        definition.pointer_mut(&place).map(Value::take)
    }
}

impl Custom {
    /// Read at the first use: most definitions of a cluster have few or no objects.
    pub fn schema(&self) -> &Schema {
        self.schema.get_or_init(|| Arc::new(Schema::parse(&self.source.schema().unwrap_or_default())))
    }

    fn type_meta(&self, object: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        for (field, expected) in [("kind", self.gvk.kind.to_string()), ("apiVersion", self.gvk.api_version())] {
            let found = object[field].as_str().unwrap_or_default();
            if found != expected {
                let message = format!("Invalid value: {found:?}: must be {expected}");
                causes.push(Cause { reason: "FieldValueInvalid".into(), message, field: field.into() });
            }
        }
        causes
    }

    fn scale_spec(&self, object: &Value) -> Option<Cause> {
        self.scale.as_ref().and_then(|scale| replicas(object, &scale.spec))
    }

    fn scale_status(&self, object: &Value) -> Vec<Cause> {
        let Some(scale) = &self.scale else { return Vec::new() };
        let mut causes: Vec<Cause> = replicas(object, &scale.status).into_iter().collect();
        let selector = scale.selector.as_ref().and_then(|path| Some((path, at(object, path)?)));
        if let Some((path, other)) = selector.filter(|(_, value)| !value.is_string()) {
            let why = format!("accessor error: {other} is of the type {}, expected string", go_type(other));
            causes.push(invalid(path, r#""""#, &why));
        }
        causes
    }
}

/// By a simple path: `.spec.replicas`.
pub(crate) fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.trim_start_matches('.').split('.').try_fold(object, |value, key| value.get(key))
}

fn invalid(path: &str, value: &str, why: &str) -> Cause {
    Cause { reason: "FieldValueInvalid".into(), message: format!("Invalid value: {value}: {why}"), field: path.into() }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn replicas(object: &Value, path: &str) -> Option<Cause> {
    let value = at(object, path)?;
    let Some(count) = value.as_i64() else {
        let place = path.trim_start_matches('.');
        let why = format!(".{place} accessor error: {value} is of the type {}, expected int64", go_type(value));
        return Some(invalid(path, "0", &why));
    };
    if count < 0 {
        return Some(invalid(path, &count.to_string(), "should be a non-negative integer"));
    }
    (count > i64::from(i32::MAX))
        .then(|| invalid(path, &count.to_string(), &format!("should be less than or equal to {}", i32::MAX)))
}

fn set_generation(object: &mut Value, generation: i64) {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.insert("generation".to_owned(), generation.into());
    }
}

fn without_metadata(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten().filter(|(key, _)| *key != "metadata")
}

impl Strategy for Custom {
    fn conform(&self, object: &mut Value) -> Result<Vec<String>, String> {
        prune::prune(object, self.schema())
    }

    fn default(&self, object: &mut Value) {
        prune::defaults(object, self.schema());
    }

    fn prepare_create(&self, object: &mut Value) {
        if let (true, Some(map)) = (self.has_status, object.as_object_mut()) {
            map.remove("status");
        }
        metadata::prepare_create(object);
        set_generation(object, 1);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        if let (true, Some(map)) = (self.has_status, object.as_object_mut()) {
            match old.get("status") {
                Some(status) => map.insert("status".to_owned(), status.clone()),
                None => map.remove("status"),
            };
        }
        metadata::prepare_update(object, old);
        if !without_metadata(object).eq(without_metadata(old)) {
            set_generation(object, old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
    }

    fn prepare_status_update(&self, object: &mut Value, old: &Value) {
        let status = object.get_mut("status").map(Value::take);
        // Who changes what is told apart by the managed fields, also for the status.
        let managed = object["metadata"].get("managedFields").cloned();
        *object = old.clone();
        let Some(map) = object.as_object_mut() else { return };
        match status {
            Some(status) => map.insert("status".to_owned(), status),
            None => map.remove("status"),
        };
        if let (Some(managed), Some(meta)) = (managed, map.get_mut("metadata").and_then(Value::as_object_mut)) {
            meta.insert("managedFields".to_owned(), managed);
        }
    }

    fn validate(&self, object: &Value) -> Vec<Cause> {
        let causes = self.type_meta(object);
        if !causes.is_empty() {
            return causes;
        }
        let mut errors = Errors::new();
        metadata::validate(&object["metadata"], self.namespaced, names::name_is_subdomain, &mut errors);
        let mut causes = errors.into_causes();
        causes.extend(check::check(object, self.schema(), None, ""));
        causes.extend(self.scale_spec(object));
        causes.extend(self.scale_status(object));
        causes.extend(invariants::embedded(object, self.schema()));
        causes.extend(invariants::duplicates(object, self.schema()));
        causes
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<Cause> {
        let causes = self.type_meta(object);
        if !causes.is_empty() {
            return causes;
        }
        let mut errors = Errors::new();
        metadata::validate_update(&object["metadata"], &old["metadata"], &mut errors);
        let mut causes = errors.into_causes();
        causes.extend(check::check(object, self.schema(), Some(old), ""));
        causes.extend(self.scale_spec(object));
        causes.extend(self.scale_status(object));
        causes.extend(invariants::embedded(object, self.schema()));
        // Lists that were wrong before may stay so.
        if invariants::duplicates(old, self.schema()).is_empty() {
            causes.extend(invariants::duplicates(object, self.schema()));
        }
        causes
    }

    fn validate_status_update(&self, object: &Value, old: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        metadata::validate_update(&object["metadata"], &old["metadata"], &mut errors);
        let mut causes = errors.into_causes();
        if let (Some(status), Some(schema)) = (object.get("status"), self.schema().property("status")) {
            causes.extend(check::check(status, schema, old.get("status"), "status"));
        }
        causes.extend(self.scale_status(object));
        if invariants::duplicates(old, self.schema()).is_empty() {
            causes.extend(invariants::duplicates(object, self.schema()));
        }
        causes
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let finalizers = |object: &Value| -> Vec<String> {
            let all = object["metadata"]["finalizers"].as_array().into_iter().flatten();
            all.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let before = old.map(finalizers).unwrap_or_default();
        let mut added: Vec<String> = finalizers(object).into_iter().filter(|name| !before.contains(name)).collect();
        added.sort();
        added.iter().filter_map(|name| finalizer_warning(name)).collect()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn field(&self, object: &Value, path: &str) -> Option<String> {
        self.fields.iter().any(|field| field == path).then(|| match at(object, path) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        })
    }

    fn field_labels(&self) -> Vec<&str> {
        self.fields.iter().map(String::as_str).collect()
    }

    fn selectable(&self) -> Vec<&str> {
        self.selectable.iter().map(String::as_str).collect()
    }

    fn deprecation(&self) -> Option<&str> {
        self.deprecation.as_deref()
    }

    fn scale(&self) -> Option<&ScalePaths> {
        self.scale.as_ref()
    }

    fn body_type(&self) -> Option<Type> {
        Some(prune::envelope())
    }

    fn merge_type(&self) -> Option<Type> {
        Some(self.merge_type.get_or_init(|| types::merge_type(self.schema())).clone())
    }

    fn published_schema(&self) -> Option<Value> {
        Some(self.source.schema().unwrap_or_else(|| Value::Object(Map::new())))
    }

    fn identity(&self) -> &str {
        &self.identity
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let name = object["metadata"]["name"].clone();
        std::iter::once(name).chain(self.printers.iter().map(|printer| printer.cell(object, now))).collect()
    }
}

fn finalizer_warning(name: &str) -> Option<String> {
    if name.contains('/') || matches!(name, "orphan" | "foregroundDeletion" | "kubernetes") {
        return None;
    }
    let path = if name.contains('.') { " including a path (/)" } else { "" };
    Some(format!(
        "metadata.finalizers: {name:?}: prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with \
         other finalizer writers"
    ))
}
