//! API aggregation: groups and versions that other API servers serve behind this one, as APIServices name them.
//!
//! ```text
//! definitions --> register: APIServices of their versions, labelled as managed
//! APIServices, Services, EndpointSlices --> availability: condition `Available` --> table --> router: forward
//!                                                 '-- found: what the other server serves --> discovery, openapi
//! ```
//!
//! Bottom-up: [`table`] is what the APIServices say; [`forward`] speaks to another server, as a caller or for one;
//! [`found`] reads its discovery; [`openapi`] its documents; [`availability`] decides whether it can be used; [`register`]
//! makes the APIServices of custom resources; [`follow`] keeps all of it up to date.
//!
//! Invariants: who asks is decided here, and the other server believes it because of the front proxy's certificate, which is
//! signed by an authority of its own; what a caller says of itself in such headers never passes. Without APIServices of other
//! servers none of it costs a request anything.

mod availability;
pub(crate) mod follow;
mod forward;
mod found;
mod openapi;
pub(crate) mod register;
mod table;

use std::sync::{Arc, Mutex};

use arc_swap::{ArcSwap, Guard};
use jiff::Timestamp;
use skiff_pki::ClusterPki;
use tokio::sync::Notify;

pub(crate) use self::table::{Found, Priority, Remote, Table};
use crate::documents::Swaggers;
use crate::error::Error;
use crate::http::tls::Serving;
use crate::proxy::identity::is_old;

pub(crate) struct Aggregation {
    table: ArcSwap<Table>,
    /// The front proxy's certificate.
    identity: Arc<Serving>,
    signed: Mutex<Timestamp>,
    /// The registry was swapped.
    pub served: Notify,
    pub swaggers: Swaggers,
}

impl Aggregation {
    pub fn new(pki: &ClusterPki) -> Result<Self, Error> {
        Ok(Self {
            table: ArcSwap::default(),
            identity: Serving::new(&pki.front_proxy()?)?,
            signed: Mutex::new(skiff_base::time::now()),
            served: Notify::new(),
            swaggers: Swaggers::default(),
        })
    }

    pub fn table(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    /// A new certificate, long before the end of the old one.
    pub fn renew(&self, pki: &ClusterPki) -> Result<(), Error> {
        let now = skiff_base::time::now();
        let mut signed = self.signed.lock().expect("nobody panics while holding it");
        if is_old(*signed, now) {
            self.identity.replace(&pki.front_proxy()?)?;
            *signed = now;
        }
        Ok(())
    }

    /// Who serves a path, given in segments, where that is not this server.
    pub fn remote(&self, segments: &[String]) -> Option<Arc<Remote>> {
        let (group, version) = match segments {
            [api, version, ..] if api == "api" => ("", version),
            [apis, group, version, ..] if apis == "apis" => (group.as_str(), version),
            _ => return None,
        };
        self.table().find(group, version).cloned()
    }

    /// The same for a path as it was written: its body is not read here.
    pub fn takes(&self, path: &str) -> bool {
        if self.table().is_empty() {
            return false;
        }
        let segments: Vec<String> = path.split('/').filter(|s| !s.is_empty()).take(3).map(str::to_owned).collect();
        self.remote(&segments).is_some()
    }
}
