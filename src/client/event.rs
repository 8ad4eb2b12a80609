use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::Resource;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use skiff_base::{Backoff, chain};
use tokio::sync::mpsc;

use crate::queue::Bucket;
use crate::{Client, Error, PatchKind};

/// Events that wait to be written; more are dropped, since telling must never slow the work down.
const WAITING: usize = 1000;
/// How often a write is tried while the server can't be reached.
const TRIES: u32 = 12;
/// What is remembered of sources and messages; more is forgotten, oldest first.
const REMEMBERED: usize = 4096;
/// From this many messages of one reason about one object within [`SIMILAR_WITHIN`], they become one event.
const SIMILAR: usize = 10;
const SIMILAR_WITHIN: Duration = Duration::from_secs(600);
/// Events about one object from one source: this many at once, then one in five minutes.
const SPAM_BURST: f64 = 25.0;
const SPAM_PER_S: f64 = 1.0 / 300.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Normal,
    Warning,
}

impl EventKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Writes core/v1 Events as client-go's recorder does: in the background, equal ones counted up on one
/// object, spam limited per source and object. Losing one is logged, and fails nothing.
#[derive(Clone)]
pub struct EventRecorder {
    waiting: mpsc::Sender<Told>,
}

/// One call of [`EventRecorder::record`].
#[derive(Debug, Clone)]
struct Told {
    about: ObjectReference,
    kind: EventKind,
    reason: String,
    message: String,
    at: Timestamp,
}

impl EventRecorder {
    /// `component` and `host` are the event's source, e.g. `kubelet` and the node's name.
    pub fn new(client: Client, scope: &skiff_base::Scope, component: &'static str, host: &str) -> Self {
        let (waiting, mut told) = mpsc::channel::<Told>(WAITING);
        let source = Source { component, host: host.into() };
        let token = scope.token().clone();
        scope.spawn(async move {
            let mut correlator = Correlator::default();
            loop {
                let told = tokio::select! {
                    () = token.cancelled() => return,
                    told = told.recv() => match told {
                        Some(told) => told,
                        None => return,
                    },
                };
                if let Some(write) = correlator.plan(told, Instant::now()) {
                    tokio::select! {
                        () = token.cancelled() => return,
                        () = apply(&client, &source, &mut correlator, write) => {}
                    }
                }
            }
        });
        Self { waiting }
    }

    /// About any object.
    pub fn record(&self, about: ObjectReference, kind: EventKind, reason: &str, message: impl Into<String>) {
        let told =
            Told { about, kind, reason: reason.to_owned(), message: message.into(), at: skiff_base::time::now() };
        if let Err(error) = self.waiting.try_send(told) {
            tracing::warn!(reason, %error, "event dropped");
        }
    }

    /// The reference to an object, for `record`.
    pub fn reference<K>(object: &K) -> ObjectReference
    where
        K: Resource + k8s_openapi::Metadata<Ty = ObjectMeta>,
    {
        let meta = object.metadata();
        ObjectReference {
            api_version: Some(K::API_VERSION.to_owned()),
            kind: Some(K::KIND.to_owned()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            ..ObjectReference::default()
        }
    }
}

struct Source {
    component: &'static str,
    host: Arc<str>,
}

/// What is written: a new event, or a higher count on one that was written before.
#[derive(Debug, Clone)]
struct Write {
    key: MessageKey,
    told: Told,
    /// The event's name, if it was written before.
    name: Option<String>,
    count: i32,
    first: Timestamp,
}

/// The object that an event is about, in parts that tell objects apart.
type About = (String, String, String, String, String, String);
type ReasonKey = (About, &'static str, String);
type MessageKey = (ReasonKey, String);

/// Decides what becomes of an event, as client-go's correlator: drop it as spam, fold it into
/// similar ones, count up an equal one, or write it.
#[derive(Default)]
struct Correlator {
    buckets: HashMap<About, (Bucket, Instant)>,
    similar: HashMap<ReasonKey, (BTreeSet<String>, Instant)>,
    written: HashMap<MessageKey, Written>,
}

struct Written {
    name: String,
    count: i32,
    first: Timestamp,
    at: Instant,
}

impl Correlator {
    fn plan(&mut self, mut told: Told, now: Instant) -> Option<Write> {
        let about = about(&told.about);
        let (bucket, used) =
            self.buckets.entry(about.clone()).or_insert_with(|| (Bucket::new(SPAM_PER_S, SPAM_BURST, now), now));
        *used = now;
        if !bucket.try_take(now) {
            tracing::debug!(about = ?told.about.name, reason = told.reason, "event dropped as spam");
            return None;
        }
        let reason: ReasonKey = (about, told.kind.as_str(), told.reason.clone());
        let (messages, last) = self.similar.entry(reason.clone()).or_insert_with(|| (BTreeSet::new(), now));
        if now.saturating_duration_since(*last) > SIMILAR_WITHIN {
            messages.clear();
        }
        *last = now;
        messages.insert(told.message.clone());
        let key = if messages.len() < SIMILAR {
            (reason, told.message.clone())
        } else {
            // All of them are counted on one event, which shows the latest text; the set stays small.
            messages.remove(&told.message);
            told.message = format!("(combined from similar events): {}", told.message);
            (reason, String::new())
        };
        self.forget();
        let written = self.written.get(&key);
        let (name, count, first) = match written {
            Some(written) => (Some(written.name.clone()), written.count + 1, written.first),
            None => (None, 1, told.at),
        };
        Some(Write { key, told, name, count, first })
    }

    fn wrote(&mut self, write: &Write, name: String, now: Instant) {
        let written = Written { name, count: write.count, first: write.first, at: now };
        self.written.insert(write.key.clone(), written);
    }

    fn forget(&mut self) {
        forget_oldest(&mut self.buckets, |(_, at)| *at);
        forget_oldest(&mut self.similar, |(_, at)| *at);
        forget_oldest(&mut self.written, |written| written.at);
    }
}

/// Halves a map that has grown over [`REMEMBERED`].
fn forget_oldest<K: Clone + Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, at: impl Fn(&V) -> Instant) {
    if map.len() > REMEMBERED {
        let mut times: Vec<Instant> = map.values().map(&at).collect();
        let half = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(half);
        let median = *median;
        map.retain(|_, value| at(value) > median);
    }
}

fn about(reference: &ObjectReference) -> About {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    (
        text(&reference.kind),
        text(&reference.namespace),
        text(&reference.name),
        text(&reference.uid),
        text(&reference.api_version),
        text(&reference.field_path),
    )
}

async fn apply(client: &Client, source: &Source, correlator: &mut Correlator, mut write: Write) {
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
    for _ in 0..TRIES {
        match write_once(client, source, &write).await {
            Ok(name) => return correlator.wrote(&write, name, Instant::now()),
            // It expired meanwhile.
            Err(error) if error.is_not_found() && write.name.is_some() => write.name = None,
            Err(error @ Error::Transport(_)) => {
                tracing::debug!(error = %chain(&error), "event not written yet");
                tokio::time::sleep(backoff.next_wait()).await;
            }
            Err(error) => {
                let (about, reason) = (&write.told.about.name, &write.told.reason);
                tracing::warn!(?about, reason, error = %chain(&error), "event refused");
                return;
            }
        }
    }
    tracing::warn!(about = ?write.told.about.name, reason = write.told.reason, "event dropped: the server can't be reached");
}

/// Gives the name under which the event is written.
async fn write_once(client: &Client, source: &Source, write: &Write) -> crate::Result<String> {
    let told = &write.told;
    // Events about cluster-scoped objects live in `default`.
    let namespace = told.about.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
    let events = client.namespaced::<Event>(namespace);
    if let Some(name) = &write.name {
        let patch = json!({"count": write.count, "message": told.message, "lastTimestamp": Time(told.at)});
        events.patch(name, PatchKind::Strategic, &patch).await?;
        return Ok(name.clone());
    }
    let about = told.about.name.as_deref().unwrap_or_default();
    let name = format!("{about}.{:x}", told.at.as_nanosecond());
    let event = Event {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: told.about.clone(),
        reason: Some(told.reason.clone()),
        message: Some(told.message.clone()),
        type_: Some(told.kind.as_str().to_owned()),
        source: Some(EventSource {
            component: Some(source.component.to_owned()),
            host: Some(source.host.to_string()).filter(|host| !host.is_empty()),
        }),
        reporting_component: Some(source.component.to_owned()),
        reporting_instance: Some(source.host.to_string()),
        first_timestamp: Some(Time(write.first)),
        last_timestamp: Some(Time(told.at)),
        count: Some(write.count),
        ..Event::default()
    };
    events.create(&event).await?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeTransport;
    use skiff_base::Scope;

    fn told(name: &str, reason: &str, message: &str) -> Told {
        Told {
            about: ObjectReference { name: Some(name.into()), kind: Some("Pod".into()), ..ObjectReference::default() },
            kind: EventKind::Normal,
            reason: reason.into(),
            message: message.into(),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    /// Plans and pretends to have written.
    fn play(correlator: &mut Correlator, told: Told, now: Instant) -> Option<Write> {
        let write = correlator.plan(told, now)?;
        let name = write.name.clone().unwrap_or_else(|| "new".into());
        correlator.wrote(&write, name, now);
        Some(write)
    }

    #[test]
    fn equal_events_are_counted_up() {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        for expect in 1..=3 {
            let write = play(&mut correlator, told("a", "Pulled", "x"), now).expect("no spam");
            assert_eq!((write.count, write.name.is_some()), (expect, expect > 1));
        }
        assert_eq!(play(&mut correlator, told("b", "Pulled", "x"), now).expect("no spam").count, 1);
        assert_eq!(play(&mut correlator, told("a", "Pulled", "y"), now).expect("no spam").count, 1);
    }

    #[test]
    fn many_similar_events_become_one() {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        let writes: Vec<Write> = (0..12)
            .map(|n| play(&mut correlator, told("a", "Failed", &n.to_string()), now).expect("no spam"))
            .collect();
        assert!(writes[..9].iter().all(|w| w.count == 1 && !w.told.message.contains("combined")));
        assert_eq!(writes[9].told.message, "(combined from similar events): 9");
        assert_eq!(writes[11].count, 3);
        let later = now + SIMILAR_WITHIN + Duration::from_secs(1);
        let write = play(&mut correlator, told("a", "Failed", "20"), later).expect("no spam");
        assert_eq!(write.told.message, "20");
    }

    #[test]
    fn spam_about_one_object_is_dropped() {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        let written = (0..40).filter(|_| play(&mut correlator, told("a", "Failed", "x"), now).is_some()).count();
        assert_eq!(written, 25);
        assert!(play(&mut correlator, told("b", "Failed", "x"), now).is_some());
        assert!(play(&mut correlator, told("a", "Failed", "x"), now + Duration::from_secs(301)).is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        for n in 0..u32::try_from(3 * REMEMBERED).expect("small") {
            play(&mut correlator, told(&n.to_string(), "R", "m"), now + Duration::from_millis(n.into()));
        }
        assert!(correlator.written.len() <= REMEMBERED + 1 && correlator.buckets.len() <= REMEMBERED + 1);
    }

    #[tokio::test]
    async fn writes_in_the_background() {
        let fake = Arc::new(FakeTransport::new());
        let scope = Scope::new();
        let recorder = EventRecorder::new(Client::new(fake.clone()), &scope, "tester", "host");
        recorder.record(told("a", "", "").about, EventKind::Warning, "Odd", "strange");
        recorder.record(told("a", "", "").about, EventKind::Warning, "Odd", "strange");
        while fake.requests().len() < 2 {
            tokio::task::yield_now().await;
        }
        scope.stop().await;
        let events = fake.objects("/api/v1/events");
        assert_eq!(events.len(), 1);
        assert_eq!((&events[0]["count"], &events[0]["type"]), (&json!(2), &json!("Warning")));
        assert_eq!(events[0]["source"], json!({"component": "tester", "host": "host"}));
        assert_eq!(events[0]["metadata"]["namespace"], "default");
    }
}
