//! The core group (`/api/v1`).

mod binding;
mod component_status;
mod config_map;
mod endpoints;
pub(super) mod event;
mod limit_range;
mod namespace;
mod node;
pub(super) mod persistent_volume;
pub(super) mod persistent_volume_claim;
pub(super) mod pod;
mod pod_template;
mod replication_controller;
mod resource_quota;
mod secret;
mod service;
mod service_account;

use crate::kinds::adapter::describe;
use crate::strategy::Descriptor;

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![
        describe::<binding::Bindings>(),
        describe::<component_status::ComponentStatuses>(),
        describe::<config_map::ConfigMaps>(),
        describe::<endpoints::EndpointsKind>(),
        describe::<event::Events>(),
        describe::<limit_range::LimitRanges>(),
        describe::<namespace::Namespaces>(),
        describe::<node::Nodes>(),
        describe::<persistent_volume::PersistentVolumes>(),
        describe::<persistent_volume_claim::PersistentVolumeClaims>(),
        describe::<pod::Pods>(),
        describe::<pod_template::PodTemplates>(),
        describe::<replication_controller::ReplicationControllers>(),
        describe::<resource_quota::ResourceQuotas>(),
        describe::<secret::Secrets>(),
        describe::<service_account::ServiceAccounts>(),
        describe::<service::Services>(),
    ]
}
