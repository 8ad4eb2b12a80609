use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use skiff_api::{Gvr, Object};

use crate::Result;

/// The body of a streamed response.
pub type Body = BoxStream<'static, Result<Bytes>>;

/// What [`Transport::observe`] yields.
pub type Feed = BoxStream<'static, Update>;

/// Which objects of a resource are observed; empty strings select everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    pub namespace: String,
    /// In the query's form: `spec.nodeName=a`.
    pub fields: String,
    pub labels: String,
}

/// A change to the set of observed objects. The first one is always `Replace`.
#[derive(Debug, Clone)]
pub enum Update {
    /// Everything there is now, in place of all that was told before.
    Replace(Vec<Arc<Object>>),
    /// Created or changed.
    Put(Arc<Object>),
    /// Gone; the object as it was last.
    Delete(Arc<Object>),
}

/// The way to an API server: by HTTP, or by a call in the same process. Both enter the same request
/// path, with the identity that the transport was made with.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// One request with a path and query such as `/api/v1/pods?limit=1`, one answer, whole. Failures
    /// that the server reports come as an answer with their HTTP status.
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>>;

    /// The same with an answer that is read as it arrives (logs that are followed).
    async fn stream(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>>;

    /// All objects of a resource and their changes, for as long as the stream is polled. Lists and
    /// watches again by itself (with back-off) after failures and gaps; never ends by itself.
    fn observe(&self, resource: &Gvr, selector: &Selector) -> Feed;
}
