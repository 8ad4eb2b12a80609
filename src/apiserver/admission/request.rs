//! What is asked of the plugins.

use serde_json::Value;
use skiff_api::{ApiError, Gvk, ObjectKey};

use crate::auth::User;
use crate::registry::Row;
use crate::server::Server;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    /// Exec, attach and the like, which write nothing.
    Connect,
}

/// One write, as the plugins see it.
pub(crate) struct Request<'a> {
    pub server: &'a Server,
    pub user: &'a User,
    pub row: &'a Row,
    pub operation: Operation,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// What is brought, where that is no object of the row's kind: an Eviction, a Scale, the options of a connection.
    pub of: Option<Gvk>,
    pub key: ObjectKey,
    /// As it was, for updates and deletes.
    pub old: Option<&'a Value>,
    pub dry_run: bool,
    /// `metav1.CreateOptions` and the like, as webhooks are shown them; null for connections.
    pub options: &'a Value,
}

impl Request<'_> {
    /// Whether it is about an object of the kind itself, by group and resource.
    pub fn is(&self, operation: Operation, group: &str, resource: &str) -> bool {
        self.operation == operation && self.subresource.is_empty() && self.row.is(group, resource)
    }

    pub fn forbidden(&self, why: &str) -> ApiError {
        ApiError::forbidden(self.row.group(), self.row.resource(), &self.key.name, why)
    }
}
