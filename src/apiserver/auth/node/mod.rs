//! The Node authorizer: a kubelet reads and changes what belongs to its node, and nothing else.
//!
//! Which secrets, config maps, claims, volumes and service accounts belong to a node follows from the pods that are
//! bound to it ([`relations`]). What is not divided by nodes is decided by the rules of the role `system:node`.

mod relations;

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::PolicyRule;

pub(crate) use self::relations::names_in;
use self::relations::{Relations, What};
use super::User;
use super::authz::{Attributes, Decision};
use super::rbac::{allows, defaults};
use crate::cache::Caches;

const LEASES: &str = "kube-node-lease";

/// The name of the node that the user is; `None`: it is no node.
pub(crate) fn name_of(user: &User) -> Option<&str> {
    user.name.strip_prefix("system:node:").filter(|_| user.is_in("system:nodes"))
}

pub(crate) struct NodeAuthorizer {
    rules: Vec<PolicyRule>,
    relations: Relations,
}

/// `Err` with why there is no opinion; an empty text is no reason.
type Verdict = Result<(), String>;

fn no<T>(why: &str) -> Result<T, String> {
    Err(why.to_owned())
}

impl NodeAuthorizer {
    pub fn new(caches: Caches<'_>) -> Self {
        Self { rules: defaults::rules_of("system:node"), relations: Relations::new(caches) }
    }

    pub fn decide(&self, user: &User, asked: &Attributes<'_>) -> Decision {
        let Some(node) = name_of(user) else { return Decision::NoOpinion(None) };
        let verdict = match node {
            "" => Err(format!("unknown node for user {:?}", user.name)),
            node => self.judge(node, asked),
        };
        match verdict {
            Ok(()) => Decision::Allow(None),
            Err(why) => Decision::NoOpinion((!why.is_empty()).then(|| Arc::from(why))),
        }
    }

    fn judge(&self, node: &str, asked: &Attributes<'_>) -> Verdict {
        match (asked.group, asked.resource) {
            _ if !asked.path.is_empty() => self.by_rules(asked),
            ("", "secrets") => self.read_namespaced(node, What::Secret, asked),
            ("", "configmaps") => self.read_namespaced(node, What::ConfigMap, asked),
            ("", "persistentvolumeclaims") if asked.subresource == "status" => match asked.verb {
                "get" | "update" | "patch" => self.related(node, What::Claim, asked),
                _ => no("can only get/update/patch this type"),
            },
            ("", "persistentvolumeclaims") => self.get_one(node, What::Claim, asked),
            ("", "persistentvolumes") => self.get_one(node, What::Volume, asked),
            ("resource.k8s.io", "resourceclaims") => self.get_one(node, What::ResourceClaim, asked),
            ("storage.k8s.io", "volumeattachments") => self.get_one(node, What::Attachment, asked),
            ("", "serviceaccounts") => self.service_account(node, asked),
            ("coordination.k8s.io", "leases") => lease(node, asked),
            ("storage.k8s.io", "csinodes") => csi_node(node, asked),
            ("resource.k8s.io", "resourceslices") => self.resource_slice(node, asked),
            ("", "nodes") => own_node(node, asked),
            ("", "pods") => self.pod(node, asked),
            _ => self.by_rules(asked),
        }
    }

    fn by_rules(&self, asked: &Attributes<'_>) -> Verdict {
        if self.rules.iter().any(|rule| allows(rule, asked)) { Ok(()) } else { no("") }
    }

    fn related(&self, node: &str, what: What, asked: &Attributes<'_>) -> Verdict {
        if asked.name.is_empty() {
            return no("No Object name found");
        }
        if self.relations.has(node, what, asked.namespace, asked.name) {
            return Ok(());
        }
        Err(format!("no relationship found between node '{node}' and this object"))
    }

    fn read_namespaced(&self, node: &str, what: What, asked: &Attributes<'_>) -> Verdict {
        if !matches!(asked.verb, "get" | "list" | "watch") {
            return no("can only read resources of this type");
        }
        if !asked.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if asked.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(node, what, asked)
    }

    fn get_one(&self, node: &str, what: What, asked: &Attributes<'_>) -> Verdict {
        if asked.verb != "get" {
            return no("can only get individual resources of this type");
        }
        if !asked.subresource.is_empty() {
            return no("cannot get subresource");
        }
        self.related(node, what, asked)
    }

    fn service_account(&self, node: &str, asked: &Attributes<'_>) -> Verdict {
        match (asked.subresource, asked.verb) {
            ("", "get") => self.related(node, What::ServiceAccount, asked),
            ("", _) => no("can only get individual service accounts"),
            ("token", "create") if !asked.name.is_empty() => self.related(node, What::ServiceAccount, asked),
            ("token", _) => no("can only create tokens for individual service accounts"),
            _ => no("can only create token subresource of serviceaccount"),
        }
    }

    fn resource_slice(&self, node: &str, asked: &Attributes<'_>) -> Verdict {
        if !asked.subresource.is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match asked.verb {
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(node, What::Slice, asked),
            "list" | "watch" | "deletecollection" if selects(asked, "spec.nodeName", node) => Ok(()),
            "list" | "watch" | "deletecollection" => {
                no("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, \
                     delete, deletecollection",
            ),
        }
    }

    fn pod(&self, node: &str, asked: &Attributes<'_>) -> Verdict {
        match (asked.subresource, asked.verb) {
            ("", "get") => self.related(node, What::Pod, asked),
            ("", "list" | "watch") if selects(asked, "spec.nodeName", node) => Ok(()),
            ("", "list" | "watch") if !asked.name.is_empty() => self.related(node, What::Pod, asked),
            ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => no(""),
        }
    }
}

fn selects(asked: &Attributes<'_>, field: &str, node: &str) -> bool {
    asked.fields.and_then(|fields| fields.requires_exact(field)) == Some(node)
}

fn lease(node: &str, asked: &Attributes<'_>) -> Verdict {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if asked.namespace != LEASES {
        return Err(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    // A new one has no name yet.
    if asked.verb != "create" && asked.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn csi_node(node: &str, asked: &Attributes<'_>) -> Verdict {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !asked.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if asked.verb != "create" && asked.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    Ok(())
}

/// By name, since a kubelet looks for its node before that exists.
fn own_node(node: &str, asked: &Attributes<'_>) -> Verdict {
    match (asked.subresource, asked.verb, asked.name) {
        ("", "create" | "update" | "patch", _) | ("status", "update" | "patch", _) => Ok(()),
        ("", "get" | "list" | "watch", name) if name == node => Ok(()),
        ("", "get" | "list" | "watch", "") => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch", name) => {
            Err(format!("node '{node}' cannot read '{name}', only its own Node object"))
        }
        _ => no(""),
    }
}

#[cfg(test)]
mod tests;
