//! The parts of a DNS message (RFC 1035) that asking and answering share: header, names, records.
//!
//! Names are labels, or text in lower case without the last dot. Labels are bytes; those above 127 become the
//! characters of the same number, so that nothing is lost. What comes in is a stranger's: every read is checked.

use std::collections::HashMap;

pub const A: u16 = 1;
pub const NS: u16 = 2;
pub const CNAME: u16 = 5;
pub const SOA: u16 = 6;
pub const PTR: u16 = 12;
pub const TXT: u16 = 16;
pub const AAAA: u16 = 28;
pub const SRV: u16 = 33;
pub const OPT: u16 = 41;
pub const ANY: u16 = 255;
pub const IN: u16 = 1;

pub const HEADER_LEN: usize = 12;
pub const RESPONSE: u16 = 1 << 15;
pub const OPCODE: u16 = 0xf << 11;
pub const AUTHORITATIVE: u16 = 1 << 10;
pub const TRUNCATED: u16 = 1 << 9;
pub const RECURSION_DESIRED: u16 = 1 << 8;
pub const RECURSION_AVAILABLE: u16 = 1 << 7;
pub const CODE: u16 = 0xf;
const POINTER: u8 = 0xc0;
pub const LABEL_LIMIT: usize = 63;
pub const NAME_LIMIT: usize = 255;

/// A new question of our own.
pub fn question(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut packet = Vec::with_capacity(64);
    put_header(&mut packet, id, RECURSION_DESIRED, [1, 0, 0, 0]);
    let mut names = HashMap::new();
    put_name(&mut packet, name, &mut names)?;
    packet.extend(kind.to_be_bytes());
    packet.extend(IN.to_be_bytes());
    Some(packet)
}

pub fn put_header(packet: &mut Vec<u8>, id: u16, flags: u16, counts: [u16; 4]) {
    packet.extend(id.to_be_bytes());
    packet.extend(flags.to_be_bytes());
    packet.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
}

/// Writes a name, with a pointer to an ending that is in the packet already. `None`: it is no name.
pub fn put_name(packet: &mut Vec<u8>, name: &str, names: &mut HashMap<String, usize>) -> Option<()> {
    let mut rest = name.strip_suffix('.').unwrap_or(name);
    if rest.len() > NAME_LIMIT - 2 {
        return None;
    }
    while !rest.is_empty() {
        if let Some(at) = names.get(rest) {
            packet.extend((u16::from(POINTER) << 8 | u16::try_from(*at).ok()?).to_be_bytes());
            return Some(());
        }
        if packet.len() < 0x3fff {
            names.insert(rest.to_owned(), packet.len());
        }
        let (label, after) = rest.split_once('.').unwrap_or((rest, ""));
        let bytes: Vec<u8> = label.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<_>>()?;
        if bytes.is_empty() || bytes.len() > LABEL_LIMIT {
            return None;
        }
        packet.push(u8::try_from(bytes.len()).ok()?);
        packet.extend(bytes);
        rest = after;
    }
    packet.push(0);
    Some(())
}

/// The labels of the name at `at`, and where what follows it begins.
pub fn read_name(packet: &[u8], at: usize) -> Option<(Vec<String>, usize)> {
    let (mut labels, mut len) = (Vec::new(), 1);
    let (mut position, mut end) = (at, None);
    // What a pointer leads to was all told before it.
    let mut told = packet;
    loop {
        let head = *told.get(position)?;
        if head & POINTER == POINTER {
            let to = usize::from(be16(told, position)? & 0x3fff);
            end = end.or(Some(position + 2));
            // Pointers lead back, so there is an end to them; and to names, not into the header.
            if !(HEADER_LEN..position).contains(&to) {
                return None;
            }
            (told, position) = (&told[..position], to);
            continue;
        }
        if head & POINTER != 0 {
            return None;
        }
        if head == 0 {
            return Some((labels, end.unwrap_or(position + 1)));
        }
        let label = told.get(position + 1..position + 1 + usize::from(head))?;
        len += 1 + label.len();
        if len > NAME_LIMIT {
            return None;
        }
        labels.push(label.iter().map(|b| char::from(b.to_ascii_lowercase())).collect());
        position += 1 + label.len();
    }
}

/// A record of a packet, not yet understood.
#[derive(Debug)]
pub struct RawRecord {
    pub name: Vec<String>,
    pub kind: u16,
    pub class: u16,
    pub ttl: u32,
    pub ttl_at: usize,
    pub data_at: usize,
    pub data_len: usize,
}

/// The records of a packet from a place on; ends at the first one that is malformed.
pub struct Records<'a> {
    packet: &'a [u8],
    at: usize,
    left: usize,
}

impl<'a> Records<'a> {
    pub fn new(packet: &'a [u8], at: usize, count: usize) -> Self {
        Self { packet, at, left: count }
    }
}

impl Iterator for Records<'_> {
    type Item = RawRecord;

    fn next(&mut self) -> Option<RawRecord> {
        self.left = self.left.checked_sub(1)?;
        let (name, at) = read_name(self.packet, self.at)?;
        let (kind, class) = (be16(self.packet, at)?, be16(self.packet, at + 2)?);
        let (ttl, data_len) = (be32(self.packet, at + 4)?, usize::from(be16(self.packet, at + 8)?));
        self.packet.get(at + 10..at + 10 + data_len)?;
        self.at = at + 10 + data_len;
        Some(RawRecord { name, kind, class, ttl, ttl_at: at + 4, data_at: at + 10, data_len })
    }
}

pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_lead_back_to_names() {
        let read = |tail: &[u8]| {
            let mut packet = vec![1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0];
            packet.extend(tail);
            read_name(&packet, HEADER_LEN + 3).map(|(labels, end)| (labels.join("."), end))
        };
        assert_eq!(read(b"\x01b\xc0\x0c"), Some(("b.a".to_owned(), 19)));
        // To what runs on past the pointer.
        assert_eq!(read(b"\x03\x05bb\xc0\x10"), None);
        // Forward, to itself, and into the header, which another message has otherwise.
        for wrong in [b"\x01b\xc0\x20", b"\x01b\xc0\x11", b"\x01b\xc0\x00", b"\x01b\xc0\x0b"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }
}
