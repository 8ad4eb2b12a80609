//! The roles and bindings that every cluster has, as tables: upstream's, and one for the DNS server.
//!
//! A line that begins at the margin names a role, with the roles that it is aggregated to behind `->`; the indented
//! lines below it are its rules: verbs, groups, resources and names, or verbs and paths, parted by `|`. In bindings,
//! the subjects.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{
    AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";
pub(crate) const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

const CLUSTER_ROLES: &str = include_str!("defaults/cluster_roles.txt");
const CONTROLLER_ROLES: &str = include_str!("defaults/controller_roles.txt");
const ROLES: &str = include_str!("defaults/roles.txt");
const CLUSTER_ROLE_BINDINGS: &str = include_str!("defaults/cluster_role_bindings.txt");
const ROLE_BINDINGS: &str = include_str!("defaults/role_bindings.txt");

const CONTROLLER: &str = "system:controller:";
const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";

/// A head and the indented lines below it.
fn blocks(text: &'static str) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut blocks: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        match (line.strip_prefix("  "), blocks.last_mut()) {
            (Some(rule), Some((_, rules))) => rules.push(rule),
            _ => blocks.push((line, Vec::new())),
        }
    }
    blocks
}

/// `get list | core apps | pods deployments | name`, `get | /healthz`, or `events`.
pub(super) fn rule(line: &str) -> PolicyRule {
    let line = if line == "events" { "create update patch | core events.k8s.io | events" } else { line };
    let columns: Vec<&str> = line.split('|').map(str::trim).collect();
    let words = |column: Option<&&str>, verbs: bool| {
        let words = column.into_iter().flat_map(|text| text.split_whitespace());
        let mut words: Vec<String> = words
            .flat_map(|word| match word {
                "read" if verbs => READ.split(' ').collect(),
                "write" if verbs => WRITE.split(' ').collect(),
                "core" => vec![""],
                word => vec![word],
            })
            .map(str::to_owned)
            .collect();
        words.sort();
        words
    };
    let some = |words: Vec<String>| Some(words).filter(|w| !w.is_empty());
    let verbs = words(columns.first(), true);
    if columns.len() == 2 {
        return PolicyRule { verbs, non_resource_urls: some(words(columns.get(1), false)), ..PolicyRule::default() };
    }
    PolicyRule {
        verbs,
        api_groups: some(words(columns.get(1), false)),
        resources: some(words(columns.get(2), false)),
        resource_names: some(words(columns.get(3), false)),
        non_resource_urls: None,
    }
}

fn metadata(name: &str, namespace: Option<&str>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        annotations: Some(BTreeMap::from([(AUTOUPDATE.to_owned(), "true".to_owned())])),
        labels: Some(BTreeMap::from([("kubernetes.io/bootstrapping".to_owned(), "rbac-defaults".to_owned())])),
        ..ObjectMeta::default()
    }
}

fn label(role: &str) -> (String, String) {
    (format!("{GROUP}/aggregate-to-{role}"), "true".to_owned())
}

pub(crate) fn cluster_roles() -> Vec<ClusterRole> {
    let own = blocks(CLUSTER_ROLES).into_iter().map(|(head, rules)| cluster_role("", head, &rules));
    let controllers = blocks(CONTROLLER_ROLES).into_iter().map(|(head, rules)| cluster_role(CONTROLLER, head, &rules));
    own.chain(controllers).collect()
}

fn cluster_role(prefix: &str, head: &str, rules: &[&str]) -> ClusterRole {
    let (name, into) = head.split_once(" -> ").unwrap_or((head, ""));
    let mut metadata = metadata(&format!("{prefix}{name}"), None);
    metadata.labels.get_or_insert_default().extend(into.split_whitespace().map(label));
    // Without rules of its own it is made of others'.
    let aggregation_rule = rules.is_empty().then(|| AggregationRule {
        cluster_role_selectors: Some(vec![LabelSelector {
            match_labels: Some([label(name)].into()),
            ..LabelSelector::default()
        }]),
    });
    let rules = Some(rules.iter().map(|line| rule(line)).collect::<Vec<_>>()).filter(|rules| !rules.is_empty());
    ClusterRole { aggregation_rule, metadata, rules }
}

/// The rules of a role above.
pub(crate) fn rules_of(role: &str) -> Vec<PolicyRule> {
    let found = blocks(CLUSTER_ROLES).into_iter().find(|(head, _)| *head == role);
    found.map(|(_, rules)| rules.iter().map(|line| rule(line)).collect()).unwrap_or_default()
}

pub(crate) fn cluster_role_bindings() -> Vec<ClusterRoleBinding> {
    let own = blocks(CLUSTER_ROLE_BINDINGS).into_iter().map(|(name, subjects)| {
        let subjects = subjects.iter().map(|line| subject(line)).collect::<Vec<_>>();
        (name.to_owned(), Some(subjects).filter(|s| !s.is_empty()))
    });
    let controllers = blocks(CONTROLLER_ROLES).into_iter().map(|(name, _)| {
        let account = subject(&format!("account kube-system/{name}"));
        (format!("{CONTROLLER}{name}"), Some(vec![account]))
    });
    own.chain(controllers)
        .map(|(name, subjects)| ClusterRoleBinding {
            metadata: metadata(&name, None),
            role_ref: role_ref("ClusterRole", &name),
            subjects,
        })
        .collect()
}

/// In the namespaces `kube-system` and `kube-public`: the heads are `namespace/name`.
pub(crate) fn roles() -> Vec<Role> {
    let role = |(head, rules): (&'static str, Vec<&str>)| {
        let (namespace, name) = head.split_once('/').expect("the table names namespaces");
        let rules = rules.iter().map(|line| rule(line)).collect();
        Role { metadata: metadata(name, Some(namespace)), rules: Some(rules) }
    };
    blocks(ROLES).into_iter().map(role).collect()
}

/// The role has the binding's name where no other is behind `->`.
pub(crate) fn role_bindings() -> Vec<RoleBinding> {
    let binding = |(head, subjects): (&'static str, Vec<&str>)| {
        let (path, role) = head.split_once(" -> ").unwrap_or((head, ""));
        let (namespace, name) = path.split_once('/').expect("the table names namespaces");
        RoleBinding {
            metadata: metadata(name, Some(namespace)),
            role_ref: role_ref("Role", if role.is_empty() { name } else { role }),
            subjects: Some(subjects.iter().map(|line| subject(line)).collect()),
        }
    };
    blocks(ROLE_BINDINGS).into_iter().map(binding).collect()
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: Some(GROUP.to_owned()), kind: kind.to_owned(), name: name.to_owned() }
}

/// `user x`, `group x` or `account namespace/x`.
fn subject(line: &str) -> Subject {
    let (kind, name) = line.split_once(' ').expect("the table has a kind and a name");
    let (kind, group) = match kind {
        "user" => ("User", Some(GROUP.to_owned())),
        "group" => ("Group", Some(GROUP.to_owned())),
        _ => ("ServiceAccount", None),
    };
    let (namespace, name) = match name.split_once('/').filter(|_| kind == "ServiceAccount") {
        Some((namespace, name)) => (Some(namespace.to_owned()), name),
        None => (None, name),
    };
    Subject { api_group: group, kind: kind.to_owned(), name: name.to_owned(), namespace }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn tables_are_whole() {
        let roles = cluster_roles();
        let names: BTreeSet<&str> = roles.iter().filter_map(|r| r.metadata.name.as_deref()).collect();
        assert_eq!(names.len(), roles.len(), "no name twice");
        for role in &roles {
            for rule in role.rules.iter().flatten() {
                let urls = rule.non_resource_urls.is_some();
                assert!(
                    !rule.verbs.is_empty() && urls != (rule.api_groups.is_some() && rule.resources.is_some()),
                    "{role:?}"
                );
            }
        }
        for binding in cluster_role_bindings() {
            assert!(names.contains(binding.role_ref.name.as_str()), "{binding:?}");
        }
        let own: BTreeSet<_> = self::roles().into_iter().map(|r| (r.metadata.namespace, r.metadata.name)).collect();
        for binding in role_bindings() {
            let role = (binding.metadata.namespace.clone(), Some(binding.role_ref.name.clone()));
            assert!(own.contains(&role), "{binding:?}");
        }
        let edit = roles.iter().find(|r| r.metadata.name.as_deref() == Some("edit")).expect("edit");
        assert!(edit.rules.is_none() && edit.aggregation_rule.is_some());
        assert_eq!(
            edit.metadata.labels.as_ref().and_then(|l| l.get(&label("admin").0)).map(String::as_str),
            Some("true")
        );
        assert!(!rules_of("system:node").is_empty());
    }
}
