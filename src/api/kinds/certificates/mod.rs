//! The `certificates.k8s.io` group.

mod certificate_signing_request;
mod cluster_trust_bundle;

use crate::kinds::adapter::describe;
use crate::strategy::Descriptor;

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![
        describe::<certificate_signing_request::CertificateSigningRequests>(),
        describe::<cluster_trust_bundle::ClusterTrustBundles>(),
    ]
}
