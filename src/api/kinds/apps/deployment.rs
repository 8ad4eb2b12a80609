//! Deployment.

use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::{self, Kind};
use crate::kinds::checks::{at_most_all, immutable, int_or_percent, int_or_percent_number, nonnegative, text};
use crate::kinds::core::pod;
use crate::kinds::facts::{self, AGE, Facts, NAME, wide};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::{self, Row};
use crate::strategy::Subresource;

pub(super) struct Deployments;

impl Kind for Deployments {
    type Typed = apps::Deployment;
    const FACTS: Facts = Facts {
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[Subresource::Scale, Subresource::Status],
        columns: &[
            NAME,
            facts::text("Ready", "How many of the pods asked for are ready."),
            facts::text("Up-to-date", "How many pods have the newest template."),
            facts::text("Available", "How many pods have been ready for long enough."),
            AGE,
            wide("Containers", "Names of the containers of the template."),
            wide("Images", "Images of the containers of the template."),
            wide("Selector", "The labels of its pods."),
        ],
        generation: true,
        ..Facts::new("apps", "v1", "deployments", "Deployment")
    };

    fn default(object: &mut Value) {
        pod::defaults::template(object);
        let Some(spec) = spec_of(object) else { return };
        spec.fill("replicas", 1);
        spec.fill("revisionHistoryLimit", 10);
        spec.fill("progressDeadlineSeconds", 600);
        let Some(strategy) = spec.object("strategy") else { return };
        strategy.fill("type", "RollingUpdate");
        if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate")
            && let Some(rolling) = strategy.object("rollingUpdate")
        {
            rolling.fill("maxUnavailable", "25%");
            rolling.fill("maxSurge", "25%");
        }
    }

    /// Annotations count as content here: the revision of the history is one.
    fn prepare_update(object: &mut Value, old: &Value) {
        if object.at("metadata.annotations") != old.at("metadata.annotations") {
            adapter::bump_generation(object, old);
        }
    }

    fn prepare_status_update(object: &mut Value, old: &Value) {
        adapter::keep_labels(object, old);
    }

    fn validate_create(deployment: &apps::Deployment, raw: &Value, errors: &mut Errors) {
        Self::validate(deployment, errors);
        super::absent_selector(raw, errors);
    }

    fn validate(deployment: &apps::Deployment, errors: &mut Errors) {
        let empty = apps::DeploymentSpec::default();
        let spec = deployment.spec.as_ref().unwrap_or(&empty);
        let path = Path::new("spec");
        nonnegative(spec.replicas.unwrap_or(0), &path.child("replicas"), errors);
        super::selector_and_template(&spec.selector, Some(&spec.template), ["deployment", "ReplicaSet"], &path, errors);
        strategy(spec.strategy.as_ref(), &path.child("strategy"), errors);
        let min_ready = spec.min_ready_seconds.unwrap_or(0);
        nonnegative(min_ready, &path.child("minReadySeconds"), errors);
        nonnegative(spec.revision_history_limit.unwrap_or(0), &path.child("revisionHistoryLimit"), errors);
        if let Some(seconds) = spec.progress_deadline_seconds {
            let path = path.child("progressDeadlineSeconds");
            nonnegative(seconds, &path, errors);
            if seconds <= min_ready {
                errors.invalid(&path, seconds, "must be greater than minReadySeconds");
            }
        }
    }

    fn validate_update(deployment: &apps::Deployment, old: &apps::Deployment, errors: &mut Errors) {
        Self::validate(deployment, errors);
        if let (Some(new), Some(old)) = (&deployment.spec, &old.spec) {
            immutable(&new.selector, &old.selector, &Path::new("spec").child("selector"), errors);
        }
    }

    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(deployment: &apps::Deployment, old: &apps::Deployment, errors: &mut Errors) {
        status(deployment, old, errors);
    }

    fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = pod::warnings::named(object, old);
        pod::warnings::workload(object, old, &mut out);
        out
    }

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.push(format!("{}/{}", object.int("status.readyReplicas"), object.int("spec.replicas")));
        row.push(object.int("status.updatedReplicas"));
        row.push(object.int("status.availableReplicas"));
        row.age(object);
        row.containers(object.at("spec.template.spec"));
        row.push(row::selector(object.at("spec.selector")));
    }
}

fn strategy(strategy: Option<&apps::DeploymentStrategy>, path: &Path<'_>, errors: &mut Errors) {
    let empty = apps::DeploymentStrategy::default();
    let strategy = strategy.unwrap_or(&empty);
    let rolling = path.child("rollingUpdate");
    match (text(&strategy.type_), &strategy.rolling_update) {
        ("Recreate", Some(_)) => {
            errors.forbidden(&rolling, "may not be specified when strategy `type` is 'Recreate'");
        }
        ("Recreate", None) => {}
        ("RollingUpdate", None) => errors.required(&rolling, "this should be defaulted and never be nil"),
        ("RollingUpdate", Some(update)) => rolling_update(update, &rolling, errors),
        _ => errors.not_supported(path, strategy, &["Recreate", "RollingUpdate"]),
    }
}

fn rolling_update(update: &apps::RollingUpdateDeployment, path: &Path<'_>, errors: &mut Errors) {
    let fields = [("maxUnavailable", &update.max_unavailable), ("maxSurge", &update.max_surge)];
    for (field, value) in fields.iter().filter_map(|(f, v)| Some((f, v.as_ref()?))) {
        int_or_percent(value, &path.child(field), errors);
    }
    let path = path.child("maxUnavailable");
    let is_zero = |value: &Option<IntOrString>| int_or_percent_number(value.as_ref()) == 0;
    if is_zero(&update.max_unavailable) && is_zero(&update.max_surge) {
        errors.invalid(&path, &update.max_unavailable, "may not be 0 when `maxSurge` is 0");
    }
    if let Some(value) = &update.max_unavailable {
        at_most_all(value, &path, errors);
    }
}

fn status(deployment: &apps::Deployment, old: &apps::Deployment, errors: &mut Errors) {
    let Some(status) = &deployment.status else { return };
    let path = Path::new("status");
    nonnegative(status.observed_generation.unwrap_or(0), &path.child("observedGeneration"), errors);
    let replicas = status.replicas.unwrap_or(0);
    let counts = [
        ("replicas", status.replicas),
        ("updatedReplicas", status.updated_replicas),
        ("readyReplicas", status.ready_replicas),
        ("availableReplicas", status.available_replicas),
    ]
    .map(|(field, count)| (field, count.unwrap_or(0)));
    for (field, count) in counts.into_iter().chain([("unavailableReplicas", status.unavailable_replicas.unwrap_or(0))])
    {
        nonnegative(count, &path.child(field), errors);
    }
    for (field, count) in counts.into_iter().filter(|(_, count)| *count > replicas) {
        errors.invalid(&path.child(field), count, "cannot be greater than status.replicas");
    }
    let available = status.available_replicas.unwrap_or(0);
    if available > status.ready_replicas.unwrap_or(0) {
        errors.invalid(&path.child("availableReplicas"), available, "cannot be greater than readyReplicas");
    }
    let collisions = |d: &apps::Deployment| d.status.as_ref().and_then(|s| s.collision_count);
    if collisions(deployment) < collisions(old) {
        errors.invalid(&path.child("collisionCount"), collisions(deployment), "cannot be decremented");
    }
}
