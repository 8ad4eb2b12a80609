//! HTTP requests to containers, for probes and hooks: certificates are not verified, redirects to the same host are
//! followed, answers are cut.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use skiff_tls::Trust;
use tokio::time::Instant;

/// More of an answer is not read (upstream's limit).
const MAX_BODY: usize = 10 * 1024;
const MAX_REDIRECTS: usize = 10;

const LATE: &str = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";

/// What answers does not speak TLS, as Go's client says it.
pub(crate) const NO_TLS: &str = "http: server gave HTTP response to HTTPS client";

/// A request that is ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) https: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// With query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    /// As far as it was read.
    pub(crate) body: String,
}

/// The number of a port that may be named.
pub(crate) fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_deref() == Some(name))
            .map(|p| p.container_port)
            .or_else(|| name.parse().ok()),
    };
    let bad = || match (port, number) {
        (IntOrString::String(name), None) => format!("strconv.Atoi: parsing {name:?}: invalid syntax"),
        _ => format!("invalid port number: {}", number.unwrap_or(-1)),
    };
    number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0).ok_or_else(bad)
}

pub(crate) fn plan_target(
    container: &Container,
    action: &HTTPGetAction,
    pod_ip: &str,
    user_agent: &str,
) -> Result<Target, String> {
    let path = action.path.as_deref().unwrap_or_default();
    let mut headers: Vec<(String, String)> =
        action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
    let has = |headers: &[(String, String)], name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if !has(&headers, "user-agent") {
        headers.push(("User-Agent".to_owned(), user_agent.to_owned()));
    }
    if !has(&headers, "accept") {
        headers.push(("Accept".to_owned(), "*/*".to_owned()));
    }
    // An empty value takes a default header away.
    headers
        .retain(|(name, value)| !(value.is_empty() && matches!(name.to_lowercase().as_str(), "user-agent" | "accept")));
    Ok(Target {
        https: action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
        host: action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| pod_ip.to_owned()),
        port: port(container, &action.port)?,
        path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        headers,
    })
}

impl Target {
    pub(crate) fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    fn url(&self) -> String {
        format!("{}://{}{}", if self.https { "https" } else { "http" }, self.authority(), self.path)
    }
}

/// `host:port`, as Go writes it.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Asks until `timeout`; the error is as Go's client would word it.
pub(crate) async fn get(target: &Target, timeout: Duration) -> Result<Answer, String> {
    let (until, mut target, mut last) = (Instant::now() + timeout, target.clone(), String::new());
    for _ in 0..MAX_REDIRECTS {
        let said = tokio::time::timeout_at(until, once(&target)).await.unwrap_or_else(|_| Err(LATE.to_owned()));
        let (answer, location) = said.map_err(|why| format!("Get {:?}: {why}", target.url()))?;
        let location = location.filter(|_| (300..400).contains(&answer.status));
        match location.as_deref().and_then(|location| redirect(&target, location)) {
            None => return Ok(answer),
            Some(next) => (target, last) = (next, location.unwrap_or_default()),
        }
    }
    Err(format!("Get {last:?}: stopped after {MAX_REDIRECTS} redirects"))
}

/// Where a redirect leads; `None` where it leaves the host: the answer counts as it is.
fn redirect(from: &Target, location: &str) -> Option<Target> {
    let uri: Uri = location.parse().ok()?;
    let mut to = from.clone();
    if let Some(host) = uri.host() {
        if host.trim_matches(['[', ']']) != from.host {
            return None;
        }
        to.https = uri.scheme_str() == Some("https");
        to.port = uri.port_u16().unwrap_or(if to.https { 443 } else { 80 });
    }
    to.path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    Some(to)
}

async fn once(target: &Target) -> Result<(Answer, Option<String>), String> {
    let stream = skiff_resolver::dial(&target.host, target.port).await.map_err(|e| e.to_string())?;
    let ends = stream.local_addr().and_then(|ours| Ok(format!("{ours}->{}", stream.peer_addr()?))).unwrap_or_default();
    if !target.https {
        return exchange(TokioIo::new(stream), target, &ends).await;
    }
    let connector = tokio_rustls::TlsConnector::from(trusting_client()?);
    let name = ServerName::try_from(target.host.clone()).map_err(|e| e.to_string())?;
    let stream = connector.connect(name, stream).await.map_err(|e| {
        let cause = e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match cause {
            Some(rustls::Error::InvalidMessage(_)) => NO_TLS.to_owned(),
            _ => e.to_string(),
        }
    })?;
    exchange(TokioIo::new(stream), target, &ends).await
}

/// Why no answer has come, in Go's words.
fn broken(error: &hyper::Error, ends: &str) -> String {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    match cause.map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionReset) => format!("read tcp {ends}: read: connection reset by peer"),
        _ if error.is_incomplete_message() || error.is_canceled() => "EOF".to_owned(),
        _ => error.to_string(),
    }
}

async fn exchange<S>(stream: S, target: &Target, ends: &str) -> Result<(Answer, Option<String>), String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(stream).await.map_err(|e| e.to_string())?;
    let talk = async {
        let mut request = Request::get(target.path.as_str());
        let mut host = target.authority();
        for (name, value) in &target.headers {
            if name.eq_ignore_ascii_case("host") {
                host.clone_from(value);
                continue;
            }
            let name = HeaderName::try_from(name.as_str()).map_err(|e| e.to_string())?;
            request = request.header(name, HeaderValue::try_from(value.as_str()).map_err(|e| e.to_string())?);
        }
        let request = request
            .header(header::HOST, host)
            .header(header::CONNECTION, "close")
            .body(Empty::new())
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| broken(&e, ends))?;
        let status = response.status().as_u16();
        let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
        // Read, so that the server is not cut off; what it says besides does not count, nor whether it breaks off.
        let mut read = Vec::new();
        let mut incoming = response.into_body();
        while let Some(Ok(frame)) = incoming.frame().await {
            let data = frame.data_ref().map(Bytes::as_ref).unwrap_or_default();
            read.extend_from_slice(&data[..data.len().min(MAX_BODY - read.len())]);
            if read.len() == MAX_BODY {
                break;
            }
        }
        Ok((Answer { status, body: String::from_utf8_lossy(&read).into_owned() }, location))
    };
    tokio::pin!(talk, connection);
    tokio::select! {
        answer = &mut talk => answer,
        ended = &mut connection => match ended {
            Ok(()) => talk.await,
            Err(e) => Err(broken(&e, ends)),
        },
    }
}

/// Probes ask whether a container answers, not who it is (as upstream).
fn trusting_client() -> Result<Arc<ClientConfig>, String> {
    Ok(Arc::new(Trust::Anyone.client().map_err(|e| e.to_string())?.with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn sample() -> Container {
        serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]})).expect("fine")
    }

    #[test]
    fn targets() {
        let target = |action| {
            let action: HTTPGetAction = serde_json::from_value(action).expect("an action");
            plan_target(&sample(), &action, "10.42.0.2", "kube-probe/1.36")
        };
        let found = target(json!({"port": "web", "path": "x?y=1", "httpHeaders": [{"name": "accept", "value": ""}, {"name": "X-A", "value": "1"}]}))
            .expect("a target");
        assert_eq!(found.url(), "http://10.42.0.2:8080/x?y=1");
        assert_eq!(found.headers, [("X-A".into(), "1".into()), ("User-Agent".into(), "kube-probe/1.36".into())]);
        assert_eq!(
            target(json!({"port": 443, "scheme": "HTTPS", "host": "h"})).expect("a target").url(),
            "https://h:443/"
        );
        assert_eq!(target(json!({"port": "none"})), Err("strconv.Atoi: parsing \"none\": invalid syntax".into()));
        assert_eq!(target(json!({"port": 0})), Err("invalid port number: 0".into()));
    }

    /// Answers connection after connection with these texts.
    async fn serve(answers: Vec<&'static str>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut buffer = [0; 1024];
                drop(stream.read(&mut buffer).await);
                drop(stream.write_all(answer.as_bytes()).await);
            }
        });
        port
    }

    fn to(port: u16) -> Target {
        Target { https: false, host: "127.0.0.1".into(), port, path: "/".into(), headers: Vec::new() }
    }

    #[tokio::test]
    async fn asks_and_follows() {
        let limit = Duration::from_secs(10);
        let port = serve(vec![
            "HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ])
        .await;
        let answer = get(&to(port), limit).await.expect("an answer");
        assert_eq!(answer.status, 200);
        let elsewhere = "HTTP/1.1 302 Found\r\nLocation: http://elsewhere.test/\r\nContent-Length: 2\r\n\r\nno";
        let answer = get(&to(serve(vec![elsewhere]).await), limit).await.expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (302, "no"));
        let round = "HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n";
        for (answers, expected) in [
            (vec![round; MAX_REDIRECTS], "Get \"/again\": stopped after 10 redirects".to_owned()),
            (vec![""], "EOF".to_owned()),
        ] {
            let error = get(&to(serve(answers).await), limit).await.err().expect("an error");
            assert!(error.ends_with(&expected), "{error}");
        }
        // Nobody listens any more.
        let port = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound").port();
        let error = get(&to(port), limit).await.err().expect("refused");
        assert_eq!(
            error,
            format!("Get \"http://127.0.0.1:{port}/\": dial tcp 127.0.0.1:{port}: connect: connection refused")
        );
    }
}
