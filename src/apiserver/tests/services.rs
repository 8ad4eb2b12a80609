//! Addresses and ports of Services, when many ask at the same time.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::Cluster;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_get_different_ones() {
    let cluster = Cluster::start().await;
    let kubernetes = cluster.get(&format!("{SERVICES}/kubernetes")).await;
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.43.0.1");
    let slices = cluster.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await;
    assert_eq!(slices["endpoints"][0]["addresses"][0], "192.0.2.1");

    // 20 ports, 24 that want one: 20 get one each, 4 hear that there are no more.
    let asks = (0..24).map(|i| {
        let spec = json!({"type": "NodePort", "ports": [{"port": 80}], "selector": {"a": "b"}});
        let cluster = &cluster;
        async move { cluster.ask("POST", SERVICES, service(&format!("s{i}"), spec)).await }
    });
    let answers = futures::future::join_all(asks).await;
    let made: Vec<&Value> = answers.iter().filter(|(status, _)| *status == 201).map(|(_, v)| v).collect();
    let ports: BTreeSet<i64> = made.iter().filter_map(|s| s["spec"]["ports"][0]["nodePort"].as_i64()).collect();
    let addresses: BTreeSet<&str> = made.iter().filter_map(|s| s["spec"]["clusterIP"].as_str()).collect();
    assert_eq!((made.len(), ports.len(), addresses.len()), (20, 20, 20));
    assert!(ports.iter().all(|p| (30_000..=30_019).contains(p)));
    let refused = answers.iter().find(|(status, _)| *status != 201).expect("four are too many");
    assert!(refused.1["message"].as_str().is_some_and(|m| m.contains("failed to allocate a nodePort: range is full")));

    // What one gives back another gets.
    let name = made[0]["metadata"]["name"].as_str().expect("a name");
    let freed = made[0]["spec"]["ports"][0]["nodePort"].clone();
    let asked = || service("again", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": freed}]}));
    let (status, error) = cluster.ask("POST", SERVICES, asked()).await;
    assert_eq!(status, 422);
    assert_eq!(
        error["message"],
        format!(
            "Service \"again\" is invalid: spec.ports[0].nodePort: Invalid value: {freed}: provided port is already allocated"
        )
    );
    cluster.ask("DELETE", &format!("{SERVICES}/{name}"), Value::Null).await;
    assert_eq!(cluster.create(SERVICES, asked()).await["spec"]["ports"][0]["nodePort"], freed);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_systems_own_comes_back() {
    let cluster = Cluster::start().await;
    let path = format!("{SERVICES}/kubernetes");
    let (status, error) = cluster.ask("DELETE", &path, Value::Null).await;
    assert_eq!(status, 200, "{error}");
    let again = crate::bootstrap::keep_system_objects(cluster.server.server.clone(), Duration::from_millis(1));
    cluster.scope.spawn(again);
    let back = async {
        while cluster.ask("GET", &path, Value::Null).await.0 != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), back).await.expect("the service comes back");
    assert_eq!(cluster.get(&path).await["spec"]["clusterIP"], "10.43.0.1");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_come_and_go() {
    let cluster = Cluster::start().await;
    let path = format!("{SERVICES}/s");
    let created =
        cluster.create(SERVICES, service("s", json!({"ports": [{"port": 80}], "selector": {"a": "b"}}))).await;
    let address = created["spec"]["clusterIP"].clone();
    assert_eq!((&created["spec"]["type"], &created["spec"]["clusterIPs"]), (&json!("ClusterIP"), &json!([address])));
    assert_eq!(created["spec"]["ipFamilies"], json!(["IPv4"]));
    let (_, exposed) = cluster.patch(&path, "merge", json!({"spec": {"type": "NodePort"}})).await;
    let port = exposed["spec"]["ports"][0]["nodePort"].as_i64().expect("a port");
    assert_eq!(exposed["spec"]["clusterIP"], address);
    let (status, hidden) = cluster.patch(&path, "merge", json!({"spec": {"type": "ClusterIP"}})).await;
    assert_eq!(status, 200, "{hidden}");
    assert!(hidden["spec"]["ports"][0].get("nodePort").is_none(), "{hidden}");
    let other = service("o", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}));
    cluster.create(SERVICES, other).await;
    let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]);
    let two = cluster.create(SERVICES, service("two", json!({"type": "NodePort", "ports": ports}))).await;
    let ports = json!([{"name": "b", "port": 82}, {"name": "c", "port": 80}, {"name": "a", "port": 83}]);
    let mut unknowing = service("two", json!({"type": "NodePort", "ports": ports}));
    unknowing["metadata"]["resourceVersion"] = two["metadata"]["resourceVersion"].clone();
    let (status, replaced) = cluster.ask("PUT", &format!("{SERVICES}/two"), unknowing).await;
    assert_eq!(status, 200, "{replaced}");
    let of = |value: &Value, i: usize| value["spec"]["ports"][i]["nodePort"].as_u64().expect("a node port");
    assert_eq!((of(&replaced, 0), of(&replaced, 2)), (of(&two, 1), of(&two, 0)), "{replaced}");
    assert!(![of(&two, 0), of(&two, 1)].contains(&of(&replaced, 1)), "{replaced}");
    let (status, error) =
        cluster.patch(&path, "merge", json!({"spec": {"clusterIP": "10.43.9.9", "clusterIPs": ["10.43.9.9"]}})).await;
    assert_eq!(status, 422, "{error}");
    // An update by a client that knows nothing of addresses keeps it.
    let plain = service("s", json!({"ports": [{"port": 81}], "selector": {"a": "b"}}));
    let (status, updated) = cluster.ask("PUT", &path, plain).await;
    assert_eq!((status, &updated["spec"]["clusterIP"]), (200, &address), "{updated}");
    let headless = cluster.create(SERVICES, service("h", json!({"clusterIP": "None", "ports": [{"port": 80}]}))).await;
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    // What follows asks for a port that these may have been given.
    for name in ["o", "two"] {
        assert_eq!(cluster.ask("DELETE", &format!("{SERVICES}/{name}"), Value::Null).await.0, 200);
    }
    let dry = cluster
        .create(
            &format!("{SERVICES}?dryRun=All"),
            service("dry", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30_019}]})),
        )
        .await;
    assert_eq!(dry["spec"]["ports"][0]["nodePort"], 30_019);
    cluster
        .create(SERVICES, service("real", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30_019}]})))
        .await;
    cluster.stop().await;
}

/// Whatever became of a request that its client gave up, no address has two owners.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_given_up_keep_or_give_back_what_they_took() {
    let cluster = Cluster::start().await;
    for i in 0..40 {
        let asking = cluster.ask("POST", SERVICES, service(&format!("s{i}"), json!({"ports": [{"port": 80}]})));
        drop(tokio::time::timeout(Duration::from_micros(200 * i), asking).await);
    }
    // Those that are still under way come to their end first: writes are carried out in order.
    cluster.create(SERVICES, service("last", json!({"clusterIP": "None", "ports": [{"port": 80}]}))).await;
    let list = cluster.get(SERVICES).await;
    let mut seen = 0;
    for (i, made) in list["items"].as_array().expect("items").iter().enumerate() {
        let address = made["spec"]["clusterIP"].as_str().expect("an address");
        if address == "None" {
            continue;
        }
        seen += 1;
        let second = service(&format!("second{i}"), json!({"clusterIP": address, "ports": [{"port": 80}]}));
        let (status, answer) = cluster.ask("POST", SERVICES, second).await;
        assert_eq!(status, 422, "{address} has two owners: {answer}");
    }
    assert!(seen > 1, "some came through");
    cluster.stop().await;
}
