//! gRPC as tests need it that play drivers and plugins: messages, a service, one call.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::{mpsc, oneshot};

/// One field of a message: a text, or a nested message.
pub fn block(field: u8, bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 1 << 14, "the test's messages are small");
    let (low, high) = ((bytes.len() & 0x7f) as u8, (bytes.len() >> 7) as u8);
    let length = if high == 0 { vec![low] } else { vec![low | 0x80, high] };
    [&[field << 3 | 2], &length[..], bytes].concat()
}

pub fn number(field: u8, value: u8) -> Vec<u8> {
    vec![field << 3, value]
}

/// The fields of a message; numbers as their text.
pub fn fields(mut rest: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(rest: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = rest[0];
            *rest = &rest[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest);
        let value = varint(&mut rest);
        if key & 7 == 0 {
            found.push((key >> 3, value.to_string().into_bytes()));
        } else {
            let (bytes, tail) = rest.split_at(usize::try_from(value).expect("a length"));
            rest = tail;
            found.push((key >> 3, bytes.to_vec()));
        }
    }
    found
}

/// All values of a field.
pub fn all(message: &[u8], field: u64) -> Vec<Vec<u8>> {
    fields(message).into_iter().filter(|(number, _)| *number == field).map(|(_, bytes)| bytes).collect()
}

pub fn text(message: &[u8], field: u64) -> String {
    all(message, field).first().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
}

pub fn map(message: &[u8], field: u64) -> BTreeMap<String, String> {
    all(message, field).iter().map(|entry| (text(entry, 1), text(entry, 2))).collect()
}

fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("small").to_be_bytes();
    [&[0], &length[..], message].concat().into()
}

pub enum Answer {
    Message(Vec<u8>),
    Failure(String),
    /// One message after the other, until the sender goes.
    Messages(mpsc::UnboundedReceiver<Vec<u8>>),
}

impl From<Result<Vec<u8>, String>> for Answer {
    fn from(result: Result<Vec<u8>, String>) -> Self {
        match result {
            Ok(message) => Self::Message(message),
            Err(why) => Self::Failure(why),
        }
    }
}

/// What answers a method's request.
pub type Service = Arc<dyn Fn(&str, &[u8]) -> Answer + Send + Sync>;

async fn serve(
    service: Service,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.expect("a request").to_bytes().slice(5..).to_vec();
    let response = Response::builder().header("content-type", "application/grpc");
    // It may take its time.
    let answer = tokio::task::spawn_blocking(move || service(&method, &body)).await.expect("an answer");
    Ok(match answer {
        // The status of a whole answer may stand in its head, as long as trailers say nothing else.
        Answer::Message(message) => response.header("grpc-status", "0").body(Full::new(framed(&message)).boxed()),
        Answer::Failure(why) => {
            let why: String = why.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' }).collect();
            let response = response.header("grpc-status", "13").header("grpc-message", why);
            response.body(Full::new(Bytes::new()).boxed())
        }
        Answer::Messages(messages) => {
            let messages = stream::unfold(messages, async |mut messages| Some((messages.recv().await?, messages)));
            let frames = messages.map(|message| Ok(Frame::data(framed(&message))));
            response.body(BodyExt::boxed(StreamBody::new(frames)))
        }
    }
    .expect("a response"))
}

/// A service that ends, with all its connections, when this is dropped.
pub struct Listening(Option<oneshot::Sender<()>>, Option<std::thread::JoinHandle<()>>);

impl Drop for Listening {
    fn drop(&mut self) {
        drop(self.0.take());
        drop(self.1.take().map(std::thread::JoinHandle::join));
    }
}

#[must_use]
pub fn listen(socket: PathBuf, service: Service) -> Listening {
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    listener.set_nonblocking(true).expect("not blocking");
    let (end, ended) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let accept = async move {
            let listener = tokio::net::UnixListener::from_std(listener).expect("a listener");
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let service = service.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| serve(service.clone(), request));
                    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    drop(served.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        };
        runtime.block_on(async {
            tokio::select! {
                _ = ended => {}
                () = accept => {}
            }
        });
        runtime.shutdown_background();
    });
    Listening(Some(end), Some(thread))
}

/// Calls `/package.Service/Method`.
pub fn call(socket: &Path, method: &str, message: &[u8]) -> Result<Vec<u8>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let stream = tokio::net::UnixStream::connect(socket).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let request = Request::post(format!("http://localhost{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(framed(message)))
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let body = response.into_body().collect().await.map_err(|e| e.to_string())?;
        let said = |name: &str| {
            let value = body.trailers().and_then(|trailers| trailers.get(name));
            value.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        match said("grpc-status").as_str() {
            "0" => Ok(body.to_bytes().slice(5..).to_vec()),
            status => Err(format!("{status} {}", said("grpc-message"))),
        }
    })
}
