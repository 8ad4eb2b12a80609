//! Server-side apply, and who owns what after every other write.

use serde_json::{Value, json};

use super::customs::{crd, tab};
use super::{Answer, CONFIG_MAPS, Cluster, config_map, pod, with_account};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const APPLY: [(&str, &str); 1] = [("content-type", "application/apply-patch+yaml")];

fn deployment(replicas: i64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"app": "d"}}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "d"}},
        "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [
            {"name": "c", "image": "one", "ports": [{"containerPort": 80}]},
        ]}},
    }})
}

async fn apply(cluster: &Cluster, path: &str, manager: &str, body: Value) -> Answer {
    let join = if path.contains('?') { '&' } else { '?' };
    cluster.ask_with("PATCH", &format!("{path}{join}fieldManager={manager}"), body, &APPLY).await
}

/// (`manager/operation/subresource`, fields) of every entry.
fn owners(object: &Value) -> Vec<(String, Value)> {
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

fn names(object: &Value) -> Vec<String> {
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
async fn every_write_is_somebodys() {
    let cluster = Cluster::start().await;
    let agent = |name: &'static str| [("user-agent", name)];
    let answer = cluster.ask_with("POST", DEPLOYMENTS, deployment(2), &agent("curl/8.1 (x)")).await;
    let created = answer.value();
    let all = owners(&created);
    assert_eq!(all.iter().map(|o| o.0.as_str()).collect::<Vec<_>>(), ["curl/Update/"]);
    let fields = &all[0].1;
    assert_eq!(fields["f:metadata"], json!({"f:labels": {".": {}, "f:app": {}}}), "no name, uid, time");
    assert!(fields.get("f:status").is_none() && fields["f:spec"].get(".").is_none(), "{fields}");
    assert_eq!(fields["f:spec"]["f:strategy"]["f:type"], json!({}), "defaults are the creator's");
    assert_eq!(fields["f:spec"]["f:selector"], json!({}), "an atomic struct");
    let path = format!("{DEPLOYMENTS}/d");
    // A patch, by another manager.
    let body = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}});
    let (_, patched) = cluster.patch(&format!("{path}?fieldManager=setter"), "strategic-merge", body.clone()).await;
    let image = &owners(&patched)[1].1;
    assert_eq!(
        image["f:spec"]["f:template"]["f:spec"]["f:containers"],
        json!({"k:{\"name\":\"c\"}": {"f:image": {}}}),
        "{patched}"
    );
    let (_, same) = cluster.patch(&format!("{path}?fieldManager=other"), "strategic-merge", body).await;
    assert_eq!(same, patched, "who changes nothing owns nothing");
    // The status, the scale.
    let mut status = patched.clone();
    status["status"] = json!({"replicas": 1, "observedGeneration": 1});
    status["spec"]["replicas"] = 9.into();
    status["metadata"]["managedFields"] = json!([]);
    let answer = cluster.ask_with("PUT", &format!("{path}/status"), status, &agent("controller/1")).await;
    let status = answer.value();
    assert_eq!(
        owners(&status)[0],
        ("controller/Update/status".to_owned(), json!({"f:status": {"f:observedGeneration": {}, "f:replicas": {}}}))
    );
    let scale = json!({"spec": {"replicas": 4}});
    assert_eq!(cluster.patch(&format!("{path}/scale?fieldManager=scaler"), "merge", scale).await.0, 200);
    let scaled = cluster.get(&path).await;
    assert_eq!(names(&scaled), ["controller/Update/status", "curl/Update/", "scaler/Update/scale", "setter/Update/"]);
    assert_eq!(owners(&scaled)[2].1, json!({"f:spec": {"f:replicas": {}}}));
    assert!(owners(&scaled)[1].1["f:spec"].get("f:replicas").is_none());
    // A PUT without the list keeps it; an empty list forgets all.
    let mut put = scaled.clone();
    put["metadata"].as_object_mut().expect("metadata").remove("managedFields");
    put["spec"]["replicas"] = 5.into();
    let answer = cluster.ask_with("PUT", &path, put, &agent("putter/1")).await.value();
    assert_eq!(names(&answer), ["controller/Update/status", "curl/Update/", "putter/Update/", "setter/Update/"]);
    let mut reset = answer.clone();
    reset["metadata"]["managedFields"] = json!([]);
    let (_, reset) = cluster.ask("PUT", &path, reset).await;
    assert!(reset["metadata"].get("managedFields").is_none(), "{reset}");
    let (_, untracked) = cluster.patch(&path, "merge", json!({"spec": {"replicas": 6}})).await;
    assert!(untracked["metadata"].get("managedFields").is_none(), "nobody until the first apply");
    let applied = apply(&cluster, &format!("{path}?force=true"), "one", deployment(7)).await.value();
    assert_eq!(names(&applied), ["before-first-apply/Update/", "one/Apply/"]);
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
async fn kubectl_goes_over_from_client_side_apply() {
    let cluster = Cluster::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    let mut object = deployment(2);
    object["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": format!("{}\n", deployment(2))});
    let (status, _) =
        cluster.ask("POST", &format!("{DEPLOYMENTS}?fieldManager=kubectl-client-side-apply"), object).await;
    assert_eq!(status, 201);
    // Another manager than kubectl gets no such favour.
    let refused = apply(&cluster, &path, "gitops", deployment(3)).await.value();
    assert_eq!(
        refused["message"],
        r#"Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using apps/v1: .spec.replicas"#
    );
    let applied = apply(&cluster, &path, "kubectl", deployment(3)).await;
    assert_eq!((applied.status, &applied.value()["spec"]["replicas"]), (200, &json!(3)), "{}", applied.value());
    let last = applied.value()["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].clone();
    let last: Value = serde_json::from_str(last.as_str().unwrap_or_default()).expect("JSON");
    assert_eq!(last, deployment(3), "the annotation stays true");
    // What somebody changed since is a conflict.
    let body = json!({"spec": {"replicas": 9}});
    assert_eq!(cluster.patch(&format!("{path}?fieldManager=scaler"), "merge", body).await.0, 200);
    let refused = apply(&cluster, &path, "kubectl", deployment(3)).await;
    assert_eq!(
        refused.value()["message"],
        r#"Apply failed with 1 conflict: conflict with "scaler" using apps/v1: .spec.replicas"#
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dry_runs_and_versions() {
    let cluster = Cluster::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    assert_eq!(apply(&cluster, &format!("{path}?dryRun=All"), "one", deployment(2)).await.status, 201);
    assert_eq!(cluster.ask("GET", &path, Value::Null).await.0, 404);
    with_account(&cluster).await;
    let pods = "/api/v1/namespaces/default/pods";
    let created = cluster.create(pods, pod("p")).await;
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    cluster.create(&format!("{pods}/p/binding"), binding).await;
    let bound = cluster.get(&format!("{pods}/p")).await;
    assert_eq!(bound["metadata"]["managedFields"], created["metadata"]["managedFields"], "a binding is nobody's");
    let spec = &owners(&bound)[0].1["f:spec"];
    assert!(spec.get("f:serviceAccountName").is_none() && spec.get("f:tolerations").is_none(), "admission's: {spec}");
    assert!(spec["f:containers"]["k:{\"name\":\"c\"}"].get(".").is_some(), "{spec}");
    // One kind in two groups: an event is stored in the core group's form.
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "f"}, "reason": "R", "note": "N",
        "type": "Normal", "action": "A", "reportingController": "c", "reportingInstance": "i",
        "eventTime": "2026-01-01T00:00:00.000000Z", "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}});
    let created = cluster.create("/apis/events.k8s.io/v1/namespaces/default/events?fieldManager=m", event).await;
    assert_eq!(owners(&created)[0].1["f:note"], json!({}));
    let core = "/api/v1/namespaces/default/events/f";
    let (_, patched) = cluster.patch(&format!("{core}?fieldManager=n"), "merge", json!({"message": "other"})).await;
    assert_eq!(names(&patched), ["m/Update/", "n/Update/"], "{patched}");
    assert!(owners(&patched)[0].1.get("f:note").is_none(), "taken across versions: {patched}");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_in_patches_are_told() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, config_map("c")).await;
    let path = format!("{CONFIG_MAPS}/c");
    let send = |kind: &'static str, validation: &'static str, body: &'static str| {
        let (path, cluster) = (format!("{path}?fieldValidation={validation}"), &cluster);
        let kind = format!("application/{kind}-patch+json");
        async move {
            let headers = [("content-type", kind.as_str())];
            super::ask(cluster.admin(), "PATCH", &path, bytes::Bytes::from(body), &headers).await
        }
    };
    let twice = r#"{"data": {"a": "1", "a": "2"}, "nosuch": 1}"#;
    let operation = r#"[{"op": "add", "path": "/data/x", "value": "1", "value": "2", "odd": 1}]"#;
    for (kind, body, sentences) in [
        ("merge", twice, r#"strict decoding error: duplicate field "data.a", unknown field "nosuch""#),
        ("strategic-merge", twice, r#"strict decoding error: duplicate field "data.a", unknown field "nosuch""#),
        (
            "json",
            operation,
            r#"strict decoding error: json patch duplicate field "[0].value", json patch unknown field "[0].odd""#,
        ),
    ] {
        let strict = send(kind, "Strict", body).await;
        let message = strict.value()["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(strict.status, 422, "{kind}: {message}");
        assert!(
            message.starts_with(r#" "" is invalid: patch: Invalid value: "#) && message.ends_with(sentences),
            "{kind}: {message}"
        );
        let warned = send(kind, "Warn", body).await;
        assert_eq!(warned.status, 200, "{kind}: {}", warned.value());
        assert_eq!(warned.headers.get_all("warning").iter().count(), 2, "{kind}");
    }
    cluster.stop().await;
}
