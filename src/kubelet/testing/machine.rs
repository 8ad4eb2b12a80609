//! A machine in memory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use skiff_base::time;
use skiff_network::HostPort;
use skiff_runtime::{
    Container, ContainerConfig, ContainerId, ContainerState, ContainerUser, Error, ExecResult, Exit, Image,
    ImageConfig, ImageId, RegistryAuth, Resources, RuntimeEvent, Sandbox, SandboxConfig, SandboxId, SandboxState,
    Stats,
};
use tokio::sync::{Notify, broadcast};

use crate::engine::Engine;

/// A machine in memory; containers run until the test ends them.
pub(crate) struct FakeMachine {
    state: Mutex<Machine>,
    pub(crate) events: broadcast::Sender<RuntimeEvent>,
    ids: AtomicU32,
}

#[derive(Default)]
pub(crate) struct Machine {
    pub(crate) sandboxes: BTreeMap<SandboxId, Sandbox>,
    pub(crate) containers: BTreeMap<ContainerId, Container>,
    pub(crate) configs: BTreeMap<ContainerId, ContainerConfig>,
    /// What was done, in order.
    pub(crate) log: Vec<String>,
    /// Images that are mounted.
    pub(crate) shown: BTreeMap<PathBuf, ImageId>,
    /// All images that it says to have, and where a change of them is seen.
    pub(crate) images: Vec<String>,
    pub(crate) records: PathBuf,
    /// What is said of networks that can't be taken down, one after the other.
    pub(crate) held: Vec<&'static str>,
    /// Images that can't be pulled.
    pub(crate) broken: Vec<String>,
    /// Containers keep the limits that they have.
    pub(crate) stuck: bool,
    /// The memory limit that pods do not take.
    pub(crate) refused: Option<i64>,
    /// These end as soon as all containers have been listed once more.
    pub(crate) ends_once_listed: Option<(ContainerId, SandboxId)>,
    /// Pulls of these images wait until they are told, each once.
    pub(crate) slow: BTreeMap<String, Arc<Notify>>,
}

impl FakeMachine {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), events: broadcast::channel(64).0, ids: AtomicU32::new(0) })
    }

    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, Machine> {
        self.state.lock().expect("no test panics while it holds the machine")
    }

    pub(crate) fn log(&self, line: String) {
        self.lock().log.push(line);
    }

    fn next(&self) -> u32 {
        self.ids.fetch_add(1, Ordering::SeqCst)
    }

    /// The newest container of that name ends.
    pub(crate) fn end(&self, name: &str, code: i32) {
        let id = {
            let machine = self.lock();
            let own = machine.containers.values().filter(|c| c.name == name);
            own.max_by_key(|c| c.attempt).expect("it was created").id.clone()
        };
        self.exit(&id, code);
    }

    pub(crate) fn exit(&self, id: &ContainerId, code: i32) {
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
        Ok(self.lock().images.iter().map(|reference| image(reference)).collect())
    }

    fn image_records(&self) -> PathBuf {
        self.lock().records.clone()
    }

    async fn pull(&self, reference: &str, _: Option<&RegistryAuth>) -> Result<Image, Error> {
        self.log(format!("pull {reference}"));
        let gate = self.lock().slow.get(reference).cloned();
        if let Some(gate) = gate {
            gate.notified().await;
        }
        if self.lock().broken.iter().any(|b| b == reference) {
            return Err(Error::Pull { reference: reference.to_owned(), why: "not found".to_owned() });
        }
        Ok(image(reference))
    }

    async fn remove_image(&self, id: &ImageId) -> Result<(), Error> {
        self.log(format!("remove image {}", id.0));
        Ok(())
    }

    async fn images_in_use(&self) -> Result<Vec<ImageId>, Error> {
        Ok(Vec::new())
    }

    async fn mount_image(&self, id: &ImageId, target: &Path) -> Result<(), Error> {
        self.log(format!("mount {}", id.0));
        self.lock().shown.insert(target.to_owned(), id.clone());
        Ok(())
    }

    async fn mounted_image(&self, target: &Path) -> Result<Option<ImageId>, Error> {
        Ok(self.lock().shown.get(target).cloned())
    }

    async fn forget_images_below(&self, directory: &Path) -> Result<(), Error> {
        self.lock().shown.retain(|target, _| !target.starts_with(directory));
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
            user: Some(ContainerUser { uid: 7, gid: 8, groups: vec![8, 9] }),
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
        let refused = self.lock().refused;
        if refused.is_some() && refused == resources.memory_limit_bytes {
            return Err(Error::Timeout("more is in use"));
        }
        Ok(())
    }

    async fn update_container(&self, _: &ContainerId, resources: &Resources) -> Result<(), Error> {
        self.log(format!("container {:?} {:?}", resources.cpu_shares, resources.memory_limit_bytes));
        if self.lock().stuck {
            return Err(Error::Timeout("the kernel does not answer"));
        }
        Ok(())
    }

    fn writable_layer(&self, id: &ContainerId) -> PathBuf {
        Path::new("/nonexistent").join(&id.0)
    }

    async fn container_stats(&self, _: &ContainerId) -> Result<Stats, Error> {
        Ok(Stats { memory_working_set_bytes: 20 << 20, ..Stats::default() })
    }

    async fn container(&self, id: &ContainerId) -> Result<Container, Error> {
        self.lock().containers.get(id).cloned().ok_or_else(|| Error::ContainerNotFound(id.0.clone()))
    }

    async fn containers(&self) -> Result<Vec<Container>, Error> {
        let (listed, ends) = {
            let mut machine = self.lock();
            (machine.containers.values().cloned().collect(), machine.ends_once_listed.take())
        };
        if let Some((container, sandbox)) = ends {
            self.exit(&container, 1);
            if let Some(lost) = self.lock().sandboxes.get_mut(&sandbox) {
                lost.state = SandboxState::NotReady;
            }
            drop(self.events.send(RuntimeEvent::SandboxEnded(sandbox)));
        }
        Ok(listed)
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
        if let Some(why) = self.lock().held.pop() {
            return Err(skiff_network::Error::Invalid(why.to_owned()));
        }
        let stopped = self.lock().sandboxes.get(id).is_none_or(|s| s.state == SandboxState::NotReady);
        self.log(if stopped { "detach" } else { "detach what still runs" }.to_owned());
        Ok(())
    }
}
