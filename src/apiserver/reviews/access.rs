//! May somebody do something? And what may they do at all?

use serde_json::{Value, json};
use skiff_api::ApiError;
use skiff_api::field::{Errors, Path};
use skiff_api::selector::{FieldSelector, FieldTerm, LabelSelector};

use super::AUTHORIZATION;
use crate::auth::{Attributes, Authorizer, Decision, User};
use crate::meta;

/// The status of a SubjectAccessReview, a LocalSubjectAccessReview or a SelfSubjectAccessReview.
pub(super) fn access(authorizer: &Authorizer, caller: &User, kind: &str, review: &Value) -> Result<Value, ApiError> {
    let mut errors = Errors::new();
    validate(kind, review, &mut errors);
    let causes = errors.into_causes();
    if !causes.is_empty() {
        return Err(ApiError::invalid(AUTHORIZATION, kind, meta::text(review, "name"), causes));
    }
    let spec = &review["spec"];
    let other;
    let user = if kind == "SelfSubjectAccessReview" {
        caller
    } else {
        other = subject(spec);
        &other
    };
    let text = |attributes: &Value, field: &str| attributes[field].as_str().unwrap_or_default().to_owned();
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let mut ignored = Vec::new();
    let decision = if path.is_object() {
        let (verb, path) = (text(path, "verb"), text(path, "path"));
        authorizer.decide(user, &Attributes { verb: &verb, path: &path, ..Attributes::default() })
    } else {
        let field = |name| text(resource, name);
        let fields = fields(&resource["fieldSelector"], &mut ignored);
        check_labels(&resource["labelSelector"], &mut ignored);
        let asked = Attributes {
            verb: &field("verb"),
            group: &field("group"),
            resource: &field("resource"),
            subresource: &field("subresource"),
            namespace: &field("namespace"),
            name: &field("name"),
            fields: Some(&fields),
            path: "",
        };
        authorizer.decide(user, &asked)
    };
    let (allowed, reason) = match decision {
        Decision::Allow(reason) => (true, reason),
        Decision::NoOpinion(reason) => (false, reason),
    };
    let mut status = json!({ "allowed": allowed });
    if let Some(reason) = reason {
        status["reason"] = (*reason).into();
    }
    if !ignored.is_empty() {
        status["evaluationError"] = ignored.join(", ").into();
    }
    Ok(status)
}

fn subject(spec: &Value) -> User {
    let mut user = User::new(spec["user"].as_str().unwrap_or_default(), &meta::texts(&spec["groups"]));
    user.uid = spec["uid"].as_str().unwrap_or_default().to_owned();
    for (key, values) in spec["extra"].as_object().into_iter().flatten() {
        user.extra.push((key.clone(), meta::texts(values).into_iter().map(str::to_owned).collect()));
    }
    user
}

fn validate(kind: &str, review: &Value, errors: &mut Errors) {
    let (spec, path) = (&review["spec"], Path::new("spec"));
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    match (resource.is_object(), other.is_object()) {
        (true, true) => errors.invalid(
            &path.child("nonResourceAttributes"),
            other,
            "cannot be specified in combination with resourceAttributes",
        ),
        (false, false) => errors.invalid(
            &path.child("resourceAttributes"),
            other,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
    if kind != "SelfSubjectAccessReview" && subject(spec).name.is_empty() && meta::texts(&spec["groups"]).is_empty() {
        errors.invalid(&path.child("user"), "", "at least one of user or group must be specified");
    }
    for selector in ["fieldSelector", "labelSelector"] {
        let path = path.child("resourceAttributes");
        validate_selector(&resource[selector], &path.child(selector), errors);
    }
    if kind == "LocalSubjectAccessReview" {
        let namespace = meta::text(review, "namespace");
        if resource.is_object() && resource["namespace"].as_str().unwrap_or_default() != namespace {
            let path = path.child("resourceAttributes");
            errors.invalid(&path.child("namespace"), &resource["namespace"], "must match metadata.namespace");
        }
        if other.is_object() {
            errors.invalid(&path.child("nonResourceAttributes"), other, "disallowed on this kind of request");
        }
    }
    let keeps = |key: &String| key == "creationTimestamp" || (key == "namespace" && kind.starts_with("Local"));
    if review["metadata"].as_object().is_some_and(|map| map.iter().any(|(k, v)| !keeps(k) && !v.is_null())) {
        let why = if kind.starts_with("Local") { "must be empty except for namespace" } else { "must be empty" };
        errors.invalid(&Path::new("metadata"), &review["metadata"], why);
    }
}

fn validate_selector(selector: &Value, path: &Path<'_>, errors: &mut Errors) {
    if !selector.is_object() {
        return;
    }
    let raw = selector["rawSelector"].as_str().unwrap_or_default();
    let requirements = selector["requirements"].as_array().map(Vec::as_slice).unwrap_or_default();
    match (raw.is_empty(), requirements.is_empty()) {
        (false, false) => {
            errors.invalid(&path.child("rawSelector"), raw, "may not specified at the same time as requirements");
        }
        (true, true) => {
            let why = format!("when {path} is specified, requirements or rawSelector is required");
            errors.required(&path.child("requirements"), &why);
        }
        _ => {}
    }
    for (i, requirement) in requirements.iter().enumerate() {
        let list = path.child("requirements");
        let path = list.index(i);
        let count = requirement["values"].as_array().map_or(0, Vec::len);
        match requirement["operator"].as_str().unwrap_or_default() {
            "In" | "NotIn" if count == 0 => {
                errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if count > 0 => errors
                .forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
            _ => {}
        }
        if requirement["key"].as_str().unwrap_or_default().is_empty() {
            errors.required(&path.child("key"), "must be specified");
        }
    }
}

/// The terms that an authorizer can use: exactly one value, or not that value.
fn fields(selector: &Value, ignored: &mut Vec<&'static str>) -> FieldSelector {
    if let Some(raw) = selector["rawSelector"].as_str().filter(|raw| !raw.is_empty()) {
        return FieldSelector::parse(raw).unwrap_or_else(|_| {
            ignored.push("spec.resourceAttributes.fieldSelector ignored due to parse error");
            FieldSelector::default()
        });
    }
    let mut terms = Vec::new();
    let mut all = true;
    for requirement in selector["requirements"].as_array().into_iter().flatten() {
        let values = meta::texts(&requirement["values"]);
        let operator = requirement["operator"].as_str().unwrap_or_default();
        match (operator, values.as_slice()) {
            ("In" | "NotIn", [value]) => terms.push(FieldTerm {
                field: requirement["key"].as_str().unwrap_or_default().to_owned(),
                value: (*value).to_owned(),
                equal: operator == "In",
            }),
            _ => all = false,
        }
    }
    if !all {
        ignored.push(match terms.is_empty() {
            true => "spec.resourceAttributes.fieldSelector ignored due to parse error",
            false => "spec.resourceAttributes.fieldSelector partially ignored due to parse error",
        });
    }
    FieldSelector { terms }
}

/// No authorizer here looks at labels; a text that is no selector is told all the same.
fn check_labels(selector: &Value, ignored: &mut Vec<&'static str>) {
    if let Some(raw) = selector["rawSelector"].as_str().filter(|raw| !raw.is_empty())
        && LabelSelector::parse(raw).is_err()
    {
        ignored.push("spec.resourceAttributes.labelSelector ignored due to parse error");
    }
}

/// The status of a SelfSubjectRulesReview.
pub(super) fn rules(authorizer: &Authorizer, user: &User, spec: &Value) -> Result<Value, ApiError> {
    let namespace = spec["namespace"].as_str().unwrap_or_default();
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let (rules, incomplete, failure) = authorizer.rules_of(user, namespace);
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in &rules {
        if rule.resources.as_ref().is_some_and(|r| !r.is_empty()) {
            let mut one = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
            if let Some(names) = &rule.resource_names {
                one["resourceNames"] = json!(names);
            }
            resources.push(one);
        }
        if let Some(urls) = rule.non_resource_urls.as_ref().filter(|urls| !urls.is_empty()) {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": urls}));
        }
    }
    let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": incomplete});
    if let Some(failure) = failure {
        status["evaluationError"] = failure.into();
    }
    Ok(status)
}
