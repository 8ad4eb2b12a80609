//! The `flowcontrol.apiserver.k8s.io` group.

mod flow_schema;
mod priority_level_configuration;

use crate::kinds::adapter::describe;
use crate::strategy::Descriptor;

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![
        describe::<flow_schema::FlowSchemas>(),
        describe::<priority_level_configuration::PriorityLevelConfigurations>(),
    ]
}
