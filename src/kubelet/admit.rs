//! Whether this node takes a pod that it has not begun to run: a pure function of the pod and the node.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use k8s_openapi::api::core::v1::{AppArmorProfile, Node, Pod};
use skiff_api::host_port::HostPort;
use skiff_api::node_selector::{self, Selected};
use skiff_api::taint;

use crate::pod::{self, PodUid};
use crate::pressure::condition::Condition;
use crate::resize::Lack;
use crate::resources::{self, Qos};

/// Why a pod is not taken, in upstream's words: reason and message of its status and of the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) reason: Cow<'static, str>,
    pub(crate) message: String,
}

/// What the decision asks of the node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Host {
    /// AppArmor is in force.
    pub(crate) app_armor: bool,
    /// Names, or prefixes that end in `*`.
    pub(crate) allowed_unsafe_sysctls: Vec<String>,
}

const OS_LABEL: &str = "kubernetes.io/os";

/// Those that reach nobody but the pod itself.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";
const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

pub(crate) fn admit(pod: &Pod, host: &Host, pressure: &BTreeSet<Condition>) -> Result<(), Rejection> {
    if !bears(pod, pressure) {
        let names: Vec<&str> = pressure.iter().map(|condition| condition.name()).collect();
        let message = format!("The node had condition: [{}]. ", names.join(" "));
        return Err(Rejection { reason: "Evicted".into(), message });
    }
    if pod.metadata.labels.as_ref().and_then(|labels| labels.get(OS_LABEL)).is_some_and(|os| os != "linux") {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label".to_owned();
        return Err(Rejection { reason: "PodOSSelectorNodeLabelDoesNotMatch".into(), message });
    }
    if pod::spec(pod).os.as_ref().is_some_and(|os| os.name != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS".to_owned();
        return Err(Rejection { reason: "PodOSNotSupported".into(), message });
    }
    if let Err(why) = check_sysctls(pod, host) {
        return Err(Rejection { reason: "SysctlForbidden".into(), message: format!("forbidden sysctl: {why}") });
    }
    if !host.app_armor && needs_app_armor(pod) {
        let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned();
        return Err(Rejection { reason: "AppArmor".into(), message });
    }
    Ok(())
}

/// Whether the pod and this node want each other, whoever brought them together.
pub(crate) fn fits(pod: &Pod, node: &Node) -> Result<(), Rejection> {
    let spec = pod::spec(pod);
    let node = Facts(node);
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| node.label(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    if !selected || !required.is_none_or(|selector| node_selector::matches(selector, &node)) {
        return Err(failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    let taints = node.0.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut driving = taints.filter(|taint| taint.effect == "NoExecute");
    if !pod::is_static(pod) && driving.any(|taint| !taint::tolerates(spec.tolerations.as_deref(), taint)) {
        return Err(failed("TaintToleration", "node(s) had taints that the pod didn't tolerate"));
    }
    Ok(())
}

fn failed(predicate: &'static str, why: &str) -> Rejection {
    Rejection { reason: predicate.into(), message: format!("Predicate {predicate} failed: {why}") }
}

/// While the machine goes down.
pub(crate) fn goes_down() -> Rejection {
    Rejection { reason: "NodeShutdown".into(), message: "Pod was rejected as the node is shutting down.".to_owned() }
}

struct Facts<'a>(&'a Node);

impl Selected for Facts<'_> {
    fn name(&self) -> &str {
        self.0.metadata.name.as_deref().unwrap_or_default()
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.0.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }
}

/// The node's ports that pods have.
#[derive(Debug, Default)]
pub(crate) struct Ports(Mutex<HashMap<PodUid, Vec<HostPort>>>);

impl Ports {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PodUid, Vec<HostPort>>> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// What a pod that runs has.
    pub(crate) fn hold(&self, uid: &PodUid, pod: &Pod) {
        let ports = HostPort::of(pod::spec(pod));
        if !ports.is_empty() {
            self.lock().insert(uid.clone(), ports);
        }
    }

    /// Gives a pod the ports that it wants, if no other has one of them.
    pub(crate) fn take(&self, uid: &PodUid, pod: &Pod) -> Result<(), Rejection> {
        let wanted = HostPort::of(pod::spec(pod));
        if wanted.is_empty() {
            return Ok(());
        }
        let mut held = self.lock();
        let mut others = held.iter().filter(|(other, _)| *other != uid).flat_map(|(_, ports)| ports);
        if others.any(|port| wanted.iter().any(|wanted| wanted.conflicts(port))) {
            return Err(failed("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
        }
        held.insert(uid.clone(), wanted);
        Ok(())
    }

    pub(crate) fn release(&self, uid: &PodUid) {
        self.lock().remove(uid);
    }
}

/// Whether a pod may begin on a node that lacks something: a critical one may, and for lack of memory alone one that asks
/// for some, or that says it bears it.
fn bears(pod: &Pod, pressure: &BTreeSet<Condition>) -> bool {
    if pressure.is_empty() || pod::is_critical(pod) {
        return true;
    }
    if pressure.iter().any(|condition| *condition != Condition::Memory) {
        return false;
    }
    let tolerates = pod::spec(pod).tolerations.iter().flatten().any(|toleration| {
        let key = toleration.key.as_deref().unwrap_or_default();
        let effect = toleration.effect.as_deref().unwrap_or_default();
        (key == MEMORY_PRESSURE || (key.is_empty() && toleration.operator.as_deref() == Some("Exists")))
            && (effect.is_empty() || effect == "NoSchedule")
    });
    resources::qos(pod) != Qos::BestEffort || tolerates
}

impl Rejection {
    fn unexpected(message: String) -> Self {
        Self { reason: "UnexpectedAdmissionError".into(), message }
    }

    pub(crate) fn of_devices(why: String) -> Self {
        Self::unexpected(format!("Allocate failed due to {why}, which is unexpected"))
    }

    /// No room can be made for a critical pod.
    pub(crate) fn of_preemption(why: &str) -> Self {
        Self::unexpected(format!("Unexpected error while attempting to recover from admission failure: {why}"))
    }
}

/// A pod that a client put on the node past the scheduler, and that asks for more than is left.
impl From<Lack> for Rejection {
    fn from(lack: Lack) -> Self {
        Self { reason: format!("OutOf{}", lack.resource).into(), message: lack.to_string() }
    }
}

fn check_sysctls(pod: &Pod, host: &Host) -> Result<(), String> {
    let spec = pod::spec(pod);
    for sysctl in spec.security_context.iter().flat_map(|c| c.sysctls.iter().flatten()) {
        let name = dotted(&sysctl.name);
        let unsafe_allowed = host.allowed_unsafe_sysctls.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == *allowed,
        });
        if !SAFE_SYSCTLS.contains(&name.as_str()) && !unsafe_allowed {
            return Err(format!("{name:?} not allowlisted"));
        }
        let (shared, namespace) = match name.starts_with("net.") {
            true => (spec.host_network == Some(true), "net"),
            false => (spec.host_ipc == Some(true), "ipc"),
        };
        if shared {
            return Err(format!("{name:?} not allowed with host {namespace} enabled"));
        }
    }
    Ok(())
}

/// With dots between the parts, as upstream compares them; where slashes separate, dots belong to the parts.
pub(crate) fn dotted(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// Upstream's rule: any profile but none.
fn needs_app_armor(pod: &Pod) -> bool {
    let confined = |profile: &AppArmorProfile| profile.type_ != "Unconfined";
    let shared = pod::spec(pod).security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
    let own = pod::containers(pod)
        .filter_map(|(_, c)| c.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref()));
    let annotations = pod.metadata.annotations.iter().flatten();
    shared.into_iter().chain(own).any(confined)
        || annotations.into_iter().any(|(key, value)| key.starts_with(APP_ARMOR_ANNOTATION) && value != "unconfined")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn who_is_taken() {
        let armored = Host { app_armor: true, ..Host::default() };
        let bare = Host::default();
        let lax =
            Host { allowed_unsafe_sysctls: vec!["kernel.msg*".into(), "net.core.somaxconn".into()], ..Host::default() };
        let sysctl = |name: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        let with = |mut spec: Value, field: &str| {
            spec[field] = json!(true);
            spec
        };
        let profile = |kind: &str| json!({"securityContext": {"appArmorProfile": {"type": kind}}});
        let own = json!({"containers": [{"name": "c", "securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "p"}}}]});
        let no_armor = "AppArmor: Cannot enforce AppArmor: AppArmor is not enabled on the host";
        for (spec, host, expected) in [
            (json!({}), &bare, ""),
            (profile("RuntimeDefault"), &bare, no_armor),
            (profile("Unconfined"), &bare, ""),
            (profile("RuntimeDefault"), &armored, ""),
            (own.clone(), &bare, no_armor),
            (own, &armored, ""),
            (sysctl("kernel.shm_rmid_forced"), &bare, ""),
            (sysctl("net/ipv4/tcp_syncookies"), &bare, ""),
            (sysctl("kernel.msgmax"), &bare, "SysctlForbidden: forbidden sysctl: \"kernel.msgmax\" not allowlisted"),
            (sysctl("kernel.msgmax"), &lax, ""),
            (sysctl("net.core.somaxconn"), &lax, ""),
            (sysctl("net.core.other"), &lax, "SysctlForbidden: forbidden sysctl: \"net.core.other\" not allowlisted"),
            (
                with(sysctl("net.ipv4.tcp_syncookies"), "hostNetwork"),
                &bare,
                "SysctlForbidden: forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host net enabled",
            ),
            (
                with(sysctl("kernel.shm_rmid_forced"), "hostIPC"),
                &bare,
                "SysctlForbidden: forbidden sysctl: \"kernel.shm_rmid_forced\" not allowed with host ipc enabled",
            ),
            (with(sysctl("kernel.shm_rmid_forced"), "hostNetwork"), &bare, ""),
            (
                json!({"os": {"name": "windows"}}),
                &bare,
                "PodOSNotSupported: Failed to admit pod as the OS field doesn't match node OS",
            ),
        ] {
            let mut spec = spec;
            if spec["containers"].is_null() {
                spec["containers"] = json!([{"name": "c"}]);
            }
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a pod");
            let found = admit(&pod, host, &BTreeSet::new())
                .err()
                .map(|r| format!("{}: {}", r.reason, r.message))
                .unwrap_or_default();
            assert_eq!(found, expected, "{spec}");
        }
        let annotated: Pod = serde_json::from_value(json!({"spec": {"containers": []},
            "metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/c": "runtime/default"}}}))
        .expect("a pod");
        assert_eq!(admit(&annotated, &bare, &BTreeSet::new()).map_err(|r| r.reason), Err("AppArmor".into()));
    }

    #[test]
    fn who_begins_under_pressure() {
        let memory = [Condition::Memory];
        let disk = [Condition::Memory, Condition::Disk];
        let asks = json!({"containers": [{"name": "c", "resources": {"requests": {"memory": "1Mi"}}}]});
        let bears = json!({"containers": [{"name": "c"}],
            "tolerations": [{"key": MEMORY_PRESSURE, "operator": "Exists", "effect": "NoSchedule"}]});
        let critical = json!({"containers": [{"name": "c"}], "priority": 2_000_000_000});
        let plain = json!({"containers": [{"name": "c"}]});
        let said = |names: &str| format!("Evicted: The node had condition: [{names}]. ");
        for (spec, pressure, expected) in [
            (&plain, &[][..], String::new()),
            (&plain, &memory, said("MemoryPressure")),
            (&asks, &memory, String::new()),
            (&bears, &memory, String::new()),
            (&asks, &disk, said("MemoryPressure DiskPressure")),
            (&critical, &disk, String::new()),
        ] {
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a pod");
            let judged = admit(&pod, &Host::default(), &pressure.iter().copied().collect());
            let found = judged.err().map(|r| format!("{}: {}", r.reason, r.message)).unwrap_or_default();
            assert_eq!(found, expected, "{spec}");
        }
    }

    #[test]
    fn who_fits() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"disk": "ssd"}},
            "spec": {"taints": [{"key": "gone", "effect": "NoExecute"}, {"key": "full", "effect": "NoSchedule"}]}}))
        .expect("a node");
        let affinity = |key: &str| {
            let term = json!({"matchExpressions": [{"key": key, "operator": "Exists"}]});
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}})
        };
        let bears = json!([{"key": "gone", "operator": "Exists"}]);
        let no_affinity =
            "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        let no_taint =
            "TaintToleration: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
        for (spec, is_static, expected) in [
            (json!({"tolerations": bears}), false, ""),
            (json!({}), false, no_taint),
            (json!({}), true, ""),
            (json!({"tolerations": bears, "nodeSelector": {"disk": "ssd"}}), false, ""),
            (json!({"tolerations": bears, "nodeSelector": {"disk": "hdd"}}), false, no_affinity),
            (json!({"nodeSelector": {"disk": "hdd"}}), true, no_affinity),
            (json!({"tolerations": bears, "affinity": affinity("disk")}), false, ""),
            (json!({"tolerations": bears, "affinity": affinity("other")}), false, no_affinity),
        ] {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let source = if is_static { "file" } else { "api" };
            let pod: Pod = serde_json::from_value(
                json!({"metadata": {"annotations": {pod::CONFIG_SOURCE: source}}, "spec": spec}),
            )
            .expect("a pod");
            let found = fits(&pod, &node).err().map(|r| format!("{}: {}", r.reason, r.message)).unwrap_or_default();
            assert_eq!(found, expected, "{spec}");
        }
    }

    #[test]
    fn ports_are_one_pods() {
        let pod = |port: Value| -> Pod {
            let container = json!({"name": "c", "ports": [port]});
            serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [container]}})).expect("a pod")
        };
        let ports = Ports::default();
        let uid = |name: &str| PodUid(name.to_owned());
        let web = pod(json!({"containerPort": 80, "hostPort": 80}));
        let local = pod(json!({"containerPort": 80, "hostPort": 80, "hostIP": "127.0.0.1"}));
        let names = pod(json!({"containerPort": 80, "hostPort": 80, "protocol": "UDP"}));
        ports.take(&uid("a"), &web).expect("free");
        ports.take(&uid("a"), &web).expect("its own");
        ports.take(&uid("b"), &names).expect("of another protocol");
        for other in [&web, &local] {
            assert_eq!(ports.take(&uid("c"), other).map_err(|r| r.reason), Err("NodePorts".into()));
        }
        ports.release(&uid("a"));
        ports.take(&uid("c"), &local).expect("free again");
        ports.hold(&uid("d"), &web);
        assert!(ports.take(&uid("e"), &local).is_err());
    }

    #[test]
    fn separators() {
        for (name, expected) in
            [("a.b.c", "a.b.c"), ("a/b/c", "a.b.c"), ("net/ipv4/conf/eth0.1/x", "net.ipv4.conf.eth0/1.x")]
        {
            assert_eq!(dotted(name), expected);
        }
    }
}
