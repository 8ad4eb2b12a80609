//! A mark on a directory that is ours, where others have directories of the same names beside it.
//!
//! An extended attribute: it lies in no listing, and goes with the directory itself, not before it.

use std::io;
use std::path::Path;

/// The second one where the first may not be set: in a user namespace.
const NAMES: [&str; 2] = ["trusted.skiff", "user.skiff"];

/// Marks a directory; that it is marked already is fine.
pub fn set(path: &Path) -> io::Result<()> {
    let mut result = Ok(());
    for name in NAMES {
        result = xattr::set(path, name, b"1");
        if result.is_ok() {
            break;
        }
    }
    result
}

pub fn is_set(path: &Path) -> bool {
    NAMES.iter().any(|name| matches!(xattr::get(path, name), Ok(Some(_))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On the file systems that a node's directories lie on.
    #[test]
    fn marks_hold_on_every_kind_of_file_system() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| {
            let path = directory.path().join(name);
            std::fs::create_dir_all(&path).expect("a directory");
            path
        };
        let (memory, merged) = (at("memory"), at("merged"));
        crate::mount::tmpfs(&memory, "size=64k").expect("a tmpfs (needs root)");
        let upper = at("memory/upper");
        crate::mount::overlay(&[at("lower")], Some((&upper, &at("memory/work"))), None, &merged).expect("an overlay");
        for parent in [directory.path(), &memory, &merged] {
            let pod = parent.join("pod");
            std::fs::create_dir(&pod).expect("a directory");
            assert!(!is_set(&pod), "{}", parent.display());
            set(&pod).expect("marked");
            set(&pod).expect("marked again");
            assert!(is_set(&pod), "{}", parent.display());
        }
        assert!(!is_set(&directory.path().join("none")));
        crate::mount::ensure_unmounted_below(directory.path()).expect("unmounted");
    }
}
