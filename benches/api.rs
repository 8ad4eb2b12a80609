//! How fast the API is and what its objects cost, as one JSON object:
//!
//! ```text
//! sudo cargo bench --bench api
//! ```
//!
//! A real server in namespaces of its own (see `tests/harness`), its clients beside it on the same cores. Times are
//! wall-clock on whatever machine this is: compare figures of one run with each other, not with those of another machine.

#[path = "../tests/harness/mod.rs"]
mod harness;
mod measure;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use harness::Machine;
use http::Request;
use measure::{inside, ms, pss, rate, until};
use serde_json::{Value, json};
use skiff_client::{Client, HttpTransport, Transport};

const LISTED: u64 = 10_000;
const PATCHED: u64 = 64;
const WATCHERS: usize = 100;
/// Writes in a row, as fast as they go, and writes that wait for all watchers.
const BURST: usize = 500;
const PACED: usize = 200;
const PODS: u64 = 2_000;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn main() {
    // Under `cargo test --benches` nothing is to be measured.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let mut machine = Machine::new();
    machine.start(&[]);
    machine.wait_ready();
    let mut report = json!({});
    for clients in [1, 32] {
        report[format!("clients_{clients}")] = inside(&machine, move |client| requests(client, clients));
    }
    let kubeconfig = machine.inside.must(&["cat", "/etc/skiff/skiff.yaml"]);
    report["watchers_100"] = inside(&machine, move |client| fan_out(client, kubeconfig));
    report["pods"] = pods(&machine);
    println!("{}", serde_json::to_string_pretty(&report).expect("JSON"));
}

async fn ask(client: &Client, method: &str, path: &str, kind: &str, body: Value) -> Bytes {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let request = Request::builder().method(method).uri(path).header("content-type", kind).body(body);
    let answer = client.transport().send(request.expect("a request")).await.expect("an answer");
    assert!(answer.status().is_success(), "{method} {path}: {}", String::from_utf8_lossy(answer.body()));
    answer.into_body()
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": "x".repeat(512)}})
}

/// Requests per second.
async fn requests(client: Client, clients: usize) -> Value {
    const JSON: &str = "application/json";
    let made = AtomicU64::new(0);
    let create = rate(clients, |_| {
        let (client, name) = (client.clone(), format!("api-{clients}-{}", made.fetch_add(1, Ordering::Relaxed)));
        async move { drop(ask(&client, "POST", MAPS, JSON, config_map(&name)).await) }
    })
    .await;
    // So many that a list of the longest length is one.
    let made = made.into_inner();
    let missing = (made..LISTED).map(|i| {
        let client = client.clone();
        async move { drop(ask(&client, "POST", MAPS, JSON, config_map(&format!("api-{clients}-{i}"))).await) }
    });
    futures::stream::iter(missing).buffer_unordered(64).collect::<Vec<()>>().await;
    let get = rate(clients, |i| {
        let (client, path) = (client.clone(), format!("{MAPS}/api-{clients}-{}", i % made));
        async move { drop(ask(&client, "GET", &path, JSON, Value::Null).await) }
    })
    .await;
    let mut report = json!({"create_per_s": create, "get_per_s": get});
    for length in [1_000, LISTED] {
        let list = rate(clients, |_| {
            let (client, path) = (client.clone(), format!("{MAPS}?limit={length}"));
            async move { drop(ask(&client, "GET", &path, JSON, Value::Null).await) }
        })
        .await;
        report[format!("list_{length}_per_s")] = list.into();
    }
    let kinds = [
        ("merge", "application/merge-patch+json"),
        ("strategic", "application/strategic-merge-patch+json"),
        ("apply", "application/apply-patch+yaml"),
    ];
    for (name, kind) in kinds {
        let patch = rate(clients, |i| {
            let (client, object) = (client.clone(), format!("api-{clients}-{}", i % PATCHED.min(made)));
            let path = format!("{MAPS}/{object}?fieldManager=bench&force={}", name == "apply");
            let path = if name == "apply" { path } else { path.replace("&force=false", "") };
            let mut body = json!({"data": {"n": i.to_string()}});
            if name == "apply" {
                body["apiVersion"] = "v1".into();
                body["kind"] = "ConfigMap".into();
                body["metadata"]["name"] = object.into();
            }
            async move { drop(ask(&client, "PATCH", &path, kind, body).await) }
        })
        .await;
        report[format!("patch_{name}_per_s")] = patch.into();
    }
    let began = Instant::now();
    ask(&client, "DELETE", MAPS, JSON, Value::Null).await;
    report["deletecollection"] = json!({"objects": made.max(LISTED), "ms": ms(began.elapsed())});
    report
}

/// Changes of one object to a hundred clients with a connection each. The time from the sending of the write until a
/// watcher has read the event.
async fn fan_out(client: Client, kubeconfig: String) -> Value {
    let began = Instant::now();
    ask(&client, "POST", MAPS, "application/json", config_map("watched")).await;
    let seen = Arc::new(AtomicUsize::new(0));
    let times: Arc<std::sync::Mutex<Vec<f64>>> = Arc::default();
    let mut watches = Vec::new();
    for _ in 0..WATCHERS {
        let transport = HttpTransport::from_kubeconfig(&kubeconfig, None).expect("the kubeconfig");
        let path = format!("{MAPS}?watch=true&fieldSelector=metadata.name%3Dwatched");
        let request = Request::get(path).body(Bytes::new()).expect("a request");
        let mut frames = transport.stream(request).await.expect("a watch").into_body();
        let (seen, times) = (seen.clone(), times.clone());
        watches.push(tokio::spawn(async move {
            let _transport = transport;
            let mut waiting = Vec::new();
            while let Some(Ok(piece)) = frames.next().await {
                waiting.extend_from_slice(&piece);
                while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = waiting.drain(..=end).collect();
                    let sent = sent_at_us(&line);
                    let now = began.elapsed().as_micros() as u64;
                    times.lock().expect("nobody panics with it").extend(sent.map(|sent| (now - sent) as f64 / 1000.0));
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }
    let reached = |count: usize| {
        let seen = seen.clone();
        async move { until(|| async { seen.load(Ordering::Relaxed) >= count }).await }
    };
    reached(WATCHERS).await;
    let write = || async {
        let body = json!({"data": {"sent": began.elapsed().as_micros().to_string()}});
        drop(ask(&client, "PATCH", &format!("{MAPS}/watched"), "application/merge-patch+json", body).await);
    };
    times.lock().expect("nobody panics with it").clear();
    for i in 0..PACED {
        write().await;
        reached(WATCHERS * (i + 2)).await;
    }
    let mut paced = std::mem::take(&mut *times.lock().expect("nobody panics with it"));
    paced.sort_by(f64::total_cmp);
    let at = |share: usize| (paced[paced.len() * share / 100] * 100.0).round() / 100.0;
    let burst_began = Instant::now();
    for _ in 0..BURST {
        write().await;
    }
    reached(WATCHERS * (1 + PACED + BURST)).await;
    let per_s = (WATCHERS * BURST) as f64 / burst_began.elapsed().as_secs_f64();
    watches.iter().for_each(tokio::task::JoinHandle::abort);
    json!({"latency_ms": {"p50": at(50), "p99": at(99)}, "events_delivered_per_s": per_s.round()})
}

/// The time that a change carries.
fn sent_at_us(frame: &[u8]) -> Option<u64> {
    let frame: Value = serde_json::from_slice(frame).expect("a frame");
    frame["object"]["data"]["sent"].as_str()?.parse().ok()
}

/// What pods cost that nobody schedules: their objects, in the store, the caches and what the control loops keep.
fn pods(machine: &Machine) -> Value {
    let settle = || std::thread::sleep(Duration::from_secs(10));
    settle();
    let before = pss(machine);
    inside(machine, |client| async move {
        let creates = (0..PODS).map(|i| {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("pod-{i}")}, "spec": {
                "schedulerName": "nobody", "containers": [{"name": "main", "image": "busybox:1.36",
                    "command": ["/bin/sleep", "3600"], "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}]}});
            let client = client.clone();
            async move { drop(ask(&client, "POST", "/api/v1/namespaces/default/pods", "application/json", pod).await) }
        });
        futures::stream::iter(creates).buffer_unordered(32).collect::<Vec<()>>().await;
    });
    settle();
    let after = pss(machine);
    let total = |report: &Value| report["total"].as_f64().unwrap_or_default();
    let per_1000 = (total(&after) - total(&before)) * 1000.0 / PODS as f64;
    json!({"pods": PODS, "pss_kib_before": before, "pss_kib_after": after, "kib_per_1000": per_1000.round()})
}
