//! A change, and what of it each watcher sees.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use skiff_store::WatchEvent;

use super::feed::read;
use super::filter::{Entry, Filter};
use crate::encode::Shape;

/// A table tells ages: what was written longer ago than this is written anew.
const TABLE_LIFETIME: Duration = Duration::from_secs(1);

/// A change, told to every watcher as one shared value.
pub(crate) struct Event {
    pub revision: u64,
    pub what: What,
    /// What was sent of it, for all who are to be sent the same.
    frames: Mutex<Vec<Frame>>,
    #[cfg(test)]
    made: std::sync::atomic::AtomicU32,
}

pub(crate) enum What {
    Put {
        entry: Arc<Entry>,
        previous: Option<Arc<Entry>>,
    },
    /// The last state, at the revision of the deletion.
    Delete {
        entry: Arc<Entry>,
    },
}

struct Frame {
    shape: Shape,
    kind: &'static str,
    at: Instant,
    bytes: Bytes,
}

/// What a filtered watcher sees of a change.
pub(crate) enum Seen<'a> {
    Added(&'a Arc<Entry>),
    Modified(&'a Arc<Entry>),
    /// Out of the selection by deletion (`gone`), or by a change: then the state before it.
    Deleted {
        entry: &'a Arc<Entry>,
        gone: bool,
    },
}

impl Event {
    pub fn new(revision: u64, what: What) -> Self {
        Self {
            revision,
            what,
            frames: Mutex::default(),
            #[cfg(test)]
            made: std::sync::atomic::AtomicU32::new(0),
        }
    }

    /// From the store's history; `None`: no change, or of what is no object.
    pub fn of_history(event: &WatchEvent) -> Option<Self> {
        let entry = |(_, object)| Arc::new(Entry::new(object));
        match event {
            WatchEvent::Put { record, previous } => {
                let previous = previous.as_ref().and_then(|record| read(record, record.modified)).map(entry);
                let entry = entry(read(record, record.modified)?);
                Some(Self::new(record.modified.0, What::Put { entry, previous }))
            }
            WatchEvent::Delete { revision, previous } => {
                Some(Self::new(revision.0, What::Delete { entry: entry(read(previous, *revision)?) }))
            }
            WatchEvent::Progress { .. } => None,
        }
    }

    pub fn entry(&self) -> &Arc<Entry> {
        match &self.what {
            What::Put { entry, .. } | What::Delete { entry } => entry,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.entry().object.raw().len() + 256
    }

    /// A change that moves an object into or out of the selection is seen as its creation or deletion.
    pub fn seen_by(&self, filter: &Filter) -> Option<Seen<'_>> {
        match &self.what {
            What::Delete { entry } => filter.matches(entry).then_some(Seen::Deleted { entry, gone: true }),
            What::Put { entry, previous } => {
                let before = previous.as_ref().filter(|p| filter.matches(p));
                match (before, filter.matches(entry)) {
                    (None, true) => Some(Seen::Added(entry)),
                    (Some(_), true) => Some(Seen::Modified(entry)),
                    (Some(previous), false) => Some(Seen::Deleted { entry: previous, gone: false }),
                    (None, false) => None,
                }
            }
        }
    }

    /// The frame of this kind in this shape, made by the first who asks.
    pub fn frame(&self, shape: &Shape, kind: &'static str, make: &dyn Fn(&mut Vec<u8>)) -> Bytes {
        let mut frames = self.frames.lock().expect("encoding does not panic");
        if let Some(found) = find(&frames, shape, kind) {
            return found;
        }
        let mut out = Vec::with_capacity(self.entry().object.raw().len() + 96);
        make(&mut out);
        self.keep_in(&mut frames, shape, kind, out.into())
    }

    /// The same of one that takes time to make: `keep_frame` it.
    pub fn known_frame(&self, shape: &Shape, kind: &'static str) -> Option<Bytes> {
        find(&self.frames.lock().expect("encoding does not panic"), shape, kind)
    }

    pub fn keep_frame(&self, shape: &Shape, kind: &'static str, bytes: Bytes) {
        self.keep_in(&mut self.frames.lock().expect("encoding does not panic"), shape, kind, bytes);
    }

    fn keep_in(&self, frames: &mut Vec<Frame>, shape: &Shape, kind: &'static str, bytes: Bytes) -> Bytes {
        #[cfg(test)]
        self.made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        frames.retain(|frame| frame.shape != *shape || frame.kind != kind);
        frames.push(Frame { shape: shape.clone(), kind, at: Instant::now(), bytes: bytes.clone() });
        bytes
    }

    pub(super) fn forget_frames(&self) {
        *self.frames.lock().expect("encoding does not panic") = Vec::new();
    }

    /// What this change has ended is in nobody's cache any more.
    pub(super) fn forget_typed(&self) {
        match &self.what {
            What::Put { previous, .. } => previous.iter().for_each(|previous| previous.object.forget_typed()),
            What::Delete { entry } => entry.object.forget_typed(),
        }
    }

    /// How many frames were made of it.
    #[cfg(test)]
    pub fn made(&self) -> u32 {
        self.made.load(std::sync::atomic::Ordering::Relaxed)
    }
}

fn find(frames: &[Frame], shape: &Shape, kind: &str) -> Option<Bytes> {
    let found = frames.iter().find(|frame| frame.kind == kind && frame.shape == *shape)?;
    (!shape.is_table() || found.at.elapsed() < TABLE_LIFETIME).then(|| found.bytes.clone())
}
