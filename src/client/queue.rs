use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The wait after the first failure of a key; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1000);
/// All keys together may be tried again this often per second ...
const RETRIES_PER_S: f64 = 10.0;
/// ... after this many at once.
const RETRY_BURST: f64 = 100.0;

/// Keys that wait for work, each at most once (client-go's rate-limited work queue).
///
/// A key is in at most one of {waiting, running}; one that is added while it runs is queued again
/// when it is done. Failures back off per key (5 ms to 1000 s) and through a bucket (10/s, burst 100).
/// Cloning gives another handle on the same queue.
pub struct Queue<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    name: &'static str,
    state: Mutex<State<K>>,
    changed: Notify,
}

/// ```text
///   add ──> ready ──next──> running ──done──> (gone)
///             ^                │ add meanwhile: marked, back to ready when done
///   add_after: delayed ──due──>┘
/// ```
struct State<K> {
    ready: VecDeque<K>,
    /// To be worked on: every key in `ready`, and those that were added while they run.
    marked: HashSet<K>,
    running: HashSet<K>,
    delayed: BTreeMap<(Instant, u64), K>,
    delayed_by_key: HashMap<K, (Instant, u64)>,
    /// Tells delayed keys of one instant apart.
    sequence: u64,
    failures: HashMap<K, u32>,
    bucket: Bucket,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<K: Clone + Debug + Eq + Hash + Send + Sync + 'static> Queue<K> {
    pub fn new(name: &'static str) -> Self {
        let state = State {
            ready: VecDeque::new(),
            marked: HashSet::new(),
            running: HashSet::new(),
            delayed: BTreeMap::new(),
            delayed_by_key: HashMap::new(),
            sequence: 0,
            failures: HashMap::new(),
            bucket: Bucket::new(RETRIES_PER_S, RETRY_BURST, Instant::now()),
        };
        Self { shared: Arc::new(Shared { name, state: Mutex::new(state), changed: Notify::new() }) }
    }

    pub fn name(&self) -> &'static str {
        self.shared.name
    }

    pub fn add(&self, key: K) {
        if self.lock().add(key) {
            self.shared.changed.notify_one();
        }
    }

    /// Adds the key when `wait` is over; of several such calls the earliest counts.
    pub fn add_after(&self, key: K, wait: Duration) {
        if wait.is_zero() {
            return self.add(key);
        }
        if self.lock().add_at(key, Instant::now() + wait) {
            self.shared.changed.notify_one();
        }
    }

    /// Adds the key after its back-off, and counts a failure.
    pub fn add_failed(&self, key: K) {
        let now = Instant::now();
        let wait = {
            let mut state = self.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let wait = backoff(*failures);
            *failures = failures.saturating_add(1);
            wait.max(state.bucket.take(now))
        };
        self.add_after(key, wait);
    }

    /// Forgets the failures of a key.
    pub fn forget(&self, key: &K) {
        self.lock().failures.remove(key);
    }

    /// How often a key failed since it was forgotten.
    pub fn failures(&self, key: &K) -> u32 {
        self.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// How many keys could be worked on now.
    pub fn len(&self) -> usize {
        self.lock().ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next key, which is running until [`Queue::done`] is called with it.
    pub async fn next(&self) -> K {
        loop {
            let (key, due, more) = {
                let mut state = self.lock();
                state.release_due(Instant::now());
                let key = state.take();
                let due = state.delayed.first_key_value().map(|((at, _), _)| *at);
                (key, due, !state.ready.is_empty())
            };
            if let Some(key) = key {
                // Notifications of several adds may have merged into the one that woke this worker.
                if more || due.is_some() {
                    self.shared.changed.notify_one();
                }
                return key;
            }
            match due {
                Some(at) => {
                    tokio::select! {
                        () = self.shared.changed.notified() => {}
                        () = tokio::time::sleep_until(at.into()) => {}
                    }
                }
                None => self.shared.changed.notified().await,
            }
        }
    }

    /// The work on a key is over; if it was added meanwhile, it is ready again.
    pub fn done(&self, key: &K) {
        let again = {
            let mut state = self.lock();
            state.running.remove(key);
            let again = state.marked.contains(key);
            if again {
                state.ready.push_back(key.clone());
            }
            again
        };
        if again {
            self.shared.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.shared.state.lock().expect("nothing panics while it holds the queue")
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    /// Whether a worker has something new to do.
    fn add(&mut self, key: K) -> bool {
        if !self.marked.insert(key.clone()) || self.running.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    /// Whether the key now waits, and may be the earliest.
    fn add_at(&mut self, key: K, at: Instant) -> bool {
        if let Some(place) = self.delayed_by_key.get(&key).copied() {
            if place.0 <= at {
                return false;
            }
            self.delayed.remove(&place);
        }
        self.sequence += 1;
        let place = (at, self.sequence);
        self.delayed.insert(place, key.clone());
        self.delayed_by_key.insert(key, place);
        true
    }

    fn release_due(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let key = entry.remove();
            self.delayed_by_key.remove(&key);
            self.add(key);
        }
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.marked.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }
}

/// The wait after this many earlier failures.
fn backoff(failures: u32) -> Duration {
    FIRST_WAIT.saturating_mul(2u32.saturating_pow(failures)).min(LONGEST_WAIT)
}

/// A token bucket that lends: a token that isn't there yet is waited for.
pub(crate) struct Bucket {
    per_s: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn new(per_s: f64, burst: f64, now: Instant) -> Self {
        Self { per_s, burst, tokens: burst, at: now }
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.per_s).min(self.burst);
        self.at = now;
    }

    /// Takes a token, and says how long to wait until it is there.
    pub(crate) fn take(&mut self, now: Instant) -> Duration {
        self.refill(now);
        self.tokens -= 1.0;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / self.per_s) }
    }

    /// Takes a token if there is one.
    pub(crate) fn try_take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_waits_at_most_once() {
        let queue = Queue::new("test");
        queue.add("a");
        queue.add("b");
        queue.add("a");
        assert_eq!(queue.len(), 2);
        assert_eq!((queue.next().await, queue.next().await), ("a", "b"));
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn a_key_that_is_added_while_it_runs_runs_again_and_never_twice_at_once() {
        let queue = Queue::new("test");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        queue.add("a");
        assert!(queue.is_empty(), "it runs");
        queue.done(&"a");
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn delayed_keys_come_when_due_and_the_earliest_call_counts() {
        let queue = Queue::new("test");
        queue.add_after("late", Duration::from_millis(30));
        queue.add_after("soon", Duration::from_secs(3600));
        queue.add_after("soon", Duration::from_millis(5));
        queue.add_after("soon", Duration::from_secs(3600));
        assert!(queue.is_empty());
        assert_eq!((queue.next().await, queue.next().await), ("soon", "late"));
        assert!(queue.lock().delayed.is_empty());
    }

    #[tokio::test]
    async fn every_waiting_worker_gets_a_key() {
        let queue = Queue::new("test");
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.next().await })
            })
            .collect();
        tokio::task::yield_now().await;
        for key in 0..3 {
            queue.add(key);
        }
        queue.add_after(3, Duration::from_millis(2));
        let mut seen = HashSet::new();
        for worker in workers {
            seen.insert(worker.await.expect("a key"));
        }
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn failures_back_off_up_to_the_limit() {
        let waits: Vec<u128> = [0, 1, 2, 10, 17, 18, 40].map(|n| backoff(n).as_millis()).to_vec();
        assert_eq!(waits, [5, 10, 20, 5120, 655_360, 1_000_000, 1_000_000]);
        let queue = Queue::new("test");
        for _ in 0..3 {
            queue.add_failed("a");
        }
        assert_eq!(queue.failures(&"a"), 3);
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
    }

    #[test]
    fn the_bucket_lends_what_it_does_not_have() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10.0, 2.0, start);
        let waits: Vec<u128> = (0..4).map(|_| bucket.take(start).as_millis()).collect();
        assert_eq!(waits, [0, 0, 100, 200]);
        assert_eq!(bucket.take(start + Duration::from_secs(1)).as_millis(), 0);
        let mut bucket = Bucket::new(1.0, 1.0, start);
        assert!(bucket.try_take(start) && !bucket.try_take(start));
        assert!(bucket.try_take(start + Duration::from_secs(1)));
    }
}
