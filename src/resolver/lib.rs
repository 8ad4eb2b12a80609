//! Names of hosts to addresses, without the C library.
//!
//! glibc's `getaddrinfo` loads modules (NSS) of whatever glibc the host has into an executable that was linked with
//! another, which may end it. So nothing in Skiff gives a name to the standard library, to tokio or to hyper: it asks
//! here first, as Go's own resolver would.
//!
//! Bottom-up: `message` knows the parts of DNS messages (`dns` answers with the same), `wire` writes questions and reads
//! answers, `hosts` reads hosts(5), `config` reads resolv.conf(5) and says which names are asked for, `lookup` asks,
//! `order` says which address is tried first, `connect` makes a connection to the first address that has one.
//!
//! Invariants: both files are read for each question, since they are small, and others write them; an answer counts
//! only if it has the question's number and text and comes from the server that was asked.
//!
//! Must not know: Kubernetes, HTTP, clusters' own names (that is `dns`), nsswitch.conf(5).

mod config;
mod connect;
mod hosts;
mod lookup;
pub mod message;
mod order;
#[cfg(test)]
mod tests;
mod wire;

use std::net::IpAddr;

pub use connect::{connect, dial};
pub use lookup::{Error, Resolver};

/// The addresses of `host`, the best first; never none. An address is its own.
pub async fn resolve(host: &str) -> Result<Vec<IpAddr>, Error> {
    Resolver::system().resolve(host).await
}
