//! What the benchmarks share: work inside of a machine, rates, memory.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skiff_client::{Client, HttpTransport};

use crate::harness::Machine;

pub const RATE_TIME: Duration = Duration::from_secs(3);

/// Runs on threads inside of the machine's network.
pub fn inside<T, F>(machine: &Machine, work: impl FnOnce(Client) -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let kubeconfig = machine.inside.must(&["cat", "/etc/skiff/skiff.yaml"]);
    let thread = machine.inside.on_thread(move || {
        let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("tokio");
        let transport = HttpTransport::from_kubeconfig(&kubeconfig, None).expect("the kubeconfig");
        tokio.block_on(work(Client::new(Arc::new(transport))))
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
