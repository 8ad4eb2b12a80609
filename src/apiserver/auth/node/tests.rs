use serde_json::json;
use skiff_api::Object;
use skiff_api::selector::FieldSelector;

use super::*;
use crate::cache::Bare;

#[test]
fn a_node_sees_what_is_its_own() {
    let cache = Bare::default();
    let authorizer = NodeAuthorizer::new(&|resource| cache.resource(resource));
    let put = |resource: &str, object: serde_json::Value| {
        cache.resource(resource).put(Arc::new(Object::from_wire(object).expect("an object")));
    };
    put(
        "pods",
        json!({"metadata": {"name": "p", "namespace": "a", "uid": "1", "resourceVersion": "1"}, "spec": {
        "nodeName": "n", "serviceAccountName": "sa", "containers": [],
        "volumes": [{"name": "s", "secret": {"secretName": "s"}}, {"name": "d", "persistentVolumeClaim": {"claimName": "d"}}]}}),
    );
    put(
        "pods",
        json!({"metadata": {"name": "q", "namespace": "a", "uid": "2", "resourceVersion": "2"}, "spec": {
        "nodeName": "m", "containers": [], "volumes": [{"name": "s", "secret": {"secretName": "t"}}]}}),
    );
    put(
        "persistentvolumes",
        json!({"metadata": {"name": "v", "uid": "3", "resourceVersion": "3"},
        "spec": {"claimRef": {"namespace": "a", "name": "d"}, "csi": {"nodeStageSecretRef": {"name": "vs", "namespace": "k"}}}}),
    );
    let node = User::new("system:node:n", &["system:nodes", "system:authenticated"]);
    let on = FieldSelector::parse("spec.nodeName=n").expect("a selector");
    let off = FieldSelector::parse("spec.nodeName=m").expect("a selector");
    let ask = |verb, resource, subresource, namespace, name| Attributes {
        verb,
        resource,
        subresource,
        namespace,
        name,
        ..Attributes::default()
    };
    let none = "no relationship found between node 'n' and this object";
    for (asked, expect) in [
        (ask("get", "secrets", "", "a", "s"), Ok(())),
        (ask("watch", "secrets", "", "a", "s"), Ok(())),
        (ask("get", "secrets", "", "a", "t"), Err(none)),
        (ask("get", "secrets", "", "b", "s"), Err(none)),
        (ask("list", "secrets", "", "a", ""), Err("No Object name found")),
        (ask("list", "secrets", "", "", ""), Err("can only read namespaced object of this type")),
        (ask("delete", "secrets", "", "a", "s"), Err("can only read resources of this type")),
        (ask("get", "secrets", "", "k", "vs"), Ok(())),
        (ask("get", "persistentvolumes", "", "", "v"), Ok(())),
        (ask("get", "persistentvolumeclaims", "", "a", "d"), Ok(())),
        (ask("patch", "persistentvolumeclaims", "status", "a", "d"), Ok(())),
        (ask("list", "persistentvolumes", "", "", ""), Err("can only get individual resources of this type")),
        (ask("create", "serviceaccounts", "token", "a", "sa"), Ok(())),
        (ask("create", "serviceaccounts", "token", "a", "other"), Err(none)),
        (ask("get", "nodes", "", "", "n"), Ok(())),
        (ask("get", "nodes", "", "", "m"), Err("node 'n' cannot read 'm', only its own Node object")),
        (ask("list", "nodes", "", "", ""), Err("node 'n' cannot read all nodes, only its own Node object")),
        (ask("delete", "nodes", "", "", "n"), Err("")),
        (ask("get", "pods", "", "a", "p"), Ok(())),
        (ask("get", "pods", "", "a", "q"), Err(none)),
        (Attributes { fields: Some(&on), ..ask("list", "pods", "", "", "") }, Ok(())),
        (
            Attributes { fields: Some(&off), ..ask("list", "pods", "", "", "") },
            Err("can only list/watch pods with spec.nodeName field selector"),
        ),
        (ask("patch", "pods", "status", "a", "q"), Ok(())),
        (ask("list", "services", "", "", ""), Ok(())),
        (ask("create", "services", "", "a", ""), Err("")),
        (Attributes { group: "coordination.k8s.io", ..ask("update", "leases", "", LEASES, "n") }, Ok(())),
        (
            Attributes { group: "coordination.k8s.io", ..ask("update", "leases", "", LEASES, "m") },
            Err("can only access node lease with the same name as the requesting node"),
        ),
        (
            Attributes { group: "coordination.k8s.io", ..ask("get", "leases", "", "a", "n") },
            Err("can only access leases in the \"kube-node-lease\" system namespace"),
        ),
    ] {
        assert_eq!(authorizer.judge("n", &asked), expect.map_err(str::to_owned), "{asked:?}");
    }
    let secret = ask("get", "secrets", "", "a", "t");
    assert_eq!(authorizer.decide(&node, &secret), Decision::NoOpinion(Some(none.into())));
    let stranger = User::new("system:node:n", &["system:authenticated"]);
    assert_eq!(authorizer.decide(&stranger, &ask("get", "secrets", "", "a", "s")), Decision::NoOpinion(None));
    let unnamed = User::new("system:node:", &["system:nodes"]);
    assert_eq!(
        authorizer.decide(&unnamed, &secret),
        Decision::NoOpinion(Some("unknown node for user \"system:node:\"".into()))
    );
}

#[test]
fn what_is_bound_later_is_seen() {
    let cache = Bare::default();
    let authorizer = NodeAuthorizer::new(&|resource| cache.resource(resource));
    let secret = Attributes { verb: "get", resource: "secrets", namespace: "a", name: "s", ..Attributes::default() };
    for (revision, node, expect) in [(1, "", false), (2, "n", true), (3, "n", true)] {
        let pod = json!({"metadata": {"name": "p", "namespace": "a", "uid": "1", "generation": 1, "resourceVersion": revision.to_string()},
            "spec": {"nodeName": node, "imagePullSecrets": [{"name": "s"}]}});
        cache.resource("pods").put(Arc::new(Object::from_wire(pod).expect("an object")));
        assert_eq!(authorizer.judge("n", &secret).is_ok(), expect, "{revision}");
    }
}
