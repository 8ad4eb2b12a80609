//! What runs: containers, execs, sandboxes and the children that make them, from the answer to the last byte.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use skiff_linux::{process, socket};

use super::calls::Asker;
use super::creator::Outcome;
use super::log::{Log, Stream};
use super::stream::{Got, Sink, Wrote, nonblocking, read};
use super::{Source, Supervisor, carry, report};
use crate::ContainerUser;
use crate::identity::Identity;
use crate::plan::{ContainerPlan, ProcessPlan};
use crate::protocol::{Answer, Event, ExitRecord, Known, now_ns};

/// With so much waiting for one listener, its container's output is not read on.
const SLOW: usize = 256 * 1024;
/// A listener that takes nothing for so long is dropped: nobody may hold a container for ever.
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// What is read of a dead container's pipes at most: more can only come from processes that are not its own.
const MAX_DRAIN: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    Creating,
    Created,
    Running,
    Exited,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Container {
    pub plan: ContainerPlan,
    pub state: State,
    #[serde(with = "carry")]
    pub pid: Option<Pid>,
    #[serde(with = "carry")]
    pub pidfd: Option<OwnedFd>,
    /// As it was started, for execs.
    pub process: Option<ProcessPlan>,
    pub started_ns: Option<i64>,
    pub exit: Option<ExitRecord>,
    pub log: Log,
    #[serde(with = "carry")]
    pub outputs: Vec<(u64, Stream, File)>,
    pub stdin: Option<Sink>,
    pub stdin_token: Option<u64>,
    /// What attached clients type.
    #[serde(with = "carry")]
    pub inputs: HashMap<u64, File>,
    /// A second handle on the terminal, for its size.
    #[serde(with = "carry")]
    pub terminal: Option<OwnedFd>,
    #[serde(with = "carry")]
    pub status: Option<(u64, File)>,
    pub starting: Option<Asker>,
    start_error: Option<String>,
    pub removing: Vec<Asker>,
}

impl Container {
    pub fn new(plan: ContainerPlan, log: Log, stdin: Option<Sink>) -> Self {
        Self {
            plan,
            state: State::Creating,
            pid: None,
            pidfd: None,
            process: None,
            started_ns: None,
            exit: None,
            log,
            outputs: Vec::new(),
            stdin,
            stdin_token: None,
            inputs: HashMap::new(),
            terminal: None,
            status: None,
            starting: None,
            start_error: None,
            removing: Vec::new(),
        }
    }

    pub fn user(&self) -> Option<ContainerUser> {
        let process = self.process.as_ref()?;
        Some(ContainerUser { uid: process.uid, gid: process.gid, groups: process.groups.clone() })
    }

    /// Whether the end of its first process is the end of all others.
    fn owns_processes(&self) -> bool {
        !self.plan.sandbox.process && !self.plan.sandbox.host_pid && self.plan.target.is_none()
    }
}

/// A copy of a stream to an attached client.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tee {
    pub container: String,
    pub stream: Stream,
    pub sink: Sink,
    /// When it last took something.
    #[serde(with = "carry")]
    pub took: Instant,
}

impl Tee {
    fn is_slow(&self) -> bool {
        self.sink.pending() >= SLOW
    }

    /// When a slow one is dropped.
    pub fn deadline(&self) -> Option<Instant> {
        self.is_slow().then(|| self.took + STALL_LIMIT)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exec {
    container: String,
    #[serde(with = "carry")]
    pub pidfd: Option<OwnedFd>,
    #[serde(with = "carry")]
    pid: Option<Pid>,
    asker: Option<Asker>,
    #[serde(with = "carry")]
    pub deadline: Option<Instant>,
    timed_out: bool,
    #[serde(with = "carry")]
    pub status: Option<(u64, File)>,
    error: Option<String>,
}

impl Exec {
    pub fn new(container: String, asker: Asker, deadline: Option<Instant>, status: (u64, File)) -> Self {
        Self {
            container,
            pidfd: None,
            pid: None,
            asker: Some(asker),
            deadline,
            timed_out: false,
            status: Some(status),
            error: None,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sandbox {
    /// Process 1 of a shared process namespace.
    #[serde(with = "carry")]
    pub init: Option<(Pid, OwnedFd)>,
}

/// A child at work.
pub(super) struct Job {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    pub answer: OwnedFd,
    pub asker: Asker,
    pub kind: JobKind,
    pub begun: Instant,
    pub deadline: Instant,
    /// Who wants what it makes to be gone, and is served when it has ended.
    pub ending: Vec<Asker>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum JobKind {
    Sandbox(String),
    Create(String),
    Exec(String),
    /// Whether the executable that is to follow this one can.
    Upgrade,
}

impl Supervisor {
    /// A child has answered, or has `ended`: then its answer is there, or never comes, though a process that it has made
    /// may hold its end of the socket.
    pub(super) fn take_answer(&mut self, token: u64, ended: bool) {
        let Some(job) = self.jobs.get(&token) else { return };
        let mut buffer = vec![0; 256 * 1024];
        let (outcome, fds) = match socket::receive(job.answer.as_fd(), &mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !ended => return,
            Ok((length, fds)) if length > 0 => match serde_json::from_slice(&buffer[..length]) {
                Ok(outcome) => (outcome, fds),
                Err(error) => (failure(format!("the child's answer is wrong: {error}")), Vec::new()),
            },
            _ => (failure("the child ended without an answer".to_owned()), Vec::new()),
        };
        let Some(job) = self.jobs.remove(&token) else { return };
        self.unwatch(token, &job.answer);
        self.finish_job(job, outcome, fds);
        if self.jobs.is_empty() {
            self.unclaimed.clear();
        }
    }

    /// Ends the child at work on this, if there is one. Whoever asks is served when it has ended.
    pub(super) fn end_job(&mut self, asker: Asker, kind: &JobKind) -> bool {
        let Some(job) = self.jobs.values_mut().find(|job| job.kind == *kind) else { return false };
        job.ending.push(asker);
        // Where it has ended already, that is about to be seen.
        let _ = process::pidfd_signal(job.pidfd.as_fd(), libc::SIGKILL);
        true
    }

    /// Ends what makes sandboxes and containers for a client that is gone: nobody would know of them.
    pub(super) fn end_orders(&self, client: u64) {
        let made = |kind: &JobKind| matches!(kind, JobKind::Sandbox(_) | JobKind::Create(_));
        for job in self.jobs.values().filter(|job| job.asker.0 == client && made(&job.kind)) {
            let _ = process::pidfd_signal(job.pidfd.as_fd(), libc::SIGKILL);
        }
    }

    fn finish_job(&mut self, mut job: Job, mut outcome: Outcome, mut fds: Vec<OwnedFd>) {
        let (kind, ending) = (job.kind.clone(), std::mem::take(&mut job.ending));
        for warning in &outcome.warnings {
            report(format_args!("{:?}: {warning}", job.kind));
        }
        let mut claimed = None;
        // Of a process that ended before this job began, whose number was given out again.
        let begun = job.begun;
        self.unclaimed.retain(|pid, (_, at)| Some(*pid) != outcome.pid || *at >= begun);
        if let Some(pid) = outcome.pid {
            match process::pidfd_open(Pid::from_raw(pid)) {
                Ok(pidfd) => claimed = Some((Pid::from_raw(pid), Some(pidfd))),
                // It has ended, and its end has been seen.
                Err(_) if self.unclaimed.contains_key(&pid) => claimed = Some((Pid::from_raw(pid), None)),
                Err(error) => outcome.error = Some(format!("process {pid}: {error}")),
            }
        }
        match job.kind {
            JobKind::Sandbox(id) => match outcome.error {
                None => {
                    let init = claimed.and_then(|(pid, pidfd)| Some((pid, pidfd?)));
                    self.sandboxes.insert(id, Sandbox { init });
                    self.reply(job.asker, Ok(Answer::Done));
                }
                Some(error) => {
                    self.sandboxes.remove(&id);
                    self.reply(job.asker, Err(error));
                }
            },
            JobKind::Create(id) => match outcome.error {
                None => self.created(&id, job.asker, outcome.identity, claimed, fds.pop()),
                Some(error) => {
                    self.abandon(&id);
                    self.reply(job.asker, Err(error));
                }
            },
            JobKind::Exec(id) => match outcome.error {
                None => {
                    if let (Some(exec), Some((pid, pidfd))) = (self.execs.get_mut(&id), claimed) {
                        (exec.pid, exec.pidfd) = (Some(pid), pidfd);
                        self.claim(pid);
                    }
                }
                Some(error) => {
                    self.drop_exec(&id);
                    self.reply(job.asker, Err(error));
                }
            },
            JobKind::Upgrade => self.upgrade_judged(job.asker, outcome.error),
        }
        for asker in ending {
            let result = match &kind {
                JobKind::Sandbox(id) => self.stop_sandbox(asker, id),
                JobKind::Create(id) => self.remove(asker, id),
                JobKind::Exec(_) | JobKind::Upgrade => Ok(Some(Answer::Done)),
            };
            self.answer(asker, result);
        }
    }

    fn created(
        &mut self,
        id: &str,
        asker: Asker,
        identity: Option<Identity>,
        claimed: Option<(Pid, Option<OwnedFd>)>,
        terminal: Option<OwnedFd>,
    ) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some((pid, pidfd)) = claimed else { return };
        (container.pid, container.pidfd) = (Some(pid), pidfd);
        container.process = identity.map(|identity| {
            let mut process = container.plan.process.clone();
            identity.apply(&mut process);
            process
        });
        container.state = State::Created;
        let user = container.user();
        if let Some(Err(error)) = terminal.map(|terminal| self.add_terminal(id, terminal)) {
            report(format_args!("terminal of {id}: {error}"));
        }
        let known = Known { id: id.to_owned(), pid: Some(pid.as_raw()), started_ns: None, exit: None, user };
        self.reply(asker, Ok(Answer::List { containers: vec![known], more: false }));
        self.claim(pid);
    }

    /// A terminal is output and input in one; each use gets a handle of its own.
    fn add_terminal(&mut self, id: &str, terminal: OwnedFd) -> io::Result<()> {
        nonblocking(&terminal)?;
        let (output, input) = (terminal.try_clone()?, terminal.try_clone()?);
        let token = self.watch(&output, EpollFlags::EPOLLIN, Source::Output(id.to_owned(), Stream::Stdout))?;
        if let Some(container) = self.containers.get_mut(id) {
            container.outputs.push((token, Stream::Stdout, File::from(output)));
            container.stdin = if container.plan.stdin { Some(Sink::new(input)?) } else { None };
            container.terminal = Some(terminal);
        }
        Ok(())
    }

    /// Its end may have been seen before its beginning.
    fn claim(&mut self, pid: Pid) {
        if let Some((status, _)) = self.unclaimed.remove(&pid.as_raw()) {
            self.reaped(status);
        }
    }

    pub(super) fn reaped(&mut self, status: WaitStatus) {
        let Some(pid) = status.pid() else { return };
        let (code, signal) = match status {
            WaitStatus::Exited(_, code) => (code, None),
            WaitStatus::Signaled(_, signal, _) => (128 + signal as i32, Some(signal as i32)),
            _ => return,
        };
        let container =
            self.containers.iter().find(|(_, container)| container.pid == Some(pid) && container.exit.is_none());
        if let Some(id) = container.map(|(id, _)| id.clone()) {
            return self.exited(&id, code, signal);
        }
        if let Some(token) = self.jobs.iter().find(|(_, job)| job.pid == pid).map(|(token, _)| *token) {
            return self.take_answer(token, true);
        }
        if let Some(id) = self.execs.iter().find(|(_, exec)| exec.pid == Some(pid)).map(|(id, _)| id.clone()) {
            return self.exec_exited(&id, code);
        }
        let ended = self.sandboxes.iter_mut().find(|(_, s)| s.init.as_ref().is_some_and(|init| init.0 == pid));
        if let Some((id, sandbox)) = ended {
            sandbox.init = None;
            let id = id.clone();
            report(format_args!("process 1 of sandbox {id} has ended"));
            self.broadcast(&Event::SandboxEnded { id });
        } else if !self.jobs.is_empty() {
            self.unclaimed.insert(pid.as_raw(), (status, Instant::now()));
        }
    }

    /// The container's first process has ended.
    fn exited(&mut self, id: &str, code: i32, signal: Option<i32>) {
        let Some(container) = self.containers.get(id) else { return };
        if !container.owns_processes()
            && let Err(error) = self.cgroups.kill(&container.plan.cgroup)
        {
            report(format_args!("kill the rest of {id}: {error}"));
        }
        if let Some((token, _)) = &container.status {
            self.take_status(*token, id, true);
        }
        self.drain(id);
        let Some(container) = self.containers.get_mut(id) else { return };
        let oom = self.cgroups.oom_kills(&container.plan.cgroup) > 0;
        let mut exit = ExitRecord {
            started_ns: container.started_ns,
            finished_ns: now_ns(),
            code,
            signal,
            reason: if oom {
                "OOMKilled"
            } else if code == 0 {
                "Completed"
            } else {
                "Error"
            }
            .to_owned(),
            message: String::new(),
        };
        if let Some(error) = container.start_error.take() {
            (exit.code, exit.signal, exit.message) = (128, None, error);
            exit.reason = "StartError".to_owned();
        }
        container.state = State::Exited;
        container.exit = Some(exit.clone());
        container.pidfd = None;
        container.terminal = None;
        let starting = container.starting.take();
        let removing = std::mem::take(&mut container.removing);
        let write = serde_json::to_vec(&exit).map_err(io::Error::from).and_then(|bytes| {
            let file = container.plan.exit_file();
            let temporary = file.with_extension("tmp");
            std::fs::write(&temporary, bytes)?;
            std::fs::rename(temporary, file)
        });
        if let Err(error) = write {
            report(format_args!("record the exit of {id}: {error}"));
        }
        // Left to the agent where something still runs in it.
        let _ = self.cgroups.remove(&container.plan.cgroup);
        if let Some(asker) = starting {
            let message =
                if exit.message.is_empty() { "it ended while it was started".into() } else { exit.message.clone() };
            self.reply(asker, Err(message));
        }
        self.broadcast(&Event::Exited { id: id.to_owned(), exit });
        if !removing.is_empty() {
            self.forget(id);
            for asker in removing {
                self.reply(asker, Ok(Answer::Done));
            }
        }
    }

    /// Takes the last of its output, and lets go of all its descriptors.
    fn drain(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let outputs = std::mem::take(&mut container.outputs);
        let inputs = std::mem::take(&mut container.inputs);
        let stdin = container.stdin.take().map(|stdin| (container.stdin_token.take(), stdin));
        let mut buffer = std::mem::take(&mut self.buffer);
        for (token, stream, file) in outputs {
            let mut taken = 0;
            while taken < MAX_DRAIN {
                let Got::Bytes(length) = read(&file, &mut buffer) else { break };
                self.spread(id, stream, &buffer[..length]);
                taken += length;
            }
            if let Some(container) = self.containers.get_mut(id) {
                container.log.end(stream);
            }
            self.unwatch(token, &file);
        }
        self.buffer = buffer;
        for (token, file) in inputs {
            self.unwatch(token, &file);
        }
        if let Some((Some(token), stdin)) = stdin {
            self.unwatch(token, &stdin.file);
        }
        let tokens: Vec<u64> =
            self.tees.iter().filter(|(_, tee)| tee.container == id).map(|(token, _)| *token).collect();
        for token in tokens {
            if let Some(tee) = self.tees.get_mut(&token) {
                tee.sink.closing = true;
            }
            self.flush_tee(token);
        }
    }

    /// To the log and to whoever is attached.
    fn spread(&mut self, id: &str, stream: Stream, bytes: &[u8]) {
        if let Some(container) = self.containers.get_mut(id) {
            container.log.take(stream, bytes);
        }
        let mut changed = Vec::new();
        for (token, tee) in self.tees.iter_mut().filter(|(_, tee)| tee.container == id && tee.stream == stream) {
            if tee.sink.pending() == 0 {
                // It took all there was: its time begins with what it has to take now.
                tee.took = Instant::now();
            }
            match tee.sink.write(bytes) {
                Wrote::All => {}
                other => changed.push((*token, other)),
            }
        }
        for (token, wrote) in changed {
            self.after_tee(token, wrote);
        }
    }

    pub(super) fn flush_tee(&mut self, token: u64) {
        let Some(tee) = self.tees.get_mut(&token) else { return };
        let before = tee.sink.pending();
        let wrote = tee.sink.flush();
        if tee.sink.pending() < before {
            tee.took = Instant::now();
        }
        self.after_tee(token, wrote);
    }

    fn after_tee(&mut self, token: u64, wrote: Wrote) {
        let Some(tee) = self.tees.get(&token) else { return };
        match wrote {
            Wrote::Kept => self.modify(token, &tee.sink.file, EpollFlags::EPOLLOUT),
            Wrote::All if !tee.sink.closing => {
                self.resume(token);
                let Some(tee) = self.tees.get(&token) else { return };
                // With nothing to write, an event means that the reader is gone.
                match nix::poll::poll(
                    &mut [nix::poll::PollFd::new(tee.sink.file.as_fd(), nix::poll::PollFlags::empty())],
                    0u8,
                ) {
                    Ok(0) => self.modify(token, &tee.sink.file, EpollFlags::empty()),
                    _ => self.drop_tee(token),
                }
            }
            _ => self.drop_tee(token),
        }
    }

    fn drop_tee(&mut self, token: u64) {
        self.resume(token);
        if let Some(tee) = self.tees.remove(&token) {
            self.unwatch(token, &tee.sink.file);
        }
    }

    /// Reads on what waited for this listener alone.
    fn resume(&self, token: u64) {
        let Some(tee) = self.tees.get(&token) else { return };
        let same = |other: &Tee| other.container == tee.container && other.stream == tee.stream;
        if self.tees.iter().any(|(other, known)| *other != token && same(known) && known.is_slow()) {
            return;
        }
        let outputs = self.containers.get(&tee.container).map(|container| container.outputs.as_slice());
        for (output, _, file) in outputs.unwrap_or_default().iter().filter(|(_, stream, _)| *stream == tee.stream) {
            self.modify(*output, file, EpollFlags::EPOLLIN);
        }
    }

    /// A container waits for whoever is attached to it, as it would for a terminal; for a while.
    pub(super) fn pause_for_slow(&self, token: u64, id: &str, stream: Stream) {
        if self.tees.values().any(|tee| tee.container == id && tee.stream == stream && tee.is_slow()) {
            let outputs = self.containers.get(id).map(|container| container.outputs.as_slice());
            if let Some((_, _, file)) = outputs.unwrap_or_default().iter().find(|(known, ..)| *known == token) {
                self.modify(token, file, EpollFlags::empty());
            }
        }
    }

    /// One buffer of one stream: others have their turn before the next.
    pub(super) fn take_output(&mut self, token: u64, id: &str, stream: Stream) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(index) = container.outputs.iter().position(|(known, ..)| *known == token) else { return };
        let mut buffer = std::mem::take(&mut self.buffer);
        match read(&container.outputs[index].2, &mut buffer) {
            Got::Bytes(length) => {
                self.spread(id, stream, &buffer[..length]);
                self.pause_for_slow(token, id, stream);
            }
            Got::Nothing => {}
            Got::End => {
                let (_, _, file) = container.outputs.remove(index);
                container.log.end(stream);
                self.unwatch(token, &file);
            }
        }
        self.buffer = buffer;
    }

    /// The pipe that exec closes: empty means that it worked. Of a process that has `ended` all is in the pipe, though
    /// a creator of another container, forked at that moment, may hold it open for a while.
    pub(super) fn take_status(&mut self, token: u64, id: &str, ended: bool) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some((_, file)) = &container.status else { return };
        let mut buffer = vec![0; 4096];
        match read(file, &mut buffer) {
            Got::Nothing if !ended => return,
            Got::Bytes(length) => {
                container.start_error = Some(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            Got::End | Got::Nothing if container.state == State::Created && container.starting.is_some() => {
                container.state = State::Running;
                let at_ns = now_ns();
                container.started_ns = Some(at_ns);
                let note = container.plan.state_directory.join(crate::record::STARTED);
                if let Err(error) = std::fs::write(note, at_ns.to_string()) {
                    report(format_args!("note the start of {id}: {error}"));
                }
                let asker = container.starting.take();
                self.broadcast(&Event::Started { id: id.to_owned(), at_ns });
                if let Some(asker) = asker {
                    self.reply(asker, Ok(Answer::Done));
                }
            }
            Got::End | Got::Nothing => {}
        }
        if let Some((_, file)) = self.containers.get_mut(id).and_then(|container| container.status.take()) {
            self.unwatch(token, &file);
        }
    }

    pub(super) fn take_exec_status(&mut self, token: u64, id: &str) {
        let Some(exec) = self.execs.get_mut(id) else { return };
        let Some((_, file)) = &exec.status else { return };
        let mut buffer = vec![0; 4096];
        match read(file, &mut buffer) {
            Got::Nothing => return,
            Got::Bytes(length) => exec.error = Some(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Got::End => {}
        }
        let (asker, error) = (exec.asker.take(), exec.error.clone());
        if let Some((_, file)) = exec.status.take() {
            self.unwatch(token, &file);
        }
        match (asker, error) {
            (Some(asker), None) => self.reply(asker, Ok(Answer::Done)),
            (Some(asker), Some(error)) => self.reply(asker, Err(error)),
            (None, _) => {}
        }
    }

    fn exec_exited(&mut self, id: &str, code: i32) {
        if let Some(token) = self.execs.get(id).and_then(|exec| exec.status.as_ref()).map(|(token, _)| *token) {
            self.take_exec_status(token, id);
        }
        let Some(exec) = self.drop_exec(id) else { return };
        if exec.error.is_none() {
            self.broadcast(&Event::ExecExited { id: id.to_owned(), code, timed_out: exec.timed_out });
        }
    }

    fn drop_exec(&mut self, id: &str) -> Option<Exec> {
        let exec = self.execs.remove(id)?;
        if let Some((token, file)) = &exec.status {
            self.unwatch(*token, file);
        }
        Some(exec)
    }

    pub(super) fn take_input(&mut self, token: u64, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(file) = container.inputs.get(&token) else { return };
        let once = container.plan.stdin_once;
        let mut buffer = std::mem::take(&mut self.buffer);
        let got = read(file, &mut buffer);
        match got {
            Got::Bytes(length) => {
                let wrote = container.stdin.as_mut().map_or(Wrote::Lost, |stdin| stdin.write(&buffer[..length]));
                self.after_stdin(id, wrote);
            }
            Got::Nothing => {}
            Got::End => {
                if let Some(file) = container.inputs.remove(&token) {
                    if let Some(stdin) = container.stdin.as_mut().filter(|_| once) {
                        stdin.closing = true;
                    }
                    self.unwatch(token, &file);
                }
                self.flush_stdin(0, id);
            }
        }
        self.buffer = buffer;
    }

    pub(super) fn flush_stdin(&mut self, _token: u64, id: &str) {
        let Some(stdin) = self.containers.get_mut(id).and_then(|container| container.stdin.as_mut()) else { return };
        let wrote = stdin.flush();
        self.after_stdin(id, wrote);
    }

    /// While the container does not read, neither do we.
    fn after_stdin(&mut self, id: &str, wrote: Wrote) {
        let Some(container) = self.containers.get(id) else { return };
        let Some(stdin) = &container.stdin else { return };
        let full = wrote == Wrote::Kept;
        let tokens: Vec<u64> = container.inputs.keys().copied().collect();
        for token in tokens {
            if let Some(file) = container.inputs.get(&token) {
                self.modify(token, file, if full { EpollFlags::empty() } else { EpollFlags::EPOLLIN });
            }
        }
        let close = wrote == Wrote::Lost || (wrote == Wrote::All && stdin.closing);
        let number = std::os::fd::AsRawFd::as_raw_fd(&stdin.file);
        let watched = container.stdin_token;
        let now = match watched {
            None if full => self.watch_raw(number, EpollFlags::EPOLLOUT, Source::Stdin(id.to_owned())).ok(),
            Some(token) if !full => {
                self.sources.remove(&token);
                if let Ok(lent) = process::lend(number) {
                    let _ = self.epoll.delete(&lent);
                }
                None
            }
            same => same,
        };
        if let Some(container) = self.containers.get_mut(id) {
            container.stdin_token = now;
            if close {
                container.stdin = None;
            }
        }
    }

    /// What a failed creation leaves goes.
    fn abandon(&mut self, id: &str) {
        if let Some(container) = self.containers.get(id) {
            let cgroup = container.plan.cgroup.clone();
            let _ = self.cgroups.kill(&cgroup);
            let _ = self.cgroups.remove(&cgroup);
        }
        self.forget(id);
    }

    /// Lets go of a container and of all its descriptors.
    pub(super) fn forget(&mut self, id: &str) {
        self.drain(id);
        if let Some((token, file)) = self.containers.remove(id).and_then(|container| container.status) {
            self.unwatch(token, &file);
        }
    }

    /// Children and execs whose time is over.
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        for job in self.jobs.values().filter(|job| job.deadline <= now) {
            // Its socket closes with it, which is the answer.
            let _ = process::pidfd_signal(job.pidfd.as_fd(), libc::SIGKILL);
        }
        for job in self.jobs.values_mut().filter(|job| job.deadline <= now) {
            job.deadline = now + std::time::Duration::from_secs(10);
        }
        let stalled: Vec<u64> = self
            .tees
            .iter()
            .filter(|(_, tee)| tee.deadline().is_some_and(|at| at <= now))
            .map(|(token, _)| *token)
            .collect();
        for token in stalled {
            self.drop_tee(token);
        }
        for (id, exec) in self.execs.iter_mut().filter(|(_, exec)| exec.deadline.is_some_and(|at| at <= now)) {
            report(format_args!("exec {id} in {}: its time is over", exec.container));
            exec.timed_out = true;
            exec.deadline = Some(now + std::time::Duration::from_secs(1));
            if let Some(pidfd) = &exec.pidfd {
                let _ = process::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
            }
        }
    }
}

fn failure(error: String) -> Outcome {
    Outcome { error: Some(error), ..Outcome::default() }
}
