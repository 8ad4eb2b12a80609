//! Plugins of admission on a real server: what is filled in, refused, warned of and counted.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{CONFIG_MAPS, Cluster, ask, config_map, pod, with_account};

const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

/// A quota with its status as the controller would set it.
async fn quota(cluster: &Cluster, name: &str, spec: Value, used: Value) {
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec});
    cluster.create(QUOTAS, quota).await;
    let status = json!({"status": {"hard": spec["hard"], "used": used}});
    let (code, answer) = cluster.patch(&format!("{QUOTAS}/{name}/status"), "merge", status).await;
    assert_eq!(code, 200, "{answer}");
}

async fn used(cluster: &Cluster, name: &str) -> Value {
    cluster.get(&format!("{QUOTAS}/{name}")).await["status"]["used"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limit_ranges_fill_and_refuse() {
    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}}]}});
    cluster.create("/api/v1/namespaces/default/limitranges", range).await;
    let made = cluster.create(PODS, pod("p")).await;
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}})
    );
    assert_eq!(made["status"]["qosClass"], "Burstable");
    let mut greedy = pod("greedy");
    greedy["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "2"}});
    let (status, error) = cluster.ask("POST", PODS, greedy).await;
    assert_eq!(status, 403);
    assert_eq!(error["message"], "pods \"greedy\" is forbidden: maximum cpu usage per Container is 1, but limit is 2");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_nothing_that_goes() {
    let cluster = Cluster::start().await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}}});
    cluster.create(claims, claim).await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}]}});
    cluster.create("/api/v1/namespaces/default/limitranges", range).await;
    let path = format!("{claims}/c");
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(cluster.patch(&path, "merge", labels).await.0, 403, "it is beyond the limits");
    let (_, ending) = cluster.ask("DELETE", &path, Value::Null).await;
    assert_eq!(ending["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let (status, error) = cluster.patch(&path, "merge", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(status, 200, "{error}");
    assert_eq!(cluster.ask("GET", &path, Value::Null).await.0, 404);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_can_limit_the_secrets_of_their_pods() {
    let cluster = Cluster::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default",
        "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}, "secrets": [{"name": "own"}]});
    cluster.create("/api/v1/namespaces/default/serviceaccounts", account).await;
    let with = |name: &str, secret: &str| {
        let mut pod = pod(name);
        pod["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": secret}}]);
        pod
    };
    cluster.create(PODS, with("good", "own")).await;
    let (status, error) = cluster.ask("POST", PODS, with("bad", "other")).await;
    let message = "pods \"bad\" is forbidden: volume with secret.secretName=\"other\" is not allowed because service \
                   account default does not reference that secret";
    assert_eq!((status, error["message"].as_str()), (403, Some(message)));
    let container = json!({"name": "debug", "image": "i", "envFrom": [{"secretRef": {"name": "other"}}]});
    let path = format!("{PODS}/good/ephemeralcontainers");
    let (status, error) = cluster.patch(&path, "merge", json!({"spec": {"ephemeralContainers": [container]}})).await;
    let message = "pods \"good\" is forbidden: ephemeral container debug with envFrom referencing \
                   secret.secretName=\"other\" is not allowed because service account default does not reference that secret";
    assert_eq!((status, error["message"].as_str()), (403, Some(message)));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_hold_however_many_ask_at_once() {
    let cluster = Cluster::start().await;
    quota(&cluster, "q", json!({"hard": {"configmaps": "5"}}), json!({"configmaps": "0"})).await;
    let asks = (0..20).map(|i| {
        let cluster = &cluster;
        async move { cluster.ask("POST", CONFIG_MAPS, config_map(&format!("m{i}"))).await }
    });
    let answers = futures::future::join_all(asks).await;
    let made: Vec<&Value> = answers.iter().filter(|(status, _)| *status == 201).map(|(_, value)| value).collect();
    assert_eq!(made.len(), 5);
    let (status, refused) = answers.iter().find(|(status, _)| *status != 201).expect("most are too many");
    assert_eq!(*status, 403);
    let message = refused["message"].as_str().expect("a message");
    assert!(
        message.ends_with(
            " is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=5, limited: configmaps=5"
        ),
        "{message}"
    );
    assert_eq!(used(&cluster, "q").await, json!({"configmaps": "5"}));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_made_is_given_back() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, config_map("there")).await;
    quota(&cluster, "q", json!({"hard": {"configmaps": "5"}}), json!({"configmaps": "1"})).await;
    let (status, _) = cluster.ask("POST", CONFIG_MAPS, config_map("there")).await;
    assert_eq!(status, 409);
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while used(&cluster, "q").await != json!({"configmaps": "1"}) {
        assert!(std::time::Instant::now() < limit, "{}", used(&cluster, "q").await);
    }
    let (status, _) = cluster.ask("POST", &format!("{CONFIG_MAPS}?dryRun=All"), config_map("dry")).await;
    assert_eq!((status, used(&cluster, "q").await), (201, json!({"configmaps": "1"})));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_that_become_more_are_counted() {
    let cluster = Cluster::start().await;
    let hard = json!({"services": "2", "services.nodeports": "1"});
    quota(&cluster, "q", json!({"hard": hard}), json!({"services": "1", "services.nodeports": "0"})).await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}});
    cluster.create(services, service).await;
    let kind = |kind: &str| json!({"spec": {"type": kind}});
    let (status, error) = cluster.patch(&format!("{services}/s"), "merge", kind("NodePort")).await;
    assert_eq!(
        (status, error["message"].as_str()),
        (
            403,
            Some(
                "services \"s\" is forbidden: exceeded quota: q, requested: services.nodeports=2, used: \
                 services.nodeports=0, limited: services.nodeports=1"
            )
        )
    );
    let one = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "name": "a"}]}});
    assert_eq!(cluster.patch(&format!("{services}/s"), "merge", one).await.0, 200);
    assert_eq!(used(&cluster, "q").await, json!({"services": "2", "services.nodeports": "1"}));
    assert_eq!(cluster.patch(&format!("{services}/s"), "merge", kind("ClusterIP")).await.0, 200);
    assert_eq!(used(&cluster, "q").await, json!({"services": "2", "services.nodeports": "0"}));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_security_refuses_and_warns() {
    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    cluster.create(PODS, pod("before")).await;
    let labels = |labels: Value| json!({"metadata": {"labels": labels}});
    let (status, error) = cluster
        .patch("/api/v1/namespaces/default", "merge", labels(json!({"pod-security.kubernetes.io/enforce": "strict"})))
        .await;
    assert_eq!(status, 422);
    assert_eq!(
        error["message"],
        "Namespace \"default\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \
         \"strict\": must be one of privileged, baseline, restricted"
    );
    let strict = labels(json!({"pod-security.kubernetes.io/enforce": "restricted"}));
    let headers = [("content-type", "application/merge-patch+json")];
    let answer = cluster.ask_with("PATCH", "/api/v1/namespaces/default", strict, &headers).await;
    let warnings: Vec<_> = answer.headers.get_all("warning").iter().filter_map(|w| w.to_str().ok()).collect();
    assert_eq!(
        warnings,
        [
            "299 - \"existing pods in namespace \\\"default\\\" violate the new PodSecurity enforce level \
             \\\"restricted:latest\\\"\"",
            "299 - \"before: allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, \
             seccompProfile\"",
        ]
    );
    let mut root = pod("root");
    root["spec"]["hostPID"] = json!(true);
    let (status, error) = cluster.ask("POST", PODS, root).await;
    assert_eq!(status, 403);
    let message = error["message"].as_str().expect("a message");
    assert!(
        message.starts_with(
            "pods \"root\" is forbidden: violates PodSecurity \"restricted:latest\": host namespaces (hostPID=true), \
             allowPrivilegeEscalation != false (container \"c\" must set"
        ),
        "{message}"
    );
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod("x")["spec"]});
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "s"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let answer = cluster.ask_with("POST", "/apis/apps/v1/namespaces/default/replicasets", set, &[]).await;
    assert_eq!(answer.status, 201);
    assert!(answer.header("warning").contains("would violate PodSecurity"), "{}", answer.header("warning"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priorities_come_from_classes() {
    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let system = cluster.get(&format!("{classes}/system-node-critical")).await;
    assert_eq!(system["value"], 2_000_001_000);
    let (status, error) = cluster.ask("DELETE", &format!("{classes}/system-node-critical"), Value::Null).await;
    assert_eq!(status, 403, "{error}");
    let class = |name: &str, default: bool| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": 7, "preemptionPolicy": "Never", "globalDefault": default})
    };
    cluster.create(classes, class("usual", true)).await;
    let (status, error) = cluster.ask("POST", classes, class("other", true)).await;
    assert_eq!(status, 403);
    assert_eq!(
        error["message"],
        "priorityclasses.scheduling.k8s.io \"other\" is forbidden: PriorityClass usual is already marked as default. Only \
         one default can exist"
    );
    let made = cluster.create(PODS, pod("p")).await;
    let spec = &made["spec"];
    assert_eq!(
        (&spec["priorityClassName"], &spec["priority"], &spec["preemptionPolicy"]),
        (&json!("usual"), &json!(7), &json!("Never"))
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_keep_to_themselves() {
    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    let node = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    let mine = cluster.in_process("system:node:mine", &["system:nodes"]);
    let send = async |method: &str, path: &str, body: Value| {
        let answer = ask(&*mine, method, path, Bytes::from(body.to_string()), &[]).await;
        (answer.status, answer.value()["message"].as_str().unwrap_or_default().to_owned())
    };
    let refused = |what: &str| (403, what.to_owned());
    assert_eq!(
        send("POST", "/api/v1/nodes", node("other", json!({}))).await,
        refused("nodes \"other\" is forbidden: node \"mine\" is not allowed to modify node \"other\"")
    );
    assert_eq!(
        send("POST", "/api/v1/nodes", node("mine", json!({"node-role.kubernetes.io/x": ""}))).await,
        refused(
            "nodes \"mine\" is forbidden: node \"mine\" is not allowed to set the following labels: \
             node-role.kubernetes.io/x"
        )
    );
    assert_eq!(send("POST", "/api/v1/nodes", node("mine", json!({"disk": "ssd"}))).await.0, 201);
    let mut placed = pod("p");
    placed["spec"]["nodeName"] = json!("other");
    cluster.create(PODS, placed).await;
    assert_eq!(
        send("DELETE", &format!("{PODS}/p"), json!({})).await,
        refused("pods \"p\" is forbidden: node \"mine\" can only delete pods with spec.nodeName set to itself")
    );
    let (status, message) = send("POST", PODS, pod("q")).await;
    assert_eq!(status, 403);
    assert!(message.contains("node \"mine\" can only create mirror pods"), "{message}");

    // A mirror is owned by its node, and needs nothing of the API.
    let own = cluster.get("/api/v1/nodes/mine").await;
    let mut mirror = pod("static-mine");
    mirror["spec"]["nodeName"] = json!("mine");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    assert_eq!(
        send("POST", PODS, mirror.clone()).await,
        refused(
            "pods \"static-mine\" is forbidden: node \"mine\" can only create pods with an owner reference set to itself"
        )
    );
    mirror["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Node", "name": "mine",
        "uid": own["metadata"]["uid"], "controller": true}]);
    let fields = json!([{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]);
    mirror["spec"]["volumes"] = json!([{"name": "v", "projected": {"sources": [{"downwardAPI": {"items": fields}}]}}]);
    let mut needs = mirror.clone();
    needs["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "m"}}]);
    assert_eq!(
        send("POST", PODS, needs).await,
        refused("pods \"static-mine\" is forbidden: node \"mine\" can not create pods that reference configmaps")
    );
    assert_eq!(send("POST", PODS, mirror).await, (201, String::new()));

    let slices = "/apis/resource.k8s.io/v1/resourceslices";
    let slice = |node: &str| {
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": node},
        "spec": {"driver": "d.example.org", "nodeName": node, "pool": {"name": node, "generation": 1,
            "resourceSliceCount": 1}}})
    };
    assert_eq!(
        send("POST", slices, slice("other")).await,
        refused(
            "resourceslices.resource.k8s.io \"other\" is forbidden: can only create ResourceSlice with the same NodeName \
             as the requesting node"
        )
    );
    assert_eq!(send("POST", slices, slice("mine")).await, (201, String::new()));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_ask_for_the_tokens_that_their_pods_need() {
    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    let driver = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "d.example.org"},
        "spec": {"tokenRequests": [{"audience": "driver"}]}});
    cluster.create("/apis/storage.k8s.io/v1/csidrivers", driver).await;
    let mut placed = pod("p");
    placed["spec"]["nodeName"] = json!("mine");
    placed["spec"]["volumes"] = json!([
        {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "audience": "vault"}}]}},
        {"name": "c", "csi": {"driver": "d.example.org"}}]);
    let made = cluster.create(PODS, placed).await;
    let mine = cluster.in_process("system:node:mine", &["system:nodes"]);
    let asked = async |audiences: Value| {
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": audiences,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": made["metadata"]["uid"]}}});
        let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
        let answer = ask(&*mine, "POST", path, Bytes::from(body.to_string()), &[]).await;
        (answer.status, answer.value()["message"].as_str().unwrap_or_default().to_owned())
    };
    for audiences in [json!([]), json!(["vault"]), json!(["driver"])] {
        assert_eq!(asked(audiences.clone()).await, (201, String::new()), "{audiences}");
    }
    let refused = |why: &str| (403, format!("serviceaccounts \"default\" is forbidden: {why}"));
    assert_eq!(asked(json!(["a", "b"])).await, refused("node may only request 0 or 1 audiences"));
    assert_eq!(
        asked(json!(["other"])).await,
        refused(
            "audience \"other\" not found in pod spec volume, system:node:mine is not authorized to request tokens for \
             this audience"
        )
    );
    cluster.stop().await;
}
