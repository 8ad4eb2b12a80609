//! Netlink messages: a header, a family's own header, and attributes that may nest.

const HEADER_LEN: usize = 16;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Writes attributes to the end of a message. Everything is padded to four bytes.
pub struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let len = u16::try_from(4 + value.len()).expect("an attribute is shorter than 64 KiB");
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        pad(self.0);
        self
    }

    /// A string with the NUL that the kernel expects.
    pub fn string(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub fn be16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// An attribute made of attributes.
    pub fn nested(&mut self, kind: u16, write: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.container(kind | NLA_F_NESTED, &[], write)
    }

    /// An attribute made of a fixed header and attributes (such as the peer of a veth link).
    pub fn container(&mut self, kind: u16, header: &[u8], write: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(header);
        pad(self.0);
        write(&mut Attributes(self.0));
        let len = u16::try_from(self.0.len() - start).expect("a nested attribute is shorter than 64 KiB");
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self
    }
}

/// Appends one message to `out`.
pub(super) fn write_message(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    header: &[u8],
    write: impl FnOnce(&mut Attributes<'_>),
) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    out.extend_from_slice(header);
    pad(out);
    write(&mut Attributes(out));
    let len = u32::try_from(out.len() - start).expect("a message is shorter than 4 GiB");
    out[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    out[start + 4..start + 6].copy_from_slice(&kind.to_ne_bytes());
    out[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
    out[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A message that was received.
#[derive(Debug, Clone)]
pub struct Reply {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// The port (socket) whose request this answers or, in an event, caused it.
    pub port: u32,
    /// The family's header, then attributes.
    pub body: Vec<u8>,
}

impl Reply {
    /// The attributes after a family header of `header_len` bytes.
    pub fn attributes(&self, header_len: usize) -> impl Iterator<Item = Attribute<'_>> {
        attributes(self.body.get(header_len..).unwrap_or_default())
    }

    /// The first attribute of a kind.
    pub fn attribute(&self, header_len: usize, kind: u16) -> Option<&[u8]> {
        self.attributes(header_len).find(|a| a.kind == kind).map(|a| a.value)
    }
}

/// Splits what one receive gave into messages; what is cut short is left out.
pub(super) fn split_messages(mut bytes: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    while bytes.len() >= HEADER_LEN {
        let len = read_u32(bytes).unwrap_or(0) as usize;
        if len < HEADER_LEN || len > bytes.len() {
            break;
        }
        replies.push(Reply {
            kind: u16::from_ne_bytes([bytes[4], bytes[5]]),
            flags: u16::from_ne_bytes([bytes[6], bytes[7]]),
            sequence: read_u32(&bytes[8..]).unwrap_or(0),
            port: read_u32(&bytes[12..]).unwrap_or(0),
            body: bytes[HEADER_LEN..len].to_vec(),
        });
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    replies
}

#[derive(Debug, Clone, Copy)]
pub struct Attribute<'a> {
    pub kind: u16,
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub fn u32(&self) -> Option<u32> {
        read_u32(self.value)
    }

    /// Up to the first NUL.
    pub fn string(&self) -> &'a str {
        let end = self.value.iter().position(|b| *b == 0).unwrap_or(self.value.len());
        std::str::from_utf8(&self.value[..end]).unwrap_or_default()
    }

    pub fn children(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        attributes(self.value)
    }
}

/// Reads attributes one after the other; ends at the first one that is malformed.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & NLA_TYPE_MASK;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, value })
    })
}

pub(super) fn read_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut bytes = Vec::new();
        write_message(&mut bytes, 7, 5, 9, &[1, 2, 3, 4], |a| {
            a.string(1, "lo").nested(2, |n| {
                n.u8(3, 8).be16(4, 0x1234);
            });
        });
        write_message(&mut bytes, 8, 0, 10, &[], |_| {});
        let replies = split_messages(&bytes);
        assert_eq!(replies.iter().map(|r| (r.kind, r.sequence)).collect::<Vec<_>>(), [(7, 9), (8, 10)]);
        let found: Vec<_> = replies[0].attributes(4).collect();
        assert_eq!(found[0].string(), "lo");
        assert_eq!(found[1].kind, 2);
        let inner: Vec<_> = found[1].children().map(|a| (a.kind, a.value.to_vec())).collect();
        assert_eq!(inner, [(3, vec![8]), (4, vec![0x12, 0x34])]);
    }

    #[test]
    fn malformed_input_ends_the_reading() {
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[8, 0, 1]).count(), 0);
        assert_eq!(attributes(&[255, 0, 1, 0, 1, 2]).count(), 0);
        assert_eq!(split_messages(&[200, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).len(), 0);
    }
}
