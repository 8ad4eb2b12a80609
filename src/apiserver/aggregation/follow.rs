//! Keeps the table, the conditions and what is known of other servers up to date.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use futures::future::join_all;
use http::Method;
use rustls::ClientConfig;
use serde_json::Value;
use skiff_base::{Backoff, chain};
use tokio::time::Instant;

use super::availability::{Verdict, plan_status};
use super::register::SERVICES;
use super::table::{Found, Priority, Reference, Remote, Table, text};
use crate::cache::{Filter, ResourceCache, Subscription, Told};
use crate::hook;
use crate::server::Server;

const STORAGE: &str = "apiregistration.k8s.io/apiservices";
/// How often those are asked that answer: their pods may be cut off without anything changing here.
const RECHECK: Duration = Duration::from_secs(30);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What is known of one APIService of another server.
struct State {
    /// Its specification, its Service and the endpoints of that: when they change, it is asked at once.
    made_from: String,
    tls: Result<Arc<ClientConfig>, String>,
    found: Arc<Found>,
    /// What was last found; before that, its condition counts.
    available: Option<bool>,
    due: Instant,
    retry: Backoff,
}

/// All changes of a resource, as a signal.
struct Signal {
    cache: Arc<ResourceCache>,
    filter: Arc<Filter>,
    subscription: Option<Subscription>,
}

impl Signal {
    fn of(server: &Server, group: &str, version: &str, resource: &str) -> Option<Self> {
        let row = server.registry.load().find(group, version, resource).cloned()?;
        let filter = Arc::new(Filter::new("", "", "", row.selecting()).ok()?);
        Some(Self { cache: row.cache.clone(), filter, subscription: None })
    }

    /// From here on changes are noticed, or (where there is nobody to notice them for) not.
    fn listen(&mut self, on: bool) {
        match (on, &self.subscription) {
            (true, None) => self.subscription = Some(self.cache.subscribe_all(&self.filter).1),
            (true, Some(_)) => {}
            (false, _) => self.subscription = None,
        }
    }

    async fn changed(&mut self) {
        let Some(subscription) = &mut self.subscription else { return std::future::pending().await };
        let mut told = Some(subscription.next().await);
        while let Some(Told::Changes(_)) = told {
            told = subscription.ready();
        }
        if told.is_some() {
            // It was too slow: what it missed counts as one change.
            self.subscription = None;
            self.listen(true);
        }
    }
}

/// Until the server stops.
pub(crate) async fn follow(server: Arc<Server>) {
    let stop = server.scope.token().clone();
    let signal = |group, resource| Signal::of(&server, group, "v1", resource);
    let (Some(mut services), Some(mut backends), Some(mut slices)) = (
        signal("apiregistration.k8s.io", "apiservices"),
        signal("", "services"),
        signal("discovery.k8s.io", "endpointslices"),
    ) else {
        return;
    };
    let mut states = HashMap::new();
    let mut retry = Backoff::new(RETRY_MIN, RETRY_MAX);
    services.listen(true);
    loop {
        let remotes = server.resource(STORAGE).all().iter().any(|service| Reference::of(&service.value()).is_some());
        backends.listen(remotes);
        slices.listen(remotes);
        let settled = server.settle_services(&mut states).await;
        let mut next = states.values().map(|state| state.due).min();
        if settled {
            retry.reset();
        } else {
            let again = Instant::now() + retry.next_wait();
            next = Some(next.map_or(again, |next| next.min(again)));
        }
        let wait = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = services.changed() => {}
            () = backends.changed() => {}
            () = slices.changed() => {}
            () = server.aggregation.served.notified() => {}
            () = wait => {}
            () = stop.cancelled() => return,
        }
    }
}

impl Server {
    /// One look at everything; `false`: something is to be done again.
    async fn settle_services(&self, states: &mut HashMap<String, State>) -> bool {
        let services: Vec<Value> = self.resource(STORAGE).all().iter().map(|service| service.value()).collect();
        let mut settled = self.register(&services).await;
        let remotes: Vec<&Value> = services.iter().filter(|service| Reference::of(service).is_some()).collect();
        states.retain(|name, _| remotes.iter().any(|service| service["metadata"]["name"] == **name));
        for service in &remotes {
            self.look(service, states);
        }
        self.aggregation.table.store(Arc::new(table(&services, states)));
        let local = Verdict::local();
        let locals = services.iter().filter(|service| Reference::of(service).is_none());
        // Together, so that they share the store's syncs.
        let told = join_all(locals.map(|service| self.tell_available(service, &local))).await;
        settled &= told.into_iter().all(|done| done);
        let now = Instant::now();
        let due: Vec<Arc<Remote>> = {
            let table = self.aggregation.table();
            let is_due = |remote: &&Arc<Remote>| states.get(&remote.name).is_some_and(|state| state.due <= now);
            table.remotes.iter().filter(is_due).cloned().collect()
        };
        let checked = join_all(due.iter().map(async |remote| {
            let verdict = self.check_remote(remote).await;
            let found = match verdict.available {
                true => self.find_resources(remote).await,
                false => Found { fresh: false, ..(*remote.found).clone() },
            };
            (verdict, found)
        }));
        let mut verdicts = Vec::new();
        for (remote, (verdict, found)) in due.iter().zip(checked.await) {
            let Some(state) = states.get_mut(&remote.name) else { continue };
            let works = verdict.available && found.fresh;
            if works {
                state.retry.reset();
            }
            state.due = Instant::now() + if works { RECHECK } else { state.retry.next_wait() };
            state.found = Arc::new(found);
            state.available = Some(verdict.available);
            verdicts.push((&remote.name, verdict));
        }
        // Before it is told: who reads that it is available asks at once.
        if !due.is_empty() {
            self.aggregation.table.store(Arc::new(table(&services, states)));
        }
        for (name, verdict) in verdicts {
            if let Some(service) = remotes.iter().find(|service| service["metadata"]["name"] == **name) {
                settled &= self.tell_available(service, &verdict).await;
            }
        }
        settled
    }

    /// Notes what an APIService is made from now.
    fn look(&self, service: &Value, states: &mut HashMap<String, State>) {
        let (Some(at), Some(name)) = (Reference::of(service), service["metadata"]["name"].as_str()) else { return };
        let version = |object: &Value| object["metadata"]["resourceVersion"].to_string();
        let backend = self.resource("services").find(&at.namespace, &at.name).map(|o| o.revision.to_string());
        let slices: Vec<String> = self.slices_of(&at.namespace, &at.name).iter().map(version).collect();
        let made_from = format!("{} {backend:?} {slices:?}", service["spec"]);
        if states.get(name).is_some_and(|state| state.made_from == made_from) {
            return;
        }
        let state = State {
            made_from,
            tls: self.tls_of(service),
            found: states.get(name).map(|state| state.found.clone()).unwrap_or_default(),
            available: states.get(name).and_then(|state| state.available),
            due: Instant::now(),
            retry: Backoff::new(RETRY_MIN, RETRY_MAX),
        };
        states.insert(name.to_owned(), state);
    }

    fn tls_of(&self, service: &Value) -> Result<Arc<ClientConfig>, String> {
        let mut config = if service["spec"]["insecureSkipTLSVerify"] == true {
            skiff_client::unverified_tls()
        } else {
            let bundle = base64::engine::general_purpose::STANDARD
                .decode(text(service, "caBundle"))
                .map_err(|error| format!("the caBundle can't be read: {error}"))?;
            Arc::unwrap_or_clone(hook::client_config(&bundle)?)
        };
        config.client_auth_cert_resolver = self.aggregation.identity.clone();
        Ok(Arc::new(config))
    }

    /// Writes the condition where it is not told yet; `false`: to be tried again.
    async fn tell_available(&self, service: &Value, verdict: &Verdict) -> bool {
        let Some(status) = plan_status(&service["status"], verdict, &skiff_base::time::now_rfc3339()) else {
            return true;
        };
        let name = crate::meta::text(service, "name");
        let mut told = service.clone();
        told["status"] = status;
        let outcome = self.ask_as_itself(Method::PUT, &format!("{SERVICES}/{name}/status"), Some(&told)).await;
        match outcome {
            Ok(()) if service["spec"]["service"].is_null() => {}
            Ok(()) => {
                tracing::info!(service = name, reason = verdict.reason, why = verdict.message, "availability changed");
            }
            // Gone, or changed: the change brings another look.
            Err(error) if error.is_not_found() || error.is_conflict() => return error.is_not_found(),
            Err(error) => {
                tracing::warn!(service = name, error = %chain(&error), "write the status of an APIService");
                return false;
            }
        }
        true
    }
}

fn table(services: &[Value], states: &HashMap<String, State>) -> Table {
    let name_of = |service: &Value| service["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let available = |service: &Value| {
        let mut conditions = service["status"]["conditions"].as_array().into_iter().flatten();
        conditions.any(|condition| condition["type"] == "Available" && condition["status"] == "True")
    };
    let remote = |service: &Value| {
        let name = name_of(service);
        let state = states.get(&name)?;
        Some(Arc::new(Remote {
            group: text(service, "group").to_owned(),
            version: text(service, "version").to_owned(),
            service: Reference::of(service)?,
            tls: state.tls.clone(),
            available: state.available.unwrap_or_else(|| available(service)),
            found: state.found.clone(),
            name,
        }))
    };
    Table {
        remotes: services.iter().filter_map(remote).collect(),
        priorities: services.iter().map(|service| (name_of(service), Priority::of(service))).collect(),
    }
}
