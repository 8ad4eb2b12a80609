//! Schedules of CronJobs, as upstream's parser (robfig/cron, standard form) reads them: five fields, or a descriptor such as
//! `@hourly` and `@every 90m`. Pure: which instant is next follows from a given one and its time zone.

use jiff::civil::{Date, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan as _};

use crate::duration;

/// Further away than this nothing is searched; as upstream.
const YEARS_MAX: i16 = 5;
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// What is wrong with a schedule, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CronError(String);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// So many seconds after the last time.
    Every(i64),
    At(Fields),
}

/// One bit for each value that a field allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// A day counts by its number and its weekday: both where one of them is a star, else either.
    any_day: bool,
    any_weekday: bool,
}

struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MINUTE: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOUR: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAY: Bounds = Bounds { min: 1, max: 31, names: &[] };
const MONTH: Bounds = Bounds { min: 1, max: 12, names: &MONTHS };
const WEEKDAY: Bounds = Bounds { min: 0, max: 6, names: &DAYS };

fn fail<T>(message: String) -> Result<T, CronError> {
    Err(CronError(message))
}

/// The zone that a schedule names itself (`TZ=...` before the fields), and the rest.
pub fn split_zone(text: &str) -> (Option<&str>, &str) {
    let rest = text.strip_prefix("CRON_TZ=").or_else(|| text.strip_prefix("TZ="));
    match rest.and_then(|rest| rest.split_once(' ')) {
        Some((zone, rest)) => (Some(zone), rest.trim()),
        None => (None, text),
    }
}

impl Schedule {
    /// A schedule without a zone before it.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        if text.is_empty() {
            return fail("empty spec string".to_owned());
        }
        if text.starts_with('@') {
            return descriptor(text);
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return fail(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
        };
        Ok(Self::At(Fields {
            minutes: field(minutes, &MINUTE)?.0,
            hours: field(hours, &HOUR)?.0,
            days: field(days, &DAY)?.0,
            months: field(months, &MONTH)?.0,
            weekdays: field(weekdays, &WEEKDAY)?.0,
            any_day: field(days, &DAY)?.1,
            any_weekday: field(weekdays, &WEEKDAY)?.1,
        }))
    }

    /// The first time after `after`; `None` where there is none within some years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(seconds) => {
                Timestamp::from_second(after.as_second()).ok()?.checked_add(SignedDuration::from_secs(*seconds)).ok()
            }
            Self::At(fields) => fields.next(after, zone),
        }
    }
}

impl Fields {
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        // The day before: where clocks are set back, its last hour may come again.
        let mut date = zone.to_datetime(after).date();
        let last = date.year().saturating_add(YEARS_MAX);
        while date.year() <= last {
            if has(self.months, date.month()) {
                if self.matches(date)
                    && let Some(found) = self.on(date, after, zone)
                {
                    return Some(found);
                }
                date = date.checked_add(1.day()).ok()?;
            } else {
                date = date.first_of_month().checked_add(1.month()).ok()?;
            }
        }
        None
    }

    fn matches(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        if self.any_day || self.any_weekday { day && weekday } else { day || weekday }
    }

    /// The first time on that day that is after the instant. A time that the day leaves out is left out.
    fn on(&self, date: Date, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut first: Option<Timestamp> = None;
        for hour in (0..24).filter(|h| has(self.hours, *h)) {
            for minute in (0..60).filter(|m| has(self.minutes, *m)) {
                let at = date.to_datetime(Time::new(hour, minute, 0, 0).ok()?);
                let ambiguous = zone.to_ambiguous_timestamp(at);
                let found: Vec<Timestamp> = match ambiguous.offset() {
                    AmbiguousOffset::Gap { .. } => Vec::new(),
                    AmbiguousOffset::Unambiguous { .. } => ambiguous.unambiguous().into_iter().collect(),
                    AmbiguousOffset::Fold { .. } => ambiguous.earlier().into_iter().chain(ambiguous.later()).collect(),
                };
                let next = found.into_iter().filter(|at| *at > after).min();
                first = match (first, next) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
            }
            // Only where clocks are set back an earlier instant can follow, and only by an hour or so.
            if first.is_some_and(|at| zone.to_datetime(at).hour() + 2 < hour) {
                break;
            }
        }
        first
    }
}

fn has(bits: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| value < 64 && bits & (1 << value) != 0)
}

fn descriptor(text: &str) -> Result<Schedule, CronError> {
    let standard = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            let Some(every) = text.strip_prefix("@every ") else {
                return fail(format!("unrecognized descriptor: {text}"));
            };
            return match duration::parse_ns(every) {
                Ok(ns) => Ok(Schedule::Every((ns / 1_000_000_000).max(1))),
                Err(error) => fail(format!("failed to parse duration {text}: {error}")),
            };
        }
    };
    Schedule::parse(standard)
}

/// The bits of a list of ranges, and whether one of them is a plain star.
fn field(text: &str, bounds: &Bounds) -> Result<(u64, bool), CronError> {
    let (mut bits, mut star) = (0, false);
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (more, is_star) = range(part, bounds)?;
        bits |= more;
        star |= is_star;
    }
    Ok((bits, star))
}

fn range(text: &str, bounds: &Bounds) -> Result<(u64, bool), CronError> {
    let stepped: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = stepped[0].split('-').collect();
    let mut star = false;
    let (start, mut end) = match (ends[0], ends.as_slice()) {
        ("*" | "?", _) => {
            star = true;
            (bounds.min, bounds.max)
        }
        (one, [_]) => (number(one, bounds)?, number(one, bounds)?),
        (_, [low, high]) => (number(low, bounds)?, number(high, bounds)?),
        _ => return fail(format!("too many hyphens: {text}")),
    };
    let step = match stepped.as_slice() {
        [_] => 1,
        [_, step] => {
            // From one number on, by steps, goes to the end.
            if ends.len() == 1 && !star {
                end = bounds.max;
            }
            let step = integer(step)?;
            if step > 1 {
                star = false;
            }
            step
        }
        _ => return fail(format!("too many slashes: {text}")),
    };
    if start < bounds.min {
        return fail(format!("beginning of range ({start}) below minimum ({}): {text}", bounds.min));
    }
    if end > bounds.max {
        return fail(format!("end of range ({end}) above maximum ({}): {text}", bounds.max));
    }
    if start > end {
        return fail(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return fail(format!("step of range should be a positive number: {text}"));
    }
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    Ok(((start..=end).step_by(step).fold(0, |bits, value| bits | 1 << value), star))
}

fn number(text: &str, bounds: &Bounds) -> Result<u32, CronError> {
    match bounds.names.iter().position(|name| *name == text.to_lowercase()) {
        Some(at) => Ok(bounds.min + u32::try_from(at).expect("a dozen names")),
        None => integer(text),
    }
}

fn integer(text: &str) -> Result<u32, CronError> {
    match text.parse::<i64>() {
        Ok(number) if number < 0 => fail(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) if number <= i64::from(u32::MAX) => Ok(u32::try_from(number).expect("just compared")),
        _ => fail(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong() {
        for (text, expect) in [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@often", "unrecognized descriptor: @often"),
        ] {
            assert_eq!(Schedule::parse(text).expect_err(text).to_string(), expect);
        }
    }

    fn next(text: &str, after: &str, zone: &TimeZone) -> String {
        let after: Timestamp = after.parse().expect("a time");
        let found = Schedule::parse(text).expect(text).next(after, zone);
        found.map_or_else(|| "never".to_owned(), |at| at.to_string())
    }

    #[test]
    fn what_comes_next() {
        for (text, after, expect) in [
            ("* * * * *", "2024-01-01T00:00:00Z", "2024-01-01T00:01:00Z"),
            ("* * * * *", "2024-01-01T00:00:59.5Z", "2024-01-01T00:01:00Z"),
            ("*/15 * * * *", "2024-01-01T00:50:00Z", "2024-01-01T01:00:00Z"),
            ("10/20 * * * *", "2024-01-01T00:15:00Z", "2024-01-01T00:30:00Z"),
            ("0 12 * * MON-fri", "2024-01-05T12:00:00Z", "2024-01-08T12:00:00Z"),
            ("0 0 29 feb ?", "2024-03-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 31 2 *", "2024-01-01T00:00:00Z", "never"),
            // The 13th, and Fridays; with a star in one of the fields it is both.
            ("0 0 13 * 5", "2024-01-06T00:00:00Z", "2024-01-12T00:00:00Z"),
            ("0 0 13 * *", "2024-01-06T00:00:00Z", "2024-01-13T00:00:00Z"),
            ("@hourly", "2024-01-01T00:00:00Z", "2024-01-01T01:00:00Z"),
            ("@every 90s", "2024-01-01T00:00:00.7Z", "2024-01-01T00:01:30Z"),
        ] {
            assert_eq!(next(text, after, &TimeZone::UTC), expect, "{text} after {after}");
        }
    }

    #[test]
    fn clocks_that_are_set() {
        // From the last Sunday of March to that of October it is one hour more.
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
        for (text, after, expect) in [
            ("30 2 * * *", "2024-01-01T00:00:00Z", "2024-01-01T01:30:00Z"),
            // 02:30 is left out on the 31st of March.
            ("30 2 * * *", "2024-03-30T12:00:00Z", "2024-04-01T00:30:00Z"),
            // It comes twice on the 27th of October.
            ("30 2 * * *", "2024-10-26T12:00:00Z", "2024-10-27T00:30:00Z"),
            ("30 2 * * *", "2024-10-27T00:30:00Z", "2024-10-27T01:30:00Z"),
            ("30 2 * * *", "2024-10-27T01:30:00Z", "2024-10-28T01:30:00Z"),
        ] {
            assert_eq!(next(text, after, &zone), expect, "{text} after {after}");
        }
    }

    #[test]
    fn zones_before_schedules() {
        assert_eq!(split_zone("TZ=Asia/Tokyo 0 0 * * *"), (Some("Asia/Tokyo"), "0 0 * * *"));
        assert_eq!(split_zone("CRON_TZ=UTC @hourly"), (Some("UTC"), "@hourly"));
        assert_eq!(split_zone("@hourly"), (None, "@hourly"));
    }
}
