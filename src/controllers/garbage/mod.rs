//! Deletes what nobody wants any more: objects whose owners are gone, in the background or before their
//! owners; or lets dependents go.
//!
//! `graph` knows who owns whom, from observations of every resource that can be deleted; `collect`
//! decides and acts on one object, always by what the API server says at that moment.

mod collect;
mod graph;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use futures::StreamExt as _;
use skiff_base::{Backoff, CancellationToken, Scope, chain};
use skiff_client::{Client, Queue, Reconciler, Selector, Update};
use tokio::sync::{Notify, watch};

use self::collect::Absent;
use self::graph::{Graph, ResourceId, Work};
use crate::Context;
use crate::discovery::{Served, discover};

const WORKERS: usize = 10;
/// After a change of the custom resources this long for more of them, before the server is asked again.
const SETTLE: Duration = Duration::from_millis(500);

pub fn start(context: &Context) {
    let collector = Arc::new(Collector {
        client: context.client("generic-garbage-collector"),
        graph: Mutex::default(),
        resources: RwLock::default(),
        queue: Queue::new(Collector::NAME),
        absent: Absent::default(),
        changed: Notify::new(),
    });
    let (token, scope) = (context.scope.token().clone(), context.scope.clone());
    context.scope.spawn(async move {
        tokio::select! {
            () = token.cancelled() => {}
            () = observe_all(collector, &scope) => {}
        }
    });
}

/// The garbage collector.
struct Collector {
    client: Client,
    graph: Mutex<Graph>,
    /// Those that are observed, or were; an id is never given twice.
    resources: RwLock<Vec<Arc<Served>>>,
    queue: Queue<Work>,
    absent: Absent,
    /// The set of resources may have changed.
    changed: Notify,
}

impl Collector {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().expect("nothing panics while it holds the graph")
    }

    fn resource(&self, id: ResourceId) -> Option<Arc<Served>> {
        self.resources.read().expect("nothing panics while it holds the resources").get(id).cloned()
    }

    /// The resource of a kind, in its version or in that which the server prefers.
    fn resource_of(&self, api_version: &str, kind: &str) -> Option<Arc<Served>> {
        let (group, _) = api_version.split_once('/').unwrap_or(("", api_version));
        let resources = self.resources.read().expect("nothing panics while it holds the resources");
        resources.iter().rfind(|served| &*served.gvk.kind == kind && &*served.gvk.group == group).cloned()
    }

    fn add_resource(&self, served: Served) -> ResourceId {
        let mut resources = self.resources.write().expect("nothing panics while it holds the resources");
        resources.push(Arc::new(served));
        resources.len() - 1
    }

    fn take(&self, resource: ResourceId, update: &Update) {
        let mut work = Vec::new();
        {
            let mut graph = self.graph();
            match update {
                Update::Replace(all) => graph.replace(resource, all.iter().map(|object| &object.meta), &mut work),
                Update::Put(object) => graph.put(resource, &object.meta, &mut work),
                Update::Delete(object) => graph.remove(&object.meta.uid, &mut work),
            }
        }
        work.into_iter().for_each(|work| self.queue.add(work));
    }
}

/// Events come and go by themselves, and there are very many of them.
fn is_watched(served: &Served) -> bool {
    served.can(&["delete", "list", "watch"]) && &*served.gvr.resource != "events"
}

/// Observes every resource there is, and those that come; for ever.
async fn observe_all(collector: Arc<Collector>, scope: &Scope) {
    let mut observed: HashMap<skiff_api::Gvr, CancellationToken> = HashMap::new();
    let mut running = false;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        let discovered = match discover(&collector.client).await {
            Ok(discovered) => discovered,
            Err(error) => {
                let wait = backoff.next_wait();
                tracing::debug!(error = %chain(&error), ?wait, "resources not discovered yet");
                tokio::time::sleep(wait).await;
                continue;
            }
        };
        let mut filled = Vec::new();
        for served in discovered.resources.iter().filter(|served| is_watched(served)) {
            if observed.contains_key(&served.gvr) {
                continue;
            }
            let stop = scope.token().child_token();
            observed.insert(served.gvr.clone(), stop.clone());
            let (tell, told) = watch::channel(false);
            filled.push(told);
            let id = collector.add_resource(served.clone());
            scope.spawn(observe(collector.clone(), id, served.clone(), stop, tell));
        }
        if discovered.failed.is_empty() {
            observed.retain(|gvr, stop| {
                let there = discovered.resources.iter().any(|served| served.gvr == *gvr);
                if !there {
                    stop.cancel();
                }
                there
            });
        }
        if !running {
            // Who judges before everything is known would take dependents for orphans.
            for mut told in filled {
                drop(told.wait_for(|filled| *filled).await);
            }
            running = true;
            skiff_client::run(scope, collector.clone(), collector.queue.clone(), WORKERS);
        }
        if discovered.failed.is_empty() {
            backoff.reset();
            collector.changed.notified().await;
            tokio::time::sleep(SETTLE).await;
        } else {
            tokio::select! {
                () = collector.changed.notified() => {}
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }
        }
    }
}

async fn observe(
    collector: Arc<Collector>,
    id: ResourceId,
    served: Served,
    stop: CancellationToken,
    tell: watch::Sender<bool>,
) {
    let defines_kinds = matches!(&*served.gvr.resource, "customresourcedefinitions" | "apiservices");
    let mut feed = collector.client.transport().observe(&served.gvr, &Selector::default());
    loop {
        let update = tokio::select! {
            () = stop.cancelled() => return,
            update = feed.next() => update,
        };
        let Some(update) = update else { return };
        collector.take(id, &update);
        tell.send_if_modified(|filled| !std::mem::replace(filled, true));
        if defines_kinds && !matches!(update, Update::Replace(_)) {
            collector.changed.notify_one();
        }
    }
}
