//! Profiles: what a debugging container may do.

use serde_json::{Map, Value, json};

use crate::{Failure, Result};

/// How something is debugged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Ephemeral,
    Copy,
    Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Legacy,
    General,
    Baseline,
    Restricted,
    Netadmin,
    Sysadmin,
}

/// What a copy keeps.
pub struct Keep {
    pub labels: bool,
    pub annotations: bool,
    pub init_containers: bool,
    /// Liveness, readiness, startup.
    pub probes: [bool; 3],
}

impl Profile {
    pub fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "legacy" => Self::Legacy,
            "general" => Self::General,
            "baseline" => Self::Baseline,
            "restricted" => Self::Restricted,
            "netadmin" => Self::Netadmin,
            "sysadmin" => Self::Sysadmin,
            other => return Err(Failure::text(format!("unknown profile: {other}"))),
        })
    }

    /// Changes a pod that has the debugging container in one of its lists.
    pub fn apply(self, pod: &mut Value, list: &str, name: &str, style: Style, keep: &Keep) {
        let node = style == Style::Node;
        if let Some(container) = container(pod, list, name) {
            match self {
                Self::Legacy => {}
                Self::General if node => clear(container),
                Self::General => add(container, &["SYS_PTRACE"]),
                Self::Baseline => clear(container),
                Self::Restricted => {
                    container["securityContext"] = json!({"runAsNonRoot": true, "capabilities": {"drop": ["ALL"]},
                        "allowPrivilegeEscalation": false, "seccompProfile": {"type": "RuntimeDefault"}});
                }
                Self::Netadmin => add(container, &["NET_ADMIN", "NET_RAW"]),
                Self::Sysadmin => container["securityContext"]["privileged"] = true.into(),
            }
        }
        match style {
            Style::Ephemeral => {}
            Style::Copy if self == Self::Legacy => remove(&mut pod["metadata"], "labels"),
            Style::Copy => trim(pod, keep),
            Style::Node => {
                if matches!(self, Self::Legacy | Self::General | Self::Sysadmin) {
                    mount_root(pod, list, name);
                }
                if matches!(self, Self::Legacy | Self::General | Self::Netadmin | Self::Sysadmin) {
                    for field in ["hostNetwork", "hostPID", "hostIPC"] {
                        pod["spec"][field] = true.into();
                    }
                }
            }
        }
    }
}

/// A container of a pod.
pub fn container<'a>(pod: &'a mut Value, list: &str, name: &str) -> Option<&'a mut Value> {
    pod["spec"].get_mut(list)?.as_array_mut()?.iter_mut().find(|container| container["name"] == name)
}

fn remove(object: &mut Value, field: &str) {
    object.as_object_mut().into_iter().for_each(|fields| drop(fields.remove(field)));
}

fn clear(container: &mut Value) {
    remove(container, "securityContext");
}

fn add(container: &mut Value, capabilities: &[&str]) {
    let security = &mut container["securityContext"];
    if !security.is_object() {
        *security = Map::new().into();
    }
    let mut all = security["capabilities"]["add"].as_array().cloned().unwrap_or_default();
    all.extend(capabilities.iter().map(|name| Value::from(*name)));
    security["capabilities"]["add"] = all.into();
}

/// What a copy does not keep; its containers see each other.
fn trim(pod: &mut Value, keep: &Keep) {
    for (field, kept) in [("labels", keep.labels), ("annotations", keep.annotations)] {
        if !kept {
            remove(&mut pod["metadata"], field);
        }
    }
    if !keep.init_containers {
        remove(&mut pod["spec"], "initContainers");
    }
    for container in pod["spec"]["containers"].as_array_mut().into_iter().flatten() {
        for (probe, kept) in ["livenessProbe", "readinessProbe", "startupProbe"].iter().zip(keep.probes) {
            if !kept {
                remove(container, probe);
            }
        }
    }
    if pod["spec"]["shareProcessNamespace"].is_null() {
        pod["spec"]["shareProcessNamespace"] = true.into();
    }
}

/// The node's files, at `/host`.
fn mount_root(pod: &mut Value, list: &str, name: &str) {
    let push = |place: &mut Value, item: Value| match place.as_array_mut() {
        Some(items) => items.push(item),
        None => *place = json!([item]),
    };
    push(&mut pod["spec"]["volumes"], json!({"name": "host-root", "hostPath": {"path": "/"}}));
    if let Some(container) = container(pod, list, name) {
        push(&mut container["volumeMounts"], json!({"name": "host-root", "mountPath": "/host"}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_upstreams() {
        let keep = Keep { labels: false, annotations: true, init_containers: true, probes: [false, true, false] };
        let check = |profile: &str, style: Style, expect: Value| {
            let mut pod = json!({"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
                "spec": {"containers": [{"name": "x", "livenessProbe": {}, "readinessProbe": {}, "securityContext": {"runAsUser": 1}}]}});
            Profile::parse(profile).expect("known").apply(&mut pod, "containers", "x", style, &keep);
            assert_eq!(pod, expect, "{profile} {style:?}");
        };
        let whole = json!({"labels": {"a": "b"}, "annotations": {"c": "d"}});
        let probes = |security: Value| json!({"name": "x", "livenessProbe": {}, "readinessProbe": {}, "securityContext": security});
        check(
            "general",
            Style::Ephemeral,
            json!({"metadata": whole, "spec": {"containers": [
            probes(json!({"runAsUser": 1, "capabilities": {"add": ["SYS_PTRACE"]}}))]}}),
        );
        check(
            "restricted",
            Style::Ephemeral,
            json!({"metadata": whole, "spec": {"containers": [
            probes(json!({"runAsNonRoot": true, "capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": false,
                "seccompProfile": {"type": "RuntimeDefault"}}))]}}),
        );
        check(
            "baseline",
            Style::Copy,
            json!({"metadata": {"annotations": {"c": "d"}},
            "spec": {"shareProcessNamespace": true, "containers": [{"name": "x", "readinessProbe": {}}]}}),
        );
        check(
            "sysadmin",
            Style::Node,
            json!({"metadata": whole, "spec": {"hostNetwork": true, "hostPID": true, "hostIPC": true,
            "volumes": [{"name": "host-root", "hostPath": {"path": "/"}}],
            "containers": [{"name": "x", "livenessProbe": {}, "readinessProbe": {},
                "securityContext": {"runAsUser": 1, "privileged": true}, "volumeMounts": [{"name": "host-root", "mountPath": "/host"}]}]}}),
        );
        assert!(Profile::parse("nope").is_err());
    }
}
