//! What the node and its pods use: for metrics-server (`/metrics/resource`), for autoscalers and monitors
//! (`/stats/summary`, `/metrics/cadvisor`).

use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_base::{chain, time};
use skiff_runtime::{ContainerState, Stats};

use crate::context::Context;
use crate::pod::{self, label};
use crate::pods::Pods;

/// One container at one moment.
#[derive(Debug, Clone)]
struct ContainerUse {
    name: String,
    id: String,
    image: String,
    started: Timestamp,
    stats: Stats,
}

#[derive(Debug, Clone)]
struct PodUse {
    namespace: String,
    name: String,
    uid: String,
    started: Option<Timestamp>,
    containers: Vec<ContainerUse>,
}

impl PodUse {
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
    pods: Vec<PodUse>,
    disk: Option<Disk>,
    /// What could not be read.
    errors: usize,
}

#[derive(Debug, Clone, Copy)]
struct Disk {
    capacity: u64,
    available: u64,
    inodes: u64,
    inodes_free: u64,
}

pub(crate) async fn collect(ctx: &Context, pods: &Pods) -> Result<Usage, skiff_runtime::Error> {
    let mut usage = Usage {
        at: time::now(),
        node_name: ctx.options.node_name.clone(),
        node: node_use(Path::new("/proc")),
        pods: Vec::new(),
        disk: disk(&ctx.options.root_directory),
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
            containers: Vec::new(),
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
                }),
                // It may have ended meanwhile.
                Err(e) => {
                    tracing::debug!(container = container.id.0, error = %chain(&e), "no statistics");
                    usage.errors += 1;
                }
            }
        }
        found.containers.sort_by(|a, b| a.name.cmp(&b.name));
        usage.pods.push(found);
    }
    usage.pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(usage)
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
        memory_total: total,
        memory_used: used,
        memory_working_set: used.saturating_sub(bytes("Inactive(file)")),
        memory_rss: bytes("AnonPages"),
        boot: boot.and_then(|seconds| Timestamp::from_second(seconds).ok()),
    }
}

fn disk(path: &Path) -> Option<Disk> {
    let found = nix::sys::statvfs::statvfs(path).ok()?;
    let size = found.fragment_size();
    Some(Disk {
        capacity: found.blocks() * size,
        available: found.blocks_available() * size,
        inodes: found.files(),
        inodes_free: found.files_free(),
    })
}

/// Writes one metric in Prometheus' text form, with upstream's names.
struct Metrics {
    text: String,
    at_ms: i64,
}

impl Metrics {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string can't fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", quoted(v))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.text, "{name}{labels} {value} {}", self.at_ms);
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

impl Usage {
    fn metrics(&self) -> Metrics {
        Metrics { text: String::new(), at_ms: self.at.as_millisecond() }
    }

    fn each(&self, mut visit: impl FnMut(&PodUse, &ContainerUse)) {
        for pod in &self.pods {
            pod.containers.iter().for_each(|container| visit(pod, container));
        }
    }

    /// `/metrics/resource`.
    pub(crate) fn resource_metrics(&self) -> String {
        let mut out = self.metrics();
        let labels = |pod: &PodUse, name: &str| {
            [("container", name.to_owned()), ("namespace", pod.namespace.clone()), ("pod", pod.name.clone())]
        };
        type Of = fn(&ContainerUse) -> f64;
        let families: [(&str, &str, &str, Of); 3] = [
            (
                "container_cpu_usage_seconds_total",
                "counter",
                "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
                |c| seconds(c.stats.cpu_usage_ns),
            ),
            (
                "container_memory_working_set_bytes",
                "gauge",
                "[STABLE] Current working set of the container in bytes",
                |c| c.stats.memory_working_set_bytes as f64,
            ),
            (
                "container_start_time_seconds",
                "gauge",
                "[STABLE] Start time of the container since unix epoch in seconds",
                |c| c.started.as_millisecond() as f64 / 1e3,
            ),
        ];
        for (name, kind, help, of) in families {
            out.family(name, kind, help);
            self.each(|pod, container| {
                let labels = labels(pod, &container.name);
                let labels: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (*k, v.as_str())).collect();
                out.line(name, &labels, of(container));
            });
        }
        let name = "node_cpu_usage_seconds_total";
        out.family(name, "counter", "[STABLE] Cumulative cpu time consumed by the node in core-seconds");
        out.line(name, &[], seconds(self.node.cpu_ns));
        let name = "node_memory_working_set_bytes";
        out.family(name, "gauge", "[STABLE] Current working set of the node in bytes");
        out.line(name, &[], self.node.memory_working_set as f64);
        let name = "pod_cpu_usage_seconds_total";
        out.family(name, "counter", "[STABLE] Cumulative cpu time consumed by the pod in core-seconds");
        for pod in self.pods.iter().filter(|pod| !pod.containers.is_empty()) {
            out.line(name, &[("namespace", &pod.namespace), ("pod", &pod.name)], seconds(pod.cpu_ns()));
        }
        let name = "pod_memory_working_set_bytes";
        out.family(name, "gauge", "[STABLE] Current working set of the pod in bytes");
        for pod in self.pods.iter().filter(|pod| !pod.containers.is_empty()) {
            let bytes = pod.memory(|s| s.memory_working_set_bytes);
            out.line(name, &[("namespace", &pod.namespace), ("pod", &pod.name)], bytes as f64);
        }
        let name = "resource_scrape_error";
        let _ = writeln!(
            out.text,
            "# HELP {name} [STABLE] 1 if there was an error while getting container metrics, 0 otherwise\n# TYPE {name} gauge\n{name} {}",
            usize::from(self.errors > 0)
        );
        out.text
    }

    /// `/metrics/cadvisor`: the families that dashboards are made of.
    pub(crate) fn cadvisor_metrics(&self) -> String {
        let mut out = self.metrics();
        type Of = fn(&ContainerUse) -> f64;
        let families: [(&str, &str, &str, Of); 6] = [
            ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |c| {
                seconds(c.stats.cpu_usage_ns)
            }),
            ("container_memory_rss", "gauge", "Size of RSS in bytes.", |c| c.stats.memory_rss_bytes as f64),
            (
                "container_memory_usage_bytes",
                "gauge",
                "Current memory usage in bytes, including all memory regardless of when it was accessed",
                |c| c.stats.memory_usage_bytes as f64,
            ),
            ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |c| {
                c.stats.memory_working_set_bytes as f64
            }),
            ("container_processes", "gauge", "Number of processes running inside the container.", |c| {
                c.stats.pids as f64
            }),
            (
                "container_start_time_seconds",
                "gauge",
                "Start time of the container since unix epoch in seconds.",
                |c| c.started.as_second() as f64,
            ),
        ];
        for (name, kind, help, of) in families {
            out.family(name, kind, help);
            self.each(|pod, c| {
                let labels = [
                    ("container", c.name.as_str()),
                    ("id", c.id.as_str()),
                    ("image", c.image.as_str()),
                    ("name", c.id.as_str()),
                    ("namespace", pod.namespace.as_str()),
                    ("pod", pod.name.as_str()),
                ];
                out.line(name, &labels, of(c));
            });
        }
        out.family("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.");
        out.line("machine_memory_bytes", &[], self.node.memory_total as f64);
        out.text
    }

    /// `/stats/summary`.
    pub(crate) fn summary(&self) -> Value {
        let at = self.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let cpu = |ns: u64| json!({"time": at, "usageCoreNanoSeconds": ns});
        let memory = |usage: u64, working: u64, rss: u64| json!({"time": at, "usageBytes": usage, "workingSetBytes": working, "rssBytes": rss});
        let date = |moment: Option<Timestamp>| moment.map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let disk = self.disk.map(|d| {
            json!({"time": at, "availableBytes": d.available, "capacityBytes": d.capacity, "usedBytes": d.capacity.saturating_sub(d.available),
                "inodes": d.inodes, "inodesFree": d.inodes_free, "inodesUsed": d.inodes.saturating_sub(d.inodes_free)})
        });
        let node = &self.node;
        let mut own = memory(node.memory_used, node.memory_working_set, node.memory_rss);
        own["availableBytes"] = json!(node.memory_total.saturating_sub(node.memory_working_set));
        let pods: Vec<Value> = self
            .pods
            .iter()
            .map(|pod| {
                let containers: Vec<Value> = pod
                    .containers
                    .iter()
                    .map(|c| {
                        json!({"name": c.name, "startTime": date(Some(c.started)), "cpu": cpu(c.stats.cpu_usage_ns),
                            "memory": memory(c.stats.memory_usage_bytes, c.stats.memory_working_set_bytes, c.stats.memory_rss_bytes)})
                    })
                    .collect();
                json!({"podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}, "startTime": date(pod.started),
                    "containers": containers, "cpu": cpu(pod.cpu_ns()),
                    "memory": memory(pod.memory(|s| s.memory_usage_bytes), pod.memory(|s| s.memory_working_set_bytes), pod.memory(|s| s.memory_rss_bytes)),
                    "process_stats": {"process_count": pod.memory(|s| s.pids)}})
            })
            .collect();
        let mut summary = json!({"node": {"nodeName": self.node_name, "startTime": date(node.boot), "cpu": cpu(node.cpu_ns), "memory": own}, "pods": pods});
        if let Some(disk) = disk {
            summary["node"]["runtime"] = json!({"imageFs": disk});
            summary["node"]["fs"] = disk;
        }
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage() -> Usage {
        let stats = Stats {
            cpu_usage_ns: 1_500_000_000,
            memory_working_set_bytes: 1000,
            memory_usage_bytes: 3000,
            memory_rss_bytes: 500,
            pids: 2,
        };
        let at = Timestamp::from_second(1_700_000_000).expect("in range");
        let container = ContainerUse { name: "c".into(), id: "1".into(), image: "i".into(), started: at, stats };
        Usage {
            at,
            node_name: "node-1".into(),
            node: NodeUse {
                cpu_ns: 2_000_000_000,
                memory_total: 10_000,
                memory_working_set: 4_000,
                ..NodeUse::default()
            },
            pods: vec![
                PodUse {
                    namespace: "n".into(),
                    name: "p".into(),
                    uid: "u".into(),
                    started: Some(at),
                    containers: vec![container.clone(), container],
                },
                PodUse {
                    namespace: "n".into(),
                    name: "waits".into(),
                    uid: "v".into(),
                    started: None,
                    containers: vec![],
                },
            ],
            disk: None,
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
        assert!(
            text.contains(
                "container_memory_rss{container=\"c\",id=\"1\",image=\"i\",name=\"1\",namespace=\"n\",pod=\"p\"} 500"
            ),
            "{text}"
        );
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
