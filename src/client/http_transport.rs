use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use skiff_api::Gvr;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::kubeconfig::{Auth, Kubeconfig};
use crate::{Body, Error, Feed, Result, Selector, Transport, tls, watch};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A connection that is silent for this long is asked whether it lives ...
const PING_AFTER: Duration = Duration::from_secs(30);
/// ... and given up when there is no answer within this time.
const PONG_WITHIN: Duration = Duration::from_secs(15);
/// How long a token from a file is used before the file is read again.
const TOKEN_FILE_FRESH: Duration = Duration::from_secs(60);
/// What a stream may send before somebody reads it ...
const HTTP2_STREAM_WINDOW: u32 = 256 << 10;
/// ... and all streams of a connection together. Requests and watches share the connection: it holds 64 watches that
/// nobody reads before an answer has to wait. Windows that adapt themselves give each stream as much as the connection,
/// so that one such watch is enough.
const HTTP2_CONNECTION_WINDOW: u32 = 16 << 20;

/// HTTP/1.1 or HTTP/2 over TLS, with what a kubeconfig holds: server, CA, client certificate or token.
/// Cheap to clone: clones share their connections.
#[derive(Clone)]
pub struct HttpTransport {
    shared: Arc<Shared>,
}

struct Shared {
    pool: Pool<Connector, Full<Bytes>>,
    /// For connections that are upgraded, which takes HTTP/1.1.
    http1: Connector,
    /// Scheme, host and port, perhaps a path, without a slash at the end.
    server: String,
    authorization: Authorization,
}

impl HttpTransport {
    /// From the text of a kubeconfig (its current context, or the named one).
    pub fn from_kubeconfig(text: &str, context: Option<&str>) -> Result<Self> {
        Self::new(&Kubeconfig::parse(text, context)?)
    }

    /// From a kubeconfig file; other files that it names are looked for beside it.
    pub fn from_kubeconfig_file(path: &Path, context: Option<&str>) -> Result<Self> {
        Self::new(&Kubeconfig::load(path, context)?)
    }

    pub fn new(config: &Kubeconfig) -> Result<Self> {
        let uri: Uri =
            config.server.parse().map_err(|e| Error::Config(format!("server {:?} is no URL: {e}", config.server)))?;
        let (tls, tls1) = match uri.scheme_str() {
            Some("https") => {
                let tls = tls::config(config)?;
                let mut tls1 = tls.clone();
                tls1.alpn_protocols = vec![b"http/1.1".to_vec()];
                (Some(TlsConnector::from(Arc::new(tls))), Some(TlsConnector::from(Arc::new(tls1))))
            }
            Some("http") => (None, None),
            _ => return Err(Error::Config(format!("server {:?} must start with https:// or http://", config.server))),
        };
        let connector = Connector { tls, server_name: config.tls_server_name.clone().map(Into::into) };
        let http1 = Connector { tls: tls1, server_name: connector.server_name.clone() };
        let pool = Pool::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(90))
            .http2_keep_alive_interval(PING_AFTER)
            .http2_keep_alive_timeout(PONG_WITHIN)
            .http2_initial_stream_window_size(HTTP2_STREAM_WINDOW)
            .http2_initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
            .build(connector);
        let authorization = Authorization::new(&config.auth)?;
        Ok(Self { shared: Arc::new(Shared { pool, http1, server: config.server.clone(), authorization }) })
    }

    async fn request(&self, request: Request<Bytes>) -> Result<Response<hyper::body::Incoming>> {
        let request = self.prepare(request)?;
        self.shared.pool.request(request.map(Full::new)).await.map_err(|e| Error::Transport(e.into()))
    }

    pub(crate) fn server(&self) -> &str {
        &self.shared.server
    }

    /// A connection for HTTP/1.1 only.
    pub(crate) async fn connect_http1(&self, server: Uri) -> std::io::Result<Stream> {
        tower_service::Service::call(&mut self.shared.http1.clone(), server).await
    }

    /// With the server's address, who asks, and with what program.
    pub(crate) fn prepare<B>(&self, mut request: Request<B>) -> Result<Request<B>> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = format!("{}{path}", self.shared.server)
            .parse()
            .map_err(|e| Error::Config(format!("{path:?} can't be asked for: {e}")))?;
        let headers = request.headers_mut();
        if let Some(value) = self.shared.authorization.header()? {
            headers.insert(header::AUTHORIZATION, value);
        }
        headers
            .entry(header::USER_AGENT)
            .or_insert(HeaderValue::from_static(concat!("skiff/", env!("CARGO_PKG_VERSION"))));
        Ok(request)
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let (head, body) = self.request(request).await?.into_parts();
        let body = body.collect().await.map_err(|e| Error::Transport(e.into()))?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    async fn stream(&self, request: Request<Bytes>) -> Result<Response<Body>> {
        let answer = self.request(request).await?;
        Ok(answer
            .map(|body| body.into_data_stream().map(|chunk| chunk.map_err(|e| Error::Transport(e.into()))).boxed()))
    }

    fn observe(&self, resource: &Gvr, selector: &Selector) -> Feed {
        watch::observe(Arc::new(self.clone()), resource, selector)
    }
}

/// The `Authorization` header, never shown.
enum Authorization {
    None,
    Fixed(HeaderValue),
    File { path: std::path::PathBuf, last: Mutex<Option<(Instant, HeaderValue)>> },
}

impl Authorization {
    fn new(auth: &Auth) -> Result<Self> {
        Ok(match auth {
            Auth::None => Self::None,
            Auth::Token(token) => Self::Fixed(secret(&format!("Bearer {token}"))?),
            Auth::Basic { user, password } => {
                Self::Fixed(secret(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))?)
            }
            Auth::TokenFile(path) => Self::File { path: path.clone(), last: Mutex::default() },
        })
    }

    fn header(&self) -> Result<Option<HeaderValue>> {
        match self {
            Self::None => Ok(None),
            Self::Fixed(value) => Ok(Some(value.clone())),
            Self::File { path, last } => {
                let mut last = last.lock().expect("nothing panics while it holds the token");
                if let Some((read, value)) = &*last
                    && read.elapsed() < TOKEN_FILE_FRESH
                {
                    return Ok(Some(value.clone()));
                }
                let token = std::fs::read_to_string(path)
                    .map_err(|e| Error::Config(format!("read the token file {}: {e}", path.display())))?;
                let value = secret(&format!("Bearer {}", token.trim()))?;
                *last = Some((Instant::now(), value.clone()));
                Ok(Some(value))
            }
        }
    }
}

fn secret(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Error::Config("the token holds characters that no header may".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Opens connections for the pool.
#[derive(Clone)]
struct Connector {
    tls: Option<TlsConnector>,
    server_name: Option<Arc<str>>,
}

impl Connector {
    async fn connect(self, uri: Uri) -> std::io::Result<Stream> {
        let invalid = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidInput, what.to_owned());
        let host = uri.host().ok_or_else(|| invalid("the URL has no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let tcp = skiff_resolver::connect(host, port).await?;
        tcp.set_nodelay(true)?;
        let Some(tls) = self.tls else { return Ok(Stream::Plain(TokioIo::new(tcp))) };
        let name = ServerName::try_from(self.server_name.as_deref().unwrap_or(host).to_owned())
            .map_err(|_| invalid("the server's name can't stand in a certificate"))?;
        Ok(Stream::Tls(TokioIo::new(Box::new(tls.connect(name, tcp).await?))))
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.clone().connect(uri);
        Box::pin(async move {
            tokio::time::timeout(CONNECT_LIMIT, connecting)
                .await
                .unwrap_or_else(|_| Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection in time")))
        })
    }
}

pub(crate) enum Stream {
    Plain(TokioIo<TcpStream>),
    Tls(TokioIo<Box<TlsStream<TcpStream>>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Self::Tls(tls) if tls.inner().get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            _ => Connected::new(),
        }
    }
}

impl Read for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
