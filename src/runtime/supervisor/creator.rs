//! Creating a container, in a short-lived child of the supervisor: libcontainer changes its caller's state.
//!
//! The overlay is mounted in a mount namespace of the child's own, so it lives exactly as long as the container, and
//! the host's table of mounts never grows with it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::sched::CloneFlags;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use skiff_linux::cgroup::Cgroups;
use skiff_linux::seccomp::Filter;
use skiff_linux::{mount, process, security_module, socket};

use super::child;
use super::copy::copy_layers;
use super::entry::Entry;
use super::stage;
use crate::identity::{Identity, identity};
use crate::plan::{ContainerPlan, ProcessPlan, limits};
use crate::spec;

/// What a short-lived child answers; a terminal's master comes with it as a descriptor.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub pid: Option<i32>,
    pub error: Option<String>,
    pub warnings: Vec<String>,
    /// The user of the process, who was looked up in the image.
    pub identity: Option<Identity>,
}

/// The container's ends.
pub struct Stdio {
    pub stdin: OwnedFd,
    /// Not with a terminal.
    pub output: Option<(OwnedFd, OwnedFd)>,
}

fn at<T>(what: &'static str, result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

/// Runs in the child; answers on `result`, returns the exit code.
pub fn create(
    plan: &ContainerPlan,
    cgroups: &Cgroups,
    filter: Option<Filter>,
    stdio: Stdio,
    status: OwnedFd,
    joined: Option<BorrowedFd<'_>>,
    result: BorrowedFd<'_>,
) -> i32 {
    let mut outcome = Outcome::default();
    let terminal = match try_create(plan, cgroups, filter, stdio, status, joined, &mut outcome) {
        Ok(terminal) => terminal,
        Err(error) => {
            outcome.error = Some(error);
            None
        }
    };
    answer(result, &outcome, terminal.as_ref())
}

/// Sends an outcome.
pub fn answer(result: BorrowedFd<'_>, outcome: &Outcome, fd: Option<&OwnedFd>) -> i32 {
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().map(OwnedFd::as_fd).collect();
    let message = serde_json::to_vec(outcome).unwrap_or_default();
    let sent = socket::send(result, &message, &fds).or_else(|error| {
        // The image's own words may be longer than a message.
        let error = Some(format!("tell the supervisor of it: {error}"));
        let short = Outcome { pid: outcome.pid, error, ..Outcome::default() };
        socket::send(result, &serde_json::to_vec(&short).unwrap_or_default(), &[])
    });
    i32::from(sent.is_err())
}

fn try_create(
    plan: &ContainerPlan,
    cgroups: &Cgroups,
    filter: Option<Filter>,
    stdio: Stdio,
    status: OwnedFd,
    joined: Option<BorrowedFd<'_>>,
    outcome: &mut Outcome,
) -> Result<Option<OwnedFd>, String> {
    let errors = super::capture::install();
    set_oom_score(plan.process.oom_score_adj, &mut outcome.warnings);
    // The group has its limits before anything runs in it.
    at("create cgroup", cgroups.ensure(&plan.cgroup))?;
    for controller in at("set limits", cgroups.limit(&plan.cgroup, &limits(&plan.resources)))? {
        outcome
            .warnings
            .push(format!("the cgroup controller {controller:?} is not available: its limit has no effect"));
    }
    let devices = at("devices", spec::host_devices(&plan.devices))?;
    let rules = spec::plan_device_rules(&devices, plan.privileged);
    at("limit devices", cgroups.limit_devices(&plan.cgroup, &rules))?;

    let joining = at("join cgroup", join_beside(plan, cgroups))?;
    if let Some(label) = &plan.file_label {
        for mount in plan.mounts.iter().filter(|mount| mount.relabel) {
            at("label a volume", security_module::relabel(&mount.host_path, label))?;
        }
    }
    at("mount namespace", nix::sched::unshare(CloneFlags::CLONE_NEWNS).map_err(io::Error::from))?;
    let pod_namespaces = at("open namespaces", open_namespaces(plan))?;
    let (binds, user) = (spec::plan_binds(plan), pod_namespaces.get("user"));
    let mut made = spec::Made { root: plan.rootfs(), binds, devices, namespaces: BTreeMap::new() };
    let mut layers = plan.lower_directories.clone();
    if let Some(user) = user {
        let (binds, devices) = (std::mem::take(&mut made.binds), std::mem::take(&mut made.devices));
        let stage = at("mount", stage::stage(plan, binds, devices, user.as_fd()))?;
        made.root = stage.root();
        (made.binds, layers) = (stage.binds, stage.layers);
    }
    at("mount root file system", mount_root(plan, &layers, &made.root, &mut outcome.warnings))?;
    let root = OwnedFd::from(at("open root file system", std::fs::File::open(&made.root))?);
    let identity = identity(&plan.user, root.as_fd())?;
    let mut process = plan.process.clone();
    identity.apply(&mut process);
    at("map ids", check_ids(&process))?;
    make_directories(plan, root.as_fd())?;
    for mount in &plan.mounts {
        check_target(root.as_fd(), &mount.host_path, &mount.container_path)?;
    }
    drop(root);
    raise_limits(&mut outcome.warnings);

    let views = at("view of cgroups", cgroup_views(plan, cgroups))?;
    at("join cgroup", finish_joining(joining))?;
    // By descriptors, which libcontainer's processes inherit: it takes paths, and root of a user namespace may not go
    // where these are.
    let namespaces = pod_namespaces.iter().map(|(name, fd)| (*name, fd.as_fd())).chain(joined.map(|fd| ("pid", fd)));
    made.namespaces = namespaces.map(|(name, fd)| (name, format!("/proc/self/fd/{}", fd.as_raw_fd()).into())).collect();
    let config = spec::plan_spec(plan, &process, &made, cgroups);
    let config = serde_json::to_vec(&config).map_err(|error| error.to_string())?;
    at("write config.json", std::fs::write(plan.run_directory.join("config.json"), config))?;

    let entry = Entry {
        process: process.clone(),
        filter,
        propagation: plan.mounts.iter().map(|mount| (mount.container_path.clone(), mount.propagation)).collect(),
        read_only: plan
            .mounts
            .iter()
            .filter(|mount| mount.read_only && mount.recursive)
            .map(|mount| mount.container_path.clone())
            .collect(),
        proc_points: proc_points(plan),
        cgroups: views.iter().map(|(name, fd)| (name.clone(), fd.as_raw_fd())).collect(),
        status_fd: status.as_raw_fd(),
    };
    let (pid, terminal) = run_libcontainer(plan, entry, stdio).map_err(|error| errors.explain(&error))?;
    outcome.pid = Some(pid);
    outcome.identity = Some(identity);
    // Its copy in the container is the one that counts.
    drop(status);
    Ok(terminal)
}

fn open_namespaces(plan: &ContainerPlan) -> io::Result<BTreeMap<&'static str, OwnedFd>> {
    let open = |name| Ok((name, std::fs::File::open(plan.sandbox.namespace(name))?.into()));
    spec::joined_namespaces(&plan.sandbox).map(open).collect()
}

/// Others are nobody in the pod's user namespace.
fn check_ids(process: &ProcessPlan) -> io::Result<()> {
    let Some(ids) = process.ids else { return Ok(()) };
    let mut all = [process.uid, process.gid].into_iter().chain(process.groups.iter().copied());
    match all.find(|id| *id >= ids.length) {
        Some(id) => Err(io::Error::other(format!("the id {id} is not in the pod's user namespace of {}", ids.length))),
        None => Ok(()),
    }
}

/// Those that the image promises, and the one that the program begins in.
fn make_directories(plan: &ContainerPlan, root: BorrowedFd<'_>) -> Result<(), String> {
    let first = plan.sandbox.ids.map(|ids| ids.first);
    let supervisor = nix::unistd::getppid();
    if let Some(first) = first {
        at("become root of the user namespace", process::own_files_as(first, first))?;
    }
    for directory in std::iter::once(&plan.process.working_dir).chain(&plan.volumes) {
        mount::ensure_directory_in_root(root, Path::new(directory), 0o755)
            .map_err(|error| format!("create directory {directory}: {error}"))?;
    }
    if first.is_some() {
        at("become root again", process::own_files_as(0, 0).and_then(|()| child::tie_to(supervisor)))?;
    }
    Ok(())
}

fn run_libcontainer(plan: &ContainerPlan, entry: Entry, stdio: Stdio) -> Result<(i32, Option<OwnedFd>), String> {
    let text = |error: libcontainer::error::LibcontainerError| skiff_base::chain(&error).to_string();
    let uid = entry.process.host_uid();
    let mut builder = ContainerBuilder::new(plan.id.clone(), SyscallType::default())
        .with_root_path(&plan.run_directory)
        .map_err(text)?
        .with_executor(entry);
    let mut listener = None;
    match stdio.output {
        Some((stdout, stderr)) => {
            for fd in [&stdio.stdin, &stdout, &stderr] {
                give(fd, uid);
            }
            builder = builder.with_stdin(stdio.stdin).with_stdout(stdout).with_stderr(stderr);
        }
        None => {
            let path = plan.run_directory.join("console.sock");
            listener = Some(at("console socket", listen(&path))?);
            builder = builder.with_console_socket(Some(PathBuf::from("../console.sock")));
        }
    }
    let container = builder
        .as_init(&plan.run_directory)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()
        .map_err(text)?;
    let pid = container.pid().ok_or("libcontainer gave no pid")?.as_raw();
    let terminal = listener.map(|listener| at("receive terminal", accept_terminal(&listener))).transpose()?;
    Ok((pid, terminal))
}

/// A program that opens `/dev/stderr` again needs to own the pipe behind it. `uid`: the host's.
pub fn give(fd: &OwnedFd, uid: u32) {
    let is_pipe = nix::sys::stat::fstat(fd).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFIFO);
    if uid != 0 && is_pipe {
        let _ = nix::unistd::fchown(fd, Some(nix::unistd::Uid::from_raw(uid)), None);
    }
}

fn listen(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    // A path may be longer than a socket's address.
    let directory = path.parent().ok_or_else(|| io::Error::other("no directory"))?;
    std::env::set_current_dir(directory)?;
    let listener = std::os::unix::net::UnixListener::bind(path.file_name().unwrap_or_default());
    std::env::set_current_dir("/")?;
    listener
}

fn accept_terminal(listener: &std::os::unix::net::UnixListener) -> io::Result<OwnedFd> {
    let (stream, _) = listener.accept()?;
    let (_, mut fds) = socket::receive(stream.as_fd(), &mut [0; 64])?;
    fds.pop().ok_or_else(|| io::Error::other("no terminal came"))
}

fn mount_root(plan: &ContainerPlan, layers: &[PathBuf], root: &Path, warnings: &mut Vec<String>) -> io::Result<()> {
    let (upper, work) = (plan.state_directory.join(crate::plan::WRITABLE), plan.state_directory.join("work"));
    for directory in [&upper, &work] {
        std::fs::create_dir_all(directory)?;
    }
    // The root directory is the writable layer's: it looks as the image's own does.
    if let Some(top) = layers.first() {
        let metadata = std::fs::metadata(top)?;
        std::os::unix::fs::chown(&upper, Some(metadata.uid()), Some(metadata.gid()))?;
        std::fs::set_permissions(&upper, std::os::unix::fs::PermissionsExt::from_mode(metadata.mode() & 0o7777))?;
    }
    std::fs::create_dir_all(root)?;
    let label = plan.file_label.as_deref();
    match mount::overlay(layers, Some((&upper, &work)), label, root) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::EOPNOTSUPP)) => {
            warnings.push(format!("overlayfs does not work here ({error}): the image is copied for each container"));
            copy_layers(layers, &upper)?;
            mount::bind(&upper, root)
        }
        other => other,
    }
}

/// What may lie on /proc, as upstream's runtimes have it: these say of the container what is true of it.
const TRUE_OF_CONTAINERS: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
];

/// Where something may be mounted below /proc; `None`: the pod has mounted the host's there, with all that is in it.
fn proc_points(plan: &ContainerPlan) -> Option<Vec<PathBuf>> {
    if plan.mounts.iter().any(|mount| mount.container_path == Path::new("/proc")) {
        return None;
    }
    let hidden = plan.masked_paths.iter().chain(&plan.readonly_paths).map(PathBuf::from);
    Some(TRUE_OF_CONTAINERS.iter().map(|path| Path::new("/proc").join(path)).chain(hidden).collect())
}

/// Refuses mounts on what is below /proc: how a process is confined is written there. libcontainer 0.7 looks at its own
/// mounts alone. Links of the image are followed, before anything is mounted in it; what those of volumes lead to is
/// seen afterwards, by the [`Entry`].
fn check_target(root: BorrowedFd<'_>, source: &Path, target: &Path) -> Result<(), String> {
    let step = |error: io::Error| format!("mount {}: {error}", target.display());
    let place = |fd: BorrowedFd<'_>| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(step);
    let rootfs = place(root)?;
    let mut resolved = PathBuf::from("/");
    for part in target.components() {
        match part {
            std::path::Component::Normal(name) => resolved.push(name),
            std::path::Component::ParentDir => drop(resolved.pop()),
            _ => continue,
        }
        match mount::open_in_root(root, &resolved, libc::O_PATH, 0) {
            Ok(found) => {
                let real = place(found.as_fd())?;
                resolved = Path::new("/").join(real.strip_prefix(&rootfs).unwrap_or(&real));
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {}
            Err(error) => return Err(step(error)),
        }
    }
    let Ok(below) = resolved.strip_prefix("/proc") else { return Ok(()) };
    let is_proc = |source: &Path| {
        let found = nix::sys::statfs::statfs(source);
        found.is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::PROC_SUPER_MAGIC)
    };
    if (below.as_os_str().is_empty() && is_proc(source))
        || TRUE_OF_CONTAINERS.iter().any(|path| below == Path::new(path))
    {
        return Ok(());
    }
    Err(format!("mount {}: {:?} cannot be mounted because it is inside /proc", source.display(), target.display()))
}

/// Moving a process into another group waits for every CPU once, up to 20 ms; moves soon after do not. So a child does it
/// while we mount; libcontainer moves nothing (`libcgroups`).
fn join_beside(plan: &ContainerPlan, cgroups: &Cgroups) -> io::Result<Pid> {
    let creator = Pid::this();
    process::fork(|| i32::from(cgroups.add(&plan.cgroup, creator).is_err()))
}

fn finish_joining(child: Pid) -> io::Result<()> {
    match nix::sys::wait::waitpid(child, None)? {
        nix::sys::wait::WaitStatus::Exited(_, 0) => Ok(()),
        status => Err(io::Error::other(format!("{status:?}"))),
    }
}

/// The container's directory of each hierarchy, to be mounted inside; none where the pod mounts something there itself.
fn cgroup_views(plan: &ContainerPlan, cgroups: &Cgroups) -> io::Result<Vec<(String, OwnedFd)>> {
    let root = Path::new("/sys/fs/cgroup");
    let taken = |path: &Path| path.starts_with(root) || (root.starts_with(path) && path != Path::new("/"));
    if plan.mounts.iter().any(|mount| taken(&mount.container_path)) {
        return Ok(Vec::new());
    }
    let named = cgroups.named_directories(&plan.cgroup).into_iter();
    named.map(|(name, directory)| Ok((name, mount::detached(&directory, !plan.privileged)?))).collect()
}

/// Raising it is free, lowering it needs CAP_SYS_RESOURCE, which we may not have.
pub fn set_oom_score(score: Option<i32>, warnings: &mut Vec<String>) {
    let score = score.unwrap_or(0);
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        warnings.push(format!("oom_score_adj {score} could not be set: {error}"));
    }
}

/// As many open files as the host lets us give.
pub fn raise_limits(warnings: &mut Vec<String>) {
    let files = nix::sys::resource::Resource::RLIMIT_NOFILE;
    if let Err(error) = process::set_limit_clamped(files, 1 << 20, 1 << 20) {
        warnings.push(format!("the limit of open files could not be set: {error}"));
    }
}
