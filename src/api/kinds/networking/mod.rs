//! The `networking.k8s.io` group.

mod ingress;
mod ingress_class;
mod ip_address;
mod network_policy;
mod service_cidr;

use crate::field::{Errors, Path};
use crate::kinds::adapter::describe;
use crate::names;
use crate::strategy::Descriptor;

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![
        describe::<ingress::Ingresses>(),
        describe::<ingress_class::IngressClasses>(),
        describe::<ip_address::IpAddresses>(),
        describe::<network_policy::NetworkPolicies>(),
        describe::<service_cidr::ServiceCidrs>(),
    ]
}

/// A part of a reference that must be there and fit into a URL.
fn segment(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.required(path, "");
    } else {
        errors.invalid_each(path, value, names::path_segment(value));
    }
}
