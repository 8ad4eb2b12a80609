//! Files that a container sees change all at once: the content lies in a time-stamped directory, `..data` links to
//! it, and every visible name links through `..data`. A change makes a new directory and swaps the one link.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Payload {
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
    /// The owner, where it is not root.
    pub(crate) owner: Option<u32>,
}

/// By relative path.
pub(crate) type Files = BTreeMap<String, Payload>;

/// A path that may stand in a volume: relative, without `..`, not hidden behind two dots.
pub(crate) fn is_valid_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 4096
        && !path.starts_with("..")
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

/// Makes `directory` show exactly `files`; true where that changed anything.
pub(crate) fn write(directory: &Path, files: &Files, group: Option<u32>) -> io::Result<bool> {
    if let Some(bad) = files.keys().find(|p| !is_valid_path(p)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the path {bad:?} is not allowed in a volume"),
        ));
    }
    let data = directory.join(DATA);
    let old = fs::read_link(&data).ok();
    if old.is_some() && shows(&data, files)? {
        return Ok(false);
    }
    let stamp = skiff_base::time::now().strftime("..%Y_%m_%d_%H_%M_%S.%9f").to_string();
    let fresh = directory.join(&stamp);
    fs::create_dir(&fresh)?;
    // The umask has cut what create_dir asked for.
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, payload) in files {
        write_file(&fresh, path, payload, group)?;
    }
    let link = directory.join(NEW_DATA);
    remove_if_there(&link)?;
    symlink(&stamp, &link)?;
    fs::rename(&link, &data)?;

    let visible: BTreeSet<&str> = files.keys().filter_map(|p| p.split('/').next()).collect();
    for name in &visible {
        let target = Path::new(DATA).join(name);
        let at = directory.join(name);
        if fs::read_link(&at).ok().as_deref() != Some(&target) {
            symlink(&target, &at)?;
        }
    }
    remove_stale(directory, &visible, &stamp)?;
    Ok(true)
}

fn write_file(base: &Path, path: &str, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    let at = base.join(path);
    if let Some(parent) = at.parent() {
        make_directories(base, parent, group)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at)?;
    file.write_all(&payload.content)?;
    // Who owns the group of the volume may read all of it.
    let mode = if group.is_some() { payload.mode | 0o440 } else { payload.mode };
    if payload.owner.is_some() || group.is_some() {
        chown(&at, payload.owner, group)?;
    }
    file.set_permissions(fs::Permissions::from_mode(mode))
}

fn make_directories(base: &Path, directory: &Path, group: Option<u32>) -> io::Result<()> {
    let relative = directory.strip_prefix(base).map_err(io::Error::other)?;
    let mut at = base.to_path_buf();
    for part in relative.components() {
        at.push(part);
        match fs::create_dir(&at) {
            Ok(()) => {
                fs::set_permissions(&at, fs::Permissions::from_mode(0o755))?;
                if group.is_some() {
                    chown(&at, None, group)?;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Whether the files of `data` are exactly `files`.
fn shows(data: &Path, files: &Files) -> io::Result<bool> {
    let mut found = Vec::new();
    match collect(data, Path::new(""), &mut found) {
        Ok(()) => {}
        // A crash left the link without its directory: it is written anew.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    }
    if found.len() != files.len() {
        return Ok(false);
    }
    for path in found {
        let Some(payload) = path.to_str().and_then(|p| files.get(p)) else { return Ok(false) };
        let mut same = fs::read(data.join(&path))? == payload.content;
        same &= File::open(data.join(&path))?.metadata()?.permissions().mode() & 0o7777 & payload.mode == payload.mode;
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn collect(base: &Path, below: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(base.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(base, &path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// Removes names that are no longer visible, and the content of earlier times.
fn remove_stale(directory: &Path, visible: &BTreeSet<&str>, stamp: &str) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == DATA || name == stamp || visible.contains(&*name) {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() && name.starts_with("..") {
            fs::remove_dir_all(entry.path())?;
        } else if kind.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str, u32)]) -> Files {
        list.iter()
            .map(|(path, text, mode)| {
                let payload = Payload { content: text.as_bytes().to_vec(), mode: *mode, owner: None };
                ((*path).to_owned(), payload)
            })
            .collect()
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .expect("a directory")
            .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn swaps_the_whole_content() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = directory.path();
        assert!(write(at, &files(&[("a", "1", 0o644), ("d/b", "2", 0o400)]), None).expect("written"));
        let first = fs::read_link(at.join(DATA)).expect("a link");
        assert_eq!(fs::read_link(at.join("a")).expect("a link"), Path::new("..data/a"));
        assert_eq!(fs::read_to_string(at.join("d/b")).expect("text"), "2");
        assert_eq!(fs::metadata(at.join("d/b")).expect("metadata").permissions().mode() & 0o777, 0o400);

        assert!(!write(at, &files(&[("a", "1", 0o644), ("d/b", "2", 0o400)]), None).expect("unchanged"));
        assert_eq!(fs::read_link(at.join(DATA)).expect("a link"), first);

        assert!(write(at, &files(&[("a", "3", 0o644), ("c", "4", 0o644)]), None).expect("written"));
        assert_eq!(fs::read_to_string(at.join("a")).expect("text"), "3");
        assert!(fs::symlink_metadata(at.join("d")).is_err());
        let stamp = fs::read_link(at.join(DATA)).expect("a link").to_string_lossy().into_owned();
        assert_eq!(names(at), ["..data".to_owned(), stamp, "a".to_owned(), "c".to_owned()].to_vec().tap_sorted());
        assert!(write(at, &Files::new(), None).expect("emptied"));
        assert_eq!(names(at).len(), 2);
    }

    trait Sorted {
        fn tap_sorted(self) -> Self;
    }

    impl Sorted for Vec<String> {
        fn tap_sorted(mut self) -> Self {
            self.sort();
            self
        }
    }

    #[test]
    fn heals_what_a_crash_left() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = directory.path();
        fs::create_dir(at.join("..2020_01_01_00_00_00.000000000")).expect("a leftover");
        symlink("..gone", at.join(DATA)).expect("a leftover");
        symlink("x", at.join(NEW_DATA)).expect("a leftover");
        assert!(write(at, &files(&[("a", "1", 0o644)]), None).expect("written"));
        assert_eq!(fs::read_to_string(at.join("a")).expect("text"), "1");
        assert_eq!(names(at).len(), 3);
    }

    #[test]
    fn group_may_read() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().expect("a directory");
        write(directory.path(), &files(&[("a", "1", 0o400)]), Some(2000)).expect("written");
        let meta = fs::metadata(directory.path().join("a")).expect("metadata");
        assert_eq!((meta.gid(), meta.mode() & 0o777), (2000, 0o440));
    }

    #[test]
    fn refuses_paths_that_lead_away() {
        for path in ["", "/a", "../a", "a/../b", "..a", "a/./.."] {
            assert!(!is_valid_path(path), "{path:?}");
        }
        for path in ["a", "a/b", "a..b", ".a", "a/..b"] {
            assert!(is_valid_path(path), "{path:?}");
        }
        let directory = tempfile::tempdir().expect("a directory");
        assert!(write(directory.path(), &files(&[("../x", "1", 0o644)]), None).is_err());
    }
}
