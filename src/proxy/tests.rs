//! From objects to packets, in a network namespace of the test's own.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use skiff_base::Scope;
use skiff_client::fake::FakeTransport;
use skiff_client::{Client, Informers};
use skiff_linux::net::{Protocol, Socket, netns, route};
use skiff_network::{Network, NetworkOptions};

fn options(directory: &std::path::Path) -> NetworkOptions {
    NetworkOptions {
        pod_cidr: "10.42.0.0/24".parse().expect("a network"),
        cluster_cidr: "10.42.0.0/16".parse().expect("a network"),
        service_cidr: "10.43.0.0/16".parse().expect("a network"),
        node_ip: Ipv4Addr::new(192, 168, 77, 1),
        dns_ip: Ipv4Addr::new(10, 43, 0, 10),
        data_directory: directory.join("network"),
    }
}

fn service(port: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": "web"},
        "spec": {"clusterIP": "10.43.0.20", "clusterIPs": ["10.43.0.20"], "ports": [{"name": "http", "port": port, "protocol": "TCP"}]}})
}

fn slice(ip: Option<IpAddr>) -> Value {
    let endpoints: Vec<Value> = ip.iter().map(|ip| json!({"addresses": [ip], "nodeName": "n1"})).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "default", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
}

fn ask(port: u16) -> std::io::Result<String> {
    let to = SocketAddr::from((Ipv4Addr::new(10, 43, 0, 20), port));
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(300))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let limit = tokio::time::Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(tokio::time::Instant::now() < limit, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn follow_a_service() {
    let mut socket = Socket::open(Protocol::Route).expect("a socket");
    route::set_up(&mut socket, 1).expect("lo");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let network = Network::open(options(directory.path())).await.expect("opens");
    let pod = directory.path().join("pod");
    netns::create(&pod).expect("a namespace");
    let ip = network.attach("pod", &pod, &[]).await.expect("attached")[0];
    let listener = netns::within(&pod, || TcpListener::bind("0.0.0.0:8080")).expect("listens");
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            // The client may have gone.
            drop(stream.write_all(b"pod"));
        }
    });

    let api = Arc::new(FakeTransport::new());
    api.put(service(80));
    let scope = Scope::new();
    let informers = Informers::new(Client::new(api.clone()), scope.clone());
    crate::start(&informers, network, "n1", &scope);
    let is_refused = |port| ask(port).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused);
    eventually("a service without endpoints refuses", || is_refused(80)).await;
    api.put(slice(Some(ip)));
    eventually("its endpoint answers", || ask(80).is_ok_and(|text| text == "pod")).await;
    api.put(service(81));
    eventually("by its new port", || ask(81).is_ok_and(|text| text == "pod")).await;
    assert!(is_refused(80), "not by the old one");
    api.put(slice(None));
    eventually("the endpoint is gone", || is_refused(81)).await;
    scope.stop().await;
    netns::remove(&pod).expect("removed");
}

#[test]
fn a_service_follows_its_objects() {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(follow_a_service());
    });
    thread.join().expect("the test passes");
}
