//! The plans, as tables, and the controller on a stage.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use skiff_client::fake::FakeTransport;

use super::facts::{FAILURES, FINALIZER, INDEX};
use super::plan::{Plan, plan};
use crate::testing::Stage;

fn now() -> Timestamp {
    "2024-01-01T01:00:00Z".parse().expect("a time")
}

fn job(spec: Value, status: Value) -> Job {
    let mut all = json!({"parallelism": 1, "backoffLimit": 6, "template": {"spec": {"containers": [], "restartPolicy": "Never"}}});
    all.as_object_mut().expect("a map").extend(spec.as_object().expect("a map").clone());
    serde_json::from_value(
        json!({"metadata": {"name": "j", "namespace": "n", "uid": "j"}, "spec": all, "status": status}),
    )
    .expect("a job")
}

/// Name, phase, index.
fn pods(list: &[(&str, &str, Option<i32>)]) -> Vec<Arc<Pod>> {
    let pod = |(name, phase, index): &(&str, &str, Option<i32>)| {
        let annotations = index.map_or(json!({}), |index| json!({INDEX: index.to_string()}));
        let ended = matches!(*phase, "Failed" | "Succeeded");
        let state = json!({"terminated": {"exitCode": 1, "finishedAt": "2024-01-01T00:00:00Z"}});
        let statuses =
            json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]);
        let value = json!({"metadata": {"name": name, "uid": name, "finalizers": [FINALIZER], "annotations": annotations},
            "status": {"phase": phase, "containerStatuses": if ended { statuses } else { Value::Null }}});
        Arc::new(serde_json::from_value(value).expect("a pod"))
    };
    list.iter().map(pod).collect()
}

fn released(mut pod: Arc<Pod>) -> Arc<Pod> {
    Arc::make_mut(&mut pod).metadata.finalizers = None;
    pod
}

fn conditions(plan: &Plan) -> Vec<String> {
    let all = plan.status.conditions.iter().flatten();
    all.map(|c| format!("{}={} {}", c.type_, c.status, c.reason.as_deref().unwrap_or(""))).collect()
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect()
}

#[test]
fn how_many_pods_are_made_and_deleted() {
    let running = |n: usize| (0..n).map(|i| (["a", "b", "c", "d"][i], "Running", None)).collect::<Vec<_>>();
    for (spec, status, have, create, delete) in [
        (json!({"completions": 1}), json!({}), 0, 1, 0),
        (json!({"completions": 1}), json!({}), 1, 0, 0),
        (json!({"completions": 5, "parallelism": 3}), json!({}), 1, 2, 0),
        (json!({"completions": 5, "parallelism": 3}), json!({"succeeded": 4}), 0, 1, 0),
        (json!({"completions": 5, "parallelism": 3}), json!({"succeeded": 4}), 3, 0, 2),
        (json!({"parallelism": 3}), json!({}), 1, 2, 0),
        (json!({"parallelism": 3}), json!({"succeeded": 1}), 2, 0, 0),
        (json!({"completions": 2, "suspend": true}), json!({}), 2, 0, 2),
        (json!({"completions": 2, "parallelism": 0}), json!({}), 0, 0, 0),
    ] {
        let made = plan(&job(spec.clone(), status.clone()), &pods(&running(have)), true, now());
        assert_eq!((made.create.len(), made.delete.len()), (create, delete), "{spec} {status}");
        let held = plan(&job(spec, status), &pods(&running(have)), false, now());
        assert_eq!((held.create.len(), held.delete.len()), (0, 0), "while some are expected");
    }
}

#[test]
fn a_pod_is_counted_when_its_finalizer_is_gone() {
    let one = json!({"completions": 1});
    let all = pods(&[("a", "Succeeded", None)]);
    let first = plan(&job(one.clone(), json!({})), &all, true, now());
    assert_eq!(names(&first.release), ["a"]);
    assert_eq!(
        first.status.uncounted_terminated_pods.as_ref().and_then(|u| u.succeeded.clone()),
        Some(vec!["a".into()])
    );
    assert_eq!(first.status.succeeded, None);
    assert_eq!(conditions(&first), ["SuccessCriteriaMet=True CompletionsReached"]);
    assert_eq!(first.create, []);
    let status = serde_json::to_value(&first.status).expect("a status");
    let second = plan(&job(one, status), &[released(all[0].clone())], true, now());
    assert_eq!(second.status.succeeded, Some(1));
    assert_eq!(conditions(&second), ["SuccessCriteriaMet=True CompletionsReached", "Complete=True CompletionsReached"]);
    assert!(second.status.completion_time.is_some());
    assert_eq!(second.events.iter().map(|e| e.1).collect::<Vec<_>>(), ["Completed"]);
}

#[test]
fn how_jobs_fail() {
    let failed = [("a", "Failed", None), ("b", "Running", None)];
    for (spec, status, pods, expect, deleted) in [
        (json!({"completions": 2, "backoffLimit": 0}), json!({}), pods(&failed), Some("BackoffLimitExceeded"), 1),
        (json!({"completions": 2, "backoffLimit": 1}), json!({}), pods(&failed), None, 1),
        (
            json!({"completions": 2, "backoffLimit": 1}),
            json!({"failed": 1}),
            pods(&failed),
            Some("BackoffLimitExceeded"),
            1,
        ),
        (
            json!({"completions": 2, "activeDeadlineSeconds": 60}),
            json!({"startTime": "2024-01-01T00:59:00Z"}),
            pods(&[("b", "Running", None)]),
            Some("DeadlineExceeded"),
            1,
        ),
    ] {
        let made = plan(&job(spec.clone(), status), &pods, true, now());
        let said = conditions(&made);
        match expect {
            Some(reason) => {
                assert_eq!(said, [format!("FailureTarget=True {reason}")], "{spec}");
                assert_eq!(made.delete.len(), deleted);
            }
            None => assert_eq!(said, Vec::<String>::new(), "{spec}"),
        }
    }
    // The last pod is gone, and all are counted.
    let status = json!({"failed": 1, "startTime": "2024-01-01T00:00:00Z", "conditions": [
        {"type": "FailureTarget", "status": "True", "reason": "BackoffLimitExceeded", "message": "m"}]});
    let end = plan(&job(json!({"completions": 1, "backoffLimit": 0}), status), &[], true, now());
    assert_eq!(conditions(&end)[1], "Failed=True BackoffLimitExceeded");
    assert_eq!((end.events[0].1, end.create.len()), ("BackoffLimitExceeded", 0));
}

#[test]
fn indexes_are_made_once_each() {
    let indexed = |more: Value| {
        let mut spec = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 3});
        spec.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        spec
    };
    let all = pods(&[("a", "Running", Some(1)), ("b", "Succeeded", Some(0))]);
    let made = plan(&job(indexed(json!({})), json!({})), &all, true, now());
    assert_eq!(made.status.completed_indexes.as_deref(), Some("0"));
    assert_eq!(made.create, [(Some(2), 0), (Some(3), 0)]);
    let doubled = pods(&[("a", "Running", Some(1)), ("b", "Running", Some(1)), ("c", "Running", Some(0))]);
    let made = plan(&job(indexed(json!({})), json!({"completedIndexes": "0"})), &doubled, true, now());
    assert_eq!(names(&made.delete), ["b", "c"]);
    // An index that has failed too often is given up; the others go on.
    let mut failed = pods(&[("a", "Failed", Some(0)), ("b", "Failed", Some(1))]);
    let annotations = Arc::make_mut(&mut failed[0]).metadata.annotations.get_or_insert_default();
    annotations.insert(FAILURES.to_owned(), "1".to_owned());
    let spec = indexed(json!({"backoffLimitPerIndex": 1, "backoffLimit": i32::MAX}));
    let made = plan(&job(spec, json!({})), &failed, true, now());
    assert_eq!(made.status.failed_indexes.as_deref(), Some("0"));
    assert_eq!(made.create, [(Some(1), 1), (Some(2), 0), (Some(3), 0)]);
}

#[test]
fn suspended_jobs_start_again() {
    let spec = json!({"completions": 1, "suspend": true});
    let stopped = plan(&job(spec, json!({"startTime": "2024-01-01T00:00:00Z"})), &[], true, now());
    assert_eq!(
        (conditions(&stopped), stopped.status.start_time.is_some()),
        (vec!["Suspended=True JobSuspended".into()], false)
    );
    assert_eq!(stopped.events[0].1, "Suspended");
    let status = serde_json::to_value(&stopped.status).expect("a status");
    let resumed = plan(&job(json!({"completions": 1, "suspend": false}), status), &[], true, now());
    assert_eq!(conditions(&resumed), ["Suspended=False JobResumed"]);
    assert_eq!((resumed.create.len(), resumed.events[0].1), (1, "Resumed"));
    assert!(resumed.status.start_time.is_some());
}

fn stored(fake: &FakeTransport) -> Value {
    fake.objects("/apis/batch/v1/jobs")[0].clone()
}

#[tokio::test]
async fn runs_pods_to_their_end() {
    let stage = Stage::new();
    stage.put(
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "x", "uid": "j-uid"},
        "spec": {"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": 6,
            "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "j-uid"}},
            "template": {"metadata": {"labels": {"batch.kubernetes.io/controller-uid": "j-uid"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}}}),
    );
    super::start(&stage.context());
    stage
        .until("two pods", |fake| fake.objects("/api/v1/pods").len() == 2 && stored(fake)["status"]["active"] == 2)
        .await;
    for mut pod in stage.fake.objects("/api/v1/pods") {
        assert_eq!(pod["metadata"]["finalizers"], json!([FINALIZER]));
        assert_eq!(pod["spec"]["containers"][0]["env"][0]["name"], "JOB_COMPLETION_INDEX");
        pod["status"] = json!({"phase": "Succeeded"});
        stage.put(pod);
    }
    stage
        .until("the end", |fake| {
            stored(fake)["status"]["conditions"].as_array().is_some_and(|c| c.iter().any(|c| c["type"] == "Complete"))
        })
        .await;
    let status = stored(&stage.fake)["status"].clone();
    assert_eq!((&status["succeeded"], &status["completedIndexes"]), (&json!(2), &json!("0,1")));
    let held =
        stage.fake.objects("/api/v1/pods").iter().filter(|p| p["metadata"]["finalizers"] == json!([FINALIZER])).count();
    assert_eq!(held, 0, "every pod is let go");
    stage.end().await;
}
