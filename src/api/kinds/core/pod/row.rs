//! The row of a pod: what its many containers come to, in one word.

use serde_json::Value;

use crate::kinds::peek::Peek;
use crate::kinds::row::Row;

/// What a pass over the container statuses found.
#[derive(Default)]
struct Tally {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    /// RFC 3339 in UTC, so that texts compare as times do.
    last_restart: String,
}

impl Tally {
    fn count_restarts(&mut self, container: &Value) {
        self.restarts += container.int("restartCount");
        let finished = container.text("lastState.terminated.finishedAt");
        if finished > self.last_restart.as_str() {
            self.last_restart = finished.to_owned();
        }
    }
}

pub(super) fn cells(pod: &Value, row: &mut Row) {
    let tally = tally(pod);
    let restarts = match tally.last_restart.as_str() {
        at if tally.restarts != 0 && !at.is_empty() => format!("{} ({} ago)", tally.restarts, row.since(at)),
        _ => tally.restarts.to_string(),
    };
    row.name(pod);
    row.push(format!("{}/{}", tally.ready, tally.total));
    row.push(tally.reason);
    row.push(restarts);
    row.age(pod);
    row.or(pod.list("status.podIPs").first().map_or("", |ip| ip.text("ip")), "<none>");
    row.or(pod.text("spec.nodeName"), "<none>");
    row.or(pod.text("status.nominatedNodeName"), "<none>");
    row.or(&gates(pod), "<none>");
}

fn tally(pod: &Value) -> Tally {
    let phase = pod.text("status.phase");
    let mut tally = Tally { reason: phase.to_owned(), total: pod.count("spec.containers"), ..Tally::default() };
    if !pod.text("status.reason").is_empty() {
        tally.reason = pod.text("status.reason").to_owned();
    }
    let conditions = pod.list("status.conditions");
    if conditions.iter().any(|c| c.text("type") == "PodScheduled" && c.text("reason") == "SchedulingGated") {
        tally.reason = "SchedulingGated".to_owned();
    }
    let sidecars =
        Tally { total: pod.list("spec.initContainers").iter().filter(|c| is_sidecar(c)).count(), ..Tally::default() };
    tally.total += sidecars.total;
    let holds = |kind: &str| conditions.iter().any(|c| c.text("type") == kind && c.text("status") == "True");

    let (initializing, sidecars) = init_containers(pod, &mut tally, sidecars);
    if !initializing || holds("Initialized") {
        tally.restarts = sidecars.restarts;
        tally.last_restart = sidecars.last_restart;
        let running = containers(pod, &mut tally);
        if tally.reason == "Completed" && running {
            tally.reason = if holds("Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if !pod.text("metadata.deletionTimestamp").is_empty() {
        if pod.text("status.reason") == "NodeLost" {
            tally.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            tally.reason = "Terminating".to_owned();
        }
    }
    tally
}

fn is_sidecar(container: &Value) -> bool {
    container.text("restartPolicy") == "Always"
}

/// Whether some init container is still at work, and what the sidecars among them came to.
fn init_containers(pod: &Value, tally: &mut Tally, mut sidecars: Tally) -> (bool, Tally) {
    let specs = pod.list("spec.initContainers");
    for (i, status) in pod.list("status.initContainerStatuses").iter().enumerate() {
        let sidecar = specs.iter().any(|c| c.text("name") == status.text("name") && is_sidecar(c));
        tally.count_restarts(status);
        if sidecar {
            sidecars.count_restarts(status);
        }
        let terminated = status.at("state.terminated");
        let waiting = status.text("state.waiting.reason");
        if terminated.is_object() && terminated.int("exitCode") == 0 {
            continue;
        }
        if sidecar && status.flag("started") {
            tally.ready += usize::from(status.flag("ready"));
            continue;
        }
        tally.reason = if terminated.is_object() {
            format!("Init:{}", why_terminated(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", specs.len())
        };
        return (true, sidecars);
    }
    (false, sidecars)
}

/// Whether some container runs and is ready.
fn containers(pod: &Value, tally: &mut Tally) -> bool {
    let mut running = false;
    for status in pod.list("status.containerStatuses").iter().rev() {
        tally.count_restarts(status);
        let terminated = status.at("state.terminated");
        let waiting = status.text("state.waiting.reason");
        if !waiting.is_empty() {
            tally.reason = waiting.to_owned();
        } else if terminated.is_object() {
            tally.reason = why_terminated(terminated);
        } else if status.flag("ready") && status.at("state.running").is_object() {
            running = true;
            tally.ready += 1;
        }
    }
    running
}

fn why_terminated(terminated: &Value) -> String {
    match (terminated.text("reason"), terminated.int("signal")) {
        ("", 0) => format!("ExitCode:{}", terminated.int("exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn gates(pod: &Value) -> String {
    let gates = pod.list("spec.readinessGates");
    if gates.is_empty() {
        return String::new();
    }
    let conditions = pod.list("status.conditions");
    let open = |gate: &&Value| {
        let condition = conditions.iter().find(|c| c.text("type") == gate.text("conditionType"));
        condition.is_some_and(|c| c.text("status") == "True")
    };
    format!("{}/{}", gates.iter().filter(open).count(), gates.len())
}
