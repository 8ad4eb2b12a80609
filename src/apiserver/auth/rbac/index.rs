//! What is bound to whom.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::Metadata;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use skiff_base::chain;

use super::Rbac;
use crate::auth::User;
use crate::cache::ResourceCache;

/// One role, as bound to one subject.
pub(super) struct Grant {
    role: RoleRules,
    /// Why what it allows is allowed.
    pub reason: Arc<str>,
}

#[derive(Clone)]
pub(super) enum RoleRules {
    Cluster(Arc<ClusterRole>),
    Namespaced(Arc<Role>),
    /// Why there are none.
    Missing(Arc<str>),
}

impl RoleRules {
    pub fn rules(&self) -> Result<&[PolicyRule], &str> {
        match self {
            Self::Cluster(role) => Ok(role.rules.as_deref().unwrap_or_default()),
            Self::Namespaced(role) => Ok(role.rules.as_deref().unwrap_or_default()),
            Self::Missing(why) => Err(why),
        }
    }
}

impl Grant {
    pub fn rules(&self) -> Result<&[PolicyRule], &str> {
        self.role.rules()
    }
}

#[derive(Default)]
struct Held {
    everywhere: Vec<Grant>,
    in_namespace: HashMap<String, Vec<Grant>>,
}

#[derive(Default)]
pub(super) struct Index {
    /// The counts of changes of the caches that it was made from.
    pub changes: [u64; 4],
    /// Service accounts among them, by their names as users.
    users: HashMap<String, Held>,
    groups: HashMap<String, Held>,
}

impl Index {
    pub fn new(changes: [u64; 4], from: &Rbac) -> Self {
        let mut index = Self { changes, ..Self::default() };
        for binding in typed::<ClusterRoleBinding>(&from.cluster_role_bindings) {
            let name = binding.metadata.name.as_deref().unwrap_or_default();
            let role = from.resolve(&binding.role_ref, "");
            let what = format!("ClusterRoleBinding {name:?} of {}", of_role(&binding.role_ref));
            for subject in binding.subjects.iter().flatten() {
                index.add(subject, "", &what, &role);
            }
        }
        for binding in typed::<RoleBinding>(&from.role_bindings) {
            let name = binding.metadata.name.as_deref().unwrap_or_default();
            let namespace = binding.metadata.namespace.as_deref().unwrap_or_default();
            let role = from.resolve(&binding.role_ref, namespace);
            let what = format!("RoleBinding {:?} of {}", format!("{name}/{namespace}"), of_role(&binding.role_ref));
            for subject in binding.subjects.iter().flatten() {
                index.add(subject, namespace, &what, &role);
            }
        }
        index
    }

    /// `namespace` is the binding's; empty for a cluster role binding.
    fn add(&mut self, subject: &Subject, namespace: &str, what: &str, role: &RoleRules) {
        let name = &subject.name;
        let own = subject.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace);
        let (held, shown) = match subject.kind.as_str() {
            "User" => (self.users.entry(name.clone()).or_default(), name.clone()),
            "Group" => (self.groups.entry(name.clone()).or_default(), name.clone()),
            "ServiceAccount" if !own.is_empty() => {
                let user = format!("system:serviceaccount:{own}:{name}");
                (self.users.entry(user).or_default(), format!("{name}/{own}"))
            }
            _ => return,
        };
        let reason = format!("RBAC: allowed by {what} to {} {shown:?}", subject.kind).into();
        let grant = Grant { role: role.clone(), reason };
        match namespace {
            "" => held.everywhere.push(grant),
            namespace => held.in_namespace.entry(namespace.to_owned()).or_default().push(grant),
        }
    }

    /// What the user has by name and by groups: for everything first, then for the namespace.
    pub fn grants<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = &'a Grant> {
        let held = || {
            let groups = user.groups.iter().filter_map(|group| self.groups.get(group));
            self.users.get(&user.name).into_iter().chain(groups)
        };
        let here = held().filter_map(move |held| held.in_namespace.get(namespace)).flatten();
        held().flat_map(|held| &held.everywhere).chain(here)
    }
}

impl Rbac {
    /// The role that a binding in this namespace means.
    pub(super) fn resolve(&self, role: &RoleRef, namespace: &str) -> RoleRules {
        let missing = |kind: &str| {
            let why = format!("{kind}.rbac.authorization.k8s.io {:?} not found", role.name);
            RoleRules::Missing(why.into())
        };
        match role.kind.as_str() {
            "ClusterRole" => match one(&self.cluster_roles, "", &role.name) {
                Some(found) => RoleRules::Cluster(found),
                None => missing("clusterrole"),
            },
            "Role" => match one(&self.roles, namespace, &role.name) {
                Some(found) => RoleRules::Namespaced(found),
                None => missing("role"),
            },
            kind => RoleRules::Missing(format!("unsupported role reference kind: {kind:?}").into()),
        }
    }
}

fn of_role(role: &RoleRef) -> String {
    format!("{} {:?}", role.kind, role.name)
}

fn one<K>(cache: &ResourceCache, namespace: &str, name: &str) -> Option<Arc<K>>
where
    K: DeserializeOwned + Metadata<Ty = ObjectMeta> + Send + Sync + 'static,
{
    readable(&*cache.find(namespace, name)?)
}

fn typed<K>(cache: &ResourceCache) -> Vec<Arc<K>>
where
    K: DeserializeOwned + Metadata<Ty = ObjectMeta> + Send + Sync + 'static,
{
    cache.all().iter().filter_map(|object| readable(object)).collect()
}

fn readable<K>(object: &skiff_api::Object) -> Option<Arc<K>>
where
    K: DeserializeOwned + Metadata<Ty = ObjectMeta> + Send + Sync + 'static,
{
    match object.typed() {
        Ok(typed) => Some(typed),
        Err(error) => {
            tracing::error!(object = %object.key(), error = %chain(&error), "a stored object of RBAC can't be read");
            None
        }
    }
}
