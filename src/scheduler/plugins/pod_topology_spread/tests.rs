use std::sync::Arc;

use super::*;
use crate::framework::Score;
use crate::snapshot::PodInfo;
use crate::testing::{holding, info, labelled, view, whole};
use serde_json::{Value, json};
use skiff_api::selector::LabelSelector;

const HOST: &str = "kubernetes.io/hostname";

fn web(name: &str) -> Arc<PodInfo> {
    labelled(name, "default", json!({"app": "web"}), json!({"containers": []}))
}

fn webs(node: &str, number: usize) -> Vec<Arc<PodInfo>> {
    (0..number).map(|n| web(&format!("{node}{n}"))).collect()
}

/// Nodes a, b in zone 1 and c, d in zone 2, with so many pods each.
fn cluster(pods: [usize; 4]) -> Snapshot {
    let zones = ["1", "1", "2", "2"];
    let node = |(at, name): (usize, &str)| holding(name, json!({HOST: name, "zone": zones[at]}), &webs(name, pods[at]));
    view(["a", "b", "c", "d"].into_iter().enumerate().map(node).collect())
}

fn constraint(key: &str, max_skew: i32, more: Value) -> Value {
    let mut constraint = json!({"topologyKey": key, "maxSkew": max_skew, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}});
    constraint.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    constraint
}

fn spreading(constraints: Value, more: Value) -> Arc<PodInfo> {
    let mut spec = json!({"containers": [], "topologySpreadConstraints": constraints});
    spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    labelled("new", "default", json!({"app": "web"}), spec)
}

fn verdicts(pod: &PodInfo, all: &Snapshot) -> String {
    let counted = PodTopologySpread.count(pod, all).expect("it has constraints");
    let short = |node: &Arc<NodeInfo>| match counted.filter(pod, node) {
        Ok(()) => "ok",
        Err(refusal) if refusal.reasons == [UNEVEN] && refusal.resolvable => "uneven",
        Err(refusal) if refusal.reasons == [NO_LABEL] && !refusal.resolvable => "label",
        Err(refusal) => panic!("{refusal:?}"),
    };
    all.nodes.iter().map(short).collect::<Vec<_>>().join(" ")
}

#[test]
fn hard_constraints_keep_the_skew() {
    let check = |constraints: Value, more: Value, pods: [usize; 4], expect: &str| {
        assert_eq!(verdicts(&spreading(constraints.clone(), more), &cluster(pods)), expect, "{constraints} {pods:?}");
    };
    let zone = |skew: i32| constraint("zone", skew, json!({}));
    let host = |skew: i32| constraint(HOST, skew, json!({}));
    check(json!([zone(1)]), json!({}), [0, 0, 0, 0], "ok ok ok ok");
    check(json!([zone(1)]), json!({}), [2, 1, 3, 3], "ok ok uneven uneven");
    check(json!([zone(4)]), json!({}), [2, 1, 3, 3], "ok ok ok ok");
    check(json!([host(1)]), json!({}), [2, 1, 0, 3], "uneven uneven ok uneven");
    check(json!([host(2)]), json!({}), [2, 1, 0, 3], "uneven ok ok uneven");
    check(json!([zone(1), host(1)]), json!({}), [1, 0, 1, 1], "uneven ok uneven uneven");
    // Nothing that fits both.
    check(json!([zone(1), host(1)]), json!({}), [1, 1, 1, 0], "uneven uneven uneven ok");
    // Nodes that the pod can't have count only if asked for.
    let in_1 = json!({"nodeSelector": {"zone": "1"}});
    check(json!([zone(1)]), in_1.clone(), [1, 1, 0, 0], "ok ok ok ok");
    let ignoring = constraint("zone", 1, json!({"nodeAffinityPolicy": "Ignore"}));
    check(json!([ignoring]), in_1, [1, 1, 0, 0], "uneven uneven ok ok");
    // Fewer domains than asked for: the least is taken for 0.
    let three = constraint("zone", 1, json!({"minDomains": 3}));
    check(json!([three]), json!({}), [1, 0, 1, 0], "uneven uneven uneven uneven");
    let two = constraint("zone", 1, json!({"minDomains": 2}));
    check(json!([two]), json!({}), [1, 0, 1, 0], "ok ok ok ok");
    // A selector that does not match the pod itself adds nothing.
    let other = constraint("zone", 1, json!({"labelSelector": {"matchLabels": {"app": "db"}}}));
    check(json!([other]), json!({}), [5, 0, 0, 0], "ok ok ok ok");
}

#[test]
fn only_living_pods_of_the_namespace_count_and_only_nodes_with_the_labels() {
    let going = whole(json!({"metadata": {"name": "g", "namespace": "default", "uid": "g", "labels": {"app": "web"},
        "deletionTimestamp": "2024-01-01T00:00:00Z"}, "spec": {"containers": []}}));
    let foreign = labelled("f", "other", json!({"app": "web"}), json!({"containers": []}));
    let all = view(vec![
        holding("a", json!({"zone": "1"}), &[going, foreign]),
        holding("b", json!({"zone": "2"}), &[]),
        holding("c", json!({}), &webs("c", 3)),
    ]);
    let pod = spreading(json!([constraint("zone", 1, json!({}))]), json!({}));
    assert_eq!(verdicts(&pod, &all), "ok ok label");
}

#[test]
fn tainted_nodes_count_unless_taints_are_honored() {
    let mut tainted = info(
        "b",
        json!({"metadata": {"labels": {"zone": "2"}},
        "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
    );
    tainted.pods.clear();
    let all = view(vec![holding("a", json!({"zone": "1"}), &webs("a", 1)), Arc::new(tainted)]);
    let check = |more: Value, expect: &str| {
        let pod = spreading(json!([constraint("zone", 1, more)]), json!({}));
        assert_eq!(verdicts(&pod, &all), expect);
    };
    check(json!({}), "uneven ok");
    check(json!({"nodeTaintsPolicy": "Honor"}), "ok ok");
}

#[test]
fn counts_follow_pods_that_come_and_go() {
    let all = cluster([1, 0, 0, 0]);
    let pod = spreading(json!([constraint("zone", 1, json!({}))]), json!({}));
    let mut counted = PodTopologySpread.count(&pod, &all).expect("it has constraints");
    assert!(counted.filter(&pod, &all.nodes[0]).is_err());
    let mut copy = counted.copy();
    copy.shift(&pod, &web("a0"), &all.nodes[0], -1);
    assert!(copy.filter(&pod, &all.nodes[0]).is_ok());
    counted.shift(&pod, &web("c0"), &all.nodes[2], 1);
    assert!(counted.filter(&pod, &all.nodes[0]).is_ok());
}

fn scores(pod: &PodInfo, all: &Snapshot) -> Vec<i64> {
    let nodes: Vec<&NodeInfo> = all.nodes.iter().map(|node| &**node).collect();
    PodTopologySpread.scores(pod, &nodes, all)
}

#[test]
fn soft_constraints_prefer_the_emptier_domain() {
    let check = |key: &str, skew: i32, pods: [usize; 4], expect: [i64; 4]| {
        let soft = constraint(key, skew, json!({"whenUnsatisfiable": "ScheduleAnyway"}));
        assert_eq!(scores(&spreading(json!([soft]), json!({})), &cluster(pods)), expect, "{key} {pods:?}");
    };
    check(HOST, 1, [0, 0, 0, 0], [100, 100, 100, 100]);
    // ln(4 + 2) per pod, rounded: 4, 2, 0, 7.
    check(HOST, 1, [2, 1, 0, 4], [42, 71, 100, 0]);
    // A greater skew waters the difference down: 7, 5, 3, 10.
    check(HOST, 4, [2, 1, 0, 4], [60, 80, 100, 30]);
    // ln(2 + 2) per pod: 4 and 6.
    check("zone", 1, [3, 0, 2, 2], [100, 100, 66, 66]);
}

#[test]
fn pods_with_a_service_or_controller_are_spread_by_default() {
    let pod = web("new");
    let mut all = cluster([2, 1, 0, 0]);
    assert_eq!(scores(&pod, &all), [0; 4], "there is no saying which pods are its equals");
    all.equals = LabelSelector::from_labels([(&"app".to_owned(), &"web".to_owned())]);
    let given = scores(&pod, &all);
    assert!(given[2] == 100 && given[2] == given[3] && given[2] > given[1] && given[1] > given[0], "{given:?}");
    let none = spreading(json!([constraint("zone", 1, json!({}))]), json!({}));
    assert_eq!(scores(&none, &all), [0; 4], "its own constraints stand in place of the system's");
}
