//! The taints and conditions that a node's state calls for.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::condition;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions that keep pods away while they are `True`.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// What a node that does not report is unknown in.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// All taints of the node as they should be, if they are not; those of others stay. `evicts`: pods may be
/// driven away (not while no node at all is ready, since they could go nowhere).
pub fn plan_taints(node: &Node, evicts: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let old = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let wanted = wanted(node, evicts);
    let is_wanted = |taint: &Taint| wanted.iter().any(|(key, effect)| taint.key == *key && taint.effect == *effect);
    let mut taints: Vec<Taint> = old.iter().filter(|taint| !is_ours(taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in &wanted {
        if !taints.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
            let time_added = (*effect == "NoExecute").then_some(Time(now));
            taints.push(Taint { key: (*key).into(), effect: (*effect).into(), value: None, time_added });
        }
    }
    (taints != old).then_some(taints)
}

fn wanted(node: &Node, evicts: bool) -> Vec<(&'static str, &'static str)> {
    let mut wanted = Vec::new();
    let broken = match condition(node, "Ready").map(|ready| ready.status.as_str()) {
        Some("True") => None,
        Some("Unknown") => Some(UNREACHABLE),
        Some(_) => Some(NOT_READY),
        None => {
            // It has not reported yet: pods wait, and none is driven away.
            wanted.push((NOT_READY, "NoSchedule"));
            None
        }
    };
    if let Some(key) = broken {
        wanted.push((key, "NoSchedule"));
        if evicts {
            wanted.push((key, "NoExecute"));
        }
    }
    for (kind, key) in PRESSURES {
        if condition(node, kind).is_some_and(|condition| condition.status == "True") {
            wanted.push((key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

fn is_ours(taint: &Taint) -> bool {
    let broken = [NOT_READY, UNREACHABLE].contains(&taint.key.as_str());
    match taint.effect.as_str() {
        "NoSchedule" => broken || taint.key == UNSCHEDULABLE || PRESSURES.iter().any(|(_, key)| taint.key == *key),
        "NoExecute" => broken,
        _ => false,
    }
}

/// The conditions of a node that has stopped to report, if it does not say so already.
pub fn plan_unknown(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let old = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut conditions = old.clone();
    for kind in REPORTED {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
                condition.last_transition_time = Some(Time(now));
            }
            None => conditions.push(NodeCondition {
                type_: kind.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(Time(now)),
            }),
        }
    }
    (conditions != old).then_some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(conditions: &[(&str, &str)], spec: Value) -> Node {
        let conditions: Vec<Value> =
            conditions.iter().map(|(kind, status)| json!({"type": kind, "status": status})).collect();
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": spec, "status": {"conditions": conditions}}))
            .expect("a node")
    }

    #[test]
    fn taints_follow_conditions() {
        let check = |conditions: &[(&str, &str)], spec: Value, evicts: bool, expect: Option<&[(&str, &str)]>| {
            let plan = plan_taints(&node(conditions, spec.clone()), evicts, Timestamp::UNIX_EPOCH);
            let told: Option<Vec<(&str, &str)>> =
                plan.as_ref().map(|taints| taints.iter().map(|t| (t.key.as_str(), t.effect.as_str())).collect());
            assert_eq!(told.as_deref(), expect, "{conditions:?} {spec}");
        };
        let not_ready = json!({"taints": [{"key": NOT_READY, "effect": "NoSchedule"}]});
        check(&[("Ready", "True")], json!({}), true, None);
        check(&[("Ready", "True")], not_ready.clone(), true, Some(&[]));
        check(&[], not_ready.clone(), true, None);
        check(&[("Ready", "False")], not_ready, true, Some(&[(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]));
        check(&[("Ready", "Unknown")], json!({}), false, Some(&[(UNREACHABLE, "NoSchedule")]));
        check(
            &[("Ready", "True"), ("DiskPressure", "True"), ("PIDPressure", "False")],
            json!({"unschedulable": true, "taints": [{"key": "mine", "effect": "NoExecute"}]}),
            true,
            Some(&[
                ("mine", "NoExecute"),
                ("node.kubernetes.io/disk-pressure", "NoSchedule"),
                (UNSCHEDULABLE, "NoSchedule"),
            ]),
        );
        let both =
            json!({"taints": [{"key": NOT_READY, "effect": "NoSchedule"}, {"key": NOT_READY, "effect": "NoExecute"}]});
        check(&[("Ready", "False")], both, false, Some(&[(NOT_READY, "NoSchedule")]));
    }

    #[test]
    fn a_silent_node_is_unknown() {
        let silent = node(&[("Ready", "True"), ("NetworkUnavailable", "False")], json!({}));
        let conditions = plan_unknown(&silent, Timestamp::UNIX_EPOCH).expect("it was ready");
        let told: Vec<_> = conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str())).collect();
        assert_eq!(
            told,
            [
                ("Ready", "Unknown"),
                ("NetworkUnavailable", "False"),
                ("MemoryPressure", "Unknown"),
                ("DiskPressure", "Unknown"),
                ("PIDPressure", "Unknown")
            ]
        );
        assert_eq!(conditions[0].reason.as_deref(), Some("NodeStatusUnknown"));
        let mut told = silent;
        told.status.get_or_insert_default().conditions = Some(conditions);
        assert_eq!(plan_unknown(&told, Timestamp::MAX), None);
    }
}
