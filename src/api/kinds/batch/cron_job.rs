//! CronJob.

use k8s_openapi::api::batch::v1 as batch;
use serde_json::Value;

use super::job_validate;
use crate::cron::{Schedule, split_zone};
use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{nonnegative, one_of, text};
use crate::kinds::core::pod;
use crate::kinds::facts::{self, AGE, Facts, NAME, boolean, integer, wide};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::{self, Row};
use crate::strategy::Subresource;

/// The names of its jobs have eleven characters more.
const NAME_MAX: usize = 52;
const POLICIES: &[&str] = &["Allow", "Forbid", "Replace"];
const SPEC: Path<'static> = Path::new("spec");

pub(super) struct CronJobs;

impl Kind for CronJobs {
    type Typed = batch::CronJob;
    const FACTS: Facts = Facts {
        short_names: &["cj"],
        categories: &["all"],
        subresources: &[Subresource::Status],
        columns: &[
            NAME,
            facts::text("Schedule", "When it makes jobs."),
            facts::text("Timezone", "Where the schedule's clock stands."),
            boolean("Suspend", "Whether it makes none for now."),
            integer("Active", "How many of its jobs run."),
            facts::text("Last Schedule", "How long ago it made a job."),
            AGE,
            wide("Containers", "Names of the containers of the template."),
            wide("Images", "Images of the containers of the template."),
            wide("Selector", "The labels of its pods."),
        ],
        generation: true,
        ..Facts::new("batch", "v1", "cronjobs", "CronJob")
    };

    fn default(cron: &mut Value) {
        let Some(spec) = spec_of(cron) else { return };
        spec.fill("concurrencyPolicy", "Allow");
        spec.fill("suspend", false);
        spec.fill("successfulJobsHistoryLimit", 3);
        spec.fill("failedJobsHistoryLimit", 1);
        let Some(job) = spec.object("jobTemplate").and_then(|j| j.object("spec")) else { return };
        super::job::failure_policy(job);
        if let Some(template) = job.object("template") {
            pod::defaults::pod_template(template);
        }
    }

    fn validate(cron: &batch::CronJob, errors: &mut Errors) {
        spec(cron, None, errors);
        let name = text(&cron.metadata.name);
        if name.len() > NAME_MAX {
            let message = format!("must be no more than {NAME_MAX} characters");
            errors.invalid(&Path::new("metadata").child("name"), name, &message);
        }
    }

    fn validate_update(cron: &batch::CronJob, old: &batch::CronJob, errors: &mut Errors) {
        spec(cron, Some(old), errors);
    }

    fn warnings(cron: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = pod::warnings::named(cron, old);
        super::job::warnings(cron, old, "spec.jobTemplate.spec", &mut out);
        if old.is_some() && cron.text("spec.schedule").contains("TZ") {
            out.push(
                "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see \
                 https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                    .to_owned(),
            );
        }
        out
    }

    fn cells(cron: &Value, row: &mut Row) {
        let last = cron.text("status.lastScheduleTime");
        let suspend = match cron.at("spec.suspend").as_bool() {
            None => "<unset>",
            Some(true) => "True",
            Some(false) => "False",
        };
        row.name(cron);
        row.push(cron.text("spec.schedule"));
        row.or(cron.text("spec.timeZone"), "<none>");
        row.push(suspend);
        row.push(cron.count("status.active"));
        row.push(if last.is_empty() { "<none>".to_owned() } else { row.since(last) });
        row.age(cron);
        row.containers(cron.at("spec.jobTemplate.spec.template.spec"));
        row.push(row::selector(cron.at("spec.jobTemplate.spec.selector")));
    }
}

fn spec(cron: &batch::CronJob, old: Option<&batch::CronJob>, errors: &mut Errors) {
    let spec = &cron.spec;
    // A zone in the schedule itself was never meant to be there; what has one may keep it.
    let may_have_zone = old.is_some_and(|o| o.spec.schedule.contains("TZ"));
    if spec.schedule.is_empty() {
        errors.required(&SPEC.child("schedule"), "");
    } else {
        schedule(spec, may_have_zone, &SPEC.child("schedule"), errors);
    }
    if let Some(seconds) = spec.starting_deadline_seconds {
        nonnegative(seconds, &SPEC.child("startingDeadlineSeconds"), errors);
    }
    zone(spec.time_zone.as_deref(), &SPEC.child("timeZone"), errors);
    one_of(text(&spec.concurrency_policy), POLICIES, &SPEC.child("concurrencyPolicy"), errors);
    for (field, limit) in [
        ("successfulJobsHistoryLimit", spec.successful_jobs_history_limit),
        ("failedJobsHistoryLimit", spec.failed_jobs_history_limit),
    ] {
        nonnegative(limit.unwrap_or(0), &SPEC.child(field), errors);
    }
    let empty = batch::JobSpec::default();
    let job = spec.job_template.spec.as_ref().unwrap_or(&empty);
    let path = SPEC.child("jobTemplate.spec");
    job_validate::template_spec(job, &path, errors);
    if let Some(selector) = &job.selector {
        errors.invalid(&path.child("selector"), selector, "`selector` will be auto-generated");
    }
    if job.manual_selector == Some(true) {
        errors.not_supported(&path.child("manualSelector"), true, &["false", "nil"]);
    }
}

fn schedule(spec: &batch::CronJobSpec, may_have_zone: bool, path: &Path<'_>, errors: &mut Errors) {
    let text = spec.schedule.as_str();
    if let Err(error) = Schedule::parse(split_zone(text).1) {
        errors.invalid(path, text, &error.to_string());
    }
    if !text.contains("TZ") {
        return;
    }
    if !may_have_zone {
        errors.invalid(path, text, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    } else if spec.time_zone.is_some() {
        errors.invalid(path, text, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
    }
}

/// The form of a zone's name. Whether there is such a zone is the API server's to find out: it is in a database.
fn zone(zone: Option<&str>, path: &Path<'_>, errors: &mut Errors) {
    let Some(zone) = zone else { return };
    if zone.is_empty() {
        return errors.invalid(path, zone, "timeZone must be nil or non-empty string");
    }
    if zone.eq_ignore_ascii_case("local") {
        let message = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(path, zone, message);
    }
}
