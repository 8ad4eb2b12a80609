//! gzip, for large answers to clients that take it.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use http::HeaderValue;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, VARY};

use crate::reply::{Payload, Reply};

/// As upstream: smaller answers cost more time to compress than to send.
const THRESHOLD: usize = 128 << 10;

/// Whether a client reads it, by its `Accept-Encoding`.
pub(crate) fn takes_gzip(accepted: Option<&HeaderValue>) -> bool {
    let accepted = accepted.and_then(|v| v.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|e| e.split(';').next().unwrap_or_default().trim() == "gzip")
}

pub(crate) fn compress(mut reply: Reply, accepted: Option<&HeaderValue>) -> Reply {
    // What comes with its length comes from another server, and is passed on as it is.
    let is_passed_on = [CONTENT_ENCODING, CONTENT_LENGTH].iter().any(|name| reply.headers.contains_key(name));
    if !takes_gzip(accepted) || is_passed_on {
        return reply;
    }
    reply.body = match reply.body {
        Payload::Whole(bytes) if bytes.len() < THRESHOLD => {
            reply.body = Payload::Whole(bytes);
            return reply;
        }
        Payload::Whole(bytes) => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            let written = encoder.write_all(&bytes).and_then(|()| encoder.finish());
            Payload::Whole(written.map_or(bytes, Bytes::from))
        }
        // A list in pieces is long; a watch or a log must not wait for the compressor.
        Payload::Pieces(pieces) if reply.list => {
            let encoder = GzEncoder::new(Vec::new(), Compression::fast());
            let compressed = futures::stream::unfold((pieces, Some(encoder)), |(mut pieces, encoder)| async move {
                let mut encoder = encoder?;
                let out = match pieces.next().await {
                    // Each piece goes out at once: a server behind this one may let the next wait for long.
                    Some(Ok(piece)) => encoder
                        .write_all(&piece)
                        .and_then(|()| encoder.flush())
                        .map(|()| std::mem::take(encoder.get_mut())),
                    Some(Err(error)) => Err(error),
                    None => return Some((encoder.finish().map(Bytes::from), (pieces, None))),
                };
                let ended = out.is_err();
                Some((out.map(Bytes::from), (pieces, (!ended).then_some(encoder))))
            });
            Payload::Pieces(compressed.boxed())
        }
        Payload::Pieces(pieces) => {
            reply.body = Payload::Pieces(pieces);
            return reply;
        }
    };
    reply.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    reply.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    reply
}
