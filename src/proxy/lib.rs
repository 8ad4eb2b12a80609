//! Services on every node: Services + EndpointSlices -> the plain model of `skiff-network`.
//!
//! `plan` is pure: one service and its slices to what the node needs. [`start`] runs the loop: a change marks its
//! service; the marked ones are planned anew and the whole is handed to the network, which sends the difference.
//!
//! Invariants: the first rule set that is applied is complete (both caches are synced), so that rules of an earlier
//! process serve until then; between two applications there is a pause, so that a storm of changes is one.
//!
//! Must not know: the store, the API server.

mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skiff_api::ObjectKey;
use skiff_base::{Backoff, CancellationToken, Scope, chain};
use skiff_client::{Change, Informers, Lister};
use skiff_network::{Network, ServicePort, ServiceRules};
use tokio::sync::Notify;

/// The label by which a slice names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The index of slices, by `namespace/name` of their service.
const BY_SERVICE: &str = "proxy/service";
/// Between two changes of the rule set. The first one after a pause is made at once.
const PAUSE: Duration = Duration::from_millis(5);

/// Shows the cluster's services on this node, until the scope is stopped.
pub fn start(informers: &Informers, network: Network, node_name: &str, scope: &Scope) {
    let services = informers.lister::<Service>();
    let slices = informers.lister::<EndpointSlice>();
    slices.add_index(BY_SERVICE, |slice| service_of(slice).map(|key| key.to_string()).into_iter().collect());
    let marked = Arc::new(Marked::default());
    services.subscribe(mark(&marked, |service: &Service| Some(ObjectKey::of(service))));
    slices.subscribe(mark(&marked, service_of));
    let proxy = Proxy {
        services,
        slices,
        network,
        node_name: node_name.to_owned(),
        planned: BTreeMap::new(),
        names: BTreeMap::new(),
    };
    let stop = scope.token().clone();
    scope.spawn(proxy.run(marked, stop));
}

/// Services that changed since they were planned.
#[derive(Default)]
struct Marked {
    keys: Mutex<BTreeSet<ObjectKey>>,
    changed: Notify,
}

impl Marked {
    fn add(&self, key: ObjectKey) {
        self.keys.lock().expect("nothing panics while it holds the keys").insert(key);
        self.changed.notify_one();
    }

    fn take(&self) -> BTreeSet<ObjectKey> {
        std::mem::take(&mut self.keys.lock().expect("nothing panics while it holds the keys"))
    }
}

fn mark<K: 'static>(marked: &Arc<Marked>, key: fn(&K) -> Option<ObjectKey>) -> impl Fn(&Change<K>) + use<K> {
    let marked = marked.clone();
    move |change| {
        if let Change::Modified { old, .. } = change
            && let Some(key) = key(old)
        {
            marked.add(key);
        }
        if let Some(key) = key(change.object()) {
            marked.add(key);
        }
    }
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(ObjectKey::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

struct Proxy {
    services: Lister<Service>,
    slices: Lister<EndpointSlice>,
    network: Network,
    node_name: String,
    planned: BTreeMap<String, ServicePort>,
    /// The keys in `planned` of each service.
    names: BTreeMap<ObjectKey, Vec<String>>,
}

impl Proxy {
    async fn run(mut self, marked: Arc<Marked>, stop: CancellationToken) {
        let synced = async { tokio::join!(self.services.synced(), self.slices.synced()) };
        if stop.run_until_cancelled(synced).await.is_none() {
            return;
        }
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(30));
        // Also without any service: what an earlier process left may be of services that are gone.
        let mut is_due = true;
        loop {
            for key in marked.take() {
                is_due |= self.plan(key);
            }
            let mut wait = PAUSE;
            if is_due {
                match self.network.apply_services(ServiceRules { services: self.planned.clone() }).await {
                    Ok(()) => {
                        is_due = false;
                        backoff.reset();
                    }
                    Err(error) => {
                        tracing::error!(error = %chain(&error), "show the cluster's services on this node");
                        wait = backoff.next_wait();
                    }
                }
            }
            let next = async {
                tokio::time::sleep(wait).await;
                if !is_due {
                    marked.changed.notified().await;
                }
            };
            if stop.run_until_cancelled(next).await.is_none() {
                return;
            }
        }
    }

    /// Plans one service anew, and tells whether that changed anything.
    fn plan(&mut self, key: ObjectKey) -> bool {
        let ports = match self.services.get(&key) {
            Some(service) => plan::plan_service(
                &service,
                &self.slices.indexed(BY_SERVICE, &key.to_string()),
                &self.node_name,
                self.network.options().dns_ip,
            ),
            None => Vec::new(),
        };
        let names: Vec<String> = ports.iter().map(|(name, _)| name.clone()).collect();
        let mut changed = false;
        for old in self.names.remove(&key).unwrap_or_default() {
            changed |= !names.contains(&old) && self.planned.remove(&old).is_some();
        }
        for (name, port) in ports {
            changed |= self.planned.get(&name) != Some(&port);
            self.planned.insert(name, port);
        }
        if !names.is_empty() {
            self.names.insert(key, names);
        }
        changed
    }
}

#[cfg(test)]
mod tests;
