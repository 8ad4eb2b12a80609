//! The words between the agent and the supervisor: one JSON message per packet, descriptors beside it.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::plan::{ContainerPlan, SandboxPlan};
use crate::{ContainerUser, Error, Exit};

/// The longest message; what may be longer (plans) goes in a file whose descriptor comes with it.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Containers per part of a list.
pub const LIST_PART: usize = 100;

pub const SOCKET: &str = "supervisor.sock";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub id: u64,
    pub call: Call,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Call {
    List,
    /// The process 1 of each shared process namespace that lives.
    ListSandboxes,
    /// Descriptor 0: a [`SandboxPlan`].
    RunSandbox,
    StopSandbox(String),
    /// Descriptor 0: a [`ContainerPlan`].
    Create,
    Start(String),
    Signal {
        id: String,
        signal: i32,
    },
    /// Kills what is left and forgets it.
    Remove(String),
    /// Descriptors: an [`ExecPlan`], then a socket for the terminal, or stdin, stdout and stderr.
    Exec,
    SignalExec {
        id: String,
        signal: i32,
    },
    /// Descriptors: stdout, stderr (not with a terminal), stdin if `stdin`.
    Attach {
        id: String,
        stdin: bool,
    },
    Resize {
        id: String,
        width: u16,
        height: u16,
    },
    /// Descriptor 0: an executable. Where it is not the supervisor's own, the supervisor becomes it, with all that it has.
    Upgrade,
    /// Ends the supervisor; its containers end first.
    Shutdown,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecPlan {
    pub id: String,
    pub container: String,
    pub args: Vec<String>,
    pub tty: bool,
    pub timeout_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    Reply { id: u64, result: Result<Answer, String> },
    Event(Event),
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Done,
    List { containers: Vec<Known>, more: bool },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Event {
    Started {
        id: String,
        at_ns: i64,
    },
    Exited {
        id: String,
        exit: ExitRecord,
    },
    ExecExited {
        id: String,
        code: i32,
        timed_out: bool,
    },
    /// Process 1 of its shared process namespace has ended unasked, and all others in it with it.
    SandboxEnded {
        id: String,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    pub id: String,
    pub pid: Option<i32>,
    pub started_ns: Option<i64>,
    pub exit: Option<ExitRecord>,
    #[serde(default)]
    pub user: Option<ContainerUser>,
}

/// [`Exit`] as it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitRecord {
    pub started_ns: Option<i64>,
    pub finished_ns: i64,
    pub code: i32,
    pub signal: Option<i32>,
    pub reason: String,
    pub message: String,
}

pub fn now_ns() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

pub fn timestamp(ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(ns.into()).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl ExitRecord {
    pub fn exit(&self) -> Exit {
        Exit {
            started: self.started_ns.map(timestamp),
            finished: timestamp(self.finished_ns),
            code: self.code,
            signal: self.signal,
            reason: self.reason.clone(),
            message: self.message.clone(),
        }
    }
}

/// Where things are, below `RuntimeOptions`' two directories.
#[derive(Debug, Clone)]
pub struct Layout {
    pub run: PathBuf,
    pub data: PathBuf,
}

impl Layout {
    pub fn socket(&self) -> PathBuf {
        self.run.join(SOCKET)
    }

    pub fn sandbox_run(&self, id: &str) -> PathBuf {
        self.run.join("sandboxes").join(id)
    }

    pub fn sandbox_data(&self, id: &str) -> PathBuf {
        self.data.join("sandboxes").join(id)
    }

    pub fn container_run(&self, id: &str) -> PathBuf {
        self.run.join("containers").join(id)
    }

    pub fn container_data(&self, id: &str) -> PathBuf {
        self.data.join("containers").join(id)
    }
}

/// What a plan is called on the way.
pub trait Plan: Serialize + for<'a> Deserialize<'a> {}
impl Plan for SandboxPlan {}
impl Plan for ContainerPlan {}
impl Plan for ExecPlan {}

/// Writes a plan into memory that can be passed as a descriptor.
pub fn seal<P: Plan>(plan: &P) -> Result<std::os::fd::OwnedFd, Error> {
    let io = |source: std::io::Error| Error::Io { operation: "write a plan for the supervisor", source };
    let fd = nix::sys::memfd::memfd_create(c"skiff-plan", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
        .map_err(|errno| io(errno.into()))?;
    let mut file = std::fs::File::from(fd);
    let bytes = serde_json::to_vec(plan).map_err(|error| io(error.into()))?;
    std::io::Write::write_all(&mut file, &bytes).map_err(io)?;
    std::io::Seek::rewind(&mut file).map_err(io)?;
    Ok(file.into())
}

/// Reads what [`seal`] wrote.
pub fn unseal<P: Plan>(fd: std::os::fd::OwnedFd) -> std::io::Result<P> {
    let mut file = std::fs::File::from(fd);
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut file)?;
    std::io::Read::read_to_end(&mut file, &mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}
