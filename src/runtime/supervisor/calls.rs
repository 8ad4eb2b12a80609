//! Answers to the agent's calls.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use skiff_linux::process;
use skiff_linux::seccomp::Filter;

use super::child;
use super::containers::{Container, Exec, Job, JobKind, Sandbox, State, Tee};
use super::creator::{self, Stdio};
use super::exec::{self, ExecStdio};
use super::log::{Log, Stream};
use super::stream::{Sink, nonblocking};
use super::{Source, Supervisor, entry, report, sandbox};
use crate::Seccomp;
use crate::plan::{ContainerPlan, ProcessPlan, SandboxPlan};
use crate::protocol::{Answer, Call, Event, ExecPlan, Known, LIST_PART, Request, unseal};

/// A child that takes longer (a mount of a dead file server) is killed.
const CHILD_DEADLINE: Duration = Duration::from_secs(120);
const MAX_FILTERS: usize = 64;

/// Who wants to know: client and number of the request.
pub(super) type Asker = (u64, u64);

fn text(error: io::Error) -> String {
    error.to_string()
}

impl Supervisor {
    pub(super) fn call(&mut self, client: u64, request: Request, mut fds: Vec<OwnedFd>) {
        let asker = (client, request.id);
        let plan = if fds.is_empty() { None } else { Some(fds.remove(0)) };
        // `Ok(None)`: the answer comes later.
        let result = match request.call {
            Call::List => self.list(asker),
            Call::ListSandboxes => Ok(Some(self.list_sandboxes())),
            Call::RunSandbox => self.run_sandbox(asker, plan),
            Call::StopSandbox(id) => self.stop_sandbox(asker, &id),
            Call::Create => self.create(asker, plan),
            Call::Start(id) => self.start(asker, &id),
            Call::Signal { id, signal } => self.signal(&id, signal),
            Call::Remove(id) => self.remove(asker, &id),
            Call::Exec => self.exec(asker, plan, fds),
            Call::SignalExec { id, signal } => self.signal_exec(&id, signal),
            Call::Attach { id, stdin } => self.attach(&id, stdin, plan.into_iter().chain(fds).collect()),
            Call::Resize { id, width, height } => self.resize(&id, width, height),
            Call::Upgrade => self.begin_upgrade(asker, plan),
            Call::Shutdown => self.begin_shutdown(asker),
        };
        self.answer(asker, result);
    }

    pub(super) fn answer(&mut self, asker: Asker, result: Result<Option<Answer>, String>) {
        match result {
            Ok(Some(answer)) => self.reply(asker, Ok(answer)),
            Ok(None) => {}
            Err(error) => self.reply(asker, Err(error)),
        }
    }

    fn list(&mut self, asker: Asker) -> Result<Option<Answer>, String> {
        let mut all: Vec<Known> = Vec::new();
        for (id, container) in &self.containers {
            if container.state != State::Creating {
                all.push(Known {
                    id: id.clone(),
                    pid: container.pid.filter(|_| container.exit.is_none()).map(nix::unistd::Pid::as_raw),
                    started_ns: container.started_ns,
                    exit: container.exit.clone(),
                    user: container.user(),
                });
            }
        }
        while all.len() > LIST_PART {
            let containers = all.split_off(all.len() - LIST_PART);
            self.reply(asker, Ok(Answer::List { containers, more: true }));
        }
        Ok(Some(Answer::List { containers: all, more: false }))
    }

    fn list_sandboxes(&self) -> Answer {
        let init = |(id, sandbox): (&String, &Sandbox)| {
            let pid = sandbox.init.as_ref()?.0.as_raw();
            Some(Known { id: id.clone(), pid: Some(pid), started_ns: None, exit: None, user: None })
        };
        Answer::List { containers: self.sandboxes.iter().filter_map(init).collect(), more: false }
    }

    fn run_sandbox(&mut self, asker: Asker, plan: Option<OwnedFd>) -> Result<Option<Answer>, String> {
        let plan: SandboxPlan = unseal(plan.ok_or("no plan came")?).map_err(text)?;
        if self.sandboxes.contains_key(&plan.id) {
            return Err(format!("sandbox {} is there already", plan.id));
        }
        let cgroups = &self.cgroups;
        let (pid, answer) = child::spawn(&[], |result| sandbox::run(&plan, cgroups, result)).map_err(text)?;
        self.sandboxes.insert(plan.id.clone(), Sandbox { init: None });
        self.add_job(pid, answer, asker, JobKind::Sandbox(plan.id))
    }

    pub(super) fn add_job(
        &mut self,
        pid: nix::unistd::Pid,
        answer: OwnedFd,
        asker: Asker,
        kind: JobKind,
    ) -> Result<Option<Answer>, String> {
        let token = self.watch(&answer, EpollFlags::EPOLLIN, Source::Answer).map_err(text)?;
        let pidfd = process::pidfd_open(pid).map_err(text)?;
        let begun = Instant::now();
        let deadline = begun + CHILD_DEADLINE;
        self.jobs.insert(token, Job { pid, pidfd, answer, asker, kind, begun, deadline, ending: Vec::new() });
        Ok(None)
    }

    pub(super) fn stop_sandbox(&mut self, asker: Asker, id: &str) -> Result<Option<Answer>, String> {
        if self.end_job(asker, &JobKind::Sandbox(id.to_owned())) {
            return Ok(None);
        }
        if let Some(Sandbox { init: Some((_, pidfd)) }) = self.sandboxes.remove(id) {
            // It may have ended by itself.
            let _ = process::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
        }
        // Whose sandbox it is may not be who asked.
        self.tell_others(Some(asker.0), &Event::SandboxEnded { id: id.to_owned() });
        Ok(Some(Answer::Done))
    }

    fn create(&mut self, asker: Asker, plan: Option<OwnedFd>) -> Result<Option<Answer>, String> {
        let plan: ContainerPlan = unseal(plan.ok_or("no plan came")?).map_err(text)?;
        if self.containers.contains_key(&plan.id) {
            return Err(format!("container {} is there already", plan.id));
        }
        let filter = self.filter(&plan.process)?;
        let joined = plan.target.as_deref().map(|target| self.process_namespace(target)).transpose()?;
        let pipes = Pipes::new(&plan).map_err(text)?;
        let log =
            Log::open(&plan.log_path).map_err(|error| format!("open log {}: {error}", plan.log_path.display()))?;
        let Pipes { theirs, status_theirs, stdin, outputs, status } = pipes;

        let cgroups = &self.cgroups;
        let mut keep = vec![theirs.stdin.as_fd(), status_theirs.as_fd()];
        if let Some((stdout, stderr)) = &theirs.output {
            keep.extend([stdout.as_fd(), stderr.as_fd()]);
        }
        keep.extend(joined.as_ref().map(|namespace| namespace.as_fd()));
        // The child owns copies of its own; ours close when this function ends.
        let inherit = |fd: &OwnedFd| process::inherited(fd.as_raw_fd());
        let work = |result: std::os::fd::BorrowedFd<'_>| {
            let copies = || -> io::Result<(Stdio, OwnedFd)> {
                let output = match &theirs.output {
                    Some((stdout, stderr)) => Some((inherit(stdout)?, inherit(stderr)?)),
                    None => None,
                };
                Ok((Stdio { stdin: inherit(&theirs.stdin)?, output }, inherit(&status_theirs)?))
            };
            match copies() {
                Ok((stdio, status)) => {
                    let joined = joined.as_ref().map(|namespace| namespace.as_fd());
                    creator::create(&plan, cgroups, filter, stdio, status, joined, result)
                }
                Err(_) => 1,
            }
        };
        let (pid, answer) = child::spawn(&keep, work).map_err(text)?;
        drop((theirs, status_theirs));

        let id = plan.id.clone();
        let mut container = Container::new(plan, log, stdin);
        for (stream, file) in outputs {
            let fd = file.as_raw_fd();
            let token = self.watch_raw(fd, EpollFlags::EPOLLIN, Source::Output(id.clone(), stream)).map_err(text)?;
            container.outputs.push((token, stream, file));
        }
        let token = self.watch(&status, EpollFlags::EPOLLIN, Source::Status(id.clone())).map_err(text)?;
        container.status = Some((token, File::from(status)));
        self.containers.insert(id.clone(), container);
        self.add_job(pid, answer, asker, JobKind::Create(id))
    }

    /// Of a running container. Open, it is that one, whatever becomes of the process and its number.
    fn process_namespace(&self, id: &str) -> Result<File, String> {
        let target = self.containers.get(id).filter(|target| target.state == State::Running);
        let pid = target.and_then(|target| target.pid).ok_or_else(|| format!("container {id} is not running"))?;
        File::open(format!("/proc/{pid}/ns/pid")).map_err(text)
    }

    /// Compiled once for all containers of a kind. Localhost profiles are files, which may change.
    fn filter(&mut self, process: &ProcessPlan) -> Result<Option<Filter>, String> {
        let compile = || entry::compile(&process.seccomp, process.capabilities).map_err(text);
        if process.seccomp != Seccomp::RuntimeDefault {
            return compile();
        }
        let key = format!("{:x}", process.capabilities.bits());
        if let Some(filter) = self.filters.get(&key) {
            return Ok(filter.clone());
        }
        let filter = compile()?;
        if self.filters.len() >= MAX_FILTERS {
            self.filters.clear();
        }
        self.filters.insert(key, filter.clone());
        Ok(filter)
    }

    fn start(&mut self, asker: Asker, id: &str) -> Result<Option<Answer>, String> {
        let container = self.containers.get_mut(id).ok_or_else(|| format!("container {id} is not known"))?;
        if container.state != State::Created || container.starting.is_some() {
            return Err(format!("container {id} is {:?}, not Created", container.state));
        }
        // libcontainer's init waits for a connection; a short name, since a socket's address is short.
        let directory = File::open(container.plan.run_directory.join(id)).map_err(text)?;
        let socket = format!("/proc/self/fd/{}/notify.sock", directory.as_raw_fd());
        let mut stream = std::os::unix::net::UnixStream::connect(socket).map_err(text)?;
        io::Write::write_all(&mut stream, b"start").map_err(text)?;
        container.starting = Some(asker);
        Ok(None)
    }

    fn signal(&mut self, id: &str, signal: i32) -> Result<Option<Answer>, String> {
        let container = self.containers.get(id).ok_or_else(|| format!("container {id} is not known"))?;
        match (&container.pidfd, &container.exit) {
            (Some(pidfd), None) => process::pidfd_signal(pidfd.as_fd(), signal).map_err(text)?,
            _ => return Err(format!("container {id} is not running")),
        }
        Ok(Some(Answer::Done))
    }

    pub(super) fn remove(&mut self, asker: Asker, id: &str) -> Result<Option<Answer>, String> {
        if self.end_job(asker, &JobKind::Create(id.to_owned())) {
            return Ok(None);
        }
        let Some(container) = self.containers.get_mut(id) else { return Ok(Some(Answer::Done)) };
        if container.exit.is_some() {
            self.forget(id);
            return Ok(Some(Answer::Done));
        }
        container.removing.push(asker);
        if let Err(error) = self.cgroups.kill(&container.plan.cgroup) {
            report(format_args!("kill {id}: {error}"));
        }
        if let Some(pidfd) = &container.pidfd {
            let _ = process::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
        }
        Ok(None)
    }

    fn exec(&mut self, asker: Asker, plan: Option<OwnedFd>, fds: Vec<OwnedFd>) -> Result<Option<Answer>, String> {
        let plan: ExecPlan = unseal(plan.ok_or("no plan came")?).map_err(text)?;
        let id = &plan.container;
        let container = self.containers.get(id).ok_or_else(|| format!("container {id} is not known"))?;
        if container.state != State::Running {
            return Err(format!("container {id} is not running"));
        }
        let mut process = container.process.clone().unwrap_or_default();
        process.args = plan.args.clone();
        process.tty = plan.tty;
        if plan.tty && !process.env.iter().any(|pair| pair.starts_with("TERM=")) {
            process.env.push("TERM=xterm".to_owned());
        }
        let filter = self.filter(&process)?;
        let container = self.containers.get(id).ok_or("gone")?;
        let pidfd = container.pidfd.as_ref().ok_or("no pidfd")?;
        let (status, status_theirs) = pipe().map_err(text)?;
        let stdio = match <[OwnedFd; 3]>::try_from(fds) {
            Ok(streams) if !plan.tty => ExecStdio::Streams(streams),
            Err(mut fds) if plan.tty && fds.len() == 1 => ExecStdio::Terminal(fds.remove(0)),
            _ => return Err("stdin, stdout and stderr, or a socket for the terminal".to_owned()),
        };
        let mut keep = vec![pidfd.as_fd(), status_theirs.as_fd()];
        match &stdio {
            ExecStdio::Terminal(socket) => keep.push(socket.as_fd()),
            ExecStdio::Streams(streams) => keep.extend(streams.iter().map(OwnedFd::as_fd)),
        }
        let keep: Vec<_> = keep.iter().map(|fd| fd.as_raw_fd()).collect();
        let lent = keep.iter().map(|fd| process::lend(*fd)).collect::<io::Result<Vec<_>>>().map_err(text)?;
        let keep: Vec<_> = lent.iter().map(|fd| fd.as_fd()).collect();
        let job = exec::Exec {
            process: &process,
            filter: filter.as_ref(),
            pidfd: pidfd.as_fd(),
            pid: container.pid.ok_or("no pid")?,
            cgroup: &container.plan.cgroup,
            cgroups: &self.cgroups,
            stdio,
        };
        let status_number = status_theirs.as_raw_fd();
        let work = |result: std::os::fd::BorrowedFd<'_>| match process::inherited(status_number) {
            Ok(status) => exec::exec(&job, status, result),
            Err(_) => 1,
        };
        let (pid, answer) = child::spawn(&keep, work).map_err(text)?;
        drop(job);
        drop(status_theirs);
        let token = self.watch(&status, EpollFlags::EPOLLIN, Source::ExecStatus(plan.id.clone())).map_err(text)?;
        let deadline = plan.timeout_ms.map(|timeout| Instant::now() + Duration::from_millis(timeout));
        self.execs.insert(plan.id.clone(), Exec::new(plan.container, asker, deadline, (token, File::from(status))));
        self.add_job(pid, answer, asker, JobKind::Exec(plan.id))
    }

    fn signal_exec(&mut self, id: &str, signal: i32) -> Result<Option<Answer>, String> {
        let pidfd = self.execs.get(id).and_then(|exec| exec.pidfd.as_ref());
        let pidfd = pidfd.ok_or_else(|| format!("exec {id} is not running"))?;
        process::pidfd_signal(pidfd.as_fd(), signal).map_err(text)?;
        Ok(Some(Answer::Done))
    }

    fn attach(&mut self, id: &str, stdin: bool, mut fds: Vec<OwnedFd>) -> Result<Option<Answer>, String> {
        let container = self.containers.get(id).ok_or_else(|| format!("container {id} is not known"))?;
        if container.exit.is_some() {
            return Err(format!("container {id} is not running"));
        }
        if stdin && (!container.plan.stdin || container.stdin.is_none()) {
            return Err(format!("container {id} has no open stdin"));
        }
        let input = if stdin { fds.pop() } else { None };
        for (fd, stream) in fds.into_iter().zip([Stream::Stdout, Stream::Stderr]) {
            let sink = Sink::new(fd).map_err(text)?;
            let number = sink.file.as_raw_fd();
            // Nothing to write yet: only its loss is of interest.
            let token = self.watch_raw(number, EpollFlags::empty(), Source::Tee).map_err(text)?;
            self.tees.insert(token, Tee { container: id.to_owned(), stream, sink, took: Instant::now() });
        }
        if let Some(input) = input {
            nonblocking(&input).map_err(text)?;
            let number = input.as_raw_fd();
            let token = self.watch_raw(number, EpollFlags::EPOLLIN, Source::Input(id.to_owned())).map_err(text)?;
            if let Some(container) = self.containers.get_mut(id) {
                container.inputs.insert(token, File::from(input));
            }
        }
        Ok(Some(Answer::Done))
    }

    fn resize(&mut self, id: &str, width: u16, height: u16) -> Result<Option<Answer>, String> {
        let container = self.containers.get(id).ok_or_else(|| format!("container {id} is not known"))?;
        let terminal = container.terminal.as_ref().ok_or_else(|| format!("container {id} has no terminal"))?;
        process::set_window_size(terminal.as_fd(), width, height).map_err(text)?;
        Ok(Some(Answer::Done))
    }

    fn begin_shutdown(&mut self, asker: Asker) -> Result<Option<Answer>, String> {
        report(format_args!("shutdown: {} containers end", self.containers.len()));
        self.shutdown = Some(asker);
        for (id, container) in &self.containers {
            if let Err(error) = self.cgroups.kill(&container.plan.cgroup) {
                report(format_args!("kill {id}: {error}"));
            }
            if let Some(pidfd) = &container.pidfd {
                let _ = process::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
            }
        }
        for sandbox in self.sandboxes.values() {
            if let Some((_, pidfd)) = &sandbox.init {
                let _ = process::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
            }
        }
        Ok(None)
    }

    /// Whether a shutdown was asked for and nothing is left to wait for.
    pub(super) fn is_finished(&mut self) -> bool {
        let Some(asker) = self.shutdown else { return false };
        let running = self.containers.values().any(|container| container.pid.is_some() && container.exit.is_none());
        if running || !self.jobs.is_empty() {
            return false;
        }
        self.reply(asker, Ok(Answer::Done));
        // It is made anew by the next one.
        let _ = std::fs::remove_file(self.layout.socket());
        true
    }
}

/// The ends of one container's pipes.
struct Pipes {
    theirs: Stdio,
    status_theirs: OwnedFd,
    stdin: Option<Sink>,
    outputs: Vec<(Stream, File)>,
    status: OwnedFd,
}

/// Reading end (non-blocking) and writing end, close-on-exec.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    let reader = OwnedFd::from(reader);
    nonblocking(&reader)?;
    Ok((reader, writer.into()))
}

impl Pipes {
    fn new(plan: &ContainerPlan) -> io::Result<Self> {
        let (status, status_theirs) = pipe()?;
        let mut outputs = Vec::new();
        let mut output = None;
        let mut stdin = None;
        let mut stdin_theirs: OwnedFd = File::open("/dev/null")?.into();
        if !plan.process.tty {
            let (stdout, stdout_theirs) = pipe()?;
            let (stderr, stderr_theirs) = pipe()?;
            outputs = vec![(Stream::Stdout, File::from(stdout)), (Stream::Stderr, File::from(stderr))];
            output = Some((stdout_theirs, stderr_theirs));
            if plan.stdin {
                let (reader, writer) = io::pipe()?;
                stdin_theirs = reader.into();
                stdin = Some(Sink::new(writer.into())?);
            }
        }
        Ok(Self { theirs: Stdio { stdin: stdin_theirs, output }, status_theirs, stdin, outputs, status })
    }
}
