//! HTTPS on port 10250, as kubelet serves it: for the API server, which asks for logs and streams on behalf of users.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use skiff_base::chain;
use skiff_runtime::{ContainerId, ContainerState, RuntimeEvent};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc};
use tokio_rustls::TlsAcceptor;

use crate::connections;
use crate::context::Context;
use crate::logs::{self, Ending, LogOptions};
use crate::options::{Error, Options};
use crate::pod;
use crate::pods::Pods;
use crate::stats;
use crate::stream::Streams;

pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// Who may ask for more than health.
const API_SERVER: &str = "kube-apiserver";
const MASTERS: &str = "system:masters";
/// A client that does not finish its handshake is dropped.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections at once; more wait to be accepted. Followed logs hold theirs for long.
const MAX_CONNECTIONS: usize = 1024;
/// Who is not trusted has nothing to ask for longer: health is told at once.
const ANONYMOUS_LIMIT: Duration = Duration::from_secs(30);
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Chunks of a log that wait for a slow client.
const CHUNKS: usize = 4;

/// Who asks, as the client certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Caller {
    Anonymous,
    User { name: String, groups: Vec<String> },
}

impl Caller {
    fn is_trusted(&self) -> bool {
        matches!(self, Self::User { name, groups } if name == API_SERVER || groups.iter().any(|g| g == MASTERS))
    }
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) ctx: Arc<Context>,
    pub(crate) pods: Arc<Pods>,
    pub(crate) streams: Streams,
}

pub(crate) fn tls(options: &Options) -> Result<TlsAcceptor, Error> {
    let bad = |e: &dyn std::fmt::Display| Error::Certificate(e.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(options.client_ca_pem.as_bytes()) {
        roots.add(certificate.map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| bad(&e))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(options.serving.certificate.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| bad(&e))?;
    let key = PrivateKeyDer::from_pem_slice(options.serving.key.as_bytes()).map_err(|e| bad(&e))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| bad(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until the agent stops.
pub(crate) fn spawn(ctx: &Arc<Context>, pods: Arc<Pods>, streams: Streams, listener: TcpListener, tls: TlsAcceptor) {
    let server = Server { ctx: ctx.clone(), pods, streams };
    connections::take(&ctx.scope, listener, MAX_CONNECTIONS, move |stream| serve(server.clone(), tls.clone(), stream));
}

async fn serve(server: Server, tls: TlsAcceptor, stream: TcpStream) {
    let stream = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => {
            tracing::debug!(error = %e, "a TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let subject = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).and_then(|c| skiff_pki::subject(c));
    let caller = match subject {
        Some((name, groups)) => Caller::User { name, groups },
        None => Caller::Anonymous,
    };
    let limited = !caller.is_trusted();
    let service = service_fn(move |request| {
        let (server, caller) = (server.clone(), caller.clone());
        async move { Ok::<_, Infallible>(server.answer(request, &caller).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let served = if limited {
        match tokio::time::timeout(ANONYMOUS_LIMIT, connection).await {
            Ok(served) => served,
            Err(_) => return,
        }
    } else {
        connection.await
    };
    if let Err(e) = served {
        tracing::debug!(error = %e, "a connection ended early");
    }
}

impl Server {
    async fn answer(&self, request: Request<Incoming>, caller: &Caller) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        if let ["healthz" | "livez"] = parts.as_slice() {
            return text(StatusCode::OK, "ok");
        }
        match caller {
            Caller::Anonymous => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
            Caller::User { name, .. } if !caller.is_trusted() => {
                let message = format!("Forbidden (user={name}, verb=get, resource=nodes, subresource(s)=[proxy])");
                return text(StatusCode::FORBIDDEN, &message);
            }
            Caller::User { .. } => {}
        }
        match (request.method(), parts.as_slice()) {
            (&Method::GET, ["pods"]) => self.pods(false),
            (&Method::GET, ["runningpods"]) => self.pods(true),
            (&Method::GET, ["stats", "summary"] | ["metrics", "resource" | "cadvisor"]) => self.usage(&parts).await,
            (&Method::GET, ["containerLogs", namespace, pod, container]) => {
                self.container_logs(namespace, pod, container, request.uri().query().unwrap_or_default()).await
            }
            (&Method::GET | &Method::POST, [kind @ ("exec" | "attach" | "portForward"), rest @ ..]) => {
                self.stream(request, kind, rest).await
            }
            (_, ["pods" | "runningpods" | "containerLogs" | "exec" | "attach" | "portForward", ..])
                if request.method() != Method::GET =>
            {
                text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
            }
            _ => text(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }

    fn pods(&self, running: bool) -> Response<Body> {
        let is_running = |p: &Arc<Pod>| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
        let items: Vec<Value> = self
            .pods
            .pods()
            .iter()
            .filter(|p| !running || is_running(p))
            .filter_map(|p| serde_json::to_value(&**p).ok())
            .collect();
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
        let mut response = text(StatusCode::OK, &list.to_string());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    async fn usage(&self, parts: &[&str]) -> Response<Body> {
        let usage = match stats::collect(&self.ctx, &self.pods).await {
            Ok(usage) => usage,
            Err(e) => return text(StatusCode::INTERNAL_SERVER_ERROR, &chain(&e).to_string()),
        };
        let (body, kind) = match parts {
            ["stats", ..] => (usage.summary().to_string(), "application/json"),
            [_, "resource"] => (usage.resource_metrics(), METRICS),
            _ => (usage.cadvisor_metrics(), METRICS),
        };
        let mut response = text(StatusCode::OK, &body);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }

    async fn container_logs(&self, namespace: &str, name: &str, container: &str, query: &str) -> Response<Body> {
        let options = match parse_options(query, skiff_base::time::now()) {
            Ok(options) => options,
            Err(why) => return text(StatusCode::BAD_REQUEST, &why),
        };
        let Some(pod) = self.pods.find(namespace, name) else {
            return text(StatusCode::NOT_FOUND, &format!("pod {name:?} not found in namespace {namespace:?}\n"));
        };
        if pod::find(&pod, container).is_none() {
            let message = format!("container {container:?} not found in pod {name:?}\n");
            return text(StatusCode::NOT_FOUND, &message);
        }
        // Listened to before the state is read, so that no exit falls in between.
        let events = self.ctx.engine.events();
        let found = match self.find_run(&pod, container, options.previous).await {
            Ok(found) => found,
            Err(why) => return text(StatusCode::BAD_REQUEST, &why),
        };
        if !found.log.exists() && !options.follow {
            let message = format!("failed to try resolving symlinks in path {:?}: no such file\n", found.log);
            return text(StatusCode::INTERNAL_SERVER_ERROR, &message);
        }
        let ending = RunEnding { id: found.id, ended: found.ended, events };
        let (out, chunks) = mpsc::channel(CHUNKS);
        let log = found.log;
        self.ctx.scope.spawn({
            let stop = self.ctx.scope.token().clone();
            async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = logs::stream(log, options, ending, out) => {}
                }
            }
        });
        let frames = futures::stream::unfold(chunks, |mut chunks| async { chunks.recv().await.map(|c| (c, chunks)) });
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames.map(|c| c.map(Frame::data)))));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response
    }

    /// The run of a container whose log is asked for.
    async fn find_run(&self, pod: &Pod, container: &str, previous: bool) -> Result<FoundRun, String> {
        let uid = pod::uid(pod);
        let all = self.ctx.engine.containers().await.map_err(|e| chain(&e).to_string())?;
        let mut runs: Vec<_> = all
            .into_iter()
            .filter(|c| c.name == container && c.labels.get(pod::label::POD_UID) == Some(&uid.0))
            .collect();
        runs.sort_by_key(|c| std::cmp::Reverse(c.attempt));
        let whose = format!("container {container:?} in pod {:?}", pod::name(pod));
        let run = if previous {
            // A container that waits to be restarted has its last run as the newest.
            let skip = usize::from(!matches!(runs.first().map(|r| &r.state), Some(ContainerState::Exited(_))));
            let waits = is_waiting(pod, container);
            runs.into_iter()
                .nth(if waits { skip } else { 1 })
                .ok_or_else(|| format!("previous terminated {whose} not found\n"))?
        } else {
            runs.into_iter()
                .next()
                .ok_or_else(|| format!("{whose} is waiting to start: {}\n", waiting_reason(pod, container)))?
        };
        let log = self.ctx.options.pod_log_directory(pod).join(container).join(format!("{}.log", run.attempt));
        let log = if run.log_path.is_absolute() { run.log_path } else { log };
        Ok(FoundRun { id: run.id, log, ended: matches!(run.state, ContainerState::Exited(_)) })
    }
}

struct FoundRun {
    id: ContainerId,
    log: std::path::PathBuf,
    ended: bool,
}

fn waiting(pod: &Pod, container: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses);
    let all = all.chain(&status.ephemeral_container_statuses).flatten();
    let state = all.into_iter().find(|s| s.name == container)?.state.as_ref()?;
    state.waiting.as_ref()?.reason.clone()
}

fn is_waiting(pod: &Pod, container: &str) -> bool {
    waiting(pod, container).is_some()
}

fn waiting_reason(pod: &Pod, container: &str) -> String {
    match waiting(pod, container) {
        None => "ContainerCreating".to_owned(),
        Some(reason) => match reason.as_str() {
            "ErrImagePull" => "image can't be pulled".to_owned(),
            "ImagePullBackOff" => "trying and failing to pull image".to_owned(),
            _ => reason,
        },
    }
}

/// Following a log ends with its container.
struct RunEnding {
    id: ContainerId,
    ended: bool,
    events: broadcast::Receiver<RuntimeEvent>,
}

impl Ending for RunEnding {
    async fn ended(&mut self) {
        while !self.ended {
            match self.events.recv().await {
                Ok(RuntimeEvent::ContainerExited(id, _)) => self.ended = id == self.id,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => self.ended = true,
            }
        }
    }
}

/// From the query of `/containerLogs`.
fn parse_options(query: &str, now: Timestamp) -> Result<LogOptions, String> {
    let mut options = LogOptions::default();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value);
        let flag = || match value.as_str() {
            "true" | "1" | "" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(format!("invalid value {value:?} for {key}: must be true or false")),
        };
        let number = |least: u64| {
            let number = value.parse::<u64>().ok().filter(|n| *n >= least);
            number.ok_or_else(|| format!("invalid value {value:?} for {key}: must be a number of at least {least}"))
        };
        match key {
            "follow" => options.follow = flag()?,
            "previous" => options.previous = flag()?,
            "timestamps" => options.timestamps = flag()?,
            "tailLines" => options.tail_lines = Some(number(0)?),
            "limitBytes" => options.limit_bytes = Some(number(1)?),
            "sinceSeconds" => {
                let seconds = i64::try_from(number(1)?).unwrap_or(i64::MAX);
                options.since = now.checked_sub(SignedDuration::from_secs(seconds)).ok();
            }
            "sinceTime" => {
                let time =
                    value.parse().map_err(|_| format!("invalid value {value:?} for sinceTime: must be RFC 3339"))?;
                options.since = Some(time);
            }
            _ => {}
        }
    }
    Ok(options)
}

/// Percent-decodes a value of a query.
pub(crate) fn decode(value: &str) -> String {
    let bytes = value.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = value.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match code.and_then(|c| u8::from_str_radix(c, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(crate) fn text(status: StatusCode, text: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(text.to_owned())).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let now = Timestamp::from_second(1_000).expect("in range");
        let all = LogOptions::default();
        for (query, expected) in [
            ("", Ok(all.clone())),
            (
                "follow=true&previous=false&timestamps=1",
                Ok(LogOptions { follow: true, timestamps: true, ..all.clone() }),
            ),
            ("tailLines=0&limitBytes=9", Ok(LogOptions { tail_lines: Some(0), limit_bytes: Some(9), ..all.clone() })),
            ("sinceSeconds=100", Ok(LogOptions { since: Timestamp::from_second(900).ok(), ..all.clone() })),
            ("sinceTime=1970-01-01T00%3A00%3A05Z", Ok(LogOptions { since: Timestamp::from_second(5).ok(), ..all })),
            ("tailLines=-1", Err("invalid value \"-1\" for tailLines: must be a number of at least 0")),
            ("follow=maybe", Err("invalid value \"maybe\" for follow: must be true or false")),
            ("limitBytes=0", Err("invalid value \"0\" for limitBytes: must be a number of at least 1")),
        ] {
            assert_eq!(parse_options(query, now), expected.map_err(str::to_owned), "{query}");
        }
    }

    #[test]
    fn reasons_to_wait() {
        for (reason, expected) in [
            (None, "ContainerCreating"),
            (Some("CreateContainerConfigError"), "CreateContainerConfigError"),
            (Some("ErrImagePull"), "image can't be pulled"),
            (Some("ImagePullBackOff"), "trying and failing to pull image"),
        ] {
            let state = reason.map(|reason| serde_json::json!({"waiting": {"reason": reason}}));
            let status = serde_json::json!({"name": "a", "state": state, "image": "", "imageID": "", "ready": false, "restartCount": 0});
            let pod = serde_json::json!({"metadata": {}, "status": {"containerStatuses": [status]}});
            let pod: Pod = serde_json::from_value(pod).expect("a pod");
            assert_eq!(waiting_reason(&pod, "a"), expected);
        }
    }

    #[test]
    fn callers() {
        let user = |name: &str, groups: &[&str]| Caller::User {
            name: name.to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        };
        assert!(user("kube-apiserver", &[]).is_trusted());
        assert!(user("admin", &["system:masters"]).is_trusted());
        assert!(!user("system:node:a", &["system:nodes"]).is_trusted());
        assert!(!Caller::Anonymous.is_trusted());
    }
}
