use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_runtime::GivenDevice;

use super::state::Resource;
use super::wire::{Abilities, Device};
use super::*;
use crate::grpc::proto::Fields;
use crate::grpc::server::{self, Service};

/// A plugin that gives `/dev/<id>`, prefers the last, and notes what it is asked.
#[derive(Default)]
struct Fake(Mutex<Vec<String>>);

impl Fake {
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("unpoisoned"))
    }
}

#[async_trait]
impl Service for Fake {
    async fn call(&self, method: &str, request: &[u8]) -> Option<Result<Message, Failure>> {
        let fields = Fields::parse(request).expect("a message");
        let method = method.strip_prefix("/v1beta1.DevicePlugin/")?;
        let ids = match method {
            "PreStartContainer" => fields.texts(1),
            _ => fields.messages(1)[0].texts(1),
        };
        self.0.lock().expect("unpoisoned").push(format!("{method} {}", ids.join(" ")));
        let answer = match method {
            "GetPreferredAllocation" => Message::new().texts(1, ids.last().map(String::as_str)),
            "Allocate" if ids.contains(&"bad".to_owned()) => {
                return Some(Err(Failure { code: grpc::UNKNOWN, message: "it is broken".to_owned() }));
            }
            "Allocate" => ids.iter().fold(Message::new(), |all, id| {
                let device =
                    Message::new().text(1, &format!("/dev/{id}")).text(2, &format!("/host/{id}")).text(3, "rw");
                all.message(3, &device)
            }),
            _ => return Some(Ok(Message::new())),
        };
        Some(Ok(Message::new().message(1, &answer)))
    }
}

const GPU: &str = "x.io/gpu";

struct Stage {
    directory: tempfile::TempDir,
    scope: Scope,
    fake: Arc<Fake>,
}

impl Stage {
    fn new() -> Self {
        let stage =
            Self { directory: tempfile::tempdir().expect("a directory"), scope: Scope::new(), fake: Arc::default() };
        fs::create_dir_all(stage.directory.path().join(DIRECTORY)).expect("a directory");
        server::serve(&stage.scope, &stage.socket(), stage.fake.clone()).expect("served");
        stage
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("plugin.sock")
    }

    fn open(&self) -> Arc<Devices> {
        Devices::open(self.directory.path(), Arc::default())
    }

    fn plug(&self, devices: &Devices, ids: &[&str]) {
        let token = self.scope.token();
        let plugin = Plugin {
            socket: self.socket(),
            abilities: Abilities { pre_start: true, preferred: true },
            replaced: token.child_token(),
            removed: token.child_token(),
        };
        let all = ids.iter().map(|id| ((*id).to_owned(), Device { healthy: true, nodes: Vec::new() })).collect();
        let resource = Resource { presence: Presence::Present(plugin), devices: all, ..Resource::default() };
        devices.lock().resources.insert(GPU.to_owned(), resource);
    }
}

fn container(name: &str, gpus: u32) -> Value {
    json!({"name": name, "resources": {"limits": {GPU: gpus.to_string(), "cpu": "1", "other.io/x": "3"}}})
}

fn pod(uid: &str, spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": uid, "namespace": "n", "uid": uid}, "spec": spec}))
        .expect("a pod")
}

fn has(devices: &Devices, uid: &str, container: &str) -> Vec<String> {
    let state = devices.lock();
    let gift = state.gifts(&PodUid(uid.to_owned()), container).and_then(|gifts| gifts.get(GPU));
    gift.into_iter().flat_map(Gift::ids).collect()
}

#[tokio::test]
async fn containers_get_devices() {
    let stage = Stage::new();
    let devices = stage.open();
    assert!(devices.are_fresh());
    let one = pod("one", json!({"containers": [container("c", 1)]}));
    assert!(!devices.are_wanted(&one), "nobody gives such");
    stage.plug(&devices, &["a", "b", "c"]);
    assert!(devices.are_wanted(&one));
    assert_eq!(devices.counts()[GPU], [3, 3]);
    devices.allocate(&one).await.expect("given");
    assert_eq!(has(&devices, "one", "c"), ["c"]);
    assert_eq!(stage.fake.asked(), ["GetPreferredAllocation a b c", "Allocate c"]);
    devices.allocate(&one).await.expect("given already");
    assert_eq!(stage.fake.asked(), Vec::<String>::new());

    let (_, spec) = pod::container(&one, "c").expect("there");
    let edits = devices.edits(&one, spec).await.expect("edits");
    let at = GivenDevice::At { host: "/host/c".into(), container: "/dev/c".into(), read_only: false };
    assert_eq!(edits, Edits { devices: vec![at], ..Edits::default() });
    assert_eq!(stage.fake.asked(), ["PreStartContainer c"]);

    let many = pod("many", json!({"containers": [container("c", 3)]}));
    let why = devices.allocate(&many).await.expect_err("too many");
    assert_eq!(why, "requested number of devices unavailable for x.io/gpu. Requested: 3, Available: 2");
    // The next agent knows who has what, and waits for the plugin.
    let next = stage.open();
    assert!(!next.are_fresh());
    assert_eq!((has(&next, "one", "c"), next.counts()[GPU]), (vec!["c".to_owned()], [0, 0]));
    assert_eq!(next.edits(&one, spec).await.expect("edits").devices.len(), 1);
    let late = pod("late", json!({"containers": [container("c", 1)]}));
    let why = next.allocate(&late).await.expect_err("no plugin");
    assert_eq!(why, "no healthy devices present; cannot allocate unhealthy devices x.io/gpu");
    stage.plug(&next, &["a", "b", "c"]);
    next.allocate(&late).await.expect("given");
    assert_eq!(has(&next, "late", "c"), ["b"]);
    next.release(&PodUid("one".to_owned()));
    next.write_changes().await;
    assert_eq!(has(&stage.open(), "one", "c"), Vec::<String>::new());
    stage.scope.stop().await;
}

#[tokio::test]
async fn init_containers_pass_theirs_on() {
    let stage = Stage::new();
    let devices = stage.open();
    stage.plug(&devices, &["a", "b", "c"]);
    let mut sidecar = container("sidecar", 1);
    sidecar["restartPolicy"] = json!("Always");
    let spec = json!({"initContainers": [container("init", 2), sidecar], "containers": [container("main", 2)]});
    devices.allocate(&pod("p", spec)).await.expect("there are enough");
    let (init, side, main) = (has(&devices, "p", "init"), has(&devices, "p", "sidecar"), has(&devices, "p", "main"));
    assert_eq!((init.len(), side.len(), main.len()), (2, 1, 2));
    assert!(init.contains(&side[0]) && !main.contains(&side[0]), "{init:?} {side:?} {main:?}");
    stage.scope.stop().await;
}

#[tokio::test]
async fn what_a_plugin_refuses() {
    let stage = Stage::new();
    let devices = stage.open();
    stage.plug(&devices, &["bad"]);
    let one = pod("p", json!({"containers": [container("c", 1)]}));
    let why = devices.allocate(&one).await.expect_err("refused");
    assert_eq!(why, "rpc error: code = Unknown desc = it is broken");
    assert_eq!(has(&devices, "p", "c"), Vec::<String>::new());
    // A plugin that is gone for good: what asks for its devices does not run without them.
    devices.lock().resources.insert(GPU.to_owned(), Resource::default());
    assert!(devices.are_wanted(&one));
    assert!(devices.allocate(&one).await.is_err());
    stage.scope.stop().await;
}
