//! A watch over a WebSocket: each frame is a text message.

use bytes::{Bytes, BytesMut};
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

/// The upgrade that a watch was asked for with.
pub(super) fn asked(call: &Call) -> Result<Option<Upgrade>, ApiError> {
    let upgrade = upgrade::asked(&call.headers).map_err(ApiError::bad_request)?;
    Ok(upgrade.filter(|upgrade| matches!(upgrade, Upgrade::WebSocket { .. })))
}

/// `101 Switching Protocols`, and everything after it.
pub(super) fn reply(
    server: &Server,
    call: &Call,
    upgrade: &Upgrade,
    frames: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
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
            Ok(io) => carry(TokioIo::new(io), frames, &stop).await,
            Err(error) => tracing::debug!(error = %chain(&error), "upgrade a watch"),
        }
    });
    let mut reply = Reply {
        status: StatusCode::SWITCHING_PROTOCOLS,
        headers: HeaderMap::new(),
        body: Payload::Whole(Bytes::new()),
        list: false,
    };
    // As upstream: with the subprotocol, if the client names one, whatever it is.
    let chosen = match upgrade {
        Upgrade::WebSocket { offered, .. } => match offered.as_slice() {
            [one] => one.as_str(),
            _ => "",
        },
        Upgrade::Spdy { .. } => "",
    };
    for (name, value) in upgrade::accepted(upgrade, chosen) {
        reply.set(name, &value);
    }
    reply
}

/// Sends frames until they or the client end. While the client does not read, nothing is taken.
async fn carry(
    io: impl Connection,
    frames: impl Stream<Item = Result<Bytes, std::io::Error>>,
    stop: &CancellationToken,
) {
    let (mut reader, mut writer) = tokio::io::split(io);
    let mut frames = std::pin::pin!(frames);
    let (mut decoder, mut input, mut out) =
        (Decoder::new(Role::Server), BytesMut::with_capacity(INPUT), BytesMut::new());
    let mut goes_on = true;
    while goes_on {
        tokio::select! {
            piece = frames.next() => match piece {
                Some(Ok(piece)) => messages(&piece, &mut out),
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

/// One message for each line.
fn messages(piece: &[u8], out: &mut BytesMut) {
    for line in piece.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        websocket::encode_text(Role::Server, &String::from_utf8_lossy(line), out);
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
