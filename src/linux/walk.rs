//! A way through a tree of files that others may change meanwhile: by descriptors, and through no link.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, fstat};

/// Opens a directory, and no link to one.
pub const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const ANYTHING: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Deeper than anybody nests volumes, and not as deep as a container can.
const MAX_DEPTH: usize = 500;

/// What is done with each file, which is open as no more than a place (`O_PATH`).
pub type Visit<'a> = dyn FnMut(&OwnedFd, &FileStat) -> io::Result<()> + 'a;

/// Visits a file, or all that is in a directory and then the directory itself; what goes away meanwhile is no error.
/// `one_file_system`: nothing that is mounted in it.
pub fn visit(path: &Path, one_file_system: bool, visit: &mut Visit<'_>) -> io::Result<()> {
    let file = open(path, ANYTHING, Mode::empty())?;
    let device = one_file_system.then_some(fstat(&file)?.st_dev);
    below(&file, device, 0, visit)
}

fn below(file: &OwnedFd, device: Option<u64>, depth: usize, visit: &mut Visit<'_>) -> io::Result<()> {
    let meta = fstat(file)?;
    if device.is_some_and(|device| device != meta.st_dev) {
        return Ok(());
    }
    if meta.st_mode & libc::S_IFMT != libc::S_IFDIR {
        return visit(file, &meta);
    }
    if depth == MAX_DEPTH {
        return Err(io::Error::other("directories are nested too deep"));
    }
    for name in names(file)? {
        match openat(file, name.as_os_str(), ANYTHING, Mode::empty()) {
            Ok(entry) => below(&entry, device, depth + 1, visit)?,
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    visit(file, &fstat(file)?)
}

/// The names in a directory.
pub fn names(directory: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    // One of its own: the place in the listing belongs to the open file.
    for entry in Dir::from_fd(openat(directory, ".", DIRECTORY, Mode::empty())?)?.iter() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}
