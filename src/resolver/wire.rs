//! As much of RFC 1035 as asking for addresses needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::message::{
    AUTHORITATIVE, CNAME, CODE, HEADER_LEN, IN, LABEL_LIMIT, NAME_LIMIT, OPCODE, RECURSION_AVAILABLE, RESPONSE,
    Records, TRUNCATED, be16, question, read_name,
};

const NAME_ERROR: u16 = 3;
/// No honest answer is longer.
const ALIASES: usize = 16;

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
        if name.len() > NAME_LIMIT - 2 || !name.split('.').all(valid) {
            return None;
        }
        let packet = question(id, name, family as u16)?;
        Some(Self { name: name.to_ascii_lowercase(), family, packet })
    }

    pub(crate) fn packet(&self) -> &[u8] {
        &self.packet
    }

    /// `None`: this is no answer to this question.
    pub(crate) fn read(&self, packet: &[u8]) -> Option<Answer> {
        let (flags, questions, answers) = (be16(packet, 2)?, be16(packet, 4)?, be16(packet, 6)?);
        if packet[..2] != self.packet[..2] || flags & RESPONSE == 0 || flags & OPCODE != 0 {
            return None;
        }
        // A server that understood nothing may give no question back.
        if questions == 0 && packet.len() >= HEADER_LEN && flags & CODE != 0 {
            return Some(Answer::Failure);
        }
        let (labels, end) = read_name(packet, HEADER_LEN)?;
        let asked = (text(&labels)?, be16(packet, end)?, be16(packet, end + 2)?);
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
        let Some(addresses) = self.read_records(packet, end + 4, answers.into()) else { return Some(Answer::Failure) };
        Some(Answer::Addresses(addresses))
    }

    fn read_records(&self, packet: &[u8], at: usize, count: usize) -> Option<Vec<IpAddr>> {
        let (mut aliases, mut addresses) = (Vec::new(), Vec::new());
        let records: Vec<_> = Records::new(packet, at, count).collect();
        if records.len() != count {
            return None;
        }
        for record in records.into_iter().filter(|record| record.class == IN) {
            let (owner, data) = (text(&record.name)?, packet.get(record.data_at..record.data_at + record.data_len)?);
            if record.kind == CNAME {
                aliases.push((owner, text(&read_name(packet, record.data_at)?.0)?));
            } else if record.kind == self.family as u16 {
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

/// A dot within a label makes it no name that anyone here asks for.
fn text(labels: &[String]) -> Option<String> {
    (!labels.iter().any(|label| label.contains('.'))).then(|| labels.join("."))
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
