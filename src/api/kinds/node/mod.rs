//! The `node.k8s.io` group.

mod runtime_class;

use crate::kinds::adapter::describe;
use crate::strategy::Descriptor;

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![describe::<runtime_class::RuntimeClasses>()]
}
