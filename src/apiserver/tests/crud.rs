//! Every kind lives the life that upstream's conformance asks of it: made, read, listed, watched, patched in each form,
//! applied, updated, its status patched and updated, deleted alone and with others.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use serde_json::{Value, json};
use skiff_api::strategy::{Descriptor, Subresource};

use super::watches::Frames;
use super::{Answer, Cluster, with_account};

const TEMPLATE: &str =
    r#"{"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}"#;
const CONDITION: &str = r#"{"conditions": [{"type": "Patched", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}"#;
const WEBHOOK: &str = r#"{"webhooks": [{"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Ignore",
    "clientConfig": {"url": "https://192.0.2.2/"}, "rules": [{"operations": ["CREATE"], "apiGroups": ["none"], "apiVersions": ["v1"], "resources": ["none"]}]}]}"#;

/// Group and resource, the name of the n-th (`$` is n), what it holds, what its status is patched to.
struct Sample(&'static str, &'static str, &'static str, &'static str);

/// `%` is a pod template.
const SAMPLES: &[Sample] = &[
    Sample("", "configmaps", r#"{"data": {"a": "b"}}"#, ""),
    Sample("", "endpoints", r#"{"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]}"#, ""),
    Sample(
        "",
        "events",
        r#"{"involvedObject": {"namespace": "default", "name": "x", "kind": "Pod"}, "message": "m", "reason": "r", "type": "Normal"}"#,
        "",
    ),
    Sample(
        "",
        "limitranges",
        r#"{"spec": {"limits": [{"type": "PersistentVolumeClaim", "max": {"storage": "9Ti"}}]}}"#,
        "",
    ),
    Sample(
        "",
        "nodes",
        r#"{"spec": {"unschedulable": true}}"#,
        r#"{"conditions": [{"type": "Patched", "status": "True"}]}"#,
    ),
    Sample(
        "",
        "persistentvolumeclaims",
        r#"{"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}}}"#,
        r#"{"conditions": [{"type": "Patched", "status": "True"}]}"#,
    ),
    Sample(
        "",
        "persistentvolumes",
        r#"{"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}}"#,
        r#"{"message": "patched", "reason": "r"}"#,
    ),
    Sample(
        "",
        "pods",
        r#"{"spec": {"containers": [{"name": "c", "image": "i"}]}}"#,
        r#"{"conditions": [{"type": "Patched", "status": "True"}]}"#,
    ),
    Sample("", "podtemplates", r#"{"template": %}"#, ""),
    Sample(
        "",
        "replicationcontrollers",
        r#"{"spec": {"replicas": 1, "selector": {"app": "a"}, "template": %}}"#,
        r#"{"replicas": 1, "readyReplicas": 1}"#,
    ),
    Sample(
        "",
        "resourcequotas",
        r#"{"spec": {"hard": {"services": "999"}}}"#,
        r#"{"hard": {"services": "5"}, "used": {"services": "1"}}"#,
    ),
    Sample("", "secrets", r#"{"data": {"a": "Yg=="}}"#, ""),
    Sample("", "serviceaccounts", r#"{"automountServiceAccountToken": false}"#, ""),
    Sample("", "services", r#"{"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}"#, CONDITION),
    Sample("apps", "controllerrevisions", r#"{"data": {"a": 1}, "revision": 1}"#, ""),
    Sample("apps", "daemonsets", r#"{"spec": {"selector": {"matchLabels": {"app": "a"}}, "template": %}}"#, CONDITION),
    Sample("apps", "deployments", r#"{"spec": {"selector": {"matchLabels": {"app": "a"}}, "template": %}}"#, CONDITION),
    Sample("apps", "replicasets", r#"{"spec": {"selector": {"matchLabels": {"app": "a"}}, "template": %}}"#, CONDITION),
    Sample(
        "apps",
        "statefulsets",
        r#"{"spec": {"serviceName": "s", "selector": {"matchLabels": {"app": "a"}}, "template": %}}"#,
        CONDITION,
    ),
    Sample("admissionregistration.k8s.io", "mutatingwebhookconfigurations", WEBHOOK, ""),
    Sample("admissionregistration.k8s.io", "validatingwebhookconfigurations", WEBHOOK, ""),
    Sample(
        "autoscaling",
        "horizontalpodautoscalers",
        r#"{"spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}}"#,
        r#"{"currentReplicas": 2, "desiredReplicas": 2}"#,
    ),
    Sample(
        "batch",
        "cronjobs",
        r#"{"spec": {"schedule": "* * * * *", "suspend": true, "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}}"#,
        r#"{"lastScheduleTime": "2026-01-01T00:00:00Z"}"#,
    ),
    Sample(
        "batch",
        "jobs",
        r#"{"spec": {"suspend": true, "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}"#,
        CONDITION,
    ),
    Sample("coordination.k8s.io", "leases", r#"{"spec": {"holderIdentity": "h", "leaseDurationSeconds": 30}}"#, ""),
    Sample(
        "discovery.k8s.io",
        "endpointslices",
        r#"{"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]}"#,
        "",
    ),
    Sample(
        "events.k8s.io",
        "events",
        r#"{"regarding": {"namespace": "default"}, "eventTime": "2026-01-01T00:00:00.000000Z", "note": "n", "action": "Do", "reason": "R", "type": "Normal", "reportingController": "c", "reportingInstance": "i"}"#,
        "",
    ),
    Sample(
        "flowcontrol.apiserver.k8s.io",
        "prioritylevelconfigurations",
        r#"{"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}}}}"#,
        r#"{"conditions": [{"type": "Patched", "status": "True", "reason": "R", "message": "m"}]}"#,
    ),
    Sample("networking.k8s.io", "ingressclasses", r#"{"spec": {"controller": "a.io/b"}}"#, ""),
    Sample(
        "networking.k8s.io",
        "ingresses",
        r#"{"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}"#,
        r#"{"loadBalancer": {"ingress": [{"ip": "169.1.1.1"}]}}"#,
    ),
    Sample(
        "networking.k8s.io",
        "ipaddresses",
        r#"{"spec": {"parentRef": {"resource": "services", "namespace": "n", "name": "s"}}}"#,
        "",
    ),
    Sample("networking.k8s.io", "networkpolicies", r#"{"spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}"#, ""),
    Sample("networking.k8s.io", "servicecidrs", r#"{"spec": {"cidrs": ["10.$.0.0/16"]}}"#, CONDITION),
    Sample("node.k8s.io", "runtimeclasses", r#"{"handler": "h"}"#, ""),
    Sample(
        "policy",
        "poddisruptionbudgets",
        r#"{"spec": {"minAvailable": 1, "selector": {"matchLabels": {"none": "none"}}}}"#,
        r#"{"currentHealthy": 1, "desiredHealthy": 1, "disruptionsAllowed": 0, "expectedPods": 1, "observedGeneration": 1}"#,
    ),
    Sample(
        "rbac.authorization.k8s.io",
        "clusterrolebindings",
        r#"{"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}, "subjects": []}"#,
        "",
    ),
    Sample(
        "rbac.authorization.k8s.io",
        "clusterroles",
        r#"{"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}"#,
        "",
    ),
    Sample(
        "rbac.authorization.k8s.io",
        "rolebindings",
        r#"{"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}}"#,
        "",
    ),
    Sample(
        "rbac.authorization.k8s.io",
        "roles",
        r#"{"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}"#,
        "",
    ),
    Sample("resource.k8s.io", "deviceclasses", r#"{"spec": {"selectors": [{"cel": {"expression": "true"}}]}}"#, ""),
    Sample(
        "resource.k8s.io",
        "resourceclaims",
        r#"{"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "d"}}]}}}"#,
        r#"{"allocation": {"devices": {"results": [{"request": "r", "driver": "d.io", "pool": "p", "device": "x"}]}}}"#,
    ),
    Sample(
        "resource.k8s.io",
        "resourceclaimtemplates",
        r#"{"spec": {"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "d"}}]}}}}"#,
        "",
    ),
    Sample(
        "resource.k8s.io",
        "resourceslices",
        r#"{"spec": {"driver": "d.io", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "x"}]}}"#,
        "",
    ),
    Sample("scheduling.k8s.io", "priorityclasses", r#"{"value": $}"#, ""),
    Sample("storage.k8s.io", "csidrivers", r#"{"spec": {"attachRequired": false}}"#, ""),
    Sample("storage.k8s.io", "csinodes", r#"{"spec": {"drivers": [{"name": "d.io", "nodeID": "n"}]}}"#, ""),
    Sample("storage.k8s.io", "csistoragecapacities", r#"{"storageClassName": "s", "capacity": "1Gi"}"#, ""),
    Sample("storage.k8s.io", "storageclasses", r#"{"provisioner": "p.io"}"#, ""),
    Sample(
        "storage.k8s.io",
        "volumeattachments",
        r#"{"spec": {"attacher": "a.io", "nodeName": "n", "source": {"persistentVolumeName": "v"}}}"#,
        r#"{"attached": true}"#,
    ),
    Sample("storage.k8s.io", "volumeattributesclasses", r#"{"driverName": "d.io", "parameters": {"a": "b"}}"#, ""),
];

/// Kinds whose life is told by tests of their own: those with one are made in another way, or not at all yet, or the
/// server has a hand in it.
const ELSEWHERE: [&str; 10] = [
    "apiservices",
    "certificatesigningrequests",
    "clustertrustbundles",
    "customresourcedefinitions",
    "flowschemas",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "namespaces",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
];

fn name(resource: &str, n: usize) -> String {
    match resource {
        "ipaddresses" => format!("10.9.8.{n}"),
        _ => format!("crud-{n}"),
    }
}

/// Whether everything in `part` is in `whole`.
fn has(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(k, v)| whole.get(k).is_some_and(|w| has(w, v)))
        }
        (Value::Array(whole), Value::Array(part)) => part.iter().all(|p| whole.iter().any(|w| has(w, p))),
        (whole, part) => whole == part,
    }
}

/// One kind on its way.
struct Life<'a> {
    cluster: &'a Cluster,
    descriptor: &'a Descriptor,
    collection: String,
    watch: Option<Frames>,
}

impl Life<'_> {
    fn path(&self, n: usize) -> String {
        format!("{}/{}", self.collection, name(&self.descriptor.gvr.resource, n))
    }

    async fn ask(&self, method: &str, path: &str, body: Value, kind: &str) -> Value {
        let headers = [("content-type", kind)];
        let answer: Answer = self.cluster.ask_with(method, path, body, &headers).await;
        assert!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.value());
        answer.value()
    }

    async fn patch(&self, path: &str, form: &str, body: Value) -> Value {
        self.ask("PATCH", path, body, &format!("application/{form}")).await
    }

    /// The watch tells of the same change next.
    async fn seen(&mut self, what: &str, object: &Value) {
        let frame = self.watch.as_mut().expect("a watch").next().await.expect("a frame");
        let told = |object: &Value| (object["metadata"]["name"].clone(), object["metadata"]["annotations"].clone());
        assert_eq!((&frame["type"], told(&frame["object"])), (&json!(what), told(object)), "{}", self.collection);
    }

    /// What the protection controllers do, of whom there are none here.
    async fn release(&mut self, n: usize) {
        let path = self.path(n);
        if self.cluster.get(&path).await["metadata"]["finalizers"].is_array() {
            let released = self.patch(&path, "merge-patch+json", json!({"metadata": {"finalizers": null}})).await;
            self.seen("MODIFIED", &released).await;
        }
    }

    async fn create(&self, sample: &Sample, n: usize) -> Value {
        let text = sample.2.replace('%', TEMPLATE).replace('$', &n.to_string());
        let mut object: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", sample.1));
        object["metadata"] = json!({"name": name(sample.1, n), "labels": {"crud": sample.1}});
        let made = self.ask("POST", &self.collection, object, "application/json").await;
        let meta = &made["metadata"];
        assert!(meta["uid"].is_string() && meta["creationTimestamp"].is_string(), "{made}");
        assert_eq!(self.cluster.get(&self.path(n)).await, made);
        made
    }

    async fn listed(&self, collection: &str) -> (usize, String) {
        let list =
            self.cluster.get(&format!("{collection}?labelSelector=crud%3D{}", self.descriptor.gvr.resource)).await;
        assert_eq!(list["kind"], self.descriptor.list_kind);
        let revision = list["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
        (list["items"].as_array().expect("items").len(), revision)
    }

    async fn change(&mut self) {
        let path = self.path(1);
        let annotations = |key: &str| json!({"metadata": {"annotations": {key: "yes"}}});
        for (form, body) in [
            ("merge-patch+json", annotations("merged")),
            ("strategic-merge-patch+json", annotations("strategic")),
            ("json-patch+json", json!([{"op": "add", "path": "/metadata/annotations/operated", "value": "yes"}])),
        ] {
            let patched = self.patch(&path, form, body).await;
            self.seen("MODIFIED", &patched).await;
        }
        let gvk = &self.descriptor.gvk;
        let mut configuration = annotations("applied");
        configuration["apiVersion"] = gvk.api_version().into();
        configuration["kind"] = (*gvk.kind).into();
        configuration["metadata"]["name"] = name(&self.descriptor.gvr.resource, 1).into();
        let form = "apply-patch+yaml";
        let applied = self.patch(&format!("{path}?fieldManager=crud"), form, configuration.clone()).await;
        self.seen("MODIFIED", &applied).await;
        let again = self.patch(&format!("{path}?fieldManager=crud"), form, configuration).await;
        assert_eq!(again["metadata"]["resourceVersion"], applied["metadata"]["resourceVersion"], "applied twice");
        let mut object = self.cluster.get(&path).await;
        object["metadata"]["annotations"]["updated"] = "yes".into();
        let updated = self.ask("PUT", &path, object, "application/json").await;
        self.seen("MODIFIED", &updated).await;
        let expect =
            json!({"merged": "yes", "strategic": "yes", "operated": "yes", "applied": "yes", "updated": "yes"});
        assert!(has(&updated["metadata"]["annotations"], &expect), "{updated}");
    }

    async fn change_status(&mut self, status: &str) {
        if !self.descriptor.subresources.contains(&Subresource::Status) {
            assert_eq!(status, "", "{} has no status", self.collection);
            return;
        }
        let path = format!("{}/status", self.path(1));
        let status: Value = serde_json::from_str(status).unwrap_or_else(|e| panic!("{path}: {e}"));
        let before = self.cluster.get(&path).await;
        let patched = self.patch(&path, "merge-patch+json", json!({"status": status, "spec": {"nonsense": 1}})).await;
        assert!(has(&patched["status"], &status), "{path}: {patched}");
        assert_eq!(patched.get("spec"), before.get("spec"), "a status says nothing of what is wanted");
        self.seen("MODIFIED", &patched).await;
        let mut object = self.cluster.get(&path).await;
        assert_eq!(object, patched);
        object["spec"] = Value::Null;
        let same = self.ask("PUT", &path, object, "application/json").await;
        assert_eq!(same["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"], "nothing changed");
    }
}

async fn live(cluster: &Cluster, descriptor: &Descriptor, sample: &Sample) {
    let all = format!("{}/{}", descriptor.gvr.root_path(), descriptor.gvr.resource);
    let collection = match descriptor.namespaced {
        true => format!("{}/namespaces/default/{}", descriptor.gvr.root_path(), descriptor.gvr.resource),
        false => all.clone(),
    };
    let mut life = Life { cluster, descriptor, collection, watch: None };
    life.create(sample, 1).await;
    let (count, revision) = life.listed(&life.collection).await;
    assert_eq!(count, 1);
    let selected = format!("labelSelector=crud%3D{}", descriptor.gvr.resource);
    let watch = format!("{all}?watch=true&{selected}&resourceVersion={revision}");
    life.watch = Some(Frames::open(cluster, &watch, "").await);
    for n in [2, 3] {
        let made = life.create(sample, n).await;
        life.seen("ADDED", &made).await;
    }
    assert_eq!(life.listed(&all).await.0, 3);
    life.change().await;
    life.change_status(sample.3).await;
    for n in [1, 2, 3] {
        life.release(n).await;
    }
    let last = cluster.get(&life.path(1)).await;
    // Controllers of replicas leave their pods behind unless they are told not to.
    let policy = "propagationPolicy=Background";
    life.ask("DELETE", &format!("{}?{policy}", life.path(1)), Value::Null, "application/json").await;
    life.seen("DELETED", &last).await;
    assert_eq!(cluster.ask("GET", &life.path(1), Value::Null).await.0, 404);
    let some = format!("{}?{selected}&{policy}", life.collection);
    life.ask("DELETE", &some, Value::Null, "application/json").await;
    assert_eq!(life.listed(&life.collection).await.0, 0, "{}", life.collection);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_lives() {
    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    let (mut untold, mut failed) = (Vec::new(), Vec::new());
    for descriptor in skiff_api::kinds::builtin() {
        let gvr = &descriptor.gvr;
        let sample = SAMPLES.iter().find(|sample| *gvr.group == *sample.0 && *gvr.resource == *sample.1);
        match sample {
            Some(sample) => {
                if AssertUnwindSafe(live(&cluster, &descriptor, sample)).catch_unwind().await.is_err() {
                    failed.push(gvr.to_string());
                }
            }
            None if ELSEWHERE.contains(&&*gvr.resource) || descriptor.verbs.len() < 3 => {}
            None => untold.push(gvr.to_string()),
        }
    }
    cluster.stop().await;
    assert_eq!(failed, Vec::<String>::new(), "see the panics above");
    assert_eq!(untold, Vec::<String>::new(), "kinds without a sample");
}
