//! Startup, readiness and liveness probes: one task for each of a running container.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use skiff_base::{CancellationToken, chain};
use skiff_client::EventKind;
use skiff_runtime::ContainerId;
use tokio::time::Instant;

use crate::context::Context;
use crate::metrics::ProbeKey;
use crate::pod::{self, Role};
use crate::{grpc_health, http_get};

/// Waits between the tries of [`knock`].
const FIRST_KNOCK: Duration = Duration::from_millis(20);
const LAST_KNOCK: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// Counts results; tells when a threshold is crossed.
#[derive(Debug)]
struct Judge {
    success_threshold: u32,
    failure_threshold: u32,
    /// The run of equal results up to now.
    last: Option<bool>,
    count: u32,
    verdict: Option<bool>,
}

impl Judge {
    fn new(probe: &Probe, kind: ProbeKind, ready: bool) -> Self {
        let positive =
            |n: Option<i32>, default| n.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default);
        // A container starts out as not started, alive, and not ready; one that an earlier agent left may be ready.
        let verdict = Some(match kind {
            ProbeKind::Liveness => true,
            ProbeKind::Startup => false,
            ProbeKind::Readiness => ready,
        });
        Self {
            success_threshold: positive(probe.success_threshold, 1),
            failure_threshold: positive(probe.failure_threshold, 3),
            last: None,
            count: 0,
            verdict,
        }
    }

    /// The new verdict, where it changed. A startup or liveness failure is told each time it is reached.
    fn take(&mut self, success: bool, kind: ProbeKind) -> Option<bool> {
        self.count = if self.last == Some(success) { self.count + 1 } else { 1 };
        self.last = Some(success);
        let threshold = if success { self.success_threshold } else { self.failure_threshold };
        if self.count < threshold {
            return None;
        }
        let again = kind == ProbeKind::Startup && !success && self.count == threshold;
        if self.verdict == Some(success) && !again {
            return None;
        }
        self.verdict = Some(success);
        Some(success)
    }
}

/// What a probe is about.
pub(crate) struct Subject {
    pub(crate) pod: Arc<Pod>,
    pub(crate) role: Role,
    pub(crate) container: Container,
    pub(crate) id: ContainerId,
    pub(crate) pod_ip: String,
    pub(crate) since: Timestamp,
    pub(crate) kind: ProbeKind,
    /// What is told of it until the probe says otherwise.
    pub(crate) ready: bool,
}

/// Probes until `stop`; `tell` gets each change of the verdict. A startup probe ends with its first verdict.
pub(crate) async fn run(ctx: Arc<Context>, subject: Subject, stop: CancellationToken, tell: impl AsyncFn(bool)) {
    let Some(probe) = subject.kind.of(&subject.container).cloned() else { return };
    let seconds = |n: Option<i32>, default: u64| n.and_then(|n| u64::try_from(n).ok()).unwrap_or(default);
    let period = Duration::from_secs(seconds(probe.period_seconds, 10).max(1));
    let delay = Duration::from_secs(seconds(probe.initial_delay_seconds, 0));
    let alive = skiff_base::time::now().duration_since(subject.since);
    let alive = Duration::try_from(alive).unwrap_or_default();
    let mut ticks = tokio::time::interval_at(Instant::now() + delay.saturating_sub(alive), period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut judge = Judge::new(&probe, subject.kind, subject.ready);
    let mut eager = subject.kind != ProbeKind::Liveness && probe.exec.is_none();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let result = tokio::select! {
            () = stop.cancelled() => return,
            result = once(&ctx, &subject, &probe) => result,
        };
        let result = if std::mem::take(&mut eager) && result.is_err() {
            tokio::select! {
                () = stop.cancelled() => return,
                result = knock(&ctx, &subject, &probe, result, period) => result,
            }
        } else {
            result
        };
        ctx.counters.probe(ProbeKey {
            pod_uid: pod::uid(&subject.pod).0,
            namespace: pod::namespace(&subject.pod).to_owned(),
            pod: pod::name(&subject.pod).to_owned(),
            container: subject.container.name.clone(),
            kind: subject.kind.as_str(),
            result: if result.is_ok() { "successful" } else { "failed" },
        });
        if let Some((reason, message)) = plan_event(subject.kind, &result) {
            let (role, container) = (subject.role, &subject.container.name);
            ctx.container_event(&subject.pod, role, container, EventKind::Warning, reason, message);
        }
        if let Some(verdict) = judge.take(result.is_ok(), subject.kind) {
            tell(verdict).await;
            if subject.kind == ProbeKind::Startup {
                return;
            }
        }
    }
}

/// A program that just started mostly listens a moment later: within the first period it is asked more often, so that
/// it need not wait for the next turn. Together these tries count as one, so no threshold is reached sooner.
async fn knock(ctx: &Context, subject: &Subject, probe: &Probe, mut result: Tried, period: Duration) -> Tried {
    let (until, mut wait) = (Instant::now() + period, FIRST_KNOCK);
    while result.is_err() && Instant::now() + wait < until {
        tokio::time::sleep(wait).await;
        result = once(ctx, subject, probe).await;
        wait = (wait * 2).min(LAST_KNOCK);
    }
    result
}

/// How a try went.
type Tried = Result<Good, Bad>;

#[derive(Debug, PartialEq, Eq)]
enum Good {
    Plainly,
    /// It counts as a success; this is told none the less.
    But(String),
}

#[derive(Debug, PartialEq, Eq)]
enum Bad {
    Failed(String),
    /// It could not even be asked.
    Errored(String),
}

fn answered(result: Result<(), String>) -> Tried {
    result.map(|()| Good::Plainly).map_err(Bad::Failed)
}

/// Reason and message of the event about a try.
fn plan_event(kind: ProbeKind, result: &Tried) -> Option<(&'static str, String)> {
    let kind = kind.as_str();
    match result {
        Ok(Good::Plainly) => None,
        Ok(Good::But(what)) => Some(("ProbeWarning", format!("{kind} probe warning: {what}"))),
        Err(Bad::Failed(why)) => Some(("Unhealthy", format!("{kind} probe failed: {why}"))),
        Err(Bad::Errored(why)) => {
            Some(("Unhealthy", format!("{kind} probe errored and resulted in unknown state: {why}")))
        }
    }
}

/// One try.
async fn once(ctx: &Context, subject: &Subject, probe: &Probe) -> Tried {
    let timeout = Duration::from_secs(probe.timeout_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(1).max(1));
    let host = |given: &Option<String>| given.clone().filter(|h| !h.is_empty()).unwrap_or(subject.pod_ip.clone());
    if let Some(exec) = &probe.exec {
        return exec_probe(ctx, subject, exec.command.as_deref().unwrap_or_default(), timeout).await;
    }
    if let Some(action) = &probe.http_get {
        let target = http_get::plan_target(&subject.container, action, &subject.pod_ip, "kube-probe/1.36");
        let answer = http_get::get(&target.map_err(Bad::Errored)?, timeout).await.map_err(Bad::Failed)?;
        return match answer.status {
            200..300 => Ok(Good::Plainly),
            300..400 => Ok(Good::But(format!("Probe terminated redirects, Response body: {}", answer.body))),
            status => Err(Bad::Failed(format!("HTTP probe failed with statuscode: {status}"))),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let (host, port) = (host(&action.host), http_get::port(&subject.container, &action.port));
        let port = port.map_err(Bad::Errored)?;
        return answered(match tokio::time::timeout(timeout, skiff_resolver::dial(&host, port)).await {
            Ok(result) => result.map(drop).map_err(|e| e.to_string()),
            Err(_) => Err(format!("dial tcp {}: i/o timeout", http_get::authority(&host, port))),
        });
    }
    if let Some(action) = &probe.grpc {
        let invalid = |_| Bad::Errored(format!("invalid port number: {}", action.port));
        let port = u16::try_from(action.port).map_err(invalid)?;
        let service = action.service.as_deref().unwrap_or_default();
        return answered(grpc_health::check(&subject.pod_ip, port, service, timeout).await);
    }
    let (pod, name) = (pod::format(&subject.pod), &subject.container.name);
    Err(Bad::Errored(format!("missing probe handler for {pod}:{name}")))
}

async fn exec_probe(ctx: &Context, subject: &Subject, command: &[String], timeout: Duration) -> Tried {
    match ctx.engine.exec_sync(&subject.id, command, Some(timeout)).await {
        Ok(result) if result.exit_code == 0 => Ok(Good::Plainly),
        Ok(result) => {
            let mut output = result.stdout;
            output.extend(result.stderr);
            Err(Bad::Failed(String::from_utf8_lossy(&output).into_owned()))
        }
        Err(skiff_runtime::Error::Timeout(_)) => {
            let (command, limit) = (command.join(" "), timeout.as_secs());
            Err(Bad::Failed(format!("command timed out: {command:?} timed out after {limit}s")))
        }
        Err(e) => Err(Bad::Errored(chain(&e).to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+`/`-` for a success/failure given, the verdict behind it where one is told.
    fn judge(kind: ProbeKind, ready: bool, success: i32, failure: i32, results: &str) -> String {
        let probe = Probe { success_threshold: Some(success), failure_threshold: Some(failure), ..Probe::default() };
        let mut judge = Judge::new(&probe, kind, ready);
        let mut out = String::new();
        for result in results.chars() {
            out.push(result);
            out.push_str(match judge.take(result == '+', kind) {
                Some(true) => "yes",
                Some(false) => "no",
                None => "",
            });
        }
        out
    }

    #[test]
    fn events() {
        let text = || "why".to_owned();
        for (result, expected) in [
            (Ok(Good::Plainly), None),
            (Ok(Good::But(text())), Some(("ProbeWarning", "Liveness probe warning: why"))),
            (Err(Bad::Failed(text())), Some(("Unhealthy", "Liveness probe failed: why"))),
            (
                Err(Bad::Errored(text())),
                Some(("Unhealthy", "Liveness probe errored and resulted in unknown state: why")),
            ),
        ] {
            let planned = plan_event(ProbeKind::Liveness, &result);
            assert_eq!(planned.as_ref().map(|(reason, message)| (*reason, message.as_str())), expected);
        }
    }

    #[test]
    fn thresholds() {
        use ProbeKind::{Liveness, Readiness, Startup};
        for (kind, ready, success, failure, results, expected) in [
            (Readiness, false, 1, 3, "--+---+", "--+yes---no+yes"),
            (Readiness, false, 2, 1, "+-++-", "+-++yes-no"),
            (Readiness, true, 1, 3, "---+", "---no+yes"),
            (Readiness, true, 1, 3, "+--+", "+--+"),
            (Liveness, false, 1, 3, "++--+---", "++--+---no"),
            (Startup, true, 1, 3, "--+", "--+yes"),
            (Startup, false, 1, 2, "--", "--no"),
        ] {
            assert_eq!(judge(kind, ready, success, failure, results), expected, "{kind:?}");
        }
    }
}
