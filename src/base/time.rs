//! The clock, in the units that the rest of the project uses.

use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;

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

/// Where hosts keep the database of time zones.
const ZONES: [&str; 2] = ["/usr/share/zoneinfo", "/usr/lib/zoneinfo"];

/// A time zone by its name in the IANA database, e.g. `Europe/Berlin`; `None`: the host knows none of that name.
pub fn zone(name: &str) -> Option<TimeZone> {
    if matches!(name, "UTC" | "Etc/UTC") {
        return Some(TimeZone::UTC);
    }
    let good = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+'))
    };
    if !name.split('/').all(good) {
        return None;
    }
    let data = ZONES.iter().find_map(|folder| std::fs::read(Path::new(folder).join(name)).ok())?;
    TimeZone::tzif(name, &data).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_zones_are_zones() {
        for wrong in ["", "/etc/passwd", "../../../etc/passwd", "Europe//Berlin", "No/Where"] {
            assert!(zone(wrong).is_none(), "{wrong}");
        }
        assert_eq!(zone("UTC"), Some(TimeZone::UTC));
    }

    #[test]
    fn formats() {
        let at = Timestamp::new(1_700_000_000, 123_456_789).expect("in range");
        assert_eq!(rfc3339(at), "2023-11-14T22:13:20Z");
        assert_eq!(rfc3339_micro(at), "2023-11-14T22:13:20.123456Z");
        assert_eq!(rfc3339_nano(at), "2023-11-14T22:13:20.123456789Z");
    }
}
