//! The last step of every process of a container: from a root child in its namespaces to the program itself.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::mount::MsFlags;
use skiff_linux::capability::CapabilitySet;
use skiff_linux::seccomp::{Filter, Profile};
use skiff_linux::{mount, process, security_module};

use crate::plan::ProcessPlan;
use crate::{Propagation, Seccomp};

/// Compiles what the plan asks for.
pub fn compile(seccomp: &Seccomp, capabilities: CapabilitySet) -> io::Result<Option<Filter>> {
    match seccomp {
        Seccomp::Unconfined => Ok(None),
        Seccomp::RuntimeDefault => Profile::runtime_default(capabilities).compile().map(Some),
        Seccomp::Localhost(path) => {
            let json = std::fs::read(path).map_err(|error| {
                io::Error::new(error.kind(), format!("seccomp profile {}: {error}", path.display()))
            })?;
            Profile::parse(&json)?.compile().map(Some)
        }
    }
}

/// Becomes the program, in the right order: bounding set, then the filter as long as installing it is a privilege,
/// then the last capabilities, then (with no_new_privs) the filter as late as can be. Returns only an error.
///
/// Identity, working directory and descriptors are set already.
pub fn become_program(process: &ProcessPlan, filter: Option<&Filter>) -> String {
    match try_become(process, filter) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_become(plan: &ProcessPlan, filter: Option<&Filter>) -> Result<std::convert::Infallible, String> {
    let step = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let program = find_program(plan)?;
    let strings = |list: &[String]| -> Result<Vec<CString>, String> {
        list.iter().map(|text| CString::new(text.as_str()).map_err(|_| "a NUL in the command".to_owned())).collect()
    };
    let (args, env) = (strings(&plan.args)?, strings(&plan.env)?);
    if let Some(profile) = &plan.app_armor {
        match security_module::set_app_armor_profile(profile) {
            // As in a container without privileges. Nobody can be told: stderr is the program's by now.
            Err(error) if plan.app_armor_optional && error.kind() == io::ErrorKind::PermissionDenied => {}
            other => other.map_err(step("apply the AppArmor profile"))?,
        }
    }
    if let Some(label) = &plan.se_linux {
        security_module::set_se_linux_label(label).map_err(step("apply the SELinux label"))?;
    }
    process::limit_bounding_set(plan.capabilities).map_err(step("limit capabilities"))?;
    if plan.no_new_privileges {
        process::set_no_new_privileges().map_err(step("set no_new_privs"))?;
    } else if let Some(filter) = filter {
        filter.install().map_err(step("install seccomp filter"))?;
    }
    process::set_capabilities(plan.capabilities).map_err(step("set capabilities"))?;
    if let Some(filter) = filter.filter(|_| plan.no_new_privileges) {
        filter.install().map_err(step("install seccomp filter"))?;
    }
    let Err(errno) = nix::unistd::execve(&program, &args, &env);
    Err(format!("exec {}: {}", program.to_string_lossy(), words(errno.into())))
}

/// The kernel's words, in lower case and without the number.
fn words(error: io::Error) -> String {
    let text = error.raw_os_error().map(nix::errno::Errno::from_raw).map(|errno| errno.desc().to_owned());
    text.unwrap_or_else(|| error.to_string()).to_lowercase()
}

/// As a shell looks it up, with the words that users know from runc.
fn find_program(plan: &ProcessPlan) -> Result<CString, String> {
    let name = plan.args.first().map_or("", String::as_str);
    let c_string = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).map_err(|error| error.to_string());
    if name.contains('/') {
        std::fs::metadata(name).map_err(|error| format!("exec: {name:?}: stat {name}: {}", words(error)))?;
        return c_string(Path::new(name));
    }
    let path = plan.env.iter().rev().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or("");
    let mut denied = false;
    for directory in path.split(':') {
        let candidate: PathBuf = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match executable(&candidate) {
            Ok(true) => return c_string(&candidate),
            Ok(false) => denied = true,
            Err(_) => {}
        }
    }
    let why = if denied && !name.is_empty() { "permission denied" } else { "executable file not found in $PATH" };
    Err(format!("exec: {name:?}: {why}"))
}

fn executable(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(path)?;
    Ok(metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Our executor in libcontainer's init.
#[derive(Clone)]
pub struct Entry {
    pub process: ProcessPlan,
    pub filter: Option<Filter>,
    /// Where mounts of the pod are, and how they spread: libcontainer 0.7 ignores that.
    pub propagation: Vec<(PathBuf, Propagation)>,
    /// Mounts that are read-only with all that is below them.
    pub read_only: Vec<PathBuf>,
    /// What may be mounted below `/proc`; `None`: anything but on what is of processes.
    pub proc_points: Option<Vec<PathBuf>>,
    /// The container's cgroup directories as detached mounts: name below `/sys/fs/cgroup` (none on v2), descriptor.
    pub cgroups: Vec<(String, i32)>,
    /// Closed by a successful exec, else told why.
    pub status_fd: i32,
}

impl Executor for Entry {
    fn exec(&self, _spec: &Spec) -> Result<(), ExecutorError> {
        let error = become_program(&self.process, self.filter.as_ref());
        tell(self.status_fd, &error);
        Err(ExecutorError::Other(error))
    }

    /// Runs inside, before the container counts as created.
    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        process::leave_session_keys()
            .map_err(|error| ExecutorValidationError::ArgValidationError(format!("session keys: {error}")))?;
        check_proc(self.proc_points.as_deref())
            .map_err(|error| ExecutorValidationError::ArgValidationError(error.to_string()))?;
        mount_cgroups(&self.cgroups)
            .map_err(|error| ExecutorValidationError::ArgValidationError(format!("mount {CGROUP_ROOT}: {error}")))?;
        if !self.propagation.iter().any(|(target, _)| target == Path::new("/dev")) {
            // As runc; where one is there already, that one stays.
            let _ = std::os::unix::fs::symlink("/proc/kcore", "/dev/core");
        }
        for (target, propagation) in &self.propagation {
            let flags = match propagation {
                Propagation::Private => MsFlags::MS_PRIVATE,
                Propagation::HostToContainer => MsFlags::MS_SLAVE,
                Propagation::Bidirectional => MsFlags::MS_SHARED,
            };
            mount::set_propagation(target, flags | MsFlags::MS_REC).map_err(|error| {
                ExecutorValidationError::ArgValidationError(format!("mount {}: {error}", target.display()))
            })?;
        }
        for target in &self.read_only {
            mount::set_read_only_recursively(target).map_err(|error| {
                ExecutorValidationError::ArgValidationError(format!("mount {}: {error}", target.display()))
            })?;
        }
        Ok(())
    }

    /// The plan's own list is used, which keeps order and doubles.
    fn setup_envs(&self, _envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}

/// How a process is confined is written to `/proc`, and a link in one volume may have led the mount of another there.
fn check_proc(points: Option<&[PathBuf]>) -> io::Result<()> {
    let mounted = mount::own_mounts_below(Path::new("/proc"))?;
    let of_processes = |point: &Path| {
        let name = point.iter().nth(2).map(|name| name.as_encoded_bytes()).unwrap_or_default();
        name.first().is_some_and(u8::is_ascii_digit) || name == b"self" || name == b"thread-self"
    };
    let wrong = |point: &&PathBuf| match points {
        Some(points) => *point != Path::new("/proc") && !points.contains(point),
        None => of_processes(point),
    };
    match mounted.iter().find(wrong) {
        Some(point) => Err(io::Error::other(format!("{point:?} cannot be mounted because it is inside /proc"))),
        None => Ok(()),
    }
}

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// libcontainer 0.7's own mount on v1 forgets `ro`, and each of its mounts costs a hundred system calls.
fn mount_cgroups(cgroups: &[(String, i32)]) -> io::Result<()> {
    let root = Path::new(CGROUP_ROOT);
    if let [(name, fd)] = cgroups
        && name.is_empty()
    {
        return mount::attach(process::lend(*fd)?.as_fd(), root);
    }
    if cgroups.is_empty() {
        return Ok(());
    }
    mount::tmpfs(root, "mode=755,size=64k,uid=0,gid=0")?;
    for (name, fd) in cgroups {
        let target = root.join(name);
        std::fs::create_dir(&target)?;
        mount::attach(process::lend(*fd)?.as_fd(), &target)?;
        // `cpu,cpuacct` is looked for by either name.
        for controller in name.split(',').filter(|controller| controller != name) {
            std::os::unix::fs::symlink(name, root.join(controller))?;
        }
    }
    mount::set_read_only(root)
}

/// Writes to a pipe that is only known by its number.
pub fn tell(fd: i32, message: &str) {
    if let Ok(pipe) = process::inherited(fd) {
        let mut pipe = std::fs::File::from(pipe);
        // Nobody may be listening any more.
        let _ = pipe.write_all(message.as_bytes());
        // The number is not ours to close twice.
        let _ = pipe.as_raw_fd();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_does() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        std::fs::write(&data, "").expect("a file");
        let path = format!("PATH=/no-such:{}:/bin", directory.path().display());
        let find = |name: &str| {
            let plan = ProcessPlan { args: vec![name.to_owned()], env: vec![path.clone()], ..ProcessPlan::default() };
            find_program(&plan).map(|program| program.to_string_lossy().into_owned())
        };
        assert_eq!(find("sh"), Ok("/bin/sh".to_owned()));
        assert_eq!(find("/bin/sh"), Ok("/bin/sh".to_owned()));
        assert_eq!(find("nope"), Err("exec: \"nope\": executable file not found in $PATH".to_owned()));
        assert_eq!(find("data"), Err("exec: \"data\": permission denied".to_owned()));
        assert_eq!(find("/nope"), Err("exec: \"/nope\": stat /nope: no such file or directory".to_owned()));
    }
}
