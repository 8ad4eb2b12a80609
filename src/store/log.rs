//! Raft's log as the rest of the store sees it: where each entry is, which are in memory, and the way to the writer.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::{Stream, stream};
use openraft::storage::{LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::{Notify, oneshot};

use crate::codec;
use crate::raft::{Entry, Flushed, LogId, TypeConfig, Vote};
use crate::space::Space;

/// What the log's writer thread is asked to do, in order.
pub(crate) enum Job {
    Append {
        entries: Vec<Entry>,
        done: Flushed,
    },
    Vote {
        vote: Vote,
        done: oneshot::Sender<()>,
    },
    Truncate {
        after: Option<LogId>,
        done: oneshot::Sender<()>,
    },
    Purge {
        upto: LogId,
        done: oneshot::Sender<()>,
    },
    /// Get a spare segment if there is none; false: the disk is full.
    Allocate {
        done: oneshot::Sender<bool>,
    },
    Stop,
}

/// A written entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub segment: u64,
    pub start: u32,
    pub length: u32,
}

/// Which entries there are.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// The index of the first of `locations`.
    pub first: u64,
    pub locations: VecDeque<Location>,
    /// The newest entries, appended and perhaps not yet written; reaches at least as far as `locations`, or is empty.
    cache: VecDeque<Entry>,
    pub last: Option<LogId>,
    pub purged: Option<LogId>,
    pub vote: Option<Vote>,
    pub files: BTreeMap<u64, Arc<File>>,
}

/// Where an entry is found.
enum Place {
    Memory(Entry),
    Disk(Arc<File>, Location),
}

impl Index {
    fn end(&self) -> u64 {
        self.cache.back().map_or(self.first + self.locations.len() as u64, |entry| entry.log_id.index + 1)
    }

    fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        if self.cache.is_empty() && self.locations.is_empty() {
            self.first = first.log_id.index;
        }
        self.last = entries.last().map(|entry| entry.log_id);
        self.cache.extend(entries.iter().cloned());
    }

    fn place(&self, index: u64) -> Option<Place> {
        if let Some(from) = self.cache.front().map(|entry| entry.log_id.index)
            && index >= from
        {
            return self.cache.get((index - from) as usize).cloned().map(Place::Memory);
        }
        let location = self.locations.get(index.checked_sub(self.first)? as usize)?;
        Some(Place::Disk(self.files.get(&location.segment)?.clone(), *location))
    }

    /// Forgets the copies in memory of entries that are on disk, up to `index`.
    fn evict(&mut self, index: u64) {
        let written = self.first + self.locations.len() as u64;
        while self.cache.front().is_some_and(|entry| entry.log_id.index <= index && entry.log_id.index < written) {
            self.cache.pop_front();
        }
        // A burst must not leave its capacity behind.
        if self.cache.is_empty() && self.cache.capacity() > 1024 {
            self.cache.shrink_to(64);
        }
    }

    pub fn truncate(&mut self, after: Option<LogId>) {
        let keep = after.map_or(0, |id| id.index + 1);
        self.locations.truncate(keep.saturating_sub(self.first) as usize);
        while self.cache.back().is_some_and(|entry| entry.log_id.index >= keep) {
            self.cache.pop_back();
        }
        // Behind the end there is nothing to take back.
        self.last = self.last.min(after.max(self.purged));
    }

    pub fn purge(&mut self, upto: LogId) {
        let gone = (upto.index + 1).saturating_sub(self.first).min(self.locations.len() as u64);
        self.locations.drain(..gone as usize);
        while self.cache.front().is_some_and(|entry| entry.log_id.index <= upto.index) {
            self.cache.pop_front();
        }
        self.first = self.first.max(upto.index + 1);
        self.purged = self.purged.max(Some(upto));
        self.last = self.last.max(self.purged);
    }
}

/// What the handles and the writer share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    index: Mutex<Index>,
    /// Bytes written since the store was opened, or found then.
    pub written: AtomicU64,
    /// Told when the log has grown by a segment.
    pub grown: Notify,
    pub space: Arc<Space>,
}

impl Shared {
    pub fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Entries up to `index` are applied: nobody needs them in memory.
    pub fn evict(&self, index: u64) {
        self.index().evict(index);
    }
}

/// The handle that Raft writes through; clones read.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub shared: Arc<Shared>,
    pub jobs: SyncSender<Job>,
}

impl Log {
    fn send(&self, job: Job) -> io::Result<()> {
        self.jobs.send(job).map_err(|_| stopped())
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> io::Result<T> {
        let (done, answer) = oneshot::channel();
        self.send(job(done))?;
        answer.await.map_err(|_| stopped())
    }

    /// True when there is a spare segment.
    pub async fn allocate(&self) -> io::Result<bool> {
        self.ask(|done| Job::Allocate { done }).await
    }

    async fn read(&self, from: u64, to: u64) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut on_disk = Vec::new();
        {
            let index = self.shared.index();
            for i in from.max(index.first)..to.min(index.end()) {
                match index.place(i) {
                    Some(Place::Memory(entry)) => entries.push(entry),
                    Some(Place::Disk(file, location)) => on_disk.push((file, location)),
                    None => {}
                }
            }
        }
        if on_disk.is_empty() {
            return Ok(entries);
        }
        // Only at start and for a replica that is behind; the newest entries are always in memory.
        let read =
            move || on_disk.iter().map(|(file, location)| read_entry(file, *location)).collect::<io::Result<_>>();
        let mut found: Vec<Entry> = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
        found.append(&mut entries);
        Ok(found)
    }
}

fn stopped() -> io::Error {
    io::Error::other("the log has stopped")
}

fn read_entry(file: &File, location: Location) -> io::Result<Entry> {
    let mut bytes = vec![0; location.length as usize];
    file.read_exact_at(&mut bytes, location.start.into())?;
    codec::entry(Bytes::from(bytes)).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (from, to) = bounds(&range);
        self.read(from, to).await
    }

    /// In pieces, so that a long replay does not hold the whole log in memory.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        const PIECE: u64 = 256;
        let (from, to) = bounds(&range);
        let start = (self.clone(), from, Vec::new().into_iter());
        stream::try_unfold(start, move |(log, mut next, mut piece)| async move {
            loop {
                if let Some(entry) = piece.next() {
                    return Ok(Some((entry, (log, next, piece))));
                }
                if next >= to {
                    return Ok(None);
                }
                let end = next.saturating_add(PIECE).min(to);
                let entries = log.read(next, end).await?;
                if entries.is_empty() {
                    return Ok(None);
                }
                (next, piece) = (end, entries.into_iter());
            }
        })
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.index().vote)
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let index = self.shared.index();
        Ok(LogState { last_purged_log_id: index.purged, last_log_id: index.last })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = *vote;
        self.ask(|done| Job::Vote { vote, done }).await
    }

    async fn append<I>(&mut self, entries: I, done: Flushed) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.shared.index().append(&entries);
        self.send(Job::Append { entries, done })
    }

    async fn truncate_after(&mut self, after: Option<LogId>) -> Result<(), io::Error> {
        self.ask(|done| Job::Truncate { after, done }).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.ask(|done| Job::Purge { upto, done }).await
    }
}
