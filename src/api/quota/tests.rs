use super::*;
use serde_json::json;

const NOW: &str = "2024-01-01T12:00:00Z";

fn used(group: &str, resource: &str, object: &Value) -> String {
    shown(&usage(group, resource, object, NOW.parse().expect("a time")))
}

#[test]
fn objects_are_counted_by_kind() {
    let check = |group: &str, resource: &str, object: Value, expect: &str| {
        assert_eq!(used(group, resource, &object), expect, "{object}");
    };
    check("", "configmaps", json!({}), "configmaps=1,count/configmaps=1");
    check("", "endpoints", json!({}), "count/endpoints=1");
    check("apps", "deployments", json!({}), "count/deployments.apps=1");
    let service = |spec: Value| json!({"spec": spec});
    let ports = json!([{"port": 1, "nodePort": 30000}, {"port": 2}]);
    let of = |nodeports: u8, balancers: u8| {
        format!("count/services=1,services=1,services.loadbalancers={balancers},services.nodeports={nodeports}")
    };
    check("", "services", service(json!({"type": "ClusterIP", "ports": ports})), &of(0, 0));
    check("", "services", service(json!({"type": "NodePort", "ports": ports})), &of(2, 0));
    check("", "services", service(json!({"type": "LoadBalancer", "ports": ports})), &of(2, 1));
    let without = json!({"type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false});
    check("", "services", service(without), &of(1, 1));
    let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "5Gi"}}}});
    check(
        "",
        "persistentvolumeclaims",
        claim,
        "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
         gold.storageclass.storage.k8s.io/requests.storage=5Gi,persistentvolumeclaims=1,requests.storage=5Gi",
    );
}

#[test]
fn pods_are_counted_by_what_they_ask_for_while_they_live() {
    let container = json!({"name": "c", "resources": {"requests": {"cpu": "500m", "x.io/gpu": "2", "hugepages-2Mi": "4Mi"},
        "limits": {"cpu": "1", "memory": "1Gi", "x.io/gpu": "2"}}});
    let spec = json!({"containers": [container, container], "overhead": {"cpu": "250m"}});
    let full = "count/pods=1,cpu=1250m,hugepages-2Mi=8Mi,limits.cpu=2250m,limits.memory=2Gi,pods=1,requests.cpu=1250m,\
                requests.hugepages-2Mi=8Mi,requests.x.io/gpu=4";
    let check = |metadata: Value, status: Value, expect: &str| {
        assert_eq!(used("", "pods", &json!({"metadata": metadata, "spec": spec, "status": status})), expect);
    };
    check(json!({}), json!({}), full);
    check(json!({}), json!({"phase": "Succeeded"}), "count/pods=1");
    let deleted = |at: &str| json!({"deletionTimestamp": at, "deletionGracePeriodSeconds": 30});
    check(deleted("2024-01-01T11:59:40Z"), json!({}), full);
    check(deleted("2024-01-01T11:59:20Z"), json!({}), "count/pods=1");
}

#[test]
fn names_lead_to_resources() {
    for (name, group, resource) in [
        ("cpu", "", "pods"),
        ("limits.memory", "", "pods"),
        ("requests.x.io/gpu", "", "pods"),
        ("hugepages-2Mi", "", "pods"),
        ("services.nodeports", "", "services"),
        ("requests.storage", "", "persistentvolumeclaims"),
        ("gold.storageclass.storage.k8s.io/requests.storage", "", "persistentvolumeclaims"),
        ("secrets", "", "secrets"),
        ("count/secrets", "", "secrets"),
        ("count/replicasets.apps", "apps", "replicasets"),
        ("count/widgets.example.org", "example.org", "widgets"),
    ] {
        assert_eq!(resource_of(name), Some((group.to_owned(), resource.to_owned())), "{name}");
        assert!(concerns(group, resource, name), "{name}");
    }
    assert!(!concerns("", "pods", "requests.storage") && !concerns("", "services", "count/pods"));
}

#[test]
fn scopes_choose_pods() {
    let pod = json!({"spec": {"activeDeadlineSeconds": 5, "priorityClassName": "high", "affinity": {"podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "h", "namespaceSelector": {}}]}}},
        "status": {"qosClass": "BestEffort"}});
    let bare = json!({"spec": {}, "status": {"qosClass": "Burstable"}});
    let check = |spec: Value, expect: [bool; 2]| {
        let scopes = Scopes::of(&json!({"spec": spec}));
        assert_eq!([scopes.match_("", "pods", &pod), scopes.match_("", "pods", &bare)], expect, "{spec}");
    };
    check(json!({}), [true, true]);
    check(json!({"scopes": ["Terminating"]}), [true, false]);
    check(json!({"scopes": ["NotTerminating"]}), [false, true]);
    check(json!({"scopes": ["BestEffort"]}), [true, false]);
    check(json!({"scopes": ["NotBestEffort", "NotTerminating"]}), [false, true]);
    check(json!({"scopes": ["CrossNamespacePodAffinity"]}), [true, false]);
    let class = |operator: &str, values: &[&str]| {
        json!({"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": operator, "values": values}]}})
    };
    check(class("In", &["high", "low"]), [true, false]);
    check(class("NotIn", &["high"]), [false, true]);
    check(class("Exists", &[]), [true, false]);
    check(class("DoesNotExist", &[]), [false, true]);
    let scoped = Scopes::of(&json!({"spec": {"scopes": ["Terminating"]}}));
    assert!(!scoped.match_("", "services", &json!({})));
}

#[test]
fn what_is_limited_must_be_said() {
    let check = |spec: Value, limited: &[&str], expect: Option<&str>| {
        let limited: Vec<String> = limited.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(unsaid("pods", &json!({"spec": spec}), limited.iter()).as_deref(), expect);
    };
    let silent = |name: &str| json!({"name": name});
    let says = json!({"name": "s", "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1"}}});
    check(json!({"containers": [silent("a")]}), &["pods", "count/pods"], None);
    check(
        json!({"containers": [silent("b"), says, silent("a")], "initContainers": [silent("i")]}),
        &["limits.memory", "requests.cpu", "secrets"],
        Some("must specify limits.memory for: a,b,i; requests.cpu for: a,b,i"),
    );
    check(json!({"containers": [says]}), &["limits.memory", "requests.cpu"], None);
    let whole = json!({"containers": [silent("a")], "resources": {"requests": {"cpu": "1"}}});
    check(whole, &["requests.cpu"], None);
}
