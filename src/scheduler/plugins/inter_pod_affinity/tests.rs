use super::*;
use crate::framework::Score;
use crate::testing::{holding, labelled, view};
use serde_json::{Value, json};

const HOST: &str = "kubernetes.io/hostname";

fn term(key: &str, labels: &Value) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": labels}})
}

fn required(kind: &str, terms: &[Value]) -> Value {
    json!({"containers": [], "affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
}

fn preferred(kind: &str, weight: i64, term: &Value) -> Value {
    let terms = json!([{"weight": weight, "podAffinityTerm": term}]);
    json!({"containers": [], "affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": terms}}})
}

fn pod(name: &str, labels: Value, spec: Value) -> Arc<PodInfo> {
    labelled(name, "default", labels, spec)
}

fn plain(name: &str, labels: Value) -> Arc<PodInfo> {
    pod(name, labels, json!({"containers": []}))
}

/// Nodes a and b in zone 1, c in zone 2, d without a zone.
fn cluster(on_a: &[&Arc<PodInfo>], on_c: &[&Arc<PodInfo>]) -> Snapshot {
    let owned = |pods: &[&Arc<PodInfo>]| pods.iter().map(|pod| Arc::clone(pod)).collect::<Vec<_>>();
    let (on_a, on_c) = (owned(on_a), owned(on_c));
    view(vec![
        holding("a", json!({HOST: "a", "zone": "1"}), &on_a),
        holding("b", json!({HOST: "b", "zone": "1"}), &[]),
        holding("c", json!({HOST: "c", "zone": "2"}), &on_c),
        holding("d", json!({HOST: "d"}), &[]),
    ])
}

/// What each node says: nothing, or a letter for the reason and an exclamation mark if pods can't help.
fn verdicts(pod: &PodInfo, all: &Snapshot) -> String {
    let Some(counted) = InterPodAffinity.count(pod, all) else { return "free".into() };
    let short = |node: &Arc<NodeInfo>| match counted.filter(pod, node) {
        Ok(()) => "ok".to_owned(),
        Err(refusal) => {
            let reason = match refusal.reasons[0].as_str() {
                AFFINITY => "near",
                ANTI_AFFINITY => "far",
                EXISTING => "existing",
                other => panic!("{other}"),
            };
            format!("{reason}{}", if refusal.resolvable { "" } else { "!" })
        }
    };
    all.nodes.iter().map(short).collect::<Vec<_>>().join(" ")
}

#[test]
fn affinity_draws_to_domains() {
    let check = |spec: Value, labels: Value, on_a: &[&Arc<PodInfo>], on_c: &[&Arc<PodInfo>], expect: &str| {
        assert_eq!(verdicts(&pod("new", labels, spec.clone()), &cluster(on_a, on_c)), expect, "{spec}");
    };
    let web = json!({"app": "web"});
    let (one, two) = (plain("w", web.clone()), plain("v", json!({"app": "web", "tier": "x"})));
    let near_web = required("podAffinity", &[term("zone", &web)]);
    check(near_web.clone(), json!({}), &[&one], &[], "ok ok near! near!");
    check(near_web.clone(), json!({}), &[], &[], "near! near! near! near!");
    // The first of a group is let in, but only where the domain has a name.
    check(near_web.clone(), web.clone(), &[], &[], "ok ok ok near!");
    check(near_web, web.clone(), &[], &[&one], "near! near! ok near!");
    // All terms must be met by one and the same pod; domains may differ.
    let both = required("podAffinity", &[term("zone", &web), term(HOST, &json!({"tier": "x"}))]);
    check(both.clone(), json!({}), &[&one], &[], "near! near! near! near!");
    check(both, json!({}), &[&one], &[&two], "near! near! ok near!");
}

#[test]
fn anti_affinity_keeps_away_and_works_both_ways() {
    let web = json!({"app": "web"});
    let no_web = required("podAntiAffinity", &[term(HOST, &web)]);
    let no_web_in_zone = required("podAntiAffinity", &[term("zone", &web)]);
    let one = plain("w", web.clone());
    let check = |spec: &Value, on_a: &[&Arc<PodInfo>], expect: &str| {
        assert_eq!(verdicts(&pod("new", web.clone(), spec.clone()), &cluster(on_a, &[])), expect, "{spec}");
    };
    check(&no_web, &[&one], "far ok ok ok");
    // A node without the label is no domain.
    check(&no_web_in_zone, &[&one], "far far ok ok");
    let jealous = pod("j", json!({}), no_web_in_zone);
    check(&json!({"containers": []}), &[&jealous], "existing existing ok ok");
    check(&no_web, &[&jealous], "existing existing ok ok");
    assert_eq!(verdicts(&plain("new", json!({})), &cluster(&[&plain("w", web)], &[])), "free");
}

#[test]
fn counts_follow_pods_that_come_and_go() {
    let web = json!({"app": "web"});
    let new = pod("new", web.clone(), required("podAntiAffinity", &[term("zone", &web)]));
    let held = plain("w", web);
    let all = cluster(&[&held], &[]);
    let mut counted = InterPodAffinity.count(&new, &all).expect("it has terms");
    counted.shift(&new, &held, &all.nodes[0], -1);
    assert!(counted.filter(&new, &all.nodes[1]).is_ok());
    let mut copy = counted.copy();
    copy.shift(&new, &held, &all.nodes[2], 1);
    assert!(copy.filter(&new, &all.nodes[2]).is_err());
    assert!(counted.filter(&new, &all.nodes[2]).is_ok());
}

#[test]
fn preferences_weigh_domains() {
    let web = json!({"app": "web"});
    let check = |new: Arc<PodInfo>, on_a: &[&Arc<PodInfo>], on_c: &[&Arc<PodInfo>], expect: [i64; 4]| {
        let all = cluster(on_a, on_c);
        let nodes: Vec<&NodeInfo> = all.nodes.iter().map(|node| &**node).collect();
        let mut scores = InterPodAffinity.scores(&new, &nodes, &all);
        InterPodAffinity.normalize(&mut scores);
        assert_eq!(scores, expect);
    };
    let near = |weight: i64| preferred("podAffinity", weight, &term("zone", &web));
    let far = |weight: i64| preferred("podAntiAffinity", weight, &term("zone", &web));
    let one = plain("w", web.clone());
    check(pod("new", json!({}), near(5)), &[&one], &[], [100, 100, 0, 0]);
    check(pod("new", json!({}), far(5)), &[&one], &[], [0, 0, 100, 100]);
    check(plain("new", web.clone()), &[&one], &[], [0; 4]);
    // What the pods that are there prefer counts as well, and a hard wish of theirs a little.
    check(plain("new", web.clone()), &[&pod("o", json!({}), near(7))], &[], [100, 100, 0, 0]);
    check(plain("new", web.clone()), &[&pod("o", json!({}), far(7))], &[], [0, 0, 100, 100]);
    let hard = pod("h", json!({}), required("podAffinity", &[term("zone", &web)]));
    check(plain("new", web.clone()), &[&hard], &[&pod("o", json!({}), near(2))], [50, 50, 100, 0]);
}
