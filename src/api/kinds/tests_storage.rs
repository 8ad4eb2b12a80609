//! Volumes, claims, and what stands behind them: defaults, mistakes, rows.

use serde_json::{Value, json};

use super::tests::{cells, created};
use super::tests_validation::{validate, validate_update, with};

fn volume() -> Value {
    json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1024Mi"}, "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/data"}}})
}

fn claim() -> Value {
    json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}})
}

#[test]
fn defaults_of_volumes_and_claims() {
    let volume = created(
        "",
        "PersistentVolume",
        with(volume(), &[("/metadata/creationTimestamp", json!("2024-01-01T00:00:00Z"))]),
    );
    assert_eq!(
        volume["spec"],
        json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/data", "type": ""},
            "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"})
    );
    assert_eq!(volume["status"], json!({"phase": "Pending", "lastPhaseTransitionTime": "2024-01-01T00:00:00Z"}));
    let source = json!({"kind": "PersistentVolumeClaim", "name": "o"});
    let claim = created("", "PersistentVolumeClaim", with(claim(), &[("/spec/dataSource", source.clone())]));
    assert_eq!((&claim["spec"]["volumeMode"], &claim["status"]), (&json!("Filesystem"), &json!({"phase": "Pending"})));
    assert_eq!(claim["spec"]["dataSourceRef"], source);
    let class = created("storage.k8s.io", "StorageClass", json!({"metadata": {"name": "s"}, "provisioner": "p"}));
    assert_eq!((&class["reclaimPolicy"], &class["volumeBindingMode"]), (&json!("Delete"), &json!("Immediate")));
    let driver = created("storage.k8s.io", "CSIDriver", json!({"metadata": {"name": "d"}, "spec": {}}));
    assert_eq!(
        driver["spec"],
        json!({"attachRequired": true, "podInfoOnMount": false, "storageCapacity": false, "requiresRepublish": false,
            "seLinuxMount": false, "fsGroupPolicy": "ReadWriteOnceWithFSType", "volumeLifecycleModes": ["Persistent"]})
    );
}

#[test]
fn wrong_volumes() {
    assert_eq!(validate("", "PersistentVolume", volume()), Vec::<String>::new());
    for (changes, expect) in [
        (vec![("/spec/accessModes", Value::Null)], vec!["spec.accessModes: Required value"]),
        (
            vec![("/spec/accessModes", json!(["ReadWriteOncePod", "ReadOnlyMany"]))],
            vec!["spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"],
        ),
        (
            vec![("/spec/capacity", json!({"storage": "0"}))],
            vec![r#"spec.capacity[storage]: Invalid value: "0": must be greater than zero"#],
        ),
        (
            vec![("/spec/capacity", json!({"cpu": "1"}))],
            vec![r#"spec.capacity: Unsupported value: {"cpu":"1"}: supported values: "storage""#],
        ),
        (vec![("/spec/hostPath", Value::Null)], vec!["spec: Required value: must specify a volume type"]),
        (
            vec![("/spec/nfs", json!({"server": "s", "path": "/"}))],
            vec!["spec.nfs: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            vec![("/spec/hostPath/path", json!("/")), ("/spec/persistentVolumeReclaimPolicy", json!("Recycle"))],
            vec!["spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'"],
        ),
        (
            vec![("/spec/hostPath", Value::Null), ("/spec/local", json!({"path": "/mnt"}))],
            vec!["spec.nodeAffinity: Required value: Local volume requires node affinity"],
        ),
        (
            vec![("/spec/hostPath", Value::Null), ("/spec/csi", json!({"driver": ""}))],
            vec!["spec.csi.driver: Required value", "spec.csi.volumeHandle: Required value"],
        ),
    ] {
        assert_eq!(validate("", "PersistentVolume", with(volume(), &changes)), expect, "{changes:?}");
    }
    let wrong = validate_update("", "PersistentVolume", volume(), &[("/spec/hostPath/path", json!("/other"))]);
    assert!(wrong[0].starts_with(
        "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n"
    ));
    assert_eq!(validate_update("", "PersistentVolume", volume(), &[("/spec/claimRef", json!({"name": "c"}))]).len(), 0);
}

#[test]
fn wrong_claims() {
    assert_eq!(validate("", "PersistentVolumeClaim", claim()), Vec::<String>::new());
    for (changes, expect) in [
        (
            vec![("/spec/accessModes", json!([]))],
            vec!["spec.accessModes: Required value: at least 1 access mode is required"],
        ),
        (vec![("/spec/resources/requests", json!({}))], vec!["spec.resources[storage]: Required value"]),
        (
            vec![("/spec/volumeMode", json!("Tape"))],
            vec![r#"spec.volumeMode: Unsupported value: "Tape": supported values: "Block", "Filesystem""#],
        ),
        (
            vec![("/spec/dataSource", json!({"kind": "Snap", "name": "s"}))],
            vec![
                r#"spec.dataSource: Invalid value: "Snap": must be 'PersistentVolumeClaim' when referencing the default apiGroup"#,
                r#"spec.dataSourceRef: Invalid value: "Snap": must be 'PersistentVolumeClaim' when referencing the default apiGroup"#,
            ],
        ),
    ] {
        assert_eq!(validate("", "PersistentVolumeClaim", with(claim(), &changes)), expect, "{changes:?}");
    }
}

#[test]
fn changes_of_claims() {
    let sealed =
        "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName";
    let strategy = &super::tests::kind("", "PersistentVolumeClaim").strategy;
    let free = created("", "PersistentVolumeClaim", claim());
    let bound = with(
        free.clone(),
        &[("/spec/volumeName", json!("v")), ("/status", json!({"phase": "Bound", "capacity": {"storage": "1Gi"}}))],
    );
    for (old, changes, expect) in [
        (&free, vec![("/spec/volumeName", json!("v"))], None),
        (&free, vec![("/spec/storageClassName", json!("s"))], None),
        (&free, vec![("/spec/resources/requests/storage", json!("2Gi"))], Some(sealed)),
        (&bound, vec![("/spec/resources/requests/storage", json!("2Gi"))], None),
        (&bound, vec![("/spec/volumeName", json!("w"))], Some(sealed)),
        (
            &bound,
            vec![("/spec/resources/requests/storage", json!("1Mi"))],
            Some("spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"),
        ),
        (&bound, vec![("/spec/accessModes", json!(["ReadOnlyMany"]))], Some(sealed)),
        (&free, vec![("/spec/volumeAttributesClassName", json!("a"))], Some(sealed)),
        (&bound, vec![("/spec/volumeAttributesClassName", json!("a"))], None),
        (
            &with(
                bound.clone(),
                &[
                    ("/spec/volumeAttributesClassName", json!("a")),
                    ("/status/currentVolumeAttributesClassName", json!("a")),
                ],
            ),
            vec![("/spec/volumeAttributesClassName", Value::Null)],
            Some("spec.volumeAttributesClassName: Forbidden: update to nil is forbidden when status.current"),
        ),
    ] {
        let new = with(old.clone(), &changes);
        let causes = super::tests_validation::texts(strategy.validate_update(&new, old));
        match expect {
            None => assert_eq!(causes, Vec::<String>::new(), "{changes:?}"),
            Some(expect) => assert!(causes.len() == 1 && causes[0].starts_with(expect), "{changes:?}: {causes:?}"),
        }
    }
}

#[test]
fn wrong_storage_objects() {
    const GROUP: &str = "storage.k8s.io";
    let meta = json!({"name": "x"});
    for (of, object, expect) in [
        ("StorageClass", json!({"metadata": meta, "provisioner": ""}), vec!["provisioner: Required value"]),
        (
            "StorageClass",
            json!({"metadata": meta, "provisioner": "p", "reclaimPolicy": "Recycle"}),
            vec![r#"reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain""#],
        ),
        (
            "StorageClass",
            json!({"metadata": meta, "provisioner": "p",
                "allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": ["a", "a"]}]}]}),
            vec![r#"allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: "a""#],
        ),
        (
            "CSIDriver",
            json!({"metadata": meta, "spec": {"tokenRequests": [{"audience": "", "expirationSeconds": 1}, {"audience": ""}]}}),
            vec![
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                r#"spec.tokenRequests[1].audience: Duplicate value: """#,
            ],
        ),
        (
            "CSINode",
            json!({"metadata": meta, "spec": {"drivers": [{"name": "d", "nodeID": ""}]}}),
            vec!["spec.drivers[0].nodeID: Required value"],
        ),
        (
            "VolumeAttachment",
            json!({"metadata": meta, "spec": {"attacher": "a", "nodeName": "n", "source": {}}}),
            vec!["spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"],
        ),
        (
            "VolumeAttributesClass",
            json!({"metadata": meta, "driverName": "d"}),
            vec!["parameters: Required value: must contain at least one key/value pair"],
        ),
        (
            "CSIStorageCapacity",
            json!({"metadata": {"name": "x", "namespace": "n"}, "storageClassName": "s", "capacity": "-1"}),
            vec![r#"capacity: Invalid value: "-1": must be greater than or equal to 0"#],
        ),
    ] {
        assert_eq!(validate(GROUP, of, object.clone()), expect, "{object}");
    }
    for (of, object, change, expect) in [
        (
            "StorageClass",
            json!({"metadata": meta, "provisioner": "p"}),
            ("/provisioner", json!("q")),
            "provisioner: Invalid value: \"q\": field is immutable",
        ),
        (
            "VolumeAttributesClass",
            json!({"metadata": meta, "driverName": "d", "parameters": {"a": "b"}}),
            ("/parameters", json!({"a": "c"})),
            "parameters: Forbidden: updates to parameters are forbidden.",
        ),
        (
            "CSIDriver",
            json!({"metadata": meta, "spec": {}}),
            ("/spec/attachRequired", json!(false)),
            "spec.attachedRequired: Invalid value: false: field is immutable",
        ),
        (
            "StorageClass",
            json!({"metadata": meta, "provisioner": "p", "parameters": {"a": "b"}}),
            ("/parameters", json!({"a": "c"})),
            r#"parameters: Invalid value: {"a":"c"}: field is immutable"#,
        ),
        (
            "CSINode",
            json!({"metadata": meta, "spec": {"drivers": [{"name": "d", "nodeID": "n", "allocatable": {"count": 1}}]}}),
            ("/spec/drivers/0/nodeID", json!("m")),
            r#"spec.drivers: Invalid value: {"name":"d","nodeID":"m"}: field is immutable"#,
        ),
    ] {
        assert_eq!(validate_update(GROUP, of, object, &[change]), [expect]);
    }
    let free = Vec::<String>::new();
    let driver = json!({"metadata": meta, "spec": {}});
    assert_eq!(validate_update(GROUP, "CSIDriver", driver, &[("/spec/fsGroupPolicy", json!("File"))]), free);
    let node =
        json!({"metadata": meta, "spec": {"drivers": [{"name": "d", "nodeID": "n", "allocatable": {"count": 1}}]}});
    assert_eq!(validate_update(GROUP, "CSINode", node, &[("/spec/drivers/0/allocatable/count", json!(2))]), free);
}

#[test]
fn rows_of_storage() {
    let meta = json!({"name": "x", "creationTimestamp": "2024-01-01T23:59:00Z"});
    let default = json!({"name": "x", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        "creationTimestamp": "2024-01-01T23:59:00Z"});
    for (group, of, object, expect) in [
        (
            "",
            "PersistentVolume",
            json!({"metadata": meta, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany", "ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "n", "name": "c"}, "volumeMode": "Block"},
                "status": {"phase": "Bound"}}),
            json!(["x", "1Gi", "RWO,ROX", "Retain", "Bound", "n/c", "", "<unset>", "", "60s", "Block"]),
        ),
        (
            "",
            "PersistentVolumeClaim",
            json!({"metadata": meta, "spec": {"volumeName": "v", "storageClassName": "s"},
                "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"]}}),
            json!(["x", "Bound", "v", "1Gi", "RWX", "s", "<unset>", "60s", "<unset>"]),
        ),
        (
            "storage.k8s.io",
            "StorageClass",
            json!({"metadata": default, "provisioner": "p", "reclaimPolicy": "Retain", "volumeBindingMode": "Immediate"}),
            json!(["x (default)", "p", "Retain", "Immediate", false, "60s"]),
        ),
        (
            "storage.k8s.io",
            "CSIDriver",
            json!({"metadata": meta, "spec": {"attachRequired": false, "volumeLifecycleModes": ["Persistent", "Ephemeral"]}}),
            json!(["x", false, false, false, "<unset>", false, "Persistent,Ephemeral", "60s"]),
        ),
        ("storage.k8s.io", "CSINode", json!({"metadata": meta, "spec": {"drivers": [{}]}}), json!(["x", 1, "60s"])),
        (
            "storage.k8s.io",
            "VolumeAttachment",
            json!({"metadata": meta, "spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "v"}}}),
            json!(["x", "a", "v", "n", false, "60s"]),
        ),
        (
            "storage.k8s.io",
            "VolumeAttributesClass",
            json!({"metadata": meta, "driverName": "d"}),
            json!(["x", "d", "60s"]),
        ),
    ] {
        assert_eq!(Value::from(cells(group, of, object)), expect, "{of}");
    }
}
