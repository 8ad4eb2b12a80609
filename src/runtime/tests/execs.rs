//! Second processes in containers.

use std::fs::File;
use std::io::{Read, Write};
use std::time::Duration;

use skiff_runtime::{ContainerId, Error, ExecResult, Seccomp};

use crate::node::Node;

crate::tests![
    results,
    it_is_as_the_container_is,
    a_timeout_kills,
    what_it_leaves_behind_is_not_waited_for,
    streams,
    a_terminal,
    refusals,
    many_at_once,
];

async fn sh(node: &Node, id: &ContainerId, script: &str) -> ExecResult {
    let command = ["sh", "-c", script].map(str::to_owned);
    node.runtime().exec_sync(id, &command, None).await.expect("an exec")
}

async fn results() {
    let node = Node::new().await;
    let (_, id) = node.running("pod").await;
    let result = sh(&node, &id, "echo out; echo err >&2; exit 3").await;
    assert_eq!(
        (result.exit_code, result.stdout.as_slice(), result.stderr.as_slice()),
        (3, &b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(sh(&node, &id, "kill -9 $$").await.exit_code, 137);
    let big = sh(&node, &id, "head -c 3000000 /dev/zero").await;
    assert_eq!(big.stdout.len(), 3_000_000);
    let cut = sh(&node, &id, "head -c 20000000 /dev/zero; echo done >&2").await;
    assert_eq!((cut.stdout.len(), cut.stderr.as_slice()), (16 << 20, &b"done\n"[..]));
    node.end().await;
}

async fn it_is_as_the_container_is() {
    let node = Node::new().await;
    let sandbox = node.sandbox("pod").await;
    let show = "for n in net ipc uts pid mnt cgroup; do readlink /proc/self/ns/$n; done; cat /proc/self/cgroup; id; pwd; \
                grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status; echo $A $HOME; umask; \
                unshare -n true; mkdir /x; ulimit -n; cat /proc/self/oom_score_adj";
    for (name, uid, no_new_privileges) in [("root", None, false), ("web", Some(33), true)] {
        let mut config = node.config(&format!("exec 2>&1; {show}; echo end; sleep 1000"));
        config.log_path = format!("{name}/0.log").into();
        config.env = vec![("A".into(), "1".into())];
        config.security.run_as_user = uid;
        config.security.no_new_privileges = no_new_privileges;
        config.security.read_only_root = true;
        config.security.supplemental_groups = vec![77];
        config.resources.oom_score_adj = Some(500);
        let id = node.start(&sandbox, config).await;
        let log = || async { node.log("pod", &format!("{name}/0.log")) };
        let of_container = crate::node::eventually("an end", log, |log| log.ends_with("end\n")).await;
        let result = sh(&node, &id, &format!("exec 2>&1; {show}; echo end")).await;
        assert_eq!(String::from_utf8_lossy(&result.stdout), of_container);
        assert!(of_container.contains("Seccomp:\t2"), "{of_container}");
        assert!(of_container.contains("unshare: unshare(0x40000000): Operation not permitted"), "{of_container}");
        assert!(of_container.contains("Read-only file system"), "{of_container}");
        assert!(of_container.ends_with("500\nend\n"), "{of_container}");
        let nnp = format!("NoNewPrivs:\t{}", i32::from(no_new_privileges));
        assert!(of_container.contains(&nnp), "{of_container}");
    }
    node.end().await;
}

async fn a_timeout_kills() {
    let node = Node::new().await;
    let (_, id) = node.running("pod").await;
    let command = ["sleep", "4321"].map(str::to_owned);
    let error = node.runtime().exec_sync(&id, &command, Some(Duration::from_millis(300))).await.expect_err("too long");
    assert!(matches!(error, Error::Timeout(_)), "{error}");
    let left = sh(&node, &id, "ps -o args").await;
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    assert!(left.contains("sleep 1000") && !left.contains("sleep 4321"), "{left}");
    node.end().await;
}

async fn what_it_leaves_behind_is_not_waited_for() {
    let node = Node::new().await;
    let (_, id) = node.running("pod").await;
    let result = sh(&node, &id, "sleep 1000 & echo here").await;
    assert_eq!((result.exit_code, result.stdout.as_slice()), (0, &b"here\n"[..]));
    node.end().await;
}

async fn streams() {
    let node = Node::new().await;
    let (_, id) = node.running("pod").await;
    let command = ["sh", "-c", "cat; exit 4"].map(str::to_owned);
    let streams = node.runtime().exec(&id, &command, false, true).await.expect("an exec");
    let mut stdin = File::from(streams.stdin.expect("stdin"));
    stdin.write_all(b"typed").expect("typed");
    drop(stdin);
    let mut text = String::new();
    File::from(streams.stdout.expect("stdout")).read_to_string(&mut text).expect("read");
    assert_eq!(text, "typed");
    assert_eq!(node.runtime().exec_wait(&streams.id).await.expect("an end"), 4);
    assert!(node.runtime().exec_wait(&streams.id).await.is_err());
    let streams = node.runtime().exec(&id, &["sleep".into(), "1000".into()], false, false).await.expect("an exec");
    node.runtime().signal_exec(&streams.id, 15).await.expect("signalled");
    assert_eq!(node.runtime().exec_wait(&streams.id).await.expect("an end"), 143);
    node.end().await;
}

async fn a_terminal() {
    let node = Node::new().await;
    let sandbox = node.sandbox("pod").await;
    let mut config = node.config("exec sleep 1000");
    config.security.run_as_user = Some(33);
    let id = node.start(&sandbox, config).await;
    let command = ["sh", "-c", "read line; tty; stty size; echo $TERM; echo x > $(tty); exit 6"].map(str::to_owned);
    let streams = node.runtime().exec(&id, &command, true, true).await.expect("an exec");
    node.runtime().resize(&streams.id, 90, 25).await.expect("resized");
    let mut terminal = File::from(streams.tty.expect("a terminal"));
    terminal.write_all(b"go\n").expect("typed");
    assert_eq!(node.runtime().exec_wait(&streams.id).await.expect("an end"), 6);
    let mut text = Vec::new();
    // At its end a terminal says EIO.
    let _ = terminal.read_to_end(&mut text);
    assert_eq!(String::from_utf8_lossy(&text), "go\r\n/dev/pts/0\r\n25 90\r\nxterm\r\nx\r\n");
    node.end().await;
}

async fn refusals() {
    let node = Node::new().await;
    let (sandbox, id) = node.running("pod").await;
    let error = node.runtime().exec_sync(&id, &["nope".into()], None).await.expect_err("no such program");
    assert!(error.to_string().contains("exec: \"nope\": executable file not found in $PATH"), "{error}");
    let unknown = ContainerId("none".into());
    let error = node.runtime().exec_sync(&unknown, &["true".into()], None).await.expect_err("no such container");
    assert!(matches!(error, Error::ContainerNotFound(_)));
    let mut config = node.config("true");
    config.log_path = "other/0.log".into();
    let created = node.runtime().create_container(&sandbox.id, config).await.expect("created");
    let error = node.runtime().exec_sync(&created, &["true".into()], None).await.expect_err("not running");
    assert!(error.to_string().contains("not running"), "{error}");
    // An exec ends with its container.
    let streams = node.runtime().exec(&id, &["sleep".into(), "1000".into()], false, false).await.expect("an exec");
    node.runtime().signal_container(&id, 9).await.expect("killed");
    assert_eq!(node.runtime().exec_wait(&streams.id).await.expect("an end"), 137);
    node.end().await;
}

async fn many_at_once() {
    let node = Node::new().await;
    let sandbox = node.sandbox("pod").await;
    let mut config = node.config("exec sleep 1000");
    config.security.seccomp = Seccomp::Unconfined;
    let id = node.start(&sandbox, config).await;
    let runs = (0..50).map(|number| {
        let (runtime, id) = (node.runtime().clone(), id.clone());
        async move {
            let command = ["sh", "-c", &format!("echo {number}; exit {number}")].map(str::to_owned);
            let result = runtime.exec_sync(&id, &command, None).await.expect("an exec");
            assert_eq!((result.exit_code, result.stdout), (number, format!("{number}\n").into_bytes()));
        }
    });
    futures::future::join_all(runs).await;
    node.end().await;
}
