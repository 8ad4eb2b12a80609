//! Who is let in, and as whom.

use bytes::Bytes;
use serde_json::{Value, json};
use skiff_client::HttpTransport;

use super::{Cluster, ask, pod, with_account};

pub(super) fn with_token(cluster: &Cluster, token: &str) -> HttpTransport {
    use base64::Engine as _;
    let ca = base64::engine::general_purpose::STANDARD.encode(cluster.pki.ca_pem());
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("https://{}", cluster.server.local_addr()), "certificate-authority-data": ca}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": if token.is_empty() { json!({}) } else { json!({"token": token}) }}],
    });
    HttpTransport::from_kubeconfig(&config.to_string(), None).expect("a transport")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_see_health_and_version_only() {
    let cluster = Cluster::start().await;
    let nobody = with_token(&cluster, "");
    for (path, status) in [
        ("/healthz", 200),
        ("/livez", 200),
        ("/readyz", 200),
        ("/readyz?verbose", 200),
        ("/version", 200),
        ("/version/", 200),
        ("/api", 403),
        ("/", 403),
        ("/api/v1/pods", 403),
        ("/openapi/v2", 403),
        ("/metrics", 403),
    ] {
        let answer = ask(&nobody, "GET", path, Bytes::new(), &[]).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.value());
    }
    let refused = ask(&nobody, "GET", "/api/v1/namespaces/a/pods", Bytes::new(), &[]).await.value();
    assert_eq!(
        refused["message"],
        "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"a\""
    );
    let forged = with_token(&cluster, "a.b.c");
    let answer = ask(&forged, "GET", "/api", Bytes::new(), &[]).await;
    assert_eq!((answer.status, &answer.value()["reason"]), (401, &json!("Unauthorized")));
    assert_eq!(ask(&nobody, "GET", "/readyz", Bytes::new(), &[]).await.value(), "ok");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_live_as_long_as_what_they_are_bound_to() {
    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    let pods = "/api/v1/namespaces/default/pods";
    let uid = cluster.create(pods, pod("p")).await["metadata"]["uid"].clone();
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let spec = json!({"expirationSeconds": 700, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid}});
    let made = cluster
        .create(path, json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}))
        .await;
    let token = made["status"]["token"].as_str().expect("a token").to_owned();
    assert!(made["status"]["expirationTimestamp"].is_string());
    let account = with_token(&cluster, &token);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let me = ask(&account, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review.into(), &[]).await;
    let user = &me.value()["status"]["userInfo"];
    assert_eq!(user["username"], "system:serviceaccount:default:default");
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(ask(&account, "GET", "/apis/apps/v1", Bytes::new(), &[]).await.status, 200);
    assert_eq!(ask(&account, "GET", "/api/v1/secrets", Bytes::new(), &[]).await.status, 403);
    let review = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "secrets"}}}).to_string();
    let may = ask(&account, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review.into(), &[]).await;
    assert_eq!(may.value()["status"]["allowed"], false);

    let token_review = |token: &str, audience: &str| json!({"spec": {"token": token, "audiences": [audience]}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let own = "https://kubernetes.default.svc.cluster.local";
    assert_eq!(cluster.create(reviews, token_review(&token, own)).await["status"]["authenticated"], true);
    assert_eq!(cluster.create(reviews, token_review(&token, "other")).await["status"]["authenticated"], false);
    let elsewhere = cluster.create(path, json!({"spec": {"audiences": ["vault"]}})).await;
    let elsewhere = with_token(&cluster, elsewhere["status"]["token"].as_str().expect("a token"));
    assert_eq!(ask(&elsewhere, "GET", "/api", Bytes::new(), &[]).await.status, 401);

    cluster.ask("DELETE", &format!("{pods}/p"), json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(ask(&account, "GET", "/api", Bytes::new(), &[]).await.status, 401, "its pod is gone");
    for (body, status) in [
        (json!({"spec": {"expirationSeconds": 10}}), 422),
        (json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "nope"}}}), 404),
        (json!({"spec": {"boundObjectRef": {"kind": "ConfigMap", "apiVersion": "v1", "name": "x"}}}), 400),
    ] {
        assert_eq!(cluster.ask("POST", path, body.clone()).await.0, status, "{body}");
    }
    cluster.stop().await;
}

fn url_decoded(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).expect("base64")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_sockets_bring_their_token_among_the_protocols() {
    use base64::Engine as _;
    use skiff_client::Upgraded;

    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let made = cluster.create(path, json!({})).await;
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "all"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "cluster-admin"}, "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]});
    cluster.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    let token = made["status"]["token"].as_str().expect("a token");
    let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token);
    let stranger = with_token(&cluster, "");
    let asked = async |protocols: String| {
        let request = http::Request::get("/api/v1/namespaces/default/configmaps?watch=true&timeoutSeconds=1")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-protocol", protocols);
        match stranger.upgrade(request.body(()).expect("a request")).await.expect("an answer") {
            Upgraded::Switched(answer, _) => (101, answer.headers()["sec-websocket-protocol"].clone()),
            Upgraded::Refused(answer) => (answer.status().as_u16(), http::HeaderValue::from_static("")),
        }
    };
    let secret = format!("base64url.bearer.authorization.k8s.io.{token}");
    // The answer does not repeat the token.
    assert_eq!(asked(format!("watch.example, {secret}")).await, (101, http::HeaderValue::from_static("watch.example")));
    assert_eq!(asked(secret).await.0, 401, "it needs another protocol");
    assert_eq!(asked("watch.example".to_owned()).await.0, 403, "nobody may watch");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_die_with_secrets_nodes_and_time() {
    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let secrets = "/api/v1/namespaces/default/secrets";
    cluster.create(secrets, json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})).await;
    cluster.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})).await;
    let review = async |token: &str| {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        cluster.create("/apis/authentication.k8s.io/v1/tokenreviews", review).await["status"].clone()
    };
    let status = async |token: &str| ask(&with_token(&cluster, token), "GET", "/api", Bytes::new(), &[]).await.status;
    for (kind, object) in [("Secret", format!("{secrets}/s")), ("Node", "/api/v1/nodes/n".to_owned())] {
        let name = object.rsplit_once('/').expect("a path").1;
        let bound = json!({"spec": {"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name}}});
        let made = cluster.create(path, bound).await;
        let token = made["status"]["token"].as_str().expect("a token").to_owned();
        assert_eq!(status(&token).await, 200, "{kind}");
        assert_eq!(cluster.ask("DELETE", &object, Value::Null).await.0, 200);
        assert_eq!(status(&token).await, 401, "{kind}");
        let told = review(&token).await;
        assert_eq!(told["error"], "[invalid bearer token, service account token has been invalidated]", "{kind}");
    }
    let made = cluster.create(path, json!({})).await;
    let token = made["status"]["token"].as_str().expect("a token").to_owned();
    assert_eq!(review(&token).await["audiences"], json!(["https://kubernetes.default.svc.cluster.local"]));
    let mut claims: Value =
        serde_json::from_slice(&url_decoded(token.split('.').nth(1).expect("claims"))).expect("JSON");
    for (field, value, expect) in [
        ("exp", json!(1000), "[invalid bearer token, service account token has expired]"),
        ("nbf", json!(99_999_999_999_i64), "[invalid bearer token, service account token is not valid yet]"),
        ("iss", json!("https://elsewhere"), "invalid bearer token"),
        (
            "aud",
            json!(["vault"]),
            "[invalid bearer token, token audiences [\"vault\"] is invalid for the target audiences \
             [\"https://kubernetes.default.svc.cluster.local\"]]",
        ),
    ] {
        let kept = claims[field].clone();
        claims[field] = value;
        let token = cluster.pki.service_account_key().sign(&claims).expect("signed");
        claims[field] = kept;
        assert_eq!(status(&token).await, 401, "{field}");
        assert_eq!(review(&token).await, json!({"authenticated": false, "user": {}, "error": expect}), "{field}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_in_process_are_judged_too() {
    let cluster = Cluster::start().await;
    let controller = cluster.in_process("system:kube-controller-manager", &[]);
    assert_eq!(ask(&*controller, "GET", "/api/v1/secrets", Bytes::new(), &[]).await.status, 200);
    let node = cluster.in_process("system:node:n", &["system:nodes"]);
    assert_eq!(ask(&*node, "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn", Bytes::new(), &[]).await.status, 200);
    assert_eq!(
        ask(&*node, "DELETE", "/api/v1/namespaces/default/services/kubernetes", Bytes::new(), &[]).await.status,
        403
    );
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n"}, "spec": {"holderIdentity": "n"}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let created = ask(&*node, "POST", leases, lease.to_string().into(), &[]).await;
    assert_eq!(created.status, 201, "{}", created.value());
    let mut renewed = created.value();
    renewed["spec"]["renewTime"] = "2026-01-01T00:00:00.000000Z".into();
    let renewed = ask(&*node, "PUT", &format!("{leases}/n"), renewed.to_string().into(), &[]).await;
    assert_eq!(renewed.status, 200, "{}", renewed.value());
    let stale = ask(&*node, "PUT", &format!("{leases}/n"), created.value().to_string().into(), &[]).await;
    assert_eq!(stale.status, 409);
    assert_eq!(cluster.get(leases).await["items"].as_array().map(Vec::len), Some(1));
    let as_node = [("impersonate-user", "system:node:n"), ("impersonate-group", "system:nodes")];
    let answer = cluster.ask_with("GET", "/apis/apps/v1/deployments", Value::Null, &as_node).await;
    assert_eq!(answer.status, 403);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let as_someone = [("impersonate-user", "u"), ("impersonate-uid", "1"), ("impersonate-extra-a%2Fb", "c")];
    let me = cluster.ask_with("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review, &as_someone).await;
    assert_eq!(
        me.value()["status"]["userInfo"],
        json!({"username": "u", "uid": "1", "groups": ["system:authenticated"], "extra": {"a/b": ["c"]}})
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_secrets() {
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let cluster = Cluster::start().await;
    let account = with_account(&cluster).await;
    let me = |token: String| {
        let transport = with_token(&cluster, &token);
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
        async move {
            let answer =
                ask(&transport, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review.into(), &[]).await;
            (answer.status, answer.value()["status"]["userInfo"].clone())
        }
    };

    // A bootstrap token.
    let system = "/api/v1/namespaces/kube-system/secrets";
    let bootstrap = |usage: &str, expiration: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": "bootstrap-token-abc123"}, "data": {"token-id": encode("abc123"),
                "token-secret": encode("0123456789abcdef"), "usage-bootstrap-authentication": encode(usage),
                "expiration": encode(expiration), "auth-extra-groups": encode("system:bootstrappers:x")}})
    };
    let token = "abc123.0123456789abcdef".to_owned();
    assert_eq!(me(token.clone()).await.0, 401, "there is none");
    cluster.create(system, bootstrap("true", "9999-01-01T00:00:00Z")).await;
    let (status, user) = me(token.clone()).await;
    assert_eq!((status, &user["username"]), (201, &json!("system:bootstrap:abc123")));
    assert_eq!(user["groups"], json!(["system:bootstrappers", "system:bootstrappers:x", "system:authenticated"]));
    assert_eq!(me("abc123.0123456789abcdee".to_owned()).await.0, 401, "another secret");
    for (usage, expiration) in [("false", "9999-01-01T00:00:00Z"), ("true", "2020-01-01T00:00:00Z")] {
        let put = cluster.ask("PUT", &format!("{system}/bootstrap-token-abc123"), bootstrap(usage, expiration)).await;
        assert_eq!(put.0, 200, "{}", put.1);
        assert_eq!(me(token.clone()).await.0, 401, "{usage} {expiration}");
    }

    // A token that lies in a secret, as the token controller makes it.
    let uid = account["metadata"]["uid"].clone();
    let claims = json!({"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:default:default",
        "kubernetes.io/serviceaccount/namespace": "default", "kubernetes.io/serviceaccount/secret.name": "t",
        "kubernetes.io/serviceaccount/service-account.name": "default", "kubernetes.io/serviceaccount/service-account.uid": uid});
    let token = cluster.pki.service_account_key().sign(&claims).expect("signed");
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = |token: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token", "data": {"token": encode(token)},
            "metadata": {"name": "t", "annotations": {"kubernetes.io/service-account.name": "default"}}})
    };
    assert_eq!(me(token.clone()).await.0, 401, "it lies nowhere");
    cluster.create(secrets, secret(&token)).await;
    let (status, user) = me(token.clone()).await;
    assert_eq!((status, &user["username"]), (201, &json!("system:serviceaccount:default:default")));
    assert_eq!(cluster.ask("PUT", &format!("{secrets}/t"), secret("other")).await.0, 200);
    assert_eq!(me(token.clone()).await.0, 401, "another token lies there");
    assert_eq!(cluster.ask("PUT", &format!("{secrets}/t"), secret(&token)).await.0, 200);
    let (status, _) = cluster.ask("DELETE", "/api/v1/namespaces/default/serviceaccounts/default", Value::Null).await;
    assert_eq!(status, 200);
    assert_eq!(me(token.clone()).await.0, 401, "its account is gone");
    let review = json!({"spec": {"token": token}});
    let answer = cluster.create("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(answer["status"]["error"], "[invalid bearer token, serviceaccounts \"default\" not found]");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_issuer_is_found_by_its_accounts() {
    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    let made = cluster.create("/api/v1/namespaces/default/serviceaccounts/default/token", json!({})).await;
    let token = made["status"]["token"].as_str().expect("a token");
    let account = with_token(&cluster, token);
    let document = ask(&account, "GET", "/.well-known/openid-configuration", Bytes::new(), &[]).await.value();
    assert_eq!(document["issuer"], "https://kubernetes.default.svc.cluster.local");
    let found = document["jwks_uri"].as_str().expect("a place").split_once("/openid").expect("ours").1;
    let keys = ask(&account, "GET", &format!("/openid{found}"), Bytes::new(), &[]).await.value();
    // As anyone would who trusts the issuer.
    let (signed, signature) = token.rsplit_once('.').expect("a signature");
    let (header, claims) = signed.split_once('.').expect("a header and claims");
    let header: Value = serde_json::from_slice(&url_decoded(header)).expect("JSON");
    let key = keys["keys"].as_array().into_iter().flatten().find(|key| key["kid"] == header["kid"]).expect("the key");
    assert_eq!((&key["kty"], &key["crv"], &key["alg"]), (&json!("EC"), &json!("P-256"), &header["alg"]));
    let coordinate = |name: &str| url_decoded(key[name].as_str().expect("a coordinate"));
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point)
        .verify(signed.as_bytes(), &url_decoded(signature))
        .expect("signed with the published key");
    let claims: Value = serde_json::from_slice(&url_decoded(claims)).expect("JSON");
    assert_eq!((&claims["iss"], &claims["aud"]), (&document["issuer"], &json!([document["issuer"]])));
    let nobody = with_token(&cluster, "");
    assert_eq!(ask(&nobody, "GET", "/openid/v1/jwks", Bytes::new(), &[]).await.status, 403);
    cluster.stop().await;
}
