//! Watches, over HTTPS and in process.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::Request;
use serde_json::{Value, json};
use skiff_api::Gvr;
use skiff_client::{Body, Feed, Selector, Transport, Update};

use super::{CONFIG_MAPS, Cluster, config_map, labelled, until_goodbye, web_socket};

pub(super) const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json";
pub(super) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const LIMIT: Duration = Duration::from_secs(10);

/// Frames of a watch, one at a time.
pub(super) struct Frames {
    body: Body,
    buffer: Vec<u8>,
}

impl Frames {
    pub(super) async fn open(cluster: &Cluster, path: &str, accept: &str) -> Self {
        let request = Request::get(path).header("accept", accept).body(Bytes::new()).expect("a request");
        let response = cluster.admin().stream(request).await.expect("a watch");
        assert_eq!(response.status(), 200, "{path}");
        Self { body: response.into_body(), buffer: Vec::new() }
    }

    /// `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a frame"));
            }
            let piece = tokio::time::timeout(LIMIT, self.body.next()).await.expect("a frame in time")?;
            self.buffer.extend_from_slice(&piece.expect("a piece"));
        }
    }

    /// `TYPE name`.
    pub(super) async fn short(&mut self) -> String {
        let frame = self.next().await.expect("a frame");
        let name = frame["object"]["metadata"]["name"].as_str().unwrap_or_default();
        format!("{} {name}", frame["type"].as_str().unwrap_or_default())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tells_every_change_once_in_order() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, config_map("a")).await;
    let list = cluster.get(CONFIG_MAPS).await;
    let revision = list["metadata"]["resourceVersion"].as_str().expect("a revision");
    let mut from_state = Frames::open(&cluster, &format!("{CONFIG_MAPS}?watch=true"), "").await;
    assert_eq!(from_state.short().await, "ADDED a");
    cluster.create(CONFIG_MAPS, config_map("b")).await;
    cluster.patch(&format!("{CONFIG_MAPS}/b"), "merge", json!({"data": {"k": "2"}})).await;
    cluster.ask("DELETE", &format!("{CONFIG_MAPS}/a"), Value::Null).await;
    let changes = ["ADDED b", "MODIFIED b", "DELETED a"];
    for expect in changes {
        assert_eq!(from_state.short().await, expect);
    }
    // From a revision: the same changes, out of the ring.
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={revision}&timeoutSeconds=1");
    let mut from_revision = Frames::open(&cluster, &path, "").await;
    for expect in changes {
        assert_eq!(from_revision.short().await, expect);
    }
    assert!(from_revision.next().await.is_none(), "ends in time");
    // Of one object by its name there is no watch: it is shown.
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}/b?watch=true")).await["metadata"]["name"], "b");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn selections_are_entered_and_left() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, labelled("a", json!({"x": "1"}))).await;
    let mut frames = Frames::open(&cluster, &format!("{CONFIG_MAPS}?watch=true&labelSelector=x%3D1"), "").await;
    assert_eq!(frames.short().await, "ADDED a");
    cluster.create(CONFIG_MAPS, config_map("other")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let (_, left) = cluster.patch(&path, "merge", json!({"metadata": {"labels": {"x": "2"}}})).await;
    let frame = frames.next().await.expect("a frame");
    assert_eq!(frame["type"], "DELETED");
    // The last state that was selected, at the revision of the change.
    assert_eq!(frame["object"]["metadata"]["labels"]["x"], "1");
    assert_eq!(frame["object"]["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    cluster.patch(&path, "merge", json!({"metadata": {"labels": {"x": "1"}}})).await;
    assert_eq!(frames.short().await, "ADDED a");
    cluster.stop().await;
}

/// Watches and requests share a client's connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_nobody_reads_holds_up_no_request() {
    let cluster = Cluster::start().await;
    let mut unread = Vec::new();
    for _ in 0..4 {
        let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion=0");
        unread.push(Frames::open(&cluster, &path, "").await);
    }
    let work = async {
        for i in 0..8 {
            let mut large = config_map(&format!("large-{i}"));
            large["data"]["x"] = "x".repeat(100_000).into();
            cluster.create(CONFIG_MAPS, large).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("requests go on beside the watches");
    drop(unread);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn initial_events_end_with_a_bookmark() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, config_map("a")).await;
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    // The server writes objects of its own meanwhile, so the revision lies between those of two lists.
    let revision =
        |of: &Value| of["metadata"]["resourceVersion"].as_str().expect("a revision").parse::<u64>().expect("a number");
    let before = revision(&cluster.get(CONFIG_MAPS).await);
    let mut frames = Frames::open(&cluster, &format!("{CONFIG_MAPS}?{query}"), "").await;
    assert_eq!(frames.short().await, "ADDED a");
    let bookmark = frames.next().await.expect("a frame");
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!((&bookmark["object"]["kind"], &bookmark["object"]["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    let after = revision(&cluster.get(CONFIG_MAPS).await);
    assert!((before..=after).contains(&revision(&bookmark["object"])), "{before} {bookmark} {after}");
    let (status, error) =
        cluster.ask("GET", &format!("{CONFIG_MAPS}?watch=true&sendInitialEvents=true"), Value::Null).await;
    assert_eq!(status, 422, "{error}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_tell_their_columns_once() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, config_map("a")).await;
    let mut frames = Frames::open(&cluster, &format!("{CONFIG_MAPS}?watch=true"), TABLE).await;
    let first = frames.next().await.expect("a frame");
    assert_eq!((&first["type"], &first["object"]["kind"]), (&json!("ADDED"), &json!("Table")));
    assert!(first["object"]["columnDefinitions"].as_array().is_some_and(|c| !c.is_empty()));
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    cluster.create(CONFIG_MAPS, config_map("b")).await;
    let second = frames.next().await.expect("a frame");
    assert!(second["object"]["columnDefinitions"].is_null());
    assert_eq!(second["object"]["rows"][0]["object"]["metadata"]["name"], "b");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revisions_that_are_gone_or_not_yet_there() {
    let cluster = Cluster::start().await;
    // More changes than the ring keeps: the store's history has them.
    let big = "x".repeat(100_000);
    let first = cluster.create(CONFIG_MAPS, config_map("a")).await;
    let first = first["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
    for i in 0..60 {
        cluster.patch(&format!("{CONFIG_MAPS}/a"), "merge", json!({"data": {"k": format!("{i} {big}")}})).await;
    }
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={first}");
    let mut frames = Frames::open(&cluster, &path, "").await;
    for i in 0..60 {
        let frame = frames.next().await.expect("a frame");
        let begins = format!("{i} ");
        assert!(frame["object"]["data"]["k"].as_str().is_some_and(|k| k.starts_with(&begins)), "{i}");
    }
    // Here the ring takes over again.
    cluster.create(CONFIG_MAPS, config_map("b")).await;
    assert_eq!(frames.short().await, "ADDED b");
    drop(frames);
    cluster.store.compact(cluster.store.revision());
    let mut frames = Frames::open(&cluster, &path, "").await;
    let frame = frames.next().await.expect("a frame");
    assert_eq!((&frame["type"], &frame["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(frame["object"]["reason"], "Expired");
    let begins = format!("too old resource version: {first} (");
    assert!(frame["object"]["message"].as_str().is_some_and(|m| m.starts_with(&begins)), "{frame}");
    assert!(frames.next().await.is_none());
    let (status, error) = cluster.ask("GET", &format!("{CONFIG_MAPS}?resourceVersion=99999"), Value::Null).await;
    assert_eq!(status, 504);
    assert!(error["message"].as_str().is_some_and(|m| m.contains("Too large resource version: 99999")), "{error}");
    assert_eq!(error["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    // Initial events are of no older state; a watch that has begun tells what is wrong as an event.
    let list = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=99999";
    let mut frames = Frames::open(&cluster, &format!("{CONFIG_MAPS}?{list}"), "").await;
    let frame = frames.next().await.expect("a frame");
    assert_eq!((&frame["type"], &frame["object"]["code"]), (&json!("ERROR"), &json!(504)));
    assert!(frames.next().await.is_none());
    // A watch waits for it, and tells nothing from before.
    let path = format!("{CONFIG_MAPS}/a");
    let (_, now) = cluster.patch(&path, "merge", json!({"data": {"k": "now"}})).await;
    let now: u64 = now["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).expect("a revision");
    let query = format!("watch=true&fieldSelector=metadata.name=a&resourceVersion={}", now + 2);
    let mut frames = Frames::open(&cluster, &format!("{CONFIG_MAPS}?{query}"), "").await;
    for i in 1..=3 {
        assert_eq!(cluster.patch(&path, "merge", json!({"data": {"k": i.to_string()}})).await.0, 200);
    }
    let frame = frames.next().await.expect("a frame");
    assert_eq!((&frame["type"], &frame["object"]["data"]["k"]), (&json!("MODIFIED"), &json!("3")));
    cluster.stop().await;
}

async fn next(feed: &mut Feed) -> String {
    let update = tokio::time::timeout(LIMIT, feed.next()).await.expect("an update in time").expect("never ends");
    match update {
        Update::Replace(all) => {
            format!("= {}", all.iter().map(|o| o.meta.name.to_string()).collect::<Vec<_>>().join(" "))
        }
        Update::Put(object) => format!("+ {}", object.meta.name),
        Update::Delete(object) => format!("- {}", object.meta.name),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn observers_see_the_same_in_process_and_over_https() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, labelled("a", json!({"x": "1"}))).await;
    let selector = Selector { labels: "x=1".into(), namespace: "default".into(), ..Selector::default() };
    let maps = Gvr::new("", "v1", "configmaps");
    let mut inside = cluster.in_process("system:kube-controller-manager", &[]).observe(&maps, &selector);
    let mut outside = cluster.admin().observe(&maps, &selector);
    assert_eq!(next(&mut inside).await, "= a");
    assert_eq!(next(&mut outside).await, "= a");
    cluster.create(CONFIG_MAPS, config_map("ignored")).await;
    cluster.create(CONFIG_MAPS, labelled("b", json!({"x": "1"}))).await;
    cluster.patch(&format!("{CONFIG_MAPS}/a"), "merge", json!({"metadata": {"labels": null}})).await;
    cluster.ask("DELETE", &format!("{CONFIG_MAPS}/b"), Value::Null).await;
    for expect in ["+ b", "- a", "- b"] {
        assert_eq!(next(&mut inside).await, expect);
        assert_eq!(next(&mut outside).await, expect);
    }
    cluster.stop().await;
}

/// One that does not read is not waited for and costs nothing; when it reads again it has missed nothing, as long as the
/// history is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_nobody_reads_holds_nothing() {
    let cluster = Cluster::start().await;
    let big = "x".repeat(100_000);
    let cache = cluster.inside().resource("configmaps");
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion=0&labelSelector=test");
    let mut unread = Frames::open(&cluster, &path, "").await;
    let change = |i: usize| {
        let mut object = labelled("a", json!({"test": "1"}));
        object["data"]["k"] = format!("{i} {big}").into();
        object
    };
    cluster.create(CONFIG_MAPS, change(0)).await;
    let mut early = Vec::new();
    for i in 1..100 {
        let (status, _) = cluster.ask("PUT", &format!("{CONFIG_MAPS}/a"), change(i)).await;
        assert_eq!(status, 200);
        if i == 40 {
            early.push(std::sync::Arc::downgrade(&cache.find("default", "a").expect("it is there")));
        }
    }
    // What waits for the client are bytes of a bounded number: the change in the middle is held by nobody.
    assert!(early.iter().all(|object| object.upgrade().is_none()));
    for i in 0..100 {
        let frame = unread.next().await.expect("a frame");
        let begins = format!("{i} ");
        assert!(frame["object"]["data"]["k"].as_str().is_some_and(|k| k.starts_with(&begins)), "{i}");
    }
    // Without the history it is told, and ends.
    for i in 100..200 {
        cluster.ask("PUT", &format!("{CONFIG_MAPS}/a"), change(i)).await;
    }
    cluster.store.compact(cluster.store.revision());
    let mut last = json!(null);
    while let Some(frame) = unread.next().await {
        assert_eq!(last["type"], if last.is_null() { json!(null) } else { json!("MODIFIED") });
        last = frame;
    }
    assert_eq!((&last["type"], &last["object"]["code"]), (&json!("ERROR"), &json!(410)));
    drop(unread);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_encoded_once_for_all_watchers_of_a_form() {
    let cluster = Cluster::start().await;
    let mut watches = Vec::new();
    for i in 0..100 {
        let accept = ["", TABLE, METADATA, ""][i % 4];
        // The first table of a watch tells the columns, so there is one before.
        let path = format!("{CONFIG_MAPS}?watch=true&fieldSelector=metadata.name!%3Dkube-root-ca.crt");
        watches.push(Frames::open(&cluster, &path, accept).await);
    }
    for name in ["first", "a", "b"] {
        cluster.create(CONFIG_MAPS, config_map(name)).await;
        for frames in &mut watches {
            frames.next().await.expect("a frame");
        }
    }
    let made: Vec<_> = cluster.inside().resource("configmaps").events().iter().map(|event| event.made()).collect();
    // A table that took longer than its ages are good for is made again; the others never are.
    let [.., a, b] = made[..] else { panic!("{made:?}") };
    assert!((3..=10).contains(&a) && (3..=10).contains(&b), "{made:?}");
    drop(watches);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bookmarks_of_all_forms() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, config_map("a")).await;
    for (accept, kind) in [("", "ConfigMap"), (METADATA, "PartialObjectMetadata"), (TABLE, "Table")] {
        // Without a revision a watch begins with what there is, whether it says so or not.
        for query in ["", "&resourceVersion=0", "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"] {
            let path = format!("{CONFIG_MAPS}?watch=true&allowWatchBookmarks=true{query}");
            let mut frames = Frames::open(&cluster, &path, accept).await;
            let added = frames.next().await.expect("a frame");
            let bookmark = frames.next().await.expect("a frame");
            assert_eq!((&added["type"], &bookmark["type"]), (&json!("ADDED"), &json!("BOOKMARK")), "{kind} {query}");
            assert_eq!((&added["object"]["kind"], &bookmark["object"]["kind"]), (&json!(kind), &json!(kind)));
            let of = if kind == "Table" { &bookmark["object"]["rows"][0]["object"] } else { &bookmark["object"] };
            assert_eq!(of["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
        }
    }
    // One comes before the end, with the newest revision.
    let list = cluster.get(CONFIG_MAPS).await;
    let revision = list["metadata"]["resourceVersion"].as_str().expect("a revision");
    let query = format!("watch=true&allowWatchBookmarks=true&timeoutSeconds=3&resourceVersion={revision}");
    let mut frames = Frames::open(&cluster, &format!("{CONFIG_MAPS}?{query}"), "").await;
    let other = cluster.create("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "other"}})).await;
    let bookmark = frames.next().await.expect("a frame");
    assert_eq!(bookmark["type"], "BOOKMARK");
    let at = |of: &Value| of["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse::<u64>().ok());
    assert!(at(&bookmark["object"]) >= at(&other), "{bookmark}");
    assert!(bookmark["object"]["metadata"].get("annotations").is_none());
    assert!(frames.next().await.is_none());
    let path = format!("{CONFIG_MAPS}?watch=1");
    let answer = cluster.ask_with("GET", &path, Value::Null, &[("accept", "application/yaml")]).await;
    assert_eq!(answer.status, 406);
    cluster.stop().await;
}

/// As upstream's conformance test: watches that begin at each of many changes see the rest in the same order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_see_the_same_order() {
    let cluster = Cluster::start().await;
    let started = cluster.create(CONFIG_MAPS, config_map("a")).await;
    let work = async {
        for i in 0..60 {
            let name = format!("c{}", i % 7);
            match i % 3 {
                0 => drop(cluster.ask("POST", CONFIG_MAPS, config_map(&name)).await),
                1 => drop(
                    cluster
                        .patch(&format!("{CONFIG_MAPS}/{name}"), "merge", json!({"data": {"k": i.to_string()}}))
                        .await,
                ),
                _ => drop(cluster.ask("DELETE", &format!("{CONFIG_MAPS}/{name}"), Value::Null).await),
            }
        }
        cluster.create(CONFIG_MAPS, config_map("end")).await;
    };
    let read = |revision: String| {
        let cluster = &cluster;
        async move {
            let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={revision}");
            let mut frames = Frames::open(cluster, &path, "").await;
            let mut seen = Vec::new();
            loop {
                let frame = frames.next().await.expect("a frame");
                let meta = &frame["object"]["metadata"];
                let text = |field: &str| meta[field].as_str().unwrap_or_default().to_owned();
                seen.push((text("resourceVersion"), frame["type"].to_string(), text("name")));
                if meta["name"] == "end" {
                    return seen;
                }
            }
        }
    };
    let begin = started["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
    let (whole, ()) = futures::join!(read(begin), work);
    for at in 0..whole.len() - 1 {
        assert_eq!(read(whole[at].0.clone()).await, whole[at + 1..], "from {at}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_web_socket_each_frame_is_a_message() {
    use skiff_streaming::Role;
    use skiff_streaming::websocket::{CLOSE_NORMAL, accept_key, encode_ping};
    use tokio::io::AsyncWriteExt;

    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        cluster.create(CONFIG_MAPS, config_map(name)).await;
    }
    let path = format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=2");
    let (headers, mut io) = web_socket(&cluster, &path, "watch.example").await.expect("it is served");
    assert_eq!(headers["sec-websocket-accept"], accept_key(super::SOCKET_KEY));
    assert_eq!(headers["sec-websocket-protocol"], "watch.example");
    let mut ping = bytes::BytesMut::new();
    encode_ping(Role::Client, &mut ping);
    io.write_all(&ping).await.expect("a ping");
    cluster.create(CONFIG_MAPS, config_map("c")).await;
    let (messages, pongs, code) = until_goodbye(io).await;
    assert_eq!((code, pongs), (Some(CLOSE_NORMAL), 1));
    let seen: Vec<String> = messages
        .iter()
        .map(|message| {
            let frame: Value = serde_json::from_slice(message).expect("one frame");
            format!("{} {}", frame["type"], frame["object"]["metadata"]["name"]).replace('"', "")
        })
        .collect();
    assert_eq!(seen, ["ADDED a", "ADDED b", "ADDED c"]);
    cluster.stop().await;
}
