//! How long to wait before the next try, as upstream counts it: nothing before the first, then 10 s, doubling up to
//! 5 min, forgotten after 10 quiet minutes.

use jiff::{SignedDuration, Timestamp};

const FIRST: SignedDuration = SignedDuration::from_secs(10);
const LIMIT: SignedDuration = SignedDuration::from_secs(300);

#[derive(Debug, Clone, Default)]
pub(crate) struct RestartBackoff {
    wait: SignedDuration,
    counted: Option<Timestamp>,
}

impl RestartBackoff {
    /// How long to wait after a failure at `failed`.
    pub(crate) fn wait(&self, failed: Timestamp) -> SignedDuration {
        if self.expired(failed) { SignedDuration::ZERO } else { self.wait }
    }

    /// Counts a try that follows the failure at `failed`.
    pub(crate) fn count(&mut self, failed: Timestamp, now: Timestamp) {
        let next = if self.expired(failed) || self.wait.is_zero() { FIRST } else { (self.wait * 2).min(LIMIT) };
        self.wait = next;
        self.counted = Some(now);
    }

    fn expired(&self, failed: Timestamp) -> bool {
        self.counted.is_none_or(|at| failed.duration_since(at) > LIMIT * 2)
    }
}

/// As Go prints whole durations: `10s`, `1m20s`, `5m0s`.
pub(crate) fn go_duration(wait: SignedDuration) -> String {
    let seconds = wait.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_and_forgets() {
        let mut backoff = RestartBackoff::default();
        let mut now = Timestamp::from_second(1_000_000).expect("in range");
        let mut waits = Vec::new();
        for _ in 0..7 {
            let wait = backoff.wait(now);
            waits.push(go_duration(wait));
            now += wait;
            backoff.count(now, now);
        }
        assert_eq!(waits, ["0s", "10s", "20s", "40s", "1m20s", "2m40s", "5m0s"]);
        now += SignedDuration::from_secs(601);
        assert!(backoff.wait(now).is_zero());
        backoff.count(now, now);
        assert_eq!(backoff.wait(now), FIRST);
    }
}
