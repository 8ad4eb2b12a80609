use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use k8s_openapi::api::core::v1::{Node, Pod};
use skiff_base::{Scope, chain};
use skiff_client::{Change, Client, EventKind, EventRecorder};
use tokio::sync::{Notify, Semaphore};

use crate::bind::{bind, report};
use crate::cache::Cache;
use crate::cycle::{choose, happenings};
use crate::framework::{Happening, NoFit};
use crate::queue::Queue;
use crate::snapshot::PodInfo;

/// Pods that name no other scheduler are ours.
const NAME: &str = "default-scheduler";
/// Requests to the API server that may be under way at once.
const REQUESTS: usize = 64;

/// One decision at a time; what it does to the API goes on beside the next one.
pub struct Scheduler {
    client: Client,
    events: EventRecorder,
    scope: Scope,
    state: Mutex<State>,
    changed: Notify,
    requests: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    cache: Cache,
    queue: Queue,
    /// Where the look at the nodes starts.
    start: usize,
}

impl Scheduler {
    pub fn new(client: Client, scope: &Scope) -> Self {
        Self {
            events: EventRecorder::new(client.clone(), scope, NAME, ""),
            client,
            scope: scope.clone(),
            state: Mutex::default(),
            changed: Notify::new(),
            requests: Arc::new(Semaphore::new(REQUESTS)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the scheduler's state")
    }

    pub fn see_node(&self, change: &Change<Node>) {
        let mut state = self.lock();
        let happened = match change {
            Change::Added(node) => {
                state.cache.put_node(node.clone());
                Happening::NODE_ADDED
            }
            Change::Modified { old, new } => {
                state.cache.put_node(new.clone());
                happenings(old, new)
            }
            Change::Deleted(node) => {
                state.cache.remove_node(node.metadata.name.as_deref().unwrap_or_default());
                Happening::NONE
            }
        };
        self.wake(&mut state, happened);
    }

    pub fn see_pod(&self, change: &Change<Pod>) {
        let pod = change.object();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut state = self.lock();
        if matches!(change, Change::Deleted(_)) || is_over(pod) {
            state.queue.remove(uid);
            if state.cache.remove_pod(uid) {
                self.wake(&mut state, Happening::POD_GONE);
            }
            return;
        }
        if let Some(node) = node_of(pod) {
            state.queue.remove(uid);
            // Most changes of a running pod change nothing here.
            let same =
                matches!(change, Change::Modified { old, .. } if old.spec == pod.spec && node_of(old) == Some(node));
            if !same {
                state.cache.put_pod(node, Arc::new(PodInfo::new(pod.clone())));
                if matches!(change, Change::Modified { old, .. } if node_of(old) == Some(node)) {
                    // It may ask for less than before.
                    self.wake(&mut state, Happening::POD_GONE);
                }
            }
            return;
        }
        if pod.metadata.deletion_timestamp.is_some() {
            state.queue.remove(uid);
        } else if is_ours(pod) && !state.cache.is_placed(uid) {
            state.queue.put(Arc::new(PodInfo::new(pod.clone())), Instant::now());
            drop(state);
            self.changed.notify_one();
        }
    }

    fn wake(&self, state: &mut State, happened: Happening) {
        if happened != Happening::NONE && state.queue.happened(happened, Instant::now()) {
            self.changed.notify_one();
        }
    }

    /// Schedules until the scope is stopped.
    pub async fn run(self: Arc<Self>) {
        let token = self.scope.token().clone();
        loop {
            let pod = tokio::select! {
                biased;
                () = token.cancelled() => return,
                pod = self.next() => pod,
            };
            let permit = tokio::select! {
                () = token.cancelled() => return,
                permit = self.requests.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
            };
            let decision = self.decide(&pod);
            let this = self.clone();
            self.scope.spawn(async move {
                match decision {
                    Decision::Bind(node) => this.bind(&pod, &node).await,
                    Decision::Refuse(none) => this.refuse(&pod, &none).await,
                    Decision::Drop => {}
                }
                drop(permit);
            });
        }
    }

    async fn next(&self) -> Arc<PodInfo> {
        loop {
            let timer = {
                let mut state = self.lock();
                if let Some(pod) = state.queue.pop(Instant::now()) {
                    return pod;
                }
                state.queue.next_timer()
            };
            match timer {
                Some(at) => {
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(at.into()) => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// Decides on an unchanging view, and takes the room on the node at once, so that the next decision sees it.
    fn decide(&self, pod: &Arc<PodInfo>) -> Decision {
        let (snapshot, mut start) = {
            let state = self.lock();
            (state.cache.snapshot(), state.start)
        };
        let choice = choose(pod, &snapshot, &mut start, |equals| rand::random_range(0..equals));
        // Else the node's facts would have to be copied to be changed.
        drop(snapshot);
        let mut state = self.lock();
        state.start = start;
        if !state.queue.is_in_flight(&pod.uid) {
            return Decision::Drop;
        }
        match choice {
            Ok(node) => {
                state.cache.assume(&node, pod.clone());
                Decision::Bind(node)
            }
            Err(none) => {
                state.queue.refused(&pod.uid, none.wakes, Instant::now());
                Decision::Refuse(none)
            }
        }
    }

    async fn bind(&self, pod: &PodInfo, node: &str) {
        let reference = EventRecorder::reference(&*pod.pod);
        match bind(&self.client, pod, node).await {
            Ok(()) => {
                self.lock().queue.remove(&pod.uid);
                tracing::debug!(pod = %pod.key, node, "scheduled");
                let message = format!("Successfully assigned {} to {node}", pod.key);
                self.events.record(reference, EventKind::Normal, "Scheduled", message);
            }
            Err(error) => {
                let gone = error.is_not_found();
                {
                    let mut state = self.lock();
                    if !state.cache.forget(&pod.uid) || gone {
                        // It is on a node already, or there is no such pod any more.
                        state.queue.remove(&pod.uid);
                    } else {
                        state.queue.failed(&pod.uid, Instant::now());
                    }
                    self.wake(&mut state, Happening::POD_GONE);
                }
                self.changed.notify_one();
                if gone || self.scope.token().is_cancelled() {
                    return;
                }
                tracing::warn!(pod = %pod.key, node, error = %chain(&error), "binding failed");
                let message = format!("binding rejected: {}", chain(&error));
                self.events.record(reference, EventKind::Warning, "FailedScheduling", message.clone());
                report(&self.client, pod, "SchedulerError", &message).await;
            }
        }
    }

    async fn refuse(&self, pod: &PodInfo, none: &NoFit) {
        let message = none.message(pod.spec().preemption_policy.as_deref() != Some("Never"));
        tracing::debug!(pod = %pod.key, message, "no node will do");
        // The timer of its next try is new to the one who waits.
        self.changed.notify_one();
        let reference = EventRecorder::reference(&*pod.pod);
        self.events.record(reference, EventKind::Warning, "FailedScheduling", message.clone());
        report(&self.client, pod, "Unschedulable", &message).await;
    }
}

enum Decision {
    Bind(String),
    Refuse(NoFit),
    /// The pod went away, or onto a node, while it was looked at.
    Drop,
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn is_ours(pod: &Pod) -> bool {
    let name = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or_default();
    name.is_empty() || name == NAME
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use skiff_api::ApiError;
    use skiff_client::Informers;
    use skiff_client::fake::FakeTransport;

    fn node(name: &str, cpu: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}}})
    }

    fn pod(name: &str, cpu: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    /// Runs the scheduler on what `prepare` puts there, until `done` says so.
    async fn play(prepare: impl FnOnce(&FakeTransport), mut done: impl FnMut(&FakeTransport) -> bool) {
        let fake = Arc::new(FakeTransport::new());
        prepare(&fake);
        let scope = Scope::new();
        let informers = Informers::new(Client::new(fake.clone()), scope.clone());
        crate::start(&informers, &scope);
        let limit = Instant::now() + std::time::Duration::from_secs(20);
        while !done(&fake) {
            assert!(Instant::now() < limit, "{:#?}", fake.requests());
            tokio::task::yield_now().await;
        }
        scope.stop().await;
    }

    fn pods(fake: &FakeTransport) -> Vec<Value> {
        fake.objects("/api/v1/pods")
    }

    fn event(fake: &FakeTransport, message: &str) -> bool {
        fake.objects("/api/v1/events").iter().any(|event| event["message"] == message)
    }

    #[tokio::test]
    async fn binds_and_tells() {
        let prepare = |fake: &FakeTransport| {
            fake.put(node("n", "4"));
            fake.put(pod("a", "1"));
        };
        play(prepare, |fake| {
            pods(fake)[0]["spec"]["nodeName"] == "n" && event(fake, "Successfully assigned default/a to n")
        })
        .await;
    }

    #[tokio::test]
    async fn says_why_not_and_tries_again_when_a_node_comes() {
        let prepare = |fake: &FakeTransport| {
            fake.put(node("small", "1"));
            fake.put(pod("a", "2"));
        };
        let mut told = false;
        play(prepare, |fake| {
            let condition = &pods(fake)[0]["status"]["conditions"][0];
            let message = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 \
                           Preemption is not helpful for scheduling.";
            if !told && condition["message"] == message && event(fake, message) {
                assert_eq!((&condition["reason"], &condition["status"]), (&json!("Unschedulable"), &json!("False")));
                told = true;
                fake.put(node("big", "4"));
            }
            told && pods(fake)[0]["spec"]["nodeName"] == "big"
        })
        .await;
    }

    #[tokio::test]
    async fn room_is_taken_at_once_and_given_back_when_a_binding_fails() {
        let prepare = |fake: &FakeTransport| {
            fake.put(node("n", "1"));
            fake.put(pod("a", "1"));
            fake.put(pod("b", "1"));
            fake.fail_next("POST /api/v1/namespaces/default/pods/a/binding", ApiError::internal("no"));
        };
        let mut seen = 0;
        play(prepare, |fake| {
            let bound = pods(fake).iter().filter(|pod| pod["spec"]["nodeName"] == "n").count();
            seen = seen.max(bound);
            assert!(bound <= 1, "they don't fit together");
            bound == 1 && event(fake, "binding rejected: Internal error occurred: no")
        })
        .await;
        assert_eq!(seen, 1);
    }

    #[tokio::test]
    async fn leaves_the_pods_of_others_alone() {
        let prepare = |fake: &FakeTransport| {
            fake.put(node("n", "4"));
            let mut other = pod("other", "1");
            other["spec"]["schedulerName"] = json!("mine");
            fake.put(other);
            let mut over = pod("over", "1");
            over["status"]["phase"] = json!("Failed");
            fake.put(over);
            fake.put(pod("z", "1"));
        };
        play(prepare, |fake| pods(fake).iter().any(|pod| pod["spec"]["nodeName"] == "n")).await;
    }

    /// 1,000 pods onto 100 nodes; the promise of under a second is measured by the benchmarks.
    #[tokio::test]
    async fn places_many_pods_evenly() {
        let prepare = |fake: &FakeTransport| {
            (0..100).for_each(|n| fake.put(node(&format!("n{n}"), "4")));
            (0..1000).for_each(|n| fake.put(pod(&format!("p{n}"), "100m")));
        };
        play(prepare, |fake| {
            let bindings = fake.requests().iter().filter(|request| request.ends_with("/binding")).count();
            if bindings < 1000 {
                return false;
            }
            let mut count = std::collections::HashMap::new();
            for pod in pods(fake) {
                *count.entry(pod["spec"]["nodeName"].to_string()).or_insert(0) += 1;
            }
            assert_eq!(count.len(), 100);
            assert!(count.values().all(|count| (8..=12).contains(count)), "{count:?}");
            true
        })
        .await;
    }
}
