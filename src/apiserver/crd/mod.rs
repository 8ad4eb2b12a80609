//! Custom resources: what CustomResourceDefinitions add to the registry, and the life of definitions.
//!
//! [`follow`] looks at all definitions whenever one changes: it gives them their names and conditions, and swaps the
//! registry. What is served follows from the definitions alone, so a restart serves the same. [`served`] brings stored
//! objects into the version and shape that a row has now; [`webhook`] asks others to convert. [`finalize`] removes the
//! objects of a definition that ends.
//!
//! ```text
//! definition --> names accepted? --> rows in the registry --> Established --> deleted: objects go --> rows go
//! ```
//!
//! Invariants: a definition is served before it is told to be established, and no longer when it is gone; watches of
//! objects that are defined anew end, since they would show the old shape; built-in kinds are never replaced.

pub(crate) mod finalize;
mod served;
mod settle;
mod webhook;

use std::sync::Arc;

use skiff_api::custom::definition::Definition;

use crate::cache::{Cache, Filter, Told};
use crate::registry::{Custom, Defined, Registry, Row};
use crate::server::Server;

/// Where definitions are stored.
pub(crate) const STORAGE: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// The registry with what the definitions in the cache add.
pub(crate) fn registry(builtin: &Registry, cache: &Cache) -> Registry {
    let plan = settle::Plan::of(cache.resource(STORAGE).all(), &mut settle::Seen::default());
    let made = plan.established().filter_map(|planned| planned.make(cache, planned.object.revision));
    builtin.with_definitions(made.collect())
}

/// Keeps registry and definitions together, until the server stops.
pub(crate) async fn follow(server: Arc<Server>) {
    let stop = server.scope.token().clone();
    let cache = server.resource(STORAGE);
    let Some(row) = server.registry.load().find("apiextensions.k8s.io", "v1", "customresourcedefinitions").cloned()
    else {
        return;
    };
    let Ok(filter) = Filter::new("", "", "", &row.descriptor.strategy) else { return };
    let filter = Arc::new(filter);
    let mut seen = settle::Seen::default();
    let mut backoff = skiff_base::Backoff::new(settle::RETRY_MIN, settle::RETRY_MAX);
    loop {
        let (_, mut subscription) = cache.subscribe_all(&filter);
        loop {
            let settled = server.settle_definitions(&row, &mut seen).await;
            if settled {
                backoff.reset();
            }
            let mut told = tokio::select! {
                told = subscription.next() => Some(told),
                () = tokio::time::sleep(backoff.next_wait()), if !settled => continue,
                () = stop.cancelled() => return,
            };
            while let Some(Told::Changes(_)) = told {
                told = subscription.ready();
            }
            if told.is_some() {
                break;
            }
        }
    }
}

/// The rows of a definition, all with the same cache.
fn make(definition: Definition, made_from: String, since: u64, cache: &Cache) -> Option<Arc<Defined>> {
    let custom = Arc::new(Custom { definition, since });
    let definition = &custom.definition;
    let objects = cache.resource(&definition.storage);
    let row = |descriptor: &Arc<skiff_api::strategy::Descriptor>, home: Option<Arc<Row>>| {
        Arc::new(Row {
            schema: descriptor.strategy.body_type(),
            descriptor: descriptor.clone(),
            cache: objects.clone(),
            home,
            custom: Some(custom.clone()),
        })
    };
    let stored = definition.versions.iter().find(|version| version.stored)?;
    let home = row(&stored.descriptor, None);
    let served = definition.versions.iter().filter(|version| version.served);
    let served = served.map(|v| if v.stored { home.clone() } else { row(&v.descriptor, Some(home.clone())) }).collect();
    Some(Arc::new(Defined { home, served, made_from }))
}
