//! A supervisor that becomes another build.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use skiff_runtime::SandboxState;

use crate::crashes::supervisor_pid;
use crate::node::{Node, eventually};

crate::tests![an_upgrade_loses_nothing, what_cannot_take_over_is_refused];

/// Offers the supervisor an executable; gives what it says.
fn offer(node: &Node, executable: &Path) -> serde_json::Value {
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    let path = node.options.run_directory.join("supervisor.sock");
    connect(socket.as_raw_fd(), &UnixAddr::new(&path).expect("an address")).expect("connected");
    let executable = File::open(executable).expect("opened");
    let request = serde_json::json!({"id": 7, "call": "Upgrade"}).to_string();
    skiff_linux::socket::send(socket.as_fd(), request.as_bytes(), &[executable.as_fd()]).expect("sent");
    let mut buffer = vec![0; 65_536];
    loop {
        let (length, _) = skiff_linux::socket::receive(socket.as_fd(), &mut buffer).expect("received");
        assert!(length > 0, "it hung up");
        let message: serde_json::Value = serde_json::from_slice(&buffer[..length]).expect("a message");
        if message["Reply"]["id"] == 7 {
            return message["Reply"]["result"].clone();
        }
    }
}

/// This executable with something behind its end.
fn other_build(node: &Node, name: &str) -> PathBuf {
    let path = node.directory.path().join(name);
    std::fs::copy("/proc/self/exe", &path).expect("copied");
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("opened");
    file.write_all(b"another build").expect("written");
    path
}

fn executed(pid: i32) -> u64 {
    std::fs::metadata(format!("/proc/{pid}/exe")).expect("it lives").ino()
}

async fn an_upgrade_loses_nothing() {
    let node = Node::new().await;
    let mut config = node.sandbox_config("pod");
    config.share_process_namespace = true;
    let sandbox = node.runtime().run_sandbox(config).await.expect("a sandbox");
    let count = "i=0; until [ -e /tmp/enough ]; do echo $i; i=$((i+1)); usleep 300; done; echo $i >/tmp/count; exit 7";
    let counter = node.start(&sandbox, node.config(count)).await;
    let mut config = node.config("while read line; do echo \"got $line\"; done; exit 5");
    (config.stdin, config.stdin_once, config.log_path) = (true, true, "typed/0.log".into());
    let typed = node.start(&sandbox, config).await;
    let mut config = node.config("echo late");
    config.log_path = "created/0.log".into();
    let created = node.runtime().create_container(&sandbox.id, config).await.expect("created");
    let streams = node.runtime().attach(&typed, true).await.expect("attached");
    let mut stdin = File::from(streams.stdin.expect("stdin"));
    let mut stdout = File::from(streams.stdout.expect("stdout"));
    let exec = |script: &str, limit| {
        let (runtime, id, script) = (node.runtime().clone(), counter.clone(), script.to_owned());
        let command = ["sh".to_owned(), "-c".to_owned(), script];
        tokio::spawn(async move { runtime.exec_sync(&id, &command, limit).await })
    };
    let under_way = exec("touch /tmp/there; until [ -e /tmp/go ]; do usleep 1000; done; echo done; exit 3", None);
    let now = |command: &[&str]| {
        let (runtime, id) = (node.runtime().clone(), counter.clone());
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        async move { runtime.exec_sync(&id, &command, None).await.expect("an exec") }
    };
    eventually("the exec", || now(&["test", "-e", "/tmp/there"]), |result| result.exit_code == 0).await;
    let pid = supervisor_pid(&node);

    // Twice, as the second takes over what the first had from another.
    for name in ["second", "third"] {
        let build = other_build(&node, name);
        let lines = node.log("pod", "main/0.log").len();
        assert_eq!(offer(&node, &build), serde_json::json!({"Ok": "Done"}));
        assert_eq!((supervisor_pid(&node), executed(pid)), (pid, std::fs::metadata(&build).expect("there").ino()));
        assert_eq!(offer(&node, &build), serde_json::json!({"Ok": "Done"}), "once more the same");
        let log = || async { node.log("pod", "main/0.log").len() };
        eventually("more lines", log, |length| *length > lines + 100).await;
        writeln!(stdin, "{name}").expect("typed");
        let mut line = [0; 64];
        let length = stdout.read(&mut line).expect("read");
        assert!(String::from_utf8_lossy(&line[..length]).starts_with("got "), "attached no more");
    }

    assert_eq!(now(&["touch", "/tmp/go"]).await.exit_code, 0);
    let result = under_way.await.expect("joined").expect("it went on");
    assert_eq!((result.exit_code, result.stdout.as_slice()), (3, &b"done\n"[..]));
    let timed = exec("sleep 1000", Some(std::time::Duration::from_millis(200))).await.expect("joined");
    assert!(timed.is_err(), "its time did not end");
    node.runtime().start_container(&created).await.expect("started");
    assert_eq!(node.wait(&created).await.code, 0);
    drop(stdin);
    assert_eq!(node.wait(&typed).await.code, 5);
    assert_eq!(node.log("pod", "typed/0.log"), "got second\ngot third\n");
    now(&["touch", "/tmp/enough"]).await;
    let exit = node.wait(&counter).await;
    assert_eq!((exit.code, exit.reason.as_str()), (7, "Error"));
    let log = node.log("pod", "main/0.log");
    let numbers: Vec<usize> = log.lines().map(|line| line.parse().expect("a number")).collect();
    assert!(numbers.len() > 200 && numbers.iter().copied().eq(0..numbers.len()), "{numbers:?}");
    let sandboxes = node.runtime().sandboxes().await.expect("listed");
    assert_eq!(sandboxes[0].state, SandboxState::Ready);
    // Its locks are held: a second one ends at once.
    let second = std::process::Command::new("/proc/self/exe")
        .args(["supervisor", "--run-directory"])
        .arg(&node.options.run_directory)
        .arg("--data-directory")
        .arg(&node.options.data_directory)
        .args(["--cgroup-root", &node.options.cgroup_root])
        .status()
        .expect("it ran");
    assert!(second.success());
    assert_eq!(supervisor_pid(&node), pid);
    node.end().await;
}

async fn what_cannot_take_over_is_refused() {
    let node = Node::new().await;
    let (_, running) = node.running("pod").await;
    let pid = supervisor_pid(&node);
    let before = executed(pid);
    let text = node.directory.path().join("text");
    std::fs::write(&text, "#!/bin/true\nno program").expect("written");
    let plain = other_build(&node, "plain");
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    for (executable, expected) in
        [("/bin/busybox", "without an answer"), ("text", "can't take over"), ("plain", "Permission denied")]
    {
        // An absolute path stays one.
        let refused = offer(&node, &node.directory.path().join(executable));
        let why = refused["Err"].as_str().unwrap_or_else(|| panic!("{executable}: {refused}"));
        assert!(why.contains(expected), "{executable}: {why}");
        assert_eq!((supervisor_pid(&node), executed(pid)), (pid, before), "{executable}");
    }
    let result = node.runtime().exec_sync(&running, &["echo".into(), "hi".into()], None).await.expect("an exec");
    assert_eq!(result.stdout, b"hi\n");
    // What a program may inherit is what it was: nothing of the supervisor's.
    let listed = node.runtime().exec_sync(&running, &["ls".into(), "/proc/self/fd".into()], None).await;
    let listed = String::from_utf8(listed.expect("an exec").stdout).expect("text");
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    node.end().await;
}
