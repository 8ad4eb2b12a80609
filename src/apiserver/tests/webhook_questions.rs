//! What webhooks are asked about, beside plain objects: subresources, other versions, definitions; and what comes of that.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::customs::{DEFINITIONS, crd, tab};
use super::webhooks::{MUTATING, VALIDATING, configure, hook, patch, serve};
use super::{CONFIG_MAPS, Cluster, config_map, labelled, pod, with_account};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Rules for one resource of a group, in all its versions unless said otherwise.
fn rules(group: &str, version: &str, resource: &str) -> Value {
    json!({"rules": [{"operations": ["*"], "apiGroups": [group], "apiVersions": [version], "resources": [resource]}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actions_are_asked_about_as_what_they_are() {
    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    cluster.create(PODS, pod("p")).await;
    let (address, seen) = serve(&cluster, |_| json!({"allowed": true, "warnings": ["seen"]})).await;
    let (deny, _) = serve(&cluster, |_| json!({"allowed": false})).await;
    let hooks = vec![
        hook(&cluster, "bindings.example.org", address, &[], rules("", "*", "pods/binding")),
        hook(&cluster, "evictions.example.org", address, &[], rules("", "*", "pods/eviction")),
        hook(&cluster, "tokens.example.org", address, &[], rules("", "*", "serviceaccounts/token")),
        // An eviction is no delete, as far as webhooks go.
        hook(
            &cluster,
            "deletes.example.org",
            deny,
            &[],
            json!({"rules": [{"operations": ["DELETE"], "apiGroups": [""],
            "apiVersions": ["v1"], "resources": ["pods"]}]}),
        ),
    ];
    configure(&cluster, VALIDATING, hooks).await;
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "n"}});
    let bound = cluster.ask_with("POST", &format!("{PODS}/p/binding"), binding, &[]).await;
    assert_eq!((bound.status, bound.header("warning")), (201, "299 - \"seen\""));
    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    cluster.create("/api/v1/namespaces/default/serviceaccounts/default/token", token).await;
    assert_eq!(cluster.ask("DELETE", &format!("{PODS}/p"), Value::Null).await.0, 400, "deletes are denied");
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"},
        "deleteOptions": {"gracePeriodSeconds": 0}});
    let path = format!("{PODS}/p/eviction");
    assert_eq!(cluster.ask("POST", &format!("{path}?dryRun=All"), eviction.clone()).await.0, 201);
    assert_eq!(cluster.ask("POST", &path, eviction).await.0, 201);
    assert_eq!(cluster.ask("GET", &format!("{PODS}/p"), Value::Null).await.0, 404);

    let asked = seen.lock().expect("no panic").clone();
    let told: Vec<Value> = asked
        .iter()
        .map(|r| {
            json!([
                r["operation"],
                r["resource"]["resource"],
                r["subResource"],
                r["kind"]["group"],
                r["kind"]["kind"],
                r["name"],
                r["dryRun"],
                r["oldObject"].is_null(),
                r["object"]["kind"]
            ])
        })
        .collect();
    assert_eq!(
        json!(told),
        json!([
            ["CREATE", "pods", "binding", "", "Binding", "p", false, true, "Binding"],
            [
                "CREATE",
                "serviceaccounts",
                "token",
                "authentication.k8s.io",
                "TokenRequest",
                "default",
                false,
                true,
                "TokenRequest"
            ],
            ["CREATE", "pods", "eviction", "policy", "Eviction", "p", true, true, "Eviction"],
            ["CREATE", "pods", "eviction", "policy", "Eviction", "p", false, true, "Eviction"],
        ])
    );
    assert_eq!(asked[1]["object"]["spec"]["expirationSeconds"], 3600);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_asked_about_as_scales() {
    let cluster = Cluster::start().await;
    let (address, seen) = serve(&cluster, |request| match request["object"]["spec"]["replicas"].as_i64() {
        Some(9) => json!({"allowed": false, "status": {"message": "nine is too many"}}),
        Some(5) => patch(&json!([{"op": "replace", "path": "/spec/replicas", "value": 4}])),
        _ => json!({"allowed": true}),
    })
    .await;
    let (never, asked_never) = serve(&cluster, |_| json!({"allowed": true})).await;
    let hooks = vec![
        hook(&cluster, "scales.example.org", address, &[], rules("apps", "v1", "deployments/scale")),
        hook(
            &cluster,
            "updates.example.org",
            never,
            &[],
            json!({"rules": [{"operations": ["UPDATE"],
            "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]}),
        ),
    ];
    configure(&cluster, MUTATING, hooks).await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({"a": "b"});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    cluster.create(deployments, deployment).await;
    let scale = format!("{deployments}/d/scale");
    let to = |replicas: i64| json!({"spec": {"replicas": replicas}});
    let (status, changed) = cluster.patch(&scale, "merge", to(5)).await;
    assert_eq!((status, &changed["spec"]["replicas"]), (200, &json!(4)));
    let (status, error) = cluster.patch(&scale, "merge", to(9)).await;
    let message = "admission webhook \"scales.example.org\" denied the request: nine is too many";
    assert_eq!((status, error["message"].as_str()), (400, Some(message)));
    let mut value = cluster.get(&scale).await;
    value["spec"]["replicas"] = json!(2);
    assert_eq!(cluster.ask("PUT", &scale, value).await.0, 200);
    let deployment = cluster.get(&format!("{deployments}/d")).await;
    assert_eq!((&deployment["spec"]["replicas"], &deployment["metadata"]["generation"]), (&json!(2), &json!(3)));
    let first = seen.lock().expect("no panic")[0].clone();
    assert_eq!(first["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!(
        (&first["operation"], &first["subResource"], &first["resource"]["resource"], &first["oldObject"]["spec"]),
        (&json!("UPDATE"), &json!("scale"), &json!("deployments"), &json!({"replicas": 1}))
    );
    assert!(asked_never.lock().expect("no panic").is_empty(), "a scale is no deployment");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_versions_are_asked_about_in_the_one_that_is_wanted() {
    let cluster = Cluster::start().await;
    let version = |name: &str, stored: bool| {
        json!({"name": name, "served": true, "storage": stored, "schema": {"openAPIV3Schema": {"type": "object",
            "properties": {"data": {"type": "object", "properties": {"known": {"type": "string"}}}}}}})
    };
    let definition = crd(|crd| crd["spec"]["versions"] = json!([version("v1", true), version("v2", false)]));
    cluster.create(DEFINITIONS, definition).await;
    // The webhook's own additions are pruned like everybody's.
    let (address, seen) = serve(&cluster, |_| {
        patch(&json!([{"op": "add", "path": "/data", "value": {"known": "yes", "unknown": "gone"}}]))
    })
    .await;
    let (exact, asked_exact) = serve(&cluster, |_| json!({"allowed": true})).await;
    let mut only_exact = rules("stable.example.com", "v1", "crontabs");
    only_exact["matchPolicy"] = json!("Exact");
    let hooks = vec![
        hook(&cluster, "same.example.org", address, &[], rules("stable.example.com", "v1", "crontabs")),
        hook(&cluster, "exact.example.org", exact, &[], only_exact),
    ];
    configure(&cluster, MUTATING, hooks).await;
    let path = "/apis/stable.example.com/v2/namespaces/default/crontabs";
    let object = json!({"apiVersion": "stable.example.com/v2", "kind": "CronTab", "metadata": {"name": "c"}});
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let made = loop {
        let (status, made) = cluster.ask("POST", path, object.clone()).await;
        if status == 201 {
            break made;
        }
        assert!(std::time::Instant::now() < deadline, "{made}");
        tokio::task::yield_now().await;
    };
    assert_eq!((&made["apiVersion"], &made["data"]), (&json!("stable.example.com/v2"), &json!({"known": "yes"})));
    let asked = seen.lock().expect("no panic")[0].clone();
    assert_eq!(
        (&asked["resource"]["version"], &asked["requestResource"]["version"], &asked["object"]["apiVersion"]),
        (&json!("v1"), &json!("v2"), &json!("stable.example.com/v1"))
    );
    assert!(asked_exact.lock().expect("no panic").is_empty());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_namespaces_and_silence() {
    let cluster = Cluster::start().await;
    let (address, _) = serve(&cluster, |request| {
        json!({"allowed": request["object"]["metadata"]["labels"]["e2e"].is_null(),
            "status": {"message": "the crd contains unwanted label"}})
    })
    .await;
    let (maps, seen) = serve(&cluster, |_| json!({"allowed": false})).await;
    // Accepts, and then says nothing.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let silence = silent.local_addr().expect("bound");
    let slow = |policy: &str| {
        let mut more = rules("", "v1", "secrets");
        more["timeoutSeconds"] = json!(1);
        more["failurePolicy"] = json!(policy);
        more["objectSelector"] = json!({"matchLabels": {"slow": policy.to_lowercase()}});
        more
    };
    let skip = json!({"namespaceSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]}});
    let hooks = vec![
        hook(
            &cluster,
            "crds.example.org",
            address,
            &[],
            rules("apiextensions.k8s.io", "*", "customresourcedefinitions"),
        ),
        hook(&cluster, "maps.example.org", maps, &["CREATE"], skip),
        hook(&cluster, "slow.example.org", silence, &[], slow("Fail")),
        hook(&cluster, "open.example.org", silence, &[], slow("Ignore")),
    ];
    configure(&cluster, VALIDATING, hooks).await;
    let (status, error) =
        cluster.ask("POST", DEFINITIONS, crd(|crd| crd["metadata"]["labels"] = json!({"e2e": "deny"}))).await;
    let message = error["message"].as_str().expect("a message");
    assert!(status == 400 && message.ends_with("the crd contains unwanted label"), "{message}");
    // By the labels of the namespace.
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "free", "labels": {"skip": "yes"}}});
    cluster.create("/api/v1/namespaces", namespace).await;
    assert_eq!(cluster.ask("POST", CONFIG_MAPS, config_map("a")).await.0, 400);
    cluster.create("/api/v1/namespaces/free/configmaps", config_map("a")).await;
    let generated = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "g-"}});
    assert_eq!(cluster.ask("POST", &format!("{CONFIG_MAPS}?dryRun=All"), generated).await.0, 400);
    assert_eq!(seen.lock().expect("no panic").last().expect("asked")["dryRun"], true);
    // Who says nothing in time.
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = |name: &str, slow: &str| {
        let mut secret = labelled(name, json!({"slow": slow}));
        secret["kind"] = json!("Secret");
        secret["data"] = json!({});
        secret
    };
    let (status, error) = cluster.ask("POST", secrets, secret("s", "fail")).await;
    let message = error["message"].as_str().expect("a message");
    assert!(status == 500 && message.contains("context deadline exceeded"), "{message}");
    let url = format!("Post \"https://127.0.0.1:{}/x?timeout=1s\": ", silence.port());
    assert!(message.contains(&url), "{message}");
    cluster.create(secrets, secret("t", "ignore")).await;
    drop(silent);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_webhooks_add_is_completed_like_everything_else() {
    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    let (address, _) = serve(&cluster, |_| {
        let container = json!({"name": "webhook-added-init-container", "image": "webhook-added-image"});
        patch(&json!([{"op": "add", "path": "/spec/initContainers", "value": [container]}]))
    })
    .await;
    configure(&cluster, MUTATING, vec![hook(&cluster, "pods.example.org", address, &[], rules("", "v1", "pods"))])
        .await;
    let made = cluster.create(PODS, pod("p")).await;
    let added = &made["spec"]["initContainers"][0];
    assert_eq!(
        (&added["name"], &added["terminationMessagePolicy"], &added["imagePullPolicy"]),
        (&json!("webhook-added-init-container"), &json!("File"), &json!("Always"))
    );
    // The account's token is mounted there, too.
    assert!(
        added["volumeMounts"][0]["name"].as_str().is_some_and(|name| name.starts_with("kube-api-access-")),
        "{added}"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_resources_are_guarded_through_their_life() {
    let cluster = Cluster::start().await;
    cluster.create(DEFINITIONS, crd(|_| {})).await;
    cluster.until_condition("crontabs.stable.example.com", "Established", "True").await;
    let (address, _) = serve(&cluster, |request| {
        let key = if request["operation"] == "DELETE" { "oldObject" } else { "object" };
        json!({"allowed": request[key]["metadata"]["labels"]["guard"].is_null(),
            "status": {"message": "the custom resource contains unwanted data"}})
    })
    .await;
    let hooks = vec![hook(&cluster, "tabs.example.org", address, &[], rules("stable.example.com", "*", "crontabs"))];
    configure(&cluster, VALIDATING, hooks).await;
    let tabs = "/apis/stable.example.com/v1/namespaces/default/crontabs";
    let (guarded, mut bad) = (json!({"metadata": {"labels": {"guard": "yes"}}}), tab("bad"));
    bad["metadata"]["labels"] = json!({"guard": "yes"});
    let denied = |(status, error): (u16, Value)| {
        let message = error["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.ends_with("the custom resource contains unwanted data"), "{error}");
    };
    denied(cluster.ask("POST", tabs, bad).await);
    cluster.create(tabs, tab("good")).await;
    denied(cluster.patch(&format!("{tabs}/good"), "merge", guarded.clone()).await);

    // A configuration that changes is heeded at once.
    let of_hooks = format!("{VALIDATING}/hooks");
    let steps = json!([{"op": "replace", "path": "/webhooks/0/rules/0/operations", "value": ["DELETE"]}]);
    assert_eq!(cluster.patch(&of_hooks, "json", steps).await.0, 200);
    assert_eq!(cluster.patch(&format!("{tabs}/good"), "merge", guarded).await.0, 200);
    denied(cluster.ask("DELETE", &format!("{tabs}/good"), Value::Null).await);
    denied(cluster.ask("DELETE", tabs, Value::Null).await);
    let unguarded = json!({"metadata": {"labels": {"guard": null}}});
    assert_eq!(cluster.patch(&format!("{tabs}/good"), "merge", unguarded).await.0, 200);
    assert_eq!(cluster.ask("DELETE", &format!("{tabs}/good"), Value::Null).await.0, 200);
    assert_eq!(cluster.ask("DELETE", VALIDATING, Value::Null).await.0, 200, "all configurations at once");
    assert_eq!(cluster.get(VALIDATING).await["items"], json!([]));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configurations_of_webhooks_are_nobodys_business() {
    let cluster = Cluster::start().await;
    let (address, seen) = serve(&cluster, |_| json!({"allowed": false})).await;
    let all = || rules("admissionregistration.k8s.io", "*", "*");
    configure(&cluster, VALIDATING, vec![hook(&cluster, "v.example.org", address, &[], all())]).await;
    configure(&cluster, MUTATING, vec![hook(&cluster, "m.example.org", address, &[], all())]).await;
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    for path in [VALIDATING, MUTATING] {
        assert_eq!(cluster.patch(&format!("{path}/hooks"), "merge", labels.clone()).await.0, 200);
        assert_eq!(cluster.ask("DELETE", &format!("{path}/hooks"), Value::Null).await.0, 200);
    }
    assert!(seen.lock().expect("no panic").is_empty());
    let documents = cluster.get("/apis/admissionregistration.k8s.io/v1").await;
    let names: Vec<&str> =
        documents["resources"].as_array().expect("resources").iter().filter_map(|r| r["name"].as_str()).collect();
    assert!(names.contains(&"mutatingwebhookconfigurations") && names.contains(&"validatingwebhookconfigurations"));
    cluster.stop().await;
}
