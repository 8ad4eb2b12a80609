//! Usage as kubelet's summary.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Disk, Usage};

impl Usage {
    /// `/stats/summary`.
    pub(crate) fn summary(&self) -> Value {
        let at = self.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let cpu = |ns: u64, rate: Option<u64>| {
            let mut cpu = json!({"time": at, "usageCoreNanoSeconds": ns});
            if let Some(rate) = rate {
                cpu["usageNanoCores"] = rate.into();
            }
            cpu
        };
        let memory = |usage: u64, working: u64, rss: u64| json!({"time": at, "usageBytes": usage, "workingSetBytes": working, "rssBytes": rss});
        let date = |moment: Option<Timestamp>| moment.map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let disk = |disk: Option<Disk>| {
            disk.map(|d| {
            json!({"time": at, "availableBytes": d.available, "capacityBytes": d.capacity, "usedBytes": d.capacity.saturating_sub(d.available),
                "inodes": d.inodes, "inodesFree": d.inodes_free, "inodesUsed": d.inodes.saturating_sub(d.inodes_free)})
        })
        };
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
                        json!({"name": c.name, "startTime": date(Some(c.started)), "cpu": cpu(c.stats.cpu_usage_ns, c.cpu_rate),
                            "memory": memory(c.stats.memory_usage_bytes, c.stats.memory_working_set_bytes, c.stats.memory_rss_bytes)})
                    })
                    .collect();
                json!({"podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}, "startTime": date(pod.started),
                    "containers": containers, "cpu": cpu(pod.cpu_ns(), pod.cpu_rate()),
                    "memory": memory(pod.memory(|s| s.memory_usage_bytes), pod.memory(|s| s.memory_working_set_bytes), pod.memory(|s| s.memory_rss_bytes)),
                    "process_stats": {"process_count": pod.memory(|s| s.pids)}})
            })
            .collect();
        let mut summary = json!({"node": {"nodeName": self.node_name, "startTime": date(node.boot), "cpu": cpu(node.cpu_ns, node.cpu_rate), "memory": own}, "pods": pods});
        if let Some(disk) = disk(self.disk) {
            summary["node"]["fs"] = disk;
        }
        if let Some(disk) = disk(self.image_disk) {
            summary["node"]["runtime"] = json!({"imageFs": disk});
        }
        summary
    }
}
