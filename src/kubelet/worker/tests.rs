//! The life of pods, with a fake machine below and a fake API server above.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};
use skiff_base::{Scope, time};
use skiff_client::fake::FakeTransport;
use skiff_client::{Client, EventRecorder, Informers, Lister};
use skiff_network::{Cidr, HostPort};
use skiff_pki::KeyPairPem;
use skiff_runtime::{
    Container, ContainerConfig, ContainerId, ContainerState, Error, ExecResult, Exit, Image, ImageConfig, ImageId,
    RegistryAuth, Resources, RuntimeEvent, Sandbox, SandboxConfig, SandboxId, SandboxState, Stats,
};
use tokio::sync::{Semaphore, broadcast};

use crate::context::Context;
use crate::engine::Engine;
use crate::options::Options;
use crate::pods::Pods;
use crate::source::Sources;
use crate::token::Tokens;

/// A machine in memory; containers run until the test ends them.
struct FakeMachine {
    state: Mutex<Machine>,
    events: broadcast::Sender<RuntimeEvent>,
    ids: AtomicU32,
}

#[derive(Default)]
struct Machine {
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    containers: BTreeMap<ContainerId, Container>,
    configs: BTreeMap<ContainerId, ContainerConfig>,
    /// What was done, in order.
    log: Vec<String>,
    /// Images that can't be pulled.
    broken: Vec<String>,
    /// Containers keep the limits that they have.
    stuck: bool,
}

impl FakeMachine {
    fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), events: broadcast::channel(64).0, ids: AtomicU32::new(0) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Machine> {
        self.state.lock().expect("no test panics while it holds the machine")
    }

    fn log(&self, line: String) {
        self.lock().log.push(line);
    }

    fn next(&self) -> u32 {
        self.ids.fetch_add(1, Ordering::SeqCst)
    }

    /// The newest container of that name ends.
    fn end(&self, name: &str, code: i32) {
        let id = {
            let machine = self.lock();
            let own = machine.containers.values().filter(|c| c.name == name);
            own.max_by_key(|c| c.attempt).expect("it was created").id.clone()
        };
        self.exit(&id, code);
    }

    fn exit(&self, id: &ContainerId, code: i32) {
        let exit = Exit {
            started: None,
            finished: time::now(),
            code,
            signal: None,
            reason: if code == 0 { "Completed" } else { "Error" }.to_owned(),
            message: String::new(),
        };
        let mut machine = self.lock();
        let Some(container) = machine.containers.get_mut(id) else { return };
        if matches!(container.state, ContainerState::Exited(_)) {
            return;
        }
        container.state = ContainerState::Exited(exit.clone());
        drop(machine);
        drop(self.events.send(RuntimeEvent::ContainerExited(id.clone(), exit)));
    }
}

fn image(reference: &str) -> Image {
    Image {
        id: ImageId(format!("sha256:{reference}")),
        tags: vec![reference.to_owned()],
        digests: Vec::new(),
        size_bytes: 10,
        pinned: false,
        user: String::new(),
        config: ImageConfig::default(),
    }
}

#[async_trait]
impl Engine for FakeMachine {
    fn normalize(&self, reference: &str) -> Result<String, Error> {
        if reference.contains(' ') {
            let why = "invalid reference format".to_owned();
            return Err(Error::InvalidReference { reference: reference.to_owned(), why });
        }
        Ok(reference.to_owned())
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>, Error> {
        Ok(reference.starts_with("here").then(|| image(reference)))
    }

    async fn images(&self) -> Result<Vec<Image>, Error> {
        Ok(Vec::new())
    }

    async fn pull(&self, reference: &str, _: Option<&RegistryAuth>) -> Result<Image, Error> {
        self.log(format!("pull {reference}"));
        if self.lock().broken.iter().any(|b| b == reference) {
            return Err(Error::Pull { reference: reference.to_owned(), why: "not found".to_owned() });
        }
        Ok(image(reference))
    }

    async fn mount_image(&self, id: &ImageId, _: &Path) -> Result<(), Error> {
        self.log(format!("mount {}", id.0));
        Ok(())
    }

    async fn run_sandbox(&self, config: SandboxConfig) -> Result<Sandbox, Error> {
        let sandbox = Sandbox {
            id: SandboxId(format!("s{}", self.next())),
            state: SandboxState::Ready,
            pod_name: config.pod_name,
            pod_namespace: config.pod_namespace,
            pod_uid: config.pod_uid,
            attempt: config.attempt,
            created: time::now(),
            netns: Some("/netns".into()),
            labels: config.labels,
            annotations: config.annotations,
        };
        let mut machine = self.lock();
        machine.log.push("sandbox".to_owned());
        machine.sandboxes.insert(sandbox.id.clone(), sandbox.clone());
        Ok(sandbox)
    }

    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), Error> {
        if let Some(sandbox) = self.lock().sandboxes.get_mut(id) {
            sandbox.state = SandboxState::NotReady;
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), Error> {
        let mut machine = self.lock();
        machine.sandboxes.remove(id);
        machine.containers.retain(|_, c| c.sandbox != *id);
        machine.log.push("remove sandbox".to_owned());
        Ok(())
    }

    async fn sandboxes(&self) -> Result<Vec<Sandbox>, Error> {
        Ok(self.lock().sandboxes.values().cloned().collect())
    }

    async fn create_container(&self, sandbox: &SandboxId, config: ContainerConfig) -> Result<ContainerId, Error> {
        let id = ContainerId(format!("c{}", self.next()));
        let container = Container {
            id: id.clone(),
            sandbox: sandbox.clone(),
            name: config.name.clone(),
            attempt: config.attempt,
            image: config.image.clone(),
            image_ref: String::new(),
            state: ContainerState::Created,
            created: time::now(),
            pid: None,
            log_path: config.log_path.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        };
        let mut machine = self.lock();
        machine.containers.insert(id.clone(), container);
        machine.configs.insert(id.clone(), config);
        Ok(id)
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), Error> {
        let mut machine = self.lock();
        let container = machine.containers.get_mut(id).ok_or_else(|| Error::ContainerNotFound(id.0.clone()))?;
        container.state = ContainerState::Running { started: time::now() };
        let line = format!("start {}#{}", container.name, container.attempt);
        machine.log.push(line);
        Ok(())
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), Error> {
        let line = {
            let machine = self.lock();
            let name = machine.containers.get(id).map(|c| c.name.clone()).unwrap_or_default();
            format!("stop {name} {}s", grace.as_secs_f64().ceil())
        };
        self.log(line);
        self.exit(id, 143);
        Ok(())
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<(), Error> {
        self.lock().containers.remove(id);
        Ok(())
    }

    async fn update_sandbox(&self, _: &SandboxId, resources: &Resources) -> Result<(), Error> {
        self.log(format!("pod {:?} {:?}", resources.cpu_shares, resources.memory_limit_bytes));
        Ok(())
    }

    async fn update_container(&self, _: &ContainerId, resources: &Resources) -> Result<(), Error> {
        self.log(format!("container {:?} {:?}", resources.cpu_shares, resources.memory_limit_bytes));
        if self.lock().stuck {
            return Err(Error::Timeout("the kernel does not answer"));
        }
        Ok(())
    }

    async fn container_stats(&self, _: &ContainerId) -> Result<Stats, Error> {
        Ok(Stats { memory_working_set_bytes: 20 << 20, ..Stats::default() })
    }

    async fn container(&self, id: &ContainerId) -> Result<Container, Error> {
        self.lock().containers.get(id).cloned().ok_or_else(|| Error::ContainerNotFound(id.0.clone()))
    }

    async fn containers(&self) -> Result<Vec<Container>, Error> {
        Ok(self.lock().containers.values().cloned().collect())
    }

    async fn exec_sync(&self, _: &ContainerId, command: &[String], _: Option<Duration>) -> Result<ExecResult, Error> {
        self.log(format!("exec {}", command.join(" ")));
        let exit_code = i32::from(command.first().is_some_and(|c| c == "false"));
        Ok(ExecResult { stdout: Vec::new(), stderr: Vec::new(), exit_code })
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }

    async fn attach_network(
        &self,
        _: &SandboxId,
        _: &Path,
        _: &[HostPort],
    ) -> Result<Vec<IpAddr>, skiff_network::Error> {
        Ok(vec!["10.42.0.5".parse().expect("an address")])
    }

    async fn detach_network(&self, id: &SandboxId) -> Result<(), skiff_network::Error> {
        let stopped = self.lock().sandboxes.get(id).is_none_or(|s| s.state == SandboxState::NotReady);
        self.log(if stopped { "detach" } else { "detach what still runs" }.to_owned());
        Ok(())
    }
}

/// A node with its API server.
struct World {
    api: Arc<FakeTransport>,
    machine: Arc<FakeMachine>,
    directory: tempfile::TempDir,
    scope: Scope,
}

impl World {
    async fn new() -> Self {
        let world = Self {
            api: Arc::new(FakeTransport::new()),
            machine: FakeMachine::new(),
            directory: tempfile::tempdir().expect("a directory"),
            scope: Scope::new(),
        };
        let mut world = world;
        world.start().await;
        world
    }

    fn options(&self) -> Options {
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
            max_pods: 110,
            allowed_unsafe_sysctls: Vec::new(),
            listen: "127.0.0.1:0".parse().expect("an address"),
            serving: KeyPairPem { certificate: String::new(), key: String::new() },
            client_ca_pem: String::new(),
            cluster_cidr: cidr,
            service_cidr: cidr,
        }
    }

    async fn start(&mut self) {
        let options = self.options();
        for directory in [&options.log_directory, &options.containers_log_directory, &options.root_directory] {
            std::fs::create_dir_all(directory).expect("a directory");
        }
        self.scope = Scope::new();
        let client = Client::new(self.api.clone());
        let informers = Informers::new(client.clone(), self.scope.clone());
        let pods: Lister<Pod> = informers.lister();
        let ctx = Arc::new(Context {
            engine: self.machine.clone(),
            recorder: EventRecorder::new(client.clone(), &self.scope, "kubelet", "node-1"),
            services: informers.lister(),
            runtime_classes: informers.lister(),
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
            images_changed: Arc::default(),
            scope: self.scope.clone(),
        });
        Pods::start(&ctx, &pods).await.expect("started");
    }

    /// The agent ends and begins again; the machine goes on.
    async fn restart(&mut self) {
        self.scope.stop().await;
        self.start().await;
    }

    fn create(&self, name: &str, spec: Value) {
        self.api.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
            "spec": spec, "status": {"phase": "Pending"}}));
    }

    fn pod(&self, name: &str) -> Value {
        let all = self.api.objects("/api/v1/pods");
        all.into_iter().find(|p| p["metadata"]["name"] == name).unwrap_or(Value::Null)
    }

    fn delete(&self, name: &str, grace_s: i64) {
        let mut pod = self.pod(name);
        pod["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace_s);
        pod["metadata"]["finalizers"] = json!([]);
        self.api.put(pod);
    }

    fn log(&self) -> Vec<String> {
        self.machine.lock().log.clone()
    }

    fn reasons(&self) -> Vec<String> {
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
    async fn eventually(&self, what: &str, check: impl Fn(&Self) -> bool) {
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

    async fn phase(&self, name: &str, phase: &str) {
        self.eventually(&format!("{name} is {phase}"), |w| w.pod(name)["status"]["phase"] == phase).await;
    }
}

fn one(policy: &str, container: Value) -> Value {
    let mut container = container;
    container["name"] = json!("c");
    if container["image"].is_null() {
        container["image"] = json!("here:1");
    }
    json!({"nodeName": "node-1", "restartPolicy": policy, "terminationGracePeriodSeconds": 7, "containers": [container]})
}

#[tokio::test]
async fn runs_and_is_deleted() {
    let world = World::new().await;
    world.create("a", one("Always", json!({})));
    world.phase("a", "Running").await;
    let status = world.pod("a")["status"].clone();
    assert_eq!(status["podIP"], "10.42.0.5");
    assert_eq!(status["containerStatuses"][0]["ready"], true);
    assert_eq!(status["containerStatuses"][0]["containerID"], "skiff://c1");
    let config = world.machine.lock().configs.values().next().cloned().expect("created");
    let mounted: Vec<String> = config.mounts.iter().map(|m| m.container_path.display().to_string()).collect();
    assert_eq!(mounted, ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/dev/termination-log"]);
    world.eventually("events", |w| w.reasons() == ["Created", "Pulled", "Started"]).await;

    world.delete("a", 5);
    world.eventually("it is gone", |w| w.pod("a").is_null()).await;
    // The fake server ends the object with the last status write.
    world.eventually("the sandbox is gone", |w| w.machine.lock().sandboxes.is_empty()).await;
    assert_eq!(world.log(), ["sandbox", "start c#0", "stop c 5s", "detach", "remove sandbox"]);
    let options = world.options();
    let empty = |directory: &Path| directory.read_dir().map_or(0, Iterator::count) == 0;
    world
        .eventually("nothing is left", |_| {
            empty(&options.root_directory.join("pods"))
                && empty(&options.log_directory)
                && empty(&options.containers_log_directory)
        })
        .await;
    world.scope.stop().await;
}

#[tokio::test]
async fn ends_by_itself_and_keeps_its_records() {
    let world = World::new().await;
    world.create("job", one("Never", json!({})));
    world.phase("job", "Running").await;
    world.machine.end("c", 3);
    world.phase("job", "Failed").await;
    let state = world.pod("job")["status"]["containerStatuses"][0]["state"]["terminated"].clone();
    assert_eq!((state["exitCode"].as_i64(), state["reason"].as_str()), (Some(3), Some("Error")));
    assert_eq!(world.machine.lock().containers.len(), 1);
    world.delete("job", 30);
    world.eventually("it is gone", |w| w.pod("job").is_null()).await;
    world.eventually("so are its records", |w| w.machine.lock().containers.is_empty()).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn crash_loops_and_says_so() {
    let world = World::new().await;
    world.create("crash", one("Always", json!({})));
    world.phase("crash", "Running").await;
    world.machine.end("c", 1);
    world.eventually("a second start", |w| w.log().contains(&"start c#1".to_owned())).await;
    world.machine.end("c", 1);
    let reason = |w: &World| w.pod("crash")["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    world.eventually("CrashLoopBackOff", |w| reason(w) == "CrashLoopBackOff").await;
    let status = world.pod("crash")["status"]["containerStatuses"][0].clone();
    assert_eq!(status["restartCount"], 1);
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(
        status["state"]["waiting"]["message"],
        "back-off 10s restarting failed container=c pod=crash_default(uid-crash)"
    );
    world.eventually("an event", |w| w.reasons().contains(&"BackOff".to_owned())).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn init_containers_and_sidecars_in_order() {
    let world = World::new().await;
    let mut spec = one("Never", json!({}));
    spec["initContainers"] = json!([{"name": "i", "image": "here:1"},
        {"name": "s", "image": "here:1", "restartPolicy": "Always"}]);
    world.create("p", spec);
    world.eventually("the first init container", |w| w.log().contains(&"start i#0".to_owned())).await;
    world.machine.end("i", 0);
    world.phase("p", "Running").await;
    world.machine.end("c", 0);
    world.phase("p", "Succeeded").await;
    assert_eq!(world.log()[..5], ["sandbox", "start i#0", "start s#0", "start c#0", "stop s 7s"]);
    world.scope.stop().await;
}

#[tokio::test]
async fn survives_a_restart_of_the_agent() {
    let mut world = World::new().await;
    world.create("a", one("Always", json!({})));
    world.create("b", one("Always", json!({})));
    world.phase("a", "Running").await;
    world.phase("b", "Running").await;
    let before = world.log();
    world.scope.stop().await;
    // While nobody looks, one ends, and one is removed from the API.
    let mut pod = world.pod("b");
    pod["metadata"]["finalizers"] = json!([]);
    let of_a = {
        let machine = world.machine.lock();
        machine.containers.values().find(|c| c.labels["io.kubernetes.pod.name"] == "a").expect("it runs").id.clone()
    };
    let client = Client::new(world.api.clone());
    client.namespaced::<Pod>("default").delete("b", &Default::default()).await.expect("deleted");
    world.restart().await;
    world.eventually("the orphan is ended", |w| w.machine.lock().sandboxes.len() == 1).await;
    assert_eq!(world.log()[before.len()..], ["stop c 7s", "detach", "remove sandbox"]);
    assert!(world.machine.lock().containers.contains_key(&of_a));

    world.machine.exit(&of_a, 1);
    world.eventually("it is started again", |w| w.log().contains(&"start c#1".to_owned())).await;
    world.eventually("and told", |w| w.pod("a")["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn a_lost_sandbox_is_made_anew() {
    let world = World::new().await;
    world.create("a", one("Always", json!({})));
    world.create("once", one("Never", json!({})));
    world.phase("a", "Running").await;
    world.phase("once", "Running").await;
    // Process 1 of their namespaces ends, and with it all others; the word of the one comes before the other's.
    let lost: Vec<(SandboxId, ContainerId)> = {
        let mut machine = world.machine.lock();
        machine.sandboxes.values_mut().for_each(|s| s.state = SandboxState::NotReady);
        machine.log.clear();
        machine.containers.values().map(|c| (c.sandbox.clone(), c.id.clone())).collect()
    };
    for (sandbox, container) in lost {
        drop(world.machine.events.send(RuntimeEvent::SandboxEnded(sandbox)));
        world.machine.exit(&container, 137);
    }
    world.eventually("a second start", |w| w.log().contains(&"start c#1".to_owned())).await;
    world.phase("once", "Failed").await;
    let status = |w: &World| w.pod("a")["status"]["containerStatuses"][0].clone();
    world.eventually("it is told", |w| status(w)["restartCount"] == 1 && status(w)["ready"] == true).await;
    assert_eq!(status(&world)["lastState"]["terminated"]["exitCode"], 137);
    assert!(world.reasons().contains(&"SandboxChanged".to_owned()), "{:?}", world.reasons());
    assert_eq!(world.log().iter().filter(|line| *line == "sandbox").count(), 1, "{:?}", world.log());
    world.scope.stop().await;
}

#[tokio::test]
async fn what_another_kubelet_has_stays() {
    let mut world = World::new().await;
    world.scope.stop().await;
    let options = world.options();
    let others = [options.root_directory.join("pods/uid-other"), options.log_directory.join("default_other_uid-other")];
    let ours = [options.root_directory.join("pods/uid-ours"), options.log_directory.join("default_ours_uid-ours")];
    for directory in others.iter().chain(&ours) {
        std::fs::create_dir_all(directory).expect("a directory");
    }
    for directory in &ours {
        skiff_linux::mark::set(directory).expect("marked");
    }
    world.start().await;
    world.eventually("ours are swept", |_| ours.iter().all(|directory| !directory.exists())).await;
    assert!(others.iter().all(|directory| directory.exists()));
    world.scope.stop().await;
}

#[tokio::test]
async fn images_that_can_not_be_had() {
    let world = World::new().await;
    world.machine.lock().broken.push("gone:1".into());
    world.create("broken", one("Always", json!({"image": "gone:1"})));
    world.create("never", one("Always", json!({"image": "gone:1", "imagePullPolicy": "Never"})));
    world.create("invalid", one("Always", json!({"image": "not valid"})));
    let reason =
        |w: &World, name: &str| w.pod(name)["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    world.eventually("ErrImageNeverPull", |w| reason(w, "never") == "ErrImageNeverPull").await;
    world.eventually("InvalidImageName", |w| reason(w, "invalid") == "InvalidImageName").await;
    world.eventually("ErrImagePull", |w| reason(w, "broken") == "ErrImagePull").await;
    world.eventually("ImagePullBackOff", |w| reason(w, "broken") == "ImagePullBackOff").await;
    // It can be deleted while it waits.
    world.delete("broken", 0);
    world.eventually("it is gone", |w| w.pod("broken").is_null()).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn volumes_wait_for_their_objects_and_follow_them() {
    let world = World::new().await;
    let mut spec = one(
        "Always",
        json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}],
        "env": [{"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "k"}}}]}),
    );
    spec["volumes"] = json!([{"name": "v", "configMap": {"name": "map"}}]);
    world.create("p", spec);
    world.eventually("it says what is missing", |w| w.reasons().contains(&"FailedMount".to_owned())).await;
    let map = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map", "namespace": "default"}, "data": {"k": value}});
    world.api.put(map("1"));
    world.phase("p", "Running").await;
    let config = world.machine.lock().configs.values().next().cloned().expect("created");
    assert!(config.env.contains(&("KEY".into(), "1".into())), "{:?}", config.env);
    let mount = config.mounts.iter().find(|m| m.container_path == Path::new("/v")).expect("mounted").clone();
    assert!(mount.read_only);
    let read = || std::fs::read_to_string(mount.host_path.join("k")).unwrap_or_default();
    assert_eq!(read(), "1");
    world.api.put(map("2"));
    world.eventually("the file follows", |_| read() == "2").await;
    world.scope.stop().await;
}

#[tokio::test]
async fn hooks_and_probes() {
    let world = World::new().await;
    let spec = one(
        "Always",
        json!({
        "lifecycle": {"postStart": {"exec": {"command": ["greet"]}}, "preStop": {"exec": {"command": ["part"]}}},
        "startupProbe": {"exec": {"command": ["up"]}},
        "livenessProbe": {"exec": {"command": ["false"]}, "failureThreshold": 1}}),
    );
    world.create("p", spec);
    // It starts, fails its first liveness probe, and is started again.
    world.eventually("a second start", |w| w.log().contains(&"start c#1".to_owned())).await;
    let log = world.log();
    assert_eq!(
        log[..8],
        ["sandbox", "start c#0", "exec greet", "exec up", "exec false", "exec part", "stop c 7s", "start c#1"]
    );
    world
        .eventually("events", |w| {
            w.reasons().contains(&"Unhealthy".to_owned()) && w.reasons().contains(&"Killing".to_owned())
        })
        .await;
    world.scope.stop().await;
}

#[tokio::test]
async fn a_deadline_ends_a_pod() {
    let world = World::new().await;
    let mut spec = one("Always", json!({}));
    spec["activeDeadlineSeconds"] = json!(1);
    world.create("p", spec);
    world.phase("p", "Failed").await;
    assert_eq!(world.pod("p")["status"]["reason"], "DeadlineExceeded");
    assert!(world.log().contains(&"stop c 7s".to_owned()), "{:?}", world.log());
    world.scope.stop().await;
}

#[tokio::test]
async fn a_pod_that_the_node_does_not_take() {
    let world = World::new().await;
    let mut spec = one("Always", json!({}));
    spec["securityContext"] = json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]});
    world.create("p", spec);
    world.phase("p", "Failed").await;
    let status = world.pod("p")["status"].clone();
    assert_eq!(status["reason"], "SysctlForbidden");
    assert_eq!(status["message"], "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted");
    world.eventually("an event", |w| w.reasons() == ["SysctlForbidden"]).await;
    assert_eq!(world.log(), Vec::<String>::new());
    world.delete("p", 0);
    world.eventually("it is gone", |w| w.pod("p").is_null()).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn ephemeral_containers_look_into_a_pod() {
    let world = World::new().await;
    world.create("p", one("Never", json!({})));
    world.phase("p", "Running").await;
    let mut pod = world.pod("p");
    pod["spec"]["ephemeralContainers"] = json!([
        {"name": "debug", "image": "here:1", "targetContainerName": "c", "env": [{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "k"}}}]},
        {"name": "blind", "image": "here:1", "targetContainerName": "nobody"}]);
    world.api.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late", "namespace": "default"}, "data": {"k": "v"}}));
    world.api.put(pod);
    let state = |w: &World, at: usize| w.pod("p")["status"]["ephemeralContainerStatuses"][at]["state"].clone();
    world.eventually("it runs", |w| !state(w, 0)["running"].is_null()).await;
    world
        .eventually("the other can't", |w| {
            state(w, 1)["waiting"]["message"] == "unable to find target container nobody"
        })
        .await;
    let config = world.machine.lock().configs.values().find(|c| c.name == "debug").cloned().expect("created");
    assert_eq!(config.target, Some(ContainerId("c1".into())));
    assert!(config.env.contains(&("K".into(), "v".into())));
    world.machine.end("debug", 1);
    world.eventually("it is over", |w| state(w, 0)["terminated"]["exitCode"] == 1).await;
    assert_eq!(world.pod("p")["status"]["phase"], "Running");
    // Nobody waits for one that still runs.
    let mut pod = world.pod("p");
    pod["spec"]["ephemeralContainers"][1] = json!({"name": "second", "image": "here:1"});
    world.api.put(pod);
    world.eventually("it runs", |w| w.log().contains(&"start second#0".to_owned())).await;
    world.machine.end("c", 0);
    world.phase("p", "Succeeded").await;
    assert!(world.log().contains(&"stop second 7s".to_owned()), "{:?}", world.log());
    assert_eq!(world.log().iter().filter(|l| l.starts_with("start debug")).count(), 1);
    world.scope.stop().await;
}

#[tokio::test]
async fn pods_are_resized_as_far_as_there_is() {
    let world = World::new().await;
    let resources = |cpu: &str, memory: &str| json!({"requests": {"cpu": cpu}, "limits": {"memory": memory}});
    world.create("other", one("Always", json!({"resources": {"requests": {"cpu": "1"}}})));
    world.create(
        "p",
        one(
            "Always",
            json!({"resources": resources("500m", "64Mi"),
        "resizePolicy": [{"resourceName": "memory", "restartPolicy": "NotRequired"}]}),
        ),
    );
    world.phase("p", "Running").await;
    world.phase("other", "Running").await;
    let resize = |cpu: &str, memory: &str| {
        let mut pod = world.pod("p");
        pod["spec"]["containers"][0]["resources"] = resources(cpu, memory);
        world.api.put(pod);
    };
    let given = |w: &World| w.pod("p")["status"]["containerStatuses"][0]["resources"].clone();
    let condition = |w: &World, kind: &str| {
        let conditions = w.pod("p")["status"]["conditions"].as_array().cloned().unwrap_or_default();
        // The fake server merges no lists: an order to delete stays as it is.
        conditions.into_iter().find(|c| c["type"] == kind && c["$patch"].is_null()).unwrap_or(Value::Null)
    };
    world.machine.lock().log.clear();
    resize("1", "128Mi");
    world.eventually("it is told", |w| given(w) == resources("1", "128Mi")).await;
    let expect = ["pod None Some(-1)", "container Some(1024) Some(134217728)", "pod Some(1024) Some(134217728)"];
    assert_eq!(world.log(), expect);
    // Less than it uses: it says so, and keeps what it has.
    resize("1", "16Mi");
    world.eventually("an error", |w| condition(w, "PodResizeInProgress")["reason"] == "Error").await;
    assert_eq!(given(&world), resources("1", "128Mi"));
    resize("1500m", "128Mi");
    world.eventually("it waits", |w| condition(w, "PodResizePending")["reason"] == "Deferred").await;
    resize("3", "128Mi");
    world.eventually("it never comes", |w| condition(w, "PodResizePending")["reason"] == "Infeasible").await;
    resize("1500m", "128Mi");
    world.delete("other", 0);
    world.eventually("room came", |w| given(w) == resources("1500m", "128Mi")).await;
    world
        .eventually("no conditions are left", |w| {
            condition(w, "PodResizePending").is_null() && condition(w, "PodResizeInProgress").is_null()
        })
        .await;
    assert_eq!(world.pod("p")["status"]["containerStatuses"][0]["restartCount"], 0);
    // Where a container can't be changed, the pod is not left without limits.
    world.machine.lock().stuck = true;
    world.machine.lock().log.clear();
    resize("1500m", "192Mi");
    world.eventually("an error", |w| condition(w, "PodResizeInProgress")["reason"] == "Error").await;
    let expect = ["pod None Some(-1)", "container Some(1536) Some(201326592)", "pod Some(1536) Some(201326592)"];
    assert_eq!(world.log()[..3], expect);
    world.machine.lock().stuck = false;
    // Where the container wants to begin anew for it, it does.
    let mut pod = world.pod("p");
    pod["spec"]["containers"][0]["resizePolicy"] =
        json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    pod["spec"]["containers"][0]["resources"] = resources("1500m", "256Mi");
    world.api.put(pod);
    world.eventually("it begins anew", |w| w.log().contains(&"start c#1".to_owned())).await;
    world.eventually("with more", |w| given(w) == resources("1500m", "256Mi")).await;
    // The pod has room for it before it is there.
    assert_eq!(world.log()[world.log().len() - 2..], ["pod Some(1536) Some(268435456)", "start c#1"]);
    world.scope.stop().await;
}

#[tokio::test]
async fn images_as_volumes() {
    let world = World::new().await;
    let mut spec = one("Always", json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    spec["volumes"] = json!([{"name": "v", "image": {"reference": "model:1", "pullPolicy": "Always"}}]);
    world.create("p", spec);
    world.phase("p", "Running").await;
    assert_eq!(world.log()[..2].iter().filter(|l| *l == "pull model:1").count(), 1, "{:?}", world.log());
    assert!(world.log().contains(&"mount sha256:model:1".to_owned()));
    let config = world.machine.lock().configs.values().next().cloned().expect("created");
    assert_eq!(config.images, [ImageId("sha256:model:1".into())]);
    assert!(config.mounts.iter().any(|m| m.container_path == Path::new("/v") && m.read_only));
    world.scope.stop().await;
}

#[tokio::test]
async fn runtime_classes() {
    let world = World::new().await;
    for (name, handler) in [("plain", "runc"), ("other", "gvisor")] {
        world.api.put(json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": handler}));
    }
    for class in ["plain", "other", "none"] {
        let mut spec = one("Always", json!({}));
        spec["runtimeClassName"] = json!(class);
        world.create(class, spec);
    }
    world.phase("plain", "Running").await;
    let said = |w: &World, text: &str| {
        w.api.objects("/api/v1/events").iter().any(|e| e["message"].as_str().is_some_and(|m| m.contains(text)))
    };
    world.eventually("no such runtime", |w| said(w, "no runtime for \"gvisor\" is configured")).await;
    world.eventually("no such class", |w| said(w, "runtimeclass.node.k8s.io \"none\" not found")).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn the_node_is_registered_once() {
    let world = World::new().await;
    let client = Client::new(world.api.clone());
    let facts = crate::node::MachineFacts::read(Path::new("/"));
    let options = world.options();
    let node: Node = crate::node::ensure(&client, &options, &facts, &[], false).await.expect("registered");
    let again = crate::node::ensure(&client, &options, &facts, &[], false).await.expect("found");
    assert_eq!(node.metadata.uid, again.metadata.uid);
    let ready = crate::node::write_status(&client, &options, &again, &facts, &[], true).await.expect("written");
    let conditions = ready.status.and_then(|s| s.conditions).expect("conditions");
    assert!(conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    assert_eq!(ready.metadata.labels.expect("labels")["kubernetes.io/hostname"], "node-1");
    world.scope.stop().await;
}
