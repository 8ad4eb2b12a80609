//! The core group (`/api/v1`).

mod binding;
mod config_map;
mod endpoints;
pub(super) mod event;
mod namespace;
mod node;
pub(super) mod pod;
mod replication_controller;
mod secret;
mod service;
mod service_account;

use crate::kinds::adapter::describe;
use crate::strategy::Descriptor;

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![
        describe::<binding::Bindings>(),
        describe::<config_map::ConfigMaps>(),
        describe::<endpoints::EndpointsKind>(),
        describe::<event::Events>(),
        describe::<namespace::Namespaces>(),
        describe::<node::Nodes>(),
        describe::<pod::Pods>(),
        describe::<replication_controller::ReplicationControllers>(),
        describe::<secret::Secrets>(),
        describe::<service_account::ServiceAccounts>(),
        describe::<service::Services>(),
    ]
}
