//! Pod links, routes, addresses, and the nf_tables rules of services, from a plain model.
//!
//! Bottom-up: `worker` runs blocking work on a thread of its own; `leases` says which sandbox has which address;
//! `links` makes the node's link and each pod's pair; [`rules`](self) plans and carries out our nf_tables table;
//! `keeper` puts it back when others remove it; [`Network`] is what the rest of the program sees.
//!
//! ```text
//! pod eth0 10.42.0.7/32 --veth-- skf0a1b2c3d4e5f   route 10.42.0.7/32, no bridge, no ARP
//!   default via 10.42.0.1                          skiff0: 10.42.0.1, 10.43.0.10, route 10.43.0.0/16
//! ```
//!
//! Invariants:
//! - Everything happens in the network namespace of the thread that called [`Network::open`], whichever that is.
//! - We own the table `skiff`, the links `skiff0` and `skf*`, and routes of our protocol number; nothing else is touched,
//!   but for two accepts in a foreign chain that would drop everything. [`Network::remove_all`] leaves no trace.
//! - No program is executed.
//!
//! Must not know: the Kubernetes API.

mod keeper;
mod leases;
mod links;
mod names;
mod network;
mod rules;
mod sysctl;
mod types;
mod worker;

#[cfg(test)]
mod packets;

pub use network::Network;
pub use types::*;
