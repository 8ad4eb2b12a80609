//! Container logs as the CRI defines them: `<RFC 3339 with nanoseconds> stdout|stderr F|P <line>`.
//!
//! Lines longer than [`MAX_LINE`] are cut into partial ones (`P`), and so is what a stream ends with when it has no
//! newline. One write per batch. A file that is full is renamed and a new one opened; few old ones are kept.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::carry;

pub const MAX_LINE: usize = 16 * 1024;
const MAX_FILE: u64 = 10 << 20;
/// The current one and the renamed ones.
const MAX_FILES: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    path: PathBuf,
    #[serde(with = "carry")]
    file: Option<File>,
    size: u64,
    max_size: u64,
    /// What each stream has said since its last newline.
    partial: [Vec<u8>; 2],
    batch: Vec<u8>,
}

impl Log {
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut log = Self {
            path: path.to_owned(),
            file: None,
            size: 0,
            max_size: MAX_FILE,
            partial: [Vec::new(), Vec::new()],
            batch: Vec::new(),
        };
        log.reopen()?;
        Ok(log)
    }

    fn reopen(&mut self) -> io::Result<()> {
        // Whoever can write in the directory must not lead us to another file, nor make us wait at a pipe.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags).open(&self.path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a file"));
        }
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Takes what a stream said.
    pub fn take(&mut self, stream: Stream, mut bytes: &[u8]) {
        let time = now();
        while !bytes.is_empty() {
            let newline = bytes.iter().position(|byte| *byte == b'\n');
            let room = MAX_LINE - self.partial[stream as usize].len();
            match newline {
                Some(end) if end <= room => {
                    self.line(stream, &time, 'F', &bytes[..end]);
                    bytes = &bytes[end + 1..];
                }
                _ if bytes.len() > room => {
                    self.line(stream, &time, 'P', &bytes[..room]);
                    bytes = &bytes[room..];
                }
                _ => {
                    self.partial[stream as usize].extend_from_slice(bytes);
                    bytes = &[];
                }
            }
        }
        self.write();
    }

    /// The stream says no more.
    pub fn end(&mut self, stream: Stream) {
        if !self.partial[stream as usize].is_empty() {
            self.line(stream, &now(), 'P', &[]);
            self.write();
        }
    }

    /// Appends a line of what is kept and what came.
    fn line(&mut self, stream: Stream, time: &str, tag: char, rest: &[u8]) {
        let kept = std::mem::take(&mut self.partial[stream as usize]);
        // Writing into memory can't fail.
        let _ = write!(self.batch, "{time} {} {tag} ", stream.name());
        self.batch.extend_from_slice(&kept);
        self.batch.extend_from_slice(rest);
        self.batch.push(b'\n');
    }

    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.size > 0 && self.size + self.batch.len() as u64 > self.max_size {
            self.rotate();
        }
        if self.file.is_none() {
            // Its directory may be back.
            let _ = self.reopen();
        }
        if let Some(file) = &mut self.file {
            match file.write_all(&self.batch) {
                Ok(()) => self.size += self.batch.len() as u64,
                // A full disk loses lines; the container goes on.
                Err(error) => super::report(format_args!("log {}: {error}", self.path.display())),
            }
        }
        self.batch.clear();
        // A burst must not be kept in memory for good.
        if self.batch.capacity() > 4 * MAX_LINE {
            self.batch.shrink_to(MAX_LINE);
        }
    }

    /// Renames the full file as kubelet does, `0.log.20060102-150405`, and opens a new one.
    fn rotate(&mut self) {
        let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
        let name = |suffix: &str| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{stamp}{suffix}"));
            PathBuf::from(name)
        };
        let mut target = name("");
        let mut count = 1;
        while target.exists() {
            target = name(&format!("-{count:03}"));
            count += 1;
        }
        if let Err(error) = fs::rename(&self.path, &target) {
            super::report(format_args!("log {}: {error}", self.path.display()));
        }
        self.file = None;
        let _ = self.reopen();
        if let Err(error) = self.prune() {
            super::report(format_args!("old logs of {}: {error}", self.path.display()));
        }
    }

    fn prune(&self) -> io::Result<()> {
        let (Some(directory), Some(name)) = (self.path.parent(), self.path.file_name()) else { return Ok(()) };
        let prefix = format!("{}.", name.to_string_lossy());
        let mut old: Vec<PathBuf> = fs::read_dir(directory)?
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .map(|entry| entry.path())
            .collect();
        old.sort();
        let surplus = old.len().saturating_sub(MAX_FILES - 1);
        old.iter().take(surplus).try_for_each(fs::remove_file)
    }
}

fn now() -> String {
    skiff_base::time::rfc3339_nano(Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the log holds after `stream` said each of the pieces, without times.
    fn logged(pieces: &[&[u8]]) -> Vec<String> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pod/0.log");
        let mut log = Log::open(&path).expect("opened");
        for piece in pieces {
            log.take(Stream::Stdout, piece);
        }
        log.end(Stream::Stdout);
        let text = fs::read_to_string(&path).expect("read");
        let without_time = |line: &str| line.split_once(' ').expect("a time").1.to_owned();
        text.lines().map(without_time).collect()
    }

    #[test]
    fn lines() {
        for (pieces, expect) in [
            (&[b"one\ntwo\n" as &[u8]] as &[&[u8]], &["stdout F one", "stdout F two"] as &[&str]),
            (&[b"o", b"n", b"e\n"], &["stdout F one"]),
            (&[b"\n\n"], &["stdout F ", "stdout F "]),
            (&[b"no newline"], &["stdout P no newline"]),
            (&[], &[]),
        ] {
            assert_eq!(logged(pieces), expect);
        }
    }

    #[test]
    fn long_lines_are_cut() {
        let exact = vec![b'a'; MAX_LINE];
        let mut with_newline = exact.clone();
        with_newline.push(b'\n');
        assert_eq!(logged(&[&with_newline]), [format!("stdout F {}", "a".repeat(MAX_LINE))]);
        let mut longer = vec![b'b'; MAX_LINE + 5];
        longer.push(b'\n');
        assert_eq!(logged(&[&longer]), [format!("stdout P {}", "b".repeat(MAX_LINE)), "stdout F bbbbb".to_owned()]);
        let halves: [&[u8]; 2] = [&longer[..10_000], &longer[10_000..]];
        assert_eq!(logged(&halves), logged(&[&longer]));
    }

    #[test]
    fn streams_do_not_mix() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.log");
        let mut log = Log::open(&path).expect("opened");
        log.take(Stream::Stdout, b"out");
        log.take(Stream::Stderr, b"err\n");
        log.take(Stream::Stdout, b"put\n");
        let text = fs::read_to_string(&path).expect("read");
        let lines: Vec<&str> = text.lines().map(|line| line.split_once(' ').expect("a time").1).collect();
        assert_eq!(lines, ["stderr F err", "stdout F output"]);
    }

    #[test]
    fn only_files_are_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let (link, pipe) = (directory.path().join("link.log"), directory.path().join("pipe.log"));
        std::os::unix::fs::symlink(directory.path().join("other"), &link).expect("a link");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        assert!(Log::open(&link).is_err() && Log::open(&pipe).is_err());
        assert!(!directory.path().join("other").exists());
    }

    #[test]
    fn full_files_are_renamed_and_few_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut log = Log::open(&directory.path().join("0.log")).expect("opened");
        log.max_size = 1000;
        for number in 0..200 {
            log.take(Stream::Stdout, format!("{number:060}\n").as_bytes());
        }
        let names = fs::read_dir(directory.path()).expect("listed").count();
        assert_eq!(names, MAX_FILES);
        let current = fs::read_to_string(directory.path().join("0.log")).expect("read");
        assert!(current.len() <= 1000 && current.ends_with(&format!("{:060}\n", 199)));
    }
}
