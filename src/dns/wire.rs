//! DNS messages (RFC 1035, EDNS0 of RFC 6891): reading questions, writing answers, and as much reading of other
//! servers' answers as forwarding needs. What both sides share is `skiff_resolver::message`.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

pub(crate) use skiff_resolver::message::{A, AAAA, ANY, CNAME, NS, PTR, SOA, SRV, TXT, question};
use skiff_resolver::message::{
    AUTHORITATIVE, CODE, HEADER_LEN, IN, OPCODE, OPT, RECURSION_AVAILABLE, RECURSION_DESIRED, RESPONSE, RawRecord,
    Records, TRUNCATED, be16, be32, put_header, put_name, read_name,
};

/// Without EDNS, an answer by UDP is no longer.
const PLAIN_UDP_LEN: usize = 512;
/// An answer by UDP that stays in one packet on every link of ours.
const LARGEST_UDP_LEN: usize = 1232;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    NoError = 0,
    FormatError = 1,
    ServerFailure = 2,
    NameError = 3,
    NotImplemented = 4,
    Refused = 5,
    BadVersion = 16,
}

/// A question, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    pub id: u16,
    flags: u16,
    pub labels: Vec<String>,
    pub kind: u16,
    class: u16,
    /// The question's bytes, to be given back with the client's letter case.
    question: Vec<u8>,
    pub edns: Option<Edns>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edns {
    udp_len: u16,
    version: u8,
    pub dnssec_ok: bool,
}

/// A packet that is not a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// To be left without an answer.
    Ignore,
    /// To be answered with a code.
    Answer(Vec<u8>),
}

impl Query {
    pub(crate) fn parse(packet: &[u8]) -> Result<Self, Bad> {
        let (id, flags) = (be16(packet, 0).ok_or(Bad::Ignore)?, be16(packet, 2).ok_or(Bad::Ignore)?);
        // Answering answers would let two servers talk for ever.
        if packet.len() < HEADER_LEN || flags & RESPONSE != 0 {
            return Err(Bad::Ignore);
        }
        if flags & OPCODE != 0 {
            return Err(Bad::Answer(bare(id, flags, Code::NotImplemented)));
        }
        Self::parse_question(packet, id, flags).ok_or_else(|| Bad::Answer(bare(id, flags, Code::FormatError)))
    }

    fn parse_question(packet: &[u8], id: u16, flags: u16) -> Option<Self> {
        if be16(packet, 4)? != 1 {
            return None;
        }
        let (labels, end) = read_name(packet, HEADER_LEN)?;
        let (kind, class) = (be16(packet, end)?, be16(packet, end + 2)?);
        let records = usize::from(be16(packet, 6)?) + usize::from(be16(packet, 8)?) + usize::from(be16(packet, 10)?);
        let edns = Records::new(packet, end + 4, records).find(|r| r.kind == OPT).map(|opt| Edns {
            udp_len: opt.class,
            version: opt.ttl.to_be_bytes()[1],
            dnssec_ok: opt.ttl & 0x8000 != 0,
        });
        let question = packet.get(HEADER_LEN..end + 4)?.to_vec();
        Some(Self { id, flags, labels, kind, class, question, edns })
    }

    pub(crate) fn name(&self) -> String {
        self.labels.join(".")
    }

    /// The name and its endings, with their places in every answer.
    fn endings(&self) -> HashMap<String, usize> {
        let mut at = HEADER_LEN;
        let place = |(index, label): (usize, &String)| {
            let here = at;
            at += 1 + label.chars().count();
            (self.labels[index..].join("."), here)
        };
        self.labels.iter().enumerate().map(place).collect()
    }

    /// Only the Internet's class has names, and only version 0 of EDNS is known.
    pub(crate) fn refusal(&self) -> Option<Code> {
        match self.edns {
            Some(edns) if edns.version > 0 => Some(Code::BadVersion),
            _ => (self.class != IN && self.class != ANY).then_some(Code::Refused),
        }
    }

    /// How long an answer by UDP may be.
    pub(crate) fn udp_limit(&self) -> usize {
        self.edns.map_or(PLAIN_UDP_LEN, |edns| usize::from(edns.udp_len).clamp(PLAIN_UDP_LEN, LARGEST_UDP_LEN))
    }

    /// What tells apart questions whose answers differ.
    pub(crate) fn cache_key(&self) -> Vec<u8> {
        let mut key = self.question.to_ascii_lowercase();
        key.push(u8::from(self.edns.is_some()) | u8::from(self.edns.is_some_and(|e| e.dnssec_ok)) << 1);
        key
    }

    /// Whether a packet answers this question.
    pub(crate) fn is_answered_by(&self, packet: &[u8], id: u16) -> bool {
        let question = packet.get(HEADER_LEN..HEADER_LEN + self.question.len());
        be16(packet, 0) == Some(id)
            && be16(packet, 2).is_some_and(|flags| flags & RESPONSE != 0)
            && question.is_some_and(|q| q.eq_ignore_ascii_case(&self.question))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub name: String,
    pub ttl_s: u32,
    pub data: Data,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(String),
    Ns(String),
    Ptr(String),
    Txt(String),
    Srv { priority: u16, weight: u16, port: u16, target: String },
    Soa { server: String, mail: String, serial: u32, refresh_s: u32, retry_s: u32, expire_s: u32, minimum_s: u32 },
}

impl Data {
    pub(crate) fn kind(&self) -> u16 {
        match self {
            Self::A(_) => A,
            Self::Aaaa(_) => AAAA,
            Self::Cname(_) => CNAME,
            Self::Ns(_) => NS,
            Self::Ptr(_) => PTR,
            Self::Txt(_) => TXT,
            Self::Srv { .. } => SRV,
            Self::Soa { .. } => SOA,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub code: Code,
    pub authoritative: bool,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    /// Left out where there is no room.
    pub additionals: Vec<Record>,
}

impl Answer {
    pub(crate) fn empty(code: Code) -> Self {
        Self { code, authoritative: false, answers: vec![], authorities: vec![], additionals: vec![] }
    }

    /// The packet for a question, of at most `limit` bytes: truncated, it tells the client to come by TCP.
    pub(crate) fn write(&self, query: &Query, limit: usize) -> Vec<u8> {
        const OPT_LEN: usize = 11;
        let limit = limit - if query.edns.is_some() { OPT_LEN } else { 0 };
        let mut packet = vec![0; HEADER_LEN];
        packet.extend_from_slice(&query.question);
        let mut names = query.endings();
        let mut counts = [1, 0, 0, 0];
        let mut flags = RESPONSE | query.flags & RECURSION_DESIRED | RECURSION_AVAILABLE | (self.code as u16 & CODE);
        if self.authoritative {
            flags |= AUTHORITATIVE;
        }
        let sections = [(1, &self.answers), (2, &self.authorities), (3, &self.additionals)];
        'sections: for (section, records) in sections {
            for record in records {
                let before = packet.len();
                let written = put_record(&mut packet, record, &mut names);
                if written.is_some() && packet.len() <= limit {
                    counts[section] += 1;
                    continue;
                }
                packet.truncate(before);
                names.retain(|_, at| *at < before);
                if written.is_some() {
                    if section < 3 {
                        flags |= TRUNCATED;
                    }
                    break 'sections;
                }
            }
        }
        if query.edns.is_some() {
            let extended = (self.code as u16 >> 4).to_be_bytes()[1];
            packet.push(0);
            packet.extend(OPT.to_be_bytes());
            packet.extend(u16::try_from(LARGEST_UDP_LEN).expect("a small number").to_be_bytes());
            packet.extend([extended, 0, 0, 0, 0, 0]);
            counts[3] += 1;
        }
        let mut header = Vec::with_capacity(HEADER_LEN);
        put_header(&mut header, query.id, flags, counts);
        packet[..HEADER_LEN].copy_from_slice(&header);
        packet
    }
}

/// An answer without a question.
fn bare(id: u16, flags: u16, code: Code) -> Vec<u8> {
    let mut packet = Vec::with_capacity(HEADER_LEN);
    put_header(&mut packet, id, RESPONSE | flags & (OPCODE | RECURSION_DESIRED) | code as u16, [0; 4]);
    packet
}

/// `None`: some name can't be written. The packet then ends with a part of the record.
fn put_record(packet: &mut Vec<u8>, record: &Record, names: &mut HashMap<String, usize>) -> Option<()> {
    put_name(packet, &record.name, names)?;
    packet.extend(record.data.kind().to_be_bytes());
    packet.extend(IN.to_be_bytes());
    packet.extend(record.ttl_s.to_be_bytes());
    let at = packet.len();
    packet.extend([0, 0]);
    match &record.data {
        Data::A(ip) => packet.extend(ip.octets()),
        Data::Aaaa(ip) => packet.extend(ip.octets()),
        Data::Cname(name) | Data::Ns(name) | Data::Ptr(name) => put_name(packet, name, names)?,
        Data::Txt(text) => {
            packet.push(u8::try_from(text.len()).ok()?);
            packet.extend(text.as_bytes());
        }
        Data::Srv { priority, weight, port, target } => {
            packet.extend([*priority, *weight, *port].iter().flat_map(|n| n.to_be_bytes()));
            // RFC 2782: this name is never compressed.
            put_name(packet, target, &mut HashMap::new())?;
        }
        Data::Soa { server, mail, serial, refresh_s, retry_s, expire_s, minimum_s } => {
            put_name(packet, server, names)?;
            put_name(packet, mail, names)?;
            packet.extend([serial, refresh_s, retry_s, expire_s, minimum_s].iter().flat_map(|n| n.to_be_bytes()));
        }
    }
    let len = u16::try_from(packet.len() - at - 2).ok()?;
    packet[at..at + 2].copy_from_slice(&len.to_be_bytes());
    Some(())
}

/// Another server's answer.
pub(crate) struct Foreign<'a> {
    packet: &'a [u8],
    records_at: usize,
    counts: [usize; 3],
    code: u16,
}

impl<'a> Foreign<'a> {
    pub(crate) fn parse(packet: &'a [u8]) -> Option<Self> {
        let (_, end) = read_name(packet, HEADER_LEN).filter(|_| be16(packet, 4) == Some(1))?;
        let count = |at| be16(packet, at).map(usize::from);
        let counts = [count(6)?, count(8)?, count(10)?];
        Some(Self { packet, records_at: end + 4, counts, code: be16(packet, 2)? & CODE })
    }

    pub(crate) fn is_name_error(&self) -> bool {
        self.code == Code::NameError as u16
    }

    pub(crate) fn is_truncated(&self) -> bool {
        be16(self.packet, 2).is_some_and(|flags| flags & TRUNCATED != 0)
    }

    /// How long the answer may be kept: the shortest life of its records, of the zone's for "there is none".
    pub(crate) fn keep_s(&self) -> Option<u32> {
        if self.is_truncated() {
            return None;
        }
        let answers: Vec<u32> = self.records(0).map(|r| r.ttl).collect();
        match self.code {
            0 if !answers.is_empty() => answers.into_iter().min(),
            0 | 3 => self.records(1).find(|r| r.kind == SOA).and_then(|soa| {
                let minimum = be32(self.packet, (soa.data_at + soa.data_len).checked_sub(4)?)?;
                Some(minimum.min(soa.ttl))
            }),
            _ => None,
        }
    }

    /// The answers of the kinds that a client of an alias wants.
    pub(crate) fn answers(&self) -> Vec<Record> {
        self.records(0).filter(|r| r.class == IN).filter_map(|raw| self.understand(&raw)).collect()
    }

    fn understand(&self, raw: &RawRecord) -> Option<Record> {
        let data = self.packet.get(raw.data_at..raw.data_at + raw.data_len)?;
        let data = match raw.kind {
            A => Data::A(<[u8; 4]>::try_from(data).ok()?.into()),
            AAAA => Data::Aaaa(<[u8; 16]>::try_from(data).ok()?.into()),
            CNAME => Data::Cname(read_name(self.packet, raw.data_at)?.0.join(".")),
            _ => return None,
        };
        Some(Record { name: raw.name.join("."), ttl_s: raw.ttl, data })
    }

    /// Where the times to live stand in the packet; that of OPT is none.
    fn ttls_at(&self) -> Vec<usize> {
        let all = Records::new(self.packet, self.records_at, self.counts.iter().sum());
        all.filter(|r| r.kind != OPT).map(|r| r.ttl_at).collect()
    }

    fn records(&self, section: usize) -> impl Iterator<Item = RawRecord> {
        let before: usize = self.counts[..section].iter().sum();
        Records::new(self.packet, self.records_at, before + self.counts[section]).skip(before)
    }
}

/// Makes the records of another server's answer `seconds` older.
pub(crate) fn age(packet: &mut [u8], seconds: u32) {
    let Some(places) = Foreign::parse(packet).map(|foreign| foreign.ttls_at()) else { return };
    for at in places {
        let left = be32(packet, at).unwrap_or(0).saturating_sub(seconds);
        packet[at..at + 4].copy_from_slice(&left.to_be_bytes());
    }
}

pub(crate) fn set_id(packet: &mut [u8], id: u16) {
    if let Some(place) = packet.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Query {
        Query::parse(&question(7, name, kind).expect("a name")).expect("a question")
    }

    fn record(name: &str, data: Data) -> Record {
        Record { name: name.to_owned(), ttl_s: 5, data }
    }

    #[test]
    fn questions_are_read() {
        let query = query("Web.Default.svc.cluster.local", SRV);
        assert_eq!((query.id, query.kind, query.refusal()), (7, SRV, None));
        assert_eq!(query.labels, ["web", "default", "svc", "cluster", "local"]);
        assert_eq!(query.udp_limit(), 512);
        let mut with_edns = question(7, "a.b", A).expect("a name");
        with_edns[11] = 1;
        with_edns.extend([0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 0]);
        let query = Query::parse(&with_edns).expect("a question");
        assert_eq!(query.edns, Some(Edns { udp_len: 4096, version: 0, dnssec_ok: true }));
        assert_eq!(query.udp_limit(), 1232);
        assert_eq!(Query::parse(&question(1, "", NS).expect("the root")).expect("a question").labels, [""; 0]);
    }

    #[test]
    fn what_is_no_question_is_ignored_or_refused() {
        let good = question(7, "a.b", A).expect("a name");
        assert_eq!(Query::parse(&[]), Err(Bad::Ignore));
        assert_eq!(Query::parse(&good[..11]), Err(Bad::Ignore));
        let code = |change: fn(&mut Vec<u8>)| {
            let mut packet = good.clone();
            change(&mut packet);
            match Query::parse(&packet) {
                Err(Bad::Answer(answer)) => Some(answer[3] & 0xf),
                Err(Bad::Ignore) => None,
                Ok(query) => panic!("{query:?}"),
            }
        };
        assert_eq!(code(|p| p[2] |= 0x80), None, "an answer");
        assert_eq!(code(|p| p[2] |= 0x28), Some(4), "an update");
        assert_eq!(code(|p| p[5] = 2), Some(1), "two questions");
        assert_eq!(code(|p| p[12] = 0x3f), Some(1), "a label that goes on after the end");
        assert_eq!(code(|p| (p[12], p[13]) = (0xc0, 12)), Some(1), "a name that is its own end");
        assert_eq!(code(|p| p[12] = 0x80), Some(1), "a label of an unknown type");
        assert_eq!(code(|p| p.truncate(p.len() - 1)), Some(1), "half a class");
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut seed = 1_u64;
        let good = question(7, "a.b.example", A).expect("a name");
        for _ in 0..20_000 {
            let mut packet = good.clone();
            packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4]);
            packet[7] = 1;
            for _ in 0..4 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (seed >> 33) as usize % packet.len();
                packet[at] = (seed >> 24) as u8;
            }
            if let Ok(query) = Query::parse(&packet) {
                Answer::empty(Code::NoError).write(&query, 512);
            }
            if let Some(foreign) = Foreign::parse(&packet) {
                foreign.keep_s();
                foreign.answers();
            }
            age(&mut packet, 1);
        }
    }

    #[test]
    fn answers_are_read_back() {
        let query = query("alias.example", A);
        let answer = Answer {
            code: Code::NoError,
            authoritative: true,
            answers: vec![
                record("alias.example", Data::Cname("web.example".into())),
                record("web.example", Data::A(Ipv4Addr::new(10, 0, 0, 1))),
            ],
            authorities: vec![],
            additionals: vec![],
        };
        let mut packet = answer.write(&query, 512);
        assert!(query.is_answered_by(&packet, 7) && !query.is_answered_by(&packet, 8));
        let foreign = Foreign::parse(&packet).expect("an answer");
        assert_eq!(foreign.answers(), answer.answers);
        assert_eq!((foreign.keep_s(), foreign.is_truncated()), (Some(5), false));
        age(&mut packet, 3);
        assert_eq!(Foreign::parse(&packet).expect("an answer").keep_s(), Some(2));
        // The second name is a pointer into the first answer, the first one into the question.
        assert_eq!(packet.len(), 12 + 19 + (2 + 10 + 6) + (2 + 10 + 4));
    }

    #[test]
    fn what_does_not_fit_is_truncated() {
        let query = query("many.example", A);
        let answers = (0..100).map(|n| record("many.example", Data::A(Ipv4Addr::new(10, 0, 0, n)))).collect();
        let answer = Answer { answers, ..Answer::empty(Code::NoError) };
        let packet = answer.write(&query, 512);
        let foreign = Foreign::parse(&packet).expect("an answer");
        assert!(packet.len() <= 512 && foreign.is_truncated());
        assert_eq!(foreign.answers().len(), (512 - 12 - 18) / 16);
        assert!(!Foreign::parse(&answer.write(&query, 65_535)).expect("an answer").is_truncated());
    }

    #[test]
    fn names_that_are_none_are_left_out() {
        let long = "x".repeat(64);
        for name in [long.as_str(), "a..b", ".a", "日本"] {
            assert_eq!(question(1, name, A), None, "{name}");
            let answer =
                Answer { answers: vec![record("a", Data::Cname(name.to_owned()))], ..Answer::empty(Code::NoError) };
            let packet = answer.write(&query("a", A), 512);
            assert_eq!(Foreign::parse(&packet).expect("an answer").answers(), [], "{name}");
        }
    }
}
