//! Requests to the server, with failures in upstream's words.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::Value;
use skiff_api::ApiError;
use skiff_client::{Body, Error, HttpTransport, PatchKind, Transport, Upgraded, percent_encoded};
use skiff_streaming::{Connection, websocket};
use tokio::sync::OnceCell;
use tokio::time::{Duration, Instant};

use crate::config::Global;
use crate::discovery::{Discovery, Resource};
use crate::failure::is_not_found;
use crate::{Failure, Result};

pub const JSON: &str = "application/json";
/// Tables, and plain objects from servers or for kinds that have none.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// The name of this client in the ownership of fields.
pub const MANAGER: &str = "kubectl";

/// Go's words for a request that took too long.
const LATE: &str = "context deadline exceeded";

/// How many warnings this program was given.
static WARNINGS: AtomicUsize = AtomicUsize::new(0);

pub fn warnings() -> usize {
    WARNINGS.load(Ordering::Relaxed)
}

pub struct Server {
    transport: HttpTransport,
    /// `https://host:port`
    pub url: String,
    /// The namespace where nothing else is said.
    pub namespace: String,
    /// It was said on the command line.
    pub namespace_given: bool,
    /// Whom this client acts for.
    impersonation: Vec<(HeaderName, HeaderValue)>,
    /// For one request.
    timeout: Option<Duration>,
    verbosity: u8,
    discovery: OnceCell<Discovery>,
}

impl Server {
    pub fn connect(global: &Global) -> Result<Self> {
        let config = global.resolve()?;
        let transport = HttpTransport::new(&config).map_err(|e| Failure::text(e.to_string()))?;
        Ok(Self {
            transport,
            url: config.server,
            namespace: config.namespace,
            namespace_given: global.namespace.is_some(),
            impersonation: global.impersonation()?,
            timeout: global.timeout()?,
            verbosity: global.verbosity,
            discovery: OnceCell::new(),
        })
    }

    pub fn transport(&self) -> &HttpTransport {
        &self.transport
    }

    pub fn impersonation(&self) -> &[(HeaderName, HeaderValue)] {
        &self.impersonation
    }

    pub fn host(&self) -> &str {
        self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest)
    }

    /// The server's resource types, asked for once.
    pub async fn discovery(&self) -> Result<&Discovery> {
        self.discovery.get_or_try_init(|| Discovery::ask(self)).await
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        self.send(Method::GET, path, JSON, None).await
    }

    /// GET of one object.
    pub async fn object(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        accept: &str,
    ) -> Result<Value> {
        self.subresource(resource, namespace, name, "", accept).await
    }

    /// GET of an object's subresource. Where the object's namespace is missing, too, that is the error, as upstream.
    pub async fn subresource(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        subresource: &str,
        accept: &str,
    ) -> Result<Value> {
        let missing = match self.get_as(&path(resource, namespace, name, subresource), accept).await {
            Err(e) if is_not_found(&e) => e,
            answer => return answer,
        };
        let Some(namespace) = namespace.filter(|n| resource.namespaced && !n.is_empty() && *n != "default") else {
            return Err(missing);
        };
        match self.get(&format!("/api/v1/namespaces/{}", percent_encoded(namespace))).await {
            Err(e) if is_not_found(&e) => Err(e),
            _ => Err(missing),
        }
    }

    pub async fn get_as(&self, path: &str, accept: &str) -> Result<Value> {
        self.json(Method::GET, path, accept, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(Method::POST, path, JSON, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(Method::PUT, path, JSON, Some(body)).await
    }

    pub async fn delete(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(Method::DELETE, path, JSON, Some(body)).await
    }

    pub async fn patch(&self, path: &str, kind: PatchKind, body: &Value) -> Result<Value> {
        self.send(Method::PATCH, path, kind.content_type(), Some(body)).await
    }

    async fn send(&self, method: Method, path: &str, content_type: &str, body: Option<&Value>) -> Result<Value> {
        self.json(method, path, JSON, body.map(|body| (content_type, body))).await
    }

    async fn json(&self, method: Method, path: &str, accept: &str, body: Option<(&str, &Value)>) -> Result<Value> {
        let answer = self.ask(method, path, accept, body).await?;
        serde_json::from_slice(answer.body())
            .map_err(|e| Failure::text(format!("the server's answer to {path} is no JSON: {e}")))
    }

    /// An answer that is a text, e.g. `/readyz`.
    pub async fn text(&self, path: &str) -> Result<String> {
        let answer = self.ask(Method::GET, path, "*/*", None).await?;
        Ok(String::from_utf8_lossy(answer.body()).into_owned())
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Response<Bytes>> {
        let request = self.request(method.clone(), path, accept, body)?;
        let asked = Instant::now();
        let answer = self.in_time(self.transport.send(request)).await?;
        self.note(&method, path, answer.status(), asked);
        if self.verbosity >= 8 {
            if let Some((_, body)) = body {
                log(format_args!("\"Request Body\" body={:?}", body.to_string()));
            }
            log(format_args!("\"Response Body\" body={:?}", String::from_utf8_lossy(answer.body())));
        }
        for warning in answer.headers().get_all(header::WARNING) {
            if let Some(text) = warning.to_str().ok().and_then(|w| w.split_once(" - ")).map(|(_, text)| text) {
                let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
                WARNINGS.fetch_add(1, Ordering::Relaxed);
                eprintln!("Warning: {}", text.replace("\\\"", "\"").replace("\\\\", "\\"));
            }
        }
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(self.refused(answer.status(), answer.body()))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Request<Bytes>> {
        let mut request = Request::builder().method(method).uri(path).header(header::ACCEPT, accept);
        for (name, value) in &self.impersonation {
            request = request.header(name, value);
        }
        if let Some((content_type, _)) = body {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let body = body.map_or_else(Bytes::new, |(_, body)| Bytes::from(body.to_string()));
        request.body(body).map_err(|e| Failure::text(format!("{path:?} can't be asked for: {e}")))
    }

    /// An answer that is read as it arrives.
    pub async fn stream(&self, path: &str, accept: &str) -> Result<Body> {
        let request = self.request(Method::GET, path, accept, None)?;
        let asked = Instant::now();
        let answer = self.in_time(self.transport.stream(request)).await?;
        self.note(&Method::GET, path, answer.status(), asked);
        if answer.status().is_success() {
            let body = answer.into_body();
            return Ok(match self.timeout {
                Some(timeout) => until(asked + timeout, body),
                None => body,
            });
        }
        let status = answer.status();
        let chunks: Vec<Bytes> = answer.into_body().try_collect().await.map_err(|e| self.failed(e))?;
        Err(self.refused(status, &chunks.concat()))
    }

    /// A WebSocket of one of these protocols, the best first; the one that was chosen.
    pub async fn upgrade(&self, path: &str, protocols: &[&str]) -> Result<(String, impl Connection + use<>)> {
        let key = websocket::new_key();
        let mut request = Request::get(path)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key)
            .header(header::SEC_WEBSOCKET_PROTOCOL, protocols.join(", "));
        for (name, value) in &self.impersonation {
            request = request.header(name, value);
        }
        let request = request.body(()).map_err(|e| Failure::text(format!("{path:?} can't be asked for: {e}")))?;
        match self.transport.upgrade(request).await.map_err(|e| self.failed(e))? {
            Upgraded::Switched(answer, io) => {
                let text = |name| answer.headers().get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
                if text(header::SEC_WEBSOCKET_ACCEPT) != Some(websocket::accept_key(&key).as_str()) {
                    return Err(Failure::text("unable to upgrade connection: the answer belongs to another request"));
                }
                Ok((text(header::SEC_WEBSOCKET_PROTOCOL).unwrap_or_default().to_owned(), io))
            }
            Upgraded::Refused(answer) => {
                let said = String::from_utf8_lossy(answer.body());
                // A kubelet answers with a sentence, the API server with a status.
                if !said.trim_start().starts_with('{') {
                    return Err(Failure::text(format!("unable to upgrade connection: {}", said.trim())));
                }
                Err(self.refused(answer.status(), answer.body()))
            }
        }
    }

    /// The events of a watch: type and object. Ends when the server ends it.
    pub async fn watch(&self, path: &str, accept: &str) -> Result<impl Stream<Item = Result<(String, Value)>> + use<>> {
        let body = self.stream(path, accept).await?;
        let host = self.host().to_owned();
        let lines = futures::stream::try_unfold((body, Vec::<u8>::new()), move |(mut body, mut rest)| {
            let host = host.clone();
            async move {
                loop {
                    if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = rest.drain(..=end).collect();
                        return Ok::<_, anyhow::Error>(Some((line, (body, rest))));
                    }
                    match body.next().await {
                        Some(Ok(chunk)) => rest.extend_from_slice(&chunk),
                        Some(Err(e)) => return Err(Failure::from_client(e, &host).into()),
                        None => return Ok(None),
                    }
                }
            }
        });
        let events = lines.try_filter_map(|line| async move {
            if line.trim_ascii().is_empty() {
                return Ok(None);
            }
            let mut event: Value = serde_json::from_slice(&line)
                .map_err(|e| Failure::text(format!("an event of the watch is no JSON: {e}")))?;
            let kind = event["type"].as_str().unwrap_or_default().to_owned();
            let object = event["object"].take();
            if kind == "ERROR" {
                let error = ApiError::from_value(&object).unwrap_or_else(|| ApiError::internal("the watch failed"));
                return Err(Failure::Server { context: None, error }.into());
            }
            Ok(Some((kind, object)))
        });
        Ok(events.boxed_local())
    }

    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, Error>>) -> Result<T> {
        let answer = match self.timeout {
            Some(timeout) => tokio::time::timeout(timeout, asked).await.map_err(|_| {
                Failure::Unreachable(format!(
                    "Unable to connect to the server: {LATE} (Client.Timeout exceeded while awaiting headers)"
                ))
            })?,
            None => asked.await,
        };
        answer.map_err(|e| self.failed(e))
    }

    fn note(&self, method: &Method, path: &str, status: StatusCode, asked: Instant) {
        if self.verbosity >= 6 {
            let (url, took) = (format!("{}{path}", self.url), asked.elapsed().as_millis());
            log(format_args!("\"Response\" verb=\"{method}\" url={url:?} status=\"{status}\" milliseconds={took}"));
        }
    }

    fn failed(&self, error: Error) -> anyhow::Error {
        Failure::from_client(error, self.host()).into()
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> anyhow::Error {
        let error = skiff_client::failure(status, body);
        Failure::Server { context: None, error }.into()
    }
}

/// A line as klog writes it.
fn log(what: std::fmt::Arguments<'_>) {
    let now = jiff::Timestamp::now().strftime("%m%d %H:%M:%S%.6f").to_string();
    eprintln!("I{now} {:7} {}] {what}", std::process::id(), module_path!());
}

/// Fails when it is not read to its end by then.
fn until(end: Instant, body: Body) -> Body {
    futures::stream::try_unfold(body, move |mut body| async move {
        match tokio::time::timeout_at(end, body.next()).await {
            Ok(Some(chunk)) => Ok(Some((chunk?, body))),
            Ok(None) => Ok(None),
            Err(_) => Err(Error::Transport(
                format!("{LATE} (Client.Timeout or context cancellation while reading body)").into(),
            )),
        }
    })
    .boxed()
}

/// The path of a resource type, an object, or a subresource; `None`: all namespaces.
pub fn path(resource: &Resource, namespace: Option<&str>, name: &str, subresource: &str) -> String {
    let mut path = resource.root_path();
    if let Some(namespace) = namespace.filter(|namespace| resource.namespaced && !namespace.is_empty()) {
        path.push_str("/namespaces/");
        path.push_str(&percent_encoded(namespace));
    }
    path.push('/');
    path.push_str(&resource.name);
    for segment in [name, subresource].into_iter().filter(|segment| !segment.is_empty()) {
        path.push('/');
        path.push_str(&percent_encoded(segment));
    }
    path
}

/// `path?a=b&c=d` with the pairs that have a value.
pub fn with_query(path: &str, pairs: &[(&str, &str)]) -> String {
    let mut out = path.to_owned();
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        out.push(if out.contains('?') { '&' } else { '?' });
        out.push_str(name);
        out.push('=');
        out.push_str(&percent_encoded(value));
    }
    out
}
