//! The `rbac.authorization.k8s.io` group.

mod binding;
mod role;

use crate::kinds::adapter::describe;
use crate::strategy::Descriptor;

/// The group's name, which references to its kinds carry.
const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![
        describe::<binding::ClusterRoleBindings>(),
        describe::<role::ClusterRoles>(),
        describe::<binding::RoleBindings>(),
        describe::<role::Roles>(),
    ]
}
