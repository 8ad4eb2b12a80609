//! A part of a volume as a mount of its own. The container may change the volume while we look, so the path is
//! resolved by the kernel beneath the volume, and the mount is made from the descriptor that this gave.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

use crate::volume::tree;

/// Bind-mounts `path` of `volume` on `target`; a path that does not exist becomes a directory.
pub(crate) fn ensure(volume: &Path, path: &str, target: &Path) -> io::Result<PathBuf> {
    let relative = Path::new(path);
    if relative.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("subPath {path:?} must not contain '..'")));
    }
    let source = open_beneath(volume, relative)?;
    let origin = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
    let is_directory = fs::metadata(&origin)?.is_dir();
    if let Some(parent) = target.parent() {
        tree::ensure_directory(parent, 0o750)?;
    }
    // What an earlier attempt mounted may be another file by now.
    skiff_linux::mount::ensure_unmounted_below(target)?;
    if is_directory {
        if !target.is_dir() {
            fs::create_dir(target)?;
        }
    } else if !target.exists() {
        fs::write(target, [])?;
    }
    tree::bind(&origin, target)?;
    Ok(target.to_path_buf())
}

fn open_beneath(volume: &Path, path: &Path) -> io::Result<OwnedFd> {
    // What is made has the volume's own permissions, as upstream: who may write there may write here.
    let mode = fs::metadata(volume)?.permissions();
    let volume = OwnedFd::from(fs::File::open(volume)?);
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(volume.as_fd(), path, how) {
        Err(Errno::ENOENT) => {}
        found => return found.map_err(io::Error::from),
    }
    let mut at = volume;
    for part in path.components() {
        let made = match mkdirat(at.as_fd(), part.as_os_str(), Mode::from_bits_truncate(0o750)) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(e) => return Err(io::Error::from(e)),
        };
        at = openat2(at.as_fd(), Path::new(part.as_os_str()), how).map_err(io::Error::from)?;
        if made {
            fs::set_permissions(format!("/proc/self/fd/{}", at.as_raw_fd()), mode.clone())?;
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_beneath_the_volume() {
        let directory = tempfile::tempdir().expect("a directory");
        let volume = directory.path().join("volume");
        fs::create_dir_all(volume.join("real")).expect("directories");
        fs::write(volume.join("real/file"), "inside").expect("a file");
        std::os::unix::fs::symlink("real", volume.join("good")).expect("a link");
        std::os::unix::fs::symlink("/etc", volume.join("bad")).expect("a link");
        std::os::unix::fs::symlink("../..", volume.join("worse")).expect("a link");
        let target = |n: u32| directory.path().join(format!("targets/{n}"));
        ensure(&volume, "good/file", &target(0)).expect("a file behind a good link (needs root)");
        assert_eq!(fs::read_to_string(target(0)).expect("mounted"), "inside");
        ensure(&volume, "new/deep", &target(1)).expect("made");
        assert!(volume.join("new/deep").is_dir());
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions();
        assert_eq!(mode(&volume.join("new/deep")), mode(&volume));
        for path in ["bad", "bad/passwd", "worse", "../volume", "/etc"] {
            assert!(ensure(&volume, path, &target(2)).is_err(), "{path}");
        }
        skiff_linux::mount::ensure_unmounted_below(directory.path()).expect("unmounted");
    }

    #[test]
    fn a_link_that_comes_while_we_look_leads_nowhere() {
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        let directory = tempfile::tempdir().expect("a directory");
        let (volume, target) = (directory.path().join("volume"), directory.path().join("target"));
        for path in ["volume/turns/etc", "outside/etc"] {
            fs::create_dir_all(directory.path().join(path)).expect("directories");
        }
        fs::write(directory.path().join("outside/etc/secret"), "").expect("a file");
        std::os::unix::fs::symlink(directory.path().join("outside"), volume.join("link")).expect("a link");
        let stop = std::sync::atomic::AtomicBool::new(false);
        let (mut mounted, mut refused) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (one, other) = (volume.join("turns"), volume.join("link"));
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE).expect("exchanged");
                }
            });
            // The other one's turns come when the machine gives them.
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while mounted + refused < 1000 || ((mounted == 0 || refused == 0) && std::time::Instant::now() < deadline) {
                match ensure(&volume, "turns/etc", &target) {
                    Ok(_) => mounted += 1,
                    Err(_) => refused += 1,
                }
                if target.join("secret").exists() {
                    break;
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(!target.join("secret").exists(), "what is outside is mounted");
        skiff_linux::mount::ensure_unmounted_below(directory.path()).expect("unmounted");
        assert!(mounted > 0 && refused > 0, "{mounted} mounted, {refused} refused: nobody raced");
    }
}
