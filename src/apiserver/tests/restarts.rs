//! What a server finds again.

use serde_json::{Value, json};

use super::{CONFIG_MAPS, Cluster, config_map};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_given_twice() {
    let cluster = Cluster::start().await;
    let created = cluster.create(CONFIG_MAPS, config_map("a")).await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30_008}]}})
    };
    let held = cluster.create(services, service("s")).await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n"}});
    cluster.create(leases, lease.clone()).await;
    let before = cluster.get("/api/v1/namespaces").await;
    let ca = cluster.pki.ca_pem().to_owned();

    let cluster = Cluster::start_in(cluster.stop().await).await;
    assert_eq!(cluster.pki.ca_pem(), ca);
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}/a")).await, created);
    assert_eq!(cluster.get("/api/v1/namespaces").await["items"], before["items"]);
    let (status, error) = cluster.ask("POST", services, service("t")).await;
    assert_eq!(status, 422, "{error}");
    let address = held["spec"]["clusterIP"].clone();
    let mut same = service("u");
    same["spec"] = json!({"clusterIP": address, "ports": [{"port": 80}]});
    let (status, error) = cluster.ask("POST", services, same).await;
    assert_eq!(status, 422);
    assert_eq!(
        error["message"],
        format!(
            "Service \"u\" is invalid: spec.clusterIPs: Invalid value: [{address}]: failed to allocate IP {}: provided IP is already allocated",
            address.as_str().expect("an address")
        )
    );
    // Heartbeats were never written; a node makes its own anew.
    assert_eq!(cluster.ask("GET", &format!("{leases}/n"), Value::Null).await.0, 404);
    cluster.create(leases, lease).await;
    cluster.stop().await;
}
