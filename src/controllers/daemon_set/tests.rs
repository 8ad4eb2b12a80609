//! The plans, as tables, and the controller on a stage.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::plan::{Plan, Rules, places, plan, plan_status};
use crate::testing::Stage;

fn set(spec: Value) -> DaemonSet {
    let mut all = json!({"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}});
    all.as_object_mut().expect("a map").extend(spec.as_object().expect("a map").clone());
    serde_json::from_value(json!({"metadata": {"name": "d", "namespace": "x", "uid": "d"}, "spec": all}))
        .expect("a set")
}

fn node(name: &str, taint: &str) -> Arc<Node> {
    let taints = if taint.is_empty() { json!([]) } else { json!([{"key": "t", "effect": taint}]) };
    Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"taints": taints}})).expect("a node"))
}

/// Name, node, revision, state: `+` ready, `-` not, `x` failed.
fn pod((name, node, hash, state): &(&str, &str, &str, char)) -> Arc<Pod> {
    let phase = if *state == 'x' { "Failed" } else { "Running" };
    let ready = if *state == '+' { "True" } else { "False" };
    let value = json!({"metadata": {"name": name, "uid": name, "labels": {"controller-revision-hash": hash}},
        "spec": {"containers": [], "nodeName": node},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}});
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

fn rules<'a>(unavailable: Option<&'a IntOrString>, surge: Option<&'a IntOrString>) -> Rules<'a> {
    Rules {
        hash: "new",
        min_ready_s: 0,
        rolling: unavailable.is_some() || surge.is_some(),
        max_unavailable: unavailable,
        max_surge: surge,
        now: "2024-01-01T00:00:00Z".parse().expect("a time"),
    }
}

fn said(plan: &Plan) -> (Vec<String>, Vec<String>) {
    let names = plan.delete.iter().chain(plan.ended.iter().map(|(_, pod)| pod));
    (plan.create.clone(), names.filter_map(|pod| pod.metadata.name.clone()).collect())
}

#[test]
fn one_pod_for_each_node() {
    let (one, two) = (IntOrString::Int(1), IntOrString::Int(2));
    let half = IntOrString::String("50%".into());
    let plain = ["n", "m"].map(|name| node(name, ""));
    for (what, pods, rules, create, delete) in [
        ("none yet", vec![], rules(None, None), vec!["n", "m"], vec![]),
        ("one is missing", vec![("a", "n", "new", '+')], rules(None, None), vec!["m"], vec![]),
        ("failed", vec![("a", "n", "new", 'x'), ("b", "m", "new", '+')], rules(None, None), vec![], vec!["a"]),
        (
            "one too many",
            vec![("a", "n", "new", '+'), ("b", "n", "new", '+'), ("c", "m", "new", '+')],
            rules(None, None),
            vec![],
            vec!["b"],
        ),
        (
            "old, one at a time",
            vec![("a", "n", "old", '+'), ("b", "m", "old", '+')],
            rules(Some(&one), None),
            vec![],
            vec!["a"],
        ),
        ("old, waits", vec![("a", "n", "old", '+'), ("b", "m", "new", '-')], rules(Some(&one), None), vec![], vec![]),
        (
            "old, goes on",
            vec![("a", "n", "old", '+'), ("b", "m", "new", '+')],
            rules(Some(&one), None),
            vec![],
            vec!["a"],
        ),
        (
            "old and broken",
            vec![("a", "n", "old", '-'), ("b", "m", "old", '+')],
            rules(Some(&one), None),
            vec![],
            vec!["a"],
        ),
        (
            "two at a time",
            vec![("a", "n", "old", '+'), ("b", "m", "old", '+')],
            rules(Some(&two), None),
            vec![],
            vec!["a", "b"],
        ),
        (
            "half at a time",
            vec![("a", "n", "old", '+'), ("b", "m", "old", '+')],
            rules(Some(&half), None),
            vec![],
            vec!["a"],
        ),
        ("one more", vec![("a", "n", "old", '+'), ("b", "m", "old", '+')], rules(None, Some(&one)), vec!["n"], vec![]),
        (
            "the old one goes after",
            vec![("a", "n", "old", '+'), ("b", "n", "new", '+'), ("c", "m", "new", '+')],
            rules(None, Some(&one)),
            vec![],
            vec!["a"],
        ),
        ("on delete", vec![("a", "n", "old", '+'), ("b", "m", "old", '+')], rules(None, None), vec![], vec![]),
    ] {
        let pods: Vec<Arc<Pod>> = pods.iter().map(pod).collect();
        let made = plan(&places(&set(json!({})), &plain, &pods), &rules);
        let strings = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(said(&made), (strings(create), strings(delete)), "{what}");
    }
}

#[test]
fn taints_keep_away_and_drive_off() {
    for (taint, have, create, delete) in [
        ("NoSchedule", false, 0, 0),
        ("NoSchedule", true, 0, 0),
        ("NoExecute", true, 0, 1),
        ("PreferNoSchedule", false, 1, 0),
    ] {
        let pods: Vec<Arc<Pod>> = have.then(|| pod(&("a", "n", "new", '+'))).into_iter().collect();
        let places = places(&set(json!({})), &[node("n", taint)], &pods);
        let made = plan(&places, &rules(None, None));
        assert_eq!((made.create.len(), made.delete.len()), (create, delete), "{taint} {have}");
        let (status, _) = plan_status(&set(json!({})), &places, &rules(None, None), 0);
        assert_eq!(status.number_misscheduled, i32::from(have), "{taint} {have}");
    }
}

#[test]
fn counts() {
    let nodes = ["n", "m", "o"].map(|name| node(name, ""));
    let pods: Vec<Arc<Pod>> = [("a", "n", "old", '+'), ("b", "m", "new", '-')].iter().map(pod).collect();
    let mut set = set(json!({}));
    set.metadata.generation = Some(3);
    let foreign = json!([{"type": "Watched", "status": "True", "reason": "Set", "message": "by somebody else"}]);
    let old = json!({"currentNumberScheduled": 9, "desiredNumberScheduled": 9, "numberMisscheduled": 9, "numberReady": 9,
        "conditions": foreign});
    set.status = Some(serde_json::from_value(old).expect("a status"));
    let (status, _) = plan_status(&set, &places(&set, &nodes, &pods), &rules(None, None), 0);
    assert_eq!(
        serde_json::to_value(status).expect("a status"),
        json!({"desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberReady": 1, "numberAvailable": 1,
            "conditions": foreign,
            "numberUnavailable": 2, "updatedNumberScheduled": 1, "numberMisscheduled": 0, "observedGeneration": 3})
    );
}

#[tokio::test]
async fn follows_nodes_and_templates() {
    let stage = Stage::new();
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    stage.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "uid": "n"}}));
    stage.put(json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "d", "namespace": "x", "uid": "d-uid", "generation": 1},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}}}));
    super::start(&stage.context());
    stage.until("a pod", |fake| fake.objects("/api/v1/pods").len() == 1).await;
    let first = stage.fake.objects("/api/v1/pods")[0].clone();
    let terms = &first["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(terms["nodeSelectorTerms"][0]["matchFields"][0]["values"], json!(["n"]));
    stage.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "m", "uid": "m"}}));
    stage.until("a pod on each", |fake| fake.objects("/api/v1/pods").len() == 2).await;
    let mut changed = stage.fake.objects("/apis/apps/v1/daemonsets")[0].clone();
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = json!("i:2");
    stage.put(changed);
    stage
        .until("new pods", |fake| {
            let pods = fake.objects("/api/v1/pods");
            pods.len() == 2 && pods.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "i:2")
        })
        .await;
    assert_eq!(stage.fake.objects("/apis/apps/v1/controllerrevisions").len(), 2);
    stage.end().await;
}
