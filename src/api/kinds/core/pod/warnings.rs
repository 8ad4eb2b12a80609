//! What is allowed in a pod and still hardly meant: texts for `Warning` headers.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::field::go_quote;
use crate::kinds::core::pod::paths;
use crate::kinds::peek::Peek;
use crate::kinds::warnings::{annotations, claim, expressions, fractions, ip, old_label};
use crate::names;

/// Volume sources on their way out, and what is said of them.
const OLD_VOLUMES: &[(&str, &str, &str)] = &[
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

const OLD_ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const APP_ARMOR: &str = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";

/// Of a new pod. Changes of pods bring none: they come often, and seldom from people.
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

/// Of what a node says of a pod.
pub(super) fn status(pod: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for list in ["podIPs", "hostIPs"] {
        for (i, one) in pod.at("status").list(list).iter().enumerate() {
            ip(one.text("ip"), &format!("status.{list}[{i}].ip"), &mut out);
        }
    }
    out
}

/// Of a workload whose name becomes a part of its pods' names.
pub(in crate::kinds) fn named(object: &Value, old: Option<&Value>) -> Vec<String> {
    let wrong = if old.is_none() { names::dns_label(object.text("metadata.name")) } else { Vec::new() };
    if wrong.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is \
         recommended: [{}]",
        wrong.join(" ")
    )]
}

/// Of a workload with a pod template, where its specification is new or changed.
pub(in crate::kinds) fn workload(object: &Value, old: Option<&Value>, out: &mut Vec<String>) {
    template(object, old, "spec.template", out);
}

/// The same with the template elsewhere.
pub(in crate::kinds) fn template(object: &Value, old: Option<&Value>, path: &str, out: &mut Vec<String>) {
    let holder = path.split('.').next().unwrap_or(path);
    if old.is_none_or(|old| old.at(holder) != object.at(holder)) {
        of(object.at(path), &format!("{path}."), out);
    }
}

/// `holder` is what has the metadata and the spec of a pod.
fn of(holder: &Value, prefix: &str, out: &mut Vec<String>) {
    let spec = holder.at("spec");
    let at = format!("{prefix}spec");
    nodes(spec, &at, out);
    annotations(holder, OLD_ANNOTATIONS, prefix, out);
    volumes(spec, &at, out);
    paths::overlapping(spec.list("volumes"), out);
    doubles(spec, &at, out);
    fractions(spec, "overhead", &["memory", "ephemeral-storage"], &at, out);
    profiles(holder, prefix, out);
    ports(spec, &at, out);
    if spec.int("terminationGracePeriodSeconds") < 0 {
        out.push(format!(
            "{at}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    for list in ["podAffinity", "podAntiAffinity"] {
        affinity_terms(spec, &format!("affinity.{list}"), &at, out);
    }
    for (i, server) in spec.list("dnsConfig.nameservers").iter().enumerate() {
        ip(server.as_str().unwrap_or_default(), &format!("{at}.dnsConfig.nameservers[{i}]"), out);
    }
    for (i, alias) in spec.list("hostAliases").iter().enumerate() {
        ip(alias.text("ip"), &format!("{at}.hostAliases[{i}].ip"), out);
    }
}

/// Which nodes a pod wants.
fn nodes(spec: &Value, at: &str, out: &mut Vec<String>) {
    for (key, _) in spec.map("nodeSelector").into_iter().flatten() {
        if let Some(what) = old_label(key) {
            out.push(format!("{at}.nodeSelector[{key}]: {what}"));
        }
    }
    let required = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    for (i, term) in spec.list(required).iter().enumerate() {
        expressions(term, "matchExpressions", false, &format!("{at}.{required}[{i}]"), out);
    }
    let preferred = "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution";
    for (i, term) in spec.list(preferred).iter().enumerate() {
        let path = format!("{at}.{preferred}[{i}].preference");
        expressions(term.at("preference"), "matchExpressions", true, &path, out);
    }
    for (i, constraint) in spec.list("topologySpreadConstraints").iter().enumerate() {
        let path = format!("{at}.topologySpreadConstraints[{i}]");
        let key = constraint.text("topologyKey");
        if let Some(what) = old_label(key) {
            out.push(format!("{path}.topologyKey: {key} is {what}"));
        }
        if constraint.at("labelSelector").is_null() {
            out.push(format!("{path}.labelSelector: {NO_SELECTOR}"));
        }
    }
}

fn affinity_terms(spec: &Value, list: &str, at: &str, out: &mut Vec<String>) {
    for (terms, term_at) in [
        ("requiredDuringSchedulingIgnoredDuringExecution", ""),
        ("preferredDuringSchedulingIgnoredDuringExecution", "podAffinityTerm."),
    ] {
        for (i, term) in spec.at(list).list(terms).iter().enumerate() {
            if term.at(&format!("{term_at}labelSelector")).is_null() {
                out.push(format!("{at}.{list}.{terms}[{i}].{term_at}labelSelector: {NO_SELECTOR}"));
            }
        }
    }
}

fn volumes(spec: &Value, at: &str, out: &mut Vec<String>) {
    for (i, volume) in spec.list("volumes").iter().enumerate() {
        for (_, name, what) in OLD_VOLUMES.iter().filter(|(source, ..)| volume.at(source).is_object()) {
            out.push(format!("{at}.volumes[{i}].{name}: {what}"));
        }
        let claim_at = "ephemeral.volumeClaimTemplate.spec";
        claim(volume.at(claim_at), &format!("{at}.volumes[{i}].{claim_at}"), out);
    }
}

/// What is named twice.
fn doubles(spec: &Value, at: &str, out: &mut Vec<String>) {
    let aliases = spec.list("hostAliases");
    for (i, alias) in aliases.iter().enumerate() {
        let address = alias.text("ip");
        if aliases[..i].iter().any(|a| a.text("ip") == address) {
            out.push(format!("{at}.hostAliases[{i}].ip: duplicate ip {}", go_quote(address)));
        }
    }
    let secrets = spec.list("imagePullSecrets");
    for (i, secret) in secrets.iter().enumerate() {
        let name = secret.text("name");
        if secrets[..i].iter().any(|s| s.text("name") == name) {
            out.push(format!("{at}.imagePullSecrets[{i}].name: duplicate name {}", go_quote(name)));
        }
    }
    for (i, _) in secrets.iter().enumerate().filter(|(_, secret)| secret.text("name").is_empty()) {
        out.push(format!("{at}.imagePullSecrets[{i}].name: invalid empty name \"\""));
    }
}

/// All containers, each with where it is.
fn containers<'a>(spec: &'a Value, at: &str) -> impl Iterator<Item = (&'a Value, String)> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |list| {
        let at = format!("{at}.{list}");
        spec.list(list).iter().enumerate().map(move |(i, container)| (container, format!("{at}[{i}]")))
    })
}

/// Profiles in annotations, and what else each container has of its own.
fn profiles(holder: &Value, prefix: &str, out: &mut Vec<String>) {
    let (spec, at) = (holder.at("spec"), format!("{prefix}spec"));
    let annotation = |key: &str| holder.map("metadata.annotations").and_then(|a| a.get(key));
    let warn = |key: &str, what: &str, out: &mut Vec<String>| {
        if annotation(key).is_some() {
            out.push(format!("{prefix}metadata.annotations[{key}]: {what}"));
        }
    };
    if spec.at("securityContext.seccompProfile").is_null() {
        warn("seccomp.security.alpha.kubernetes.io/pod", SECCOMP, out);
    }
    for (container, path) in containers(spec, &at) {
        let name = container.text("name");
        if container.at("securityContext.seccompProfile").is_null() {
            warn(&format!("container.seccomp.security.alpha.kubernetes.io/{name}"), SECCOMP, out);
        }
        let key = format!("container.apparmor.security.beta.kubernetes.io/{name}");
        let told = annotation(&key).and_then(Value::as_str).and_then(app_armor);
        let same = told.is_some_and(|told| told == *spec.at("securityContext.appArmorProfile"));
        if container.at("securityContext.appArmorProfile").is_null() && !same {
            warn(&key, APP_ARMOR, out);
        }
        for amounts in ["memory", "ephemeral-storage"] {
            for list in ["resources.limits", "resources.requests"] {
                fractions(container, list, &[amounts], &path, out);
            }
        }
        environment(container, &path, out);
    }
}

/// The profile that an annotation names.
fn app_armor(annotation: &str) -> Option<Value> {
    let local = annotation.strip_prefix("localhost/").filter(|name| !name.is_empty());
    match (annotation, local) {
        ("unconfined", _) => Some(serde_json::json!({"type": "Unconfined"})),
        ("runtime/default", _) => Some(serde_json::json!({"type": "RuntimeDefault"})),
        (_, Some(name)) => Some(serde_json::json!({"type": "Localhost", "localhostProfile": name})),
        _ => None,
    }
}

fn ports(spec: &Value, at: &str, out: &mut Vec<String>) {
    let all = || {
        containers(spec, at).flat_map(|(container, path)| {
            container.list("ports").iter().enumerate().map(move |(i, port)| (port, format!("{path}.ports[{i}]")))
        })
    };
    let mut seen: BTreeMap<_, Vec<(&Value, String)>> = BTreeMap::new();
    for (port, path) in all() {
        let (host_ip, host_port) = (port.text("hostIP"), port.int("hostPort"));
        if !host_ip.is_empty() && host_port == 0 {
            out.push(format!(
                "{path}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{host_ip}}}",
                port.text("name"),
                port.int("containerPort"),
                port.text("protocol")
            ));
        }
        let others = seen.entry((port.int("containerPort"), port.text("protocol"))).or_default();
        for (other, other_path) in others.iter() {
            let (other_ip, other_port) = (other.text("hostIP"), other.int("hostPort"));
            let what = if (host_ip, host_port) == (other_ip, other_port) {
                "duplicate"
            } else if host_port == 0 || other_port == 0 {
                "overlapping"
            } else if host_port == other_port && host_ip.is_empty() != other_ip.is_empty() {
                "dangerously ambiguous"
            } else {
                continue;
            };
            out.push(format!("{path}: {what} port definition with {other_path}"));
        }
        others.push((port, path));
    }
    let mut names = BTreeMap::new();
    for (port, path) in all().filter(|(port, _)| !port.text("name").is_empty()) {
        let name = port.text("name");
        match names.get(name) {
            Some(first) => out.push(format!(
                "{path}: duplicate port name {} with {first}, services and probes that select ports by name will use \
                 {first}",
                go_quote(name)
            )),
            None => {
                names.insert(name, path);
            }
        }
    }
}

fn environment(container: &Value, path: &str, out: &mut Vec<String>) {
    let vars = container.list("env");
    for (i, var) in vars.iter().enumerate() {
        let name = var.text("name");
        // A later value may well build on the one that it hides.
        let (value, reference) = (var.text("value"), format!("$({name})"));
        let builds_on = var.at("valueFrom").is_null() && value != reference && value.contains(&reference);
        if !builds_on && vars[..i].iter().any(|v| v.text("name") == name) {
            out.push(format!(
                "{path}.env[{i}]: hides previous definition of {}, which may be dropped when using apply",
                go_quote(name)
            ));
        }
    }
}
