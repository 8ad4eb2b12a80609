//! The `apps` group.

mod controller_revision;
mod daemon_set;
mod deployment;
mod replica_set;
mod stateful_set;

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

const EMPTY_SELECTOR: &str = "empty selector is invalid for ";

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![
        describe::<controller_revision::ControllerRevisions>(),
        describe::<daemon_set::DaemonSets>(),
        describe::<deployment::Deployments>(),
        describe::<replica_set::ReplicaSets>(),
        describe::<stateful_set::StatefulSets>(),
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

/// The selector, which must say something.
fn selector(selector: &meta::LabelSelector, of: &str, path: &Path<'_>, errors: &mut Errors) {
    let is_empty = selector.match_labels.as_ref().is_none_or(|l| l.is_empty())
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty);
    label_selector(selector, path, errors);
    if is_empty {
        errors.invalid(path, selector, &format!("{EMPTY_SELECTOR}{of}"));
    }
}

/// The selector and the template whose pods it must match. `of` and `kind` are what messages call it, which for all but
/// daemon sets is not their own name.
fn selector_and_template(
    selector: &meta::LabelSelector,
    template: Option<&core::PodTemplateSpec>,
    [of, kind]: [&str; 2],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let selector_path = path.child("selector");
    self::selector(selector, of, &selector_path, errors);
    match LabelSelector::from_typed(Some(selector)) {
        Err(_) => errors.invalid(&selector_path, selector, "invalid label selector"),
        Ok(parsed) => {
            pod::validate::workload_template(template, &parsed, kind, &path.child("template"), errors);
        }
    }
}

/// A selector that is not there reads as an empty one in the typed form, but is another mistake: it selects nothing.
fn absent_selector(raw: &Value, errors: &mut Errors) {
    if raw.at("spec.selector").is_object() {
        return;
    }
    let spec = Path::new("spec");
    errors.retain(|cause| !cause.message.contains(EMPTY_SELECTOR));
    errors.required(&spec.child("selector"), "");
    let labels = raw.at("spec.template.metadata.labels");
    let path = spec.child("template.metadata.labels");
    errors.invalid(&path, labels, "`selector` does not match template `labels`");
}
