//! `kubectl proxy`: the server's API on a local port, with this client's identity, and files beside it.

use std::convert::Infallible;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use futures::TryStreamExt;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use regex::Regex;
use skiff_base::Scope;
use skiff_client::{Error, HttpTransport, Transport, Upgraded};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::server::Server;
use crate::{Failure, Result};

/// Headers that belong to one connection.
const OF_A_CONNECTION: [header::HeaderName; 6] =
    [header::CONNECTION, header::HOST, header::TE, header::TRAILER, header::TRANSFER_ENCODING, header::UPGRADE];

#[derive(Args, Debug)]
pub struct Arguments {
    /// The port on which to run the proxy; 0 picks one
    #[arg(short, long)]
    port: Option<u16>,
    /// The IP address on which to serve on
    #[arg(long, default_value = "127.0.0.1")]
    address: String,
    /// Unix socket on which to run the proxy
    #[arg(short, long)]
    unix_socket: Option<PathBuf>,
    /// Also serve static files from the given directory under the specified prefix
    #[arg(short, long)]
    www: Option<PathBuf>,
    /// Prefix to serve static files under
    #[arg(short = 'P', long, default_value = "/static/")]
    www_prefix: String,
    /// Prefix to serve the proxied API under
    #[arg(long, default_value = "/")]
    api_prefix: String,
    /// Regular expressions for hosts that the proxy should accept
    #[arg(long, default_value = r"^localhost$,^127\.0\.0\.1$,^\[::1\]$")]
    accept_hosts: String,
    /// Regular expressions for paths that the proxy should accept
    #[arg(long, default_value = "^.*")]
    accept_paths: String,
    /// Regular expressions for paths that the proxy should reject, even if they are accepted
    #[arg(long, default_value = "^/api/.*/pods/.*/exec,^/api/.*/pods/.*/attach")]
    reject_paths: String,
    /// Regular expressions for HTTP methods that the proxy should reject
    #[arg(long, default_value = "^$")]
    reject_methods: String,
    /// Disable request filtering: dangerous with a port that others reach
    #[arg(long)]
    disable_filter: bool,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    if arguments.port.is_some_and(|port| port != 8001) && arguments.unix_socket.is_some() {
        return Err(Failure::text("cannot set --unix-socket and --port at the same time"));
    }
    let front = Arc::new(Front::of(server, &arguments)?);
    let scope = Scope::new();
    let failed = |e: std::io::Error| Failure::text(format!("listen: {e}"));
    if let Some(path) = &arguments.unix_socket {
        use std::os::unix::fs::FileTypeExt as _;
        if std::fs::symlink_metadata(path).is_ok_and(|known| known.file_type().is_socket()) {
            std::fs::remove_file(path).map_err(failed)?;
        }
        // Nobody else may connect, from the beginning.
        let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        let listener = tokio::net::UnixListener::bind(path);
        nix::sys::stat::umask(mask);
        let listener = listener.map_err(failed)?;
        println!("Starting to serve on {}", path.display());
        loop {
            let (stream, _) = listener.accept().await.map_err(failed)?;
            scope.spawn(serve(front.clone(), stream, scope.clone()));
        }
    }
    let port = arguments.port.unwrap_or(8001);
    let address: std::net::IpAddr = match arguments.address.trim_matches(['[', ']']) {
        "localhost" => std::net::Ipv4Addr::LOCALHOST.into(),
        other => other.parse().map_err(|_| {
            Failure::text(format!("listen tcp: address {other}: --address wants an IP address of this machine"))
        })?,
    };
    let listener = tokio::net::TcpListener::bind(std::net::SocketAddr::new(address, port)).await.map_err(|e| {
        Failure::text(format!("listen tcp {}:{port}: {}", arguments.address, crate::print::os_error(&e)))
    })?;
    println!("Starting to serve on {}", listener.local_addr().map_err(failed)?);
    loop {
        let (stream, _) = listener.accept().await.map_err(failed)?;
        scope.spawn(serve(front.clone(), stream, scope.clone()));
    }
}

async fn serve(front: Arc<Front>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, scope: Scope) {
    let answer = |request| {
        let (front, scope) = (front.clone(), scope.clone());
        async move { Ok::<_, Infallible>(front.answer(request, &scope).await) }
    };
    let service = hyper::service::service_fn(answer);
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // Who asked is gone: nobody is left to tell.
    drop(connection.with_upgrades().await);
}

type Body = UnsyncBoxBody<Bytes, Error>;

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut answer = Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = status;
    let text = header::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, text);
    answer.headers_mut().insert("x-content-type-options", header::HeaderValue::from_static("nosniff"));
    answer
}

/// Which requests go through.
struct Filter {
    accept_hosts: Vec<Regex>,
    accept_paths: Vec<Regex>,
    reject_paths: Vec<Regex>,
    reject_methods: Vec<Regex>,
}

impl Filter {
    fn of(arguments: &Arguments) -> Result<Self> {
        let all = |list: &str| {
            let each = list.split(',').filter(|_| !list.is_empty());
            each.map(|text| Regex::new(text).map_err(|e| Failure::text(format!("Error compiling re: {e}"))))
                .collect::<Result<_>>()
        };
        Ok(Self {
            accept_hosts: all(&arguments.accept_hosts)?,
            accept_paths: all(&arguments.accept_paths)?,
            reject_paths: all(&arguments.reject_paths)?,
            reject_methods: all(&arguments.reject_methods)?,
        })
    }

    fn accepts(&self, method: &str, path: &str, host: &str) -> bool {
        let any = |list: &[Regex], text: &str| list.iter().any(|regex| regex.is_match(text));
        !any(&self.reject_paths, path)
            && !any(&self.reject_methods, method)
            && any(&self.accept_paths, path)
            && any(&self.accept_hosts, host)
    }
}

struct Front {
    transport: HttpTransport,
    /// Headers that every request gets.
    headers: HeaderMap,
    filter: Option<Filter>,
    /// With a slash at the end, as the next.
    api_prefix: String,
    files: Option<(String, PathBuf)>,
}

impl Front {
    fn of(server: &Server, arguments: &Arguments) -> Result<Self> {
        let slashed = |text: &str| if text.ends_with('/') { text.to_owned() } else { format!("{text}/") };
        if !arguments.disable_filter && (arguments.reject_paths.is_empty() || arguments.reject_methods.is_empty()) {
            eprintln!("Request filter has been relaxed, your proxy may be vulnerable to attacks, please be cautious");
        }
        if arguments.disable_filter && arguments.unix_socket.is_none() {
            eprintln!("Request filter disabled, your proxy is vulnerable to XSRF attacks, please be cautious");
        }
        Ok(Self {
            transport: server.transport().clone(),
            headers: server.impersonation().iter().cloned().collect(),
            filter: (!arguments.disable_filter).then(|| Filter::of(arguments)).transpose()?,
            api_prefix: slashed(&arguments.api_prefix),
            files: arguments.www.clone().map(|directory| (slashed(&arguments.www_prefix), directory)),
        })
    }

    async fn answer(&self, request: Request<Incoming>, scope: &Scope) -> Response<Body> {
        let path = decoded(request.uri().path());
        if let Some((prefix, directory)) = &self.files
            && let Some(rest) = path.strip_prefix(prefix.as_str())
        {
            return file(directory, rest);
        }
        let missing = || plain(StatusCode::NOT_FOUND, "404 page not found\n".to_owned());
        // The API's own prefix is part of its paths; another one is not.
        let keeps = self.api_prefix.starts_with("/api");
        let Some(rest) = path.strip_prefix(&self.api_prefix) else { return missing() };
        let seen = if keeps { path.clone() } else { format!("/{rest}") };
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if let Some(filter) = &self.filter
            && !filter.accepts(request.method().as_str(), &seen, host_of(host))
        {
            return plain(StatusCode::FORBIDDEN, "Forbidden\n".to_owned());
        }
        let whole = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let target = match (keeps, whole.get(self.api_prefix.len()..)) {
            (false, Some(rest)) => format!("/{rest}"),
            _ => whole.to_owned(),
        };
        let forwarded = match request.headers().contains_key(header::UPGRADE) {
            true => self.upgrade(request, &target, scope).await,
            false => self.forward(request, &target).await,
        };
        forwarded.unwrap_or_else(|e| plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{e:#}\n")))
    }

    async fn forward(&self, request: Request<Incoming>, target: &str) -> Result<Response<Body>> {
        let (mut head, body) = request.into_parts();
        head.headers = for_others(head.headers);
        head.headers.extend(self.headers.clone());
        head.uri = target.parse()?;
        let body = body.collect().await?.to_bytes();
        let mut answer = self.transport.stream(Request::from_parts(head, body)).await?;
        *answer.headers_mut() = for_others(std::mem::take(answer.headers_mut()));
        Ok(answer.map(|body| BodyExt::boxed_unsync(StreamBody::new(body.map_ok(Frame::data)))))
    }

    async fn upgrade(&self, mut request: Request<Incoming>, target: &str, scope: &Scope) -> Result<Response<Body>> {
        let ours = hyper::upgrade::on(&mut request);
        let (mut head, _) = request.into_parts();
        head.headers.remove(header::HOST);
        head.headers.extend(self.headers.clone());
        head.uri = target.parse()?;
        match self.transport.upgrade(Request::from_parts(head, ())).await? {
            Upgraded::Refused(answer) => {
                Ok(answer.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync()))
            }
            Upgraded::Switched(answer, mut theirs) => {
                scope.spawn(async move {
                    if let Ok(ours) = ours.await {
                        // Either end may end it at any time.
                        drop(tokio::io::copy_bidirectional(&mut TokioIo::new(ours), &mut theirs).await);
                    }
                });
                let mut switched =
                    answer.map(|()| Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync());
                *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                Ok(switched)
            }
        }
    }
}

fn for_others(mut headers: HeaderMap) -> HeaderMap {
    OF_A_CONNECTION.iter().for_each(|name| drop(headers.remove(name)));
    headers
}

/// Without the port.
fn host_of(header: &str) -> &str {
    match header.rsplit_once(':') {
        Some((host, port))
            if port.chars().all(|c| c.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => header,
    }
}

fn decoded(path: &str) -> String {
    let bytes = path.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex =
            path.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(hex.unwrap_or(bytes[at]));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn file(directory: &Path, rest: &str) -> Response<Body> {
    let missing = || plain(StatusCode::NOT_FOUND, "404 page not found\n".to_owned());
    let relative = Path::new(rest.trim_start_matches('/'));
    if relative.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return missing();
    }
    let mut path = directory.join(relative);
    if path.is_dir() && path.join("index.html").is_file() {
        path.push("index.html");
    }
    if path.is_dir() {
        return listing(&path).unwrap_or_else(missing);
    }
    let Ok(bytes) = std::fs::read(&path) else { return missing() };
    let ty = match path.extension().and_then(|extension| extension.to_str()) {
        Some("html" | "htm") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        _ if std::str::from_utf8(&bytes).is_ok() => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    };
    let mut answer = Response::new(Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync());
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(ty));
    answer
}

fn listing(directory: &Path) -> Option<Response<Body>> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let slash = if entry.path().is_dir() { "/" } else { "" };
            Some(format!("{}{slash}", entry.file_name().to_string_lossy()))
        })
        .collect();
    names.sort();
    let safe = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
    let lines: String = names.iter().map(|name| format!("<a href=\"{0}\">{0}</a>\n", safe(name))).collect();
    let mut answer = plain(StatusCode::OK, format!("<!doctype html>\n<pre>\n{lines}</pre>\n"));
    let html = header::HeaderValue::from_static("text/html; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, html);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_upstreams() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            arguments: Arguments,
        }
        let filter = Filter::of(&Line::parse_from(["proxy"]).arguments).expect("the defaults are regular expressions");
        let check = |method: &str, path: &str, host: &str| filter.accepts(method, &decoded(path), host_of(host));
        assert!(check("GET", "/api/v1/pods", "localhost:8001"));
        assert!(check("POST", "/apis", "[::1]:8001"));
        assert!(!check("GET", "/api/v1/pods", "evil.example.com"));
        assert!(!check("GET", "/api/v1/namespaces/n/pods/p/exec", "127.0.0.1"));
        assert!(!check("GET", "/api/v1/namespaces/n/pods/p/%65xec", "127.0.0.1"));
        assert!(check("GET", "/api/v1/namespaces/n/pods/p/log", "127.0.0.1"));
    }

    #[test]
    fn files_are_below_their_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("a.json"), "{}").expect("written");
        std::fs::create_dir(directory.path().join("d")).expect("made");
        let status = |path: &str| file(directory.path(), path).status().as_u16();
        assert_eq!([status("a.json"), status(""), status("../etc"), status("none")], [200, 200, 404, 404]);
    }
}
