//! Network namespaces that live as long as a file that they are mounted on.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, statfs};

use super::{Protocol, Socket, route};

/// Makes a network namespace with `lo` up, mounted on `path`. One that is there stays as it is; a
/// plain file (a crash between making and mounting) is used.
pub fn create(path: &Path) -> io::Result<()> {
    match is_namespace(path) {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o444).open(path)?;
        }
        Err(error) => return Err(error),
    }
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let mut socket = Socket::open(Protocol::Route)?;
        route::set_up(&mut socket, 1)?;
        mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    })
}

/// Takes the namespace off its file and removes the file; the kernel ends the namespace when its last
/// process is gone. One that is gone already is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            // Not, or no longer, a mount point.
            Err(nix::Error::EINVAL) => break,
            Err(nix::Error::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a namespace is mounted on `path`, rather than it being a plain file.
pub fn is_namespace(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == NSFS_MAGIC)
}

/// Runs `work` on a thread of its own inside the namespace at `path`. What it opens (sockets) stays in
/// that namespace, the calling thread stays where it is.
pub fn within<T: Send>(path: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(path)?;
    on_thread(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// Runs `work` on a thread that ends with it, so that what it does to its namespaces stays there.
fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).stack_size(256 * 1024);
        match thread.spawn_scoped(scope, work)?.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_made_once_and_goes_with_its_file() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("ns");
        // A plain file is what a crash leaves.
        std::fs::write(&path, b"").expect("writable");
        assert!(!is_namespace(&path).expect("there"));
        create(&path).expect("made");
        assert!(is_namespace(&path).expect("there"));
        let inode = |p: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(p).expect("there"));
        let first = inode(&path);
        create(&path).expect("idempotent");
        assert_eq!(inode(&path), first);

        let inside = within(&path, || Ok(inode(Path::new("/proc/thread-self/ns/net")))).expect("enters");
        assert_eq!(inside, first);
        assert_ne!(inode(Path::new("/proc/thread-self/ns/net")), first, "the caller did not move");
        let names = within(&path, || {
            let mut socket = Socket::open(Protocol::Route)?;
            Ok(route::links(&mut socket)?.into_iter().map(|l| (l.name, l.up)).collect::<Vec<_>>())
        });
        assert_eq!(names.expect("listed"), [("lo".to_owned(), true)]);

        remove(&path).expect("removed");
        assert!(!path.exists());
        remove(&path).expect("idempotent");
    }
}
