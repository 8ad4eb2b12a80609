//! Lease.

use k8s_openapi::api::coordination::v1 as coordination;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{qualified_name, text as text_of};
use crate::kinds::facts::{AGE, Facts, NAME, text};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;

pub(super) struct Leases;

impl Kind for Leases {
    type Typed = coordination::Lease;
    const FACTS: Facts = Facts {
        columns: &[NAME, text("Holder", "Who holds the lease."), AGE],
        create_on_update: true,
        unconditional_update: false,
        ..Facts::new("coordination.k8s.io", "v1", "leases", "Lease")
    };

    fn validate(lease: &coordination::Lease, errors: &mut Errors) {
        let Some(spec) = &lease.spec else { return };
        let path = Path::new("spec");
        if let Some(seconds) = spec.lease_duration_seconds.filter(|s| *s <= 0) {
            errors.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        if let Some(count) = spec.lease_transitions.filter(|s| *s < 0) {
            errors.invalid(&path.child("leaseTransitions"), count, "must be greater than or equal to 0");
        }
        match &spec.strategy {
            // As upstream: the word stands twice in the path.
            Some(strategy) if strategy.contains('/') => {
                qualified_name(strategy, &path.child("strategy").child("strategy"), errors);
            }
            Some(strategy) if strategy != "OldestEmulationVersion" => {
                errors.not_supported(&path.child("strategy").child("strategy"), strategy, &["OldestEmulationVersion"]);
            }
            _ => {}
        }
        if text_of(&spec.strategy).is_empty() && !text_of(&spec.preferred_holder).is_empty() {
            errors.forbidden(&path.child("preferredHolder"), "may only be specified if `strategy` is defined");
        }
    }

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.push(object.text("spec.holderIdentity"));
        row.age(object);
    }
}
