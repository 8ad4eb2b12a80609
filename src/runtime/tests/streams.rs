//! Logs, attached clients, terminals.

use std::fs::File;
use std::io::{Read, Write};

use crate::node::{Node, eventually};

crate::tests![
    lines_and_fragments,
    big_output_is_complete_and_rotated,
    a_noisy_container_starves_nobody,
    attached_clients_see_and_type,
    a_slow_listener_loses_nothing,
    stdin_ends_once,
    a_terminal,
];

async fn lines_and_fragments() {
    let node = Node::new().await;
    let script = "echo one; echo two >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf tail";
    let (exit, log) = node.run("pod", |_| {}, script).await;
    assert_eq!(exit.code, 0);
    let raw = std::fs::read_to_string(node.directory.path().join("logs/pod/main/0.log")).expect("a log");
    let mut shapes: Vec<(String, String, usize)> = Vec::new();
    for line in raw.lines() {
        let mut parts = line.splitn(4, ' ');
        let time: jiff::Timestamp = parts.next().expect("a time").parse().expect("RFC 3339");
        assert!(time <= jiff::Timestamp::now());
        let (stream, tag) = (parts.next().expect("a stream"), parts.next().expect("a tag"));
        shapes.push((stream.to_owned(), tag.to_owned(), parts.next().expect("content").len()));
    }
    let of = |stream: &str| -> Vec<(String, usize)> {
        let of = shapes.iter().filter(|shape| shape.0 == stream);
        of.map(|shape| (shape.1.clone(), shape.2)).collect()
    };
    assert_eq!(of("stderr"), [("F".to_owned(), 3)]);
    let expect = [("F", 3), ("P", 16384), ("F", 20000 - 16384), ("P", 4)].map(|(tag, length)| (tag.to_owned(), length));
    assert_eq!(of("stdout"), expect);
    assert!(log.ends_with("tail"));
    node.end().await;
}

async fn big_output_is_complete_and_rotated() {
    let node = Node::new().await;
    let (exit, _) = node.run("pod", |_| {}, "seq 1 300000 | sed 's/$/ some more text to fill the line/'").await;
    assert_eq!(exit.code, 0);
    let directory = node.directory.path().join("logs/pod/main");
    let mut names: Vec<String> = std::fs::read_dir(&directory)
        .expect("logs")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    // The current one sorts first, and is the last in time.
    names.sort();
    assert!(names.len() > 1 && names[0] == "0.log", "{names:?}");
    names.rotate_left(1);
    let text: String = names.iter().map(|name| crate::node::log_text(&directory.join(name))).collect();
    let numbers = text.lines().map(|line| line.split(' ').next().expect("a number").parse::<u32>().expect("a number"));
    assert!(numbers.eq(1..=300_000));
    node.end().await;
}

async fn a_noisy_container_starves_nobody() {
    let node = Node::new().await;
    let sandbox = node.sandbox("pod").await;
    let mut noisy = node.config("yes yes yes yes yes yes");
    noisy.log_path = "noisy/0.log".into();
    let noisy = node.start(&sandbox, noisy).await;
    let quiet = node.start(&sandbox, node.config("for i in $(seq 100); do echo $i; usleep 1000; done; cat")).await;
    let log = || async { node.log("pod", "main/0.log") };
    eventually("all of the quiet one", log, |log| log.ends_with("100\n")).await;
    let done = node.runtime().exec_sync(&noisy, &["echo".into(), "alive".into()], None).await.expect("an exec");
    assert_eq!(done.stdout, b"alive\n");
    assert_eq!(node.wait(&quiet).await.code, 0);
    node.end().await;
}

fn read_until(file: &mut File, end: &str) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with(end) && file.read(&mut byte).expect("read") > 0 {
        text.push(byte[0].into());
    }
    text
}

async fn attached_clients_see_and_type() {
    let node = Node::new().await;
    let sandbox = node.sandbox("pod").await;
    let mut config = node.config("while read line; do echo \"got $line\"; echo \"err $line\" >&2; done; echo end");
    config.stdin = true;
    let id = node.start(&sandbox, config).await;
    let streams = node.runtime().attach(&id, true).await.expect("attached");
    let (mut stdin, mut stdout) =
        (File::from(streams.stdin.expect("stdin")), File::from(streams.stdout.expect("stdout")));
    let mut stderr = File::from(streams.stderr.expect("stderr"));
    stdin.write_all(b"hello\n").expect("typed");
    assert_eq!(read_until(&mut stdout, "\n"), "got hello\n");
    assert_eq!(read_until(&mut stderr, "\n"), "err hello\n");
    // A client that leaves ends nothing, and another may come.
    drop((stdin, stdout, stderr));
    let streams = node.runtime().attach(&id, true).await.expect("attached again");
    let (mut stdin, mut stdout) =
        (File::from(streams.stdin.expect("stdin")), File::from(streams.stdout.expect("stdout")));
    let long = "x".repeat(300_000);
    let writer = std::thread::spawn(move || {
        for _ in 0..3 {
            writeln!(stdin, "{long}").expect("typed");
        }
        stdin
    });
    for _ in 0..3 {
        assert_eq!(read_until(&mut stdout, "\n").len(), 300_000 + "got \n".len());
    }
    drop(writer.join().expect("written"));
    node.runtime().signal_container(&id, 9).await.expect("killed");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("the end");
    assert!(node.log("pod", "main/0.log").starts_with("got hello\nerr hello\n"));
    let mut plain = node.config("sleep 1000");
    plain.log_path = "plain/0.log".into();
    let plain = node.start(&sandbox, plain).await;
    assert!(node.runtime().attach(&plain, true).await.expect("output only").stdin.is_none());
    node.end().await;
}

async fn a_slow_listener_loses_nothing() {
    let node = Node::new().await;
    let sandbox = node.sandbox("pod").await;
    let mut config = node.config("read x; seq 1 500000");
    config.stdin = true;
    let id = node.start(&sandbox, config).await;
    let streams = node.runtime().attach(&id, true).await.expect("attached");
    let mut stdin = File::from(streams.stdin.expect("stdin"));
    let mut stdout = File::from(streams.stdout.expect("stdout"));
    // Another one that never reads.
    let idle = node.runtime().attach(&id, false).await.expect("attached");
    stdin.write_all(b"go\n").expect("typed");
    let log = || async { node.log("pod", "main/0.log").len() };
    // More is written than is kept for anybody: the container waits.
    eventually("the container has begun", log, |length| *length > 300_000).await;
    let reader = std::thread::spawn(move || {
        let mut all = String::new();
        stdout.read_to_string(&mut all).expect("output");
        all
    });
    // The idle one is given up some time.
    assert_eq!(node.wait(&id).await.code, 0);
    let all = reader.join().expect("no panic");
    assert!(all.lines().map(|line| line.parse::<u32>().expect("a number")).eq(1..=500_000));
    drop(idle);
    node.end().await;
}

async fn stdin_ends_once() {
    let node = Node::new().await;
    let sandbox = node.sandbox("pod").await;
    let mut config = node.config("cat; echo end");
    (config.stdin, config.stdin_once) = (true, true);
    let id = node.start(&sandbox, config).await;
    let streams = node.runtime().attach(&id, true).await.expect("attached");
    let mut stdin = File::from(streams.stdin.expect("stdin"));
    stdin.write_all(b"all of it\n").expect("typed");
    drop(stdin);
    assert_eq!(node.wait(&id).await.code, 0);
    assert_eq!(node.log("pod", "main/0.log"), "all of it\nend\n");
    node.end().await;
}

async fn a_terminal() {
    let node = Node::new().await;
    let sandbox = node.sandbox("pod").await;
    let mut config = node.config("tty; echo $TERM; read line; stty size; echo \"got $line\"; [ -c /dev/console ]");
    (config.tty, config.stdin) = (true, true);
    let id = node.runtime().create_container(&sandbox.id, config).await.expect("created");
    node.runtime().resize(&id.0, 100, 30).await.expect("resized");
    let streams = node.runtime().attach(&id, true).await.expect("attached");
    node.runtime().start_container(&id).await.expect("started");
    let mut terminal = File::from(streams.tty.expect("one stream"));
    assert_eq!(read_until(&mut terminal, "xterm\r\n"), "/dev/pts/0\r\nxterm\r\n");
    terminal.write_all(b"hello\n").expect("typed");
    assert_eq!(node.wait(&id).await.code, 0);
    let mut rest = String::new();
    terminal.read_to_string(&mut rest).expect("the end");
    assert_eq!(rest, "hello\r\n30 100\r\ngot hello\r\n");
    assert_eq!(node.log("pod", "main/0.log").replace('\r', ""), "/dev/pts/0\nxterm\nhello\n30 100\ngot hello\n");
    node.end().await;
}
