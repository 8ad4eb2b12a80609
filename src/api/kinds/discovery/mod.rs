//! The `discovery.k8s.io` group.

mod endpoint_slice;

use crate::kinds::adapter::describe;
use crate::strategy::Descriptor;

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![describe::<endpoint_slice::EndpointSlices>()]
}
