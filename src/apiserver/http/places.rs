//! Who holds the server's connections. There are so many places; nobody may have most of them, and who does nothing with one
//! makes room for those who come.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use skiff_base::CancellationToken;
use tokio::time::Instant;

/// Connections that may be open at the same time, and those of one source.
pub(super) const MAX_CONNECTIONS: usize = 8192;
pub(super) const MAX_OF_SOURCE: usize = MAX_CONNECTIONS / 8;

pub(super) struct Places {
    all: usize,
    of_source: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    next: u64,
    open: BTreeMap<u64, Connection>,
    sources: HashMap<IpAddr, usize>,
}

struct Connection {
    source: IpAddr,
    /// It showed a certificate that we know.
    known: bool,
    /// Requests that are not answered to the end.
    busy: usize,
    idle_since: Instant,
    end: CancellationToken,
}

/// What becomes of one more.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Take,
    /// In the place of that one.
    Replace(u64),
    Refuse,
}

/// Addresses that one host has many of count as one.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::from((v6.to_bits() & !u128::from(u64::MAX)).to_be_bytes()),
        v4 => v4,
    }
}

impl Held {
    fn plan(&self, source: IpAddr, all: usize, of_source: usize) -> Plan {
        let crowded = self.sources.get(&source).is_some_and(|count| *count >= of_source);
        if !crowded && self.open.len() < all {
            return Plan::Take;
        }
        let idle =
            self.open.iter().filter(|(_, one)| one.busy == 0 && !one.known && (!crowded || one.source == source));
        match idle.min_by_key(|(_, one)| one.idle_since) {
            Some((oldest, _)) => Plan::Replace(*oldest),
            None => Plan::Refuse,
        }
    }

    fn remove(&mut self, id: u64) {
        let Some(gone) = self.open.remove(&id) else { return };
        gone.end.cancel();
        if let Some(count) = self.sources.get_mut(&gone.source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&gone.source);
            }
        }
    }
}

impl Places {
    pub fn new(all: usize, of_source: usize) -> Arc<Self> {
        Arc::new(Self { all, of_source, held: Mutex::default() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("nothing panics while it holds the places")
    }

    /// `None`: there is no room.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<Arc<Place>> {
        let source = source_of(address);
        let mut held = self.held();
        match held.plan(source, self.all, self.of_source) {
            Plan::Take => {}
            Plan::Replace(id) => held.remove(id),
            Plan::Refuse => return None,
        }
        let id = held.next;
        held.next += 1;
        let end = CancellationToken::new();
        let connection = Connection { source, known: false, busy: 0, idle_since: Instant::now(), end: end.clone() };
        held.open.insert(id, connection);
        *held.sources.entry(source).or_default() += 1;
        Some(Arc::new(Place { places: self.clone(), id, end }))
    }
}

/// One connection's.
pub(super) struct Place {
    places: Arc<Places>,
    id: u64,
    end: CancellationToken,
}

impl Place {
    /// Who shows a certificate keeps the place, idle or not.
    pub fn known(&self) {
        if let Some(own) = self.places.held().open.get_mut(&self.id) {
            own.known = true;
        }
    }

    /// From here on until what it gives is dropped, the connection is not idle.
    pub fn begin(self: &Arc<Self>) -> Busy {
        if let Some(own) = self.places.held().open.get_mut(&self.id) {
            own.busy += 1;
        }
        Busy(self.clone())
    }

    /// Until another one has the place.
    pub async fn lost(&self) {
        self.end.cancelled().await;
    }

    /// Until the connection was idle for so long.
    pub async fn idle(&self, limit: Duration) {
        loop {
            let now = Instant::now();
            let since = match self.places.held().open.get(&self.id) {
                Some(own) if own.busy == 0 => own.idle_since,
                _ => now,
            };
            if now - since >= limit {
                return;
            }
            tokio::time::sleep_until(since + limit).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held().remove(self.id);
    }
}

/// A request that is being answered.
pub(super) struct Busy(Arc<Place>);

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(own) = self.0.places.held().open.get_mut(&self.0.id) {
            own.busy -= 1;
            own.idle_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn who_is_idle_makes_room() {
        let places = Places::new(3, 2);
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let is_lost = |place: &Place| place.end.is_cancelled();
        let first = places.take(one).expect("room");
        let second = places.take(one).expect("room");
        // A source has its share, of which the oldest that is idle goes.
        let third = places.take(one).expect("the first is idle");
        assert_eq!([&first, &second, &third].map(|place| is_lost(place)), [true, false, false]);
        let busy = second.begin();
        third.known();
        assert!(places.take(one).is_none(), "one is at work, the other is known");
        let fourth = places.take(other).expect("there is room for others");
        let fifth = places.take(other).expect("in the place of the fourth");
        assert_eq!([&second, &third, &fourth, &fifth].map(|place| is_lost(place)), [false, false, true, false]);
        let at_work = fifth.begin();
        assert!(places.take(other).is_none());
        // What was answered is idle from then on.
        drop(busy);
        let sixth = places.take(other).expect("the second is idle now");
        assert!(is_lost(&second) && !is_lost(&third));
        drop((first, second, third, fourth, fifth, sixth, at_work));
        let held = places.held();
        assert!(held.open.is_empty() && held.sources.is_empty());
    }

    #[tokio::test]
    async fn idleness_is_measured_between_requests() {
        let places = Places::new(1, 1);
        let place = places.take(address("192.0.2.1")).expect("room");
        let (limit, begun) = (Duration::from_millis(20), Instant::now());
        let busy = place.begin();
        let watched = async {
            tokio::time::sleep(limit * 3).await;
            drop(busy);
        };
        tokio::join!(place.idle(limit), watched);
        assert!(begun.elapsed() >= limit * 4, "from the last answer on");
    }

    #[test]
    fn hosts_count_as_one() {
        for (text, expect) in
            [("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::")]
        {
            assert_eq!(source_of(address(text)), address(expect));
        }
    }
}
