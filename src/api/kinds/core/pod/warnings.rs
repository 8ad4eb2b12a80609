//! What is allowed in a pod and still hardly meant: texts for `Warning` headers.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::field::go_quote;
use crate::kinds::peek::Peek;
use crate::names;

/// Labels of nodes that have got other names: (old, since, new).
const OLD_LABELS: &[(&str, &str, &str)] = &[
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];

/// Volume sources on their way out, and what is said of them.
const OLD_VOLUMES: &[(&str, &str)] = &[
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
];

/// Of a pod.
pub(super) fn pod(object: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let wrong = names::dns_label(object.text("metadata.name"));
    if !wrong.is_empty() {
        out.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is \
             recommended: [{}]",
            wrong.join(" ")
        ));
    }
    of(object, "", &mut out);
    out
}

/// Of a workload with a pod template, where that is new or changed.
pub(in crate::kinds) fn workload(object: &Value, old: Option<&Value>) -> Vec<String> {
    workload_at(object, old, "spec.template")
}

/// The same with the template elsewhere.
pub(in crate::kinds) fn workload_at(object: &Value, old: Option<&Value>, path: &str) -> Vec<String> {
    let mut out = Vec::new();
    if old.is_none() {
        let wrong = names::dns_label(object.text("metadata.name"));
        if !wrong.is_empty() {
            out.push(format!(
                "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS \
                 label is recommended: [{}]",
                wrong.join(" ")
            ));
        }
    }
    let template = object.at(path);
    if old.is_none_or(|old| old.at(path) != template) {
        of(template, &format!("{path}."), &mut out);
    }
    out
}

/// `holder` is what has the metadata and the spec of a pod.
fn of(holder: &Value, prefix: &str, out: &mut Vec<String>) {
    let spec = holder.at("spec");
    let at = format!("{prefix}spec");
    annotations(holder, prefix, out);
    for (key, _) in spec.map("nodeSelector").into_iter().flatten() {
        old_label(key, &format!("{at}.nodeSelector[{key}]"), out);
    }
    let required = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    for (i, term) in spec.list(required).iter().enumerate() {
        for (j, expression) in term.list("matchExpressions").iter().enumerate() {
            let path = format!("{at}.{required}[{i}].matchExpressions[{j}].key");
            old_label(expression.text("key"), &format!("{path}: {}", expression.text("key")), out);
        }
    }
    for (i, constraint) in spec.list("topologySpreadConstraints").iter().enumerate() {
        if constraint.at("labelSelector").is_null() {
            let path = format!("{at}.topologySpreadConstraints[{i}].labelSelector");
            out.push(format!("{path}: a null labelSelector results in matching no pod"));
        }
    }
    pull_secrets(spec, &at, out);
    for (i, volume) in spec.list("volumes").iter().enumerate() {
        for (source, what) in OLD_VOLUMES.iter().filter(|(source, _)| volume.at(source).is_object()) {
            out.push(format!("{at}.volumes[{i}].{source}: {what}"));
        }
    }
    containers(spec, &at, out);
    if spec.int("terminationGracePeriodSeconds") < 0 {
        out.push(format!(
            "{at}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
}

fn annotations(holder: &Value, prefix: &str, out: &mut Vec<String>) {
    for (key, _) in holder.map("metadata.annotations").into_iter().flatten() {
        let what = match key.as_str() {
            "scheduler.alpha.kubernetes.io/critical-pod" => {
                "non-functional in v1.16+; use the \"priorityClassName\" field instead"
            }
            "seccomp.security.alpha.kubernetes.io/pod" => {
                "non-functional in v1.27+; use the \"seccompProfile\" field instead"
            }
            key if key.starts_with("container.seccomp.security.alpha.kubernetes.io/") => {
                "non-functional in v1.27+; use the \"seccompProfile\" field instead"
            }
            key if key.starts_with("container.apparmor.security.beta.kubernetes.io/") => {
                "deprecated since v1.30; use the \"appArmorProfile\" field instead"
            }
            _ => continue,
        };
        out.push(format!("{prefix}metadata.annotations[{key}]: {what}"));
    }
}

fn old_label(key: &str, path: &str, out: &mut Vec<String>) {
    if let Some((_, since, new)) = OLD_LABELS.iter().find(|(old, ..)| *old == key) {
        out.push(format!("{path}: deprecated since {since}; use \"{new}\" instead"));
    }
}

fn pull_secrets(spec: &Value, at: &str, out: &mut Vec<String>) {
    let secrets = spec.list("imagePullSecrets");
    for (i, secret) in secrets.iter().enumerate() {
        let name = secret.text("name");
        let path = format!("{at}.imagePullSecrets[{i}].name");
        if name.is_empty() {
            out.push(format!("{path}: invalid empty name \"\""));
        } else if secrets[..i].iter().any(|s| s.text("name") == name) {
            out.push(format!("{path}: duplicate name {}", go_quote(name)));
        }
    }
}

fn containers(spec: &Value, at: &str, out: &mut Vec<String>) {
    let (mut port_names, mut ports) = (BTreeMap::new(), BTreeMap::new());
    for list in ["initContainers", "containers"] {
        for (i, container) in spec.list(list).iter().enumerate() {
            let path = format!("{at}.{list}[{i}]");
            environment(container, &path, out);
            for amounts in ["limits", "requests"] {
                for name in ["memory", "ephemeral-storage"] {
                    let text = container.at("resources").text(&format!("{amounts}.{name}"));
                    let fraction = text.parse::<crate::quantity::Quantity>().is_ok_and(|q| !q.is_integer());
                    if fraction {
                        out.push(format!(
                            "{path}.resources.{amounts}[{name}]: fractional byte value {} is invalid, must be an integer",
                            go_quote(text)
                        ));
                    }
                }
            }
            // Containers that run one after the other can't be in each other's way.
            if list == "initContainers" && container.text("restartPolicy") != "Always" {
                continue;
            }
            for (j, port) in container.list("ports").iter().enumerate() {
                let path = format!("{path}.ports[{j}]");
                let name = port.text("name");
                if !name.is_empty() {
                    match port_names.get(name) {
                        Some(first) => out.push(format!(
                            "{path}: duplicate port name {} with {first}, services and probes that select ports by name \
                             will use {first}",
                            go_quote(name)
                        )),
                        None => {
                            port_names.insert(name, path.clone());
                        }
                    }
                }
                let key = (port.int("containerPort"), port.text("protocol"), port.text("hostIP"), port.int("hostPort"));
                match ports.get(&key) {
                    Some(first) => out.push(format!("{path}: duplicate port definition with {first}")),
                    None => {
                        ports.insert(key, path);
                    }
                }
            }
        }
    }
}

fn environment(container: &Value, path: &str, out: &mut Vec<String>) {
    let vars = container.list("env");
    for (i, var) in vars.iter().enumerate() {
        let name = var.text("name");
        // A later value may well build on the one that it hides.
        let builds_on = var.text("value").contains(&format!("$({name})"));
        if !builds_on && vars[..i].iter().any(|v| v.text("name") == name) {
            out.push(format!(
                "{path}.env[{i}]: hides previous definition of {}, which may be dropped when using apply",
                go_quote(name)
            ));
        }
    }
}
