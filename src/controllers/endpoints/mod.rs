//! Tells which pods answer for a service: EndpointSlices, and the older Endpoints. Endpoints that somebody made by hand
//! are told as EndpointSlices too.
//!
//! `backend` is what a pod is to a service, `slices` and `subsets` plan the two forms; `mirror` makes the one of the other.

mod backend;
mod mirror;
mod mirroring;
mod slices;
mod subsets;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skiff_api::ObjectKey;
use skiff_api::selector::LabelSelector;
use skiff_client::{Change, Client, DeleteOptions, EventKind, EventRecorder, Lister, Next, Queue, Reconciler, Result};

use self::slices::{Changes, MANAGED_BY, MANAGER, SERVICE_NAME, plan_slices};
use self::subsets::plan_endpoints;
use crate::service_account::is_closing;
use crate::{Context, drive};

/// Keys that are worked on at once.
const WORKERS: usize = 5;
/// Slices by the namespace and name of their service.
const BY_SERVICE: &str = "service";
const ZONE: &str = "topology.kubernetes.io/zone";

pub fn start(context: &Context) {
    start_slices(context);
    start_endpoints(context);
    mirroring::start(context);
}

/// Queues the services that a change of a pod concerns.
fn watch_pods(services: &Lister<Service>, pods: &Lister<Pod>, queue: &Queue<ObjectKey>) {
    let adding = queue.clone();
    services.subscribe(move |change| adding.add(ObjectKey::of(&**change.object())));
    let (adding, services) = (queue.clone(), services.clone());
    pods.subscribe(move |change| {
        let states: Vec<&Arc<Pod>> = match change {
            Change::Added(pod) | Change::Deleted(pod) => vec![pod],
            Change::Modified { old, new } if backend::differs(old, new) => vec![old, new],
            Change::Modified { .. } => return,
        };
        let Some(pod) = states.first() else { return };
        for service in services.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default()) {
            if states.iter().any(|pod| selects(&service, pod)) {
                adding.add(ObjectKey::of(&*service));
            }
        }
    });
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let Some((selector, labels)) = selector.zip(pod.metadata.labels.as_ref()) else { return false };
    backend::is_selecting(service) && LabelSelector::from_labels(selector).matches(labels)
}

/// In the order of their names, so that the same pods always give the same plan.
fn pods_of(service: &Service, key: &ObjectKey, pods: &Lister<Pod>) -> Vec<Arc<Pod>> {
    let mut pods = pods.in_namespace(&key.namespace);
    pods.retain(|pod| selects(service, pod));
    pods
}

/// The service of a slice that is the manager's.
fn service_of(slice: &EndpointSlice, manager: &str) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    let name = labels.get(SERVICE_NAME).filter(|_| labels.get(MANAGED_BY).is_some_and(|is| is == manager))?;
    Some(ObjectKey::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

struct Slices {
    client: Client,
    events: EventRecorder,
    services: Lister<Service>,
    pods: Lister<Pod>,
    nodes: Lister<Node>,
    slices: Lister<EndpointSlice>,
    written: Written,
}

/// The name of a slice and the revision that it was written at.
type SliceAt = (String, u64);

/// What was written and the cache may not show yet: planning without it would make the same slices again.
#[derive(Default)]
struct Written {
    /// By service: until when to wait, and the slices with their revisions.
    open: Mutex<HashMap<ObjectKey, (Instant, Vec<SliceAt>)>>,
}

/// After this time a write that is still not shown was undone by someone.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);

impl Written {
    fn note(&self, service: &ObjectKey, slices: Vec<SliceAt>) {
        let mut open = self.open.lock().expect("nothing panics while it holds the writes");
        if !slices.is_empty() {
            open.insert(service.clone(), (Instant::now() + SHOWN_WITHIN, slices));
        }
    }

    fn is_shown(&self, service: &ObjectKey, slices: &[Arc<EndpointSlice>]) -> bool {
        let mut open = self.open.lock().expect("nothing panics while it holds the writes");
        let Some((until, written)) = open.get(service) else { return true };
        let shown = written.iter().all(|(name, revision)| {
            let slice = slices.iter().find(|slice| slice.metadata.name.as_ref() == Some(name));
            slice.is_some_and(|slice| slice_revision(slice) >= *revision)
        });
        let over = shown || *until <= Instant::now();
        if over {
            open.remove(service);
        }
        over
    }
}

fn place(slice: &EndpointSlice) -> SliceAt {
    (slice.metadata.name.clone().unwrap_or_default(), slice_revision(slice))
}

fn slice_revision(slice: &EndpointSlice) -> u64 {
    slice.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// Carries out what is planned for the slices of a service.
async fn apply_slices(client: &Client, key: &ObjectKey, changes: &Changes, noted: &Written) -> Result<()> {
    let api = client.namespaced::<EndpointSlice>(&key.namespace);
    let mut written = Vec::new();
    for slice in &changes.create {
        written.push(api.create(slice).await?);
        noted.note(key, written.iter().map(place).collect());
    }
    for slice in &changes.update {
        written.push(api.update(slice).await?);
        noted.note(key, written.iter().map(place).collect());
    }
    for slice in &changes.delete {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        match api.delete(name, &DeleteOptions::default()).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn start_slices(context: &Context) {
    let services = context.informers.lister::<Service>();
    let pods = context.informers.lister::<Pod>();
    let nodes = context.informers.lister::<Node>();
    let slices = context.informers.lister::<EndpointSlice>();
    slices.add_index(BY_SERVICE, |slice| service_of(slice, MANAGER).map(|key| key.to_string()).into_iter().collect());
    let queue = Queue::new(Slices::NAME);
    watch_pods(&services, &pods, &queue);
    let adding = queue.clone();
    slices.subscribe(move |change| {
        // Also one that was changed or deleted by someone else.
        if let Some(key) = service_of(change.object(), MANAGER) {
            adding.add(key);
        }
    });
    let (adding, all) = (queue.clone(), services.clone());
    nodes.subscribe(move |change| {
        let zone = |node: &Node| node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE).cloned());
        let moved = match change {
            Change::Modified { old, new } => zone(old) != zone(new),
            Change::Added(node) | Change::Deleted(node) => zone(node).is_some(),
        };
        if moved {
            all.list().iter().for_each(|service| adding.add(ObjectKey::of(&**service)));
        }
    });
    let controller = Arc::new(Slices {
        client: context.client("endpointslice-controller"),
        events: context.events("endpointslice-controller", Slices::NAME),
        services: services.clone(),
        pods: pods.clone(),
        nodes: nodes.clone(),
        slices: slices.clone(),
        written: Written::default(),
    });
    drive(context, controller, queue, WORKERS, async move {
        services.synced().await;
        pods.synced().await;
        nodes.synced().await;
        slices.synced().await;
    });
}

impl Reconciler for Slices {
    const NAME: &'static str = "endpoint-slice-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let existing = self.slices.indexed(BY_SERVICE, &key.to_string());
        let service = self.services.get(key);
        let Some(service) = service.filter(|service| service.metadata.deletion_timestamp.is_none()) else {
            // The garbage collector deletes what the service has owned.
            return Ok(Next::Done);
        };
        if !backend::is_selecting(&service) {
            return Ok(Next::Done);
        }
        if !self.written.is_shown(key, &existing) {
            return Ok(Next::After(SHOWN_WITHIN));
        }
        let zone = |node: &str| {
            let node = self.nodes.get(&ObjectKey::cluster(node))?;
            node.metadata.labels.as_ref()?.get(ZONE).cloned()
        };
        let changes = plan_slices(&service, &pods_of(&service, key, &self.pods), &existing, zone);
        match apply_slices(&self.client, key, &changes, &self.written).await {
            Ok(()) => Ok(Next::Done),
            Err(error) if is_closing(&error) => Ok(Next::Done),
            Err(error) => {
                if !error.is_conflict() && !error.is_not_found() {
                    let message =
                        format!("Error updating Endpoint Slices for Service {key}: {}", skiff_base::chain(&error));
                    let reference = EventRecorder::reference(&*service);
                    self.events.record(reference, EventKind::Warning, "FailedToUpdateEndpointSlices", message);
                }
                Err(error)
            }
        }
    }
}

struct OldEndpoints {
    client: Client,
    services: Lister<Service>,
    pods: Lister<Pod>,
    endpoints: Lister<Endpoints>,
}

fn start_endpoints(context: &Context) {
    let services = context.informers.lister::<Service>();
    let pods = context.informers.lister::<Pod>();
    let endpoints = context.informers.lister::<Endpoints>();
    let queue = Queue::new(OldEndpoints::NAME);
    watch_pods(&services, &pods, &queue);
    let (adding, all) = (queue.clone(), services.clone());
    endpoints.subscribe(move |change| {
        // Those that someone makes may come before their service.
        let key = ObjectKey::of(&**change.object());
        if all.get(&key).is_some() {
            adding.add(key);
        }
    });
    let leftovers = queue.clone();
    let controller = Arc::new(OldEndpoints {
        client: context.client("endpoint-controller"),
        services: services.clone(),
        pods: pods.clone(),
        endpoints: endpoints.clone(),
    });
    drive(context, controller, queue, WORKERS, async move {
        services.synced().await;
        pods.synced().await;
        endpoints.synced().await;
        // Services may have gone while nobody saw it.
        endpoints.list().iter().for_each(|endpoints| leftovers.add(ObjectKey::of(&**endpoints)));
    });
}

/// Whether Endpoints were made by someone whose lease they are; those are left alone.
fn is_lease(endpoints: &Endpoints) -> bool {
    let annotations = endpoints.metadata.annotations.as_ref();
    annotations.is_some_and(|annotations| annotations.contains_key("control-plane.alpha.kubernetes.io/leader"))
}

impl Reconciler for OldEndpoints {
    const NAME: &'static str = "endpoint-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let api = self.client.namespaced::<Endpoints>(&key.namespace);
        let old = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            // Whoever made them: they go with the service of their name.
            return match &old {
                Some(endpoints) if !is_lease(endpoints) => {
                    match api.delete(&key.name, &DeleteOptions::default()).await {
                        Ok(()) => Ok(Next::Done),
                        Err(error) if error.is_not_found() => Ok(Next::Done),
                        Err(error) => Err(error),
                    }
                }
                _ => Ok(Next::Done),
            };
        };
        if !backend::is_selecting(&service) || service.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        let plan = plan_endpoints(&service, &pods_of(&service, key, &self.pods), old.as_deref());
        let Some(endpoints) = plan else { return Ok(Next::Done) };
        let outcome = if old.is_some() { api.update(&endpoints).await } else { api.create(&endpoints).await };
        match outcome {
            Ok(_) => Ok(Next::Done),
            Err(error) if is_closing(&error) => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Stage;
    use serde_json::{Value, json};

    const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
    const ENDPOINTS: &str = "/api/v1/endpoints";

    fn pod(name: &str, ip: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "x", "labels": {"app": "a"}},
            "spec": {"containers": []},
            "status": {"podIP": ip, "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
    }

    fn addresses(slices: &[Value]) -> Vec<String> {
        let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
        let mut addresses: Vec<String> =
            endpoints.filter_map(|endpoint| endpoint["addresses"][0].as_str().map(str::to_owned)).collect();
        addresses.sort();
        addresses
    }

    #[tokio::test]
    async fn follow_pods_and_heal() {
        let stage = Stage::new();
        stage.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "x"},
            "spec": {"selector": {"app": "a"}, "ports": [{"port": 80}]}}));
        stage.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "manual", "namespace": "x"},
            "spec": {"ports": [{"port": 80}]}}));
        let by_hand = |name: &str, annotations: Value| {
            json!({"apiVersion": "v1", "kind": "Endpoints",
                "metadata": {"name": name, "namespace": "x", "annotations": annotations}, "subsets": []})
        };
        let left = |fake: &skiff_client::fake::FakeTransport| -> Vec<String> {
            let names = fake.objects(ENDPOINTS).into_iter().map(|e| e["metadata"]["name"].as_str().map(str::to_owned));
            names.flatten().collect()
        };
        stage.put(by_hand("leftover", json!({})));
        stage.put(by_hand("lease", json!({"control-plane.alpha.kubernetes.io/leader": "{}"})));
        stage.put(by_hand("manual", json!({})));
        super::start(&stage.context());
        stage.until("what has no service is gone", |fake| !left(fake).contains(&"leftover".to_owned())).await;
        stage.put(by_hand("early", json!({})));
        stage.until("an empty slice", |fake| fake.objects(SLICES).len() == 1).await;
        stage.put(pod("p", "10.0.0.1"));
        stage.put(pod("q", "10.0.0.2"));
        stage.until("both", |fake| addresses(&fake.objects(SLICES)) == ["10.0.0.1", "10.0.0.2"]).await;
        stage
            .until("both in the old form", |fake| {
                fake.objects(ENDPOINTS).iter().any(|e| e["subsets"][0]["addresses"][1]["ip"] == "10.0.0.2")
            })
            .await;
        stage.delete("/api/v1/namespaces/x/pods/p").await;
        stage.until("one", |fake| addresses(&fake.objects(SLICES)) == ["10.0.0.2"]).await;
        let name = stage.fake.objects(SLICES)[0]["metadata"]["name"].as_str().expect("named").to_owned();
        stage.delete(&format!("/apis/discovery.k8s.io/v1/namespaces/x/endpointslices/{name}")).await;
        stage.until("it is back", |fake| addresses(&fake.objects(SLICES)) == ["10.0.0.2"]).await;
        stage.delete("/api/v1/namespaces/x/services/s").await;
        stage.until("the old form is gone", |fake| left(fake) == ["early", "lease", "manual"]).await;
        stage.delete("/api/v1/namespaces/x/services/manual").await;
        stage.until("those made by hand, too", |fake| left(fake) == ["early", "lease"]).await;
        stage.end().await;
    }
}
