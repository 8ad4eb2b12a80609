//! The durable state that a start begins with: sled, one directory per generation, behind a guard.
//!
//! `state/CURRENT` names the generation in use. A checkpoint writes the keys that changed since the last one, and the
//! meta record, as one batch, and then makes sure itself that they are on disk (sled's flush does not). A generation
//! that failed in any way, or holds much more than what is live, is replaced by a new one written from memory.
//!
//! In sled's one tree: `\0meta` -> [`Meta`]; `\1<key>` -> versions, length and the value's first piece;
//! `\2<length of key><key><number>` -> a further piece of a large value.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::codec::{self, Malformed, Reader, put_u32, put_u64};
use crate::raft::{LogId, StoredMembership};
use crate::types::{Record, Revision};

/// Larger items make sled keep them in files of their own.
const PIECE_BYTES: usize = 64 << 10;
/// sled is read once, at start; later it is only written.
const CACHE_BYTES: u64 = 8 << 20;
/// A full generation is written in batches of this size; the name in CURRENT makes it whole.
const FULL_BATCH_BYTES: usize = 1 << 20;
const META_KEY: &[u8] = b"\0meta";
const META_VERSION: u32 = 1;

/// What a checkpoint says beside the records.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Meta {
    pub revision: Revision,
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
}

/// The changes since the last checkpoint, or all there is.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    pub meta: Meta,
    /// A key without a record is deleted.
    pub keys: Vec<(Bytes, Option<Record>)>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("access {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("access the checkpoint {path}")]
    Sled { path: PathBuf, source: sled::Error },
    #[error("the checkpoint {path} is damaged; restore the directory from a backup, or remove it to start empty")]
    Damaged { path: PathBuf, source: Malformed },
    #[error("{path} names no generation; restore the directory from a backup, or remove it to start empty")]
    Current { path: PathBuf },
    #[error("{path} needs {needed} bytes, {free} are free")]
    Full { path: PathBuf, needed: u64, free: u64 },
}

/// An open checkpoint.
pub(crate) struct Generation {
    db: sled::Db,
    path: PathBuf,
    number: u64,
    /// How many pieces the large values have.
    pieces: HashMap<Bytes, u32>,
}

type Outcome<T> = Result<T, CheckpointError>;

impl Generation {
    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn bytes_on_disk(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }

    /// The generation in use, if there was ever one, and what it holds; leftovers of others are removed.
    pub fn open_current(directory: &Path, load: &mut dyn FnMut(Record)) -> Outcome<Option<(Generation, Meta)>> {
        let current = directory.join("CURRENT");
        let number = match fs::read_to_string(&current) {
            Ok(name) => Some(parse_generation(name.trim()).ok_or(CheckpointError::Current { path: current })?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(CheckpointError::Io { path: current, source }),
        };
        remove_others(directory, number).map_err(|source| io_error(directory, source))?;
        let Some(number) = number else { return Ok(None) };
        let path = generation_path(directory, number);
        if !path.join("db").exists() {
            // sled would make an empty one.
            return Err(CheckpointError::Current { path });
        }
        let db = open_guarded(&path)?;
        let mut generation = Generation { db, path, number, pieces: HashMap::new() };
        let meta = generation.load(load)?;
        Ok(Some((generation, meta)))
    }

    /// Writes everything there is as generation `number`, and makes it the one in use.
    pub fn create(directory: &Path, number: u64, cut: &Cut) -> Outcome<Generation> {
        let path = generation_path(directory, number);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|source| io_error(&path, source))?;
        }
        let needed = cut_bytes(cut) * 2 + (4 << 20);
        check_free(directory, needed)?;
        let db = open_guarded(&path)?;
        let mut generation = Generation { db, path, number, pieces: HashMap::new() };
        generation.fill(cut)?;
        generation.sync()?;
        for part in ["conf", ""] {
            sync_path(&generation.path.join(part))?;
        }
        sync_path(directory)?;
        let name = format!("gen-{number}\n");
        let current = directory.join("CURRENT");
        skiff_base::file::replace(&current, name.as_bytes(), 0o600).map_err(|source| io_error(&current, source))?;
        remove_others(directory, Some(number)).map_err(|source| io_error(directory, source))?;
        Ok(generation)
    }

    /// Writes what changed since the last checkpoint; all of it or nothing is there after a crash.
    pub fn update(&mut self, cut: &Cut) -> Outcome<()> {
        // sled writes whole segments, and pages that hold a changed key.
        check_free(&self.path, cut_bytes(cut) * 3 + (2 << 20))?;
        let mut batch = sled::Batch::default();
        cut.keys.iter().for_each(|(key, record)| self.put(&mut batch, key, record.as_ref()));
        batch.insert(META_KEY, encode_meta(&cut.meta));
        self.apply(batch)?;
        self.sync()
    }

    fn fill(&mut self, cut: &Cut) -> Outcome<()> {
        let mut batch = sled::Batch::default();
        let mut bytes = 0;
        for (key, record) in &cut.keys {
            self.put(&mut batch, key, record.as_ref());
            bytes += key.len() + record.as_ref().map_or(0, |record| record.value.len());
            if bytes >= FULL_BATCH_BYTES {
                self.apply(std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        batch.insert(META_KEY, encode_meta(&cut.meta));
        self.apply(batch)
    }

    fn apply(&self, batch: sled::Batch) -> Outcome<()> {
        self.db.apply_batch(batch).map_err(|source| self.error(source))
    }

    fn put(&mut self, batch: &mut sled::Batch, key: &Bytes, record: Option<&Record>) {
        let before = self.pieces.remove(key).unwrap_or(0);
        let Some(record) = record else {
            batch.remove(record_key(key));
            (0..before).for_each(|piece| batch.remove(piece_key(key, piece)));
            return;
        };
        let (first, rest) = record.value.split_at(record.value.len().min(PIECE_BYTES));
        let mut value = Vec::with_capacity(24 + first.len());
        put_u64(&mut value, record.created.0);
        put_u64(&mut value, record.modified.0);
        put_u32(&mut value, record.value.len());
        value.extend_from_slice(first);
        batch.insert(record_key(key), value);
        let mut pieces = 0;
        for piece in rest.chunks(PIECE_BYTES) {
            batch.insert(piece_key(key, pieces), piece);
            pieces += 1;
        }
        (pieces..before).for_each(|piece| batch.remove(piece_key(key, piece)));
        if pieces > 0 {
            self.pieces.insert(key.clone(), pieces);
        }
    }

    fn load(&mut self, load: &mut dyn FnMut(Record)) -> Outcome<Meta> {
        let damaged = |path: &Path, source| CheckpointError::Damaged { path: path.to_path_buf(), source };
        let mut meta = None;
        for item in self.db.iter() {
            let (key, value) = item.map_err(|source| self.error(source))?;
            if key == META_KEY {
                let bytes = Bytes::copy_from_slice(&value);
                meta = Some(decode_meta(bytes).map_err(|source| damaged(&self.path, source))?);
            } else if let Some(key) = key.strip_prefix(b"\x01") {
                let key = Bytes::copy_from_slice(key);
                let (record, pieces) = self.record(key, &value)?.map_err(|source| damaged(&self.path, source))?;
                if pieces > 0 {
                    self.pieces.insert(record.key.clone(), pieces);
                }
                load(record);
            }
        }
        meta.ok_or_else(|| damaged(&self.path, Malformed("meta record (none)")))
    }

    /// The record, and how many further pieces its value has.
    fn record(&self, key: Bytes, head: &[u8]) -> Outcome<Result<(Record, u32), Malformed>> {
        let decoded = (|| {
            let mut reader = Reader::new(Bytes::copy_from_slice(head), "record");
            let (created, modified) = (Revision(reader.u64()?), Revision(reader.u64()?));
            Ok((created, modified, reader.u32()? as usize, reader.rest()))
        })();
        let (created, modified, length, first) = match decoded {
            Ok(decoded) => decoded,
            Err(e) => return Ok(Err(e)),
        };
        let mut pieces = 0;
        let mut value = first;
        if value.len() < length {
            let mut whole = Vec::with_capacity(length);
            whole.extend_from_slice(&value);
            while whole.len() < length {
                let piece = self.db.get(piece_key(&key, pieces)).map_err(|source| self.error(source))?;
                let Some(piece) = piece.filter(|piece| !piece.is_empty()) else { break };
                whole.extend_from_slice(&piece);
                pieces += 1;
            }
            value = whole.into();
        }
        if value.len() != length {
            return Ok(Err(Malformed("value")));
        }
        Ok(Ok((Record { key, value, created, modified }, pieces)))
    }

    /// sled's flush leaves data in the kernel; only this brings it to the disk.
    fn sync(&self) -> Outcome<()> {
        self.db.flush().map_err(|source| self.error(source))?;
        let path = self.path.join("db");
        File::open(&path).and_then(|file| file.sync_data()).map_err(|source| io_error(&path, source))
    }

    fn error(&self, source: sled::Error) -> CheckpointError {
        CheckpointError::Sled { path: self.path.clone(), source }
    }
}

fn io_error(path: &Path, source: io::Error) -> CheckpointError {
    CheckpointError::Io { path: path.to_path_buf(), source }
}

fn sync_path(path: &Path) -> Outcome<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|source| io_error(path, source))
}

fn generation_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("gen-{number}"))
}

fn parse_generation(name: &str) -> Option<u64> {
    name.strip_prefix("gen-")?.parse().ok()
}

fn remove_others(directory: &Path, keep: Option<u64>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(parse_generation);
        if number.is_some() && number != keep {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn check_free(path: &Path, needed: u64) -> Outcome<()> {
    let stat = nix::sys::statvfs::statvfs(path).map_err(|e| io_error(path, e.into()))?;
    let free = stat.blocks_available() * stat.fragment_size();
    if free < needed {
        return Err(CheckpointError::Full { path: path.to_path_buf(), needed, free });
    }
    Ok(())
}

fn cut_bytes(cut: &Cut) -> u64 {
    cut.keys.iter().map(|(key, record)| (key.len() + 64 + record.as_ref().map_or(0, |r| r.value.len())) as u64).sum()
}

/// sled with its traps covered: a half-made snapshot of its own makes every later open fail, and so does a damaged one.
fn open_guarded(path: &Path) -> Outcome<sled::Db> {
    let sled_error = |source| CheckpointError::Sled { path: path.to_path_buf(), source };
    remove_snapshots(path, |name| name.ends_with(".generating")).map_err(|source| io_error(path, source))?;
    match open_sled(path) {
        Err(sled::Error::Corruption { .. }) => {
            remove_snapshots(path, |_| true).map_err(|source| io_error(path, source))?;
            open_sled(path).map_err(sled_error)
        }
        other => other.map_err(sled_error),
    }
}

fn open_sled(path: &Path) -> sled::Result<sled::Db> {
    sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None).mode(sled::Mode::LowSpace).open()
}

fn remove_snapshots(path: &Path, which: impl Fn(&str) -> bool) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with("snap.") && which(name)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn record_key(key: &[u8]) -> Vec<u8> {
    [b"\x01", key].concat()
}

fn piece_key(key: &[u8], piece: u32) -> Vec<u8> {
    let length = u32::try_from(key.len()).expect("keys are short");
    [b"\x02".as_slice(), &length.to_be_bytes(), key, &piece.to_be_bytes()].concat()
}

fn encode_meta(meta: &Meta) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&META_VERSION.to_le_bytes());
    put_u64(&mut out, meta.revision.0);
    codec::put_optional_log_id(&mut out, meta.applied.as_ref());
    codec::put_stored_membership(&mut out, &meta.membership);
    out
}

fn decode_meta(bytes: Bytes) -> Result<Meta, Malformed> {
    let mut reader = Reader::new(bytes, "meta record");
    if reader.u32()? != META_VERSION {
        return Err(Malformed("version of the meta record"));
    }
    let revision = Revision(reader.u64()?);
    let applied = codec::optional_log_id(&mut reader)?;
    let membership = codec::stored_membership(&mut reader)?;
    reader.end()?;
    Ok(Meta { revision, applied, membership })
}
