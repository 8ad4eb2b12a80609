//! ReplicaSet.

use k8s_openapi::api::apps::v1 as apps;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::{FieldOf, Kind};
use crate::kinds::checks::{immutable, nonnegative};
use crate::kinds::core::pod;
use crate::kinds::facts::{AGE, Facts, NAME, integer, wide};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::{self, Row};
use crate::strategy::Subresource;

pub(super) struct ReplicaSets;

impl Kind for ReplicaSets {
    type Typed = apps::ReplicaSet;
    const FACTS: Facts = Facts {
        short_names: &["rs"],
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
        ..Facts::new("apps", "v1", "replicasets", "ReplicaSet")
    };
    const FIELDS: &'static [(&'static str, FieldOf)] = &[("status.replicas", |o| o.int("status.replicas").to_string())];
    const FIELD_LABELS: &'static [&'static str] = &["status.replicas"];

    fn default(object: &mut Value) {
        pod::defaults::template(object);
        if let Some(spec) = spec_of(object) {
            spec.fill("replicas", 1);
        }
    }

    fn prepare_create(object: &mut Value) {
        super::zero_replicas(object);
    }

    fn validate_create(set: &apps::ReplicaSet, raw: &Value, errors: &mut Errors) {
        Self::validate(set, errors);
        super::absent_selector(raw, errors);
    }

    fn validate(set: &apps::ReplicaSet, errors: &mut Errors) {
        let empty = apps::ReplicaSetSpec::default();
        let spec = set.spec.as_ref().unwrap_or(&empty);
        let path = Path::new("spec");
        nonnegative(spec.replicas.unwrap_or(0), &path.child("replicas"), errors);
        nonnegative(spec.min_ready_seconds.unwrap_or(0), &path.child("minReadySeconds"), errors);
        super::selector_and_template(
            &spec.selector,
            spec.template.as_ref(),
            ["deployment", "ReplicaSet"],
            &path,
            errors,
        );
    }

    fn validate_update(set: &apps::ReplicaSet, old: &apps::ReplicaSet, errors: &mut Errors) {
        Self::validate(set, errors);
        if let (Some(new), Some(old)) = (&set.spec, &old.spec) {
            immutable(&new.selector, &old.selector, &Path::new("spec").child("selector"), errors);
        }
    }

    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(set: &apps::ReplicaSet, _old: &apps::ReplicaSet, errors: &mut Errors) {
        let Some(status) = &set.status else { return };
        super::replica_counts(
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
        row.push(row::selector(object.at("spec.selector")));
    }
}
