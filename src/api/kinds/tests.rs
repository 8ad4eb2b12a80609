//! What holds for every kind, and tables over several.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;

pub(super) fn kind(group: &str, kind: &str) -> Arc<Descriptor> {
    builtin().into_iter().find(|d| &*d.gvk.group == group && &*d.gvk.kind == kind).expect("a built-in kind")
}

fn now() -> jiff::Timestamp {
    "2024-01-02T00:00:00Z".parse().expect("a time")
}

pub(super) fn cells(group: &str, of: &str, object: Value) -> Vec<Value> {
    kind(group, of).strategy.cells(&object, now())
}

#[test]
fn rows_are_consistent() {
    let mut names = BTreeSet::new();
    for d in builtin() {
        let columns = d.columns.len();
        let object = json!({"metadata": {"name": "x"}});
        assert_eq!(d.strategy.cells(&object, now()).len(), columns, "{}", d.gvr);
        assert!(names.insert((d.gvr.group.clone(), d.gvr.version.clone(), d.gvr.resource.clone())), "{} twice", d.gvr);
        for label in d.strategy.field_labels() {
            assert!(d.strategy.field(&object, label).is_some(), "{}: {label}", d.gvr);
        }
        assert_eq!(d.strategy.field(&object, "spec.nonsense"), None);
        assert!(d.columns.iter().any(|c| c.name == "Name" && c.format == "name"), "{}", d.gvr);
    }
}

#[test]
fn pod_rows() {
    let terminated = |code: i64, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason}});
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    let running = json!({"running": {}});
    let pod = |init: Value, main: Value, more: Value| {
        let init_names = init.as_array().map_or(0, Vec::len);
        let mut pod = json!({
            "metadata": {"name": "p", "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "c0"}, {"name": "c1"}],
                "initContainers": (0..init_names).map(|i| json!({"name": format!("i{i}")})).collect::<Vec<_>>()},
            "status": {"phase": "Running", "initContainerStatuses": init, "containerStatuses": main},
        });
        for (path, value) in more.as_object().expect("a map") {
            *pod.pointer_mut(path.rsplit_once('/').expect("a path").0)
                .expect("there")
                .as_object_mut()
                .expect("a map")
                .entry(path.rsplit_once('/').expect("a path").1)
                .or_insert(Value::Null) = value.clone();
        }
        pod
    };
    let status = |state: &Value, ready: bool| json!({"state": state, "ready": ready, "restartCount": 1, "name": "x"});
    let ok = status(&running, true);
    for (object, ready, reason, restarts) in [
        (pod(json!([]), json!([ok, ok]), json!({})), "2/2", "Running", "2"),
        (
            pod(json!([]), json!([ok, status(&waiting("CrashLoopBackOff"), false)]), json!({})),
            "1/2",
            "CrashLoopBackOff",
            "2",
        ),
        (pod(json!([]), json!([ok, status(&terminated(0, "Completed"), false)]), json!({})), "1/2", "NotReady", "2"),
        (pod(json!([]), json!([status(&terminated(0, "Completed"), false), ok]), json!({})), "1/2", "NotReady", "2"),
        (pod(json!([]), json!([status(&terminated(3, ""), false)]), json!({})), "0/2", "ExitCode:3", "1"),
        (
            pod(json!([]), json!([status(&json!({"terminated": {"exitCode": 137, "signal": 9}}), false)]), json!({})),
            "0/2",
            "Signal:9",
            "1",
        ),
        (pod(json!([status(&waiting("PodInitializing"), false)]), json!([]), json!({})), "0/2", "Init:0/1", "1"),
        (
            pod(
                json!([status(&terminated(0, ""), false), status(&terminated(1, "Error"), false)]),
                json!([]),
                json!({}),
            ),
            "0/2",
            "Init:Error",
            "2",
        ),
        (
            pod(json!([status(&waiting("ImagePullBackOff"), false)]), json!([]), json!({})),
            "0/2",
            "Init:ImagePullBackOff",
            "1",
        ),
        (
            pod(json!([]), json!([ok, ok]), json!({"/metadata/deletionTimestamp": "2024-01-01T00:00:00Z"})),
            "2/2",
            "Terminating",
            "2",
        ),
        (pod(json!([]), json!([]), json!({"/status/phase": "Pending"})), "0/2", "Pending", "0"),
        (
            pod(json!([]), json!([]), json!({"/status/phase": "Failed", "/status/reason": "Evicted"})),
            "0/2",
            "Evicted",
            "0",
        ),
        (
            pod(
                json!([]),
                json!([{"restartCount": 2, "state": running, "ready": true,
                "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2024-01-01T23:55:00Z"}}}]),
                json!({}),
            ),
            "1/2",
            "Running",
            "2 (5m ago)",
        ),
    ] {
        let row = cells("", "Pod", object.clone());
        assert_eq!(&row[1..5], [json!(ready), json!(reason), json!(restarts), json!("24h")], "{object}");
    }
}

#[test]
fn other_rows() {
    let meta = json!({"name": "x", "creationTimestamp": "2024-01-01T23:59:00Z"});
    let template = json!({"spec": {"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "j:2"}]}});
    for (group, of, object, expect) in [
        (
            "apps",
            "Deployment",
            json!({"metadata": meta, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "x"}}, "template": template},
                "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}}),
            json!(["x", "1/3", 2, 1, "60s", "a,b", "i:1,j:2", "app=x"]),
        ),
        (
            "apps",
            "ReplicaSet",
            json!({"metadata": meta, "spec": {"replicas": 3, "selector": {}, "template": template}, "status": {"replicas": 2}}),
            json!(["x", 3, 2, 0, "60s", "a,b", "i:1,j:2", "<none>"]),
        ),
        (
            "",
            "Service",
            json!({"metadata": meta, "spec": {"type": "NodePort", "clusterIPs": ["10.0.0.1"], "selector": {"b": "1", "a": "2"},
                "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30008}, {"port": 53, "protocol": "UDP"}]}}),
            json!(["x", "NodePort", "10.0.0.1", "<none>", "80:30008/TCP,53/UDP", "60s", "a=2,b=1"]),
        ),
        (
            "",
            "Service",
            json!({"metadata": meta, "spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1"}}),
            json!(["x", "LoadBalancer", "10.0.0.1", "<pending>", "<none>", "60s", "<none>"]),
        ),
        (
            "",
            "Node",
            json!({"metadata": {"name": "x", "labels": {"node-role.kubernetes.io/control-plane": ""}},
                "spec": {"unschedulable": true},
                "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1"},
                    "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}]}}),
            json!([
                "x",
                "Ready,SchedulingDisabled",
                "control-plane",
                "<unknown>",
                "v1",
                "1.2.3.4",
                "<none>",
                "<unknown>",
                "<unknown>",
                "<unknown>"
            ]),
        ),
        (
            "",
            "Endpoints",
            json!({"metadata": meta, "subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}],
                "ports": [{"port": 80}, {"port": 81}]}]}),
            json!(["x", "1.1.1.1:80,1.1.1.2:80,1.1.1.1:81 + 1 more...", "60s"]),
        ),
        (
            "discovery.k8s.io",
            "EndpointSlice",
            json!({"metadata": meta, "addressType": "IPv4", "ports": [{"port": 80}, {"name": "n"}, {}],
                "endpoints": [{"addresses": ["1.1.1.1"]}]}),
            json!(["x", "IPv4", "80,n,*", "1.1.1.1", "60s"]),
        ),
        (
            "",
            "Event",
            json!({"metadata": meta, "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec"}, "reason": "R",
                "type": "Normal", "message": " m\n", "source": {"component": "kubelet", "host": "n"}, "count": 3,
                "firstTimestamp": "2024-01-01T23:50:00Z", "lastTimestamp": "2024-01-01T23:59:00Z"}),
            json!(["60s", "Normal", "R", "pod/p", "spec", "kubelet, n", "m", "10m", 3, "x"]),
        ),
        (
            "events.k8s.io",
            "Event",
            json!({"metadata": meta, "regarding": {"kind": "Pod", "name": "p"}, "reason": "R", "type": "Normal", "note": "m",
                "reportingController": "c", "reportingInstance": "i", "eventTime": "2024-01-01T23:59:30.000000Z"}),
            json!(["30s", "Normal", "R", "pod/p", "", "c, i", "m", "30s", 1, "x"]),
        ),
        (
            "apps",
            "ControllerRevision",
            json!({"metadata": {"name": "x", "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s",
                "controller": true}]}, "revision": 4}),
            json!(["x", "statefulset.apps/s", 4, "<unknown>"]),
        ),
        (
            "",
            "Secret",
            json!({"metadata": meta, "type": "Opaque", "data": {"a": ""}}),
            json!(["x", "Opaque", 1, "60s"]),
        ),
        (
            "",
            "ConfigMap",
            json!({"metadata": meta, "data": {"a": ""}, "binaryData": {"b": ""}}),
            json!(["x", 2, "60s"]),
        ),
        ("", "ServiceAccount", json!({"metadata": meta}), json!(["x", "60s"])),
        ("", "Namespace", json!({"metadata": meta, "status": {"phase": "Active"}}), json!(["x", "Active", "60s"])),
        (
            "coordination.k8s.io",
            "Lease",
            json!({"metadata": meta, "spec": {"holderIdentity": "h"}}),
            json!(["x", "h", "60s"]),
        ),
    ] {
        assert_eq!(Value::from(cells(group, of, object)), expect, "{of}");
    }
}

#[test]
fn events_have_two_shapes() {
    let new = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "note": "m",
        "regarding": {"name": "p"}, "reportingController": "c", "deprecatedCount": 2, "action": "a", "reason": "r", "eventTime": null});
    let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "message": "m",
        "involvedObject": {"name": "p"}, "reportingComponent": "c", "count": 2, "action": "a", "reason": "r", "eventTime": null});
    let strategy = &kind("events.k8s.io", "Event").strategy;
    assert!(strategy.converts());
    let mut object = new.clone();
    for _ in 0..2 {
        strategy.encode_stored(&mut object);
        assert_eq!(object, core);
    }
    for _ in 0..2 {
        strategy.decode_stored(&mut object);
        assert_eq!(object, new);
    }
}

/// Default, then prepare for creation, as the API server does.
pub(super) fn created(group: &str, of: &str, mut object: Value) -> Value {
    let strategy = &kind(group, of).strategy;
    strategy.default(&mut object);
    strategy.prepare_create(&mut object);
    let once = object.clone();
    strategy.default(&mut object);
    assert_eq!(once, object, "defaults are idempotent");
    object
}

#[test]
fn pod_defaults() {
    let pod = json!({"metadata": {"name": "p"}, "status": {"phase": "Running"}, "spec": {
        "serviceAccount": "me",
        "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "m"}}, {"name": "h", "hostPath": {"path": "/x"}},
            {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}},
                {"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}}],
        "containers": [{"name": "a", "image": "nginx:1", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}},
            "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "R", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
            "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 3}}]}});
    assert_eq!(
        created("", "Pod", pod),
        json!({"metadata": {"name": "p", "generation": 1}, "status": {"phase": "Pending", "qosClass": "Guaranteed"}, "spec": {
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {}, "enableServiceLinks": true,
            "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler", "serviceAccount": "me",
            "serviceAccountName": "me",
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "m", "defaultMode": 420}},
                {"name": "h", "hostPath": {"path": "/x", "type": ""}},
                {"name": "t", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}},
                    {"downwardAPI": {"items": [{"path": "p", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}]}}]}}],
            "containers": [{"name": "a", "image": "nginx:1", "imagePullPolicy": "IfNotPresent",
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}},
                "env": [{"name": "N", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
                    {"name": "R", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "0"}}}],
                "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "periodSeconds": 3,
                    "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3}}]}})
    );
}

#[test]
fn workload_defaults() {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let full_template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {
        "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {}, "terminationGracePeriodSeconds": 30,
        "schedulerName": "default-scheduler",
        "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "resources": {},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}]}});
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}});
    for (group, of, spec, expect, labels, status) in [
        (
            "apps",
            "Deployment",
            json!({"template": template}),
            json!({"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600, "strategy": rolling,
                "template": full_template}),
            Value::Null,
            json!({}),
        ),
        (
            "apps",
            "Deployment",
            json!({"replicas": 0, "strategy": {"type": "Recreate"}, "template": template}),
            json!({"replicas": 0, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                "strategy": {"type": "Recreate"}, "template": full_template}),
            Value::Null,
            json!({}),
        ),
        (
            "apps",
            "ReplicaSet",
            json!({"template": template}),
            json!({"replicas": 1, "template": full_template}),
            Value::Null,
            json!({"replicas": 0}),
        ),
        (
            "",
            "ReplicationController",
            json!({"template": template}),
            json!({"replicas": 1, "selector": {"a": "b"}, "template": full_template}),
            json!({"a": "b"}),
            json!({"replicas": 0}),
        ),
    ] {
        let object = created(group, of, json!({"metadata": {"name": "x"}, "spec": spec}));
        assert_eq!(object["spec"], expect, "{of}");
        assert_eq!(object["metadata"].get("labels").unwrap_or(&Value::Null), &labels, "{of}");
        assert_eq!(object["status"], status, "{of}");
        assert_eq!(object["metadata"]["generation"], 1, "{of}");
    }
}

#[test]
fn service_defaults_and_changes() {
    let service = created("", "Service", json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}));
    assert_eq!(
        service,
        json!({"metadata": {"name": "s"}, "status": {"loadBalancer": {}}, "spec": {"type": "ClusterIP",
            "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]}})
    );
    let old = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "1.1.1.1", "clusterIPs": ["1.1.1.1"],
        "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30001, "name": "a"}]}});
    for (spec, expect) in [
        (
            json!({"type": "NodePort", "ports": [{"port": 81, "name": "a"}, {"port": 82, "name": "b"}]}),
            json!({"type": "NodePort", "clusterIP": "1.1.1.1", "clusterIPs": ["1.1.1.1"],
                "ports": [{"port": 81, "name": "a", "nodePort": 30001}, {"port": 82, "name": "b"}]}),
        ),
        (
            json!({"type": "ClusterIP", "clusterIP": "1.1.1.1", "clusterIPs": ["1.1.1.1"], "externalTrafficPolicy": "Cluster",
                "ports": [{"port": 80, "nodePort": 30001, "name": "a"}]}),
            json!({"type": "ClusterIP", "clusterIP": "1.1.1.1", "clusterIPs": ["1.1.1.1"], "ports": [{"port": 80, "name": "a"}]}),
        ),
        (
            json!({"type": "ExternalName", "externalName": "x", "clusterIP": "1.1.1.1", "clusterIPs": ["1.1.1.1"]}),
            json!({"type": "ExternalName", "externalName": "x"}),
        ),
        (
            json!({"type": "ClusterIP", "clusterIP": "2.2.2.2", "clusterIPs": ["1.1.1.1"]}),
            json!({"type": "ClusterIP", "clusterIP": "2.2.2.2", "clusterIPs": ["2.2.2.2"]}),
        ),
    ] {
        let mut object = json!({"metadata": {"name": "s"}, "spec": spec});
        kind("", "Service").strategy.prepare_update(&mut object, &old);
        assert_eq!(object["spec"], expect);
    }
}

#[test]
fn updates_keep_and_count() {
    let strategy = &kind("apps", "Deployment").strategy;
    let old = json!({"metadata": {"name": "d", "generation": 4, "labels": {"a": "b"}}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
    for (spec, annotations, generation) in [
        (json!({"replicas": 1}), json!({}), 4),
        (json!({"replicas": 2}), json!({}), 5),
        (json!({"replicas": 1}), json!({"x": "y"}), 5),
    ] {
        let mut new = json!({"metadata": {"name": "d", "generation": 99}, "spec": spec, "status": {"replicas": 7}});
        if annotations != json!({}) {
            new["metadata"]["annotations"] = annotations;
        }
        strategy.prepare_update(&mut new, &old);
        assert_eq!(new["metadata"]["generation"], generation);
        assert_eq!(new["status"], json!({"replicas": 1}));
    }
    let mut new = json!({"metadata": {"name": "d"}, "spec": {"replicas": 9}, "status": {"replicas": 7}});
    strategy.prepare_status_update(&mut new, &old);
    assert_eq!(
        new,
        json!({"metadata": {"name": "d", "generation": 4, "labels": {"a": "b"}}, "spec": {"replicas": 1}, "status": {"replicas": 7}})
    );
}

#[test]
fn secrets_and_namespaces() {
    let secret = created(
        "",
        "Secret",
        json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}, "data": {"a": "", "c": "ZA=="}}),
    );
    assert_eq!(secret, json!({"metadata": {"name": "s"}, "type": "Opaque", "data": {"a": "Yg==", "c": "ZA=="}}));
    let namespace = created("", "Namespace", json!({"metadata": {"name": "n"}}));
    assert_eq!(
        namespace,
        json!({"metadata": {"name": "n", "labels": {"kubernetes.io/metadata.name": "n"}}, "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"}})
    );
}

#[test]
fn nodes_bring_their_status_and_slices_count_labels() {
    let status = json!({"capacity": {"cpu": "2000m", "memory": "1024Ki"}, "conditions": []});
    let node = created("", "Node", json!({"metadata": {"name": "n"}, "status": status}));
    let amounts = json!({"cpu": "2", "memory": "1Mi"});
    assert_eq!(node["status"], json!({"capacity": amounts, "allocatable": amounts, "conditions": []}));
    let old = json!({"metadata": {"name": "s", "generation": 1, "labels": {"a": "b"}}, "ports": []});
    let mut new = old.clone();
    new["metadata"]["labels"]["a"] = json!("c");
    kind("discovery.k8s.io", "EndpointSlice").strategy.prepare_update(&mut new, &old);
    assert_eq!(new["metadata"]["generation"], 2);
}
