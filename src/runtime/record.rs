//! What survives the agent: one small file per sandbox and container.
//!
//! Written without fsync: after a power cut nothing runs, and a record that can't be read is as good as none.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::protocol::ExitRecord;
use crate::{ContainerConfig, SandboxConfig};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxRecord {
    pub id: String,
    pub config: SandboxConfig,
    pub cgroup: String,
    pub created_ns: i64,
    pub stopped: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: String,
    pub sandbox: String,
    pub config: ContainerConfig,
    pub image_ref: String,
    pub stop_signal: i32,
    pub cgroup: String,
    pub log_path: PathBuf,
    pub created_ns: i64,
}

pub const RECORD: &str = "record.json";
pub const EXIT: &str = "exit.json";
/// Made by the supervisor when the program runs; holds the time.
pub const STARTED: &str = "started";

/// Replaces a file as a whole; what containers are told is for root alone.
pub fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    std::fs::rename(temporary, path)
}

/// `None`: not there, or not readable as such.
pub fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// The names in a directory; none if there is no directory.
pub fn names(directory: &Path) -> io::Result<Vec<String>> {
    match std::fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// How many files another process may put into a directory while it is removed.
const LATE_FILES: usize = 16;

/// Removes a directory and all in it; that it is not there is no error.
pub fn ensure_removed(directory: &Path) -> io::Result<()> {
    let mut late = 0;
    loop {
        match std::fs::remove_dir_all(directory) {
            // Another process has written a record meanwhile.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && late < LATE_FILES => late += 1,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => return Ok(()),
        }
    }
}

/// What is known of a container whose supervisor ended before it.
pub fn exit_of_lost(directory: &Path, now_ns: i64) -> Option<ExitRecord> {
    let started = std::fs::read_to_string(directory.join(STARTED)).ok()?;
    Some(ExitRecord {
        started_ns: started.trim().parse().ok(),
        finished_ns: now_ns,
        code: 255,
        signal: None,
        reason: "Unknown".to_owned(),
        message: "the supervisor ended before the container did".to_owned(),
    })
}
