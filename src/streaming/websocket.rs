//! WebSocket frames (RFC 6455) without a connection: bytes in, events out, and back. Payloads come in the pieces in
//! which they arrive, so that no message is ever held.

use base64::Engine;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{Role, Violation};

/// Ended as it should be; kubectl takes any other code for a failure.
pub const CLOSE_NORMAL: u16 = 1000;
pub const CLOSE_PROTOCOL_ERROR: u16 = 1002;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// The longest payload of a control frame.
const MAX_CONTROL: usize = 125;

/// What has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A piece of a message; `first` begins one, `last` ends it.
    Data {
        first: bool,
        last: bool,
        bytes: Bytes,
    },
    Ping(Bytes),
    Pong,
    /// With the code, if there is one.
    Close(Option<u16>),
}

/// Of a data frame whose payload is still arriving.
struct Payload {
    left: u64,
    mask: Option<[u8; 4]>,
    /// Where in the mask the next byte is.
    phase: usize,
    fin: bool,
    first: bool,
}

/// Reads what the peer of a `role` sends.
pub struct Decoder {
    role: Role,
    payload: Option<Payload>,
    /// Between the frames of a message.
    in_message: bool,
}

struct Header {
    fin: bool,
    opcode: u8,
    mask: Option<[u8; 4]>,
    length: u64,
    /// Bytes that it takes.
    size: usize,
}

fn unmask(bytes: &mut [u8], mask: [u8; 4], phase: usize) {
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte ^= mask[(at + phase) % 4];
    }
}

impl Decoder {
    pub fn new(role: Role) -> Self {
        Self { role, payload: None, in_message: false }
    }

    /// Takes the next event from the front of `input`; `None`: more bytes are needed.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Violation> {
        if self.payload.is_some() {
            return Ok(self.piece(input));
        }
        let Some(header) = self.header(input)? else { return Ok(None) };
        if header.opcode >= CLOSE {
            return self.control(&header, input);
        }
        let first = header.opcode != CONTINUATION;
        if first == self.in_message {
            return Err(Violation("a WebSocket message that begins in another, or continues none"));
        }
        input.advance(header.size);
        self.in_message = !header.fin;
        self.payload = Some(Payload { left: header.length, mask: header.mask, phase: 0, fin: header.fin, first });
        if header.length == 0 {
            self.payload = None;
            return Ok(Some(Event::Data { first, last: header.fin, bytes: Bytes::new() }));
        }
        Ok(self.piece(input))
    }

    fn header(&self, input: &BytesMut) -> Result<Option<Header>, Violation> {
        let [first, second, rest @ ..] = &input[..] else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(Violation("a WebSocket frame of an extension that was not agreed on"));
        }
        let masked = second & 0x80 != 0;
        if masked != (self.role == Role::Server) {
            return Err(Violation("WebSocket clients mask what they send, servers do not"));
        }
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
            return Err(Violation("a WebSocket frame of an unknown kind"));
        }
        let (length, extended) = match second & 0x7f {
            126 => match rest.get(..2) {
                Some(bytes) => (u64::from(u16::from_be_bytes([bytes[0], bytes[1]])), 2),
                None => return Ok(None),
            },
            127 => match rest.get(..8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()) {
                Some(bytes) => (u64::from_be_bytes(bytes), 8),
                None => return Ok(None),
            },
            short => (u64::from(short), 0),
        };
        if length > u64::MAX / 2 {
            return Err(Violation("a WebSocket frame without end"));
        }
        if opcode >= CLOSE && (!fin || length > MAX_CONTROL as u64) {
            return Err(Violation("a WebSocket control frame that is too long or in pieces"));
        }
        let mask = match masked {
            false => None,
            true => match rest.get(extended..extended + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()) {
                Some(mask) => Some(mask),
                None => return Ok(None),
            },
        };
        let size = 2 + extended + if masked { 4 } else { 0 };
        Ok(Some(Header { fin, opcode, mask, length, size }))
    }

    fn control(&mut self, header: &Header, input: &mut BytesMut) -> Result<Option<Event>, Violation> {
        // At most 125: checked with the header.
        let length = header.length as usize;
        if input.len() < header.size + length {
            return Ok(None);
        }
        input.advance(header.size);
        let mut payload = input.split_to(length);
        if let Some(mask) = header.mask {
            unmask(&mut payload, mask, 0);
        }
        Ok(Some(match header.opcode {
            PING => Event::Ping(payload.freeze()),
            PONG => Event::Pong,
            _ => match payload[..] {
                [] => Event::Close(None),
                [high, low, ..] => Event::Close(Some(u16::from_be_bytes([high, low]))),
                [_] => return Err(Violation("a WebSocket close frame with half a code")),
            },
        }))
    }

    fn piece(&mut self, input: &mut BytesMut) -> Option<Event> {
        let payload = self.payload.as_mut()?;
        if input.is_empty() {
            return None;
        }
        let take = usize::try_from(payload.left).unwrap_or(usize::MAX).min(input.len());
        let mut bytes = input.split_to(take);
        if let Some(mask) = payload.mask {
            unmask(&mut bytes, mask, payload.phase);
            payload.phase = (payload.phase + take) % 4;
        }
        payload.left -= take as u64;
        let (first, ends) = (std::mem::take(&mut payload.first), payload.left == 0);
        let last = ends && payload.fin;
        if ends {
            self.payload = None;
        }
        Some(Event::Data { first, last, bytes: bytes.freeze() })
    }
}

/// Appends a frame that is a message of its own, or a control frame.
fn frame(role: Role, opcode: u8, parts: &[&[u8]], out: &mut BytesMut) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.reserve(length + 14);
    out.put_u8(0x80 | opcode);
    let masked = if role == Role::Client { 0x80 } else { 0 };
    match length {
        0..=125 => out.put_u8(masked | length as u8),
        126..=0xffff => {
            out.put_u8(masked | 126);
            out.put_u16(length as u16);
        }
        _ => {
            out.put_u8(masked | 127);
            out.put_u64(length as u64);
        }
    }
    let mask: [u8; 4] = rand::random();
    if role == Role::Client {
        out.put_slice(&mask);
    }
    let begin = out.len();
    for part in parts {
        out.put_slice(part);
    }
    if role == Role::Client {
        unmask(&mut out[begin..], mask, 0);
    }
}

/// Appends a binary message made of parts.
pub fn encode_binary(role: Role, parts: &[&[u8]], out: &mut BytesMut) {
    frame(role, BINARY, parts, out);
}

/// Appends a text message.
pub fn encode_text(role: Role, text: &str, out: &mut BytesMut) {
    frame(role, TEXT, &[text.as_bytes()], out);
}

pub fn encode_ping(role: Role, out: &mut BytesMut) {
    frame(role, PING, &[], out);
}

/// The answer to a ping; longer than its payload can be is cut.
pub fn encode_pong(role: Role, payload: &[u8], out: &mut BytesMut) {
    frame(role, PONG, &[&payload[..payload.len().min(MAX_CONTROL)]], out);
}

pub fn encode_close(role: Role, code: u16, out: &mut BytesMut) {
    frame(role, CLOSE, &[&code.to_be_bytes()], out);
}

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`.
pub fn accept_key(key: &str) -> String {
    const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let text = format!("{key}{MAGIC}");
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// A `Sec-WebSocket-Key` of one's own.
pub fn new_key() -> String {
    base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 16]>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All events of bytes that arrive in pieces of the given size.
    fn decode(role: Role, bytes: &[u8], piece: usize) -> Result<Vec<Event>, Violation> {
        let (mut decoder, mut input, mut events) = (Decoder::new(role), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(piece.max(1)) {
            input.extend_from_slice(piece);
            while let Some(event) = decoder.next(&mut input)? {
                events.push(event);
            }
        }
        Ok(events)
    }

    /// The messages that data events are pieces of.
    fn messages(events: &[Event]) -> Vec<Vec<u8>> {
        let mut all: Vec<Vec<u8>> = Vec::new();
        for event in events {
            if let Event::Data { first, bytes, .. } = event {
                if *first {
                    all.push(Vec::new());
                }
                all.last_mut().expect("a first piece").extend_from_slice(bytes);
            }
        }
        all
    }

    #[test]
    fn the_key_of_the_rfc() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_ne!(new_key(), new_key());
    }

    #[test]
    fn frames_of_the_rfc() {
        // A masked "Hello", an unmasked one in two fragments with a ping between them.
        let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(messages(&decode(Role::Server, &masked, 3).expect("fine")), [b"Hello".to_vec()]);
        let fragments =
            [0x01, 0x03, 0x48, 0x65, 0x6c, 0x89, 0x02, b'h', b'i', 0x80, 0x02, 0x6c, 0x6f, 0x88, 0x02, 0x03, 0xe8];
        let events = decode(Role::Client, &fragments, 100).expect("fine");
        assert_eq!(messages(&events), [b"Hello".to_vec()]);
        assert!(events.contains(&Event::Ping(Bytes::from_static(b"hi"))));
        assert_eq!(events.last(), Some(&Event::Close(Some(CLOSE_NORMAL))));
    }

    #[test]
    fn violations() {
        let check = |role: Role, bytes: &[u8]| assert!(decode(role, bytes, 1).is_err(), "{bytes:?}");
        check(Role::Server, &[0x82, 0x01, b'x']);
        check(Role::Client, &[0x82, 0x81, 0, 0, 0, 0, b'x']);
        check(Role::Client, &[0xc2, 0x01, b'x']);
        check(Role::Client, &[0x83, 0x00]);
        check(Role::Client, &[0x80, 0x00]);
        check(Role::Client, &[0x02, 0x00, 0x82, 0x00]);
        check(Role::Client, &[0x09, 0x00]);
        check(Role::Client, &[0x89, 126, 0, 126]);
        check(Role::Client, &[0x88, 1, 3]);
        check(Role::Client, &[0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            sent in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..70_000), 0..4),
            piece in 1usize..5000,
            client in any::<bool>(),
        ) {
            let (from, to) = if client { (Role::Client, Role::Server) } else { (Role::Server, Role::Client) };
            let mut out = BytesMut::new();
            for message in &sent {
                encode_binary(from, &[&message[..message.len() / 2], &message[message.len() / 2..]], &mut out);
                encode_ping(from, &mut out);
                encode_pong(from, b"x", &mut out);
            }
            encode_close(from, CLOSE_NORMAL, &mut out);
            let events = decode(to, &out, piece).expect("fine");
            prop_assert_eq!(messages(&events), sent);
            prop_assert_eq!(events.last(), Some(&Event::Close(Some(CLOSE_NORMAL))));
        }

        #[test]
        fn garbage_is_refused_or_waited_for(bytes in proptest::collection::vec(any::<u8>(), 0..300), server in any::<bool>()) {
            let role = if server { Role::Server } else { Role::Client };
            // Either is fine; a panic is not.
            drop(decode(role, &bytes, 7));
        }
    }
}
