//! RoleBinding and ClusterRoleBinding.

use k8s_openapi::api::rbac::v1 as rbac;
use serde_json::Value;

use super::GROUP;
use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{required, text};
use crate::kinds::facts::{self, AGE, Col, Facts, NAME, wide};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::Row;
use crate::names;

const COLUMNS: &[Col] = &[
    NAME,
    facts::text("Role", "The role that is granted, behind its kind."),
    AGE,
    wide("Users", "The users that it is granted to."),
    wide("Groups", "The groups that it is granted to."),
    wide("ServiceAccounts", "The service accounts that it is granted to, behind their namespaces."),
];

pub(super) struct RoleBindings;

impl Kind for RoleBindings {
    type Typed = rbac::RoleBinding;
    const FACTS: Facts = Facts {
        columns: COLUMNS,
        name: names::name_is_path_segment,
        create_on_update: true,
        ..Facts::new(GROUP, "v1", "rolebindings", "RoleBinding")
    };

    fn default(object: &mut Value) {
        fill_groups(object);
    }

    fn validate(binding: &rbac::RoleBinding, errors: &mut Errors) {
        role_ref(&binding.role_ref, &["ClusterRole", "Role"], errors);
        subjects(binding.subjects.as_deref(), true, errors);
    }

    fn validate_update(binding: &rbac::RoleBinding, old: &rbac::RoleBinding, errors: &mut Errors) {
        Self::validate(binding, errors);
        keeps_role(&binding.role_ref, &old.role_ref, errors);
    }

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.push(format!("{}/{}", object.text("roleRef.kind"), object.text("roleRef.name")));
        row.age(object);
        let of_kind = |kind: &'static str| object.list("subjects").iter().filter(move |s| s.text("kind") == kind);
        for kind in ["User", "Group"] {
            let names: Vec<&str> = of_kind(kind).map(|s| s.text("name")).collect();
            row.push(names.join(", "));
        }
        let accounts: Vec<String> =
            of_kind("ServiceAccount").map(|s| format!("{}/{}", s.text("namespace"), s.text("name"))).collect();
        row.push(accounts.join(", "));
    }
}

pub(super) struct ClusterRoleBindings;

impl Kind for ClusterRoleBindings {
    type Typed = rbac::ClusterRoleBinding;
    const FACTS: Facts = Facts {
        namespaced: false,
        columns: COLUMNS,
        name: names::name_is_path_segment,
        create_on_update: true,
        ..Facts::new(GROUP, "v1", "clusterrolebindings", "ClusterRoleBinding")
    };

    fn default(object: &mut Value) {
        fill_groups(object);
    }

    fn validate(binding: &rbac::ClusterRoleBinding, errors: &mut Errors) {
        role_ref(&binding.role_ref, &["ClusterRole"], errors);
        subjects(binding.subjects.as_deref(), false, errors);
    }

    fn validate_update(binding: &rbac::ClusterRoleBinding, old: &rbac::ClusterRoleBinding, errors: &mut Errors) {
        Self::validate(binding, errors);
        keeps_role(&binding.role_ref, &old.role_ref, errors);
    }

    fn cells(object: &Value, row: &mut Row) {
        RoleBindings::cells(object, row);
    }
}

/// The group of the role, and of users and groups; service accounts are of the core group.
fn fill_groups(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    if let Some(role) = map.existing("roleRef") {
        role.fill("apiGroup", GROUP);
    }
    for subject in map.items("subjects") {
        if subject.get("kind").is_some_and(|kind| kind == "User" || kind == "Group") {
            subject.fill("apiGroup", GROUP);
        }
    }
}

fn role_ref(role: &rbac::RoleRef, kinds: &[&str], errors: &mut Errors) {
    let path = Path::new("roleRef");
    if text(&role.api_group) != GROUP {
        errors.not_supported(&path.child("apiGroup"), text(&role.api_group), &[GROUP]);
    }
    if !kinds.contains(&role.kind.as_str()) {
        errors.not_supported(&path.child("kind"), &role.kind, kinds);
    }
    let path = path.child("name");
    if role.name.is_empty() {
        errors.required(&path, "");
    } else {
        errors.invalid_each(&path, &role.name, names::path_segment(&role.name));
    }
}

fn keeps_role(new: &rbac::RoleRef, old: &rbac::RoleRef, errors: &mut Errors) {
    if new != old {
        errors.invalid(&Path::new("roleRef"), new, "cannot change roleRef");
    }
}

fn subjects(subjects: Option<&[rbac::Subject]>, namespaced: bool, errors: &mut Errors) {
    let path = Path::new("subjects");
    for (i, subject) in subjects.unwrap_or_default().iter().enumerate() {
        self::subject(subject, namespaced, &path.index(i), errors);
    }
}

fn subject(subject: &rbac::Subject, namespaced: bool, path: &Path<'_>, errors: &mut Errors) {
    let group = text(&subject.api_group);
    required(&subject.name, &path.child("name"), errors);
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !subject.name.is_empty() {
                errors.invalid_each(&path.child("name"), &subject.name, names::dns_subdomain(&subject.name));
            }
            if !group.is_empty() {
                errors.not_supported(&path.child("apiGroup"), group, &[""]);
            }
            if !namespaced {
                required(text(&subject.namespace), &path.child("namespace"), errors);
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.not_supported(&path.child("apiGroup"), group, &[GROUP]);
            }
        }
        other => errors.not_supported(&path.child("kind"), other, &["Group", "ServiceAccount", "User"]),
    }
}
