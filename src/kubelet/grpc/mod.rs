//! gRPC as far as a node needs it: calls over one connection each, with one answer or a stream of them, small services
//! (`server`), and messages written by hand (`proto`). The services are few and small, so that generated code would be the
//! larger part of it.

pub(crate) mod proto;
pub(crate) mod server;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;

use crate::connections::Stream;
use proto::Message;

/// More is no answer to any call that is made here.
const MAX_ANSWER: usize = 16 << 20;

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
pub(crate) const INVALID_ARGUMENT: u32 = 3;
pub(crate) const DEADLINE_EXCEEDED: u32 = 4;
pub(crate) const NOT_FOUND: u32 = 5;
pub(crate) const FAILED_PRECONDITION: u32 = 9;
pub(crate) const OUT_OF_RANGE: u32 = 11;
pub(crate) const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;
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
    let talk = async { call(dial(socket).await?, "http://localhost", method, request).await };
    within(limit, talk).await
}

/// The same with a stream of answers; `limit` is for its beginning.
pub(crate) async fn unix_stream(
    socket: &Path,
    method: &str,
    request: Message,
    limit: Duration,
) -> Result<Answers, Failure> {
    let talk = async {
        let Open { response, link } = open(dial(socket).await?, "http://localhost", method, request).await?;
        let outcome = status(response.headers());
        Ok(Answers { body: response.into_body(), link, rest: BytesMut::new(), outcome })
    };
    within(limit, talk).await
}

async fn within<T>(limit: Duration, talk: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(limit, talk)
        .await
        .unwrap_or_else(|_| Err(Failure { code: DEADLINE_EXCEEDED, message: "context deadline exceeded".to_owned() }))
}

async fn dial(socket: &Path) -> Result<Box<dyn Stream>, Failure> {
    let stream = UnixStream::connect(socket).await.map_err(|e| {
        let socket = socket.display();
        Failure::unavailable(format!("connection error: desc = \"transport: Error while dialing: {socket}: {e}\""))
    })?;
    Ok(Box::new(stream))
}

/// A connection, for as long as its answers are wanted.
struct Link {
    /// What moves it; `None` once it has ended well.
    moves: Option<BoxFuture<'static, hyper::Result<()>>>,
    _sender: SendRequest<Full<Bytes>>,
}

impl Link {
    /// Waits for something that comes over the connection.
    async fn bring<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::pin!(work);
        if let Some(moves) = &mut self.moves {
            tokio::select! {
                done = &mut work => return Ok(done),
                ended = moves => ended.map_err(Failure::unavailable)?,
            }
            self.moves = None;
        }
        Ok(work.await)
    }
}

struct Open {
    response: Response<Incoming>,
    link: Link,
}

/// Sends the only request of a connection of its own, and waits for the head of what is answered.
async fn open(stream: Box<dyn Stream>, base: &str, method: &str, request: Message) -> Result<Open, Failure> {
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
    let sent = sender.send_request(request);
    let mut link = Link { moves: Some(Box::pin(connection)), _sender: sender };
    let response = link.bring(sent).await?.map_err(Failure::unavailable)?;
    Ok(Open { response, link })
}

/// One call on a connection of its own, with one message each way.
pub(crate) async fn call(
    stream: Box<dyn Stream>,
    base: &str,
    method: &str,
    request: Message,
) -> Result<Bytes, Failure> {
    let Open { response, mut link } = open(stream, base, method, request).await?;
    // An answer that is all failure has it in its head.
    let mut outcome = status(response.headers());
    let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
    let body = link.bring(body.collect()).await?.map_err(Failure::unavailable)?;
    if let Some(trailers) = body.trailers() {
        outcome = status(trailers);
    }
    judged(outcome)?;
    let mut rest = BytesMut::from(&body.to_bytes()[..]);
    match unframed(&mut rest)? {
        Some(message) if rest.is_empty() => Ok(message),
        _ => Err(Failure { code: INTERNAL, message: "the answer is no message".to_owned() }),
    }
}

/// What an outcome says; one that is missing is a failure.
fn judged(outcome: Option<(u32, String)>) -> Result<(), Failure> {
    match outcome.unwrap_or((UNKNOWN, "the answer has no status".to_owned())) {
        (0, _) => Ok(()),
        (code, message) => Err(Failure { code, message }),
    }
}

/// The answers of one call, as they come.
pub(crate) struct Answers {
    body: Incoming,
    link: Link,
    /// What has come of the next message.
    rest: BytesMut,
    outcome: Option<(u32, String)>,
}

impl Answers {
    /// The next one; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(message) = unframed(&mut self.rest)? {
                return Ok(Some(message));
            }
            let frame = match self.link.bring(self.body.frame()).await? {
                Some(frame) => frame.map_err(Failure::unavailable)?,
                None => return judged(self.outcome.take()).map(|()| None),
            };
            match frame.into_data() {
                Ok(data) => self.rest.extend_from_slice(&data),
                Err(other) => {
                    if let Ok(trailers) = other.into_trailers() {
                        self.outcome = status(&trailers);
                    }
                }
            }
        }
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

/// Takes the first message out of what has come; `None` while it is not whole.
fn unframed(rest: &mut BytesMut) -> Result<Option<Bytes>, Failure> {
    let Some(head) = rest.first_chunk::<5>() else { return Ok(None) };
    let [compressed, length @ ..] = *head;
    let length = u32::from_be_bytes(length) as usize;
    if compressed != 0 || length > MAX_ANSWER {
        let message = "the answer is compressed or too long".to_owned();
        return Err(Failure { code: INTERNAL, message });
    }
    if rest.len() < 5 + length {
        return Ok(None);
    }
    rest.advance(5);
    Ok(Some(rest.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_failures() {
        assert_eq!(&framed(b"ab")[..], [0, 0, 0, 0, 2, b'a', b'b']);
        let mut two = BytesMut::from(&[&framed(b"ab")[..], &framed(b""), &[0, 0, 0, 0, 2, 1]].concat()[..]);
        for expect in [Some(&b"ab"[..]), Some(b""), None] {
            assert_eq!(unframed(&mut two).expect("good frames").as_deref(), expect);
        }
        for part in [&b""[..], &[0, 0, 0, 0][..]] {
            assert_eq!(unframed(&mut BytesMut::from(part)), Ok(None));
        }
        for bad in [[1, 0, 0, 0, 0], [0, 0xff, 0, 0, 0]] {
            assert!(unframed(&mut BytesMut::from(&bad[..])).is_err());
        }
        assert_eq!(percent_decoded("a%20b%zz%"), "a b%zz%");
        let failure = Failure { code: NOT_FOUND, message: "no such volume".into() };
        assert_eq!(failure.to_string(), "rpc error: code = NotFound desc = no such volume");
    }
}
