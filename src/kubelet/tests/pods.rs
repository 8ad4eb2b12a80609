use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skiff_base::Scope;
use skiff_client::fake::FakeTransport;
use skiff_client::{Client, Informers};
use skiff_kubelet::{Kubelet, Options, Settings};
use skiff_network::Cidr;
use skiff_pki::{ClusterPki, KeyPairPem, ServerNames};
use skiff_runtime::SandboxState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use crate::Test;
use crate::node::{LIMIT, Node};

pub const TESTS: &[Test] = &[("pods::the_life_of_a_pod", || {
    tokio::runtime::Runtime::new().expect("a runtime").block_on(the_life_of_a_pod());
})];

struct World {
    node: Node,
    api: Arc<FakeTransport>,
    pki: ClusterPki,
    scope: Scope,
    kubelet: Option<Kubelet>,
    port: u16,
}

impl World {
    async fn new() -> Self {
        let node = Node::new().await;
        let names = ServerNames { dns: vec!["localhost".into()], ips: vec![Ipv4Addr::LOCALHOST.into()] };
        let pki = ClusterPki::ensure(&node.directory.path().join("tls"), &names).expect("keys");
        let api = Arc::new(FakeTransport::new());
        api.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}, "spec": {"podCIDR": "10.42.0.0/24"}}));
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
        let mut world = Self { node, api, pki, scope: Scope::new(), kubelet: None, port };
        world.start().await;
        world
    }

    async fn start(&mut self) {
        let at = |name: &str| self.node.directory.path().join(name);
        let cidr = |a: [u8; 4], prefix_len| Cidr { address: Ipv4Addr::from(a), prefix_len };
        let localhost: IpAddr = Ipv4Addr::LOCALHOST.into();
        let options = Options {
            node_name: "node-1".into(),
            node_ip: Ipv4Addr::LOCALHOST,
            root_directory: at("kubelet"),
            log_directory: at("pods"),
            containers_log_directory: at("containers"),
            data_directory: at("agent"),
            cluster_dns: Ipv4Addr::new(10, 43, 0, 10),
            cluster_domain: "cluster.local".into(),
            resolv_conf: at("resolv.conf"),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            settings: Settings::default(),
            allowed_unsafe_sysctls: Vec::new(),
            listen: SocketAddr::new(localhost, self.port),
            serving: self.pki.kubelet_serving("node-1", &[localhost]).expect("a certificate"),
            client_ca_pem: self.pki.client_ca_pem().to_owned(),
            cluster_cidr: cidr([10, 42, 0, 0], 16),
            service_cidr: cidr([10, 43, 0, 0], 16),
        };
        self.scope = Scope::new();
        let informers = Informers::new(Client::new(self.api.clone()), self.scope.clone());
        let runtime = self.node.runtime().clone();
        let kubelet = skiff_kubelet::start(options, &informers, runtime, &self.scope).await.expect("started");
        self.kubelet = Some(kubelet);
    }

    fn pod(&self, name: &str) -> Value {
        let all = self.api.objects("/api/v1/pods");
        all.into_iter().find(|p| p["metadata"]["name"] == name).unwrap_or(Value::Null)
    }

    async fn eventually(&self, what: &str, check: impl AsyncFn(&Self) -> bool) {
        let until = Instant::now() + LIMIT;
        while !check(self).await {
            let events: Vec<String> = self
                .api
                .objects("/api/v1/events")
                .iter()
                .map(|e| format!("{} {}", e["reason"], e["message"]))
                .collect();
            assert!(Instant::now() < until, "never: {what}\n{:#?}\n{events:#?}", self.api.objects("/api/v1/pods"));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Status line and body of an answer on the kubelet's port.
    async fn ask(&self, path: &str, identity: Option<&KeyPairPem>) -> (String, String) {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.pki.ca_pem().as_bytes()) {
            roots.add(certificate.expect("PEM")).expect("a root");
        }
        let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match identity {
            Some(pair) => {
                let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes());
                let chain = chain.collect::<Result<_, _>>().expect("PEM");
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
                config.with_client_auth_cert(chain, key).expect("an identity")
            }
            None => config.with_no_client_auth(),
        };
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("connected");
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        // The end without close_notify is fine.
        drop(stream.read_to_end(&mut answer).await);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }

    fn delete(&self, name: &str) {
        let mut pod = self.pod(name);
        pod["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(1);
        self.api.put(pod);
    }
}

fn manifest() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default", "uid": "uid-web", "labels": {"app": "web"}},
        "status": {"phase": "Pending"},
        "spec": {"nodeName": "node-1", "terminationGracePeriodSeconds": 1,
            "securityContext": {"fsGroup": 2000},
            "initContainers": [{"name": "init", "image": "skiff.test/busybox:1", "imagePullPolicy": "Never",
                "command": ["sh", "-c", "cp /config/greeting /www/index.html"],
                "volumeMounts": [{"name": "config", "mountPath": "/config"}, {"name": "www", "mountPath": "/www"}]}],
            "containers": [{"name": "web", "image": "skiff.test/busybox:1", "imagePullPolicy": "Never",
                "command": ["sh", "-c", "echo serving $(NAME) on $(hostname); cat /etc/podinfo/labels /sub; exec httpd -f -p 8080 -h /www"],
                "env": [{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "readinessProbe": {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1},
                "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
                "volumeMounts": [{"name": "www", "mountPath": "/www"}, {"name": "info", "mountPath": "/etc/podinfo"},
                    {"name": "config", "mountPath": "/sub", "subPath": "greeting"}]}],
            "volumes": [{"name": "config", "configMap": {"name": "web"}}, {"name": "www", "emptyDir": {"medium": "Memory"}},
                {"name": "info", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}})
}

async fn fetch(ip: &str) -> Option<String> {
    let mut stream = TcpStream::connect((ip, 8080)).await.ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

async fn the_life_of_a_pod() {
    let mut world = World::new().await;
    world.api.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web", "namespace": "default"}, "data": {"greeting": "hello\n"}}));
    let asked = Instant::now();
    world.api.put(manifest());
    world.eventually("Ready", async |w| w.pod("web")["status"]["containerStatuses"][0]["ready"] == true).await;
    println!("Ready after {:?}", asked.elapsed());
    let ip = world.pod("web")["status"]["podIP"].as_str().expect("an address").to_owned();
    world.eventually("an answer", async |_| fetch(&ip).await.is_some_and(|a| a.ends_with("hello\n"))).await;

    let trusted = world.pki.client("kube-apiserver", &["system:masters"]).expect("an identity");
    let stranger = world.pki.client("system:node:x", &["system:nodes"]).expect("an identity");
    let path = "/containerLogs/default/web/web";
    // The program answers before its words have come through the pipe.
    world
        .eventually("its log", async |w| {
            let (status, body) = w.ask(path, Some(&trusted)).await;
            assert_eq!(status, "HTTP/1.1 200 OK");
            body.contains("serving web on web\n") && body.contains("app=\"web\"hello\n")
        })
        .await;
    let (_, metrics) = world.ask("/metrics/resource", Some(&trusted)).await;
    let used = "container_memory_working_set_bytes{container=\"web\",namespace=\"default\",pod=\"web\"} ";
    assert!(metrics.lines().any(|line| line.starts_with(used)), "{metrics}");
    let (_, summary) = world.ask("/stats/summary", Some(&trusted)).await;
    assert!(summary.contains("\"podRef\"") && summary.contains("\"workingSetBytes\""), "{summary}");
    assert_eq!(world.ask(path, None).await.0, "HTTP/1.1 401 Unauthorized");
    assert_eq!(world.ask(path, Some(&stranger)).await.0, "HTTP/1.1 403 Forbidden");
    assert_eq!(world.ask("/healthz", Some(&trusted)).await.1, "ok");
    assert_eq!(world.ask("/healthz", None).await.0, "HTTP/1.1 401 Unauthorized");
    let (_, own) = world.ask("/metrics", Some(&trusted)).await;
    assert!(own.lines().any(|line| line == "kubelet_running_containers{container_state=\"running\"} 1"), "{own}");
    let (_, probes) = world.ask("/metrics/probes", Some(&trusted)).await;
    assert!(probes.contains("probe_type=\"Readiness\",result=\"successful\""), "{probes}");
    let (_, cadvisor) = world.ask("/metrics/cadvisor", Some(&trusted)).await;
    let received = "container_network_receive_bytes_total{interface=\"eth0\",namespace=\"default\",pod=\"web\"} ";
    assert!(cadvisor.lines().any(|line| line.starts_with(received)), "{cadvisor}");
    let (_, configz) = world.ask("/configz", Some(&trusted)).await;
    assert!(configz.contains("\"imageGCHighThresholdPercent\":85"), "{configz}");
    assert_eq!(world.ask("/containerLogs/default/none/web", Some(&trusted)).await.0, "HTTP/1.1 404 Not Found");
    assert_eq!(world.ask("/exec/default/web/web", Some(&trusted)).await.0, "HTTP/1.1 400 Bad Request");

    // The agent ends and comes back: the container has not noticed.
    let before = world.node.runtime().containers().await.expect("listed");
    world.scope.stop().await;
    world.kubelet = None;
    world.node.restart_agent().await;
    world.start().await;
    let after = world.node.runtime().containers().await.expect("listed");
    let pids = |all: &[skiff_runtime::Container]| {
        let mut pids: Vec<_> = all.iter().filter(|c| c.name == "web").map(|c| (c.id.clone(), c.pid)).collect();
        pids.sort();
        pids
    };
    assert_eq!(pids(&before), pids(&after));
    assert!(fetch(&ip).await.is_some_and(|a| a.ends_with("hello\n")));

    let asked = Instant::now();
    world.delete("web");
    world
        .eventually("nothing is left", async |w| {
            let sandboxes = w.node.runtime().sandboxes().await.expect("listed").len();
            let empty = |name: &str| {
                let entries = std::fs::read_dir(w.node.directory.path().join(name)).expect("a directory");
                entries.count() == 0
            };
            sandboxes == 0 && w.pod("web").is_null() && empty("kubelet/pods") && empty("pods") && empty("containers")
        })
        .await;
    println!("gone after {:?}", asked.elapsed());

    // One that fails to start says why, and one that ends is kept.
    let plain = |name: &str, policy: &str, command: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
            "status": {"phase": "Pending"}, "spec": {"nodeName": "node-1", "restartPolicy": policy, "containers": [
                {"name": "c", "image": "skiff.test/busybox:1", "imagePullPolicy": "Never", "command": command}]}})
    };
    world.api.put(plain("bad", "Never", json!(["/no/such/file"])));
    world.api.put(plain("job", "OnFailure", json!(["sh", "-c", "echo done > /dev/termination-log"])));
    world.eventually("it fails", async |w| w.pod("bad")["status"]["phase"] == "Failed").await;
    let state = world.pod("bad")["status"]["containerStatuses"][0]["state"]["terminated"].clone();
    assert_eq!((state["reason"].as_str(), state["exitCode"].as_i64()), (Some("StartError"), Some(128)), "{state}");
    world.eventually("it succeeds", async |w| w.pod("job")["status"]["phase"] == "Succeeded").await;
    assert_eq!(world.pod("job")["status"]["containerStatuses"][0]["state"]["terminated"]["message"], "done\n");
    // What the runtime is asked to do at the end would otherwise wake the supervisor again.
    world
        .eventually("both are taken down", async |w| {
            let sandboxes = w.node.runtime().sandboxes().await.expect("listed");
            sandboxes.iter().all(|s| s.state == SandboxState::NotReady)
        })
        .await;
    world.scope.stop().await;
    world.kubelet = None;
    world.node.end().await;
}
