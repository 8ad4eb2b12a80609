//! Reads the log's segments at start: which entries there are behind the checkpoint, and the last vote.
//!
//! A torn tail is left out, since nothing in it was acknowledged. Anything else that is missing or broken is an error
//! that names the file: going on would lose acknowledged writes in silence.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::codec::{self, Malformed};
use crate::log::{Index, Location, Shared};
use crate::raft::{LogId, Vote};
use crate::segment::{self, Found, HEAD_BYTES, SEGMENT_BYTES, kind};
use crate::writer::{Old, Start, segment_path};

#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "the log file {path} is damaged at byte {at}; restore the directory from a backup, or remove it to start empty"
    )]
    Corrupt { path: PathBuf, at: usize },
    #[error("the log file {path} is damaged at byte {at}")]
    Malformed { path: PathBuf, at: usize, source: Malformed },
    #[error("the log in {directory} is gone; restore the directory from a backup, or remove it to start empty")]
    Gone { directory: PathBuf },
    #[error(
        "the log in {directory} starts at entry {found} but entry {needed} is needed; restore the directory from a backup"
    )]
    Missing { directory: PathBuf, found: u64, needed: u64 },
}

/// What the segments read so far say.
struct Recovered<'a> {
    applied: Option<LogId>,
    index: &'a mut Index,
    first: Option<u64>,
    last: Option<LogId>,
    vote: Option<Vote>,
}

/// Fills the index with the entries behind `applied`, the checkpoint's last one.
pub(crate) fn recover(directory: &Path, applied: Option<LogId>, shared: Arc<Shared>) -> Result<Start, LogError> {
    let (sequences, spares) = files(directory).map_err(|source| read_error(directory, source))?;
    if sequences.is_empty() && applied.is_some() {
        return Err(LogError::Gone { directory: directory.to_path_buf() });
    }
    let mut index = shared.index();
    let mut found = Recovered { applied, index: &mut index, first: None, last: None, vote: None };
    let mut old = Vec::new();
    let mut next_batch = 0;
    let mut previous: Option<(u64, usize)> = None;
    let mut tail = None;
    for sequence in &sequences {
        let path = segment_path(directory, *sequence);
        let bytes = fs::read(&path).map_err(|source| read_error(&path, source))?;
        if segment::read_head(&bytes) != Some(*sequence) {
            return Err(LogError::Corrupt { path, at: 0 });
        }
        if let Some((before, at)) = previous
            && !follows(&found, before, *sequence, &bytes, next_batch)
        {
            return Err(LogError::Corrupt { path: segment_path(directory, before), at });
        }
        if previous.is_some_and(|(before, _)| before + 1 != *sequence) {
            (found.first, found.last, next_batch) = (None, None, 0);
        }
        let end = segment::scan(*sequence, &bytes, next_batch, |record| {
            let payload = Bytes::copy_from_slice(&bytes[record.start..record.start + record.length]);
            found.take(*sequence, record, payload).map_err(|source| match source {
                Some(source) => LogError::Malformed { path: path.clone(), at: record.start, source },
                None => LogError::Corrupt { path: path.clone(), at: record.start },
            })
        })?;
        if end.corrupt {
            return Err(LogError::Corrupt { path, at: end.at });
        }
        let file = File::open(&path).map_err(|source| read_error(&path, source))?;
        if sequences.last() == Some(sequence) {
            // After a kill the end of the log may be in the kernel alone; from now on it counts.
            file.sync_data().map_err(|source| read_error(&path, source))?;
        }
        found.index.files.insert(*sequence, Arc::new(file));
        shared.written.fetch_add(end.at as u64, Ordering::Relaxed);
        next_batch = end.next_batch;
        tail = end.clean.then_some(end.at as u64);
        previous = Some((*sequence, end.at));
        // What was taken back by a truncation counts as well: keeping a segment too long is harmless.
        old.push(Old { sequence: *sequence, last_index: found.last.map(|id| id.index) });
    }
    found.finish(directory)?;
    let vote = found.vote;
    index.vote = vote;
    drop(index);
    Ok(Start {
        directory: directory.to_path_buf(),
        shared,
        old,
        spares,
        next_sequence: sequences.last().map_or(1, |last| last + 1),
        next_batch: next_batch.max(1),
        tail,
        vote,
    })
}

fn read_error(path: &Path, source: io::Error) -> LogError {
    LogError::Read { path: path.to_path_buf(), source }
}

/// Does the segment go on where the one before it ended?
fn follows(found: &Recovered<'_>, before: u64, sequence: u64, bytes: &[u8], next_batch: u64) -> bool {
    if before + 1 != sequence {
        // Purged segments are removed without an order; what is left of them is covered by the checkpoint.
        return found.last.map(|id| id.index) <= found.applied.map(|id| id.index);
    }
    segment::record_at(sequence, bytes, HEAD_BYTES).is_none_or(|first| next_batch == 0 || first.batch == next_batch)
}

impl Recovered<'_> {
    fn take(&mut self, sequence: u64, record: Found, payload: Bytes) -> Result<(), Option<Malformed>> {
        match record.kind {
            kind::ENTRY => {
                let id = codec::entry_log_id(payload)?;
                if self.last.is_some_and(|last| last.index + 1 != id.index) {
                    return Err(None);
                }
                self.first = self.first.or(Some(id.index));
                self.last = Some(id);
                if self.applied.is_none_or(|applied| id.index > applied.index) {
                    if self.index.locations.is_empty() {
                        self.index.first = id.index;
                    }
                    let start = u32::try_from(record.start).map_err(|_| None)?;
                    let length = u32::try_from(record.length).map_err(|_| None)?;
                    self.index.locations.push_back(Location { segment: sequence, start, length });
                }
            }
            kind::VOTE => self.vote = Some(codec::vote(payload)?),
            kind::TRUNCATE => {
                let mut reader = codec::Reader::new(payload, "truncation");
                let after = codec::optional_log_id(&mut reader)?;
                reader.end()?;
                self.index.truncate(after);
                self.last = self.last.min(after);
            }
            _ => return Err(Some(Malformed("kind of record"))),
        }
        Ok(())
    }

    fn finish(&mut self, directory: &Path) -> Result<(), LogError> {
        let needed = self.applied.map_or(0, |applied| applied.index + 1);
        let found = if self.index.locations.is_empty() { None } else { Some(self.index.first) };
        if let Some(found) = found.filter(|found| *found > needed) {
            return Err(LogError::Missing { directory: directory.to_path_buf(), found, needed });
        }
        // Everything that the checkpoint covers counts as purged.
        self.index.purged = self.applied;
        self.index.last = if found.is_some() { self.last } else { self.applied };
        if found.is_none() {
            self.index.first = needed;
        }
        Ok(())
    }
}

/// The segments' sequence numbers in order, and the usable spares.
fn files(directory: &Path) -> io::Result<(Vec<u64>, Vec<PathBuf>)> {
    let mut sequences = Vec::new();
    let mut spares = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(sequence) = name.strip_suffix(".log").and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
            sequences.push(sequence);
        } else if name.starts_with("spare-") {
            if entry.metadata()?.len() == SEGMENT_BYTES && spares.is_empty() {
                spares.push(entry.path());
            } else {
                fs::remove_file(entry.path())?;
            }
        }
    }
    sequences.sort_unstable();
    Ok((sequences, spares))
}
