//! Lease.

use k8s_openapi::api::coordination::v1 as coordination;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
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
        match (&spec.strategy, &spec.preferred_holder) {
            (Some(strategy), _) if strategy != "OldestEmulationVersion" && !strategy.contains('/') => {
                errors.not_supported(&path.child("strategy"), strategy, &["OldestEmulationVersion"]);
            }
            (None, Some(holder)) if !holder.is_empty() => {
                errors.forbidden(&path.child("preferredHolder"), "may only be specified when `strategy` is defined");
            }
            _ => {}
        }
    }

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.push(object.text("spec.holderIdentity"));
        row.age(object);
    }
}
