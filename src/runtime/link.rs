//! The agent's end of the socket: starts the supervisor, calls it, hears of it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_to, socket};
use nix::sys::time::TimeVal;
use skiff_linux::mount::read_only_clone;
use tokio::sync::oneshot;
use tracing::warn;

use crate::Error;
use crate::protocol::{Answer, Call, Event, Known, Layout, MAX_MESSAGE, Message, Request};

/// How long a new supervisor may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long a supervisor may take to become another build; children that are at work end first.
const UPGRADE_LIMIT: TimeVal = TimeVal::new(10, 0);

type Sender = oneshot::Sender<Result<Vec<Known>, String>>;

/// A connection. Replies find their callers; events come out of [`Link::receive`].
pub struct Link {
    socket: OwnedFd,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// `None` once the connection is lost.
    callers: Option<HashMap<u64, (Vec<Known>, Sender)>>,
}

impl Link {
    /// Connects to a supervisor that is there.
    pub fn connect(layout: &Layout) -> io::Result<Self> {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        // Its path may be longer than a socket's address.
        let directory = File::open(&layout.run)?;
        let path = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), crate::protocol::SOCKET);
        connect_to(fd.as_raw_fd(), &UnixAddr::new(Path::new(&path))?)?;
        let waiting = Waiting { next: 0, callers: Some(HashMap::new()) };
        Ok(Self { socket: fd, waiting: Mutex::new(waiting) })
    }

    /// Sends a call; the answer comes when [`Link::receive`] has read it.
    fn send(&self, call: Call, fds: &[BorrowedFd<'_>]) -> Result<oneshot::Receiver<Result<Vec<Known>, String>>, Error> {
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut waiting = self.waiting.lock().expect("no panic while it is held");
            waiting.next += 1;
            let id = waiting.next;
            let callers = waiting.callers.as_mut().ok_or_else(lost)?;
            callers.insert(id, (Vec::new(), sender));
            id
        };
        let message = serde_json::to_vec(&Request { id, call }).map_err(|error| Error::Supervisor(error.into()))?;
        if let Err(error) = skiff_linux::socket::send(self.socket.as_fd(), &message, fds) {
            if let Some(callers) = &mut self.waiting.lock().expect("no panic while it is held").callers {
                callers.remove(&id);
            }
            return Err(Error::Supervisor(error));
        }
        Ok(receiver)
    }

    /// Calls and waits for the answer.
    pub async fn call(&self, operation: &'static str, call: Call, fds: &[BorrowedFd<'_>]) -> Result<Vec<Known>, Error> {
        let receiver = self.send(call, fds)?;
        let answer = receiver.await.map_err(|_| lost())?;
        answer.map_err(|why| Error::Failed { operation, why })
    }

    /// Calls before anybody reads: reads itself until the answer is there. What else comes goes to `events`.
    pub fn call_alone(
        &self,
        operation: &'static str,
        call: Call,
        events: &mut Vec<Event>,
    ) -> Result<Vec<Known>, Error> {
        self.wait_alone(operation, self.send(call, &[])?, events)
    }

    fn wait_alone(
        &self,
        operation: &'static str,
        mut receiver: oneshot::Receiver<Result<Vec<Known>, String>>,
        events: &mut Vec<Event>,
    ) -> Result<Vec<Known>, Error> {
        loop {
            match receiver.try_recv() {
                Ok(answer) => return answer.map_err(|why| Error::Failed { operation, why }),
                Err(oneshot::error::TryRecvError::Closed) => return Err(lost()),
                Err(oneshot::error::TryRecvError::Empty) => match self.receive() {
                    Ok(event) => events.extend(event),
                    Err(error) => return Err(Error::Supervisor(error)),
                },
            }
        }
    }

    /// Waits for the next message; `None` was a reply, which has found its caller. An error is the end of the link.
    pub fn receive(&self) -> io::Result<Option<Event>> {
        let mut buffer = vec![0; MAX_MESSAGE];
        let result = skiff_linux::socket::receive(self.socket.as_fd(), &mut buffer);
        let message = result.and_then(|(length, _)| {
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            serde_json::from_slice::<Message>(&buffer[..length]).map_err(io::Error::from)
        });
        match message {
            Ok(Message::Event(event)) => Ok(Some(event)),
            Ok(Message::Reply { id, result }) => {
                self.deliver(id, result);
                Ok(None)
            }
            Err(error) => {
                // Their senders are dropped with it: all callers hear of the loss.
                self.waiting.lock().expect("no panic while it is held").callers = None;
                Err(error)
            }
        }
    }

    fn deliver(&self, id: u64, result: Result<Answer, String>) {
        let mut waiting = self.waiting.lock().expect("no panic while it is held");
        let Some(callers) = &mut waiting.callers else { return };
        let result = match result {
            Ok(Answer::List { containers, more: true }) => {
                if let Some((parts, _)) = callers.get_mut(&id) {
                    parts.extend(containers);
                }
                return;
            }
            Ok(Answer::List { containers, more: false }) => Ok(containers),
            Ok(Answer::Done) => Ok(Vec::new()),
            Err(why) => Err(why),
        };
        if let Some((mut parts, sender)) = callers.remove(&id) {
            // The caller may have given up.
            drop(sender.send(result.map(|last| {
                parts.extend(last);
                parts
            })));
        }
    }

    /// Ends the link; [`Link::receive`] returns an error.
    pub fn close(&self) {
        let _ = nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

fn lost() -> Error {
    Error::Supervisor(io::Error::new(io::ErrorKind::ConnectionReset, "the connection to the supervisor is lost"))
}

/// What a supervisor that could not start said of it, without the time.
fn last_line(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    let (_, message) = text.lines().next_back()?.split_once(" supervisor: ")?;
    Some(message.to_owned())
}

/// A container that finds its way to /proc/self/exe of a runtime process must not be able to write to it.
fn own_executable() -> Option<OwnedFd> {
    let clone = read_only_clone(Path::new("/proc/self/exe"));
    clone.inspect_err(|error| warn!(%error, "the supervisor runs without a read-only view of its executable")).ok()
}

/// Has a supervisor of another build become this one, with everything that runs; one that is of this build stays as it is.
pub fn upgrade_supervisor(layout: &Layout) -> Result<(), Error> {
    let io_error = |source| Error::Io { operation: "upgrade the supervisor", source };
    let executable = match own_executable() {
        Some(fd) => fd,
        None => File::open("/proc/self/exe").map_err(io_error)?.into(),
    };
    // A connection of its own: a supervisor of an earlier version hangs up on a call that it does not know.
    let link = Link::connect(layout).map_err(Error::Supervisor)?;
    let limit = nix::sys::socket::setsockopt(&link.socket, nix::sys::socket::sockopt::ReceiveTimeout, &UPGRADE_LIMIT);
    limit.map_err(|errno| io_error(errno.into()))?;
    let answer = link.send(Call::Upgrade, &[executable.as_fd()])?;
    link.wait_alone("upgrade the supervisor", answer, &mut Vec::new()).map(drop)
}

/// Starts a supervisor and waits until it listens.
pub fn start_supervisor(layout: &Layout, cgroup_root: &str) -> Result<(Child, Link), Error> {
    let io_error = |source| Error::Io { operation: "start the supervisor", source };
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(layout.run.join("supervisor.log"));
    let log = log.map_err(io_error)?;
    let clone = own_executable();
    let program = match &clone {
        Some(fd) => format!("/proc/self/fd/{}", fd.as_raw_fd()),
        None => "/proc/self/exe".to_owned(),
    };
    let mut child = Command::new(program)
        .arg0("skiff")
        .arg("supervisor")
        .arg("--run-directory")
        .arg(&layout.run)
        .arg("--data-directory")
        .arg(&layout.data)
        .arg("--cgroup-root")
        .arg(cgroup_root)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(io_error)?;
    let until = Instant::now() + START_LIMIT;
    loop {
        match Link::connect(layout) {
            Ok(link) => return Ok((child, link)),
            Err(error) if Instant::now() > until => return Err(Error::Supervisor(error)),
            Err(error) => {
                if let Some(status) = child.try_wait().map_err(io_error)? {
                    let log = layout.run.join("supervisor.log");
                    // Another one may have been faster.
                    return Link::connect(layout).map(|link| (child, link)).map_err(|_| Error::Failed {
                        operation: "start the supervisor",
                        why: match last_line(&log) {
                            Some(line) => line,
                            None => format!("it ended with {status} ({error}); see {}", log.display()),
                        },
                    });
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
