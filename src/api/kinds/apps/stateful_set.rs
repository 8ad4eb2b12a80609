//! StatefulSet.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Map, Value, json};

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{at_most_all, int_or_percent, int_or_percent_number, labels_of, nonnegative, text};
use crate::kinds::core::pod;
use crate::kinds::facts::{self, AGE, Facts, NAME, wide};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::Row;
use crate::metadata;
use crate::names;
use crate::selector::LabelSelector;
use crate::strategy::Subresource;

const RETENTION: &[&str] = &["Delete", "Retain"];
const SEALED: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
     'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

pub(super) struct StatefulSets;

impl Kind for StatefulSets {
    type Typed = apps::StatefulSet;
    const FACTS: Facts = Facts {
        short_names: &["sts"],
        categories: &["all"],
        subresources: &[Subresource::Scale, Subresource::Status],
        columns: &[
            NAME,
            facts::text("Ready", "How many of the pods asked for are ready."),
            AGE,
            wide("Containers", "Names of the containers of the template."),
            wide("Images", "Images of the containers of the template."),
        ],
        // Its pods are called so, with a number behind.
        name: names::name_is_label,
        generation: true,
        ..Facts::new("apps", "v1", "statefulsets", "StatefulSet")
    };

    fn default(set: &mut Value) {
        pod::defaults::template(set);
        if let Some(spec) = spec_of(set) {
            self::spec(spec);
        }
    }

    fn prepare_create(set: &mut Value) {
        if let Some(map) = set.as_object_mut() {
            map.insert("status".to_owned(), json!({"replicas": 0, "availableReplicas": 0}));
        }
    }

    fn validate_create(set: &apps::StatefulSet, raw: &Value, errors: &mut Errors) {
        Self::validate(set, errors);
        super::absent_selector(raw, errors);
    }

    fn validate(set: &apps::StatefulSet, errors: &mut Errors) {
        let empty = apps::StatefulSetSpec::default();
        let spec = set.spec.as_ref().unwrap_or(&empty);
        let path = Path::new("spec");
        match text(&spec.pod_management_policy) {
            "" => errors.required(&path.child("podManagementPolicy"), ""),
            "OrderedReady" | "Parallel" => {}
            other => {
                let message = "must be 'OrderedReady' or 'Parallel'";
                errors.invalid(&path.child("podManagementPolicy"), other, message);
            }
        }
        strategy(spec.update_strategy.as_ref(), &path.child("updateStrategy"), errors);
        if let Some(policy) = &spec.persistent_volume_claim_retention_policy {
            let path = path.child("persistentVolumeClaimRetentionPolicy");
            for (field, value) in [("whenDeleted", &policy.when_deleted), ("whenScaled", &policy.when_scaled)] {
                if !RETENTION.contains(&text(value)) {
                    errors.not_supported(&path.child(field), text(value), RETENTION);
                }
            }
        }
        nonnegative(spec.replicas.unwrap_or(0), &path.child("replicas"), errors);
        nonnegative(spec.min_ready_seconds.unwrap_or(0), &path.child("minReadySeconds"), errors);
        if let Some(start) = spec.ordinals.as_ref().and_then(|o| o.start) {
            nonnegative(start, &path.child("ordinals.start"), errors);
        }
        nonnegative(spec.revision_history_limit.unwrap_or(0), &path.child("revisionHistoryLimit"), errors);
        super::selector(&spec.selector, "statefulset", &path.child("selector"), errors);
        match LabelSelector::from_typed(Some(&spec.selector)) {
            Err(_) => errors.invalid(&path.child("selector"), &spec.selector, ""),
            Ok(selector) => template(&spec.template, &selector, &path.child("template"), errors),
        }
    }

    fn validate_update(set: &apps::StatefulSet, old: &apps::StatefulSet, errors: &mut Errors) {
        Self::validate(set, errors);
        let (Some(new), Some(old)) = (&set.spec, &old.spec) else { return };
        let mut allowed = new.clone();
        allowed.replicas = old.replicas;
        allowed.template.clone_from(&old.template);
        allowed.update_strategy.clone_from(&old.update_strategy);
        allowed.min_ready_seconds = old.min_ready_seconds;
        allowed.ordinals.clone_from(&old.ordinals);
        allowed.revision_history_limit = old.revision_history_limit;
        allowed.persistent_volume_claim_retention_policy.clone_from(&old.persistent_volume_claim_retention_policy);
        if allowed != *old {
            errors.forbidden(&Path::new("spec"), SEALED);
        }
    }

    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(set: &apps::StatefulSet, old: &apps::StatefulSet, errors: &mut Errors) {
        status(set, old, errors);
    }

    fn warnings(set: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        pod::warnings::workload(set, old, &mut out);
        for (i, claim) in set.list("spec.volumeClaimTemplates").iter().enumerate() {
            crate::kinds::warnings::claim(claim.at("spec"), &format!("spec.volumeClaimTemplates[{i}]"), &mut out);
        }
        if set.int("spec.revisionHistoryLimit") < 0 {
            let message = "a negative value retains all historical revisions; a value >= 0 is recommended";
            out.push(format!("spec.revisionHistoryLimit: {message}"));
        }
        out
    }

    fn cells(set: &Value, row: &mut Row) {
        row.name(set);
        row.push(format!("{}/{}", set.int("status.readyReplicas"), set.int("spec.replicas")));
        row.age(set);
        row.containers(set.at("spec.template.spec"));
    }
}

fn spec(spec: &mut Map<String, Value>) {
    spec.fill("podManagementPolicy", "OrderedReady");
    spec.fill("replicas", 1);
    spec.fill("revisionHistoryLimit", 10);
    if let Some(strategy) = spec.object("updateStrategy") {
        if strategy.lacks("type") {
            strategy.fill("type", "RollingUpdate");
            strategy.object("rollingUpdate");
        }
        if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate")
            && let Some(rolling) = strategy.existing("rollingUpdate")
        {
            rolling.fill("partition", 0);
        }
    }
    if let Some(policy) = spec.object("persistentVolumeClaimRetentionPolicy") {
        policy.fill("whenDeleted", "Retain");
        policy.fill("whenScaled", "Retain");
    }
    for claim in spec.items("volumeClaimTemplates") {
        claim.fill("apiVersion", "v1");
        claim.fill("kind", "PersistentVolumeClaim");
        if let Some(spec) = claim.object("spec") {
            pod::defaults::claim_spec(spec);
        }
        if let Some(status) = claim.object("status") {
            status.fill("phase", "Pending");
        }
    }
}

fn strategy(strategy: Option<&apps::StatefulSetUpdateStrategy>, path: &Path<'_>, errors: &mut Errors) {
    let empty = apps::StatefulSetUpdateStrategy::default();
    let strategy = strategy.unwrap_or(&empty);
    let rolling = path.child("rollingUpdate");
    match (text(&strategy.type_), &strategy.rolling_update) {
        ("", _) => errors.required(path, ""),
        ("OnDelete", Some(update)) => {
            errors.invalid(&rolling, update, "only allowed for updateStrategy 'RollingUpdate'");
        }
        ("OnDelete", None) | ("RollingUpdate", None) => {}
        ("RollingUpdate", Some(update)) => {
            nonnegative(update.partition.unwrap_or(0), &rolling.child("partition"), errors);
            let Some(value) = &update.max_unavailable else { return };
            let path = rolling.child("maxUnavailable");
            int_or_percent(value, &path, errors);
            if int_or_percent_number(Some(value)) == 0 {
                errors.invalid(&path, value, "cannot be 0");
            }
            at_most_all(value, &path, errors);
        }
        _ => errors.invalid(path, strategy, "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

/// The pods themselves are only checked as they are made: their volumes come from claims that are not there yet.
fn template(template: &core::PodTemplateSpec, selector: &LabelSelector, path: &Path<'_>, errors: &mut Errors) {
    let empty = BTreeMap::new();
    let meta = template.metadata.as_ref();
    let labels = meta.and_then(|m| m.labels.as_ref()).unwrap_or(&empty);
    if !selector.is_everything() && !selector.matches(labels) {
        errors.invalid(&path.child("metadata.labels"), labels, "`selector` does not match template `labels`");
    }
    labels_of(labels, &path.child("labels"), errors);
    let annotations = meta.and_then(|m| m.annotations.as_ref()).into_iter().flatten();
    let pairs = annotations.map(|(key, value)| (key.as_str(), value.as_str()));
    metadata::validate_annotations(pairs, &path.child("annotations"), errors);
    let restart = template.spec.as_ref().map_or("", |s| text(&s.restart_policy));
    if restart != "Always" {
        errors.not_supported(&path.child("spec.restartPolicy"), restart, &["Always"]);
    }
    if template.spec.as_ref().is_some_and(|s| s.active_deadline_seconds.is_some()) {
        let message = "activeDeadlineSeconds in StatefulSet is not Supported";
        errors.forbidden(&path.child("spec.activeDeadlineSeconds"), message);
    }
}

fn status(set: &apps::StatefulSet, old: &apps::StatefulSet, errors: &mut Errors) {
    let Some(status) = &set.status else { return };
    let path = Path::new("status");
    let ready = status.ready_replicas.unwrap_or(0);
    let available = status.available_replicas.unwrap_or(0);
    let parts = [
        ("readyReplicas", ready),
        ("currentReplicas", status.current_replicas.unwrap_or(0)),
        ("updatedReplicas", status.updated_replicas.unwrap_or(0)),
        ("availableReplicas", available),
    ];
    nonnegative(status.replicas, &path.child("replicas"), errors);
    for (field, count) in parts {
        nonnegative(count, &path.child(field), errors);
    }
    nonnegative(status.observed_generation.unwrap_or(0), &path.child("observedGeneration"), errors);
    nonnegative(status.collision_count.unwrap_or(0), &path.child("collisionCount"), errors);
    for (field, count) in parts.into_iter().filter(|(_, count)| *count > status.replicas) {
        errors.invalid(&path.child(field), count, "cannot be greater than status.replicas");
    }
    if available > ready {
        errors.invalid(&path.child("availableReplicas"), available, "cannot be greater than status.readyReplicas");
    }
    let collisions = |s: &apps::StatefulSet| s.status.as_ref().and_then(|s| s.collision_count);
    if collisions(set) < collisions(old) {
        errors.invalid(&path.child("collisionCount"), collisions(set).unwrap_or(0), "cannot be decremented");
    }
}
