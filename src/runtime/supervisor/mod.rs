//! The parent of every container: one small single-threaded process per node that outlives the agent.
//!
//! ```text
//!  agent --SEQPACKET--> calls            children (short-lived forks):
//!                        |                 sandbox   unshare, pin            creator  libcontainer
//!        epoll loop: signals, clients,     exec      setns, fork
//!        output pipes, exec statuses,            |
//!        children's answers, timers  <-----------'  answers; the processes they leave are our children
//!
//!  upgrade:    another executable reads the state --it can, no child is at work--> this process becomes it
//!
//!  container:  Creating --answer--> Created --start, exec worked--> Running --reaped--> Exited --Remove--> gone
//!                  '--answer is an error: gone      '--exec failed: Exited (StartError)
//! ```
//!
//! Invariants: it never waits (every descriptor is non-blocking, every long task a child), never holds more than a bound
//! per peer, never panics on what others send, and knows nothing of images or Kubernetes. Modules bottom-up: [`log`]
//! writes CRI logs, [`stream`] moves bytes without waiting, [`capture`] keeps libcontainer's causes,
//! [`copy`] stands in for overlayfs, [`stage`] gives files the ids of a user namespace, [`entry`] is the
//! last step of each process, [`creator`], [`exec`] and [`sandbox`] run in children made by [`child`]; [`calls`] answers
//! the agent, [`containers`] follows what runs, [`upgrade`] hands all of it ([`carry`]) to another build, and this file is
//! the loop.

mod calls;
mod capture;
mod carry;
mod child;
mod clients;
mod containers;
mod copy;
mod creator;
mod entry;
mod exec;
mod log;
mod sandbox;
mod stage;
mod stream;
mod upgrade;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use skiff_linux::cgroup::Cgroups;
use skiff_linux::process;
use skiff_linux::seccomp::Filter;

use crate::plan::cgroup_path;
use crate::protocol::Layout;
use clients::Client;
use containers::{Container, Exec, Job, Sandbox};
use log::Stream;

/// Events taken per round, so that no source waits long behind another.
const EVENTS_PER_ROUND: usize = 64;

/// With nothing to look after and nobody to serve it ends after that long; the agent starts another.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// How long another one may take to let go of the cgroups.
const CLAIM_LIMIT: Duration = Duration::from_secs(1);

/// One line to the supervisor's own log (its stderr).
fn report(message: fmt::Arguments<'_>) {
    let line = format!("{} {message}\n", skiff_base::time::now_rfc3339());
    // There is no other place to say it.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// What a descriptor in the epoll set stands for.
#[derive(Debug, Clone)]
enum Source {
    Signals,
    Listener,
    Client,
    /// A child's answer.
    Answer,
    Output(String, Stream),
    /// The pipe that a successful exec closes: of a container, of an exec.
    Status(String),
    ExecStatus(String),
    /// Where an attached listener gets its copy.
    Tee,
    /// What an attached client types.
    Input(String),
    /// The container's own stdin, when it was full.
    Stdin(String),
}

pub(crate) struct Supervisor {
    layout: Layout,
    cgroup_root: String,
    cgroups: Cgroups,
    /// Held until this process ends: that there is one supervisor for the directories, and one for the cgroups.
    locks: Vec<OwnedFd>,
    epoll: Epoll,
    next_token: u64,
    sources: HashMap<u64, Source>,
    signals: SignalFd,
    listener: OwnedFd,
    clients: HashMap<u64, Client>,
    jobs: HashMap<u64, Job>,
    sandboxes: HashMap<String, Sandbox>,
    containers: HashMap<String, Container>,
    execs: HashMap<String, Exec>,
    tees: HashMap<u64, containers::Tee>,
    /// Exits of processes that nobody has claimed yet: a container may end before its creator's answer is read.
    unclaimed: HashMap<i32, (WaitStatus, Instant)>,
    filters: HashMap<String, Option<Filter>>,
    /// What this process is to become.
    upgrade: Option<upgrade::Upgrade>,
    /// Who asked to end it all.
    shutdown: Option<(u64, u64)>,
    /// A signal asked for the end: it comes with that of the last container.
    leaving: bool,
    idle_since: Option<Instant>,
    buffer: Vec<u8>,
}

/// `skiff supervisor`: never returns while there is work; called from main() before any thread exists.
pub fn supervisor_main(args: &[OsString]) -> ExitCode {
    match start(args) {
        Ok(Some(mut supervisor)) => supervisor.run(),
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            report(format_args!("supervisor: {error}"));
            ExitCode::FAILURE
        }
    }
}

struct Arguments {
    layout: Layout,
    cgroup_root: String,
    /// The descriptor of the state that an earlier build left.
    resume: Option<i32>,
    /// Where to answer whether it can be taken over, and not to do it.
    check: Option<i32>,
}

fn parse(args: &[OsString]) -> io::Result<Arguments> {
    let (mut run, mut data, mut cgroup_root) = (None, None, "/".to_owned());
    let (mut resume, mut check) = (None, None);
    let number = |value: &OsString| value.to_str().and_then(|text| text.parse::<i32>().ok());
    let mut args = args.iter();
    while let (Some(name), value) = (args.next(), args.next()) {
        let value = value.ok_or_else(|| io::Error::other(format!("{} needs a value", name.to_string_lossy())))?;
        match name.to_str() {
            Some("--run-directory") => run = Some(PathBuf::from(value)),
            Some("--data-directory") => data = Some(PathBuf::from(value)),
            Some("--cgroup-root") => cgroup_root = value.to_string_lossy().into_owned(),
            Some(upgrade::RESUME) => resume = number(value),
            Some(upgrade::CHECK) => check = number(value),
            _ => return Err(io::Error::other(format!("unknown argument {}", name.to_string_lossy()))),
        }
    }
    match (run, data) {
        (Some(run), Some(data)) => Ok(Arguments { layout: Layout { run, data }, cgroup_root, resume, check }),
        _ => Err(io::Error::other("--run-directory and --data-directory are needed (the agent starts this process)")),
    }
}

/// Whatever is in the groups and unknown to this supervisor counts as left over and is ended; so the groups must not be
/// those of another one, which may have other directories. `None`: there is no group.
fn claim(cgroups: &Cgroups, own: &str, cgroup_root: &str) -> io::Result<Option<OwnedFd>> {
    let Some(directory) = cgroups.directories(own).into_iter().find(|directory| directory.is_dir()) else {
        // Said already; without a group there is nothing to end either.
        return Ok(None);
    };
    let until = Instant::now() + CLAIM_LIMIT;
    let mut file = File::open(directory)?;
    loop {
        match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return held(lock).map(Some),
            // One with our own directories may be about to end.
            Err((again, nix::errno::Errno::EWOULDBLOCK)) if Instant::now() < until => {
                file = again;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                return Err(io::Error::other(format!(
                    "containers of another Skiff are below the cgroup {cgroup_root}: end them with `skiff killall` and the \
                     directories of that one, or give this one another --cgroup-root"
                )));
            }
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

/// The lock is the open file's: it lasts as long as that, in whatever program.
fn held(lock: nix::fcntl::Flock<File>) -> io::Result<OwnedFd> {
    let fd = lock.try_clone()?.into();
    // Dropped, it would be let go for both.
    std::mem::forget(lock);
    Ok(fd)
}

/// `None`: there is one already, or nothing was to be done but to look.
fn start(args: &[OsString]) -> io::Result<Option<Supervisor>> {
    let arguments = parse(args)?;
    match (arguments.resume, arguments.check) {
        (Some(state), Some(answer)) => upgrade::check(state, answer).map(|()| None),
        (Some(state), None) => upgrade::resume(arguments, state).map(Some),
        (None, _) => begin(arguments),
    }
}

fn begin(arguments: Arguments) -> io::Result<Option<Supervisor>> {
    let Arguments { layout, cgroup_root, .. } = &arguments;
    if process::thread_count()? != 1 {
        return Err(io::Error::other("the supervisor needs a process without threads"));
    }
    // It is a session of its own already where a service manager started it.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    process::set_name(c"skiff-superviso");
    let lock = File::create(layout.run.join("supervisor.lock"))?;
    let Ok(lock) = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock) else {
        return Ok(None);
    };
    let mut locks = vec![held(lock)?];
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-999") {
        report(format_args!("oom_score_adj -999 could not be set: {error}"));
    }
    // Four descriptors per container.
    if let Err(error) = process::set_limit_clamped(nix::sys::resource::Resource::RLIMIT_NOFILE, 1 << 20, 1 << 20) {
        report(format_args!("the limit of open files could not be raised: {error}"));
    }
    let cgroups = Cgroups::detect()?;
    let own = cgroup_path(cgroup_root, "skiff-supervisor");
    if let Err(error) = cgroups.ensure(&own).and_then(|()| cgroups.add(&own, Pid::from_raw(0))) {
        report(format_args!("own cgroup {own}: {error}"));
    }
    locks.extend(claim(&cgroups, &own, cgroup_root)?);
    let listener = clients::listen(&layout.socket())?;
    Supervisor::new(arguments, cgroups, locks, listener).map(Some)
}

impl Supervisor {
    fn new(arguments: Arguments, cgroups: Cgroups, locks: Vec<OwnedFd>, listener: OwnedFd) -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        let mut supervisor = Self {
            layout: arguments.layout,
            cgroup_root: arguments.cgroup_root,
            cgroups,
            locks,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            next_token: 0,
            sources: HashMap::new(),
            signals: SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?,
            listener,
            clients: HashMap::new(),
            jobs: HashMap::new(),
            sandboxes: HashMap::new(),
            containers: HashMap::new(),
            execs: HashMap::new(),
            tees: HashMap::new(),
            unclaimed: HashMap::new(),
            filters: HashMap::new(),
            upgrade: None,
            shutdown: None,
            leaving: false,
            idle_since: None,
            buffer: vec![0; 64 * 1024],
        };
        let (signals, listener) = (supervisor.signals.as_raw_fd(), supervisor.listener.as_raw_fd());
        supervisor.watch_raw(signals, EpollFlags::EPOLLIN, Source::Signals)?;
        supervisor.watch_raw(listener, EpollFlags::EPOLLIN, Source::Listener)?;
        Ok(supervisor)
    }

    fn run(&mut self) -> ExitCode {
        let mut events = [EpollEvent::empty(); EVENTS_PER_ROUND];
        loop {
            let count = match self.epoll.wait(&mut events, self.next_timeout()) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(errno) => {
                    report(format_args!("epoll: {errno}"));
                    return ExitCode::FAILURE;
                }
            };
            for event in &events[..count] {
                self.handle(event.data(), event.events());
            }
            self.expire();
            if self.is_finished() || self.is_idle() {
                return ExitCode::SUCCESS;
            }
            self.upgrade_when_quiet();
        }
    }

    fn handle(&mut self, token: u64, events: EpollFlags) {
        // It may be gone since the round began.
        let Some(source) = self.sources.get(&token).cloned() else { return };
        match source {
            Source::Signals => self.take_signals(),
            Source::Listener => self.accept(),
            Source::Client => self.serve(token, events),
            Source::Answer => self.take_answer(token, false),
            Source::Output(id, stream) => self.take_output(token, &id, stream),
            Source::Status(id) => self.take_status(token, &id, false),
            Source::ExecStatus(id) => self.take_exec_status(token, &id),
            Source::Tee => self.flush_tee(token),
            Source::Input(id) => self.take_input(token, &id),
            Source::Stdin(id) => self.flush_stdin(token, &id),
        }
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// Adds a descriptor, given by number since its owner lives elsewhere in the same structure.
    fn watch_raw(&mut self, fd: i32, flags: EpollFlags, source: Source) -> io::Result<u64> {
        let token = self.token();
        self.watch_as(token, fd, flags, source)?;
        Ok(token)
    }

    fn watch_as(&mut self, token: u64, fd: i32, flags: EpollFlags, source: Source) -> io::Result<()> {
        // A descriptor of ours: it is removed before its owner closes it.
        self.epoll.add(borrow(&fd)?, EpollEvent::new(flags, token))?;
        self.sources.insert(token, source);
        Ok(())
    }

    fn watch(&mut self, fd: &OwnedFd, flags: EpollFlags, source: Source) -> io::Result<u64> {
        self.watch_raw(fd.as_raw_fd(), flags, source)
    }

    /// Must be called before the descriptor is closed: a child may hold a copy that would keep it in the set.
    fn unwatch(&mut self, token: u64, fd: &impl AsFd) {
        if self.sources.remove(&token).is_some() {
            let _ = self.epoll.delete(fd);
        }
    }

    fn modify(&self, token: u64, fd: &impl AsFd, flags: EpollFlags) {
        if self.epoll.modify(fd, &mut EpollEvent::new(flags, token)).is_err() {
            report(format_args!("epoll lost a descriptor"));
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                report(format_args!("signal {}: this process ends with its last container", signal.ssi_signo));
                self.leaving |= signal.ssi_signo != Signal::SIGHUP as u32;
            }
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) => self.reaped(status),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    /// Whether it has had no work and no clients for long.
    fn is_idle(&mut self) -> bool {
        let works = self.containers.values().any(|container| container.exit.is_none())
            || self.sandboxes.values().any(|sandbox| sandbox.init.is_some());
        let works = works || !self.jobs.is_empty() || !self.execs.is_empty();
        if self.leaving && !works {
            return true;
        }
        if works || !self.clients.is_empty() {
            self.idle_since = None;
            return false;
        }
        self.idle_since.get_or_insert_with(Instant::now).elapsed() >= IDLE_LIMIT
    }

    fn next_timeout(&self) -> EpollTimeout {
        let jobs = self.jobs.values().map(|job| job.deadline);
        let execs = self.execs.values().filter_map(|exec| exec.deadline);
        let idle = self.idle_since.map(|since| since + IDLE_LIMIT);
        let tees = self.tees.values().filter_map(containers::Tee::deadline);
        let Some(next) = jobs.chain(execs).chain(tees).chain(idle).min() else { return EpollTimeout::NONE };
        let wait = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX)
    }
}

/// Lends a descriptor that this process keeps open elsewhere.
fn borrow(fd: &i32) -> io::Result<skiff_linux::process::Lent> {
    skiff_linux::process::lend(*fd)
}
