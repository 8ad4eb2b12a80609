//! The clock, in the units that the rest of the project uses.

use jiff::Timestamp;

/// The wall clock.
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// The wall clock as RFC 3339 with whole seconds, as Kubernetes writes `metav1.Time`.
pub fn now_rfc3339() -> String {
    rfc3339(now())
}

/// RFC 3339 in UTC with whole seconds (`metav1.Time`).
pub fn rfc3339(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// RFC 3339 in UTC with microseconds (`metav1.MicroTime`).
pub fn rfc3339_micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// RFC 3339 in UTC with nanoseconds, as the CRI log format writes it.
pub fn rfc3339_nano(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let at = Timestamp::new(1_700_000_000, 123_456_789).expect("in range");
        assert_eq!(rfc3339(at), "2023-11-14T22:13:20Z");
        assert_eq!(rfc3339_micro(at), "2023-11-14T22:13:20.123456Z");
        assert_eq!(rfc3339_nano(at), "2023-11-14T22:13:20.123456789Z");
    }
}
