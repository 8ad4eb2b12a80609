//! Netlink: the few messages that a node needs, on one blocking socket.
//!
//! Bottom-up: [`message`] writes and reads messages and attributes, [`Socket`] exchanges them,
//! [`route`] speaks rtnetlink (links, addresses, routes, neighbours) in the messages of a crate, [`nft`] speaks nf_tables,
//! [`conntrack`] drops tracked connections, [`netns`] makes network namespaces.
//!
//! Everything blocks for as long as the kernel takes (milliseconds when it holds the rtnl lock), so
//! call it from a thread that may block. A socket belongs for ever to the network namespace that its
//! thread was in when it was opened.

pub mod conntrack;
mod message;
pub mod netns;
pub mod nft;
pub mod route;
mod socket;

pub use message::{Attribute, Attributes, Reply, attributes};
pub use socket::{Error, Group, Protocol, Result, Socket};
