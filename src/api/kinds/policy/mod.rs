//! The `policy` group.

mod pod_disruption_budget;

use crate::kinds::adapter::describe;
use crate::strategy::Descriptor;

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![describe::<pod_disruption_budget::PodDisruptionBudgets>()]
}
