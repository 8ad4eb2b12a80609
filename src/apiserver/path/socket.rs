//! What is streamed, over a WebSocket: a watch, each frame of which is a text message, and bytes as they come.

use base64::Engine;
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use http::{HeaderMap, StatusCode};
use hyper_util::rt::TokioIo;
use skiff_api::ApiError;
use skiff_base::{CancellationToken, chain};
use skiff_streaming::upgrade::{self, Upgrade};
use skiff_streaming::websocket::{self, CLOSE_NORMAL, CLOSE_PROTOCOL_ERROR, Decoder};
use skiff_streaming::{Connection, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::call::Call;
use crate::reply::{Payload, Reply};
use crate::server::Server;

/// A client has nothing to say but pings and its goodbye.
const INPUT: usize = 4096;

/// How bytes are told, by upstream's subprotocols.
const BYTES: [(&str, Messages); 3] =
    [("", Messages::Binary), ("binary.k8s.io", Messages::Binary), ("base64.binary.k8s.io", Messages::Base64)];

/// What becomes a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Messages {
    /// Each line, as text.
    Lines,
    /// Each piece.
    Binary,
    /// Each piece, as text.
    Base64,
}

/// The upgrade to a WebSocket that was asked for.
pub(crate) fn asked(call: &Call) -> Result<Option<Upgrade>, ApiError> {
    let upgrade = upgrade::asked(&call.headers).map_err(ApiError::bad_request)?;
    Ok(upgrade.filter(|upgrade| matches!(upgrade, Upgrade::WebSocket { .. })))
}

fn offered(upgrade: &Upgrade) -> &[String] {
    match upgrade {
        Upgrade::WebSocket { offered, .. } => offered,
        Upgrade::Spdy { .. } => &[],
    }
}

/// The frames of a watch.
pub(super) fn reply(
    server: &Server,
    call: &Call,
    upgrade: &Upgrade,
    frames: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
) -> Reply {
    // As upstream: with the subprotocol, if the client names one, whatever it is.
    let chosen = if let [one] = offered(upgrade) { one } else { "" };
    switch(server, call, upgrade, (chosen, Messages::Lines), frames.boxed())
}

/// Bytes, each piece of which is a message; an empty message comes first and tells that it works.
pub(crate) fn reply_bytes(
    server: &Server,
    call: &Call,
    upgrade: &Upgrade,
    pieces: BoxStream<'static, Result<Bytes, std::io::Error>>,
) -> Reply {
    match plan_bytes(offered(upgrade)) {
        Some(chosen) => {
            let all = futures::stream::iter([Ok(Bytes::new())]).chain(pieces);
            switch(server, call, upgrade, chosen, all.boxed())
        }
        None => {
            let text = format!(
                "requested protocol(s) are not supported: {:?}; supports {:?}",
                offered(upgrade),
                BYTES.map(|(name, _)| name)
            );
            ApiError::new(403, "Forbidden", text).into()
        }
    }
}

/// The first that the client offers and we know; none is one too.
fn plan_bytes(offered: &[String]) -> Option<(&'static str, Messages)> {
    let known = |name: &str| BYTES.into_iter().find(|(known, _)| *known == name);
    if offered.is_empty() { known("") } else { offered.iter().find_map(|name| known(name)) }
}

/// `101 Switching Protocols`, and everything after it.
fn switch(
    server: &Server,
    call: &Call,
    upgrade: &Upgrade,
    (chosen, messages): (&str, Messages),
    frames: BoxStream<'static, Result<Bytes, std::io::Error>>,
) -> Reply {
    let Some(connection) = call.wire.take_upgrade() else {
        return ApiError::bad_request("this connection can't be upgraded: WebSockets need HTTP/1.1").into();
    };
    let (stop, held) = (server.scope.token().clone(), call.wire.held());
    server.scope.spawn(async move {
        let _held = held;
        let upgraded = tokio::select! {
            upgraded = connection => upgraded,
            () = stop.cancelled() => return,
        };
        match upgraded {
            Ok(io) => carry(TokioIo::new(io), frames, messages, &stop).await,
            Err(error) => tracing::debug!(error = %chain(&error), "upgrade to a WebSocket"),
        }
    });
    let mut reply = Reply {
        status: StatusCode::SWITCHING_PROTOCOLS,
        headers: HeaderMap::new(),
        body: Payload::Whole(Bytes::new()),
        list: false,
    };
    for (name, value) in upgrade::accepted(upgrade, chosen) {
        reply.set(name, &value);
    }
    reply
}

/// Sends frames until they or the client end. While the client does not read, nothing is taken.
async fn carry(
    io: impl Connection,
    mut frames: BoxStream<'static, Result<Bytes, std::io::Error>>,
    messages: Messages,
    stop: &CancellationToken,
) {
    let (mut reader, mut writer) = tokio::io::split(io);
    let (mut decoder, mut input, mut out) =
        (Decoder::new(Role::Server), BytesMut::with_capacity(INPUT), BytesMut::new());
    let mut goes_on = true;
    while goes_on {
        tokio::select! {
            piece = frames.next() => match piece {
                Some(Ok(piece)) => encode(messages, &piece, &mut out),
                Some(Err(_)) | None => {
                    websocket::encode_close(Role::Server, CLOSE_NORMAL, &mut out);
                    goes_on = false;
                }
            },
            read = reader.read_buf(&mut input) => {
                if !read.is_ok_and(|length| length > 0) {
                    return;
                }
                goes_on = hear(&mut decoder, &mut input, &mut out);
            }
            () = stop.cancelled() => {
                websocket::encode_close(Role::Server, CLOSE_NORMAL, &mut out);
                goes_on = false;
            }
        }
        let written = tokio::select! {
            written = writer.write_all_buf(&mut out) => written,
            () = stop.cancelled() => return,
        };
        if written.is_err() {
            return;
        }
        // A large frame's buffer is not kept.
        out = BytesMut::new();
    }
    // The client may be gone already.
    let _ = writer.shutdown().await;
}

fn encode(messages: Messages, piece: &[u8], out: &mut BytesMut) {
    match messages {
        Messages::Lines => {
            for line in piece.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                websocket::encode_text(Role::Server, &String::from_utf8_lossy(line), out);
            }
        }
        Messages::Binary => websocket::encode_binary(Role::Server, &[piece], out),
        Messages::Base64 => {
            let text = base64::engine::general_purpose::STANDARD.encode(piece);
            websocket::encode_text(Role::Server, &text, out);
        }
    }
}

/// What a client says is passed over. False: it says goodbye, or nonsense.
fn hear(decoder: &mut Decoder, input: &mut BytesMut, out: &mut BytesMut) -> bool {
    loop {
        match decoder.next(input) {
            Ok(None) => return true,
            Ok(Some(websocket::Event::Data { .. } | websocket::Event::Pong)) => {}
            Ok(Some(websocket::Event::Ping(payload))) => websocket::encode_pong(Role::Server, &payload, out),
            Ok(Some(websocket::Event::Close(_))) => {
                websocket::encode_close(Role::Server, CLOSE_NORMAL, out);
                return false;
            }
            Err(_) => {
                websocket::encode_close(Role::Server, CLOSE_PROTOCOL_ERROR, out);
                return false;
            }
        }
    }
}
