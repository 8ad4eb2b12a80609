//! Server-side apply, as its clients see it.

use serde_json::{Value, json};

use super::customs::{crd, tab};
use super::{Answer, CONFIG_MAPS, Cluster};

pub(super) const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const APPLY: [(&str, &str); 1] = [("content-type", "application/apply-patch+yaml")];

pub(super) fn deployment(replicas: i64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"app": "d"}}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "d"}},
        "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [
            {"name": "c", "image": "one", "ports": [{"containerPort": 80}]},
        ]}},
    }})
}

pub(super) async fn apply(cluster: &Cluster, path: &str, manager: &str, body: Value) -> Answer {
    let join = if path.contains('?') { '&' } else { '?' };
    cluster.ask_with("PATCH", &format!("{path}{join}fieldManager={manager}"), body, &APPLY).await
}

/// (`manager/operation/subresource`, fields) of every entry.
pub(super) fn owners(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let named = |entry: Value| {
        let name = [text(&entry, "manager"), text(&entry, "operation"), text(&entry, "subresource")].join("/");
        (name, entry["fieldsV1"].clone())
    };
    let mut all: Vec<(String, Value)> = entries.into_iter().map(named).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

pub(super) fn names(object: &Value) -> Vec<String> {
    owners(object).into_iter().map(|(name, _)| name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_creates_changes_and_conflicts() {
    let cluster = Cluster::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    let created = apply(&cluster, &path, "one", deployment(2)).await;
    assert_eq!(created.status, 201, "{}", created.value());
    let created = created.value();
    let all = owners(&created);
    assert_eq!(all.len(), 1);
    assert_eq!(
        all[0],
        (
            "one/Apply/".to_owned(),
            json!({"f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {
            "f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
                ".": {}, "f:image": {}, "f:name": {},
                "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
            }}}}}})
        )
    );
    // Again: nothing changes, not even the time.
    let again = apply(&cluster, &path, "one", deployment(2)).await;
    assert_eq!((again.status, again.value()), (200, created.clone()));
    // Another value: a conflict, unless forced.
    let refused = apply(&cluster, &path, "two", deployment(5)).await;
    assert_eq!(refused.status, 409);
    let error = refused.value();
    assert_eq!(error["message"], r#"Apply failed with 1 conflict: conflict with "one": .spec.replicas"#);
    assert_eq!(
        error["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".spec.replicas"}])
    );
    let forced = apply(&cluster, &format!("{path}?force=true"), "two", deployment(5)).await;
    assert_eq!((forced.status, &forced.value()["spec"]["replicas"]), (200, &json!(5)));
    let forced = forced.value();
    assert_eq!(names(&forced), ["one/Apply/", "two/Apply/"]);
    assert!(owners(&forced)[0].1["f:spec"].get("f:replicas").is_none(), "{forced}");
    // What nobody says any more goes; what another one says stays.
    let small = json!({"apiVersion": "apps/v1", "kind": "Deployment"});
    let less = apply(&cluster, &path, "one", small).await.value();
    assert_eq!((names(&less), &less["spec"]["replicas"]), (vec!["two/Apply/".to_owned()], &json!(5)));
    let mut without = deployment(5);
    without["spec"].as_object_mut().expect("a spec").remove("replicas");
    let defaulted = apply(&cluster, &path, "two", without).await.value();
    assert_eq!(defaulted["spec"]["replicas"], 1, "what is gone is defaulted: {defaulted}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused() {
    let cluster = Cluster::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    let check = |query: &'static str, body: Value, status: u16, message: &'static str| {
        let (cluster, path) = (&cluster, &path);
        async move {
            let answer = cluster.ask_with("PATCH", &format!("{path}{query}"), body, &APPLY).await;
            let value = answer.value();
            let got = value["message"].as_str().unwrap_or_default().to_owned();
            assert_eq!((answer.status, got.contains(message)), (status, true), "{query}: {value}");
        }
    };
    let with = |pointer: &str, value: Value| {
        let mut object = deployment(1);
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        object.pointer_mut(parent).expect("there")[name] = value;
        object
    };
    check(
        "",
        deployment(1),
        422,
        r#"PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch"#,
    )
    .await;
    check(
        "?fieldManager=a&fieldManager=b&dryRun=x",
        deployment(1),
        422,
        r#"dryRun: Unsupported value: ["x"]: supported values: "All""#,
    )
    .await;
    check("?fieldManager=a%07", deployment(1), 422, "invalid character U+0007 (at position 1)").await;
    check("?fieldManager=a", with("/metadata/managedFields", json!([])), 400, "metadata.managedFields must be nil")
        .await;
    check("?fieldManager=a", with("/kind", json!("ReplicaSet")), 400, "invalid object type: apps/v1, Kind=ReplicaSet")
        .await;
    check("?fieldManager=a", with("/spec/nosuch", json!(1)), 500, "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.nosuch: field not declared in schema").await;
    check(
        "?fieldManager=a",
        with("/spec/replicas", json!("x")),
        500,
        ".spec.replicas: expected numeric (int or float), got string",
    )
    .await;
    check("?fieldManager=a", with("/metadata/name", json!("other")), 400, "does not match the name on the URL").await;
    check(
        "?fieldManager=a",
        with("/metadata/uid", json!("u")),
        409,
        "uid mismatch: the provided object specified uid u, and no existing object was found",
    )
    .await;
    check("?fieldManager=a", json!([]), 400, "error decoding patch").await;
    for kind in ["application/apply-patch+cbor", "text/plain"] {
        let answer = cluster.ask_with("PATCH", &path, deployment(1), &[("content-type", kind)]).await;
        assert_eq!(answer.status, 415, "{kind}");
    }
    let answer = cluster.patch(&format!("{path}?force=true"), "merge", json!({})).await;
    assert!(answer.0 == 422 && answer.1.to_string().contains("may not be specified for non-apply patch"), "{answer:?}");
    check("?fieldManager=a", deployment(1), 201, "").await;
    check("?fieldManager=a", with("/metadata/resourceVersion", json!("1")), 409, "the object has been modified").await;
    check("?fieldManager=a", with("/metadata/uid", json!("u")), 409, "Precondition failed: UID in precondition: u")
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn yaml_with_a_key_twice() {
    let cluster = Cluster::start().await;
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\ndata:\n  a: one\n  a: two\n";
    let path = |validation: &str| format!("{CONFIG_MAPS}/c?fieldManager=m&fieldValidation={validation}");
    let send = |validation: &str| {
        let (path, body) = (path(validation), bytes::Bytes::from(text));
        let cluster = &cluster;
        async move { super::ask(cluster.admin(), "PATCH", &path, body, &APPLY).await }
    };
    let strict = send("Strict").await;
    assert_eq!(strict.status, 400, "{}", strict.value());
    let message = strict.value()["message"].as_str().unwrap_or_default().to_owned();
    assert!(
        message.starts_with("error strict decoding patch: error converting YAML to JSON: yaml: unmarshal errors:"),
        "{message}"
    );
    assert!(message.contains("line 7: key \"a\" already set in map"), "{message}");
    assert_eq!(cluster.ask("GET", &format!("{CONFIG_MAPS}/c"), Value::Null).await.0, 404);
    let warned = send("Warn").await;
    assert_eq!(warned.status, 201);
    assert!(warned.header("warning").contains("already set in map"), "{}", warned.header("warning"));
    assert_eq!(send("Ignore").await.header("warning"), "");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scales_and_statuses_are_applied() {
    let cluster = Cluster::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    assert_eq!(apply(&cluster, &path, "one", deployment(2)).await.status, 201);
    let scale = |replicas: i64| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": replicas}});
    let refused = apply(&cluster, &format!("{path}/scale"), "hpa", scale(3)).await;
    assert_eq!(refused.status, 409);
    assert_eq!(refused.value()["message"], r#"Apply failed with 1 conflict: conflict with "one": .spec.replicas"#);
    let forced = apply(&cluster, &format!("{path}/scale?force=true"), "hpa", scale(3)).await;
    assert_eq!((forced.status, &forced.value()["spec"]["replicas"]), (200, &json!(3)));
    let object = cluster.get(&path).await;
    assert_eq!(names(&object), ["hpa/Apply/scale", "one/Apply/"]);
    assert_eq!(owners(&object)[0].1, json!({"f:spec": {"f:replicas": {}}}));
    let refused = apply(&cluster, &path, "one", deployment(2)).await;
    assert_eq!(
        refused.value()["message"],
        r#"Apply failed with 1 conflict: conflict with "hpa" with subresource "scale": .spec.replicas"#
    );
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "status": {"replicas": 3}, "spec": {"paused": true}});
    let applied = apply(&cluster, &format!("{path}/status"), "ctl", status).await.value();
    assert_eq!((&applied["status"]["replicas"], applied["spec"].get("paused")), (&json!(3), None));
    assert_eq!(owners(&applied)[0], ("ctl/Apply/status".to_owned(), json!({"f:status": {"f:replicas": {}}})));
    assert_eq!(
        apply(
            &cluster,
            &format!("{DEPLOYMENTS}/no/status"),
            "ctl",
            json!({"apiVersion": "apps/v1", "kind": "Deployment"})
        )
        .await
        .status,
        404
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_resources_are_applied_by_their_schema() {
    let cluster = Cluster::start().await;
    let definition = crd(|crd| {
        let version = &mut crd["spec"]["versions"][0];
        version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["ports"] = json!({"type": "array",
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
            "items": {"type": "object", "required": ["port"], "properties": {
                "port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"},
                "note": {"type": "string"}}}});
        version["subresources"]["scale"] =
            json!({"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"});
    });
    cluster.define(definition).await;
    let path = "/apis/stable.example.com/v1/namespaces/default/crontabs/t";
    let with = |ports: Value| {
        let mut object = tab("t");
        object["spec"]["ports"] = ports;
        object
    };
    let one = apply(&cluster, path, "one", with(json!([{"port": 1, "note": "a"}]))).await;
    assert_eq!(one.status, 201, "{}", one.value());
    assert_eq!(one.value()["spec"]["replicas"], 2, "defaults are nobody's: {}", one.value());
    let two = apply(&cluster, &format!("{path}?force=true"), "two", with(json!([{"port": 2}]))).await.value();
    let ports = |value: &Value| -> Vec<i64> {
        let items = value["spec"]["ports"].as_array().cloned().unwrap_or_default();
        items.iter().filter_map(|port| port["port"].as_i64()).collect()
    };
    assert_eq!((ports(&two), names(&two)), (vec![1, 2], vec!["one/Apply/".to_owned(), "two/Apply/".to_owned()]));
    let key = |port: i64| format!("k:{{\"port\":{port},\"protocol\":\"TCP\"}}");
    assert_eq!(owners(&two)[1].1["f:spec"]["f:ports"], json!({key(2): {".": {}, "f:port": {}}}));
    let refused = apply(&cluster, path, "two", with(json!([{"port": 1, "note": "b"}]))).await.value();
    assert_eq!(
        refused["message"],
        r#"Apply failed with 1 conflict: conflict with "one": .spec.ports[port=1,protocol="TCP"].note"#
    );
    let less = apply(&cluster, path, "one", tab("t")).await.value();
    assert_eq!(ports(&less), [2]);
    let mut unknown = tab("t");
    unknown["spec"]["nosuch"] = 1.into();
    let refused = apply(&cluster, path, "one", unknown).await;
    assert_eq!(refused.status, 500);
    assert!(refused.value().to_string().contains(".spec.nosuch: field not declared in schema"), "{}", refused.value());
    // The scale and the status have owners of their own.
    let scaled =
        cluster.patch(&format!("{path}/scale?fieldManager=hpa"), "merge", json!({"spec": {"replicas": 5}})).await;
    assert_eq!(scaled.0, 200, "{}", scaled.1);
    let mut status = tab("t");
    status["status"] = json!({"replicas": 5});
    status["metadata"]["labels"] = json!({"no": "no"});
    let object = apply(&cluster, &format!("{path}/status"), "ctl", status).await.value();
    assert_eq!(names(&object), ["ctl/Apply/status", "hpa/Update/scale", "one/Apply/", "two/Apply/"]);
    assert_eq!(owners(&object)[0].1, json!({"f:status": {"f:replicas": {}}}), "{object}");
    assert_eq!(cluster.patch(path, "strategic-merge", json!({})).await.0, 415);
    cluster.stop().await;
}
