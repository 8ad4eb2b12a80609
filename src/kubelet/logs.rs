//! Reads container logs in CRI's format: `<RFC 3339> stdout|stderr F|P <text>`.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use skiff_linux::inotify::Inotify;
use tokio::sync::mpsc;

/// What is read and sent at once, about.
const CHUNK: usize = 32 * 1024;
/// The longest line that is held in memory; the runtime writes fragments of 16 KiB.
const MAX_LINE: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    Stdout,
    Stderr,
}

/// One line of a log file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) stamp: &'a str,
    pub(crate) stream: Stdio,
    /// The text goes on in the next line of the same stream.
    pub(crate) partial: bool,
    pub(crate) content: &'a [u8],
}

/// `None` for what is no line of a log (the rest of a crash).
pub(crate) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut fields = line.splitn(4, |b| *b == b' ');
    let stamp = std::str::from_utf8(fields.next()?).ok()?;
    let stream = fields.next()?;
    let tags = fields.next()?;
    let content = fields.next().unwrap_or_default();
    let stream = match stream {
        b"stdout" => Stdio::Stdout,
        b"stderr" => Stdio::Stderr,
        _ => return None,
    };
    if stamp.len() < 20 {
        return None;
    }
    let partial = match tags.split(|b| *b == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Line { stamp, stream, partial, content })
}

/// What of a log is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    pub tail_lines: Option<u64>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    pub limit_bytes: Option<u64>,
    /// Nothing of the other one.
    pub only: Option<Stdio>,
}

/// Turns log lines into what a client sees.
struct Writer {
    since: Option<Timestamp>,
    timestamps: bool,
    left: Option<u64>,
    only: Option<Stdio>,
    out: Vec<u8>,
    /// The line before was a fragment.
    continues: bool,
}

impl Writer {
    fn new(options: &LogOptions) -> Self {
        Self {
            since: options.since,
            timestamps: options.timestamps,
            left: options.limit_bytes,
            only: options.only,
            out: Vec::with_capacity(CHUNK),
            continues: false,
        }
    }

    /// Nothing more is wanted.
    fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    fn put(&mut self, bytes: &[u8]) {
        let take = self.left.map_or(bytes.len(), |left| bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        self.out.extend_from_slice(&bytes[..take]);
        if let Some(left) = &mut self.left {
            *left -= take as u64;
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Some(line) = parse(line).filter(|line| self.only.is_none_or(|only| only == line.stream)) else { return };
        if let Some(since) = self.since {
            if line.stamp.parse::<Timestamp>().is_ok_and(|at| at < since) {
                return;
            }
            // Lines are in order: from here on all are wanted.
            self.since = None;
        }
        if self.timestamps && !self.continues {
            self.put(line.stamp.as_bytes());
            self.put(b" ");
        }
        self.put(line.content);
        if !line.partial {
            self.put(b"\n");
        }
        self.continues = line.partial;
    }

    fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::replace(&mut self.out, Vec::with_capacity(CHUNK)))
    }
}

/// The files of one log, oldest first: rotated ones (`0.log.<time>`), then the one that is written.
fn files(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name()) else { return Ok(Vec::new()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut files: Vec<PathBuf> = fs::read_dir(directory)?
        .filter_map(Result::ok)
        .filter(|e| {
            let name = e.file_name();
            let name = name.to_string_lossy();
            name.starts_with(&prefix) && !name.ends_with(".gz") && !name.ends_with(".tmp")
        })
        .map(|e| e.path())
        .collect();
    files.sort();
    if log.exists() {
        files.push(log.to_path_buf());
    }
    Ok(files)
}

/// A file, and nothing that leads to one or has no end: a container may have the directory mounted, and put there what
/// it wants to have read.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a file")) }
}

/// Where the last `lines` lines of a file begin, and how many lines are still missing then.
fn tail_start(file: &File, lines: u64) -> io::Result<(u64, u64)> {
    let length = file.metadata()?.len();
    let mut at = length;
    let mut missing = lines;
    let mut buffer = vec![0; CHUNK];
    while at > 0 {
        let size = CHUNK.min(usize::try_from(at).unwrap_or(CHUNK));
        at -= size as u64;
        let chunk = &mut buffer[..size];
        file.read_exact_at(chunk, at)?;
        for (offset, _) in chunk.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            let next = at + offset as u64 + 1;
            // The newline at the very end closes the last line, it begins none.
            if next == length {
                continue;
            }
            missing = missing.saturating_sub(1);
            if missing == 0 {
                return Ok((next, 0));
            }
        }
    }
    Ok((0, if length > 0 { missing.saturating_sub(1) } else { missing }))
}

/// The open end of a log.
struct Source {
    reader: BufReader<File>,
    inode: u64,
    /// A line without its end yet.
    rest: Vec<u8>,
}

impl Source {
    fn open(path: &Path, start: u64) -> io::Result<Self> {
        let mut file = open_file(path)?;
        let inode = file.metadata()?.ino();
        file.seek(SeekFrom::Start(start))?;
        Ok(Self { reader: BufReader::with_capacity(CHUNK, file), inode, rest: Vec::new() })
    }

    /// Hands whole lines to the writer until there are no more (false) or a chunk is full (true).
    fn read(&mut self, writer: &mut Writer) -> io::Result<bool> {
        while writer.out.len() < CHUNK && !writer.is_full() {
            let limit = MAX_LINE.saturating_sub(self.rest.len() as u64).max(1);
            let read = io::Read::take(&mut self.reader, limit).read_until(b'\n', &mut self.rest)?;
            if read == 0 {
                return Ok(false);
            }
            if self.rest.ends_with(b"\n") || self.rest.len() as u64 >= MAX_LINE {
                writer.line(&self.rest);
                self.rest.clear();
            }
        }
        Ok(true)
    }
}

/// Says when a container has ended for good, so that following ends too.
pub trait Ending: Send + 'static {
    /// Completes when nothing more will be written.
    fn ended(&mut self) -> impl Future<Output = ()> + Send;
}

/// One log on its way to a client.
struct Stream {
    log: PathBuf,
    writer: Writer,
    source: Option<Source>,
    queue: std::collections::VecDeque<(PathBuf, u64)>,
}

impl Stream {
    fn open(log: PathBuf, options: &LogOptions) -> io::Result<Self> {
        let mut queue = std::collections::VecDeque::new();
        let mut missing = options.tail_lines;
        for path in files(&log)?.into_iter().rev() {
            match missing {
                Some(0) if queue.is_empty() && path == log => {
                    // Nothing of what is there, but what follows.
                    queue.push_front((path.clone(), fs::metadata(&path)?.len()));
                    break;
                }
                Some(0) => break,
                Some(lines) => {
                    let (start, left) = tail_start(&open_file(&path)?, lines)?;
                    queue.push_front((path, start));
                    missing = Some(left);
                }
                None => queue.push_front((path, 0)),
            }
        }
        Ok(Self { log, writer: Writer::new(options), source: None, queue })
    }

    /// The next chunk; empty when all that is there has been read.
    fn next(&mut self) -> io::Result<Bytes> {
        loop {
            if self.source.is_none() {
                match self.queue.pop_front() {
                    Some((path, start)) => self.source = Some(Source::open(&path, start)?),
                    None => return Ok(self.writer.take()),
                }
            }
            let Some(source) = self.source.as_mut() else { return Ok(self.writer.take()) };
            if source.read(&mut self.writer)? || self.writer.is_full() {
                return Ok(self.writer.take());
            }
            // The end of this file: on to the next one, or to the one that took its place.
            if self.queue.is_empty() {
                let replaced = match fs::metadata(&self.log) {
                    Ok(meta) => meta.ino() != source.inode,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => false,
                    Err(e) => return Err(e),
                };
                if !replaced {
                    return Ok(self.writer.take());
                }
                // It may have been written to between the end and the rename.
                source.read(&mut self.writer)?;
                self.queue.push_back((self.log.clone(), 0));
            }
            self.source = None;
        }
    }
}

/// Why a log can't be read, if it can't; the words are upstream's.
pub(crate) async fn check(log: PathBuf) -> Result<(), String> {
    let open = move || {
        let failed = |e| io::Error::other(format!("failed to open log file {:?}: {e}", log.display().to_string()));
        files(&log).map_err(failed)?.iter().rev().take(1).try_for_each(|path| open_file(path).map(drop).map_err(failed))
    };
    blocking(open).await.map_err(|e| e.to_string())
}

/// Sends a log until its end (or, followed, until the container's), or until nobody listens.
pub async fn stream(log: PathBuf, options: LogOptions, mut ending: impl Ending, out: mpsc::Sender<io::Result<Bytes>>) {
    if let Err(e) = pump(log, &options, &mut ending, &out).await {
        drop(out.send(Err(e)).await);
    }
}

async fn pump(
    log: PathBuf,
    options: &LogOptions,
    ending: &mut impl Ending,
    out: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let directory = log.parent().unwrap_or(Path::new("/"));
    let watch = options.follow.then(|| Inotify::follow(directory)).transpose()?;
    let own = options.clone();
    let mut stream = blocking(move || Stream::open(log, &own)).await?;
    let mut last = false;
    loop {
        let (back, chunk) = blocking(move || {
            let chunk = stream.next()?;
            Ok((stream, chunk))
        })
        .await?;
        stream = back;
        if !chunk.is_empty() {
            if out.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
            if stream.writer.is_full() {
                return Ok(());
            }
            continue;
        }
        let Some(watch) = watch.as_ref().filter(|_| !last && !stream.writer.is_full()) else { return Ok(()) };
        tokio::select! {
            () = out.closed() => return Ok(()),
            // What was written before the end is still to be read.
            () = ending.ended() => last = true,
            changed = Inotify::changed(watch) => changed?,
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;
    use std::future;
    use std::io::Write as _;
    use tokio::sync::oneshot;

    struct Ends(Option<oneshot::Receiver<()>>);

    impl Ending for Ends {
        async fn ended(&mut self) {
            match &mut self.0 {
                Some(end) => drop(end.await),
                None => future::pending().await,
            }
        }
    }

    async fn read(log: &Path, options: LogOptions) -> String {
        let (out, mut chunks) = mpsc::channel(4);
        let task = tokio::spawn(stream(log.to_path_buf(), options, Ends(None), out));
        let mut text = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            text.extend_from_slice(&chunk.expect("readable"));
        }
        task.await.expect("no panic");
        String::from_utf8(text).expect("text")
    }

    fn log(first: u32, last: u32) -> String {
        let mut text = String::new();
        for n in first..=last {
            writeln!(text, "2024-05-01T10:00:{n:02}.000000000Z stdout F line {n}").expect("a string");
        }
        text
    }

    #[test]
    fn lines() {
        let at = "2024-05-01T10:00:00.000000001Z";
        for (text, expected) in [
            (format!("{at} stdout F hello world\n"), Some((Stdio::Stdout, false, "hello world"))),
            (format!("{at} stderr P part"), Some((Stdio::Stderr, true, "part"))),
            (format!("{at} stdout F:x \n"), Some((Stdio::Stdout, false, ""))),
            (format!("{at} stdout F\n"), Some((Stdio::Stdout, false, ""))),
            (format!("{at} stdin F x\n"), None),
            ("garbage\n".to_owned(), None),
            (String::new(), None),
        ] {
            let found = parse(text.as_bytes());
            let expected =
                expected.map(|(stream, partial, c)| Line { stamp: at, stream, partial, content: c.as_bytes() });
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[tokio::test]
    async fn options() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("0.log");
        fs::write(directory.path().join("0.log.20240501-100003"), log(1, 3)).expect("a rotated log");
        fs::write(
            &file,
            log(4, 5) + "2024-05-01T10:00:06.000000000Z stdout P lo\n2024-05-01T10:00:06.000000000Z stdout F ng\n",
        )
        .expect("a log");
        let all = LogOptions::default();
        for (options, expected) in [
            (all.clone(), "line 1\nline 2\nline 3\nline 4\nline 5\nlong\n"),
            (LogOptions { tail_lines: Some(0), ..all.clone() }, ""),
            (LogOptions { tail_lines: Some(3), ..all.clone() }, "line 5\nlong\n"),
            (LogOptions { tail_lines: Some(5), ..all.clone() }, "line 3\nline 4\nline 5\nlong\n"),
            (LogOptions { tail_lines: Some(99), ..all.clone() }, "line 1\nline 2\nline 3\nline 4\nline 5\nlong\n"),
            (
                LogOptions { since: Some("2024-05-01T10:00:05Z".parse().expect("a time")), ..all.clone() },
                "line 5\nlong\n",
            ),
            (LogOptions { limit_bytes: Some(9), ..all.clone() }, "line 1\nli"),
            (LogOptions { only: Some(Stdio::Stderr), ..all.clone() }, ""),
            (LogOptions { only: Some(Stdio::Stdout), limit_bytes: Some(9), ..all.clone() }, "line 1\nli"),
            (
                LogOptions { timestamps: true, tail_lines: Some(3), ..all.clone() },
                "2024-05-01T10:00:05.000000000Z line 5\n2024-05-01T10:00:06.000000000Z long\n",
            ),
        ] {
            assert_eq!(read(&file, options.clone()).await, expected, "{options:?}");
        }
    }

    #[tokio::test]
    async fn follows_over_a_rotation_to_the_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("0.log");
        fs::write(&file, log(1, 2)).expect("a log");
        let (out, mut chunks) = mpsc::channel(4);
        let (end, ends) = oneshot::channel();
        let options = LogOptions { follow: true, tail_lines: Some(1), ..LogOptions::default() };
        let task = tokio::spawn(stream(file.clone(), options, Ends(Some(ends)), out));
        let mut seen = String::new();
        let mut until = async |text: &str| {
            while !seen.ends_with(text) {
                let chunk = chunks.recv().await.expect("more to come").expect("readable");
                seen.push_str(std::str::from_utf8(&chunk).expect("text"));
            }
            seen.clone()
        };
        assert_eq!(until("line 2\n").await, "line 2\n");
        let mut append = fs::OpenOptions::new().append(true).open(&file).expect("the log");
        append.write_all(log(3, 3).as_bytes()).expect("written");
        until("line 3\n").await;
        fs::rename(&file, directory.path().join("0.log.20240501-100003")).expect("rotated");
        fs::write(&file, log(4, 4)).expect("a new log");
        until("line 4\n").await;
        fs::write(directory.path().join("other"), "x").expect("a stranger");
        end.send(()).expect("it listens");
        assert_eq!(until("line 4\n").await, "line 2\nline 3\nline 4\n");
        task.await.expect("it ends");
    }

    #[tokio::test]
    async fn long_logs_arrive_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("0.log");
        let text: String = (0..20_000).fold(String::new(), |mut text, n| {
            writeln!(text, "2024-05-01T10:00:00.000000000Z stdout F {n:05}").expect("a string");
            text
        });
        fs::write(&file, text).expect("a log");
        let found = read(&file, LogOptions::default()).await;
        assert_eq!(found.len(), 20_000 * 6);
        let tail = read(&file, LogOptions { tail_lines: Some(15_000), ..LogOptions::default() }).await;
        assert!(tail.starts_with("05000\n") && tail.len() == 15_000 * 6);
    }
}
