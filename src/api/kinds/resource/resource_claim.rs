//! ResourceClaim and ResourceClaimTemplate.

use std::collections::BTreeSet;

use k8s_openapi::api::resource::v1 as resource;
use serde_json::{Map, Value};

use super::device_class::selectors;
use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{dns_label, dns_subdomain, immutable, text};
use crate::kinds::facts::{self, AGE, Facts, NAME};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::Row;
use crate::strategy::Subresource;

const REQUESTS_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;
const MODES: &[&str] = &["All", "ExactCount"];

pub(super) struct ResourceClaims;

impl Kind for ResourceClaims {
    type Typed = resource::ResourceClaim;
    const FACTS: Facts = Facts {
        subresources: &[Subresource::Status],
        columns: &[NAME, facts::text("State", "Whether its devices are allocated and in use."), AGE],
        ..Facts::new("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim")
    };

    fn default(claim: &mut Value) {
        if let Some(devices) = spec_of(claim).and_then(|s| s.existing("devices")) {
            requests(devices);
        }
    }

    fn validate(claim: &resource::ResourceClaim, errors: &mut Errors) {
        spec(&claim.spec, &Path::new("spec"), errors);
    }

    fn validate_update(claim: &resource::ResourceClaim, old: &resource::ResourceClaim, errors: &mut Errors) {
        immutable(&claim.spec, &old.spec, &Path::new("spec"), errors);
    }

    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(claim: &resource::ResourceClaim, old: &resource::ResourceClaim, errors: &mut Errors) {
        let allocation = |c: &resource::ResourceClaim| c.status.as_ref().and_then(|s| s.allocation.clone());
        let path = Path::new("status");
        if let (Some(new), Some(old)) = (allocation(claim), allocation(old)) {
            immutable(&new, &old, &path.child("allocation"), errors);
        }
        let reserved = claim.status.as_ref().and_then(|s| s.reserved_for.as_deref()).unwrap_or_default();
        if !reserved.is_empty() && allocation(claim).is_none() {
            errors.forbidden(&path.child("reservedFor"), "may not be specified when `allocated` is not set");
        }
    }

    fn cells(claim: &Value, row: &mut Row) {
        let mut states = Vec::new();
        if !claim.at("metadata.deletionTimestamp").is_null() {
            states.push("deleted");
        }
        if claim.at("status.allocation").is_null() {
            if claim.at("metadata.deletionTimestamp").is_null() {
                states.push("pending");
            }
        } else {
            states.push("allocated");
            if claim.count("status.reservedFor") > 0 {
                states.push("reserved");
            }
        }
        row.name(claim);
        row.push(states.join(","));
        row.age(claim);
    }
}

pub(super) struct ResourceClaimTemplates;

impl Kind for ResourceClaimTemplates {
    type Typed = resource::ResourceClaimTemplate;
    const FACTS: Facts = Facts::new("resource.k8s.io", "v1", "resourceclaimtemplates", "ResourceClaimTemplate");

    fn default(template: &mut Value) {
        let inner = spec_of(template).and_then(|s| s.object("spec"));
        if let Some(devices) = inner.and_then(|s| s.existing("devices")) {
            requests(devices);
        }
    }

    fn validate(template: &resource::ResourceClaimTemplate, errors: &mut Errors) {
        spec(&template.spec.spec, &Path::new("spec.spec"), errors);
    }

    fn validate_update(
        template: &resource::ResourceClaimTemplate,
        old: &resource::ResourceClaimTemplate,
        errors: &mut Errors,
    ) {
        immutable(&template.spec, &old.spec, &Path::new("spec"), errors);
    }
}

fn requests(devices: &mut Map<String, Value>) {
    for request in devices.items("requests") {
        if let Some(exactly) = request.existing("exactly") {
            amount(exactly);
        }
        for alternative in request.items("firstAvailable") {
            amount(alternative);
        }
    }
}

fn amount(request: &mut Map<String, Value>) {
    request.fill("allocationMode", "ExactCount");
    if request.get("allocationMode").and_then(Value::as_str) == Some("ExactCount") {
        request.fill("count", 1);
    }
}

fn spec(spec: &resource::ResourceClaimSpec, path: &Path<'_>, errors: &mut Errors) {
    let requests = spec.devices.as_ref().and_then(|d| d.requests.as_deref()).unwrap_or_default();
    let list = path.child("devices.requests");
    if requests.len() > REQUESTS_MAX {
        errors.too_many(&list, requests.len(), REQUESTS_MAX);
    }
    let mut names = BTreeSet::new();
    for (i, request) in requests.iter().enumerate() {
        let path = list.index(i);
        dns_label(&request.name, &path.child("name"), errors);
        if !names.insert(&request.name) {
            errors.duplicate(&path, &request.name);
        }
        let alternatives = request.first_available.as_deref().unwrap_or_default();
        match (&request.exactly, alternatives.is_empty()) {
            (None, true) => errors.required(&path, "exactly one of `exactly` or `firstAvailable` is required"),
            (Some(_), false) => {
                errors.invalid_as_is(
                    &path,
                    "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
                );
            }
            (Some(exactly), true) => {
                let path = path.child("exactly");
                class(&exactly.device_class_name, &path, errors);
                selectors(exactly.selectors.as_deref().unwrap_or_default(), &path.child("selectors"), errors);
                mode(text(&exactly.allocation_mode), exactly.count.unwrap_or(0), &path, errors);
            }
            (None, false) => {
                let list = path.child("firstAvailable");
                if alternatives.len() > ALTERNATIVES_MAX {
                    errors.too_many(&list, alternatives.len(), ALTERNATIVES_MAX);
                }
                for (j, one) in alternatives.iter().enumerate() {
                    let path = list.index(j);
                    dns_label(&one.name, &path.child("name"), errors);
                    class(&one.device_class_name, &path, errors);
                    selectors(one.selectors.as_deref().unwrap_or_default(), &path.child("selectors"), errors);
                    mode(text(&one.allocation_mode), one.count.unwrap_or(0), &path, errors);
                }
            }
        }
    }
}

fn class(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("deviceClassName");
    if name.is_empty() {
        errors.required(&path, "");
    } else {
        dns_subdomain(name, &path, errors);
    }
}

fn mode(mode: &str, count: i64, path: &Path<'_>, errors: &mut Errors) {
    match mode {
        "All" if count != 0 => {
            let message = "must not be specified when allocationMode is 'All'";
            errors.invalid(&path.child("count"), count, message);
        }
        "ExactCount" if count <= 0 => errors.invalid(&path.child("count"), count, "must be greater than zero"),
        "All" | "ExactCount" => {}
        other => errors.not_supported(&path.child("allocationMode"), other, MODES),
    }
}
