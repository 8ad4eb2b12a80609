//! `kubectl port-forward`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::BytesMut;
use clap::Args;
use serde_json::Value;
use skiff_base::Scope;
use skiff_streaming::spdy::{Headers, NewStream, Session};
use skiff_streaming::{Role, upgrade};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use super::exec::{find_pod, pod_path};
use crate::server::{Server, path};
use crate::targets::parse;
use crate::{Failure, Result};

const READ: usize = 32 * 1024;

#[derive(Args, Debug)]
pub struct PortForward {
    /// TYPE/NAME, then [LOCAL_PORT:]REMOTE_PORT, several
    words: Vec<String>,
    /// Addresses to listen on
    #[arg(long, value_delimiter = ',', default_value = "localhost")]
    address: Vec<String>,
}

/// A port here, and the one in the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    local: u16,
    remote: u16,
}

pub async fn port_forward(server: &Server, arguments: PortForward) -> Result {
    let [word, ports @ ..] = arguments.words.as_slice() else {
        return Err(Failure::text("TYPE/NAME and list of ports are required for port-forward"));
    };
    if ports.is_empty() {
        return Err(Failure::text("TYPE/NAME and list of ports are required for port-forward"));
    }
    let pod = find_pod(server, word).await?;
    let service = service_of(server, word).await?;
    let pairs = ports.iter().map(|port| pair(port, &pod, service.as_ref())).collect::<Result<Vec<_>>>()?;
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if phase != "Running" {
        return Err(Failure::text(format!(
            "unable to forward port because pod is not running. Current status={phase}"
        )));
    }
    let (_, io) = server.upgrade(&pod_path(&pod, "portforward"), &[upgrade::TUNNEL]).await?;
    let scope = Scope::new();
    let session = Session::start(io, Role::Client, true, &scope);
    let gone = session.gone().clone();
    let shared = Arc::new(Mutex::new((session, 0u64)));
    for Pair { local, remote } in pairs {
        for listener in listen(&arguments.address, local).await? {
            let address = listener.local_addr().map_err(|e| Failure::text(format!("listen: {e}")))?;
            println!("Forwarding from {address} -> {remote}");
            scope.spawn(accept(listener, address.port(), remote, shared.clone(), scope.clone()));
        }
    }
    gone.cancelled().await;
    Err(Failure::text("lost connection to pod"))
}

/// The service that ports are named by, if it is one.
async fn service_of(server: &Server, word: &str) -> Result<Option<Value>> {
    if !word.contains('/') {
        return Ok(None);
    }
    let targets = parse(server.discovery().await?, &[word.to_owned()])?;
    let Some(target) = targets.first().filter(|target| target.resource.kind == "Service") else { return Ok(None) };
    server.get(&path(&target.resource, Some(&server.namespace), &target.names[0], "")).await.map(Some)
}

/// `[[LOCAL]:]REMOTE`; ports may have names, and those of a service are its own.
fn pair(text: &str, pod: &Value, service: Option<&Value>) -> Result<Pair> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u16>().ok();
    let bad = |what: &str| Failure::text(format!("error parsing {what} port '{text}'"));
    let (declared, remote) = match service {
        Some(service) => {
            let ports = service["spec"]["ports"].as_array().into_iter().flatten();
            let port =
                ports.into_iter().find(|p| p["name"] == remote || number(remote).is_some_and(|n| p["port"] == n));
            let port = port.ok_or_else(|| {
                let name = service["metadata"]["name"].as_str().unwrap_or_default();
                Failure::text(format!("Service {name} does not have a service port {remote}"))
            })?;
            let target = match &port["targetPort"] {
                Value::Null => port["port"].to_string(),
                Value::String(name) => name.clone(),
                number => number.to_string(),
            };
            (port["port"].to_string(), target)
        }
        None => (remote.to_owned(), remote.to_owned()),
    };
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut named = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten());
    let remote = match number(&remote) {
        Some(number) => number,
        None => {
            let port =
                named.find(|port| port["name"] == remote.as_str()).and_then(|port| port["containerPort"].as_u64());
            port.and_then(|port| u16::try_from(port).ok()).ok_or_else(|| {
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                Failure::text(format!("Pod '{name}' does not have a named port '{remote}'"))
            })?
        }
    };
    if remote == 0 {
        return Err(Failure::text("remote port must be > 0"));
    }
    let local = match local {
        "" => 0,
        // One word: the port as it is declared, or where that has a name, its number.
        same if !text.contains(':') => number(&declared).or_else(|| number(same)).unwrap_or(remote),
        other => number(other).ok_or_else(|| bad("local"))?,
    };
    Ok(Pair { local, remote })
}

/// `localhost` is both loopback addresses, of which one is enough.
async fn listen(addresses: &[String], port: u16) -> Result<Vec<TcpListener>> {
    let mut all: Vec<TcpListener> = Vec::new();
    let unable = |why: String| Failure::text(format!("unable to listen on port {port}: {why}"));
    for address in addresses {
        if address == "localhost" {
            let first = TcpListener::bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).await;
            let port = first.as_ref().ok().and_then(|l| l.local_addr().ok()).map_or(port, |address| address.port());
            let second = TcpListener::bind(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)).await;
            if let (Err(error), Err(_)) = (&first, &second) {
                return Err(unable(error.to_string()));
            }
            all.extend([first, second].into_iter().flatten());
            continue;
        }
        let ip: IpAddr = address.parse().map_err(|_| unable(format!("{address} is not a valid IP")))?;
        all.push(TcpListener::bind(SocketAddr::new(ip, port)).await.map_err(|e| unable(e.to_string()))?);
    }
    Ok(all)
}

type Shared = Arc<Mutex<(Session, u64)>>;

async fn accept(listener: TcpListener, local: u16, remote: u16, shared: Shared, scope: Scope) {
    while let Ok((stream, _)) = listener.accept().await {
        println!("Handling connection for {local}");
        let shared = shared.clone();
        scope.spawn(async move {
            if let Err(why) = serve(stream, remote, &shared).await {
                eprintln!("error: an error occurred forwarding {local} -> {remote}: {why}");
            }
        });
    }
}

async fn serve(mut stream: TcpStream, remote: u16, shared: &Shared) -> Result<(), String> {
    let gone = |_| "the connection to the server is gone".to_owned();
    let (mut errors, data) = {
        // Two streams make a pair; opening them is short.
        let mut shared = shared.lock().await;
        let number = shared.1;
        shared.1 += 1;
        let headers = |kind: &str| -> Headers {
            let pair = |name: &str, value: String| (name.to_owned(), value);
            vec![
                pair("streamtype", kind.to_owned()),
                pair("port", remote.to_string()),
                pair("requestid", number.to_string()),
            ]
        };
        let NewStream { incoming, outgoing, .. } = shared.0.open(headers("error")).await.map_err(gone)?;
        // Nothing is ever written to it.
        outgoing.close().await.map_err(gone)?;
        (incoming, shared.0.open(headers("data")).await.map_err(gone)?)
    };
    let NewStream { mut incoming, outgoing, .. } = data;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let (mut from, mut to) = stream.split();
    let up = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ);
            match from.read_buf(&mut buffer).await {
                Ok(length) if length > 0 => {
                    if outgoing.write(buffer.split().freeze()).await.is_err() {
                        return;
                    }
                }
                _ => break,
            }
        }
        // A pod that has gone reads no end.
        let _ = outgoing.close().await;
    };
    let down = async {
        while let Some(bytes) = incoming.next().await {
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // The client may have left.
        let _ = to.shutdown().await;
    };
    let mut up = std::pin::pin!(up);
    let mut down = std::pin::pin!(down);
    tokio::select! {
        // With the pod's side at its end nobody answers any more.
        () = &mut down => {}
        () = &mut up => down.await,
    }
    let mut why = Vec::new();
    while let Some(bytes) = errors.next().await {
        why.extend_from_slice(&bytes);
    }
    if why.is_empty() { Ok(()) } else { Err(String::from_utf8_lossy(&why).into_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pairs_of_ports() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"ports": [{"name": "web", "containerPort": 8080}]}]}});
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [
            {"name": "http", "port": 80, "targetPort": "web"}, {"port": 81}]}});
        let check = |text: &str, service: Option<&Value>, expect: Result<(u16, u16), &str>| {
            let got = pair(text, &pod, service).map(|p| (p.local, p.remote)).map_err(|e| e.to_string());
            assert_eq!(got, expect.map_err(str::to_owned), "{text}");
        };
        check("80", None, Ok((80, 80)));
        check("8000:80", None, Ok((8000, 80)));
        check(":80", None, Ok((0, 80)));
        check("web", None, Ok((8080, 8080)));
        check("x", None, Err("Pod 'p' does not have a named port 'x'"));
        check("a:80", None, Err("error parsing local port 'a:80'"));
        check("80", Some(&service), Ok((80, 8080)));
        check("9:http", Some(&service), Ok((9, 8080)));
        check("81", Some(&service), Ok((81, 81)));
        check("82", Some(&service), Err("Service s does not have a service port 82"));
    }
}
