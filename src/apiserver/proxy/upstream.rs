//! Another server: where it is, and a connection to it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use rustls::ClientConfig;
use skiff_base::chain;
use skiff_tls::Ending;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);

pub(crate) type Body = Either<Incoming, Full<Bytes>>;
/// One connection to another server, for one request at a time.
pub(crate) type Connection = SendRequest<Body>;

/// Another server.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub host: String,
    pub port: u16,
    /// Who must be there, where the certificate is of another name than the host.
    pub name: Option<String>,
    pub security: Security,
}

#[derive(Clone)]
pub(crate) enum Security {
    Plain,
    Tls(Arc<ClientConfig>),
}

pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Upstream {
    pub(super) async fn connect(&self) -> io::Result<Box<dyn Io>> {
        let late = |words: String| move |_| io::Error::new(io::ErrorKind::TimedOut, words);
        let dial = tokio::time::timeout(CONNECT_LIMIT, skiff_resolver::dial(&self.host, self.port));
        let stream = dial.await.map_err(late(format!("dial tcp {}: i/o timeout", self.address())))??;
        stream.set_nodelay(true)?;
        let Security::Tls(config) = &self.security else { return Ok(Box::new(stream)) };
        let name = rustls_pki_types::ServerName::try_from(self.name.clone().unwrap_or_else(|| self.host.clone()))
            .map_err(|_| io::Error::other("the server's address is no host name"))?;
        let handshake = TlsConnector::from(config.clone()).connect(name, stream);
        let stream = tokio::time::timeout(CONNECT_LIMIT, handshake).await;
        Ok(Box::new(Ending(stream.map_err(late("net/http: TLS handshake timeout".to_owned()))?.map_err(as_go)?)))
    }

    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// Go's words for what users look up.
fn as_go(error: io::Error) -> io::Error {
    let words = chain(&error).to_string();
    match words.contains("UnknownIssuer") {
        true => io::Error::other("tls: failed to verify certificate: x509: certificate signed by unknown authority"),
        false => io::Error::new(error.kind(), words),
    }
}
