//! The durable state that a start begins with: sled, one directory per generation, behind a guard.
//!
//! `state/CURRENT` names the generation in use. In its one tree:
//!
//! ```text
//! \0meta                       -> Meta: the revision and the log entry that the checkpoint is of
//! \1<key><revision>            -> a version of a key, and the first piece of its value
//! \2<key><revision><number>    -> a further piece of a large value
//! ```
//!
//! A checkpoint adds the new versions of the keys that changed (a mark for a deleted key), makes them durable, then
//! writes the meta record, then removes what it superseded. So it is whole at any moment: of each key the newest version
//! counts, and versions above the meta record's revision are not there yet. One batch for all of it would be simpler,
//! but sled keeps every page that a batch touches in memory until its end: 190 MB for 20,000 keys of 1 KiB.
//!
//! sled is open only while it is read or written: open, it holds on to memory. Its flush does not bring data to the disk,
//! so that is done here. On a full disk it can hang for ever, so the blocks that it may need are reserved first, and after
//! an error it is left alone. A generation that failed in any way, or holds much more than what is live, is replaced by a
//! new one written from memory.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;

use crate::codec::{self, Malformed, Reader, put_u32, put_u64};
use crate::raft::{LogId, StoredMembership};
use crate::types::{Record, Revision};

/// Larger items make sled keep them in files of their own.
const PIECE_BYTES: usize = 64 << 10;
/// sled is read once, at start; later it is only written.
const CACHE_BYTES: u64 = 8 << 20;
/// sled's memory grows with the size of its batches.
const BATCH_BYTES: usize = 128 << 10;
const META_KEY: &[u8] = b"\0meta";
/// In place of the length of a value: the key is deleted.
const DELETED: u32 = u32::MAX;
const VERSION_PREFIX: &[u8] = b"\x01";
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
    pub keys: Vec<Change>,
}

/// A key, as it was in the last checkpoint and as it is to be in the next.
#[derive(Debug)]
pub(crate) struct Change {
    pub key: Bytes,
    pub before: Option<Kept>,
    pub record: Option<Record>,
}

/// A version that is in the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub modified: Revision,
    pub length: usize,
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
    #[error("the disk has no room for {needed} bytes of the checkpoint {path}")]
    Full { path: PathBuf, needed: u64 },
    #[error("writing the checkpoint did not end within {0} seconds")]
    Hangs(u64),
}

/// A checkpoint on disk.
#[derive(Debug)]
pub(crate) struct Generation {
    path: PathBuf,
    number: u64,
    bytes_on_disk: u64,
}

type Outcome<T> = Result<T, CheckpointError>;

impl Generation {
    pub fn number(&self) -> u64 {
        self.number
    }

    /// As of the last time that it was open.
    pub fn bytes_on_disk(&self) -> u64 {
        self.bytes_on_disk
    }

    /// The generation in use, if there was ever one, and what it holds; leftovers of others are removed.
    pub fn open_current(directory: &Path, load: &mut dyn FnMut(Record)) -> Outcome<Option<(Generation, Meta)>> {
        let current = directory.join("CURRENT");
        let number = match fs::read_to_string(&current) {
            Ok(name) => Some(parse_generation(name.trim()).ok_or(CheckpointError::Current { path: current })?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(io_error(&current, source)),
        };
        remove_others(directory, number).map_err(|source| io_error(directory, source))?;
        let Some(number) = number else { return Ok(None) };
        let path = generation_path(directory, number);
        if !path.join("db").exists() {
            // sled would make an empty one.
            return Err(CheckpointError::Current { path });
        }
        let session = Session::open(&path)?;
        let meta = session.load(load)?;
        let bytes_on_disk = session.bytes_on_disk();
        Ok(Some((Generation { path, number, bytes_on_disk }, meta)))
    }

    /// Writes everything there is as generation `number`; it counts only when made current.
    pub fn create(directory: &Path, number: u64, cut: &Cut) -> Outcome<Generation> {
        let path = generation_path(directory, number);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|source| io_error(&path, source))?;
        }
        fs::create_dir_all(&path).map_err(|source| io_error(&path, source))?;
        let reserved = Reserved::new(&path, cut_bytes(cut) * 2 + (4 << 20))?;
        let session = Session::open(&path)?;
        session.write(cut)?;
        let bytes_on_disk = session.bytes_on_disk();
        drop(session);
        drop(reserved);
        for part in ["conf", ""] {
            sync_path(&path.join(part))?;
        }
        sync_path(directory)?;
        Ok(Generation { path, number, bytes_on_disk })
    }

    /// Makes this the generation in use, and removes the others.
    pub fn make_current(&self, directory: &Path) -> Outcome<()> {
        let name = format!("gen-{}\n", self.number);
        let current = directory.join("CURRENT");
        skiff_base::file::replace(&current, name.as_bytes(), 0o600).map_err(|source| io_error(&current, source))?;
        remove_others(directory, Some(self.number)).map_err(|source| io_error(directory, source))
    }

    /// Writes what changed since the last checkpoint; all of it or nothing counts after a crash.
    pub fn update(&mut self, cut: &Cut) -> Outcome<()> {
        // sled writes whole segments, and pages that hold a changed key.
        let _reserved = Reserved::new(&self.path, cut_bytes(cut) * 3 + (2 << 20))?;
        let session = Session::open(&self.path)?;
        session.write(cut)?;
        self.bytes_on_disk = session.bytes_on_disk();
        Ok(())
    }
}

/// Blocks behind the end of sled's file, which it then grows into. What it left is given back when this is dropped.
struct Reserved {
    file: File,
    path: PathBuf,
}

impl Reserved {
    fn new(generation: &Path, needed: u64) -> Outcome<Reserved> {
        let path = generation.join("db");
        let open = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(|source| io_error(&path, source))?;
        let end = file.metadata().map_err(|source| io_error(&path, source))?.len();
        let reserved = Reserved { file, path };
        let (end, length) = (end.cast_signed(), needed.cast_signed());
        match nix::fcntl::fallocate(&reserved.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, end, length) {
            Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(reserved),
            Err(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) => {
                Err(CheckpointError::Full { path: generation.to_path_buf(), needed })
            }
            Err(e) => Err(io_error(&reserved.path, e.into())),
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let given_back = self.file.metadata().and_then(|metadata| self.file.set_len(metadata.len()));
        if let Err(e) = given_back {
            tracing::warn!(path = %self.path.display(), error = %skiff_base::chain(&e), "give reserved space back");
        }
    }
}

/// sled, while it is open.
struct Session {
    /// There until the drop.
    db: Option<sled::Db>,
    path: PathBuf,
    failed: Cell<bool>,
}

impl Drop for Session {
    fn drop(&mut self) {
        // Closing flushes, and after a failed write that waits for ever: then the memory is given up instead.
        if self.failed.get() {
            std::mem::forget(self.db.take());
        }
    }
}

/// Collects changes up to the size of a batch.
struct Batches<'a> {
    session: &'a Session,
    batch: sled::Batch,
    bytes: usize,
}

impl Batches<'_> {
    /// The items of one record must be in one batch.
    fn end_record(&mut self) -> Outcome<()> {
        if self.bytes >= BATCH_BYTES { self.apply() } else { Ok(()) }
    }

    fn apply(&mut self) -> Outcome<()> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        self.session.db().apply_batch(batch).map_err(|source| self.session.error(source))
    }

    fn insert(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.batch.insert(key, value);
    }

    fn remove(&mut self, key: Vec<u8>) {
        self.bytes += key.len();
        self.batch.remove(key);
    }

    fn put(&mut self, record: &Record) {
        let (first, rest) = record.value.split_at(record.value.len().min(PIECE_BYTES));
        let mut value = Vec::with_capacity(12 + first.len());
        put_u64(&mut value, record.created.0);
        put_u32(&mut value, record.value.len());
        value.extend_from_slice(first);
        self.insert(version_key(&record.key, record.modified), value);
        for (number, piece) in (0..).zip(rest.chunks(PIECE_BYTES)) {
            self.insert(piece_key(&record.key, record.modified, number), piece.to_vec());
        }
    }

    fn mark_deleted(&mut self, key: &[u8], at: Revision) {
        let mut value = Vec::with_capacity(12);
        put_u64(&mut value, 0);
        value.extend_from_slice(&DELETED.to_le_bytes());
        self.insert(version_key(key, at), value);
    }

    fn forget(&mut self, key: &[u8], version: Kept) {
        self.remove(version_key(key, version.modified));
        for number in 0..pieces(version.length) {
            self.remove(piece_key(key, version.modified, number));
        }
    }
}

/// How many pieces a value has beside the first.
fn pieces(length: usize) -> u32 {
    let pieces = length.saturating_sub(PIECE_BYTES).div_ceil(PIECE_BYTES);
    u32::try_from(pieces).expect("values are small")
}

impl Session {
    fn db(&self) -> &sled::Db {
        self.db.as_ref().expect("only the drop takes it")
    }

    /// With sled's traps covered: a half-made snapshot of its own makes every later open fail, and so does a damaged one.
    fn open(path: &Path) -> Outcome<Session> {
        let sled_error = |source| CheckpointError::Sled { path: path.to_path_buf(), source };
        remove_snapshots(path, |name| name.ends_with(".generating")).map_err(|source| io_error(path, source))?;
        let db = match open_sled(path) {
            Err(sled::Error::Corruption { .. }) => {
                remove_snapshots(path, |_| true).map_err(|source| io_error(path, source))?;
                open_sled(path).map_err(sled_error)?
            }
            other => other.map_err(sled_error)?,
        };
        Ok(Session { db: Some(db), path: path.to_path_buf(), failed: Cell::new(false) })
    }

    fn bytes_on_disk(&self) -> u64 {
        self.db().size_on_disk().unwrap_or(0)
    }

    fn batches(&self) -> Batches<'_> {
        Batches { session: self, batch: sled::Batch::default(), bytes: 0 }
    }

    fn write(&self, cut: &Cut) -> Outcome<()> {
        let mut batches = self.batches();
        for Change { key, before, record } in &cut.keys {
            match record {
                Some(record) if before.is_some_and(|before| before.modified == record.modified) => {}
                Some(record) => batches.put(record),
                None if before.is_some() => batches.mark_deleted(key, cut.meta.revision),
                None => {}
            }
            batches.end_record()?;
        }
        batches.apply()?;
        self.sync()?;
        batches.insert(META_KEY.to_vec(), encode_meta(&cut.meta));
        batches.apply()?;
        self.sync()?;
        for Change { key, before, record } in &cut.keys {
            let Some(before) = before else { continue };
            match record {
                Some(record) if before.modified == record.modified => {}
                Some(_) => batches.forget(key, *before),
                None => {
                    // In one batch: the mark must not go before what it marks.
                    batches.forget(key, *before);
                    batches.remove(version_key(key, cut.meta.revision));
                }
            }
            batches.end_record()?;
        }
        batches.apply()?;
        self.sync()
    }

    fn load(&self, load: &mut dyn FnMut(Record)) -> Outcome<Meta> {
        let meta = self.db().get(META_KEY).map_err(|source| self.error(source))?;
        let meta = meta.ok_or_else(|| self.damaged(Malformed("meta record (none)")))?;
        let meta = decode_meta(Bytes::copy_from_slice(&meta)).map_err(|source| self.damaged(source))?;
        // What a checkpoint that did not come to its end left behind.
        let mut stale = self.batches();
        let mut newest: Option<Version> = None;
        for item in self.db().scan_prefix(VERSION_PREFIX) {
            let (item_key, value) = item.map_err(|source| self.error(source))?;
            let version = Version::decode(&item_key, &value).map_err(|source| self.damaged(source))?;
            if version.kept.modified > meta.revision {
                stale.forget(&version.key, version.kept);
                continue;
            }
            match newest.replace(version) {
                Some(older) if newest.as_ref().is_some_and(|newest| newest.key == older.key) => {
                    stale.forget(&older.key, older.kept);
                }
                Some(whole) => self.emit(whole, &mut stale, load)?,
                None => {}
            }
        }
        if let Some(last) = newest {
            self.emit(last, &mut stale, load)?;
        }
        if stale.bytes > 0 {
            stale.apply()?;
        }
        // After a kill what was read may be in the kernel alone; from now on it counts.
        self.sync()?;
        Ok(meta)
    }

    fn emit(&self, version: Version, stale: &mut Batches<'_>, load: &mut dyn FnMut(Record)) -> Outcome<()> {
        let Version { key, kept, created, deleted, first } = version;
        if deleted {
            stale.forget(&key, kept);
            return Ok(());
        }
        let mut value = first;
        if pieces(kept.length) > 0 {
            let mut whole = Vec::with_capacity(kept.length);
            whole.extend_from_slice(&value);
            for number in 0..pieces(kept.length) {
                let piece =
                    self.db().get(piece_key(&key, kept.modified, number)).map_err(|source| self.error(source))?;
                whole.extend_from_slice(&piece.unwrap_or_default());
            }
            value = whole.into();
        }
        if value.len() != kept.length {
            return Err(self.damaged(Malformed("value")));
        }
        load(Record { key, value, created, modified: kept.modified });
        Ok(())
    }

    /// sled's flush leaves data in the kernel; only this brings it to the disk.
    fn sync(&self) -> Outcome<()> {
        self.db().flush().map_err(|source| self.error(source))?;
        let path = self.path.join("db");
        File::open(&path).and_then(|file| file.sync_data()).map_err(|source| io_error(&path, source))
    }

    fn error(&self, source: sled::Error) -> CheckpointError {
        self.failed.set(true);
        CheckpointError::Sled { path: self.path.clone(), source }
    }

    fn damaged(&self, source: Malformed) -> CheckpointError {
        CheckpointError::Damaged { path: self.path.clone(), source }
    }
}

/// A decoded version item.
struct Version {
    key: Bytes,
    kept: Kept,
    created: Revision,
    deleted: bool,
    first: Bytes,
}

impl Version {
    fn decode(item_key: &[u8], value: &[u8]) -> Result<Version, Malformed> {
        let mut reader = Reader::new(Bytes::copy_from_slice(&item_key[VERSION_PREFIX.len()..]), "key of a version");
        let length = reader.u32()?.swap_bytes() as usize;
        let mut rest = reader.rest();
        if rest.len() != length + 8 {
            return Err(Malformed("key of a version"));
        }
        let key = rest.split_to(length);
        let modified = Revision(Reader::new(rest, "key of a version").u64()?.swap_bytes());
        let mut reader = Reader::new(Bytes::copy_from_slice(value), "version");
        let created = Revision(reader.u64()?);
        let length = reader.u32()?;
        let deleted = length == DELETED;
        let length = if deleted { 0 } else { length as usize };
        Ok(Version { key, kept: Kept { modified, length }, created, deleted, first: reader.rest() })
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

fn cut_bytes(cut: &Cut) -> u64 {
    let bytes = |change: &Change| change.key.len() + 64 + change.record.as_ref().map_or(0, |record| record.value.len());
    cut.keys.iter().map(|change| bytes(change) as u64).sum()
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

/// The versions of a key stand together, in the order of their revisions.
fn version_key(key: &[u8], modified: Revision) -> Vec<u8> {
    let length = u32::try_from(key.len()).expect("keys are short");
    [VERSION_PREFIX, &length.to_be_bytes(), key, &modified.0.to_be_bytes()].concat()
}

fn piece_key(key: &[u8], modified: Revision, number: u32) -> Vec<u8> {
    let length = u32::try_from(key.len()).expect("keys are short");
    [b"\x02".as_slice(), &length.to_be_bytes(), key, &modified.0.to_be_bytes(), &number.to_be_bytes()].concat()
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
