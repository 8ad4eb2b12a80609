//! What a pod's status says: a pure function of the object, of what is known of its containers, and of the clock.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, HostIP, LinuxContainerUser, Pod, PodCondition, PodIP, PodStatus, ResourceStatus, VolumeMountStatus,
};
use serde_json::{Map, Value};
use skiff_runtime::{Exit, Runtime};

use crate::backoff::go_duration;
use crate::plan;
use crate::pod::{self, Role};
use crate::resources;
use crate::slot::{Run, RunState, Slot};

/// What is seen of a pod.
pub(crate) struct Seen<'a> {
    pub(crate) pod: &'a Pod,
    /// The status that was last made here, else the object's.
    pub(crate) last: &'a PodStatus,
    pub(crate) slots: &'a BTreeMap<String, Slot>,
    pub(crate) sandbox_ready: bool,
    pub(crate) pod_ips: &'a [IpAddr],
    pub(crate) host_ip: IpAddr,
    /// Every container has ended, and none is ever started again.
    pub(crate) terminal: bool,
    /// The agent itself ended the pod: reason and message.
    pub(crate) failed: Option<(&'a str, &'a str)>,
    /// It was ended in favour of others: how the condition tells it.
    pub(crate) disrupted: Option<&'a str>,
    /// All containers end, to begin anew.
    pub(crate) resetting: bool,
    /// It was not taken: nothing of it was ever begun.
    pub(crate) rejected: bool,
    /// The pod with the resources that it has now.
    pub(crate) given: &'a Pod,
    /// Why the node does not give the resources that are asked for: reason and message.
    pub(crate) resize_pending: Option<(&'a str, &'a str)>,
    /// Containers get other resources; what goes wrong with it.
    pub(crate) resizing: Option<Option<&'a str>>,
    /// How the devices of a container do.
    pub(crate) devices: &'a dyn Fn(&str) -> Option<Vec<ResourceStatus>>,
    pub(crate) now: Timestamp,
}

/// The conditions that the agent writes, in upstream's order.
const CONDITIONS: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];

const DISRUPTED: &str = "DisruptionTarget";
pub(crate) const RESETS: &str = "AllContainersRestarting";

pub(crate) const RESIZE_PENDING: &str = "PodResizePending";
pub(crate) const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";
/// Those that are there only while they hold.
const RESIZE_CONDITIONS: [&str; 2] = [RESIZE_PENDING, RESIZE_IN_PROGRESS];

fn has<'a>(status: &'a PodStatus, type_: &str) -> Option<&'a PodCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == type_)
}

/// One that holds.
pub(crate) fn holds<'a>(status: &'a PodStatus, type_: &str) -> Option<&'a PodCondition> {
    has(status, type_).filter(|c| c.status == "True")
}

/// Whether it says of a container that it runs.
pub(crate) fn tells_of_running(status: &PodStatus) -> bool {
    let lists = status.container_statuses.iter().chain(&status.init_container_statuses);
    let lists = lists.chain(&status.ephemeral_container_statuses);
    lists.flatten().any(|one| one.state.as_ref().is_some_and(|state| state.running.is_some()))
}

pub(crate) fn plan_status(seen: &Seen<'_>) -> PodStatus {
    let pod = seen.pod;
    if seen.rejected {
        return rejected(seen);
    }
    let has_inits = pod::spec(pod).init_containers.as_ref().is_some_and(|i| !i.is_empty());
    let (mut inits, mut mains) = (Vec::new(), Vec::new());
    for (role, container) in pod::containers(pod) {
        let list = if role == Role::Main { &mut mains } else { &mut inits };
        list.push(container_status(seen, role, container, has_inits));
    }
    let ephemeral: Vec<ContainerStatus> =
        pod::ephemeral(pod).iter().map(|c| container_status(seen, Role::Ephemeral, c, has_inits)).collect();
    let mut phase = phase(pod, &inits, &mains, seen.terminal, seen.resetting);
    let alive = seen.slots.values().any(Slot::is_alive);
    if alive && !seen.terminal && matches!(phase, "Succeeded" | "Failed") {
        // Not before the last sidecar is gone, too.
        phase = "Running";
    }
    // Why the pod was ended is told when it has: until then it holds what it has.
    let failed = seen.failed.filter(|_| !alive);
    if failed.is_some() {
        phase = "Failed";
    }
    let last = seen.last;
    if let Some(ended @ ("Succeeded" | "Failed")) = last.phase.as_deref() {
        // Ended is ended.
        phase = if ended == "Failed" { "Failed" } else { "Succeeded" };
    }
    let conditions = conditions(seen, phase, &inits, &mains);
    // They belong to the phase, whoever told them: an agent that ended a pod may be gone.
    let same = Some(last).filter(|last| last.phase.as_deref() == Some(phase));
    PodStatus {
        phase: Some(phase.to_owned()),
        reason: failed.map(|(reason, _)| reason.to_owned()).or_else(|| same.and_then(|last| last.reason.clone())),
        message: failed.map(|(_, message)| message.to_owned()).or_else(|| same.and_then(|last| last.message.clone())),
        conditions: Some(conditions),
        host_ip: Some(seen.host_ip.to_string()),
        host_ips: Some(vec![HostIP { ip: seen.host_ip.to_string() }]),
        pod_ip: seen.pod_ips.first().map(ToString::to_string),
        pod_ips: (!seen.pod_ips.is_empty())
            .then(|| seen.pod_ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        start_time: last.start_time.clone().or_else(|| Some(pod::time(seen.now))),
        init_container_statuses: (!inits.is_empty()).then_some(inits),
        container_statuses: Some(mains),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        qos_class: Some(resources::qos(pod).as_str().to_owned()),
        observed_generation: pod.metadata().generation,
        resources: Some(resources::told(seen.given, phase == "Running")),
        allocated_resources: resources::allocated(pod),
        ..PodStatus::default()
    }
}

fn rejected(seen: &Seen<'_>) -> PodStatus {
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: seen.failed.map(|(reason, _)| reason.to_owned()),
        message: seen.failed.map(|(_, message)| message.to_owned()),
        start_time: seen.last.start_time.clone().or_else(|| Some(pod::time(seen.now))),
        qos_class: Some(resources::qos(seen.pod).as_str().to_owned()),
        observed_generation: seen.pod.metadata().generation,
        ..PodStatus::default()
    }
}

fn container_status(seen: &Seen<'_>, role: Role, container: &Container, has_inits: bool) -> ContainerStatus {
    let waiting = |reason: &str, message: Option<String>| ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..ContainerState::default()
    };
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        started: (role != Role::Ephemeral).then_some(false),
        ..ContainerStatus::default()
    };
    status.volume_mounts = mounts(container);
    // Upstream tells it of these alone.
    status.allocated_resources_status = (role == Role::Main).then(|| (seen.devices)(&container.name)).flatten();
    let old = old_status(seen.last, role, &container.name);
    let Some(slot) = seen.slots.get(&container.name) else {
        status.state = Some(waiting(if has_inits { "PodInitializing" } else { "ContainerCreating" }, None));
        inherit(&mut status, old, seen.terminal);
        return status;
    };
    let terminated = |run: &Run| match &run.state {
        RunState::Exited(exit) => Some(terminated(run, exit)),
        _ => None,
    };
    let newest = slot.current.as_ref();
    if let Some(run) = newest {
        status.restart_count = i32::try_from(run.attempt).unwrap_or(i32::MAX);
        status.image_id = run.image_id.clone();
        status.user = run.user.as_ref().map(user);
        status.container_id = Some(format!("skiff://{}", run.id.0));
        if !run.image.is_empty() {
            // As a runtime names it, whatever the pod's text leaves out.
            status.image = Runtime::normalize(&run.image).unwrap_or_else(|_| run.image.clone());
        }
        status.last_state = slot.previous.as_ref().and_then(terminated);
        status.resources = Some(container.resources.clone().unwrap_or_default());
        status.allocated_resources = container.resources.as_ref().and_then(|r| r.requests.clone());
    }
    let ended = newest.and_then(terminated);
    let waits = match (&slot.failure, slot.crash_loop) {
        (Some(failure), _) => Some(waiting(failure.reason, Some(failure.message.clone()))),
        (None, Some(wait)) => {
            let (wait, pod) = (go_duration(wait), pod::format(seen.pod));
            let message = format!("back-off {wait} restarting failed container={} pod={pod}", container.name);
            Some(waiting("CrashLoopBackOff", Some(message)))
        }
        (None, None) => None,
    };
    // One that is not started again has ended, however its start went.
    let again = |run: &Run| match &run.state {
        RunState::Exited(exit) => plan::restarts(seen.pod, role, container, exit.code),
        _ => true,
    };
    let waits = waits.filter(|_| newest.is_none_or(again));
    match (waits, newest) {
        (Some(state), _) if !seen.terminal && !slot.is_alive() => {
            status.state = Some(state);
            if ended.is_some() {
                status.last_state = ended;
            }
        }
        (_, Some(Run { state: RunState::Running { since }, started, ready, resources: run_resources, .. })) => {
            let running = ContainerStateRunning { started_at: Some(pod::time(*since)) };
            status.state = Some(ContainerState { running: Some(running), ..ContainerState::default() });
            status.started = (role != Role::Ephemeral).then_some(*started);
            status.ready = *ready && matches!(role, Role::Main | Role::Sidecar);
            status.resources = Some(run_resources.clone());
        }
        (_, Some(Run { state: RunState::Exited(exit), .. })) => {
            status.ready = role == Role::Init && exit.code == 0;
            status.state = ended;
        }
        _ => {
            status.state = Some(waiting(if has_inits { "PodInitializing" } else { "ContainerCreating" }, None));
            inherit(&mut status, old, seen.terminal);
            let last = slot.previous.as_ref().filter(|_| newest.is_none() && !seen.terminal).and_then(terminated);
            status.last_state = last.or(status.last_state.take());
        }
    }
    status
}

fn user(of: &skiff_runtime::ContainerUser) -> ContainerUser {
    let groups = of.groups.iter().map(|group| i64::from(*group)).collect();
    let linux = LinuxContainerUser { uid: of.uid.into(), gid: of.gid.into(), supplemental_groups: Some(groups) };
    ContainerUser { linux: Some(linux) }
}

/// A container that the runtime knows nothing of (yet): what the API says of earlier runs stays, and one that should
/// have ended but left no trace is said to be lost.
fn inherit(status: &mut ContainerStatus, old: Option<&ContainerStatus>, terminal: bool) {
    let Some(old) = old else { return };
    status.restart_count = status.restart_count.max(old.restart_count);
    if status.last_state.is_none() {
        status.last_state = old.last_state.clone().filter(|s| s.terminated.is_some());
    }
    let ran = old.state.as_ref().filter(|s| s.running.is_some() || s.terminated.is_some());
    let Some(ran) = ran else { return };
    if ran.terminated.is_some() {
        if terminal {
            status.state = Some(ran.clone());
        } else {
            status.last_state = Some(ran.clone());
        }
        status.container_id = old.container_id.clone();
        status.image_id = old.image_id.clone();
        return;
    }
    let lost = ContainerState {
        terminated: Some(ContainerStateTerminated {
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            exit_code: 137,
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    };
    if terminal {
        status.state = Some(lost);
    } else {
        status.last_state = Some(lost);
    }
    status.image_id = old.image_id.clone();
}

fn old_status<'a>(status: &'a PodStatus, role: Role, name: &str) -> Option<&'a ContainerStatus> {
    let list = match role {
        Role::Main => &status.container_statuses,
        Role::Init | Role::Sidecar => &status.init_container_statuses,
        Role::Ephemeral => &status.ephemeral_container_statuses,
    };
    list.iter().flatten().find(|s| s.name == name)
}

fn terminated(run: &Run, exit: &Exit) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(format!("skiff://{}", run.id.0)),
            exit_code: exit.code,
            reason: Some(exit.reason.clone()).filter(|r| !r.is_empty()),
            message: Some(exit.message.clone()).filter(|m| !m.is_empty()),
            started_at: started(exit).map(pod::time),
            finished_at: Some(pod::time(exit.finished)),
            signal: None,
        }),
        ..ContainerState::default()
    }
}

/// One that never ran began at the beginning of time, as upstream has it; of one that is lost nothing is known.
fn started(exit: &Exit) -> Option<Timestamp> {
    exit.started.or_else(|| (exit.reason != "ContainerStatusUnknown").then_some(Timestamp::UNIX_EPOCH))
}

fn mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts: Vec<VolumeMountStatus> = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|m| VolumeMountStatus {
            name: m.name.clone(),
            mount_path: m.mount_path.clone(),
            read_only: m.read_only.filter(|r| *r),
            recursive_read_only: m
                .read_only
                .filter(|r| *r)
                .map(|_| if pod::is_recursive(m) { "Enabled" } else { "Disabled" }.to_owned()),
            ..VolumeMountStatus::default()
        })
        .collect();
    (!mounts.is_empty()).then_some(mounts)
}

fn exit_code(state: Option<&ContainerState>) -> Option<i32> {
    state?.terminated.as_ref().map(|t| t.exit_code)
}

/// As the status tells of a container that ended since another had all begin anew.
const RESETTING: &str = "RestartingAllContainers";

pub(crate) fn reset(exit: &mut Exit) {
    exit.reason = RESETTING.to_owned();
    exit.message = "The container is removed because RestartAllContainers in place".to_owned();
}

/// Upstream's `getPhase`.
fn phase(
    pod: &Pod,
    inits: &[ContainerStatus],
    mains: &[ContainerStatus],
    terminal: bool,
    resetting: bool,
) -> &'static str {
    let again = |name: &str, state: Option<&ContainerState>, code: i32| {
        let ended = state.and_then(|state| state.terminated.as_ref());
        let reset = resetting || ended.and_then(|ended| ended.reason.as_deref()) == Some(RESETTING);
        reset || pod::container(pod, name).is_some_and(|(role, c)| plan::restarts(pod, role, c, code))
    };
    let (mut pending_init, mut failed_init) = (false, false);
    for status in inits {
        let sidecar = pod::container(pod, &status.name).is_some_and(|(role, _)| role == Role::Sidecar);
        let state = status.state.as_ref();
        if sidecar {
            let has_run = state.is_some_and(|s| s.running.is_some() || s.terminated.is_some())
                || status.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
            let up = state.is_some_and(|s| s.running.is_none()) || status.started == Some(true);
            pending_init |= !(has_run && up);
        } else if state.is_some_and(|s| s.running.is_some()) {
            pending_init = true;
        } else if let Some((of, code)) =
            [state, status.last_state.as_ref()].into_iter().find_map(|of| Some((of, exit_code(of)?)))
        {
            let again = again(&status.name, of, code);
            failed_init |= code != 0 && !again;
            pending_init |= code != 0 && again;
        } else {
            pending_init = true;
        }
    }
    let (mut waiting, mut running, mut stopped, mut succeeded, mut restarted) = (0, 0, 0, 0, 0);
    for status in mains {
        let state = status.state.as_ref();
        if state.is_some_and(|s| s.running.is_some()) {
            running += 1;
        } else if let Some(code) = exit_code(state) {
            stopped += 1;
            succeeded += i32::from(code == 0);
            restarted += i32::from(again(&status.name, state, code));
        } else if status.last_state.as_ref().is_some_and(|s| s.terminated.is_some()) {
            // It waits to be started again.
            stopped += 1;
            restarted += 1;
        } else {
            waiting += 1;
        }
    }
    if failed_init {
        return "Failed";
    }
    let begun = running + stopped > 0;
    if pending_init && !begun && !terminal {
        return "Pending";
    }
    match () {
        () if waiting > 0 => {
            if terminal {
                "Failed"
            } else {
                "Pending"
            }
        }
        () if running > 0 => "Running",
        () if stopped > 0 && terminal => {
            if stopped == succeeded {
                "Succeeded"
            } else {
                "Failed"
            }
        }
        () if restarted > 0 => "Running",
        () if stopped > 0 && stopped == succeeded => "Succeeded",
        () if stopped > 0 => "Failed",
        () => "Pending",
    }
}

fn conditions(seen: &Seen<'_>, phase: &str, inits: &[ContainerStatus], mains: &[ContainerStatus]) -> Vec<PodCondition> {
    let verdict = |status: bool, reason: &str, message: String| {
        (
            if status { "True" } else { "False" },
            Some(reason.to_owned()).filter(|r| !r.is_empty()),
            Some(message).filter(|m| !m.is_empty()),
        )
    };
    let yes = || verdict(true, "", String::new());
    let initialized = {
        let begun = mains.iter().any(|s| s.container_id.is_some());
        let waiting: Vec<&str> = inits
            .iter()
            .filter(|s| match pod::container(seen.pod, &s.name) {
                Some((Role::Sidecar, _)) => s.started != Some(true),
                _ => exit_code(s.state.as_ref()) != Some(0),
            })
            .map(|s| s.name.as_str())
            .collect();
        if phase == "Succeeded" {
            verdict(true, if inits.is_empty() { "PodCompleted" } else { "" }, String::new())
        } else if waiting.is_empty() || begun {
            yes()
        } else {
            let message = format!("containers with incomplete status: [{}]", waiting.join(" "));
            verdict(false, "ContainersNotInitialized", message)
        }
    };
    let containers_ready = {
        let sidecars = inits.iter().filter(|s| matches!(pod::container(seen.pod, &s.name), Some((Role::Sidecar, _))));
        let unready: Vec<&str> = sidecars.chain(mains).filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
        match phase {
            "Succeeded" => verdict(false, "PodCompleted", String::new()),
            "Failed" => verdict(false, "PodFailed", String::new()),
            _ if unready.is_empty() => yes(),
            _ => {
                let message = format!("containers with unready status: [{}]", unready.join(" "));
                verdict(false, "ContainersNotReady", message)
            }
        }
    };
    let ready = match gates(seen.pod) {
        Some(message) if containers_ready.0 == "True" => verdict(false, "ReadinessGatesNotReady", message),
        _ => containers_ready.clone(),
    };
    let sandbox = seen.sandbox_ready && !seen.pod_ips.is_empty();
    let values = [verdict(sandbox, "", String::new()), initialized, ready, containers_ready];
    let mut conditions: Vec<PodCondition> = CONDITIONS
        .iter()
        .zip(values)
        .map(|(type_, (status, reason, message))| condition(seen, type_, status, reason, message))
        .collect();
    conditions.push(condition(seen, "PodScheduled", "True", None, None));
    if plan::may_reset(seen.pod) {
        let (status, reason, message) = match phase {
            "Succeeded" => ("False", Some("PodCompleted"), None),
            "Failed" => ("False", Some("PodFailed"), None),
            _ if seen.resetting => {
                ("True", Some("RestartAllContainersStarted"), Some("container exited with restart policy rule"))
            }
            _ => ("False", None, None),
        };
        let (reason, message) = (reason.map(str::to_owned), message.map(str::to_owned));
        conditions.push(condition(seen, RESETS, status, reason, message));
    }
    if let Some(message) = seen.disrupted.filter(|_| matches!(phase, "Succeeded" | "Failed")) {
        let reason = Some("TerminationByKubelet".to_owned());
        conditions.push(condition(seen, DISRUPTED, "True", reason, Some(message.to_owned())));
    }
    if let Some((reason, message)) = seen.resize_pending {
        let (reason, message) = (Some(reason.to_owned()), Some(message.to_owned()));
        conditions.push(condition(seen, RESIZE_PENDING, "True", reason, message));
    }
    if let Some(error) = seen.resizing {
        let reason = error.map(|_| "Error".to_owned());
        conditions.push(condition(seen, RESIZE_IN_PROGRESS, "True", reason, error.map(str::to_owned)));
    }
    conditions
}

/// Keeps the time of the last change.
fn condition(
    seen: &Seen<'_>,
    type_: &str,
    status: &str,
    reason: Option<String>,
    message: Option<String>,
) -> PodCondition {
    let find = |status: &PodStatus| has(status, type_).cloned();
    let old = find(seen.last).or_else(|| seen.pod.status.as_ref().and_then(find));
    let since = old.filter(|c| c.status == status).and_then(|c| c.last_transition_time);
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason,
        message,
        last_transition_time: since.or_else(|| Some(pod::time(seen.now))),
        observed_generation: seen.pod.metadata.generation,
        last_probe_time: None,
    }
}

/// What a readiness gate lacks.
fn gates(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let mut lacks = Vec::new();
    for gate in pod::spec(pod).readiness_gates.iter().flatten() {
        let type_ = &gate.condition_type;
        match conditions.iter().find(|c| c.type_ == *type_) {
            None => lacks.push(format!("corresponding condition of pod readiness gate {type_:?} does not exist.")),
            Some(c) if c.status != "True" => {
                lacks.push(format!("the status of pod readiness gate {type_:?} is not \"True\", but {}", c.status))
            }
            Some(_) => {}
        }
    }
    (!lacks.is_empty()).then(|| lacks.join(", "))
}

/// The strategic merge patch that turns `old` into `new`; `None` where they are equal. The `uid` makes the server
/// refuse it for a pod of the same name.
pub(crate) fn plan_patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    // Asked at every step of a pod; encoding is a hundred times the work.
    if old == new {
        return None;
    }
    let encode = |status: &PodStatus| match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let (old, new) = (encode(old), encode(new));
    let gone = ["reason", "message", "podIP", "podIPs", "resources", "allocatedResources"].into_iter();
    let gone = gone.filter(|field| old.contains_key(*field) && !new.contains_key(*field));
    let mut changed: Map<String, Value> = gone.map(|field| (field.to_owned(), Value::Null)).collect();
    for (field, value) in new {
        if field == "conditions" {
            let list = changed_conditions(old.get(&field), &value);
            if !list.is_empty() {
                changed.insert(field, Value::Array(list));
            }
        } else if old.get(&field) != Some(&value) {
            // Maps are merged.
            let value = match (old.get(&field), field.as_str()) {
                (Some(before), "resources" | "allocatedResources") => without_gone(before, value),
                _ => value,
            };
            changed.insert(field, value);
        }
    }
    if let Some(list) = changed.get_mut("podIPs").and_then(Value::as_array_mut) {
        // Merged by address otherwise.
        list.insert(0, serde_json::json!({"$patch": "replace"}));
    }
    (!changed.is_empty()).then(|| serde_json::json!({"metadata": {"uid": uid}, "status": changed}))
}

/// Names what a map has no more, at whatever depth.
fn without_gone(before: &Value, mut value: Value) -> Value {
    if let (Some(before), Some(map)) = (before.as_object(), value.as_object_mut()) {
        for (name, before) in before {
            let now = map.remove(name).map_or(Value::Null, |now| without_gone(before, now));
            map.insert(name.clone(), now);
        }
    }
    value
}

/// Conditions are merged by type, so that those of others stay.
fn changed_conditions(old: Option<&Value>, new: &Value) -> Vec<Value> {
    let old = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let new = new.as_array().map(Vec::as_slice).unwrap_or_default();
    let gone = RESIZE_CONDITIONS.iter().filter(|type_| {
        let has = |list: &[Value]| list.iter().any(|c| c["type"] == **type_);
        has(old) && !has(new)
    });
    let gone = gone.map(|type_| serde_json::json!({"$patch": "delete", "type": type_}));
    let changed = new.iter().filter_map(|condition| {
        let before = old.iter().find(|c| c["type"] == condition["type"]);
        if before == Some(condition) {
            return None;
        }
        let mut condition = condition.clone();
        for field in ["reason", "message"] {
            if condition.get(field).is_none() && before.is_some_and(|b| b.get(field).is_some()) {
                condition[field] = Value::Null;
            }
        }
        Some(condition)
    });
    gone.chain(changed).collect()
}

#[cfg(test)]
mod tests;
