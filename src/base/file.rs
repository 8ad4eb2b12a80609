//! Files that a power cut leaves either as they were or as they were meant to be.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Replaces `path` with `content` and permission bits `mode`: writes a temporary file beside it,
/// syncs it, renames it over `path`, and syncs the directory. Readers see the old or the new file.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| io::Error::other("the path has no file name"))?;
    let temporary = directory.join(format!(".{}.{}.tmp", name.to_string_lossy(), rand::random::<u32>()));
    let written = write_synced(&temporary, content, mode).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The rename did not happen; what is left of the temporary file is of no use.
        drop(fs::remove_file(&temporary));
    }
    written?;
    sync_directory(directory)
}

/// Removes what replacements that a crash has ended left in a directory. Nobody may replace a file in it meanwhile.
pub fn sweep(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes the names in a directory durable.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn write_synced(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // The mode of open(2) is cut by the umask.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn replaces_content_and_mode_and_leaves_nothing_else() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("key");
        replace(&path, b"one", 0o644).expect("first write");
        replace(&path, b"two", 0o600).expect("second write");
        assert_eq!(fs::read(&path).expect("readable"), b"two");
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).expect("listing").count(), 1);
        // As a crash before the renaming leaves it.
        fs::write(directory.path().join(".key.7.tmp"), b"thr").expect("written");
        sweep(directory.path()).expect("swept");
        assert_eq!(fs::read_dir(directory.path()).expect("listing").count(), 1);
        assert_eq!(fs::read(&path).expect("readable"), b"two");
    }
}
