//! Sets log space aside before a write is proposed, so that a full disk refuses a write instead of breaking the log.
//!
//! The log always has a segment in use and, if the disk allows it, a spare one, both preallocated. A write takes a
//! permit for its size; with a spare there is a whole segment to take from, without one what is left of the segment in
//! use. When neither suffices and no spare can be had, the disk is full.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::segment::SEGMENT_BYTES;

/// Kept for what Raft itself writes (votes, blank entries) and the heads of segments.
const RAFT_RESERVE: u64 = 64 << 10;
/// Kept for deletions, which are how a full cluster gets out of its trouble.
const DELETE_RESERVE: u64 = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Space {
    inner: Mutex<Inner>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Permits given out and not returned.
    taken: u64,
    /// What is left of the segment in use.
    left: u64,
    spare: bool,
}

/// Returned when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    space: Arc<Space>,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Write,
    /// Only frees space in the end.
    Delete,
}

#[derive(Debug)]
pub(crate) enum Answer {
    Granted(Permit),
    /// There is room when writes under way have ended.
    Wait,
    /// A spare segment is needed.
    Short,
}

impl Space {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, left: u64, spare: bool) {
        let mut inner = self.lock();
        (inner.left, inner.spare) = (left, spare);
        drop(inner);
        self.freed.notify_waiters();
    }

    pub fn take(self: &Arc<Self>, bytes: u64, need: Need) -> Answer {
        let mut inner = self.lock();
        let reserve = RAFT_RESERVE + if need == Need::Write { DELETE_RESERVE } else { 0 };
        let limit = if inner.spare { SEGMENT_BYTES } else { inner.left };
        if inner.taken + bytes + reserve <= limit {
            inner.taken += bytes;
            return Answer::Granted(Permit { space: self.clone(), bytes });
        }
        if inner.spare { Answer::Wait } else { Answer::Short }
    }

    #[cfg(test)]
    pub fn is_free(&self) -> bool {
        self.lock().taken == 0
    }

    /// Resolves when a permit is returned or a segment was added after the call.
    pub fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.space.lock().taken -= self.bytes;
        self.space.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_leave_room_for_deletions_and_deletions_for_raft() {
        let space = Arc::new(Space::default());
        space.set(DELETE_RESERVE + RAFT_RESERVE + 100, false);
        let Answer::Granted(held) = space.take(100, Need::Write) else { panic!("there is room") };
        assert!(matches!(space.take(1, Need::Write), Answer::Short));
        let Answer::Granted(deletion) = space.take(DELETE_RESERVE, Need::Delete) else { panic!("there is room") };
        assert!(matches!(space.take(1, Need::Delete), Answer::Short));
        drop((held, deletion));
        assert!(matches!(space.take(100, Need::Write), Answer::Granted(_)));
    }

    #[test]
    fn with_a_spare_segment_a_write_waits_for_others() {
        let space = Arc::new(Space::default());
        space.set(0, true);
        let Answer::Granted(held) = space.take(SEGMENT_BYTES / 2, Need::Write) else { panic!("there is room") };
        assert!(matches!(space.take(SEGMENT_BYTES / 2, Need::Write), Answer::Wait));
        drop(held);
        assert!(matches!(space.take(SEGMENT_BYTES / 2, Need::Write), Answer::Granted(_)));
    }
}
