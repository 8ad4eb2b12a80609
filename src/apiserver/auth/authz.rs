//! The question that every request is asked, and who answers it: the group `system:masters` may do everything; then
//! the Node authorizer, then RBAC. See `docs/decisions/0009-authorization-as-upstream.md`.

use std::sync::Arc;

use skiff_api::ApiError;
use skiff_api::selector::FieldSelector;

use super::User;
use super::node::NodeAuthorizer;
use super::rbac::Rbac;
use crate::cache::Caches;

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// Of a list, a watch or a `deletecollection`.
    pub fields: Option<&'a FieldSelector>,
    /// For requests that name no resource; then the fields above but `verb` are empty.
    pub path: &'a str,
}

/// Nothing here ever forbids what another part allows, so there is no third answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// With what allows it.
    Allow(Option<Arc<str>>),
    /// With what stood in the way.
    NoOpinion(Option<Arc<str>>),
}

impl Decision {
    /// The refusal is upstream's.
    pub fn as_result(&self, user: &User, asked: &Attributes<'_>) -> Result<(), ApiError> {
        match self {
            Self::Allow(_) => Ok(()),
            Self::NoOpinion(reason) => Err(forbidden(user, asked, reason.as_deref())),
        }
    }
}

pub(crate) struct Authorizer {
    node: NodeAuthorizer,
    pub(super) rbac: Rbac,
}

impl Authorizer {
    pub fn new(caches: Caches<'_>) -> Self {
        Self { node: NodeAuthorizer::new(caches), rbac: Rbac::new(caches) }
    }

    pub fn decide(&self, user: &User, asked: &Attributes<'_>) -> Decision {
        if user.is_in("system:masters") {
            return Decision::Allow(None);
        }
        let node = match self.node.decide(user, asked) {
            Decision::NoOpinion(reason) => reason,
            allowed => return allowed,
        };
        match (node, self.rbac.decide(user, asked)) {
            (Some(node), Decision::NoOpinion(Some(rbac))) => {
                Decision::NoOpinion(Some(format!("{node}\n{rbac}").into()))
            }
            (Some(node), Decision::NoOpinion(None)) => Decision::NoOpinion(Some(node)),
            (_, decision) => decision,
        }
    }

    pub fn is_allowed(&self, user: &User, asked: &Attributes<'_>) -> bool {
        matches!(self.decide(user, asked), Decision::Allow(_))
    }

    pub fn authorize(&self, user: &User, asked: &Attributes<'_>) -> Result<(), ApiError> {
        self.decide(user, asked).as_result(user, asked)
    }

    /// All rules that can be told for the user in the namespace, whether those are all, and what is wrong with them.
    pub fn rules_of(
        &self,
        user: &User,
        namespace: &str,
    ) -> (Vec<k8s_openapi::api::rbac::v1::PolicyRule>, bool, Option<String>) {
        let (rules, unresolved) = self.rbac.rules_of(user, namespace);
        if super::node::name_of(user).is_some() {
            let why = "node authorizer does not support user rule resolution";
            let all = [Some(why.to_owned()), unresolved].into_iter().flatten().collect::<Vec<_>>();
            return (rules, true, Some(all.join(", ")));
        }
        let incomplete = unresolved.is_some();
        (rules, incomplete, unresolved)
    }
}

fn forbidden(user: &User, asked: &Attributes<'_>, reason: Option<&str>) -> ApiError {
    let because = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    if !asked.path.is_empty() {
        return ApiError::new(
            403,
            "Forbidden",
            format!("forbidden: User {:?} cannot {} path {:?}{because}", user.name, asked.verb, asked.path),
        );
    }
    let resource = match asked.subresource {
        "" => asked.resource.to_owned(),
        sub => format!("{}/{sub}", asked.resource),
    };
    let place = match asked.namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let why = format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?} {place}{because}",
        user.name, asked.verb, asked.group
    );
    ApiError::forbidden(asked.group, asked.resource, asked.name, &why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_upstreams() {
        let user = User::new("u", &[]);
        let list = Attributes { verb: "list", resource: "pods", namespace: "n", ..Attributes::default() };
        let log = Attributes { verb: "get", subresource: "log", name: "p", ..list };
        let node = Attributes { verb: "delete", resource: "nodes", name: "a", ..Attributes::default() };
        let path = Attributes { verb: "get", path: "/metrics", ..Attributes::default() };
        for (asked, reason, expect) in [
            (
                list,
                None,
                r#"pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "n""#,
            ),
            (
                log,
                Some("RBAC: x"),
                r#"pods "p" is forbidden: User "u" cannot get resource "pods/log" in API group "" in the namespace "n": RBAC: x"#,
            ),
            (
                node,
                None,
                r#"nodes "a" is forbidden: User "u" cannot delete resource "nodes" in API group "" at the cluster scope"#,
            ),
            (path, None, r#"forbidden: User "u" cannot get path "/metrics""#),
        ] {
            assert_eq!(forbidden(&user, &asked, reason).message, expect);
        }
    }
}
