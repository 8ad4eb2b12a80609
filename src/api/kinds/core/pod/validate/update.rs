//! What may change in a pod once it exists: little.

use k8s_openapi::api::core::v1 as core;
use serde_json::{Map, Value};

use crate::field::{Errors, Path};

const UPDATABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
     `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
     `spec.tolerations` (only additions to existing tolerations),\
     `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
/// How many differences a message lists.
const DIFFERENCES_MAX: usize = 10;

/// The rules for the spec; the new pod itself is checked elsewhere.
pub(in crate::kinds::core::pod) fn spec(new: &core::PodSpec, old: &core::PodSpec, errors: &mut Errors) {
    let path = Path::new("spec");
    for (list, new, old) in [
        ("containers", new.containers.len(), old.containers.len()),
        (
            "initContainers",
            new.init_containers.as_ref().map_or(0, Vec::len),
            old.init_containers.as_ref().map_or(0, Vec::len),
        ),
    ] {
        if new != old {
            return errors.forbidden(&path.child(list), "pod updates may not add or remove containers");
        }
    }
    if !active_deadline(new, old, &path.child("activeDeadlineSeconds"), errors) {
        return;
    }
    only_added_tolerations(new, old, &path.child("tolerations"), errors);
    only_deleted_gates(new, old, &path.child("schedulingGates"), errors);
    if new == old {
        return;
    }
    let mut allowed = new.clone();
    for (container, old) in allowed.containers.iter_mut().zip(&old.containers) {
        container.image.clone_from(&old.image);
    }
    for (container, old) in allowed.init_containers.iter_mut().flatten().zip(old.init_containers.iter().flatten()) {
        container.image.clone_from(&old.image);
    }
    allowed.active_deadline_seconds = old.active_deadline_seconds;
    allowed.tolerations.clone_from(&old.tolerations);
    allowed.scheduling_gates.clone_from(&old.scheduling_gates);
    if old.termination_grace_period_seconds.is_some_and(|s| s < 0)
        && allowed.termination_grace_period_seconds == Some(1)
    {
        allowed.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if old.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()) {
        gated(&mut allowed, old, &path, errors);
    }
    let as_value = |spec: &core::PodSpec| serde_json::to_value(spec).unwrap_or_default();
    let mut differences = Vec::new();
    diff("spec", &as_value(old), &as_value(&allowed), &mut differences);
    if !differences.is_empty() {
        differences.truncate(DIFFERENCES_MAX);
        errors.forbidden(&path, &format!("{UPDATABLE}\n{}\n", differences.join("\n")));
    }
}

/// It may come, and may shrink. Whether it is worth to look on.
fn active_deadline(new: &core::PodSpec, old: &core::PodSpec, path: &Path<'_>, errors: &mut Errors) -> bool {
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.invalid(path, new, "must be between 0 and 2147483647, inclusive");
            false
        }
        (Some(new), Some(old)) if old < new => {
            errors.invalid(path, new, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            errors.invalid(path, Value::Null, "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn only_added_tolerations(new: &core::PodSpec, old: &core::PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let new = new.tolerations.as_deref().unwrap_or_default();
    let kept = |old: &core::Toleration| {
        new.iter().any(|n| *n == core::Toleration { toleration_seconds: n.toleration_seconds, ..old.clone() })
    };
    if !old.tolerations.iter().flatten().all(kept) {
        errors.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
    }
}

fn only_deleted_gates(new: &core::PodSpec, old: &core::PodSpec, list: &Path<'_>, errors: &mut Errors) {
    let known = |name: &str| old.scheduling_gates.iter().flatten().any(|g| g.name == name);
    for (i, gate) in new.scheduling_gates.iter().flatten().enumerate() {
        if !known(&gate.name) {
            let message = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            errors.forbidden(&list.index(i).child("name"), &message);
        }
    }
}

/// A pod that is not up for scheduling yet may become pickier about its node.
fn gated(new: &mut core::PodSpec, old: &core::PodSpec, path: &Path<'_>, errors: &mut Errors) {
    if new.node_selector != old.node_selector {
        let kept = |(k, v): (&String, &String)| new.node_selector.as_ref().and_then(|s| s.get(k)) == Some(v);
        if !old.node_selector.iter().flatten().all(kept) {
            let message = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errors.invalid(&path.child("nodeSelector"), &new.node_selector, message);
        }
        new.node_selector.clone_from(&old.node_selector);
    }
    let node_affinity = |spec: &core::PodSpec| spec.affinity.as_ref().and_then(|a| a.node_affinity.clone());
    let (new_affinity, old_affinity) = (node_affinity(new), node_affinity(old));
    if new_affinity == old_affinity {
        return;
    }
    let terms = |affinity: &Option<core::NodeAffinity>| {
        let required = affinity.as_ref().and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        required.map(|s| s.node_selector_terms.clone()).unwrap_or_default()
    };
    let (new_terms, old_terms) = (terms(&new_affinity), terms(&old_affinity));
    let path = path
        .child("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms")
        .to_string();
    let path = Path::new(&path);
    if !old_terms.is_empty() && old_terms.len() != new_terms.len() {
        let message = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.invalid(&path, &new_terms, message);
    } else {
        for (i, (new, old)) in new_terms.iter().zip(&old_terms).enumerate() {
            if !only_additions(new, old) {
                errors.invalid(&path.index(i), new, "only additions are allowed (no mutations or deletions)");
            }
        }
    }
    match (&mut new.affinity, old_affinity, &old.affinity) {
        (Some(affinity), None, None) if affinity.pod_affinity.is_none() && affinity.pod_anti_affinity.is_none() => {
            new.affinity = None;
        }
        (Some(affinity), old, _) => affinity.node_affinity = old,
        (None, Some(old), _) => {
            new.affinity = Some(core::Affinity { node_affinity: Some(old), ..core::Affinity::default() });
        }
        (None, None, _) => {}
    }
}

fn only_additions(new: &core::NodeSelectorTerm, old: &core::NodeSelectorTerm) -> bool {
    type List = Option<Vec<core::NodeSelectorRequirement>>;
    let list = |l: &List| l.clone().unwrap_or_default();
    let (old_expressions, old_fields) = (list(&old.match_expressions), list(&old.match_fields));
    let (new_expressions, new_fields) = (list(&new.match_expressions), list(&new.match_fields));
    if old_expressions.is_empty() && old_fields.is_empty() {
        return new_expressions.is_empty() && new_fields.is_empty();
    }
    new_expressions.starts_with(&old_expressions) && new_fields.starts_with(&old_fields)
}

/// Where two values differ, one line each. An empty list is as good as none.
pub(in crate::kinds::core) fn diff(at: &str, old: &Value, new: &Value, out: &mut Vec<String>) {
    let empty = |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty);
    match (old, new) {
        (old, new) if old == new || empty(old) && empty(new) => {}
        (Value::Object(old), Value::Object(new)) => diff_maps(at, old, new, out),
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (i, (old, new)) in old.iter().zip(new).enumerate() {
                diff(&format!("{at}[{i}]"), old, new, out);
            }
        }
        (old, new) => out.push(format!("  {at}: {old} -> {new}")),
    }
}

fn diff_maps(at: &str, old: &Map<String, Value>, new: &Map<String, Value>, out: &mut Vec<String>) {
    for (key, value) in old {
        diff(&format!("{at}.{key}"), value, new.get(key).unwrap_or(&Value::Null), out);
    }
    for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
        diff(&format!("{at}.{key}"), &Value::Null, value, out);
    }
}

/// Annotations that stay as they are once the pod exists.
pub(in crate::kinds::core::pod) fn annotations(new: &core::Pod, old: &core::Pod, errors: &mut Errors) {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    let get = |pod: &core::Pod| pod.metadata.annotations.as_ref().and_then(|a| a.get(MIRROR)).cloned();
    let message = match (get(new), get(old)) {
        (new, old) if new == old => return,
        (_, Some(_)) => "may not remove or update mirror pod annotation",
        (_, None) => "may not add mirror pod annotation",
    };
    errors.forbidden(&Path::new("metadata").child("annotations").key(MIRROR), message);
}
