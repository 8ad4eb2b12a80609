//! Where a pod wants to run: affinity, tolerations, spreading, gates.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::field::{Errors, Path};
use crate::kinds::checks::{
    NOT_POSITIVE, dns_label, dns_subdomain, label_selector, one_of_if_set, qualified_name, text,
};
use crate::names;

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "PreferNoSchedule"];
const WEIGHT: &str = "must be in the range 1-100";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const IN_BOTH: &str = "exists in both matchLabelKeys and labelSelector";

pub(super) fn affinity(affinity: &core::Affinity, path: &Path<'_>, errors: &mut Errors) {
    if let Some(node) = &affinity.node_affinity {
        let path = path.child("nodeAffinity");
        if let Some(selector) = &node.required_during_scheduling_ignored_during_execution {
            node_selector(selector, &path.child(REQUIRED), errors);
        }
        let list = path.child(PREFERRED);
        let terms = node.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        for (i, term) in terms.enumerate() {
            weight(term.weight, &list.index(i), errors);
            node_selector_term(&term.preference, &list.index(i).child("preference"), errors);
        }
    }
    if let Some(pod) = &affinity.pod_affinity {
        let required = pod.required_during_scheduling_ignored_during_execution.as_deref();
        let preferred = pod.preferred_during_scheduling_ignored_during_execution.as_deref();
        pod_affinity_terms(required, preferred, &path.child("podAffinity"), errors);
    }
    if let Some(pod) = &affinity.pod_anti_affinity {
        let required = pod.required_during_scheduling_ignored_during_execution.as_deref();
        let preferred = pod.preferred_during_scheduling_ignored_during_execution.as_deref();
        pod_affinity_terms(required, preferred, &path.child("podAntiAffinity"), errors);
    }
}

fn weight(weight: i32, path: &Path<'_>, errors: &mut Errors) {
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, WEIGHT);
    }
}

pub(in crate::kinds) fn node_selector(selector: &core::NodeSelector, path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        return errors.required(&list, "must have at least one node selector term");
    }
    for (i, term) in selector.node_selector_terms.iter().enumerate() {
        node_selector_term(term, &list.index(i), errors);
    }
}

fn node_selector_term(term: &core::NodeSelectorTerm, path: &Path<'_>, errors: &mut Errors) {
    for (i, requirement) in term.match_expressions.iter().flatten().enumerate() {
        let list = path.child("matchExpressions");
        let path = list.index(i);
        let values = requirement.values.as_deref().unwrap_or_default();
        match requirement.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => errors
                .forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
            "Gt" | "Lt" if values.len() != 1 => {
                errors.required(&path.child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'")
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        qualified_name(&requirement.key, &path.child("key"), errors);
        for (j, value) in values.iter().enumerate() {
            errors.invalid_each(&path.child("values").index(j), value, names::label_value(value));
        }
    }
    for (i, requirement) in term.match_fields.iter().flatten().enumerate() {
        let list = path.child("matchFields");
        let path = list.index(i);
        let values = requirement.values.as_deref().unwrap_or_default();
        match requirement.operator.as_str() {
            "In" | "NotIn" if values.len() != 1 => errors.required(
                &path.child("values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            ),
            "In" | "NotIn" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        if requirement.key == "metadata.name" {
            for (j, value) in values.iter().enumerate() {
                dns_subdomain(value, &path.child("values").index(j), errors);
            }
        } else {
            errors.invalid(&path.child("key"), &requirement.key, "not a valid field selector key");
        }
    }
}

fn pod_affinity_terms(
    required: Option<&[core::PodAffinityTerm]>,
    preferred: Option<&[core::WeightedPodAffinityTerm]>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (i, term) in required.unwrap_or_default().iter().enumerate() {
        pod_affinity_term(term, &path.child(REQUIRED).index(i), errors);
    }
    let list = path.child(PREFERRED);
    for (i, term) in preferred.unwrap_or_default().iter().enumerate() {
        weight(term.weight, &list.index(i), errors);
        pod_affinity_term(&term.pod_affinity_term, &list.index(i).child("podAffinityTerm"), errors);
    }
}

fn pod_affinity_term(term: &core::PodAffinityTerm, path: &Path<'_>, errors: &mut Errors) {
    for (field, selector) in [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)]
    {
        if let Some(selector) = selector {
            label_selector(selector, &path.child(field), errors);
        }
    }
    for namespace in term.namespaces.iter().flatten() {
        dns_label(namespace, &path.child("namespace"), errors);
    }
    let matching = term.match_label_keys.as_deref().unwrap_or_default();
    let mismatching = term.mismatch_label_keys.as_deref().unwrap_or_default();
    for (field, keys) in [("matchLabelKeys", matching), ("mismatchLabelKeys", mismatching)] {
        if !keys.is_empty() && term.label_selector.is_none() {
            errors.forbidden(&path.child(field), "must not be specified when labelSelector is not set");
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            qualified_name(key, &path.child(field).index(i), errors);
        }
    }
    for (i, key) in matching.iter().enumerate().filter(|(_, k)| selected_twice(k, term.label_selector.as_ref())) {
        errors.invalid(&path.index(i), key, IN_BOTH);
    }
    for (i, key) in matching.iter().enumerate().filter(|(_, k)| mismatching.contains(k)) {
        let message = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.invalid(&path.child("matchLabelKeys").index(i), key, message);
    }
    if term.topology_key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    }
    qualified_name(&term.topology_key, &path.child("topologyKey"), errors);
}

pub(in crate::kinds::core) fn taint_effect(effect: &str, path: &Path<'_>, errors: &mut Errors) {
    if !EFFECTS.contains(&effect) {
        errors.not_supported(path, effect, EFFECTS);
    }
}

pub(in crate::kinds) fn tolerations(tolerations: &[core::Toleration], list: &Path<'_>, errors: &mut Errors) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let path = list.index(i);
        let [key, operator, value, effect] =
            [&toleration.key, &toleration.operator, &toleration.value, &toleration.effect].map(text);
        if !key.is_empty() {
            qualified_name(key, &path.child("key"), errors);
        }
        if key.is_empty() && operator != "Exists" {
            let message = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&path.child("operator"), operator, message);
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let message = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&path.child("effect"), effect, message);
        }
        match operator {
            "" | "Equal" => {
                let wrong = names::label_value(value);
                if !wrong.is_empty() {
                    errors.invalid(&path.child("operator"), value, &wrong.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                let message = "value must be empty when `operator` is 'Exists'";
                errors.invalid(&path.child("operator"), toleration, message);
            }
            "Exists" => {}
            other => errors.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            taint_effect(effect, &path.child("effect"), errors);
        }
    }
}

pub(super) fn gates(spec: &core::PodSpec, path: &Path<'_>, errors: &mut Errors) {
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        qualified_name(&gate.condition_type, &path.child("readinessGates").index(i).child("conditionType"), errors);
    }
    let mut seen = BTreeSet::new();
    for (i, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        let list = path.child("schedulingGates");
        qualified_name(&gate.name, &list.index(i), errors);
        if !seen.insert(gate.name.as_str()) {
            errors.duplicate(&list.index(i), &gate.name);
        }
    }
}

pub(super) fn topology_spread(spec: &core::PodSpec, list: &Path<'_>, errors: &mut Errors) {
    let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    for (i, constraint) in constraints.iter().enumerate() {
        let path = list.index(i);
        if constraint.max_skew <= 0 {
            errors.invalid(&path.child("maxSkew"), constraint.max_skew, NOT_POSITIVE);
        }
        if constraint.topology_key.is_empty() {
            errors.required(&path.child("topologyKey"), "can not be empty");
        }
        let when = constraint.when_unsatisfiable.as_str();
        if !matches!(when, "DoNotSchedule" | "ScheduleAnyway") {
            errors.not_supported(&path.child("whenUnsatisfiable"), when, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        let same = |other: &core::TopologySpreadConstraint| {
            other.topology_key == constraint.topology_key && other.when_unsatisfiable == constraint.when_unsatisfiable
        };
        if constraints[i + 1..].iter().any(same) {
            let pair = format!("{{{}, {when}}}", constraint.topology_key);
            errors.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), pair);
        }
        if let Some(domains) = constraint.min_domains {
            if domains <= 0 {
                errors.invalid(&path.child("minDomains"), domains, NOT_POSITIVE);
            }
            if when != "DoNotSchedule" {
                let message = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
                errors.invalid(&path.child("minDomains"), domains, &message);
            }
        }
        let policies = [
            ("nodeAffinityPolicy", &constraint.node_affinity_policy),
            ("nodeTaintsPolicy", &constraint.node_taints_policy),
        ];
        for (field, policy) in policies {
            one_of_if_set(policy, &["Honor", "Ignore"], &path.child(field), errors);
        }
        let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
        match_label_keys(keys, constraint.label_selector.as_ref(), &path.child("matchLabelKeys"), errors);
        if let Some(selector) = &constraint.label_selector {
            label_selector(selector, &path.child("labelSelector"), errors);
        }
    }
}

fn match_label_keys(keys: &[String], selector: Option<&LabelSelector>, list: &Path<'_>, errors: &mut Errors) {
    if keys.is_empty() {
        return;
    }
    if selector.is_none() {
        errors.forbidden(list, "must not be specified when labelSelector is not set");
    }
    for (i, key) in keys.iter().enumerate() {
        qualified_name(key, &list.index(i), errors);
        if selected_twice(key, selector) {
            errors.invalid(&list.index(i), key, IN_BOTH);
        }
    }
}

/// Whether the selector speaks of the label more than once: the pod's own value is one of the times.
fn selected_twice(key: &String, selector: Option<&LabelSelector>) -> bool {
    selector.is_some_and(|s| {
        let labels = usize::from(s.match_labels.as_ref().is_some_and(|l| l.contains_key(key)));
        labels + s.match_expressions.iter().flatten().filter(|e| e.key == *key).count() > 1
    })
}
