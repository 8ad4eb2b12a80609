//! Job.

use k8s_openapi::api::batch::v1 as batch;
use serde_json::{Map, Value};

use super::{job_status, job_validate};
use crate::duration;
use crate::field::{Errors, Path};
use crate::kinds::adapter::{FieldOf, Kind};
use crate::kinds::core::pod;
use crate::kinds::facts::{AGE, Facts, NAME, text, wide};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::{self, Row};
use crate::strategy::Subresource;

const UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// What the labels were before they had a prefix.
const OLD_UID: &str = "controller-uid";
const OLD_JOB_NAME: &str = "job-name";

pub(super) struct Jobs;

impl Kind for Jobs {
    type Typed = batch::Job;
    const FACTS: Facts = Facts {
        categories: &["all"],
        subresources: &[Subresource::Status],
        columns: &[
            NAME,
            text("Status", "What the job is doing."),
            text("Completions", "How many pods succeeded, of how many."),
            text("Duration", "How long it runs, or ran."),
            AGE,
            wide("Containers", "Names of the containers of the template."),
            wide("Images", "Images of the containers of the template."),
            wide("Selector", "The labels of its pods."),
        ],
        generation: true,
        ..Facts::new("batch", "v1", "jobs", "Job")
    };
    const FIELDS: &'static [(&'static str, FieldOf)] =
        &[("status.successful", |o| o.int("status.succeeded").to_string())];
    const FIELD_LABELS: &'static [&'static str] = &["status.successful"];

    fn default(job: &mut Value) {
        pod::defaults::template(job);
        let labels = job.map("spec.template.metadata.labels").filter(|l| !l.is_empty()).cloned();
        if let Some(spec) = spec_of(job) {
            self::spec(spec);
        }
        if job.count("metadata.labels") == 0
            && let Some(labels) = labels
            && let Some(meta) = job.as_object_mut().and_then(|o| o.object("metadata"))
        {
            meta.insert("labels".to_owned(), labels.into());
        }
    }

    fn prepare_create(job: &mut Value) {
        if !job.flag("spec.manualSelector") {
            select_own(job);
        }
    }

    fn validate(job: &batch::Job, errors: &mut Errors) {
        job_validate::job(job, errors);
    }

    fn validate_update(job: &batch::Job, old: &batch::Job, errors: &mut Errors) {
        job_validate::update(job, old, errors);
    }

    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(job: &batch::Job, old: &batch::Job, errors: &mut Errors) {
        job_status::update(job, old, errors);
    }

    fn warnings(job: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = pod::warnings::named(job, old);
        self::warnings(job, old, "spec", &mut out);
        out
    }

    fn cells(job: &Value, row: &mut Row) {
        row.name(job);
        row.push(status(job));
        row.push(completions(job));
        row.push(ran_for(job, row));
        row.age(job);
        row.containers(job.at("spec.template.spec"));
        row.push(row::selector(job.at("spec.selector")));
    }
}

/// Of the specification of a job, where the whole one is new or changed.
pub(super) fn warnings(object: &Value, old: Option<&Value>, path: &str, out: &mut Vec<String>) {
    if old.is_some_and(|old| old.at("spec") == object.at("spec")) {
        return;
    }
    let spec = object.at(path);
    let indexed = spec.text("completionMode") == "Indexed";
    if indexed && spec.int("completions") > 100_000 && spec.int("parallelism") > 10_000 {
        out.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
             Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    pod::warnings::template(object, old, &format!("{path}.template"), out);
}

fn spec(spec: &mut Map<String, Value>) {
    if spec.lacks("completions") && spec.lacks("parallelism") {
        spec.fill("completions", 1);
    }
    spec.fill("parallelism", 1);
    let per_index = !spec.lacks("backoffLimitPerIndex");
    spec.fill("backoffLimit", if per_index { i32::MAX } else { 6 });
    spec.fill("completionMode", "NonIndexed");
    spec.fill("suspend", false);
    spec.fill("manualSelector", false);
    let with_policy = spec.get("podFailurePolicy").is_some_and(Value::is_object);
    spec.fill("podReplacementPolicy", if with_policy { "Failed" } else { "TerminatingOrFailed" });
    failure_policy(spec);
}

/// Conditions of pods are meant to hold; so much is the same in templates of jobs.
pub(super) fn failure_policy(spec: &mut Map<String, Value>) {
    for rule in spec.existing("podFailurePolicy").into_iter().flat_map(|policy| policy.items("rules")) {
        for pattern in rule.items("onPodConditions") {
            pattern.fill("status", "True");
        }
    }
}

/// The selector and the labels that make its pods its own. What the client set stays, and is checked later.
fn select_own(job: &mut Value) {
    let name = job.text("metadata.name").to_owned();
    let uid = job.text("metadata.uid").to_owned();
    let Some(spec) = spec_of(job) else { return };
    let labels = spec.object("template").and_then(|t| t.object("metadata")).and_then(|m| m.object("labels"));
    if let Some(labels) = labels {
        for (label, value) in [(OLD_JOB_NAME, &name), (JOB_NAME, &name), (OLD_UID, &uid), (UID, &uid)] {
            labels.entry(label).or_insert_with(|| value.as_str().into());
        }
    }
    if let Some(labels) = spec.object("selector").and_then(|s| s.object("matchLabels")) {
        labels.entry(UID).or_insert_with(|| uid.into());
    }
}

/// The labels that a job's template must have: label, value.
pub(super) fn own_labels(job: &batch::Job) -> [(&'static str, &str); 4] {
    let uid = job.metadata.uid.as_deref().unwrap_or("");
    let name = job.metadata.name.as_deref().unwrap_or("");
    [(UID, uid), (JOB_NAME, name), (OLD_UID, uid), (OLD_JOB_NAME, name)]
}

fn status(job: &Value) -> &'static str {
    let is = |condition: &str| {
        job.list("status.conditions").iter().any(|c| c.text("type") == condition && c.text("status") == "True")
    };
    match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if !job.at("metadata.deletionTimestamp").is_null() => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(job: &Value) -> String {
    let succeeded = job.int("status.succeeded");
    match (job.at("spec.completions").as_i64(), job.int("spec.parallelism")) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn ran_for(job: &Value, row: &Row) -> String {
    let time = |field: &str| job.text(field).parse::<jiff::Timestamp>().ok();
    match (time("status.startTime"), time("status.completionTime")) {
        (None, _) => String::new(),
        (Some(_), None) => row.since(job.text("status.startTime")),
        (Some(start), Some(end)) => duration::human_since(start, end),
    }
}

/// Where the rules of a job's selector are told.
pub(super) const SPEC: Path<'static> = Path::new("spec");
