//! Namespace.

use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::adapter::{FieldOf, Kind};
use crate::kinds::checks;
use crate::kinds::facts::{AGE, Facts, NAME, text};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::Row;
use crate::names;
use crate::strategy::Subresource;

const KUBERNETES: &str = "kubernetes";

pub(super) struct Namespaces;

impl Kind for Namespaces {
    type Typed = core::Namespace;
    const FACTS: Facts = Facts {
        short_names: &["ns"],
        namespaced: false,
        subresources: &[Subresource::Special("finalize"), Subresource::Status],
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        columns: &[NAME, text("Status", "Active, or Terminating while its contents are deleted."), AGE],
        name: names::name_is_label,
        ..Facts::new("", "v1", "namespaces", "Namespace")
    };
    const FIELDS: &'static [(&'static str, FieldOf)] =
        &[("status.phase", |o| o.text("status.phase").to_owned()), ("name", |o| o.text("metadata.name").to_owned())];
    const FIELD_LABELS: &'static [&'static str] = &["status.phase", "name"];

    /// Every namespace carries its name as a label, so that selectors can mean it.
    fn default(object: &mut Value) {
        let name = object.text("metadata.name").to_owned();
        if name.is_empty() {
            return;
        }
        let labels = object.as_object_mut().and_then(|o| o.object("metadata")).and_then(|m| m.object("labels"));
        if let Some(labels) = labels {
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
        }
    }

    fn prepare_create(object: &mut Value) {
        // A generated name was not there yet.
        Self::default(object);
        if let Some(map) = object.as_object_mut() {
            map.insert("status".to_owned(), json!({"phase": "Active"}));
            let finalizers = map.object("spec").map(|spec| spec.entry("finalizers").or_insert_with(|| json!([])));
            if let Some(Value::Array(finalizers)) = finalizers
                && !finalizers.iter().any(|f| f == KUBERNETES)
            {
                finalizers.push(KUBERNETES.into());
            }
        }
    }

    /// Finalizers go through the `finalize` subresource only.
    fn prepare_update(object: &mut Value, old: &Value) {
        if let Some(map) = object.as_object_mut() {
            match old.get("spec") {
                Some(spec) => map.insert("spec".to_owned(), spec.clone()),
                None => map.remove("spec"),
            };
        }
    }

    fn validate(namespace: &core::Namespace, errors: &mut Errors) {
        let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.as_deref()).unwrap_or_default();
        let path = Path::new("spec.finalizers");
        for name in finalizers {
            checks::qualified_name(name, &path, errors);
            if !name.contains('/') && !matches!(name.as_str(), KUBERNETES | "foregroundDeletion" | "orphan") {
                errors.invalid(&path, name, "name is neither a standard finalizer name nor is it fully qualified");
            }
        }
    }

    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(namespace: &core::Namespace, _old: &core::Namespace, errors: &mut Errors) {
        let phase = namespace.status.as_ref().map_or("", |s| checks::text(&s.phase));
        let (wanted, message) = match namespace.metadata.deletion_timestamp {
            None => ("Active", "may only be 'Active' if `deletionTimestamp` is empty"),
            Some(_) => ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty"),
        };
        if phase != wanted {
            errors.invalid(&Path::new("status").child("Phase"), phase, message);
        }
    }

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.push(object.text("status.phase"));
        row.age(object);
    }
}
