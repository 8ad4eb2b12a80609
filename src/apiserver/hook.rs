//! The API server as a client of webhooks: POSTs of JSON over TLS, to a URL or to a service of the cluster.
//!
//! Writes wait for these, and each handshake costs both sides more than the question does: connections are kept for the
//! next question.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http_body_util::{BodyExt, Either, Full, Limited};
use rustls::ClientConfig;
use serde_json::Value;
use skiff_base::chain;
use skiff_tls::Trust;

use crate::http::tls;
use crate::proxy::idle::Place;
use crate::proxy::upstream::{Security, Upstream};
use crate::server::Server;

/// Larger answers are refused.
const ANSWER_MAX: usize = 64 << 20;

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
    /// The name and port of the URL.
    authority: String,
    path: String,
    place: Place,
}

impl Server {
    /// POSTs `body` and reads the answer. The error is a sentence as upstream's client would tell it.
    pub(crate) async fn call_hook(&self, hook: &Hook<'_>, body: &Value, limit: Duration) -> Result<Value, String> {
        let target = self.hook_target(hook, limit)?;
        let failed = |why: String| format!("Post {:?}: {why}", target.url);
        match tokio::time::timeout(limit, self.post(&target, body)).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(failed("context deadline exceeded".to_owned())),
        }
    }

    fn hook_target(&self, hook: &Hook<'_>, limit: Duration) -> Result<Target, String> {
        // As upstream: the hook learns how long it is waited for.
        let waits = format!("timeout={}s", limit.as_secs());
        let ca_bundle = hook.ca_bundle.to_vec();
        if let Some((namespace, service, path, port)) = hook.service {
            let name = format!("{service}.{namespace}.svc");
            let path = format!("/{}?{waits}", path.trim_start_matches('/'));
            let authority = format!("{name}:{port}");
            let url = format!("https://{authority}{path}");
            let (host, port) =
                self.address_of(namespace, service, port).map_err(|why| format!("Post {url:?}: {why}"))?;
            return Ok(Target { url, authority, path, place: Place { host, port, name, ca_bundle } });
        }
        let url = hook.url.unwrap_or_default();
        let parsed: http::Uri = url.parse().map_err(|e| format!("parse {url:?}: {e}"))?;
        let host = parsed.host().ok_or_else(|| format!("{url:?} names no host"))?.trim_matches(['[', ']']).to_owned();
        let authority = parsed.authority().map(ToString::to_string).unwrap_or_default();
        let path = format!("{}?{waits}", parsed.path());
        let url = format!("{}?{waits}", url.trim_end_matches('?'));
        let port = parsed.port_u16().unwrap_or(443);
        Ok(Target { url, authority, path, place: Place { name: host.clone(), host, port, ca_bundle } })
    }

    async fn post(&self, target: &Target, body: &Value) -> Result<Value, String> {
        let told = |error: &dyn std::error::Error| chain(error).to_string();
        let body = Bytes::from(body.to_string());
        let (response, connection) = loop {
            let kept = self.hooks.take(&target.place);
            let again = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect_upstream(&upstream(&target.place)?).await.map_err(|e| told(&e))?,
            };
            let request = http::Request::post(&target.path)
                .header(HOST, &target.authority)
                .header(CONTENT_TYPE, "application/json")
                .header(ACCEPT, "application/json")
                .header(USER_AGENT, "kube-apiserver")
                .body(Either::Right(Full::new(body.clone())))
                .map_err(|e| told(&e))?;
            match connection.send_request(request).await {
                Ok(response) => break (response, connection),
                // Ended by the other side while nothing came over it.
                Err(error) if again => tracing::debug!(error = %chain(&error), "a kept connection to a webhook"),
                Err(error) => return Err(told(&error)),
            }
        };
        let status = response.status();
        let body =
            Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(|e| e.to_string())?.to_bytes();
        self.hooks.keep(target.place.clone(), connection);
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

fn upstream(place: &Place) -> Result<Upstream, String> {
    let security = Security::Tls(client_config(&place.ca_bundle)?);
    Ok(Upstream { host: place.host.clone(), port: place.port, name: Some(place.name.clone()), security })
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
