use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skiff_client::EventKind;
use skiff_client::fake::FakeTransport;

use super::plan::{ClaimStep, Reclaim, SeenClaim, VolumeStep, default_class, plan_claim, plan_reclaim, plan_volume};
use super::start;
use crate::testing::Stage;

fn typed<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

fn claim(annotations: Value, spec: Value) -> PersistentVolumeClaim {
    let mut all = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    all.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
    typed(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u", "annotations": annotations}, "spec": all}))
}

fn volume(annotations: Value, spec: Value) -> PersistentVolume {
    let mut all = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]});
    all.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
    typed(json!({"metadata": {"name": "v", "annotations": annotations}, "spec": all, "status": {"phase": "Available"}}))
}

fn class(name: &str, provisioner: &str, mode: &str) -> StorageClass {
    typed(json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode}))
}

fn nothing() -> SeenClaim {
    SeenClaim { volume: None, class: None, default_class: None, volumes: Vec::new(), pods: Vec::new() }
}

fn told(step: &ClaimStep) -> (&str, &str) {
    match step {
        ClaimStep::Wait(Some((_, reason, message))) => (reason, message),
        ClaimStep::Lose { reason, message } => (reason, message),
        other => panic!("{other:?} tells nothing"),
    }
}

#[test]
fn what_claims_without_a_volume_wait_for() {
    let none = claim(json!({}), json!({}));
    let why = "no persistent volumes available for this claim and no storage class is set";
    assert_eq!(told(&plan_claim(&none, &nothing())), ("FailedBinding", why));
    let seen = SeenClaim { default_class: Some("d".into()), ..nothing() };
    assert_eq!(plan_claim(&none, &seen), ClaimStep::TakeClass("d".into()));
    let empty = claim(json!({}), json!({"storageClassName": ""}));
    assert_eq!(told(&plan_claim(&empty, &seen)).0, "FailedBinding");
    let named = claim(json!({}), json!({"storageClassName": "x"}));
    let why = "storageclass.storage.k8s.io \"x\" not found";
    assert_eq!(told(&plan_claim(&named, &nothing())), ("ProvisioningFailed", why));
    let with =
        |provisioner: &str, mode: &str| SeenClaim { class: Some(Arc::new(class("x", provisioner, mode))), ..nothing() };
    let why = "no volume plugin matched name: kubernetes.io/no-provisioner";
    let seen = with("kubernetes.io/no-provisioner", "Immediate");
    assert_eq!(told(&plan_claim(&named, &seen)), ("ProvisioningFailed", why));
    let asked = ClaimStep::Provision { provisioner: "who".into() };
    assert_eq!(plan_claim(&named, &with("who", "Immediate")), asked);
    let late = with("who", "WaitForFirstConsumer");
    assert_eq!(told(&plan_claim(&named, &late)).0, "WaitForFirstConsumer");
    let pod: Pod = typed(json!({"metadata": {"name": "p"}, "spec": {"containers": []}}));
    let late = SeenClaim { pods: vec![Arc::new(pod)], ..late };
    assert_eq!(told(&plan_claim(&named, &late)), ("WaitForPodScheduled", "waiting for pod p to be scheduled"));
    let selected = claim(json!({"volume.kubernetes.io/selected-node": "m"}), json!({"storageClassName": "x"}));
    assert_eq!(plan_claim(&selected, &late), asked);
    // A free volume is taken at once, but not where a pod is waited for.
    let free = Arc::new(volume(json!({}), json!({"storageClassName": "x"})));
    let seen = SeenClaim { volumes: vec![free.clone()], ..with("who", "Immediate") };
    assert_eq!(plan_claim(&named, &seen), ClaimStep::Bind(free.clone()));
    let seen = SeenClaim { volumes: vec![free], ..with("who", "WaitForFirstConsumer") };
    assert_eq!(told(&plan_claim(&named, &seen)).0, "WaitForFirstConsumer");
}

#[test]
fn claims_that_name_their_volume() {
    let named = claim(json!({}), json!({"volumeName": "v"}));
    assert_eq!(plan_claim(&named, &nothing()), ClaimStep::Wait(None));
    let with = |spec: Value| SeenClaim { volume: Some(Arc::new(volume(json!({}), spec))), ..nothing() };
    assert!(matches!(plan_claim(&named, &with(json!({}))), ClaimStep::Bind(_)));
    for (spec, why) in [
        (json!({"capacity": {"storage": "1Mi"}}), "requested PV is too small"),
        (json!({"storageClassName": "x"}), "storageClassName does not match"),
        (json!({"volumeMode": "Block"}), "incompatible volumeMode"),
        (json!({"accessModes": ["ReadOnlyMany"]}), "incompatible accessMode"),
    ] {
        let step = plan_claim(&named, &with(spec));
        assert_eq!(told(&step), ("VolumeMismatch", &*format!("Cannot bind to requested volume \"v\": {why}")));
    }
    let other = json!({"claimRef": {"name": "d", "namespace": "n"}});
    assert_eq!(told(&plan_claim(&named, &with(other))).0, "FailedBinding");
    let kept = json!({"claimRef": {"name": "c", "namespace": "n"}});
    assert!(matches!(plan_claim(&named, &with(kept)), ClaimStep::Bind(_)));
    // Once bound, a claim has its volume or nothing.
    let bound = claim(json!({"pv.kubernetes.io/bind-completed": "yes"}), json!({"volumeName": "v"}));
    assert_eq!(told(&plan_claim(&bound, &nothing())).0, "ClaimLost");
    let stranger = json!({"claimRef": {"name": "c", "namespace": "n", "uid": "other"}});
    assert_eq!(told(&plan_claim(&bound, &with(stranger))).0, "ClaimMisbound");
}

#[test]
fn what_becomes_of_volumes() {
    let reference = |uid: &str| json!({"claimRef": {"name": "c", "namespace": "n", "uid": uid}});
    let ours = claim(json!({}), json!({"volumeName": "v"}));
    let fresh = claim(json!({}), json!({}));
    let elsewhere = claim(json!({}), json!({"volumeName": "w"}));
    assert_eq!(plan_volume(&volume(json!({}), json!({})), None), VolumeStep::Phase("Available"));
    assert_eq!(plan_volume(&volume(json!({}), reference("")), None), VolumeStep::Phase("Available"));
    assert_eq!(plan_volume(&volume(json!({}), reference("")), Some(&fresh)), VolumeStep::LeaveToClaim);
    assert_eq!(plan_volume(&volume(json!({}), reference("u")), Some(&fresh)), VolumeStep::LeaveToClaim);
    assert_eq!(plan_volume(&volume(json!({}), reference("u")), Some(&ours)), VolumeStep::Phase("Bound"));
    assert_eq!(plan_volume(&volume(json!({}), reference("u")), None), VolumeStep::Release);
    assert_eq!(plan_volume(&volume(json!({}), reference("old")), Some(&ours)), VolumeStep::Release);
    let mut block = reference("u");
    block["volumeMode"] = json!("Block");
    assert!(matches!(plan_volume(&volume(json!({}), block), Some(&fresh)), VolumeStep::Mismatch(_)));
    let unbound = |annotations: Value| match plan_volume(&volume(annotations, reference("u")), Some(&elsewhere)) {
        VolumeStep::Unbind(changed) => changed.spec.and_then(|spec| spec.claim_ref).map(|claim| claim.uid),
        other => panic!("{other:?}"),
    };
    assert_eq!(unbound(json!({"pv.kubernetes.io/bound-by-controller": "yes"})), None);
    assert_eq!(unbound(json!({})), Some(None), "kept by name");
    let policy = |policy: &str| json!({"persistentVolumeReclaimPolicy": policy});
    let fails = |annotations: Value, name: &str| match plan_reclaim(&volume(annotations, policy(name))) {
        Reclaim::Leave => "",
        Reclaim::Fail { reason, .. } => reason,
    };
    assert_eq!(fails(json!({}), "Retain"), "");
    assert_eq!(fails(json!({}), "Recycle"), "VolumeRecycleFailed");
    assert_eq!(fails(json!({}), "Delete"), "VolumeFailedDelete");
    assert_eq!(fails(json!({"pv.kubernetes.io/provisioned-by": "who"}), "Delete"), "");
}

#[test]
fn the_newest_default_class() {
    let class = |name: &str, at: &str, default: &str| -> Arc<StorageClass> {
        Arc::new(typed(json!({"metadata": {"name": name, "creationTimestamp": at,
            "annotations": {"storageclass.kubernetes.io/is-default-class": default}}, "provisioner": "p"})))
    };
    let classes = [
        class("a", "2024-01-01T00:00:00Z", "true"),
        class("c", "2024-01-02T00:00:00Z", "true"),
        class("b", "2024-01-02T00:00:00Z", "true"),
        class("d", "2024-01-03T00:00:00Z", "false"),
    ];
    assert_eq!(default_class(&classes).as_deref(), Some("b"));
    assert_eq!(default_class(&[]), None);
}

#[tokio::test]
async fn binds_and_releases() {
    let stage = Stage::new();
    let context = stage.context();
    let volume = |name: &str, size: &str| {
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {"capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain"}})
    };
    start(&context);
    let asked = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "2Gi"}}});
    stage.put(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": asked}));
    stage.put(volume("big", "9Gi"));
    let find = |fake: &FakeTransport, kind: &str, name: &str| {
        let all = fake.objects(&format!("/api/v1/persistentvolume{kind}"));
        all.into_iter().find(|object| object["metadata"]["name"] == name).unwrap_or_default()
    };
    let phase = |fake: &FakeTransport, kind: &str, name: &str| find(fake, kind, name)["status"]["phase"].clone();
    stage.until("the claim is bound", |fake| phase(fake, "claims", "c") == "Bound").await;
    stage.until("the volume is bound", |fake| phase(fake, "s", "big") == "Bound").await;
    let bound = find(&stage.fake, "claims", "c");
    assert_eq!((&bound["spec"]["volumeName"], &bound["status"]["capacity"]["storage"]), (&json!("big"), &json!("9Gi")));
    assert_eq!(bound["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"], "yes");
    stage.put(volume("small", "2Gi"));
    stage.until("the other is free", |fake| phase(fake, "s", "small") == "Available").await;
    stage.delete("/api/v1/namespaces/n/persistentvolumeclaims/c").await;
    stage.until("the volume is released", |fake| phase(fake, "s", "big") == "Released").await;
    assert_eq!(find(&stage.fake, "s", "big")["spec"]["claimRef"]["uid"], "u");
    stage.end().await;
}

#[test]
fn normal_and_warning_events() {
    let named = claim(json!({}), json!({"storageClassName": "x"}));
    let ClaimStep::Wait(Some((kind, ..))) = plan_claim(&named, &nothing()) else { panic!("it waits") };
    assert_eq!(kind, EventKind::Warning);
    let ClaimStep::Wait(Some((kind, ..))) = plan_claim(&claim(json!({}), json!({})), &nothing()) else {
        panic!("it waits")
    };
    assert_eq!(kind, EventKind::Normal);
}
