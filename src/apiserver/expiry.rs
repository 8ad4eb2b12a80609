//! Events live for an hour. One timer for the oldest; nothing runs while there are none.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use skiff_api::Object;
use skiff_base::chain;
use tracing::warn;

use crate::cache::Filter;
use crate::server::Server;
use crate::storage;

const LIFETIME_S: i64 = 3600;
/// Expired events are removed together, this often at most.
const GATHER: Duration = Duration::from_secs(60);

/// When the event was last written, as far as its fields tell.
fn written(event: &Object) -> i64 {
    let value = event.value();
    let last = ["lastTimestamp", "eventTime", "deprecatedLastTimestamp"]
        .iter()
        .filter_map(|field| value[*field].as_str())
        .chain(value["series"]["lastObservedTime"].as_str())
        .chain(value["metadata"]["creationTimestamp"].as_str())
        .filter_map(|text| text.parse::<Timestamp>().ok())
        .map(Timestamp::as_second);
    last.max().unwrap_or(0)
}

pub(crate) async fn expire_events(server: Arc<Server>) {
    let stop = server.scope.token().clone();
    let Some(row) = server.registry.load().find("", "v1", "events").cloned() else { return };
    let Ok(filter) = Filter::new("", None, "", "", &row.descriptor.strategy) else { return };
    let filter = Arc::new(filter);
    loop {
        let (found, mut subscription) = row.cache.subscribe_all(&filter);
        let now = skiff_base::time::now().as_second();
        let mut next = None::<i64>;
        for entry in &found.entries {
            let age = now - written(&entry.object);
            if age < LIFETIME_S {
                next = Some(next.map_or(LIFETIME_S - age, |n| n.min(LIFETIME_S - age)));
                continue;
            }
            let key = storage::key(&row.descriptor.storage, &entry.object.key());
            if let Err(error) = storage::remove(&server.store, key, entry.object.revision).await {
                warn!(event = %entry.object.key(), error = %chain(&error), "remove an expired event");
            }
        }
        drop(found);
        match next {
            Some(seconds) => {
                let wait = Duration::from_secs(seconds.unsigned_abs()).max(GATHER);
                // The queue is not needed while the clock decides.
                drop(subscription);
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = stop.cancelled() => return,
                }
            }
            None => {
                tokio::select! {
                    told = subscription.next() => drop(told),
                    () = stop.cancelled() => return,
                }
                drop(subscription);
                tokio::select! {
                    () = tokio::time::sleep(GATHER) => {}
                    () = stop.cancelled() => return,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_newest_time_counts() {
        let at = |value: serde_json::Value| written(&Object::from_wire(value).expect("an object"));
        let meta = json!({"name": "e", "creationTimestamp": "1970-01-01T00:00:10Z"});
        assert_eq!(at(json!({"metadata": meta})), 10);
        assert_eq!(at(json!({"metadata": meta, "lastTimestamp": "1970-01-01T00:00:20Z", "eventTime": null})), 20);
        assert_eq!(at(json!({"metadata": meta, "eventTime": "1970-01-01T00:00:30.5Z"})), 30);
    }
}
