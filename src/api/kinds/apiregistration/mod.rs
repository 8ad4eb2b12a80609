//! The `apiregistration.k8s.io` group.

mod api_service;

use crate::kinds::adapter::describe;
use crate::strategy::Descriptor;

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![describe::<api_service::ApiServices>()]
}
