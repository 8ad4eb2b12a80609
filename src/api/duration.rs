//! Durations as Go and kubectl write them.

use jiff::Timestamp;

const NS: i128 = 1;
const SECOND_NS: i128 = 1_000_000_000;
const MINUTE_NS: i128 = 60 * SECOND_NS;
const HOUR_NS: i128 = 60 * MINUTE_NS;

/// How long ago `at` was, as kubectl prints ages.
pub fn human_since(at: Timestamp, now: Timestamp) -> String {
    let whole_s = now.as_nanosecond().saturating_sub(at.as_nanosecond()) / SECOND_NS;
    human(i64::try_from(whole_s).unwrap_or(i64::MAX))
}

/// kubectl's short form of a number of seconds: `59s`, `3m20s`, `5h10m`, `5d`, `2y30d`.
pub fn human(seconds: i64) -> String {
    let two = |big: i64, big_unit: char, small: i64, small_unit: char| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    match seconds {
        // Clocks of different machines may differ by a little.
        s if s < -1 => "<invalid>".to_owned(),
        s if s < 0 => "0s".to_owned(),
        s if s < 120 => format!("{s}s"),
        s if minutes < 10 => two(minutes, 'm', s % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => two(days, 'd', hours % 24, 'h'),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    #[error("time: unknown unit {1:?} in duration {0:?}")]
    UnknownUnit(String, String),
}

/// Go's `time.ParseDuration`, in nanoseconds: `1h30m`, `-1.5s`, `300ms`.
pub fn parse_ns(text: &str) -> Result<i64, ParseError> {
    let invalid = || ParseError::Invalid(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(invalid());
        }
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit_ns = match unit {
            "" => return Err(ParseError::MissingUnit(text.to_owned())),
            "ns" => NS,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND_NS,
            "m" => MINUTE_NS,
            "h" => HOUR_NS,
            other => return Err(ParseError::UnknownUnit(text.to_owned(), other.to_owned())),
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        total = whole.checked_mul(unit_ns).and_then(|ns| total.checked_add(ns)).ok_or_else(invalid)?;
        // More than 18 digits behind the point are below a nanosecond in any unit.
        let digits = &fraction[..fraction.len().min(18)];
        if !digits.is_empty() {
            let value: i128 = digits.parse().map_err(|_| invalid())?;
            total += value * unit_ns / 10_i128.pow(u32::try_from(digits.len()).unwrap_or(18));
        }
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// Go's `Duration.String`: `1h30m0s`, `1.5s`, `300ms`, `0s`.
pub fn format_ns(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = i128::from(ns).abs();
    let scaled = |unit: i128, digits: usize, name: &str| {
        let (whole, rest) = (ns / unit, ns % unit);
        let fraction = format!("{rest:0digits$}");
        let fraction = fraction.trim_end_matches('0');
        if fraction.is_empty() { format!("{whole}{name}") } else { format!("{whole}.{fraction}{name}") }
    };
    let text = match ns {
        0 => return "0s".to_owned(),
        n if n < 1_000 => format!("{n}ns"),
        n if n < 1_000_000 => scaled(1_000, 3, "µs"),
        n if n < SECOND_NS => scaled(1_000_000, 6, "ms"),
        n => {
            let (hours, minutes) = (n / HOUR_NS, n % HOUR_NS / MINUTE_NS);
            let rest = n % MINUTE_NS;
            let fraction = format!("{:09}", rest % SECOND_NS);
            let fraction = fraction.trim_end_matches('0');
            let seconds = if fraction.is_empty() {
                format!("{}s", rest / SECOND_NS)
            } else {
                format!("{}.{fraction}s", rest / SECOND_NS)
            };
            match (hours, minutes) {
                (0, 0) => seconds,
                (0, m) => format!("{m}m{seconds}"),
                (h, m) => format!("{h}h{m}m{seconds}"),
            }
        }
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let (m, h, d) = (60, 3600, 86400);
        for (seconds, expect) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (10 * m + 5, "10m"),
            (179 * m, "179m"),
            (3 * h, "3h"),
            (5 * h + 10 * m, "5h10m"),
            (8 * h + m, "8h"),
            (47 * h, "47h"),
            (48 * h, "2d"),
            (2 * d + h, "2d1h"),
            (8 * d + h, "8d"),
            (729 * d, "729d"),
            (730 * d, "2y"),
            (760 * d, "2y30d"),
            (365 * 9 * d + d, "9y"),
        ] {
            assert_eq!(human(seconds), expect, "{seconds}");
        }
    }

    #[test]
    fn go_durations() {
        for (text, ns, back) in [
            ("0", 0, "0s"),
            ("1h30m", 5_400_000_000_000, "1h30m0s"),
            ("-1.5s", -1_500_000_000, "-1.5s"),
            ("300ms", 300_000_000, "300ms"),
            ("1us", 1_000, "1µs"),
            ("1.5us", 1_500, "1.5µs"),
            ("7ns", 7, "7ns"),
            ("90s", 90_000_000_000, "1m30s"),
            (".5h", 1_800_000_000_000, "30m0s"),
        ] {
            assert_eq!(parse_ns(text), Ok(ns), "{text}");
            assert_eq!(format_ns(ns), back);
        }
        for (bad, message) in [
            ("", r#"time: invalid duration """#),
            ("1", r#"time: missing unit in duration "1""#),
            ("1x", r#"time: unknown unit "x" in duration "1x""#),
            ("s", r#"time: invalid duration "s""#),
            ("1.2.3s", r#"time: invalid duration "1.2.3s""#),
            ("99999999999h", r#"time: invalid duration "99999999999h""#),
        ] {
            assert_eq!(parse_ns(bad).expect_err(bad).to_string(), message);
        }
    }
}
