use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::config::Config;
use crate::wire::{Answer, Family, Question};
use crate::{hosts, order};

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long one family's addresses wait for the other's: some servers never answer questions for AAAA.
const GRACE: Duration = Duration::from_secs(1);
/// Answers without EDNS are 512 bytes long at most; some servers don't care.
const DATAGRAM: usize = 4096;

/// Looks names up as two files say. Cheap; holds nothing.
#[derive(Debug, Clone)]
pub struct Resolver {
    hosts: PathBuf,
    resolv_conf: PathBuf,
}

/// Why there is no address, worded as Go does.
#[derive(Debug, thiserror::Error)]
#[error("lookup {name}{}: {why}", Server(*.server))]
pub struct Error {
    /// As it was asked for.
    pub name: String,
    /// The server that was asked last.
    pub server: Option<SocketAddr>,
    why: Why,
}

#[derive(Debug)]
enum Why {
    NoSuchHost,
    Timeout,
    Misbehaving,
    Io(io::Error),
}

impl Error {
    /// Asking again will not help: the name is not there.
    pub fn is_no_such_host(&self) -> bool {
        matches!(self.why, Why::NoSuchHost)
    }
}

struct Server(Option<SocketAddr>);

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |server| write!(f, " on {server}"))
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchHost => f.write_str("no such host"),
            Self::Timeout => f.write_str("i/o timeout"),
            Self::Misbehaving => f.write_str("server misbehaving"),
            Self::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => f.write_str("connection refused"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

/// Why a question has no addresses for an answer, and who said so.
type Failure = (Why, SocketAddr);

impl Resolver {
    /// With the files of this host.
    pub fn system() -> Self {
        Self::new(HOSTS, RESOLV_CONF)
    }

    pub fn new(hosts: impl Into<PathBuf>, resolv_conf: impl Into<PathBuf>) -> Self {
        Self { hosts: hosts.into(), resolv_conf: resolv_conf.into() }
    }

    /// The addresses of `host`, the best first; never none. An address, also in brackets, is its own.
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, Error> {
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = literal.parse() {
            return Ok(vec![ip]);
        }
        let mut found = hosts::find(&read(&self.hosts), host.trim_end_matches('.'));
        if found.is_empty() && is_localhost(host) {
            found = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        }
        if found.is_empty() {
            found = ask(&Config::parse(&read(&self.resolv_conf)), host).await?;
        }
        order::sort(&mut found);
        Ok(found)
    }
}

/// RFC 6761: never asked for.
fn is_localhost(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// A file that is not there says nothing; one that can't be read is worth a word.
fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(file = %path.display(), %error, "names are looked up without it");
        }
        String::new()
    })
}

async fn ask(config: &Config, host: &str) -> Result<Vec<IpAddr>, Error> {
    let mut worst: Option<Failure> = None;
    for name in config.candidates(host) {
        let (v4, v6) = both(config, &name).await;
        let mut found = Vec::new();
        for answer in [v6, v4].into_iter().flatten() {
            match answer {
                Ok(addresses) => found.extend(addresses),
                // A server's trouble says more than a name that is not there: it may be there after all.
                Err(failure) => match &worst {
                    Some((why, _)) if !matches!(why, Why::NoSuchHost) => {}
                    _ => worst = Some(failure),
                },
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let (why, server) = worst.map_or((Why::NoSuchHost, None), |(why, server)| (why, Some(server)));
    Err(Error { name: host.to_owned(), server, why })
}

type Found = Option<Result<Vec<IpAddr>, Failure>>;

/// Asks for both families at once.
async fn both(config: &Config, name: &str) -> (Found, Found) {
    let v4 = one(config, name, Family::A);
    if config.no_aaaa {
        return (v4.await, None);
    }
    let v6 = one(config, name, Family::Aaaa);
    tokio::pin!(v4, v6);
    tokio::select! {
        first = &mut v4 => {
            let second = rest(&first, v6).await;
            (first, second)
        }
        first = &mut v6 => {
            let second = rest(&first, v4).await;
            (second, first)
        }
    }
}

async fn rest(first: &Found, second: impl Future<Output = Found>) -> Found {
    match first {
        Some(Ok(_)) => timeout(GRACE, second).await.unwrap_or(None),
        _ => second.await,
    }
}

/// Asks the servers in turn until one knows. `None`: no question at all.
async fn one(config: &Config, name: &str, family: Family) -> Found {
    let mut failure = None;
    for _ in 0..config.attempts {
        for server in &config.servers {
            let question = Question::new(rand::random(), name, family)?;
            let why = match timeout(config.timeout, exchange(*server, &question, config.tcp)).await {
                Ok(Ok(Answer::Addresses(found))) if !found.is_empty() => return Some(Ok(found)),
                Ok(Ok(Answer::Addresses(_) | Answer::NoSuchName)) => return Some(Err((Why::NoSuchHost, *server))),
                Ok(Ok(Answer::Failure | Answer::Truncated)) => Why::Misbehaving,
                Ok(Err(error)) => Why::Io(error),
                Err(_) => Why::Timeout,
            };
            tracing::debug!(%server, name, ?family, %why, "a name server did not help");
            failure = Some((why, *server));
        }
    }
    failure.map(Err)
}

async fn exchange(server: SocketAddr, question: &Question, tcp: bool) -> io::Result<Answer> {
    if !tcp {
        match by_udp(server, question).await? {
            Answer::Truncated => {}
            answer => return Ok(answer),
        }
    }
    by_tcp(server, question).await
}

async fn by_udp(server: SocketAddr, question: &Question) -> io::Result<Answer> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A port that nobody can guess beside the number, and packets of this server alone.
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question.packet()).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let len = socket.recv(&mut buffer).await?;
        // Another's packet does not end the waiting, or anybody could.
        if let Some(answer) = question.read(&buffer[..len]) {
            return Ok(answer);
        }
    }
}

async fn by_tcp(server: SocketAddr, question: &Question) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let packet = question.packet();
    let len = u16::try_from(packet.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes()[..], packet].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(question.read(&answer).unwrap_or(Answer::Failure))
}
