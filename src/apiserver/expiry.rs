//! Events live for an hour. One timer for the oldest; nothing runs while there are none.

use std::collections::HashMap;
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

/// Clocks of clients may be ahead of ours by so much.
const AHEAD_S: i64 = 60;

/// When the event was last written, as far as its fields tell. Who writes it says most of them, and may not say that it
/// lives for ever: what is yet to come counts for nothing.
fn written(event: &Object, now: i64) -> i64 {
    let value = event.value();
    let last = ["lastTimestamp", "eventTime", "deprecatedLastTimestamp"]
        .iter()
        .filter_map(|field| value[*field].as_str())
        .chain(value["series"]["lastObservedTime"].as_str())
        .chain(value["metadata"]["creationTimestamp"].as_str())
        .filter_map(|text| text.parse::<Timestamp>().ok())
        .map(Timestamp::as_second)
        .filter(|at| *at <= now + AHEAD_S);
    last.max().unwrap_or(0)
}

pub(crate) async fn expire_events(server: Arc<Server>) {
    let stop = server.scope.token().clone();
    let Some(row) = server.registry.load().find("", "v1", "events").cloned() else { return };
    let Ok(filter) = Filter::new("", "", "", &row.descriptor.strategy) else { return };
    let filter = Arc::new(filter);
    // When each was written, by its uid and revision: decided once, so that no time comes to count by waiting for it.
    let mut known: HashMap<Arc<str>, (u64, i64)> = HashMap::new();
    loop {
        let (found, mut subscription) = row.cache.subscribe_all(&filter);
        let now = skiff_base::time::now().as_second();
        let mut next = None::<i64>;
        let mut before = std::mem::take(&mut known);
        for entry in &found.entries {
            let object = &entry.object;
            let seen = before.remove(&object.meta.uid).filter(|(revision, _)| *revision == object.revision);
            let seen = seen.unwrap_or_else(|| (object.revision, written(object, now)));
            known.insert(object.meta.uid.clone(), seen);
            let age = now - seen.1;
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
        let at = |value: serde_json::Value| written(&Object::from_wire(value).expect("an object"), 100);
        let meta = json!({"name": "e", "creationTimestamp": "1970-01-01T00:00:10Z"});
        assert_eq!(at(json!({"metadata": meta})), 10);
        assert_eq!(at(json!({"metadata": meta, "lastTimestamp": "1970-01-01T00:00:20Z", "eventTime": null})), 20);
        assert_eq!(at(json!({"metadata": meta, "eventTime": "1970-01-01T00:00:30.5Z"})), 30);
        assert_eq!(at(json!({"metadata": meta, "eventTime": "1970-01-01T00:02:40Z"})), 160);
        // Nobody's event lives for ever.
        let later = json!({"lastObservedTime": "1970-01-01T00:02:41Z"});
        assert_eq!(at(json!({"metadata": meta, "lastTimestamp": "2999-01-01T00:00:00Z", "series": later})), 10);
    }
}
