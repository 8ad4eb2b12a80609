//! A second process in a running container, ours from end to end: libcontainer 0.7's has no seccomp filter and stays
//! outside the user namespace.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use nix::unistd::Pid;
use skiff_linux::cgroup::Cgroups;
use skiff_linux::seccomp::Filter;
use skiff_linux::{process, socket, user_namespace};

use super::creator::{Outcome, answer, give, raise_limits, set_oom_score};
use super::entry::{become_program, tell};
use crate::plan::ProcessPlan;

/// Where it goes, and how it speaks.
pub struct Exec<'a> {
    pub process: &'a ProcessPlan,
    pub filter: Option<&'a Filter>,
    /// Of the container's first process, not reaped yet.
    pub pidfd: BorrowedFd<'a>,
    pub pid: Pid,
    pub cgroup: &'a str,
    pub cgroups: &'a Cgroups,
    pub stdio: ExecStdio,
}

pub enum ExecStdio {
    /// The master goes there.
    Terminal(OwnedFd),
    Streams([OwnedFd; 3]),
}

fn at<T>(what: &'static str, result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

/// Runs in a child of the supervisor, whose child (the supervisor's own, to be reaped) becomes the program.
pub fn exec(exec: &Exec<'_>, status: OwnedFd, result: BorrowedFd<'_>) -> i32 {
    let outcome = match enter(exec, status) {
        Ok(outcome) => outcome,
        Err(error) => Outcome { error: Some(error), ..Outcome::default() },
    };
    answer(result, &outcome, None)
}

fn enter(exec: &Exec<'_>, status: OwnedFd) -> Result<Outcome, String> {
    let mut warnings = Vec::new();
    set_oom_score(exec.process.oom_score_adj, &mut warnings);
    raise_limits(&mut warnings);
    at("join cgroup", exec.cgroups.add_beside(exec.cgroup, exec.pid, Pid::from_raw(0)))?;
    // Whoever is inside must not look into this process (CVE-2016-9962 and its kin).
    at("set dumpable", process::set_dumpable(false))?;
    if let ExecStdio::Streams(streams) = &exec.stdio {
        streams.iter().for_each(|fd| give(fd, exec.process.host_uid()));
    }
    let mut namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWCGROUP;
    namespaces.set(CloneFlags::CLONE_NEWUSER, exec.process.ids.is_some());
    at("join namespaces", process::setns(exec.pidfd, namespaces))?;
    if exec.process.ids.is_some() {
        at("become root of the user namespace", user_namespace::become_root())?;
    }
    // Only a child is in the pid namespace.
    let pid = process::fork_sibling(|| {
        let error = run(exec, &status);
        tell(status.as_raw_fd(), &error);
        127
    });
    let pid = at("fork", pid)?;
    Ok(Outcome { pid: Some(pid.as_raw()), warnings, ..Outcome::default() })
}

fn run(exec: &Exec<'_>, status: &OwnedFd) -> String {
    if let Err(error) = prepare(exec) {
        return error;
    }
    // Everything but stdio goes with the exec; the status pipe tells by closing.
    let _ = status;
    if let Err(error) = process::cloexec_from(3) {
        return format!("close descriptors: {error}");
    }
    become_program(exec.process, exec.filter)
}

fn prepare(exec: &Exec<'_>) -> Result<(), String> {
    let plan = exec.process;
    at("setsid", nix::unistd::setsid().map_err(io::Error::from))?;
    at("session keys", process::leave_session_keys())?;
    match &exec.stdio {
        ExecStdio::Terminal(master_to) => {
            let (master, slave) = at("open terminal", process::open_terminal())?;
            if plan.uid != 0 {
                let owner = nix::unistd::Uid::from_raw(plan.uid);
                at("own terminal", nix::unistd::fchown(&slave, Some(owner), None).map_err(io::Error::from))?;
            }
            at("controlling terminal", process::set_controlling_terminal(slave.as_fd()))?;
            for number in 0..3 {
                at("stdio", process::replace_stdio(slave.as_fd(), number))?;
            }
            at("send terminal", socket::send(master_to.as_fd(), b"terminal", &[master.as_fd()]))?;
        }
        ExecStdio::Streams(streams) => {
            for (number, fd) in streams.iter().enumerate() {
                at("stdio", process::replace_stdio(fd.as_fd(), number as i32))?;
            }
        }
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    std::env::set_current_dir(&plan.working_dir).map_err(|error| format!("chdir {}: {error}", plan.working_dir))?;
    // One that lies outside of the container's root has no name here.
    at("working directory", std::env::current_dir())?;
    at("set identity", process::set_identity(plan.uid, plan.gid, &plan.groups))
}
