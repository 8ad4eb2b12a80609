//! Short-lived children of the supervisor, and how they answer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use skiff_linux::{process, socket};

/// What a child makes is its supervisor's to look after; without one nobody would hear of it, so they end together. The
/// kernel forgets this whenever the child becomes another user.
pub fn tie_to(supervisor: Pid) -> io::Result<()> {
    process::set_parent_death_signal(Signal::SIGKILL)?;
    match getppid() == supervisor {
        true => Ok(()),
        false => Err(io::Error::other("the supervisor is gone")),
    }
}

/// Forks a child that keeps only stdio and the descriptors given; it answers on the socket that comes back.
pub fn spawn(keep: &[BorrowedFd<'_>], work: impl FnOnce(BorrowedFd<'_>) -> i32) -> io::Result<(Pid, OwnedFd)> {
    let (ours, theirs) = socket::pair()?;
    let supervisor = Pid::this();
    let pid = process::fork(|| {
        if tie_to(supervisor).is_err() {
            return 1;
        }
        process::reset_signals();
        process::set_name(c"skiff-creator");
        let mut all = keep.to_vec();
        all.push(theirs.as_fd());
        // Sockets of agents and pipes of other containers are none of a child's business.
        if process::close_all_but(3, &all).is_err() {
            return 1;
        }
        work(theirs.as_fd())
    })?;
    nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    Ok((pid, ours))
}
