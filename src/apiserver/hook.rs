//! The API server as a client of webhooks: one POST of JSON over TLS, to a URL or to a service of the cluster.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde_json::Value;
use skiff_base::chain;
use skiff_tls::{Ending, Trust};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::http::tls;
use crate::server::Server;

/// Larger answers are refused.
const ANSWER_MAX: usize = 64 << 20;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Where a webhook is, and by which authority it is known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Hook<'a> {
    pub url: Option<&'a str>,
    /// Namespace, name, path and port.
    pub service: Option<(&'a str, &'a str, &'a str, u16)>,
    /// PEM; empty: the authorities of the system.
    pub ca_bundle: &'a [u8],
}

/// What a hook comes down to.
struct Target {
    /// As messages name it.
    url: String,
    /// Where to connect.
    host: String,
    port: u16,
    /// Who must be there.
    name: String,
    path: String,
}

impl Server {
    /// POSTs `body` and reads the answer. The error is a sentence as upstream's client would tell it.
    pub(crate) async fn call_hook(&self, hook: &Hook<'_>, body: &Value, limit: Duration) -> Result<Value, String> {
        let target = self.hook_target(hook, limit)?;
        let failed = |why: String| format!("Post {:?}: {why}", target.url);
        let asked = self.post(&target, hook.ca_bundle, body);
        match tokio::time::timeout(limit, asked).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(failed("context deadline exceeded".to_owned())),
        }
    }

    fn hook_target(&self, hook: &Hook<'_>, limit: Duration) -> Result<Target, String> {
        // As upstream: the hook learns how long it is waited for.
        let waits = format!("timeout={}s", limit.as_secs());
        if let Some((namespace, service, path, port)) = hook.service {
            let name = format!("{service}.{namespace}.svc");
            let path = format!("/{}?{waits}", path.trim_start_matches('/'));
            let url = format!("https://{name}:{port}{path}");
            let (host, at) = self.address_of(namespace, service, port).map_err(|why| format!("Post {url:?}: {why}"))?;
            return Ok(Target { url, host, port: at, name, path });
        }
        let url = hook.url.unwrap_or_default();
        let parsed: http::Uri = url.parse().map_err(|e| format!("parse {url:?}: {e}"))?;
        let host = parsed.host().ok_or_else(|| format!("{url:?} names no host"))?.trim_matches(['[', ']']).to_owned();
        let path = format!("{}?{waits}", parsed.path());
        let url = format!("{}?{waits}", url.trim_end_matches('?'));
        Ok(Target { url, name: host.clone(), port: parsed.port_u16().unwrap_or(443), host, path })
    }

    async fn post(&self, target: &Target, ca_bundle: &[u8], body: &Value) -> Result<Value, String> {
        let told = |error: &dyn std::error::Error| chain(error).to_string();
        let config = client_config(ca_bundle)?;
        let connect = async {
            let stream: TcpStream = skiff_resolver::connect(&target.host, target.port).await.map_err(|e| {
                let why = match e.kind() {
                    io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
                    _ => e.to_string(),
                };
                io::Error::new(e.kind(), format!("dial tcp {}:{}: {why}", target.host, target.port))
            })?;
            let name = rustls_pki_types::ServerName::try_from(target.name.clone())
                .map_err(|_| io::Error::other("the webhook's address is no host name"))?;
            TlsConnector::from(config).connect(name, stream).await
        };
        let stream = match tokio::time::timeout(CONNECT_LIMIT, connect).await {
            Ok(stream) => stream.map_err(|e| as_go(told(&e)))?,
            Err(_) => return Err(format!("dial tcp {}:{}: i/o timeout", target.host, target.port)),
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(Ending(stream))).await.map_err(|e| told(&e))?;
        let stop = self.scope.token().clone();
        self.scope.spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(error = %chain(&error), "connection to a webhook");
                },
                () = stop.cancelled() => {}
            }
        });
        let request = http::Request::post(&target.path)
            .header(HOST, format!("{}:{}", target.name, target.port))
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, "kube-apiserver")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|e| told(&e))?;
        let response = sender.send_request(request).await.map_err(|e| told(&e))?;
        let status = response.status();
        let body =
            Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(|e| e.to_string())?.to_bytes();
        if !status.is_success() {
            let text = String::from_utf8_lossy(&body);
            return Err(match text.trim() {
                "" => format!("the server responded with the status code {}", status.as_u16()),
                text => text.chars().take(1024).collect(),
            });
        }
        serde_json::from_slice(&body).map_err(|e| format!("couldn't get version/kind; json parse error: {e}"))
    }
}

/// Go's words for what users look up.
fn as_go(error: String) -> String {
    match error.contains("UnknownIssuer") {
        true => "tls: failed to verify certificate: x509: certificate signed by unknown authority".to_owned(),
        false => error,
    }
}

/// `ca_bundle` is PEM; empty: the authorities of the system.
pub(crate) fn client_config(ca_bundle: &[u8]) -> Result<Arc<ClientConfig>, String> {
    let roots = if ca_bundle.is_empty() {
        Trust::system()
    } else {
        let pem = std::str::from_utf8(ca_bundle).map_err(|_| "the caBundle is no PEM".to_owned())?;
        tls::roots(pem).map_err(|e| chain(&e).to_string())?
    };
    let builder = Trust::Roots(roots).client().map_err(|e| e.to_string())?;
    Ok(Arc::new(builder.with_no_client_auth()))
}
