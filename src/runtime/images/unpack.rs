//! One layer's tar stream into one directory, in the form that overlayfs stacks.
//!
//! The stream comes from a stranger. Every path is resolved by `openat2` with the layer's directory
//! as its root, so neither `..` nor a symbolic link of the layer leads out of it. Whiteouts become
//! overlayfs' own (a 0/0 character device, the `opaque` attribute).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use tar::{Entry, EntryType};
use xattr::FileExt;

use super::bounded;

/// Directories that the layer's entries imply but does not describe; they take the attributes of the
/// layer below (see [`adopt_attributes`]).
pub type Implied = Vec<PathBuf>;

/// Unpacks an uncompressed tar stream into `root`, an empty directory.
pub fn unpack(stream: impl Read, root: &Path) -> io::Result<Implied> {
    let directory = open(root, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut unpacker = Unpacker { root: directory, parent: None, times: HashMap::new(), implied: Vec::new() };
    let (mut archive, budget) = bounded::archive(stream);
    for entry in archive.entries()? {
        let mut entry = entry?;
        budget.enter(&entry)?;
        let path = entry.path()?.into_owned();
        unpacker.entry(&mut entry, &path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    }
    unpacker.finish()
}

/// Gives directories that a layer only implied the mode and owner they have in the layers below
/// (topmost first). By descriptors, and through no link: those of a layer mean its own root, not the host's.
pub fn adopt_attributes(root: &Path, implied: &Implied, below: &[PathBuf]) -> io::Result<()> {
    let open_root = |path: &Path| open(path, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let (root, below) = (open_root(root)?, below.iter().map(|layer| open_root(layer)).collect::<Result<Vec<_>, _>>()?);
    for path in implied {
        let mut found = below.iter().map(|layer| open_plain(layer, path, OFlag::O_PATH | OFlag::O_NOFOLLOW));
        // Where a layer has something else than a directory, nothing is seen of those further down.
        let original = match found.find(|found| !matches!(found, Err(Errno::ENOENT))) {
            Some(Ok(fd)) => fstat(&fd)?,
            None | Some(Err(Errno::ENOTDIR | Errno::ELOOP)) => continue,
            Some(Err(e)) => return Err(e.into()),
        };
        if original.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFDIR.bits() {
            continue;
        }
        match open_plain(&root, path, OFlag::O_DIRECTORY) {
            Ok(own) => {
                fchown(&own, Some(Uid::from_raw(original.st_uid)), Some(Gid::from_raw(original.st_gid)))?;
                fchmod(&own, Mode::from_bits_truncate(original.st_mode))?;
            }
            // A later entry put something else in its place, or it lies behind a link.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

struct Unpacker {
    root: OwnedFd,
    /// The directory of the last entry: neighbours mostly follow each other.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Modification times of directories, set at the end since every new name in one changes it.
    times: HashMap<PathBuf, TimeSpec>,
    implied: Implied,
}

impl Unpacker {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>, path: &Path) -> io::Result<()> {
        let Some(path) = clean(path)? else { return self.root_entry(entry) };
        let name = path.file_name().expect("clean() leaves only normal components").to_owned();
        let parent_path = path.parent().unwrap_or(Path::new("")).to_owned();
        self.enter(&parent_path)?;
        let parent = &self.parent.as_ref().expect("enter() has set it").1;
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return whiteout(parent, hidden);
        }
        let kind = entry.header().entry_type();
        clear_way(parent, &name, kind)?;
        create(&self.root, parent, &name, entry)?;
        if kind == EntryType::Link {
            // A hard link shares the attributes of its target.
            return Ok(());
        }
        set_attributes(parent, &name, entry)?;
        if kind == EntryType::Directory {
            self.implied.retain(|p| *p != path);
            self.times.insert(path, mtime(entry));
        }
        Ok(())
    }

    fn root_entry(&mut self, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        if entry.header().entry_type() != EntryType::Directory {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the root is not a directory"));
        }
        set_attributes(&self.root, OsStr::new("."), entry)
    }

    /// Makes `path` the current parent, creating what is missing of it.
    fn enter(&mut self, path: &Path) -> io::Result<()> {
        if self.parent.as_ref().is_some_and(|(current, _)| current == path) {
            return Ok(());
        }
        let opened = match open_in(&self.root, path, OFlag::O_DIRECTORY) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => {
                let mut so_far = PathBuf::new();
                for component in path.components() {
                    let above = open_in(&self.root, &so_far, OFlag::O_DIRECTORY)?;
                    so_far.push(component);
                    match mkdirat(&above, component.as_os_str(), Mode::from_bits_truncate(0o755)) {
                        Ok(()) => self.implied.push(so_far.clone()),
                        Err(Errno::EEXIST) => {}
                        Err(e) => return Err(e.into()),
                    }
                }
                open_in(&self.root, path, OFlag::O_DIRECTORY)?
            }
            Err(e) => return Err(e.into()),
        };
        self.parent = Some((path.to_owned(), opened));
        Ok(())
    }

    fn finish(self) -> io::Result<Implied> {
        for (path, time) in &self.times {
            match open_in(&self.root, path, OFlag::O_DIRECTORY) {
                Ok(fd) => utimensat(&fd, ".", time, time, UtimensatFlags::FollowSymlink)?,
                // A later entry put something else in its place.
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(self.implied)
    }
}

/// The path without a leading `/` or `./`; `None` for the root itself. `..` is refused.
fn clean(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the path leads out of the layer"));
            }
        }
    }
    Ok((!cleaned.as_os_str().is_empty()).then_some(cleaned))
}

fn open_in(root: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    openat2(root, path, how)
}

/// As [`open_in`], but a link on the way is `ELOOP`.
fn open_plain(root: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS;
    openat2(root, path, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve))
}

fn whiteout(parent: &OwnedFd, hidden: &[u8]) -> io::Result<()> {
    if hidden == b".wh..opq" {
        let directory = File::from(openat(parent, ".", OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?);
        return directory.set_xattr("trusted.overlay.opaque", b"y");
    }
    if hidden.starts_with(b".wh.") || matches!(hidden, b"" | b"." | b"..") {
        // Other names of aufs' own, and names that hide nothing.
        return Ok(());
    }
    match mknodat(parent, OsStr::from_bytes(hidden), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)) {
        // The layer itself brings a file of that name: a whiteout hides only what is below.
        Err(Errno::EEXIST) | Ok(()) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Removes what an earlier entry left under the name, unless both are directories.
fn clear_way(parent: &OwnedFd, name: &OsStr, kind: EntryType) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR) if kind == EntryType::Directory => Ok(()),
        Err(Errno::EISDIR) => match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
            Err(Errno::ENOTEMPTY) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "a file replaces a directory that has content"))
            }
            other => Ok(other?),
        },
        Err(e) => Err(e.into()),
    }
}

fn create(root: &OwnedFd, parent: &OwnedFd, name: &OsStr, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
    let device = |entry: &Entry<'_, _>| -> io::Result<nix::libc::dev_t> {
        let header = entry.header();
        Ok(makedev(header.device_major()?.unwrap_or(0).into(), header.device_minor()?.unwrap_or(0).into()))
    };
    let private = Mode::from_bits_truncate(0o600);
    match entry.header().entry_type() {
        EntryType::Directory => match mkdirat(parent, name, Mode::from_bits_truncate(0o700)) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(e) => Err(e.into()),
        },
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mut file = File::from(openat(parent, name, flags, private)?);
            io::copy(entry, &mut file)?;
            file.flush()
        }
        EntryType::Symlink => {
            let target = entry.link_name_bytes().ok_or_else(|| io::Error::other("a symbolic link without a target"))?;
            Ok(symlinkat(OsStr::from_bytes(&target), parent, name)?)
        }
        EntryType::Link => hard_link(root, parent, name, entry),
        EntryType::Char => Ok(mknodat(parent, name, SFlag::S_IFCHR, private, device(entry)?)?),
        EntryType::Block => Ok(mknodat(parent, name, SFlag::S_IFBLK, private, device(entry)?)?),
        EntryType::Fifo => Ok(mknodat(parent, name, SFlag::S_IFIFO, private, 0)?),
        other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("unsupported tar entry type {other:?}"))),
    }
}

fn hard_link(root: &OwnedFd, parent: &OwnedFd, name: &OsStr, entry: &Entry<'_, impl Read>) -> io::Result<()> {
    let target = entry.link_name()?.ok_or_else(|| io::Error::other("a hard link without a target"))?;
    let target = clean(&target)?.ok_or_else(|| io::Error::other("a hard link to the root"))?;
    let directory = open_in(root, target.parent().unwrap_or(Path::new("")), OFlag::O_DIRECTORY)?;
    let target_name = target.file_name().expect("clean() leaves only normal components");
    Ok(linkat(&directory, target_name, parent, name, AtFlags::empty())?)
}

fn set_attributes(parent: &OwnedFd, name: &OsStr, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
    let header = entry.header();
    let (uid, gid, mode, kind) = (header.uid()?, header.gid()?, header.mode()?, header.entry_type());
    let id = |id: u64| u32::try_from(id).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "an id over 32 bits"));
    let (uid, gid) = (Uid::from_raw(id(uid)?), Gid::from_raw(id(gid)?));
    fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if kind != EntryType::Symlink {
        // After the owner: chown(2) clears the set-user-id bits.
        fchmodat(parent, name, Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)?;
    }
    set_xattrs(parent, name, kind, entry)?;
    let time = mtime(entry);
    Ok(utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

fn set_xattrs(parent: &OwnedFd, name: &OsStr, kind: EntryType, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
    if !matches!(kind, EntryType::Directory | EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse) {
        return Ok(());
    }
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    let mut file = None;
    for extension in extensions {
        let extension = extension?;
        let Some(attribute) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") else { continue };
        // overlayfs' own attributes are ours to set, never the image's.
        if attribute.starts_with(b"trusted.overlay.") || attribute.starts_with(b"user.overlay.") {
            continue;
        }
        if file.is_none() {
            file = Some(File::from(openat(parent.as_fd(), name, OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?));
        }
        let file = file.as_ref().expect("set above");
        match file.set_xattr(OsStr::from_bytes(attribute), extension.value_bytes()) {
            // The file system can't hold it (a tmpfs without user attributes, SELinux labels without SELinux).
            Err(e) if e.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {}
            other => other?,
        }
    }
    Ok(())
}

fn mtime(entry: &Entry<'_, impl Read>) -> TimeSpec {
    TimeSpec::new(entry.header().mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0), 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
    use tar::{Builder, Header};

    fn header(kind: EntryType, mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000_000);
        header
    }

    /// `path` is written as it is, without the builder's checks.
    fn add(builder: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, link: &str, content: &str) {
        let mut header = header(kind, 0o640, content.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, content.as_bytes()).expect("append");
    }

    fn unpacked(entries: &[(EntryType, &str, &str, &str)]) -> (tempfile::TempDir, io::Result<Implied>) {
        let mut builder = Builder::new(Vec::new());
        for (kind, path, link, content) in entries {
            add(&mut builder, *kind, path, link, content);
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = directory.path().join("root");
        std::fs::create_dir(&root).expect("mkdir");
        let result = unpack(builder.into_inner().expect("tar").as_slice(), &root);
        (directory, result)
    }

    #[test]
    fn files_links_and_attributes() {
        use EntryType::{Directory, Link, Regular, Symlink};
        let (directory, result) = unpacked(&[
            (Directory, "./etc/", "", ""),
            (Regular, "etc/a", "", "one"),
            (Regular, "etc/a", "", "two"),
            (Link, "b", "etc/a", ""),
            (Symlink, "c", "/etc/a", ""),
            (Regular, "x/y/z", "", "deep"),
        ]);
        assert_eq!(result.expect("unpacked"), [PathBuf::from("x"), PathBuf::from("x/y")]);
        let root = directory.path().join("root");
        let meta = std::fs::metadata(root.join("b")).expect("hard link");
        assert_eq!(std::fs::read(root.join("b")).expect("content"), b"two");
        assert_eq!(
            (meta.nlink(), meta.uid(), meta.gid(), meta.mode() & 0o777, meta.mtime()),
            (2, 7, 8, 0o640, 1_000_000_000)
        );
        assert_eq!(std::fs::read_link(root.join("c")).expect("symlink"), Path::new("/etc/a"));
        assert_eq!(std::fs::metadata(root.join("etc")).expect("directory").mtime(), 1_000_000_000);
    }

    #[test]
    fn nothing_leaves_the_layer() {
        use EntryType::{Link, Regular, Symlink};
        for entries in [
            vec![(Regular, "../evil", "", "x")],
            vec![(Regular, "a/../../evil", "", "x")],
            vec![(Symlink, "out", "..", ""), (Regular, "out/evil", "", "x")],
            vec![(Symlink, "out", "/../..", ""), (Regular, "out/evil", "", "x")],
            vec![(Link, "evil-link", "../secret", "")],
        ] {
            let (directory, _) = unpacked(&entries);
            assert!(!directory.path().join("evil").exists(), "{entries:?}");
            let outside: Vec<_> = std::fs::read_dir(directory.path()).expect("listing").collect();
            assert_eq!(outside.len(), 1, "{entries:?}");
        }
        let (directory, result) = unpacked(&[(Symlink, "out", "/", ""), (Regular, "out/inside", "", "x")]);
        result.expect("a link to / means the layer's root");
        assert!(directory.path().join("root/inside").exists());
    }

    #[test]
    fn whiteouts_are_overlayfs_own() {
        use EntryType::{Directory, Regular};
        let (directory, result) = unpacked(&[
            (Directory, "d", "", ""),
            (Regular, "d/.wh..wh..opq", "", ""),
            (Regular, "d/.wh.gone", "", ""),
            (Regular, "d/kept", "", "k"),
            (Regular, "d/.wh.kept", "", ""),
        ]);
        result.expect("unpacked");
        let root = directory.path().join("root/d");
        let gone = std::fs::symlink_metadata(root.join("gone")).expect("whiteout");
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        assert_eq!(std::fs::read(root.join("kept")).expect("content"), b"k");
        assert_eq!(xattr::get(&root, "trusted.overlay.opaque").expect("attribute").as_deref(), Some(b"y".as_slice()));
    }

    #[test]
    fn implied_directories_take_after_the_layer_below() {
        let (below, _) = unpacked(&[(EntryType::Directory, "tmp", "", "")]);
        std::fs::set_permissions(below.path().join("root/tmp"), PermissionsExt::from_mode(0o1777)).expect("chmod");
        let (above, implied) = unpacked(&[(EntryType::Regular, "tmp/x", "", "")]);
        let root = above.path().join("root");
        adopt_attributes(&root, &implied.expect("unpacked"), &[below.path().join("root")]).expect("adopted");
        let meta = std::fs::metadata(root.join("tmp")).expect("directory");
        assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o1777, 7));
    }

    /// Links of a layer mean the layer's own root, also where attributes are taken over.
    #[test]
    fn directories_of_the_host_keep_their_attributes() {
        use EntryType::{Directory, Regular, Symlink};
        let host = tempfile::tempdir().expect("a directory");
        let victim = host.path().join("cron.d");
        std::fs::create_dir(&victim).expect("a directory");
        std::fs::set_permissions(&victim, PermissionsExt::from_mode(0o700)).expect("chmod");
        let (out, inside) = (host.path().to_str().expect("a path"), &host.path().to_str().expect("a path")[1..]);
        let (below, _) = unpacked(&[(Directory, "x/cron.d", "", "")]);
        // Once the link is the layer's own, once that of the layer below.
        let through = format!("{inside}/");
        let (above, implied) =
            unpacked(&[(Directory, &through, "", ""), (Symlink, "x", out, ""), (Regular, "x/cron.d/f", "", "")]);
        adopt_attributes(&above.path().join("root"), &implied.expect("unpacked"), &[below.path().join("root")])
            .expect("nothing to take over");
        let (linked, _) = unpacked(&[(Symlink, "y", out, "")]);
        let (plain, implied) = unpacked(&[(Regular, "y/cron.d/f", "", "")]);
        let plain = plain.path().join("root");
        adopt_attributes(&plain, &implied.expect("unpacked"), &[linked.path().join("root")]).expect("nothing below");
        let of = |path: &Path| {
            let meta = std::fs::metadata(path).expect("metadata");
            (meta.mode() & 0o7777, meta.uid())
        };
        assert_eq!(of(&victim), (0o700, 0), "a directory of the host was given away");
        assert_eq!(of(&plain.join("y/cron.d")), (0o755, 0), "attributes of the host were taken over");
    }
}
