//! gRPC as far as a node needs it: calls over one connection each, and messages written by hand. The services are few and
//! small, so that generated code would be the larger part of it.

pub(crate) mod proto;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use proto::Message;

/// More is no answer to any call that is made here.
const MAX_ANSWER: usize = 16 << 20;

/// A connection, whatever it goes over: one copy of the protocol for all.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why a call has no answer; said as Go's client does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) struct Failure {
    /// Of the protocol; 14 where the service can't be reached.
    pub(crate) code: u32,
    pub(crate) message: String,
}

const CANCELLED_TO_UNAUTHENTICATED: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
pub(crate) const UNKNOWN: u32 = 2;
const DEADLINE_EXCEEDED: u32 = 4;
pub(crate) const NOT_FOUND: u32 = 5;
pub(crate) const UNIMPLEMENTED: u32 = 12;
const UNAVAILABLE: u32 = 14;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = CANCELLED_TO_UNAUTHENTICATED.get(self.code as usize).copied().unwrap_or("Unknown");
        write!(f, "rpc error: code = {name} desc = {}", self.message)
    }
}

impl Failure {
    fn unavailable(error: impl fmt::Display) -> Self {
        Self { code: UNAVAILABLE, message: error.to_string() }
    }
}

/// Calls a method (`/package.Service/Method`) of the service behind a socket.
pub(crate) async fn unix(socket: &Path, method: &str, request: Message, limit: Duration) -> Result<Bytes, Failure> {
    let talk = async {
        let stream = UnixStream::connect(socket).await.map_err(|e| {
            Failure::unavailable(format!(
                "connection error: desc = \"transport: Error while dialing: {}: {e}\"",
                socket.display()
            ))
        })?;
        call(Box::new(stream), "http://localhost", method, request).await
    };
    tokio::time::timeout(limit, talk)
        .await
        .unwrap_or_else(|_| Err(Failure { code: DEADLINE_EXCEEDED, message: "context deadline exceeded".to_owned() }))
}

/// One call on a connection of its own, with one message each way.
pub(crate) async fn call(
    stream: Box<dyn Stream>,
    base: &str,
    method: &str,
    request: Message,
) -> Result<Bytes, Failure> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(Failure::unavailable)?;
    let request = Request::post(format!("{base}{method}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::USER_AGENT, "kube-probe/1.36")
        .header(header::TE, "trailers")
        .body(Full::new(framed(&request.into_bytes())))
        .map_err(Failure::unavailable)?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(Failure::unavailable)?;
        // An answer that is all failure has it in its head.
        let mut outcome = status(response.headers());
        let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
        let body = body.collect().await.map_err(Failure::unavailable)?;
        if let Some(trailers) = body.trailers() {
            outcome = status(trailers);
        }
        let (code, message) = outcome.unwrap_or((UNKNOWN, "the answer has no status".to_owned()));
        if code != 0 {
            return Err(Failure { code, message });
        }
        unframed(body.to_bytes()).ok_or_else(|| Failure { code: 13, message: "the answer is no message".to_owned() })
    };
    tokio::pin!(talk, connection);
    tokio::select! {
        result = &mut talk => result,
        ended = &mut connection => match ended {
            Ok(()) => talk.await,
            Err(e) => Err(Failure::unavailable(e)),
        },
    }
}

fn status(headers: &HeaderMap) -> Option<(u32, String)> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let code = text("grpc-status")?.parse().unwrap_or(UNKNOWN);
    Some((code, percent_decoded(&text("grpc-message").unwrap_or_default())))
}

/// Messages of failures are percent-encoded.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = (byte == b'%').then(|| tail.get(..2)).flatten();
        match code.and_then(|c| std::str::from_utf8(c).ok()).and_then(|c| u8::from_str_radix(c, 16).ok()) {
            Some(code) => {
                out.push(code);
                rest = &tail[2..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A message in its frame: not compressed, its length, itself.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

fn unframed(frame: Bytes) -> Option<Bytes> {
    let length = u32::from_be_bytes(frame.get(1..5)?.try_into().ok()?) as usize;
    (frame[0] == 0 && frame.len() == 5 + length).then(|| frame.slice(5..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_failures() {
        assert_eq!(&framed(b"ab")[..], [0, 0, 0, 0, 2, b'a', b'b']);
        assert_eq!(unframed(framed(b"ab")).as_deref(), Some(&b"ab"[..]));
        for bad in [&b""[..], &[0, 0, 0, 0][..], &[1, 0, 0, 0, 0][..], &[0, 0, 0, 0, 2, 1][..]] {
            assert_eq!(unframed(Bytes::copy_from_slice(bad)), None);
        }
        assert_eq!(percent_decoded("a%20b%zz%"), "a b%zz%");
        let failure = Failure { code: NOT_FOUND, message: "no such volume".into() };
        assert_eq!(failure.to_string(), "rpc error: code = NotFound desc = no such volume");
    }
}
