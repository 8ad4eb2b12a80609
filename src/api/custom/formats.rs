//! `format` of strings and numbers. An unknown one limits nothing.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;

use super::schema::Kind;
use crate::names;

/// Those of strings, without their dashes.
const OF_STRINGS: [&str; 26] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

fn normalized(format: &str) -> String {
    format.replace('-', "")
}

/// Whether upstream knows the format for the type.
pub fn is_known(kind: Option<Kind>, format: &str) -> bool {
    match kind {
        None | Some(Kind::String) => OF_STRINGS.contains(&normalized(format).as_str()),
        Some(Kind::Integer) => matches!(format, "int32" | "int64"),
        Some(Kind::Number) => matches!(format, "float" | "double"),
        _ => false,
    }
}

/// The format where it is known for the type, else nothing.
pub fn known(kind: Option<Kind>, format: &str) -> &str {
    if is_known(kind, format) { format } else { "" }
}

/// Whether the text is of the format; an unknown format holds for all.
pub fn holds(format: &str, text: &str) -> bool {
    match normalized(format).as_str() {
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|c| c.is_ascii_hexdigit()),
        "uri" => is_uri(text),
        "email" => is_email(text),
        "hostname" => is_hostname(text),
        "ipv4" => ipv4(text).is_some(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some('3')),
        "uuid4" => is_uuid(text, Some('4')),
        "uuid5" => is_uuid(text, Some('5')),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "ssn" => is_ssn(text),
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && digits.bytes().all(|c| c.is_ascii_hexdigit())
        }
        "rgbcolor" => is_rgb(text),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "date" => is_date(text),
        "duration" => is_duration(text),
        "datetime" => is_date_time(text),
        "k8sshortname" => names::dns_label(text).is_empty(),
        "k8slongname" => names::dns_subdomain(text).is_empty(),
        _ => true,
    }
}

/// Leading zeros are borne, as upstream's sloppy parser does.
fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = text.split('.').collect();
    let octet = |part: &&str| -> Option<u8> {
        let digits = !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
        part.parse::<u32>().ok().filter(|_| digits).and_then(|n| u8::try_from(n).ok())
    };
    let octets: Vec<u8> = parts.iter().map(octet).collect::<Option<_>>()?;
    <[u8; 4]>::try_from(octets).ok().map(Ipv4Addr::from)
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let limit = match (ipv4(address), address.parse::<Ipv6Addr>()) {
        (Some(_), _) => 32,
        (None, Ok(_)) => 128,
        _ => return false,
    };
    !bits.is_empty() && bits.bytes().all(|c| c.is_ascii_digit()) && bits.parse::<u8>().is_ok_and(|bits| bits <= limit)
}

fn is_uri(text: &str) -> bool {
    if text.starts_with('/') {
        return text.parse::<path::Path>().is_ok();
    }
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let mut letters = scheme.bytes();
    letters.next().is_some_and(|c| c.is_ascii_alphabetic())
        && letters.all(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.'))
        && rest.parse::<path::Path>().is_ok()
}

/// What a request's URI may hold: no control letters, no spaces, whole percent codes.
mod path {
    pub struct Path;

    impl std::str::FromStr for Path {
        type Err = ();

        fn from_str(text: &str) -> Result<Self, ()> {
            let bytes = text.as_bytes();
            let whole =
                |at: usize| bytes.get(at + 1..at + 3).is_some_and(|code| code.iter().all(u8::is_ascii_hexdigit));
            let host = text.strip_prefix("//").map(|rest| rest.split(['/', '?', '#']).next().unwrap_or(""));
            let fine = bytes.iter().enumerate().all(|(at, c)| match c {
                0..=0x20 | 0x7f => false,
                b'%' => whole(at),
                _ => true,
            });
            let host_fine = host.is_none_or(|host| !host.contains(['<', '>', '"', '^', '`', '{', '}', '|', '\\']));
            if fine && host_fine { Ok(Self) } else { Err(()) }
        }
    }
}

fn is_email(text: &str) -> bool {
    // `Name <address>` is an address, too.
    let address = match text.trim_end().strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
        Some((_, address)) => address,
        None => text,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let atom = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+/=?^_`{|}~-".contains(c) || !c.is_ascii();
    let dotted = |text: &str| text.split('.').all(|part| !part.is_empty() && part.chars().all(atom));
    let quoted = local.len() > 1 && local.starts_with('"') && local.ends_with('"');
    (quoted || dotted(local)) && (dotted(domain) || domain.starts_with('[') && domain.ends_with(']'))
}

fn is_hostname(text: &str) -> bool {
    let labels: Vec<&str> = text.split('.').collect();
    let letter = |c: char| c.is_alphanumeric() || (!c.is_ascii() && !c.is_whitespace());
    let label = |label: &&str| {
        let ends = |c: Option<char>| c.is_some_and(letter);
        label.len() <= 63
            && ends(label.chars().next())
            && ends(label.chars().next_back())
            && label.chars().all(|c| letter(c) || c == '-')
    };
    let top = labels.last().copied().unwrap_or_default();
    let top_fine = labels.len() == 1 || top.chars().count() >= 2 && top.chars().all(char::is_alphabetic);
    text.len() <= 255 && labels.iter().all(label) && top_fine
}

fn is_mac(text: &str) -> bool {
    let groups = |separator: char, width: usize, counts: &[usize]| {
        let parts: Vec<&str> = text.split(separator).collect();
        counts.contains(&parts.len())
            && parts.iter().all(|part| part.len() == width && part.bytes().all(|c| c.is_ascii_hexdigit()))
    };
    groups(':', 2, &[6, 8, 20]) || groups('-', 2, &[6, 8, 20]) || groups('.', 4, &[3, 4, 10])
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    let mut rest = text;
    let mut groups = Vec::new();
    for width in [8, 4, 4, 4, 12] {
        let Some((group, behind)) = rest.split_at_checked(width) else { return false };
        groups.push(group);
        rest = behind.strip_prefix('-').unwrap_or(behind);
    }
    let variant = |group: &str| group.starts_with(['8', '9', 'a', 'b', 'A', 'B']);
    rest.is_empty()
        && !text.ends_with('-')
        && groups.iter().all(|group| group.bytes().all(|c| c.is_ascii_hexdigit()))
        && version.is_none_or(|version| groups[2].starts_with(version) && (version == '3' || variant(groups[3])))
}

fn digits_of(text: &str) -> Vec<u32> {
    text.chars().filter(|c| !matches!(c, '-' | ' ')).map(|c| c.to_digit(10).unwrap_or(99)).collect()
}

fn is_isbn10(text: &str) -> bool {
    let plain: Vec<char> = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    if plain.len() != 10 {
        return false;
    }
    let value = |(at, c): (usize, &char)| match c {
        'X' | 'x' if at == 9 => Some(10),
        c => c.to_digit(10),
    };
    let digits: Option<Vec<u32>> = plain.iter().enumerate().map(value).collect();
    digits.is_some_and(|digits| digits.iter().zip(1..).map(|(digit, weight)| digit * weight).sum::<u32>() % 11 == 0)
}

fn is_isbn13(text: &str) -> bool {
    let digits = digits_of(text);
    digits.len() == 13
        && digits.iter().all(|digit| *digit < 10)
        && digits.iter().zip([1, 3].iter().cycle()).map(|(digit, weight)| digit * weight).sum::<u32>() % 10 == 0
}

fn is_credit_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let doubled = |digit: u32| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let sum: u32 =
        digits.iter().rev().enumerate().map(|(at, digit)| if at % 2 == 1 { doubled(*digit) } else { *digit }).sum();
    (13..=16).contains(&digits.len()) && matches!(digits[0], 1..=6) && sum.is_multiple_of(10)
}

fn is_ssn(text: &str) -> bool {
    let digits: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    text.len() >= 9 && digits.len() == 9 && digits.bytes().all(|c| c.is_ascii_digit())
}

fn is_rgb(text: &str) -> bool {
    let inner = text.strip_prefix("rgb(").and_then(|rest| rest.strip_suffix(')'));
    inner.is_some_and(|inner| {
        let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
        parts.len() == 3 && parts.iter().all(|part| part.parse::<u8>().is_ok())
    })
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

fn is_date_time(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let Some((date, time)) = lower.split_once('t') else { return false };
    let Some((clock, zone)) = time.split_at_checked(8) else { return false };
    let two = |part: Option<&str>, limit: u8| {
        part.is_some_and(|part| part.len() == 2 && part.parse::<u8>().is_ok_and(|n| n <= limit))
    };
    let mut parts = clock.split(':');
    let clock_fine = two(parts.next(), 23) && two(parts.next(), 59) && two(parts.next(), 59) && parts.next().is_none();
    let zone = match zone.strip_prefix('.') {
        Some(fraction) if fraction.starts_with(|c: char| c.is_ascii_digit()) => {
            fraction.trim_start_matches(|c: char| c.is_ascii_digit())
        }
        Some(_) => return false,
        None => zone,
    };
    let offset = zone.strip_prefix(['+', '-']).and_then(|rest| rest.split_once(':'));
    let two_digits = |text: &str| text.len() == 2 && text.bytes().all(|c| c.is_ascii_digit());
    let zone_fine = zone == "z" || offset.is_some_and(|(hours, minutes)| two_digits(hours) && two_digits(minutes));
    is_date(date) && clock_fine && zone_fine
}

/// Go's durations, and those of Scala: `3 days`, `22 ns`.
fn is_duration(text: &str) -> bool {
    if crate::duration::parse_ns(text).is_ok() {
        return true;
    }
    const EXACT: [&str; 9] = ["ns", "us", "µs", "ms", "wk", "hr", "d", "w", "h"];
    const BEGINNINGS: [&str; 8] = ["nano", "micro", "milli", "sec", "min", "hour", "day", "week"];
    let digits = text.find(|c: char| c.is_ascii_digit());
    let Some(rest) = digits.map(|at| text[at..].trim_start_matches(|c: char| c.is_ascii_digit()).trim_start()) else {
        return false;
    };
    let unit: String = rest.chars().take_while(|c| c.is_alphabetic()).collect::<String>().to_lowercase();
    EXACT.contains(&unit.as_str())
        || matches!(unit.as_str(), "s" | "m")
        || BEGINNINGS.iter().any(|begin| unit.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_formats() {
        for (format, good, bad) in [
            ("uri", &["http://a.b/c?d=e", "/path", "urn:x"][..], &["a b", "nothing", ""][..]),
            ("email", &["a@b.c", "Name <a@b.c>"], &["a", "@b", "a@"]),
            ("hostname", &["a", "a.example.com", "1.example.org"], &["-a", "a..b", "a.b1", ""]),
            ("ipv4", &["1.2.3.4", "01.2.3.4"], &["1.2.3", "256.1.1.1", "::1"]),
            ("ipv6", &["::1", "fe80::1"], &["1.2.3.4", "g::"]),
            ("cidr", &["10.0.0.0/8", "::/0"], &["10.0.0.0", "10.0.0.0/33"]),
            ("mac", &["01:02:03:04:05:06", "0102.0304.0506"], &["01:02", "zz:02:03:04:05:06"]),
            ("uuid", &["123e4567-e89b-12d3-a456-426614174000"], &["123e4567", "123e4567-e89b-12d3-a456-42661417400z"]),
            ("uuid4", &["123e4567-e89b-42d3-a456-426614174000"], &["123e4567-e89b-12d3-a456-426614174000"]),
            ("isbn", &["0321751043", "978-0321751041"], &["0321751044", "1"]),
            ("byte", &["YWJj", ""], &["a", "***"]),
            ("date", &["2024-02-29"], &["2023-02-29", "2024-1-1"]),
            (
                "date-time",
                &["2024-01-01T00:00:00Z", "2024-01-01t00:00:00.5+01:00"],
                &["2024-01-01", "2024-01-01T24:00:00Z"],
            ),
            ("duration", &["1h30m", "22 ns", "3 days"], &["x", "5 parsecs"]),
            ("hexcolor", &["#fff", "ffffff"], &["#ffff", "#ggg"]),
            ("rgbcolor", &["rgb(1,2,3)"], &["rgb(1,2)", "rgb(1,2,300)"]),
            ("k8s-short-name", &["a-b"], &["A", "a.b"]),
            ("password", &["anything"], &[]),
            ("int32", &["whatever"], &[]),
        ] {
            for text in good {
                assert!(holds(format, text), "{format}: {text}");
            }
            for text in bad {
                assert!(!holds(format, text), "{format}: {text}");
            }
        }
        assert!(is_known(Some(Kind::Integer), "int32") && !is_known(Some(Kind::String), "int32"));
    }
}
