//! HTTPS on port 10250, as kubelet serves it: for the API server, which asks for logs and streams on behalf of users.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use skiff_base::{CancellationToken, chain};
use skiff_runtime::{ContainerId, ContainerState as RunState, RuntimeEvent, SandboxState};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc};
use tokio_rustls::TlsAcceptor;

use crate::auth::{self, Auth, Caller};
use crate::connections::{self, Body, Handler};
use crate::context::Context;
use crate::engine::Engine;
use crate::logs::{self, Ending, LogOptions, Stdio};
use crate::metrics::Process;
use crate::options::{Error, Options};
use crate::pod;
use crate::pods::Pods;
use crate::stats::Rates;
use crate::stream::Streams;

/// A client that does not finish its handshake is dropped.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections at once; more wait to be accepted. Followed logs hold theirs for long.
const MAX_CONNECTIONS: usize = 1024;
/// How long a connection stays on which nobody was let in yet.
const STRANGER_LIMIT: Duration = Duration::from_secs(30);
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The time in milliseconds that rates of `/stats/summary` are measured over.
const WINDOW: HeaderName = HeaderName::from_static("x-window-ms");
/// Chunks of a log that wait for a slow client.
const CHUNKS: usize = 4;

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) ctx: Arc<Context>,
    pub(crate) pods: Arc<Pods>,
    pub(crate) streams: Streams,
    auth: Arc<Auth>,
    rates: Arc<Rates>,
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
    let auth = Arc::new(Auth::new(ctx.client.clone(), &ctx.options.node_name));
    let server = Server { ctx: ctx.clone(), pods, streams, auth, rates: Arc::default() };
    connections::take(&ctx.scope, listener, MAX_CONNECTIONS, move |stream| serve(server.clone(), tls.clone(), stream));
}

async fn serve(server: Server, tls: TlsAcceptor, stream: TcpStream) {
    if let Err(error) = skiff_streaming::notice_dead_peers(&stream) {
        tracing::debug!(%error, "a connection without keep-alive");
    }
    let stream = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => {
            tracing::debug!(error = %e, "a TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let subject = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).and_then(|c| skiff_pki::subject(c));
    let certificate = subject.map(|(name, groups)| Caller::of_certificate(name, groups));
    let let_in = CancellationToken::new();
    let known = let_in.clone();
    let handler: Handler = Arc::new(move |request| {
        let (server, certificate, let_in) = (server.clone(), certificate.clone(), let_in.clone());
        Box::pin(async move { server.admit(request, certificate, &let_in).await })
    });
    let connection = connections::speak(Box::new(stream), handler);
    let stranger = async {
        if tokio::time::timeout(STRANGER_LIMIT, known.cancelled()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        served = connection => {
            if let Err(e) = served {
                tracing::debug!(error = e, "a connection ended early");
            }
        }
        () = stranger => {}
    }
}

impl Server {
    /// Lets those in who may ask for what they ask; a client certificate says who it is, else a token does.
    async fn admit(
        &self,
        request: Request<Incoming>,
        certificate: Option<Caller>,
        let_in: &CancellationToken,
    ) -> Response<Body> {
        let caller = match certificate {
            Some(caller) => Some(caller),
            None => self.auth.bearer(request.headers()).await,
        };
        let Some(caller) = caller else { return text(StatusCode::UNAUTHORIZED, "Unauthorized") };
        let asked = auth::plan_attributes(request.method(), request.uri().path());
        let whose = format!(
            "user={}, verb={}, resource=nodes, subresource(s)=[{}]",
            caller.name,
            asked.verb,
            asked.subresources.join(" ")
        );
        match self.auth.allows(&caller, &asked).await {
            Ok(true) => {}
            Ok(false) => return text(StatusCode::FORBIDDEN, &format!("Forbidden ({whose})\n")),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "an access can't be reviewed");
                return text(StatusCode::INTERNAL_SERVER_ERROR, &format!("Authorization error ({whose})\n"));
            }
        }
        let_in.cancel();
        self.answer(request).await
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (request.method(), parts.as_slice()) {
            (&Method::GET, ["healthz" | "livez", ..]) => text(StatusCode::OK, "ok"),
            (&Method::GET, ["configz"]) => json_reply(&self.ctx.options.configz()),
            (&Method::GET, ["metrics"]) => self.own_metrics().await,
            (&Method::GET, ["metrics", "probes"]) => typed(&self.ctx.counters.probes(), METRICS),
            (&Method::GET, ["pods"]) => self.pods(false),
            (&Method::GET, ["runningpods"]) => self.pods(true),
            (&Method::GET, ["stats", "summary"] | ["metrics", "resource" | "cadvisor"]) => {
                self.usage(&parts, request.uri().query().unwrap_or_default()).await
            }
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
        json_reply(&list)
    }

    async fn own_metrics(&self) -> Response<Body> {
        let running = |c: &skiff_runtime::Container| matches!(c.state, RunState::Running { .. });
        let (containers, sandboxes) = tokio::join!(self.ctx.engine.containers(), self.ctx.engine.sandboxes());
        let (containers, sandboxes) = match (containers, sandboxes) {
            (Ok(containers), Ok(sandboxes)) => (containers, sandboxes),
            (Err(e), _) | (_, Err(e)) => return text(StatusCode::INTERNAL_SERVER_ERROR, &chain(&e).to_string()),
        };
        let ready = sandboxes.iter().filter(|s| s.state == SandboxState::Ready).count();
        let (name, running) = (&self.ctx.options.node_name, containers.iter().filter(|c| running(c)).count());
        typed(&self.ctx.counters.own(name, ready, running, &Process::read()), METRICS)
    }

    async fn usage(&self, parts: &[&str], query: &str) -> Response<Body> {
        // Whoever wants nothing else wants rates, and waits for them.
        let wait = query.split('&').any(|pair| pair == "only_cpu_and_memory=true");
        let (usage, window) = match self.rates.collect(&self.ctx, &self.pods, wait).await {
            Ok(found) => found,
            Err(e) => return text(StatusCode::INTERNAL_SERVER_ERROR, &chain(&e).to_string()),
        };
        match parts {
            ["stats", ..] => {
                let mut response = json_reply(&usage.summary());
                if let Some(window) = window {
                    let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
                    response.headers_mut().insert(WINDOW, HeaderValue::from(window_ms));
                }
                response
            }
            [_, "resource"] => typed(&usage.resource_metrics(), METRICS),
            _ => typed(&usage.cadvisor_metrics(), METRICS),
        }
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
        if let Err(why) = logs::check(found.log.clone()).await {
            return text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{why}\n"));
        }
        let engine = self.ctx.engine.clone();
        let ending = RunEnding { engine, id: found.id, ended: found.ended, look: false, events };
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
        // What has begun ends with the words of what goes wrong, as upstream: a connection that is cut says nothing.
        let said = |e: std::io::Error| Bytes::from(format!("failed to read log file: {e}\n"));
        let frames = frames.map(move |chunk| Ok(Frame::data(chunk.unwrap_or_else(said))));
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
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
            let skip = usize::from(!matches!(runs.first().map(|r| &r.state), Some(RunState::Exited(_))));
            let waits = is_waiting(pod, container);
            match runs.into_iter().nth(if waits { skip } else { 1 }) {
                Some(run) => run,
                None => {
                    let before = self.find_before(pod, container, waits);
                    return before.ok_or_else(|| format!("previous terminated {whose} not found\n"));
                }
            }
        } else {
            match runs.into_iter().next() {
                Some(run) => run,
                None => return self.find_ended(pod, container, &whose),
            }
        };
        let log = self.ctx.options.pod_log_directory(pod).join(container).join(format!("{}.log", run.attempt));
        let log = if run.log_path.is_absolute() { run.log_path } else { log };
        Ok(FoundRun { id: run.id, log, ended: matches!(run.state, RunState::Exited(_)) })
    }
}

impl Server {
    /// The log of a container that the runtime knows no more, as far as it is still there.
    fn find_ended(&self, pod: &Pod, container: &str, whose: &str) -> Result<FoundRun, String> {
        let Some((id, attempt)) = ended(pod, container) else {
            return Err(format!("{whose} is waiting to start: {}\n", waiting_reason(pod, container)));
        };
        let log = self.ctx.options.pod_log_directory(pod).join(container).join(format!("{attempt}.log"));
        match log.exists() {
            true => Ok(FoundRun { id: ContainerId(id.trim_start_matches("skiff://").to_owned()), log, ended: true }),
            false => Err(format!("unable to retrieve container logs for {id}\n")),
        }
    }
}

impl Server {
    /// The log of the last run of a container, of which the runtime knows no more since it went with its sandbox.
    fn find_before(&self, pod: &Pod, container: &str, waits: bool) -> Option<FoundRun> {
        let status = container_status(pod, container)?;
        let id = status.last_state.as_ref()?.terminated.as_ref()?.container_id.as_ref()?;
        let attempt = status.restart_count - i32::from(!waits);
        let log = self.ctx.options.pod_log_directory(pod).join(container).join(format!("{attempt}.log"));
        let id = ContainerId(id.trim_start_matches("skiff://").to_owned());
        log.exists().then_some(FoundRun { id, log, ended: true })
    }
}

/// The id and the attempt of a container that has ended, as the API tells them.
fn ended(pod: &Pod, container: &str) -> Option<(String, i32)> {
    let status = container_status(pod, container)?;
    let of = |state: &Option<ContainerState>| state.as_ref()?.terminated.as_ref()?.container_id.clone();
    Some((of(&status.state).or_else(|| of(&status.last_state))?, status.restart_count))
}

fn container_status<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses);
    let mut all = all.chain(&status.ephemeral_container_statuses).flatten();
    all.find(|s| s.name == container)
}

struct FoundRun {
    id: ContainerId,
    log: std::path::PathBuf,
    ended: bool,
}

fn waiting(pod: &Pod, container: &str) -> Option<String> {
    let state = container_status(pod, container)?.state.as_ref()?;
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
    engine: Arc<dyn Engine>,
    id: ContainerId,
    ended: bool,
    /// Events were lost, its end maybe among them.
    look: bool,
    events: broadcast::Receiver<RuntimeEvent>,
}

impl Ending for RunEnding {
    async fn ended(&mut self) {
        while !self.ended {
            if self.look {
                let state = self.engine.container(&self.id).await.map(|container| container.state);
                self.ended = !matches!(state, Ok(RunState::Running { .. } | RunState::Created));
                self.look = false;
                continue;
            }
            match self.events.recv().await {
                Ok(RuntimeEvent::ContainerExited(id, _)) => self.ended = id == self.id,
                Ok(RuntimeEvent::Resync) | Err(broadcast::error::RecvError::Lagged(_)) => self.look = true,
                Ok(_) => {}
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
            "stream" => {
                options.only = match value.as_str() {
                    "All" | "" => None,
                    "Stdout" => Some(Stdio::Stdout),
                    "Stderr" => Some(Stdio::Stderr),
                    _ => return Err(format!("invalid stream type {value:?}")),
                }
            }
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

fn typed(body: &str, kind: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::OK, body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn json_reply(value: &Value) -> Response<Body> {
    typed(&value.to_string(), "application/json")
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
    use crate::testing::{World, one};
    use futures::FutureExt as _;

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
            ("stream=Stderr", Ok(LogOptions { only: Some(Stdio::Stderr), ..LogOptions::default() })),
            ("stream=stderr", Err("invalid stream type \"stderr\"")),
            ("tailLines=-1", Err("invalid value \"-1\" for tailLines: must be a number of at least 0")),
            ("follow=maybe", Err("invalid value \"maybe\" for follow: must be true or false")),
            ("limitBytes=0", Err("invalid value \"0\" for limitBytes: must be a number of at least 1")),
        ] {
            assert_eq!(parse_options(query, now), expected.map_err(str::to_owned), "{query}");
        }
    }

    #[tokio::test]
    async fn an_end_of_which_no_event_came() {
        let world = World::new().await;
        world.create("a", one("Never", json!({})));
        world.phase("a", "Running").await;
        let id = world.machine.lock().containers.keys().next().cloned().expect("it runs");
        let (engine, events) = (world.machine.clone(), world.machine.events());
        let mut ending = RunEnding { engine, id: id.clone(), ended: false, look: false, events };
        drop(world.machine.events.send(RuntimeEvent::Resync));
        assert!(ending.ended().now_or_never().is_none(), "it runs");
        world.machine.lock().containers.remove(&id);
        drop(world.machine.events.send(RuntimeEvent::Resync));
        assert!(ending.ended().now_or_never().is_some(), "nobody has it any more");
        world.scope.stop().await;
    }

    #[test]
    fn containers_that_ended() {
        let check = |state: Value, last: Value, expected: Option<(&str, i32)>| {
            let status = json!({"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 2,
                "state": state, "lastState": last});
            let pod = json!({"metadata": {}, "status": {"containerStatuses": [status]}});
            let pod: Pod = serde_json::from_value(pod).expect("a pod");
            assert_eq!(ended(&pod, "a"), expected.map(|(id, attempt)| (id.to_owned(), attempt)));
        };
        let run = |id: &str| json!({"terminated": {"exitCode": 0, "containerID": id}});
        check(run("skiff://1"), json!({}), Some(("skiff://1", 2)));
        check(json!({"waiting": {"reason": "CrashLoopBackOff"}}), run("skiff://0"), Some(("skiff://0", 2)));
        check(json!({"waiting": {"reason": "ContainerCreating"}}), json!({}), None);
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
}
