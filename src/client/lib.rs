//! A typed client of the Kubernetes API, and what control loops are made of.
//!
//! Bottom-up: [`Transport`] carries requests, by HTTP to a server elsewhere or by a call to the one
//! in this process (which implements the trait); [`Client`] and [`Api`] give them types;
//! [`Informers`] keep [`Lister`]s, caches fed by [`Transport::observe`]; [`Queue`] and [`run`] drive
//! [`Reconciler`]s; [`EventRecorder`] writes Kubernetes Events.
//!
//! Must not know: the store, the API server's insides.

mod api;
mod error;
mod event;
mod http_transport;
mod informer;
mod queue;
mod reconciler;
mod transport;

pub use api::{Api, Client, DeleteOptions, ListOptions, PatchKind};
pub use error::Error;
pub use event::{EventKind, EventRecorder};
pub use http_transport::HttpTransport;
pub use informer::{Change, Informers, Lister};
pub use queue::Queue;
pub use reconciler::{Next, Reconciler, run};
pub use transport::{Body, Feed, Selector, Transport, Update};

pub type Result<T, E = Error> = std::result::Result<T, E>;
