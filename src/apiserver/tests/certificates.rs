//! Certificate signing requests on a real server: what may be asked for, by whom it may be approved and signed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::Cluster;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// PEM.
fn pem(groups: &[&str]) -> String {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "jane");
    for group in groups {
        params.distinguished_name.push(rcgen::DnType::OrganizationName, *group);
    }
    params.serialize_request(&key).expect("a request").pem().expect("PEM")
}

fn request(name: &str, signer: &str, pem: &str) -> Value {
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"request": BASE64.encode(pem), "signerName": signer, "usages": ["client auth"], "username": "root",
            "groups": ["system:masters"]}})
}

fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": "Test"})
}

fn message(value: &Value) -> &str {
    value["message"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_asked_for() {
    let cluster = Cluster::start().await;
    let other = "example.com/signer";
    let client = "kubernetes.io/kube-apiserver-client";
    for (object, status, expect) in [
        (request("a", other, "text"), 422, "PEM block type must be CERTIFICATE REQUEST"),
        (
            request("a", other, &pem(&["x"]).replace("CERTIFICATE REQUEST", "CERTIFICATE")),
            422,
            "PEM block type must be",
        ),
        (
            request("a", client, &pem(&["system:masters"])),
            403,
            "certificatesigningrequests.certificates.k8s.io \"a\" is forbidden: use of \
             kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed",
        ),
        (
            request("a", "kubernetes.io/legacy-unknown", &pem(&[])),
            422,
            "the legacy signerName is not allowed via this API version",
        ),
        (request("a", client, &pem(&["devs"])), 201, ""),
        (request("b", other, &pem(&["system:masters"])), 201, ""),
    ] {
        let (got, value) = cluster.ask("POST", REQUESTS, object).await;
        assert_eq!(got, status, "{value}");
        assert!(message(&value).contains(expect), "{value}");
    }
    let made = cluster.get(&format!("{REQUESTS}/a")).await;
    assert_eq!((&made["spec"]["username"], &made["status"]), (&json!("admin"), &json!({})));
    let groups = &made["spec"]["groups"];
    assert_eq!(*groups, json!(["system:masters", "system:authenticated"]));
    assert!(made["spec"]["extra"]["authentication.kubernetes.io/credential-id"].is_array(), "{made}");
    // Nodes ask for what is their own.
    let node = [("impersonate-user", "system:node:n"), ("impersonate-group", "system:nodes")];
    let kubelet = request("n", "kubernetes.io/kubelet-serving", &pem(&["system:nodes"]));
    let answer = cluster.ask_with("POST", REQUESTS, kubelet, &node).await;
    assert_eq!(answer.status, 403);
    assert!(message(&answer.value()).ends_with("can only create a node CSR with CN=system:node:n"));
    // A request never changes.
    let (status, kept) = cluster.patch(&format!("{REQUESTS}/a"), "merge", json!({"spec": {"usages": ["any"]}})).await;
    assert_eq!((status, &kept["spec"]["usages"]), (200, &json!(["client auth"])));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_approve_and_sign() {
    let cluster = Cluster::start().await;
    cluster.create(REQUESTS, request("r", "example.com/s", &pem(&[]))).await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rule = |resources: Value, verbs: Value| json!({"apiGroups": ["certificates.k8s.io"], "resources": resources, "verbs": verbs});
    let parts = json!(["certificatesigningrequests/approval", "certificatesigningrequests/status"]);
    let signers = |name: &str, verb: &str| {
        let mut rule = rule(json!(["signers"]), json!([verb]));
        rule["resourceNames"] = json!([name]);
        rule
    };
    for (user, signers) in [
        ("nobody", signers("example.com/other", "approve")),
        ("approver", signers("example.com/*", "approve")),
        ("signer", signers("example.com/s", "sign")),
    ] {
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": user}, "rules": [rule(parts.clone(), json!(["get", "update", "patch"])), signers]});
        cluster.create(&format!("{rbac}/clusterroles"), role).await;
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": user}, "roleRef": {"kind": "ClusterRole", "name": user},
            "subjects": [{"kind": "User", "name": user}]});
        cluster.create(&format!("{rbac}/clusterrolebindings"), binding).await;
    }
    let certificate = BASE64.encode(cluster.pki.ca_pem());
    let approved = json!([condition("Approved")]);
    for (user, part, status, code, expect) in [
        (
            "nobody",
            "approval",
            json!({"conditions": approved}),
            403,
            "user not permitted to approve requests with signerName \"example.com/s\"",
        ),
        (
            "signer",
            "approval",
            json!({"conditions": approved}),
            403,
            "user not permitted to approve requests with signerName",
        ),
        (
            "approver",
            "status",
            json!({"certificate": certificate}),
            403,
            "user not permitted to sign requests with signerName \"example.com/s\"",
        ),
        (
            "signer",
            "status",
            json!({"conditions": approved}),
            422,
            "status.conditions: Forbidden: updates may not add a condition of type \"Approved\"",
        ),
        (
            "approver",
            "approval",
            json!({"conditions": [condition("Approved"), condition("Denied")]}),
            422,
            "Approved and Denied conditions are mutually exclusive",
        ),
        (
            "approver",
            "approval",
            json!({"conditions": [{"type": "Approved", "status": "False"}]}),
            422,
            "Unsupported value: \"False\": supported values: \"True\"",
        ),
        ("approver", "approval", json!({"conditions": approved}), 200, ""),
        (
            "approver",
            "approval",
            json!({"conditions": [condition("Denied")]}),
            422,
            "updates may not remove a condition of type \"Approved\"",
        ),
        (
            "signer",
            "status",
            json!({"certificate": BASE64.encode("text")}),
            422,
            "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block",
        ),
        ("signer", "status", json!({"certificate": certificate}), 200, ""),
        (
            "signer",
            "status",
            json!({"certificate": BASE64.encode(cluster.pki.client_ca_pem())}),
            422,
            "updates may not modify existing certificate content",
        ),
    ] {
        let path = format!("{REQUESTS}/r/{part}");
        let kind = "application/merge-patch+json";
        let headers = [("content-type", kind), ("impersonate-user", user)];
        let answer = cluster.ask_with("PATCH", &path, json!({"status": status}), &headers).await;
        let value = answer.value();
        assert_eq!(answer.status, code, "{user} {part} {status}: {value}");
        assert!(message(&value).contains(expect), "{user} {part} {status}: {value}");
    }
    let done = cluster.get(&format!("{REQUESTS}/r")).await;
    let verdict = &done["status"]["conditions"][0];
    assert!(verdict["lastUpdateTime"].is_string() && verdict["lastTransitionTime"].is_string(), "{done}");
    assert_eq!(done["status"]["certificate"], certificate);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_attest_and_what() {
    const BUNDLES: &str = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles";
    let cluster = Cluster::start().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    for (user, signer) in [("nobody", "example.com/other"), ("attester", "example.com/*")] {
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": user}, "rules": [
            {"apiGroups": ["certificates.k8s.io"], "resources": ["clustertrustbundles"], "verbs": ["create", "patch", "get"]},
            {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": [signer], "verbs": ["attest"]}]});
        cluster.create(&format!("{rbac}/clusterroles"), role).await;
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": user}, "roleRef": {"kind": "ClusterRole", "name": user},
            "subjects": [{"kind": "User", "name": user}]});
        cluster.create(&format!("{rbac}/clusterrolebindings"), binding).await;
    }
    let ca = cluster.pki.ca_pem();
    let of_signer = |text: &str| {
        json!({"apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle",
            "metadata": {"name": "example.com:s:one"}, "spec": {"signerName": "example.com/s", "trustBundle": text}})
    };
    let plain = |text: &str| {
        json!({"apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle",
            "metadata": {"name": "plain"}, "spec": {"trustBundle": text}})
    };
    for (user, object, status, expect) in [
        ("nobody", of_signer(ca), 403, "user not permitted to attest for signerName \"example.com/s\""),
        (
            "attester",
            of_signer("x"),
            422,
            "spec.trustBundle: Invalid value: \"<value omitted>\": at least one trust anchor must be provided",
        ),
        ("attester", of_signer(ca), 201, ""),
        ("nobody", plain(&format!("{ca}{ca}")), 422, "duplicate trust anchor (indices [0 1])"),
        ("nobody", plain(ca), 201, ""),
    ] {
        let answer = cluster.ask_with("POST", BUNDLES, object, &[("impersonate-user", user)]).await;
        assert_eq!(answer.status, status, "{}", answer.value());
        assert!(message(&answer.value()).contains(expect), "{}", answer.value());
    }
    let selected = cluster.get(&format!("{BUNDLES}?fieldSelector=spec.signerName%3Dexample.com/s")).await;
    assert_eq!(selected["items"].as_array().map(Vec::len), Some(1), "{selected}");
    let (status, kept) =
        cluster.patch(&format!("{BUNDLES}/plain"), "merge", json!({"spec": {"signerName": "example.com/s"}})).await;
    assert_eq!(status, 422);
    assert!(message(&kept).contains("spec.signerName: Invalid value: \"example.com/s\": field is immutable"), "{kept}");
    cluster.stop().await;
}
