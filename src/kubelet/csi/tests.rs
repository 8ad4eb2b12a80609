use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::*;
use crate::grpc::proto::Fields;
use crate::grpc::server::{self, Service};
use crate::testing::{World, one};

#[test]
fn two_drivers_of_one_name() {
    let drivers = Drivers::default();
    let driver =
        Driver { socket: "/s".into(), stages: false, mount_group: false, single_node_modes: false, expands: false };
    let registered =
        |version: Version, by: &str| Registered { driver: Arc::new(driver.clone()), version, by: by.into() };
    drivers.put("d", registered([1, 1, 0], "/a")).expect("the first");
    assert_eq!(drivers.check_turn("d", [1, 1, 0], Path::new("/a")), Ok(()), "it has come again");
    assert_eq!(drivers.check_turn("d", [1, 2, 0], Path::new("/b")), Ok(()), "it is newer");
    let why = drivers.check_turn("d", [1, 1, 0], Path::new("/b")).expect_err("it is no newer");
    assert!(why.ends_with("already registered with a higher supported version: \"1.1.0\""), "{why}");
    assert!(drivers.put("d", registered([1, 1, 0], "/b")).is_err());
    drivers.put("d", registered([1, 2, 0], "/b")).expect("newer");
    assert!(!drivers.remove("d", Path::new("/a")), "the first one is not it any more");
    assert!(drivers.get("d").is_ok() && drivers.remove("d", Path::new("/b")) && drivers.get("d").is_err());
}

/// A driver that mounts nothing, notes what it is asked, and publishes when it may.
#[derive(Default)]
struct Fake {
    asked: Mutex<Vec<String>>,
    may_publish: Notify,
}

#[async_trait]
impl Service for Fake {
    async fn call(&self, method: &str, request: &[u8]) -> Option<Result<Message, Failure>> {
        let method = method.rsplit('/').next()?;
        let volume = Fields::parse(request).expect("a message").text(1);
        self.asked.lock().expect("unpoisoned").push(format!("{method} {volume}"));
        if method == "NodePublishVolume" {
            self.may_publish.notified().await;
        }
        Some(Ok(Message::new()))
    }
}

impl Fake {
    fn was_asked(&self, what: &str) -> bool {
        self.asked.lock().expect("unpoisoned").iter().any(|asked| asked.starts_with(what))
    }
}

/// A driver `d` of the node.
fn plug(world: &World) -> Arc<Fake> {
    let (fake, socket) = (Arc::new(Fake::default()), world.directory.path().join("d.sock"));
    server::serve(&world.scope, &socket, fake.clone()).expect("served");
    let driver = Driver { socket, stages: false, mount_group: false, single_node_modes: false, expands: false };
    let registered = Registered { driver: Arc::new(driver), version: [1, 0, 0], by: "/by".into() };
    world.ctx().csi.put("d", registered).expect("no other");
    fake
}

#[tokio::test]
async fn volumes_of_a_pod_that_is_gone_wait_for_their_driver() {
    let mut world = World::new().await;
    world.scope.stop().await;
    let pod = world.options().root_directory.join("pods/uid-gone");
    let volume = pod.join("volumes/kubernetes.io~csi/v");
    std::fs::create_dir_all(&volume).expect("a directory");
    skiff_linux::mark::set(&pod).expect("marked");
    let record = json!({"driverName": "d", "volumeHandle": "h", "specVolID": "v", "nodeName": "node-1",
        "volumeLifecycleMode": "Ephemeral", "targetPath": volume.join("mount")});
    std::fs::write(volume.join("vol_data.json"), record.to_string()).expect("a record");
    world.start().await;
    assert!(volume.exists(), "nobody takes it back");
    let fake = plug(&world);
    world.eventually("it is taken back", |_| fake.was_asked("NodeUnpublishVolume h")).await;
    world.eventually("nothing is left", |_| !pod.exists()).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn a_driver_that_hangs_does_not_keep_containers() {
    let world = World::new().await;
    let fake = plug(&world);
    world.api.put(json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "d"},
        "spec": {"attachRequired": false, "volumeLifecycleModes": ["Ephemeral"], "requiresRepublish": true}}));
    world.eventually("the driver is known", |w| !w.ctx().csi_drivers.list().is_empty()).await;
    let mut spec = one("Always", json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    spec["volumes"] = json!([{"name": "v", "csi": {"driver": "d"}}]);
    world.create("p", spec);
    world.eventually("it is asked", |_| fake.was_asked("NodePublishVolume")).await;
    fake.may_publish.notify_one();
    world.phase("p", "Running").await;
    // Other labels: the volume is published once more, and the driver hangs.
    fake.asked.lock().expect("unpoisoned").clear();
    let change = |what: &str, value: Value| {
        let mut pod = world.pod("p");
        pod["metadata"][what] = value;
        // The fake server ends what has none.
        pod["metadata"]["finalizers"] = json!(["test/stays"]);
        world.api.put(pod);
    };
    change("labels", json!({"a": "b"}));
    world.eventually("it is asked again", |_| fake.was_asked("NodePublishVolume")).await;
    change("deletionTimestamp", json!("2024-01-01T00:00:00Z"));
    world.eventually("its container ends", |w| w.log().iter().any(|line| line.starts_with("stop c"))).await;
    assert!(!fake.was_asked("NodeUnpublishVolume"), "{:?}", fake.asked.lock().expect("unpoisoned"));
    fake.may_publish.notify_one();
    world.eventually("it is taken back", |_| fake.was_asked("NodeUnpublishVolume")).await;
    world.scope.stop().await;
}

/// Nobody waits for volumes that no container has: they are taken back when the driver has answered.
#[tokio::test]
async fn a_driver_that_hangs_does_not_keep_a_pod_that_never_ran() {
    let world = World::new().await;
    let fake = plug(&world);
    world.api.put(json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "d"},
        "spec": {"attachRequired": false, "volumeLifecycleModes": ["Ephemeral"]}}));
    world.eventually("the driver is known", |w| !w.ctx().csi_drivers.list().is_empty()).await;
    let mut spec = one("Always", json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    spec["volumes"] = json!([{"name": "v", "csi": {"driver": "d"}}]);
    world.create("p", spec);
    world.eventually("it is asked", |_| fake.was_asked("NodePublishVolume")).await;
    world.delete("p", 0);
    world.eventually("it is gone", |w| w.pod("p").is_null()).await;
    let pod = world.options().root_directory.join("pods/uid-p");
    assert!(pod.exists() && !fake.was_asked("NodeUnpublishVolume"));
    fake.may_publish.notify_one();
    world.eventually("it is taken back", |_| fake.was_asked("NodeUnpublishVolume")).await;
    world.eventually("nothing is left", |_| !pod.exists()).await;
    world.scope.stop().await;
}
