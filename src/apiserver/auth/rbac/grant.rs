//! Nobody grants what they do not hold: what upstream checks before roles and bindings are written.

use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};
use serde::Deserialize;
use serde_json::Value;
use skiff_api::ApiError;

use super::defaults::GROUP;
use super::rule::{compact, describe, missing, quoted};
use crate::auth::{Attributes, Authorizer, User};
use crate::call::Target;
use crate::meta;
use crate::registry::Row;

impl Authorizer {
    /// Whether the user may write this role or binding, beyond being allowed to write such objects. `old` is what it
    /// replaces. Everything else passes.
    pub(crate) fn check_grant(
        &self,
        user: &User,
        row: &Row,
        target: &Target,
        old: Option<&Value>,
        new: &Value,
    ) -> Result<(), ApiError> {
        if row.group() != GROUP || user.is_in("system:masters") || old.is_some_and(|old| only_lets_go(old, new)) {
            return Ok(());
        }
        match row.resource() {
            "roles" | "clusterroles" => self.check_role(user, row, target, old, new),
            "rolebindings" | "clusterrolebindings" => self.check_binding(user, row, target, new),
            _ => Ok(()),
        }
    }

    fn check_role(
        &self,
        user: &User,
        row: &Row,
        target: &Target,
        old: Option<&Value>,
        new: &Value,
    ) -> Result<(), ApiError> {
        let escalate = Attributes {
            verb: "escalate",
            group: GROUP,
            resource: row.resource(),
            namespace: &target.namespace,
            name: &target.name,
            ..Attributes::default()
        };
        if self.is_allowed(user, &escalate) {
            return Ok(());
        }
        let forbid = |why: &str| ApiError::forbidden(GROUP, row.resource(), meta::text(new, "name"), why);
        // What can't be read is refused by the validation.
        let rules = Option::<Vec<PolicyRule>>::deserialize(&new["rules"]).ok().flatten().unwrap_or_default();
        self.check_held(user, &target.namespace, &rules).map_err(|why| forbid(&why))?;
        let aggregates = |object: &Value| object.get("aggregationRule").is_some_and(|rule| !rule.is_null());
        if aggregates(new) || old.is_some_and(aggregates) {
            // It can gather anything.
            let everything = [super::defaults::rule("* | * | *"), super::defaults::rule("* | *")];
            self.check_held(user, &target.namespace, &everything)
                .map_err(|_| forbid("must have cluster-admin privileges to use an aggregationRule"))?;
        }
        Ok(())
    }

    fn check_binding(&self, user: &User, row: &Row, target: &Target, new: &Value) -> Result<(), ApiError> {
        let Ok(role) = RoleRef::deserialize(&new["roleRef"]) else { return Ok(()) };
        let resource = match role.kind.as_str() {
            "ClusterRole" => "clusterroles",
            "Role" => "roles",
            // The validation says what kinds there are.
            _ => return Ok(()),
        };
        let bind = Attributes {
            verb: "bind",
            group: GROUP,
            resource,
            namespace: &target.namespace,
            name: &role.name,
            ..Attributes::default()
        };
        if self.is_allowed(user, &bind) {
            return Ok(());
        }
        let found = self.rbac.resolve(&role, &target.namespace);
        let Ok(rules) = found.rules() else {
            return Err(ApiError::not_found(GROUP, resource.trim_end_matches('s'), &role.name));
        };
        self.check_held(user, &target.namespace, rules)
            .map_err(|why| ApiError::forbidden(GROUP, row.resource(), meta::text(new, "name"), &why))
    }

    /// The error is upstream's sentence.
    fn check_held(&self, user: &User, namespace: &str, wanted: &[PolicyRule]) -> Result<(), String> {
        let (held, unresolved) = self.rbac.rules_of(user, namespace);
        let lacking = missing(&held.iter().collect::<Vec<_>>(), &wanted.iter().collect::<Vec<_>>());
        if lacking.is_empty() {
            return Ok(());
        }
        let mut why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            quoted(&user.groups),
            describe(&compact(lacking))
        );
        if let Some(unresolved) = unresolved {
            why.push_str(&format!("; resolution errors: [{unresolved}]"));
        }
        Err(why)
    }
}

/// Whether the change only takes away owners and finalizers, as the garbage collector does.
pub(crate) fn only_lets_go(old: &Value, new: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        let map = meta::of(&mut object);
        for field in ["ownerReferences", "finalizers", "resourceVersion", "managedFields"] {
            map.remove(field);
        }
        object
    };
    let fewer = |field: &str| {
        let list = |object: &Value| object["metadata"][field].as_array().cloned().unwrap_or_default();
        let known = list(old);
        list(new).iter().all(|one| known.contains(one))
    };
    bare(old) == bare(new) && fewer("ownerReferences") && fewer("finalizers")
}
