//! Certificate authorities, certificates, service-account keys, kubeconfig files.
//!
//! Bottom-up: [`der`] writes values, [`authority`] signs certificates, [`request`] what others ask to be signed, [`token`] signs and checks service-account tokens,
//! [`check_anchors()`] and [`anchors()`] read whom others trust, [`kubeconfig()`] writes what clients read, [`ClusterPki`] keeps a cluster's keys in a directory.
//!
//! Three authorities, as k3s has them: one vouches for servers (clients hold it), one for clients
//! (servers hold it), so a stolen serving key is no client identity, and one for the front proxy alone (extension API
//! servers hold it), whose word on who asks is believed. Everything starts to be valid
//! in 1970, so that a board without a clock can boot; the end is counted from the later of the clock
//! and the year this was built for.
//!
//! Must not know: HTTP.

mod authority;
mod bundle;
mod cluster;
mod der;
mod error;
mod kubeconfig;
mod pair;
mod request;
mod token;

pub use authority::{KeyPairPem, ServerNames, days_left, fingerprint, subject};
pub use bundle::{anchors, check_anchors};
pub use cluster::ClusterPki;
pub use error::Error;
pub use kubeconfig::{kubeconfig, write_kubeconfig};
pub use pair::check_pair;
pub use request::{Request, check_certificates, ends};
pub use token::{ServiceAccountKey, TokenError, detached_signature};
