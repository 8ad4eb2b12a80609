//! ResourceClaim and ResourceClaimTemplate.

use k8s_openapi::api::resource::v1 as resource;
use serde_json::{Map, Value};

use super::{claim_spec, claim_status};
use crate::field::{Errors, Path};
use crate::kinds::adapter::{self, Kind};
use crate::kinds::checks::{immutable, template_metadata};
use crate::kinds::facts::{self, AGE, Facts, NAME};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::Row;
use crate::strategy::Subresource;

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

    fn prepare_status_update(claim: &mut Value, old: &Value) {
        adapter::keep_meta(claim, old);
        claim_status::forget_given_back(claim, old);
    }

    fn validate(claim: &resource::ResourceClaim, errors: &mut Errors) {
        claim_spec::spec(&claim.spec, &Path::new("spec"), errors);
    }

    fn validate_update(claim: &resource::ResourceClaim, old: &resource::ResourceClaim, errors: &mut Errors) {
        immutable(&claim.spec, &old.spec, &Path::new("spec"), errors);
    }

    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(claim: &resource::ResourceClaim, old: &resource::ResourceClaim, errors: &mut Errors) {
        claim_status::update(claim, old, errors);
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
        if let Some(metadata) = &template.spec.metadata {
            template_metadata(metadata, &Path::new("spec.metadata"), errors);
        }
        claim_spec::spec(&template.spec.spec, &Path::new("spec.spec"), errors);
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
            one_request(exactly);
        }
        for alternative in request.items("firstAvailable") {
            one_request(alternative);
        }
    }
}

fn one_request(request: &mut Map<String, Value>) {
    request.fill("allocationMode", "ExactCount");
    if request.get("allocationMode").and_then(Value::as_str) == Some("ExactCount") {
        request.fill("count", 1);
    }
    for toleration in request.items("tolerations") {
        toleration.fill("operator", "Equal");
    }
}
