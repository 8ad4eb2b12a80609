use super::*;
use crate::cycle::choose;
use crate::snapshot::Nominated;
use crate::testing::{info, view, whole};
use serde_json::{Value, json};

/// A pod of so much cpu and priority, that started so many seconds after the epoch.
fn pod(name: &str, milli: i64, priority: i32, start_s: i64, more: Value) -> Arc<PodInfo> {
    let mut spec = json!({"priority": priority,
        "containers": [{"name": "c", "resources": {"requests": {"cpu": format!("{milli}m")}}}]});
    spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    whole(json!({"metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"name": name}},
        "spec": spec, "status": {"startTime": Timestamp::from_second(start_s).expect("in range").to_string()}}))
}

fn plain(name: &str, milli: i64, priority: i32) -> Arc<PodInfo> {
    pod(name, milli, priority, 0, json!({}))
}

/// A node of one processor.
fn node(name: &str, pods: Vec<Arc<PodInfo>>) -> Arc<NodeInfo> {
    let labels = json!({"name": name, "kubernetes.io/hostname": name});
    let mut node = info(
        name,
        json!({"metadata": {"labels": labels}, "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "9"}}}),
    );
    pods.into_iter().for_each(|pod| node.add(pod));
    Arc::new(node)
}

fn play(pod: &PodInfo, all: &Snapshot, budgets: &[Budget], going: &[&str]) -> String {
    let none = choose(pod, all, &mut 0, |_| 0).expect_err("no node must be free");
    let going = going.iter().map(|uid| (*uid).to_owned()).collect();
    match preempt(pod, all, &none, budgets, &going, 0) {
        Outcome::Nominate { node, victims } => {
            let names: Vec<_> = victims.iter().map(|victim| victim.uid.as_str()).collect();
            format!("{node}: {}", names.join(" "))
        }
        Outcome::Wait(why) => why.to_owned(),
        Outcome::Hopeless(why) => why,
    }
}

fn check(pod: &PodInfo, nodes: Vec<Arc<NodeInfo>>, expect: &str) {
    assert_eq!(play(pod, &view(nodes), &[], &[]), expect);
}

#[test]
fn as_few_and_as_unimportant_pods_go_as_will_do() {
    let new = |milli| plain("new", milli, 10);
    check(&new(500), vec![node("a", vec![plain("x", 600, 1), plain("y", 400, 2)])], "a: x");
    check(&new(900), vec![node("a", vec![plain("x", 600, 1), plain("y", 400, 2)])], "a: y x");
    // The more important stays where either would do.
    check(&new(400), vec![node("a", vec![plain("x", 500, 1), plain("y", 500, 2)])], "a: x");
    // Of equals the one that has been there longer stays.
    let (old, young) = (pod("old", 500, 1, 5, json!({})), pod("young", 500, 1, 9, json!({})));
    check(&new(400), vec![node("a", vec![old, young])], "a: young");
}

#[test]
fn the_node_that_loses_least_is_chosen() {
    let new = plain("new", 1000, 10);
    let a = |pods: Vec<Arc<PodInfo>>| node("a", pods);
    let b = |pods: Vec<Arc<PodInfo>>| node("b", pods);
    // The highest priority first, then the sum, then the number, then the start.
    check(&new, vec![a(vec![plain("x", 1000, 5)]), b(vec![plain("y", 500, 4), plain("z", 500, 4)])], "b: y z");
    check(
        &new,
        vec![a(vec![plain("x", 500, 5), plain("w", 500, 3)]), b(vec![plain("y", 500, 5), plain("z", 500, 2)])],
        "b: y z",
    );
    check(&new, vec![a(vec![plain("x", 500, 0), plain("w", 500, 0)]), b(vec![plain("y", 1000, 0)])], "b: y");
    let started = |name: &str, at: i64| pod(name, 1000, 5, at, json!({}));
    check(&new, vec![a(vec![started("x", 1)]), b(vec![started("y", 2)])], "b: y");
    check(&new, vec![a(vec![started("x", 2)]), b(vec![started("y", 2)])], "a: x");
}

#[test]
fn says_why_it_would_not_help() {
    let held = || vec![plain("x", 1000, 10)];
    check(
        &plain("new", 500, 10),
        vec![node("a", held())],
        "0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    );
    check(
        &plain("new", 2000, 20),
        vec![node("a", held())],
        "0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
    );
    let some = vec![node("a", vec![plain("x", 900, 10), plain("y", 100, 1)]), node("b", held())];
    check(
        &plain("new", 500, 10),
        some,
        "0/2 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod.",
    );
    check(
        &pod("new", 500, 20, 0, json!({"preemptionPolicy": "Never"})),
        vec![node("a", held())],
        "not eligible due to preemptionPolicy=Never.",
    );
    let elsewhere = json!({"nodeSelector": {"name": "b"}});
    check(
        &pod("new", 500, 20, 0, elsewhere),
        vec![node("a", held()), node("b", vec![plain("y", 1000, 20)])],
        "0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for \
         scheduling.",
    );
}

#[test]
fn a_promise_is_waited_for_and_kept_by_others() {
    let new = plain("new", 600, 10);
    let all = |on: &str, pod: &Arc<PodInfo>| Snapshot {
        nominated: Arc::new(vec![Nominated { node: on.to_owned(), pod: pod.clone() }]),
        ..view(vec![node("a", vec![plain("x", 1000, 1)]), node("b", vec![plain("y", 1000, 2)])])
    };
    let wait = "not eligible due to a terminating pod on the nominated node.";
    assert_eq!(play(&new, &all("a", &new), &[], &["x"]), wait);
    assert_eq!(play(&new, &all("a", &new), &[], &["y"]), "a: x", "nothing goes from there");
    assert_eq!(play(&new, &all("gone", &new), &[], &["x"]), "a: x");
    // Room that is promised to another of the same importance is taken; of a lesser one it is not.
    assert_eq!(play(&new, &all("a", &plain("other", 600, 10)), &[], &["x"]), "b: y");
    assert_eq!(play(&new, &all("a", &plain("other", 600, 9)), &[], &[]), "a: x");
    // What the API server shows counts as well.
    let going = whole(json!({"metadata": {"name": "g", "uid": "g", "deletionTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
        "status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]}}));
    let nominated = Arc::new(vec![Nominated { node: "a".to_owned(), pod: new.clone() }]);
    let shown = Snapshot { nominated, ..view(vec![node("a", vec![going])]) };
    assert_eq!(play(&new, &shown, &[], &[]), wait);
}

#[test]
fn budgets_are_kept_where_possible() {
    let budget = |selector: Value, allowed: i32, disrupted: Value| {
        let budget = json!({"metadata": {"name": "b", "namespace": "default"}, "spec": {"selector": selector},
            "status": {"disruptionsAllowed": allowed, "disruptedPods": disrupted}});
        Budget::of(&serde_json::from_value(budget).expect("a budget"))
    };
    let guards = |name: &str| json!({"matchLabels": {"name": name}});
    let new = plain("new", 500, 10);
    let on_one = || view(vec![node("a", vec![plain("x", 500, 1), plain("y", 500, 2)])]);
    let on_two = || view(vec![node("a", vec![plain("x", 1000, 1)]), node("b", vec![plain("y", 1000, 2)])]);
    let check = |all: Snapshot, budgets: &[Budget], expect: &str| assert_eq!(play(&new, &all, budgets, &[]), expect);
    check(on_one(), &[], "a: x");
    check(on_one(), &[budget(guards("x"), 0, json!({}))], "a: y");
    check(on_one(), &[budget(guards("x"), 1, json!({}))], "a: x");
    check(on_one(), &[budget(guards("x"), 0, json!({"x": "2024-01-01T00:00:00Z"}))], "a: x");
    check(on_one(), &[budget(json!({}), 0, json!({}))], "a: x");
    check(on_one(), &[budget(guards("x"), 0, json!({})), budget(guards("y"), 0, json!({}))], "a: x");
    check(on_two(), &[], "a: x");
    check(on_two(), &[budget(guards("x"), 0, json!({}))], "b: y");
    check(on_two(), &[budget(guards("x"), 0, json!({})), budget(guards("y"), 0, json!({}))], "a: x");
}

#[test]
fn pods_that_keep_others_away_may_go() {
    let jealous = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"name": "new"}}}]}}});
    let new = plain("new", 100, 10);
    check(&new, vec![node("a", vec![pod("x", 100, 1, 0, jealous.clone()), plain("y", 100, 1)])], "a: x");
    check(
        &new,
        vec![node("a", vec![pod("x", 100, 11, 0, jealous), plain("y", 100, 1)])],
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.",
    );
}
