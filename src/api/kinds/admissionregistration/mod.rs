//! The `admissionregistration.k8s.io` group.

mod policy;
mod webhook;
mod webhook_validate;

use crate::kinds::adapter::describe;
use crate::kinds::facts::Facts;
use crate::strategy::Descriptor;

/// What all kinds of the group have in common.
const fn facts(resource: &'static str, kind: &'static str) -> Facts {
    Facts {
        categories: &["api-extensions"],
        namespaced: false,
        generation: true,
        unconditional_update: false,
        ..Facts::new("admissionregistration.k8s.io", "v1", resource, kind)
    }
}

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![
        describe::<policy::MutatingAdmissionPolicies>(),
        describe::<policy::MutatingAdmissionPolicyBindings>(),
        describe::<webhook::MutatingWebhookConfigurations>(),
        describe::<policy::ValidatingAdmissionPolicies>(),
        describe::<policy::ValidatingAdmissionPolicyBindings>(),
        describe::<webhook::ValidatingWebhookConfigurations>(),
    ]
}
