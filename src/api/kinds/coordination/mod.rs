//! The `coordination.k8s.io` group.

mod lease;

use crate::kinds::adapter::describe;
use crate::strategy::Descriptor;

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![describe::<lease::Leases>()]
}
