//! What is wrong with a job, or with what a CronJob makes jobs of.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::batch::v1 as batch;
use k8s_openapi::api::core::v1 as core;

use super::indexes::Indexes;
use super::job::{SPEC, own_labels};
use crate::field::{Errors, Path};
use crate::kinds::checks::{domain_prefixed_path, immutable, label_selector, nonnegative, qualified_name, text};
use crate::kinds::core::pod;
use crate::names;
use crate::selector::LabelSelector;

const PARALLELISM_OF_INDEXED_MAX: i32 = 100_000;
const FAILED_INDEXES_MAX: i32 = 100_000;
/// From so many completions on other limits hold.
const MANY_COMPLETIONS: i32 = 100_000;
const PARALLELISM_OF_MANY_MAX: i32 = 10_000;
const FAILED_INDEXES_OF_MANY_MAX: i32 = 10_000;
const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const PATTERNS_MAX: usize = 20;
const INDEXES_TEXT_MAX: usize = 64 * 1024;
const MANAGED_BY_MAX: usize = 63;
const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: &[&str] = &["In", "NotIn"];
const STATES: &[&str] = &["False", "True", "Unknown"];
const REPLACEMENT: &[&str] = &["Failed", "TerminatingOrFailed"];

pub(super) fn job(job: &batch::Job, errors: &mut Errors) {
    let empty = batch::JobSpec::default();
    let spec = job.spec.as_ref().unwrap_or(&empty);
    generated_selector(job, spec, errors);
    job_spec(spec, errors);
    if is_indexed(spec)
        && let Some(completions) = spec.completions.filter(|c| *c > 0)
    {
        let name = text(&job.metadata.name);
        let last = format!("{name}-{}", completions - 1);
        if !names::dns_label(&last).is_empty() {
            let message = format!("will not able to create pod with invalid DNS label: {last}");
            errors.invalid(&Path::new("metadata").child("name"), name, &message);
        }
    }
}

pub(super) fn update(job: &batch::Job, old: &batch::Job, errors: &mut Errors) {
    let (Some(new), Some(before)) = (&job.spec, &old.spec) else { return };
    job_spec(new, errors);
    completions(new, before, errors);
    immutable(&new.selector, &before.selector, &SPEC.child("selector"), errors);
    let started = old.status.as_ref().is_some_and(|s| s.start_time.is_some());
    let mut old_template = before.template.clone();
    if before.suspend == Some(true) && !started {
        take_scheduling(&mut old_template, &new.template);
    }
    immutable(&new.template, &old_template, &SPEC.child("template"), errors);
    immutable(&new.completion_mode, &before.completion_mode, &SPEC.child("completionMode"), errors);
    immutable(&new.pod_failure_policy, &before.pod_failure_policy, &SPEC.child("podFailurePolicy"), errors);
    immutable(
        &new.backoff_limit_per_index,
        &before.backoff_limit_per_index,
        &SPEC.child("backoffLimitPerIndex"),
        errors,
    );
    immutable(&new.managed_by, &before.managed_by, &SPEC.child("managedBy"), errors);
    immutable(&new.success_policy, &before.success_policy, &SPEC.child("successPolicy"), errors);
}

/// Where the pods of a job that never ran shall run may change.
fn take_scheduling(old: &mut core::PodTemplateSpec, new: &core::PodTemplateSpec) {
    let labels = |t: &core::PodTemplateSpec| t.metadata.as_ref().and_then(|m| m.labels.clone());
    let annotations = |t: &core::PodTemplateSpec| t.metadata.as_ref().and_then(|m| m.annotations.clone());
    let (new_labels, new_annotations) = (labels(new), annotations(new));
    let meta = old.metadata.get_or_insert_default();
    meta.labels = new_labels;
    meta.annotations = new_annotations;
    let (Some(old), Some(new)) = (&mut old.spec, &new.spec) else { return };
    let node_affinity = new.affinity.as_ref().and_then(|a| a.node_affinity.clone());
    let mut affinity = old.affinity.clone().unwrap_or_default();
    affinity.node_affinity = node_affinity;
    let cleared = new.affinity.is_none() && affinity == core::Affinity::default();
    old.affinity = if cleared { None } else { Some(affinity) };
    old.node_selector.clone_from(&new.node_selector);
    old.tolerations.clone_from(&new.tolerations);
    old.scheduling_gates.clone_from(&new.scheduling_gates);
}

/// The number of an indexed job may change together with its parallelism.
fn completions(new: &batch::JobSpec, old: &batch::JobSpec, errors: &mut Errors) {
    let path = SPEC.child("completions");
    if !is_indexed(new) {
        return immutable(&new.completions, &old.completions, &path, errors);
    }
    if new.completions != old.completions && new.completions != new.parallelism {
        errors.invalid(&path, new.completions, "can only be modified in tandem with spec.parallelism");
    }
}

fn is_indexed(spec: &batch::JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

fn generated_selector(job: &batch::Job, spec: &batch::JobSpec, errors: &mut Errors) {
    let Some(selector) = spec.selector.as_ref().filter(|_| spec.manual_selector != Some(true)) else { return };
    if text(&job.metadata.uid).is_empty() {
        errors.required(&Path::new("metadata").child("uid"), "");
    }
    let empty = BTreeMap::new();
    let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref()).unwrap_or(&empty);
    let list = SPEC.child("template.metadata.labels");
    let expected = own_labels(job);
    for (label, value) in expected {
        match labels.get(label) {
            None => errors.required(&list.key(label), &format!("must be '{value}'")),
            Some(given) if given != value => errors.invalid(&list.key(label), labels, &format!("must be '{value}'")),
            Some(_) => {}
        }
    }
    if let Ok(parsed) = LabelSelector::from_typed(Some(selector))
        && !parsed.matches_with(|label| expected.iter().find(|(l, _)| *l == label).map(|(_, value)| *value))
    {
        errors.invalid(&SPEC.child("selector"), selector, "`selector` not auto-generated");
    }
}

fn job_spec(spec: &batch::JobSpec, errors: &mut Errors) {
    template_spec(spec, &SPEC, errors);
    let Some(selector) = &spec.selector else { return errors.required(&SPEC.child("selector"), "") };
    label_selector(selector, &SPEC.child("selector"), errors);
    let empty = BTreeMap::new();
    let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref()).unwrap_or(&empty);
    if LabelSelector::from_typed(Some(selector)).is_ok_and(|s| !s.matches(labels)) {
        let path = SPEC.child("template.metadata.labels");
        errors.invalid(&path, labels, "`selector` does not match template `labels`");
    }
}

/// Everything but the selector.
pub(super) fn template_spec(spec: &batch::JobSpec, path: &Path<'_>, errors: &mut Errors) {
    for (field, value) in [
        ("parallelism", spec.parallelism.map(i64::from)),
        ("completions", spec.completions.map(i64::from)),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", spec.backoff_limit.map(i64::from)),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished.map(i64::from)),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index.map(i64::from)),
        ("maxFailedIndexes", spec.max_failed_indexes.map(i64::from)),
    ] {
        nonnegative(value.unwrap_or(0), &path.child(field), errors);
    }
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(manager) = &spec.managed_by {
        domain_prefixed_path(manager, &path.child("managedBy"), errors);
        if manager.len() > MANAGED_BY_MAX {
            errors.too_long(&path.child("managedBy"), MANAGED_BY_MAX);
        }
    }
    modes(spec, path, errors);
    if let Some(policy) = &spec.pod_failure_policy {
        failure_policy(spec, policy, &path.child("podFailurePolicy.rules"), errors);
    }
    if let Some(policy) = &spec.success_policy {
        let path = path.child("successPolicy");
        if is_indexed(spec) {
            success_policy(spec, policy, &path.child("rules"), errors);
        } else {
            errors.invalid(&path, policy, "requires indexed completion mode");
        }
    }
    if let Some(policy) = &spec.pod_replacement_policy {
        let supported = if spec.pod_failure_policy.is_some() { &REPLACEMENT[..1] } else { REPLACEMENT };
        if !supported.contains(&policy.as_str()) {
            errors.not_supported(&path.child("podReplacementPolicy"), policy, supported);
        }
    }
    let template = path.child("template");
    pod::validate::template(&spec.template, &template, errors);
    restart_policy(spec, &template.child("spec.restartPolicy"), errors);
}

fn restart_policy(spec: &batch::JobSpec, path: &Path<'_>, errors: &mut Errors) {
    match spec.template.spec.as_ref().map_or("", |s| text(&s.restart_policy)) {
        "" | "Always" => errors.required(path, r#"valid values: "OnFailure", "Never""#),
        "OnFailure" if spec.pod_failure_policy.is_some() => {
            let message = r#"only "Never" is supported when podFailurePolicy is specified"#;
            errors.invalid(path, "OnFailure", message);
        }
        "OnFailure" | "Never" => {}
        other => errors.not_supported(path, other, &["Never", "OnFailure"]),
    }
}

fn modes(spec: &batch::JobSpec, path: &Path<'_>, errors: &mut Errors) {
    match spec.completion_mode.as_deref() {
        Some("Indexed") => return indexed(spec, path, errors),
        None | Some("NonIndexed") => {}
        Some(other) => {
            return errors.not_supported(&path.child("completionMode"), other, &["Indexed", "NonIndexed"]);
        }
    }
    for (field, value) in
        [("backoffLimitPerIndex", spec.backoff_limit_per_index), ("maxFailedIndexes", spec.max_failed_indexes)]
    {
        if let Some(value) = value {
            errors.invalid(&path.child(field), value, "requires indexed completion mode");
        }
    }
}

fn indexed(spec: &batch::JobSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(completions) = spec.completions else {
        return errors.required(&path.child("completions"), "when completion mode is Indexed");
    };
    let mut at_most = |field: &str, value: Option<i32>, limit: i32, message: String| {
        if let Some(value) = value.filter(|v| *v > limit) {
            errors.invalid(&path.child(field), value, &message);
        }
    };
    let limit = PARALLELISM_OF_INDEXED_MAX;
    let message = format!("must be less than or equal to {limit} when completion mode is Indexed");
    at_most("parallelism", spec.parallelism, limit, message);
    let message = "must be less than or equal to completions".to_owned();
    at_most("maxFailedIndexes", spec.max_failed_indexes, completions, message);
    let message = format!("must be less than or equal to {FAILED_INDEXES_MAX}");
    at_most("maxFailedIndexes", spec.max_failed_indexes, FAILED_INDEXES_MAX, message);
    if completions <= MANY_COMPLETIONS || spec.backoff_limit_per_index.is_none() {
        return;
    }
    let message = |limit: i32| {
        format!(
            "must be less than or equal to {limit} when completions are above {MANY_COMPLETIONS} and used with backoff limit \
             per index"
        )
    };
    at_most("parallelism", spec.parallelism, PARALLELISM_OF_MANY_MAX, message(PARALLELISM_OF_MANY_MAX));
    let limit = FAILED_INDEXES_OF_MANY_MAX;
    at_most("maxFailedIndexes", spec.max_failed_indexes, limit, message(limit));
    if spec.max_failed_indexes.is_none() {
        let message = format!("must be specified when completions is above {MANY_COMPLETIONS}");
        errors.required(&path.child("maxFailedIndexes"), &message);
    }
}

/// A list of words as Go prints it with `%q`.
fn quoted(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
    format!("valid values: [{}]", words.join(" "))
}

fn word(value: &str, supported: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.required(path, &quoted(supported));
    } else if !supported.contains(&value) {
        errors.not_supported(path, value, supported);
    }
}

fn failure_policy(spec: &batch::JobSpec, policy: &batch::PodFailurePolicy, list: &Path<'_>, errors: &mut Errors) {
    if policy.rules.len() > RULES_MAX {
        errors.too_many(list, policy.rules.len(), RULES_MAX);
    }
    for (i, rule) in policy.rules.iter().enumerate() {
        let path = list.index(i);
        if rule.action == "FailIndex" && spec.backoff_limit_per_index.is_none() {
            errors.invalid(&path.child("action"), &rule.action, "requires the backoffLimitPerIndex to be set");
        } else {
            word(&rule.action, ACTIONS, &path.child("action"), errors);
        }
        let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
        if let Some(codes) = &rule.on_exit_codes {
            exit_codes(spec, codes, &path.child("onExitCodes"), errors);
        }
        let list = path.child("onPodConditions");
        if patterns.len() > PATTERNS_MAX {
            errors.too_many(&list, patterns.len(), PATTERNS_MAX);
        }
        for (j, pattern) in patterns.iter().enumerate() {
            let path = list.index(j);
            qualified_name(&pattern.type_, &path.child("type"), errors);
            word(text(&pattern.status), STATES, &path.child("status"), errors);
        }
        match (rule.on_exit_codes.is_some(), patterns.is_empty()) {
            (true, false) => {
                errors.invalid_as_is(&path, "specifying both OnExitCodes and OnPodConditions is not supported")
            }
            (false, true) => {
                errors.invalid_as_is(&path, "specifying one of OnExitCodes and OnPodConditions is required")
            }
            _ => {}
        }
    }
}

fn exit_codes(
    spec: &batch::JobSpec,
    codes: &batch::PodFailurePolicyOnExitCodesRequirement,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    word(&codes.operator, OPERATORS, &path.child("operator"), errors);
    let pod = spec.template.spec.as_ref();
    let known = |name: &str| {
        let init = pod.into_iter().flat_map(|s| s.init_containers.iter().flatten());
        pod.into_iter().flat_map(|s| &s.containers).chain(init).any(|c| c.name == name)
    };
    if let Some(name) = codes.container_name.as_ref().filter(|name| !known(name)) {
        let message = "must be one of the container or initContainer names in the pod template";
        errors.invalid(&path.child("containerName"), name, message);
    }
    let list = path.child("values");
    if codes.values.is_empty() {
        errors.invalid(&list, &codes.values, "at least one value is required");
    } else if codes.values.len() > EXIT_CODES_MAX {
        errors.too_many(&list, codes.values.len(), EXIT_CODES_MAX);
    }
    let mut seen = BTreeSet::new();
    for (i, code) in codes.values.iter().enumerate() {
        if codes.operator == "In" && *code == 0 {
            errors.invalid(&list.index(i), code, "must not be 0 for the In operator");
        }
        if !seen.insert(*code) {
            errors.duplicate(&list.index(i), code);
        }
    }
    if !codes.values.is_sorted() {
        errors.invalid(&list, &codes.values, "must be ordered");
    }
}

fn success_policy(spec: &batch::JobSpec, policy: &batch::SuccessPolicy, list: &Path<'_>, errors: &mut Errors) {
    let completions = spec.completions.unwrap_or(0);
    if policy.rules.is_empty() {
        errors.required(list, "at least one rules must be specified when the successPolicy is specified");
    }
    if policy.rules.len() > RULES_MAX {
        errors.too_many(list, policy.rules.len(), RULES_MAX);
    }
    for (i, rule) in policy.rules.iter().enumerate() {
        let path = list.index(i);
        if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
            errors.required(&path, "at least one of succeededCount or succeededIndexes must be specified");
        }
        let mut total = None;
        if let Some(indexes) = &rule.succeeded_indexes {
            let path = path.child("succeededIndexes");
            if indexes.len() > INDEXES_TEXT_MAX {
                errors.too_long(&path, INDEXES_TEXT_MAX);
            }
            match Indexes::parse(indexes, completions) {
                Ok(parsed) => total = Some(parsed.count()),
                Err(error) => errors.invalid(&path, indexes, &format!("error parsing succeededIndexes: {error}")),
            }
        }
        let Some(count) = rule.succeeded_count else { continue };
        let path = path.child("succeededCount");
        nonnegative(count, &path, errors);
        if count > completions {
            let message = format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.invalid(&path, count, &message);
        }
        if let Some(total) = total.filter(|total| count > *total) {
            let message = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            errors.invalid(&path, count, &message);
        }
    }
}
