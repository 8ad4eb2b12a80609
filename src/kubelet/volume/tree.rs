//! Directories of pods: mounts in them, who owns them, and their end. A crash at any moment leaves something that
//! the next run of the same function finishes.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, openat, renameat};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, fchownat, unlinkat};
use skiff_linux::mount::ensure_unmounted_below;
use skiff_linux::walk::{self, DIRECTORY, names};

/// Creates a directory and its parents.
pub(crate) fn ensure_directory(path: &Path, mode: u32) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        _ => fs::create_dir_all(path)?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Mounts an empty file system in memory, the group's if there is one, unless it is there already.
pub(crate) fn ensure_tmpfs(path: &Path, size_bytes: Option<i64>, group: Option<u32>) -> io::Result<()> {
    ensure_memory(path, "tmpfs", group, size_bytes.map(|size| format!("size={size}")))
}

/// The same of pages of that size, which have to be set aside.
pub(crate) fn ensure_huge_pages(path: &Path, page_bytes: u64, group: Option<u32>) -> io::Result<()> {
    ensure_memory(path, "hugetlbfs", group, Some(format!("pagesize={page_bytes}")))
}

fn ensure_memory(path: &Path, kind: &str, group: Option<u32>, option: Option<String>) -> io::Result<()> {
    ensure_directory(path, 0o755)?;
    if is_mount_point(path)? {
        return Ok(());
    }
    let owner = group.map_or_else(|| "mode=0777".to_owned(), |group| format!("mode=2777,gid={group}"));
    let options = option.into_iter().fold(owner, |all, more| format!("{all},{more}"));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let mounted = |options: &str| mount(Some(kind), path, Some(kind), flags, Some(options));
    // What is in memory goes to no disk, where the kernel (from 6.4 on) can promise it.
    match mounted(&format!("{options},noswap")) {
        Err(Errno::EINVAL) => Ok(mounted(&options)?),
        other => Ok(other?),
    }
}

/// Makes an empty directory for everybody, the group's if there is one. One that is there is the containers' own business.
pub(crate) fn ensure_empty_directory(path: &Path, group: Option<u32>) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    // Whole or not at all: a crash must not leave one that is not the group's.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    ensure_directory(Path::new(&fresh), 0o777)?;
    if let Some(group) = group {
        give_to_group(Path::new(&fresh), group)?;
    }
    fs::rename(fresh, path)
}

pub(crate) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let (own, parent) = (fs::symlink_metadata(path)?, fs::symlink_metadata(path.join(".."))?);
    Ok(own.dev() != parent.dev())
}

pub(crate) fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>).map_err(io::Error::from)
}

/// Removes a directory with all that it holds on its own file system; what is mounted in it is unmounted first, and
/// never entered. A directory that is not there is fine.
pub(crate) fn remove_tree(directory: &Path) -> io::Result<()> {
    let device = match fs::symlink_metadata(directory) {
        Ok(_) => {
            ensure_unmounted_below(directory)?;
            fs::symlink_metadata(directory)?.dev()
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if !fs::symlink_metadata(directory)?.is_dir() {
        return fs::remove_file(directory);
    }
    let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else {
        return Err(io::Error::other(format!("{} has no name", directory.display())));
    };
    let (parent, top) = (fs::File::open(parent)?, fs::File::open(directory)?);
    // Not the names of an attempt that failed.
    let stamp = skiff_base::time::now().as_nanosecond();
    Removal { top: top.into(), device, stamp, moved: 0 }.remove(parent.as_fd(), name, 0)
}

/// What is deeper than this is moved up first: a container may nest directories until no stack suffices.
const MAX_DEPTH: usize = 50;

/// Goes by descriptors and follows no link: whoever can write in the tree may put one anywhere at any moment.
struct Removal {
    top: OwnedFd,
    device: u64,
    stamp: i128,
    moved: u64,
}

impl Removal {
    fn remove(&mut self, parent: BorrowedFd<'_>, name: &OsStr, depth: usize) -> io::Result<()> {
        let directory = openat(parent, name, DIRECTORY, Mode::empty())?;
        if fstat(&directory)?.st_dev != self.device {
            return Err(io::Error::other(format!("{} is a foreign mount, it is left alone", name.display())));
        }
        // What is moved to the top comes up there once more.
        loop {
            let before = self.moved;
            for name in names(&directory)? {
                match unlinkat(&directory, name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
                    Ok(()) | Err(Errno::ENOENT) => {}
                    Err(Errno::EISDIR) if depth < MAX_DEPTH => self.remove(directory.as_fd(), &name, depth + 1)?,
                    Err(Errno::EISDIR) => {
                        self.moved += 1;
                        let moved = format!("..removed-{}-{}", self.stamp, self.moved);
                        renameat(&directory, name.as_os_str(), &self.top, moved.as_str())?;
                    }
                    Err(errno) => return Err(errno.into()),
                }
            }
            if depth > 0 || self.moved == before {
                return Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?);
            }
        }
    }
}

/// Gives a volume to a group: everything in it is readable and writable for the group, and new files stay with it. A
/// directory becomes the group's after what is in it: one that is, is so in whole. By descriptors: a container that has
/// the volume already may change what has which name while we look.
pub(crate) fn give_to_group(path: &Path, group: u32) -> io::Result<()> {
    walk::visit(path, false, &mut |file, meta| {
        fchownat(file, "", None, Some(group.into()), AtFlags::AT_EMPTY_PATH)?;
        let (kind, mode) = (meta.st_mode & libc::S_IFMT, meta.st_mode & 0o7777);
        if kind == libc::S_IFLNK {
            return Ok(());
        }
        let more = if kind == libc::S_IFDIR { 0o2770 } else { 0o660 };
        fs::set_permissions(format!("/proc/self/fd/{}", file.as_raw_fd()), fs::Permissions::from_mode(mode | more))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_of_the_size_that_is_asked_for() {
        let directory = tempfile::tempdir().expect("a directory");
        for size in skiff_linux::cgroup::huge_pages().into_keys() {
            let path = directory.path().join(size.to_string());
            ensure_huge_pages(&path, size, Some(3000)).expect("mounted (needs root)");
            ensure_huge_pages(&path, size, Some(3000)).expect("there already");
            assert_eq!(fs::metadata(&path).expect("metadata").gid(), 3000);
            let found = nix::sys::statfs::statfs(&path).expect("a file system").block_size();
            assert_eq!(u64::try_from(found).ok(), Some(size));
        }
        assert!(ensure_huge_pages(&directory.path().join("odd"), 12_345, None).is_err());
        ensure_unmounted_below(directory.path()).expect("unmounted");
    }

    #[test]
    fn removes_its_own_and_spares_what_was_mounted() {
        let directory = tempfile::tempdir().expect("a directory");
        let (pod, other) = (directory.path().join("pod"), directory.path().join("other"));
        fs::create_dir_all(pod.join("volumes/host")).expect("directories");
        fs::create_dir_all(&other).expect("a directory");
        fs::write(other.join("precious"), "1").expect("a file");
        fs::write(pod.join("volumes/file"), "1").expect("a file");
        std::os::unix::fs::symlink(&other, pod.join("link")).expect("a link");
        ensure_tmpfs(&pod.join("volumes/memory"), Some(1 << 20), Some(3000)).expect("a tmpfs (needs root)");
        let memory = fs::metadata(pod.join("volumes/memory")).expect("metadata");
        assert_eq!((memory.gid(), memory.mode() & 0o7777), (3000, 0o2777));
        fs::write(pod.join("volumes/memory/x"), "").expect("a file");
        ensure_tmpfs(&pod.join("volumes/memory"), Some(1 << 20), Some(3000)).expect("idempotent");
        assert!(pod.join("volumes/memory/x").exists(), "mounted once");
        let plain = pod.join("plain");
        fs::create_dir(&plain).expect("a directory");
        // A kernel that knows the option has it in the table.
        if mount(Some("tmpfs"), &plain, Some("tmpfs"), MsFlags::empty(), Some("noswap")).is_ok() {
            let table = fs::read_to_string("/proc/self/mountinfo").expect("the table");
            let line = table.lines().find(|line| line.contains(&*pod.join("volumes/memory").to_string_lossy()));
            assert!(line.is_some_and(|line| line.contains("noswap")), "{line:?}");
        }
        fs::write(pod.join("volumes/memory/x"), "1").expect("a file");
        bind(&other, &pod.join("volumes/host")).expect("a bind mount");
        remove_tree(&pod).expect("removed");
        assert!(!pod.exists());
        assert_eq!(fs::read_to_string(other.join("precious")).expect("spared"), "1");
        remove_tree(&pod).expect("idempotent");
    }

    #[test]
    fn removes_what_no_path_leads_to() {
        use nix::fcntl::{AtFlags, OFlag, openat};
        use nix::sys::stat::{Mode, fstatat, mkdirat};
        let directory = tempfile::tempdir().expect("a directory");
        let pod = directory.path().join("pod");
        fs::create_dir(&pod).expect("a directory");
        let mut at = std::os::fd::OwnedFd::from(fs::File::open(&pod).expect("opened"));
        let name = "d".repeat(100);
        for _ in 0..300 {
            mkdirat(&at, name.as_str(), Mode::S_IRWXU).expect("a directory");
            fstatat(&at, name.as_str(), AtFlags::empty()).expect("there");
            at = openat(&at, name.as_str(), OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).expect("opened");
        }
        remove_tree(&pod).expect("removed");
        assert!(!pod.exists());
    }

    #[test]
    fn gives_volumes_to_a_group() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("f"), "1").expect("a file");
        fs::set_permissions(directory.path().join("f"), fs::Permissions::from_mode(0o600)).expect("a mode");
        give_to_group(directory.path(), 3000).expect("given");
        let file = fs::metadata(directory.path().join("f")).expect("metadata");
        assert_eq!((file.gid(), file.mode() & 0o777), (3000, 0o660));
        let own = fs::metadata(directory.path()).expect("metadata");
        assert_eq!((own.gid(), own.mode() & 0o2070), (3000, 0o2070));
    }

    /// Calls `attempt` while what is at `path` is in turn what `real` makes there and a link to `outside`.
    fn while_it_turns(path: &Path, outside: &Path, real: impl Fn(&Path) + Sync, mut attempt: impl FnMut()) {
        let stop = std::sync::atomic::AtomicBool::new(false);
        let (one, other) = (path.with_extension("one"), path.with_extension("other"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    // What fails has been removed meanwhile.
                    if fs::symlink_metadata(&one).is_err() {
                        real(&one);
                    }
                    drop(std::os::unix::fs::symlink(outside, &other));
                    for fresh in [&one, &other] {
                        let _ = nix::fcntl::renameat2(
                            nix::fcntl::AT_FDCWD,
                            fresh,
                            nix::fcntl::AT_FDCWD,
                            path,
                            nix::fcntl::RenameFlags::RENAME_EXCHANGE,
                        );
                    }
                }
            });
            (0..500).for_each(|_| attempt());
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn a_volume_that_changes_under_our_hands_leads_nowhere() {
        let directory = tempfile::tempdir().expect("a directory");
        let (volume, outside) = (directory.path().join("volume"), directory.path().join("outside"));
        for path in [&volume, &outside] {
            fs::create_dir(path).expect("a directory");
        }
        fs::write(outside.join("secret"), "").expect("a file");
        fs::set_permissions(outside.join("secret"), fs::Permissions::from_mode(0o600)).expect("a mode");
        let file = volume.join("file");
        fs::write(&file, "").expect("a file");
        while_it_turns(
            &file,
            &outside.join("secret"),
            |at| drop(fs::write(at, "")),
            || drop(give_to_group(&volume, 3000)),
        );
        let inner = volume.join("inner");
        fs::create_dir(&inner).expect("a directory");
        while_it_turns(&inner, &outside, |at| drop(fs::create_dir(at)), || drop(give_to_group(&volume, 3000)));
        let meta = fs::metadata(outside.join("secret")).expect("metadata");
        assert_eq!((meta.gid(), meta.mode() & 0o7777), (0, 0o600), "a file outside was given away");

        let tree = volume.join("tree");
        while_it_turns(
            &inner,
            &outside,
            |at| drop(fs::create_dir(at)),
            || {
                drop(fs::create_dir(&tree));
                drop(fs::rename(&inner, tree.join("inner")));
                drop(remove_tree(&tree));
                drop(fs::create_dir(&inner));
            },
        );
        while_it_turns(&inner, &outside, |at| drop(fs::create_dir(at)), || drop(remove_tree(&inner)));
        assert!(outside.join("secret").exists(), "a file outside was removed");
    }
}
