//! A program's streams in asynchronous hands: pipes, a terminal, or a socket that stands for one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use bytes::{Bytes, BytesMut};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;

/// What is read at once.
const READ: usize = 32 * 1024;

fn nonblocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(fd)
}

/// What a program writes.
pub(super) struct Output(pipe::Receiver);

/// What a program reads.
pub(super) struct Input(pipe::Sender);

/// A terminal as both.
pub(super) fn terminal(fd: OwnedFd) -> io::Result<(Input, Output)> {
    Ok((Input::new(fd.try_clone()?)?, Output::new(fd)?))
}

impl Output {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        // A terminal is no pipe, but is waited for and read in the same way.
        Ok(Self(pipe::Receiver::from_owned_fd_unchecked(nonblocking(fd)?)?))
    }

    /// Reads without waiting. `None`: nothing is there; empty: the end.
    pub(super) fn try_read(&self) -> io::Result<Option<Bytes>> {
        let mut buffer = BytesMut::zeroed(READ);
        loop {
            // The kernel itself is asked: the reactor may not have heard of the last bytes.
            match nix::unistd::read(self.0.as_fd(), &mut buffer) {
                Ok(length) => return Ok(Some(cut(buffer, length))),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                // A terminal whose last program has ended.
                Err(Errno::EIO) => return Ok(Some(Bytes::new())),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The next bytes; empty at the end.
    pub(super) async fn read(&self) -> io::Result<Bytes> {
        loop {
            self.0.readable().await?;
            let mut buffer = BytesMut::zeroed(READ);
            match self.0.try_read(&mut buffer) {
                Ok(length) => return Ok(cut(buffer, length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => return Ok(Bytes::new()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// What is short does not hold the whole buffer.
fn cut(mut buffer: BytesMut, length: usize) -> Bytes {
    if length < READ / 4 {
        return Bytes::copy_from_slice(&buffer[..length]);
    }
    buffer.truncate(length);
    buffer.freeze()
}

impl Input {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(pipe::Sender::from_owned_fd_unchecked(nonblocking(fd)?)?))
    }

    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }
}
