//! A stage for a controller: an API server in memory.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use skiff_base::Scope;
use skiff_client::fake::FakeTransport;
use skiff_client::{Client, Informers};
use skiff_pki::{ClusterPki, ServerNames};

use crate::{Context, Options};

/// Keys of a cluster that ends with the test.
pub fn pki() -> Arc<ClusterPki> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    Arc::new(ClusterPki::ensure(directory.path(), &ServerNames::default()).expect("keys"))
}

pub struct Stage {
    pub fake: Arc<FakeTransport>,
    scope: Scope,
    informers: Informers,
}

impl Stage {
    pub fn new() -> Self {
        let fake = Arc::new(FakeTransport::new());
        let scope = Scope::new();
        let informers = Informers::new(Client::new(fake.clone()), scope.clone());
        Self { fake, scope, informers }
    }

    pub fn context(&self) -> Context {
        let client = self.informers.client().clone();
        Context {
            informers: self.informers.clone(),
            clients: Arc::new(move |_| client.clone()),
            scope: self.scope.clone(),
            options: Options {
                cluster_cidr: (Ipv4Addr::new(10, 42, 0, 0), 16),
                node_cidr_mask: 24,
                ca_pem: "the CA".into(),
                pki: pki(),
            },
        }
    }

    pub fn put(&self, object: Value) {
        self.fake.put(object);
    }

    /// Deletes as a client does.
    pub async fn delete(&self, path: &str) {
        let client = Client::new(self.fake.clone());
        let _: Value = client.call(http::Method::DELETE, path, None).await.expect("it is there");
    }

    /// Deletes with a propagation policy.
    pub async fn delete_as(&self, path: &str, policy: &str) {
        let client = Client::new(self.fake.clone());
        let options = serde_json::json!({"propagationPolicy": policy});
        let _: Value = client.call(http::Method::DELETE, path, Some(&options)).await.expect("it is there");
    }

    /// Updates as a client does.
    pub async fn update(&self, path: &str, object: &Value) {
        let client = Client::new(self.fake.clone());
        let _: Value = client.call(http::Method::PUT, path, Some(object)).await.expect("it is there");
    }

    /// Waits for what the controller is to bring about.
    pub async fn until(&self, what: &str, mut done: impl FnMut(&FakeTransport) -> bool) {
        let limit = Instant::now() + Duration::from_secs(20);
        while !done(&self.fake) {
            assert!(Instant::now() < limit, "{what} did not happen after {:#?}", self.fake.requests());
            tokio::task::yield_now().await;
        }
    }

    pub async fn end(self) {
        self.scope.stop().await;
    }
}
