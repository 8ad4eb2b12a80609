//! What the benchmarks share: work inside of a machine, rates, memory, pods.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};
use skiff_api::k8s::api::core::v1::Pod;
use skiff_client::{Client, DeleteOptions, HttpTransport, ListOptions, Selector, Update};

use crate::harness::Machine;

pub const RATE_TIME: Duration = Duration::from_secs(3);
/// What a load has freed goes back to the kernel when little happened for a while.
const SETTLE: Duration = Duration::from_secs(6);

pub fn transport(machine: &Machine) -> impl FnOnce() -> HttpTransport + Send + 'static {
    let kubeconfig = machine.inside.must(&["cat", "/etc/skiff/skiff.yaml"]);
    move || HttpTransport::from_kubeconfig(&kubeconfig, None).expect("the kubeconfig")
}

/// Runs on threads inside of the machine's network.
pub fn inside<T, F>(machine: &Machine, work: impl FnOnce(Client) -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let transport = transport(machine);
    let thread = machine.inside.on_thread(move || {
        let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("tokio");
        tokio.block_on(async move { work(Client::new(Arc::new(transport()))).await })
    });
    thread.join().expect("the measurement does not panic")
}

pub async fn until<F: Future<Output = bool>>(mut look: impl FnMut() -> F) {
    while !look().await {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Of times in milliseconds.
pub fn spread(mut times: Vec<f64>) -> Value {
    times.sort_by(f64::total_cmp);
    let at = |share: usize| times.get(times.len() * share / 100).copied();
    json!({"count": times.len(), "p50": at(50), "p95": at(95), "longest": times.last()})
}

/// Our processes (not the containers'), by their part of memory, in KiB.
pub fn pss(machine: &Machine) -> Value {
    let mut parts = BTreeMap::new();
    for (pid, role) in processes(machine) {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = rollup.lines().find(|l| l.starts_with("Pss:")).unwrap_or("Pss: 0");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
        *parts.entry(role).or_insert(0) += kib;
    }
    let total: u64 = parts.values().sum();
    json!({"total": total, "parts": parts})
}

/// The same when what was freed has been given back.
pub fn settled_pss(machine: &Machine) -> Value {
    std::thread::sleep(SETTLE);
    pss(machine)
}

pub fn processes(machine: &Machine) -> Vec<(u32, String)> {
    let own = |pid: u32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<String> = command.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        let ours = words.first()?.contains("skiff") || words.first()?.starts_with("/proc/self");
        let mounts = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let here = mounts(&pid.to_string()) == mounts(&machine.inside.pid().to_string());
        (ours && here).then(|| (pid, words.get(1).cloned().unwrap_or_default()))
    };
    let pids =
        fs::read_dir("/proc").expect("/proc").flatten().filter_map(|e| e.file_name().to_string_lossy().parse().ok());
    pids.filter_map(own).collect()
}

/// One of `/proc/PID/io`, of all our processes.
pub fn io(machine: &Machine, field: &str) -> u64 {
    let count = |pid: u32| {
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let line = io.lines().find(|l| l.split(':').next() == Some(field)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    processes(machine).into_iter().map(|(pid, _)| count(pid)).sum()
}

/// Hundredths of a second that our processes have run.
fn ticks(machine: &Machine) -> u64 {
    let count = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<u64>().ok()).sum::<u64>()
    };
    processes(machine).into_iter().map(|(pid, _)| count(pid)).sum()
}

/// What is written and how long our processes run while nobody asks for anything.
pub fn idle(machine: &Machine, seconds: u64) -> Value {
    let before = (io(machine, "write_bytes"), ticks(machine));
    std::thread::sleep(Duration::from_secs(seconds));
    let after = (io(machine, "write_bytes"), ticks(machine));
    let cpu = (after.1 - before.1) as f64 / seconds as f64;
    json!({"seconds": seconds, "bytes_written": after.0 - before.0, "cpu_percent_of_a_core": (cpu * 100.0).round() / 100.0})
}

/// Calls per second of so many clients that each wait for their answer.
pub async fn rate<F>(clients: usize, call: impl Fn(u64) -> F) -> u64
where
    F: Future<Output = ()> + Send + 'static,
{
    let began = Instant::now();
    let done = AtomicU64::new(0);
    let one = || async {
        while began.elapsed() < RATE_TIME {
            let i = done.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(call(i)).await.expect("the call does not panic");
        }
    };
    futures::future::join_all((0..clients).map(|_| one())).await;
    (done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()).round() as u64
}

pub fn pod(name: &str, command: &[&str]) -> Pod {
    let value = json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [
        {"name": "main", "image": "busybox:1.36", "command": command}]}});
    serde_json::from_value(value).expect("a pod")
}

pub const SLEEP: [&str; 2] = ["/bin/sleep", "3600"];

/// Creates pods one after the other; milliseconds until each runs, as a watcher sees it.
pub async fn run_pods(client: &Client, pods: Vec<Pod>) -> Vec<f64> {
    let mut feed = client.transport().observe(&skiff_api::Gvr::of::<Pod>(), &Selector::default());
    let mut times = Vec::new();
    for pod in pods {
        let name = pod.metadata.name.clone().expect("named");
        let began = Instant::now();
        client.namespaced::<Pod>("default").create(&pod).await.expect("create a pod");
        loop {
            let next = tokio::time::timeout(Duration::from_secs(60), feed.next()).await;
            let Some(update) = next.unwrap_or_else(|_| panic!("{name} does not run")) else { panic!("the feed ended") };
            let objects = match update {
                Update::Replace(all) => all,
                Update::Put(one) => vec![one],
                Update::Delete(_) => continue,
            };
            let runs = objects.iter().filter(|o| *o.meta.name == *name).any(|o| {
                o.typed::<Pod>().expect("a pod").status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
            });
            if runs {
                break;
            }
        }
        times.push(ms(began.elapsed()));
    }
    times
}

/// Deletes every pod of the namespace, and waits until none is left.
pub async fn delete_pods(client: &Client) {
    let (all, options) = (ListOptions::default(), DeleteOptions::default());
    client.namespaced::<Pod>("default").delete_collection(&all, &options).await.expect("delete the pods");
    gone(client).await;
}

pub async fn gone(client: &Client) {
    until(|| async {
        let left = client.namespaced::<Pod>("default").list(&ListOptions::default()).await;
        left.is_ok_and(|left| left.is_empty())
    })
    .await;
}
