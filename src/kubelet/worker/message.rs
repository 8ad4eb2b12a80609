//! The termination message of a container.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::logs;

/// Upstream's limits.
const MAX_MESSAGE: u64 = 4096;
const MAX_LOG: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// What the container left in its message file; with `from_log`, else the end of its log.
pub(super) fn read(file: &Path, from_log: Option<&Path>) -> String {
    let message = head(file).unwrap_or_else(|e| format!("Error reading termination message: {e}"));
    match from_log {
        Some(log) if message.is_empty() => {
            tail(log).unwrap_or_else(|e| format!("Error reading termination message from logs: {e}"))
        }
        _ => message,
    }
}

fn head(file: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    match logs::open_file(file) {
        Ok(file) => file.take(MAX_MESSAGE).read_to_end(&mut bytes)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        Err(e) => return Err(e),
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn tail(log: &Path) -> io::Result<String> {
    let mut file = logs::open_file(log)?;
    // Lines carry a stamp of some 45 bytes, so this is enough for the last ones.
    let window = (MAX_LOG + MAX_LOG_LINES * 64) as u64;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(window)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let mut lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
    if length > window && !lines.is_empty() {
        // It may be cut.
        lines.remove(0);
    }
    let mut text = Vec::new();
    for line in &lines[lines.len().saturating_sub(MAX_LOG_LINES)..] {
        if let Some(line) = logs::parse(line) {
            text.extend_from_slice(line.content);
            if !line.partial {
                text.push(b'\n');
            }
        }
    }
    let start = text.len().saturating_sub(MAX_LOG);
    Ok(String::from_utf8_lossy(&text[start..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_first_then_log() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, log) = (directory.path().join("m"), directory.path().join("0.log"));
        std::fs::write(&log, "2024-01-01T00:00:00.0Z stdout F one\n2024-01-01T00:00:00.0Z stderr P tw\n2024-01-01T00:00:00.0Z stderr F o\n")
            .expect("a log");
        assert_eq!(read(&file, None), "");
        assert_eq!(read(&file, Some(&log)), "one\ntwo\n");
        std::fs::write(&file, "x".repeat(5000)).expect("a message");
        assert_eq!(read(&file, Some(&log)).len(), 4096);
    }
}
