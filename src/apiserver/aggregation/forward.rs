//! The way to another API server: for a caller, whose identity goes with the request, and for this server itself.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ETAG, HOST, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use skiff_api::ApiError;
use skiff_base::chain;

use super::Remote;
use crate::auth::User;
use crate::call::{Call, encode};
use crate::proxy::forward::{outbound, upgrade_of};
use crate::proxy::upstream::{Connection, Security, Upstream};
use crate::reply::Reply;
use crate::request::RequestInfo;
use crate::server::Server;

const REMOTE_USER: HeaderName = HeaderName::from_static("x-remote-user");
const REMOTE_UID: HeaderName = HeaderName::from_static("x-remote-uid");
const REMOTE_GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const REMOTE_EXTRA: &str = "x-remote-extra-";
/// The end of what is told of an answer that did not come in time, in Go's words.
pub(super) const TIMED_OUT: &str = "context deadline exceeded";
/// How long this server waits for what it asks itself.
const LIMIT: Duration = Duration::from_secs(5);
/// How long a caller waits for an answer to begin.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Larger documents are refused.
const DOCUMENT_MAX: usize = 64 << 20;

/// What another server answered to this one.
pub(super) struct Document {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Document {
    pub fn header(&self, name: HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn etag(&self) -> String {
        self.header(ETAG).to_owned()
    }
}

impl Server {
    /// Passes a request on, with who asks.
    pub(crate) async fn aggregated(&self, call: &Call, remote: &Remote) -> Result<Reply, ApiError> {
        if !remote.available {
            return Ok(unavailable("service unavailable"));
        }
        let upstream = match self.reached(remote) {
            Ok(Ok(upstream)) => upstream,
            Ok(Err(why)) => return Ok(Reply::text(500, format!("{why}\n"))),
            Err(why) => {
                tracing::warn!(service = remote.name, %why, "an APIService can't be reached");
                return Ok(unavailable("service unavailable"));
            }
        };
        let mut request = outbound(call, call.method.clone(), call.uri(), &upstream).map_err(ApiError::internal)?;
        let headers = request.headers_mut();
        if let Ok(host) = upstream.address().parse() {
            headers.insert(HOST, host);
        }
        identify(headers, &call.user);
        // A watch or a connection goes on; the rest ends.
        let ends = RequestInfo::of(call).verb != "watch" && upgrade_of(&call.headers).is_none();
        let (response, sender) = match tokio::time::timeout(ANSWER_LIMIT, self.send_upstream(&upstream, request)).await
        {
            Ok(Ok(sent)) => sent,
            Ok(Err(error)) => return Ok(unavailable(&chain(&error).to_string())),
            Err(_) => return Ok(Reply::text(504, "the API server behind this one did not answer in time\n")),
        };
        if response.status().is_redirection() && response.headers().contains_key(LOCATION) {
            return Ok(Reply::text(502, "the backend attempted to redirect this request, which is not permitted"));
        }
        let mut reply = self.pass_back(call, response, sender);
        reply.list = ends;
        Ok(reply)
    }

    /// Where it is now (the outer error: nowhere), with what is known of its certificate.
    fn reached(&self, remote: &Remote) -> Result<Result<Upstream, &str>, String> {
        let service = &remote.service;
        let (host, port) = self.address_of(&service.namespace, &service.name, service.port)?;
        let Ok(tls) = &remote.tls else { return Ok(Err("the certificate authority of the APIService can't be used")) };
        Ok(Ok(Upstream { host, port, name: Some(service.host()), security: Security::Tls(tls.clone()) }))
    }

    /// Asks as this server itself. `etag` is what is known already. The error is a sentence.
    pub(super) async fn ask_remote(
        &self,
        remote: &Remote,
        path: &str,
        accept: &'static str,
        etag: &str,
    ) -> Result<Document, String> {
        let upstream = self.reached(remote)??;
        let url = format!("https://{}{path}", upstream.address());
        let asking = async {
            let (response, _sender) = self.fetch(&upstream, path, accept, etag).await?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, DOCUMENT_MAX).collect().await.map_err(io::Error::other)?.to_bytes();
            Ok::<_, io::Error>(Document { status: parts.status, headers: parts.headers, body })
        };
        let told = |why: String| format!("failing or missing response from {url}: Get {url:?}: {why}");
        match tokio::time::timeout(LIMIT, asking).await {
            Ok(answer) => answer.map_err(|error| told(chain(&error).to_string())),
            Err(_) => Err(told(TIMED_OUT.to_owned())),
        }
    }

    async fn fetch(
        &self,
        upstream: &Upstream,
        path: &str,
        accept: &'static str,
        etag: &str,
    ) -> io::Result<(Response<Incoming>, Connection)> {
        let mut request = Request::new(Either::Right(Full::new(Bytes::new())));
        *request.method_mut() = Method::GET;
        *request.uri_mut() = path.parse().map_err(io::Error::other)?;
        let headers = request.headers_mut();
        headers.insert(HOST, upstream.address().parse().map_err(io::Error::other)?);
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        headers.insert(USER_AGENT, HeaderValue::from_static("kube-apiserver"));
        if let Ok(etag) = etag.parse()
            && !HeaderValue::is_empty(&etag)
        {
            headers.insert(IF_NONE_MATCH, etag);
        }
        identify(headers, &User::new("system:kube-aggregator", &["system:masters"]));
        self.send_upstream(upstream, request).await
    }
}

fn unavailable(why: &str) -> Reply {
    Reply::text(503, format!("{why}\n"))
}

/// Says who asks, and nothing else that the request said of it.
fn identify(headers: &mut HeaderMap, user: &User) {
    let is_told = |name: &HeaderName| {
        [REMOTE_USER, REMOTE_UID, REMOTE_GROUP].contains(name) || name.as_str().starts_with(REMOTE_EXTRA)
    };
    let told: Vec<HeaderName> = headers.keys().filter(|name| is_told(name)).cloned().collect();
    for name in told {
        headers.remove(name);
    }
    let mut add = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.append(name, value);
        }
    };
    add(REMOTE_USER, &user.name);
    if !user.uid.is_empty() {
        add(REMOTE_UID, &user.uid);
    }
    user.groups.iter().for_each(|group| add(REMOTE_GROUP, group));
    for (key, values) in &user.extra {
        // What no header's name can hold is written with percent signs, as clients of upstream read it.
        if let Ok(name) = format!("{REMOTE_EXTRA}{}", encode(key)).to_ascii_lowercase().parse::<HeaderName>() {
            values.iter().for_each(|value| add(name.clone(), value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_can_not_say_who_they_are() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "root"),
            ("x-remote-group", "system:masters"),
            ("x-remote-extra-scopes", "all"),
            ("x-remote-uid", "0"),
            ("accept", "*/*"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let mut user = User::new("jane", &["dev", "system:authenticated"]);
        user.extra.push(("example.org/Key".to_owned(), vec!["a".to_owned(), "b".to_owned()]));
        identify(&mut headers, &user);
        let mut told: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
        told.sort_unstable();
        assert_eq!(
            told,
            [
                ("accept", "*/*"),
                ("x-remote-extra-example.org%2fkey", "a"),
                ("x-remote-extra-example.org%2fkey", "b"),
                ("x-remote-group", "dev"),
                ("x-remote-group", "system:authenticated"),
                ("x-remote-user", "jane"),
            ]
        );
    }
}
