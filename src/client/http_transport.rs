use async_trait::async_trait;
use bytes::Bytes;
use skiff_api::Gvr;

use crate::{Body, Feed, Result, Selector, Transport};

/// HTTP/1.1 or HTTP/2 over TLS, with what a kubeconfig holds: server, CA, client certificate or token.
pub struct HttpTransport {}

impl HttpTransport {
    /// From the text of a kubeconfig (its current context, or the named one).
    pub fn from_kubeconfig(text: &str, context: Option<&str>) -> Result<Self> {
        let _ = (text, context);
        todo!("client helper")
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>> {
        let _ = request;
        todo!("client helper")
    }

    async fn stream(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>> {
        let _ = request;
        todo!("client helper")
    }

    fn observe(&self, resource: &Gvr, selector: &Selector) -> Feed {
        let _ = (resource, selector);
        todo!("client helper")
    }
}
