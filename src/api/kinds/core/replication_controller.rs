//! ReplicationController.

use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::{FieldOf, Kind};
use crate::kinds::checks::nonnegative;
use crate::kinds::core::pod;
use crate::kinds::facts::{AGE, Facts, NAME, integer, wide};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::{self, Row};
use crate::selector::LabelSelector;
use crate::strategy::Subresource;

pub(super) struct ReplicationControllers;

impl Kind for ReplicationControllers {
    type Typed = core::ReplicationController;
    const FACTS: Facts = Facts {
        short_names: &["rc"],
        categories: &["all"],
        subresources: &[Subresource::Scale, Subresource::Status],
        columns: &[
            NAME,
            integer("Desired", "How many pods are asked for."),
            integer("Current", "How many pods there are."),
            integer("Ready", "How many pods are ready."),
            AGE,
            wide("Containers", "Names of the containers of the template."),
            wide("Images", "Images of the containers of the template."),
            wide("Selector", "The labels of its pods."),
        ],
        generation: true,
        ..Facts::new("", "v1", "replicationcontrollers", "ReplicationController")
    };
    const FIELDS: &'static [(&'static str, FieldOf)] = &[("status.replicas", |o| o.int("status.replicas").to_string())];
    const FIELD_LABELS: &'static [&'static str] = &["status.replicas"];

    /// Selector and labels are those of the template where the manifest gives none.
    fn default(object: &mut Value) {
        // No template is a mistake here, not an empty one.
        if object.at("spec.template").is_object() {
            pod::defaults::template(object);
        }
        let labels = object.map("spec.template.metadata.labels").filter(|l| !l.is_empty()).cloned();
        let Some(spec) = spec_of(object) else { return };
        spec.fill("replicas", 1);
        let Some(labels) = labels else { return };
        if spec.get("selector").is_none_or(|s| s.as_object().is_none_or(|m| m.is_empty())) {
            spec.insert("selector".to_owned(), labels.clone().into());
        }
        if object.count("metadata.labels") == 0
            && let Some(meta) = object.as_object_mut().and_then(|o| o.object("metadata"))
        {
            meta.insert("labels".to_owned(), labels.into());
        }
    }

    fn prepare_create(object: &mut Value) {
        crate::kinds::apps::zero_replicas(object);
    }

    fn validate(controller: &core::ReplicationController, errors: &mut Errors) {
        let empty = core::ReplicationControllerSpec::default();
        let spec = controller.spec.as_ref().unwrap_or(&empty);
        let path = Path::new("spec");
        nonnegative(spec.min_ready_seconds.unwrap_or(0), &path.child("minReadySeconds"), errors);
        let selector = LabelSelector::from_labels(spec.selector.iter().flatten());
        if selector.is_everything() {
            errors.required(&path.child("selector"), "");
        }
        nonnegative(spec.replicas.unwrap_or(0), &path.child("replicas"), errors);
        let (template, path) = (spec.template.as_ref(), path.child("template"));
        pod::validate::workload_template(template, &selector, "ReplicationController", &path, errors);
    }

    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(new: &core::ReplicationController, _: &core::ReplicationController, errors: &mut Errors) {
        let Some(status) = &new.status else { return };
        crate::kinds::apps::replica_counts(
            status.replicas,
            status.fully_labeled_replicas,
            status.ready_replicas,
            status.available_replicas,
            status.observed_generation,
            errors,
        );
    }

    fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = pod::warnings::named(object, old);
        pod::warnings::workload(object, old, &mut out);
        out
    }

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.push(object.int("spec.replicas"));
        row.push(object.int("status.replicas"));
        row.push(object.int("status.readyReplicas"));
        row.age(object);
        row.containers(object.at("spec.template.spec"));
        row.push(row::labels(object.map("spec.selector")));
    }
}
