//! The store's directory: one process at a time, one format, and an id that this disk has and no other.
//!
//! ```text
//! LOCK     held while the store is open
//! FORMAT   the version of everything here, and the node id
//! log/     segments of the write-ahead log
//! state/   CURRENT, gen-N/: checkpoints
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

use crate::types::Error;

const FORMAT: u32 = 1;
/// Keys and values of the cluster, Secrets among them.
const FILE_MODE: u32 = 0o600;

/// Unlocks when dropped.
#[derive(Debug)]
pub(crate) struct Directory {
    pub log: PathBuf,
    pub state: PathBuf,
    /// Random, so that a wiped disk comes back as another node.
    pub node_id: u64,
    _lock: File,
}

impl Directory {
    pub fn open(path: &Path) -> Result<Directory, Error> {
        let failed = |source: io::Error| open_error(path, source);
        let directory = ensure_private_directory(path).and_then(|()| lock_file(path)).map_err(failed)?;
        match directory.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse(path.to_path_buf())),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        let node_id = ensure_format(path)?;
        let (log, state) = (path.join("log"), path.join("state"));
        for part in [&log, &state] {
            ensure_private_directory(part).map_err(failed)?;
        }
        skiff_base::file::sync_directory(path).map_err(failed)?;
        Ok(Directory { log, state, node_id, _lock: directory })
    }
}

pub(crate) fn open_error(path: &Path, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Open { directory: path.to_path_buf(), source: Box::new(source) }
}

fn ensure_private_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path.join("LOCK"))
}

/// Returns the node id; a fresh directory gets one.
fn ensure_format(path: &Path) -> Result<u64, Error> {
    let file = path.join("FORMAT");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return create_format(path, &file),
        Err(e) => return Err(open_error(&file, e)),
    };
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let version = field("format ");
    if version != Some(&FORMAT.to_string()) {
        return Err(Error::Format(format!(
            "the store in {} has format {}, this Skiff reads format {FORMAT}: start the version of Skiff that wrote it, \
             or move the directory away to start with an empty cluster",
            path.display(),
            version.unwrap_or("(unknown)"),
        )));
    }
    field("node ").and_then(|id| u64::from_str_radix(id, 16).ok()).ok_or_else(|| {
        Error::Format(format!("{} names no node id: restore the directory from a backup", file.display()))
    })
}

fn create_format(path: &Path, file: &Path) -> Result<u64, Error> {
    if path.join("log").exists() || path.join("state/CURRENT").exists() {
        return Err(Error::Format(format!(
            "the store in {} has no FORMAT file, so nothing says which version of Skiff wrote it: restore the directory \
             from a backup, or move it away to start with an empty cluster",
            path.display(),
        )));
    }
    // The seed of the standard library's hash maps comes from the kernel's random numbers.
    let node_id = RandomState::new().build_hasher().finish();
    let text = format!("Skiff store\nformat {FORMAT}\nnode {node_id:016x}\n");
    skiff_base::file::replace(file, text.as_bytes(), FILE_MODE).map_err(|e| open_error(file, e))?;
    Ok(node_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_format_is_refused_with_its_version_and_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let first = Directory::open(directory.path()).unwrap();
        let id = first.node_id;
        assert!(matches!(Directory::open(directory.path()), Err(Error::InUse(path)) if path == directory.path()));
        drop(first);
        assert_eq!(Directory::open(directory.path()).unwrap().node_id, id, "a disk keeps its id");

        for (text, expect) in [("format 7\nnode 1\n", "format 7"), ("nonsense", "format (unknown)")] {
            fs::write(directory.path().join("FORMAT"), text).unwrap();
            let error = Directory::open(directory.path()).unwrap_err().to_string();
            assert!(error.contains(expect) && error.contains("start the version of Skiff"), "{error}");
        }
        fs::remove_file(directory.path().join("FORMAT")).unwrap();
        let error = Directory::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("no FORMAT file"), "{error}");
    }
}
