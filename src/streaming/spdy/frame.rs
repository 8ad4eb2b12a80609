//! Frames, without a connection: bytes in, frames out, and back. Data comes in the pieces in which it arrives.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Headers;
use super::headers::{HeaderReader, HeaderWriter, MAX_BLOCK};
use crate::Violation;

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;
const HEAD: usize = 8;
const ID: u32 = 0x7fff_ffff;

/// Reasons of [`Frame::Reset`].
pub const REFUSED_STREAM: u32 = 3;
pub const CANCEL: u32 = 5;
pub const PROTOCOL_ERROR: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream. `one_way`: its answer is never sent; `fin`: nor is anything on it.
    Open {
        stream: u32,
        headers: Headers,
        fin: bool,
        one_way: bool,
    },
    Reply {
        stream: u32,
        headers: Headers,
        fin: bool,
    },
    Headers {
        stream: u32,
        headers: Headers,
        fin: bool,
    },
    /// A piece of data; `fin` with the last one of the stream.
    Data {
        stream: u32,
        bytes: Bytes,
        fin: bool,
    },
    Reset {
        stream: u32,
        reason: u32,
    },
    Ping(u32),
    GoAway {
        last: u32,
    },
    Window {
        stream: u32,
        credit: u32,
    },
    /// Settings concern windows and connections, which nobody here keeps.
    Settings,
}

/// Of a data frame that is still arriving.
struct Payload {
    stream: u32,
    left: usize,
    fin: bool,
}

#[derive(Default)]
pub struct Decoder {
    headers: HeaderReader,
    payload: Option<Payload>,
}

impl Decoder {
    /// Takes the next frame from the front of `input`; `None`: more bytes are needed.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, Violation> {
        loop {
            if let Some(payload) = &mut self.payload {
                if input.is_empty() {
                    return Ok(None);
                }
                let take = payload.left.min(input.len());
                payload.left -= take;
                let (stream, ends) = (payload.stream, payload.left == 0);
                let fin = ends && payload.fin;
                if ends {
                    self.payload = None;
                }
                return Ok(Some(Frame::Data { stream, bytes: input.split_to(take).freeze(), fin }));
            }
            let Some(head) = input.first_chunk::<HEAD>().copied() else { return Ok(None) };
            let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let (flags, length) = (head[4], u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize);
            if word > ID {
                match self.control(word, flags, length, input)? {
                    Control::Frame(frame) => return Ok(Some(frame)),
                    Control::Unknown => continue,
                    Control::Partial => return Ok(None),
                }
            }
            input.advance(HEAD);
            let fin = flags & FLAG_FIN != 0;
            if length == 0 {
                return Ok(Some(Frame::Data { stream: word, bytes: Bytes::new(), fin }));
            }
            self.payload = Some(Payload { stream: word, left: length, fin });
        }
    }

    fn control(&mut self, word: u32, flags: u8, length: usize, input: &mut BytesMut) -> Result<Control, Violation> {
        if (word >> 16) as u16 & 0x7fff != VERSION {
            return Err(Violation("SPDY of another version"));
        }
        if length > MAX_BLOCK {
            return Err(Violation("a SPDY control frame that is too long"));
        }
        if input.len() < HEAD + length {
            return Ok(Control::Partial);
        }
        input.advance(HEAD);
        let mut body = input.split_to(length);
        let mut number = || match body.len() {
            0..4 => Err(Violation("a SPDY control frame that is too short")),
            _ => Ok(body.get_u32()),
        };
        let fin = flags & FLAG_FIN != 0;
        Ok(Control::Frame(match word as u16 {
            SYN_STREAM => {
                let stream = number()? & ID;
                number()?;
                if body.len() < 2 {
                    return Err(Violation("a SPDY control frame that is too short"));
                }
                let headers = self.headers.read(&body[2..])?;
                Frame::Open { stream, headers, fin, one_way: flags & FLAG_UNIDIRECTIONAL != 0 }
            }
            SYN_REPLY => {
                let stream = number()? & ID;
                Frame::Reply { stream, headers: self.headers.read(&body)?, fin }
            }
            HEADERS => {
                let stream = number()? & ID;
                Frame::Headers { stream, headers: self.headers.read(&body)?, fin }
            }
            RST_STREAM => Frame::Reset { stream: number()? & ID, reason: number()? },
            PING => Frame::Ping(number()?),
            GOAWAY => Frame::GoAway { last: number()? & ID },
            WINDOW_UPDATE => Frame::Window { stream: number()? & ID, credit: number()? & ID },
            SETTINGS => Frame::Settings,
            _ => return Ok(Control::Unknown),
        }))
    }
}

enum Control {
    Frame(Frame),
    /// To be ignored, says the draft.
    Unknown,
    Partial,
}

#[derive(Default)]
pub struct Encoder {
    headers: HeaderWriter,
}

impl Encoder {
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::Open { stream, headers, fin, one_way } => {
                let flags = u8::from(*fin) | if *one_way { FLAG_UNIDIRECTIONAL } else { 0 };
                self.control(SYN_STREAM, flags, out, |encoder, out| {
                    out.put_u32(*stream);
                    // No parent, highest priority.
                    out.put_u32(0);
                    out.put_u16(0);
                    encoder.headers.write(headers, out);
                });
            }
            Frame::Reply { stream, headers, fin } => self.control(SYN_REPLY, u8::from(*fin), out, |encoder, out| {
                out.put_u32(*stream);
                encoder.headers.write(headers, out);
            }),
            Frame::Headers { stream, headers, fin } => self.control(HEADERS, u8::from(*fin), out, |encoder, out| {
                out.put_u32(*stream);
                encoder.headers.write(headers, out);
            }),
            Frame::Data { stream, bytes, fin } => {
                out.reserve(HEAD + bytes.len());
                out.put_u32(*stream);
                out.put_u32(u32::from(*fin) << 24 | bytes.len() as u32);
                out.put_slice(bytes);
            }
            Frame::Reset { stream, reason } => self.numbers(RST_STREAM, &[*stream, *reason], out),
            Frame::Ping(id) => self.numbers(PING, &[*id], out),
            Frame::GoAway { last } => self.numbers(GOAWAY, &[*last, 0], out),
            Frame::Window { stream, credit } => self.numbers(WINDOW_UPDATE, &[*stream, *credit], out),
            Frame::Settings => self.numbers(SETTINGS, &[0], out),
        }
    }

    fn numbers(&mut self, kind: u16, numbers: &[u32], out: &mut BytesMut) {
        self.control(kind, 0, out, |_, out| numbers.iter().for_each(|number| out.put_u32(*number)));
    }

    fn control(&mut self, kind: u16, flags: u8, out: &mut BytesMut, body: impl FnOnce(&mut Self, &mut BytesMut)) {
        out.put_u16(0x8000 | VERSION);
        out.put_u16(kind);
        let length_at = out.len();
        out.put_u32(0);
        body(self, out);
        let length = (out.len() - length_at - 4) as u32;
        out[length_at..length_at + 4].copy_from_slice(&(u32::from(flags) << 24 | length).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8], piece: usize) -> Result<Vec<Frame>, Violation> {
        let (mut decoder, mut input, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(piece.max(1)) {
            input.extend_from_slice(piece);
            while let Some(frame) = decoder.next(&mut input)? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    /// Pieces of data put together again.
    fn joined(frames: Vec<Frame>) -> Vec<Frame> {
        let mut all: Vec<Frame> = Vec::new();
        let mut open = false;
        for frame in frames {
            let ends = !matches!(&frame, Frame::Data { fin: false, .. });
            match (all.last_mut(), frame) {
                (Some(Frame::Data { stream, bytes, fin }), Frame::Data { stream: next, bytes: more, fin: last })
                    if open && *stream == next =>
                {
                    *bytes = [&bytes[..], &more[..]].concat().into();
                    *fin = last;
                }
                (_, frame) => all.push(frame),
            }
            open = !ends;
        }
        all
    }

    #[test]
    fn frames_as_the_draft_draws_them() {
        let mut out = BytesMut::new();
        let mut encoder = Encoder::default();
        encoder.encode(&Frame::Reset { stream: 5, reason: CANCEL }, &mut out);
        encoder.encode(&Frame::Ping(1), &mut out);
        encoder.encode(&Frame::Data { stream: 3, bytes: Bytes::from_static(b"ab"), fin: true }, &mut out);
        let expect = [
            &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 5][..],
            &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1],
            &[0, 0, 0, 3, 1, 0, 0, 2, b'a', b'b'],
        ];
        assert_eq!(&out[..], expect.concat());
    }

    #[test]
    fn violations_and_unknown_frames() {
        assert!(decode(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1], 1).is_err());
        assert!(decode(&[0x80, 3, 0, 6, 0, 0, 0, 2, 0, 0], 1).is_err());
        assert!(decode(&[0x80, 3, 0, 1, 0, 2, 0, 0], 1).is_err());
        let unknown = [0x80, 3, 0, 11, 0, 0, 0, 1, 0, 0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9];
        assert_eq!(decode(&unknown, 4), Ok(vec![Frame::Ping(9)]));
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let id = 1u32..1000;
        let headers = proptest::collection::vec(("[a-z-]{1,12}", "[ -~]{0,60}"), 0..6);
        prop_oneof![
            (id.clone(), headers.clone(), any::<bool>(), any::<bool>())
                .prop_map(|(stream, headers, fin, one_way)| Frame::Open { stream, headers, fin, one_way }),
            (id.clone(), headers.clone(), any::<bool>()).prop_map(|(stream, headers, fin)| Frame::Reply {
                stream,
                headers,
                fin
            }),
            (id.clone(), headers, any::<bool>()).prop_map(|(stream, headers, fin)| Frame::Headers {
                stream,
                headers,
                fin
            }),
            (id.clone(), proptest::collection::vec(any::<u8>(), 0..3000)).prop_map(|(stream, bytes)| Frame::Data {
                stream,
                bytes: bytes.into(),
                fin: true
            }),
            (id.clone(), any::<u32>()).prop_map(|(stream, reason)| Frame::Reset { stream, reason }),
            any::<u32>().prop_map(Frame::Ping),
            id.clone().prop_map(|last| Frame::GoAway { last }),
            (id, 0u32..ID).prop_map(|(stream, credit)| Frame::Window { stream, credit }),
            Just(Frame::Settings),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(sent in proptest::collection::vec(any_frame(), 0..20), piece in 1usize..700) {
            let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
            for frame in &sent {
                encoder.encode(frame, &mut out);
            }
            prop_assert_eq!(joined(decode(&out, piece).expect("fine")), sent);
        }

        #[test]
        fn garbage_is_refused_or_waited_for(
            mut bytes in proptest::collection::vec(any::<u8>(), 8..300), kind in 0u8..12, piece in 1usize..50
        ) {
            drop(decode(&bytes, piece));
            // Garbage that looks like a control frame.
            bytes[..8].copy_from_slice(&[0x80, 3, 0, kind, 0, 0, 0, 100]);
            drop(decode(&bytes, piece));
        }
    }
}
