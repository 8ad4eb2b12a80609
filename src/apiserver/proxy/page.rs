//! A page on its way through: read, rewritten and written again in the form that it came in.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzDecoder, GzEncoder};

use super::rewrite::{Html, Rewriter};

pub(super) struct Page {
    html: Html,
    gzip: Option<Gzip>,
}

/// Compressed bytes that are unpacked at a time.
const PART: usize = 1024;

struct Gzip {
    begun: bool,
    read: GzDecoder<Vec<u8>>,
    written: GzEncoder<Vec<u8>>,
}

impl Page {
    pub fn plain(rewriter: Rewriter) -> Self {
        Self { html: Html::new(rewriter), gzip: None }
    }

    pub fn compressed(rewriter: Rewriter) -> Self {
        let gzip = Gzip {
            begun: false,
            read: GzDecoder::new(Vec::new()),
            written: GzEncoder::new(Vec::new(), Compression::fast()),
        };
        Self { html: Html::new(rewriter), gzip: Some(gzip) }
    }

    /// Takes what has arrived; gives what can be passed on.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<Bytes> {
        let Some(Gzip { read, written, begun }) = &mut self.gzip else { return Ok(self.html.push(bytes)) };
        *begun = true;
        let mut has_come = false;
        // A little at a time: a piece may unpack to a thousand times its size.
        for part in bytes.chunks(PART) {
            read.write_all(part)?;
            // Only now and then all that was taken has come out.
            read.flush()?;
            let plain = std::mem::take(read.get_mut());
            if !plain.is_empty() {
                has_come = true;
                written.write_all(&self.html.push(&plain))?;
            }
        }
        if !has_come {
            return Ok(Bytes::new());
        }
        written.flush()?;
        Ok(std::mem::take(written.get_mut()).into())
    }

    pub fn finish(mut self) -> io::Result<Bytes> {
        let Some(Gzip { read, mut written, begun }) = self.gzip else { return Ok(self.html.finish()) };
        if !begun {
            // An answer without a body.
            return Ok(Bytes::new());
        }
        written.write_all(&self.html.push(&read.finish()?))?;
        written.write_all(&self.html.finish())?;
        Ok(written.finish()?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn rewriter() -> Rewriter {
        Rewriter { prepend: "/p".to_owned(), hosts: ["10.0.0.1:80".to_owned(), String::new()] }
    }

    #[test]
    fn compressed_pages_are_rewritten_in_pieces_of_any_size() {
        let page = format!("<html>{}<a href=\"/x\">x</a></html>", "text ".repeat(2000));
        let expect = page.replace("\"/x\"", "\"/p/x\"");
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(page.as_bytes()).expect("written");
        let bytes = encoder.finish().expect("ended");
        for size in [1, 7, bytes.len()] {
            let (mut page, mut out) = (Page::compressed(rewriter()), Vec::new());
            for piece in bytes.chunks(size) {
                out.extend_from_slice(&page.push(piece).expect("read"));
            }
            out.extend_from_slice(&page.finish().expect("ended"));
            let mut text = String::new();
            flate2::read::GzDecoder::new(out.as_slice()).read_to_string(&mut text).expect("gzip");
            assert_eq!(text, expect, "pieces of {size}");
        }
        let mut broken = Page::compressed(rewriter());
        assert!(broken.push(b"no gzip at all").is_err());
    }
}
