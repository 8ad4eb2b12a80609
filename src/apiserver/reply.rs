//! One answer: status, headers, and a body that is there or still to come.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WARNING};
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use serde_json::Value;
use skiff_api::ApiError;

pub(crate) const JSON: &str = "application/json";

pub(crate) struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Payload,
    /// The pieces are a list, which ends, and not a watch or a log.
    pub list: bool,
}

pub(crate) enum Payload {
    Whole(Bytes),
    /// An error ends the answer early; the client sees a broken transfer.
    Pieces(BoxStream<'static, Result<Bytes, std::io::Error>>),
}

impl Reply {
    pub fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let mut reply = Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            headers: HeaderMap::new(),
            body: Payload::Whole(body.into()),
            list: false,
        };
        reply.set(CONTENT_TYPE, content_type);
        reply
    }

    pub fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, JSON, body)
    }

    pub fn value(status: u16, value: &Value) -> Self {
        Self::json(status, value.to_string())
    }

    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", text.into())
    }

    pub fn pieces(
        content_type: &str,
        pieces: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    ) -> Self {
        let mut reply = Self::new(200, content_type, Bytes::new());
        reply.body = Payload::Pieces(pieces.boxed());
        reply
    }

    /// Values that no header can hold are left out.
    pub fn set(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
    }

    pub fn warn(&mut self, text: &str) {
        let quoted: String = text.chars().filter(|c| !c.is_control()).collect();
        let quoted = quoted.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            self.headers.append(WARNING, value);
        }
    }

    /// The whole body; pieces are collected.
    pub async fn into_whole(self) -> Result<(StatusCode, HeaderMap, Bytes), std::io::Error> {
        let body = match self.body {
            Payload::Whole(body) => body,
            Payload::Pieces(mut pieces) => {
                let mut all = Vec::new();
                while let Some(piece) = pieces.next().await {
                    all.extend_from_slice(&piece?);
                }
                Bytes::from(all)
            }
        };
        Ok((self.status, self.headers, body))
    }
}

impl From<ApiError> for Reply {
    fn from(error: ApiError) -> Self {
        let mut reply = Self::value(error.code, &error.to_value());
        if let Some(seconds) = error.details.as_ref().and_then(|d| d.retry_after_seconds) {
            reply.set(RETRY_AFTER, &seconds.to_string());
        }
        reply
    }
}

impl http_body::Body for Payload {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Pieces(pieces) => pieces.as_mut().poll_next(context).map(|piece| piece.map(|p| p.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Whole(bytes) => http_body::SizeHint::with_exact(bytes.len() as u64),
            Self::Pieces(_) => http_body::SizeHint::default(),
        }
    }
}
