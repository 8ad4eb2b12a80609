//! What webhooks see of a change, and what becomes of theirs.

use std::sync::Mutex;
use std::sync::mpsc;

use serde_json::{Value, json};

use super::webhooks::{MUTATING, VALIDATING, configure, hook, patch, serve};
use super::{CONFIG_MAPS, Cluster, config_map, pod, with_account};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment(name: &str) -> Value {
    let labels = json!({"a": "b"});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

fn of_deployments() -> Value {
    json!({"rules": [{"operations": ["*"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_webhook_leaves_is_read_like_a_body() {
    let cluster = Cluster::start().await;
    let (first, _) = serve(&cluster, |request| {
        if request["name"] == "wrong" {
            return patch(&json!([{"op": "add", "path": "/spec/replicas", "value": "three"}]));
        }
        patch(&json!([
            {"op": "add", "path": "/spec/unknownField", "value": 1},
            {"op": "add", "path": "/spec/template/metadata/creationTimestamp", "value": null},
            {"op": "add", "path": "/spec/template/spec/containers/0/resources",
                "value": {"limits": {"cpu": 1, "memory": "1024Mi"}}},
            {"op": "add", "path": "/spec/template/spec/containers/0/ports", "value": [{"containerPort": 80}]},
        ]))
    })
    .await;
    let (second, seen) = serve(&cluster, |_| json!({"allowed": true})).await;
    let hooks = vec![
        hook(&cluster, "a.example.org", first, &[], of_deployments()),
        hook(&cluster, "b.example.org", second, &[], of_deployments()),
    ];
    configure(&cluster, MUTATING, hooks).await;
    let made = cluster.create(DEPLOYMENTS, deployment("d")).await;
    // Who is asked next sees it as it is stored.
    let shown = seen.lock().expect("no panic")[0]["object"].clone();
    for object in [&made, &shown] {
        assert_eq!(object["spec"].get("unknownField"), None);
        assert_eq!(object["spec"]["template"]["metadata"], json!({"labels": {"a": "b"}}));
        let container = &object["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["resources"]["limits"], json!({"cpu": "1", "memory": "1Gi"}));
        assert_eq!(container["ports"], json!([{"containerPort": 80, "protocol": "TCP"}]));
    }
    let (status, error) = cluster.ask("POST", DEPLOYMENTS, deployment("wrong")).await;
    let message = "Internal error occurred: json: cannot unmarshal string into Go struct field \
                   DeploymentSpec.spec.replicas of type int32";
    assert_eq!((status, error["message"].as_str()), (500, Some(message)));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_fills_in_before_the_second_round() {
    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    let (address, seen) = serve(&cluster, |request| {
        if request["object"]["spec"]["initContainers"].is_array() {
            return json!({"allowed": true});
        }
        patch(&json!([{"op": "add", "path": "/spec/initContainers", "value": [{"name": "added", "image": "i"}]}]))
    })
    .await;
    let pods = json!({"reinvocationPolicy": "IfNeeded",
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
    configure(&cluster, MUTATING, vec![hook(&cluster, "pods.example.org", address, &[], pods)]).await;
    cluster.create("/api/v1/namespaces/default/pods", pod("p")).await;
    let asked = seen.lock().expect("no panic").clone();
    let mounted: Vec<usize> = asked
        .iter()
        .map(|one| one["object"]["spec"]["initContainers"][0]["volumeMounts"].as_array().map_or(0, Vec::len))
        .collect();
    assert_eq!(mounted, [0, 1], "the second time with the token that its container got");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_and_options_are_shown() {
    let cluster = Cluster::start().await;
    let (address, seen) = serve(&cluster, |_| json!({"allowed": true})).await;
    let all = ["CREATE", "UPDATE", "DELETE"];
    configure(&cluster, MUTATING, vec![hook(&cluster, "m.example.org", address, &all, json!({}))]).await;
    configure(&cluster, VALIDATING, vec![hook(&cluster, "v.example.org", address, &all, json!({}))]).await;
    let path = format!("{CONFIG_MAPS}/m");
    let asked = || std::mem::take(&mut *seen.lock().expect("no panic"));
    let versions = |asked: &[Value]| {
        let of = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap_or("none").to_owned();
        asked.iter().map(|one| (of(&one["object"]), of(&one["oldObject"]))).collect::<Vec<_>>()
    };
    let pair = |new: &str, old: &str| (new.to_owned(), old.to_owned());

    let query = "fieldManager=me&fieldValidation=Strict&dryRun=All";
    cluster.create(&format!("{CONFIG_MAPS}?{query}"), config_map("m")).await;
    let options = json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "dryRun": ["All"], "fieldManager": "me",
        "fieldValidation": "Strict"});
    assert_eq!(asked().iter().map(|one| one["options"].clone()).collect::<Vec<_>>(), [options.clone(), options]);
    let made = cluster.create(CONFIG_MAPS, config_map("m")).await;
    let first = made["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    assert_eq!(versions(&asked()), [pair("none", "none"), pair("none", "none")]);

    // Without a version: it is the server's that counts, once it is known.
    let mut whole = config_map("m");
    whole["data"]["k"] = json!("w");
    let (status, changed) = cluster.ask("PUT", &path, whole.clone()).await;
    let second = changed["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    let told = asked();
    assert_eq!((status, versions(&told)), (200, vec![pair("none", &first), pair(&first, &first)]));
    assert_eq!(told[0]["options"], json!({"kind": "UpdateOptions", "apiVersion": "meta.k8s.io/v1"}));
    assert_eq!(cluster.patch(&path, "merge", json!({"data": {"k": "x"}})).await.0, 200);
    assert_eq!(versions(&asked()), [pair(&second, &second), pair(&second, &second)]);
    // What changes nothing is still not written.
    let (_, before) = cluster.ask("GET", &path, Value::Null).await;
    let (_, same) = cluster.patch(&path, "merge", json!({"data": {"k": "x"}})).await;
    assert_eq!(same["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
    asked();

    let uid = &made["metadata"]["uid"];
    let body = json!({"preconditions": {"uid": uid}, "propagationPolicy": "Background", "gracePeriodSeconds": 5});
    assert_eq!(cluster.ask("DELETE", &path, body).await.0, 200);
    let told = asked();
    let options = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "preconditions": {"uid": uid},
        "propagationPolicy": "Background", "gracePeriodSeconds": 5});
    assert_eq!((told.len(), &told[0]["options"], &told[1]["options"]), (2, &options, &options));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warnings_about_deletes_arrive() {
    let cluster = Cluster::start().await;
    let (address, _) = serve(&cluster, |request| {
        let told = format!("{} goes", request["name"].as_str().unwrap_or_default());
        json!({"allowed": true, "warnings": [told]})
    })
    .await;
    configure(&cluster, VALIDATING, vec![hook(&cluster, "v.example.org", address, &["DELETE"], json!({}))]).await;
    for name in ["a", "b", "c"] {
        cluster.create(CONFIG_MAPS, config_map(name)).await;
    }
    let one = cluster.ask_with("DELETE", &format!("{CONFIG_MAPS}/a"), Value::Null, &[]).await;
    assert_eq!((one.status, one.header("warning")), (200, "299 - \"a goes\""));
    let rest = cluster.ask_with("DELETE", CONFIG_MAPS, Value::Null, &[]).await;
    let told: Vec<_> = rest.headers.get_all("warning").iter().filter_map(|value| value.to_str().ok()).collect();
    assert_eq!((rest.status, told), (200, vec!["299 - \"b goes\"", "299 - \"c goes\""]));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_ask_again_about_what_has_changed() {
    let cluster = Cluster::start().await;
    let (tell, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let (address, seen) = serve(&cluster, move |request| {
        let guard = &request["oldObject"]["metadata"]["labels"]["guard"];
        if guard.is_null() {
            tell.send(()).expect("the test waits");
            // Until the test has changed what is to go.
            tokio::task::block_in_place(|| gate.lock().expect("no panic").recv()).expect("the test goes on");
        }
        json!({"allowed": guard.is_null(), "status": {"message": "it is guarded"}})
    })
    .await;
    configure(&cluster, VALIDATING, vec![hook(&cluster, "v.example.org", address, &["DELETE"], json!({}))]).await;
    cluster.create(CONFIG_MAPS, config_map("m")).await;
    let path = format!("{CONFIG_MAPS}/m");
    let changes = async {
        asked.recv().await.expect("asked");
        let guarded = json!({"metadata": {"labels": {"guard": "yes"}}});
        assert_eq!(cluster.patch(&path, "merge", guarded).await.0, 200);
        open.send(()).expect("it waits");
    };
    let ((status, error), ()) = tokio::join!(cluster.ask("DELETE", &path, Value::Null), changes);
    let message = "admission webhook \"v.example.org\" denied the request: it is guarded";
    assert_eq!((status, error["message"].as_str()), (400, Some(message)));
    assert_eq!(seen.lock().expect("no panic").len(), 2);
    cluster.get(&path).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_are_told_once_how_long_they_have() {
    let cluster = Cluster::start().await;
    let (address, seen) = serve(&cluster, |_| json!({"allowed": true})).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hooks"},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": address.port()}]}});
    cluster.create("/api/v1/namespaces/default/services", service).await;
    let by_url = hook(&cluster, "url.example.org", address, &["CREATE"], json!({}));
    let mut by_service = by_url.clone();
    by_service["name"] = json!("service.example.org");
    by_service["clientConfig"] = json!({"caBundle": by_url["clientConfig"]["caBundle"],
        "service": {"namespace": "default", "name": "hooks", "path": "/y", "port": address.port()}});
    configure(&cluster, MUTATING, vec![by_url, by_service]).await;
    cluster.create(CONFIG_MAPS, config_map("m")).await;
    let targets: Vec<Value> = seen.lock().expect("no panic").iter().map(|one| one["target"].clone()).collect();
    assert_eq!(targets, ["/x?timeout=5s", "/y?timeout=5s"]);
    cluster.stop().await;
}
