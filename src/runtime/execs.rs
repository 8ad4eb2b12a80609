//! Second processes in containers, as the agent sees them.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use skiff_linux::{process, socket};
use tokio::io::AsyncReadExt;
use uuid::Uuid;

use crate::protocol::{Call, ExecPlan, seal};
use crate::runtime::{Runtime, blocking, io};
use crate::state::ExecEntry;
use crate::{ContainerId, Error, ExecResult, ExecStreams};

/// More of a stream is read and dropped, so that the program goes on.
const MAX_OUTPUT: usize = 16 << 20;

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let (reader, writer) = std::io::pipe().map_err(io("create a pipe"))?;
    Ok((reader.into(), writer.into()))
}

fn null() -> Result<OwnedFd, Error> {
    std::fs::File::open("/dev/null").map(OwnedFd::from).map_err(io("open /dev/null"))
}

impl Runtime {
    async fn begin(&self, plan: &ExecPlan, fds: Vec<OwnedFd>) -> Result<(), Error> {
        if !self.inner.tables().containers.contains_key(&plan.container) {
            return Err(Error::ContainerNotFound(plan.container.clone()));
        }
        let sealed = seal(plan)?;
        let mut all = vec![sealed.as_fd()];
        all.extend(fds.iter().map(AsFd::as_fd));
        // Entered first: its end may be told before the answer is.
        self.inner.tables().execs.insert(plan.id.clone(), ExecEntry::default());
        let started = match self.inner.link() {
            Ok(link) => link.call("exec in container", Call::Exec, &all).await,
            Err(error) => Err(error),
        };
        if started.is_err() {
            self.inner.tables().execs.remove(&plan.id);
        }
        started.map(drop)
    }

    /// Runs a command to its end. At the timeout it is killed.
    pub async fn exec_sync(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecResult, Error> {
        let plan = ExecPlan {
            id: Uuid::new_v4().to_string(),
            container: id.0.clone(),
            args: command.to_vec(),
            tty: false,
            // The supervisor ends it also when this process is gone.
            timeout_ms: timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        };
        let (stdout, stdout_theirs) = pipe()?;
        let (stderr, stderr_theirs) = pipe()?;
        self.begin(&plan, vec![null()?, stdout_theirs, stderr_theirs]).await?;
        let mut stdout = Collector::new(stdout)?;
        let mut stderr = Collector::new(stderr)?;
        let finished = |tables: &mut crate::state::Tables| match tables.execs.get(&plan.id) {
            Some(ExecEntry { exit: None, .. }) => None,
            Some(ExecEntry { exit: Some(exit), .. }) => Some(*exit),
            None => Some((255, false)),
        };
        let exit = self.eventually(None, finished);
        tokio::pin!(exit);
        let (exit_code, timed_out) = loop {
            tokio::select! {
                exit = &mut exit => break exit.unwrap_or((255, false)),
                () = stdout.read_more(), if stdout.open => {}
                () = stderr.read_more(), if stderr.open => {}
            }
        };
        self.inner.tables().execs.remove(&plan.id);
        if timed_out {
            return Err(Error::Timeout("the command did not end in time"));
        }
        // What it wrote is in the pipes; what its own children may still write is not waited for.
        stdout.drain();
        stderr.drain();
        Ok(ExecResult { stdout: stdout.bytes, stderr: stderr.bytes, exit_code })
    }

    /// Runs a command with streams; [`Runtime::exec_wait`] gives its end.
    pub async fn exec(
        &self,
        id: &ContainerId,
        command: &[String],
        tty: bool,
        stdin: bool,
    ) -> Result<ExecStreams, Error> {
        let plan = ExecPlan {
            id: Uuid::new_v4().to_string(),
            container: id.0.clone(),
            args: command.to_vec(),
            tty,
            timeout_ms: None,
        };
        let mut streams = ExecStreams { id: plan.id.clone(), stdin: None, stdout: None, stderr: None, tty: None };
        if tty {
            let (ours, theirs) = socket::pair().map_err(io("create a socket"))?;
            self.begin(&plan, vec![theirs]).await?;
            let terminal = blocking(move || {
                let (_, mut fds) = socket::receive(ours.as_fd(), &mut [0; 64]).map_err(io("receive the terminal"))?;
                fds.pop().ok_or(Error::Failed { operation: "exec in container", why: "no terminal came".to_owned() })
            })
            .await?;
            let handle = terminal.try_clone().map_err(io("duplicate the terminal"))?;
            if let Some(entry) = self.inner.tables().execs.get_mut(&plan.id).filter(|entry| entry.exit.is_none()) {
                entry.terminal = Some(handle);
            }
            streams.tty = Some(terminal);
            return Ok(streams);
        }
        let (stdout, stdout_theirs) = pipe()?;
        let (stderr, stderr_theirs) = pipe()?;
        let stdin_theirs = if stdin {
            let (reader, writer) = pipe()?;
            streams.stdin = Some(writer);
            reader
        } else {
            null()?
        };
        self.begin(&plan, vec![stdin_theirs, stdout_theirs, stderr_theirs]).await?;
        (streams.stdout, streams.stderr) = (Some(stdout), Some(stderr));
        Ok(streams)
    }

    /// Waits for the end of an exec; its exit code. To be asked once.
    pub async fn exec_wait(&self, exec_id: &str) -> Result<i32, Error> {
        let finished = |tables: &mut crate::state::Tables| match tables.execs.get(exec_id) {
            Some(ExecEntry { exit: None, .. }) => None,
            Some(ExecEntry { exit: Some((code, _)), .. }) => Some(Some(*code)),
            None => Some(None),
        };
        let code = self.eventually(None, finished).await.flatten();
        self.inner.tables().execs.remove(exec_id);
        code.ok_or_else(|| Error::Failed { operation: "wait for exec", why: format!("exec {exec_id} is not known") })
    }

    /// Signals an exec.
    pub async fn signal_exec(&self, exec_id: &str, signal: i32) -> Result<(), Error> {
        let call = Call::SignalExec { id: exec_id.to_owned(), signal };
        self.inner.link()?.call("signal exec", call, &[]).await.map(drop)
    }

    /// Lets go of an exec's terminal: once its streams are dropped too, it is hung up.
    pub fn hang_up(&self, exec_id: &str) {
        if let Some(entry) = self.inner.tables().execs.get_mut(exec_id) {
            entry.terminal = None;
        }
    }

    /// Resizes the terminal of an exec or of a container.
    pub async fn resize(&self, exec_or_container: &str, width: u16, height: u16) -> Result<(), Error> {
        {
            let tables = self.inner.tables();
            if let Some(entry) = tables.execs.get(exec_or_container) {
                // Without a terminal, or after its end, there is nothing to resize.
                return entry.terminal.as_ref().map_or(Ok(()), |terminal| {
                    process::set_window_size(terminal.as_fd(), width, height).map_err(io("resize the terminal"))
                });
            }
        }
        let call = Call::Resize { id: exec_or_container.to_owned(), width, height };
        self.inner.link()?.call("resize the terminal", call, &[]).await.map(drop)
    }
}

/// Reads a stream up to the limit.
struct Collector {
    reader: tokio::net::unix::pipe::Receiver,
    bytes: Vec<u8>,
    open: bool,
}

impl Collector {
    fn new(fd: OwnedFd) -> Result<Self, Error> {
        let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(fd).map_err(io("read the output"))?;
        Ok(Self { reader, bytes: Vec::new(), open: true })
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_OUTPUT.saturating_sub(self.bytes.len()).min(bytes.len());
        self.bytes.extend_from_slice(&bytes[..room]);
    }

    async fn read_more(&mut self) {
        let mut buffer = [0; 16 * 1024];
        match self.reader.read(&mut buffer).await {
            Ok(length) if length > 0 => self.keep(&buffer[..length]),
            _ => self.open = false,
        }
    }

    /// Takes what is there. Asked of the kernel itself: the reactor may not have heard of it yet.
    fn drain(&mut self) {
        let mut buffer = [0; 16 * 1024];
        let mut left = MAX_OUTPUT;
        while self.open && left > 0 {
            match nix::unistd::read(&self.reader, &mut buffer) {
                Ok(length) if length > 0 => {
                    self.keep(&buffer[..length]);
                    left = left.saturating_sub(length);
                }
                Err(nix::errno::Errno::EINTR) => {}
                _ => self.open = false,
            }
        }
    }
}
