use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skiff_base::Scope;
use skiff_client::fake::FakeTransport;
use skiff_client::{Client, Informers};

use super::{PodVolumes, Storage};
use crate::framework::Happening;
use crate::testing::{info, whole};

fn pod(name: &str, claim: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"containers": [{"name": "c"}], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}})
}

fn claim(name: &str, class: &str, more: Value) -> Value {
    let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": "1Gi"}}}});
    claim.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    claim
}

fn class(name: &str, provisioner: &str, mode: &str) -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, "provisioner": provisioner,
        "volumeBindingMode": mode})
}

fn volume(name: &str, class: &str, node: &str, more: Value) -> Value {
    let affinity = json!({"required": {"nodeSelectorTerms": [{"matchFields":
        [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}});
    let mut spec = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": class, "nodeAffinity": affinity});
    spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec, "status": {"phase": "Available"}})
}

fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}})
}

/// What is read of a pod's claims.
async fn read(objects: Vec<Value>, pod: Value, taken: &HashMap<String, String>) -> PodVolumes {
    let fake = Arc::new(FakeTransport::new());
    objects.into_iter().for_each(|object| fake.put(object));
    let scope = Scope::new();
    let storage = Storage::new(&Informers::new(Client::new(fake), scope.clone()));
    storage.synced().await;
    let found = storage.of(&whole(pod), taken);
    scope.stop().await;
    found
}

#[tokio::test]
async fn says_why_no_node_will_do() {
    let lost = json!({"status": {"phase": "Lost"}});
    for (objects, expect) in [
        (vec![], "persistentvolumeclaim \"x\" not found"),
        (vec![claim("x", "s", json!({}))], "pod has unbound immediate PersistentVolumeClaims"),
        (vec![claim("x", "s", lost)], "persistentvolumeclaim \"x\" bound to non-existent persistentvolume \"\""),
        (
            vec![claim("x", "s", json!({})), class("s", "who", "Immediate")],
            "pod has unbound immediate PersistentVolumeClaims",
        ),
    ] {
        assert_eq!(read(objects, pod("p", "x"), &HashMap::new()).await.trouble.as_deref(), Some(expect));
    }
    let mut ephemeral = pod("p", "x");
    ephemeral["spec"]["volumes"] = json!([{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]);
    let why = "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-v\"";
    assert_eq!(read(vec![], ephemeral, &HashMap::new()).await.trouble.as_deref(), Some(why));
}

#[tokio::test]
async fn chooses_volumes_of_the_node() {
    let by_hand = vec![
        claim("x", "s", json!({})),
        class("s", "kubernetes.io/no-provisioner", "WaitForFirstConsumer"),
        volume("here", "s", "a", json!({})),
    ];
    let found = read(by_hand.clone(), pod("p", "x"), &HashMap::new()).await;
    let names = |found: &PodVolumes, node: &str| {
        let bindings = found.bindings_on(&info(node, json!({})));
        bindings.map(|bindings| bindings.volumes().map(str::to_owned).collect::<Vec<_>>())
    };
    assert_eq!(names(&found, "a"), Ok(vec!["here".to_owned()]));
    assert_eq!(names(&found, "b"), Err("node(s) didn't find available persistent volumes to bind"));
    // Promised to another pod.
    let taken = HashMap::from([("here".to_owned(), "q".to_owned())]);
    assert!(names(&read(by_hand, pod("p", "x"), &taken).await, "a").is_err());
    // What is made has no place yet; but topologies may forbid it.
    let mut made = class("s", "who", "WaitForFirstConsumer");
    let objects = |class: Value| vec![claim("x", "s", json!({})), class];
    let found = read(objects(made.clone()), pod("p", "x"), &HashMap::new()).await;
    assert_eq!(names(&found, "b"), Ok(vec![]));
    assert!(!found.bindings_on(&info("b", json!({}))).expect("fine").is_empty());
    made["allowedTopologies"] = json!([{"matchLabelExpressions": [{"key": "zone", "values": ["z"]}]}]);
    let found = read(objects(made), pod("p", "x"), &HashMap::new()).await;
    assert!(found.bindings_on(&info("b", json!({}))).is_err());
    assert!(found.bindings_on(&info("b", json!({"metadata": {"labels": {"zone": "z"}}}))).is_ok());
}

/// Runs the scheduler; `look` is called again and again, and may change what there is, until it says that all is done.
async fn play(objects: Vec<Value>, mut look: impl FnMut(&FakeTransport) -> bool) {
    let fake = Arc::new(FakeTransport::new());
    objects.into_iter().for_each(|object| fake.put(object));
    let scope = Scope::new();
    let informers = Informers::new(Client::new(fake.clone()), scope.clone());
    crate::start(&informers, &scope);
    let limit = Instant::now() + Duration::from_secs(20);
    while !look(&fake) {
        assert!(Instant::now() < limit, "{:#?} {:#?}", fake.requests(), fake.objects("/api/v1/pods"));
        tokio::task::yield_now().await;
    }
    scope.stop().await;
}

fn only(fake: &FakeTransport, collection: &str) -> Value {
    fake.objects(collection).remove(0)
}

#[tokio::test]
async fn waits_for_what_is_made_before_the_pod_is_bound() {
    let objects = vec![node("n"), class("s", "who", "WaitForFirstConsumer"), claim("x", "s", json!({})), pod("p", "x")];
    let mut made = false;
    play(objects, |fake| {
        let mut claim = only(fake, "/api/v1/persistentvolumeclaims");
        let pod = only(fake, "/api/v1/pods");
        if !made && claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] == "n" {
            assert!(pod["spec"]["nodeName"].is_null());
            fake.put(volume("made", "s", "n", json!({})));
            claim["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] = json!("yes");
            claim["spec"]["volumeName"] = json!("made");
            fake.put(claim);
            made = true;
        }
        pod["spec"]["nodeName"] == "n"
    })
    .await;
    assert!(made);
}

#[tokio::test]
async fn keeps_volumes_for_claims_and_tries_again_where_none_is_made() {
    let objects = vec![
        node("n"),
        class("s", "kubernetes.io/no-provisioner", "WaitForFirstConsumer"),
        claim("x", "s", json!({})),
        pod("p", "x"),
    ];
    let why = "0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind. \
               preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    let mut told = false;
    play(objects, |fake| {
        if !told && only(fake, "/api/v1/pods")["status"]["conditions"][0]["message"] == why {
            told = true;
            fake.put(volume("v", "s", "n", json!({})));
        }
        let volumes = fake.objects("/api/v1/persistentvolumes");
        volumes.first().is_some_and(|volume| volume["spec"]["claimRef"]["uid"] == "x")
    })
    .await;
    assert!(told);
}

#[tokio::test]
async fn one_pod_at_a_time() {
    let bound = json!({"metadata": {"name": "x", "namespace": "default", "uid": "x",
        "annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"accessModes": ["ReadWriteOncePod"], "volumeName": "v"}});
    let mut first = pod("first", "x");
    first["spec"]["nodeName"] = json!("n");
    let objects = vec![node("n"), volume("v", "", "n", json!({})), claim("x", "", bound), first, pod("second", "x")];
    let why = "0/1 nodes are available: 1 node has pod using PersistentVolumeClaim with the same name and \
               ReadWriteOncePod access mode.";
    let mut told = false;
    play(objects, |fake| {
        let second = fake.objects("/api/v1/pods").into_iter().find(|pod| pod["metadata"]["name"] == "second");
        let second = second.expect("it is there");
        let message = second["status"]["conditions"][0]["message"].as_str().unwrap_or_default();
        if !told && message.starts_with(why) {
            told = true;
            let mut over = pod("first", "x");
            over["spec"]["nodeName"] = json!("n");
            over["status"] = json!({"phase": "Succeeded"});
            fake.put(over);
        }
        second["spec"]["nodeName"] == "n"
    })
    .await;
    assert!(told);
}

#[tokio::test]
async fn nodes_take_only_so_many() {
    use crate::cycle::choose;
    use crate::testing::view;
    let bound = |name: &str| {
        let marks = json!({"pv.kubernetes.io/bind-completed": "yes"});
        let claim = json!({"metadata": {"name": name, "namespace": "default", "uid": name, "annotations": marks},
            "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": name}});
        let source =
            json!({"csi": {"driver": "d", "volumeHandle": name}, "claimRef": {"namespace": "default", "name": name}});
        [self::claim(name, "", claim), volume(name, "", "n", source)]
    };
    let limit = |count: u32| {
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": "n"},
            "spec": {"drivers": [{"name": "d", "nodeID": "n", "allocatable": {"count": count}}]}})
    };
    let check = async |held: &str, asked: &str, count: u32, fits: bool| {
        let mut objects = vec![limit(count)];
        objects.extend(bound("x"));
        objects.extend(bound("y"));
        let volumes = Arc::new(read(objects, pod("p", asked), &HashMap::new()).await);
        let mut node = info("n", json!({"status": {"allocatable": {"pods": "10"}}}));
        node.add(whole(pod("held", held)));
        let snapshot = crate::snapshot::Snapshot { volumes, ..view(vec![Arc::new(node)]) };
        let choice = choose(&whole(pod("p", asked)), &snapshot, &mut 0, |_| 0).map_err(|none| none.message());
        let why = "0/1 nodes are available: 1 node(s) exceed max volume count.".to_owned();
        assert_eq!(choice, if fits { Ok("n".to_owned()) } else { Err(why) }, "{held} {asked} {count}");
    };
    check("x", "y", 2, true).await;
    check("x", "y", 1, false).await;
    check("x", "x", 1, true).await;
}

#[tokio::test]
async fn volumes_tie_pods_to_nodes_and_zones() {
    use crate::cycle::choose;
    use crate::testing::view;
    let bound = json!({"metadata": {"name": "x", "namespace": "default", "uid": "x",
        "annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": "v"}});
    let zoned = |node: &str, zone: &str| {
        let mut volume = volume("v", "", node, json!({}));
        volume["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": zone});
        vec![claim("x", "", bound.clone()), volume]
    };
    let labels = json!({"topology.kubernetes.io/zone": "z"});
    let allocatable = json!({"status": {"allocatable": {"pods": "10"}}, "metadata": {"labels": labels}});
    for (objects, expect) in [
        (zoned("n", "y__z"), Ok("n".to_owned())),
        (zoned("n", "y"), Err("0/1 nodes are available: 1 node(s) had no available volume zone.".to_owned())),
        (
            zoned("m", "z"),
            Err("0/1 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity.".to_owned()),
        ),
        (
            vec![claim("x", "", bound.clone())],
            Err(
                "0/1 nodes are available: 1 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)."
                    .to_owned(),
            ),
        ),
    ] {
        let volumes = Arc::new(read(objects, pod("p", "x"), &HashMap::new()).await);
        let snapshot = crate::snapshot::Snapshot { volumes, ..view(vec![Arc::new(info("n", allocatable.clone()))]) };
        let choice = choose(&whole(pod("p", "x")), &snapshot, &mut 0, |_| 0).map_err(|none| none.message());
        assert_eq!(choice, expect);
    }
    assert!(Happening::CLAIMS.meets(Happening::CLAIMS.or(Happening::VOLUMES)));
}
