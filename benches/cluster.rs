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

use harness::Machine;
use measure::{SLEEP, delete_pods, gone, idle, inside, ms, pod, pss, rate, run_pods, settled_pss, spread, until};
use serde_json::{Value, json};
use skiff_api::k8s::api::apps::v1::Deployment;
use skiff_api::k8s::api::core::v1::{ConfigMap, Node};
use skiff_client::{Client, DeleteOptions, ListOptions, PatchKind};

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
    report["idle"]["watched"] = watched(&machine);
    report["pod_create_to_running_ms"] = inside(&machine, |client| async move { pods(&client).await });
    report["with_10_pods"] = ten_pods(&machine);
    report["replicas"] = inside(&machine, |client| async move { replicas(&client).await });
    report["api"] = json!({
        "clients_1": inside(&machine, |client| rates(client, 1)),
        "clients_32": inside(&machine, |client| rates(client, 32)),
    });
    report["pss_kib_after_load"] = settled_pss(&machine);
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

fn watched(machine: &Machine) -> Value {
    let seconds = std::env::var("SKIFF_BENCH_IDLE_S").ok().and_then(|s| s.parse().ok()).unwrap_or(300u64);
    idle(machine, seconds)
}

/// One after the other; the first, which pulls the image, does not count.
async fn pods(client: &Client) -> Value {
    let pods = (0..=PODS).map(|i| pod(&format!("bench-{i}"), &SLEEP)).collect();
    let times = run_pods(client, pods).await;
    delete_pods(client).await;
    spread(times[1..].to_vec())
}

fn ten_pods(machine: &Machine) -> Value {
    inside(machine, |client| async move {
        run_pods(&client, (0..10).map(|i| pod(&format!("ten-{i}"), &SLEEP)).collect()).await;
    });
    let value = json!({"pss_kib": settled_pss(machine)});
    inside(machine, |client| async move { delete_pods(&client).await });
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
