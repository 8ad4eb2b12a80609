//! Who is carried out, who waits, who is refused: pure decisions over the seats of all priority levels.
//!
//! A level has seats of its own. Of these it may lend some: all that may be lent is one pool, from which its lender takes
//! without limit up to its own, and others as far as they may borrow. When a seat of the pool becomes free, levels that
//! lack what is their own come first.

use std::collections::HashMap;

use super::queues::{Queues, Queuing};

/// What a level may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub own: u32,
    /// Of its own.
    pub lendable: u32,
    /// Of others'; `None`: all.
    pub borrowable: Option<u32>,
    /// `None`: who finds no seat is refused.
    pub queuing: Option<Queuing>,
}

impl Limits {
    /// Never lent.
    fn kept(&self) -> u32 {
        self.own.saturating_sub(self.lendable)
    }

    fn lent(&self) -> u32 {
        self.lendable.min(self.own)
    }
}

/// A seat that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    level: usize,
    queue: usize,
}

/// A request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    level: usize,
    queue: usize,
    number: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    Seated(Place),
    Waits(Ticket),
    Refused,
}

/// `W` is how who waits is told.
pub(super) struct Seats<W> {
    total: u32,
    levels: Vec<Level<W>>,
    names: HashMap<String, usize>,
    /// Levels without a name.
    free: Vec<usize>,
    tickets: u64,
}

struct Level<W> {
    limits: Limits,
    used: u32,
    queues: Queues<W>,
}

impl<W> Level<W> {
    fn pooled(&self) -> u32 {
        self.used.saturating_sub(self.limits.kept())
    }

    fn has_more(&self, pool: u32) -> bool {
        let may_borrow = self.limits.borrowable.unwrap_or(u32::MAX);
        self.used < self.limits.kept() || pool > 0 && self.pooled() < self.limits.lent().saturating_add(may_borrow)
    }
}

impl<W> Seats<W> {
    pub fn new(total: u32) -> Self {
        Self { total, levels: Vec::new(), names: HashMap::new(), free: Vec::new(), tickets: 0 }
    }

    pub fn total(&self) -> u32 {
        self.total
    }

    /// The number of a level with these limits from now on. Levels keep their numbers: what runs and waits goes on.
    pub fn set(&mut self, name: &str, limits: Limits) -> usize {
        if let Some(at) = self.names.get(name) {
            self.levels[*at].limits = limits;
            return *at;
        }
        let level = Level { limits, used: 0, queues: Queues::new() };
        let at = self.free.pop().unwrap_or(self.levels.len());
        match self.levels.get_mut(at) {
            Some(place) => *place = level,
            None => self.levels.push(level),
        }
        self.names.insert(name.to_owned(), at);
        at
    }

    /// Levels that are no more lend and borrow nothing, and are forgotten when nobody is in them.
    pub fn keep_only(&mut self, known: impl Fn(&str) -> bool) {
        let (levels, free) = (&mut self.levels, &mut self.free);
        self.names.retain(|name, at| {
            let level = &mut levels[*at];
            if known(name) {
                return true;
            }
            let own = level.limits.own.max(1);
            level.limits = Limits { own, lendable: 0, borrowable: Some(0), ..level.limits };
            let idle = level.used == 0 && level.queues.waiting() == 0;
            if idle {
                // Requests that were sorted by the configuration before may still arrive: none of them waits here.
                level.limits = Limits { own: 0, queuing: None, ..level.limits };
                free.push(*at);
            }
            !idle
        });
    }

    pub fn arrive(&mut self, level: usize, flow: u64, waiter: W) -> Arrival {
        let pool = self.pool();
        let at = &mut self.levels[level];
        let queuing = at.limits.queuing.unwrap_or(Queuing { queues: 1, hand: 1, length: 0 });
        let queue = at.queues.choose(flow, queuing);
        if at.queues.waiting() == 0 && at.has_more(pool) {
            at.used += 1;
            at.queues.begin(queue);
            return Arrival::Seated(Place { level, queue });
        }
        if at.queues.length(queue) >= queuing.length {
            return Arrival::Refused;
        }
        self.tickets += 1;
        at.queues.push(queue, self.tickets, waiter);
        Arrival::Waits(Ticket { level, queue, number: self.tickets })
    }

    /// A request has ended; who is carried out now.
    pub fn leave(&mut self, place: Place, took_s: f64) -> Vec<(Place, W)> {
        let level = &mut self.levels[place.level];
        level.used = level.used.saturating_sub(1);
        level.queues.end(place.queue, took_s);
        let mut seated = Vec::new();
        while let Some(next) = self.next() {
            seated.push(next);
        }
        seated
    }

    pub fn give_up(&mut self, ticket: Ticket) {
        self.levels[ticket.level].queues.give_up(ticket.queue, ticket.number);
    }

    fn next(&mut self) -> Option<(Place, W)> {
        let pool = self.pool();
        let able = |level: &&Level<W>| level.queues.waiting() > 0 && level.has_more(pool);
        let candidates = self.levels.iter().enumerate().filter(|(_, level)| able(level));
        // First who lacks seats that are kept, then who lacks those that it lends, then who has borrowed the least.
        let turn = |level: &Level<W>| {
            let borrows = level.used >= level.limits.own;
            (level.used >= level.limits.kept(), borrows, if borrows { level.used - level.limits.own } else { 0 })
        };
        let (at, _) = candidates.min_by_key(|(_, level)| turn(level))?;
        let level = &mut self.levels[at];
        let (queue, waiter) = level.queues.next()?;
        level.used += 1;
        Some((Place { level: at, queue }, waiter))
    }

    /// Free seats of those that may be lent.
    fn pool(&self) -> u32 {
        let lent: u32 = self.levels.iter().map(|level| level.limits.lent()).sum();
        let used: u32 = self.levels.iter().map(Level::pooled).sum();
        lent.saturating_sub(used)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const QUEUING: Queuing = Queuing { queues: 16, hand: 4, length: 10 };

    fn limits(own: u32, lendable: u32, borrowable: Option<u32>) -> Limits {
        Limits { own, lendable, borrowable, queuing: Some(QUEUING) }
    }

    fn fill(seats: &mut Seats<u64>, level: usize, count: u64) -> (Vec<Place>, usize) {
        let mut places = Vec::new();
        let mut waits = 0;
        for i in 0..count {
            match seats.arrive(level, i.wrapping_mul(0x9e37_79b9_7f4a_7c15), i) {
                Arrival::Seated(place) => places.push(place),
                Arrival::Waits(_) => waits += 1,
                Arrival::Refused => {}
            }
        }
        (places, waits)
    }

    #[test]
    fn levels_lend_and_get_back() {
        let mut seats = Seats::new(20);
        let lender = seats.set("lender", limits(10, 6, Some(0)));
        let borrower = seats.set("borrower", limits(4, 0, Some(5)));
        let (borrowed, waits) = fill(&mut seats, borrower, 12);
        assert_eq!((borrowed.len(), waits), (9, 3), "four of its own, five of six that are lent");
        let (own, waits) = fill(&mut seats, lender, 8);
        assert_eq!((own.len(), waits), (5, 3), "four that it keeps, one that is left");
        // What becomes free goes back first.
        for place in borrowed.into_iter().take(5) {
            let next = seats.leave(place, 0.1);
            assert!(next.len() == 1, "{next:?}");
        }
        assert_eq!(seats.levels[lender].used, 8, "all that waited");
        assert_eq!(seats.levels[borrower].used, 6);
    }

    #[test]
    fn some_wait_and_some_are_refused() {
        let mut seats = Seats::new(20);
        let strict = seats.set("strict", Limits { queuing: None, ..limits(2, 0, Some(0)) });
        assert_eq!(fill(&mut seats, strict, 5).0.len(), 2);
        let nothing = seats.set("nothing", Limits { queuing: None, ..limits(0, 0, Some(0)) });
        assert_eq!(seats.arrive(nothing, 1, 1), Arrival::Refused);
        let one = seats.set("one", limits(1, 0, Some(0)));
        // One flow has four queues of ten.
        let arrivals: Vec<_> = (0..50).map(|i| seats.arrive(one, 7, i)).collect();
        let Arrival::Seated(place) = arrivals[0] else { panic!("there was a seat") };
        assert_eq!(arrivals.iter().filter(|a| matches!(a, Arrival::Waits(_))).count(), 40);
        assert!(matches!(seats.arrive(one, 12_345, 99), Arrival::Waits(_)), "another flow has other queues");
        for arrival in &arrivals {
            if let Arrival::Waits(ticket) = arrival {
                seats.give_up(*ticket);
            }
        }
        assert_eq!(seats.leave(place, 0.1).iter().map(|(_, waiter)| *waiter).collect::<Vec<_>>(), [99]);
        // A level that is taken away still serves who waits.
        assert!(matches!(seats.arrive(one, 1, 100), Arrival::Waits(_)));
        seats.keep_only(|name| name != "one");
        let mut places: Vec<Place> = vec![Place { level: one, queue: 0 }];
        let mut served = 0;
        while let Some(place) = places.pop() {
            served += 1;
            places.extend(seats.leave(place, 0.1).into_iter().map(|(place, _)| place));
        }
        assert_eq!(served, 2);
        seats.keep_only(|name| name != "one");
        assert_eq!(seats.set("another", limits(3, 0, None)), one, "its number is free");
        assert_eq!(seats.set("strict", limits(3, 0, None)), strict);
    }

    /// One user has all the requests waiting that they can, the other one after the other.
    #[test]
    fn who_floods_waits_behind_themselves() {
        for seed in 1..=20_u64 {
            let mut random = seed;
            let mut next_random = move || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                random >> 33
            };
            let mut seats: Seats<bool> = Seats::new(10);
            let level = seats.set("l", limits(4, 0, Some(0)));
            let (flood, polite) = (next_random() << 20 | next_random(), next_random() << 20 | next_random());
            // By the time at which they end: who, where, and how long they take.
            let mut running: BTreeMap<(u64, u64), (bool, Place, u64)> = BTreeMap::new();
            let (mut now, mut number, mut served) = (0_u64, 0_u64, [0_u32; 2]);
            let (mut polite_waits_since, mut longest_wait) = (None, 0);
            let mut seat = |now: u64, is_polite: bool, place: Place, running: &mut BTreeMap<_, _>| {
                let took = 5 + next_random() % 10;
                number += 1;
                running.insert((now + took, number), (is_polite, place, took));
            };
            for _ in 0..4000 {
                while let Arrival::Seated(place) = seats.arrive(level, flood, false) {
                    seat(now, false, place, &mut running);
                }
                // The flood has filled its queues: what comes more of it is refused.
                while matches!(seats.arrive(level, flood, false), Arrival::Waits(_)) {}
                let polite_runs = running.values().any(|(is_polite, ..)| *is_polite);
                if !polite_runs && polite_waits_since.is_none() {
                    match seats.arrive(level, polite, true) {
                        Arrival::Seated(place) => seat(now, true, place, &mut running),
                        Arrival::Waits(_) => polite_waits_since = Some(now),
                        Arrival::Refused => panic!("seed {seed}: who asks little is refused"),
                    }
                }
                let ((ends, _), (_, place, took)) = running.pop_first().expect("something runs");
                now = ends;
                for (place, is_polite) in seats.leave(place, took as f64 / 1000.0) {
                    served[usize::from(is_polite)] += 1;
                    if is_polite && let Some(since) = polite_waits_since.take() {
                        longest_wait = longest_wait.max(now - since);
                    }
                    seat(now, is_polite, place, &mut running);
                }
                assert!(running.len() <= 4, "seed {seed}: more than there are seats");
            }
            // In one line behind the flood it would wait some 100 times as long as a request takes.
            assert!(served[1] > 500 && longest_wait < 100, "seed {seed}: {served:?}, {longest_wait}");
            assert!(served[0] > served[1], "seed {seed}: {served:?}: seats are left empty");
        }
    }
}
