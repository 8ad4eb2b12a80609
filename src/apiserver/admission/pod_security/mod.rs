//! PodSecurity: the Pod Security Standards, by the labels of the namespace. Pods are refused and warned of, what makes
//! pods is only warned of; the audit log has both.

mod baseline;
mod finding;
mod policy;
mod restricted;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::Value;
use skiff_api::ApiError;

use self::finding::Finding;
use self::policy::{Level, LevelVersion, Policy, Version};
use super::request::{Operation, Request};
use crate::audit;

/// The newest version of the standards, this server's.
const NEWEST: u32 = 36;
/// Not more pods of a namespace are looked at when its level changes.
const MOST_PODS: usize = 3000;
/// Subresources that change nothing of the spec.
const HARMLESS: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// Annotations of the audit log.
const ENFORCE_POLICY: &str = "pod-security.kubernetes.io/enforce-policy";
const AUDIT_VIOLATIONS: &str = "pod-security.kubernetes.io/audit-violations";

struct Check {
    id: &'static str,
    level: Level,
    /// The first minor version that has it.
    since: u32,
    /// What it stands in place of, in the level `restricted`.
    instead_of: &'static str,
    find: fn(&Value, u32) -> Option<Finding>,
}

const fn check(level: Level, id: &'static str, since: u32, find: fn(&Value, u32) -> Option<Finding>) -> Check {
    Check { id, level, since, instead_of: "", find }
}

const fn instead(
    id: &'static str,
    since: u32,
    instead_of: &'static str,
    find: fn(&Value, u32) -> Option<Finding>,
) -> Check {
    Check { id, level: Level::Restricted, since, instead_of, find }
}

/// In upstream's order: by level, then by id.
static CHECKS: [Check; 19] = [
    check(Level::Baseline, "appArmorProfile", 0, baseline::app_armor),
    check(Level::Baseline, "capabilities_baseline", 0, baseline::capabilities),
    check(Level::Baseline, "hostNamespaces", 0, baseline::host_namespaces),
    check(Level::Baseline, "hostPathVolumes", 0, baseline::host_paths),
    check(Level::Baseline, "hostPorts", 0, baseline::host_ports),
    check(Level::Baseline, "hostProbesAndHostLifecycle", 34, baseline::host_probes),
    check(Level::Baseline, "privileged", 0, baseline::privileged),
    check(Level::Baseline, "procMount", 0, baseline::proc_mount),
    check(Level::Baseline, "seLinuxOptions", 0, baseline::se_linux),
    check(Level::Baseline, "seccompProfile_baseline", 0, baseline::seccomp),
    check(Level::Baseline, "sysctls", 0, baseline::sysctls),
    check(Level::Baseline, "windowsHostProcess", 0, baseline::windows_host_process),
    check(Level::Restricted, "allowPrivilegeEscalation", 8, restricted::privilege_escalation),
    instead("capabilities_restricted", 22, "capabilities_baseline", restricted::capabilities),
    instead("procMount_restricted", 35, "procMount", baseline::any_proc_mount),
    instead("restrictedVolumes", 0, "hostPathVolumes", restricted::volumes),
    check(Level::Restricted, "runAsNonRoot", 0, restricted::run_as_non_root),
    check(Level::Restricted, "runAsUser", 23, restricted::run_as_user),
    instead("seccompProfile_restricted", 19, "seccompProfile_baseline", restricted::seccomp),
];

/// What is wrong with a pod, or a template of one, for a level.
fn findings(wanted: LevelVersion, pod: &Value) -> Vec<Finding> {
    let minor = match wanted.version {
        Version::Latest => NEWEST,
        Version::Minor(minor) => minor.min(NEWEST),
    };
    let applies = |check: &&Check| check.level <= wanted.level && check.since <= minor;
    let checks: Vec<&Check> = CHECKS.iter().filter(applies).collect();
    let replaced = |check: &Check| checks.iter().any(|other| other.instead_of == check.id);
    checks.iter().filter(|check| !replaced(check)).filter_map(|check| (check.find)(pod, minor)).collect()
}

fn details(findings: &[Finding]) -> String {
    findings.iter().map(|one| format!("{} ({})", one.reason, one.detail)).collect::<Vec<_>>().join(", ")
}

/// Where the pod of a workload is described.
fn template<'a>(request: &Request<'_>, object: &'a Value) -> Option<&'a Value> {
    let template = match (request.row.group(), request.row.resource()) {
        ("", "podtemplates") => &object["template"],
        ("", "replicationcontrollers")
        | ("apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets")
        | ("batch", "jobs") => &object["spec"]["template"],
        ("batch", "cronjobs") => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => return None,
    };
    template["spec"].is_object().then_some(template)
}

pub(super) fn check_request(request: &Request<'_>, object: &Value, warnings: &mut Vec<String>) -> Result<(), ApiError> {
    if request.row.is("", "namespaces") {
        return check_namespace(request, object, warnings);
    }
    let is_pod = request.row.is("", "pods");
    let pod = if is_pod { Some(object) } else { template(request, object) };
    let Some(pod) = pod else { return Ok(()) };
    if (is_pod && HARMLESS.contains(&request.subresource)) || (!is_pod && !request.subresource.is_empty()) {
        return Ok(());
    }
    let Some(namespace) = request.server.resource("namespaces").find("", &request.key.namespace) else {
        return Err(ApiError::internal(format!("failed to lookup namespace {:?}", request.key.namespace)));
    };
    let (policy, _) = Policy::of(&namespace.meta.labels);
    if policy.allows_all() || (is_pod && request.old.is_some_and(|old| !is_significant(pod, old))) {
        return Ok(());
    }
    let wrong = findings(policy.audit, pod);
    if !wrong.is_empty() {
        let why = format!("would violate PodSecurity \"{}\": {}", policy.audit, details(&wrong));
        audit::note(audit::Level::Metadata, || (AUDIT_VIOLATIONS.to_owned(), why));
    }
    if is_pod {
        audit::note(audit::Level::Metadata, || (ENFORCE_POLICY.to_owned(), policy.enforce.to_string()));
        let wrong = findings(policy.enforce, pod);
        if !wrong.is_empty() {
            let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, details(&wrong));
            return Err(request.forbidden(&why));
        }
    }
    let wrong = findings(policy.warn, pod);
    if !wrong.is_empty() {
        warnings.push(format!("would violate PodSecurity \"{}\": {}", policy.warn, details(&wrong)));
    }
    Ok(())
}

/// Of a pod that exists only the images can become others, and ephemeral containers be added.
fn is_significant(new: &Value, old: &Value) -> bool {
    let list = |pod: &Value, field: &str| pod["spec"][field].as_array().cloned().unwrap_or_default();
    let changed = |field: &str| {
        let (new, old) = (list(new, field), list(old, field));
        new.len() != old.len() || new.iter().zip(&old).any(|(new, old)| new["image"] != old["image"])
    };
    let ephemeral = || {
        let old = list(old, "ephemeralContainers");
        let same = |new: &Value| old.iter().any(|old| old["name"] == new["name"] && old["image"] == new["image"]);
        list(new, "ephemeralContainers").iter().any(|new| !same(new))
    };
    changed("containers") || changed("initContainers") || ephemeral()
}

fn labels(namespace: &Value) -> BTreeMap<String, String> {
    let labels = namespace["metadata"]["labels"].as_object().into_iter().flatten();
    labels.filter_map(|(label, value)| Some((label.clone(), value.as_str()?.to_owned()))).collect()
}

/// The labels must be readable, and pods that are there already are told of.
fn check_namespace(request: &Request<'_>, object: &Value, warnings: &mut Vec<String>) -> Result<(), ApiError> {
    if !request.subresource.is_empty() || request.operation == Operation::Delete {
        return Ok(());
    }
    let (new, wrong) = Policy::of(&labels(object));
    let old = request.old.map(|old| Policy::of(&labels(old)));
    if !wrong.is_empty() && old.as_ref().is_none_or(|(_, old_wrong)| *old_wrong != wrong) {
        return Err(ApiError::invalid("", "Namespace", &request.key.name, wrong));
    }
    let Some((old, _)) = old else { return Ok(()) };
    let relaxed = new.enforce.version == old.enforce.version && new.enforce.level <= old.enforce.level;
    if new.enforce == old.enforce || new.enforce.level == Level::Privileged || relaxed {
        return Ok(());
    }
    let pods: Vec<Value> = (request.server.resource("pods").all().iter())
        .filter(|pod| pod.meta.namespace == request.key.name)
        .map(|pod| pod.value())
        .collect();
    warnings.extend(existing(&request.key.name, new.enforce, &pods));
    Ok(())
}

/// What is told of pods that a new level would refuse: one line per kind of violation.
fn existing(namespace: &str, wanted: LevelVersion, pods: &[Value]) -> Vec<String> {
    let mut told = Vec::new();
    if pods.len() > MOST_PODS {
        told.push(format!(
            "new PodSecurity enforce level only checked against the first {MOST_PODS} of {} existing pods",
            pods.len()
        ));
    }
    let mut by_reason: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in pods.iter().take(MOST_PODS) {
        let wrong = findings(wanted, pod);
        if !wrong.is_empty() {
            let reasons: Vec<&str> = wrong.iter().map(|one| one.reason.as_str()).collect();
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            by_reason.entry(reasons.join(", ")).or_default().push(name);
        }
    }
    if !by_reason.is_empty() {
        let level = format!("existing pods in namespace {namespace:?} violate the new PodSecurity enforce level");
        told.push(format!("{level} \"{wanted}\""));
    }
    let mut lines: Vec<String> = by_reason
        .into_iter()
        .map(|(reasons, mut names)| {
            names.sort_unstable();
            match names.len() {
                1 => format!("{}: {reasons}", names[0]),
                2 => format!("{} (and 1 other pod): {reasons}", names[0]),
                more => format!("{} (and {} other pods): {reasons}", names[0], more - 1),
            }
        })
        .collect();
    lines.sort();
    told.extend(lines);
    told
}
