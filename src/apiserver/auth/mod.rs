//! Who asks, and what they may do.

mod authn;
mod authz;
mod impersonate;
mod node;
pub(crate) mod rbac;

use std::sync::LazyLock;

pub(crate) use authn::{API_AUDIENCE, ISSUER, certificate_user};
pub(crate) use authz::{Attributes, Authorizer, Decision};
pub(crate) use impersonate::impersonate;
pub(crate) use node::{name_of as node_of_user, names_in};
pub(crate) use rbac::only_lets_go;

/// Who shows neither certificate nor token.
pub(crate) const ANONYMOUS: &str = "system:anonymous";

/// An authenticated identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub name: String,
    pub groups: Vec<String>,
    pub uid: String,
    pub extra: Vec<(String, Vec<String>)>,
}

impl User {
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        Self { name: name.to_owned(), groups, ..Self::default() }
    }

    /// The API server itself, for what it does unasked.
    pub fn server() -> &'static Self {
        static SERVER: LazyLock<User> = LazyLock::new(|| User::new("system:apiserver", &["system:masters"]));
        &SERVER
    }

    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, &["system:unauthenticated"])
    }

    pub fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}
