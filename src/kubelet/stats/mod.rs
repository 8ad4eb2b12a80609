//! What the node and its pods use: for metrics-server (`/metrics/resource`), for autoscalers and monitors
//! (`/stats/summary`, `/metrics/cadvisor`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use skiff_base::{chain, time};
use skiff_runtime::{ContainerState, Resources, Stats};

mod rates;
mod summary;
mod text;

use crate::context::Context;
use crate::pod::{self, label};
use crate::pods::Pods;
use crate::resources;

pub(crate) use rates::Rates;

/// One container at one moment.
#[derive(Debug, Clone)]
struct ContainerUse {
    name: String,
    id: String,
    image: String,
    started: Timestamp,
    stats: Stats,
    /// Billionths of a core, since the sample before.
    cpu_rate: Option<u64>,
}

#[derive(Debug, Clone)]
struct PodUse {
    namespace: String,
    name: String,
    uid: String,
    pod: Arc<Pod>,
    started: Option<Timestamp>,
    containers: Vec<ContainerUse>,
    /// Of the link to the node; none with the host's network.
    link: Option<LinkUse>,
}

/// Bytes, packets, errors, drops: received, then sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct LinkUse {
    received: [u64; 4],
    sent: [u64; 4],
}

impl PodUse {
    fn limits(&self, container: &str, memory_capacity: i64) -> Resources {
        let spec = pod::find(&self.pod, container).map(|(_, spec)| spec);
        spec.map(|spec| resources::container(&self.pod, &spec, memory_capacity)).unwrap_or_default()
    }

    /// Known when that of each container is.
    fn cpu_rate(&self) -> Option<u64> {
        self.containers.iter().map(|c| c.cpu_rate).sum()
    }

    fn cpu_ns(&self) -> u64 {
        self.containers.iter().map(|c| c.stats.cpu_usage_ns).sum()
    }

    fn memory(&self, of: impl Fn(&Stats) -> u64) -> u64 {
        self.containers.iter().map(|c| of(&c.stats)).sum()
    }
}

#[derive(Debug, Clone, Default)]
struct NodeUse {
    cpu_ns: u64,
    cpu_rate: Option<u64>,
    cpus: usize,
    memory_total: u64,
    memory_used: u64,
    memory_working_set: u64,
    memory_rss: u64,
    boot: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub(crate) struct Usage {
    at: Timestamp,
    node_name: String,
    node: NodeUse,
    /// Bytes.
    memory_capacity: i64,
    pods: Vec<PodUse>,
    /// Of the pods' volumes and logs.
    disk: Option<Disk>,
    /// Of images and what containers write.
    image_disk: Option<Disk>,
    /// What could not be read.
    errors: usize,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Disk {
    pub(crate) capacity: u64,
    pub(crate) available: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
}

pub(crate) async fn collect(ctx: &Context, pods: &Pods) -> Result<Usage, skiff_runtime::Error> {
    let mut usage = Usage {
        at: time::now(),
        node_name: ctx.options.node_name.clone(),
        node: node_use(Path::new("/proc")),
        memory_capacity: ctx.memory_capacity,
        pods: Vec::new(),
        disk: disk(&ctx.options.root_directory),
        image_disk: disk(&ctx.options.data_directory),
        errors: 0,
    };
    let all = ctx.engine.containers().await?;
    for pod in pods.pods() {
        let uid = pod::uid(&pod).0;
        let mut found = PodUse {
            namespace: pod::namespace(&pod).to_owned(),
            name: pod::name(&pod).to_owned(),
            started: pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0),
            uid,
            pod: pod.clone(),
            containers: Vec::new(),
            link: None,
        };
        for container in all.iter().filter(|c| c.labels.get(label::POD_UID) == Some(&found.uid)) {
            let ContainerState::Running { started } = container.state else { continue };
            match ctx.engine.container_stats(&container.id).await {
                Ok(stats) => found.containers.push(ContainerUse {
                    name: container.name.clone(),
                    id: container.id.0.clone(),
                    image: container.image_ref.clone(),
                    started,
                    stats,
                    cpu_rate: None,
                }),
                // It may have ended meanwhile.
                Err(e) => {
                    tracing::debug!(container = container.id.0, error = %chain(&e), "no statistics");
                    usage.errors += 1;
                }
            }
        }
        let own_network = pod::spec(&pod).host_network != Some(true);
        let mut pids = all.iter().filter(|c| c.labels.get(label::POD_UID) == Some(&found.uid)).filter_map(|c| c.pid);
        found.link = pids.find_map(link_use).filter(|_| own_network);
        found.containers.sort_by(|a, b| a.name.cmp(&b.name));
        usage.pods.push(found);
    }
    usage.pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(usage)
}

/// What went over the link of the network namespace that a process is in.
fn link_use(pid: i32) -> Option<LinkUse> {
    parse_link(&std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?)
}

fn parse_link(devices: &str) -> Option<LinkUse> {
    let line = devices.lines().find_map(|line| line.trim().strip_prefix("eth0:"))?;
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let four = |from: usize| numbers.get(from..from + 4)?.try_into().ok();
    Some(LinkUse { received: four(0)?, sent: four(8)? })
}

/// Of the machine, in bytes: all of it, and the working set.
pub(crate) fn memory(proc: &Path) -> (u64, u64) {
    let node = node_use(proc);
    (node.memory_total, node.memory_working_set)
}

fn node_use(proc: &Path) -> NodeUse {
    let text = |name: &str| std::fs::read_to_string(proc.join(name)).unwrap_or_default();
    let (stat, memory) = (text("stat"), text("meminfo"));
    // user nice system idle iowait irq softirq steal, in hundredths of a second; a guest's is in user.
    let ticks: Vec<u64> = stat
        .lines()
        .find_map(|line| line.strip_prefix("cpu "))
        .map(|line| line.split_whitespace().filter_map(|n| n.parse().ok()).collect())
        .unwrap_or_default();
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|at| ticks.get(*at)).sum();
    let bytes = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|n| n.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    };
    let (total, free) = (bytes("MemTotal"), bytes("MemFree"));
    let used = total.saturating_sub(free);
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|n| n.trim().parse().ok());
    NodeUse {
        cpu_ns: busy * 10_000_000,
        cpu_rate: None,
        cpus: stat.lines().filter(|l| l.starts_with("cpu") && !l.starts_with("cpu ")).count(),
        memory_total: total,
        memory_used: used,
        memory_working_set: used.saturating_sub(bytes("Inactive(file)")),
        memory_rss: bytes("AnonPages"),
        boot: boot.and_then(|seconds| Timestamp::from_second(seconds).ok()),
    }
}

pub(crate) fn disk(path: &Path) -> Option<Disk> {
    let found = nix::sys::statvfs::statvfs(path).ok()?;
    let size = found.fragment_size();
    Some(Disk {
        capacity: found.blocks() * size,
        available: found.blocks_available() * size,
        inodes: found.files(),
        inodes_free: found.files_free(),
    })
}

/// Of one pod, for who decides which ones go.
pub(crate) struct PodTotals {
    /// The working set in bytes.
    pub(crate) memory: i64,
    pub(crate) processes: i64,
    /// Working sets by container.
    pub(crate) containers: BTreeMap<String, i64>,
}

impl Usage {
    /// Nothing of a pod of which nothing runs.
    pub(crate) fn of_pod(&self, uid: &str) -> Option<PodTotals> {
        let pod = self.pods.iter().find(|pod| pod.uid == uid && !pod.containers.is_empty())?;
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let of = |c: &ContainerUse| (c.name.clone(), number(c.stats.memory_working_set_bytes));
        Some(PodTotals {
            memory: number(pod.memory(|s| s.memory_working_set_bytes)),
            processes: number(pod.memory(|s| s.pids)),
            containers: pod.containers.iter().map(of).collect(),
        })
    }

    fn each<'a>(&'a self, mut visit: impl FnMut(&'a PodUse, &'a ContainerUse)) {
        for pod in &self.pods {
            pod.containers.iter().for_each(|container| visit(pod, container));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub(super) fn usage() -> Usage {
        let stats = Stats {
            cpu_usage_ns: 1_500_000_000,
            memory_working_set_bytes: 1000,
            memory_usage_bytes: 3000,
            memory_rss_bytes: 500,
            memory_cache_bytes: 2400,
            pids: 2,
            ..Stats::default()
        };
        let at = Timestamp::from_second(1_700_000_000).expect("in range");
        let container =
            ContainerUse { name: "c".into(), id: "1".into(), image: "i".into(), started: at, stats, cpu_rate: None };
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": {"limits": {"memory": "1Mi"}}}]}})).expect("a pod");
        let pod = Arc::new(pod);
        Usage {
            at,
            node_name: "node-1".into(),
            node: NodeUse {
                cpu_ns: 2_000_000_000,
                memory_total: 10_000,
                memory_working_set: 4_000,
                ..NodeUse::default()
            },
            memory_capacity: 10_000,
            pods: vec![
                PodUse {
                    namespace: "n".into(),
                    name: "p".into(),
                    uid: "u".into(),
                    pod: pod.clone(),
                    started: Some(at),
                    containers: vec![container.clone(), container],
                    link: parse_link("  eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0"),
                },
                PodUse {
                    namespace: "n".into(),
                    name: "waits".into(),
                    uid: "v".into(),
                    pod,
                    started: None,
                    containers: vec![],
                    link: None,
                },
            ],
            disk: None,
            image_disk: None,
            errors: 0,
        }
    }

    #[test]
    fn resource_metrics() {
        let text = usage().resource_metrics();
        for line in [
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 1.5 1700000000000",
            "container_memory_working_set_bytes{container=\"c\",namespace=\"n\",pod=\"p\"} 1000 1700000000000",
            "container_start_time_seconds{container=\"c\",namespace=\"n\",pod=\"p\"} 1700000000 1700000000000",
            "node_cpu_usage_seconds_total 2 1700000000000",
            "node_memory_working_set_bytes 4000 1700000000000",
            "pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\"} 3 1700000000000",
            "pod_memory_working_set_bytes{namespace=\"n\",pod=\"p\"} 2000 1700000000000",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("waits"), "{text}");
        let text = usage().cadvisor_metrics();
        let labels = "{container=\"c\",id=\"1\",image=\"i\",name=\"1\",namespace=\"n\",pod=\"p\"}";
        for (name, value) in [
            ("container_memory_rss", 500),
            ("container_memory_cache", 2400),
            ("container_spec_memory_limit_bytes", 1 << 20),
        ] {
            assert!(text.contains(&format!("{name}{labels} {value} ")), "{name} in\n{text}");
        }
    }

    #[test]
    fn summaries() {
        let summary = usage().summary();
        assert_eq!(summary["node"]["memory"]["availableBytes"], 6000);
        assert_eq!(summary["pods"][0]["podRef"], json!({"name": "p", "namespace": "n", "uid": "u"}));
        assert_eq!(summary["pods"][0]["containers"][0]["startTime"], "2023-11-14T22:13:20Z");
        assert_eq!(summary["pods"][0]["memory"]["workingSetBytes"], 2000);
    }

    #[test]
    fn the_machine_itself() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("stat"), "cpu  10 1 5 1000 7 1 2 1 3 0\ncpu0 1 1 1\nbtime 1700000000\n")
            .expect("written");
        std::fs::write(
            directory.path().join("meminfo"),
            "MemTotal: 100 kB\nMemFree:  40 kB\nInactive(file): 10 kB\nAnonPages: 20 kB\n",
        )
        .expect("written");
        let node = node_use(directory.path());
        assert_eq!((node.cpu_ns, node.memory_working_set, node.memory_rss), (200_000_000, 50 * 1024, 20 * 1024));
        assert_eq!(node.boot.map(|t| t.as_second()), Some(1_700_000_000));
        assert!(
            node_use(Path::new("/proc")).cpu_ns > 0 && disk(Path::new("/")).is_some_and(|d| d.capacity > d.available)
        );
    }
}
