//! The built-in kinds: one file each, under the name of its group.
//!
//! A kind is a row of [`Facts`] plus the hooks in which it differs ([`Kind`]); [`Adapter`] makes a
//! [`Strategy`] of it. Defaults work on the dynamic form, since most of them touch a few fields;
//! validation works on the typed form, which is parsed once for it and only where something but
//! the metadata or the status changed.
//!
//! Must not know: other kinds of other groups, but for pod templates (`core::pod_template`).

mod adapter;
mod admissionregistration;
pub(crate) mod apiextensions;
mod apiregistration;
mod apps;
mod autoscaling;
pub mod batch;
mod certificates;
mod checks;
mod coordination;
mod core;
mod discovery;
mod events;
mod facts;
mod flowcontrol;
mod networking;
mod node;
mod peek;
mod policy;
mod rbac;
mod resource;
mod row;
pub mod scheduling;
mod storage;
mod warnings;

use std::sync::Arc;

pub use self::checks::sloppy_ip;
use crate::strategy::Descriptor;

/// All kinds that the executable knows by itself, in discovery's order.
pub fn builtin() -> Vec<Arc<Descriptor>> {
    let rows = [
        core::descriptors(),
        apiregistration::descriptors(),
        apps::descriptors(),
        events::descriptors(),
        autoscaling::descriptors(),
        batch::descriptors(),
        certificates::descriptors(),
        networking::descriptors(),
        policy::descriptors(),
        rbac::descriptors(),
        storage::descriptors(),
        admissionregistration::descriptors(),
        apiextensions::descriptors(),
        scheduling::descriptors(),
        coordination::descriptors(),
        node::descriptors(),
        discovery::descriptors(),
        resource::descriptors(),
        flowcontrol::descriptors(),
    ];
    rows.into_iter().flatten().map(Arc::new).collect()
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_columns;
#[cfg(test)]
mod tests_devices;
#[cfg(test)]
mod tests_pods;
#[cfg(test)]
mod tests_policy;
#[cfg(test)]
mod tests_properties;
#[cfg(test)]
mod tests_rbac;
#[cfg(test)]
mod tests_storage;
#[cfg(test)]
mod tests_validation;
#[cfg(test)]
mod tests_warnings;
#[cfg(test)]
mod tests_workloads;

#[cfg(test)]
mod tests_networking;

#[cfg(test)]
mod tests_others;
