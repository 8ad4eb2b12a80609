//! As much of DER (X.690) as a certificate takes to write.

pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const UTC_TIME: u8 = 0x17;

/// One value: tag, length, and the parts of its content.
pub(crate) fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let digits: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|digit| *digit == 0).collect();
            out.push(0x80 | u8::try_from(digits.len()).expect("a length has few digits"));
            out.extend(digits);
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// An object identifier, by its encoded content.
pub(crate) fn oid(content: &[u8]) -> Vec<u8> {
    value(OID, &[content])
}

/// The bits that are set, counted from the first; without zeros at the end.
pub(crate) fn named_bits(bits: &[u8]) -> Vec<u8> {
    let Some(last) = bits.iter().max() else { return value(BIT_STRING, &[&[0]]) };
    let mut octets = vec![0_u8; usize::from(last / 8) + 1];
    for bit in bits {
        octets[usize::from(bit / 8)] |= 0x80 >> (bit % 8);
    }
    value(BIT_STRING, &[&[7 - last % 8], &octets])
}

/// Before 2050 the short form, as RFC 5280 wants it.
pub(crate) fn time(at: jiff::Timestamp) -> Vec<u8> {
    let date = at.to_zoned(jiff::tz::TimeZone::UTC);
    let (tag, form) = match date.year() < 2050 {
        true => (UTC_TIME, "%y%m%d%H%M%SZ"),
        false => (GENERALIZED_TIME, "%Y%m%d%H%M%SZ"),
    };
    value(tag, &[date.strftime(form).to_string().as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written() {
        assert_eq!(value(SEQUENCE, &[]), [0x30, 0]);
        assert_eq!(value(OCTET_STRING, &[b"ab", b"c"]), *b"\x04\x03abc");
        assert_eq!(value(OCTET_STRING, &[&[7; 200]])[..4], [4, 0x81, 200, 7]);
        assert_eq!(value(OCTET_STRING, &[&[7; 300]])[..5], [4, 0x82, 1, 44, 7]);
        assert_eq!(named_bits(&[0, 2]), [3, 2, 5, 0b1010_0000]);
        assert_eq!(named_bits(&[8]), [3, 3, 7, 0, 0x80]);
        assert_eq!(named_bits(&[]), [3, 1, 0]);
        let at = |text: &str| time(text.parse().expect("a time"));
        assert_eq!(at("2026-01-02T03:04:05Z")[2..], *b"260102030405Z");
        assert_eq!(at("2050-01-02T03:04:05Z")[2..], *b"20500102030405Z");
    }
}
