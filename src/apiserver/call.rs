//! One request, whichever way it came: what was asked, by whom, with which parameters.

use std::net::IpAddr;
use std::num::{IntErrorKind, ParseIntError};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, Method};
use skiff_api::{ApiError, ObjectKey};

use crate::auth::{Decision, User};
use crate::proxy::wire::Wire;

/// A request with its body read.
pub(crate) struct Call {
    pub method: Method,
    /// Percent-decoded segments of the path, empty ones left out.
    pub segments: Vec<String>,
    pub path: String,
    uri: String,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub user: Arc<User>,
    /// The client's connection, where it may be taken over.
    pub wire: Wire,
    /// Who acts as `user`, where that is not themselves.
    pub impersonator: Option<Arc<User>>,
    /// From where; `None` within the process.
    pub source: Option<IpAddr>,
    /// What the authorizer said.
    pub decision: OnceLock<Decision>,
}

impl Call {
    pub fn new(method: Method, uri: &http::Uri, headers: HeaderMap, body: Bytes, user: Arc<User>) -> Self {
        let path = uri.path().to_owned();
        let mut segments = path.split('/').filter(|s| !s.is_empty()).map(|s| decode(s, false)).collect();
        let mut query = Query::parse(uri.query().unwrap_or(""));
        if method == Method::GET {
            modern_watch(&mut segments, &mut query);
        }
        Self {
            method,
            segments,
            path,
            uri: uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            query,
            headers,
            body,
            user,
            impersonator: None,
            source: None,
            decision: OnceLock::new(),
            wire: Wire::default(),
        }
    }

    /// The client's name of the request, or the server's.
    pub fn audit_id(&self) -> String {
        let given = self.headers.get("audit-id").and_then(|id| id.to_str().ok());
        given.filter(|id| !id.is_empty()).map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
    }

    /// Path and query as they were sent.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    pub fn header(&self, name: http::header::HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

/// Whether this asks for a watch, in either way.
pub(crate) fn is_watch(method: &Method, uri: &http::Uri) -> bool {
    method == Method::GET && {
        let path: Vec<&str> = uri.path().split('/').filter(|s| !s.is_empty()).collect();
        legacy_watch(&path).is_some() || Query::parse(uri.query().unwrap_or("")).flag("watch")
    }
}

/// Where in a path the word `watch` stands before a resource, which upstream still serves.
fn legacy_watch<T: AsRef<str>>(segments: &[T]) -> Option<usize> {
    let at = match segments.first()?.as_ref() {
        "api" => 2,
        "apis" => 3,
        _ => return None,
    };
    (segments.len() > at + 1 && segments[at].as_ref() == "watch").then_some(at)
}

/// `/api/v1/watch/RESOURCE/NAME` is the watch of a list that has this one object at most.
fn modern_watch(segments: &mut Vec<String>, query: &mut Query) {
    let Some(at) = legacy_watch(segments) else { return };
    segments.remove(at);
    let in_namespace = segments[at] == "namespaces" && segments.len() > at + 2;
    let name_at = at + if in_namespace { 3 } else { 1 };
    query.0.retain(|(key, _)| key != "watch");
    query.0.push(("watch".to_owned(), "true".to_owned()));
    if segments.len() == name_at + 1 {
        let name = segments.remove(name_at);
        query.0.retain(|(key, _)| key != "fieldSelector");
        query.0.push(("fieldSelector".to_owned(), format!("metadata.name={name}")));
    }
}

/// The parameters behind the question mark.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Self {
        let pair = |p: &str| {
            let (key, value) = p.split_once('=').unwrap_or((p, ""));
            (decode(key, true), decode(value, true))
        };
        Self(text.split('&').filter(|p| !p.is_empty()).map(pair).collect())
    }

    /// The first value, as Go takes it; `None` where the parameter is absent, or that value is empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, first) = self.0.iter().find(|(key, _)| key == name)?;
        Some(first.as_str()).filter(|value| !value.is_empty())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// Upstream's reading of a boolean parameter: there, and neither `false` nor `0`.
    pub fn flag(&self, name: &str) -> bool {
        let first = self.0.iter().find(|(key, _)| key == name);
        first.is_some_and(|(_, value)| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    pub fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let refused = |text: &str, error: &ParseIntError| {
            ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: {}", go_number_error(error)))
        };
        self.get(name).map(|text| text.parse().map_err(|e| refused(text, &e))).transpose()
    }

    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

/// What Go's `strconv` says of a number that it can't read.
pub(crate) fn go_number_error(error: &ParseIntError) -> &'static str {
    match error.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    }
}

/// Undoes percent-encoding.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |i: usize| bytes.get(i).and_then(|b| (*b as char).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (b'+', ..) if plus_is_space => {
                out.push(b' ');
                at += 1;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Percent-encodes a query value.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// What a path under `/api` or `/apis` names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Target {
    pub group: String,
    pub version: String,
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub subresource: String,
    /// Behind the subresource (`proxy` has such).
    pub rest: Vec<String>,
}

impl Target {
    /// Of the one object.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(&self.namespace, &self.name)
    }

    /// `None`: the path names no resource (it may be a discovery document).
    pub fn of(segments: &[String]) -> Option<Self> {
        let (group, version, rest) = match segments {
            [api, version, rest @ ..] if api == "api" => ("", version, rest),
            [apis, group, version, rest @ ..] if apis == "apis" => (group.as_str(), version, rest),
            _ => return None,
        };
        let text = |at: usize, from: &[String]| from.get(at).cloned().unwrap_or_default();
        // `namespaces/<name>` is a namespace, `namespaces/<name>/<resource>` something in it, but for
        // the namespace's own subresources.
        let own = |sub: &String| matches!(sub.as_str(), "status" | "finalize");
        let (namespace, rest) = match rest {
            [namespaces, namespace, resource, ..] if namespaces == "namespaces" && !own(resource) => {
                (namespace.clone(), &rest[2..])
            }
            _ => (String::new(), rest),
        };
        let resource = rest.first()?.clone();
        Some(Self {
            group: group.to_owned(),
            version: version.clone(),
            resource,
            namespace,
            name: text(1, rest),
            subresource: text(2, rest),
            rest: rest.get(3..).unwrap_or_default().to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_resources() {
        let check = |path: &str, expect: Option<[&str; 6]>| {
            let segments: Vec<String> = path.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect();
            let got = Target::of(&segments);
            let got = got.as_ref().map(|t| {
                [&t.group, &t.version, &t.resource, &t.namespace, &t.name, &t.subresource].map(String::as_str)
            });
            assert_eq!(got, expect, "{path}");
        };
        check("/api/v1", None);
        check("/version", None);
        check("/api/v1/nodes", Some(["", "v1", "nodes", "", "", ""]));
        check("/api/v1/namespaces", Some(["", "v1", "namespaces", "", "", ""]));
        check("/api/v1/namespaces/a", Some(["", "v1", "namespaces", "", "a", ""]));
        check("/api/v1/namespaces/a/finalize", Some(["", "v1", "namespaces", "", "a", "finalize"]));
        check("/api/v1/namespaces/a/pods", Some(["", "v1", "pods", "a", "", ""]));
        check("/api/v1/namespaces/a/pods/p/log", Some(["", "v1", "pods", "a", "p", "log"]));
        check("/apis/apps/v1/deployments", Some(["apps", "v1", "deployments", "", "", ""]));
        check("/apis/apps/v1/namespaces/a/deployments/d", Some(["apps", "v1", "deployments", "a", "d", ""]));
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc&watch&limit=5&x=a+b&dry=");
        assert_eq!(query.get("labelSelector"), Some("a=b,c"));
        assert!(query.flag("watch") && query.has("dry") && query.get("dry").is_none());
        assert_eq!(query.integer("limit").expect("a number"), Some(5));
        assert_eq!(query.get("x"), Some("a b"));
        assert!(query.integer("x").is_err());
        let twice = Query::parse("a=&a=1&b=1&b=2");
        assert_eq!((twice.get("a"), twice.get("b")), (None, Some("1")), "the first counts, even an empty one");
        let flags = Query::parse("a=FALSE&b&c=0&d=1&d=0");
        assert_eq!(["a", "b", "c", "d", "e"].map(|name| flags.flag(name)), [false, true, false, true, false]);
        assert_eq!(encode("a=b c"), "a%3Db%20c");
    }
}
