//! RBAC on a real server: the cluster's own roles, refusals, escalation, impersonation, reviews.

use serde_json::{Value, json};

use super::Cluster;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn as_user(name: &'static str) -> [(&'static str, &'static str); 1] {
    [("impersonate-user", name)]
}

async fn asked(cluster: &Cluster, user: &'static str, method: &str, path: &str, body: Value) -> (u16, String) {
    let answer = cluster.ask_with(method, path, body, &as_user(user)).await;
    let value = answer.value();
    (answer.status, value["message"].as_str().unwrap_or_default().to_owned())
}

fn role(kind: &str, name: &str, rules: Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "rules": rules})
}

fn binding(kind: &str, name: &str, role: (&str, &str), user: &str) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "roleRef": {"kind": role.0, "name": role.1}, "subjects": [{"kind": "User", "name": user}]})
}

/// A rule on the core group.
fn core(verbs: &[&str], resource: &str) -> Value {
    json!({"apiGroups": [""], "resources": [resource], "verbs": verbs})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_and_grants() {
    let cluster = Cluster::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    for (method, path, body, expect) in [
        (
            "GET",
            pods.to_owned(),
            Value::Null,
            r#"pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            "GET",
            format!("{pods}?watch=1"),
            Value::Null,
            r#"pods is forbidden: User "u" cannot watch resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            "GET",
            format!("{pods}/p"),
            Value::Null,
            r#"pods "p" is forbidden: User "u" cannot get resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            "POST",
            pods.to_owned(),
            super::pod("p"),
            r#"pods is forbidden: User "u" cannot create resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            "PUT",
            format!("{pods}/p"),
            super::pod("p"),
            r#"pods "p" is forbidden: User "u" cannot update resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            "PATCH",
            format!("{pods}/p"),
            json!({}),
            r#"pods "p" is forbidden: User "u" cannot patch resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            "DELETE",
            format!("{pods}/p"),
            Value::Null,
            r#"pods "p" is forbidden: User "u" cannot delete resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            "DELETE",
            pods.to_owned(),
            Value::Null,
            r#"pods is forbidden: User "u" cannot deletecollection resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            "GET",
            format!("{pods}/p/log"),
            Value::Null,
            r#"pods "p" is forbidden: User "u" cannot get resource "pods/log" in API group "" in the namespace "default""#,
        ),
        (
            "GET",
            "/api/v1/nodes".to_owned(),
            Value::Null,
            r#"nodes is forbidden: User "u" cannot list resource "nodes" in API group "" at the cluster scope"#,
        ),
        ("GET", "/metrics".to_owned(), Value::Null, r#"forbidden: User "u" cannot get path "/metrics""#),
    ] {
        let found = asked(&cluster, "u", method, &path, body).await;
        assert_eq!(found, (403, expect.to_owned()), "{method} {path}");
    }
    assert_eq!(asked(&cluster, "u", "GET", "/apis", Value::Null).await.0, 200, "system:discovery");
    let bound = binding("RoleBinding", "b", ("Role", "reader"), "u");
    cluster.create(&format!("{RBAC}/namespaces/default/rolebindings"), bound).await;
    let expect = "pods is forbidden: User \"u\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\": \
                  RBAC: role.rbac.authorization.k8s.io \"reader\" not found";
    assert_eq!(asked(&cluster, "u", "GET", pods, Value::Null).await, (403, expect.to_owned()));
    let reader = role(
        "Role",
        "reader",
        json!([core(&["list"], "pods"), {"apiGroups": [""], "resources": ["secrets"],
        "resourceNames": ["s"], "verbs": ["list"]}]),
    );
    cluster.create(&format!("{RBAC}/namespaces/default/roles"), reader).await;
    assert_eq!(asked(&cluster, "u", "GET", pods, Value::Null).await.0, 200);
    assert_eq!(asked(&cluster, "u", "GET", "/api/v1/pods", Value::Null).await.0, 403, "elsewhere too");
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(asked(&cluster, "u", "GET", secrets, Value::Null).await.0, 403, "all secrets");
    let one = format!("{secrets}?fieldSelector=metadata.name%3Ds");
    assert_eq!(asked(&cluster, "u", "GET", &one, Value::Null).await.0, 200, "the one of that name");
    let (status, _) = cluster.ask("DELETE", &format!("{RBAC}/namespaces/default/rolebindings/b"), Value::Null).await;
    assert_eq!(status, 200);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subresources_are_refused_by_name() {
    let cluster = Cluster::start().await;
    let core = "/api/v1/namespaces/default";
    let apps = "/apis/apps/v1/namespaces/default";
    let certificates = "/apis/certificates.k8s.io/v1";
    for (base, resource, group, name, parts) in [
        (
            core,
            "pods",
            "",
            "p",
            "get/status update/status patch/status get/log create/exec get/exec create/attach \
            get/attach create/portforward get/portforward get/proxy create/proxy create/binding create/eviction \
            update/ephemeralcontainers patch/ephemeralcontainers update/resize",
        ),
        (core, "services", "", "s", "get/status get/proxy update/proxy patch/proxy delete/proxy"),
        (core, "serviceaccounts", "", "a", "create/token"),
        (core, "replicationcontrollers", "", "r", "get/scale"),
        (apps, "deployments", "apps", "d", "get/scale update/scale patch/scale get/status"),
        ("/api/v1", "nodes", "", "n", "get/proxy create/proxy update/status"),
        ("/api/v1", "namespaces", "", "x", "update/finalize get/status"),
        (
            certificates,
            "certificatesigningrequests",
            "certificates.k8s.io",
            "c",
            "update/approval patch/approval update/status",
        ),
    ] {
        for part in parts.split_whitespace() {
            let (verb, part) = part.split_once('/').expect("a verb and a part");
            let method = match verb {
                "get" => "GET",
                "create" => "POST",
                "update" => "PUT",
                "patch" => "PATCH",
                _ => "DELETE",
            };
            let place = match (base, resource) {
                // A namespace is in itself.
                (_, "namespaces") => "in the namespace \"x\"",
                (base, _) if base.contains("namespaces") => "in the namespace \"default\"",
                _ => "at the cluster scope",
            };
            let what = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
            let expect = format!(
                "{what} \"{name}\" is forbidden: User \"u\" cannot {verb} resource \"{resource}/{part}\" in API group \"{group}\" {place}"
            );
            let path = format!("{base}/{resource}/{name}/{part}");
            assert_eq!(asked(&cluster, "u", method, &path, Value::Null).await, (403, expect), "{method} {path}");
        }
    }
    for (method, verb) in [("GET", "get"), ("POST", "post"), ("PUT", "put"), ("DELETE", "delete"), ("PATCH", "patch")] {
        let expect = format!("forbidden: User \"u\" cannot {verb} path \"/logs/x\"");
        assert_eq!(asked(&cluster, "u", method, "/logs/x", Value::Null).await, (403, expect));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_grants_what_they_do_not_hold() {
    let cluster = Cluster::start().await;
    let (roles, bindings) =
        (format!("{RBAC}/namespaces/default/roles"), format!("{RBAC}/namespaces/default/rolebindings"));
    let own = json!([core(&["get"], "pods"), {"apiGroups": ["rbac.authorization.k8s.io"], "verbs": ["*"],
        "resources": ["roles", "rolebindings", "clusterroles", "clusterrolebindings"]}]);
    // `*` would be `escalate` and `bind` too.
    let verbs = json!(["create", "update", "patch", "get", "list", "delete"]);
    let mut own = own;
    own[1]["verbs"] = verbs;
    cluster.create(&format!("{RBAC}/clusterroles"), role("ClusterRole", "granter", own)).await;
    let bound = binding("ClusterRoleBinding", "granter", ("ClusterRole", "granter"), "u");
    cluster.create(&format!("{RBAC}/clusterrolebindings"), bound).await;

    let may = role("Role", "may", json!([core(&["get"], "pods")]));
    assert_eq!(asked(&cluster, "u", "POST", &roles, may.clone()).await.0, 201);
    let more = role("Role", "more", json!([core(&["get", "list"], "pods"), core(&["get"], "secrets")]));
    let lacking = |what: &str| {
        format!(
            "{what} is forbidden: user \"u\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not \
             currently held:\n{{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}}\n\
             {{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}}"
        )
    };
    let expect = lacking("roles.rbac.authorization.k8s.io \"more\"");
    assert_eq!(asked(&cluster, "u", "POST", &roles, more.clone()).await, (403, expect));
    cluster.create(&roles, more.clone()).await;
    let to_more = binding("RoleBinding", "b", ("Role", "more"), "v");
    let expect = lacking("rolebindings.rbac.authorization.k8s.io \"b\"");
    assert_eq!(asked(&cluster, "u", "POST", &bindings, to_more).await, (403, expect));
    let to_may = binding("RoleBinding", "c", ("Role", "may"), "v");
    assert_eq!(asked(&cluster, "u", "POST", &bindings, to_may).await.0, 201);
    let to_none = binding("RoleBinding", "d", ("Role", "none"), "v");
    let expect = (404, "role.rbac.authorization.k8s.io \"none\" not found".to_owned());
    assert_eq!(asked(&cluster, "u", "POST", &bindings, to_none).await, expect);
    // What is there may be labelled, not widened.
    let wider = json!({"rules": [core(&["get", "list"], "pods")]});
    let patch = |body: Value| {
        let headers = [("impersonate-user", "u"), ("content-type", "application/merge-patch+json")];
        let (cluster, roles) = (&cluster, &roles);
        async move { cluster.ask_with("PATCH", &format!("{roles}/may"), body, &headers).await.status }
    };
    assert_eq!(patch(wider).await, 403);
    assert_eq!(patch(json!({"metadata": {"labels": {"a": "b"}}})).await, 200);
    let gather = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "g"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    let expect = "clusterroles.rbac.authorization.k8s.io \"g\" is forbidden: must have cluster-admin privileges to use an \
                  aggregationRule";
    let clusterroles = format!("{RBAC}/clusterroles");
    assert_eq!(asked(&cluster, "u", "POST", &clusterroles, gather).await, (403, expect.to_owned()));

    // With the two verbs made for it, everything.
    let special = json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "clusterroles"],
        "verbs": ["escalate", "bind"]}]);
    cluster.create(&clusterroles, role("ClusterRole", "special", special)).await;
    let bound = binding("ClusterRoleBinding", "special", ("ClusterRole", "special"), "u");
    cluster.create(&format!("{RBAC}/clusterrolebindings"), bound).await;
    let mut again = more;
    again["metadata"]["name"] = "again".into();
    assert_eq!(asked(&cluster, "u", "POST", &roles, again).await.0, 201);
    let to_admin = binding("RoleBinding", "e", ("ClusterRole", "cluster-admin"), "v");
    assert_eq!(asked(&cluster, "u", "POST", &bindings, to_admin).await.0, 201);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_roles_are_repaired_at_the_start() {
    let cluster = Cluster::start().await;
    let path = |name: &str| format!("{RBAC}/clusterroles/{name}");
    let kept = cluster.get(&path("system:node")).await["metadata"]["resourceVersion"].clone();
    let mut basic = cluster.get(&path("system:basic-user")).await;
    basic["rules"] = json!([core(&["get"], "pods")]);
    assert_eq!(cluster.ask("PUT", &path("system:basic-user"), basic).await.0, 200);
    let mut alone = cluster.get(&path("system:discovery")).await;
    alone["rules"] = Value::Null;
    alone["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = "false".into();
    assert_eq!(cluster.ask("PUT", &path("system:discovery"), alone).await.0, 200);
    let (status, _) = cluster.ask("DELETE", &format!("{RBAC}/clusterrolebindings/cluster-admin"), Value::Null).await;
    assert_eq!(status, 200);

    let cluster = Cluster::start_in(cluster.stop().await).await;
    let basic = cluster.get(&path("system:basic-user")).await;
    assert_eq!(basic["rules"][0], core(&["get"], "pods"), "what was added stays");
    assert_eq!(basic["rules"].as_array().map(Vec::len), Some(4), "{basic}");
    assert_eq!(cluster.get(&path("system:discovery")).await["rules"], Value::Null);
    assert_eq!(
        cluster.get(&path("system:node")).await["metadata"]["resourceVersion"],
        kept,
        "nothing else was written"
    );
    cluster.get(&format!("{RBAC}/clusterrolebindings/cluster-admin")).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impersonation_takes_a_permission_for_each_part() {
    let cluster = Cluster::start().await;
    let rules = json!([{"apiGroups": [""], "resources": ["users"], "resourceNames": ["v"], "verbs": ["impersonate"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scope"], "resourceNames": ["dev"], "verbs": ["impersonate"]}]);
    cluster.create(&format!("{RBAC}/clusterroles"), role("ClusterRole", "i", rules)).await;
    cluster
        .create(&format!("{RBAC}/clusterrolebindings"), binding("ClusterRoleBinding", "i", ("ClusterRole", "i"), "u"))
        .await;
    // A certificate of the user's own: those of this test's administrator may be anybody.
    let client = cluster.pki.client("u", &["g"]).expect("a certificate");
    let text =
        skiff_pki::kubeconfig(&format!("https://{}", cluster.server.local_addr()), cluster.pki.ca_pem(), &client);
    let user = skiff_client::HttpTransport::from_kubeconfig(&text, None).expect("a transport");
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = || {
        bytes::Bytes::from(json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string())
    };
    let me = super::ask(&user, "POST", who, review(), &[]).await.value();
    let info = &me["status"]["userInfo"];
    assert_eq!((&info["username"], &info["groups"]), (&json!("u"), &json!(["g", "system:authenticated"])));
    let id = info["extra"]["authentication.kubernetes.io/credential-id"][0].as_str().expect("an id").to_owned();
    assert!(id.starts_with("X509SHA256=") && id.len() == 11 + 64, "{id}");
    for (headers, expect) in [
        (vec![("impersonate-user", "v"), ("impersonate-extra-scope", "dev")], None),
        (
            vec![("impersonate-user", "w")],
            Some(
                r#"users "w" is forbidden: User "u" cannot impersonate resource "users" in API group "" at the cluster scope"#,
            ),
        ),
        (
            vec![("impersonate-user", "v"), ("impersonate-group", "system:masters")],
            Some(
                r#"groups "system:masters" is forbidden: User "u" cannot impersonate resource "groups" in API group "" at the cluster scope"#,
            ),
        ),
        (
            vec![("impersonate-user", "v"), ("impersonate-extra-scope", "prod")],
            Some(
                r#"userextras.authentication.k8s.io "prod" is forbidden: User "u" cannot impersonate resource "userextras/scope" in API group "authentication.k8s.io" at the cluster scope"#,
            ),
        ),
        (
            vec![("impersonate-user", "v"), ("impersonate-uid", "1")],
            Some(
                r#"uids.authentication.k8s.io "1" is forbidden: User "u" cannot impersonate resource "uids" in API group "authentication.k8s.io" at the cluster scope"#,
            ),
        ),
        (
            vec![("impersonate-user", "system:serviceaccount:a:b")],
            Some(
                r#"serviceaccounts "b" is forbidden: User "u" cannot impersonate resource "serviceaccounts" in API group "" in the namespace "a""#,
            ),
        ),
    ] {
        let answer = super::ask(&user, "POST", who, review(), &headers).await;
        let value = answer.value();
        match expect {
            None => assert_eq!(value["status"]["userInfo"]["extra"], json!({"scope": ["dev"]}), "{value}"),
            Some(message) => assert_eq!((answer.status, &value["message"]), (403, &json!(message)), "{headers:?}"),
        }
    }
    let answer = super::ask(&user, "POST", who, review(), &[("impersonate-group", "g")]).await;
    assert_eq!(answer.status, 500, "{}", answer.value());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reviews_say_why() {
    let cluster = Cluster::start().await;
    let sar = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
    let list = json!({"verb": "list", "resource": "pods", "namespace": "default"});
    let spec =
        |user: &str, groups: Value| json!({"spec": {"user": user, "groups": groups, "resourceAttributes": list}});
    let answer = cluster.create(sar, spec("u", json!(["system:masters"]))).await;
    assert_eq!(answer["status"], json!({"allowed": true}));
    let answer = cluster.create(sar, spec("u", json!([]))).await;
    assert_eq!(answer["status"], json!({"allowed": false}));
    cluster
        .create(
            &format!("{RBAC}/clusterrolebindings"),
            binding("ClusterRoleBinding", "v", ("ClusterRole", "cluster-admin"), "u"),
        )
        .await;
    let answer = cluster.create(local, spec("u", json!([]))).await;
    let reason = r#"RBAC: allowed by ClusterRoleBinding "v" of ClusterRole "cluster-admin" to User "u""#;
    assert_eq!(answer["status"], json!({"allowed": true, "reason": reason}));
    let answer = cluster.create(sar, spec("system:node:n", json!(["system:nodes"]))).await;
    assert_eq!(answer["status"]["reason"], "can only list/watch pods with spec.nodeName field selector");
    let mut selected = spec("system:node:n", json!(["system:nodes"]));
    selected["spec"]["resourceAttributes"]["fieldSelector"] =
        json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n"]}]});
    assert_eq!(cluster.create(sar, selected).await["status"]["allowed"], true);
    for (path, body, expect) in [
        (
            sar,
            json!({"spec": {"user": "u"}}),
            "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        (
            sar,
            json!({"spec": {"resourceAttributes": list}}),
            "spec.user: Invalid value: \"\": at least one of user or group must be specified",
        ),
        (
            local,
            json!({"spec": {"user": "u", "resourceAttributes": {"verb": "get", "namespace": "other"}}}),
            "spec.resourceAttributes.namespace: Invalid value: \"other\": must match metadata.namespace",
        ),
        (
            local,
            json!({"spec": {"user": "u", "nonResourceAttributes": {"path": "/", "verb": "get"}}}),
            "disallowed on this kind of request",
        ),
    ] {
        let (status, value) = cluster.ask("POST", path, body).await;
        assert!(status == 422 && value["message"].as_str().is_some_and(|m| m.contains(expect)), "{value}");
    }
    let rules = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let body = || json!({"spec": {"namespace": "default"}});
    let answer = cluster.ask_with("POST", rules, body(), &as_user("u")).await.value();
    let everything = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
    assert!(answer["status"]["resourceRules"].as_array().is_some_and(|r| r.contains(&everything)), "{answer}");
    assert_eq!(answer["status"]["incomplete"], false);
    let (status, value) = cluster.ask("POST", rules, json!({"spec": {}})).await;
    assert_eq!((status, &value["message"]), (400, &json!("no namespace on request")));
    cluster.stop().await;
}
