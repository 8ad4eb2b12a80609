//! Patches, subresources, strictness, and writers that meet.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{CONFIG_MAPS, Cluster, config_map};
use crate::admission::namespace;
use crate::meta;
use crate::storage::{self, Created};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [
            {"name": "a", "image": "one"}, {"name": "b", "image": "two"},
        ]}},
    }})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patches_of_every_kind() {
    let cluster = Cluster::start().await;
    cluster.create(DEPLOYMENTS, deployment("d")).await;
    let path = format!("{DEPLOYMENTS}/d");
    let containers = |value: &Value| -> Vec<(String, String)> {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let list = value["spec"]["template"]["spec"]["containers"].as_array().cloned().unwrap_or_default();
        list.iter().map(|c| (text(&c["name"]), text(&c["image"]))).collect()
    };
    let own = |list: &[(&str, &str)]| list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>();
    let strategic = json!({"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "three"}]}}}});
    let (status, value) = cluster.patch(&path, "strategic-merge", strategic.clone()).await;
    assert_eq!((status, containers(&value)), (200, own(&[("a", "one"), ("b", "three")])), "{value}");
    assert_eq!(value["metadata"]["generation"], 2);
    let (_, same) = cluster.patch(&path, "strategic-merge", strategic).await;
    assert_eq!(same["metadata"]["resourceVersion"], value["metadata"]["resourceVersion"]);
    let json_patch = json!([
        {"op": "test", "path": "/spec/replicas", "value": 2},
        {"op": "replace", "path": "/spec/replicas", "value": 5},
    ]);
    let (status, value) = cluster.patch(&path, "json", json_patch.clone()).await;
    assert_eq!((status, &value["spec"]["replicas"]), (200, &json!(5)));
    assert_eq!(cluster.patch(&path, "json", json_patch).await.0, 422);
    let merge = json!({"spec": {"template": {"spec": {"containers": [{"name": "only", "image": "four"}]}}}});
    let (_, value) = cluster.patch(&path, "merge", merge).await;
    assert_eq!(containers(&value), own(&[("only", "four")]));
    for (kind, body, status, message) in [
        ("merge", json!({"metadata": {"name": "other"}}), 400, "does not match the name on the URL"),
        ("merge", json!({"metadata": {"resourceVersion": "1"}}), 409, "the object has been modified"),
        ("merge", json!({"spec": {"selector": {"matchLabels": {"app": "x"}}}}), 422, "field is immutable"),
        ("merge", json!([]), 400, "error decoding patch"),
        ("json", json!([{"op": "replace", "path": "/spec/nosuch/deep", "value": 1}]), 422, ""),
    ] {
        let (got, value) = cluster.patch(&path, kind, body.clone()).await;
        assert_eq!(got, status, "{body}: {value}");
        assert!(value["message"].as_str().is_some_and(|m| m.contains(message)), "{body}: {value}");
    }
    assert_eq!(cluster.patch(&format!("{DEPLOYMENTS}/no"), "merge", json!({})).await.0, 404);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_spec_are_written_apart() {
    let cluster = Cluster::start().await;
    let mut object = deployment("d");
    object["status"] = json!({"replicas": 9});
    let created = cluster.create(DEPLOYMENTS, object).await;
    assert!(created["status"].get("replicas").is_none(), "{created}");
    let path = format!("{DEPLOYMENTS}/d");
    let mut both = created.clone();
    both["status"] = json!({"replicas": 2, "observedGeneration": 1});
    both["spec"]["replicas"] = 7.into();
    let (status, value) = cluster.ask("PUT", &format!("{path}/status"), both.clone()).await;
    assert_eq!((status, &value["spec"]["replicas"], &value["status"]["replicas"]), (200, &json!(2), &json!(2)));
    both["metadata"]["resourceVersion"] = value["metadata"]["resourceVersion"].clone();
    both["status"]["replicas"] = 1.into();
    let (_, value) = cluster.ask("PUT", &path, both).await;
    assert_eq!((&value["spec"]["replicas"], &value["status"]["replicas"]), (&json!(7), &json!(2)));
    assert_eq!(value["metadata"]["generation"], 2);
    assert_eq!(cluster.get(&format!("{path}/status")).await, value);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_need_a_version_where_objects_do() {
    let cluster = Cluster::start().await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
    let mut made = cluster.create(budgets, budget).await;
    made["status"] = json!({"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1,
        "expectedPods": 2});
    let mut blind = made.clone();
    blind["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
    let path = format!("{budgets}/b");
    let message = "poddisruptionbudgets.policy \"b\" is invalid: metadata.resourceVersion: Invalid value: 0: must be \
                   specified for an update";
    for path in [&path, &format!("{path}/status")] {
        let (status, error) = cluster.ask("PUT", path, blind.clone()).await;
        assert_eq!((status, error["message"].as_str()), (422, Some(message)), "{path}");
    }
    let (status, written) = cluster.ask("PUT", &format!("{path}/status"), made).await;
    assert_eq!((status, &written["status"]["expectedPods"]), (200, &json!(2)));
    let (status, written) =
        cluster.patch(&format!("{path}/status"), "merge", json!({"status": {"expectedPods": 3}})).await;
    assert_eq!((status, &written["status"]["expectedPods"]), (200, &json!(3)), "a patch has the version");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_are_named_once() {
    let cluster = Cluster::start().await;
    let owner = |uid: &str| json!({"apiVersion": "v1", "kind": "Node", "name": "n", "uid": uid});
    let mut map = super::config_map("m");
    map["metadata"]["ownerReferences"] = json!([owner("1"), owner("2"), owner("1")]);
    let start = "299 - \".metadata.ownerReferences contains duplicate entries";
    let told = |answer: &super::Answer, more: &str, uids: &str| {
        let warning = answer.header("warning");
        assert!(
            warning.starts_with(&format!("{start}{more}; ")) && warning.ends_with(&format!(": {uids}\"")),
            "{warning}"
        );
        let value = answer.value();
        assert_eq!(value["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(2), "{value}");
        value
    };
    let made = told(&cluster.ask_with("POST", super::CONFIG_MAPS, map.clone(), &[]).await, "", "1");
    map["metadata"]["ownerReferences"] = json!([owner("2"), owner("2"), owner("1")]);
    let path = format!("{}/m", super::CONFIG_MAPS);
    told(&cluster.ask_with("PUT", &path, map, &[]).await, "", "2");
    let patch = json!([{"op": "add", "path": "/metadata/ownerReferences/-", "value": owner("1")}]);
    let headers = [("content-type", "application/json-patch+json")];
    let patched = cluster.ask_with("PATCH", &path, patch, &headers).await;
    told(&patched, " after mutating admission happens", "1");
    assert_eq!(made["data"], json!({"k": "v"}));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scales() {
    let cluster = Cluster::start().await;
    cluster.create(DEPLOYMENTS, deployment("d")).await;
    let path = format!("{DEPLOYMENTS}/d/scale");
    let mut scale = cluster.get(&path).await;
    assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(2), &json!("app=d")));
    scale["spec"]["replicas"] = 4.into();
    let (status, scaled) = cluster.ask("PUT", &path, scale.clone()).await;
    assert_eq!((status, &scaled["spec"]["replicas"]), (200, &json!(4)));
    assert_eq!(cluster.ask("PUT", &path, scale).await.0, 409, "the revision is old");
    let (status, _) = cluster.patch(&path, "merge", json!({"spec": {"replicas": 0}})).await;
    assert_eq!(status, 200);
    assert_eq!(cluster.get(&format!("{DEPLOYMENTS}/d")).await["spec"]["replicas"], 0);
    assert_eq!(cluster.patch(&path, "merge", json!({"spec": {"replicas": -1}})).await.0, 422);
    assert_eq!(cluster.patch(&path, "merge", json!({"spec": {"replicas": 3}})).await.0, 200);
    assert_eq!(cluster.patch(&path, "merge", json!({"spec": {"replicas": "many"}})).await.0, 422);
    assert_eq!(
        cluster.get(&format!("{DEPLOYMENTS}/d")).await["spec"]["replicas"],
        3,
        "what is no number scales nothing"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_fields() {
    let cluster = Cluster::start().await;
    let mut object = deployment("d");
    object["spec"]["replicaz"] = 3.into();
    let strict = format!("{DEPLOYMENTS}?fieldValidation=Strict");
    let (status, error) = cluster.ask("POST", &strict, object.clone()).await;
    assert_eq!(status, 400);
    let message = error["message"].as_str().expect("a message");
    assert!(message.ends_with("strict decoding error: unknown field \"spec.replicaz\""), "{message}");
    let warned = cluster.ask_with("POST", DEPLOYMENTS, object.clone(), &[]).await;
    assert_eq!(warned.status, 201);
    assert_eq!(warned.header("warning"), "299 - \"unknown field \\\"spec.replicaz\\\"\"");
    assert!(warned.value()["spec"].get("replicaz").is_none());
    object["metadata"]["name"] = "e".into();
    let ignored = cluster.ask_with("POST", &format!("{DEPLOYMENTS}?fieldValidation=Ignore"), object, &[]).await;
    assert_eq!((ignored.status, ignored.header("warning")), (201, ""));
    let patch = json!({"spec": {"replicaz": 1}});
    let (status, _) = cluster.patch(&format!("{DEPLOYMENTS}/d?fieldValidation=Strict"), "merge", patch).await;
    assert_eq!(status, 422);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_is_lost_among_many_writers() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, config_map("shared")).await;
    let path = format!("{CONFIG_MAPS}/shared");
    let writers = (0..16).map(|i| {
        let (cluster, path) = (&cluster, &path);
        async move {
            for j in 0..4 {
                let key = format!("k{i}-{j}");
                let (status, value) = cluster.patch(path, "merge", json!({"data": {key: "x"}})).await;
                assert_eq!(status, 200, "{value}");
            }
        }
    });
    futures::future::join_all(writers).await;
    let value = cluster.get(&path).await;
    assert_eq!(value["data"].as_object().map(serde_json::Map::len), Some(65));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_one_kind_in_two_groups() {
    let cluster = Cluster::start().await;
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "reason": "R", "message": "M",
        "type": "Normal", "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "source": {"component": "c"}, "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z", "count": 1});
    cluster.create("/api/v1/namespaces/default/events", event).await;
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let seen = cluster.get(&format!("{path}/e")).await;
    assert_eq!((&seen["apiVersion"], &seen["note"]), (&json!("events.k8s.io/v1"), &json!("M")));
    assert_eq!((&seen["regarding"]["name"], &seen["deprecatedCount"]), (&json!("p"), &json!(1)));
    let list = cluster.get(path).await;
    assert_eq!((&list["kind"], &list["items"][0]["note"]), (&json!("EventList"), &json!("M")));
    let newer = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "f"}, "reason": "R", "note": "N",
        "type": "Normal", "action": "A", "reportingController": "c", "reportingInstance": "i", "eventTime": "2026-01-01T00:00:00.000000Z",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}});
    cluster.create(path, newer).await;
    let core = cluster.get("/api/v1/namespaces/default/events/f").await;
    assert_eq!((&core["message"], &core["involvedObject"]["name"]), (&json!("N"), &json!("p")));
    assert_eq!(core["reportingComponent"], "c");
    let selected = cluster.get("/api/v1/events?fieldSelector=involvedObject.name=p,reason=R").await;
    assert_eq!(selected["items"].as_array().map(Vec::len), Some(2));
    cluster.stop().await;
}

/// The namespace is looked at once more in the transaction that creates: what was decided on an older state is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_created_in_a_namespace_that_began_to_end_meanwhile() {
    let cluster = Cluster::start().await;
    let namespace = |finalizers: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}, "spec": {"finalizers": finalizers}});
    cluster.create("/api/v1/namespaces", namespace(json!(["kubernetes"]))).await;
    let server = cluster.inside();
    let row = server.registry.load().find("", "v1", "configmaps").cloned().expect("a built-in kind");
    let mut object = config_map("c");
    object["metadata"]["namespace"] = "n".into();
    let key = || storage::key("configmaps", &meta::key(&object));
    let value = || Bytes::from(object.to_string());
    let guard = namespace::guard(&server, &row, &object).expect("it takes objects").expect("there is a namespace");
    // Any change makes the guard stale; one that is no end only renews it.
    let labelled = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(cluster.patch("/api/v1/namespaces/n", "merge", labelled).await.0, 200);
    let Created::Moved(current) = storage::create(&server.store, key(), value(), Some(&guard)).await.expect("answered")
    else {
        panic!("the namespace was changed")
    };
    let guard = namespace::guard_again(&row, &object, current).expect("it takes objects").expect("still there");
    assert_eq!(cluster.ask("DELETE", "/api/v1/namespaces/n", Value::Null).await.0, 200);
    let Created::Moved(current) = storage::create(&server.store, key(), value(), Some(&guard)).await.expect("answered")
    else {
        panic!("the namespace ends")
    };
    let error = namespace::guard_again(&row, &object, current).expect_err("it takes nothing more");
    assert_eq!((error.code, error.reason.as_str()), (403, "Forbidden"));
    assert!(error.message.ends_with("in namespace n because it is being terminated"), "{}", error.message);
    assert_eq!(cluster.ask("GET", "/api/v1/namespaces/n/configmaps/c", Value::Null).await.0, 404);
    cluster.stop().await;
}
