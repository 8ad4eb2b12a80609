//! What the audit log holds, and what it must not.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Cluster, aggregation, ask, config_map, webhooks};
use crate::{AuditOptions, Rotation};

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ["system:apiserver"]}
- {level: Metadata, resources: [{group: "", resources: [secrets]}]}
- {level: Request, verbs: [create], resources: [{group: "", resources: [configmaps]}]}
- {level: RequestResponse, verbs: [get, list, patch], resources: [{group: "", resources: [configmaps]}], omitManagedFields: true}
- {level: Metadata}
"#;
const MARKER: &str = "bm90LWZvci1hbnlib2R5";

async fn events(path: &Path, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let text = std::fs::read_to_string(path).expect("the log");
        // The last line may be on its way.
        let (text, _) = text.rsplit_once('\n').unwrap_or_default();
        let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        if enough(&events) {
            return events;
        }
        assert!(Instant::now() < deadline, "{events:#?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_say_who_did_what_and_no_more_than_asked_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let (policy_file, log_path) = (directory.path().join("policy.yaml"), directory.path().join("audit.log"));
    std::fs::write(&policy_file, POLICY).expect("written");
    let log = log_path.clone();
    let cluster = Cluster::start_changed(directory, |options| {
        options.audit = Some(AuditOptions { policy_file, log_path, rotation: Rotation::default() });
    })
    .await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": MARKER}});
    cluster.create(secrets, secret).await;
    cluster.get(&format!("{secrets}/s")).await;
    let maps = super::CONFIG_MAPS;
    cluster.create(maps, config_map("c")).await;
    cluster.get(&format!("{maps}/c?pretty=true")).await;
    let as_user = [("impersonate-user", "u"), ("user-agent", "tester/1"), ("audit-id", "my-own-name")];
    let refused = cluster.ask_with("DELETE", &format!("{maps}/c"), Value::Null, &as_user).await;
    assert_eq!((refused.status, refused.header("audit-id")), (403, "my-own-name"));
    let forged = [("authorization", "Bearer a.b.c")];
    let nobody = super::identities::with_token(&cluster, "");
    assert_eq!(ask(&nobody, "GET", "/api", Bytes::new(), &forged).await.status, 401);
    cluster.get(&format!("{maps}?watch=true&timeoutSeconds=1")).await;

    let complete = |events: &[Value]| events.iter().filter(|e| e["stage"] == "ResponseComplete").count();
    let found = events(&log, |events| complete(events) >= 7).await;
    let text = std::fs::read_to_string(&log).expect("the log");
    assert!(!text.contains(MARKER), "a secret's content is in the log");
    let of = |verb: &str, resource: &str| {
        let one = |e: &&Value| {
            e["verb"] == verb && e["objectRef"]["resource"] == resource && e["stage"] == "ResponseComplete"
        };
        found.iter().find(one).unwrap_or_else(|| panic!("{verb} {resource}: {found:#?}"))
    };
    let created = of("create", "secrets");
    assert_eq!((&created["level"], &created["responseStatus"]["code"]), (&json!("Metadata"), &json!(201)));
    let of_body = json!({"resource": "secrets", "namespace": "default", "name": "s", "apiVersion": "v1"});
    assert_eq!(created["objectRef"], of_body);
    assert_eq!((&created["user"]["username"], &created["sourceIPs"]), (&json!("admin"), &json!(["127.0.0.1"])));
    assert_eq!(created["annotations"]["authorization.k8s.io/decision"], "allow");
    assert!(created.get("requestObject").is_none() && created.get("responseObject").is_none(), "{created}");
    assert_eq!((&created["kind"], &created["apiVersion"]), (&json!("Event"), &json!("audit.k8s.io/v1")));
    for time in ["requestReceivedTimestamp", "stageTimestamp"] {
        let text = created[time].as_str().expect("a time");
        assert!(text.len() == "2026-01-01T00:00:00.000000Z".len() && text.ends_with('Z'), "{text}");
    }
    let made = of("create", "configmaps");
    assert_eq!(made["requestObject"]["data"], json!({"k": "v"}));
    assert!(made.get("responseObject").is_none());
    let got = of("get", "configmaps");
    assert_eq!((&got["responseObject"]["data"], &got["objectRef"]["name"]), (&json!({"k": "v"}), &json!("c")));
    assert_eq!(got["requestURI"], format!("{maps}/c?pretty=true"));
    let deleted = of("delete", "configmaps");
    assert_eq!((&deleted["auditID"], &deleted["userAgent"]), (&json!("my-own-name"), &json!("tester/1")));
    assert_eq!(
        (&deleted["user"]["username"], &deleted["impersonatedUser"]["username"]),
        (&json!("admin"), &json!("u"))
    );
    assert_eq!(deleted["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(
        (&deleted["responseStatus"]["code"], &deleted["responseStatus"]["reason"]),
        (&json!(403), &json!("Forbidden"))
    );
    let unknown = found.iter().find(|e| e["responseStatus"]["code"] == 401).expect("the forged token");
    assert_eq!(unknown["user"]["username"], "");
    let watch = found.iter().filter(|e| e["verb"] == "watch").map(|e| e["stage"].as_str().expect("text"));
    assert_eq!(watch.collect::<Vec<_>>(), ["ResponseStarted", "ResponseComplete"]);
    assert!(found.iter().all(|e| e["user"]["username"] != "system:apiserver"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_on_the_way_is_noted() {
    let directory = tempfile::tempdir().expect("a directory");
    let (policy_file, log_path) = (directory.path().join("policy.yaml"), directory.path().join("audit.log"));
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
        - {level: None, users: [\"system:apiserver\"]}\n\
        - {level: Request, resources: [{group: \"\", resources: [configmaps, pods]}]}\n\
        - {level: Metadata, resources: [{group: harbour.example.org}]}\n- {level: None}\n";
    std::fs::write(&policy_file, policy).expect("written");
    let log = log_path.clone();
    let cluster = Cluster::start_changed(directory, |options| {
        options.audit = Some(AuditOptions { policy_file, log_path, rotation: Rotation::default() });
    })
    .await;
    // Webhooks: one that changes, one that nobody answers for.
    let step = json!([{"op": "add", "path": "/data/more", "value": "yes"}]);
    let (address, _) = webhooks::serve(&cluster, |_| {
        let mut answer = webhooks::patch(&json!([{"op": "add", "path": "/data/more", "value": "yes"}]));
        answer["auditAnnotations"] = json!({"seen": "by me"});
        answer
    })
    .await;
    let nobody = {
        let listener = tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        listener.local_addr().expect("bound")
    };
    let hooks = vec![
        webhooks::hook(&cluster, "a.example.org", address, &["CREATE"], json!({})),
        webhooks::hook(&cluster, "b.example.org", nobody, &["CREATE"], json!({"failurePolicy": "Ignore"})),
    ];
    webhooks::configure(&cluster, webhooks::MUTATING, hooks).await;
    cluster.create(super::CONFIG_MAPS, config_map("m")).await;
    // Pod Security.
    let labels =
        json!({"pod-security.kubernetes.io/audit": "restricted", "pod-security.kubernetes.io/enforce": "baseline"});
    let patched = cluster.patch("/api/v1/namespaces/default", "merge", json!({"metadata": {"labels": labels}})).await;
    assert_eq!(patched.0, 200);
    super::with_account(&cluster).await;
    cluster.create("/api/v1/namespaces/default/pods", super::pod("p")).await;
    // A connection that is taken over.
    let (address, _) = aggregation::extension(&cluster).await;
    aggregation::expose(&cluster, address.port()).await;
    cluster.create(aggregation::API_SERVICES, aggregation::api_service(&cluster, address.port())).await;
    aggregation::until(&cluster, &format!("v1.{}", aggregation::GROUP), "Passed").await;
    let talk = format!("/apis/{}/v1/boats/skiff/talk", aggregation::GROUP);
    let request = http::Request::get(&talk).header("connection", "Upgrade").header("upgrade", "echo");
    let upgraded = cluster.admin().upgrade(request.body(()).expect("a request")).await.expect("an answer");
    let skiff_client::Upgraded::Switched(_, mut stream) = upgraded else { panic!("it was refused") };
    let of = |found: &[Value]| -> Vec<(String, u64)> {
        let own = found.iter().filter(|event| event["requestURI"] == *talk);
        own.map(|e| (e["stage"].as_str().expect("text").to_owned(), e["responseStatus"]["code"].as_u64().unwrap_or(0)))
            .collect()
    };
    let started = ("ResponseStarted".to_owned(), 101);
    let found = events(&log, |events| !of(events).is_empty()).await;
    assert_eq!(of(&found), std::slice::from_ref(&started), "before the end");
    stream.write_all(b"ping").await.expect("written");
    stream.read_to_end(&mut Vec::new()).await.expect("read");
    drop(stream);
    let found = events(&log, |events| of(events).len() >= 2).await;
    assert_eq!(of(&found), [started, ("ResponseComplete".to_owned(), 101)]);
    let of = |resource: &str| {
        let one = |e: &&Value| e["objectRef"]["resource"] == resource && e["verb"] == "create";
        found.iter().find(one).unwrap_or_else(|| panic!("{resource}: {found:#?}"))["annotations"].clone()
    };
    let named = found.iter().find(|e| e["verb"] == "create" && e["objectRef"]["resource"] == "pods");
    assert_eq!(named.expect("the pod")["objectRef"]["name"], "p", "from the body: the path has none");
    let map = of("configmaps");
    let text = |of: &Value, name: &str| -> Value {
        serde_json::from_str(of[name].as_str().unwrap_or_else(|| panic!("{name}: {of}"))).expect("JSON")
    };
    let place = "webhook.admission.k8s.io/round_0_index_0";
    assert_eq!(
        text(&map, &format!("mutation.{place}")),
        json!({"configuration": "hooks", "webhook": "a.example.org", "mutated": true})
    );
    assert_eq!(
        text(&map, &format!("patch.{place}")),
        json!({"configuration": "hooks", "webhook": "a.example.org", "patch": step, "patchType": "JSONPatch"})
    );
    assert_eq!(map["a.example.org/seen"], "by me");
    assert_eq!(map["failed-open.mutation.webhook.admission.k8s.io/round_0_index_1"], "b.example.org");
    assert_eq!(map["authorization.k8s.io/decision"], "allow");
    let pod = of("pods");
    assert_eq!(pod["pod-security.kubernetes.io/enforce-policy"], "baseline:latest");
    let violations = pod["pod-security.kubernetes.io/audit-violations"].as_str().expect("violations");
    assert!(
        violations.starts_with("would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation"),
        "{violations}"
    );
    cluster.stop().await;
}
