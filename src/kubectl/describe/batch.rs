//! Jobs and what makes them.

use serde_json::Value;

use super::page::Page;
use super::pod::items;
use super::policy::{boolean, selector};
use super::{date, time};

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// How much of the list of completed indexes is shown.
const INDEXES: usize = 50;

pub fn job(page: &mut Page, object: &Value) {
    let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    page.field("Name", text(&metadata["name"]));
    page.field("Namespace", text(&metadata["namespace"]));
    page.field("Selector", selector(&spec["selector"], ""));
    page.map("Labels", &metadata["labels"]);
    page.annotations("Annotations", &metadata["annotations"]);
    if let Some(owner) = items(&metadata["ownerReferences"]).find(|owner| owner["controller"] == true) {
        page.field("Controlled By", format!("{}/{}", text(&owner["kind"]), text(&owner["name"])));
    }
    let given = |page: &mut Page, label: &str, value: &Value, unit: &str| {
        if !value.is_null() {
            page.field(label, format!("{}{unit}", crate::print::cell(value)));
        }
    };
    given(page, "Parallelism", &spec["parallelism"], "");
    page.field("Completions", spec["completions"].as_i64().map_or_else(|| "<unset>".to_owned(), |n| n.to_string()));
    given(page, "Completion Mode", &spec["completionMode"], "");
    given(page, "Suspend", &spec["suspend"], "");
    given(page, "Backoff Limit", &spec["backoffLimit"], "");
    given(page, "TTL Seconds After Finished", &spec["ttlSecondsAfterFinished"], "");
    let (start, end) = (time(&status["startTime"]), time(&status["completionTime"]));
    for (label, at, field) in [("Start Time", start, "startTime"), ("Completed At", end, "completionTime")] {
        if at.is_some() {
            page.field(label, date(&status[field]));
        }
    }
    if let (Some(start), Some(end)) = (start, end) {
        page.field("Duration", skiff_api::duration::human_since(start, end));
    }
    given(page, "Active Deadline Seconds", &spec["activeDeadlineSeconds"], "s");
    let ready = status["ready"].as_i64().map(|ready| format!(" ({ready} Ready)")).unwrap_or_default();
    page.field(
        "Pods Statuses",
        format!(
            "{} Active{ready} / {} Succeeded / {} Failed",
            number(&status["active"]),
            number(&status["succeeded"]),
            number(&status["failed"])
        ),
    );
    if spec["completionMode"] == "Indexed" {
        page.field("Completed Indexes", indexes(status["completedIndexes"].as_str().unwrap_or_default()));
    }
    super::workload::template(page, &spec["template"]);
}

fn indexes(list: &str) -> String {
    match (list.is_empty(), list.get(INDEXES..).and_then(|rest| rest.find(','))) {
        (true, _) => "<none>".to_owned(),
        (_, Some(comma)) => format!("{}...", &list[..=INDEXES + comma]),
        _ => list.to_owned(),
    }
}

pub fn cron_job(page: &mut Page, object: &Value) {
    let spec = &object["spec"];
    let unset =
        |value: &Value, unit: &str| value.as_i64().map_or_else(|| "<unset>".to_owned(), |n| format!("{n}{unit}"));
    super::generic::head(page, object);
    page.field("Schedule", text(&spec["schedule"]));
    page.field("Concurrency Policy", text(&spec["concurrencyPolicy"]));
    page.field("Suspend", boolean(&spec["suspend"]));
    page.field("Time Zone", spec["timeZone"].as_str().unwrap_or("<unset>"));
    page.field("Successful Job History Limit", unset(&spec["successfulJobsHistoryLimit"], ""));
    page.field("Failed Job History Limit", unset(&spec["failedJobsHistoryLimit"], ""));
    page.field("Starting Deadline Seconds", unset(&spec["startingDeadlineSeconds"], "s"));
    let job = &spec["jobTemplate"]["spec"];
    page.field("Selector", selector(&job["selector"], "<unset>"));
    page.field("Parallelism", unset(&job["parallelism"], ""));
    page.field("Completions", unset(&job["completions"], ""));
    if !job["activeDeadlineSeconds"].is_null() {
        page.field("Active Deadline Seconds", unset(&job["activeDeadlineSeconds"], "s"));
    }
    super::workload::template(page, &job["template"]);
    page.field("Last Schedule Time", date(&object["status"]["lastScheduleTime"]));
    let active: Vec<String> = items(&object["status"]["active"]).map(|job| text(&job["name"])).collect();
    page.field("Active Jobs", if active.is_empty() { "<none>".to_owned() } else { active.join(", ") });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_of_indexes_are_cut_at_a_comma() {
        assert_eq!(indexes(""), "<none>");
        assert_eq!(indexes("0-3"), "0-3");
        let long = "1,".repeat(40);
        assert_eq!(indexes(&long), format!("{}...", "1,".repeat(26)));
    }
}
