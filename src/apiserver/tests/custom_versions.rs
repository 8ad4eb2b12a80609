//! Several versions, and what else a definition can ask for: conversion, scale, selectable fields, names.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use skiff_pki::{ClusterPki, ServerNames};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::Cluster;
use super::customs::{DEFINITIONS, crd, tab};
use super::watches::Frames;
use crate::http::tls;

const V1: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";
const V2: &str = "/apis/stable.example.com/v2/namespaces/default/crontabs";

/// v1 has `hostPort`, v2 (not stored) `host` and `port`.
fn two_versions(conversion: Value) -> Value {
    let version = |name: &str, stored: bool, fields: Value| {
        json!({"name": name, "served": true, "storage": stored,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": fields}}})
    };
    crd(|crd| {
        crd["spec"]["versions"] = json!([
            version("v1", true, json!({"hostPort": {"type": "string"}})),
            version("v2", false, json!({"host": {"type": "string"}, "port": {"type": "string"}})),
        ]);
        crd["spec"]["conversion"] = conversion;
    })
}

fn object(version: &str, name: &str, fields: Value) -> Value {
    let mut object = fields;
    object["apiVersion"] = format!("stable.example.com/{version}").into();
    object["kind"] = "CronTab".into();
    object["metadata"] = json!({"name": name});
    object
}

/// Converts between the two; an object with the host `broken` loses its name.
fn convert(mut object: Value, to: &str) -> Value {
    match to {
        "stable.example.com/v2" => {
            let text = object["hostPort"].as_str().unwrap_or_default().to_owned();
            let (host, port) = text.split_once(':').unwrap_or((&text, ""));
            if host == "broken" {
                object["metadata"]["name"] = "another".into();
            }
            object["host"] = host.into();
            object["port"] = port.into();
        }
        _ => {
            let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
            object["hostPort"] = format!("{}:{}", text("host"), text("port")).into();
        }
    }
    object["apiVersion"] = to.into();
    object
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let review: Value = serde_json::from_slice(&body).expect("a review");
    let to = review["request"]["desiredAPIVersion"].as_str().expect("a version");
    let objects = review["request"]["objects"].as_array().cloned().expect("objects");
    let converted: Vec<Value> = objects.into_iter().map(|object| convert(object, to)).collect();
    let answer = json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": {
        "uid": review["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": converted}});
    Ok(Response::new(Full::new(Bytes::from(answer.to_string()))))
}

/// A webhook of the test's own; the conversion that leads to it, and what keeps it alive.
async fn webhook() -> (Value, tempfile::TempDir, tokio::task::JoinHandle<()>) {
    use base64::Engine as _;
    let directory = tempfile::tempdir().expect("a directory");
    let names = ServerNames { dns: vec!["localhost".into()], ips: vec![std::net::Ipv4Addr::LOCALHOST.into()] };
    let pki = ClusterPki::ensure(directory.path(), &names).expect("keys");
    let serving = tls::Serving::new(&pki.server()).expect("a certificate");
    let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(&pki, serving).expect("a configuration")));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let task = tokio::spawn(async move {
        // They end with this task.
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(answer);
                drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    let bundle = base64::engine::general_purpose::STANDARD.encode(pki.ca_pem());
    let conversion = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://127.0.0.1:{port}/convert"), "caBundle": bundle}}});
    (conversion, directory, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_converts() {
    let cluster = Cluster::start().await;
    let (conversion, _directory, task) = webhook().await;
    cluster.define(two_versions(conversion)).await;
    let created = cluster.create(V1, object("v1", "a", json!({"hostPort": "h:1"}))).await;
    let shown = cluster.get(&format!("{V2}/a")).await;
    assert_eq!((&shown["host"], &shown["port"], shown.get("hostPort")), (&json!("h"), &json!("1"), None));
    assert_eq!((&shown["metadata"], &shown["apiVersion"]), (&created["metadata"], &json!("stable.example.com/v2")));

    let second = cluster.create(V2, object("v2", "b", json!({"host": "i", "port": "2"}))).await;
    assert_eq!(second["host"], "i");
    assert_eq!(cluster.get(&format!("{V1}/b")).await["hostPort"], "i:2");
    let hosts = |list: &Value, key: &str| -> Vec<String> {
        let items = list["items"].as_array().expect("items");
        items.iter().map(|item| item[key].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(hosts(&cluster.get(V2).await, "host"), ["h", "i"]);
    assert_eq!(hosts(&cluster.get(V1).await, "hostPort"), ["h:1", "i:2"]);
    let (status, patched) = cluster.patch(&format!("{V2}/a"), "merge", json!({"port": "3"})).await;
    assert_eq!((status, &patched["host"], &patched["port"]), (200, &json!("h"), &json!("3")));
    assert_eq!(cluster.get(&format!("{V1}/a")).await["hostPort"], "h:3");

    let mut watching = Frames::open(&cluster, &format!("{V2}?watch=true"), "").await;
    let first = watching.next().await.expect("a frame");
    assert_eq!((&first["type"], &first["object"]["port"]), (&json!("ADDED"), &json!("3")));
    watching.next().await.expect("the second");
    cluster.patch(&format!("{V1}/b"), "merge", json!({"hostPort": "j:4"})).await;
    assert_eq!(watching.next().await.expect("a frame")["object"]["host"], "j");

    cluster.create(V1, object("v1", "c", json!({"hostPort": "broken:1"}))).await;
    let told = watching.next().await.expect("a frame");
    assert_eq!((&told["type"], &told["object"]["code"]), (&json!("ERROR"), &json!(500)));
    let (status, error) = cluster.ask("GET", &format!("{V2}/c"), Value::Null).await;
    assert_eq!(status, 500);
    assert_eq!(
        error["message"],
        "Internal error occurred: conversion webhook for stable.example.com/v1, Kind=CronTab returned invalid converted \
         object at index 0: must have the same name: c != another"
    );
    cluster.ask("DELETE", &format!("{V1}/c"), Value::Null).await;
    task.abort();
    drop(task.await);
    let (status, error) = cluster.ask("GET", &format!("{V2}/a"), Value::Null).await;
    let message = error["message"].as_str().unwrap_or_default();
    assert_eq!(status, 500);
    assert!(
        message.starts_with(
            "Internal error occurred: conversion webhook for stable.example.com/v1, Kind=CronTab failed: Post \"https://127.0.0.1:"
        ),
        "{message}"
    );
    assert_eq!(cluster.get(&format!("{V1}/a")).await["hostPort"], "h:3", "the stored version needs nobody");
    let service = json!([{"op": "replace", "path": "/spec/conversion/webhook/clientConfig",
        "value": {"service": {"name": "hook", "namespace": "default", "path": "/convert"}}}]);
    let definition = format!("{DEFINITIONS}/crontabs.stable.example.com");
    assert_eq!(cluster.patch(&definition, "json", service).await.0, 200);
    let lost = "Internal error occurred: conversion webhook for stable.example.com/v1, Kind=CronTab failed: Post \
                \"https://hook.default.svc:443/convert?timeout=30s\": service \"hook\" not found";
    cluster.eventually("a service that is not there", &format!("{V2}/a"), |error| error["message"] == lost).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_without_conversion_differ_by_name() {
    let cluster = Cluster::start().await;
    let definition = cluster.define(two_versions(json!({"strategy": "None"}))).await;
    cluster.create(V1, object("v1", "a", json!({"hostPort": "h:1"}))).await;
    assert_eq!(cluster.get(&format!("{V2}/a")).await.get("hostPort"), None, "v2 does not know it");
    let group = cluster.get("/apis/stable.example.com").await;
    assert_eq!(group["preferredVersion"]["version"], "v2");
    // v2 becomes the stored one; what is stored stays until it is written.
    let mut changed = definition.clone();
    changed["spec"]["versions"][0]["storage"] = false.into();
    changed["spec"]["versions"][1]["storage"] = true.into();
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let (status, changed) = cluster.ask("PUT", &path, changed).await;
    assert_eq!((status, &changed["status"]["storedVersions"]), (200, &json!(["v1", "v2"])));
    cluster.create(V2, object("v2", "b", json!({"host": "i"}))).await;
    for (base, version) in [(V1, "stable.example.com/v1"), (V2, "stable.example.com/v2")] {
        let list = cluster.get(base).await;
        let items = list["items"].as_array().expect("items");
        assert_eq!(items.len(), 2);
        assert!(items.iter().all(|item| item["apiVersion"] == version), "{list}");
    }
    let (status, patched) = cluster.patch(&format!("{V2}/a"), "merge", json!({"host": "k"})).await;
    assert_eq!((status, &patched["host"]), (200, &json!("k")));
    // A version that is not served any more is gone, and its objects are there in the other.
    let mut without = cluster.get(&path).await;
    without["spec"]["versions"][0]["served"] = false.into();
    assert_eq!(cluster.ask("PUT", &path, without).await.0, 200);
    cluster.eventually("v1 is withdrawn", V1, |answer| answer["code"] == 404).await;
    assert_eq!(cluster.get(V2).await["items"].as_array().map(Vec::len), Some(2));
    let versions = cluster.get("/apis/stable.example.com").await["versions"].clone();
    assert_eq!(versions, json!([{"groupVersion": "stable.example.com/v2", "version": "v2"}]));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scale_selectable_fields_and_deprecation() {
    let cluster = Cluster::start().await;
    cluster
        .define(crd(|crd| {
            let version = &mut crd["spec"]["versions"][0];
            version["subresources"]["scale"] = json!({"specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"});
            version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["selector"] =
                json!({"type": "string"});
            version["selectableFields"] = json!([{"jsonPath": ".spec.image"}, {"jsonPath": ".spec.replicas"}]);
            version["deprecated"] = true.into();
        }))
        .await;
    let mut created = cluster.create(V1, tab("a")).await;
    created["status"] = json!({"replicas": 1, "selector": "a=b"});
    assert_eq!(cluster.ask("PUT", &format!("{V1}/a/status"), created).await.0, 200);
    let scale = cluster.get(&format!("{V1}/a/scale")).await;
    assert_eq!(
        (&scale["kind"], &scale["spec"], &scale["status"]),
        (&json!("Scale"), &json!({"replicas": 2}), &json!({"replicas": 1, "selector": "a=b"}))
    );
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = 4.into();
    let (status, scaled) = cluster.ask("PUT", &format!("{V1}/a/scale"), wanted).await;
    assert_eq!((status, &scaled["spec"]["replicas"]), (200, &json!(4)));
    let (status, error) = cluster.patch(&format!("{V1}/a/scale"), "merge", json!({"spec": {"replicas": 40}})).await;
    assert_eq!(status, 422, "{error}");
    let mut other = tab("b");
    other["spec"]["image"] = "other".into();
    cluster.create(V1, other).await;
    let names = |list: Value| -> Vec<String> {
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(names(cluster.get(&format!("{V1}?fieldSelector=spec.image%3Dother")).await), ["b"]);
    assert_eq!(names(cluster.get(&format!("{V1}?fieldSelector=spec.replicas%3D4")).await), ["a"]);
    let (status, error) = cluster.ask("GET", &format!("{V1}?fieldSelector=spec.cronSpec%3Dx"), Value::Null).await;
    assert_eq!((status, &error["message"]), (400, &json!("field label not supported: spec.cronSpec")));
    let answer = cluster.ask_with("GET", V1, Value::Null, &[]).await;
    assert_eq!(answer.header("warning"), r#"299 - "stable.example.com/v1 CronTab is deprecated""#);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_given_once_and_again_after_a_restart() {
    let cluster = Cluster::start().await;
    cluster.define(crd(|_| {})).await;
    let rival = crd(|crd| {
        crd["metadata"]["name"] = "tabs.stable.example.com".into();
        crd["spec"]["names"] = json!({"plural": "tabs", "kind": "CronTab", "shortNames": ["ct"]});
    });
    cluster.create(DEFINITIONS, rival).await;
    let refused = cluster.until_condition("tabs.stable.example.com", "NamesAccepted", "False").await;
    let told: Vec<&Value> =
        refused["status"]["conditions"].as_array().expect("conditions").iter().map(|c| &c["reason"]).collect();
    assert_eq!(told, ["ListKindConflict", "NotAccepted"]);
    assert_eq!(refused["status"]["conditions"][0]["message"], "\"CronTabList\" is already in use");
    assert_eq!(cluster.ask("GET", "/apis/stable.example.com/v1/tabs", Value::Null).await.0, 404);
    cluster.create(V1, tab("a")).await;

    let cluster = Cluster::start_in(cluster.stop().await).await;
    assert_eq!(cluster.get(&format!("{V1}/a")).await["spec"]["image"], "i", "served from the start");
    let again = cluster.get(&format!("{DEFINITIONS}/tabs.stable.example.com")).await;
    assert_eq!(again["status"], refused["status"]);
    // Who frees a name frees it for the others.
    cluster.ask("DELETE", &format!("{DEFINITIONS}/crontabs.stable.example.com"), Value::Null).await;
    cluster.until_condition("tabs.stable.example.com", "Established", "True").await;
    assert_eq!(cluster.get("/apis/stable.example.com/v1/tabs").await["kind"], "CronTabList");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ending_definition_waits_for_its_objects() {
    let cluster = Cluster::start().await;
    cluster.define(crd(|_| {})).await;
    let mut held = tab("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster.create(V1, held).await;
    cluster.create(V1, tab("free")).await;
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let (status, ending) = cluster.ask("DELETE", &path, Value::Null).await;
    assert_eq!(
        (status, &ending["metadata"]["finalizers"]),
        (200, &json!(["customresourcecleanup.apiextensions.k8s.io"]))
    );
    cluster.eventually("the free one is gone", V1, |list| list["items"].as_array().is_some_and(|l| l.len() == 1)).await;
    let ending = cluster.until_condition("crontabs.stable.example.com", "Terminating", "True").await;
    let reason = |definition: &Value| definition["status"]["conditions"][2]["reason"].clone();
    assert_eq!(reason(&ending), "InstanceDeletionInProgress");
    let (status, error) = cluster.ask("POST", V1, tab("new")).await;
    assert_eq!(status, 403, "{error}");
    assert_eq!(
        error["message"],
        "crontabs.stable.example.com \"new\" is forbidden: create not allowed while custom resource definition is terminating"
    );
    let resources = cluster.get("/apis/stable.example.com/v1").await;
    assert_eq!(resources["resources"][0]["verbs"], json!(["delete", "deletecollection", "get", "list", "watch"]));
    let (status, _) = cluster.patch(&format!("{V1}/held"), "merge", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(status, 200);
    cluster.eventually("the definition is gone", &path, |answer| answer["code"] == 404).await;
    cluster.eventually("withdrawn", V1, |answer| answer["code"] == 404).await;
    cluster.stop().await;
}
