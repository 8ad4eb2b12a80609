//! What a node costs and how fast it is, as one JSON object:
//!
//! ```text
//! sudo cargo bench --bench cluster
//! ```
//!
//! A real server with real containers in namespaces of its own (see `tests/harness`). Times are wall-clock
//! on whatever machine this is: compare figures of one run with each other, not with those of another
//! machine. `SKIFF_BENCH_IDLE_S` is how long the idle server is watched for writes (300).

#[path = "../tests/harness/mod.rs"]
mod harness;
mod measure;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use harness::Machine;
use measure::{inside, ms, processes, pss, rate, until};
use serde_json::{Value, json};
use skiff_api::k8s::api::apps::v1::Deployment;
use skiff_api::k8s::api::core::v1::{ConfigMap, Node, Pod};
use skiff_client::{Client, DeleteOptions, ListOptions, PatchKind, Selector, Update};

const PODS: usize = 20;
const REPLICAS: usize = 100;
const LIST_SIZE: usize = 1000;

fn main() {
    // Under `cargo test --benches` nothing is to be measured.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let mut machine = Machine::new();
    let mut report = json!({"executable_bytes": fs::metadata(harness::skiff()).expect("the executable").len()});
    report["start_ms"] = start(&mut machine);
    std::thread::sleep(Duration::from_secs(10));
    report["idle"] = json!({"pss_kib": pss(&machine)});
    report["idle"]["watched"] = idle(&machine);
    report["pod_create_to_running_ms"] = inside(&machine, |client| async move { pods(&client).await });
    report["with_10_pods"] = ten_pods(&machine);
    report["replicas"] = inside(&machine, |client| async move { replicas(&client).await });
    report["api"] = json!({
        "clients_1": inside(&machine, |client| rates(client, 1)),
        "clients_32": inside(&machine, |client| rates(client, 32)),
    });
    report["pss_kib_after_load"] = pss(&machine);
    println!("{}", serde_json::to_string_pretty(&report).expect("JSON"));
}

fn start(machine: &mut Machine) -> Value {
    let began = Instant::now();
    machine.start(&[]);
    while machine.inside.command("test").args(["-s", "/etc/skiff/skiff.yaml"]).status().map_or(true, |s| !s.success()) {
        assert!(began.elapsed() < Duration::from_secs(60), "no kubeconfig\n{}", machine.log());
    }
    let times = inside(machine, move |client| async move {
        let ready = until(|| async {
            let request = http::Request::get("/readyz").body(bytes::Bytes::new()).expect("a request");
            client.transport().send(request).await.is_ok_and(|answer| answer.status().is_success())
        });
        ready.await;
        let readyz = began.elapsed();
        until(|| async {
            let nodes = client.all::<Node>().list(&ListOptions::default()).await.unwrap_or_default();
            nodes.iter().any(|n| {
                let conditions = n.status.as_ref().and_then(|s| s.conditions.as_ref());
                conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
            })
        })
        .await;
        (readyz, began.elapsed())
    });
    machine.wait_ready();
    json!({"readyz": ms(times.0), "node_ready": ms(times.1), "everything": ms(began.elapsed())})
}

fn idle(machine: &Machine) -> Value {
    let seconds = std::env::var("SKIFF_BENCH_IDLE_S").ok().and_then(|s| s.parse().ok()).unwrap_or(300u64);
    let counts = || {
        let (mut written, mut ticks) = (0u64, 0u64);
        for (pid, _) in processes(machine) {
            let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
            let line = io.lines().find(|l| l.starts_with("write_bytes:")).unwrap_or_default();
            written += line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
            ticks += [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<u64>().ok()).sum::<u64>();
        }
        (written, ticks)
    };
    let before = counts();
    std::thread::sleep(Duration::from_secs(seconds));
    let after = counts();
    let cpu = (after.1 - before.1) as f64 / seconds as f64;
    json!({"seconds": seconds, "bytes_written": after.0 - before.0, "cpu_percent_of_a_core": (cpu * 100.0).round() / 100.0})
}

fn pod(name: &str) -> Pod {
    let value = json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [
        {"name": "main", "image": "busybox:1.36", "command": ["/bin/sleep", "3600"]}]}});
    serde_json::from_value(value).expect("a pod")
}

/// One after the other; the first, which pulls the image, does not count.
async fn pods(client: &Client) -> Value {
    let mut feed = client.transport().observe(&skiff_api::Gvr::of::<Pod>(), &Selector::default());
    let mut times = Vec::new();
    for i in 0..=PODS {
        let name = format!("bench-{i}");
        let began = Instant::now();
        client.namespaced::<Pod>("default").create(&pod(&name)).await.expect("create a pod");
        loop {
            let Some(update) = feed.next().await else { panic!("the feed ended") };
            let objects = match update {
                Update::Replace(all) => all,
                Update::Put(one) => vec![one],
                Update::Delete(_) => continue,
            };
            let running = objects.iter().filter(|o| *o.meta.name == *name).any(|o| {
                o.typed::<Pod>().expect("a pod").status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
            });
            if running {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{name} does not run");
        }
        if i > 0 {
            times.push(ms(began.elapsed()));
        }
    }
    times.sort_by(f64::total_cmp);
    for i in 0..=PODS {
        let options = DeleteOptions::default();
        client.namespaced::<Pod>("default").delete(&format!("bench-{i}"), &options).await.expect("delete a pod");
    }
    gone(client).await;
    json!({"pods": PODS, "p50": times[PODS / 2], "p95": times[PODS * 95 / 100]})
}

async fn gone(client: &Client) {
    until(|| async {
        let left = client.namespaced::<Pod>("default").list(&ListOptions::default()).await;
        left.is_ok_and(|left| left.is_empty())
    })
    .await;
}

fn ten_pods(machine: &Machine) -> Value {
    inside(machine, |client| async move {
        for i in 0..10 {
            client.namespaced::<Pod>("default").create(&pod(&format!("ten-{i}"))).await.expect("create a pod");
        }
        until(|| async {
            let pods = client.namespaced::<Pod>("default").list(&ListOptions::default()).await.unwrap_or_default();
            pods.iter().filter(|p| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")).count() == 10
        })
        .await;
    });
    std::thread::sleep(Duration::from_secs(5));
    let value = json!({"pss_kib": pss(machine)});
    inside(machine, |client| async move {
        for i in 0..10 {
            let options = DeleteOptions::default();
            client.namespaced::<Pod>("default").delete(&format!("ten-{i}"), &options).await.expect("delete a pod");
        }
        gone(&client).await;
    });
    value
}

async fn replicas(client: &Client) -> Value {
    let value = json!({"metadata": {"name": "bench"}, "spec": {"replicas": REPLICAS, "selector": {"matchLabels": {"app": "bench"}},
        "template": {"metadata": {"labels": {"app": "bench"}}, "spec": {"terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "busybox:1.36", "command": ["/bin/sleep", "3600"]}]}}}});
    let deployments = client.namespaced::<Deployment>("default");
    let began = Instant::now();
    deployments.create(&serde_json::from_value(value).expect("a deployment")).await.expect("create it");
    until(|| async {
        assert!(began.elapsed() < Duration::from_secs(120), "the replicas do not become ready");
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = deployments.get("bench").await.expect("get it");
        now.status.and_then(|s| s.ready_replicas) == Some(i32::try_from(REPLICAS).expect("small"))
    })
    .await;
    let ready = began.elapsed();
    let began = Instant::now();
    deployments.patch("bench", PatchKind::Merge, &json!({"spec": {"replicas": 0}})).await.expect("scale");
    gone(client).await;
    let removed = began.elapsed();
    deployments.delete("bench", &DeleteOptions::default()).await.expect("delete");
    json!({"replicas": REPLICAS, "all_ready_ms": ms(ready), "all_gone_ms": ms(removed)})
}

async fn rates(client: Client, clients: usize) -> Value {
    let config_map = |name: String| -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": name}, "data": {"key": "x".repeat(512)}}))
            .expect("a ConfigMap")
    };
    let counter = Arc::new(AtomicU64::new(0));
    let create = rate(clients, |_| {
        let (client, name) = (client.clone(), format!("rate-{clients}-{}", counter.fetch_add(1, Ordering::Relaxed)));
        let object = config_map(name);
        async move { drop(client.namespaced::<ConfigMap>("default").create(&object).await.expect("create")) }
    })
    .await;
    let made = counter.load(Ordering::Relaxed);
    let get = rate(clients, |i| {
        let (client, name) = (client.clone(), format!("rate-{clients}-{}", i % made));
        async move { drop(client.namespaced::<ConfigMap>("default").get(&name).await.expect("get")) }
    })
    .await;
    let list = rate(clients, |_| {
        let client = client.clone();
        async move {
            let request = http::Request::get(format!("/api/v1/namespaces/default/configmaps?limit={LIST_SIZE}"));
            let answer =
                client.transport().send(request.body(bytes::Bytes::new()).expect("a request")).await.expect("list");
            assert!(answer.status().is_success());
        }
    })
    .await;
    let path = "/api/v1/namespaces/default/configmaps";
    let request = http::Request::delete(path).body(bytes::Bytes::new()).expect("a request");
    let began = Instant::now();
    let answer = client.transport().send(request).await.expect("delete the collection");
    assert!(answer.status().is_success());
    json!({"create_per_s": create, "get_per_s": get, format!("list_{LIST_SIZE}_per_s"): list,
        "deletecollection": {"objects": made, "ms": ms(began.elapsed())}})
}
