//! `pods/proxy`, `services/proxy`, `nodes/proxy`: HTTP to what runs in the cluster, with the rights of whoever asks.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use futures::StreamExt;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION};
use http::{HeaderName, HeaderValue, Method};
use rand::seq::IndexedRandom;
use rustls::ClientConfig;
use serde_json::{Value, json};
use skiff_api::{ApiError, Gvk};
use skiff_base::chain;

use super::forward::{outbound, upgrade_of};
use super::page::Page;
use super::rewrite::Rewriter;
use super::upstream::{Security, Upstream};
use crate::admission::{self, Operation, Request};
use crate::call::{Call, Target, decode};
use crate::http::compress;
use crate::path::warn_all;
use crate::registry::Row;
use crate::reply::{Payload, Reply};
use crate::server::Server;

const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
/// Whose pages may read an answer is for this server to say, not for what is behind it.
const CORS: [&str; 4] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];

/// `[scheme:]name[:port]`.
#[derive(Debug, PartialEq, Eq)]
struct Id<'a> {
    https: bool,
    name: &'a str,
    port: &'a str,
}

fn parse_id(text: &str) -> Option<Id<'_>> {
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    let known = matches!(scheme, "" | "http" | "https");
    (known && !name.is_empty()).then_some(Id { https: scheme == "https", name, port })
}

/// Certificates of pods are signed by whomever they like; upstream does not look at them either.
fn security(https: bool) -> Security {
    static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| Arc::new(skiff_client::unverified_tls()));
    if https { Security::Tls(CONFIG.clone()) } else { Security::Plain }
}

/// What is behind the subresource, as it was written.
fn rest(path: &str) -> &str {
    // ["api", "v1", ("namespaces", its name,) the resource, the name, "proxy"]
    let segments = if path.starts_with("/api/v1/namespaces/") { 7 } else { 5 };
    let mut at = 0;
    for _ in 0..segments {
        at += path[at..].find(|c| c != '/').unwrap_or(0);
        at += path[at..].find('/').unwrap_or(path.len() - at);
    }
    &path[at..]
}

impl Server {
    pub(crate) async fn proxied(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let upstream = match row.resource() {
            "pods" => self.proxied_pod(row, target).await?,
            "services" => self.proxied_service(row, target).await?,
            _ => self.proxied_node(target)?,
        };
        let path = rest(&call.path);
        let mut warnings = Vec::new();
        self.may_connect(call, row, target, path, &mut warnings).await?;
        let query = &call.wire.query;
        if path.is_empty() && matches!(call.method, Method::GET | Method::HEAD) && upgrade_of(&call.headers).is_none() {
            let mut reply = Reply::text(301, "");
            let query = if query.is_empty() { String::new() } else { format!("?{query}") };
            reply.set(LOCATION, &format!("{}/{query}", call.path));
            return Ok(reply);
        }
        let to = match (path, query.as_str()) {
            ("", "") => "/".to_owned(),
            (path, "") => path.to_owned(),
            (path, query) => format!("{}?{query}", if path.is_empty() { "/" } else { path }),
        };
        let mut request = outbound(call, call.method.clone(), &to, &upstream).map_err(ApiError::internal)?;
        let headers = request.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&call.path) {
            headers.insert(FORWARDED_URI, value);
        }
        // Links in pages are rewritten, which takes pages in a form that is read here.
        let takes_gzip = headers.get_all(ACCEPT_ENCODING).iter().any(|value| compress::takes_gzip(Some(value)));
        headers.remove(ACCEPT_ENCODING);
        if takes_gzip {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let asked = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
        let (response, sender) = self.send_upstream(&upstream, request).await.map_err(|e| {
            ApiError::new(503, "ServiceUnavailable", format!("error trying to reach service: {}", chain(&e)))
        })?;
        let reply = self.pass_back(call, response, sender);
        let prepend = call.path.strip_suffix(path).unwrap_or(&call.path).to_owned();
        let mut reply = rewritten(reply, Rewriter { prepend, hosts: [upstream.address(), asked] });
        warn_all(&mut reply, &warnings);
        Ok(reply)
    }

    /// Asks webhooks about the connection.
    async fn may_connect(
        &self,
        call: &Call,
        row: &Row,
        target: &Target,
        path: &str,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let kind = Gvk::new("", "v1", &format!("{}ProxyOptions", row.kind()));
        let options = json!({"kind": &*kind.kind, "apiVersion": "v1", "path": decode(path, false)});
        let asked = Request {
            server: self,
            user: &call.user,
            row,
            operation: Operation::Connect,
            subresource: "proxy",
            of: Some(kind),
            key: target.key(),
            old: None,
            dry_run: false,
            options: &Value::Null,
        };
        admission::connect(&asked, &options, warnings).await
    }

    async fn proxied_pod(&self, row: &Arc<Row>, target: &Target) -> Result<Upstream, ApiError> {
        let bad = || ApiError::bad_request(format!("invalid pod request {:?}", target.name));
        let Id { https, name, port } = parse_id(&target.name).ok_or_else(bad)?;
        let named = Target { name: name.to_owned(), ..target.clone() };
        let pod = self.current(row, &named.key()).await?.value();
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let declared = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten()).next();
        let default = if https { 443 } else { 80 };
        let port = match port {
            "" => declared.and_then(|port| port["containerPort"].as_u64()).unwrap_or(default),
            text => text.parse().map_err(|_| bad())?,
        };
        let port = u16::try_from(port).map_err(|_| bad())?;
        let ip = pod["status"]["podIPs"][0]["ip"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
        let ip = ip.filter(is_global).ok_or_else(|| ApiError::bad_request("address not allowed"))?;
        Ok(Upstream { host: ip.to_string(), port, name: None, security: security(https) })
    }

    async fn proxied_service(&self, row: &Arc<Row>, target: &Target) -> Result<Upstream, ApiError> {
        let unavailable = |why: String| ApiError::new(503, "ServiceUnavailable", why);
        let bad = || ApiError::bad_request(format!("invalid service request {:?}", target.name));
        let Id { https, name, port } = parse_id(&target.name).ok_or_else(bad)?;
        let mut wanted = port.to_owned();
        if let Ok(number) = port.parse::<u64>() {
            let named = Target { name: name.to_owned(), ..target.clone() };
            let service = self.current(row, &named.key()).await?.value();
            let ports = service["spec"]["ports"].as_array().into_iter().flatten();
            let declared = ports.into_iter().find(|port| port["port"].as_u64() == Some(number));
            let declared =
                declared.ok_or_else(|| unavailable(format!("no service port {number} found for service {name:?}")))?;
            wanted = declared["name"].as_str().unwrap_or_default().to_owned();
        }
        self.cache.fresh().await?;
        let endpoints = self.resource("endpoints").find(&target.namespace, name);
        let endpoints = endpoints.ok_or_else(|| ApiError::not_found("", "endpoints", name))?.value();
        let all = backends(&endpoints, &wanted);
        let (ip, port) = all.choose(&mut rand::rng()).ok_or_else(|| {
            let whose = if endpoints["subsets"].as_array().is_none_or(Vec::is_empty) { name } else { &target.name };
            unavailable(format!("no endpoints available for service {whose:?}"))
        })?;
        Ok(Upstream { host: ip.to_string(), port: *port, name: None, security: security(https) })
    }

    fn proxied_node(&self, target: &Target) -> Result<Upstream, ApiError> {
        let bad = || ApiError::bad_request(format!("invalid node request {:?}", target.name));
        let Id { https, name, port } = parse_id(&target.name).ok_or_else(bad)?;
        let kubelet = self.kubelet(name)?;
        if port.is_empty() || port == kubelet.port.to_string() {
            return Ok(kubelet);
        }
        let port = port.parse().map_err(|_| bad())?;
        if kubelet.host.parse::<IpAddr>().is_ok_and(|ip| !is_global(&ip)) {
            return Err(ApiError::bad_request("address not allowed"));
        }
        Ok(Upstream { host: kubelet.host, port, name: None, security: security(https) })
    }
}

/// Addresses of this machine alone, and those that are none, are no business of users.
fn is_global(ip: &IpAddr) -> bool {
    // An IPv4 address in IPv6's clothes goes where the IPv4 one goes.
    let ip = ip.to_canonical();
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

/// Ready addresses with the port of that name.
fn backends(endpoints: &Value, port: &str) -> Vec<(IpAddr, u16)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut all = Vec::new();
    for subset in list(&endpoints["subsets"]) {
        let number = list(&subset["ports"])
            .iter()
            .find(|known| known["name"].as_str().unwrap_or_default() == port)
            .and_then(|port| port["port"].as_u64())
            .and_then(|port| u16::try_from(port).ok());
        let addresses = list(&subset["addresses"]);
        let ips = addresses.iter().filter_map(|address| address["ip"].as_str()?.parse::<IpAddr>().ok());
        all.extend(ips.filter(is_global).filter_map(|ip| Some((ip, number?))));
    }
    all
}

/// The answer with the addresses that its reader needs.
fn rewritten(mut reply: Reply, rewriter: Rewriter) -> Reply {
    for name in CORS {
        reply.headers.remove(name);
    }
    if let Some(location) = reply.headers.get(LOCATION).and_then(|location| location.to_str().ok()) {
        let location = rewriter.url(location);
        reply.set(LOCATION, &location);
        return reply;
    }
    let text = |name: HeaderName| reply.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let html = text(CONTENT_TYPE).split(';').next().unwrap_or_default().trim() == "text/html";
    let page = match text(CONTENT_ENCODING) {
        "" if html => Page::plain(rewriter),
        "gzip" if html => Page::compressed(rewriter),
        _ => return reply,
    };
    let Payload::Pieces(pieces) = reply.body else { return reply };
    reply.headers.remove(CONTENT_LENGTH);
    let pieces = futures::stream::unfold((pieces, Some(page)), |(mut pieces, page)| async move {
        let mut page = page?;
        loop {
            return match pieces.next().await {
                Some(Ok(piece)) => match page.push(&piece) {
                    // An empty piece would be taken for nothing.
                    Ok(out) if out.is_empty() => continue,
                    Ok(out) => Some((Ok(out), (pieces, Some(page)))),
                    Err(error) => Some((Err(error), (pieces, None))),
                },
                Some(Err(error)) => Some((Err(error), (pieces, None))),
                None => Some((page.finish(), (pieces, None))),
            };
        }
    });
    reply.body = Payload::Pieces(pieces.boxed());
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_with_schemes_and_ports() {
        for (text, expect) in [
            ("a", Some((false, "a", ""))),
            ("a:80", Some((false, "a", "80"))),
            ("https:a:", Some((true, "a", ""))),
            ("http:a:web", Some((false, "a", "web"))),
            ("ftp:a:1", None),
            (":80", None),
            ("", None),
            ("a:b:c:d", None),
        ] {
            assert_eq!(parse_id(text), expect.map(|(https, name, port)| Id { https, name, port }), "{text}");
        }
    }

    #[test]
    fn what_is_behind() {
        for (path, expect) in [
            ("/api/v1/nodes/n/proxy", ""),
            ("/api/v1/nodes/n/proxy/", "/"),
            ("/api/v1/nodes/n/proxy/a%20b//c/", "/a%20b//c/"),
            ("/api/v1/namespaces/a/pods/p/proxy/x", "/x"),
            ("/api/v1/namespaces/a/services/https:s:1/proxy", ""),
        ] {
            assert_eq!(rest(path), expect, "{path}");
        }
    }

    #[test]
    fn backends_of_services() {
        let endpoints = json!({"subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "127.0.0.1"}], "ports": [{"name": "web", "port": 80}]},
            {"notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [{"name": "web", "port": 80}]},
            {"addresses": [{"ip": "10.0.0.3"}], "ports": [{"port": 81}]},
        ]});
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(backends(&endpoints, "web"), [(ip("10.0.0.1"), 80)]);
        assert_eq!(backends(&endpoints, ""), [(ip("10.0.0.3"), 81)]);
        assert_eq!(backends(&json!({}), ""), []);
    }
}
