//! Resource quantities (`100m`, `1.5Gi`, `2e3`): exact fixed-point numbers that remember the kind of
//! suffix they came with, and print in upstream's canonical form.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;
/// Upstream caps everything at the largest 64-bit integer.
const MAX: i128 = (i64::MAX as i128) * NANO;

/// The kind of suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `m`, `k`, `M` ...: powers of 1000.
    DecimalSi,
    /// `Ki`, `Mi` ...: powers of 1024.
    BinarySi,
    /// `e3`, `e6` ...
    DecimalExponent,
}

/// An amount of a resource, in billionths. Equal and ordered by amount, whatever the format.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// A text that is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
    #[error("unable to parse numeric part of quantity")]
    Number,
}

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    pub fn from_int(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANO, format }
    }

    pub fn from_milli(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * (NANO / 1000), format }
    }

    /// In whole units, rounded away from zero.
    pub fn value(&self) -> i64 {
        clamp(div_away(self.nanos, NANO))
    }

    /// In thousandths, rounded away from zero.
    pub fn milli_value(&self) -> i64 {
        clamp(div_away(self.nanos, NANO / 1000))
    }

    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Whether there is nothing behind the point.
    pub fn is_integer(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// Rounded away from zero to thousandths, as upstream keeps all resource lists.
    #[must_use]
    pub fn rounded_to_milli(self) -> Self {
        Self { nanos: div_away(self.nanos, NANO / 1000) * (NANO / 1000), ..self }
    }

    /// The sum, in the format of `self`, or of `other` where `self` is zero.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: (self.nanos + other.nanos).clamp(-MAX, MAX), format }
    }

    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        let negated = Self { nanos: -other.nanos, ..other };
        self.plus(negated)
    }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn div_away(value: i128, by: i128) -> i128 {
    let (quotient, rest) = (value / by, value % by);
    quotient + rest.signum()
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// What a suffix multiplies by.
enum Scale {
    Ten(i32),
    Two(u32),
}

fn scale(suffix: &str) -> Option<(Scale, Format)> {
    let si = |power| Some((Scale::Ten(power), Format::DecimalSi));
    let binary = |power| Some((Scale::Two(power), Format::BinarySi));
    match suffix {
        "" => si(0),
        "n" => si(-9),
        "u" => si(-6),
        "m" => si(-3),
        "k" => si(3),
        "M" => si(6),
        "G" => si(9),
        "T" => si(12),
        "P" => si(15),
        "E" => si(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            Some((Scale::Ten(exponent.parse().ok()?), Format::DecimalExponent))
        }
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(ParseError::Format),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        let end = |text: &str, digit: fn(char) -> bool| text.find(|c| !digit(c)).unwrap_or(text.len());
        let is_digit: fn(char) -> bool = |c| c.is_ascii_digit();
        let (whole, mut suffix) = rest.split_at(end(rest, is_digit));
        let mut fraction = "";
        if let Some(tail) = suffix.strip_prefix('.') {
            (fraction, suffix) = tail.split_at(end(tail, is_digit));
        }
        let letters = end(suffix, |c| "eEinumkKMGTP".contains(c));
        let exponent = suffix[letters..].strip_prefix(['+', '-']).unwrap_or(&suffix[letters..]);
        if !exponent.chars().all(is_digit) {
            return Err(ParseError::Format);
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(ParseError::Number);
        }
        let (scale, format) = scale(suffix).ok_or(ParseError::Suffix)?;
        let magnitude = magnitude_nanos(whole.trim_start_matches('0'), fraction, &scale).min(MAX);
        Ok(Self { nanos: if negative { -magnitude } else { magnitude }, format })
    }
}

/// Digits before and behind the point, scaled; too much is `i128::MAX`, a rest below a billionth counts as one.
fn magnitude_nanos(whole: &str, fraction: &str, scale: &Scale) -> i128 {
    const WHOLE_MAX: usize = 28;
    const FRACTION_MAX: usize = 9;
    if whole.len() > WHOLE_MAX {
        return i128::MAX;
    }
    let (kept, dropped) = fraction.split_at(fraction.len().min(FRACTION_MAX));
    let digits = format!("0{whole}{kept}");
    let mantissa: i128 = digits.parse().unwrap_or(i128::MAX);
    let mantissa = mantissa + i128::from(dropped.bytes().any(|b| b != b'0'));
    if mantissa == 0 {
        return 0;
    }
    let (shift, power) = match *scale {
        Scale::Two(bits) => (bits, 0),
        Scale::Ten(power) => (0, power),
    };
    // `kept` has at most nine digits, so that this is within what i32 holds.
    let power = 9 - i32::try_from(kept.len()).unwrap_or(9) + power.clamp(-1000, 1000);
    let Some(mantissa) = mantissa.checked_mul(1_i128 << shift) else { return i128::MAX };
    let ten = |power: i32| 10_i128.checked_pow(power.unsigned_abs());
    if power >= 0 {
        ten(power).and_then(|factor| mantissa.checked_mul(factor)).unwrap_or(i128::MAX)
    } else {
        ten(power).map_or(1, |divisor| div_away(mantissa, divisor))
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, and the largest suffix that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi && self.is_integer() && self.nanos.abs() >= 1024 * NANO {
            let (mut value, mut power) = (self.nanos / NANO, 0);
            while value % 1024 == 0 && power < 6 {
                value /= 1024;
                power += 1;
            }
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power];
            return write!(f, "{value}{suffix}");
        }
        let (mut value, mut power) = (self.nanos, -9);
        while value % 1000 == 0 && power < 18 {
            value /= 1000;
            power += 3;
        }
        if self.format == Format::DecimalExponent {
            return if power == 0 { write!(f, "{value}") } else { write!(f, "{value}e{power}") };
        }
        let suffix = match power {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        };
        write!(f, "{value}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn canonical_forms() {
        for (text, canonical) in [
            ("0", "0"),
            ("-0", "0"),
            ("0Gi", "0"),
            ("1", "1"),
            ("+1", "1"),
            ("-1", "-1"),
            ("1000m", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1000Mi", "1000Mi"),
            ("0.5Ki", "512"),
            ("1Ki", "1Ki"),
            ("1.5", "1500m"),
            ("12000", "12k"),
            ("1500", "1500"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("1500e0", "1500"),
            ("1E", "1E"),
            ("1Ei", "1Ei"),
            ("100u", "100u"),
            ("0.1n", "1n"),
            ("-0.1n", "-1n"),
            ("0.0001m", "100n"),
            ("9999999999999999999999", "9223372036854775807"),
            ("1.1Ki", "1126400m"),
            ("00100m", "100m"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("129M", "129M"),
            ("123Mi", "123Mi"),
        ] {
            assert_eq!(quantity(text).to_string(), canonical, "{text}");
            assert_eq!(quantity(canonical).to_string(), canonical, "{canonical}");
        }
    }

    #[test]
    fn bad_quantities() {
        for (text, error) in [
            ("", ParseError::Format),
            ("a", ParseError::Format),
            ("1a", ParseError::Format),
            ("1 ", ParseError::Format),
            ("1.2.3", ParseError::Format),
            ("Ki", ParseError::Number),
            ("1ki", ParseError::Suffix),
            ("1K", ParseError::Suffix),
            ("1e", ParseError::Suffix),
            ("1mm", ParseError::Suffix),
            ("1m3", ParseError::Suffix),
        ] {
            assert_eq!(text.parse::<Quantity>().map(|q| q.to_string()), Err(error), "{text:?}");
        }
    }

    #[test]
    fn arithmetic() {
        assert_eq!(quantity("1").plus(quantity("500m")).to_string(), "1500m");
        assert_eq!(quantity("0").plus(quantity("1Gi")).to_string(), "1Gi");
        assert_eq!(quantity("1Gi").minus(quantity("512Mi")).to_string(), "512Mi");
        assert_eq!(quantity("100m").value(), 1);
        assert_eq!(quantity("1.0001").milli_value(), 1001);
        assert_eq!(quantity("-1.5").value(), -2);
        assert_eq!(quantity("1u").rounded_to_milli().to_string(), "1m");
        assert!(quantity("1Gi") > quantity("1G"));
        assert_eq!(quantity("1000m"), quantity("1"));
    }

    proptest! {
        #[test]
        fn canonical_form_keeps_the_amount(whole in 0..1_000_000_i64, milli in 0..1000_i64, suffix in "(|m|k|M|G|Ki|Mi|Gi|e3|e6)") {
            let text = format!("{whole}.{milli:03}{suffix}");
            let parsed = quantity(&text);
            let canonical = parsed.to_string();
            prop_assert_eq!(quantity(&canonical), parsed);
            prop_assert_eq!(quantity(&canonical).to_string(), canonical);
        }
    }
}
