//! Bytes on their way between a container and whoever is attached to it, never waiting.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::{Deserialize, Serialize};

use super::carry;

/// The most that is kept for a listener that does not read.
const MAX_PENDING: usize = 1 << 20;

pub fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// What reading gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Got {
    Bytes(usize),
    /// Nothing now.
    Nothing,
    End,
}

/// Reads once without waiting.
pub fn read(mut file: &File, buffer: &mut [u8]) -> Got {
    match file.read(buffer) {
        Ok(0) => Got::End,
        Ok(length) => Got::Bytes(length),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Got::Nothing,
        // A terminal whose last slave is closed says EIO.
        Err(_) => Got::End,
    }
}

/// An output that keeps what does not go at once.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sink {
    #[serde(with = "carry")]
    pub file: File,
    pending: Vec<u8>,
    /// To be closed when all is written.
    pub closing: bool,
}

/// How a write went.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrote {
    All,
    /// Call [`Sink::flush`] when it can be written again.
    Kept,
    /// The other end is gone or too slow: drop it.
    Lost,
}

impl Sink {
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        nonblocking(&fd)?;
        Ok(Self { file: File::from(fd), pending: Vec::new(), closing: false })
    }

    /// Bytes that are kept.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    pub fn write(&mut self, bytes: &[u8]) -> Wrote {
        if self.pending.len() + bytes.len() > MAX_PENDING {
            return Wrote::Lost;
        }
        self.pending.extend_from_slice(bytes);
        self.flush()
    }

    pub fn flush(&mut self) -> Wrote {
        while !self.pending.is_empty() {
            match self.file.write(&self.pending) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Wrote::Kept,
                Err(_) => return Wrote::Lost,
            }
        }
        self.pending = Vec::new();
        Wrote::All
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_is_kept_for_and_then_lost() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let mut sink = Sink::new(writer.into()).expect("a sink");
        let chunk = vec![b'x'; 100_000];
        assert_eq!(sink.write(&chunk), Wrote::Kept);
        let mut got = vec![0; 65_536];
        reader.read_exact(&mut got).expect("read");
        assert_eq!(sink.flush(), Wrote::All);
        let mut last = Wrote::All;
        for _ in 0..20 {
            last = sink.write(&chunk);
        }
        assert_eq!(last, Wrote::Lost);
    }
}
