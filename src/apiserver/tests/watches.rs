//! Watches, over HTTPS and in process.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::Request;
use serde_json::{Value, json};
use skiff_api::Gvr;
use skiff_client::{Body, Feed, Selector, Transport, Update};

use super::{CONFIG_MAPS, Cluster, config_map, labelled};

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
    let mut one = Frames::open(&cluster, &format!("{CONFIG_MAPS}/b?watch=true"), "").await;
    assert_eq!(one.short().await, "ADDED b");
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
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut frames = Frames::open(&cluster, &format!("{CONFIG_MAPS}?watch=true"), accept).await;
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
    // More changes than the ring keeps.
    let big = "x".repeat(60_000);
    cluster.create(CONFIG_MAPS, config_map("a")).await;
    for i in 0..200 {
        cluster.patch(&format!("{CONFIG_MAPS}/a"), "merge", json!({"data": {"k": format!("{i}{big}")}})).await;
    }
    let mut frames = Frames::open(&cluster, &format!("{CONFIG_MAPS}?watch=true&resourceVersion=1"), "").await;
    let frame = frames.next().await.expect("a frame");
    assert_eq!((&frame["type"], &frame["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(frame["object"]["reason"], "Expired");
    assert!(frames.next().await.is_none());
    let (status, error) = cluster.ask("GET", &format!("{CONFIG_MAPS}?resourceVersion=99999"), Value::Null).await;
    assert_eq!(status, 504);
    assert!(error["message"].as_str().is_some_and(|m| m.contains("Too large resource version: 99999")), "{error}");
    assert_eq!(error["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
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
