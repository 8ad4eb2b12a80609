use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc as channel;

use futures::StreamExt as _;
use serde_json::json;
use skiff_api::Gvr;
use skiff_client::{Selector, Transport as _, Update};

use super::*;
use crate::settings::Settings;
use crate::testing::{World, one};

#[test]
fn who_ends_with_whom() {
    let pod = |name: &str, priority: Option<i32>| -> Arc<Pod> {
        let spec = json!({"containers": [], "priority": priority});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("a pod"))
    };
    let all =
        || [("low", Some(-5)), ("none", None), ("edge", Some(1000)), ("between", Some(1999)), ("top", Some(i32::MAX))];
    let named = |periods: &[(i32, i64)]| -> Vec<(i64, Vec<String>)> {
        let pods = all().map(|(name, priority)| pod(name, priority)).to_vec();
        let names = |pods: Vec<Arc<Pod>>| pods.iter().map(|pod| pod::name(pod).to_owned()).collect();
        plan_groups(periods, pods).into_iter().map(|(seconds, pods)| (seconds, names(pods))).collect()
    };
    let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        named(&[(0, 30), (1000, 20), (2000, 10)]),
        [(30, of(&["low", "none"])), (20, of(&["edge", "between"])), (10, of(&["top"]))]
    );
    // Nobody is in between: there is nothing to wait for.
    assert_eq!(
        named(&[(500, 30), (1_999_999, 5), (2_000_000, 10)]),
        [(30, of(&["low", "none", "edge", "between"])), (10, of(&["top"]))]
    );
    assert!(named(&[]).is_empty());
}

/// What a client of the bus has asked for: the member, and where the answer goes.
struct Asked {
    member: String,
    words: String,
    serial: u32,
    stream: UnixStream,
}

impl Asked {
    fn message(kind: u8, fields: &[u8], body: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_le_bytes();
        let mut whole = vec![b'l', kind, 1, 1];
        whole.extend(length(body));
        whole.extend(9u32.to_le_bytes());
        whole.extend(length(fields));
        whole.extend(fields);
        whole.resize(whole.len().next_multiple_of(8), 0);
        whole.extend(body);
        whole
    }

    fn answer(&self, body: &[u8], descriptors: &[std::os::fd::BorrowedFd<'_>]) {
        let serial = self.serial.to_le_bytes();
        let fields = [&[5, 1, b'u', 0][..], &serial].concat();
        let message = Self::message(2, &fields, body);
        skiff_linux::socket::send(self.stream.as_fd(), &message, descriptors).expect("sent");
    }

    fn signal(&self, truth: u32) {
        let name = "PrepareForShutdown";
        let mut fields = vec![3, 1, b's', 0, u8::try_from(name.len()).expect("short"), 0, 0, 0];
        fields.extend(name.as_bytes());
        fields.push(0);
        (&self.stream).write_all(&Self::message(4, &fields, &truth.to_le_bytes())).expect("sent");
    }
}

/// A bus and its logind, as far as they are asked; each call comes out.
fn bus(listener: UnixListener) -> channel::Receiver<Asked> {
    let (tell, asked) = channel::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, tell) = (stream.expect("a client"), tell.clone());
            std::thread::spawn(move || serve(&stream, &tell));
        }
    });
    asked
}

fn serve(mut stream: &UnixStream, tell: &channel::Sender<Asked>) -> Option<()> {
    for (said, answer) in [("AUTH", "OK 01\r\n"), ("NEGOTIATE", "AGREE_UNIX_FD\r\n"), ("BEGIN", "")] {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            line.push(byte[0]);
        }
        assert!(String::from_utf8_lossy(&line).contains(said), "{line:?}");
        stream.write_all(answer.as_bytes()).ok()?;
    }
    loop {
        let mut head = [0; 16];
        stream.read_exact(&mut head).ok()?;
        let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let fields = (number(12) as usize).next_multiple_of(8);
        let mut rest = vec![0; fields + number(4) as usize];
        stream.read_exact(&mut rest).ok()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let known = ["Hello", "AddMatch", "Inhibit", "KillUnit", "Get"];
        let head = text(&rest[..fields]);
        let member = known.iter().find(|member| head.contains(&format!("{member}\0"))).expect("a known member");
        let asked = Asked {
            member: (*member).to_owned(),
            words: text(&rest[fields..]),
            serial: number(8),
            stream: stream.try_clone().expect("a handle"),
        };
        tell.send(asked).ok()?;
    }
}

fn microseconds(us: u64) -> Vec<u8> {
    [[1, b't', 0, 0, 0, 0, 0, 0], us.to_le_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_end_before_the_machine_does() {
    let mut world = World::new().await;
    world.settings = Settings::parse(&["shutdown-grace-period-by-pod-priority=0=25s,10=5s".to_owned()]).expect("valid");
    world.restart().await;
    let mut important = one("Always", json!({}));
    important["priority"] = json!(10);
    for (name, spec) in [("important", important), ("plain", one("Always", json!({})))] {
        world.create(name, spec);
        world.phase(name, "Running").await;
    }
    let places = Places {
        bus: world.directory.path().join("bus"),
        override_file: world.directory.path().join("conf.d/99-skiff.conf"),
    };
    let asked = bus(UnixListener::bind(&places.bus).expect("a socket"));
    let next = |member: &str| {
        let asked = asked.recv_timeout(Duration::from_secs(20)).expect("a call");
        assert_eq!(asked.member, member);
        asked
    };
    let following = tokio::spawn(follow(world.ctx(), world.pods(), places.clone()));
    next("Hello").answer(&[], &[]);
    // Its limit is too low: it is raised.
    next("Get").answer(&microseconds(5_000_000), &[]);
    let kill = next("KillUnit");
    assert!(kill.words.contains("systemd-logind.service"), "{}", kill.words);
    let written = std::fs::read_to_string(&places.override_file).expect("written");
    assert!(written.ends_with("[Login]\nInhibitDelayMaxSec=30\n"), "{written}");
    kill.answer(&[], &[]);
    next("Get").answer(&microseconds(30_000_000), &[]);
    let subscribed = next("AddMatch");
    assert!(subscribed.words.contains("member='PrepareForShutdown'"), "{}", subscribed.words);
    subscribed.answer(&[], &[]);
    let (mut lock, theirs) = std::io::pipe().expect("a pipe");
    let inhibit = next("Inhibit");
    assert!(inhibit.words.contains("delay"), "{}", inhibit.words);
    inhibit.answer(&[0; 4], &[theirs.as_fd()]);
    drop(theirs);

    let mut told = world.api.observe(&Gvr::of::<Pod>(), &Selector::default());
    subscribed.signal(1);
    for name in ["plain", "important"] {
        world.phase(name, "Failed").await;
        let status = world.pod(name)["status"].clone();
        assert_eq!((&status["reason"], &status["message"]), (&json!(REASON), &json!(MESSAGE)));
    }
    // The fake server merges no lists: a later word about other conditions replaces this one.
    let mut targets = BTreeMap::new();
    let mut failed = BTreeSet::new();
    while failed.len() < 2 {
        let Update::Put(pod) = told.next().await.expect("the feed never ends") else { continue };
        let (name, status) = (pod.meta.name.to_string(), pod.value()["status"].clone());
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        for found in conditions.into_iter().filter(|c| c["type"] == "DisruptionTarget") {
            targets.insert(name.clone(), (found["status"].clone(), found["reason"].clone()));
        }
        if status["phase"] == "Failed" {
            failed.insert(name);
        }
    }
    let target = (json!("True"), json!("TerminationByKubelet"));
    let expected = ["important", "plain"].map(|name| (name.to_owned(), target.clone()));
    assert_eq!(targets, BTreeMap::from(expected));
    let stops: Vec<String> = world.log().into_iter().filter(|line| line.starts_with("stop c")).collect();
    assert_eq!(stops, ["stop c 7s", "stop c 5s"]);
    // The machine may go down: nobody holds the lock.
    let released = tokio::task::spawn_blocking(move || lock.read(&mut [0]));
    let released = tokio::time::timeout(Duration::from_secs(20), released).await.expect("in time");
    assert_eq!(released.expect("joined").expect("an end"), 0);
    assert_eq!(world.ctx().ready(), Err("node is shutting down"));
    world.create("late", one("Always", json!({})));
    world.phase("late", "Failed").await;
    assert_eq!(world.pod("late")["status"]["reason"], "NodeShutdown");

    subscribed.signal(0);
    next("Hello").answer(&[], &[]);
    let (lock, theirs) = std::io::pipe().expect("a pipe");
    next("Inhibit").answer(&[0; 4], &[theirs.as_fd()]);
    world.eventually("it is ready again", |w| w.ctx().ready().is_ok()).await;
    world.create("next", one("Always", json!({})));
    world.phase("next", "Running").await;
    world.eventually("events", |w| w.reasons().contains(&"NodeShutdown".to_owned())).await;
    world.scope.stop().await;
    tokio::time::timeout(Duration::from_secs(20), following).await.expect("in time").expect("it ended");
    drop(lock);
}
