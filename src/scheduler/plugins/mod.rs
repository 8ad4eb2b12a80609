//! The plugins, by their upstream names, in the order in which upstream asks them.

mod balanced_allocation;
mod image_locality;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_unschedulable;
mod resources_fit;
mod scheduling_gates;
mod taint_toleration;

use crate::framework::{Filter, PreEnqueue, Score};

pub static PRE_ENQUEUE: &[&dyn PreEnqueue] = &[&scheduling_gates::SchedulingGates];

pub static FILTERS: &[&dyn Filter] = &[
    &node_unschedulable::NodeUnschedulable,
    &node_name::NodeName,
    &taint_toleration::TaintToleration,
    &node_affinity::NodeAffinity,
    &node_ports::NodePorts,
    &resources_fit::NodeResourcesFit,
];

pub static SCORES: &[&dyn Score] = &[
    &taint_toleration::TaintToleration,
    &node_affinity::NodeAffinity,
    &resources_fit::NodeResourcesFit,
    &balanced_allocation::BalancedAllocation,
    &image_locality::ImageLocality,
];
