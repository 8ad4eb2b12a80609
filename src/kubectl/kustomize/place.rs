//! A directory with a kustomization, and the files that it may name.

use std::path::{Component, Path, PathBuf};

use crate::print::os_error;
use crate::{Failure, Result};

#[derive(Debug, Clone)]
pub struct Place {
    /// Without links.
    pub root: PathBuf,
    /// The directories that led here.
    visited: Vec<PathBuf>,
    open: bool,
}

/// Whether a path names something on another machine.
pub fn is_remote(path: &str) -> bool {
    let hosts = ["github.com/", "github.com:", "git@", "git::", "gitlab.com/", "bitbucket.org/"];
    path.contains("://") || hosts.iter().any(|host| path.starts_with(host)) || path.contains(".git?ref=")
}

fn remote(path: &str) -> anyhow::Error {
    Failure::text(format!(
        "{path}: this kubectl reads no kustomizations or files of other machines; fetch them first, and name the local path"
    ))
}

impl Place {
    pub fn of_directory(path: &Path, open: bool) -> Result<Self> {
        if is_remote(&path.to_string_lossy()) {
            return Err(remote(&path.to_string_lossy()));
        }
        Ok(Self { root: confirmed(path)?, visited: Vec::new(), open })
    }

    /// Another directory that this one uses.
    pub fn directory(&self, path: &str) -> Result<Self> {
        if path.is_empty() {
            return Err(Failure::text("new root cannot be empty"));
        }
        if is_remote(path) {
            return Err(remote(path));
        }
        if Path::new(path).is_absolute() {
            return Err(Failure::text(format!("new root '{path}' cannot be absolute")));
        }
        let root = confirmed(&cleaned(&self.root.join(path)))?;
        let mut visited = self.visited.clone();
        visited.push(self.root.clone());
        if let Some(seen) = visited.iter().rev().find(|seen| seen.starts_with(&root)) {
            return Err(Failure::text(format!(
                "cycle detected: candidate root '{}' contains visited root '{}'",
                root.display(),
                seen.display()
            )));
        }
        Ok(Self { root, visited, open: self.open })
    }

    pub fn read(&self, path: &str) -> Result<String> {
        String::from_utf8(self.bytes(path)?).map_err(|_| Failure::text(format!("{path} is no UTF-8")))
    }

    pub fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        if is_remote(path) {
            return Err(remote(path));
        }
        let path = cleaned(&self.root.join(path));
        let shown = path.display().to_string();
        let failed = |what: &str, e: &std::io::Error| Failure::text(format!("{what} {shown}: {}", os_error(e)));
        let real = path.canonicalize().map_err(|e| {
            Failure::text(format!("evalsymlink failure on '{shown}' : lstat {shown}: {}", os_error(&e)))
        })?;
        if !self.open {
            if real.is_dir() {
                return Err(Failure::text(format!("'{shown}' must resolve to a file")));
            }
            if !real.starts_with(&self.root) {
                let root = self.root.display();
                return Err(Failure::text(format!("security; file '{shown}' is not in or below '{root}'")));
            }
        }
        std::fs::read(&real).map_err(|e| failed("read", &e))
    }
}

/// Without `.` and `..`, as Go joins paths.
fn cleaned(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(cleaned.pop()),
            part => cleaned.push(part),
        }
    }
    cleaned
}

fn confirmed(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    let why = match path.canonicalize() {
        Ok(real) if real.is_dir() => return Ok(real),
        Ok(_) => format!("'{shown}': file is not directory"),
        Err(e) => format!("not a valid directory: evalsymlink failure on '{shown}' : lstat {shown}: {}", os_error(&e)),
    };
    Err(Failure::text(format!("must build at directory: {why}")))
}
