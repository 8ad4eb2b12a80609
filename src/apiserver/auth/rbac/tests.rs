use serde_json::{Value, json};
use skiff_api::Object;

use super::*;
use crate::auth::Authorizer;
use crate::cache::Bare;

fn stage() -> (Bare, Authorizer) {
    let cache = Bare::default();
    let authorizer = Authorizer::new(&|resource| cache.resource(resource));
    (cache, authorizer)
}

fn put(cache: &Bare, resource: &str, revision: u64, mut object: Value) {
    object["metadata"]["resourceVersion"] = revision.to_string().into();
    let object = Object::from_wire(object).expect("an object");
    cache.resource(&format!("{}/{resource}", defaults::GROUP)).put(Arc::new(object));
}

fn role(name: &str, namespace: &str, verbs: &[&str], resource: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": namespace},
        "rules": [{"apiGroups": [""], "resources": [resource], "verbs": verbs}]})
}

fn binding(name: &str, namespace: &str, kind: &str, role: &str, subject: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": namespace}, "subjects": [subject],
        "roleRef": {"apiGroup": defaults::GROUP, "kind": kind, "name": role}})
}

fn ask<'a>(verb: &'a str, resource: &'a str, namespace: &'a str) -> Attributes<'a> {
    Attributes { verb, resource, namespace, ..Attributes::default() }
}

#[test]
fn who_is_bound_to_what() {
    let (cache, authorizer) = stage();
    put(&cache, "clusterroles", 1, role("reader", "", &["get", "list"], "pods"));
    put(&cache, "roles", 2, role("writer", "a", &["create"], "pods"));
    let account = json!({"kind": "ServiceAccount", "name": "s"});
    put(
        &cache,
        "clusterrolebindings",
        3,
        binding("all", "", "ClusterRole", "reader", json!({"kind": "User", "name": "u"})),
    );
    put(
        &cache,
        "rolebindings",
        4,
        binding("here", "a", "ClusterRole", "reader", json!({"kind": "Group", "name": "g"})),
    );
    put(&cache, "rolebindings", 5, binding("own", "a", "Role", "writer", account));
    put(&cache, "rolebindings", 6, binding("other", "b", "Role", "writer", json!({"kind": "User", "name": "u"})));
    let user = User::new("u", &["system:authenticated"]);
    let member = User::new("v", &["g"]);
    let account = User::new("system:serviceaccount:a:s", &["system:serviceaccounts"]);
    let master = User::new("root", &["system:masters"]);
    for (who, asked, expect) in [
        (&user, ask("get", "pods", ""), true),
        (&user, ask("list", "pods", "b"), true),
        (&user, ask("create", "pods", "a"), false),
        (&member, ask("list", "pods", "a"), true),
        (&member, ask("list", "pods", "b"), false),
        (&member, ask("list", "pods", ""), false),
        (&account, ask("create", "pods", "a"), true),
        (&account, ask("create", "pods", "b"), false),
        (&master, ask("anything", "at", "all"), true),
    ] {
        assert_eq!(authorizer.is_allowed(who, &asked), expect, "{} {asked:?}", who.name);
    }
    let why = |user, asked: Attributes<'_>| authorizer.rbac.decide(user, &asked);
    assert_eq!(
        why(&user, ask("get", "pods", "")),
        Decision::Allow(Some(
            r#"RBAC: allowed by ClusterRoleBinding "all" of ClusterRole "reader" to User "u""#.into()
        ))
    );
    assert_eq!(
        why(&account, ask("create", "pods", "a")),
        Decision::Allow(Some(
            r#"RBAC: allowed by RoleBinding "own/a" of Role "writer" to ServiceAccount "s/a""#.into()
        ))
    );
    assert_eq!(
        why(&user, ask("create", "pods", "b")),
        Decision::NoOpinion(Some(r#"RBAC: role.rbac.authorization.k8s.io "writer" not found"#.into()))
    );
    assert_eq!(why(&member, ask("create", "pods", "c")), Decision::NoOpinion(None));
}

#[test]
fn changes_are_seen_at_once() {
    let (cache, authorizer) = stage();
    let user = User::new("u", &[]);
    let asked = ask("get", "pods", "");
    assert!(!authorizer.is_allowed(&user, &asked));
    put(&cache, "clusterrolebindings", 1, binding("b", "", "ClusterRole", "r", json!({"kind": "User", "name": "u"})));
    assert_eq!(
        authorizer.rbac.decide(&user, &asked),
        Decision::NoOpinion(Some(r#"RBAC: clusterrole.rbac.authorization.k8s.io "r" not found"#.into()))
    );
    put(&cache, "clusterroles", 2, role("r", "", &["get"], "pods"));
    assert!(authorizer.is_allowed(&user, &asked));
    put(&cache, "clusterroles", 3, role("r", "", &["list"], "pods"));
    assert!(!authorizer.is_allowed(&user, &asked));
}

#[test]
fn controllers_have_what_upstreams_have() {
    let (cache, authorizer) = stage();
    for (revision, role) in (1..).zip(defaults::cluster_roles()) {
        put(&cache, "clusterroles", revision, serde_json::to_value(role).expect("encodes"));
    }
    for (revision, binding) in (1000..).zip(defaults::cluster_role_bindings()) {
        put(&cache, "clusterrolebindings", revision, serde_json::to_value(binding).expect("encodes"));
    }
    let account = |name: &str| {
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"];
        User::new(&format!("system:serviceaccount:kube-system:{name}"), &groups)
    };
    let apps = |verb, resource, subresource| Attributes {
        verb,
        group: "apps",
        resource,
        subresource,
        ..Attributes::default()
    };
    let path = |path| Attributes { verb: "get", path, ..Attributes::default() };
    let (nobody, anybody) = (User::anonymous(), User::new("u", &["system:authenticated"]));
    for (user, asked, expect) in [
        (&account("replicaset-controller"), ask("create", "pods", "n"), true),
        (&account("replicaset-controller"), ask("create", "secrets", "n"), false),
        (&account("deployment-controller"), apps("update", "deployments", "status"), true),
        (
            &account("namespace-controller"),
            Attributes { verb: "deletecollection", group: "x.io", resource: "y", ..Attributes::default() },
            true,
        ),
        (&account("generic-garbage-collector"), ask("create", "pods", "n"), false),
        (
            &User::new("system:kube-scheduler", &["system:authenticated"]),
            Attributes { subresource: "binding", ..ask("create", "pods", "n") },
            true,
        ),
        (&User::new("system:kube-scheduler", &["system:authenticated"]), ask("create", "pods", "n"), false),
        (&User::new("system:kube-controller-manager", &[]), ask("list", "anything", ""), true),
        (&User::new("system:kube-controller-manager", &[]), ask("get", "pods", ""), false),
        (&nobody, path("/readyz"), true),
        (&nobody, path("/api"), false),
        (&anybody, path("/apis/apps/v1"), true),
        (&anybody, path("/metrics"), false),
    ] {
        assert_eq!(authorizer.is_allowed(user, &asked), expect, "{} {asked:?}", user.name);
    }
}
