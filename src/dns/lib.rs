//! The cluster's names on every node.
//!
//! Bottom-up: `wire` reads and writes messages; `zone` answers questions about the cluster from objects, pure;
//! `forward` asks the host's resolvers for everything else; `server` listens. [`start`] puts them together.
//!
//! Invariants: a question about the cluster never leaves this process, and any other never comes back to it; until
//! the caches are filled the answer is "try again", never "there is no such name".
//!
//! Must not know: the store, the API server.

mod forward;
mod server;
mod wire;
mod zone;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use skiff_base::Scope;
use skiff_client::Informers;
use skiff_network::{Cidr, Network};
use tokio::net::{TcpListener, UdpSocket};

use crate::forward::Forwarder;
use crate::server::{Objects, Server};
use crate::zone::Zone;

/// How often a port that is free for both UDP and TCP is looked for.
const PORT_TRIES: usize = 16;

#[derive(Clone)]
pub struct Options {
    /// Where to listen: the cluster's DNS address, port 53.
    pub listen: SocketAddr,
    /// Usually `cluster.local`.
    pub domain: String,
    /// The resolv.conf(5) with the resolvers for all other names. It is read again when it changes.
    pub upstream: PathBuf,
    /// The networks whose addresses are the cluster's, for reverse lookups: services and pods.
    pub networks: Vec<Cidr>,
    /// Leads port 53 to us where another program has it on every address. Without it that is an error.
    pub network: Option<Network>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listen for DNS questions on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("lead port 53 of the cluster's DNS address to another port")]
    Lead(#[source] skiff_network::Error),
}

/// Answers questions by UDP and TCP until the scope is stopped, and tells where it listens.
pub async fn start(informers: &Informers, options: Options, scope: &Scope) -> Result<SocketAddr, Error> {
    let objects = Objects { services: informers.lister(), slices: informers.lister(), namespaces: informers.lister() };
    objects.add_indexes();
    let (udp, tcp, address) = bind(&options).await?;
    if let Some(network) = &options.network {
        network.set_dns_port(address.port()).await.map_err(Error::Lead)?;
    }
    let server = Arc::new(Server {
        zone: Zone::new(&options.domain, options.listen.ip(), options.networks),
        objects,
        forwarder: Forwarder::new(options.upstream, options.listen.ip()),
    });
    scope.spawn(server.clone().serve_udp(udp, scope.clone()));
    scope.spawn(server.serve_tcp(tcp, scope.clone()));
    tracing::info!(%address, domain = options.domain, "answering DNS questions");
    Ok(address)
}

async fn bind(options: &Options) -> Result<(UdpSocket, TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen { address: options.listen, source };
    match bind_at(options.listen).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && options.network.is_some() => {
            tracing::info!(address = %options.listen, "another program has the port on every address; taking another one");
        }
        bound => return bound.map_err(failed),
    }
    let anywhere = SocketAddr::new(options.listen.ip(), 0);
    let mut last = None;
    for _ in 0..PORT_TRIES {
        match bind_at(anywhere).await {
            Ok(bound) => return Ok(bound),
            Err(error) => last = Some(error),
        }
    }
    Err(failed(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into())))
}

/// The same port for UDP and TCP.
async fn bind_at(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener, SocketAddr)> {
    let udp = UdpSocket::bind(address).await?;
    let address = udp.local_addr()?;
    let tcp = TcpListener::bind(address).await?;
    Ok((udp, tcp, address))
}

#[cfg(test)]
mod tests;
