//! Role and ClusterRole.

use k8s_openapi::api::rbac::v1 as rbac;
use serde_json::Value;

use super::GROUP;
use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks;
use crate::kinds::facts::{Col, Facts, NAME, date};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;
use crate::names;

const COLUMNS: &[Col] = &[NAME, date("Created At", "When the object was created.")];

pub(super) struct Roles;

impl Kind for Roles {
    type Typed = rbac::Role;
    const FACTS: Facts = Facts {
        columns: COLUMNS,
        name: names::name_is_path_segment,
        create_on_update: true,
        ..Facts::new(GROUP, "v1", "roles", "Role")
    };

    fn validate(role: &rbac::Role, errors: &mut Errors) {
        rules(role.rules.as_deref().unwrap_or_default(), true, errors);
    }

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.push(object.text("metadata.creationTimestamp"));
    }
}

pub(super) struct ClusterRoles;

impl Kind for ClusterRoles {
    type Typed = rbac::ClusterRole;
    const FACTS: Facts = Facts {
        namespaced: false,
        columns: COLUMNS,
        name: names::name_is_path_segment,
        create_on_update: true,
        ..Facts::new(GROUP, "v1", "clusterroles", "ClusterRole")
    };

    fn validate(role: &rbac::ClusterRole, errors: &mut Errors) {
        rules(role.rules.as_deref().unwrap_or_default(), false, errors);
        let Some(aggregation) = &role.aggregation_rule else { return };
        let path = Path::new("aggregationRule");
        let path = path.child("clusterRoleSelectors");
        let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
        if selectors.is_empty() {
            errors.required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
        }
        for (i, selector) in selectors.iter().enumerate() {
            checks::label_selector(selector, &path.index(i), errors);
        }
    }

    fn cells(object: &Value, row: &mut Row) {
        Roles::cells(object, row);
    }
}

fn rules(rules: &[rbac::PolicyRule], namespaced: bool, errors: &mut Errors) {
    let path = Path::new("rules");
    for (i, rule) in rules.iter().enumerate() {
        self::rule(rule, namespaced, &path.index(i), errors);
    }
}

fn rule(rule: &rbac::PolicyRule, namespaced: bool, path: &Path<'_>, errors: &mut Errors) {
    let lacks = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    if rule.verbs.is_empty() {
        errors.required(&path.child("verbs"), "verbs must contain at least one value");
    }
    if !lacks(&rule.non_resource_urls) {
        let path = path.child("nonResourceURLs");
        if namespaced {
            errors.invalid(&path, &rule.non_resource_urls, "namespaced rules cannot apply to non-resource URLs");
        }
        if !lacks(&rule.api_groups) || !lacks(&rule.resources) || !lacks(&rule.resource_names) {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            errors.invalid(&path, &rule.non_resource_urls, why);
        }
        return;
    }
    if lacks(&rule.api_groups) {
        errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
    }
    if lacks(&rule.resources) {
        errors.required(&path.child("resources"), "resource rules must supply at least one resource");
    }
}
