//! Keeps the mirrors of Endpoints that somebody made by hand.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skiff_api::ObjectKey;
use skiff_client::{Change, Client, EventKind, EventRecorder, Lister, Next, Queue, Reconciler, Result};

use super::mirror::{MIRROR, MOST, Mirrored, is_mirrored, plan_mirror};
use super::slices::Changes;
use super::{SHOWN_WITHIN, WORKERS, Written, apply_slices, service_of};
use crate::service_account::is_closing;
use crate::{Context, drive};

/// Mirrors by the namespace and name of their Endpoints.
const BY_ENDPOINTS: &str = "endpoints";
const ACCOUNT: &str = "endpointslicemirroring-controller";

pub fn start(context: &Context) {
    let services = context.informers.lister::<Service>();
    let endpoints = context.informers.lister::<Endpoints>();
    let slices = context.informers.lister::<EndpointSlice>();
    slices.add_index(BY_ENDPOINTS, |slice| service_of(slice, MIRROR).map(|key| key.to_string()).into_iter().collect());
    let queue = Queue::new(Mirroring::NAME);
    let adding = queue.clone();
    endpoints.subscribe(move |change| adding.add(ObjectKey::of(&**change.object())));
    let adding = queue.clone();
    services.subscribe(move |change| {
        let has = |service: &Arc<Service>| is_without_selector(service);
        // Most changes of services are of those that select, and concern no mirror.
        if !matches!(change, Change::Modified { old, new } if has(old) == has(new)) {
            adding.add(ObjectKey::of(&**change.object()));
        }
    });
    let adding = queue.clone();
    slices.subscribe(move |change| {
        let old = if let Change::Modified { old, .. } = change { Some(old) } else { None };
        for slice in old.into_iter().chain([change.object()]) {
            if let Some(key) = service_of(slice, MIRROR) {
                adding.add(key);
            }
        }
    });
    let controller = Arc::new(Mirroring {
        client: context.client(ACCOUNT),
        events: context.events(ACCOUNT, Mirroring::NAME),
        services: services.clone(),
        endpoints: endpoints.clone(),
        slices: slices.clone(),
        written: Written::default(),
    });
    drive(context, controller, queue, WORKERS, async move {
        services.synced().await;
        endpoints.synced().await;
        slices.synced().await;
    });
}

fn is_without_selector(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_none_or(|selector| selector.is_empty())
}

struct Mirroring {
    client: Client,
    events: EventRecorder,
    services: Lister<Service>,
    endpoints: Lister<Endpoints>,
    slices: Lister<EndpointSlice>,
    written: Written,
}

impl Reconciler for Mirroring {
    const NAME: &'static str = "endpoint-slice-mirroring-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let existing = self.slices.indexed(BY_ENDPOINTS, &key.to_string());
        let has_service = self.services.get(key).is_some_and(|service| is_without_selector(&service));
        let endpoints = self.endpoints.get(key).filter(|endpoints| has_service && is_mirrored(endpoints));
        if !self.written.is_shown(key, &existing) {
            return Ok(Next::After(SHOWN_WITHIN));
        }
        let changes = match &endpoints {
            Some(endpoints) => self.tell(endpoints, plan_mirror(endpoints, &existing)),
            None => Changes { delete: existing, ..Changes::default() },
        };
        match apply_slices(&self.client, key, &changes, &self.written).await {
            Err(error) if !is_closing(&error) => Err(error),
            _ => Ok(Next::Done),
        }
    }
}

impl Mirroring {
    /// Tells of the addresses that are in no slice.
    fn tell(&self, endpoints: &Endpoints, mirrored: Mirrored) -> Changes {
        let Mirrored { changes, invalid, left_out } = mirrored;
        let record = |reason: &str, message: String| {
            self.events.record(EventRecorder::reference(endpoints), EventKind::Warning, reason, message);
        };
        if invalid > 0 {
            let message = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
            record("InvalidIPAddress", message);
        }
        if left_out > 0 {
            let message = format!(
                "A max of {MOST} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
                invalid + left_out
            );
            record("TooManyAddressesToMirror", message);
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::Stage;

    const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

    #[tokio::test]
    async fn follows_services_and_endpoints() {
        let stage = Stage::new();
        let meta = |name: &str| json!({"name": name, "namespace": "x", "uid": name});
        let service = |name: &str, selector: Value| {
            json!({"apiVersion": "v1", "kind": "Service", "metadata": meta(name),
                "spec": {"selector": selector, "ports": [{"port": 80}]}})
        };
        let endpoints = |name: &str, ip: &str| {
            json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": meta(name),
                "subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 8080}]}]})
        };
        let told = |fake: &skiff_client::fake::FakeTransport| -> Vec<String> {
            let slices = fake.objects(SLICES);
            let line = |slice: &Value| {
                let service = &slice["metadata"]["labels"]["kubernetes.io/service-name"];
                format!("{service} {}", slice["endpoints"][0]["addresses"][0]).replace('"', "")
            };
            let mut told: Vec<String> = slices.iter().map(line).collect();
            told.sort();
            told
        };
        for name in ["none", "manual", "selecting", "other"] {
            stage.put(endpoints(name, "192.0.2.1"));
        }
        stage.put(service("selecting", json!({"a": "b"})));
        stage.put(service("other", json!(null)));
        super::start(&stage.context());
        stage.until("a mirror", |fake| told(fake) == ["other 192.0.2.1"]).await;
        stage.put(service("manual", json!(null)));
        stage.until("one for a new service", |fake| told(fake) == ["manual 192.0.2.1", "other 192.0.2.1"]).await;
        stage.put(endpoints("manual", "192.0.2.2"));
        stage.until("the new address", |fake| told(fake) == ["manual 192.0.2.2", "other 192.0.2.1"]).await;
        stage.put(service("manual", json!({"a": "b"})));
        stage.until("it selects now", |fake| told(fake) == ["other 192.0.2.1"]).await;
        stage.put(service("selecting", json!({})));
        stage.until("it no longer does", |fake| told(fake) == ["other 192.0.2.1", "selecting 192.0.2.1"]).await;
        stage.delete("/api/v1/namespaces/x/endpoints/other").await;
        stage.until("no mirror of what is gone", |fake| told(fake) == ["selecting 192.0.2.1"]).await;
        stage.delete("/api/v1/namespaces/x/services/selecting").await;
        stage.until("nor for what is gone", |fake| told(fake).is_empty()).await;
        stage.end().await;
    }
}
