//! Autoscalers.

use serde_json::Value;

use super::page::Page;
use super::pod::items;
use super::{date, generic};
use crate::print::cell;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub fn write(page: &mut Page, object: &Value) {
    let (spec, status) = (&object["spec"], &object["status"]);
    generic::head(page, object);
    page.field("CreationTimestamp", date(&object["metadata"]["creationTimestamp"]));
    let target = &spec["scaleTargetRef"];
    page.field("Reference", format!("{}/{}", text(&target["kind"]), text(&target["name"])));
    page.field("Metrics", "( current / target )");
    for (nth, metric) in items(&spec["metrics"]).enumerate() {
        let line = line(metric, status["currentMetrics"].get(nth).unwrap_or(&Value::Null));
        page.line(format!("  {line}"));
    }
    page.field("Min replicas", spec["minReplicas"].as_i64().map_or_else(|| "<unset>".to_owned(), |n| n.to_string()));
    page.field("Max replicas", spec["maxReplicas"].as_i64().unwrap_or_default());
    if spec["behavior"].is_object() {
        page.line("Behavior:");
        behavior(page, "Scale Up", &spec["behavior"]["scaleUp"]);
        behavior(page, "Scale Down", &spec["behavior"]["scaleDown"]);
    }
    let count = |field: &str| status[field].as_i64().unwrap_or_default();
    let pods = format!("{} current / {} desired", count("currentReplicas"), count("desiredReplicas"));
    page.field(&format!("{} pods", text(&target["kind"])), pods);
    if items(&status["conditions"]).next().is_some() {
        page.line("Conditions:\n  Type\tStatus\tReason\tMessage\n  ----\t------\t------\t-------");
        for condition in items(&status["conditions"]) {
            let cells = ["type", "status", "reason", "message"].map(|field| text(&condition[field]));
            page.line(format!("  {}", cells.join("\t")));
        }
    }
}

/// What is measured, what it is, and what it should be.
fn line(metric: &Value, current: &Value) -> String {
    let ty = text(&metric["type"]);
    let field = ty[..1.min(ty.len())].to_lowercase() + ty.get(1..).unwrap_or_default();
    let (source, now) = (&metric[&field], &current[&field]["current"]);
    let target = &source["target"];
    let name = text(&source["metric"]["name"]);
    let both = |of: &str| {
        let now = now.get(of).map_or_else(|| "<unknown>".to_owned(), cell);
        format!("{now} / {}", target.get(of).map_or_else(|| "<nil>".to_owned(), cell))
    };
    let utilization = || {
        let wanted = target["averageUtilization"].as_i64().map_or_else(|| "<auto>".to_owned(), |n| format!("{n}%"));
        let now = match now["averageUtilization"].as_i64() {
            Some(percent) => format!("{percent}% ({})", cell(&now["averageValue"])),
            None => "<unknown>".to_owned(),
        };
        format!("  (as a percentage of request):\t{now} / {wanted}")
    };
    let of_resource = |what: String| match target.get("averageValue") {
        Some(_) => format!("{what}:\t{}", both("averageValue")),
        None => what + &utilization(),
    };
    match ty.as_str() {
        "External" if target.get("averageValue").is_some() => {
            format!("{name:?} (target average value):\t{}", both("averageValue"))
        }
        "External" => format!("{name:?} (target value):\t{}", both("value")),
        "Pods" => format!("{name:?} on pods:\t{}", both("averageValue")),
        "Object" => {
            let of = &source["describedObject"];
            let head = format!("\"{name}\" on {}/{} ", text(&of["kind"]), text(&of["name"]));
            match target["type"].as_str() {
                Some("AverageValue") => format!("{head}(target average value):\t{}", both("averageValue")),
                _ => format!("{head}(target value):\t{}", both("value")),
            }
        }
        "Resource" => of_resource(format!("resource {} on pods", text(&source["name"]))),
        "ContainerResource" => of_resource(format!(
            "resource {} of container \"{}\" on pods",
            text(&source["name"]),
            text(&source["container"])
        )),
        other => format!("<unknown metric type {other:?}>"),
    }
}

fn behavior(page: &mut Page, title: &str, rules: &Value) {
    if rules.is_null() {
        return;
    }
    page.line(format!("  {title}:"));
    if let Some(window) = rules["stabilizationWindowSeconds"].as_i64() {
        page.line(format!("    Stabilization Window: {window} seconds"));
    }
    if items(&rules["policies"]).next().is_none() {
        return;
    }
    page.line(format!("    Select Policy: {}\n    Policies:", rules["selectPolicy"].as_str().unwrap_or("Max")));
    for policy in items(&rules["policies"]) {
        let (value, period) = (cell(&policy["value"]), cell(&policy["periodSeconds"]));
        page.line(format!("      - Type: {}\tValue: {value}\tPeriod: {period} seconds", text(&policy["type"])));
    }
}
