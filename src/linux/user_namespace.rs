//! Making user namespaces.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sched::CloneFlags;
use nix::unistd::Pid;

use crate::{process, socket};

/// The longest error that comes from inside.
const MAX_MESSAGE: usize = 4096;

/// Makes a user namespace whose ids from 0 on are `length` ids of the caller's from `first` on, and what `inside` makes
/// as its root. `outside` runs in the caller, which may join or pin what the process that it is given has: afterwards
/// that process ends.
///
/// Single-threaded callers only.
pub fn make(
    first: u32,
    length: u32,
    inside: impl FnOnce() -> io::Result<()>,
    outside: impl FnOnce(Pid) -> io::Result<()>,
) -> io::Result<()> {
    let (ours, theirs) = socket::pair()?;
    let holder = process::fork(|| {
        // It ends when the other end closes, so it must not have that one, too.
        let closed = process::close_all_but(3, &[theirs.as_fd()]);
        i32::from(closed.and_then(|()| hold(theirs.as_fd(), inside)).is_err())
    })?;
    drop(theirs);
    let done = map(ours.as_fd(), holder, first, length).and_then(|()| outside(holder));
    drop(ours);
    nix::sys::wait::waitpid(holder, None)?;
    done
}

fn map(holder_end: BorrowedFd<'_>, holder: Pid, first: u32, length: u32) -> io::Result<()> {
    expect(holder_end)?;
    let map = format!("0 {first} {length}");
    for file in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{holder}/{file}"), &map)?;
    }
    socket::send(holder_end, b".", &[])?;
    expect(holder_end)
}

/// Waits for the next word: a dot, or what went wrong.
fn expect(end: BorrowedFd<'_>) -> io::Result<()> {
    let mut buffer = [0; MAX_MESSAGE];
    let (length, _) = socket::receive(end, &mut buffer)?;
    match &buffer[..length] {
        b"." => Ok(()),
        b"" => Err(io::Error::other("the process in the user namespace is gone")),
        error => Err(io::Error::other(String::from_utf8_lossy(error).into_owned())),
    }
}

fn hold(end: BorrowedFd<'_>, inside: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let tell = |result: io::Result<()>| {
        let text = result.err().map_or_else(|| ".".to_owned(), |error| error.to_string());
        let bytes = text.as_bytes();
        socket::send(end, &bytes[..bytes.len().min(MAX_MESSAGE)], &[])
    };
    tell(nix::sched::unshare(CloneFlags::CLONE_NEWUSER).map_err(io::Error::from))?;
    expect(end)?;
    tell(become_root().and_then(|()| inside()))?;
    // Nobody says more: this returns when the other end closes.
    expect(end)
}

/// Who has just come into a user namespace is still the user from outside, whom it does not know.
pub fn become_root() -> io::Result<()> {
    process::set_identity(0, 0, &[])
}
