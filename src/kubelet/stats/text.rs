//! Usage in Prometheus' text form, with upstream's names.

use skiff_runtime::Resources;

use super::{ContainerUse, LinkUse, PodUse, Usage};
use crate::metrics::Text;

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Of a container, as cadvisor has them.
fn labels<'a>(pod: &'a PodUse, container: &'a ContainerUse) -> [(&'a str, &'a str); 6] {
    [
        ("container", &container.name),
        ("id", &container.id),
        ("image", &container.image),
        ("name", &container.id),
        ("namespace", &pod.namespace),
        ("pod", &pod.name),
    ]
}

impl Usage {
    /// `/metrics/resource`.
    pub(crate) fn resource_metrics(&self) -> String {
        let mut out = Text::new(Some(self.at.as_millisecond()));
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
        let mut error = Text::new(None);
        let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
        error.one(name, "gauge", help, f64::from(u8::from(self.errors > 0)));
        out.finish() + &error.finish()
    }

    /// `/metrics/cadvisor`: the families that dashboards are made of.
    pub(crate) fn cadvisor_metrics(&self) -> String {
        let mut out = Text::new(Some(self.at.as_millisecond()));
        type Of = fn(&ContainerUse) -> f64;
        let families: [(&str, &str, &str, Of); 11] = [
            ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |c| {
                seconds(c.stats.cpu_usage_ns)
            }),
            ("container_cpu_cfs_periods_total", "counter", "Number of elapsed enforcement period intervals.", |c| {
                c.stats.cpu_periods as f64
            }),
            ("container_cpu_cfs_throttled_periods_total", "counter", "Number of throttled period intervals.", |c| {
                c.stats.cpu_throttled_periods as f64
            }),
            (
                "container_cpu_cfs_throttled_seconds_total",
                "counter",
                "Total time duration the container has been throttled.",
                |c| seconds(c.stats.cpu_throttled_ns),
            ),
            (
                "container_oom_events_total",
                "counter",
                "Count of out of memory events observed for the container",
                |c| c.stats.oom_kills as f64,
            ),
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
            ("container_memory_cache", "gauge", "Number of bytes of page cache memory.", |c| {
                c.stats.memory_cache_bytes as f64
            }),
        ];
        for (name, kind, help, of) in families {
            out.family(name, kind, help);
            self.each(|pod, c| out.line(name, &labels(pod, c), of(c)));
        }
        let mut limits = Vec::new();
        self.each(|pod, c| limits.push((labels(pod, c), pod.limits(&c.name, self.memory_capacity))));
        type Limit = fn(&Resources) -> f64;
        let families: [(&str, &str, Limit); 4] = [
            ("container_spec_cpu_period", "CPU period of the container.", |l| l.cpu_period_us.unwrap_or(0) as f64),
            ("container_spec_cpu_quota", "CPU quota of the container.", |l| l.cpu_quota_us.unwrap_or(0) as f64),
            ("container_spec_cpu_shares", "CPU share of the container.", |l| l.cpu_shares.unwrap_or(0) as f64),
            ("container_spec_memory_limit_bytes", "Memory limit for the container.", |l| {
                l.memory_limit_bytes.unwrap_or(0) as f64
            }),
        ];
        for (name, help, of) in families {
            out.family(name, "gauge", help);
            limits.iter().for_each(|(labels, limits)| out.line(name, labels, of(limits)));
        }
        for (direction, of) in [("receive", (|l| l.received) as fn(&LinkUse) -> [u64; 4]), ("transmit", |l| l.sent)] {
            for (at, what) in ["bytes", "packets", "errors", "packets_dropped"].into_iter().enumerate() {
                let name = format!("container_network_{direction}_{what}_total");
                out.family(&name, "counter", &format!("Cumulative count of {what} of the pod's link: {direction}"));
                for (pod, link) in self.pods.iter().filter_map(|pod| Some((pod, pod.link?))) {
                    let labels =
                        [("interface", "eth0"), ("namespace", pod.namespace.as_str()), ("pod", pod.name.as_str())];
                    out.line(&name, &labels, of(&link)[at] as f64);
                }
            }
        }
        let disks = self.disk.map(|disk| {
            [
                ("container_fs_limit_bytes", "Number of bytes that can be consumed on this filesystem.", disk.capacity),
                (
                    "container_fs_usage_bytes",
                    "Number of bytes consumed on this filesystem.",
                    disk.capacity.saturating_sub(disk.available),
                ),
                ("container_fs_inodes_total", "Number of Inodes", disk.inodes),
                ("container_fs_inodes_free", "Number of available Inodes", disk.inodes_free),
            ]
        });
        for (name, help, value) in disks.into_iter().flatten() {
            out.family(name, "gauge", help);
            out.line(name, &[("id", "/")], value as f64);
        }
        out.one("machine_cpu_cores", "gauge", "Number of logical CPU cores.", self.node.cpus as f64);
        let help = "Amount of memory installed on the machine.";
        out.one("machine_memory_bytes", "gauge", help, self.node.memory_total as f64);
        out.finish()
    }
}
