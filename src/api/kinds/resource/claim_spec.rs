//! What is wrong with what a claim asks for.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1 as resource;

use super::check::{class_name, each, each_once, full_attribute_name};
use super::device_class::{CONFIGS_MAX, configuration, selectors};
use crate::field::{Errors, Path};
use crate::kinds::checks::{dns_label, qualified_name, text};
use crate::names;

pub(super) const REQUESTS_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;
const MODES: &[&str] = &["All", "ExactCount"];
const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];
const UNKNOWN_REQUEST: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// The requests of a claim, with the names of their alternatives.
pub(super) struct Requests<'a>(BTreeMap<&'a str, BTreeSet<&'a str>>);

impl<'a> Requests<'a> {
    pub fn of(spec: &'a resource::ResourceClaimSpec) -> Self {
        let requests = spec.devices.iter().flat_map(|d| d.requests.iter().flatten());
        let names = |request: &'a resource::DeviceRequest| {
            request.first_available.iter().flatten().map(|alternative| alternative.name.as_str()).collect()
        };
        Self(requests.map(|request| (request.name.as_str(), names(request))).collect())
    }

    fn has(&self, name: &str) -> bool {
        match name.split('/').collect::<Vec<_>>().as_slice() {
            [request] => self.0.contains_key(request),
            [request, alternative] => self.0.get(request).is_some_and(|names| names.contains(alternative)),
            _ => false,
        }
    }

    pub fn reference(&self, name: &str, path: &Path<'_>, errors: &mut Errors) {
        if name.split('/').count() > 2 {
            return errors.invalid(path, name, UNKNOWN_REQUEST);
        }
        for part in name.split('/') {
            dns_label(part, path, errors);
        }
        if !self.has(name) {
            errors.invalid(path, name, UNKNOWN_REQUEST);
        }
    }

    pub fn references(&self, names: &Option<Vec<String>>, list: &Path<'_>, errors: &mut Errors) {
        let names = names.as_deref().unwrap_or_default();
        each_once(names, REQUESTS_MAX, list, errors, String::as_str, |name, path, errors| {
            self.reference(name, path, errors);
        });
    }
}

pub(super) fn spec(spec: &resource::ResourceClaimSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(devices) = &spec.devices else { return };
    let path = path.child("devices");
    let known = Requests::of(spec);
    let requests = devices.requests.as_deref().unwrap_or_default();
    each_once(requests, REQUESTS_MAX, &path.child("requests"), errors, |r| r.name.as_str(), request);
    let constraints = devices.constraints.as_deref().unwrap_or_default();
    each(constraints, CONSTRAINTS_MAX, &path.child("constraints"), errors, |constraint, path, errors| {
        known.references(&constraint.requests, &path.child("requests"), errors);
        match (&constraint.match_attribute, &constraint.distinct_attribute) {
            (Some(name), _) => full_attribute_name(name, &path.child("matchAttribute"), errors),
            (None, Some(name)) => full_attribute_name(name, &path.child("distinctAttribute"), errors),
            (None, None) => {
                let message = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple \
                               fields are set";
                errors.required(path, message);
            }
        }
    });
    let configs = devices.config.as_deref().unwrap_or_default();
    each(configs, CONFIGS_MAX, &path.child("config"), errors, |config, path, errors| {
        known.references(&config.requests, &path.child("requests"), errors);
        configuration(config.opaque.as_ref(), path, errors);
    });
}

fn request(request: &resource::DeviceRequest, path: &Path<'_>, errors: &mut Errors) {
    dns_label(&request.name, &path.child("name"), errors);
    let alternatives = request.first_available.as_deref().unwrap_or_default();
    match (&request.exactly, alternatives.is_empty()) {
        (None, true) => errors.required(path, "exactly one of `exactly` or `firstAvailable` is required"),
        (Some(_), false) => {
            let message = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.invalid(path, (), message);
        }
        (Some(exactly), true) => {
            let wanted = Wanted {
                class: &exactly.device_class_name,
                selectors: exactly.selectors.as_deref().unwrap_or_default(),
                mode: text(&exactly.allocation_mode),
                count: exactly.count.unwrap_or(0),
                tolerations: exactly.tolerations.as_deref().unwrap_or_default(),
            };
            wanted.check(&path.child("exactly"), errors);
        }
        (None, false) => {
            let list = path.child("firstAvailable");
            let name = |alternative: &'_ resource::DeviceSubRequest| alternative.name.clone();
            each_once(alternatives, ALTERNATIVES_MAX, &list, errors, name, |alternative, path, errors| {
                dns_label(&alternative.name, &path.child("name"), errors);
                let wanted = Wanted {
                    class: &alternative.device_class_name,
                    selectors: alternative.selectors.as_deref().unwrap_or_default(),
                    mode: text(&alternative.allocation_mode),
                    count: alternative.count.unwrap_or(0),
                    tolerations: alternative.tolerations.as_deref().unwrap_or_default(),
                };
                wanted.check(path, errors);
            });
        }
    }
}

/// What a request and each of its alternatives say alike.
struct Wanted<'a> {
    class: &'a str,
    selectors: &'a [resource::DeviceSelector],
    mode: &'a str,
    count: i64,
    tolerations: &'a [resource::DeviceToleration],
}

impl Wanted<'_> {
    fn check(&self, path: &Path<'_>, errors: &mut Errors) {
        class_name(self.class, &path.child("deviceClassName"), errors);
        selectors(self.selectors, &path.child("selectors"), errors);
        let count = path.child("count");
        match self.mode {
            "All" if self.count != 0 => {
                errors.invalid(&count, self.count, "must not be specified when allocationMode is 'All'");
            }
            "ExactCount" if self.count <= 0 => errors.invalid(&count, self.count, "must be greater than zero"),
            "All" | "ExactCount" => {}
            other => errors.not_supported(&path.child("allocationMode"), other, MODES),
        }
        for (i, toleration) in self.tolerations.iter().enumerate() {
            self::toleration(toleration, &path.child("tolerations").index(i), errors);
        }
    }
}

fn toleration(toleration: &resource::DeviceToleration, path: &Path<'_>, errors: &mut Errors) {
    if !text(&toleration.key).is_empty() {
        qualified_name(text(&toleration.key), &path.child("key"), errors);
    }
    let value = text(&toleration.value);
    match text(&toleration.operator) {
        "Exists" if !value.is_empty() => {
            errors.invalid(&path.child("value"), value, "must be empty for operator `Exists`");
        }
        "Exists" => {}
        "Equal" => errors.invalid_each(&path.child("value"), value, names::label_value(value)),
        "" => errors.required(&path.child("operator"), ""),
        other => errors.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
    }
    let effect = text(&toleration.effect);
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        errors.not_supported(&path.child("effect"), effect, EFFECTS);
    }
}

pub(super) fn taint(taint: &resource::DeviceTaint, path: &Path<'_>, errors: &mut Errors) {
    qualified_name(&taint.key, &path.child("key"), errors);
    let value = text(&taint.value);
    errors.invalid_each(&path.child("value"), value, names::label_value(value));
    match taint.effect.as_str() {
        "" => errors.required(&path.child("effect"), ""),
        effect if !EFFECTS.contains(&effect) => errors.not_supported(&path.child("effect"), effect, EFFECTS),
        _ => {}
    }
}
