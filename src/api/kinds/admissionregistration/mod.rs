//! The `admissionregistration.k8s.io` group.

mod policy;
mod webhook;
mod webhook_validate;

use crate::kinds::adapter::describe;
use crate::strategy::Descriptor;

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
