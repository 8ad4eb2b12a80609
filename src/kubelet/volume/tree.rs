//! Directories of pods: mounts in them, who owns them, and their end. A crash at any moment leaves something that
//! the next run of the same function finishes.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Creates a directory and its parents.
pub(crate) fn ensure_directory(path: &Path, mode: u32) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        _ => fs::create_dir_all(path)?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Mounts an empty file system in memory, unless it is there already.
/// True where it is new, and empty.
pub(crate) fn ensure_tmpfs(path: &Path, size_bytes: Option<i64>) -> io::Result<bool> {
    ensure_directory(path, 0o755)?;
    if is_mount_point(path)? {
        return Ok(false);
    }
    let options = match size_bytes {
        Some(size) => format!("mode=0777,size={size}"),
        None => "mode=0777".to_owned(),
    };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str())).map_err(io::Error::from)?;
    Ok(true)
}

/// The same of pages of that size, which have to be set aside; `mode` and the like are set as on any directory.
pub(crate) fn ensure_huge_pages(path: &Path, page_bytes: u64) -> io::Result<bool> {
    ensure_directory(path, 0o755)?;
    if is_mount_point(path)? {
        return Ok(false);
    }
    let options = format!("mode=0777,pagesize={page_bytes}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("hugetlbfs"), path, Some("hugetlbfs"), flags, Some(options.as_str())).map_err(io::Error::from)?;
    Ok(true)
}

pub(crate) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let (own, parent) = (fs::symlink_metadata(path)?, fs::symlink_metadata(path.join(".."))?);
    Ok(own.dev() != parent.dev())
}

pub(crate) fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>).map_err(io::Error::from)
}

/// Mount points at and below a directory, deepest first.
fn mounts_below(directory: &Path, mount_info: &[u8]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = mount_info
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(|field| PathBuf::from(std::ffi::OsString::from_vec(unescape(field))))
        .filter(|point| point.starts_with(directory))
        .collect();
    // A later mount may lie on top of an earlier one at the same place.
    found.reverse();
    found.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    found
}

/// The kernel writes blanks, tabs, newlines and backslashes as octal.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| tail.get(..3)).flatten();
        let code = octal.and_then(|o| std::str::from_utf8(o).ok()).and_then(|o| u8::from_str_radix(o, 8).ok());
        match code {
            Some(code) => {
                out.push(code);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

/// Takes every mount at and below `directory` away; what they show stays as it is.
pub(crate) fn unmount_below(directory: &Path) -> io::Result<()> {
    for point in mounts_below(directory, &fs::read("/proc/self/mountinfo")?) {
        match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(e) => return Err(io::Error::from(e)),
        }
    }
    Ok(())
}

/// Removes a directory with all that it holds on its own file system; what is mounted in it is unmounted first, and
/// never entered. A directory that is not there is fine.
pub(crate) fn remove_tree(directory: &Path) -> io::Result<()> {
    let device = match fs::symlink_metadata(directory) {
        Ok(_) => {
            unmount_below(directory)?;
            fs::symlink_metadata(directory)?.dev()
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if !fs::symlink_metadata(directory)?.is_dir() {
        return fs::remove_file(directory);
    }
    // Not the names of an attempt that failed.
    let stamp = skiff_base::time::now().as_nanosecond();
    Removal { top: directory, device, stamp, moved: 0 }.remove(directory, 0)
}

/// What is deeper than this, or has a longer path, is moved up first: a container may nest directories until no path
/// leads to the innermost, and no stack suffices.
const MAX_DEPTH: usize = 50;
/// Leaves room for one more name of 255 bytes below the kernel's limit of 4096.
const MAX_PATH_LEN: usize = 3800;

struct Removal<'a> {
    top: &'a Path,
    device: u64,
    stamp: i128,
    moved: u64,
}

impl Removal<'_> {
    fn remove(&mut self, directory: &Path, depth: usize) -> io::Result<()> {
        if fs::symlink_metadata(directory)?.dev() != self.device {
            return Err(io::Error::other(format!("{} is a foreign mount, it is left alone", directory.display())));
        }
        // What is moved to the top comes up there once more.
        loop {
            let before = self.moved;
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                if !entry.file_type()?.is_dir() {
                    fs::remove_file(entry.path())?;
                } else if depth < MAX_DEPTH && directory.as_os_str().len() < MAX_PATH_LEN {
                    self.remove(&entry.path(), depth + 1)?;
                } else {
                    self.moved += 1;
                    let name = format!("..removed-{}-{}", self.stamp, self.moved);
                    fs::rename(entry.path(), self.top.join(name))?;
                }
            }
            if depth > 0 || self.moved == before {
                return fs::remove_dir(directory);
            }
        }
    }
}

/// Gives a volume to a group: everything in it is readable and writable for the group, and new files stay with it.
pub(crate) fn give_to_group(path: &Path, group: u32) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    lchown(path, None, Some(group))?;
    if meta.is_symlink() {
        return Ok(());
    }
    let mode = meta.mode() & 0o7777;
    if meta.is_dir() {
        fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o2770))?;
        for entry in fs::read_dir(path)? {
            give_to_group(&entry?.path(), group)?;
        }
    } else {
        fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o660))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_mounts_deepest_first() {
        let info = b"1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /pods/u/a rw - tmpfs x rw\n3 2 0:3 / /pods/u/a/b\\040c rw - tmpfs x rw\n\
            4 1 0:4 / /pods/u2 rw - tmpfs x rw\n5 2 0:5 / /pods/u/a rw - tmpfs x rw\n";
        let found = mounts_below(Path::new("/pods/u"), info);
        assert_eq!(found, [Path::new("/pods/u/a/b c"), Path::new("/pods/u/a"), Path::new("/pods/u/a")]);
    }

    #[test]
    fn huge_pages_are_of_the_size_that_is_asked_for() {
        let directory = tempfile::tempdir().expect("a directory");
        for size in skiff_linux::cgroup::huge_pages().into_keys() {
            let path = directory.path().join(size.to_string());
            assert!(ensure_huge_pages(&path, size).expect("mounted (needs root)"));
            assert!(!ensure_huge_pages(&path, size).expect("there already"));
            let found = nix::sys::statfs::statfs(&path).expect("a file system").block_size();
            assert_eq!(u64::try_from(found).ok(), Some(size));
        }
        assert!(ensure_huge_pages(&directory.path().join("odd"), 12_345).is_err());
        unmount_below(directory.path()).expect("unmounted");
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
        assert!(ensure_tmpfs(&pod.join("volumes/memory"), Some(1 << 20)).expect("a tmpfs (needs root)"));
        assert!(!ensure_tmpfs(&pod.join("volumes/memory"), Some(1 << 20)).expect("idempotent"));
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
}
