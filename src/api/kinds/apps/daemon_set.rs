//! DaemonSet.

use k8s_openapi::api::apps::v1 as apps;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{at_most_all, immutable, int_or_percent, int_or_percent_number, nonnegative, text};
use crate::kinds::core::pod;
use crate::kinds::facts::{self, AGE, Facts, NAME, integer, wide};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::{self, Row};
use crate::strategy::Subresource;

/// How often the template changed; a field before apps/v1.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub(super) struct DaemonSets;

impl Kind for DaemonSets {
    type Typed = apps::DaemonSet;
    const FACTS: Facts = Facts {
        short_names: &["ds"],
        categories: &["all"],
        subresources: &[Subresource::Status],
        columns: &[
            NAME,
            integer("Desired", "How many nodes should run a pod of it."),
            integer("Current", "How many of them do."),
            integer("Ready", "How many of those pods are ready."),
            integer("Up-to-date", "How many have the newest template."),
            integer("Available", "How many have been ready for long enough."),
            facts::text("Node Selector", "Which nodes it is for."),
            AGE,
            wide("Containers", "Names of the containers of the template."),
            wide("Images", "Images of the containers of the template."),
            wide("Selector", "The labels of its pods."),
        ],
        generation: true,
        ..Facts::new("apps", "v1", "daemonsets", "DaemonSet")
    };

    fn default(set: &mut Value) {
        pod::defaults::template(set);
        let Some(spec) = spec_of(set) else { return };
        spec.fill("revisionHistoryLimit", 10);
        let Some(strategy) = spec.object("updateStrategy") else { return };
        strategy.fill("type", "RollingUpdate");
        if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate")
            && let Some(rolling) = strategy.object("rollingUpdate")
        {
            rolling.fill("maxUnavailable", 1);
            rolling.fill("maxSurge", 0);
        }
    }

    fn prepare_create(set: &mut Value) {
        if let Some(map) = set.as_object_mut() {
            let status = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0,
                "numberReady": 0});
            map.insert("status".to_owned(), status);
        }
        set_template_generation(set, 1);
    }

    fn prepare_update(set: &mut Value, old: &Value) {
        let before = old.at("metadata.annotations").get(TEMPLATE_GENERATION).and_then(Value::as_str);
        let before: i64 = before.and_then(|text| text.parse().ok()).unwrap_or(0);
        let changed = set.at("spec.template") != old.at("spec.template");
        if changed || before > 0 {
            set_template_generation(set, before + i64::from(changed));
        }
    }

    fn validate_create(set: &apps::DaemonSet, raw: &Value, errors: &mut Errors) {
        Self::validate(set, errors);
        super::absent_selector(raw, errors);
    }

    fn validate(set: &apps::DaemonSet, errors: &mut Errors) {
        let empty = apps::DaemonSetSpec::default();
        let spec = set.spec.as_ref().unwrap_or(&empty);
        let path = Path::new("spec");
        let words = ["daemonset", "DaemonSet"];
        super::selector_and_template(&spec.selector, Some(&spec.template), words, &path, errors);
        nonnegative(spec.min_ready_seconds.unwrap_or(0), &path.child("minReadySeconds"), errors);
        strategy(spec.update_strategy.as_ref(), &path.child("updateStrategy"), errors);
        nonnegative(spec.revision_history_limit.unwrap_or(0), &path.child("revisionHistoryLimit"), errors);
    }

    fn validate_update(set: &apps::DaemonSet, old: &apps::DaemonSet, errors: &mut Errors) {
        Self::validate(set, errors);
        if let (Some(new), Some(old)) = (&set.spec, &old.spec) {
            immutable(&new.selector, &old.selector, &Path::new("spec").child("selector"), errors);
        }
    }

    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(set: &apps::DaemonSet, old: &apps::DaemonSet, errors: &mut Errors) {
        status(set, old, errors);
    }

    fn warnings(set: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        pod::warnings::workload(set, old, &mut out);
        out
    }

    fn cells(set: &Value, row: &mut Row) {
        row.name(set);
        for count in [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberReady",
            "updatedNumberScheduled",
            "numberAvailable",
        ] {
            row.push(set.at("status").int(count));
        }
        row.push(row::labels(set.map("spec.template.spec.nodeSelector")));
        row.age(set);
        row.containers(set.at("spec.template.spec"));
        row.push(row::selector(set.at("spec.selector")));
    }
}

fn set_template_generation(set: &mut Value, generation: i64) {
    let meta = set.as_object_mut().and_then(|o| o.object("metadata"));
    if let Some(annotations) = meta.and_then(|m| m.object("annotations")) {
        annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string().into());
    }
}

fn strategy(strategy: Option<&apps::DaemonSetUpdateStrategy>, path: &Path<'_>, errors: &mut Errors) {
    let empty = apps::DaemonSetUpdateStrategy::default();
    let strategy = strategy.unwrap_or(&empty);
    match text(&strategy.type_) {
        "OnDelete" => {}
        "RollingUpdate" => match &strategy.rolling_update {
            None => errors.required(&path.child("rollingUpdate"), ""),
            Some(update) => rolling_update(update, &path.child("rollingUpdate"), errors),
        },
        _ => errors.not_supported(path, strategy, &["OnDelete", "RollingUpdate"]),
    }
}

fn rolling_update(update: &apps::RollingUpdateDaemonSet, path: &Path<'_>, errors: &mut Errors) {
    for (field, value) in [("maxUnavailable", &update.max_unavailable), ("maxSurge", &update.max_surge)] {
        if let Some(value) = value {
            int_or_percent(value, &path.child(field), errors);
            at_most_all(value, &path.child(field), errors);
        }
    }
    let unavailable = int_or_percent_number(update.max_unavailable.as_ref()) != 0;
    let surge = int_or_percent_number(update.max_surge.as_ref()) != 0;
    match (unavailable, surge) {
        (true, true) => {
            let message = "may not be set when maxUnavailable is non-zero";
            errors.invalid(&path.child("maxSurge"), &update.max_surge, message);
        }
        (false, false) => errors.required(&path.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}

fn status(set: &apps::DaemonSet, old: &apps::DaemonSet, errors: &mut Errors) {
    let Some(status) = &set.status else { return };
    let path = Path::new("status");
    for (field, count) in [
        ("currentNumberScheduled", status.current_number_scheduled),
        ("numberMisscheduled", status.number_misscheduled),
        ("desiredNumberScheduled", status.desired_number_scheduled),
        ("numberReady", status.number_ready),
        ("updatedNumberScheduled", status.updated_number_scheduled.unwrap_or(0)),
        ("numberAvailable", status.number_available.unwrap_or(0)),
        ("numberUnavailable", status.number_unavailable.unwrap_or(0)),
        ("collisionCount", status.collision_count.unwrap_or(0)),
    ] {
        nonnegative(count, &path.child(field), errors);
    }
    nonnegative(status.observed_generation.unwrap_or(0), &path.child("observedGeneration"), errors);
    let collisions = |s: &apps::DaemonSet| s.status.as_ref().and_then(|s| s.collision_count);
    if collisions(set) < collisions(old) {
        errors.invalid(&path.child("collisionCount"), collisions(set).unwrap_or(0), "cannot be decremented");
    }
}
