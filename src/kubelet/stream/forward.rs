//! Port-forward: connections into a pod's network namespace, a pair of streams for each.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use skiff_base::Scope;
use skiff_linux::net::netns;
use skiff_streaming::channels::{Channels, Protocol};
use skiff_streaming::spdy::{NewStream, Session, header};
use skiff_streaming::{Connection, Incoming, Outgoing, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::server::decode;

/// What is read from a connection at once.
const READ: usize = 32 * 1024;
/// For a connection within the pod.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long the second stream of a pair may take.
const PAIR_LIMIT: Duration = Duration::from_secs(30);
/// Threads that connect at the same time: entering a namespace takes one.
static CONNECTING: Semaphore = Semaphore::const_new(16);

/// Where connections go.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) sandbox: String,
    /// `None`: the node's own.
    pub(super) netns: Option<PathBuf>,
}

impl Target {
    /// Connects as a process of the pod would to `localhost`: IPv4, then IPv6.
    async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let _permit = CONNECTING.acquire().await.map_err(|e| e.to_string())?;
        let netns = self.netns.clone();
        let place = netns.as_ref().map_or_else(|| "host".to_owned(), |path| path.display().to_string());
        let dialled = tokio::task::spawn_blocking(move || match netns {
            Some(netns) => netns::within(&netns, || Ok(dial(port))).map_err(|e| e.to_string())?,
            None => dial(port),
        });
        let why = match dialled.await {
            Ok(Ok(stream)) => {
                return stream
                    .set_nonblocking(true)
                    .and_then(|()| TcpStream::from_std(stream))
                    .map_err(|e| e.to_string());
            }
            Ok(Err(why)) => why,
            Err(error) => error.to_string(),
        };
        Err(format!(
            "failed to execute portforward in network namespace {place:?}: failed to connect to localhost:{port} inside \
             namespace {:?}, {why}",
            self.sandbox
        ))
    }

    async fn forward(&self, port: u16, incoming: Incoming, outgoing: Outgoing) -> Result<(), String> {
        let failed = |why: String| format!("error forwarding port {port} to pod {}, uid : {why}", self.sandbox);
        let stream = self.connect(port).await.map_err(failed)?;
        carry(stream, incoming, outgoing).await.map_err(|error| failed(error.to_string()))
    }
}

fn dial(port: u16) -> Result<std::net::TcpStream, String> {
    let to = |ip: IpAddr| std::net::TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT_LIMIT);
    let words = |error: &io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    };
    to(Ipv4Addr::LOCALHOST.into()).or_else(|four| {
        to(Ipv6Addr::LOCALHOST.into()).map_err(|six| {
            format!(
                "IPv4: dial tcp4 127.0.0.1:{port}: connect: {} IPv6 dial tcp6: [::1]:{port}: connect: {}",
                words(&four),
                words(&six)
            )
        })
    })
}

/// Carries bytes both ways; each way ends by itself.
async fn carry(mut stream: TcpStream, mut incoming: Incoming, outgoing: Outgoing) -> io::Result<()> {
    // Interactive protocols wait for every byte.
    stream.set_nodelay(true)?;
    let (mut from_pod, mut to_pod) = stream.split();
    let into = async {
        while let Some(bytes) = incoming.next().await {
            // The pod reads no more; what it says is still carried.
            if to_pod.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to_pod.shutdown().await;
    };
    let out = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ);
            let read = tokio::select! {
                read = from_pod.read_buf(&mut buffer) => read?,
                () = outgoing.gone() => return Ok(()),
            };
            if read == 0 {
                break;
            }
            if outgoing.write(buffer.split().freeze()).await.is_err() {
                return Ok(());
            }
        }
        // The client may have left meanwhile.
        let _ = outgoing.close().await;
        Ok(())
    };
    let mut out = std::pin::pin!(out);
    tokio::select! {
        ended = &mut out => return ended,
        () = into => {}
    }
    out.await
}

/// One half of a pair that has come.
struct Half {
    stream: NewStream,
    error: bool,
    since: Instant,
}

/// Serves pairs of streams, `data` and `error`, for as long as the client is there.
pub(super) async fn over_spdy(io: impl Connection, tunnel: bool, target: Target, scope: &Scope) {
    let mut session = Session::start(io, Role::Server, tunnel, scope);
    let target = Arc::new(target);
    let mut halves: HashMap<String, Half> = HashMap::new();
    while let Some(stream) = session.accept().await {
        halves.retain(|_, half| half.since.elapsed() < PAIR_LIMIT);
        let Some((key, port, error)) = plan_half(&stream) else { continue };
        match halves.remove(&key) {
            Some(other) if other.error != error => {
                let (data, error) = if error { (other.stream, stream) } else { (stream, other.stream) };
                let target = target.clone();
                scope.spawn(async move { serve(&target, port, data, error.outgoing).await });
            }
            _ => {
                halves.insert(key, Half { stream, error, since: Instant::now() });
            }
        }
    }
}

/// What a stream belongs to, its port, and whether it is the one for errors. `None`: it is reset.
fn plan_half(stream: &NewStream) -> Option<(String, u16, bool)> {
    let port = header(&stream.headers, "port")?;
    let number = port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let error = match header(&stream.headers, "streamtype")? {
        "error" => true,
        "data" => false,
        _ => return None,
    };
    Some((format!("{port} {}", header(&stream.headers, "requestid")?), number, error))
}

async fn serve(target: &Target, port: u16, data: NewStream, error: Outgoing) {
    let NewStream { incoming, outgoing, .. } = data;
    // A client that has left needs no telling.
    if let Err(why) = target.forward(port, incoming, outgoing).await {
        let _ = error.write(why.into()).await;
    }
    let _ = error.close().await;
}

/// The ports that a client names beforehand: each has two channels.
pub(super) fn ports(query: &str) -> Result<Vec<u16>, String> {
    let mut all = Vec::new();
    let values = query.split('&').filter_map(|pair| pair.strip_prefix("port=")).map(decode);
    let values: Vec<String> = values.collect();
    if values.is_empty() {
        return Err("query parameter \"port\" is required".to_owned());
    }
    for value in &values {
        if value.is_empty() {
            return Err("query parameter \"port\" cannot be empty".to_owned());
        }
        for word in value.split(',') {
            let port = word.parse::<u16>().map_err(|e| format!("unable to parse {word:?} as a port: {e}"))?;
            if port == 0 {
                return Err(format!("port {word:?} must be > 0"));
            }
            all.push(port);
        }
    }
    // The number of a channel is a byte.
    if all.len() > 127 { Err("too many ports".to_owned()) } else { Ok(all) }
}

/// Serves the ports at once: the even channels are data, the odd ones errors, and both begin with the port's number.
pub(super) async fn over_channels(
    io: impl Connection,
    protocol: Protocol,
    ports: &[u16],
    target: Target,
    scope: &Scope,
) {
    let numbered = || (0u8..).step_by(2).zip(ports.iter().copied());
    let data: Vec<u8> = numbered().map(|(channel, _)| channel).collect();
    let mut channels = Channels::start(io, Role::Server, protocol, &data, scope);
    let all = numbered().filter_map(|(channel, port)| {
        let (incoming, data, error) =
            (channels.incoming(channel)?, channels.outgoing(channel), channels.outgoing(channel + 1));
        let target = target.clone();
        Some(async move {
            let number = Bytes::copy_from_slice(&port.to_le_bytes());
            if data.write(number.clone()).await.is_err() || error.write(number).await.is_err() {
                return;
            }
            if let Err(why) = target.forward(port, incoming, data).await {
                // A client that has left needs no telling.
                let _ = error.write(why.into()).await;
            }
        })
    });
    let all: Vec<_> = all.collect();
    let gone = channels.gone().clone();
    tokio::select! {
        _ = futures::future::join_all(all) => channels.finish().await,
        () = gone.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_queries() {
        for (query, expect) in [
            ("port=80", Ok(vec![80])),
            ("port=80%2C81&port=82", Ok(vec![80, 81, 82])),
            ("", Err("query parameter \"port\" is required")),
            ("port=", Err("query parameter \"port\" cannot be empty")),
            ("port=0", Err("port \"0\" must be > 0")),
            ("port=x", Err("unable to parse \"x\" as a port: invalid digit found in string")),
        ] {
            assert_eq!(ports(query), expect.map_err(str::to_owned), "{query}");
        }
    }
}
