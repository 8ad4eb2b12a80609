//! Mounts: what nix has no wrapper for, and the table of mounts.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};

const OPEN_TREE_CLONE: u32 = 1;
const AT_RECURSIVE: i32 = 0x8000;
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
/// The number of the root directory of every proc.
const PROC_ROOT: u64 = 1;

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

fn fd_of(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(result).map_err(io::Error::other)?) })
}

fn unit_of(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn c_string(bytes: &OsStr) -> io::Result<CString> {
    CString::new(bytes.as_bytes()).map_err(io::Error::other)
}

/// A detached, read-only view of one file or directory: opened for writing through it, the file says `EROFS`, whoever
/// asks.
pub fn read_only_clone(path: &Path) -> io::Result<OwnedFd> {
    let tree = clone(path)?;
    set_attributes(tree.as_fd(), MOUNT_ATTR_RDONLY)?;
    Ok(tree)
}

/// A detached view of a directory, in no table of mounts until [`attach`] puts it somewhere.
pub fn detached(path: &Path, read_only: bool) -> io::Result<OwnedFd> {
    let tree = clone(path)?;
    restrict(tree.as_fd(), read_only, true)?;
    Ok(tree)
}

/// A detached view of a file or directory with all that is mounted below it. With a user namespace, files have the ids in
/// it that they have on disk; what is mounted below keeps its own.
pub fn detached_tree(path: &Path, user_namespace: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let tree = open_tree(path, OPEN_TREE_CLONE | AT_RECURSIVE as u32)?;
    let Some(user_namespace) = user_namespace else { return Ok(tree) };
    let user_namespace = u64::try_from(user_namespace.as_raw_fd()).map_err(io::Error::other)?;
    let attributes = MountAttributes { set: MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, user_namespace };
    match change_attributes(tree.as_fd(), &attributes) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(io::Error::other(format!(
            "{}: its file system does not support idmapped mounts, which a user namespace needs",
            path.display()
        ))),
        Err(error) => Err(error),
        Ok(()) => Ok(tree),
    }
}

/// Makes a detached view read-only, or one without devices, programs and set-user-id bits.
pub fn restrict(tree: BorrowedFd<'_>, read_only: bool, inert: bool) -> io::Result<()> {
    let mut attributes = if inert { MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC } else { 0 };
    if read_only {
        attributes |= MOUNT_ATTR_RDONLY;
    }
    set_attributes(tree, attributes)
}

/// Mounts a detached view.
pub fn attach(tree: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    let target = c_string(target.as_os_str())?;
    // SAFETY: two valid strings.
    unit_of(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
}

fn clone(path: &Path) -> io::Result<OwnedFd> {
    open_tree(path, OPEN_TREE_CLONE)
}

fn open_tree(path: &Path, flags: u32) -> io::Result<OwnedFd> {
    let path = c_string(path.as_os_str())?;
    let flags = flags | libc::O_CLOEXEC as u32;
    // SAFETY: the path is a valid string for the call.
    fd_of(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

fn set_attributes(tree: BorrowedFd<'_>, set: u64) -> io::Result<()> {
    change_attributes(tree, &MountAttributes { set, clear: 0, propagation: 0, user_namespace: 0 })
}

fn change_attributes(tree: BorrowedFd<'_>, attributes: &MountAttributes) -> io::Result<()> {
    // SAFETY: one mount_attr of the size given.
    unit_of(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    })
}

/// Mounts an overlay: `lower` topmost first; `upper` is (upperdir, workdir), without it the mount is read-only.
///
/// Nothing written to it is ever synced (`volatile`, where the kernel knows it): an upper directory must not be mounted
/// again after a crash. Otherwise the unmount, in the exit of the last process that uses it, writes out all that is dirty
/// in the file system below.
///
/// New kernels take every directory by itself; older ones get one string, which a page limits. `label`: the SELinux
/// context of all files in it.
pub fn overlay(lower: &[PathBuf], upper: Option<(&Path, &Path)>, label: Option<&str>, target: &Path) -> io::Result<()> {
    match overlay_by_context(lower, upper, label, target) {
        // Before 6.8 there is no `lowerdir+`, before 5.2 no fsopen.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
            overlay_by_string(lower, upper, label, target)
        }
        other => other,
    }
}

const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;

fn overlay_by_context(
    lower: &[PathBuf],
    upper: Option<(&Path, &Path)>,
    label: Option<&str>,
    target: &Path,
) -> io::Result<()> {
    // SAFETY: a constant string.
    let context = fd_of(unsafe { libc::syscall(libc::SYS_fsopen, c"overlay".as_ptr(), 1) })?;
    for directory in lower {
        set_string(context.as_fd(), c"lowerdir+", directory)?;
    }
    if let Some((upper, work)) = upper {
        set_string(context.as_fd(), c"upperdir", upper)?;
        set_string(context.as_fd(), c"workdir", work)?;
        // SAFETY: one valid string; a flag has no value.
        unit_of(unsafe {
            libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_SET_FLAG, c"volatile".as_ptr(), 0, 0)
        })?;
    }
    if let Some(label) = label {
        set_string(context.as_fd(), c"context", Path::new(label))?;
    }
    // SAFETY: no further arguments are read.
    unit_of(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, 0, 0, 0) })?;
    // SAFETY: plain integers; 1 is FSMOUNT_CLOEXEC.
    let mount = fd_of(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) })?;
    attach(mount.as_fd(), target)
}

fn set_string(context: BorrowedFd<'_>, key: &std::ffi::CStr, value: &Path) -> io::Result<()> {
    let value = c_string(value.as_os_str())?;
    // SAFETY: two valid strings.
    unit_of(unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr(), 0)
    })
}

fn overlay_by_string(
    lower: &[PathBuf],
    upper: Option<(&Path, &Path)>,
    label: Option<&str>,
    target: &Path,
) -> io::Result<()> {
    let mut data: Vec<u8> = b"lowerdir=".to_vec();
    for (index, directory) in lower.iter().enumerate() {
        if index > 0 {
            data.push(b':');
        }
        escape(directory, &mut data);
    }
    if let Some((upper, work)) = upper {
        data.extend_from_slice(b",upperdir=");
        escape(upper, &mut data);
        data.extend_from_slice(b",workdir=");
        escape(work, &mut data);
    }
    if let Some(label) = label {
        // Quoted, since a level may hold commas.
        data.extend_from_slice(format!(",context=\"{label}\"").as_bytes());
    }
    if data.len() >= 4096 {
        return Err(io::Error::other("the image has too many layers for this kernel's overlayfs options"));
    }
    let data = std::ffi::OsString::from_vec(data);
    nix::mount::mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(data.as_os_str()))?;
    Ok(())
}

fn escape(path: &Path, into: &mut Vec<u8>) {
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            into.push(b'\\');
        }
        into.push(*byte);
    }
}

/// Shows directories on top of each other (topmost first), read-only, without devices and programs.
pub fn read_only_view(lower: &[PathBuf], target: &Path) -> io::Result<()> {
    let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    // overlayfs wants two.
    if let [only] = lower {
        let tree = clone(only)?;
        set_attributes(tree.as_fd(), attributes)?;
        return attach(tree.as_fd(), target);
    }
    overlay(lower, None, None, target)?;
    set_attributes_at(target, attributes, false)
}

/// Makes a mount, and all mounts below it, read-only.
pub fn set_read_only_recursively(target: &Path) -> io::Result<()> {
    set_attributes_at(target, MOUNT_ATTR_RDONLY, true)
}

fn set_attributes_at(target: &Path, set: u64, recursive: bool) -> io::Result<()> {
    let path = c_string(target.as_os_str())?;
    let attributes = MountAttributes { set, clear: 0, propagation: 0, user_namespace: 0 };
    let flags = if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: a valid string, and one mount_attr of the size given.
    unit_of(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    })
}

/// Bind-mounts a file or directory.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    Ok(nix::mount::mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// How later mounts below `target` spread.
pub fn set_propagation(target: &Path, flags: MsFlags) -> io::Result<()> {
    Ok(nix::mount::mount(None::<&str>, target, None::<&str>, flags, None::<&str>)?)
}

/// Mounts a tmpfs.
pub fn tmpfs(target: &Path, options: &str) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(nix::mount::mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options))?)
}

/// Makes `directory` a mount of its own whose later mounts spread nowhere; nothing if it is already one.
pub fn ensure_private(directory: &Path) -> io::Result<()> {
    let directory = directory.canonicalize()?;
    if !mounts_below(&directory)?.contains(&directory) {
        bind(&directory, &directory)?;
    }
    set_propagation(&directory, MsFlags::MS_PRIVATE)
}

/// Makes a mount read-only from here on, without touching other views of the same file system.
pub fn set_read_only(target: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_REMOUNT
        | MsFlags::MS_BIND
        | MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC;
    set_propagation(target, flags)
}

/// The mount points at or below `directory`, deepest last.
pub fn mounts_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(points_below(directory, &std::fs::read("/proc/self/mountinfo")?))
}

/// As [`mounts_below`], where others decide what is mounted on `/proc`.
pub fn own_mounts_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut table = Vec::new();
    io::Read::read_to_end(&mut open_in_proc("self/mountinfo", libc::O_RDONLY)?, &mut table)?;
    Ok(points_below(directory, &table))
}

/// Opens a file that is there below `/proc`: the kernel's own and no other, whatever is mounted there or on the way.
pub fn open_in_proc(path: &str, flags: i32) -> io::Result<File> {
    let root = File::open("/proc")?;
    let kind = nix::sys::statfs::fstatfs(&root)?.filesystem_type();
    if kind != nix::sys::statfs::PROC_SUPER_MAGIC || root.metadata()?.ino() != PROC_ROOT {
        return Err(io::Error::other("/proc is not the kernel's"));
    }
    let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_XDEV | libc::RESOLVE_NO_MAGICLINKS;
    open_at(root.as_fd(), Path::new(path), flags, 0, resolve).map(File::from)
}

/// At the same place, a later mount lies on top of an earlier one.
fn points_below(directory: &Path, table: &[u8]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| PathBuf::from(OsStr::from_bytes(&unescape(field))))
        .filter(|mount| mount.starts_with(directory))
        .collect();
    found.sort_by_key(|mount| mount.components().count());
    found
}

/// The table writes blanks and backslashes as `\ooo`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut index = 0;
    while index < field.len() {
        let octal = field.get(index + 1..index + 4).filter(|_| field[index] == b'\\');
        match octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok())
        {
            Some(byte) => {
                out.push(byte);
                index += 4;
            }
            None => {
                out.push(field[index]);
                index += 1;
            }
        }
    }
    out
}

/// Unmounts lazily; that there is nothing mounted is no error.
pub fn ensure_unmounted(target: &Path) -> io::Result<()> {
    match nix::mount::umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Unmounts everything at or below `directory`, deepest first; what was mounted there stays as it is.
pub fn ensure_unmounted_below(directory: &Path) -> io::Result<()> {
    for mount in mounts_below(directory)?.iter().rev() {
        ensure_unmounted(mount)?;
    }
    Ok(())
}

/// Opens a path as a process with `root` as its root directory would, following its symbolic links inside.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    open_at(root, path, flags, mode, libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS)
}

fn open_at(root: BorrowedFd<'_>, path: &Path, flags: i32, mode: u32, resolve: u64) -> io::Result<OwnedFd> {
    let path = c_string(path.as_os_str())?;
    // SAFETY: an all-zero open_how is valid.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = u64::from(mode);
    how.resolve = resolve;
    // SAFETY: a valid string and one open_how of the size given.
    fd_of(unsafe {
        libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), &raw const how, size_of::<libc::open_how>())
    })
}

/// Opens a regular file as [`open_in_root`] does. Anything else is refused before it is opened: to open a device does
/// things (a watchdog resets the machine when it is closed again), and whoever fills `root` may have made one.
pub fn open_file_in_root(root: BorrowedFd<'_>, path: &Path) -> io::Result<File> {
    let found = File::from(open_in_root(root, path, libc::O_PATH, 0)?);
    if !found.metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

/// Moves the calling process into an empty file system of its own: through its root nobody reaches anything.
pub fn into_emptiness() -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    set_propagation(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    // Any directory will do; this one is everywhere.
    let place = Path::new("/proc");
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("none"), place, Some("tmpfs"), flags, Some("size=4k,nr_inodes=2,mode=0"))?;
    nix::unistd::chdir(place)?;
    // The old root comes to lie on the new one, and is taken off.
    nix::unistd::pivot_root(".", ".")?;
    nix::mount::umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")?;
    Ok(())
}

/// Makes a directory and its parents below `root`, as seen from inside; one that is there stays as it is.
pub fn ensure_directory_in_root(root: BorrowedFd<'_>, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let directory = libc::O_DIRECTORY | libc::O_PATH;
    match open_in_root(root, path, directory, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        other => return other,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return open_in_root(root, Path::new("/"), directory, 0);
    };
    let parent = ensure_directory_in_root(root, parent, mode)?;
    match nix::sys::stat::mkdirat(&parent, name, nix::sys::stat::Mode::from_bits_truncate(mode)) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    open_in_root(root, path, directory, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_on_top_of_each_other() {
        let table = b"1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /pods/u/a rw - tmpfs x rw\n3 2 0:3 / /pods/u/a/b\\040c rw - tmpfs x rw\n\
            4 1 0:4 / /pods/u2 rw - tmpfs x rw\n5 2 0:5 / /pods/u/a rw - tmpfs x rw\n6 1 0:6 / /pods/u/d rw - tmpfs x rw\n";
        let found = points_below(Path::new("/pods/u"), table);
        assert_eq!(found, ["/pods/u/a", "/pods/u/a", "/pods/u/d", "/pods/u/a/b c"].map(Path::new));
        // The last that came is the first that goes.
        let directory = tempfile::tempdir().expect("a directory");
        for count in 0..3 {
            tmpfs(directory.path(), "").expect("mounted (needs root)");
            std::fs::write(directory.path().join(count.to_string()), "").expect("a file");
        }
        ensure_unmounted(directory.path()).expect("unmounted");
        assert!(directory.path().join("1").exists());
        ensure_unmounted_below(directory.path()).expect("unmounted");
        assert_eq!(mounts_below(directory.path()).expect("the table"), Vec::<PathBuf>::new());
    }

    #[test]
    fn blanks_in_mount_points() {
        assert_eq!(unescape(b"/a\\040b\\134c"), b"/a b\\c");
        assert_eq!(unescape(b"/plain\\"), b"/plain\\");
    }

    #[test]
    fn links_stay_inside_the_root() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("etc")).expect("etc");
        std::fs::write(directory.path().join("etc/passwd"), "inside").expect("passwd");
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("link")).expect("link");
        let root = OwnedFd::from(std::fs::File::open(directory.path()).expect("the root"));
        let file = open_in_root(root.as_fd(), Path::new("/link"), libc::O_RDONLY, 0).expect("opened");
        assert_eq!(std::io::read_to_string(std::fs::File::from(file)).expect("read"), "inside");
        std::os::unix::fs::symlink("/../..", directory.path().join("up")).expect("up");
        ensure_directory_in_root(root.as_fd(), Path::new("/up/a/b"), 0o755).expect("made");
        assert!(directory.path().join("a/b").is_dir());
    }

    #[test]
    fn only_the_kernel_is_believed_below_proc() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("file");
        std::fs::write(&file, "mine").expect("a file");
        // A mount namespace is of a thread where it has its own root and working directory.
        let seen = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a namespace (needs root)");
            set_propagation(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE).expect("private");
            let open = |path: &str| open_in_proc(path, libc::O_RDONLY).is_ok();
            let before = (open("uptime"), open("thread-self/mountinfo"));
            bind(&file, Path::new("/proc/uptime")).expect("mounted");
            let after = (open("uptime"), open("thread-self/mountinfo"));
            tmpfs(Path::new("/proc"), "size=4k").expect("mounted");
            std::fs::write("/proc/loadavg", "mine").expect("a file");
            (before, after, open("loadavg"))
        });
        assert_eq!(seen.join().expect("no panic"), ((true, true), (false, true), false));
    }

    #[test]
    fn views_and_what_is_below_them() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| {
            let path = directory.path().join(name);
            std::fs::create_dir_all(&path).expect("a directory");
            path
        };
        for name in ["top", "bottom"] {
            std::fs::write(at(name).join(name), name).expect("a file");
        }
        for (layers, target, names) in [
            (vec![at("top")], at("one"), vec!["top"]),
            (vec![at("top"), at("bottom")], at("two"), vec!["top", "bottom"]),
        ] {
            read_only_view(&layers, &target).expect("mounted (needs root)");
            for name in names {
                assert_eq!(std::fs::read_to_string(target.join(name)).expect("shown"), name);
            }
            let error = std::fs::write(target.join("new"), "").expect_err("read-only");
            assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        }
        let tree = at("tree");
        bind(&tree, &tree).expect("a mount");
        tmpfs(&at("tree/sub"), "size=64k").expect("a mount below");
        set_read_only_recursively(&tree).expect("read-only");
        assert!(std::fs::write(tree.join("sub/new"), "").is_err());
        ensure_unmounted_below(directory.path()).expect("unmounted");
    }

    #[test]
    fn a_read_only_clone_cannot_be_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("program");
        std::fs::write(&path, "program").expect("written");
        let clone = read_only_clone(&path).expect("cloned");
        let through = format!("/proc/self/fd/{}", clone.as_raw_fd());
        let error = std::fs::OpenOptions::new().write(true).open(&through).expect_err("refused");
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        assert_eq!(std::fs::read_to_string(&through).expect("read"), "program");
    }
}
