//! Images, sandboxes and containers, in CRI's vocabulary. Usable and tested without a cluster.
//!
//! Must not know: the Kubernetes API.

pub mod images;
mod identity;
mod plan;
mod protocol;
mod spec;
mod supervisor;
mod types;

pub use supervisor::supervisor_main;

pub use types::*;

/* Contract. `Runtime` is a cheap clonable handle (Arc inside); all async, blocking work on threads of its own.

impl Runtime {
    /// Connects to the running supervisor or starts one (`/proc/self/exe supervisor`), recovers records,
    /// removes leftovers of crashes.
    pub async fn open(options: RuntimeOptions) -> Result<Runtime, Error>;

    // images (module `images`)
    pub async fn pull(&self, reference: &str, auth: Option<&RegistryAuth>) -> Result<Image, Error>;   // concurrent pulls of one reference share
    pub async fn image(&self, reference_or_id: &str) -> Result<Option<Image>, Error>;
    pub async fn images(&self) -> Result<Vec<Image>, Error>;
    pub async fn remove_image(&self, reference_or_id: &str) -> Result<(), Error>;
    pub async fn import(&self, archive: &Path) -> Result<Vec<Image>, Error>;        // docker-archive / oci-archive, plain, gzip, zstd
    pub fn normalize(reference: &str) -> Result<String, Error>;                      // "busybox" -> "docker.io/library/busybox:latest"

    // sandboxes
    pub async fn run_sandbox(&self, config: SandboxConfig) -> Result<Sandbox, Error>;
    pub async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), Error>;           // kills what is left, unmounts namespaces; idempotent
    pub async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), Error>;         // + containers, cgroup, records; idempotent
    pub async fn sandboxes(&self) -> Result<Vec<Sandbox>, Error>;

    // containers
    pub async fn create_container(&self, sandbox: &SandboxId, config: ContainerConfig) -> Result<ContainerId, Error>;
    pub async fn start_container(&self, id: &ContainerId) -> Result<(), Error>;
    pub async fn signal_container(&self, id: &ContainerId, signal: i32) -> Result<(), Error>;
    pub async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), Error>;  // stop signal, wait, SIGKILL
    pub async fn remove_container(&self, id: &ContainerId) -> Result<(), Error>;     // idempotent; log files stay
    pub async fn container(&self, id: &ContainerId) -> Result<Container, Error>;
    pub async fn containers(&self) -> Result<Vec<Container>, Error>;
    pub async fn exec_sync(&self, id: &ContainerId, command: &[String], timeout: Option<Duration>) -> Result<ExecResult, Error>;
    pub async fn exec(&self, id: &ContainerId, command: &[String], tty: bool, stdin: bool) -> Result<ExecStreams, Error>;
    pub async fn exec_wait(&self, exec_id: &str) -> Result<i32, Error>;
    pub async fn resize(&self, exec_or_container: &str, width: u16, height: u16) -> Result<(), Error>;
    pub async fn attach(&self, id: &ContainerId) -> Result<ExecStreams, Error>;
    pub async fn update_resources(&self, id: &ContainerId, resources: &Resources) -> Result<(), Error>;
    pub async fn container_stats(&self, id: &ContainerId) -> Result<Stats, Error>;
    pub fn events(&self) -> tokio::sync::broadcast::Receiver<RuntimeEvent>;

    /// Ends the supervisor and removes everything that the runtime has on the host (mounts, cgroups, /run/skiff).
    pub async fn kill_all(options: &RuntimeOptions) -> Result<(), Error>;
}

/// `skiff supervisor`: never returns while there is work; called from main() before any thread exists.
pub fn supervisor_main(args: &[OsString]) -> ExitCode;
*/
