//! The `resource.k8s.io` group: claims of devices. Nobody allocates devices yet; the objects are there for those who
//! publish and ask for them.

mod check;
mod claim_spec;
mod claim_status;
mod device;
mod device_class;
mod resource_claim;
mod resource_slice;

use crate::kinds::adapter::describe;
use crate::strategy::Descriptor;

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![
        describe::<device_class::DeviceClasses>(),
        describe::<resource_claim::ResourceClaims>(),
        describe::<resource_claim::ResourceClaimTemplates>(),
        describe::<resource_slice::ResourceSlices>(),
    ]
}
