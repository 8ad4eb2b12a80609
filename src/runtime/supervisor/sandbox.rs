//! Making a pod's namespaces, in a short-lived child: unshare, set up, pin by bind mounts. No process stays, but for a
//! shared process namespace, which lives as long as its process 1.
//!
//! With a user namespace all others belong to it: another process makes them, as its root, and this one joins them, so
//! that it can still do what takes the host's root.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use nix::unistd::Pid;
use skiff_linux::capability::CapabilitySet;
use skiff_linux::cgroup::Cgroups;
use skiff_linux::{mount, process, socket, user_namespace};

use super::creator::{Outcome, answer};
use crate::IdRange;
use crate::plan::SandboxPlan;

fn at<T>(what: &'static str, result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

/// Runs in the child; answers on `result`.
pub fn run(plan: &SandboxPlan, cgroups: &Cgroups, result: BorrowedFd<'_>) -> i32 {
    let outcome = match make(plan, cgroups) {
        Ok(pid) => Outcome { pid, ..Outcome::default() },
        Err(error) => Outcome { error: Some(error), ..Outcome::default() },
    };
    answer(result, &outcome, None)
}

fn make(plan: &SandboxPlan, cgroups: &Cgroups) -> Result<Option<i32>, String> {
    let ns = plan.directory.join("ns");
    at("create directories", std::fs::create_dir_all(&ns))?;
    at("write hostname", std::fs::write(plan.directory.join("hostname"), format!("{}\n", plan.hostname)))?;
    // A mount of its own, so that one unmount takes all that is mounted below; each waits for every CPU.
    at("mount directory", mount::bind(&plan.directory, &plan.directory))?;
    let mut flags = CloneFlags::empty();
    for (wanted, flag) in [
        (plan.network, CloneFlags::CLONE_NEWNET),
        (plan.ipc, CloneFlags::CLONE_NEWIPC),
        (plan.uts(), CloneFlags::CLONE_NEWUTS),
    ] {
        flags.set(flag, wanted);
    }
    match plan.ids {
        None => at("unshare", unshare(flags))?,
        Some(ids) => at("user namespace", unshare_mapped(plan, ids, flags))?,
    }
    if plan.uts() {
        at("set hostname", nix::unistd::sethostname(&plan.hostname).map_err(io::Error::from))?;
    }
    if plan.network {
        at("bring lo up", process::loopback_up())?;
    }
    set_sysctls(plan, |name| plan.ids.is_none() || is_of_network(name))?;
    for (wanted, name) in [(plan.network, "net"), (plan.ipc, "ipc"), (plan.uts(), "uts")] {
        if wanted {
            at("pin namespace", pin(name, &ns.join(name)))?;
        }
    }
    if plan.ipc {
        let shm = plan.directory.join("shm");
        at("create shm", std::fs::create_dir_all(&shm))?;
        let root = plan.ids.map_or(0, |ids| ids.first);
        at("mount shm", mount::tmpfs(&shm, &format!("mode=1777,size=65536k,uid={root},gid={root}")))?;
    }
    if !plan.process {
        return Ok(None);
    }
    let cgroup = plan.init_cgroup();
    at("create cgroup", cgroups.ensure(&cgroup))?;
    at("join cgroup", cgroups.add(&cgroup, Pid::from_raw(0)))?;
    let pid = at("process namespace", process_namespace(plan, &ns.join("pid")))?;
    Ok(Some(pid.as_raw()))
}

fn unshare(flags: CloneFlags) -> io::Result<()> {
    Ok(nix::sched::unshare(flags)?)
}

/// As [`unshare`], but what is made belongs to a user namespace, which is pinned.
fn unshare_mapped(plan: &SandboxPlan, ids: IdRange, flags: CloneFlags) -> io::Result<()> {
    let inside = || {
        unshare(flags)?;
        // Those are root's there, and not the host's.
        set_sysctls(plan, |name| !is_of_network(name)).map_err(io::Error::other)
    };
    let outside = |holder: Pid| {
        pin_file(&PathBuf::from(format!("/proc/{holder}/ns/user")), &plan.namespace("user"))?;
        process::setns(process::pidfd_open(holder)?.as_fd(), flags)
    };
    user_namespace::make(ids.first, ids.length, inside, outside)
}

/// Its process 1, and the pin. With a user namespace this process ends up in it, as nobody who could pin anything: another
/// one does, while this one waits.
fn process_namespace(plan: &SandboxPlan, target: &Path) -> io::Result<Pid> {
    if plan.ids.is_none() {
        unshare(CloneFlags::CLONE_NEWPID)?;
        let pid = process::fork_sibling(reap_forever)?;
        pin("pid_for_children", target)?;
        return Ok(pid);
    }
    let user = std::fs::File::open(plan.namespace("user"))?;
    let (ours, theirs) = socket::pair()?;
    let caller = Pid::this();
    let pinner = process::fork(|| {
        let closed = process::close_all_but(3, &[theirs.as_fd()]);
        let told = closed.and_then(|()| socket::receive(theirs.as_fd(), &mut [0; 8]));
        let made = told.is_ok_and(|(length, _)| length > 0);
        let source = PathBuf::from(format!("/proc/{caller}/ns/pid_for_children"));
        i32::from(!made || pin_file(&source, target).is_err())
    })?;
    let begin = || {
        nix::sched::setns(&user, CloneFlags::CLONE_NEWUSER)?;
        user_namespace::become_root()?;
        unshare(CloneFlags::CLONE_NEWPID)?;
        let pid = process::fork_sibling(reap_forever)?;
        socket::send(ours.as_fd(), b".", &[])?;
        Ok(pid)
    };
    let begun = begin();
    drop((ours, theirs));
    match (begun, nix::sys::wait::waitpid(pinner, None)?) {
        (Ok(pid), nix::sys::wait::WaitStatus::Exited(_, 0)) => Ok(pid),
        (Ok(_), status) => Err(io::Error::other(format!("pin it: {status:?}"))),
        (Err(error), _) => Err(error),
    }
}

fn pin(name: &str, target: &Path) -> io::Result<()> {
    pin_file(&Path::new("/proc/self/ns").join(name), target)
}

fn pin_file(namespace: &Path, target: &Path) -> io::Result<()> {
    std::fs::File::create(target)?;
    mount::bind(namespace, target)
}

fn is_of_network(sysctl: &str) -> bool {
    sysctl.starts_with("net.") || sysctl.starts_with("net/")
}

fn set_sysctls(plan: &SandboxPlan, wanted: impl Fn(&str) -> bool) -> Result<(), String> {
    for (name, value) in plan.sysctls.iter().filter(|(name, _)| wanted(name)) {
        let path = sysctl_path(plan, name)?;
        std::fs::write(&path, value).map_err(|error| format!("sysctl {name}={value}: {error}"))?;
    }
    Ok(())
}

/// Only what the pod's own namespaces hold.
fn sysctl_path(plan: &SandboxPlan, name: &str) -> Result<PathBuf, String> {
    let dotted = name.replace('/', ".");
    let of_ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| dotted.starts_with(prefix))
        || dotted == "kernel.sem";
    let allowed = (plan.network && dotted.starts_with("net.")) || (plan.ipc && of_ipc);
    if !allowed || dotted.contains("..") {
        return Err(format!("sysctl {name:?} is not in a namespace of the pod"));
    }
    // With slashes as separators, dots belong to the names (of VLAN devices).
    let relative = if name.contains('/') { name.to_owned() } else { dotted.replace('.', "/") };
    Ok(Path::new("/proc/sys").join(relative))
}

/// Process 1 of a shared process namespace, which the pod's containers see: it has nothing, and nobody looks into it.
///
/// Who has no capabilities may be looked into by every root of the pod, and this one began with the host's file system and
/// the supervisor's memory. So it says that nobody may (`dumpable`), and leaves the file system to whoever may nevertheless.
fn reap_forever() -> i32 {
    let bare = || {
        process::set_dumpable(false)?;
        mount::into_emptiness()?;
        process::close_all_but(0, &[])?;
        process::limit_bounding_set(CapabilitySet::EMPTY)?;
        process::set_no_new_privileges()?;
        process::set_capabilities(CapabilitySet::EMPTY)
    };
    process::set_name(c"skiff-sandbox");
    let _ = nix::unistd::setsid();
    if bare().is_err() {
        return 1;
    }
    let mut signals = nix::sys::signal::SigSet::empty();
    signals.add(nix::sys::signal::Signal::SIGCHLD);
    let _ = signals.thread_block();
    loop {
        while matches!(
            nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG)),
            Ok(status) if status != nix::sys::wait::WaitStatus::StillAlive
        ) {}
        let _ = signals.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_of_the_host_are_refused() {
        let plan = SandboxPlan {
            id: "one".into(),
            directory: "/run/none".into(),
            cgroup: "/none".into(),
            hostname: "pod".into(),
            network: true,
            ipc: false,
            process: false,
            host_pid: false,
            ids: None,
            sysctls: Default::default(),
        };
        let path = |name: &str| sysctl_path(&plan, name).ok();
        assert_eq!(path("net.core.somaxconn"), Some("/proc/sys/net/core/somaxconn".into()));
        assert_eq!(path("net/ipv4/conf/eth0.1/forwarding"), Some("/proc/sys/net/ipv4/conf/eth0.1/forwarding".into()));
        for refused in ["kernel.hostname", "vm.swappiness", "kernel.shmmax", "net/../vm/swappiness", "net...vm"] {
            assert_eq!(path(refused), None, "{refused}");
        }
    }
}
