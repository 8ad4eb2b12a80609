use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skiff_client::fake::FakeTransport;

use super::*;

fn options(directory: &Path) -> Options {
    Options { node_name: "n".into(), directory: directory.to_owned() }
}

fn claim(annotations: Value, spec: Value) -> Value {
    let mut all = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "local-path",
        "resources": {"requests": {"storage": "1Gi"}}});
    all.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
    let mut marks =
        json!({"volume.kubernetes.io/storage-provisioner": PROVISIONER, "volume.kubernetes.io/selected-node": "n"});
    marks.as_object_mut().expect("an object").extend(annotations.as_object().expect("an object").clone());
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "ns", "uid": "u", "annotations": marks}, "spec": all})
}

fn class(more: Value) -> Value {
    let mut class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "local-path", "annotations": {"defaultVolumeType": "local"}}, "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer"});
    class.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    class
}

#[test]
fn claims_that_grow() {
    let (options, class) = (options(Path::new("/data")), class(json!({})));
    let class = serde_json::from_value(class).expect("a class");
    let grown = |told: Value, asked: &str, node: &str| {
        let mut claim = claim(json!({}), json!({"resources": {"requests": {"storage": asked}}}));
        claim["status"] = json!({"capacity": told});
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).expect("a claim");
        let (mut volume, _) = plan_volume(&claim, &class, &options).expect("a volume");
        volume.metadata.annotations.get_or_insert_default().insert(SELECTED.to_owned(), node.to_owned());
        plan_expansion(&claim, &volume, &options).map(|size| size.0)
    };
    assert_eq!(grown(json!({"storage": "1Gi"}), "2Gi", "n").as_deref(), Some("2Gi"));
    assert_eq!(grown(json!({"storage": "2Gi"}), "2048Mi", "n"), None);
    assert_eq!(grown(json!({"storage": "3Gi"}), "2Gi", "n"), None);
    assert_eq!(grown(json!({}), "2Gi", "n"), None, "it is only being bound");
    assert_eq!(grown(json!({"storage": "1Gi"}), "2Gi", "m"), None, "it is another node's");
}

#[test]
fn volumes_look_as_k3s_has_them() {
    let plan = |claim: Value, class: Value| {
        let claim = serde_json::from_value(claim).expect("a claim");
        let class = serde_json::from_value(class).expect("a class");
        plan_volume(&claim, &class, &options(Path::new("/data")))
    };
    let (volume, path) = plan(claim(json!({}), json!({})), class(json!({}))).expect("planned");
    assert_eq!(path, Path::new("/data/pvc-u_ns_c"));
    let volume = serde_json::to_value(&volume).expect("JSON");
    assert_eq!(volume["metadata"]["name"], "pvc-u");
    assert_eq!(volume["spec"]["local"]["path"], "/data/pvc-u_ns_c");
    assert_eq!(volume["spec"]["capacity"], json!({"storage": "1Gi"}));
    assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Delete");
    let terms = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"];
    assert_eq!(terms[0]["matchExpressions"][0]["values"], json!(["n"]));
    let (volume, _) = plan(claim(json!({"volumeType": "hostPath"}), json!({})), class(json!({}))).expect("planned");
    let host = volume.spec.and_then(|spec| spec.host_path).expect("a host path");
    assert_eq!((host.path.as_str(), host.type_.as_deref()), ("/data/pvc-u_ns_c", Some("DirectoryOrCreate")));
    for (annotations, spec, more, why) in [
        (json!({}), json!({"accessModes": ["ReadWriteMany"]}), json!({}), "NodePath only supports"),
        (json!({}), json!({"volumeMode": "Block"}), json!({}), "block volumes"),
        (json!({}), json!({"selector": {}}), json!({}), "claim.Spec.Selector"),
        (json!({"volumeType": "x"}), json!({}), json!({}), "\"x\" is not a recognised volume type"),
        (json!({}), json!({}), json!({"parameters": {"nodePath": "/x"}}), "the parameter \"nodePath\""),
    ] {
        let found = plan(claim(annotations, spec), class(more)).expect_err("refused");
        assert!(found.starts_with(why), "{found}");
    }
}

#[test]
fn only_its_own_directories_go() {
    let check = |path: &str, node: &str, phase: &str, policy: &str, expect: Option<bool>| {
        let volume = serde_json::from_value(json!({"metadata": {"name": "pvc-u", "annotations": {SELECTED: node}},
            "spec": {"local": {"path": path}, "persistentVolumeReclaimPolicy": policy}, "status": {"phase": phase}}))
        .expect("a volume");
        let found = plan_removal(&volume, &options(Path::new("/data")));
        assert_eq!(found.map(|found| found.is_ok()), expect, "{path} {node} {phase} {policy}");
    };
    check("/data/pvc-u_ns_c", "n", "Released", "Delete", Some(true));
    check("/data/pvc-u_ns_c", "n", "Bound", "Delete", None);
    check("/data/pvc-u_ns_c", "n", "Released", "Retain", None);
    check("/data/pvc-u_ns_c", "m", "Released", "Delete", None);
    for path in
        ["/etc", "/data", "/data/pvc-v_ns_c", "/data/pvc-u_/../../etc", "/data/pvc-u_ns_c/deeper", "/data/../pvc-u_x"]
    {
        check(path, "n", "Released", "Delete", Some(false));
    }
}

#[tokio::test]
async fn makes_and_removes() {
    let directory = tempfile::tempdir().expect("a directory");
    let fake = Arc::new(FakeTransport::new());
    let scope = Scope::new();
    let informers = Informers::new(Client::new(fake.clone()), scope.clone());
    let storage = directory.path().join("storage");
    start(options(&storage), &informers, &scope);
    fake.put(class(json!({})));
    let until = async |what: &str, done: &dyn Fn() -> bool| {
        let limit = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < limit, "{what}: {:#?}", fake.requests());
            tokio::task::yield_now().await;
        }
    };
    // Not this node's, and one that is.
    let mut other = claim(json!({"volume.kubernetes.io/selected-node": "m"}), json!({}));
    (other["metadata"]["name"], other["metadata"]["uid"]) = (json!("d"), json!("v"));
    fake.put(other);
    fake.put(claim(json!({}), json!({})));
    let volumes = || fake.objects("/api/v1/persistentvolumes");
    until("the volume is there", &|| !volumes().is_empty()).await;
    let path = storage.join("pvc-u_ns_c");
    assert!(path.is_dir());
    std::fs::write(path.join("data"), "1").expect("written");
    let mut volume = volumes().remove(0);
    assert_eq!(volume["metadata"]["name"], "pvc-u");
    volume["status"] = json!({"phase": "Released"});
    fake.put(volume);
    until("the volume is gone", &|| volumes().is_empty()).await;
    assert!(!path.exists() && storage.exists());
    scope.stop().await;
}
