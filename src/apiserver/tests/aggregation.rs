//! Another API server behind this one: it serves over TLS, believes the front proxy alone, and has one kind.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use skiff_client::Upgraded;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::Cluster;
use crate::http::tls;

pub(super) const API_SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
pub(super) const GROUP: &str = "harbour.example.org";
const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// A request as the other server saw it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    method: String,
    uri: String,
    headers: HeaderMap,
    body: String,
}

pub(super) type Requests = Arc<Mutex<Vec<Seen>>>;

/// The other server.
pub(super) async fn extension(cluster: &Cluster) -> (SocketAddr, Requests) {
    let pair = cluster.pki.kubelet_serving("boats.default.svc", &[]).expect("a certificate");
    let provider = Arc::new(default_provider());
    let front = tls::roots(cluster.pki.request_header_ca_pem()).expect("an authority");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(front), provider.clone()).build();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.expect("a verifier"))
        .with_single_cert(
            tls::certificates(&pair.certificate).expect("a certificate"),
            tls::private_key(&pair.key).expect("a key"),
        )
        .expect("a configuration");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let seen = Requests::default();
    let told = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, told) = (acceptor.clone(), told.clone());
            tokio::spawn(async move {
                // Who is not the front proxy does not come in.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(move |request| answer(request, told.clone()));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                drop(connection.await);
            });
        }
    });
    (address, seen)
}

async fn answer(mut request: Request<Incoming>, told: Requests) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let upgrade = request.headers().contains_key("upgrade").then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    if let Some(upgrade) = upgrade {
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.expect("taken over"));
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.expect("four bytes");
            word.reverse();
            stream.write_all(&word).await.expect("written");
            stream.shutdown().await.expect("ended");
        });
        let mut switched = Response::new(Full::default());
        *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        switched.headers_mut().insert("connection", "Upgrade".parse().expect("a value"));
        switched.headers_mut().insert("upgrade", "echo".parse().expect("a value"));
        return Ok(switched);
    }
    let body = String::from_utf8(body.collect().await?.to_bytes().to_vec()).expect("text");
    if !parts.headers["x-remote-user"].as_bytes().starts_with(b"system:kube-aggregator") {
        let seen =
            Seen { method: parts.method.to_string(), uri: parts.uri.to_string(), headers: parts.headers.clone(), body };
        told.lock().expect("no panic").push(seen);
    }
    let boat = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "Boat", "metadata": {"name": "skiff"}});
    let value = match path.as_str() {
        "/apis/harbour.example.org/v1" => json!({"kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": format!("{GROUP}/v1"), "resources": [
            {"name": "boats", "singularName": "boat", "namespaced": false, "kind": "Boat", "verbs": ["get", "list"]},
        ]}),
        "/openapi/v3" => json!({"paths": {"apis/harbour.example.org/v1":
            {"serverRelativeURL": "/openapi/v3/apis/harbour.example.org/v1?hash=1"}}}),
        "/openapi/v3/apis/harbour.example.org/v1" => json!({"openapi": "3.0.0", "of": "boats"}),
        "/openapi/v2" => {
            json!({"swagger": "2.0", "paths": {"/apis/harbour.example.org/v1/boats": {"get": {}}, "/x": {}},
            "definitions": {"org.example.Boat": {"type": "object"},
                "io.k8s.api.core.v1.Pod": {"description": "not theirs to say"}}})
        }
        "/apis/harbour.example.org/v1/boats/skiff" => boat,
        "/apis/harbour.example.org/v1/boats" => json!({"kind": "BoatList", "apiVersion": format!("{GROUP}/v1"),
            "metadata": {"resourceVersion": "1"}, "items": [boat]}),
        "/apis/harbour.example.org/v1/boats/lost" => {
            let mut away = Response::new(Full::default());
            *away.status_mut() = StatusCode::FOUND;
            away.headers_mut().insert("location", "https://elsewhere.example.org/".parse().expect("a value"));
            return Ok(away);
        }
        _ => {
            let mut response = Response::new(Full::from("{}"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            return Ok(response);
        }
    };
    let mut response = Response::new(Full::from(value.to_string()));
    response.headers_mut().insert("content-type", "application/json".parse().expect("a value"));
    Ok(response)
}

/// Makes the Service that its APIService names.
pub(super) async fn expose(cluster: &Cluster, port: u16) {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "boats"}, "spec": {
        "type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}});
    cluster.create("/api/v1/namespaces/default/services", service).await;
}

pub(super) fn api_service(cluster: &Cluster, port: u16) -> Value {
    let bundle = base64::engine::general_purpose::STANDARD.encode(cluster.pki.ca_pem());
    json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": format!("v1.{GROUP}")},
        "spec": {"group": GROUP, "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 10, "caBundle": bundle,
            "service": {"namespace": "default", "name": "boats", "port": port}}})
}

/// The condition of an APIService, when it has this reason.
pub(super) async fn until(cluster: &Cluster, name: &str, reason: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // The built-in ones come soon after the start.
        let (_, service) = cluster.ask("GET", &format!("{API_SERVICES}/{name}"), Value::Null).await;
        let condition = service["status"]["conditions"][0].clone();
        if condition["reason"] == reason {
            return condition;
        }
        assert!(Instant::now() < deadline, "{reason}: {service}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn versions(cluster: &Cluster, group: &str) -> Option<Value> {
    let document = cluster.ask_with("GET", "/apis", Value::Null, &[("accept", V2)]).await.value();
    let items = document["items"].as_array().expect("groups").clone();
    items.into_iter().find(|item| item["metadata"]["name"] == group).map(|item| item["versions"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_is_found_asked_and_told_who_asks() {
    let cluster = Cluster::start().await;
    let (address, seen) = extension(&cluster).await;
    let name = format!("v1.{GROUP}");
    cluster.create(API_SERVICES, api_service(&cluster, address.port())).await;
    let condition = until(&cluster, &name, "ServiceNotFound").await;
    assert_eq!(condition["message"], "service/boats in \"default\" is not present");
    let boats = format!("/apis/{GROUP}/v1/boats");
    let (status, text) = cluster.ask("GET", &boats, Value::Null).await;
    assert_eq!((status, text), (503, json!("service unavailable\n")));
    let stale = versions(&cluster, GROUP).await.expect("it is named though it is away");
    assert_eq!(stale, json!([{"version": "v1", "freshness": "Stale"}]));

    expose(&cluster, address.port()).await;
    assert_eq!(until(&cluster, &name, "Passed").await["status"], "True");

    // As somebody, who can't say of themselves who they are.
    let headers = [
        ("impersonate-user", "jane"),
        ("impersonate-group", "system:masters"),
        ("impersonate-extra-scopes", "all"),
        ("x-remote-user", "root"),
        ("x-remote-group", "forged"),
    ];
    let path = format!("{boats}?labelSelector=a%3Db");
    let answer = cluster.ask_with("GET", &path, Value::Null, &headers).await;
    assert_eq!((answer.status, &answer.value()["items"][0]["metadata"]["name"]), (200, &json!("skiff")));
    let body = json!({"metadata": {"name": "new"}});
    assert_eq!(cluster.ask("POST", &boats, body.clone()).await.0, 200);
    let (status, text) = cluster.ask("GET", &format!("{boats}/lost"), Value::Null).await;
    assert_eq!((status, text.as_str().map(|t| t.contains("not permitted"))), (502, Some(true)));
    let asked = seen.lock().expect("no panic").clone();
    let all = |name: &str| -> Vec<&str> {
        asked[0].headers.get_all(name).iter().map(|value| value.to_str().expect("text")).collect()
    };
    assert_eq!((asked[0].uri.as_str(), all("x-remote-user")), (path.as_str(), vec!["jane"]));
    assert_eq!(all("x-remote-group"), ["system:masters", "system:authenticated"]);
    assert_eq!(all("x-remote-extra-scopes"), ["all"]);
    assert!(all("impersonate-user").is_empty() && all("authorization").is_empty());
    assert_eq!((asked[1].method.as_str(), asked[1].body.as_str()), ("POST", body.to_string().as_str()));
    // Who may not do it here does not come there.
    let nobody = [("impersonate-user", "nobody")];
    assert_eq!(cluster.ask_with("GET", &boats, Value::Null, &nobody).await.status, 403);
    assert_eq!(seen.lock().expect("no panic").len(), 3);
    // The answer's length is that of its bytes, though the client would take it compressed.
    let answer = cluster.ask_with("GET", &boats, Value::Null, &[("accept-encoding", "gzip")]).await;
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    assert_eq!((answer.header("content-encoding"), &answer.value()["kind"]), ("", &json!("BoatList")));

    // A connection that leaves HTTP behind.
    let request = Request::get(format!("{boats}/skiff/talk")).header("connection", "Upgrade").header("upgrade", "echo");
    let upgraded = cluster.admin().upgrade(request.body(()).expect("a request")).await.expect("an answer");
    let Upgraded::Switched(_, mut stream) = upgraded else { panic!("it was refused") };
    stream.write_all(b"ping").await.expect("written");
    let mut word = String::new();
    stream.read_to_string(&mut word).await.expect("read");
    assert_eq!(word, "gnip");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_merged_and_withdrawn() {
    let cluster = Cluster::start().await;
    let (address, _) = extension(&cluster).await;
    expose(&cluster, address.port()).await;
    let name = format!("v1.{GROUP}");
    cluster.create(API_SERVICES, api_service(&cluster, address.port())).await;
    until(&cluster, &name, "Passed").await;

    let groups = cluster.get("/apis").await["groups"].as_array().expect("groups").clone();
    let names: Vec<&str> = groups.iter().filter_map(|group| group["name"].as_str()).collect();
    assert_eq!((names[0], names[1]), ("apiregistration.k8s.io", "apps"));
    let place = |group: &str| names.iter().position(|name| *name == group);
    assert!(place(GROUP) > place("flowcontrol.apiserver.k8s.io"), "its priority is lower: {names:?}");
    assert_eq!(cluster.get(&format!("/apis/{GROUP}")).await["preferredVersion"]["version"], "v1");
    assert_eq!(cluster.get(&format!("/apis/{GROUP}/v1")).await["resources"][0]["name"], "boats");
    let kind = json!({"group": GROUP, "version": "v1", "kind": "Boat"});
    assert_eq!(
        versions(&cluster, GROUP).await.expect("found"),
        json!([{"version": "v1", "freshness": "Current", "resources": [{"resource": "boats", "responseKind": kind,
            "scope": "Cluster", "singularResource": "boat", "verbs": ["get", "list"]}]}])
    );
    let paths = cluster.get("/").await["paths"].as_array().expect("paths").clone();
    assert!(paths.contains(&json!(format!("/apis/{GROUP}/v1"))));
    let index = cluster.get("/openapi/v3").await;
    let url = index["paths"][format!("apis/{GROUP}/v1")]["serverRelativeURL"].as_str().expect("a place").to_owned();
    assert_eq!(cluster.get(&url).await["of"], "boats");
    let whole = cluster.get("/openapi/v2").await;
    assert!(whole["paths"][format!("/apis/{GROUP}/v1/boats")].is_object() && whole["paths"].get("/x").is_none());
    assert_eq!(whole["definitions"]["org.example.Boat"]["type"], "object");
    assert_ne!(whole["definitions"]["io.k8s.api.core.v1.Pod"]["description"], "not theirs to say");

    // Before all groups of definitions and after those, as its priority says.
    let mut service = cluster.get(&format!("{API_SERVICES}/{name}")).await;
    service["spec"]["groupPriorityMinimum"] = json!(17_790);
    assert_eq!(cluster.ask("PUT", &format!("{API_SERVICES}/{name}"), service).await.0, 200);
    let deadline = Instant::now() + Duration::from_secs(20);
    while cluster.get("/apis").await["groups"][2]["name"] != GROUP {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }

    assert_eq!(cluster.ask("DELETE", &format!("{API_SERVICES}/{name}"), Value::Null).await.0, 200);
    let deadline = Instant::now() + Duration::from_secs(20);
    while versions(&cluster, GROUP).await.is_some() {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    assert_eq!(cluster.ask("GET", &format!("/apis/{GROUP}/v1/boats"), Value::Null).await.0, 404);
    assert!(cluster.get("/openapi/v2").await["definitions"].get("org.example.Boat").is_none());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_nobody_vouches_for_is_not_used() {
    let cluster = Cluster::start().await;
    let (address, seen) = extension(&cluster).await;
    expose(&cluster, address.port()).await;
    let mut registered = api_service(&cluster, address.port());
    // An authority, but not the one that signed.
    let other = base64::engine::general_purpose::STANDARD.encode(cluster.pki.client_ca_pem());
    registered["spec"]["caBundle"] = json!(other);
    cluster.create(API_SERVICES, registered).await;
    let name = format!("v1.{GROUP}");
    let condition = until(&cluster, &name, "FailedDiscoveryCheck").await;
    let message = condition["message"].as_str().expect("a message");
    assert!(message.contains("x509: certificate signed by unknown authority"), "{message}");
    assert_eq!(cluster.ask("GET", &format!("/apis/{GROUP}/v1/boats"), Value::Null).await.0, 503);
    assert!(seen.lock().expect("no panic").is_empty());

    let insecure = json!({"spec": {"caBundle": null, "insecureSkipTLSVerify": true}});
    assert_eq!(cluster.patch(&format!("{API_SERVICES}/{name}"), "merge", insecure).await.0, 200);
    until(&cluster, &name, "Passed").await;
    assert_eq!(cluster.ask("GET", &format!("/apis/{GROUP}/v1/boats"), Value::Null).await.0, 200);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_served_here_is_registered_as_local() {
    let cluster = Cluster::start().await;
    let condition = until(&cluster, "v1.apps", "Local").await;
    assert_eq!(
        (&condition["status"], &condition["message"]),
        (&json!("True"), &json!("Local APIServices are always available"))
    );
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("oars.{GROUP}")}, "spec": {"group": GROUP, "scope": "Namespaced",
            "names": {"plural": "oars", "kind": "Oar"},
            "versions": [{"name": "v1beta1", "served": true, "storage": true, "schema": schema}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    cluster.create(definitions, definition).await;
    let name = format!("v1beta1.{GROUP}");
    let deadline = Instant::now() + Duration::from_secs(20);
    while cluster.ask("GET", &format!("{API_SERVICES}/{name}"), Value::Null).await.0 != 200 {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    until(&cluster, &name, "Local").await;
    let service = cluster.get(&format!("{API_SERVICES}/{name}")).await;
    assert_eq!(service["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "true");
    assert_eq!(
        service["spec"],
        json!({"group": GROUP, "version": "v1beta1", "groupPriorityMinimum": 1000, "versionPriority": 100})
    );
    assert_eq!(cluster.ask("DELETE", &format!("{definitions}/oars.{GROUP}"), Value::Null).await.0, 200);
    let deadline = Instant::now() + Duration::from_secs(20);
    while cluster.ask("GET", &format!("{API_SERVICES}/{name}"), Value::Null).await.0 != 404 {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extension_servers_learn_whom_to_believe() {
    let cluster = Cluster::start().await;
    let map = cluster.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await;
    let data = &map["data"];
    assert_eq!(data["client-ca-file"], cluster.pki.client_ca_pem());
    assert_eq!(data["requestheader-client-ca-file"], cluster.pki.request_header_ca_pem());
    assert_eq!(data["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    assert_eq!(data["requestheader-username-headers"], "[\"X-Remote-User\"]");
    cluster.stop().await;
}
