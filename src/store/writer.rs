//! The one thread that writes the log: it takes what has been asked meanwhile, writes it in one go, syncs once, and
//! only then tells the askers.
//!
//! ```text
//! jobs -> [ batch ] -> write -> fdatasync -> callbacks
//!             | segment full
//!             v
//!         spare-N, preallocated -> head + vote, synced -> renamed to <sequence>.log -> another spare
//! ```
//!
//! Segments whose entries are all purged become spares again: rewriting blocks that exist needs no metadata on disk.
//! A failed sync or write ends the process, since nobody can know what is on disk then; a full disk does not.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use nix::fcntl::FallocateFlags;
use skiff_base::chain;
use tokio::sync::oneshot;

use crate::codec;
use crate::faults;
use crate::log::{Job, Location, Shared};
use crate::raft::{Entry, Flushed, LogId, Vote};
use crate::segment::{self, Batch, HEAD_BYTES, SEGMENT_BYTES, kind};

/// A batch is written when it has grown to this, even if more is waiting.
const BATCH_BYTES: usize = 1 << 20;
/// Spare segments that are kept.
const SPARES: usize = 2;
/// What a spare segment must leave free on the disk: a checkpoint is what makes the log smaller again.
const CHECKPOINT_ROOM: u64 = 16 << 20;
/// What a start on a full disk must find in the last segment to go on with that.
const TAIL_ROOM: u64 = 128 << 10;
/// How long to wait for room when Raft itself has to write and there is none.
const FULL_WAIT: Duration = Duration::from_millis(200);

/// A segment that is not written any more.
#[derive(Debug)]
pub(crate) struct Old {
    pub sequence: u64,
    /// The highest entry index in it.
    pub last_index: Option<u64>,
}

struct Current {
    file: Arc<File>,
    sequence: u64,
    at: u64,
    last_index: Option<u64>,
}

pub(crate) struct Writer {
    directory: PathBuf,
    shared: Arc<Shared>,
    current: Current,
    old: Vec<Old>,
    spares: Vec<PathBuf>,
    next_spare: u64,
    next_batch: u64,
    batch: Batch,
    /// Entries in the batch.
    entries: Vec<(LogId, usize, usize)>,
    /// Who waits for the batch.
    flushed: Vec<Flushed>,
    voted: Vec<oneshot::Sender<()>>,
    vote: Option<Vote>,
}

/// What recovery found, for the writer to go on from.
pub(crate) struct Start {
    pub directory: PathBuf,
    pub shared: Arc<Shared>,
    pub old: Vec<Old>,
    pub spares: Vec<PathBuf>,
    pub next_sequence: u64,
    pub next_batch: u64,
    /// Where the last of the old segments can be written on.
    pub tail: Option<u64>,
    pub vote: Option<Vote>,
}

impl Writer {
    /// Opens a new segment; a torn one is never written again. Where the disk has no room for one, the last one goes on.
    pub fn start(start: Start) -> io::Result<Writer> {
        let Start { directory, shared, mut old, mut spares, next_sequence, next_batch, tail, vote } = start;
        let mut next_spare = next_sequence;
        let spare = match spares.pop() {
            Some(spare) => Ok(spare),
            None => new_spare(&directory, &mut next_spare, CHECKPOINT_ROOM),
        };
        let with_room = tail.filter(|at| at + TAIL_ROOM <= SEGMENT_BYTES);
        let (current, next_batch) = match (spare, with_room) {
            (Ok(spare), _) => open_segment(&directory, &spare, next_sequence, next_batch, vote.as_ref())?,
            (Err(e), Some(at)) if full(&e) => {
                tracing::error!(directory = %directory.display(), "the disk of the store is full: writes are refused until there is room");
                (continue_segment(&directory, old.pop(), at)?, next_batch)
            }
            (Err(e), _) if full(&e) => {
                // What checkpoints would need is the last that there is.
                let spare = new_spare(&directory, &mut next_spare, 0)?;
                open_segment(&directory, &spare, next_sequence, next_batch, vote.as_ref())?
            }
            (Err(e), _) => return Err(e),
        };
        shared.index().files.insert(current.sequence, current.file.clone());
        let mut writer = Writer {
            directory,
            shared,
            current,
            old,
            spares,
            next_spare,
            next_batch,
            batch: Batch::default(),
            entries: Vec::new(),
            flushed: Vec::new(),
            voted: Vec::new(),
            vote,
        };
        writer.ensure_spare();
        Ok(writer)
    }

    /// Works until told to stop or nobody can ask any more.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        let _abort = AbortOnPanic;
        while let Ok(first) = jobs.recv() {
            let mut next = Some(first);
            while let Some(job) = next {
                if !self.take(job) {
                    self.flush();
                    return;
                }
                next = jobs.try_recv().ok();
            }
            self.flush();
            if self.spares.is_empty() {
                self.ensure_spare();
            }
        }
    }

    /// False: stop.
    fn take(&mut self, job: Job) -> bool {
        match job {
            Job::Append { entries, done } => {
                entries.iter().for_each(|entry| self.push_entry(entry));
                self.flushed.push(done);
            }
            Job::Vote { vote, done } => {
                self.vote = Some(vote);
                self.push(kind::VOTE, 64, |out| codec::put_vote(out, &vote));
                self.voted.push(done);
            }
            Job::Truncate { after, done } => {
                self.push(kind::TRUNCATE, 64, |out| codec::put_optional_log_id(out, after.as_ref()));
                self.flush();
                self.shared.index().truncate(after);
                answer(done, ());
            }
            Job::Purge { upto, done } => {
                self.flush();
                self.purge(upto);
                answer(done, ());
            }
            Job::Allocate { done } => {
                self.flush();
                self.ensure_spare();
                answer(done, !self.spares.is_empty());
            }
            Job::Stop => return false,
        }
        if self.batch.len() >= BATCH_BYTES {
            self.flush();
        }
        true
    }

    fn push_entry(&mut self, entry: &Entry) {
        let bound = codec::payload_bound(&entry.payload);
        let (start, length) = self.push(kind::ENTRY, bound, |out| codec::put_entry(out, entry));
        self.entries.push((entry.log_id, start, length));
        self.current.last_index = self.current.last_index.max(Some(entry.log_id.index));
    }

    fn push(&mut self, kind: u8, bound: usize, payload: impl FnOnce(&mut Vec<u8>)) -> (usize, usize) {
        let needed = (self.batch.len() + segment::record_bytes(bound)) as u64;
        if self.current.at + needed > SEGMENT_BYTES {
            self.flush();
            self.roll();
        }
        self.batch.push(self.current.sequence, self.next_batch, kind, payload)
    }

    fn flush(&mut self) {
        if !self.batch.is_empty() {
            let bytes = self.batch.finish(self.current.sequence);
            write_synced(&self.current.file, bytes, self.current.at, self.current.sequence);
            let written = bytes.len() as u64;
            let mut index = self.shared.index();
            for (log_id, start, length) in self.entries.drain(..) {
                debug_assert_eq!(index.first + index.locations.len() as u64, log_id.index, "the log has no holes");
                let start = u32::try_from(self.current.at as usize + start).expect("a segment is small");
                let length = u32::try_from(length).expect("a record fits into a segment");
                index.locations.push_back(Location { segment: self.current.sequence, start, length });
            }
            if !self.voted.is_empty() {
                index.vote = self.vote;
            }
            drop(index);
            self.current.at += written;
            self.next_batch += 1;
            self.batch.clear();
            self.shared.written.fetch_add(written, Ordering::Relaxed);
            self.tell_space();
        }
        self.flushed.drain(..).for_each(|done| done.io_completed(Ok(())));
        self.voted.drain(..).for_each(|done| answer(done, ()));
    }

    fn roll(&mut self) {
        let mut warned = false;
        loop {
            self.ensure_spare();
            if let Some(spare) = self.spares.pop() {
                let sequence = self.current.sequence + 1;
                match open_segment(&self.directory, &spare, sequence, self.next_batch, self.vote.as_ref()) {
                    Ok((current, next_batch)) => return self.rolled(current, next_batch),
                    Err(e) if full(&e) => self.spares.push(spare),
                    Err(e) => fatal("start a segment of the log", &e),
                }
            }
            // Permits keep clients out long before; this is Raft's own entry, which can't be refused.
            if !warned {
                tracing::error!(directory = %self.directory.display(), "no room for the log: the store waits for space");
                warned = true;
            }
            thread::sleep(FULL_WAIT);
        }
    }

    fn rolled(&mut self, current: Current, next_batch: u64) {
        let old = std::mem::replace(&mut self.current, current);
        self.old.push(Old { sequence: old.sequence, last_index: old.last_index });
        self.shared.index().files.insert(self.current.sequence, self.current.file.clone());
        self.next_batch = next_batch;
        self.tell_space();
        self.shared.grown.notify_one();
    }

    /// No spare is not an error yet: there may still be room in the current segment.
    fn ensure_spare(&mut self) {
        if self.spares.is_empty() {
            match new_spare(&self.directory, &mut self.next_spare, CHECKPOINT_ROOM) {
                Ok(spare) => self.spares.push(spare),
                Err(e) if full(&e) => {}
                Err(e) => tracing::warn!(error = %chain(&e), "preallocate a segment of the log"),
            }
        }
        self.tell_space();
    }

    fn tell_space(&self) {
        self.shared.space.set(SEGMENT_BYTES - self.current.at, !self.spares.is_empty());
    }

    fn purge(&mut self, upto: LogId) {
        self.shared.index().purge(upto);
        let (gone, kept) = std::mem::take(&mut self.old)
            .into_iter()
            .partition(|old| old.last_index.is_none_or(|last_index| last_index <= upto.index));
        self.old = kept;
        if gone.is_empty() {
            return;
        }
        for Old { sequence, .. } in gone {
            self.shared.index().files.remove(&sequence);
            let path = segment_path(&self.directory, sequence);
            if let Err(e) = self.retire(&path) {
                // It holds nothing that recovery would use.
                tracing::warn!(path = %path.display(), error = %chain(&e), "remove a segment of the log");
            }
        }
        // A spare may only be overwritten when its old name is gone for good.
        if let Err(e) = skiff_base::file::sync_directory(&self.directory) {
            fatal("sync the log's directory", &e);
        }
        self.tell_space();
    }

    fn retire(&mut self, path: &Path) -> io::Result<()> {
        if self.spares.len() >= SPARES {
            return fs::remove_file(path);
        }
        let spare = spare_path(&self.directory, &mut self.next_spare);
        fs::rename(path, &spare)?;
        self.spares.push(spare);
        Ok(())
    }
}

/// A log that half of the process believes in is worse than none.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

fn answer<T>(done: oneshot::Sender<T>, value: T) {
    // Who asked may have gone away.
    drop(done.send(value));
}

pub(crate) fn segment_path(directory: &Path, sequence: u64) -> PathBuf {
    directory.join(format!("{sequence:016x}.log"))
}

fn spare_path(directory: &Path, next: &mut u64) -> PathBuf {
    loop {
        let path = directory.join(format!("spare-{next:x}"));
        *next += 1;
        if !path.exists() {
            return path;
        }
    }
}

fn new_spare(directory: &Path, next: &mut u64, room: u64) -> io::Result<PathBuf> {
    let disk = nix::sys::statvfs::statvfs(directory)?;
    if disk.blocks_available() * disk.fragment_size() < SEGMENT_BYTES + room {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let path = spare_path(directory, next);
    let made = preallocate(&path);
    if made.is_err() {
        // A short file would be taken for a spare with room.
        drop(fs::remove_file(&path));
    }
    made.map(|()| path)
}

fn preallocate(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let length = libc::off_t::try_from(SEGMENT_BYTES).expect("a segment is small");
    match nix::fcntl::fallocate(&file, FallocateFlags::empty(), 0, length) {
        Ok(()) => Ok(()),
        Err(nix::errno::Errno::EOPNOTSUPP) => {
            let zeros = vec![0; 1 << 20];
            (0..SEGMENT_BYTES).step_by(zeros.len()).try_for_each(|at| file.write_all_at(&zeros, at))
        }
        Err(e) => Err(e.into()),
    }
}

/// Makes a spare file the segment `sequence`: head and vote on disk first, then the name.
fn open_segment(
    directory: &Path,
    spare: &Path,
    sequence: u64,
    batch: u64,
    vote: Option<&Vote>,
) -> io::Result<(Current, u64)> {
    let file = OpenOptions::new().read(true).write(true).open(spare)?;
    file.write_all_at(&segment::head(sequence), 0)?;
    let mut at = HEAD_BYTES as u64;
    let mut next_batch = batch;
    if let Some(vote) = vote {
        let mut first = Batch::default();
        first.push(sequence, batch, kind::VOTE, |out| codec::put_vote(out, vote));
        let bytes = first.finish(sequence);
        file.write_all_at(bytes, at)?;
        at += bytes.len() as u64;
        next_batch += 1;
    }
    sync(&file);
    fs::rename(spare, segment_path(directory, sequence))?;
    if let Err(e) = skiff_base::file::sync_directory(directory) {
        fatal("sync the log's directory", &e);
    }
    Ok((Current { file: Arc::new(file), sequence, at, last_index: None }, next_batch))
}

/// Opens the last segment once more, to be written on from `at`.
fn continue_segment(directory: &Path, last: Option<Old>, at: u64) -> io::Result<Current> {
    let Some(Old { sequence, last_index }) = last else { return Err(io::ErrorKind::NotFound.into()) };
    let file = OpenOptions::new().read(true).write(true).open(segment_path(directory, sequence))?;
    Ok(Current { file: Arc::new(file), sequence, at, last_index })
}

pub(crate) fn full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

fn write_synced(file: &File, bytes: &[u8], at: u64, sequence: u64) {
    let mut warned = false;
    loop {
        match file.write_all_at(bytes, at) {
            Ok(()) => break,
            // The blocks are preallocated, but a file system that copies on write can still be full.
            Err(e) if full(&e) => {
                if !warned {
                    tracing::error!(error = %chain(&e), "no room for the log: the store waits for space");
                    warned = true;
                }
                thread::sleep(FULL_WAIT);
            }
            Err(e) => fatal("write the log", &e),
        }
    }
    faults::written(sequence, at, bytes.len());
    sync(file);
}

fn sync(file: &File) {
    let result = faults::sync().and_then(|()| file.sync_data());
    if let Err(e) = result {
        fatal("sync the log", &e);
    }
}

/// After a failed write or sync the kernel may have dropped the data and forgotten the error: a retry that succeeds
/// proves nothing. Only a restart, which reads what is really there, is safe.
fn fatal(what: &str, e: &io::Error) -> ! {
    tracing::error!(error = %chain(e), "cannot {what}: ending the process, since what is on disk is unknown");
    std::process::abort();
}
