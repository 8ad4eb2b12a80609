//! What this server passes on to others: streams of pods to kubelets, requests to pods, services and nodes.
//!
//! Bottom-up: [`upstream`] is another server and [`idle`] the connections that wait for its next request; [`kubelet`] knows
//! a node's kubelet, [`identity`] who this server is to it; [`wire`] is a client's connection that
//! can be taken over; [`forward`] carries one request, and whatever its connection is upgraded to, to another server;
//! [`streams`] is exec, attach and port-forward; [`proxied`] is the subresource `proxy`, with [`rewrite`] and [`page`] for
//! what the other server says about addresses.
//!
//! Invariants: whoever is asked for something sees neither the caller's token nor what it impersonates; a kubelet's
//! certificate is verified; bodies pass in pieces, whose number is bounded.

pub(crate) mod forward;
pub(crate) mod identity;
pub(crate) mod idle;
pub(crate) mod kubelet;
mod page;
mod proxied;
mod rewrite;
mod streams;
pub(crate) mod upstream;
pub(crate) mod wire;

pub(crate) use streams::choose_container;
