//! The last changes to a resource, in revision order.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::Event;
use super::filter::Filter;

/// At least so many changes are kept, then as many as fit into the bytes. What fell out is in the store's history.
const MIN_EVENTS: usize = 8;
const MAX_EVENTS: usize = 16_384;
pub(super) const BYTES: usize = 4 << 20;
/// Of so many changes the frames are kept: who is further behind makes them again.
const FRAMES: usize = 128;
/// So many changes later the typed form of what they ended is let go of: control loops in this process are closer behind.
pub(super) const TYPED: usize = 32;
/// What a watcher takes at once.
const TAKE_EVENTS: usize = 64;
const TAKE_BYTES: usize = 256 << 10;

pub(super) struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Changes up to here are not in it.
    floor: u64,
}

impl Ring {
    pub fn new(floor: u64) -> Self {
        Self { events: VecDeque::new(), bytes: 0, floor }
    }

    pub fn floor(&self) -> u64 {
        self.floor
    }

    pub fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.bytes();
        self.events.push_back(event);
        if let Some(old) = self.events.len().checked_sub(FRAMES + 1) {
            self.events[old].forget_frames();
        }
        if let Some(old) = self.events.len().checked_sub(TYPED + 1) {
            self.events[old].forget_typed();
        }
        while self.events.len() > MAX_EVENTS || (self.events.len() > MIN_EVENTS && self.bytes > BYTES) {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.bytes();
            self.floor = oldest.revision;
        }
    }

    fn place(&self, from: u64) -> usize {
        self.events.partition_point(|event| event.revision < from)
    }

    /// The revision of the first change after `since`.
    pub fn first_after(&self, since: u64) -> Option<u64> {
        self.events.get(self.place(since.saturating_add(1))).map(|event| event.revision)
    }

    /// Some of the changes from `from` on that the filter lets through, and the revision of the first that was not
    /// looked at. Changes of one revision stay together.
    pub fn take(&self, from: u64, filter: &Filter) -> (Vec<Arc<Event>>, Option<u64>) {
        let (mut taken, mut bytes, mut at) = (Vec::new(), 0, from);
        for event in self.events.range(self.place(from)..) {
            if event.revision > at && (taken.len() >= TAKE_EVENTS || bytes >= TAKE_BYTES) {
                return (taken, Some(event.revision));
            }
            at = event.revision;
            if event.seen_by(filter).is_some() {
                bytes += event.bytes();
                taken.push(event.clone());
            }
        }
        (taken, None)
    }

    #[cfg(test)]
    pub fn events(&self) -> Vec<Arc<Event>> {
        self.events.iter().cloned().collect()
    }
}
