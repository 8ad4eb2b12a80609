//! A node for tests: a fake machine below and a fake API server above.

mod machine;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};
use skiff_base::Scope;
use skiff_client::fake::FakeTransport;
use skiff_client::{Client, EventRecorder, Informers, Lister};
use skiff_network::Cidr;
use skiff_pki::KeyPairPem;
use tokio::sync::{Semaphore, mpsc};

use crate::context::Context;
use crate::options::Options;
use crate::pods::Pods;
use crate::preempt;
use crate::pulled::Pulled;
use crate::settings::Settings;
use crate::source::Sources;
use crate::token::Tokens;
use crate::userns::UserNamespaces;

pub(crate) use machine::FakeMachine;

/// A node with its API server.
pub(crate) struct World {
    pub(crate) api: Arc<FakeTransport>,
    pub(crate) machine: Arc<FakeMachine>,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) scope: Scope,
    pub(crate) settings: Settings,
    running: Option<(Arc<Context>, Arc<Pods>)>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let world = Self {
            api: Arc::new(FakeTransport::new()),
            machine: FakeMachine::new(),
            directory: tempfile::tempdir().expect("a directory"),
            scope: Scope::new(),
            settings: Settings::default(),
            running: None,
        };
        let mut world = world;
        world.start().await;
        world
    }

    pub(crate) fn options(&self) -> Options {
        let at = |name: &str| self.directory.path().join(name);
        let cidr = Cidr { address: "10.42.0.0".parse().expect("an address"), prefix_len: 16 };
        Options {
            node_name: "node-1".into(),
            node_ip: "192.0.2.1".parse().expect("an address"),
            root_directory: at("kubelet"),
            log_directory: at("pods"),
            containers_log_directory: at("containers"),
            data_directory: at("agent"),
            cluster_dns: "10.43.0.10".parse().expect("an address"),
            cluster_domain: "cluster.local".into(),
            resolv_conf: at("resolv.conf"),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            settings: self.settings.clone(),
            allowed_unsafe_sysctls: Vec::new(),
            listen: "127.0.0.1:0".parse().expect("an address"),
            serving: KeyPairPem { certificate: String::new(), key: String::new() },
            client_ca_pem: String::new(),
            cluster_cidr: cidr,
            service_cidr: cidr,
        }
    }

    pub(crate) async fn start(&mut self) {
        let options = self.options();
        for directory in [&options.log_directory, &options.containers_log_directory, &options.root_directory] {
            std::fs::create_dir_all(directory).expect("a directory");
        }
        self.scope = Scope::new();
        let client = Client::new(self.api.clone());
        let informers = Informers::new(client.clone(), self.scope.clone());
        let pods: Lister<Pod> = informers.lister();
        let (preemptions, wishes) = mpsc::channel(preempt::WAITING);
        let ctx = Arc::new(Context {
            engine: self.machine.clone(),
            recorder: EventRecorder::new(client.clone(), &self.scope, "kubelet", "node-1"),
            services: informers.lister(),
            runtime_classes: informers.lister(),
            csi: Default::default(),
            cpus: crate::cpus::Cpus::open(&options.root_directory, None).expect("nothing to read"),
            devices: crate::devices::Devices::open(&options.root_directory, Arc::default()),
            csi_drivers: informers.lister(),
            config_maps: Sources::new(client.clone(), self.scope.clone()),
            secrets: Sources::new(client.clone(), self.scope.clone()),
            tokens: Tokens::new(client.clone()),
            client,
            options,
            allocatable: [("cpu", "2"), ("memory", "1Gi")].map(|(k, v)| (k.to_owned(), Quantity(v.to_owned()))).into(),
            memory_capacity: 1 << 30,
            host: Default::default(),
            shares: Default::default(),
            routes: Mutex::default(),
            pulls: Semaphore::new(4),
            pulled: Pulled::open(&self.options().data_directory, &[]).expect("opened"),
            user_namespaces: UserNamespaces::open(&self.options(), Path::new("/no-such")).expect("opened"),
            counters: Default::default(),
            pressure: Default::default(),
            goes_down: Default::default(),
            nodes: informers.lister(),
            ports: Default::default(),
            preemptions,
            status_changed: Arc::default(),
            scope: self.scope.clone(),
        });
        let pods = Pods::start(&ctx, &pods, Vec::new()).await.expect("started");
        ctx.scope.spawn(preempt::keep::keep(ctx.clone(), pods.clone(), wishes));
        self.running = Some((ctx, pods));
    }

    pub(crate) fn pods(&self) -> Arc<Pods> {
        self.running.as_ref().expect("started").1.clone()
    }

    pub(crate) fn ctx(&self) -> Arc<Context> {
        self.running.as_ref().expect("started").0.clone()
    }

    /// The agent ends and begins again; the machine goes on.
    pub(crate) async fn restart(&mut self) {
        self.scope.stop().await;
        self.start().await;
    }

    pub(crate) fn create(&self, name: &str, spec: Value) {
        self.api.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
            "spec": spec, "status": {"phase": "Pending"}}));
    }

    pub(crate) fn pod(&self, name: &str) -> Value {
        let all = self.api.objects("/api/v1/pods");
        all.into_iter().find(|p| p["metadata"]["name"] == name).unwrap_or(Value::Null)
    }

    pub(crate) fn delete(&self, name: &str, grace_s: i64) {
        let mut pod = self.pod(name);
        pod["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace_s);
        pod["metadata"]["finalizers"] = json!([]);
        self.api.put(pod);
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.machine.lock().log.clone()
    }

    pub(crate) fn reasons(&self) -> Vec<String> {
        let mut reasons: Vec<String> = self
            .api
            .objects("/api/v1/events")
            .iter()
            .map(|e| e["reason"].as_str().unwrap_or_default().to_owned())
            .collect();
        reasons.sort();
        reasons.dedup();
        reasons
    }

    /// Waits until it holds; says what there is where it never does.
    pub(crate) async fn eventually(&self, what: &str, check: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !check(self) {
            let late = tokio::time::Instant::now() > deadline;
            assert!(
                !late,
                "never: {what}\n{:#?}\n{:?}\n{:?}",
                self.api.objects("/api/v1/pods"),
                self.log(),
                self.reasons()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn phase(&self, name: &str, phase: &str) {
        self.eventually(&format!("{name} is {phase}"), |w| w.pod(name)["status"]["phase"] == phase).await;
    }
}

/// A pod of one container `c`.
pub(crate) fn one(policy: &str, container: Value) -> Value {
    let mut container = container;
    container["name"] = json!("c");
    if container["image"].is_null() {
        container["image"] = json!("here:1");
    }
    json!({"nodeName": "node-1", "restartPolicy": policy, "terminationGracePeriodSeconds": 7, "containers": [container]})
}
