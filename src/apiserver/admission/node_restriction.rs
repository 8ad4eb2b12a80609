//! NodeRestriction: a node's parts may touch only what is that node's.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_api::ApiError;

use super::certificate;
use super::references::api_reference;
use super::request::{Operation, Request};
use crate::auth::node_of_user;

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";
/// Labels of Kubernetes' own that a kubelet sets.
const KUBELET_LABELS: [&str; 14] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
    "kubernetes.io/metadata.name",
    "node.kubernetes.io/exclude-from-external-load-balancers",
];
/// Domains in which a kubelet may set what it likes.
const KUBELET_DOMAINS: [&str; 2] = ["node.kubernetes.io", "kubelet.kubernetes.io"];

pub(super) fn check(request: &Request<'_>, object: Option<&Value>) -> Result<(), ApiError> {
    if request.operation == Operation::Connect {
        return Ok(());
    }
    let Some(node) = node_of_user(request.user) else { return Ok(()) };
    if node.is_empty() {
        return Err(request.forbidden(&format!("could not determine node from user {:?}", request.user.name)));
    }
    let why = match (request.row.group(), request.row.resource(), request.subresource) {
        ("", "pods", "") => check_pod(request, object, node),
        ("", "pods", "eviction") => stored_pod(request)
            .is_none_or(|pod| node_of(&pod) != node)
            .then(|| format!("node {node} can only evict pods with spec.nodeName set to itself")),
        ("", "pods", "status") => check_pod_status(request, object, node),
        ("", "pods", other) => {
            Some(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
        }
        ("", "nodes", _) => check_node(request, object, node),
        ("", "persistentvolumeclaims", "status") => check_claim_status(request, object, node),
        ("", "persistentvolumeclaims", _) => Some("may only update PVC status".to_owned()),
        ("coordination.k8s.io", "leases", _) => check_lease(request, node),
        ("certificates.k8s.io", "certificatesigningrequests", _) => check_signing(request, object),
        ("storage.k8s.io", "csinodes", _) => (&*request.key.name != node)
            .then(|| "can only access CSINode with the same name as the requesting node".to_owned()),
        ("resource.k8s.io", "resourceslices", _) => check_slice(request, object, node),
        _ => None,
    };
    match why {
        Some(why) => Err(request.forbidden(&why)),
        None => Ok(()),
    }
}

fn verb(request: &Request<'_>) -> &'static str {
    match request.operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

/// A node asks for certificates of its own name alone.
fn check_signing(request: &Request<'_>, object: Option<&Value>) -> Option<String> {
    let object = object.filter(|_| request.operation == Operation::Create)?;
    if !certificate::KUBELET_SIGNERS.iter().any(|signer| object["spec"]["signerName"] == *signer) {
        return None;
    }
    match certificate::parse(object) {
        Ok(parsed) if parsed.common_name == request.user.name => None,
        Ok(_) => Some(format!("can only create a node CSR with CN={}", request.user.name)),
        Err(error) => Some(format!("unable to parse csr: {error}")),
    }
}

fn node_of(pod: &Value) -> &str {
    pod["spec"]["nodeName"].as_str().unwrap_or_default()
}

/// The pod as it is stored, for requests that bring none.
fn stored_pod(request: &Request<'_>) -> Option<Value> {
    request.server.resource("pods").get(&request.key).map(|pod| pod.value())
}

fn check_pod(request: &Request<'_>, object: Option<&Value>, node: &str) -> Option<String> {
    match (request.operation, object) {
        (Operation::Create, Some(pod)) => check_new_pod(request, pod, node),
        (Operation::Delete, _) => {
            let is_own = stored_pod(request).is_some_and(|pod| node_of(&pod) == node);
            (!is_own).then(|| format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
        }
        _ => Some(format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            verb(request)
        )),
    }
}

/// Nodes make only the mirrors of their static pods.
fn check_new_pod(request: &Request<'_>, pod: &Value, node: &str) -> Option<String> {
    if pod["metadata"]["annotations"].get(MIRROR).is_none() {
        return Some(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
    }
    if node_of(pod) != node {
        return Some(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let uid = request.server.resource("nodes").find("", node).map(|node| node.meta.uid.to_string());
    let owners = pod["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(why) = check_owners(owners, node, uid.as_deref()) {
        return Some(why);
    }
    match api_reference(pod) {
        Ok(None) => None,
        Ok(Some(what)) => Some(format!("node {node:?} can not create pods that reference {what}")),
        Err(why) => Some(format!("error checking mirror pod for API references: {why}")),
    }
}

fn check_owners(owners: &[Value], node: &str, uid: Option<&str>) -> Option<String> {
    let [owner] = owners else {
        let an = if owners.is_empty() { "an" } else { "a single" };
        return Some(format!("node {node:?} can only create pods with {an} owner reference set to itself"));
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return Some(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if owner["controller"] != true {
        return Some(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
    }
    if owner["blockOwnerDeletion"] == true {
        return Some(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    (owner["uid"].as_str() != uid).then(|| {
        format!(
            "node {node} UID mismatch: expected {} got {}",
            owner["uid"].as_str().unwrap_or_default(),
            uid.unwrap_or_default()
        )
    })
}

fn check_pod_status(request: &Request<'_>, object: Option<&Value>, node: &str) -> Option<String> {
    let (Operation::Update, Some(new), Some(old)) = (request.operation, object, request.old) else {
        return Some(format!("unexpected operation {:?}", verb(request)));
    };
    if node_of(old) != node {
        return Some(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    plan_pod_status(new, old).map(|what| format!("node {node:?} cannot update {what}"))
}

/// What a node changes with a pod's status that is not its to change.
fn plan_pod_status(new: &Value, old: &Value) -> Option<&'static str> {
    let labels = |pod: &Value| pod["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    let claims = |pod: &Value| {
        let all = pod["status"]["resourceClaimStatuses"].as_array().cloned().unwrap_or_default();
        all.into_iter().map(|one| [one["name"].clone(), one["resourceClaimName"].clone()]).collect::<Vec<_>>()
    };
    let extended = |pod: &Value| {
        let status = &pod["status"]["extendedResourceClaimStatus"];
        let mappings = status["requestMappings"].as_array().cloned().unwrap_or_default();
        (status.is_object(), status["resourceClaimName"].clone(), mappings)
    };
    if labels(old) != labels(new) {
        return Some("labels through pod status");
    }
    if claims(old) != claims(new) {
        // As upstream writes it.
        return Some("resource claim statues");
    }
    (extended(old) != extended(new)).then_some("extended resource claim status")
}

fn check_claim_status(request: &Request<'_>, object: Option<&Value>, node: &str) -> Option<String> {
    let (Operation::Update, Some(new), Some(old)) = (request.operation, object, request.old) else {
        return Some(format!("unexpected operation {:?}", verb(request)));
    };
    (but_for_size(new) != but_for_size(old)).then(|| {
        format!("node {node:?} is not allowed to update fields other than status.quantity and status.conditions")
    })
}

/// A claim without what a node says of its size.
fn but_for_size(claim: &Value) -> Value {
    let mut rest = claim.clone();
    for (of, fields) in [
        ("status", ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"].as_slice()),
        ("metadata", &["resourceVersion", "managedFields"]),
    ] {
        let Some(map) = rest.get_mut(of).and_then(Value::as_object_mut) else { continue };
        map.retain(|field, _| !fields.contains(&field.as_str()));
        if map.is_empty()
            && let Some(rest) = rest.as_object_mut()
        {
            rest.remove(of);
        }
    }
    rest
}

/// Others of these requests are the Node authorizer's: it sees what is asked for, but not what is brought.
fn check_slice(request: &Request<'_>, object: Option<&Value>, node: &str) -> Option<String> {
    let is_own = |slice: &Value| slice["spec"]["nodeName"] == node;
    match (request.operation, object) {
        (Operation::Create, Some(slice)) => (!is_own(slice))
            .then(|| "can only create ResourceSlice with the same NodeName as the requesting node".to_owned()),
        (Operation::Delete, _) => {
            let stored = request.server.resource("resource.k8s.io/resourceslices").get(&request.key);
            (!stored.is_some_and(|slice| is_own(&slice.value())))
                .then(|| "can only delete ResourceSlice with the same NodeName as the requesting node".to_owned())
        }
        _ => None,
    }
}

fn check_lease(request: &Request<'_>, node: &str) -> Option<String> {
    if &*request.key.namespace != LEASES {
        return Some(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    (&*request.key.name != node)
        .then(|| "can only access node lease with the same name as the requesting node".to_owned())
}

fn check_node(request: &Request<'_>, object: Option<&Value>, node: &str) -> Option<String> {
    if &*request.key.name != node {
        return Some(format!("node {node:?} is not allowed to modify node {:?}", request.key.name));
    }
    let new = object?;
    match request.operation {
        Operation::Create => {
            if new["spec"]["configSource"].is_object() {
                return Some(format!("node {node:?} is not allowed to create pods with a non-nil configSource"));
            }
            let wrong = forbidden_labels(new, &Value::Null);
            let labels = wrong.join(", ");
            (!wrong.is_empty()).then(|| format!("node {node:?} is not allowed to set the following labels: {labels}"))
        }
        Operation::Update => check_node_update(new, request.old?, node),
        Operation::Delete | Operation::Connect => None,
    }
}

fn check_node_update(new: &Value, old: &Value, node: &str) -> Option<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let source = &new["spec"]["configSource"];
    if source.is_object() && *source != old["spec"]["configSource"] {
        return Some(format!("node {node:?} is not allowed to update configSource to a new non-nil configSource"));
    }
    if list(&new["spec"]["taints"]) != list(&old["spec"]["taints"]) {
        return Some(format!("node {node:?} is not allowed to modify taints"));
    }
    if list(&new["metadata"]["ownerReferences"]) != list(&old["metadata"]["ownerReferences"]) {
        return Some(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    let wrong = forbidden_labels(new, old);
    (!wrong.is_empty()).then(|| format!("is not allowed to modify labels: {}", wrong.join(", ")))
}

/// Labels that were changed and are not the kubelet's to change, sorted.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let none = serde_json::Map::new();
    let labels = |node: &'_ Value| node["metadata"]["labels"].as_object().cloned().unwrap_or_else(|| none.clone());
    let (new, old) = (labels(new), labels(old));
    let keys: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    keys.into_iter().filter(|key| new.get(*key) != old.get(*key) && is_forbidden(key)).cloned().collect()
}

fn is_forbidden(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return false };
    let is_in = |parent: &str| domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    if is_in("node-restriction.kubernetes.io") {
        return true;
    }
    let is_kubelets = KUBELET_LABELS.contains(&label) || KUBELET_DOMAINS.iter().any(|parent| is_in(parent));
    (is_in("kubernetes.io") || is_in("k8s.io")) && !is_kubelets
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_of_kubernetes_are_not_the_nodes_to_set() {
        for (label, expect) in [
            ("disk", false),
            ("example.org/disk", false),
            ("kubernetes.io/hostname", false),
            ("node.kubernetes.io/anything", false),
            ("sub.kubelet.kubernetes.io/anything", false),
            ("node-role.kubernetes.io/control-plane", true),
            ("kubernetes.io/other", true),
            ("x.k8s.io/other", true),
            ("notk8s.io/other", false),
            ("node-restriction.kubernetes.io/x", true),
            ("a.node-restriction.kubernetes.io/x", true),
        ] {
            assert_eq!(is_forbidden(label), expect, "{label}");
        }
        let node = |labels: Value| json!({"metadata": {"labels": labels}});
        let old = node(json!({"kubernetes.io/a": "1", "kubernetes.io/b": "1", "c": "1"}));
        let new = node(json!({"kubernetes.io/a": "2", "c": "2", "x.k8s.io/d": ""}));
        assert_eq!(forbidden_labels(&new, &old), ["kubernetes.io/a", "kubernetes.io/b", "x.k8s.io/d"]);
        assert_eq!(forbidden_labels(&old, &old), Vec::<String>::new());
    }

    #[test]
    fn nodes_keep_their_taints() {
        let node = |taints: Value| json!({"metadata": {}, "spec": {"taints": taints}});
        let taint = json!([{"key": "a", "effect": "NoSchedule"}]);
        assert_eq!(check_node_update(&node(taint.clone()), &node(taint.clone()), "n"), None);
        assert_eq!(
            check_node_update(&node(json!(null)), &node(taint), "n").as_deref(),
            Some("node \"n\" is not allowed to modify taints")
        );
    }

    #[test]
    fn what_a_status_may_not_change() {
        let pod = |labels: Value, status: Value| json!({"metadata": {"labels": labels}, "status": status});
        let old = pod(json!({"a": "b"}), json!({"resourceClaimStatuses": [{"name": "c", "resourceClaimName": "d"}]}));
        let check = |new: Value, expect: Option<&str>| assert_eq!(plan_pod_status(&new, &old), expect, "{new}");
        let claims = old["status"]["resourceClaimStatuses"].clone();
        check(pod(json!({"a": "b"}), json!({"phase": "Running", "resourceClaimStatuses": claims})), None);
        check(pod(json!({}), old["status"].clone()), Some("labels through pod status"));
        check(pod(json!({"a": "b"}), json!({})), Some("resource claim statues"));
        let extended =
            json!({"resourceClaimStatuses": claims, "extendedResourceClaimStatus": {"resourceClaimName": "e"}});
        check(pod(json!({"a": "b"}), extended), Some("extended resource claim status"));

        let claim = |labels: Value, status: Value| json!({"metadata": {"labels": labels, "resourceVersion": "1"}, "status": status});
        let grown =
            claim(json!({}), json!({"capacity": {"storage": "2Gi"}, "conditions": [{"type": "a"}], "phase": "Bound"}));
        assert_eq!(but_for_size(&grown), but_for_size(&claim(json!({}), json!({"phase": "Bound"}))));
        assert_ne!(but_for_size(&grown), but_for_size(&claim(json!({}), json!({"phase": "Lost"}))));
        assert_ne!(but_for_size(&grown), but_for_size(&claim(json!({"a": "b"}), json!({"phase": "Bound"}))));
    }

    #[test]
    fn mirrors_belong_to_their_node() {
        let owner = |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid, "controller": true});
        assert_eq!(check_owners(&[owner("n", "u")], "n", Some("u")), None);
        for owners in [vec![], vec![owner("m", "u")], vec![owner("n", "v")], vec![owner("n", "u"), owner("n", "u")]] {
            assert!(check_owners(&owners, "n", Some("u")).is_some(), "{owners:?}");
        }
    }
}
