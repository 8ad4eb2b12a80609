//! Connections: accepted, told apart from garbage, and served until they or the server end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use skiff_base::{Scope, chain};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::places::{Busy, MAX_CONNECTIONS, MAX_OF_SOURCE, Place, Places};
use super::serve::serve;
use crate::auth::{User, certificate_user};
use crate::proxy::wire::Peer;
use crate::reply::Payload;
use crate::server::Server;

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// For the head of a request, the idle time before it included: shorter than clients keep connections would break
/// requests that are sent while the connection is closed.
const HEADER_LIMIT: Duration = Duration::from_secs(180);
/// How long an HTTP/2 connection may be open without a request; as long for the same reason.
const IDLE_LIMIT: Duration = HEADER_LIMIT;
/// How long connections may take to finish what they are at, once the server stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// The first byte of a TLS connection: the content type "handshake".
const TLS_HANDSHAKE: u8 = 0x16;
const HTTP2_STREAMS: u32 = 250;
const HTTP2_WINDOW: u32 = 256 << 10;
/// What a client may send before it is read, on all streams of a connection together. Where a body is passed on, another
/// server decides when it is read: 32 such uploads stand still before they hold up the client's other requests.
const HTTP2_CONNECTION_WINDOW: u32 = 8 << 20;
/// What waits for a client that does not read, on each stream.
const HTTP2_SEND_BUFFER: usize = 128 << 10;
const MAX_HEADERS: u32 = 64 << 10;

/// Tells hyper to run its tasks in our scope.
#[derive(Clone)]
struct InScope(Scope);

impl<F> hyper::rt::Executor<F> for InScope
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

pub(crate) async fn accept_all(server: Arc<Server>, listener: TcpListener, tls: TlsAcceptor) {
    let places = Places::new(MAX_CONNECTIONS, MAX_OF_SOURCE);
    let stop = server.scope.token().clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok((stream, peer)) => (stream, peer.ip()),
            Err(error) => {
                // Out of file descriptors, or the peer was gone at once: neither ends the server.
                warn!(error = %chain(&error), "accept a connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let Some(place) = places.take(peer) else {
            debug!(%peer, "too many connections");
            continue;
        };
        let (server, tls) = (server.clone(), tls.clone());
        let scope = server.scope.clone();
        scope.spawn(async move {
            let ended = tokio::select! {
                ended = connection(server, stream, tls, place.clone()) => ended,
                // What is idle may be dropped as it is.
                () = place.lost() => Ok(()),
            };
            if let Err(error) = ended {
                debug!(error = %chain(&*error), "connection");
            }
        });
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn connection(
    server: Arc<Server>,
    mut stream: TcpStream,
    tls: TlsAcceptor,
    place: Arc<Place>,
) -> Result<(), BoxError> {
    stream.set_nodelay(true)?;
    skiff_streaming::notice_dead_peers(&stream)?;
    let peer = stream.peer_addr()?.ip();
    let handshake = async {
        let mut first = [0u8; 1];
        if stream.peek(&mut first).await? == 0 {
            return Ok(None);
        }
        if first[0] != TLS_HANDSHAKE {
            refuse_plain(&mut stream).await?;
            return Ok(None);
        }
        tls.accept(stream).await.map(Some)
    };
    let stop = server.scope.token().clone();
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(HANDSHAKE_LIMIT, handshake) => accepted??,
        () = stop.cancelled() => None,
    };
    let Some(stream) = accepted else { return Ok(()) };
    let (_, session) = stream.get_ref();
    let user = session.peer_certificates().and_then(|c| c.first()).and_then(|c| certificate_user(c));
    let user: Option<Arc<User>> = user.map(Arc::new);
    if user.is_some() {
        place.known();
    }
    let http2 = session.alpn_protocol() == Some(b"h2");
    let scope = server.scope.clone();
    let at = place.clone();
    let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        let (server, user, busy) = (server.clone(), user.clone(), at.begin());
        async move {
            let response = serve(server, user, request).await;
            Ok::<_, std::convert::Infallible>(response.map(|body| Answering { body, _busy: busy }))
        }
    });
    let io = TokioIo::new(stream);
    if http2 {
        let connection = http2::Builder::new(InScope(scope))
            .timer(TokioTimer::new())
            .max_concurrent_streams(HTTP2_STREAMS)
            .initial_stream_window_size(HTTP2_WINDOW)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
            .max_send_buf_size(HTTP2_SEND_BUFFER)
            .max_header_list_size(MAX_HEADERS)
            .keep_alive_interval(Some(Duration::from_secs(30)))
            .serve_connection(io, service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            () = place.idle(IDLE_LIMIT) => {
                connection.as_mut().graceful_shutdown();
                // What was asked before the client heard of it is answered, however long that takes.
                tokio::select! {
                    ended = connection.as_mut() => return Ok(ended?),
                    () = stop.cancelled() => {}
                }
            }
        }
        drop(tokio::time::timeout(DRAIN_LIMIT, connection).await);
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_LIMIT)
            .max_buf_size(MAX_HEADERS as usize * 4)
            .serve_connection(io, service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        drop(tokio::time::timeout(DRAIN_LIMIT, connection).await);
    }
    Ok(())
}

/// An answer on its way: until it was sent, its connection is not idle.
struct Answering {
    body: Payload,
    _busy: Busy,
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Tells who spoke HTTP without TLS what is wrong; other garbage is just closed.
async fn refuse_plain(stream: &mut TcpStream) -> io::Result<()> {
    let mut start = [0u8; 512];
    let read = stream.read(&mut start).await?;
    let methods: [&[u8]; 8] = [b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"PRI "];
    if methods.iter().any(|method| start[..read].starts_with(method)) {
        let answer = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
        stream.write_all(answer).await?;
        stream.shutdown().await?;
    }
    Ok(())
}
