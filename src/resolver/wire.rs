//! As much of RFC 1035 as asking for addresses needs. What comes back is a stranger's: every read is checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const HEADER_LEN: usize = 12;
const RESPONSE: u16 = 1 << 15;
const OPCODE: u16 = 0xf << 11;
const AUTHORITATIVE: u16 = 1 << 10;
const TRUNCATED: u16 = 1 << 9;
const RECURSION_DESIRED: u16 = 1 << 8;
const RECURSION_AVAILABLE: u16 = 1 << 7;
const CODE: u16 = 0xf;
const NAME_ERROR: u16 = 3;
const IN: u16 = 1;
const CNAME: u16 = 5;
const LABEL_LIMIT: usize = 63;
const NAME_LIMIT: usize = 253;
/// No honest answer is longer.
const ALIASES: usize = 16;
const POINTERS: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    A = 1,
    Aaaa = 28,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// None: the name has no address of the family.
    Addresses(Vec<IpAddr>),
    NoSuchName,
    /// There is more than fits into a datagram.
    Truncated,
    /// The server can't or will not say.
    Failure,
}

pub(crate) struct Question {
    name: String,
    family: Family,
    packet: Vec<u8>,
}

impl Question {
    /// `None`: no name that could be asked for. `name` has no dot at its end.
    pub(crate) fn new(id: u16, name: &str, family: Family) -> Option<Self> {
        let valid =
            |label: &str| (1..=LABEL_LIMIT).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_graphic());
        if name.len() > NAME_LIMIT || !name.split('.').all(valid) {
            return None;
        }
        let mut packet = Vec::with_capacity(HEADER_LEN + name.len() + 6);
        for word in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
            packet.extend(word.to_be_bytes());
        }
        for label in name.split('.') {
            packet.push(label.len() as u8);
            packet.extend(label.bytes());
        }
        packet.push(0);
        packet.extend((family as u16).to_be_bytes());
        packet.extend(IN.to_be_bytes());
        Some(Self { name: name.to_ascii_lowercase(), family, packet })
    }

    pub(crate) fn packet(&self) -> &[u8] {
        &self.packet
    }

    /// `None`: this is no answer to this question.
    pub(crate) fn read(&self, packet: &[u8]) -> Option<Answer> {
        let mut reader = Reader { packet, at: 0 };
        let (id, flags) = (reader.u16()?, reader.u16()?);
        let (questions, answers) = (reader.u16()?, reader.u16()?);
        reader.at = HEADER_LEN;
        if id.to_be_bytes() != self.packet[..2] || flags & RESPONSE == 0 || flags & OPCODE != 0 {
            return None;
        }
        // A server that understood nothing may give no question back.
        if questions == 0 && flags & CODE != 0 {
            return Some(Answer::Failure);
        }
        let asked = (reader.name()?, reader.u16()?, reader.u16()?);
        if questions != 1 || asked != (self.name.clone(), self.family as u16, IN) {
            return None;
        }
        if flags & TRUNCATED != 0 {
            return Some(Answer::Truncated);
        }
        match flags & CODE {
            0 => {}
            NAME_ERROR => return Some(Answer::NoSuchName),
            _ => return Some(Answer::Failure),
        }
        // Neither the owner of the name nor one who asks it: a referral.
        if answers == 0 && flags & (AUTHORITATIVE | RECURSION_AVAILABLE) == 0 {
            return Some(Answer::Failure);
        }
        let Some(addresses) = self.read_records(reader, answers) else { return Some(Answer::Failure) };
        Some(Answer::Addresses(addresses))
    }

    fn read_records(&self, mut reader: Reader<'_>, count: u16) -> Option<Vec<IpAddr>> {
        let (mut aliases, mut addresses) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (owner, kind, class) = (reader.name()?, reader.u16()?, reader.u16()?);
            reader.bytes(4)?;
            let len = usize::from(reader.u16()?);
            let start = reader.at;
            let data = reader.bytes(len)?;
            if class != IN {
                continue;
            }
            if kind == CNAME {
                aliases.push((owner, Reader { packet: reader.packet, at: start }.name()?));
            } else if kind == self.family as u16 {
                let ip = match self.family {
                    Family::A => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?)),
                    Family::Aaaa => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?)),
                };
                addresses.push((owner, ip));
            }
        }
        // Only what belongs to the name counts, whatever else the server says.
        let mut name = self.name.as_str();
        for _ in 0..ALIASES {
            let Some((_, target)) = aliases.iter().find(|(owner, _)| owner == name) else { break };
            name = target;
        }
        Some(addresses.into_iter().filter(|(owner, _)| owner == name).map(|(_, ip)| ip).collect())
    }
}

struct Reader<'a> {
    packet: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let bytes = self.packet.get(self.at..self.at + len)?;
        self.at += len;
        Some(bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.bytes(2)?.try_into().ok()?))
    }

    /// In lower case, without the last dot. A dot within a label makes it no name that anyone here asks for.
    fn name(&mut self) -> Option<String> {
        let mut name = Vec::new();
        let (mut at, mut end) = (self.at, None);
        let mut pointers = 0;
        loop {
            let len = *self.packet.get(at)?;
            match len {
                0 => break,
                1..=63 => {
                    let label = self.packet.get(at + 1..at + 1 + usize::from(len))?;
                    if label.contains(&b'.') {
                        return None;
                    }
                    if !name.is_empty() {
                        name.push(b'.');
                    }
                    name.extend(label.to_ascii_lowercase());
                    at += 1 + usize::from(len);
                }
                0xc0.. => {
                    end = end.or(Some(at + 2));
                    at = usize::from(u16::from_be_bytes([len & 0x3f, *self.packet.get(at + 1)?]));
                    pointers += 1;
                }
                _ => return None,
            }
            if name.len() > NAME_LIMIT || pointers > POINTERS {
                return None;
            }
        }
        self.at = end.unwrap_or(at + 1);
        String::from_utf8(name).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINTER_TO_QUESTION: [u8; 2] = [0xc0, 12];

    fn question() -> Question {
        Question::new(7, "Www.Example.com", Family::A).expect("a name")
    }

    /// An answer with these records: owner, kind, data.
    fn answer(flags: u16, records: &[(&[u8], u16, &[u8])]) -> Vec<u8> {
        let mut packet = question().packet().to_vec();
        packet[2..4].copy_from_slice(&(RESPONSE | RECURSION_AVAILABLE | flags).to_be_bytes());
        packet[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
        for (owner, kind, data) in records {
            packet.extend(*owner);
            packet.extend(kind.to_be_bytes());
            packet.extend([0, 1, 0, 0, 0, 60]);
            packet.extend((data.len() as u16).to_be_bytes());
            packet.extend(*data);
        }
        packet
    }

    #[test]
    fn only_addresses_of_the_name_and_its_aliases_count() {
        let own: &[u8] = &POINTER_TO_QUESTION;
        let alias: &[u8] = b"\x03cdn\x00";
        let check = |records: &[(&[u8], u16, &[u8])], expect: &[&str]| {
            let expect = expect.iter().map(|ip| ip.parse().expect("an address")).collect();
            assert_eq!(question().read(&answer(0, records)), Some(Answer::Addresses(expect)), "{records:?}");
        };
        check(&[], &[]);
        check(&[(own, 1, &[192, 0, 2, 1]), (own, 1, &[192, 0, 2, 2])], &["192.0.2.1", "192.0.2.2"]);
        check(&[(b"\x03cdn\x00", 1, &[192, 0, 2, 1])], &[]);
        check(&[(alias, 1, &[192, 0, 2, 3]), (own, CNAME, alias)], &["192.0.2.3"]);
        check(&[(own, CNAME, own), (own, 1, &[192, 0, 2, 4])], &["192.0.2.4"]);
        check(&[(own, 28, &[0; 16]), (own, 46, &[1])], &[]);
    }

    #[test]
    fn what_is_no_answer_to_the_question_is_told_apart_from_a_bad_one() {
        let check = |change: &dyn Fn(&mut Vec<u8>), expect: Option<Answer>| {
            let mut packet = answer(0, &[(&POINTER_TO_QUESTION, 1, &[192, 0, 2, 1])]);
            change(&mut packet);
            assert_eq!(question().read(&packet), expect, "{packet:?}");
        };
        check(&|p| p[1] = 8, None);
        check(&|p| p[2] = 0, None);
        check(&|p| p[13] = b'x', None);
        check(&|p| p[5] = 0, None);
        check(&|p| p.truncate(20), None);
        check(&|p| p[2] |= 2, Some(Answer::Truncated));
        check(&|p| p[3] |= 3, Some(Answer::NoSuchName));
        check(&|p| p[3] |= 2, Some(Answer::Failure));
        check(&|p| p.truncate(p.len() - 1), Some(Answer::Failure));
        check(&|p| (p[3], p[7]) = (0, 0), Some(Answer::Failure));
    }

    #[test]
    fn garbage_is_survived() {
        let whole = answer(0, &[(&POINTER_TO_QUESTION, CNAME, &POINTER_TO_QUESTION), (b"\xc0\x2f", 1, &[1, 2, 3, 4])]);
        for at in 2..whole.len() {
            for byte in 0..=255 {
                let mut packet = whole.clone();
                packet[at] = byte;
                let _ = question().read(&packet);
                let _ = question().read(&packet[..at]);
            }
        }
    }

    #[test]
    fn names_that_nobody_can_have_are_not_asked_for() {
        let check =
            |name: &str, expect: bool| assert_eq!(Question::new(1, name, Family::A).is_some(), expect, "{name}");
        check("a", true);
        check("_a-b.c", true);
        check("", false);
        check("a..b", false);
        check(".a", false);
        check("a b", false);
        check("ä", false);
        check(&"a".repeat(64), false);
        check(&"a.".repeat(127), false);
        check(&format!("{}a", "a.".repeat(126)), true);
    }
}
