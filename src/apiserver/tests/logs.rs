//! Logs, from a kubelet that serves like the real one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::Request;
use serde_json::{Value, json};
use skiff_client::Transport;
use skiff_streaming::websocket::CLOSE_NORMAL;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{Cluster, pod, until_goodbye, web_socket, with_account};
use crate::auth::certificate_user;
use crate::http::tls::{Serving, server_config};

/// Answers one request in two chunks, and gives back the request's head and who asked.
async fn kubelet(cluster: &Cluster, status: &str) -> (SocketAddr, tokio::task::JoinHandle<(String, String)>) {
    let pair = cluster.pki.kubelet_serving("n", &[IpAddr::V4(Ipv4Addr::LOCALHOST)]).expect("a certificate");
    let config = server_config(&cluster.pki, Serving::new(&pair).expect("a key")).expect("a configuration");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let status = status.to_owned();
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.expect("TLS");
        let client = stream.get_ref().1.peer_certificates().and_then(|c| certificate_user(&c[0])).expect("a client");
        let mut request = vec![0; 4096];
        let read = stream.read(&mut request).await.expect("a request");
        let asked = String::from_utf8_lossy(&request[..read]).to_lowercase();
        let head = format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("written");
        stream.flush().await.expect("flushed");
        stream.write_all(b"4\r\ntwo\n\r\n0\r\n\r\n").await.expect("written");
        stream.flush().await.expect("flushed");
        (asked, format!("{} {}", client.name, client.groups.join(",")))
    });
    (address, served)
}

async fn serve_at(cluster: &Cluster, address: SocketAddr) {
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}},
    }});
    assert_eq!(cluster.patch("/api/v1/nodes/n/status", "merge", status).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn come_from_the_nodes_kubelet() {
    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    let pods = "/api/v1/namespaces/default/pods";
    cluster.create(pods, pod("p")).await;
    let (status, error) = cluster.ask("GET", &format!("{pods}/p/log?tailLines=-4&limitBytes=0"), Value::Null).await;
    assert_eq!(status, 422, "{error}");
    assert_eq!(
        error["message"],
        "PodLogOptions \"p\" is invalid: [tailLines: Invalid value: -4: must be greater than or equal to 0, \
         limitBytes: Invalid value: 0: must be greater than 0]"
    );
    let log = format!("{pods}/p/log?follow=true&tailLines=5&timestamps=true&pretty=x");
    assert_eq!(cluster.ask("GET", &log, Value::Null).await, (204, json!("")), "no node yet");

    let (address, served) = kubelet(&cluster, "200 OK").await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    cluster.create("/api/v1/nodes", node).await;
    serve_at(&cluster, address).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    cluster.create(&format!("{pods}/p/binding"), binding).await;

    let request = Request::get(log.as_str()).body(Bytes::new()).expect("a request");
    let response = cluster.admin().stream(request).await.expect("an answer");
    assert_eq!(response.status(), 200);
    let pieces: Vec<Bytes> = response.into_body().map(|p| p.expect("a piece")).collect().await;
    assert_eq!(pieces.concat(), b"one\ntwo\n");
    let (line, client) = served.await.expect("served");
    let expect = "get /containerlogs/default/p/c?follow=true&taillines=5&timestamps=true http/1.1";
    assert_eq!(line.lines().next(), Some(expect));
    assert_eq!(client, "kube-apiserver system:masters,system:authenticated");

    let (address, _served) = kubelet(&cluster, "400 Bad Request").await;
    serve_at(&cluster, address).await;
    let (status, error) = cluster.ask("GET", &format!("{pods}/p/log"), Value::Null).await;
    assert_eq!((status, &error["message"]), (400, &json!("one\ntwo")));
    // Nobody listens there any more.
    let (status, error) = cluster.ask("GET", &format!("{pods}/p/log"), Value::Null).await;
    assert_eq!((status, &error["reason"]), (500, &json!("InternalError")), "{error}");
    let (status, error) = cluster.ask("GET", &format!("{pods}/p/log?container=x"), Value::Null).await;
    assert_eq!((status, &error["message"]), (400, &json!("container x is not valid for pod p")));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn come_over_a_web_socket() {
    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    let pods = "/api/v1/namespaces/default/pods";
    cluster.create(pods, pod("p")).await;
    cluster.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    cluster.create(&format!("{pods}/p/binding"), binding).await;
    for (protocols, chosen, expect) in [
        ("binary.k8s.io", Some("binary.k8s.io"), "one\ntwo\n"),
        ("", None, "one\ntwo\n"),
        ("v5.channel.k8s.io, base64.binary.k8s.io", Some("base64.binary.k8s.io"), "b25lCg==dHdvCg=="),
    ] {
        let (address, served) = kubelet(&cluster, "200 OK").await;
        serve_at(&cluster, address).await;
        let (headers, io) = web_socket(&cluster, &format!("{pods}/p/log"), protocols).await.expect("it is served");
        let named = headers.get("sec-websocket-protocol").map(|name| name.to_str().expect("text"));
        assert_eq!(named, chosen, "{protocols}");
        let (messages, _, code) = until_goodbye(io).await;
        assert_eq!(code, Some(CLOSE_NORMAL), "{protocols}");
        assert_eq!(messages[0], b"", "{protocols}: the first tells that it works");
        assert_eq!(String::from_utf8_lossy(&messages.concat()), expect, "{protocols}");
        let (head, _) = served.await.expect("served");
        assert!(!head.contains("upgrade") && !head.contains("websocket"), "{head}");
    }
    let (address, _served) = kubelet(&cluster, "200 OK").await;
    serve_at(&cluster, address).await;
    let refused = web_socket(&cluster, &format!("{pods}/p/log"), "v5.channel.k8s.io").await;
    assert_eq!(refused.err(), Some(http::StatusCode::FORBIDDEN));
    cluster.stop().await;
}
