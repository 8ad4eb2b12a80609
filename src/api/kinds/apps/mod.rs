//! The `apps` group.

mod controller_revision;
mod deployment;
mod replica_set;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::adapter::describe;
use crate::kinds::checks::{label_selector, nonnegative};
use crate::kinds::core::pod;
use crate::kinds::peek::Peek;
use crate::selector::LabelSelector;
use crate::strategy::Descriptor;

const EMPTY_SELECTOR: &str = "empty selector is invalid for deployment";

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![
        describe::<controller_revision::ControllerRevisions>(),
        describe::<deployment::Deployments>(),
        describe::<replica_set::ReplicaSets>(),
    ]
}

/// The first status of ReplicaSets and ReplicationControllers: upstream always writes the number.
pub(super) fn zero_replicas(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert("status".to_owned(), json!({"replicas": 0}));
    }
}

/// The counts in the status of ReplicaSets and ReplicationControllers.
pub(super) fn replica_counts(
    replicas: i32,
    labeled: Option<i32>,
    ready: Option<i32>,
    available: Option<i32>,
    observed_generation: Option<i64>,
    errors: &mut Errors,
) {
    let path = Path::new("status");
    let (labeled, ready, available) = (labeled.unwrap_or(0), ready.unwrap_or(0), available.unwrap_or(0));
    let counts = [
        ("replicas", replicas),
        ("fullyLabeledReplicas", labeled),
        ("readyReplicas", ready),
        ("availableReplicas", available),
    ];
    for (field, count) in counts {
        nonnegative(count, &path.child(field), errors);
    }
    nonnegative(observed_generation.unwrap_or(0), &path.child("observedGeneration"), errors);
    for (field, count) in counts.into_iter().filter(|(_, count)| *count > replicas) {
        errors.invalid(&path.child(field), count, "cannot be greater than status.replicas");
    }
    if available > ready {
        errors.invalid(&path.child("availableReplicas"), available, "cannot be greater than readyReplicas");
    }
}

/// The selector, which must say something, and the template whose pods it must match.
fn selector_and_template(
    selector: &meta::LabelSelector,
    template: Option<&core::PodTemplateSpec>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let selector_path = path.child("selector");
    let is_empty = selector.match_labels.as_ref().is_none_or(|l| l.is_empty())
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty);
    label_selector(selector, &selector_path, errors);
    if is_empty {
        errors.invalid(&selector_path, selector, EMPTY_SELECTOR);
    }
    match LabelSelector::from_typed(Some(selector)) {
        Err(_) => errors.invalid(&selector_path, selector, "invalid label selector"),
        Ok(parsed) => {
            let path = path.child("template");
            pod::validate::workload_template(template, &parsed, "ReplicaSet", &path, errors);
        }
    }
}

/// A selector that is not there reads as an empty one in the typed form, but is another mistake: it selects nothing.
fn absent_selector(raw: &Value, errors: &mut Errors) {
    if raw.at("spec.selector").is_object() {
        return;
    }
    let spec = Path::new("spec");
    errors.retain(|cause| !cause.message.ends_with(EMPTY_SELECTOR));
    errors.required(&spec.child("selector"), "");
    let labels = raw.at("spec.template.metadata.labels");
    let path = spec.child("template.metadata.labels");
    errors.invalid(&path, labels, "`selector` does not match template `labels`");
}
