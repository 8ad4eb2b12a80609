//! What is wrong with a webhook, whichever of the two kinds it is of.

use std::collections::BTreeSet;

use k8s_openapi::api::admissionregistration::v1 as admission;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::field::{Errors, Path};
use crate::kinds::checks::{dns_subdomain, label_selector, one_of_if_set};
use crate::names;

const VERSIONS: &[&str] = &["v1", "v1beta1"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];

/// What both kinds of webhooks have.
pub(super) struct Webhook<'a> {
    pub name: &'a str,
    pub client: &'a admission::WebhookClientConfig,
    pub rules: &'a [admission::RuleWithOperations],
    pub versions: &'a [String],
    pub side_effects: &'a str,
    pub failure_policy: &'a Option<String>,
    pub match_policy: &'a Option<String>,
    pub timeout_s: Option<i32>,
    pub selectors: [(&'static str, &'a Option<LabelSelector>); 2],
    pub has_conditions: bool,
}

pub(super) fn webhooks<'a>(webhooks: impl Iterator<Item = Webhook<'a>>, errors: &mut Errors) {
    let mut names = BTreeSet::new();
    for (i, webhook) in webhooks.enumerate() {
        let list = Path::new("webhooks");
        let path = list.index(i);
        one(&webhook, &path, errors);
        review_versions(webhook.versions, &path.child("admissionReviewVersions"), errors);
        if !names.insert(webhook.name) && !webhook.name.is_empty() {
            errors.duplicate(&path.child("name"), webhook.name);
        }
    }
}

fn one(webhook: &Webhook<'_>, path: &Path<'_>, errors: &mut Errors) {
    fully_qualified(webhook.name, &path.child("name"), errors);
    for (i, rule) in webhook.rules.iter().enumerate() {
        self::rule(rule, &path.child("rules").index(i), errors);
    }
    one_of_if_set(webhook.failure_policy, &["Fail", "Ignore"], &path.child("failurePolicy"), errors);
    one_of_if_set(webhook.match_policy, &["Equivalent", "Exact"], &path.child("matchPolicy"), errors);
    let effects = path.child("sideEffects");
    if webhook.side_effects.is_empty() {
        errors.required(&effects, &format!("must specify one of {}", SIDE_EFFECTS.join(", ")));
    } else if !SIDE_EFFECTS.contains(&webhook.side_effects) {
        errors.not_supported(&effects, webhook.side_effects, SIDE_EFFECTS);
    }
    if let Some(seconds) = webhook.timeout_s.filter(|s| !(1..=30).contains(s)) {
        let message = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&path.child("timeoutSeconds"), seconds, message);
    }
    for (field, selector) in webhook.selectors {
        if let Some(selector) = selector {
            label_selector(selector, &path.child(field), errors);
        }
    }
    client(webhook.client, &path.child("clientConfig"), errors);
    if webhook.has_conditions {
        errors.forbidden(&path.child("matchConditions"), "CEL expressions are not available yet");
    }
}

fn fully_qualified(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    let wrong = names::dns_subdomain(name);
    if wrong.is_empty() && name.split('.').count() < 3 {
        errors.invalid(path, name, "should be a domain with at least three segments separated by dots");
    }
    errors.invalid_each(path, name, wrong);
}

fn review_versions(versions: &[String], path: &Path<'_>, errors: &mut Errors) {
    if versions.is_empty() {
        return errors.required(path, &format!("must specify one of {}", VERSIONS.join(", ")));
    }
    let mut seen = BTreeSet::new();
    for (i, version) in versions.iter().enumerate() {
        if !seen.insert(version) {
            errors.invalid(&path.index(i), version, "duplicate version");
        } else {
            errors.invalid_each(&path.index(i), version, names::dns_label_1035(version));
        }
    }
    if !versions.iter().any(|v| VERSIONS.contains(&v.as_str())) {
        errors.invalid(path, versions, &format!("must include at least one of {}", VERSIONS.join(", ")));
    }
}

fn client(client: &admission::WebhookClientConfig, path: &Path<'_>, errors: &mut Errors) {
    match (&client.url, &client.service) {
        (Some(_), Some(_)) | (None, None) => errors.required(path, "exactly one of url or service is required"),
        (Some(url), None) => self::url(url, &path.child("url"), errors),
        (None, Some(service)) => {
            let path = path.child("service");
            if service.name.is_empty() {
                errors.required(&path.child("name"), "service name is required");
            }
            if service.namespace.is_empty() {
                errors.required(&path.child("namespace"), "service namespace is required");
            }
            let port = service.port.unwrap_or(0);
            let wrong = names::port_number(port.into());
            if !wrong.is_empty() {
                errors.invalid(&path.child("port"), port, &format!("port is not valid: {}", wrong.join(",")));
            }
            if let Some(service_path) = &service.path {
                self::service_path(service_path, &path.child("path"), errors);
            }
        }
    }
}

fn service_path(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if text.is_empty() || text == "/" {
        return;
    }
    if !text.starts_with('/') {
        return errors.invalid(path, text, "must start with a '/'");
    }
    let inner = text[1..].strip_suffix('/').unwrap_or(&text[1..]);
    for (i, step) in inner.split('/').enumerate() {
        if step.is_empty() {
            return errors.invalid(path, text, &format!("segment[{i}] may not be empty"));
        }
        for wrong in names::dns_subdomain(step) {
            errors.invalid(path, text, &format!("segment[{i}]: {wrong}"));
        }
    }
}

fn url(text: &str, path: &Path<'_>, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let Some((scheme, rest)) = text.split_once("://") else {
        return errors.required(path, &format!("url must be a valid URL: {text}{FORM}"));
    };
    if scheme != "https" {
        errors.invalid(path, scheme, &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    if authority.is_empty() {
        errors.invalid(path, authority, &format!("host must be specified{FORM}"));
    }
    if let Some((user, _)) = authority.split_once('@') {
        errors.invalid(path, user, &format!("user information is not permitted in the URL{FORM}"));
    }
    if let Some((_, fragment)) = rest.split_once('#') {
        errors.invalid(path, fragment, &format!("fragments are not permitted in the URL{FORM}"));
    } else if let Some((_, query)) = rest.split_once('?') {
        errors.invalid(path, query, &format!("query parameters are not permitted in the URL{FORM}"));
    }
}

fn rule(rule: &admission::RuleWithOperations, path: &Path<'_>, errors: &mut Errors) {
    let operations = rule.operations.as_deref().unwrap_or_default();
    let list = path.child("operations");
    if operations.is_empty() {
        errors.required(&list, "");
    }
    if operations.len() > 1 && operations.iter().any(|o| o == "*") {
        errors.invalid(&list, operations, "if '*' is present, must not specify other operations");
    }
    for (i, operation) in operations.iter().enumerate().filter(|(_, o)| !OPERATIONS.contains(&o.as_str())) {
        errors.not_supported(&list.index(i), operation, OPERATIONS);
    }
    for (field, values, what) in [
        ("apiGroups", &rule.api_groups, "API groups"),
        ("apiVersions", &rule.api_versions, "API versions"),
        ("resources", &rule.resources, "resources"),
    ] {
        let values = values.as_deref().unwrap_or_default();
        let list = path.child(field);
        if values.is_empty() {
            errors.required(&list, "");
        }
        let star = |value: &String| value == "*" && field != "resources" || value == "*/*";
        if values.len() > 1 && values.iter().any(star) {
            let all = if field == "resources" { "*/*" } else { "*" };
            errors.invalid(&list, values, &format!("if '{all}' is present, must not specify other {what}"));
        }
        for (i, value) in values.iter().enumerate() {
            if value.is_empty() && field != "apiGroups" {
                errors.required(&list.index(i), "");
            } else if field == "apiGroups" && !value.is_empty() && value != "*" {
                dns_subdomain(value, &list.index(i), errors);
            }
        }
    }
    if let Some(scope) = rule.scope.as_ref().filter(|s| !SCOPES.contains(&s.as_str())) {
        errors.not_supported(&path.child("scope"), scope, SCOPES);
    }
}
