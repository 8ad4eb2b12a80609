//! Stands in for the crate of this name below openraft, and keeps no histogram.
//!
//! Openraft makes its run-time statistics even where its feature `runtime-stats` is off and nobody can read them. The
//! crate proper then fills tables for all sixteen precisions that a histogram may have: 26 MB that stay for as long as
//! the process lives, and most of the time that Raft takes to start (docs/decisions/0003-store.md). This has what
//! openraft names, in as far as it compiles; remove it when openraft makes its statistics only where they are wanted.

use std::fmt;
use std::marker::PhantomData;

/// Counts what it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    samples: u64,
    data: PhantomData<T>,
}

impl<T> Histogram<T> {
    pub fn new() -> Self {
        Self { samples: 0, data: PhantomData }
    }

    pub fn record(&mut self, _value: u64) {
        self.samples += 1;
    }

    pub fn record_n(&mut self, _value: u64, count: u64) {
        self.samples += count;
    }

    pub fn total(&self) -> u64 {
        self.samples
    }

    /// Nothing but the number of samples is known.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats { samples: self.samples, p0_1: 0, p1: 0, p5: 0, p10: 0, p50: 0, p90: 0, p99: 0, p99_9: 0 }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[samples: {}]", self.samples)
    }
}

/// Draws nothing.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart;

impl AsciiChart {
    pub fn new() -> Self {
        Self
    }

    #[must_use]
    pub fn add(self, _name: impl Into<String>, _histogram: Histogram) -> Self {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}
