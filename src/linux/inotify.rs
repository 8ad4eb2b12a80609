//! Word of changes to files, without asking again and again.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A queue of changes in watched directories. It becomes readable when there is one; what changed is for the
/// reader to find out.
#[derive(Debug)]
pub struct Inotify {
    file: File,
}

impl Inotify {
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above made this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { file: File::from(fd) })
    }

    /// Tells of files in `directory` that are written to, made, renamed or removed.
    pub fn watch_directory(&self, directory: &Path) -> io::Result<()> {
        let path = CString::new(directory.as_os_str().as_bytes()).map_err(io::Error::other)?;
        let mask = libc::IN_MODIFY | libc::IN_CREATE | libc::IN_MOVED_TO | libc::IN_MOVED_FROM | libc::IN_DELETE;
        // SAFETY: `path` is a string that ends with NUL and lives until the call returns.
        let watch = unsafe { libc::inotify_add_watch(self.file.as_raw_fd(), path.as_ptr(), mask | libc::IN_ONLYDIR) };
        if watch < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// A queue for one directory.
    pub fn follow(directory: &Path) -> io::Result<AsyncFd<Self>> {
        let inotify = Self::new()?;
        inotify.watch_directory(directory)?;
        inotify.into_async()
    }

    /// Waits for a change; all that have come are one.
    pub async fn changed(followed: &AsyncFd<Self>) -> io::Result<()> {
        loop {
            let mut ready = followed.readable().await?;
            ready.clear_ready();
            if ready.get_inner().drain()? {
                return Ok(());
            }
        }
    }

    /// Waits for changes on the runtime of the calling task.
    fn into_async(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is owned by the queue, never replaced, and closed only when it is dropped.
        unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }.map_err(io::Error::from)
    }

    /// Forgets the changes up to now; true where there was one.
    pub fn drain(&self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let mut any = false;
        loop {
            match (&self.file).read(&mut buffer) {
                Ok(0) => return Ok(any),
                Ok(_) => any = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(any),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Inotify {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_of_changes() {
        let directory = std::env::temp_dir().join(format!("skiff-inotify-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let inotify = Inotify::new().expect("an inotify instance");
        inotify.watch_directory(&directory).expect("watched");
        assert!(!inotify.drain().expect("quiet"));
        std::fs::write(directory.join("a"), "1").expect("written");
        assert!(inotify.drain().expect("told"));
        assert!(!inotify.drain().expect("quiet again"));
        assert!(inotify.watch_directory(&directory.join("a")).is_err());
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
