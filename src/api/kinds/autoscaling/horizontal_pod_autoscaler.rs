//! HorizontalPodAutoscaler of v2.

use k8s_openapi::api::autoscaling::v2 as autoscaling;
use serde_json::{Map, Value, json};

use super::validate;
use crate::field::Errors;
use crate::kinds::adapter::Kind;
use crate::kinds::core::pod::defaults::canonical_quantity;
use crate::kinds::facts::{AGE, Col, Facts, NAME, text};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::Row;
use crate::strategy::Subresource;

pub(super) const COLUMNS: &[Col] = &[
    NAME,
    text("Reference", "What is scaled."),
    text("Targets", "What is measured, and what it should be."),
    text("MinPods", "How many pods there are at least."),
    text("MaxPods", "How many pods there are at most."),
    text("Replicas", "How many pods there are."),
    AGE,
];
/// How many targets a table shows.
const TARGETS_MAX: usize = 2;
const CPU_PERCENT: i64 = 80;

pub(super) struct HorizontalPodAutoscalers;

impl Kind for HorizontalPodAutoscalers {
    type Typed = autoscaling::HorizontalPodAutoscaler;
    const FACTS: Facts = Facts {
        short_names: &["hpa"],
        categories: &["all"],
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        ..Facts::new("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
    };

    fn default(scaler: &mut Value) {
        let Some(spec) = spec_of(scaler) else { return };
        spec.fill("minReplicas", 1);
        if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            let target = json!({"type": "Utilization", "averageUtilization": CPU_PERCENT});
            let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
            spec.insert("metrics".to_owned(), json!([cpu]));
        }
        for metric in spec.items("metrics") {
            for source in ["resource", "containerResource", "pods", "object", "external"] {
                if let Some(target) = metric.existing(source).and_then(|s| s.existing("target")) {
                    canonical_quantity(target, "value");
                    canonical_quantity(target, "averageValue");
                }
            }
        }
        if let Some(behavior) = spec.existing("behavior") {
            self::behavior(behavior);
        }
    }

    fn prepare_create(scaler: &mut Value) {
        if let Some(map) = scaler.as_object_mut() {
            map.insert("status".to_owned(), json!({"currentMetrics": null, "desiredReplicas": 0}));
        }
    }

    fn validate(scaler: &autoscaling::HorizontalPodAutoscaler, errors: &mut Errors) {
        validate::spec(&scaler.spec, None, errors);
    }

    fn validate_update(
        scaler: &autoscaling::HorizontalPodAutoscaler,
        old: &autoscaling::HorizontalPodAutoscaler,
        errors: &mut Errors,
    ) {
        validate::spec(&scaler.spec, Some(&old.spec), errors);
    }

    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(
        scaler: &autoscaling::HorizontalPodAutoscaler,
        _old: &autoscaling::HorizontalPodAutoscaler,
        errors: &mut Errors,
    ) {
        if let Some(status) = &scaler.status {
            validate::status(status, errors);
        }
    }

    fn cells(scaler: &Value, row: &mut Row) {
        let reference = scaler.at("spec.scaleTargetRef");
        let min = scaler.at("spec.minReplicas").as_i64();
        row.name(scaler);
        row.push(format!("{}/{}", reference.text("kind"), reference.text("name")));
        row.push(targets(scaler.list("spec.metrics"), scaler.list("status.currentMetrics")));
        row.push(min.map_or_else(|| "<unset>".to_owned(), |min| min.to_string()));
        row.push(scaler.int("spec.maxReplicas").to_string());
        row.push(scaler.int("status.currentReplicas"));
        row.age(scaler);
    }
}

fn behavior(behavior: &mut Map<String, Value>) {
    let doubled = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let four = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    let mut fill = |field: &str, stabilization: Option<i64>, policies: Value| {
        let Some(rules) = behavior.object(field) else { return };
        rules.fill("selectPolicy", "Max");
        if let Some(seconds) = stabilization {
            rules.fill("stabilizationWindowSeconds", seconds);
        }
        rules.fill("policies", policies);
    };
    fill("scaleUp", Some(0), json!([four, doubled]));
    fill("scaleDown", None, json!([doubled]));
}

fn targets(specs: &[Value], statuses: &[Value]) -> String {
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let shown: Vec<String> =
        specs.iter().enumerate().take(TARGETS_MAX).map(|(i, spec)| target(spec, statuses.get(i))).collect();
    match specs.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} + {more} more...", shown.join(", ")),
    }
}

fn target(spec: &Value, status: Option<&Value>) -> String {
    let kind = spec.text("type");
    let key = match kind {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let target = spec.at(key).at("target");
    let current = status.map_or(&Value::Null, |s| s.at(key).at("current"));
    let amount = |field: &str| match current.text(field) {
        "" => "<unknown>".to_owned(),
        text => text.to_owned(),
    };
    let average = target.text("averageValue");
    let of_resource = matches!(kind, "Resource" | "ContainerResource");
    let name = spec.at(key).text("name");
    match (of_resource, average.is_empty()) {
        (true, false) => format!("{name}: {}/{average}", amount("averageValue")),
        (true, true) => {
            let percent = |value: &Value| value.as_i64().map(|percent| format!("{percent}%"));
            let current = percent(current.at("averageUtilization")).unwrap_or_else(|| "<unknown>".to_owned());
            let target = percent(target.at("averageUtilization")).unwrap_or_else(|| "<auto>".to_owned());
            format!("{name}: {current}/{target}")
        }
        (false, false) if kind == "Pods" => format!("{}/{average}", amount("averageValue")),
        (false, false) => format!("{}/{average} (avg)", amount("averageValue")),
        (false, true) => format!("{}/{}", amount("value"), target.text("value")),
    }
}
