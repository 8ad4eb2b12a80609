//! What the agent decides and the supervisor's children carry out, as written between them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skiff_linux::capability::{self, CapabilitySet};

use crate::{
    AppArmor, ContainerConfig, Error, GivenDevice, IdRange, ImageConfig, Mount, Resources, SandboxConfig, Seccomp,
    Security,
};

/// The environment's search path where the image gives none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The capabilities of a container that asks for nothing.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The namespaces and files of a pod.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxPlan {
    pub id: String,
    /// `<run>/sandboxes/<id>`; `ns/`, `shm/` and `hostname` are below.
    pub directory: PathBuf,
    pub cgroup: String,
    pub hostname: String,
    pub network: bool,
    pub ipc: bool,
    pub process: bool,
    pub host_pid: bool,
    /// Of its user namespace, to which the others belong.
    #[serde(default)]
    pub ids: Option<IdRange>,
    pub sysctls: BTreeMap<String, String>,
}

impl SandboxPlan {
    pub fn new(id: &str, directory: PathBuf, cgroup: String, config: &SandboxConfig) -> Self {
        Self {
            id: id.to_owned(),
            directory,
            cgroup,
            hostname: config.hostname.clone(),
            network: !config.host_network,
            ipc: !config.host_ipc,
            process: config.share_process_namespace && !config.host_pid,
            host_pid: config.host_pid,
            ids: config.ids,
            sysctls: config.sysctls.clone(),
        }
    }

    /// The host's own name belongs to its network.
    pub fn uts(&self) -> bool {
        self.network
    }

    /// Of process 1 of a shared process namespace. A pod may have two sandboxes for a moment, each with one.
    pub fn init_cgroup(&self) -> String {
        init_cgroup(&self.cgroup, &self.id)
    }

    /// Where earlier versions had it: one for all sandboxes of the pod.
    pub fn earlier_init_cgroup(&self) -> String {
        format!("{}/sandbox", self.cgroup)
    }

    pub fn namespace(&self, name: &str) -> PathBuf {
        self.directory.join("ns").join(name)
    }
}

/// Who a process is and what it may do.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessPlan {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: String,
    /// In its user namespace, as `gid` and `groups` are.
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Of the user namespace, where it has one of its pod's.
    #[serde(default)]
    pub ids: Option<IdRange>,
    pub capabilities: CapabilitySet,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    /// The profile and the label to run under, where the kernel knows such.
    #[serde(default)]
    pub app_armor: Option<String>,
    /// Nobody asked for the profile: where the kernel lets nobody set one, the program runs without.
    #[serde(default)]
    pub app_armor_optional: bool,
    #[serde(default)]
    pub se_linux: Option<String>,
    pub tty: bool,
    pub oom_score_adj: Option<i32>,
}

impl ProcessPlan {
    /// The host's id of its user.
    pub fn host_uid(&self) -> u32 {
        self.ids.map_or(self.uid, |ids| ids.first.saturating_add(self.uid))
    }
}

/// Who runs, before the image's own files are asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserPlan {
    /// `user[:group]` of the image, names or numbers.
    pub image_user: String,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub groups: Vec<u32>,
    /// Without those that the image's files say.
    pub only_given_groups: bool,
}

/// Everything that a creator needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerPlan {
    pub id: String,
    /// `<run>/containers/<id>`: bundle, libcontainer's state.
    pub run_directory: PathBuf,
    /// `<data>/containers/<id>`: the writable layer, the record, the exit.
    pub state_directory: PathBuf,
    /// Topmost first.
    pub lower_directories: Vec<PathBuf>,
    pub cgroup: String,
    pub resources: Resources,
    pub sandbox: SandboxPlan,
    pub process: ProcessPlan,
    pub user: UserPlan,
    pub mounts: Vec<Mount>,
    /// Of the images that are mounted as such; topmost first.
    #[serde(default)]
    pub image_layers: BTreeMap<String, Vec<PathBuf>>,
    /// The container whose process namespace it joins.
    #[serde(default)]
    pub target: Option<String>,
    pub devices: Vec<GivenDevice>,
    /// Directories that must exist in the root file system.
    pub volumes: Vec<String>,
    pub privileged: bool,
    pub read_only_root: bool,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    /// The SELinux label of its files.
    #[serde(default)]
    pub file_label: Option<String>,
    pub stdin: bool,
    pub stdin_once: bool,
    pub log_path: PathBuf,
}

/// Below a container's state directory: what it writes into its own files.
pub const WRITABLE: &str = "upper";

impl ContainerPlan {
    pub fn rootfs(&self) -> PathBuf {
        self.run_directory.join("rootfs")
    }

    pub fn exit_file(&self) -> PathBuf {
        self.state_directory.join("exit.json")
    }
}

fn failed(why: String) -> Error {
    Error::Failed { operation: "create container", why }
}

/// The part of the decision that needs neither the host nor the image's files.
pub fn plan_process(
    config: &ContainerConfig,
    image: &ImageConfig,
    sandbox: &SandboxPlan,
) -> Result<ProcessPlan, Error> {
    let args = plan_args(config, image);
    if args.is_empty() {
        return Err(failed("no command specified".to_owned()));
    }
    let working_dir = [config.working_dir.as_deref().unwrap_or(""), &image.working_dir, "/"];
    let security = &config.security;
    Ok(ProcessPlan {
        args,
        env: plan_env(config, image, &sandbox.hostname),
        ids: sandbox.ids,
        working_dir: working_dir.into_iter().find(|path| !path.is_empty()).unwrap_or("/").to_owned(),
        capabilities: plan_capabilities(security)?,
        no_new_privileges: security.no_new_privileges,
        seccomp: if security.privileged { Seccomp::Unconfined } else { security.seccomp.clone() },
        tty: config.tty,
        oom_score_adj: config.resources.oom_score_adj,
        ..ProcessPlan::default()
    })
}

/// A command of the pod hides both of the image's; arguments alone hide only the image's arguments.
fn plan_args(config: &ContainerConfig, image: &ImageConfig) -> Vec<String> {
    let (command, args) = match (&config.command, &config.args) {
        (Some(command), args) if !command.is_empty() => (command.clone(), args.clone().unwrap_or_default()),
        (_, Some(args)) if !args.is_empty() => (image.entrypoint.clone(), args.clone()),
        _ => (image.entrypoint.clone(), image.cmd.clone()),
    };
    command.into_iter().chain(args).collect()
}

fn plan_env(config: &ContainerConfig, image: &ImageConfig, hostname: &str) -> Vec<String> {
    let mut env: Vec<(String, String)> =
        vec![("PATH".into(), DEFAULT_PATH.into()), ("HOSTNAME".into(), hostname.into())];
    if config.tty {
        env.push(("TERM".into(), "xterm".into()));
    }
    let from_image = image.env.iter().filter_map(|pair| pair.split_once('='));
    let from_image = from_image.map(|(name, value)| (name.to_owned(), value.to_owned()));
    for (name, value) in from_image.chain(config.env.iter().cloned()) {
        match env.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => env.push((name, value)),
        }
    }
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn plan_capabilities(security: &Security) -> Result<CapabilitySet, Error> {
    if security.privileged {
        return Ok(CapabilitySet::ALL);
    }
    let number = |name: &str| capability::number(name).ok_or_else(|| failed(format!("unknown capability {name:?}")));
    let all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let mut set = CapabilitySet::EMPTY;
    if all(&security.add_capabilities) {
        set = CapabilitySet::ALL;
    } else if !all(&security.drop_capabilities) {
        for name in DEFAULT_CAPABILITIES {
            set = set.with(number(name)?);
        }
    }
    for name in security.add_capabilities.iter().filter(|name| !name.eq_ignore_ascii_case("ALL")) {
        set = set.with(number(name)?);
    }
    for name in security.drop_capabilities.iter().filter(|name| !name.eq_ignore_ascii_case("ALL")) {
        set = set.without(number(name)?);
    }
    Ok(set)
}

pub fn plan_user(security: &Security, image: &ImageConfig) -> Result<UserPlan, Error> {
    let id = |value: i64| u32::try_from(value).map_err(|_| failed(format!("{value} is no user or group id")));
    Ok(UserPlan {
        image_user: image.user.clone(),
        uid: security.run_as_user.map(id).transpose()?,
        gid: security.run_as_group.map(id).transpose()?,
        groups: security.supplemental_groups.iter().copied().map(id).collect::<Result<_, _>>()?,
        only_given_groups: security.only_given_groups,
    })
}

/// Profiles for containers that a host may have loaded; policies are compiled by AppArmor's own tools.
const APP_ARMOR_DEFAULTS: [&str; 3] = ["skiff-default", "cri-containerd.apparmor.d", "docker-default"];

/// Whether a profile was asked for, so that none is no choice.
pub fn asks_for_app_armor(security: &Security) -> bool {
    matches!(security.app_armor, AppArmor::RuntimeDefault | AppArmor::Localhost(_))
}

/// The AppArmor profile; `loaded`: what the kernel has, `None` where AppArmor is not in force.
pub fn plan_app_armor(security: &Security, loaded: Option<&[String]>) -> Result<Option<String>, Error> {
    let default = |loaded: &[String]| {
        let found = APP_ARMOR_DEFAULTS.iter().find(|name| loaded.iter().any(|profile| profile == *name));
        found.map(|name| (*name).to_owned())
    };
    match (&security.app_armor, loaded) {
        (AppArmor::Unset | AppArmor::Unconfined, None) | (AppArmor::Unconfined, Some(_)) => Ok(None),
        (_, None) => Err(failed("AppArmor is not enabled on the host".to_owned())),
        (AppArmor::Unset, Some(_)) if security.privileged => Ok(None),
        (AppArmor::Unset, Some(loaded)) => Ok(default(loaded)),
        (AppArmor::RuntimeDefault, Some(loaded)) => match default(loaded) {
            Some(profile) => Ok(Some(profile)),
            None => Err(failed(format!(
                "none of the AppArmor profiles for containers is loaded ({})",
                APP_ARMOR_DEFAULTS.join(", ")
            ))),
        },
        (AppArmor::Localhost(name), Some(loaded)) if loaded.contains(name) => Ok(Some(name.clone())),
        (AppArmor::Localhost(name), Some(_)) => Err(failed(format!("the AppArmor profile {name:?} is not loaded"))),
    }
}

/// SELinux labels of the process and of its files, where SELinux is in force.
pub fn plan_se_linux(security: &Security, in_force: bool) -> Option<(String, String)> {
    let options = security.se_linux.as_ref().filter(|_| in_force)?;
    let part = |given: &str, usual: &str| if given.is_empty() { usual.to_owned() } else { given.to_owned() };
    let (user, level) = (part(&options.user, "system_u"), part(&options.level, "s0"));
    let (role, kind) = (part(&options.role, "system_r"), part(&options.kind, "container_t"));
    Some((format!("{user}:{role}:{kind}:{level}"), format!("{user}:object_r:container_file_t:{level}")))
}

/// What is hidden and what is read-only in `/proc` and `/sys`: (masked, read-only).
pub fn plan_paths(security: &Security) -> (Vec<String>, Vec<String>) {
    if security.privileged {
        return (Vec::new(), Vec::new());
    }
    let or_default = |given: &Option<Vec<String>>, default: &[&str]| {
        given.clone().unwrap_or_else(|| default.iter().map(|path| (*path).to_owned()).collect())
    };
    let mut masked = or_default(&security.masked_paths, &MASKED_PATHS);
    if security.masked_paths.is_none() {
        masked.extend(thermal_throttles(Path::new("/sys/devices/system/cpu")));
    }
    (masked, or_default(&security.readonly_paths, &READONLY_PATHS))
}

/// How often each CPU was too hot tells what others do on it.
fn thermal_throttles(cpus: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(cpus).into_iter().flatten().flatten();
    let is_cpu = |name: &str| {
        name.strip_prefix("cpu").is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    };
    let mut found: Vec<String> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_cpu))
        .map(|entry| entry.path().join("thermal_throttle"))
        .filter(|path| path.is_dir())
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    found.sort();
    found
}

const INIT_CGROUP: &str = "sandbox-";

fn init_cgroup(pod: &str, sandbox: &str) -> String {
    format!("{pod}/{INIT_CGROUP}{sandbox}")
}

/// The sandbox that a group below a pod's is of; the name alone counts.
pub fn sandbox_of_cgroup(name: &str) -> Option<&str> {
    name.strip_prefix(INIT_CGROUP)
}

/// `root` and `path` as one path of a cgroup.
pub fn cgroup_path(root: &str, path: &str) -> String {
    let joined = Path::new("/").join(root.trim_matches('/')).join(path.trim_matches('/'));
    joined.to_string_lossy().trim_end_matches('/').to_owned()
}

/// Limits of what has groups of containers in it: a pod, or all pods.
pub fn pod_limits(resources: &Resources) -> skiff_linux::cgroup::Limits {
    skiff_linux::cgroup::Limits { holds_groups: true, ..limits(resources) }
}

/// Limits as the kernel knows them.
pub fn limits(resources: &Resources) -> skiff_linux::cgroup::Limits {
    skiff_linux::cgroup::Limits {
        cpu_shares: resources.cpu_shares,
        holds_groups: false,
        cpu_quota_us: resources.cpu_quota_us,
        cpu_period_us: resources.cpu_period_us,
        memory_bytes: resources.memory_limit_bytes.filter(|bytes| *bytes != 0),
        pids: resources.pids_limit.filter(|pids| *pids != 0),
        cpus: resources.cpus.clone(),
        huge_pages: resources.huge_pages.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    pub(crate) fn config() -> ContainerConfig {
        ContainerConfig {
            name: "main".into(),
            attempt: 0,
            image: crate::ImageId("sha256:0".into()),
            command: None,
            args: None,
            working_dir: None,
            env: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            resources: Resources::default(),
            security: Security::default(),
            tty: false,
            stdin: false,
            stdin_once: false,
            stop_signal: None,
            log_path: "main/0.log".into(),
            target: None,
            images: Vec::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn command_and_args_as_kubernetes_documents_them() {
        let image =
            ImageConfig { entrypoint: strings(&["/ep"]), cmd: strings(&["foo", "bar"]), ..ImageConfig::default() };
        for (command, args, expect) in [
            (None, None, vec!["/ep", "foo", "bar"]),
            (Some(vec!["/ep2"]), None, vec!["/ep2"]),
            (None, Some(vec!["zoo"]), vec!["/ep", "zoo"]),
            (Some(vec!["/ep2"]), Some(vec!["zoo"]), vec!["/ep2", "zoo"]),
        ] {
            let config =
                ContainerConfig { command: command.map(|c| strings(&c)), args: args.map(|a| strings(&a)), ..config() };
            assert_eq!(plan_args(&config, &image), expect);
        }
    }

    #[test]
    fn the_pod_wins_over_the_image() {
        let image = ImageConfig { env: strings(&["PATH=/image", "A=1", "B=2"]), ..ImageConfig::default() };
        let config = ContainerConfig { env: vec![("B".into(), "3".into()), ("C".into(), "4=5".into())], ..config() };
        assert_eq!(plan_env(&config, &image, "host"), ["PATH=/image", "HOSTNAME=host", "A=1", "B=3", "C=4=5"]);
    }

    #[test]
    fn capabilities() {
        let set = |add: &[&str], drop: &[&str]| {
            let security =
                Security { add_capabilities: strings(add), drop_capabilities: strings(drop), ..Security::default() };
            plan_capabilities(&security)
        };
        let default = set(&[], &[]).expect("default");
        assert!(default.has("CHOWN") && !default.has("SYS_ADMIN"));
        assert!(set(&["NET_ADMIN"], &[]).expect("added").has("NET_ADMIN"));
        assert!(!set(&[], &["CHOWN"]).expect("dropped").has("CHOWN"));
        let one = set(&["NET_BIND_SERVICE"], &["ALL"]).expect("one");
        assert_eq!(one, CapabilitySet::EMPTY.with(10));
        assert!(!set(&["all"], &["SYS_ADMIN"]).expect("all but one").has("SYS_ADMIN"));
        assert!(set(&["NONSENSE"], &[]).is_err());
    }

    #[test]
    fn app_armor_profiles() {
        let loaded = strings(&["docker-default", "cri-containerd.apparmor.d", "mine"]);
        let other = strings(&["mine"]);
        let local = |name: &str| AppArmor::Localhost(name.to_owned());
        for (app_armor, privileged, loaded, expect) in [
            (AppArmor::Unset, false, None, Ok(None)),
            (AppArmor::Unset, false, Some(&loaded), Ok(Some("cri-containerd.apparmor.d"))),
            (AppArmor::Unset, true, Some(&loaded), Ok(None)),
            (AppArmor::Unset, false, Some(&other), Ok(None)),
            (AppArmor::Unconfined, false, Some(&loaded), Ok(None)),
            (AppArmor::RuntimeDefault, false, Some(&loaded), Ok(Some("cri-containerd.apparmor.d"))),
            (
                AppArmor::RuntimeDefault,
                false,
                Some(&other),
                Err("none of the AppArmor profiles for containers is loaded"),
            ),
            (AppArmor::RuntimeDefault, false, None, Err("AppArmor is not enabled on the host")),
            (local("mine"), false, Some(&other), Ok(Some("mine"))),
            (local("theirs"), false, Some(&other), Err("the AppArmor profile \"theirs\" is not loaded")),
            (local("mine"), false, None, Err("AppArmor is not enabled on the host")),
        ] {
            let security = Security { app_armor: app_armor.clone(), privileged, ..Security::default() };
            match (plan_app_armor(&security, loaded.map(Vec::as_slice)), expect) {
                (Ok(found), Ok(expect)) => assert_eq!(found.as_deref(), expect, "{app_armor:?}"),
                (Err(error), Err(expect)) => assert!(error.to_string().contains(expect), "{error}"),
                (found, expect) => panic!("{app_armor:?}: {found:?}, not {expect:?}"),
            }
        }
    }

    #[test]
    fn se_linux_labels() {
        let options = crate::SeLinux { level: "s0:c1,c2".into(), ..crate::SeLinux::default() };
        let security = Security { se_linux: Some(options), ..Security::default() };
        assert_eq!(plan_se_linux(&security, false), None);
        assert_eq!(plan_se_linux(&Security::default(), true), None);
        let labels = plan_se_linux(&security, true).expect("labels");
        assert_eq!(labels.0, "system_u:system_r:container_t:s0:c1,c2");
        assert_eq!(labels.1, "system_u:object_r:container_file_t:s0:c1,c2");
    }

    #[test]
    fn thermal_counters_of_every_cpu() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["cpu0/thermal_throttle", "cpu12/thermal_throttle", "cpu3", "cpufreq/thermal_throttle"] {
            std::fs::create_dir_all(directory.path().join(name)).expect("a directory");
        }
        let found = thermal_throttles(directory.path());
        let expect = ["cpu0", "cpu12"].map(|cpu| directory.path().join(cpu).join("thermal_throttle"));
        assert_eq!(found, expect.map(|path| path.to_string_lossy().into_owned()));
        assert!(thermal_throttles(&directory.path().join("none")).is_empty());
    }

    #[test]
    fn cgroup_paths() {
        for (root, path, expect) in
            [("/", "/kubepods/pod1", "/kubepods/pod1"), ("/test", "kubepods/", "/test/kubepods")]
        {
            assert_eq!(cgroup_path(root, path), expect);
        }
    }
}
