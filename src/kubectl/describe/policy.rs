//! What limits and ranks: quotas, limit ranges, disruption budgets, priority and storage classes.

use serde_json::Value;
use skiff_api::selector::LabelSelector;

use super::page::Page;
use super::pod::items;
use crate::print::pairs;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn scope_help(scope: &str) -> Option<&'static str> {
    Some(match scope {
        "Terminating" => {
            "Matches all pods that have an active deadline. These pods have a limited lifespan on a node before being actively terminated by the system."
        }
        "NotTerminating" => {
            "Matches all pods that do not have an active deadline. These pods usually include long running pods whose container command is not expected to terminate."
        }
        "BestEffort" => {
            "Matches all pods that do not have resource requirements set. These pods have a best effort quality of service."
        }
        "NotBestEffort" => {
            "Matches all pods that have at least one resource requirement set. These pods have a burstable or guaranteed quality of service."
        }
        _ => return None,
    })
}

/// The part of a quota that its own page and its namespace's share; `indent` stands before each line.
fn quota_body(page: &mut Page, object: &Value, indent: &str, rule: &str) {
    let mut scopes: Vec<String> = items(&object["spec"]["scopes"]).map(text).collect();
    scopes.sort();
    if !scopes.is_empty() {
        page.field(&format!("{indent}Scopes"), scopes.join(", "));
        let bullet = if indent.is_empty() { " * " } else { "  * " };
        scopes.iter().filter_map(|scope| scope_help(scope)).for_each(|help| page.line(format!("{bullet}{help}")));
    }
    page.line(format!("{indent}Resource\tUsed\tHard\n{indent}--------\t{rule}\t{rule}"));
    for (name, hard) in object["status"]["hard"].as_object().into_iter().flatten() {
        let used = object["status"]["used"][name].as_str().unwrap_or("0");
        page.line(format!("{indent}{name}\t{used}\t{}", text(hard)));
    }
}

pub fn quota(page: &mut Page, object: &Value) {
    page.field("Name", text(&object["metadata"]["name"]));
    page.field("Namespace", text(&object["metadata"]["namespace"]));
    quota_body(page, object, "", "----");
}

/// All quotas and limit ranges of a namespace.
pub fn of_namespace(page: &mut Page, quotas: &[Value], limits: &[Value]) {
    page.line("");
    if quotas.is_empty() {
        page.line("No resource quota.");
    } else {
        page.line("Resource Quotas");
        for quota in quotas {
            page.field("  Name", text(&quota["metadata"]["name"]));
            quota_body(page, quota, "  ", "---");
        }
    }
    page.line("");
    if limits.is_empty() {
        page.line("No LimitRange resource.");
        return;
    }
    page.line("Resource Limits\n Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio");
    page.line(" ----\t--------\t---\t---\t---------------\t-------------\t-----------------------");
    limits.iter().for_each(|range| limit_rows(page, range, " "));
}

pub fn limit_range(page: &mut Page, object: &Value) {
    page.field("Name", text(&object["metadata"]["name"]));
    page.field("Namespace", text(&object["metadata"]["namespace"]));
    page.line("Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio");
    page.line("----\t--------\t---\t---\t---------------\t-------------\t-----------------------");
    limit_rows(page, object, "");
}

fn limit_rows(page: &mut Page, object: &Value, prefix: &str) {
    const FIELDS: [&str; 5] = ["min", "max", "defaultRequest", "default", "maxLimitRequestRatio"];
    for limit in items(&object["spec"]["limits"]) {
        let mut names: Vec<&String> =
            FIELDS.iter().filter_map(|field| limit[field].as_object()).flat_map(serde_json::Map::keys).collect();
        names.sort();
        names.dedup();
        for name in names {
            let amounts = FIELDS.map(|field| limit[field][name].as_str().unwrap_or("-"));
            page.line(format!("{prefix}{}\t{name}\t{}", text(&limit["type"]), amounts.join("\t")));
        }
    }
}

pub fn disruption_budget(page: &mut Page, object: &Value) {
    let (spec, status) = (&object["spec"], &object["status"]);
    page.field("Name", text(&object["metadata"]["name"]));
    page.field("Namespace", text(&object["metadata"]["namespace"]));
    for (label, field) in [("Min available", "minAvailable"), ("Max unavailable", "maxUnavailable")] {
        if let Some(value) = spec.get(field) {
            page.field(label, crate::print::cell(value));
            break;
        }
    }
    page.field("Selector", selector(&spec["selector"], "<unset>"));
    page.line("Status:");
    for (label, field) in [
        ("Allowed disruptions", "disruptionsAllowed"),
        ("Current", "currentHealthy"),
        ("Desired", "desiredHealthy"),
        ("Total", "expectedPods"),
    ] {
        page.field(&format!("    {label}"), status[field].as_i64().unwrap_or_default());
    }
}

/// A label selector as text; `missing` where there is none.
pub fn selector(value: &Value, missing: &str) -> String {
    if value.is_null() {
        return missing.to_owned();
    }
    match LabelSelector::from_value(value) {
        Ok(selector) if selector.is_everything() => "<none>".to_owned(),
        Ok(selector) => selector.to_string(),
        Err(_) => "<error>".to_owned(),
    }
}

pub fn priority_class(page: &mut Page, object: &Value) {
    page.field("Name", text(&object["metadata"]["name"]));
    page.field("Value", object["value"].as_i64().unwrap_or_default());
    page.field("GlobalDefault", object["globalDefault"] == true);
    page.field("PreemptionPolicy", object["preemptionPolicy"].as_str().unwrap_or("PreemptLowerPriority"));
    page.field("Description", text(&object["description"]));
    page.field("Annotations", pairs(&object["metadata"]["annotations"]));
}

/// `True`, `False`, or neither.
pub fn boolean(value: &Value) -> &'static str {
    match value.as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quotas_of_a_namespace_stand_in_one_table() {
        let mut page = Page::default();
        let quota = json!({"metadata": {"name": "q"}, "status": {"hard": {"pods": "5"}, "used": {"pods": "2"}}});
        let limits =
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "500m"}}]}});
        of_namespace(&mut page, &[quota], &[limits]);
        let text = page.text();
        assert!(
            text.contains("  Name:     q\n  Resource  Used  Hard\n  --------  ---   ---\n  pods      2     5\n"),
            "{text}"
        );
        assert!(text.contains(" Container  cpu       -    1    -                500m           -\n"), "{text}");
    }
}
