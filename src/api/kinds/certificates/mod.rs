//! The `certificates.k8s.io` group.

mod certificate_signing_request;

use crate::kinds::adapter::describe;
use crate::strategy::Descriptor;

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![describe::<certificate_signing_request::CertificateSigningRequests>()]
}
