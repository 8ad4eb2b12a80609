//! One request on its way to another server, and its answer on the way back; with an upgrade, everything after it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, BodyStream, Either, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use skiff_base::{CancellationToken, chain};
use tokio::io::{AsyncWriteExt, BufReader};

use super::upstream::{Body, Connection, Io, Upstream};
use super::wire::Wire;
use crate::call::Call;
use crate::reply::{Payload, Reply};
use crate::server::Server;

/// How long the other server may take to answer a request for an upgrade.
const UPGRADE_LIMIT: Duration = Duration::from_secs(60);
/// How long either end may take to hear that a stream has ended.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);
/// What is carried at once, each way.
const CHUNK: usize = 32 * 1024;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A request without what concerns the caller's connection and identity alone.
pub(crate) fn outbound(call: &Call, method: Method, path: &str, upstream: &Upstream) -> Result<Request<Body>, String> {
    let body = match call.wire.take_body() {
        Some(body) => Either::Left(body),
        None => Either::Right(Full::new(call.body.clone())),
    };
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|e| format!("{path:?} is no path: {e}"))?;
    let upgrade = upgrade_of(&call.headers);
    let headers = request.headers_mut();
    *headers = call.headers.clone();
    strip(headers);
    headers.remove(AUTHORIZATION);
    let private: Vec<HeaderName> = headers.keys().filter(|k| k.as_str().starts_with("impersonate-")).cloned().collect();
    for name in private {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, upgrade);
    }
    if !headers.contains_key(HOST) {
        headers.insert(HOST, upstream.address().parse().map_err(|_| "the server's address is no header".to_owned())?);
    }
    add_peer(headers, &call.wire);
    Ok(request)
}

fn add_peer(headers: &mut HeaderMap, wire: &Wire) {
    let Some(peer) = wire.peer else { return };
    let before = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let all: Vec<String> = before.map(str::to_owned).chain([peer.to_string()]).collect();
    if let Ok(value) = all.join(", ").parse() {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// The protocol that is asked for.
pub(crate) fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let asks = asks.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(UPGRADE).filter(|_| asks).cloned()
}

/// Removes what concerns one connection only (RFC 9110, 7.6.1).
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|word| word.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization"] {
        headers.remove(name);
    }
}

impl Server {
    pub(crate) async fn connect_upstream(&self, upstream: &Upstream) -> io::Result<Connection> {
        let io = TokioIo::new(upstream.connect().await?);
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(io::Error::other)?;
        let stop = self.scope.token().clone();
        self.scope.spawn(async move {
            tokio::select! {
                ended = connection.with_upgrades() => if let Err(error) = ended {
                    tracing::debug!(error = %chain(&error), "connection to another server");
                },
                () = stop.cancelled() => {}
            }
        });
        Ok(sender)
    }

    /// Sends a request to another server; the connection is for it alone.
    pub(crate) async fn send_upstream(
        &self,
        upstream: &Upstream,
        request: Request<Body>,
    ) -> io::Result<(Response<Incoming>, Connection)> {
        let mut sender = self.connect_upstream(upstream).await?;
        let upgrades = upgrade_of(request.headers()).is_some();
        let answer = async { sender.send_request(request).await.map_err(io::Error::other) };
        let response = match upgrades {
            true => tokio::time::timeout(UPGRADE_LIMIT, answer)
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer to the request for an upgrade"))??,
            false => answer.await?,
        };
        Ok((response, sender))
    }

    /// The answer as it is; a connection that was upgraded is carried from here on.
    pub(crate) fn pass_back(&self, call: &Call, mut response: Response<Incoming>, sender: Connection) -> Reply {
        let status = response.status();
        let mut headers = std::mem::take(response.headers_mut());
        if status == http::StatusCode::SWITCHING_PROTOCOLS
            && let Some(client) = call.wire.take_upgrade()
        {
            let (upstream, stop) = (hyper::upgrade::on(response), self.scope.token().clone());
            let held = call.wire.held();
            self.scope.spawn(async move {
                let _held = held;
                let (Ok(client), Ok(upstream)) = futures::join!(client, upstream) else { return };
                carry(TokioIo::new(client), TokioIo::new(upstream), stop).await;
            });
            return Reply { status, headers, body: Payload::Whole(Bytes::new()), list: false };
        }
        strip(&mut headers);
        // The sender lives as long as the pieces: dropping it early would end the connection.
        let pieces = BodyStream::new(response.into_body()).filter_map(move |frame| {
            let _sender = &sender;
            let piece = match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(error) => Some(Err(io::Error::other(error))),
            };
            async move { piece }
        });
        Reply { status, headers, body: Payload::Pieces(pieces.boxed()), list: false }
    }
}

/// Carries bytes both ways until either side ends, or the server does.
async fn carry(client: impl Io, upstream: impl Io, stop: CancellationToken) {
    let (from_client, mut to_client) = tokio::io::split(client);
    let (from_upstream, mut to_upstream) = tokio::io::split(upstream);
    let (mut from_client, mut from_upstream) =
        (BufReader::with_capacity(CHUNK, from_client), BufReader::with_capacity(CHUNK, from_upstream));
    tokio::select! {
        () = stop.cancelled() => {}
        _ = tokio::io::copy_buf(&mut from_client, &mut to_upstream) => {}
        _ = tokio::io::copy_buf(&mut from_upstream, &mut to_client) => {}
    }
    let goodbye = async { tokio::join!(to_client.shutdown(), to_upstream.shutdown()) };
    drop(tokio::time::timeout(GOODBYE_LIMIT, goodbye).await);
}

/// The whole of a short answer, for an error's text.
pub(crate) async fn text_of(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.map(http_body_util::Collected::to_bytes);
    body.map(|b| String::from_utf8_lossy(&b).trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_one_connection_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Own"),
            ("x-own", "1"),
            ("transfer-encoding", "chunked"),
            ("accept", "*/*"),
            ("upgrade", "h2c"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        assert_eq!(upgrade_of(&headers), None);
        headers.append(CONNECTION, HeaderValue::from_static("Upgrade"));
        assert_eq!(upgrade_of(&headers), Some(HeaderValue::from_static("h2c")));
        strip(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
