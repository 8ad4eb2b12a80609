//! What is wrong with a HorizontalPodAutoscaler.

use k8s_openapi::api::autoscaling::v2 as autoscaling;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;

use crate::field::{Errors, Path};
use crate::kinds::checks::{dns_label, nonnegative, nonnegative_quantity, quantity, text};
use crate::kinds::core::pod::validate::resource_name;
use crate::names;

const SPEC: Path<'static> = Path::new("spec");
const WINDOW_MAX_S: i32 = 3600;
const PERIOD_MAX_S: i32 = 1800;
const POLICY_TYPES: &[&str] = &["Percent", "Pods"];
const SELECT_POLICIES: &[&str] = &["Disabled", "Max", "Min"];
const NO_OBJECT_TARGET: &str = "must set either a target value or averageValue";
const NO_TARGET: &str = "must set either a target value for metric or a per-pod target";

pub(super) fn spec(
    spec: &autoscaling::HorizontalPodAutoscalerSpec,
    old: Option<&autoscaling::HorizontalPodAutoscalerSpec>,
    errors: &mut Errors,
) {
    // What scaled to nothing once may go on to.
    let least = if old.is_some_and(|old| old.min_replicas == Some(0)) { 0 } else { 1 };
    if let Some(min) = spec.min_replicas.filter(|min| *min < least) {
        errors.invalid(&SPEC.child("minReplicas"), min, &format!("must be greater than or equal to {least}"));
    }
    let max = SPEC.child("maxReplicas");
    match spec.max_replicas {
        0 => errors.required(&max, "must be set and greater than 0"),
        less if less < 0 => errors.invalid(&max, less, "must be greater than or equal to 1"),
        _ => {}
    }
    if spec.min_replicas.is_some_and(|min| spec.max_replicas < min) {
        errors.invalid(&max, spec.max_replicas, "must be greater than or equal to `minReplicas`");
    }
    let (target, path) = (&spec.scale_target_ref, SPEC.child("scaleTargetRef"));
    reference(target, &path, errors);
    let before = old.map(|old| &old.scale_target_ref);
    if before.is_none_or(|before| before.api_version != target.api_version || before.kind != target.kind) {
        // The only kind of the core group that has a scale.
        api_version(text(&target.api_version), target.kind != "ReplicationController", &path, errors);
    }
    let metrics = spec.metrics.as_deref().unwrap_or_default();
    for (i, one) in metrics.iter().enumerate() {
        metric(one, &SPEC.child("metrics").index(i), errors);
    }
    if spec.min_replicas == Some(0) && !metrics.iter().any(|m| matches!(m.type_.as_str(), "Object" | "External")) {
        let message = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(&SPEC.child("metrics"), message);
    }
    let Some(behavior) = &spec.behavior else { return };
    let path = SPEC.child("behavior");
    for (field, rules) in [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)] {
        if let Some(rules) = rules {
            self::rules(rules, &path.child(field), errors);
        }
    }
}

pub(super) fn status(status: &autoscaling::HorizontalPodAutoscalerStatus, errors: &mut Errors) {
    let path = Path::new("status");
    nonnegative(status.current_replicas.unwrap_or(0), &path.child("currentReplicas"), errors);
    nonnegative(status.desired_replicas, &path.child("desiredReplicas"), errors);
}

fn segment(value: &str, needed: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.required(path, needed);
    } else {
        errors.invalid_each(path, value, names::path_segment(value));
    }
}

fn reference(reference: &autoscaling::CrossVersionObjectReference, path: &Path<'_>, errors: &mut Errors) {
    segment(&reference.kind, "", &path.child("kind"), errors);
    segment(&reference.name, "", &path.child("name"), errors);
}

fn api_version(version: &str, needs_group: bool, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("apiVersion");
    if version.matches('/').count() > 1 {
        errors.invalid(&path, version, &format!("unexpected GroupVersion string: {version}"));
    } else if needs_group && version.split_once('/').is_none_or(|(group, _)| group.is_empty()) {
        errors.invalid(&path, version, "apiVersion must specify API group");
    }
}

fn metric(spec: &autoscaling::MetricSpec, path: &Path<'_>, errors: &mut Errors) {
    let kinds = [
        ("Object", "object", spec.object.is_some()),
        ("External", "external", spec.external.is_some()),
        ("Pods", "pods", spec.pods.is_some()),
        ("Resource", "resource", spec.resource.is_some()),
        ("ContainerResource", "containerResource", spec.container_resource.is_some()),
    ];
    if spec.type_.is_empty() {
        errors.required(&path.child("type"), "must specify a metric source type");
    }
    let expected = kinds.iter().find(|(kind, ..)| *kind == spec.type_);
    if expected.is_none() {
        let supported = kinds.map(|(kind, ..)| kind);
        errors.not_supported(&path.child("type"), &spec.type_, &supported);
    }
    let given: Vec<&str> = kinds.iter().filter(|(.., there)| *there).map(|(_, field, _)| *field).collect();
    // Of several the first is looked at, whichever is meant.
    if let Some(first) = given.first() {
        source(spec, first, &path.child(first), errors);
    }
    if let Some((_, field, false)) = expected {
        errors.required(&path.child(field), "must populate information for the given metric source");
    }
    let expected = expected.map_or("", |(_, field, _)| field);
    for field in given.iter().filter(|field| given.len() != 1 && **field != expected) {
        errors.forbidden(&path.child(field), "must populate the given metric source only");
    }
}

fn source(spec: &autoscaling::MetricSpec, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    match kind {
        "object" => {
            let Some(source) = &spec.object else { return };
            let described = path.child("describedObject");
            reference(&source.described_object, &described, errors);
            api_version(text(&source.described_object.api_version), false, &described, errors);
            identifier(&source.metric, &path.child("metric"), errors);
            value_or_average(&source.target, false, path, errors);
        }
        "external" => {
            let Some(source) = &spec.external else { return };
            identifier(&source.metric, &path.child("metric"), errors);
            value_or_average(&source.target, true, path, errors);
        }
        "pods" => {
            let Some(source) = &spec.pods else { return };
            identifier(&source.metric, &path.child("metric"), errors);
            target(&source.target, &path.child("target"), errors);
            if source.target.average_value.is_none() {
                errors.required(&path.child("target.averageValue"), "must specify a positive target averageValue");
            }
        }
        "containerResource" => {
            let Some(source) = &spec.container_resource else { return };
            if !source.name.is_empty() {
                resource_name(&source.name, &path.child("name"), errors);
            }
            if source.container.is_empty() {
                errors.required(&path.child("container"), "must specify a container");
            } else {
                dns_label(&source.container, &path.child("container"), errors);
            }
            of_resource(&source.name, &source.target, path, errors);
        }
        _ => {
            if let Some(source) = &spec.resource {
                of_resource(&source.name, &source.target, path, errors);
            }
        }
    }
}

fn identifier(metric: &autoscaling::MetricIdentifier, path: &Path<'_>, errors: &mut Errors) {
    segment(&metric.name, "must specify a metric name", &path.child("name"), errors);
}

fn value_or_average(given: &autoscaling::MetricTarget, only_one: bool, path: &Path<'_>, errors: &mut Errors) {
    target(given, &path.child("target"), errors);
    match (&given.value, &given.average_value) {
        (None, None) => {
            errors.required(&path.child("target.averageValue"), if only_one { NO_TARGET } else { NO_OBJECT_TARGET });
        }
        (Some(_), Some(_)) if only_one => {
            let message = "may not set both a target value for metric and a per-pod target";
            errors.forbidden(&path.child("target.value"), message);
        }
        _ => {}
    }
}

fn of_resource(name: &str, given: &autoscaling::MetricTarget, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(&path.child("name"), "must specify a resource name");
    }
    target(given, &path.child("target"), errors);
    match (given.average_utilization, &given.average_value) {
        (None, None) => {
            let message = "must set either a target raw value or a target utilization";
            errors.required(&path.child("target.averageUtilization"), message);
        }
        (Some(_), Some(_)) => {
            let message = "may not set both a target raw value and a target utilization";
            errors.forbidden(&path.child("target.averageValue"), message);
        }
        _ => {}
    }
}

fn target(target: &autoscaling::MetricTarget, path: &Path<'_>, errors: &mut Errors) {
    match target.type_.as_str() {
        "" => errors.required(&path.child("type"), "must specify a metric target type"),
        "Utilization" | "Value" | "AverageValue" => {}
        other => errors.invalid(&path.child("type"), other, "must be either Utilization, Value, or AverageValue"),
    }
    let mut positive = |field: &str, value: &Option<QuantityText>| {
        let Some(value) = value else { return };
        let path = path.child(field);
        let before = errors.len();
        let amount = quantity(value, &path, errors);
        if errors.len() == before && (amount.is_zero() || amount.is_negative()) {
            errors.invalid(&path, amount.to_string(), "must be positive");
        }
    };
    positive("value", &target.value);
    positive("averageValue", &target.average_value);
    if let Some(percent) = target.average_utilization.filter(|p| *p < 1) {
        errors.invalid(&path.child("averageUtilization"), percent, "must be greater than 0");
    }
}

fn rules(rules: &autoscaling::HPAScalingRules, path: &Path<'_>, errors: &mut Errors) {
    if let Some(window) = rules.stabilization_window_seconds {
        let path = path.child("stabilizationWindowSeconds");
        if window < 0 {
            errors.invalid(&path, window, "must be greater than or equal to zero");
        }
        if window > WINDOW_MAX_S {
            errors.invalid(&path, window, &format!("must be less than or equal to {WINDOW_MAX_S}"));
        }
    }
    if let Some(policy) = rules.select_policy.as_ref().filter(|p| !SELECT_POLICIES.contains(&p.as_str())) {
        errors.not_supported(&path.child("selectPolicy"), policy, SELECT_POLICIES);
    }
    let list = path.child("policies");
    let policies = rules.policies.as_deref().unwrap_or_default();
    if policies.is_empty() {
        errors.required(&list, "must specify at least one Policy");
    }
    for (i, policy) in policies.iter().enumerate() {
        let path = list.index(i);
        if !POLICY_TYPES.contains(&policy.type_.as_str()) {
            errors.not_supported(&path.child("type"), &policy.type_, POLICY_TYPES);
        }
        for (field, value) in [("value", policy.value), ("periodSeconds", policy.period_seconds)] {
            if value <= 0 {
                errors.invalid(&path.child(field), value, "must be greater than zero");
            }
        }
        if policy.period_seconds > PERIOD_MAX_S {
            let message = format!("must be less than or equal to {PERIOD_MAX_S}");
            errors.invalid(&path.child("periodSeconds"), policy.period_seconds, &message);
        }
    }
    if let Some(tolerance) = &rules.tolerance {
        nonnegative_quantity(tolerance, &path.child("tolerance"), errors);
    }
}
