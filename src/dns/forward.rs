//! Names of others: asked of the host's resolvers, and kept for a while.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::wire::{self, Foreign, Query};

/// For one resolver's answer; clients wait five seconds for ours.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the list of resolvers is looked at, while there are questions.
const REREAD: Duration = Duration::from_secs(5);
/// Answers are kept no longer, whatever they say.
const KEEP_LIMIT_S: u32 = 30;
const CACHE_LIMIT: usize = 2_000;
const DNS_PORT: u16 = 53;
/// More resolvers than this are not asked; they would not be in time.
const RESOLVERS: usize = 3;

pub(crate) struct Forwarder {
    resolv_conf: PathBuf,
    /// Asking it would come back here.
    own_ip: IpAddr,
    resolvers: Mutex<Resolvers>,
    /// The resolver that answered last.
    good: AtomicUsize,
    cache: Mutex<HashMap<Vec<u8>, Kept>>,
}

#[derive(Default)]
struct Resolvers {
    list: Vec<SocketAddr>,
    looked: Option<Instant>,
    changed: Option<SystemTime>,
}

struct Kept {
    packet: Vec<u8>,
    since: Instant,
    keep: Duration,
}

impl Forwarder {
    pub(crate) fn new(resolv_conf: PathBuf, own_ip: IpAddr) -> Self {
        Self { resolv_conf, own_ip, resolvers: Mutex::default(), good: AtomicUsize::new(0), cache: Mutex::default() }
    }

    /// The answer to a question, if it is known already.
    pub(crate) fn known(&self, query: &Query) -> Option<Vec<u8>> {
        let cache = self.cache.lock().expect("nothing panics while it holds the cache");
        let kept = cache.get(&query.cache_key())?;
        let age = kept.since.elapsed();
        if age >= kept.keep {
            return None;
        }
        let mut packet = kept.packet.clone();
        wire::set_id(&mut packet, query.id);
        wire::age(&mut packet, u32::try_from(age.as_secs()).unwrap_or(u32::MAX));
        Some(packet)
    }

    /// Asks the resolvers, one after the other; `None`: there is none, or none answered. `packet` is the question as
    /// it came. A client by TCP has room for the whole answer.
    pub(crate) async fn ask(&self, query: &Query, packet: &[u8], whole: bool) -> Option<Vec<u8>> {
        let resolvers = self.resolvers();
        let first = self.good.load(Ordering::Relaxed);
        for turn in 0..resolvers.len().min(RESOLVERS) {
            let index = (first + turn) % resolvers.len();
            match exchange(resolvers[index], query, packet, whole).await {
                Ok(answer) => {
                    self.good.store(index, Ordering::Relaxed);
                    self.keep(query, &answer);
                    return Some(answer);
                }
                Err(error) => {
                    tracing::debug!(resolver = %resolvers[index], name = query.name(), %error, "a resolver did not answer");
                }
            }
        }
        None
    }

    fn keep(&self, query: &Query, answer: &[u8]) {
        let Some(keep_s) = Foreign::parse(answer).and_then(|foreign| foreign.keep_s()).filter(|s| *s > 0) else {
            return;
        };
        let keep = Duration::from_secs(keep_s.min(KEEP_LIMIT_S).into());
        let mut cache = self.cache.lock().expect("nothing panics while it holds the cache");
        if cache.len() >= CACHE_LIMIT {
            cache.retain(|_, kept| kept.since.elapsed() < kept.keep);
        }
        if cache.len() >= CACHE_LIMIT {
            // Which ones go does not matter much; they are asked for again.
            let mut odd = false;
            cache.retain(|_, _| {
                odd = !odd;
                odd
            });
        }
        cache.insert(query.cache_key(), Kept { packet: answer.to_vec(), since: Instant::now(), keep });
    }

    fn resolvers(&self) -> Vec<SocketAddr> {
        let mut resolvers = self.resolvers.lock().expect("nothing panics while it holds the list");
        if resolvers.looked.is_some_and(|looked| looked.elapsed() < REREAD) {
            return resolvers.list.clone();
        }
        let changed = std::fs::metadata(&self.resolv_conf).and_then(|meta| meta.modified()).ok();
        if resolvers.looked.is_none() || changed != resolvers.changed {
            let text = std::fs::read_to_string(&self.resolv_conf).unwrap_or_else(|error| {
                tracing::warn!(file = %self.resolv_conf.display(), %error, "no resolvers for names outside the cluster");
                String::new()
            });
            resolvers.list = parse_resolv_conf(&text, self.own_ip);
            tracing::debug!(resolvers = ?resolvers.list, "resolvers for names outside the cluster");
            resolvers.changed = changed;
        }
        resolvers.looked = Some(Instant::now());
        resolvers.list.clone()
    }
}

/// The servers in a resolv.conf(5), but for ourselves.
fn parse_resolv_conf(text: &str, own_ip: IpAddr) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some("nameserver"), Some(address)) = (words.next(), words.next()) else { continue };
        // Tests name a port, as some resolvers' own files do.
        let server = address.parse().or_else(|_| address.parse().map(|ip: IpAddr| SocketAddr::new(ip, DNS_PORT)));
        if let Ok(server) = server
            && server.ip() != own_ip
            && !servers.contains(&server)
        {
            servers.push(server);
        }
    }
    servers
}

async fn exchange(server: SocketAddr, query: &Query, packet: &[u8], whole: bool) -> io::Result<Vec<u8>> {
    let answer = timeout(PATIENCE, by_udp(server, query, packet)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    if whole && Foreign::parse(&answer).is_some_and(|foreign| foreign.is_truncated()) {
        return timeout(PATIENCE, by_tcp(server, packet)).await.map_err(|_| io::ErrorKind::TimedOut)?;
    }
    Ok(answer)
}

async fn by_udp(server: SocketAddr, query: &Query, packet: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A port and a number that nobody can guess, and only the server's packets.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let id = rand::random();
    let mut packet = packet.to_vec();
    wire::set_id(&mut packet, id);
    socket.send(&packet).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let len = socket.recv(&mut buffer).await?;
        if query.is_answered_by(&buffer[..len], id) {
            buffer.truncate(len);
            wire::set_id(&mut buffer, query.id);
            return Ok(buffer);
        }
    }
}

async fn by_tcp(server: SocketAddr, packet: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(packet.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes()[..], packet].concat()).await?;
    let len = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(len)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_and_we_are_none_of_them() {
        let text = "# nameserver 9.9.9.9\nsearch lan\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # two\n\
            nameserver 10.43.0.10\nnameserver 192.0.2.1\nnameserver nonsense\nnameserver 127.0.0.1:5300\nnameserver\n";
        let own = IpAddr::V4(Ipv4Addr::new(10, 43, 0, 10));
        let found: Vec<String> = parse_resolv_conf(text, own).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53", "127.0.0.1:5300"]);
    }
}
