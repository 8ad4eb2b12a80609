//! Between the two versions of HorizontalPodAutoscaler. What v1 has no field for goes into upstream's annotations, in the
//! form that v1 once had for it.

use serde_json::{Map, Value, json};

use crate::kinds::peek::{Fill, Peek};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Whether the metric is what v1 has a field for.
fn is_cpu(metric: &Value, value: &str) -> bool {
    let resource = metric.at("resource");
    metric.text("type") == "Resource" && resource.text("name") == "cpu" && resource.at(value).is_i64()
}

pub(super) fn to_v2(object: &mut Value) {
    let annotation = |key: &str| -> Option<Value> {
        serde_json::from_str(object.at("metadata.annotations").get(key)?.as_str()?).ok()
    };
    let [metrics, current, conditions, behavior] = [METRICS, CURRENT, CONDITIONS, BEHAVIOR].map(annotation);
    let Some(map) = object.as_object_mut() else { return };
    map.insert("apiVersion".to_owned(), "autoscaling/v2".into());
    drop_annotations(map);
    if let Some(spec) = map.object("spec") {
        let mut list = Vec::new();
        if let Some(percent) = spec.remove("targetCPUUtilizationPercentage").filter(Value::is_i64) {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            list.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        list.extend(metrics.iter().filter_map(Value::as_array).flatten().map(spec_to_v2));
        if !list.is_empty() {
            spec.insert("metrics".to_owned(), list.into());
        }
        if let Some(behavior) = behavior.filter(Value::is_object) {
            spec.insert("behavior".to_owned(), behavior);
        }
    }
    let Some(status) = map.existing("status") else { return };
    let percent = status.remove("currentCPUUtilizationPercentage").filter(Value::is_i64);
    if status.get("currentReplicas").and_then(Value::as_i64) == Some(0) {
        status.remove("currentReplicas");
    }
    let current = match (current, percent) {
        (Some(Value::Array(list)), _) if !list.is_empty() => list.iter().map(status_to_v2).collect::<Vec<_>>().into(),
        (_, Some(percent)) => {
            let current = json!({"averageUtilization": percent});
            json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}])
        }
        _ => Value::Null,
    };
    status.insert("currentMetrics".to_owned(), current);
    if let Some(conditions) = conditions.filter(Value::is_array) {
        status.insert("conditions".to_owned(), conditions);
    }
}

fn drop_annotations(map: &mut Map<String, Value>) {
    let Some(meta) = map.existing("metadata") else { return };
    let Some(annotations) = meta.existing("annotations") else { return };
    annotations.retain(|key, _| ![METRICS, CURRENT, CONDITIONS, BEHAVIOR].contains(&key.as_str()));
    if annotations.is_empty() {
        meta.remove("annotations");
    }
}

pub(super) fn to_v1(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    map.insert("apiVersion".to_owned(), "autoscaling/v1".into());
    let mut annotations = Vec::new();
    if let Some(spec) = map.object("spec") {
        let metrics = take_list(spec, "metrics");
        if let Some(cpu) = metrics.iter().find(|m| is_cpu(m, "target.averageUtilization")) {
            let percent = cpu.at("resource.target.averageUtilization").clone();
            spec.insert("targetCPUUtilizationPercentage".to_owned(), percent);
        }
        let others: Vec<Value> =
            metrics.iter().filter(|m| !is_cpu(m, "target.averageUtilization")).map(spec_to_v1).collect();
        if !others.is_empty() {
            annotations.push((METRICS, Value::from(others)));
        }
        if let Some(behavior) = spec.remove("behavior").filter(Value::is_object) {
            annotations.push((BEHAVIOR, behavior));
        }
    }
    if let Some(status) = map.object("status") {
        let current = take_list(status, "currentMetrics");
        if let Some(cpu) = current.iter().find(|m| is_cpu(m, "current.averageUtilization")) {
            let percent = cpu.at("resource.current.averageUtilization").clone();
            status.insert("currentCPUUtilizationPercentage".to_owned(), percent);
        }
        if !current.is_empty() {
            annotations.push((CURRENT, current.iter().map(status_to_v1).collect::<Vec<_>>().into()));
        }
        let conditions = take_list(status, "conditions");
        if !conditions.is_empty() {
            annotations.push((CONDITIONS, conditions.into()));
        }
        status.fill("currentReplicas", 0);
        status.fill("desiredReplicas", 0);
    }
    if annotations.is_empty() {
        return;
    }
    if let Some(all) = map.object("metadata").and_then(|m| m.object("annotations")) {
        for (key, value) in annotations {
            all.insert(key.to_owned(), value.to_string().into());
        }
    }
}

fn take_list(map: &mut Map<String, Value>, key: &str) -> Vec<Value> {
    match map.remove(key) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

/// The name of the source's field: `ContainerResource` to `containerResource`.
fn source_of(metric: &Value) -> String {
    let kind = metric.text("type");
    let mut letters = kind.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}", first.to_ascii_lowercase(), letters.as_str()))
}

/// Where v2 has the fields of v1's source: v1's name, the path in v2.
fn fields(source: &str, current: bool) -> Vec<(&'static str, [&'static str; 2])> {
    let amount = if current { "current" } else { "target" };
    let named = |selector| vec![("metricName", ["metric", "name"]), (selector, ["metric", "selector"])];
    let (value, average, utilization) = if current {
        ("currentValue", "currentAverageValue", "currentAverageUtilization")
    } else {
        ("targetValue", "targetAverageValue", "targetAverageUtilization")
    };
    match source {
        "object" => {
            let mut all = named("selector");
            all.extend([("target", ["describedObject", ""]), (value, [amount, "value"])]);
            all.push(("averageValue", [amount, "averageValue"]));
            all
        }
        "pods" => [named("selector"), vec![(average, [amount, "averageValue"])]].concat(),
        "external" => {
            [named("metricSelector"), vec![(value, [amount, "value"]), (average, [amount, "averageValue"])]].concat()
        }
        _ => vec![
            ("name", ["name", ""]),
            ("container", ["container", ""]),
            (utilization, [amount, "averageUtilization"]),
            (average, [amount, "averageValue"]),
        ],
    }
}

fn to_old(metric: &Value, current: bool) -> Value {
    let source = source_of(metric);
    let new = metric.at(&source);
    let mut old = Map::new();
    for (name, [outer, inner]) in fields(&source, current) {
        let value = if inner.is_empty() { new.get(outer) } else { new.get(outer).and_then(|o| o.get(inner)) };
        if let Some(value) = value.filter(|v| !v.is_null()) {
            old.insert(name.to_owned(), value.clone());
        } else if name == "targetValue" && source == "object" {
            old.insert(name.to_owned(), "0".into());
        }
    }
    json!({"type": metric.text("type"), source: old})
}

fn to_new(metric: &Value, current: bool) -> Value {
    let source = source_of(metric);
    let old = metric.at(&source);
    let mut new = Map::new();
    for (name, [outer, inner]) in fields(&source, current) {
        let Some(value) = old.get(name).filter(|v| !v.is_null()) else { continue };
        if name == "targetValue" && value == "0" {
            continue;
        }
        if inner.is_empty() {
            new.insert(outer.to_owned(), value.clone());
        } else if let Some(outer) = new.object(outer) {
            outer.insert(inner.to_owned(), value.clone());
        }
    }
    if !current && let Some(target) = new.object("target") {
        let kind = match () {
            () if target.contains_key("averageUtilization") => "Utilization",
            () if target.contains_key("averageValue") => "AverageValue",
            () => "Value",
        };
        target.insert("type".to_owned(), kind.into());
    }
    json!({"type": metric.text("type"), source: new})
}

fn spec_to_v1(metric: &Value) -> Value {
    to_old(metric, false)
}

fn spec_to_v2(metric: &Value) -> Value {
    to_new(metric, false)
}

fn status_to_v1(metric: &Value) -> Value {
    to_old(metric, true)
}

fn status_to_v2(metric: &Value) -> Value {
    to_new(metric, true)
}
