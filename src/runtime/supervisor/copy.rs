//! Where overlayfs does not work (some file systems, some containers in containers): a copy of all layers.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

/// Copies layers (topmost first, as overlayfs takes them) into one directory.
pub fn copy_layers(layers: &[PathBuf], target: &Path) -> io::Result<()> {
    layers.iter().rev().try_for_each(|layer| copy_directory(layer, target))
}

fn copy_directory(source: &Path, target: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(source)?;
    let opaque = ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|name| is_set(source, name));
    if opaque || !fs::symlink_metadata(target).is_ok_and(|there| there.is_dir()) {
        remove(target)?;
    }
    fs::create_dir_all(target)?;
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        copy_entry(&entry.path(), &target.join(entry.file_name()), &entry.metadata()?)?;
    }
    attributes(source, target, &metadata)
}

fn is_set(path: &Path, name: &str) -> bool {
    xattr::get(path, name).is_ok_and(|value| value.as_deref() == Some(b"y"))
}

fn copy_entry(source: &Path, target: &Path, metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        return copy_directory(source, target);
    }
    remove(target)?;
    if kind.is_char_device() && metadata.rdev() == 0 {
        // A whiteout: what lies below is gone.
        return Ok(());
    }
    if kind.is_symlink() {
        symlink(fs::read_link(source)?, target)?;
        return lchown(target, Some(metadata.uid()), Some(metadata.gid()));
    }
    if kind.is_file() {
        fs::copy(source, target)?;
    } else {
        let kind = nix::sys::stat::SFlag::from_bits_truncate(metadata.mode());
        let mode = nix::sys::stat::Mode::from_bits_truncate(metadata.mode());
        nix::sys::stat::mknod(target, kind, mode, metadata.rdev())?;
    }
    attributes(source, target, metadata)
}

fn attributes(source: &Path, target: &Path, metadata: &Metadata) -> io::Result<()> {
    // First the owner: a change of it drops set-user-id bits and capabilities.
    chown(target, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(target, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    for name in xattr::list(source)? {
        if !name.to_string_lossy().contains(".overlay.")
            && let Some(value) = xattr::get(source, &name)?
        {
            xattr::set(target, &name, &value)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_layers_win_and_hide() {
        let directory = tempfile::tempdir().expect("a directory");
        let (low, high, target) =
            (directory.path().join("low"), directory.path().join("high"), directory.path().join("target"));
        for path in ["low/etc", "low/gone", "low/opaque", "high/etc", "high/opaque"] {
            fs::create_dir_all(directory.path().join(path)).expect("a directory");
        }
        for (path, text) in [
            ("low/etc/a", "low"),
            ("low/etc/b", "low"),
            ("low/gone/x", "low"),
            ("low/opaque/old", "low"),
            ("high/etc/a", "high"),
            ("high/opaque/new", "high"),
        ] {
            fs::write(directory.path().join(path), text).expect("a file");
        }
        fs::set_permissions(low.join("etc/b"), fs::Permissions::from_mode(0o4755)).expect("a mode");
        chown(low.join("etc/b"), Some(33), Some(34)).expect("an owner");
        fs::set_permissions(low.join("etc/b"), fs::Permissions::from_mode(0o4755)).expect("a mode");
        symlink("/etc/a", high.join("link")).expect("a link");
        nix::sys::stat::mknod(&high.join("gone"), nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::empty(), 0)
            .expect("a whiteout");
        xattr::set(high.join("opaque"), "trusted.overlay.opaque", b"y").expect("opaque");

        copy_layers(&[high, low], &target).expect("copied");
        assert_eq!(fs::read_to_string(target.join("etc/a")).expect("a"), "high");
        let metadata = fs::metadata(target.join("etc/b")).expect("b");
        assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o4755, 33, 34));
        assert!(!target.join("gone").exists() && !target.join("opaque/old").exists());
        assert!(target.join("opaque/new").exists());
        assert_eq!(fs::read_link(target.join("link")).expect("a link"), Path::new("/etc/a"));
    }
}
