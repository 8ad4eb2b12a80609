//! RBAC: who may do what, by the roles that are bound to them.
//!
//! ```text
//! watch cache: roles, bindings -> Index (by subject, then namespace) -> one walk over the subject's rules
//! ```
//!
//! The index is made anew when one of the four caches has changed since, by the next request that needs it. Roles and
//! bindings are the caches' typed objects; the index holds references to them.

pub(crate) mod defaults;
mod grant;
mod index;
mod reconcile;
mod rule;

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use k8s_openapi::api::rbac::v1::PolicyRule;

pub(crate) use self::grant::only_lets_go;
use self::index::Index;
pub(crate) use self::rule::{allows, quoted};
use super::User;
use super::authz::{Attributes, Decision};
use crate::cache::{Caches, ResourceCache};

pub(crate) struct Rbac {
    cluster_roles: Arc<ResourceCache>,
    cluster_role_bindings: Arc<ResourceCache>,
    roles: Arc<ResourceCache>,
    role_bindings: Arc<ResourceCache>,
    index: ArcSwap<Index>,
    /// Held while the index is made anew, so that it is made once.
    making: Mutex<()>,
}

impl Rbac {
    pub fn new(caches: Caches<'_>) -> Self {
        let of = |resource: &str| caches(&format!("{}/{resource}", defaults::GROUP));
        Self {
            cluster_roles: of("clusterroles"),
            cluster_role_bindings: of("clusterrolebindings"),
            roles: of("roles"),
            role_bindings: of("rolebindings"),
            index: ArcSwap::from_pointee(Index::default()),
            making: Mutex::new(()),
        }
    }

    pub fn decide(&self, user: &User, asked: &Attributes<'_>) -> Decision {
        let index = self.index();
        let mut failures: Vec<&str> = Vec::new();
        for grant in index.grants(user, asked.namespace) {
            match grant.rules() {
                Ok(rules) if rules.iter().any(|rule| allows(rule, asked)) => {
                    return Decision::Allow(Some(grant.reason.clone()));
                }
                Ok(_) => {}
                Err(failure) if failures.contains(&failure) => {}
                Err(failure) => failures.push(failure),
            }
        }
        Decision::NoOpinion(resolution(&failures).map(|text| format!("RBAC: {text}").into()))
    }

    /// All rules that the user has in the namespace, and what could not be found.
    pub fn rules_of(&self, user: &User, namespace: &str) -> (Vec<PolicyRule>, Option<String>) {
        let index = self.index();
        let (mut rules, mut failures) = (Vec::new(), Vec::new());
        for grant in index.grants(user, namespace) {
            match grant.rules() {
                Ok(found) => rules.extend_from_slice(found),
                Err(failure) if failures.contains(&failure) => {}
                Err(failure) => failures.push(failure),
            }
        }
        (rules, resolution(&failures))
    }

    fn index(&self) -> Arc<Index> {
        let index = self.index.load();
        if index.changes == self.changes() {
            return Arc::clone(&index);
        }
        drop(index);
        let _making = self.making.lock().expect("making the index does not panic");
        // Read before the objects: what changes in between is noticed by the next request.
        let changes = self.changes();
        let index = self.index.load_full();
        if index.changes == changes {
            return index;
        }
        let index = Arc::new(Index::new(changes, self));
        self.index.store(index.clone());
        index
    }

    fn changes(&self) -> [u64; 4] {
        [&self.cluster_roles, &self.cluster_role_bindings, &self.roles, &self.role_bindings].map(|c| c.changes())
    }
}

/// Several failures as upstream writes them.
fn resolution(failures: &[&str]) -> Option<String> {
    match failures {
        [] => None,
        [one] => Some((*one).to_owned()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

#[cfg(test)]
mod tests;
