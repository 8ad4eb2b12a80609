//! The audit log's file: one line per event, and a new file when the old one is full.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use skiff_base::chain;
use tokio::sync::mpsc;

/// Events that wait to be written. Requests wait for room: an event is never lost.
pub(super) const WAITING: usize = 1024;
/// Flushed at the latest after so many.
const AT_ONCE: usize = 128;
const MEGABYTE: u64 = 1024 * 1024;
/// Upstream's library's.
const DEFAULT_MAX_MB: u64 = 100;

/// How large it may become, and what is kept of the old; 0 is no limit (of the size, 100 MB).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rotation {
    pub max_size_mb: u64,
    pub max_backups: usize,
    pub max_age_days: u64,
}

/// The file, or standard output for `-`.
pub(super) struct Log {
    path: PathBuf,
    rotation: Rotation,
    file: Option<File>,
    size: u64,
}

impl Log {
    pub fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        let mut log = Self { path: path.to_owned(), rotation, file: None, size: 0 };
        if path != Path::new("-") {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            log.open_file()?;
        }
        Ok(log)
    }

    fn open_file(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn write(&mut self, lines: &[u8], now: Timestamp) -> io::Result<()> {
        if self.file.is_none() {
            return io::stdout().lock().write_all(lines);
        }
        let max = match self.rotation.max_size_mb {
            0 => DEFAULT_MAX_MB,
            max => max,
        };
        if self.size > 0 && self.size + lines.len() as u64 > max * MEGABYTE {
            self.rotate(now)?;
        }
        if let Some(file) = &mut self.file {
            file.write_all(lines)?;
            self.size += lines.len() as u64;
        }
        Ok(())
    }

    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        let (start, end) = name_parts(&self.path);
        let time = now.strftime("%Y-%m-%dT%H-%M-%S%.3f");
        fs::rename(&self.path, self.path.with_file_name(format!("{start}-{time}{end}")))?;
        self.open_file()?;
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let names = fs::read_dir(directory)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        for name in plan_removal(names, &start, &end, self.rotation, now) {
            fs::remove_file(directory.join(name))?;
        }
        Ok(())
    }
}

/// `audit.log` is `audit` and `.log`.
fn name_parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let end = text(path.extension());
    (text(path.file_stem()), if end.is_empty() { end } else { format!(".{end}") })
}

/// Which of the old files go.
fn plan_removal(names: Vec<String>, start: &str, end: &str, rotation: Rotation, now: Timestamp) -> Vec<String> {
    let time_of = |name: &str| {
        let time = name.strip_prefix(start)?.strip_prefix('-')?.strip_suffix(end)?;
        let parsed = jiff::civil::DateTime::strptime("%Y-%m-%dT%H-%M-%S%.f", time).ok()?;
        parsed.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    };
    let mut old: Vec<(Timestamp, String)> =
        names.into_iter().filter_map(|name| Some((time_of(&name)?, name))).collect();
    old.sort();
    old.reverse();
    let kept = if rotation.max_backups == 0 { usize::MAX } else { rotation.max_backups };
    let age = match rotation.max_age_days {
        0 => SignedDuration::MAX,
        days => SignedDuration::from_hours(i64::try_from(days).unwrap_or(i64::MAX / 24) * 24),
    };
    let goes = |(at, (time, _)): &(usize, (Timestamp, String))| *at >= kept || now.duration_since(*time) > age;
    old.into_iter().enumerate().filter(goes).map(|(_, (_, name))| name).collect()
}

/// Writes until all senders are gone. Runs on a thread of its own: files block.
pub(super) fn write_all(mut log: Log, mut lines: mpsc::Receiver<Vec<u8>>) {
    let mut batch = Vec::new();
    while lines.blocking_recv_many(&mut batch, AT_ONCE) > 0 {
        let text = batch.concat();
        batch.clear();
        if let Err(error) = log.write(&text, skiff_base::time::now()) {
            tracing::error!(path = %log.path.display(), error = %chain(&error), "audit events are lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_old_ones_go() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("logs/audit.log");
        let rotation = Rotation { max_size_mb: 1, max_backups: 2, max_age_days: 0 };
        let mut log = Log::open(&path, rotation).expect("opens");
        let line = vec![b'x'; 700 * 1024];
        let mut now: Timestamp = "2026-01-01T00:00:00.5Z".parse().expect("a time");
        for _ in 0..5 {
            log.write(&line, now).expect("written");
            now += SignedDuration::from_secs(1);
        }
        let mut names: Vec<String> = fs::read_dir(path.parent().expect("a directory"))
            .expect("listed")
            .map(|e| e.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        assert_eq!(names, ["audit-2026-01-01T00-00-03.500.log", "audit-2026-01-01T00-00-04.500.log", "audit.log"]);
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_too_old_goes() {
        let names = [
            "audit.log",
            "audit-2026-01-01T00-00-00.000.log",
            "audit-2026-01-09T00-00-00.000.log",
            "audit-x.log",
            "other",
        ];
        let names = || names.map(str::to_owned).to_vec();
        let now: Timestamp = "2026-01-10T00:00:00Z".parse().expect("a time");
        let plan = |max_backups, max_age_days| {
            plan_removal(names(), "audit", ".log", Rotation { max_size_mb: 0, max_backups, max_age_days }, now)
        };
        assert_eq!(plan(0, 0), Vec::<String>::new());
        assert_eq!(plan(0, 5), ["audit-2026-01-01T00-00-00.000.log"]);
        assert_eq!(plan(1, 0), ["audit-2026-01-01T00-00-00.000.log"]);
        assert_eq!(plan(5, 0), Vec::<String>::new());
    }
}
