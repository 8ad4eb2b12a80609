use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::net::TcpStream;

use crate::Resolver;

/// How long one address is tried alone (RFC 8305).
const HEAD_START: Duration = Duration::from_millis(250);

/// A TCP connection to `host`, a name or an address, at the first of its addresses that takes one. The error is a
/// [`crate::Error`] when there is no address, else the last address's.
pub async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = Resolver::system().resolve(host).await.map_err(io::Error::other)?;
    connect_first(addresses.into_iter().map(|ip| SocketAddr::new(ip, port))).await
}

/// As [`connect`], with an error in the words of Go's `net.Dial`, which people look up.
pub async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    connect(host, port).await.map_err(|error| {
        let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let words = match error.kind() {
            io::ErrorKind::ConnectionRefused => format!("dial tcp {shown}: connect: connection refused"),
            io::ErrorKind::HostUnreachable => format!("dial tcp {shown}: connect: no route to host"),
            io::ErrorKind::NetworkUnreachable => format!("dial tcp {shown}: connect: network is unreachable"),
            _ if error.get_ref().is_some_and(|inner| inner.is::<crate::Error>()) => format!("dial tcp: {error}"),
            _ => format!("dial tcp {shown}: {error}"),
        };
        io::Error::new(error.kind(), words)
    })
}

pub(crate) async fn connect_first(mut addresses: impl ExactSizeIterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut tries = FuturesUnordered::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    tries.extend(addresses.next().map(TcpStream::connect));
    while !tries.is_empty() {
        tokio::select! {
            biased;
            Some(tried) = tries.next() => match tried {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            },
            () = tokio::time::sleep(HEAD_START), if addresses.len() > 0 => {}
        }
        tries.extend(addresses.next().map(TcpStream::connect));
    }
    Err(last)
}
