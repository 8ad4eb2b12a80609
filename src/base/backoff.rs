use std::time::Duration;

/// Exponential backoff: each failure doubles the wait, up to a limit; success starts over.
///
/// Waits are spread by up to a tenth, so that many clients that failed together do not return
/// together.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    failures: u32,
}

impl Backoff {
    /// The first wait is `first`, none is longer than `limit` (plus the spread).
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, failures: 0 }
    }

    /// How long to wait before the next try, counting one more failure.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.first.saturating_mul(2u32.saturating_pow(self.failures)).min(self.limit);
        self.failures = self.failures.saturating_add(1);
        wait.mul_f64(1.0 + rand::random::<f64>() / 10.0)
    }

    /// Forgets all failures.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How many failures were counted since the last reset.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_limit() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let waits: Vec<u128> = (0..6).map(|_| backoff.next_wait().as_millis()).collect();
        for (wait, base) in waits.iter().zip([100, 200, 400, 800, 1000, 1000]) {
            assert!((base..=base + base / 10).contains(wait), "{waits:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() < Duration::from_millis(111));
    }
}
