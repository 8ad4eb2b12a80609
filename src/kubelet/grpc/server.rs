//! Services that others on this machine call over sockets, one message each way.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::Frame;
use skiff_base::Scope;
use tokio::net::UnixListener;

use super::proto::Message;
use super::{Failure, INTERNAL, INVALID_ARGUMENT, UNIMPLEMENTED, framed, unframed};
use crate::connections::{self, Body, Handler};

/// Connections at once.
const MAX_CONNECTIONS: usize = 64;
/// More is no request to any service that is served here.
const MAX_REQUEST: usize = 1 << 20;

#[async_trait]
pub(crate) trait Service: Send + Sync + 'static {
    /// Answers a call of a method (`/package.Service/Method`); `None` where there is no such method.
    async fn call(&self, method: &str, request: &[u8]) -> Option<Result<Message, Failure>>;
}

/// Serves on a new socket in the place of an old one, until the scope stops.
pub(crate) fn serve(scope: &Scope, socket: &Path, service: Arc<dyn Service>) -> io::Result<()> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    let handler: Handler = Arc::new(move |request| {
        let service = service.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let answer = match Limited::new(body, MAX_REQUEST).collect().await {
                Ok(body) => answer(&*service, head.uri.path(), &body.to_bytes()).await,
                Err(error) => Err(Failure { code: INTERNAL, message: error.to_string() }),
            };
            response(answer)
        })
    });
    connections::take(scope, listener, MAX_CONNECTIONS, move |stream| {
        let handler = handler.clone();
        async move {
            if let Err(error) = connections::speak(Box::new(stream), handler).await {
                tracing::debug!(error, "a connection ended early");
            }
        }
    });
    Ok(())
}

async fn answer(service: &dyn Service, method: &str, body: &[u8]) -> Result<Message, Failure> {
    let message = unframed(&mut BytesMut::from(body)).ok().flatten();
    let no_message = || Failure { code: INVALID_ARGUMENT, message: "the request is no message".to_owned() };
    let unknown = || Failure { code: UNIMPLEMENTED, message: format!("unknown method {method}") };
    service.call(method, &message.ok_or_else(no_message)?).await.unwrap_or_else(|| Err(unknown()))
}

/// The outcome comes after the message, as clients expect it.
fn response(answer: Result<Message, Failure>) -> Response<Body> {
    let mut outcome = HeaderMap::new();
    let message = match answer {
        Ok(message) => {
            outcome.insert("grpc-status", HeaderValue::from_static("0"));
            Some(framed(&message.into_bytes()))
        }
        Err(failure) => {
            outcome.insert("grpc-status", HeaderValue::from(failure.code));
            if let Ok(text) = HeaderValue::from_str(&percent_encoded(&failure.message)) {
                outcome.insert("grpc-message", text);
            }
            None
        }
    };
    let frames = message.map(Frame::data).into_iter().chain([Frame::trailers(outcome)]);
    let frames = frames.map(Ok::<Frame<Bytes>, io::Error>);
    let mut response = Response::new(StreamBody::new(stream::iter(frames.collect::<Vec<_>>())).boxed());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::{self, proto::Fields};
    use std::time::Duration;

    struct Echo;

    #[async_trait]
    impl Service for Echo {
        async fn call(&self, method: &str, request: &[u8]) -> Option<Result<Message, Failure>> {
            let said = Fields::parse(request).unwrap_or_default().text(1);
            match method {
                "/test.Echo/Say" => Some(Ok(Message::new().text(1, &said))),
                "/test.Echo/Fail" => Some(Err(Failure { code: 5, message: format!("no \"{said}\" é%") })),
                _ => None,
            }
        }
    }

    #[tokio::test]
    async fn what_is_called_answers() {
        let directory = tempfile::tempdir().expect("a directory");
        let (socket, scope) = (directory.path().join("s.sock"), Scope::new());
        fs::write(&socket, "an old one").expect("a file");
        serve(&scope, &socket, Arc::new(Echo)).expect("served");
        let call = async |method: &str| {
            let request = Message::new().text(1, "word");
            let answer = grpc::unix(&socket, &format!("/test.Echo/{method}"), request, Duration::from_secs(20)).await;
            answer.map(|bytes| Fields::parse(&bytes).expect("a message").text(1)).map_err(|failure| failure.to_string())
        };
        assert_eq!(call("Say").await.as_deref(), Ok("word"));
        assert_eq!(call("Fail").await, Err("rpc error: code = NotFound desc = no \"word\" é%".to_owned()));
        let unknown = "rpc error: code = Unimplemented desc = unknown method /test.Echo/Other";
        assert_eq!(call("Other").await, Err(unknown.to_owned()));
        // One message is a stream, too.
        let request = Message::new().text(1, "word");
        let mut answers =
            grpc::unix_stream(&socket, "/test.Echo/Say", request, Duration::from_secs(20)).await.expect("begun");
        let first = answers.next().await.expect("good").expect("a message");
        assert_eq!(Fields::parse(&first).expect("a message").text(1), "word");
        assert_eq!(answers.next().await, Ok(None));
        scope.stop().await;
    }
}
