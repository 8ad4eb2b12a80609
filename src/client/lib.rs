//! A typed client of the Kubernetes API, and what control loops are made of.
//!
//! Bottom-up: [`Transport`] carries requests, by HTTP to a server elsewhere ([`HttpTransport`], from a
//! [`Kubeconfig`]) or by a call to the one in this process (which implements the trait); `watch` makes
//! an endless observation of lists and watches; [`Client`] and [`Api`] give requests types;
//! [`Informers`] keep [`Lister`]s, caches fed by [`Transport::observe`]; [`Queue`] and [`run`] drive
//! [`Reconciler`]s; [`EventRecorder`] writes Kubernetes Events.
//!
//! With the feature `fake` there is an API server in memory for tests.
//!
//! Must not know: the store, the API server's insides.

mod api;
mod cache;
mod error;
mod event;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod http_transport;
mod informer;
mod kubeconfig;
mod queue;
mod reconciler;
mod tls;
mod transport;
mod upgrade;
mod watch;

pub use api::{Api, Client, DeleteOptions, ListOptions, PatchKind, failure, percent_encoded};
pub use error::Error;
pub use event::{EventKind, EventRecorder};
pub use http_transport::HttpTransport;
pub use informer::{Change, Informers, Lister};
pub use kubeconfig::{Auth, Kubeconfig};
pub use queue::Queue;
pub use reconciler::{Next, Reconciler, run};
pub use tls::unverified_tls;
pub use transport::{Body, Feed, Selector, Transport, Update};
pub use upgrade::Upgraded;
pub use watch::observe;

pub type Result<T, E = Error> = std::result::Result<T, E>;
