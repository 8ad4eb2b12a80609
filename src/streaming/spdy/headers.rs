//! Header blocks: names and values, compressed with one zlib stream per direction and a dictionary that all know.
//!
//! What we send is framed as zlib but not compressed: that needs no compressor, no memory, and gives nothing to who
//! guesses secrets from lengths. What we read may be compressed in every way.

use bytes::{BufMut, BytesMut};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::Headers;
use crate::Violation;

/// The longest block, before and after it is decompressed.
pub const MAX_BLOCK: usize = 64 * 1024;
/// The most headers of one block, and values of one name count each.
const MAX_HEADERS: usize = 128;
/// Deflate looks back that far.
const WINDOW: usize = 32 * 1024;
/// What a stored block of deflate holds at most.
const MAX_STORED: usize = 0xffff;
/// Of [`dictionary`].
const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

/// The words that the protocol begins its window with (draft 3.1, 2.6.10.1): each behind its length, then a tail.
const WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov \
Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,\
utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut all = Vec::with_capacity(1423);
    for word in WORDS {
        all.put_u32(word.len() as u32);
        all.put_slice(word.as_bytes());
    }
    all.put_slice(TAIL.as_bytes());
    all
}

/// One direction's decompressor.
#[derive(Default)]
pub struct HeaderReader {
    inflate: Box<DecompressorOxide>,
    /// The last of what came out, wrapping around.
    window: Vec<u8>,
    at: usize,
    begun: bool,
}

impl HeaderReader {
    pub fn read(&mut self, mut block: &[u8]) -> Result<Headers, Violation> {
        if !self.begun {
            block = self.begin(block)?;
        }
        let plain = self.decompress(block)?;
        parse(&plain)
    }

    /// The stream's own head, which says whether the dictionary is used.
    fn begin<'a>(&mut self, block: &'a [u8]) -> Result<&'a [u8], Violation> {
        let [method, flags, rest @ ..] = block else {
            return Err(Violation("a SPDY header block without zlib's head"));
        };
        if method & 0x0f != 8 || u16::from_be_bytes([*method, *flags]) % 31 != 0 {
            return Err(Violation("a SPDY header block that is no zlib"));
        }
        self.window = vec![0; WINDOW];
        self.begun = true;
        if flags & 0x20 == 0 {
            return Ok(rest);
        }
        let Some((id, rest)) = rest.split_at_checked(4) else {
            return Err(Violation("a SPDY header block without its dictionary's name"));
        };
        if id != DICTIONARY_ID.to_be_bytes() {
            return Err(Violation("a SPDY header block with a strange dictionary"));
        }
        let dictionary = dictionary();
        self.window[..dictionary.len()].copy_from_slice(&dictionary);
        self.at = dictionary.len();
        Ok(rest)
    }

    fn decompress(&mut self, mut block: &[u8]) -> Result<Vec<u8>, Violation> {
        let mut plain = Vec::new();
        loop {
            let (status, read, written) =
                decompress(&mut self.inflate, block, &mut self.window, self.at, TINFL_FLAG_HAS_MORE_INPUT);
            plain.extend_from_slice(&self.window[self.at..self.at + written]);
            self.at = (self.at + written) % WINDOW;
            block = &block[read..];
            if plain.len() > MAX_BLOCK {
                return Err(Violation("a SPDY header block that is too long"));
            }
            match status {
                TINFLStatus::HasMoreOutput => {}
                TINFLStatus::NeedsMoreInput if block.is_empty() => return Ok(plain),
                _ => return Err(Violation("a SPDY header block that can't be decompressed")),
            }
        }
    }
}

/// Number of pairs, then each name and value behind its length. A value may be several, with NULs between them.
fn parse(plain: &[u8]) -> Result<Headers, Violation> {
    fn number(rest: &mut &[u8]) -> Result<usize, Violation> {
        let Some((bytes, after)) = rest.split_first_chunk::<4>() else {
            return Err(Violation("a SPDY header block that is too short"));
        };
        *rest = after;
        Ok(u32::from_be_bytes(*bytes) as usize)
    }
    fn text(rest: &mut &[u8]) -> Result<String, Violation> {
        let length = number(rest)?;
        let Some((bytes, after)) = rest.split_at_checked(length) else {
            return Err(Violation("a SPDY header that is longer than its block"));
        };
        *rest = after;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
    let mut rest = plain;
    let count = number(&mut rest)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(&mut rest)?.to_lowercase();
        let value = text(&mut rest)?;
        for value in value.split('\0') {
            // Each of them has the whole name: without this bound a small block would take much memory.
            if headers.len() == MAX_HEADERS {
                return Err(Violation("a SPDY header block of too many headers"));
            }
            headers.push((name.clone(), value.to_owned()));
        }
    }
    Ok(headers)
}

/// One direction's writer.
#[derive(Default)]
pub struct HeaderWriter {
    begun: bool,
}

impl HeaderWriter {
    /// Names must be lower case and different.
    pub fn write(&mut self, headers: &Headers, out: &mut BytesMut) {
        let mut plain = BytesMut::new();
        plain.put_u32(headers.len() as u32);
        for (name, value) in headers {
            for text in [name, value] {
                plain.put_u32(text.len() as u32);
                plain.put_slice(text.as_bytes());
            }
        }
        if !std::mem::replace(&mut self.begun, true) {
            // Deflate with the smallest window, no dictionary.
            out.put_slice(&[0x78, 0x01]);
        }
        // The empty block at the end is zlib's flush: Go's reader holds back what comes before until it sees one.
        for piece in plain.chunks(MAX_STORED).chain([&[][..]]) {
            let length = piece.len() as u16;
            out.put_u8(0);
            out.put_u16_le(length);
            out.put_u16_le(!length);
            out.put_slice(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
    }

    fn adler32(bytes: &[u8]) -> u32 {
        let (a, b) = bytes.iter().fold((1u32, 0u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65521;
            (a, (b + a) % 65521)
        });
        b << 16 | a
    }

    #[test]
    fn a_small_block_takes_little_memory() {
        let block = |values: usize| {
            let mut plain = 1u32.to_be_bytes().to_vec();
            for text in ["name".repeat(100), "\0".repeat(values - 1)] {
                plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
                plain.extend_from_slice(text.as_bytes());
            }
            parse(&plain).map(|headers| headers.len())
        };
        assert_eq!(block(MAX_HEADERS), Ok(MAX_HEADERS));
        assert!(block(MAX_HEADERS + 1).is_err());
    }

    #[test]
    fn the_dictionary_is_the_drafts() {
        assert_eq!((dictionary().len(), adler32(&dictionary())), (1423, DICTIONARY_ID));
    }

    #[test]
    fn blocks_of_zlib_with_the_dictionary() {
        // Made by zlib 1.3 (level 9, SPDY's dictionary, flushed after each block).
        let mut reader = HeaderReader::default();
        for (block, expect) in BLOCKS {
            let got = reader.read(&unhex(block)).expect("a block");
            let got: Vec<(&str, &str)> = got.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(got, expect);
        }
        assert!(HeaderReader::default().read(&unhex("78f9deadbeef00")).is_err());
        assert!(HeaderReader::default().read(&[]).is_err());
    }

    const BLOCKS: [(&str, &[(&str, &str)]); 5] = [
        (
            "78f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45e01c6061606100a4398b20d198094ade8c0600000000ffff",
            &[("streamtype", "error"), ("port", "8080"), ("requestid", "0")],
        ),
        ("c2aa19540e2512d60b000000ffff", &[("streamtype", "data"), ("port", "8080"), ("requestid", "0")]),
        ("02120c00000000ffff", &[]),
        (
            "023140b8028827548e82410500000000ffff",
            &[(
                "x",
                "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
            )],
        ),
        ("82460e8b6f621eb8f04b644802000000ffff", &[("many", "a"), ("many", "b")]),
    ];
    const BOMB: &str = "78f9e3c6a7c2ecc13101000000c220fba75e085f600000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000a7000000ffff";

    #[test]
    fn what_is_written_ends_with_a_flush() {
        let (mut writer, mut out) = (HeaderWriter::default(), BytesMut::new());
        writer.write(&Headers::new(), &mut out);
        assert_eq!(&out[..], unhex("7801000400fbff00000000000000ffff"));
    }

    #[test]
    fn bombs_are_refused() {
        // 1 MiB of zeroes in a kilobyte.
        assert_eq!(HeaderReader::default().read(&unhex(BOMB)), Err(Violation("a SPDY header block that is too long")));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(blocks in proptest::collection::vec(
            proptest::collection::vec(("[a-z]{1,20}", "[ -~]{0,400}"), 0..40), 1..5)
        ) {
            let (mut writer, mut reader) = (HeaderWriter::default(), HeaderReader::default());
            for block in blocks {
                let mut out = BytesMut::new();
                writer.write(&block, &mut out);
                prop_assert_eq!(reader.read(&out).expect("fine"), block);
            }
        }

        #[test]
        fn garbage_is_refused(head in any::<bool>(), bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut block = if head { unhex("78f9e3c6a7c2") } else { unhex("7801") };
            block.extend(bytes);
            let mut reader = HeaderReader::default();
            drop(reader.read(&block));
            drop(reader.read(&block));
        }
    }
}
