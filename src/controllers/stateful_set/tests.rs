//! The plans, as tables, and the controller on a stage.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::plan::{Observed, Step, plan, plan_status};
use super::pods::{ordinal_of, plan_claims, plan_pod};
use crate::testing::Stage;

fn set(spec: Value) -> StatefulSet {
    let mut all = json!({"replicas": 3, "serviceName": "s", "selector": {"matchLabels": {"a": "b"}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}});
    all.as_object_mut().expect("a map").extend(spec.as_object().expect("a map").clone());
    serde_json::from_value(json!({"metadata": {"name": "w", "namespace": "x", "uid": "w"}, "spec": all}))
        .expect("a set")
}

/// Number, revision, state: `+` ready, `-` not, `x` failed, `d` being deleted.
fn pod((ordinal, revision, state): &(i32, &str, char)) -> Arc<Pod> {
    let name = format!("w-{ordinal}");
    let ready = if *state == '+' { "True" } else { "False" };
    let mut value = json!({"metadata": {"name": name, "uid": name, "labels": {"controller-revision-hash": revision, "statefulset.kubernetes.io/pod-name": name}},
        "status": {"phase": if *state == 'x' { "Failed" } else { "Running" }, "conditions": [{"type": "Ready", "status": ready}]}});
    if *state == 'd' {
        value["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
    }
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

fn said(set: &StatefulSet, pods: &[Arc<Pod>]) -> Vec<String> {
    let now = "2024-01-01T00:00:00Z".parse().expect("a time");
    let steps = plan(&Observed { set, pods, current: "old", update: "new", now }).steps;
    let words = |step: &Step| match step {
        Step::Create { ordinal, updated } => format!("+{ordinal}{}", if *updated { "" } else { " old" }),
        Step::Delete(pod) => format!("-{}", ordinal_of(set, pod).expect("a number")),
        Step::Repair(pod) => format!("~{}", ordinal_of(set, pod).expect("a number")),
    };
    steps.iter().map(words).collect()
}

#[test]
fn pods_come_and_go_in_order() {
    let parallel = json!({"podManagementPolicy": "Parallel"});
    let shift = json!({"replicas": 2, "ordinals": {"start": 5}});
    for (what, spec, pods, expect) in [
        ("the first", json!({}), vec![], vec!["+0"]),
        ("waits for it", json!({}), vec![(0, "new", '-')], vec![]),
        ("the next", json!({}), vec![(0, "new", '+')], vec!["+1"]),
        ("all at once", parallel.clone(), vec![(1, "new", '-')], vec!["+0", "+2"]),
        ("a gap", json!({}), vec![(0, "new", '+'), (2, "new", '+')], vec!["+1"]),
        ("one that failed", json!({}), vec![(0, "new", 'x')], vec!["-0"]),
        ("one that goes", json!({}), vec![(0, "new", 'd')], vec![]),
        ("too many", json!({"replicas": 1}), vec![(0, "new", '+'), (1, "new", '+'), (2, "new", '+')], vec!["-2"]),
        ("too many, one goes", json!({"replicas": 1}), vec![(0, "new", '+'), (1, "new", '+'), (2, "new", 'd')], vec![]),
        (
            "too many, one broken",
            json!({"replicas": 1}),
            vec![(0, "new", '+'), (1, "new", '+'), (2, "new", '-')],
            vec!["-2"],
        ),
        ("other numbers", shift, vec![(0, "new", '+')], vec!["+5"]),
        ("none wanted", json!({"replicas": 0}), vec![], vec![]),
    ] {
        let pods: Vec<Arc<Pod>> = pods.iter().map(pod).collect();
        assert_eq!(said(&set(spec), &pods), expect, "{what}");
    }
}

#[test]
fn new_templates_go_from_the_top() {
    let rolling = |rolling: Value| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}});
    let parallel = |of: Value| {
        let mut spec = rolling(of);
        spec["podManagementPolicy"] = json!("Parallel");
        spec
    };
    for (what, spec, pods, expect) in [
        ("the last", json!({}), "old+ old+ old+", vec!["-2"]),
        ("waits", json!({}), "old+ old+ new-", vec![]),
        ("the next", json!({}), "old+ old+ new+", vec!["-1"]),
        ("done", json!({}), "new+ new+ new+", vec![]),
        ("a part", rolling(json!({"partition": 2})), "old+ old+ new+", vec![]),
        ("two at once", rolling(json!({"maxUnavailable": 2})), "old+ old+ old+", vec!["-2", "-1"]),
        ("by hand", json!({"updateStrategy": {"type": "OnDelete"}}), "old+ old+ old+", vec![]),
        ("broken ones are waited for", json!({}), "old- old- old-", vec![]),
        ("unless they are all for themselves", parallel(json!({})), "old- old- old-", vec!["-2"]),
        ("one below is broken", parallel(json!({})), "old+ old- old+", vec!["-2"]),
        ("one above is broken", parallel(json!({})), "old- old- new-", vec![]),
        ("broken ones cost nothing", parallel(json!({"maxUnavailable": 2})), "old- old- old-", vec!["-2", "-1", "-0"]),
        ("and leave no room", parallel(json!({"maxUnavailable": 2})), "old- old+ old-", vec!["-2"]),
    ] {
        let pods: Vec<Arc<Pod>> = pods
            .split(' ')
            .enumerate()
            .map(|(i, text)| {
                let ordinal = i32::try_from(i).expect("few");
                pod(&(ordinal, &text[..3], text.chars().last().expect("a state")))
            })
            .collect();
        assert_eq!(said(&set(spec), &pods), expect, "{what}");
    }
    let below = rolling(json!({"partition": 2}));
    assert_eq!(said(&set(below), &[]), ["+0 old"]);
}

#[test]
fn counts_and_revisions() {
    let now = "2024-01-01T00:00:00Z".parse().expect("a time");
    let set = set(json!({"replicas": 2}));
    for (pods, expect) in [
        (
            vec![(0, "old", '+'), (1, "new", '-')],
            json!({"replicas": 2, "readyReplicas": 1, "availableReplicas": 1, "currentReplicas": 1, "updatedReplicas": 1,
                "currentRevision": "old", "updateRevision": "new", "collisionCount": 0}),
        ),
        (
            vec![(0, "new", '+'), (1, "new", '+')],
            json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 2, "currentReplicas": 2, "updatedReplicas": 2,
                "currentRevision": "new", "updateRevision": "new", "collisionCount": 0}),
        ),
    ] {
        let pods: Vec<Arc<Pod>> = pods.iter().map(pod).collect();
        let status = plan_status(&Observed { set: &set, pods: &pods, current: "old", update: "new", now }, 0);
        assert_eq!(serde_json::to_value(status).expect("a status"), expect);
    }
}

#[test]
fn pods_keep_their_names_and_claims() {
    let set = set(
        json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [],
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]}}}),
    );
    let template = set.spec.as_ref().expect("a spec").template.clone();
    let pod = serde_json::to_value(plan_pod(&set, &template, "w-1a", 2)).expect("a pod");
    assert_eq!(pod["metadata"]["name"], "w-2");
    assert_eq!(
        pod["metadata"]["labels"],
        json!({"a": "b", "statefulset.kubernetes.io/pod-name": "w-2", "apps.kubernetes.io/pod-index": "2",
            "controller-revision-hash": "w-1a"})
    );
    assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("w-2"), &json!("s")));
    assert_eq!(
        pod["spec"]["volumes"],
        json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-w-2", "readOnly": false}}, {"name": "tmp", "emptyDir": {}}])
    );
    let claims = plan_claims(&set, 2);
    assert_eq!(claims[0].metadata.name.as_deref(), Some("data-w-2"));
    for (name, expect) in
        [("w-0", Some(0)), ("w-12", Some(12)), ("w-01", None), ("w-", None), ("v-1", None), ("w-1-2", None)]
    {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}})).expect("a pod");
        assert_eq!(ordinal_of(&set, &pod), expect, "{name}");
    }
}

#[tokio::test]
async fn makes_and_replaces_pods_in_order() {
    let stage = Stage::new();
    let mut object = serde_json::to_value(set(json!({"replicas": 2}))).expect("a set");
    object["metadata"]["generation"] = json!(1);
    stage.put(object);
    super::start(&stage.context());
    let ready = |mut pod: Value| {
        pod["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True",
            "lastTransitionTime": "2024-01-01T00:00:00Z"}]});
        pod
    };
    let names = |fake: &skiff_client::fake::FakeTransport| -> Vec<String> {
        fake.objects("/api/v1/pods")
            .iter()
            .map(|p| p["metadata"]["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    stage.until("the first pod", |fake| names(fake) == ["w-0"]).await;
    stage.put(ready(stage.fake.objects("/api/v1/pods")[0].clone()));
    stage.until("the second pod", |fake| names(fake) == ["w-0", "w-1"]).await;
    let second = stage.fake.objects("/api/v1/pods")[1].clone();
    stage.put(ready(second.clone()));
    let status =
        |fake: &skiff_client::fake::FakeTransport| fake.objects("/apis/apps/v1/statefulsets")[0]["status"].clone();
    stage
        .until("both are ready", |fake| status(fake)["readyReplicas"] == 2 && status(fake)["currentReplicas"] == 2)
        .await;
    let mut changed = stage.fake.objects("/apis/apps/v1/statefulsets")[0].clone();
    changed["spec"]["template"]["metadata"]["annotations"] = json!({"new": "yes"});
    stage.put(changed);
    stage
        .until("the second is replaced first", |fake| {
            let pods = fake.objects("/api/v1/pods");
            pods.len() == 2 && pods[1]["metadata"]["annotations"]["new"] == "yes"
        })
        .await;
    assert!(stage.fake.objects("/api/v1/pods")[0]["metadata"].get("annotations").is_none());
    stage.end().await;
}

#[tokio::test]
async fn a_set_that_is_made_anew_takes_over_what_the_old_one_left() {
    let stage = Stage::new();
    let object = |uid: &str| {
        let mut object = serde_json::to_value(set(json!({"replicas": 1}))).expect("a set");
        object["metadata"]["uid"] = json!(uid);
        object
    };
    stage.put(object("first"));
    super::start(&stage.context());
    let pods = |fake: &skiff_client::fake::FakeTransport| fake.objects("/api/v1/pods");
    let revisions = |fake: &skiff_client::fake::FakeTransport| fake.objects("/apis/apps/v1/controllerrevisions");
    stage.until("a pod", |fake| pods(fake).len() == 1).await;
    // As `kubectl delete --cascade=orphan` leaves them.
    stage.delete("/apis/apps/v1/namespaces/x/statefulsets/w").await;
    for mut left in pods(&stage.fake).into_iter().chain(revisions(&stage.fake)) {
        left["metadata"]["ownerReferences"] = json!([]);
        stage.put(left);
    }
    let uid = pods(&stage.fake)[0]["metadata"]["uid"].clone();
    stage.put(object("second"));
    let owners = |objects: &[Value]| -> Vec<Value> {
        objects.iter().map(|object| object["metadata"]["ownerReferences"][0]["uid"].clone()).collect()
    };
    stage.until("the pod is taken over", |fake| owners(&pods(fake)) == ["second"]).await;
    stage
        .until("and told of", |fake| {
            let sets = fake.objects("/apis/apps/v1/statefulsets");
            let status = &sets[0]["status"];
            status["replicas"] == 1
                && status["currentRevision"] == pods(fake)[0]["metadata"]["labels"]["controller-revision-hash"]
        })
        .await;
    assert_eq!(owners(&revisions(&stage.fake)), ["second"], "its revision too");
    assert_eq!(pods(&stage.fake)[0]["metadata"]["uid"], uid, "it is the same");
    stage.end().await;
}

#[tokio::test]
async fn claims_that_go_are_waited_for_and_replaced() {
    let stage = Stage::new();
    let claims = "/api/v1/persistentvolumeclaims";
    let path = "/api/v1/namespaces/x/persistentvolumeclaims/data-w-0";
    stage.put(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": {},
        "metadata": {"name": "data-w-0", "namespace": "x", "uid": "old", "deletionTimestamp": "2024-01-01T00:00:00Z"}}));
    let template = json!({"metadata": {"name": "data"}, "spec": {}});
    let spec = json!({"replicas": 1, "volumeClaimTemplates": [template]});
    stage.put(serde_json::to_value(set(spec)).expect("a set"));
    super::start(&stage.context());
    let why = "create Pod w-0 in StatefulSet w failed error: pvc data-w-0 is being deleted";
    stage.until("it is told", |fake| fake.objects("/api/v1/events").iter().any(|event| event["message"] == why)).await;
    assert!(stage.fake.objects("/api/v1/pods").is_empty(), "there is no pod for a claim that goes");
    stage.delete(path).await;
    stage.until("a pod", |fake| fake.objects("/api/v1/pods").len() == 1).await;
    assert_eq!(stage.fake.objects(claims).len(), 1, "with a claim");
    let mut pod = stage.fake.objects("/api/v1/pods")[0].clone();
    pod["status"] = json!({"phase": "Pending"});
    stage.put(pod);
    stage.delete(path).await;
    stage.until("another claim", |fake| fake.objects(claims).len() == 1).await;
    stage.end().await;
}

#[tokio::test]
async fn a_pod_waits_for_the_claims_of_the_one_before_it() {
    let stage = Stage::new();
    let claim = |uid: &str| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": {}, "metadata": {"name": "data-w-0", "namespace": "x",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "w-0", "uid": uid, "controller": true}]}})
    };
    stage.put(claim("of the one before"));
    let template = json!({"metadata": {"name": "data"}, "spec": {}});
    let policy = json!({"whenScaled": "Delete", "whenDeleted": "Retain"});
    let spec =
        json!({"replicas": 1, "volumeClaimTemplates": [template], "persistentVolumeClaimRetentionPolicy": policy});
    let mut object = serde_json::to_value(set(spec)).expect("a set");
    object["metadata"]["generation"] = json!(1);
    stage.put(object);
    super::start(&stage.context());
    // Twice: after the second time the first is over.
    for generation in [1, 2] {
        let seen = |fake: &skiff_client::fake::FakeTransport| {
            fake.objects("/apis/apps/v1/statefulsets")[0]["status"]["observedGeneration"] == generation
        };
        stage.until("the set is seen", seen).await;
        let mut again = stage.fake.objects("/apis/apps/v1/statefulsets")[0].clone();
        again["metadata"]["generation"] = json!(generation + 1);
        stage.put(again);
    }
    assert!(stage.fake.objects("/api/v1/pods").is_empty());
    // As the garbage collector does.
    stage.delete("/api/v1/namespaces/x/persistentvolumeclaims/data-w-0").await;
    stage.until("a pod", |fake| fake.objects("/api/v1/pods").len() == 1).await;
    // Scaled down, the claim has its owner before the pod goes.
    let mut pod = stage.fake.objects("/api/v1/pods")[0].clone();
    pod["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True",
        "lastTransitionTime": "2024-01-01T00:00:00Z"}]});
    stage.put(pod.clone());
    let mut down = stage.fake.objects("/apis/apps/v1/statefulsets")[0].clone();
    down["spec"]["replicas"] = json!(0);
    stage.put(down);
    stage.until("the pod is gone", |fake| fake.objects("/api/v1/pods").is_empty()).await;
    let owners = &stage.fake.objects("/api/v1/persistentvolumeclaims")[0]["metadata"]["ownerReferences"];
    assert_eq!((&owners[0]["kind"], &owners[0]["uid"]), (&json!("Pod"), &pod["metadata"]["uid"]));
    stage.end().await;
}

#[test]
fn pods_that_were_taken_over_are_repaired() {
    let claims = json!({"replicas": 2, "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]});
    let set = set(claims);
    let template = set.spec.as_ref().expect("a spec").template.clone();
    let taken = |ordinal: i32, change: &dyn Fn(&mut Value), ready: bool| {
        let mut pod = serde_json::to_value(plan_pod(&set, &template, "new", ordinal)).expect("a pod");
        pod["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]});
        change(&mut pod);
        Arc::new(serde_json::from_value::<Pod>(pod).expect("a pod"))
    };
    let unlabeled = |pod: &mut Value| {
        drop(pod["metadata"]["labels"].as_object_mut().expect("labels").remove("statefulset.kubernetes.io/pod-name"))
    };
    let elsewhere = |pod: &mut Value| {
        pod["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}, {"name": "own", "emptyDir": {}}])
    };
    let as_is = |_: &mut Value| {};
    assert_eq!(said(&set, &[taken(0, &as_is, true), taken(1, &as_is, true)]), Vec::<String>::new());
    assert_eq!(said(&set, &[taken(0, &unlabeled, true), taken(1, &elsewhere, true)]), ["~0", "~1"]);
    assert_eq!(said(&set, &[taken(0, &unlabeled, true)]), ["~0", "+1"]);
    assert_eq!(said(&set, &[taken(0, &unlabeled, false)]), Vec::<String>::new(), "in its turn");
    let repaired = super::pods::plan_repair(&set, &taken(1, &elsewhere, true), 1).expect("a change");
    let repaired = serde_json::to_value(repaired).expect("a pod");
    assert_eq!(
        repaired["spec"]["volumes"],
        json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-w-1", "readOnly": false}}, {"name": "own", "emptyDir": {}}])
    );
}

#[test]
fn claims_go_with_the_set_or_the_pod() {
    let check = |policy: Value, owners: Value, condemned: bool, expect: Option<&[&str]>| {
        let template = json!({"metadata": {"name": "data"}, "spec": {}});
        let set = set(json!({"replicas": 1, "volumeClaimTemplates": [template],
            "persistentVolumeClaimRetentionPolicy": policy}));
        let claim = json!({"metadata": {"name": "data-w-1", "ownerReferences": owners}, "spec": {}});
        let claim: k8s_openapi::api::core::v1::PersistentVolumeClaim = serde_json::from_value(claim).expect("a claim");
        let pod = serde_json::from_value(json!({"metadata": {"name": "w-1", "uid": "pod-uid"}})).expect("a pod");
        let changed = super::pods::plan_owners(&set, &claim, &pod, condemned);
        let kinds = changed.map(|claim| {
            let owners = claim.metadata.owner_references.unwrap_or_default();
            owners.into_iter().map(|owner| owner.kind).collect::<Vec<_>>()
        });
        let expect = expect.map(|kinds| kinds.iter().map(|kind| (*kind).to_owned()).collect::<Vec<_>>());
        assert_eq!(kinds, expect, "{policy} {owners} {condemned}");
    };
    let of = |kind: &str, name: &str, uid: &str| json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}]);
    let (keep, scaled, both) = (
        json!({"whenScaled": "Retain", "whenDeleted": "Retain"}),
        json!({"whenScaled": "Delete", "whenDeleted": "Retain"}),
        json!({"whenScaled": "Delete", "whenDeleted": "Delete"}),
    );
    check(keep.clone(), json!(null), true, None);
    check(scaled.clone(), json!(null), false, None);
    check(scaled.clone(), json!(null), true, Some(&["Pod"]));
    check(both.clone(), json!(null), false, Some(&["StatefulSet"]));
    check(both.clone(), json!(null), true, Some(&["Pod"]));
    // It came back, or the pod is another by now; strangers stay.
    check(scaled.clone(), of("Pod", "w-1", "pod-uid"), false, Some(&[]));
    check(scaled.clone(), of("Pod", "w-1", "old"), true, None);
    check(both.clone(), of("ConfigMap", "x", "x"), true, Some(&["ConfigMap", "Pod"]));
    let other = json!({"apiVersion": "v1", "kind": "Other", "name": "o", "uid": "o", "controller": true});
    let sets = |controller: bool| json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "w", "uid": "w", "controller": controller});
    check(scaled.clone(), json!([other]), true, None);
    // A reference that controls nothing is made one that does; of two controllers ours gives way.
    check(both.clone(), json!([sets(false)]), false, Some(&["StatefulSet"]));
    check(both.clone(), json!([sets(true)]), false, None);
    check(both, json!([other, sets(true)]), false, Some(&["Other"]));
    check(keep.clone(), json!([sets(true)]), false, Some(&[]));
    check(keep, of("ConfigMap", "x", "x"), true, None);
}
