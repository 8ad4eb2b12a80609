//! What kinds of workloads need of the API server beyond their rows.

use serde_json::{Value, json};

use super::{Cluster, pod, with_account};

const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const CRON_JOBS: &str = "/apis/batch/v1/namespaces/default/cronjobs";

fn template() -> Value {
    json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evictions_are_counted() {
    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    for name in ["a", "b"] {
        let mut pod = pod(name);
        pod["metadata"]["labels"] = json!({"app": "x"});
        cluster.create(PODS, pod).await;
        let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        let path = format!("{PODS}/{name}/status");
        assert_eq!(cluster.patch(&path, "merge", running).await.0, 200);
    }
    let budget =
        json!({"metadata": {"name": "x"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}});
    cluster.create(BUDGETS, budget).await;
    let evict = async |name: &str| {
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        cluster.ask("POST", &format!("{PODS}/{name}/eviction"), body).await
    };
    let (status, error) = evict("a").await;
    assert_eq!((status, &error["reason"]), (429, &json!("TooManyRequests")));
    assert_eq!(error["details"]["retryAfterSeconds"], 10, "nobody has counted the pods yet");
    let counted = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2,
        "desiredHealthy": 1, "expectedPods": 2}});
    let path = format!("{BUDGETS}/x/status");
    assert_eq!(cluster.patch(&path, "merge", counted).await.0, 200);
    assert_eq!(evict("a").await.0, 201);
    let budget = cluster.get(&format!("{BUDGETS}/x")).await;
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    assert!(budget["status"]["disruptedPods"]["a"].is_string(), "{budget}");
    let (status, error) = evict("b").await;
    assert_eq!(
        (status, &error["message"]),
        (429, &json!("Cannot evict pod as it would violate the pod's disruption budget."))
    );
    assert_eq!(
        error["details"]["causes"],
        json!([{"reason": "DisruptionBudget", "message": "The disruption budget x needs 1 healthy pods and has 2 currently"}])
    );
    assert_eq!(cluster.ask("DELETE", &format!("{BUDGETS}/x"), Value::Null).await.0, 200);
    let (status, error) = cluster
        .ask(
            "POST",
            &format!("{PODS}/b/eviction"),
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "c"}}),
        )
        .await;
    assert_eq!((status, &error["message"]), (400, &json!("name in URL does not match name in Eviction object")));
    // Who counts failures does not count this one.
    let held = json!({"metadata": {"finalizers": ["example.com/held"]}});
    assert_eq!(cluster.patch(&format!("{PODS}/b"), "merge", held).await.0, 200);
    assert_eq!(evict("b").await.0, 201);
    let pod = cluster.get(&format!("{PODS}/b")).await;
    let target = pod["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "DisruptionTarget");
    let target = target.unwrap_or_else(|| panic!("{pod:#}"));
    assert_eq!(
        [&target["status"], &target["reason"], &target["message"]],
        ["True", "EvictionByEvictionAPI", "Eviction API: evicting"]
    );
    assert!(pod["metadata"]["deletionTimestamp"].is_string(), "{pod:#}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_select_their_own_pods_and_leave_them() {
    let cluster = Cluster::start().await;
    let job = cluster.create(JOBS, json!({"metadata": {"name": "j"}, "spec": {"template": template()}})).await;
    let uid = &job["metadata"]["uid"];
    assert_eq!(job["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"], *uid);
    assert_eq!(job["metadata"]["labels"]["batch.kubernetes.io/job-name"], "j");
    // A client that does not say what becomes of the pods lets them be.
    let path = format!("{JOBS}/j");
    let (status, ending) = cluster.ask("DELETE", &path, Value::Null).await;
    assert_eq!((status, &ending["metadata"]["finalizers"]), (200, &json!(["orphan"])));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_zones_exist() {
    let cluster = Cluster::start().await;
    let cron = |zone: &str| {
        json!({"metadata": {"name": "c"}, "spec": {"schedule": "@daily", "timeZone": zone,
            "jobTemplate": {"spec": {"template": template()}}}})
    };
    let (status, error) = cluster.ask("POST", CRON_JOBS, cron("No/Where")).await;
    assert_eq!(status, 422);
    assert_eq!(
        error["message"],
        "CronJob.batch \"c\" is invalid: spec.timeZone: Invalid value: \"No/Where\": unknown time zone No/Where"
    );
    assert_eq!(cluster.ask("POST", CRON_JOBS, cron("UTC")).await.0, 201);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_systems_classes_are_there_and_stay() {
    let cluster = Cluster::start().await;
    let path = "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical";
    assert_eq!(cluster.get(path).await["value"], 2_000_001_000);
    let (status, error) = cluster.ask("DELETE", path, Value::Null).await;
    assert_eq!(status, 403);
    assert_eq!(
        error["message"],
        "priorityclasses.scheduling.k8s.io \"system-node-critical\" is forbidden: this is a system priority class and cannot \
         be deleted"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scalers_are_one_kind_in_two_versions() {
    let cluster = Cluster::start().await;
    let [old, new] = ["v1", "v2"].map(|v| format!("/apis/autoscaling/{v}/namespaces/default/horizontalpodautoscalers"));
    let spec = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 3,
        "targetCPUUtilizationPercentage": 60});
    let scaler = cluster.create(&old, json!({"metadata": {"name": "h"}, "spec": spec})).await;
    assert_eq!((&scaler["apiVersion"], &scaler["spec"]["minReplicas"]), (&json!("autoscaling/v1"), &json!(1)));
    let other = cluster.get(&format!("{new}/h")).await;
    assert_eq!(other["apiVersion"], "autoscaling/v2");
    assert_eq!(other["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 60);
    assert_eq!(other["metadata"]["uid"], scaler["metadata"]["uid"]);
    let scale = json!({"spec": {"maxReplicas": 7}});
    assert_eq!(cluster.patch(&format!("{new}/h"), "merge", scale).await.0, 200);
    let list = cluster.get(&old).await;
    assert_eq!(list["items"][0]["spec"]["maxReplicas"], 7);
    assert_eq!(list["items"][0]["spec"]["targetCPUUtilizationPercentage"], 60);
    let group = cluster.get("/apis/autoscaling").await;
    assert_eq!(group["preferredVersion"]["version"], "v2");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_range_of_services_is_an_object() {
    let cluster = Cluster::start().await;
    let range = cluster.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await;
    assert!(range["spec"]["cidrs"][0].as_str().is_some_and(|cidr| cidr.contains('/')), "{range}");
    assert_eq!(range["status"]["conditions"][0]["type"], "Ready");
    cluster.stop().await;
}
