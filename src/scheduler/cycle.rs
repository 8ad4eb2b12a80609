//! One decision: the best of the nodes that will do.

use std::sync::Arc;

use crate::checks::Checks;
use crate::framework::{Happening, NoFit};
use crate::plugins::{PRE_FILTERS, SCORES};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// With no more nodes than this all are looked at.
const ENOUGH_NODES: usize = 100;

/// Gives the name of the chosen node. `start` is where the look at many nodes begins, and moves on, so
/// that all get their turn; `pick` chooses among equals (gets their number).
pub fn choose(
    pod: &PodInfo,
    snapshot: &Snapshot,
    start: &mut usize,
    pick: impl FnOnce(usize) -> usize,
) -> Result<String, NoFit> {
    let feasible = feasible(pod, snapshot, start)?;
    let totals = score(pod, &feasible, snapshot);
    let best = totals.iter().copied().max().unwrap_or(0);
    let equals: Vec<&Arc<NodeInfo>> =
        feasible.iter().zip(&totals).filter(|(_, total)| **total == best).map(|(node, _)| *node).collect();
    let chosen = equals[pick(equals.len()) % equals.len()];
    Ok(chosen.name().to_owned())
}

/// The nodes that will do, at least one; of very many only enough to choose from.
fn feasible<'a>(pod: &PodInfo, snapshot: &'a Snapshot, start: &mut usize) -> Result<Vec<&'a Arc<NodeInfo>>, NoFit> {
    let nodes = &snapshot.nodes;
    let mut none = NoFit::new(nodes.len());
    let mut found = Vec::new();
    if nodes.is_empty() {
        return Err(none);
    }
    for plugin in PRE_FILTERS {
        if let Err(why) = plugin.check(pod, snapshot) {
            return Err(none.refuse_all(why, plugin.wakes()));
        }
    }
    let checks = Checks::new(pod, snapshot);
    // Others may have gone from there for its sake.
    let promised = snapshot.nomination_of(&pod.uid).and_then(|name| snapshot.node(name));
    if let Some(node) = promised.filter(|node| checks.check(node).is_ok()) {
        return Ok(vec![node]);
    }
    let enough = enough(nodes.len());
    let mut seen = 0;
    for node in nodes.iter().cycle().skip(*start % nodes.len()).take(nodes.len()) {
        seen += 1;
        match checks.check(node) {
            Err(refused) => none.refuse(node.name(), refused.refusal, refused.wakes),
            Ok(()) => {
                found.push(node);
                if found.len() >= enough {
                    break;
                }
            }
        }
    }
    *start = (*start + seen) % nodes.len();
    if found.is_empty() { Err(none) } else { Ok(found) }
}

/// How many feasible nodes are enough: half of them, and less the more there are, down to a twentieth.
fn enough(nodes: usize) -> usize {
    if nodes <= ENOUGH_NODES {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(ENOUGH_NODES)
}

fn score(pod: &PodInfo, nodes: &[&Arc<NodeInfo>], snapshot: &Snapshot) -> Vec<i64> {
    let mut totals = vec![0; nodes.len()];
    // The only one is the best.
    if nodes.len() < 2 {
        return totals;
    }
    let infos: Vec<&NodeInfo> = nodes.iter().map(|node| &***node).collect();
    for plugin in SCORES.iter().filter(|plugin| plugin.cares(pod)) {
        let mut scores = plugin.scores(pod, &infos, snapshot);
        plugin.normalize(&mut scores);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * plugin.weight();
        }
    }
    totals
}

/// What an update of a node may change for pods that were refused.
pub fn happenings(old: &k8s_openapi::api::core::v1::Node, new: &k8s_openapi::api::core::v1::Node) -> Happening {
    let mut happened = Happening::NONE;
    let allocatable = |node: &k8s_openapi::api::core::v1::Node| {
        node.status.as_ref().and_then(|s| s.allocatable.clone().or_else(|| s.capacity.clone()))
    };
    if allocatable(old) != allocatable(new) {
        happened = happened.or(Happening::NODE_ALLOCATABLE);
    }
    if old.metadata.labels != new.metadata.labels {
        happened = happened.or(Happening::NODE_LABELS);
    }
    let taints = |node: &k8s_openapi::api::core::v1::Node| {
        node.spec.as_ref().map(|spec| (spec.taints.clone(), spec.unschedulable.unwrap_or(false)))
    };
    if taints(old) != taints(new) {
        happened = happened.or(Happening::NODE_TAINTS);
    }
    happened
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Nominated;
    use crate::testing::{info, pod, view};
    use serde_json::{Value, json};

    fn node(name: &str, cpu: &str, more: Value) -> Arc<NodeInfo> {
        let mut node = json!({"status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "10"}}});
        node.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        Arc::new(info(name, node))
    }

    fn asking(cpu: &str) -> Arc<PodInfo> {
        pod("a", json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}))
    }

    #[test]
    fn takes_the_best_node_that_will_do() {
        let cordoned = json!({"spec": {"unschedulable": true}});
        let nodes = vec![node("big", "8", cordoned), node("middle", "4", json!({})), node("small", "1", json!({}))];
        let check = |cpu: &str, expect: Result<&str, &str>| {
            let choice = choose(&asking(cpu), &view(nodes.clone()), &mut 0, |_| 0);
            let choice = choice.map_err(|none| none.message());
            assert_eq!(choice.as_deref().map_err(String::as_str), expect);
        };
        check("500m", Ok("middle"));
        check("2", Ok("middle"));
        check("6", Err("0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu."));
    }

    #[test]
    fn spreads_equals_and_looks_at_enough_of_many() {
        let nodes: Vec<_> = (0..300).map(|n| node(&format!("n{n:03}"), "4", json!({}))).collect();
        let snapshot = view(nodes);
        assert_eq!((enough(100), enough(300), enough(5000), enough(10_000)), (100, 144, 500, 500));
        let mut start = 0;
        let first = choose(&asking("1"), &snapshot, &mut start, |_| 0);
        let second = choose(&asking("1"), &snapshot, &mut start, |equals| equals - 1);
        assert_eq!((first.expect("fits"), second.expect("fits")), ("n000".to_owned(), "n287".to_owned()));
        assert_eq!(start, 288);
    }

    #[test]
    fn promised_room_is_kept_and_taken() {
        let nodes = vec![node("a", "1", json!({})), node("b", "1", json!({}))];
        let important = |name: &str, priority: i32| {
            let containers = json!([{"name": "c", "resources": {"requests": {"cpu": "1"}}}]);
            pod(name, json!({"containers": containers, "priority": priority}))
        };
        let check = |pod: &PodInfo, on: &[&str], expect: Result<&str, &str>| {
            let promise =
                |node: &&str| Nominated { node: (*node).to_owned(), pod: important(&format!("for-{node}"), 5) };
            let nominated = Arc::new(on.iter().map(promise).collect());
            let snapshot = Snapshot { nominated, ..view(nodes.clone()) };
            let choice = choose(pod, &snapshot, &mut 0, |_| 0).map_err(|none| none.message());
            assert_eq!(choice.as_deref().map_err(String::as_str), expect, "{on:?}");
        };
        check(&important("x", 1), &["a"], Ok("b"));
        check(&important("x", 1), &["a", "b"], Err("0/2 nodes are available: 2 Insufficient cpu."));
        check(&important("x", 6), &["a", "b"], Ok("a"));
        check(&important("for-b", 5), &["b"], Ok("b"));
    }

    #[test]
    fn tells_what_changed_of_a_node() {
        let old = node("n", "4", json!({}));
        let check = |new: Arc<NodeInfo>, expect: Happening| assert_eq!(happenings(old.node(), new.node()), expect);
        check(node("n", "4", json!({})), Happening::NONE);
        check(node("n", "5", json!({})), Happening::NODE_ALLOCATABLE);
        check(node("n", "4", json!({"spec": {"unschedulable": true}})), Happening::NODE_TAINTS);
        check(node("n", "4", json!({"metadata": {"name": "n", "labels": {"a": "b"}}})), Happening::NODE_LABELS);
    }
}
