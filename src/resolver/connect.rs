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
