//! Another build takes over: this process executes it, and keeps its number, its children and its descriptors.
//!
//! First the other executable reads the whole state in a child, with all descriptors there: one that can't run here, or
//! can't make sense of the state, is refused, and nothing has changed. Then, as soon as no child is at work, the state is
//! written into memory whose descriptor the other one is started with. Clients stay connected; what they asked is
//! answered by whoever is there.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use nix::sys::epoll::EpollFlags;
use serde::{Deserialize, Serialize};
use skiff_linux::cgroup::Cgroups;
use skiff_linux::{process, socket};

use super::calls::Asker;
use super::clients::Client;
use super::containers::{Container, Exec, JobKind, Sandbox, Tee};
use super::creator::{self, Outcome};
use super::{Arguments, Source, Supervisor, carry, report, stream};
use crate::protocol::{Answer, Plan, seal, unseal};

pub(super) const RESUME: &str = "--resume";
pub(super) const CHECK: &str = "--check";

/// Of what is below. A build reads what builds before it wrote; and since no field is passed over, one that does not know
/// all of it takes no part of it.
const FORMAT: u32 = 2;

/// An upgrade that was asked for.
pub(super) struct Upgrade {
    executable: OwnedFd,
    asker: Asker,
    /// The other executable has read the state.
    approved: bool,
}

/// All that a supervisor is, but what it makes anew.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Memory {
    format: u32,
    next_token: u64,
    #[serde(with = "carry")]
    listener: OwnedFd,
    #[serde(with = "carry")]
    locks: Vec<OwnedFd>,
    clients: HashMap<u64, Client>,
    sandboxes: HashMap<String, Sandbox>,
    containers: HashMap<String, Container>,
    execs: HashMap<String, Exec>,
    tees: HashMap<u64, Tee>,
    asker: Asker,
}

impl Plan for Memory {}

fn text(error: io::Error) -> String {
    error.to_string()
}

fn recall(state: i32) -> io::Result<Memory> {
    let memory: Memory = unseal(process::inherited(state)?)?;
    if memory.format > FORMAT {
        return Err(io::Error::other(format!(
            "the state has the format {}; this build reads up to {FORMAT}",
            memory.format
        )));
    }
    Ok(memory)
}

/// Answers whether this build can take over, in a child of the one that would be followed.
pub(super) fn check(state: i32, answer: i32) -> io::Result<()> {
    let answer = process::inherited(answer)?;
    let error = recall(state).err().map(text);
    match creator::answer(answer.as_fd(), &Outcome { error, ..Outcome::default() }, None) {
        0 => Ok(()),
        _ => Err(io::Error::other("nobody takes the answer")),
    }
}

/// Goes on with what an earlier build had in this process.
pub(super) fn resume(arguments: Arguments, state: i32) -> io::Result<Supervisor> {
    process::cloexec_from(3)?;
    process::set_name(c"skiff-superviso");
    let memory = recall(state)?;
    let mut supervisor = Supervisor::new(arguments, Cgroups::detect()?, Vec::new(), memory.listener.try_clone()?)?;
    let asker = memory.asker;
    supervisor.unpack(memory);
    supervisor.watch_all()?;
    report(format_args!("this build has taken over, with {} containers", supervisor.containers.len()));
    // Those that ended meanwhile.
    supervisor.take_signals();
    supervisor.reply(asker, Ok(Answer::Done));
    Ok(supervisor)
}

impl Supervisor {
    pub(super) fn begin_upgrade(
        &mut self,
        asker: Asker,
        executable: Option<OwnedFd>,
    ) -> Result<Option<Answer>, String> {
        let executable = executable.ok_or("no executable came")?;
        if is_own(&executable).map_err(text)? {
            return Ok(Some(Answer::Done));
        }
        if self.upgrade.is_some() || self.shutdown.is_some() {
            return Err("another upgrade, or the end, is under way".to_owned());
        }
        let (answer, theirs) = socket::pair().map_err(text)?;
        stream::nonblocking(&answer).map_err(text)?;
        let memory = self.pack(asker)?;
        let pid = seal(&memory).map_err(|error| skiff_base::chain(&error).to_string()).and_then(|state| {
            let look = || {
                process::reset_signals();
                let error = self.execute(&executable, &state, Some(theirs.as_fd()));
                creator::answer(theirs.as_fd(), &Outcome { error: Some(text(error)), ..Outcome::default() }, None)
            };
            process::fork(look).map_err(text)
        });
        self.unpack(memory);
        self.upgrade = Some(Upgrade { executable, asker, approved: false });
        let begun = pid.and_then(|pid| self.add_job(pid, answer, asker, JobKind::Upgrade));
        if begun.is_err() {
            self.upgrade = None;
        }
        begun
    }

    pub(super) fn upgrade_judged(&mut self, asker: Asker, error: Option<String>) {
        match (error, &mut self.upgrade) {
            (None, Some(upgrade)) => upgrade.approved = true,
            (error, _) => {
                self.upgrade = None;
                let error = error.unwrap_or_default();
                report(format_args!("another build can't take over: {error}"));
                self.reply(asker, Err(format!("the other executable can't take over: {error}")));
            }
        }
    }

    /// Becomes the other build where one waits and no child is at work; returns where it could not.
    pub(super) fn upgrade_when_quiet(&mut self) {
        if !self.jobs.is_empty() || self.shutdown.is_some() {
            return;
        }
        let Some(upgrade) = self.upgrade.take_if(|upgrade| upgrade.approved) else { return };
        let error = match self.pack(upgrade.asker) {
            Err(error) => error,
            Ok(memory) => {
                let error = match seal(&memory) {
                    Ok(state) => text(self.execute(&upgrade.executable, &state, None)),
                    Err(error) => skiff_base::chain(&error).to_string(),
                };
                self.unpack(memory);
                error
            }
        };
        if let Err(error) = process::cloexec_from(3) {
            report(format_args!("descriptors stay open for other programs: {error}"));
        }
        report(format_args!("another build could not be executed: {error}"));
        self.reply(upgrade.asker, Err(error));
    }

    /// Returns only where it fails; then descriptors are no longer closed by an execution.
    fn execute(&self, executable: &OwnedFd, state: &OwnedFd, check: Option<BorrowedFd<'_>>) -> io::Error {
        let number = |fd: &dyn AsRawFd| fd.as_raw_fd().to_string();
        let (state, answer) = (number(state), check.map(|fd| number(&fd)));
        let mut words: Vec<&OsStr> = ["skiff", "supervisor", "--run-directory"].map(OsStr::new).to_vec();
        words.extend([self.layout.run.as_os_str(), OsStr::new("--data-directory"), self.layout.data.as_os_str()]);
        words.extend(["--cgroup-root", &self.cgroup_root, RESUME, &state].map(OsStr::new));
        words.extend(answer.iter().flat_map(|answer| [CHECK, answer]).map(OsStr::new));
        let run = || -> io::Result<std::convert::Infallible> {
            let words = words.iter().map(|word| CString::new(word.as_bytes())).collect::<Result<Vec<_>, _>>()?;
            let path = CString::new(format!("/proc/self/fd/{}", executable.as_raw_fd()))?;
            let anew = [self.epoll.0.as_fd(), self.signals.as_fd(), self.listener.as_fd(), executable.as_fd()];
            process::pass_on_all_but(3, &anew)?;
            Ok(nix::unistd::execve(&path, &words, &[] as &[CString])?)
        };
        match run() {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    /// Takes all out of the tables, to be written; [`Supervisor::unpack`] puts it back.
    fn pack(&mut self, asker: Asker) -> Result<Memory, String> {
        Ok(Memory {
            format: FORMAT,
            next_token: self.next_token,
            listener: self.listener.try_clone().map_err(text)?,
            locks: std::mem::take(&mut self.locks),
            clients: std::mem::take(&mut self.clients),
            sandboxes: std::mem::take(&mut self.sandboxes),
            containers: std::mem::take(&mut self.containers),
            execs: std::mem::take(&mut self.execs),
            tees: std::mem::take(&mut self.tees),
            asker,
        })
    }

    fn unpack(&mut self, memory: Memory) {
        self.next_token = memory.next_token;
        self.locks = memory.locks;
        self.clients = memory.clients;
        self.sandboxes = memory.sandboxes;
        self.containers = memory.containers;
        self.execs = memory.execs;
        self.tees = memory.tees;
    }

    /// Everything is watched under the token that it had.
    fn watch_all(&mut self) -> io::Result<()> {
        let mut all: Vec<(u64, i32, EpollFlags, Source)> = Vec::new();
        let input = EpollFlags::EPOLLIN;
        for (token, client) in &self.clients {
            all.push((*token, client.socket.as_raw_fd(), input, Source::Client));
        }
        for (id, container) in &self.containers {
            for (token, stream, file) in &container.outputs {
                all.push((*token, file.as_raw_fd(), input, Source::Output(id.clone(), *stream)));
            }
            for (token, file) in &container.inputs {
                all.push((*token, file.as_raw_fd(), input, Source::Input(id.clone())));
            }
            if let Some((token, file)) = &container.status {
                all.push((*token, file.as_raw_fd(), input, Source::Status(id.clone())));
            }
            if let (Some(token), Some(stdin)) = (container.stdin_token, &container.stdin) {
                all.push((token, stdin.file.as_raw_fd(), EpollFlags::EPOLLOUT, Source::Stdin(id.clone())));
            }
        }
        for (id, exec) in &self.execs {
            if let Some((token, file)) = &exec.status {
                all.push((*token, file.as_raw_fd(), input, Source::ExecStatus(id.clone())));
            }
        }
        for (token, tee) in &self.tees {
            all.push((*token, tee.sink.file.as_raw_fd(), EpollFlags::empty(), Source::Tee));
        }
        for (token, fd, flags, source) in all {
            self.watch_as(token, fd, flags, source)?;
        }
        // What waits to be written goes on, and whoever waits for that.
        for token in self.clients.keys().copied().collect::<Vec<_>>() {
            self.send_waiting(token);
        }
        for token in self.tees.keys().copied().collect::<Vec<_>>() {
            self.flush_tee(token);
        }
        let ids: Vec<String> = self.containers.keys().cloned().collect();
        for id in ids {
            self.flush_stdin(0, &id);
            for (token, stream, _) in self.containers.get(&id).map(|c| c.outputs.as_slice()).unwrap_or_default() {
                self.pause_for_slow(*token, &id, *stream);
            }
        }
        Ok(())
    }
}

fn is_own(executable: &OwnedFd) -> io::Result<bool> {
    let (other, own) = (nix::sys::stat::fstat(executable)?, std::fs::metadata("/proc/self/exe")?);
    Ok((other.st_dev, other.st_ino) == (own.dev(), own.ino()))
}
