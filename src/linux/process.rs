//! Processes: fork, pidfd, namespaces, identities, capabilities.
//!
//! Everything here that changes the calling process is meant for a single-threaded one: the supervisor and
//! what it forks. [`fork`] refuses in a process with threads, so that nobody forks a tokio runtime by mistake.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sched::CloneFlags;
use nix::unistd::Pid;

use crate::capability::CapabilitySet;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The number of threads of this process.
pub fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Forks; the child runs `child` and exits with what it returns (101 after a panic).
///
/// Fails in a process with more than one thread.
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    if thread_count()? != 1 {
        return Err(io::Error::other("fork in a process with threads"));
    }
    // SAFETY: the process has one thread, so the child has a whole copy of every lock and of the allocator.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => run_child(child),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// Forks a child whose parent is the parent of the caller, so that the parent can reap it.
///
/// Single-threaded callers only, as they come out of [`fork`].
pub fn fork_sibling(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: without CLONE_VM this is a fork; the caller is single-threaded, and with a null stack the child goes on
    // with a copy of the caller's.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT | libc::SIGCHLD, 0, 0, 0, 0) };
    match check(pid)? {
        0 => run_child(child),
        pid => Ok(Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?)),
    }
}

fn run_child(child: impl FnOnce() -> i32) -> ! {
    let code = catch_unwind(AssertUnwindSafe(child)).unwrap_or(101);
    // SAFETY: _exit has no preconditions; destructors and exit handlers belong to the parent.
    unsafe { libc::_exit(code) }
}

/// A descriptor of the process, close-on-exec.
pub fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: plain integers in, a new descriptor out.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) })
}

/// Sends a signal to exactly that process.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0, 0) })?;
    Ok(())
}

/// Joins the namespaces of the process behind `pidfd`.
pub fn setns(pidfd: BorrowedFd<'_>, namespaces: CloneFlags) -> io::Result<()> {
    nix::sched::setns(pidfd, namespaces).map_err(io::Error::from)
}

/// Closes every descriptor from `first` on but `keep`.
pub fn close_all_but(first: i32, keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut keep: Vec<i32> = keep.iter().map(|fd| fd.as_raw_fd()).filter(|fd| *fd >= first).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut from = first;
    for fd in keep {
        if fd > from {
            close_range(from, fd - 1)?;
        }
        from = fd + 1;
    }
    close_range(from, i32::MAX)
}

fn close_range(first: i32, last: i32) -> io::Result<()> {
    // SAFETY: the callers are forked children that leave without running destructors, so no owner will close again.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
    Ok(())
}

/// Marks all descriptors from `first` on close-on-exec.
pub fn cloexec_from(first: i32) -> io::Result<()> {
    // SAFETY: changes flags only.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, i32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Lets the next program that this process executes have every descriptor from `first` on but `except`;
/// [`cloexec_from`] takes that back.
pub fn pass_on_all_but(first: i32, except: &[BorrowedFd<'_>]) -> io::Result<()> {
    let names = std::fs::read_dir("/proc/self/fd")?.map(|entry| Ok(entry?.file_name()));
    let names = names.collect::<io::Result<Vec<_>>>()?;
    let numbers = names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok());
    for number in numbers.filter(|number| *number >= first && except.iter().all(|fd| fd.as_raw_fd() != *number)) {
        // SAFETY: changes a flag only; a number that is not open any more (the directory's) is an error without effect.
        unsafe { libc::fcntl(number, libc::F_SETFD, 0) };
    }
    Ok(())
}

/// Makes `fd` the descriptor number `target` (0, 1 or 2) of this process.
pub fn replace_stdio(fd: BorrowedFd<'_>, target: i32) -> io::Result<()> {
    // SAFETY: stdio descriptors have no owner in Rust.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target) }.into())?;
    Ok(())
}

/// All signals at their defaults and none blocked, as a new program expects them.
pub fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition; errors (SIGKILL, SIGSTOP, those kept by libc) change nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let none = nix::sys::signal::SigSet::empty();
    // Cannot fail with a valid set.
    let _ = none.thread_set_mask();
}

/// Sets the name that `ps` shows.
pub fn set_name(name: &CStr) {
    let _ = nix::sys::prctl::set_name(name);
}

/// The signal that this process gets when its parent ends.
pub fn set_parent_death_signal(signal: nix::sys::signal::Signal) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(signal).map_err(io::Error::from)
}

/// Gives this process and what comes of it a ring of session keys of its own, empty; else it has that of whoever
/// started us. Nothing where the kernel has no keys, or lets nobody here use them.
pub fn leave_session_keys() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: without a name (a null pointer) the new ring is nobody else's.
    match check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0, 0, 0, 0) }) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        result => result.map(drop),
    }
}

/// Which ring of session keys this process has.
pub fn session_keys() -> io::Result<i64> {
    const GET_KEYRING_ID: libc::c_long = 0;
    const OF_SESSION: libc::c_long = -3;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_keyctl, GET_KEYRING_ID, OF_SESSION, 0, 0, 0) })
}

/// Children get no more privileges by executing something.
pub fn set_no_new_privileges() -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs().map_err(io::Error::from)
}

/// Hides this process' /proc files from others of the same user.
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    nix::sys::prctl::set_dumpable(dumpable).map_err(io::Error::from)
}

/// Becomes the user, keeping the permitted capabilities for [`set_capabilities`] to cut.
pub fn set_identity(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: the slice is valid for the call; gid_t is u32.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    prctl(libc::PR_SET_KEEPCAPS, 1)?;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    prctl(libc::PR_SET_KEEPCAPS, 0)?;
    let permitted = capget()?;
    capset(permitted, permitted, CapabilitySet::EMPTY)
}

/// What this process makes in file systems is that user's from now on; its capabilities stay.
pub fn own_files_as(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: plain integers; both give back the id before, never an error.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
    }
    // A user that is not root loses those that concern files.
    let permitted = capget()?;
    capset(permitted, permitted, CapabilitySet::EMPTY)
}

/// Drops every capability that is not in `keep` from the bounding set.
pub fn limit_bounding_set(keep: CapabilitySet) -> io::Result<()> {
    for capability in 0..=crate::capability::LAST {
        if !keep.contains(capability) {
            match prctl(libc::PR_CAPBSET_DROP, u64::from(capability)) {
                // The kernel knows fewer capabilities than we do.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
                other => other?,
            }
        }
    }
    Ok(())
}

/// Sets permitted and effective capabilities (as far as they are permitted now) and empties the inheritable and
/// ambient ones.
pub fn set_capabilities(set: CapabilitySet) -> io::Result<()> {
    let possible = set.intersection(capget()?);
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64)?;
    // A user that is not root gets its capabilities at execve only from files: what upstream does.
    capset(possible, possible, CapabilitySet::EMPTY)
}

/// What this process may take.
pub fn permitted_capabilities() -> io::Result<CapabilitySet> {
    capget()
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAP_VERSION_3: u32 = 0x2008_0522;

fn capget() -> io::Result<CapabilitySet> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 reads one header and writes two data structures.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    Ok(CapabilitySet::from_bits(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32))
}

fn capset(permitted: CapabilitySet, effective: CapabilitySet, inheritable: CapabilitySet) -> io::Result<()> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let half = |shift: u32| CapData {
        effective: (effective.bits() >> shift) as u32,
        permitted: (permitted.bits() >> shift) as u32,
        inheritable: (inheritable.bits() >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads one header and two data structures.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    Ok(())
}

fn prctl(option: i32, argument: u64) -> io::Result<()> {
    // SAFETY: the options used here take integers.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, argument, 0, 0, 0) })?;
    Ok(())
}

/// Sets both limits of a resource, no higher than the hard limit that this process may not raise.
pub fn set_limit_clamped(resource: nix::sys::resource::Resource, soft: u64, hard: u64) -> io::Result<()> {
    let (_, most) = nix::sys::resource::getrlimit(resource)?;
    match nix::sys::resource::setrlimit(resource, soft.min(hard), hard) {
        Ok(()) => Ok(()),
        Err(nix::errno::Errno::EPERM) => {
            Ok(nix::sys::resource::setrlimit(resource, soft.min(hard).min(most), hard.min(most))?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes the terminal the controlling one of this session.
pub fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }.into())?;
    Ok(())
}

/// Resizes a terminal.
pub fn set_window_size(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into())?;
    Ok(())
}

/// Opens a new pseudo terminal of the /dev that this process sees: (master, slave).
pub fn open_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let pair = nix::pty::openpty(None, None)?;
    Ok((pair.master, pair.slave))
}

/// The descriptor with this number, which the parent left open for this process.
///
/// Fails if there is none.
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD has no effect.
    check(unsafe { libc::fcntl(number, libc::F_GETFD) }.into())?;
    // SAFETY: it is open, and by contract the parent meant it for the caller, which asks once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A descriptor that something else in this process owns, lent for one call by its number.
#[derive(Debug)]
pub struct Lent(i32);

impl AsFd for Lent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `lend` saw it open; a loop that keeps its descriptors in tables uses it before it closes it.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

/// Lends an open descriptor.
pub fn lend(number: i32) -> io::Result<Lent> {
    // SAFETY: F_GETFD has no effect.
    check(unsafe { libc::fcntl(number, libc::F_GETFD) }.into())?;
    Ok(Lent(number))
}

/// Brings the loopback interface of this network namespace up.
pub fn loopback_up() -> io::Result<()> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fork_is_refused_with_threads() {
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || receive.recv());
        assert!(fork(|| 0).is_err());
        drop(send);
        assert!(thread.join().expect("the thread ends").is_err());
    }
}
