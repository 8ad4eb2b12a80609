//! What the agent counts and says of itself: `/metrics` and `/metrics/probes`, in Prometheus' text form with upstream's
//! names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;

use crate::pod::PodUid;

/// Writes families of metrics.
pub(crate) struct Text {
    text: String,
    /// At the end of each line, where the moment is the reader's to know.
    at_ms: Option<i64>,
}

impl Text {
    pub(crate) fn new(at_ms: Option<i64>) -> Self {
        Self { text: String::new(), at_ms }
    }

    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string can't fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(crate) fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", quoted(v))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = match self.at_ms {
            Some(at) => writeln!(self.text, "{name}{labels} {value} {at}"),
            None => writeln!(self.text, "{name}{labels} {value}"),
        };
    }

    /// A family of one line.
    pub(crate) fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.line(name, &[], value);
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProbeKey {
    pub(crate) pod_uid: String,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) container: String,
    /// `Liveness`, `Readiness`, `Startup`.
    pub(crate) kind: &'static str,
    /// `successful`, `failed`.
    pub(crate) result: &'static str,
}

/// What has happened since the agent began.
#[derive(Default)]
pub(crate) struct Counters {
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    probes: BTreeMap<ProbeKey, u64>,
    /// By signal.
    evictions: BTreeMap<&'static str, u64>,
    /// By the resource that was missing.
    preemptions: BTreeMap<String, u64>,
    /// When the machine began to go down, and when that was done, in seconds since 1970.
    shutdown: [f64; 2],
    started_containers: u64,
    start_errors: u64,
}

impl Counters {
    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn probe(&self, key: ProbeKey) {
        *self.lock().probes.entry(key).or_default() += 1;
    }

    pub(crate) fn evicted(&self, signal: &'static str) {
        *self.lock().evictions.entry(signal).or_default() += 1;
    }

    pub(crate) fn preempted(&self, resource: &str) {
        *self.lock().preemptions.entry(resource.to_owned()).or_default() += 1;
    }

    /// Pods begin to end with the machine.
    pub(crate) fn shutdown_began(&self, at: f64) {
        self.lock().shutdown = [at, 0.0];
    }

    pub(crate) fn shutdown_ended(&self, at: f64) {
        self.lock().shutdown[1] = at;
    }

    pub(crate) fn started_container(&self, good: bool) {
        let mut counts = self.lock();
        counts.started_containers += 1;
        counts.start_errors += u64::from(!good);
    }

    pub(crate) fn forget(&self, pod: &PodUid) {
        self.lock().probes.retain(|key, _| key.pod_uid != pod.0);
    }

    /// `/metrics/probes`.
    pub(crate) fn probes(&self) -> String {
        let mut out = Text::new(None);
        let name = "prober_probe_total";
        let help = "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.";
        out.family(name, "counter", help);
        for (key, count) in &self.lock().probes {
            let labels = [
                ("container", key.container.as_str()),
                ("namespace", &key.namespace),
                ("pod", &key.pod),
                ("pod_uid", &key.pod_uid),
                ("probe_type", key.kind),
                ("result", key.result),
            ];
            out.line(name, &labels, *count as f64);
        }
        out.finish()
    }

    /// `/metrics`.
    pub(crate) fn own(&self, node_name: &str, pods: usize, containers: usize, process: &Process) -> String {
        let mut out = Text::new(None);
        let name = "kubelet_node_name";
        out.family(name, "gauge", "[ALPHA] The node's name. The count is always 1.");
        out.line(name, &[("node", node_name)], 1.0);
        out.one("kubelet_running_pods", "gauge", "[BETA] Number of pods that have a running pod sandbox", pods as f64);
        let name = "kubelet_running_containers";
        out.family(name, "gauge", "[BETA] Number of containers currently running");
        out.line(name, &[("container_state", "running")], containers as f64);
        {
            let counts = self.lock();
            let (started, failed) = (counts.started_containers as f64, counts.start_errors as f64);
            let help = "[BETA] Cumulative number of containers started";
            out.one("kubelet_started_containers_total", "counter", help, started);
            let help = "[BETA] Cumulative number of errors when starting containers";
            out.one("kubelet_started_containers_errors_total", "counter", help, failed);
            let name = "kubelet_evictions";
            out.family(name, "counter", "[ALPHA] Cumulative number of pod evictions by eviction signal");
            for (signal, count) in &counts.evictions {
                out.line(name, &[("eviction_signal", signal)], *count as f64);
            }
            let name = "kubelet_preemptions";
            out.family(name, "counter", "[ALPHA] Cumulative number of pod preemptions by preemption resource");
            for (resource, count) in &counts.preemptions {
                out.line(name, &[("preemption_signal", resource)], *count as f64);
            }
            for (at, what) in counts.shutdown.iter().zip(["start", "end"]) {
                let name = format!("kubelet_graceful_shutdown_{what}_time_seconds");
                let help = format!("[ALPHA] Last graceful shutdown {what} time since unix epoch in seconds");
                out.one(&name, "gauge", &help, *at);
            }
        }
        let name = "kubernetes_build_info";
        out.family(
            name,
            "gauge",
            "[STABLE] A metric with a constant '1' value labeled by version, from which it was built.",
        );
        out.line(
            name,
            &[("git_version", crate::node::VERSION), ("major", "1"), ("minor", "36"), ("platform", "linux")],
            1.0,
        );
        let help = "Total user and system CPU time spent in seconds.";
        out.one("process_cpu_seconds_total", "counter", help, process.cpu_s);
        out.one("process_open_fds", "gauge", "Number of open file descriptors.", process.open_fds as f64);
        out.one("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", process.resident as f64);
        let help = "Start time of the process since unix epoch in seconds.";
        out.one("process_start_time_seconds", "gauge", help, process.started_s);
        out.finish()
    }
}

/// This process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Process {
    cpu_s: f64,
    started_s: f64,
    resident: u64,
    open_fds: usize,
}

impl Process {
    /// What can't be read is 0.
    pub(crate) fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let boot = text("/proc/stat").lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse::<f64>().ok());
        let open_fds = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
        let page = page.and_then(|page| u64::try_from(page).ok()).unwrap_or(4096);
        Self { open_fds, ..Self::parse(&text("/proc/self/stat"), boot.unwrap_or(0.0), page) }
    }

    /// The fields behind the name, which may hold anything.
    fn parse(stat: &str, boot_s: f64, page: u64) -> Self {
        const TICKS: f64 = 100.0;
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<u64> = rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
        Self {
            cpu_s: (field(14) + field(15)) as f64 / TICKS,
            started_s: boot_s + field(22) as f64 / TICKS,
            resident: field(24) * page,
            open_fds: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let counters = Counters::default();
        let key = |uid: &str, result| ProbeKey {
            pod_uid: uid.into(),
            namespace: "n".into(),
            pod: "p".into(),
            container: "c".into(),
            kind: "Readiness",
            result,
        };
        for (uid, result) in [("u", "successful"), ("u", "successful"), ("u", "failed"), ("v", "failed")] {
            counters.probe(key(uid, result));
        }
        counters.forget(&PodUid("v".into()));
        let text = counters.probes();
        let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
        let labels = r#"container="c",namespace="n",pod="p",pod_uid="u",probe_type="Readiness""#;
        assert_eq!(
            lines,
            [
                format!("prober_probe_total{{{labels},result=\"failed\"}} 1"),
                format!("prober_probe_total{{{labels},result=\"successful\"}} 2")
            ]
        );
        counters.evicted("memory.available");
        counters.started_container(true);
        counters.started_container(false);
        let text = counters.own("node-1", 2, 3, &Process::read());
        for line in [
            "kubelet_node_name{node=\"node-1\"} 1",
            "kubelet_running_pods 2",
            "kubelet_running_containers{container_state=\"running\"} 3",
            "kubelet_started_containers_total 2",
            "kubelet_started_containers_errors_total 1",
            "kubelet_evictions{eviction_signal=\"memory.available\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
    }

    #[test]
    fn the_process() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 500 1000000 256 18446744073709551615";
        let process = Process::parse(stat, 1_000.0, 4096);
        assert_eq!((process.cpu_s, process.started_s, process.resident), (2.0, 1_005.0, 256 * 4096));
        let own = Process::read();
        assert!(own.resident > 1 << 20 && own.started_s > 1e9 && own.open_fds > 2, "{own:?}");
    }
}
