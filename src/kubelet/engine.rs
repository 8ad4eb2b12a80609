//! What the agent asks of the machine: a seam between decisions about pods and the runtime and network that carry
//! them out, so that the life of a pod is tested without either.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use skiff_network::{HostPort, Network};
use skiff_runtime::{
    Container, ContainerConfig, ContainerId, Error, ExecResult, Image, ImageId, RegistryAuth, Resources, Runtime,
    RuntimeEvent, Sandbox, SandboxConfig, SandboxId, Stats,
};
use tokio::sync::broadcast;

#[async_trait]
pub(crate) trait Engine: Send + Sync + 'static {
    fn normalize(&self, reference: &str) -> Result<String, Error>;
    async fn image(&self, reference: &str) -> Result<Option<Image>, Error>;
    async fn images(&self) -> Result<Vec<Image>, Error>;
    /// The directory that changes whenever there are other images, whoever has brought or removed them.
    fn image_records(&self) -> PathBuf;
    async fn pull(&self, reference: &str, auth: Option<&RegistryAuth>) -> Result<Image, Error>;
    /// Fails where it is in use.
    async fn remove_image(&self, id: &ImageId) -> Result<(), Error>;
    /// Those that containers or volumes need.
    async fn images_in_use(&self) -> Result<Vec<ImageId>, Error>;
    async fn mount_image(&self, id: &ImageId, target: &Path) -> Result<(), Error>;
    async fn mounted_image(&self, target: &Path) -> Result<Option<ImageId>, Error>;

    async fn forget_images_below(&self, directory: &Path) -> Result<(), Error>;

    async fn run_sandbox(&self, config: SandboxConfig) -> Result<Sandbox, Error>;
    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), Error>;
    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), Error>;
    async fn sandboxes(&self) -> Result<Vec<Sandbox>, Error>;

    async fn create_container(&self, sandbox: &SandboxId, config: ContainerConfig) -> Result<ContainerId, Error>;
    async fn start_container(&self, id: &ContainerId) -> Result<(), Error>;
    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), Error>;
    async fn remove_container(&self, id: &ContainerId) -> Result<(), Error>;
    async fn update_sandbox(&self, id: &SandboxId, resources: &Resources) -> Result<(), Error>;
    async fn update_container(&self, id: &ContainerId, resources: &Resources) -> Result<(), Error>;
    async fn container_stats(&self, id: &ContainerId) -> Result<Stats, Error>;
    /// The directory of what a container writes into its own files.
    fn writable_layer(&self, id: &ContainerId) -> PathBuf;
    async fn container(&self, id: &ContainerId) -> Result<Container, Error>;
    async fn containers(&self) -> Result<Vec<Container>, Error>;
    async fn exec_sync(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecResult, Error>;
    fn events(&self) -> broadcast::Receiver<RuntimeEvent>;

    async fn attach_network(
        &self,
        sandbox: &SandboxId,
        netns: &Path,
        host_ports: &[HostPort],
    ) -> Result<Vec<IpAddr>, skiff_network::Error>;
    async fn detach_network(&self, sandbox: &SandboxId) -> Result<(), skiff_network::Error>;
}

/// The real one.
pub(crate) struct Machine {
    pub(crate) runtime: Runtime,
    pub(crate) network: Network,
}

#[async_trait]
impl Engine for Machine {
    fn normalize(&self, reference: &str) -> Result<String, Error> {
        Runtime::normalize(reference)
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>, Error> {
        self.runtime.image(reference).await
    }

    async fn images(&self) -> Result<Vec<Image>, Error> {
        self.runtime.images().await
    }

    async fn pull(&self, reference: &str, auth: Option<&RegistryAuth>) -> Result<Image, Error> {
        self.runtime.pull(reference, auth).await
    }

    async fn remove_image(&self, id: &ImageId) -> Result<(), Error> {
        self.runtime.remove_image(&id.0).await
    }

    async fn images_in_use(&self) -> Result<Vec<ImageId>, Error> {
        self.runtime.images_in_use().await
    }

    async fn mount_image(&self, id: &ImageId, target: &Path) -> Result<(), Error> {
        self.runtime.mount_image(id, target).await
    }

    async fn mounted_image(&self, target: &Path) -> Result<Option<ImageId>, Error> {
        self.runtime.mounted_image(target).await
    }

    async fn forget_images_below(&self, directory: &Path) -> Result<(), Error> {
        self.runtime.forget_images_below(directory).await
    }

    async fn run_sandbox(&self, config: SandboxConfig) -> Result<Sandbox, Error> {
        self.runtime.run_sandbox(config).await
    }

    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), Error> {
        self.runtime.stop_sandbox(id).await
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), Error> {
        self.runtime.remove_sandbox(id).await
    }

    async fn sandboxes(&self) -> Result<Vec<Sandbox>, Error> {
        self.runtime.sandboxes().await
    }

    async fn create_container(&self, sandbox: &SandboxId, config: ContainerConfig) -> Result<ContainerId, Error> {
        self.runtime.create_container(sandbox, config).await
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), Error> {
        self.runtime.start_container(id).await
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), Error> {
        self.runtime.stop_container(id, grace).await
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<(), Error> {
        self.runtime.remove_container(id).await
    }

    async fn update_sandbox(&self, id: &SandboxId, resources: &Resources) -> Result<(), Error> {
        self.runtime.update_sandbox(id, resources).await
    }

    async fn update_container(&self, id: &ContainerId, resources: &Resources) -> Result<(), Error> {
        self.runtime.update_resources(id, resources).await
    }

    fn image_records(&self) -> PathBuf {
        self.runtime.image_records()
    }

    fn writable_layer(&self, id: &ContainerId) -> PathBuf {
        self.runtime.writable_layer(id)
    }

    async fn container_stats(&self, id: &ContainerId) -> Result<Stats, Error> {
        self.runtime.container_stats(id).await
    }

    async fn container(&self, id: &ContainerId) -> Result<Container, Error> {
        self.runtime.container(id).await
    }

    async fn containers(&self) -> Result<Vec<Container>, Error> {
        self.runtime.containers().await
    }

    async fn exec_sync(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecResult, Error> {
        self.runtime.exec_sync(id, command, timeout).await
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.runtime.events()
    }

    async fn attach_network(
        &self,
        sandbox: &SandboxId,
        netns: &Path,
        host_ports: &[HostPort],
    ) -> Result<Vec<IpAddr>, skiff_network::Error> {
        self.network.attach(&sandbox.0, netns, host_ports).await
    }

    async fn detach_network(&self, sandbox: &SandboxId) -> Result<(), skiff_network::Error> {
        self.network.detach(&sandbox.0).await
    }
}
