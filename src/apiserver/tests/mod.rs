//! A real server on a port of its own, driven over HTTPS and in process.

mod admission;
mod aggregation;
mod apply;
mod audit;
mod certificates;
mod conformance;
mod crud;
mod custom_documents;
mod custom_schemas;
mod custom_versions;
mod customs;
mod discovery;
mod equivalence;
mod flow;
mod identities;
mod kubectl;
mod lists;
mod logs;
mod metrics;
mod objects;
mod owners;
mod permissions;
mod restarts;
mod services;
mod watches;
mod webhook_changes;
mod webhook_questions;
mod webhooks;
mod wire;
mod workloads;
mod writes;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};
use skiff_base::Scope;
use skiff_client::{HttpTransport, Transport, Upgraded};
use skiff_pki::{ClusterPki, ServerNames, kubeconfig};
use skiff_store::{Options, Store};
use skiff_streaming::Role;
use skiff_streaming::websocket::{Decoder, Event};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::{ApiServer, ApiServerOptions, volatile_keys};

/// Of a network for documentation: nothing is there.
const ADVERTISED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

pub(crate) struct Cluster {
    pub server: ApiServer,
    pub pki: Arc<ClusterPki>,
    pub directory: tempfile::TempDir,
    store: Store,
    scope: Scope,
    admin: HttpTransport,
}

pub(crate) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary directory")).await
    }

    /// With what the directory holds from before.
    pub async fn start_in(directory: tempfile::TempDir) -> Self {
        Self::start_changed(directory, |_| {}).await
    }

    /// With other options than usual.
    pub async fn start_changed(directory: tempfile::TempDir, change: impl FnOnce(&mut ApiServerOptions)) -> Self {
        let names = ServerNames { dns: vec!["localhost".into()], ips: vec![Ipv4Addr::LOCALHOST.into()] };
        let pki = Arc::new(ClusterPki::ensure(&directory.path().join("tls"), &names).expect("keys"));
        let options = Options { volatile: volatile_keys(), ..Options::new(directory.path().join("db")) };
        let store = Store::open(options).await.expect("a store");
        let scope = Scope::new();
        let mut options = ApiServerOptions::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), ADVERTISED, pki.clone());
        options.node_port_range = 30_000..=30_019;
        change(&mut options);
        let server = ApiServer::start(options, store.clone(), &scope).await.expect("a server");
        let client = pki.client("admin", &["system:masters"]).expect("a certificate");
        let text = kubeconfig(&format!("https://{}", server.local_addr()), pki.ca_pem(), &client);
        let admin = HttpTransport::from_kubeconfig(&text, None).expect("a transport");
        Self { server, pki, directory, store, scope, admin }
    }

    pub async fn stop(self) -> tempfile::TempDir {
        self.scope.stop().await;
        self.store.close().await;
        self.directory
    }

    /// Over HTTPS, as an administrator.
    pub async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let answer = self.ask_with(method, path, body, &[]).await;
        (answer.status, answer.value())
    }

    pub async fn ask_with(&self, method: &str, path: &str, body: Value, headers: &[(&str, &str)]) -> Answer {
        let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        ask(&self.admin, method, path, bytes, headers).await
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, value) = self.ask("GET", path, Value::Null).await;
        assert_eq!(status, 200, "GET {path}: {value}");
        value
    }

    /// A POST that must succeed.
    pub async fn create(&self, path: &str, body: Value) -> Value {
        let (status, value) = self.ask("POST", path, body).await;
        assert_eq!(status, 201, "POST {path}: {value}");
        value
    }

    pub async fn patch(&self, path: &str, kind: &str, body: Value) -> (u16, Value) {
        let content_type = format!("application/{kind}-patch+json");
        let answer = self.ask_with("PATCH", path, body, &[("content-type", &content_type)]).await;
        (answer.status, answer.value())
    }

    pub fn admin(&self) -> &HttpTransport {
        &self.admin
    }

    /// What no client can reach.
    pub fn inside(&self) -> Arc<crate::server::Server> {
        self.server.server.clone()
    }

    pub fn in_process(&self, user: &str, groups: &[&str]) -> Arc<dyn Transport> {
        self.server.transport(user, groups)
    }
}

pub(crate) async fn ask(
    transport: &dyn Transport,
    method: &str,
    path: &str,
    body: Bytes,
    headers: &[(&str, &str)],
) -> Answer {
    let method: Method = method.parse().expect("a method");
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(body).expect("a request");
    let response = transport.send(request).await.unwrap_or_else(|e| panic!("{path}: {}", skiff_base::chain(&e)));
    let (parts, body) = response.into_parts();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub(crate) fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

pub(crate) fn labelled(name: &str, labels: Value) -> Value {
    let mut object = config_map(name);
    object["metadata"]["labels"] = labels;
    object
}

pub(crate) fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]}})
}

/// What pods of a namespace need before there are any controllers.
pub(crate) async fn with_account(cluster: &Cluster) -> Value {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    cluster.create("/api/v1/namespaces/default/serviceaccounts", account).await
}

pub(crate) const SOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Asks for a WebSocket, with subprotocols if there are any; the answer's headers, or the status of a refusal.
pub(crate) async fn web_socket(
    cluster: &Cluster,
    path: &str,
    protocols: &str,
) -> Result<(HeaderMap, impl AsyncRead + AsyncWrite + Unpin + use<>), StatusCode> {
    let mut request = Request::get(path)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", SOCKET_KEY);
    if !protocols.is_empty() {
        request = request.header("sec-websocket-protocol", protocols);
    }
    match cluster.admin().upgrade(request.body(()).expect("a request")).await.expect("an answer") {
        Upgraded::Switched(answer, io) => Ok((answer.headers().clone(), io)),
        Upgraded::Refused(answer) => Err(answer.status()),
    }
}

/// All messages of a WebSocket, how many pongs came between, and the code of the goodbye.
pub(crate) async fn until_goodbye(mut io: impl AsyncRead + Unpin) -> (Vec<Vec<u8>>, usize, Option<u16>) {
    let (mut decoder, mut input) = (Decoder::new(Role::Client), bytes::BytesMut::new());
    let (mut message, mut messages, mut pongs) = (Vec::new(), Vec::new(), 0);
    loop {
        match decoder.next(&mut input).expect("frames") {
            Some(Event::Data { last, bytes, .. }) => {
                message.extend_from_slice(&bytes);
                if last {
                    messages.push(std::mem::take(&mut message));
                }
            }
            Some(Event::Pong) => pongs += 1,
            Some(Event::Ping(_)) => {}
            Some(Event::Close(code)) => return (messages, pongs, code),
            None => {
                let read = tokio::time::timeout(Duration::from_secs(10), io.read_buf(&mut input)).await;
                assert!(read.expect("in time").expect("bytes") > 0, "it ends without a goodbye");
            }
        }
    }
}
