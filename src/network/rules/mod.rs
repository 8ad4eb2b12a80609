//! The rules of services, host ports and masquerading: our table `ip skiff`.
//!
//! Bottom-up: [`model`] is the vocabulary (keys and values of maps, chains that owners share), [`base`] are the
//! chains that every node has, [`probe`] tells what this kernel can, [`service`] plans what one service port asks for, [`diff`] turns a change of plans
//! into steps, [`table`] carries them out; [`adopt`] takes over what an earlier process left.
//!
//! ```text
//! prerouting, output -101   hostport-ips, hostports       dnat
//!                           local-ips (from outside)      goto spread-local-N | drop
//!                           service-ips                   goto spread-N | masquerade-N | ...
//!                           node-ports (local address)    goto port-spread-N | ...
//! input, forward, output 0  no-endpoints                  goto refuse
//! postrouting 100           marked, hairpin, pods to elsewhere: masquerade
//! ```
//!
//! A connection costs the same whatever the number of services: chains are shared by all services with the same
//! number of endpoints, what differs are elements of maps. Only services with session affinity or source ranges
//! have chains of their own.

mod adopt;
mod base;
mod diff;
mod model;
mod probe;
mod service;
mod table;

pub(crate) use model::{Fragment, Owner};
pub(crate) use probe::Features;
pub(crate) use service::{plan_dns, plan_pod, without_conflicts};
pub(crate) use table::{TABLE, Table, remove_all};
