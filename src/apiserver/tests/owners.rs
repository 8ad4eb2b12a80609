//! Who owns what after writes of every kind, and how kubectl goes along with it.

use serde_json::{Value, json};

use super::apply::{DEPLOYMENTS, apply, deployment, names, owners};
use super::kubectl::{config_of, kubectl};
use super::{CONFIG_MAPS, Cluster, config_map, pod, with_account};

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
async fn kubectl_applies_on_the_server() {
    let cluster = Cluster::start().await;
    let config = config_of(&cluster);
    let manifest = |replicas: i64| serde_json::to_string(&deployment(replicas)).expect("JSON");
    let check = |arguments: &'static str, input: String, expect: &'static str| {
        let config = &config;
        async move {
            let words: Vec<&str> = arguments.split(' ').collect();
            let (_, text) = kubectl(config, &words, &input).await;
            assert!(text.contains(expect), "kubectl {arguments}: {text}");
            text
        }
    };
    check("apply --server-side -f -", manifest(2), "deployment.apps/d serverside-applied").await;
    check("apply --server-side -f -", manifest(2), "deployment.apps/d serverside-applied").await;
    let other = "apply --server-side --field-manager=other -f -";
    let conflict = r#"Apply failed with 1 conflict: conflict with "kubectl": .spec.replicas"#;
    check(other, manifest(4), conflict).await;
    check("apply --server-side --field-manager=other --force-conflicts -f -", manifest(4), "serverside-applied").await;
    check("get deployment d -o yaml --show-managed-fields", String::new(), "manager: other").await;
    let hidden = check("get deployment d -o yaml", String::new(), "replicas: 4").await;
    assert!(!hidden.contains("managedFields"), "{hidden}");
    check("diff --server-side --field-manager=other -f -", manifest(7), "+  replicas: 7").await;
    check("apply --server-side --dry-run=server --field-manager=other -f -", manifest(7), "(server dry run)").await;
    // From the client's side to the server's: kubectl moves its own entry.
    check("delete deployment d", String::new(), "deleted").await;
    check("apply -f -", manifest(2), "deployment.apps/d created").await;
    check("apply --server-side -f -", manifest(3), "serverside-applied").await;
    let object = cluster.get(&format!("{DEPLOYMENTS}/d")).await;
    // The annotation gets an owner of its own.
    assert_eq!(names(&object), ["kubectl-last-applied/Apply/", "kubectl/Apply/"], "{object}");
    assert_eq!(object["spec"]["replicas"], 3);
    check("apply -f -", manifest(5), "deployment.apps/d configured").await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_too_large_with_its_owners_goes_without() {
    let cluster = Cluster::start().await;
    let of_size = |name: &str, padding: usize| {
        let mut object = deployment(1);
        object["metadata"]["name"] = name.into();
        object["spec"]["template"]["spec"]["containers"][0]["args"] = json!(["x".repeat(padding)]);
        object
    };
    let small = cluster.create(DEPLOYMENTS, of_size("s", 1)).await;
    let owners_b = small["metadata"]["managedFields"].to_string().len();
    let rest_b = small.to_string().len() - owners_b;
    // Fits without the owners, and not with them.
    let padding = skiff_store::VALUE_LIMIT - rest_b - owners_b / 2;
    let large = cluster.create(DEPLOYMENTS, of_size("l", padding)).await;
    assert!(large["metadata"].get("managedFields").is_none());
    let (status, _) = cluster.ask("POST", DEPLOYMENTS, of_size("m", padding + owners_b)).await;
    assert_eq!(status, 413);
    let grown = of_size("s", padding);
    let (status, grown) = cluster.ask("PUT", &format!("{DEPLOYMENTS}/s"), grown).await;
    assert_eq!((status, grown["metadata"].get("managedFields")), (200, None));
    cluster.stop().await;
}
