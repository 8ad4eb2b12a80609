//! `/exec`, `/attach` and `/portForward`: what upgrades a connection, for kubectl of all generations.
//!
//! Bottom-up: [`descriptor`] reads and writes a program's streams, [`command`] runs exec and attach on them, [`forward`]
//! carries connections into a pod; this file finds what is asked for, agrees on a protocol, and starts the task that
//! lives as long as the connection.

mod command;
mod descriptor;
mod forward;

use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use skiff_base::Scope;
use skiff_runtime::{ContainerId, ContainerState, Runtime};
use skiff_streaming::Remote;
use skiff_streaming::channels::Protocol;
use skiff_streaming::remote::{SPDY_VERSIONS, Wanted};
use skiff_streaming::upgrade::{self, Upgrade};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::connections::Body;
use crate::context::Context;
use crate::pod;
use crate::server::{Server, decode, text};

/// Connections of this sort at a time: each has buffers.
const MAX_STREAMS: usize = 1024;
/// What exec and attach speak on WebSocket, the best first. The first one has no name too.
const CHANNELS: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];
/// The same for port-forward.
const FORWARDS: [&str; 3] = [upgrade::TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
const SPDY_FORWARD: &str = "portforward.k8s.io";

/// What all streams of the node share.
#[derive(Clone)]
pub(crate) struct Streams {
    runtime: Runtime,
    permits: Arc<Semaphore>,
}

impl Streams {
    pub(crate) fn new(runtime: Runtime) -> Self {
        Self { runtime, permits: Arc::new(Semaphore::new(MAX_STREAMS)) }
    }
}

/// A refusal: its status and sentence.
type Refusal = (StatusCode, String);

fn bad(why: impl Into<String>) -> Refusal {
    (StatusCode::BAD_REQUEST, why.into())
}

/// The parameters of exec and attach.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Options {
    wanted: Wanted,
    command: Vec<String>,
}

fn options(query: &str) -> Result<Options, Refusal> {
    let mut options = Options { wanted: Wanted::default(), command: Vec::new() };
    for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let set = value == "1" || value == "true";
        match key {
            "input" => options.wanted.stdin = set,
            "output" => options.wanted.stdout = set,
            "error" => options.wanted.stderr = set,
            "tty" => options.wanted.tty = set,
            "command" => options.command.push(decode(value)),
            _ => {}
        }
    }
    // A terminal has one output.
    options.wanted.stderr &= !options.wanted.tty;
    let Wanted { stdin, stdout, stderr, .. } = options.wanted;
    if !stdin && !stdout && !stderr {
        return Err(bad("you must specify at least 1 of stdin, stdout, stderr"));
    }
    Ok(options)
}

/// What was agreed on.
enum Agreed {
    Channels(&'static str),
    Spdy(&'static str),
}

/// Chooses among what both know. `first` stands for a client that names nothing.
fn agree(
    upgrade: &Upgrade,
    sockets: &[&'static str],
    spdy: &[&'static str],
    unnamed: &'static str,
) -> Result<Agreed, Refusal> {
    let (Upgrade::WebSocket { offered, .. } | Upgrade::Spdy { offered }) = upgrade;
    let is_socket = matches!(upgrade, Upgrade::WebSocket { .. });
    let known = if is_socket { sockets } else { spdy };
    let chosen = match upgrade::choose(offered, known) {
        Some(chosen) => chosen,
        None if offered.is_empty() => unnamed,
        None => {
            let list = |words: &[String]| words.join(" ");
            let why = format!(
                "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
                list(offered),
                known.join(" ")
            );
            return Err((StatusCode::FORBIDDEN, why));
        }
    };
    Ok(if is_socket { Agreed::Channels(chosen) } else { Agreed::Spdy(chosen) })
}

fn asked(headers: &HeaderMap) -> Result<Upgrade, Refusal> {
    match upgrade::asked(headers) {
        Ok(Some(upgrade)) => Ok(upgrade),
        Ok(None) => Err(bad("unable to upgrade: missing upgrade headers in request")),
        Err(why) => Err(bad(why)),
    }
}

/// `101 Switching Protocols`.
fn switch(upgrade: &Upgrade, chosen: &str) -> Response<Body> {
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    response.headers_mut().clear();
    for (name, value) in upgrade::accepted(upgrade, chosen) {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// A connection that is about to be upgraded, and its place among the others.
struct Opening {
    upgrade: OnUpgrade,
    place: OwnedSemaphorePermit,
    scope: Scope,
}

impl Server {
    /// Answers a request for a stream. `segments` are those behind the first one.
    pub(crate) async fn stream(&self, mut request: Request<Incoming>, kind: &str, segments: &[&str]) -> Response<Body> {
        let on_upgrade = hyper::upgrade::on(&mut request);
        let answer = match (kind, segments) {
            // With the pod's uid between the names, as upstream.
            ("exec" | "attach", [namespace, name, container] | [namespace, name, _, container]) => {
                self.command(&request, on_upgrade, kind == "exec", (namespace, name), container).await
            }
            ("portForward", [namespace, name] | [namespace, name, _]) => {
                self.port_forward(&request, on_upgrade, namespace, name).await
            }
            _ => Err((StatusCode::NOT_FOUND, "404 page not found".to_owned())),
        };
        answer.unwrap_or_else(|(status, why)| text(status, &why))
    }

    fn opening(&self, upgrade: OnUpgrade) -> Result<Opening, Refusal> {
        let place = self.streams.permits.clone().try_acquire_owned();
        let place = place
            .map_err(|_| (StatusCode::TOO_MANY_REQUESTS, "maximum number of in-flight requests exceeded".to_owned()))?;
        Ok(Opening { upgrade, place, scope: self.ctx.scope.clone() })
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Refusal> {
        self.pods.find(namespace, name).ok_or_else(|| (StatusCode::NOT_FOUND, "pod does not exist".to_owned()))
    }

    async fn command(
        &self,
        request: &Request<Incoming>,
        on_upgrade: OnUpgrade,
        exec: bool,
        (namespace, name): (&str, &str),
        container: &str,
    ) -> Result<Response<Body>, Refusal> {
        let mut options = options(request.uri().query().unwrap_or_default())?;
        let pod = self.pod(namespace, name)?;
        let not_found = if exec {
            format!("container not found ({container:?})")
        } else {
            format!("container {container} not found in pod {name}_{namespace}")
        };
        let not_found = (StatusCode::INTERNAL_SERVER_ERROR, not_found);
        let id = running(&self.ctx, &pod, container).await?.ok_or(not_found)?;
        if !exec {
            // A running process has a terminal, or has none, whatever is asked for.
            options.wanted.tty = pod::find(&pod, container).is_some_and(|(_, c)| c.tty == Some(true));
            options.wanted.stderr &= !options.wanted.tty;
        }
        let upgrade = asked(request.headers())?;
        let agreed = agree(&upgrade, &CHANNELS, &SPDY_VERSIONS, "")?;
        let Opening { upgrade: on_upgrade, place, scope } = self.opening(on_upgrade)?;
        let (Agreed::Channels(chosen) | Agreed::Spdy(chosen)) = agreed;
        let response = switch(&upgrade, chosen);
        let runtime = self.streams.runtime.clone();
        scope.clone().spawn(async move {
            let Ok(io) = on_upgrade.await else { return };
            let (io, wanted) = (TokioIo::new(io), options.wanted);
            let remote = match agreed {
                Agreed::Channels(name) => {
                    let protocol = Protocol::of(name).unwrap_or(Protocol::V5);
                    Remote::over_channels(io, protocol, wanted, &scope).await
                }
                Agreed::Spdy(version) => match Remote::over_spdy(io, version, wanted, &scope).await {
                    Ok(remote) => remote,
                    Err(why) => {
                        tracing::debug!(container = id.0, why, "a stream did not begin");
                        return;
                    }
                },
            };
            match exec {
                true => command::exec(&runtime, &id, &options.command, wanted.tty, remote, place).await,
                false => command::attach(&runtime, &id, remote, place).await,
            }
        });
        Ok(response)
    }

    async fn port_forward(
        &self,
        request: &Request<Incoming>,
        on_upgrade: OnUpgrade,
        namespace: &str,
        name: &str,
    ) -> Result<Response<Body>, Refusal> {
        let pod = self.pod(namespace, name)?;
        let upgrade = asked(request.headers())?;
        let agreed = agree(&upgrade, &FORWARDS, &[SPDY_FORWARD], "v4.channel.k8s.io")?;
        let ports = match &agreed {
            Agreed::Channels(name) if *name != upgrade::TUNNEL => {
                forward::ports(request.uri().query().unwrap_or_default()).map_err(bad)?
            }
            _ => Vec::new(),
        };
        let target = self.forward_target(&pod).await?;
        let Opening { upgrade: on_upgrade, place, scope } = self.opening(on_upgrade)?;
        let (Agreed::Channels(chosen) | Agreed::Spdy(chosen)) = agreed;
        let response = switch(&upgrade, chosen);
        scope.clone().spawn(async move {
            let _place = place;
            let Ok(io) = on_upgrade.await else { return };
            let io = TokioIo::new(io);
            match agreed {
                Agreed::Channels(upgrade::TUNNEL) => forward::over_spdy(io, true, target, &scope).await,
                Agreed::Channels(name) => {
                    let protocol = Protocol::of(name).unwrap_or(Protocol::V5);
                    forward::over_channels(io, protocol, &ports, target, &scope).await;
                }
                Agreed::Spdy(_) => forward::over_spdy(io, false, target, &scope).await,
            }
        });
        Ok(response)
    }

    /// The network namespace of the pod that runs.
    async fn forward_target(&self, pod: &Pod) -> Result<forward::Target, Refusal> {
        let failed = |e| (StatusCode::INTERNAL_SERVER_ERROR, skiff_base::chain(&e).to_string());
        let uid = pod::uid(pod);
        let sandboxes = self.ctx.engine.sandboxes().await.map_err(failed)?;
        let ready = sandboxes
            .into_iter()
            .filter(|s| s.pod_uid == uid.0 && s.state == skiff_runtime::SandboxState::Ready)
            .max_by_key(|s| s.attempt);
        let sandbox = ready.ok_or_else(|| {
            let why = format!("pod not found ({:?})", format!("{}_{}", pod::name(pod), pod::namespace(pod)));
            (StatusCode::INTERNAL_SERVER_ERROR, why)
        })?;
        Ok(forward::Target { sandbox: sandbox.id.0, netns: sandbox.netns })
    }
}

/// The run of a container that goes on.
async fn running(ctx: &Context, pod: &Pod, container: &str) -> Result<Option<ContainerId>, Refusal> {
    let uid = pod::uid(pod);
    let all = ctx.engine.containers().await;
    let all = all.map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, skiff_base::chain(&e).to_string()))?;
    let of_pod = all
        .into_iter()
        .filter(|c| c.name == container && c.labels.get(pod::label::POD_UID) == Some(&uid.0))
        .filter(|c| matches!(c.state, ContainerState::Running { .. }));
    Ok(of_pod.max_by_key(|c| c.attempt).map(|c| c.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_queries() {
        let wanted = |stdin, stdout, stderr, tty| Wanted { stdin, stdout, stderr, tty };
        let check = |query: &str, expect: Option<(Wanted, &[&str])>| {
            let got = options(query).ok();
            let expect = expect.map(|(wanted, command)| Options {
                wanted,
                command: command.iter().map(|word| (*word).to_owned()).collect(),
            });
            assert_eq!(got, expect, "{query}");
        };
        check(
            "command=sh&command=-c&command=echo+a%3Bb&output=1",
            Some((wanted(false, true, false, false), &["sh", "-c", "echo a;b"])),
        );
        check("input=1&output=1&error=1&tty=1", Some((wanted(true, true, false, true), &[])));
        check("command=sh", None);
        check("error=1&tty=1", None);
    }

    #[test]
    fn protocols_are_agreed_on() {
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
        let socket = |words: &[&str]| Upgrade::WebSocket { key: String::new(), offered: own(words) };
        let check = |upgrade: &Upgrade, expect: Result<&str, &str>| {
            let got = agree(upgrade, &CHANNELS, &SPDY_VERSIONS, "");
            let got = got.map(|(Agreed::Channels(name) | Agreed::Spdy(name))| name).map_err(|(_, why)| why);
            assert_eq!(
                got.as_deref().map_err(String::as_str),
                expect.as_ref().map(|name| *name).map_err(|why| *why),
                "{upgrade:?}"
            );
        };
        check(&socket(&["v4.channel.k8s.io", "v5.channel.k8s.io"]), Ok("v5.channel.k8s.io"));
        check(&socket(&[]), Ok(""));
        check(&Upgrade::Spdy { offered: own(&["v2.channel.k8s.io", "v3.channel.k8s.io"]) }, Ok("v3.channel.k8s.io"));
        check(
            &Upgrade::Spdy { offered: own(&["v9"]) },
            Err("unable to upgrade: unable to negotiate protocol: client supports [v9], server accepts \
                 [v4.channel.k8s.io v3.channel.k8s.io v2.channel.k8s.io channel.k8s.io]"),
        );
    }
}
