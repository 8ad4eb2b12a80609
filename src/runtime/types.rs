//! CRI's vocabulary: what is asked of the runtime, and what it tells.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SandboxId(pub String);

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerId(pub String);

/// The digest of an image's configuration, `sha256:...`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImageId(pub String);

/// The host's ids that are those from 0 on in a pod's user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    pub first: u32,
    pub length: u32,
}

/// A pod's shared namespaces (net, ipc, uts, user), its cgroup parent and its log directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxConfig {
    pub pod_name: String,
    pub pod_namespace: String,
    pub pod_uid: String,
    pub attempt: u32,
    pub hostname: String,
    /// Below the cgroup root, e.g. `/kubepods/burstable/pod<uid>`; made by `run_sandbox`.
    pub cgroup_parent: String,
    /// Limits of the pod's own cgroup.
    pub resources: Resources,
    /// `/var/log/pods/<namespace>_<name>_<uid>`.
    pub log_directory: PathBuf,
    pub host_network: bool,
    pub host_ipc: bool,
    pub host_pid: bool,
    pub share_process_namespace: bool,
    /// With it, the pod has a user namespace, to which all its other ones belong.
    #[serde(default)]
    pub ids: Option<IdRange>,
    pub sysctls: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Resources {
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU per `cpu_period_us`.
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub memory_limit_bytes: Option<i64>,
    pub pids_limit: Option<i64>,
    pub oom_score_adj: Option<i32>,
    /// The CPUs that it runs on, as `0-3,8`.
    #[serde(default)]
    pub cpus: Option<String>,
    /// Bytes by the size of their pages; with it, pages of other sizes are not given at all.
    #[serde(default)]
    pub huge_pages: Option<BTreeMap<u64, i64>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    pub read_only: bool,
    pub propagation: Propagation,
    /// With SELinux: it gets the label of the container's files.
    #[serde(default)]
    pub relabel: bool,
    /// With `read_only`: what is mounted below it is read-only, too.
    #[serde(default)]
    pub recursive: bool,
    /// The image in which `host_path` is, in place of the host. Only in a user namespace, whose ids what shows several
    /// layers as one can't be given.
    #[serde(default)]
    pub image: Option<ImageId>,
}

/// A device of the host, or a directory with all devices below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum GivenDevice {
    /// At the same path.
    Same(PathBuf),
    /// At another path.
    At { host: PathBuf, container: PathBuf, read_only: bool },
}

impl From<&str> for GivenDevice {
    fn from(path: &str) -> Self {
        Self::Same(path.into())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Security {
    /// Numeric, or a name that is looked up in the image's /etc/passwd; default: the image's user.
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub supplemental_groups: Vec<i64>,
    /// Whether the user is in no other groups, whatever the image's /etc/group says.
    #[serde(default)]
    pub only_given_groups: bool,
    pub privileged: bool,
    pub read_only_root: bool,
    pub no_new_privileges: bool,
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub seccomp: Seccomp,
    #[serde(default)]
    pub app_armor: AppArmor,
    /// Has an effect where SELinux is in force; an empty part is the usual one.
    #[serde(default)]
    pub se_linux: Option<SeLinux>,
    /// `None`: the runtime's default list.
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Seccomp {
    #[default]
    Unconfined,
    RuntimeDefault,
    Localhost(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum AppArmor {
    /// The runtime's default where there is one, nothing for a privileged container.
    #[default]
    Unset,
    Unconfined,
    RuntimeDefault,
    /// A profile that is loaded already.
    Localhost(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SeLinux {
    pub user: String,
    pub role: String,
    pub kind: String,
    pub level: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerConfig {
    pub name: String,
    pub attempt: u32,
    pub image: ImageId,
    /// Replaces the image's entry point.
    pub command: Option<Vec<String>>,
    /// Replaces the image's arguments.
    pub args: Option<Vec<String>>,
    pub working_dir: Option<String>,
    /// Added to the image's environment; a later one of the same name wins.
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    /// Host devices to give.
    pub devices: Vec<GivenDevice>,
    pub resources: Resources,
    pub security: Security,
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    /// `SIGUSR1`; default: the image's, else SIGTERM.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// Relative to the sandbox's log directory: `<container>/<attempt>.log`.
    pub log_path: PathBuf,
    /// A running container whose process namespace it joins, in place of one of its own.
    #[serde(default)]
    pub target: Option<ContainerId>,
    /// Images besides its own that it needs: they are mounted in it.
    #[serde(default)]
    pub images: Vec<ImageId>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

impl ContainerConfig {
    /// The images that must stay while it is there.
    pub fn needs(&self) -> Vec<ImageId> {
        std::iter::once(&self.image).chain(&self.images).cloned().collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxState {
    Ready,
    NotReady,
}

#[derive(Debug, Clone)]
pub struct Sandbox {
    pub id: SandboxId,
    pub state: SandboxState,
    pub pod_name: String,
    pub pod_namespace: String,
    pub pod_uid: String,
    pub attempt: u32,
    pub created: Timestamp,
    /// Bind-mounted network namespace; `None` with host networking.
    pub netns: Option<PathBuf>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    Running {
        started: Timestamp,
    },
    Exited(Exit),
    /// Its record is there but the supervisor knows nothing of it (a crash during creation, a reboot).
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub started: Option<Timestamp>,
    pub finished: Timestamp,
    /// 128 + signal where a signal ended it.
    pub code: i32,
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun`, `StartError`.
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone)]
pub struct Container {
    pub id: ContainerId,
    pub sandbox: SandboxId,
    pub name: String,
    pub attempt: u32,
    pub image: ImageId,
    /// The reference that the container was created from.
    pub image_ref: String,
    pub state: ContainerState,
    pub created: Timestamp,
    pub pid: Option<i32>,
    /// Absolute.
    pub log_path: PathBuf,
    /// As whom its first process was started, as far as that is known.
    pub user: Option<ContainerUser>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// Ids as they are in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUser {
    pub uid: u32,
    pub gid: u32,
    /// With `gid`, sorted.
    pub groups: Vec<u32>,
}

#[derive(Debug, Clone)]
pub enum RuntimeEvent {
    ContainerStarted(ContainerId),
    ContainerExited(ContainerId, Exit),
    /// It is not ready any more, though nobody has stopped it: process 1 of its shared process namespace has ended.
    SandboxEnded(SandboxId),
    /// Events may have been missed: list again.
    Resync,
}

#[derive(Debug, Clone)]
pub struct Image {
    pub id: ImageId,
    /// `docker.io/library/busybox:1.36`.
    pub tags: Vec<String>,
    /// `docker.io/library/busybox@sha256:...`.
    pub digests: Vec<String>,
    pub size_bytes: u64,
    pub pinned: bool,
    /// The user of the image's configuration, as written there.
    pub user: String,
    pub config: ImageConfig,
}

/// What a container takes from its image.
#[derive(Debug, Clone, Default)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: String,
    pub user: String,
    pub stop_signal: Option<String>,
    pub volumes: Vec<String>,
}

#[derive(Debug, Clone, Default)]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
    /// An identity token in place of the password.
    pub identity_token: String,
}

/// What `exec_sync` gives back; each stream is cut at 16 MiB.
#[derive(Debug, Clone)]
pub struct ExecResult {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

/// Our ends of an exec'd process.
#[derive(Debug)]
pub struct ExecStreams {
    pub id: String,
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    /// With a tty: the only stream.
    pub tty: Option<OwnedFd>,
}

#[derive(Debug, Clone, Default)]
pub struct Stats {
    pub cpu_usage_ns: u64,
    pub memory_working_set_bytes: u64,
    pub memory_usage_bytes: u64,
    pub memory_rss_bytes: u64,
    pub memory_cache_bytes: u64,
    pub pids: u64,
    /// Periods in which it could run, in which its quota was used up, and how long it waited then.
    pub cpu_periods: u64,
    pub cpu_throttled_periods: u64,
    pub cpu_throttled_ns: u64,
    pub oom_kills: u64,
}

#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// `/var/lib/skiff/agent`.
    pub data_directory: PathBuf,
    /// `/run/skiff`.
    pub run_directory: PathBuf,
    /// Where our hierarchy begins, default `/`.
    pub cgroup_root: String,
    pub registries_file: Option<PathBuf>,
    /// How long `stop_container` waits between SIGKILL and giving up.
    pub kill_timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("image {0} not found")]
    ImageNotFound(String),
    #[error("container {0} not found")]
    ContainerNotFound(String),
    #[error("sandbox {0} not found")]
    SandboxNotFound(String),
    /// The reference does not parse: kubelet's `InvalidImageName`.
    #[error("couldn't parse image reference {reference:?}: {why}")]
    InvalidReference { reference: String, why: String },
    /// What the registry said, or why it could not be asked: kubelet's `ErrImagePull`.
    #[error("failed to pull image {reference:?}: {why}")]
    Pull { reference: String, why: String },
    #[error("{operation}: {why}")]
    Failed { operation: &'static str, why: String },
    #[error("{operation}")]
    Io {
        operation: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("the supervisor can't be reached")]
    Supervisor(#[source] std::io::Error),
    #[error("timed out: {0}")]
    Timeout(&'static str),
}
