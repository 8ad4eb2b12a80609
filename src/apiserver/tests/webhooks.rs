//! Webhooks of admission, served over TLS as theirs are.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{CONFIG_MAPS, Cluster, config_map, labelled, pod, with_account};
use crate::http::tls::{Serving, server_config};

pub(super) const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
pub(super) const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

pub(super) type Seen = Arc<Mutex<Vec<Value>>>;

/// Answers reviews on a port of its own, as `hooks` of the default namespace would; gives what it was asked, too, and how
/// (`target`, `connection`). As Python's server of the standard library: an answer ends with the connection, of which TLS
/// is told nothing.
pub(super) async fn serve(cluster: &Cluster, answer: impl Fn(&Value) -> Value + Send + 'static) -> (SocketAddr, Seen) {
    serve_some(cluster, 1, answer).await
}

/// So many answers for a connection, which ends then without a word.
async fn serve_some(
    cluster: &Cluster,
    answers: usize,
    answer: impl Fn(&Value) -> Value + Send + 'static,
) -> (SocketAddr, Seen) {
    let pair =
        cluster.pki.kubelet_serving("hooks.default.svc", &[IpAddr::V4(Ipv4Addr::LOCALHOST)]).expect("a certificate");
    let config = server_config(&cluster.pki, Serving::new(&pair).expect("a key")).expect("a configuration");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let seen = Seen::default();
    let told = seen.clone();
    tokio::spawn(async move {
        let mut connection = 0;
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let mut stream = BufReader::new(stream);
            connection += 1;
            for _ in 0..answers {
                let (mut line, mut length, mut target) = (String::new(), 0, String::new());
                while stream.read_line(&mut line).await.expect("a line") > 2 {
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().expect("a length");
                    }
                    if let Some(rest) = line.strip_prefix("POST ") {
                        target = rest.split(' ').next().unwrap_or_default().to_owned();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.expect("a body");
                let mut review: Value = serde_json::from_slice(&body).expect("a review");
                let mut response = answer(&review["request"]);
                response["uid"] = review["request"]["uid"].clone();
                let mut asked = review["request"].take();
                (asked["target"], asked["connection"]) = (target.into(), connection.into());
                told.lock().expect("no panic").push(asked);
                let answer =
                    json!({"kind": "AdmissionReview", "apiVersion": review["apiVersion"], "response": response});
                let answer = answer.to_string();
                let head = match answers {
                    1 => "HTTP/1.0 200 OK".to_owned(),
                    _ => format!("HTTP/1.1 200 OK\r\ncontent-length: {}", answer.len()),
                };
                stream.write_all(format!("{head}\r\n\r\n{answer}").as_bytes()).await.expect("written");
                stream.flush().await.expect("flushed");
            }
        }
    });
    (address, seen)
}

pub(super) fn hook(cluster: &Cluster, name: &str, address: SocketAddr, operations: &[&str], more: Value) -> Value {
    let bundle = base64::engine::general_purpose::STANDARD.encode(cluster.pki.ca_pem());
    let mut hook = json!({"name": name, "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
        "clientConfig": {"url": format!("https://127.0.0.1:{}/x", address.port()), "caBundle": bundle},
        "rules": [{"operations": operations, "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]});
    hook.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    hook
}

pub(super) async fn configure(cluster: &Cluster, path: &str, hooks: Vec<Value>) {
    let kind = if path == MUTATING { "MutatingWebhookConfiguration" } else { "ValidatingWebhookConfiguration" };
    let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
        "metadata": {"name": "hooks"}, "webhooks": hooks});
    cluster.create(path, configuration).await;
}

pub(super) fn patch(steps: &Value) -> Value {
    let patch = base64::engine::general_purpose::STANDARD.encode(steps.to_string());
    json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_used_again_until_they_end() {
    let cluster = Cluster::start().await;
    let (address, seen) = serve_some(&cluster, 2, |_| json!({"allowed": true})).await;
    let hooks = vec![hook(&cluster, "v.example.org", address, &["CREATE"], json!({}))];
    configure(&cluster, VALIDATING, hooks).await;
    for name in ["a", "b", "c", "d", "e"] {
        cluster.create(CONFIG_MAPS, config_map(name)).await;
    }
    let asked = seen.lock().expect("no panic").clone();
    let connections: Vec<_> = asked.iter().map(|request| request["connection"].as_u64()).collect();
    assert_eq!(connections, [1, 1, 2, 2, 3].map(Some));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validating_ones_refuse_warn_and_see_what_goes() {
    let cluster = Cluster::start().await;
    let (address, seen) = serve(&cluster, |request| match request["operation"].as_str() {
        Some("DELETE") => json!({"allowed": request["oldObject"]["metadata"]["labels"]["keep"].is_null(),
            "status": {"message": "it is kept", "code": 409, "reason": "Conflict"}}),
        _ => json!({"allowed": request["object"]["data"]["k"] == "v", "status": {"reason": "not v"},
            "warnings": ["looked at"]}),
    })
    .await;
    let operations = ["CREATE", "DELETE"];
    let selected = json!({"objectSelector": {"matchExpressions": [{"key": "free", "operator": "DoesNotExist"}]}});
    let hooks = vec![hook(&cluster, "v.example.org", address, &operations, selected)];
    configure(&cluster, VALIDATING, hooks).await;

    let answer = cluster.ask_with("POST", CONFIG_MAPS, labelled("good", json!({"keep": "yes"})), &[]).await;
    assert_eq!((answer.status, answer.header("warning")), (201, "299 - \"looked at\""));
    let mut bad = config_map("bad");
    bad["data"]["k"] = json!("w");
    let (status, error) = cluster.ask("POST", CONFIG_MAPS, bad.clone()).await;
    let message = "admission webhook \"v.example.org\" denied the request: not v";
    assert_eq!((status, error["message"].as_str()), (400, Some(message)));
    bad["metadata"]["labels"] = json!({"free": ""});
    assert_eq!(cluster.ask("POST", CONFIG_MAPS, bad).await.0, 201, "it is not selected");
    let (status, error) = cluster.ask("DELETE", &format!("{CONFIG_MAPS}/good"), Value::Null).await;
    let message = "admission webhook \"v.example.org\" denied the request: it is kept";
    assert_eq!((status, error["message"].as_str()), (409, Some(message)));

    let asked = seen.lock().expect("no panic").clone();
    let operations: Vec<_> = asked.iter().filter_map(|request| request["operation"].as_str()).collect();
    assert_eq!(operations, ["CREATE", "CREATE", "DELETE"]);
    let first = &asked[0];
    assert_eq!(
        (&first["kind"], &first["resource"], &first["namespace"], &first["name"], &first["dryRun"]),
        (
            &json!({"group": "", "version": "v1", "kind": "ConfigMap"}),
            &json!({"group": "", "version": "v1", "resource": "configmaps"}),
            &json!("default"),
            &json!("good"),
            &json!(false)
        )
    );
    assert_eq!(first["userInfo"]["username"], "admin");
    assert_eq!((&first["object"]["kind"], &first["oldObject"]), (&json!("ConfigMap"), &Value::Null));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutating_ones_change_and_are_asked_again() {
    let cluster = Cluster::start().await;
    // Counts what it sees: asked again, it sees what the second has added.
    let (first, seen) = serve(&cluster, |request| {
        let data = request["object"]["data"].as_object().map_or(0, serde_json::Map::len);
        patch(&json!([{"op": "add", "path": "/data/count", "value": data.to_string()}]))
    })
    .await;
    let (second, _) = serve(&cluster, |_| patch(&json!([{"op": "add", "path": "/data/more", "value": "yes"}]))).await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    let hooks = vec![
        hook(&cluster, "a.example.org", first, &["CREATE"], again),
        hook(&cluster, "b.example.org", second, &["CREATE"], json!({})),
    ];
    configure(&cluster, MUTATING, hooks).await;
    let made = cluster.create(CONFIG_MAPS, config_map("m")).await;
    assert_eq!(made["data"], json!({"k": "v", "count": "3", "more": "yes"}));
    assert_eq!(seen.lock().expect("no panic").len(), 2);
    let (status, _) = cluster.patch(&format!("{CONFIG_MAPS}/m"), "merge", json!({"data": {"k": "w"}})).await;
    assert_eq!((status, seen.lock().expect("no panic").len()), (200, 2), "updates are not theirs");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_that_do_not_answer_fail_open_or_closed() {
    let cluster = Cluster::start().await;
    // Bound and let go: nobody listens there.
    let address = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        listener.local_addr().expect("bound")
    };
    let open = hook(&cluster, "open.example.org", address, &["CREATE"], json!({"failurePolicy": "Ignore"}));
    configure(&cluster, MUTATING, vec![open]).await;
    cluster.create(CONFIG_MAPS, config_map("a")).await;
    let closed = hook(&cluster, "closed.example.org", address, &["CREATE"], json!({}));
    configure(&cluster, VALIDATING, vec![closed]).await;
    let (status, error) = cluster.ask("POST", CONFIG_MAPS, config_map("b")).await;
    let message = error["message"].as_str().expect("a message");
    let start = format!(
        "Internal error occurred: failed calling webhook \"closed.example.org\": failed to call webhook: Post \
         \"https://127.0.0.1:{}/x",
        address.port()
    );
    assert!(status == 500 && message.starts_with(&start), "{message}");
    // Who configures webhooks is never asked about.
    assert_eq!(cluster.ask("DELETE", &format!("{VALIDATING}/hooks"), Value::Null).await.0, 200);
    cluster.create(CONFIG_MAPS, config_map("b")).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_can_be_denied() {
    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    cluster.create("/api/v1/namespaces/default/pods", pod("p")).await;
    let (address, seen) =
        serve(&cluster, |_| json!({"allowed": false, "status": {"message": "attaching is not allowed"}})).await;
    let rules = json!({"rules": [{"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["pods/attach"]}]});
    let hooks = vec![hook(&cluster, "c.example.org", address, &[], rules)];
    configure(&cluster, VALIDATING, hooks).await;
    let attach = "/api/v1/namespaces/default/pods/p/attach?container=c&stdin=true";
    let (status, error) = cluster.ask("POST", attach, Value::Null).await;
    let message = "admission webhook \"c.example.org\" denied the request: attaching is not allowed";
    assert_eq!((status, error["message"].as_str()), (400, Some(message)));
    let asked = seen.lock().expect("no panic")[0].clone();
    assert_eq!(
        (&asked["kind"]["kind"], &asked["subResource"], &asked["object"]["stdin"], &asked["name"]),
        (&json!("PodAttachOptions"), &json!("attach"), &json!(true), &json!("p"))
    );

    // A proxy, too: nothing listens there, but the webhook is asked before that shows.
    let rules = json!({"rules": [{"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["pods/proxy"]}]});
    let hooks = vec![hook(&cluster, "p.example.org", address, &[], rules)];
    let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "proxies"}, "webhooks": hooks});
    cluster.create(VALIDATING, configuration).await;
    let podip = json!({"status": {"podIP": "192.0.2.7", "podIPs": [{"ip": "192.0.2.7"}]}});
    assert_eq!(cluster.patch("/api/v1/namespaces/default/pods/p/status", "merge", podip).await.0, 200);
    let (status, _) = cluster.ask("GET", "/api/v1/namespaces/default/pods/p/proxy/a/b/", Value::Null).await;
    assert_eq!(status, 400);
    let asked = seen.lock().expect("no panic").last().expect("asked").clone();
    assert_eq!(asked["object"], json!({"kind": "PodProxyOptions", "apiVersion": "v1", "path": "/a/b/"}));
    cluster.stop().await;
}
