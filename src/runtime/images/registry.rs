//! The registry's HTTP API (OCI distribution), version 2: manifests and blobs, with token authentication.
//!
//! A [`Session`] lives for one pull: connections, tokens and the system's root certificates are gone
//! when it ends, since a node pulls rarely and its idle memory counts.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, RANGE, USER_AGENT, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use skiff_tls::Trust;

use super::registries::{Endpoint, TlsFiles};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Manifests and indexes are small; upstream registries allow 4 MiB.
const MANIFEST_LIMIT: usize = 4 << 20;
const TOKEN_LIMIT: usize = 1 << 20;
const REDIRECT_LIMIT: usize = 10;

const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// Why one endpoint did not give what was asked for, in words for the pod's status.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}: not found")]
    NotFound(String),
    #[error("pull access denied, repository does not exist or may require authorization: {0}")]
    Denied(String),
    #[error("{0}")]
    Other(String),
}

/// The answer to a request for a manifest.
pub struct Manifest {
    pub media_type: String,
    pub body: Bytes,
}

/// Names of registries, asked for without the C library (docs/decisions/0001-static-executable.md).
#[derive(Clone)]
struct Names;

impl tower_service::Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = skiff_resolver::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(async move {
            let found = skiff_resolver::resolve(name.as_str()).await?;
            // The port is the URL's.
            Ok(found.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect::<Vec<_>>().into_iter())
        })
    }
}

/// One endpoint, for the length of one pull.
pub struct Session {
    endpoint: Endpoint,
    client: Client<HttpsConnector<HttpConnector<Names>>, Empty<Bytes>>,
    credentials: Option<(String, String)>,
    authorization: Mutex<Option<String>>,
}

impl Session {
    pub fn new(endpoint: Endpoint, credentials: Option<(String, String)>) -> Result<Self, Error> {
        let mut http = HttpConnector::new_with_resolver(Names);
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let secure = endpoint.base.starts_with("https://");
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(&endpoint.tls, secure)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let credentials = credentials.or_else(|| endpoint.auth.clone());
        Ok(Self { endpoint, client, credentials, authorization: Mutex::new(None) })
    }

    /// The manifest or index with this tag or digest; its content is not verified here.
    pub async fn manifest(&self, version: &str) -> Result<Manifest, Error> {
        let url = self.url("manifests", version);
        let response = self.get(&url, Some(MANIFEST_TYPES), None).await?;
        let response = self.expect_ok(response, version).await?;
        let media_type = header(&response, CONTENT_TYPE).unwrap_or_default();
        let body = read_limited(response, MANIFEST_LIMIT).await.map_err(|e| failed(&url, e))?;
        Ok(Manifest { media_type, body })
    }

    /// The body of a blob, from `offset` on.
    pub async fn blob(&self, digest: &str, offset: u64) -> Result<Incoming, Error> {
        let range = (offset > 0).then(|| format!("bytes={offset}-"));
        let response = self.get(&self.url("blobs", digest), None, range.as_deref()).await?;
        if offset > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(Error::Other(format!("{digest}: the registry can't resume a download")));
        }
        Ok(self.expect_ok(response, digest).await?.into_body())
    }

    fn url(&self, what: &str, version: &str) -> String {
        format!("{}/v2{}/{}/{what}/{version}", self.endpoint.base, self.endpoint.path, self.endpoint.repository)
    }

    /// GET that follows redirects and answers one authentication challenge.
    async fn get(&self, url: &str, accept: Option<&str>, range: Option<&str>) -> Result<Response<Incoming>, Error> {
        let (response, own) = self.follow(url, accept, range).await?;
        // What a redirect leads to may not ask for the registry's credentials.
        if response.status() != StatusCode::UNAUTHORIZED || !own {
            return Ok(response);
        }
        let challenge = header(&response, WWW_AUTHENTICATE).unwrap_or_default();
        let authorization = self.authorize(&challenge).await?;
        *self.authorization.lock().expect("no panic while it is held") = Some(authorization);
        Ok(self.follow(url, accept, range).await?.0)
    }

    /// The answer at the end of all redirects, and whether it is the registry's own.
    async fn follow(
        &self,
        url: &str,
        accept: Option<&str>,
        range: Option<&str>,
    ) -> Result<(Response<Incoming>, bool), Error> {
        let mut url = url.to_owned();
        for _ in 0..REDIRECT_LIMIT {
            // A token is for the registry, not for the object store that it redirects to.
            let own = url.starts_with(&format!("{}/", self.endpoint.base));
            let authorization = own.then(|| self.authorization.lock().expect("no panic while it is held").clone());
            let response = self.request(&url, accept, range, authorization.flatten().as_deref()).await?;
            if !response.status().is_redirection() {
                return Ok((response, own));
            }
            let location = header(&response, LOCATION).ok_or_else(|| failed(&url, "redirect without a location"))?;
            url = if location.starts_with('/') { format!("{}{location}", origin(&url)?) } else { location };
        }
        Err(failed(&url, "too many redirects"))
    }

    async fn request(
        &self,
        url: &str,
        accept: Option<&str>,
        range: Option<&str>,
        authorization: Option<&str>,
    ) -> Result<Response<Incoming>, Error> {
        let mut request = Request::get(url).header(USER_AGENT, concat!("skiff/", env!("CARGO_PKG_VERSION")));
        for (name, value) in [(ACCEPT, accept), (RANGE, range), (AUTHORIZATION, authorization)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let request = request.body(Empty::new()).map_err(|e| failed(url, e))?;
        match tokio::time::timeout(ANSWER_TIMEOUT, self.client.request(request)).await {
            Ok(answer) => answer.map_err(|e| failed(url, skiff_base::chain(&e))),
            Err(_) => Err(failed(url, "no answer in 30 s")),
        }
    }

    /// What to send as `Authorization`, for a challenge of the registry.
    async fn authorize(&self, challenge: &str) -> Result<String, Error> {
        let basic = self.credentials.as_ref().map(|(user, password)| {
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
        });
        let denied = || Error::Denied(format!("server message: {}", challenge.trim()));
        if challenge.get(..5).is_some_and(|s| s.eq_ignore_ascii_case("basic")) {
            return basic.ok_or_else(denied);
        }
        let bearer = challenge.get(..7).filter(|s| s.eq_ignore_ascii_case("bearer "));
        let parameters = bearer.map(|_| parameters(&challenge[7..])).ok_or_else(denied)?;
        let find = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let realm = find("realm").ok_or_else(denied)?;
        if self.endpoint.base.starts_with("https://") && !realm.starts_with("https://") {
            return Err(failed(realm, "the registry's token server has no TLS, and would see the credentials"));
        }
        let scope = format!("repository:{}:pull", self.endpoint.repository);
        let mut url = format!("{realm}{}scope={}", if realm.contains('?') { '&' } else { '?' }, encode(&scope));
        if let Some(service) = find("service") {
            url.push_str(&format!("&service={}", encode(service)));
        }
        let response = self.request(&url, None, None, basic.as_deref()).await?;
        if !response.status().is_success() {
            return Err(Error::Denied(format!("the token server answered {}", response.status())));
        }
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let body = read_limited(response, TOKEN_LIMIT).await.map_err(|e| failed(realm, e))?;
        let token: Token = serde_json::from_slice(&body).map_err(|e| failed(realm, e))?;
        let token = token.token.or(token.access_token).ok_or_else(|| failed(realm, "the answer holds no token"))?;
        Ok(format!("Bearer {token}"))
    }

    async fn expect_ok(&self, response: Response<Incoming>, what: &str) -> Result<Response<Incoming>, Error> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let name = format!("{}/{}:{what}", self.endpoint.base, self.endpoint.repository);
        match status {
            StatusCode::NOT_FOUND => Err(Error::NotFound(name)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(Error::Denied(format!("{name}: the registry answered {status}")))
            }
            _ => Err(Error::Other(format!("{name}: unexpected status from the registry: {status}"))),
        }
    }
}

fn failed(url: &str, why: impl std::fmt::Display) -> Error {
    // A query may hold a signature.
    let url = url.split('?').next().unwrap_or(url);
    Error::Other(format!("failed to do request: Get {url:?}: {why}"))
}

fn header<B>(response: &Response<B>, name: http::HeaderName) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

fn origin(url: &str) -> Result<String, Error> {
    let uri: Uri = url.parse().map_err(|e| failed(url, e))?;
    let (scheme, authority) = (uri.scheme_str().unwrap_or("https"), uri.authority().map_or("", |a| a.as_str()));
    Ok(format!("{scheme}://{authority}"))
}

async fn read_limited(response: Response<Incoming>, limit: usize) -> Result<Bytes, String> {
    let body = Limited::new(response.into_body(), limit);
    body.collect().await.map(|c| c.to_bytes()).map_err(|e| e.to_string())
}

/// `a="x",b=y` of a challenge.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, tail) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        found.push((name.trim().to_ascii_lowercase(), value.to_owned()));
        rest = tail.trim_start_matches([',', ' ']);
    }
    found
}

/// Percent-encoding for a query value.
fn encode(value: &str) -> String {
    let mut out = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn tls_config(files: &TlsFiles, secure: bool) -> Result<rustls::ClientConfig, Error> {
    let unreadable = |path: &std::path::Path, e: &dyn std::fmt::Display| {
        Error::Other(format!("read {} of registries.yaml: {e}", path.display()))
    };
    let mut roots = if secure { Trust::system() } else { rustls::RootCertStore::empty() };
    if let Some(path) = &files.ca_file {
        for certificate in CertificateDer::pem_file_iter(path).map_err(|e| unreadable(path, &e))? {
            let certificate = certificate.map_err(|e| unreadable(path, &e))?;
            roots.add(certificate).map_err(|e| unreadable(path, &e))?;
        }
    }
    let trust = if files.insecure_skip_verify { Trust::Anyone } else { Trust::Roots(roots) };
    let builder = trust.client().map_err(|e| Error::Other(e.to_string()))?;
    match (&files.cert_file, &files.key_file) {
        (Some(certificate), Some(key)) => {
            let chain = CertificateDer::pem_file_iter(certificate)
                .and_then(Iterator::collect)
                .map_err(|e| unreadable(certificate, &e))?;
            let parsed = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable(key, &e))?;
            builder.with_client_auth_cert(chain, parsed).map_err(|e| unreadable(certificate, &e))
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        _ => Err(Error::Other("registries.yaml: tls needs both cert_file and key_file, or neither".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_challenges() {
        assert_eq!(
            parameters(r#"realm="https://auth.docker.io/token",service="registry.docker.io", scope=x"#),
            [("realm", "https://auth.docker.io/token"), ("service", "registry.docker.io"), ("scope", "x")]
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
        assert_eq!(parameters("garbage"), []);
        assert_eq!(encode("repository:a/b c:pull"), "repository:a/b%20c:pull");
    }

    /// A server that gives every request the answer, and keeps what was asked.
    async fn server(answer: String) -> (String, std::sync::Arc<Mutex<String>>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let heard = std::sync::Arc::new(Mutex::new(String::new()));
        let all = heard.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n")
                    && stream.read_buf(&mut request).await.is_ok_and(|count| count > 0)
                {}
                all.lock().expect("no panic").push_str(&String::from_utf8_lossy(&request));
                drop(stream.write_all(answer.as_bytes()).await);
            }
        });
        (base, heard)
    }

    fn session(base: &str) -> Session {
        let endpoint = Endpoint {
            base: base.to_owned(),
            path: String::new(),
            repository: "a/b".to_owned(),
            tls: TlsFiles::default(),
            auth: None,
        };
        Session::new(endpoint, Some(("user".to_owned(), "password".to_owned()))).expect("a session")
    }

    #[tokio::test]
    async fn credentials_stay_with_the_registry() {
        let ends = "Connection: close\r\nContent-Length: 0\r\n\r\n";
        for challenge in ["Basic realm=\"x\"".to_owned(), "Bearer realm=\"REALM/token\"".to_owned()] {
            let (realm, asked) = server(format!("HTTP/1.1 200 OK\r\n{ends}")).await;
            let challenge = challenge.replace("REALM", &realm);
            let unauthorized = format!("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\n{ends}");
            let (other, heard) = server(unauthorized.clone()).await;
            let (registry, told) = server(format!("HTTP/1.1 302 Found\r\nLocation: {other}/blob\r\n{ends}")).await;
            session(&registry).blob("sha256:0", 0).await.map(drop).expect_err("denied");
            let all = [&asked, &heard, &told].map(|heard| heard.lock().expect("no panic").to_lowercase());
            assert!(all[1].contains("get /blob") && !all.concat().contains("authorization:"), "{challenge}: {all:?}");
            // The registry itself gets them.
            let (registry, told) = server(unauthorized).await;
            session(&registry).blob("sha256:0", 0).await.map(drop).expect_err("denied");
            let all = [&asked, &told].map(|heard| heard.lock().expect("no panic").to_lowercase()).concat();
            assert!(all.contains("authorization: basic"), "{challenge}: {all}");
        }
    }

    #[tokio::test]
    async fn a_token_server_without_tls() {
        let (realm, heard) = server("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"token\": \"t\"}".to_owned()).await;
        let challenge = format!("Bearer realm=\"{realm}/token\"");
        let why = session("https://registry.test").authorize(&challenge).await.expect_err("refused").to_string();
        assert!(why.contains("has no TLS") && heard.lock().expect("no panic").is_empty(), "{why}");
        let token = session("http://registry.test").authorize(&challenge).await.expect("a registry without TLS");
        assert_eq!(token, "Bearer t");
    }
}
