//! The `scheduling.k8s.io` group.

mod priority_class;

use crate::kinds::adapter::describe;
use crate::strategy::Descriptor;

pub use priority_class::SYSTEM_CLASSES;

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![describe::<priority_class::PriorityClasses>()]
}
