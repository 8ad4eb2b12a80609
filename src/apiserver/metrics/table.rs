//! Counters by a hash of their labels: a fixed table, without locks.

use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upstream's buckets of durations, in seconds.
const BOUNDS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];
/// So far from its own place a series is looked for.
const PROBES: usize = 16;

pub(super) struct Table {
    slots: Box<[Slot]>,
    /// For those that found no place.
    rest: Series,
}

struct Slot {
    /// 0: free.
    key: AtomicU64,
    series: OnceLock<Box<Series>>,
}

pub(super) struct Series {
    labels: String,
    count: AtomicU64,
    times: Option<Times>,
}

struct Times {
    /// Not summed up; the last is for what is longer than all.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

impl Table {
    /// `size` is a power of two.
    pub fn new(size: usize) -> Self {
        let slot = |_| Slot { key: AtomicU64::new(0), series: OnceLock::new() };
        Self { slots: (0..size).map(slot).collect(), rest: Series::new("verb=\"other\"".to_owned(), true) }
    }

    fn places(&self, key: u64) -> impl Iterator<Item = &Slot> {
        let start = key as usize;
        (0..PROBES).map(move |step| &self.slots[(start.wrapping_add(step)) & (self.slots.len() - 1)])
    }

    pub fn has(&self, key: u64) -> bool {
        let key = key.max(1);
        self.places(key).map(|slot| slot.key.load(Ordering::Acquire)).take_while(|found| *found != 0).any(|k| k == key)
    }

    /// The series of a key, made where there is none.
    pub fn find(&self, key: u64, make: impl Fn() -> Series) -> &Series {
        let key = key.max(1);
        for slot in self.places(key) {
            let found = slot.key.compare_exchange(0, key, Ordering::AcqRel, Ordering::Acquire).unwrap_or_else(|k| k);
            if found == 0 || found == key {
                return slot.series.get_or_init(|| Box::new(make()));
            }
        }
        &self.rest
    }

    pub fn each(&self, mut visit: impl FnMut(&Series)) {
        self.slots.iter().filter_map(|slot| slot.series.get()).for_each(|series| visit(series));
        if self.rest.count.load(Ordering::Relaxed) > 0 {
            visit(&self.rest);
        }
    }
}

impl Series {
    pub fn new(labels: String, timed: bool) -> Self {
        let times = || Times { buckets: Default::default(), sum_us: AtomicU64::new(0) };
        Self { labels, count: AtomicU64::new(0), times: timed.then(times) }
    }

    pub fn count(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    pub fn observe(&self, took: Duration) {
        self.count();
        let Some(times) = &self.times else { return };
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        times.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        times.sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// One line.
    pub fn write_count(&self, name: &str, out: &mut String) {
        let count = self.count.load(Ordering::Relaxed);
        writeln!(out, "{name}{{{}}} {count}", self.labels).expect("writing to memory");
    }

    /// The lines of a histogram; none for what was never timed.
    pub fn write_times(&self, name: &str, out: &mut String) {
        let Some(times) = &self.times else { return };
        let labels = &self.labels;
        let buckets = times.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed));
        let all: u64 = buckets.iter().sum();
        if all == 0 {
            return;
        }
        let mut below = 0;
        for (bound, count) in BOUNDS.iter().zip(buckets) {
            below += count;
            writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}").expect("writing to memory");
        }
        writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {all}").expect("writing to memory");
        let sum = Duration::from_micros(times.sum_us.load(Ordering::Relaxed)).as_secs_f64();
        writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {all}").expect("writing to memory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_summed_up_by_buckets() {
        let series = Series::new("a=\"b\"".to_owned(), true);
        [3, 30, 30, 90_000].into_iter().for_each(|ms| series.observe(Duration::from_millis(ms)));
        let mut text = String::new();
        series.write_times("t", &mut text);
        let has = |line: &str| assert!(text.lines().any(|l| l == line), "{line}: {text}");
        has("t_bucket{a=\"b\",le=\"0.005\"} 1");
        has("t_bucket{a=\"b\",le=\"0.05\"} 3");
        has("t_bucket{a=\"b\",le=\"1\"} 3");
        has("t_bucket{a=\"b\",le=\"60\"} 3");
        has("t_bucket{a=\"b\",le=\"+Inf\"} 4");
        has("t_sum{a=\"b\"} 90.063");
        has("t_count{a=\"b\"} 4");
    }

    #[test]
    fn what_finds_no_place_is_counted_together() {
        let table = Table::new(32);
        let made = |key: u64| Series::new(format!("k=\"{key}\""), false);
        for _ in 0..2 {
            (1..100).for_each(|key| table.find(key * 7919, || made(key)).count());
        }
        let (mut text, mut lines) = (String::new(), 0);
        table.each(|series| series.write_count("n", &mut text));
        let mut sum = 0;
        for line in text.lines() {
            lines += 1;
            sum += line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a number");
        }
        assert_eq!((lines, sum), (33, 198), "{text}");
        assert!(table.has(7919) || text.contains("k=\"1\"") == table.has(7919));
    }
}
