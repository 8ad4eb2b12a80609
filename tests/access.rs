//! Who may do what on a real cluster, asked by upstream's kubectl: roles, tokens, impersonation, the audit log.

mod harness;

use std::fs;
use std::time::Duration;

use harness::{Machine, eventually};

const LIMIT: Duration = Duration::from_secs(60);
/// The content of a secret, plain and as the API carries it.
const SECRET: [&str; 2] = ["not-for-anybody", "bm90LWZvci1hbnlib2R5"];

/// Upstream's kubectl; both outputs, and whether it succeeded.
fn upstream(machine: &Machine, arguments: &[&str]) -> (bool, String) {
    let output = machine.command("kubectl").args(arguments).output().expect("run kubectl");
    (output.status.success(), harness::text(&output))
}

#[track_caller]
fn says(machine: &Machine, line: &str, expect: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let (_, said) = upstream(machine, &words);
    assert!(said.contains(expect), "kubectl {line}\nexpected: {expect}\nsaid: {said}\n{}", machine.last_log());
}

/// As who holds the token, and nobody else.
fn with_token(machine: &Machine, token: &str, line: &str) -> (bool, String) {
    let server = "--server=https://127.0.0.1:6443";
    let mut words = vec!["--kubeconfig=/dev/null", server, "--insecure-skip-tls-verify", "--token", token];
    words.extend(line.split(' '));
    upstream(machine, &words)
}

#[track_caller]
fn says_with_token(machine: &Machine, token: &str, line: &str, expect: &str) {
    let (_, said) = with_token(machine, token, line);
    assert!(said.contains(expect), "{line}: {said}\n{}", machine.last_log());
}

#[test]
fn roles_and_refusals() {
    let machine = Machine::with_server();
    let user = "--as=jane";
    for (line, sentence) in [
        (
            "get pods",
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            "get pods -A",
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" at the cluster scope"#,
        ),
        (
            "get pod a",
            r#"pods "a" is forbidden: User "jane" cannot get resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            "create configmap c",
            r#"configmaps is forbidden: User "jane" cannot create resource "configmaps" in API group "" in the namespace "default""#,
        ),
        (
            "delete service kubernetes",
            r#"services "kubernetes" is forbidden: User "jane" cannot delete resource "services" in API group "" in the namespace "default""#,
        ),
        (
            "delete pods --all",
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            "label node node-1 a=b",
            r#"nodes "node-1" is forbidden: User "jane" cannot get resource "nodes" in API group "" at the cluster scope"#,
        ),
        (
            "logs a",
            r#"pods "a" is forbidden: User "jane" cannot get resource "pods" in API group "" in the namespace "default""#,
        ),
        ("get --raw /metrics", r#"forbidden: User "jane" cannot get path "/metrics""#),
    ] {
        says(&machine, &format!("{line} {user}"), sentence);
    }
    says(&machine, "auth can-i --list", "*.*");
    says(&machine, "auth can-i --list --as=jane", "selfsubjectaccessreviews.authorization.k8s.io");
    says(&machine, "auth can-i list pods --as=jane", "no");
    says(&machine, "auth whoami", "system:masters");
    says(&machine, "auth whoami --as=jane --as-group=devs", "devs");

    // `edit` is made of others by its controller.
    says(
        &machine,
        "create rolebinding jane --clusterrole=edit --user=jane",
        "rolebinding.rbac.authorization.k8s.io/jane created",
    );
    eventually("jane may edit", LIMIT, || {
        match upstream(&machine, &["auth", "can-i", "create", "deployments.apps", user]) {
            (true, _) => Ok(()),
            (false, said) => Err(said),
        }
    });
    says(&machine, "create configmap c --as=jane", "configmap/c created");
    says(&machine, "get configmaps -n kube-system --as=jane", r#"in the namespace "kube-system""#);
    says(&machine, "create role r --verb=get --resource=pods --as=jane", r#"cannot create resource "roles""#);
    // Who holds `admin` passes on what that has, and nothing more.
    says(&machine, "create rolebinding boss --clusterrole=admin --user=boss", "created");
    eventually("boss may grant", LIMIT, || {
        match upstream(&machine, &["create", "role", "r", "--verb=get", "--resource=pods", "--as=boss"]) {
            (true, _) => Ok(()),
            (false, said) => Err(said),
        }
    });
    says(
        &machine,
        "create rolebinding all --clusterrole=cluster-admin --user=jane --as=boss",
        "is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}",
    );
    says(&machine, "get rolebindings -o wide", "Role/");

    let manifest = machine.directory.path().join("roles.yaml");
    let roles = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: extra, namespace: default}
rules:
- {apiGroups: [""], resources: [secrets], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: extra, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: extra}
subjects:
- {kind: ServiceAccount, name: default, namespace: default}
"#;
    fs::write(&manifest, roles).expect("write the roles");
    let path = manifest.to_str().expect("text");
    for _ in 0..2 {
        says(&machine, &format!("auth reconcile -f {path}"), "rolebinding.rbac.authorization.k8s.io/extra reconciled");
    }
    says(&machine, "auth can-i get secrets --as=system:serviceaccount:default:default", "yes");
    // A binding's role is for ever.
    says(&machine, r#"patch rolebinding extra --type=merge -p {"roleRef":{"name":"other"}}"#, "cannot change roleRef");
}

#[test]
fn tokens_live_and_die_with_what_they_are_of() {
    let machine = Machine::with_server();
    machine.apply(
        r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects:
- {kind: ServiceAccount, name: robot}
---
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  serviceAccountName: robot
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:1.36
    command: [sh, -c, "cat /var/run/secrets/kubernetes.io/serviceaccount/token; echo; sleep 1000"]
---
apiVersion: v1
kind: Secret
type: kubernetes.io/service-account-token
metadata: {name: robot-token, annotations: {kubernetes.io/service-account.name: robot}}
"#,
    );
    machine.until(&["pod", "p"], "{.status.phase}", "Running");
    let token = eventually("the pod shows its token", LIMIT, || {
        let log = machine.kubectl(&["logs", "p"]);
        if log.matches('.').count() == 2 { Ok(log.trim().to_owned()) } else { Err(log) }
    });
    let (done, said) = with_token(&machine, &token, "get pods -n default");
    assert!(done && said.contains("Running"), "{said}");
    let (_, said) = with_token(&machine, &token, "auth whoami -o yaml");
    assert!(said.contains("username: system:serviceaccount:default:robot"), "{said}");
    for extra in ["credential-id", "node-name", "node-uid", "pod-name", "pod-uid"] {
        assert!(said.contains(&format!("authentication.kubernetes.io/{extra}:")), "{extra}: {said}");
    }
    let (_, said) = with_token(&machine, &token, "delete pod p -n default");
    assert!(said.contains(r#"User "system:serviceaccount:default:robot" cannot delete resource "pods""#), "{said}");
    let (_, said) = with_token(&machine, &token, "get pods -n kube-system");
    assert!(said.contains(r#"in the namespace "kube-system""#), "{said}");

    let (done, made) = upstream(&machine, &["create", "token", "robot", "--duration=10m"]);
    assert!(done, "{made}");
    assert!(with_token(&machine, made.trim(), "get pods -n default").0);
    says(&machine, "create token robot --duration=5m", "may not specify a duration less than 10 minutes");

    let template = "--template={{with .data}}{{with .token}}{{.|base64decode}}{{end}}{{end}}";
    let old = eventually("the secret holds a token", LIMIT, || {
        match upstream(&machine, &["get", "secret", "robot-token", template]) {
            (true, token) if !token.is_empty() => Ok(token),
            (_, said) => Err(said),
        }
    });
    assert!(with_token(&machine, &old, "get pods -n default").0);

    machine.kubectl(&["delete", "pod", "p"]);
    let (done, said) = with_token(&machine, &token, "get pods -n default");
    assert!(!done && said.contains("You must be logged in to the server"), "a deleted pod's token: {said}");
    machine.kubectl(&["delete", "serviceaccount", "robot"]);
    for token in [made.trim(), &old] {
        let (done, said) = with_token(&machine, token, "get pods -n default");
        assert!(!done && said.contains("You must be logged in to the server"), "a deleted account's token: {said}");
    }
    eventually("its secret is gone", LIMIT, || match machine.try_kubectl(&["get", "secret", "robot-token"]) {
        Err(said) if said.contains("not found") => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// A new key and a request for it, both PEM.
fn signing_request(name: &str, group: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    (key.serialize_pem(), params.serialize_request(&key).expect("a request").pem().expect("PEM"))
}

/// The manifest of a request for a client's certificate.
fn signing_manifest(name: &str, signer: &str, pem: &str, more_usages: &str) -> String {
    let request = base64(pem);
    format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\n\
         spec:\n  signerName: kubernetes.io/{signer}\n  usages: [client auth, digital signature{more_usages}]\n  \
         request: {request}\n"
    )
}

#[test]
fn certificates_are_asked_for_approved_and_used() {
    let machine = Machine::with_server();
    let directory = machine.directory.path();
    let (key, pem) = signing_request("jane", "devs");
    let manifest = directory.join("request.yaml");
    let write = |text: &str| fs::write(&manifest, text).expect("write the manifest");
    let path = manifest.to_str().expect("text");
    let request = |name: &str, signer: &str, pem: &str, more: &str| {
        write(&signing_manifest(name, signer, pem, more));
        says(
            &machine,
            &format!("create -f {path}"),
            &format!("certificatesigningrequest.certificates.k8s.io/{name} created"),
        );
    };
    request("jane", "kube-apiserver-client", &pem, "");
    says(&machine, "get csr jane", "Pending");
    says(&machine, "certificate approve jane", "certificatesigningrequest.certificates.k8s.io/jane approved");
    machine.until(&["csr", "jane"], "{.status.conditions[0].reason}", "KubectlApprove");
    let certificate =
        eventually("the certificate", LIMIT, || match machine.jsonpath(&["csr", "jane"], "{.status.certificate}") {
            Ok(text) if !text.is_empty() => Ok(text),
            other => Err(format!("{other:?}")),
        });
    says(&machine, "get csr jane", "Approved,Issued");
    let config = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: \"https://127.0.0.1:6443\", insecure-skip-tls-verify: true}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         users: [{{name: u, user: {{client-certificate-data: {certificate}, client-key-data: {}}}}}]\n",
        base64(&key)
    );
    let kubeconfig = directory.join("jane.yaml");
    fs::write(&kubeconfig, config).expect("write the kubeconfig");
    let (done, said) = upstream(&machine, &["--kubeconfig", kubeconfig.to_str().expect("text"), "auth", "whoami"]);
    assert!(done && said.contains("jane") && said.contains("[devs system:authenticated]"), "{said}");

    // What was denied stays so; what no signer would sign fails.
    request("denied", "kube-apiserver-client", &pem, "");
    says(&machine, "certificate deny denied", "certificatesigningrequest.certificates.k8s.io/denied denied");
    says(&machine, "get csr denied", "Denied");
    says(&machine, "certificate approve denied", "certificate signing request \"denied\" is already Denied");
    request("odd", "kube-apiserver-client", &pem, ", server auth");
    says(&machine, "certificate approve odd", "approved");
    let failed = r#"{.status.conditions[?(@.type=="Failed")].message}"#;
    machine.until(&["csr", "odd"], failed, "invalid usage for client certificate: server auth");
    says(&machine, "get csr odd", "Approved,Failed");

    // Kubelets wait for nobody, once they may have what they ask for.
    let (_, node) = signing_request("system:node:node-2", "system:nodes");
    write(&signing_manifest("node-2", "kube-apiserver-client-kubelet", &node, ""));
    let token = ["--as=system:bootstrap:abcdef", "--as-group=system:bootstrappers"].join(" ");
    says(
        &machine,
        "create clusterrolebinding bootstrap --clusterrole=system:node-bootstrapper --group=system:bootstrappers",
        "created",
    );
    says(&machine, &format!("create -f {path} {token}"), "node-2 created");
    says(
        &machine,
        "create clusterrolebinding approve --group=system:bootstrappers \
         --clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        "created",
    );
    let message = "Auto approving kubelet client certificate after SubjectAccessReview.";
    machine.until(&["csr", "node-2"], "{.status.conditions[0].message}", message);
    eventually("it is signed", LIMIT, || match machine.jsonpath(&["csr", "node-2"], "{.status.certificate}") {
        Ok(text) if !text.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn the_audit_log_tells_who_and_no_secret() {
    let mut machine = Machine::new();
    let directory = machine.directory.path().to_owned();
    let (policy, log) = (directory.join("policy.yaml"), directory.join("audit.log"));
    let rules = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  resources:
  - {group: "", resources: [secrets, serviceaccounts/token]}
  - {group: authentication.k8s.io, resources: [tokenreviews]}
- {level: RequestResponse}
"#;
    fs::write(&policy, rules).expect("write the policy");
    machine.start(&[
        "--log-level=debug",
        &format!("--kube-apiserver-arg=audit-policy-file={}", policy.display()),
        &format!("--kube-apiserver-arg=audit-log-path={}", log.display()),
    ]);
    machine.wait_ready();
    says(&machine, &format!("create secret generic s --from-literal=k={}", SECRET[0]), "secret/s created");
    says(&machine, "get secret s -o yaml", SECRET[1]);
    says(&machine, "create configmap c --from-literal=k=plain", "configmap/c created");
    says(&machine, "get nodes --as=jane", "forbidden");
    let (done, token) = upstream(&machine, &["create", "token", "default", "--duration=10m"]);
    assert!(done, "{token}");
    let token = token.trim();
    says_with_token(&machine, token, "auth whoami", "system:serviceaccount:default:default");
    says_with_token(&machine, "abcdef.0123456789abcdef", "auth whoami", "You must be logged in");
    let review = directory.join("review.yaml");
    let asked = format!("apiVersion: authentication.k8s.io/v1\nkind: TokenReview\nspec: {{token: {token:?}}}\n");
    fs::write(&review, asked).expect("write the review");
    let review = review.to_str().expect("text");
    says(&machine, &format!("create -f {review} -o jsonpath={{.status.authenticated}}"), "true");
    machine.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:1.36
    command: [sh, -c, "cat /var/run/secrets/kubernetes.io/serviceaccount/token > /dev/null; sleep 1000"]
    env: [{name: K, valueFrom: {secretKeyRef: {name: s, key: k}}}]
    volumeMounts: [{name: s, mountPath: /s}]
  volumes: [{name: s, secret: {secretName: s}}]
"#,
    );
    machine.until(&["pod", "reader"], "{.status.phase}", "Running");
    let own = "cat /var/run/secrets/kubernetes.io/serviceaccount/token";
    let own = machine.kubectl(&["exec", "reader", "--", "sh", "-c", own]);
    eventually("a pod for the scheduler", LIMIT, || {
        // Pods are refused until the namespace has its service account.
        match upstream(&machine, &["run", "p", "--image=nowhere.invalid/p"]) {
            (true, _) => Ok(()),
            (false, said) => Err(said),
        }
    });
    let parts =
        ["system:kube-scheduler", "system:node:node-1", "system:serviceaccount:kube-system:root-ca-cert-publisher"];
    let events = eventually("all of it is in the log", LIMIT, || {
        let text = fs::read_to_string(&log).expect("the audit log");
        // The last line may be on its way.
        let lines = text.rsplit_once('\n').map_or("", |(whole, _)| whole).lines();
        let events: Vec<serde_json::Value> =
            lines.map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
        let told = |part: &&str| events.iter().any(|e| e["user"]["username"] == **part);
        let jane = events.iter().any(|e| e["impersonatedUser"]["username"] == "jane");
        if jane && parts.iter().all(told) { Ok(events) } else { Err(text) }
    });
    let of = |verb: &str, resource: &str| {
        // `skiff wait` lists as the administrator, too, but not as another.
        let user = |e: &&serde_json::Value| e["user"]["username"] == "system:admin";
        let own = |e: &&serde_json::Value| verb != "list" || e.get("impersonatedUser").is_some();
        let mut all = events.iter().filter(user).filter(own);
        let found = all.find(|e| e["verb"] == verb && e["objectRef"]["resource"] == resource);
        found.unwrap_or_else(|| panic!("{verb} {resource}: {events:#?}"))
    };
    assert_eq!(of("create", "secrets")["level"], "Metadata");
    let map = of("create", "configmaps");
    assert_eq!(
        (&map["requestObject"]["data"]["k"], &map["responseObject"]["data"]["k"]),
        (&"plain".into(), &"plain".into())
    );
    let refused = of("list", "nodes");
    assert_eq!(
        (&refused["responseStatus"]["code"], &refused["annotations"]["authorization.k8s.io/decision"]),
        (&403.into(), &"forbid".into())
    );
    let (audit, server) = (fs::read_to_string(&log).expect("the audit log"), machine.log());
    // The last part of a token is enough to know it by.
    let signature = |token: &str| token.trim().rsplit_once('.').expect("a token").1.to_owned();
    let bootstrap = "0123456789abcdef".to_owned();
    let tokens = [signature(token), signature(&own), bootstrap];
    for marker in SECRET.map(str::to_owned).iter().chain(&tokens) {
        for (what, log) in [("audit", &audit), ("server's", &server)] {
            let line = log.lines().find(|line| line.contains(marker));
            assert!(line.is_none(), "a secret is in the {what} log: {line:?}");
        }
    }
    assert!(server.contains("DEBUG"), "finer levels were written");
    // A policy that is wrong is told, not ignored.
    machine.end_server(nix::sys::signal::Signal::SIGTERM);
    fs::write(&policy, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: []\n").expect("write the policy");
    machine.start(&[
        &format!("--kube-apiserver-arg=audit-policy-file={}", policy.display()),
        &format!("--kube-apiserver-arg=audit-log-path={}", log.display()),
    ]);
    eventually("the server refuses", LIMIT, || if machine.server_runs() { Err(machine.log()) } else { Ok(()) });
    assert!(machine.log().contains("it has no rules"), "{}", machine.last_log());
}
