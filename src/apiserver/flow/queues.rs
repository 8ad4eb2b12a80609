//! The queues of one priority level. Each flow is dealt a few of them (shuffle sharding) and uses the shortest; the next
//! request comes from the queue whose requests have had the least time so far (start-time fair queuing), so that it does
//! not matter how many requests a flow has waiting.

use std::collections::VecDeque;

/// What a request is thought to take until it is known, in seconds; upstream's guess.
const GUESS: f64 = 0.003;

/// How many queues there are, how many of them a flow may use, and how many requests wait in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queuing {
    pub queues: usize,
    pub hand: usize,
    pub length: usize,
}

pub(crate) struct Queues<W> {
    queues: Vec<Queue<W>>,
    /// Where the queue that was served last was in its own time.
    now: f64,
    waiting: usize,
}

struct Queue<W> {
    waiting: VecDeque<(u64, W)>,
    running: u32,
    /// The time that its requests have had, in seconds.
    had: f64,
}

impl<W> Queues<W> {
    pub fn new() -> Self {
        Self { queues: Vec::new(), now: 0.0, waiting: 0 }
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The queue of a flow's next request.
    pub fn choose(&mut self, flow: u64, queuing: Queuing) -> usize {
        let wanted = queuing.queues.max(1);
        while self.queues.len() < wanted {
            self.queues.push(Queue { waiting: VecDeque::new(), running: 0, had: 0.0 });
        }
        let load = |at: usize| (self.queues[at].waiting.len(), self.queues[at].running);
        deal(flow, wanted, queuing.hand.clamp(1, wanted)).min_by_key(|at| load(*at)).unwrap_or(0)
    }

    pub fn length(&self, queue: usize) -> usize {
        self.queues[queue].waiting.len()
    }

    pub fn push(&mut self, queue: usize, ticket: u64, waiter: W) {
        self.wake(queue);
        self.queues[queue].waiting.push_back((ticket, waiter));
        self.waiting += 1;
    }

    /// One of the queue's requests is carried out from now on.
    pub fn begin(&mut self, queue: usize) {
        self.wake(queue);
        let queue = &mut self.queues[queue];
        queue.running += 1;
        queue.had += GUESS;
    }

    /// Takes what is next, and begins it.
    pub fn next(&mut self) -> Option<(usize, W)> {
        let candidates = self.queues.iter().enumerate().filter(|(_, queue)| !queue.waiting.is_empty());
        let (at, queue) = candidates.min_by(|(_, a), (_, b)| a.had.total_cmp(&b.had))?;
        self.now = self.now.max(queue.had);
        let (_, waiter) = self.queues[at].waiting.pop_front()?;
        self.waiting -= 1;
        self.begin(at);
        Some((at, waiter))
    }

    pub fn end(&mut self, queue: usize, took_s: f64) {
        let queue = &mut self.queues[queue];
        queue.running = queue.running.saturating_sub(1);
        queue.had += took_s - GUESS;
    }

    pub fn give_up(&mut self, queue: usize, ticket: u64) {
        let waiting = &mut self.queues[queue].waiting;
        let before = waiting.len();
        waiting.retain(|(other, _)| *other != ticket);
        self.waiting -= before - waiting.len();
    }

    /// Time in which a queue asked for nothing is not saved up.
    fn wake(&mut self, queue: usize) {
        let now = self.now;
        let queue = &mut self.queues[queue];
        if queue.waiting.is_empty() && queue.running == 0 {
            queue.had = queue.had.max(now);
        }
    }
}

/// A hand of different cards out of a deck, by the digits of the hash in a mixed radix.
fn deal(mut hash: u64, deck: usize, hand: usize) -> impl Iterator<Item = usize> {
    let mut dealt: Vec<usize> = Vec::with_capacity(hand);
    for i in 0..hand {
        let left = (deck - i) as u64;
        let mut card = usize::try_from(hash % left).expect("smaller than the deck");
        hash /= left;
        // The card-th of those that are left.
        let mut taken = dealt.clone();
        taken.sort_unstable();
        for earlier in taken {
            if card >= earlier {
                card += 1;
            }
        }
        dealt.push(card);
    }
    dealt.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_are_different_cards() {
        for hash in (0..2000_u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let mut hand: Vec<usize> = deal(hash, 16, 4).collect();
            assert!(hand.iter().all(|card| *card < 16));
            hand.sort_unstable();
            hand.dedup();
            assert_eq!(hand.len(), 4, "{hash}");
        }
        assert_eq!(deal(7, 1, 1).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn who_had_less_time_goes_first() {
        let queuing = Queuing { queues: 2, hand: 2, length: 9 };
        let mut queues = Queues::new();
        queues.choose(0, queuing);
        for (ticket, queue) in [(1, 0), (2, 0), (3, 1), (4, 1)] {
            queues.push(queue, ticket, ticket);
        }
        let mut order = Vec::new();
        while let Some((queue, ticket)) = queues.next() {
            order.push(ticket);
            // Requests of the first queue are slow.
            queues.end(queue, if queue == 0 { 1.0 } else { 0.1 });
        }
        assert_eq!(order, [1, 3, 4, 2]);
        queues.push(0, 5, 5);
        queues.give_up(0, 5);
        assert_eq!((queues.waiting(), queues.next()), (0, None));
    }
}
