//! What a hundred pods of one container cost on one node, as one JSON object:
//!
//! ```text
//! sudo cargo bench --bench node
//! ```
//!
//! A real server with real containers in namespaces of its own (see `tests/harness`). Times are wall-clock on whatever
//! machine this is: compare figures of one run with each other, not with those of another machine.
//!
//! Memory is read with 10, 20 and 100 pods: what the first ones warm up counts for none of them. An exec goes through
//! the API server as a client's does, from the request until its end is told. How long a line takes is measured from
//! the write into a pipe that the container copies, until the line is in the log's file, and until a client that follows
//! the log has it; alone, and beside a container that prints as fast as it can.

#[path = "../tests/harness/mod.rs"]
mod harness;
mod measure;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use harness::{Machine, skiff};
use measure::{SLEEP, idle, inside, io, ms, pod, run_pods, settled_pss, spread, transport};
use serde_json::{Value, json};
use skiff_api::k8s::api::core::v1::Pod;
use skiff_client::{Client, HttpTransport, Upgraded};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How many pods there are when memory is read.
const STEPS: [usize; 3] = [10, 20, 100];
const IDLE_S: u64 = 20;
const EXECS: usize = 50;
const LINES: usize = 100;
const BETWEEN_LINES: Duration = Duration::from_millis(20);
/// A line that did not come.
const LOST: Duration = Duration::from_secs(10);
const NOISY_FOR: Duration = Duration::from_secs(2);

fn main() {
    // Under `cargo test --benches` nothing is to be measured.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let machine = Machine::with_server();
    // The image is there then.
    inside(&machine, |client| async move { run_pods(&client, vec![pod("first", &SLEEP)]).await });
    let mut report = pods(&machine);
    report["idle"] = idle(&machine, IDLE_S);
    report["exec_ms"] = exec(&machine);
    report["log_line_ms"] = logs(&machine);
    println!("{}", serde_json::to_string_pretty(&report).expect("JSON"));
}

/// One after the other.
fn pods(machine: &Machine) -> Value {
    let (mut times, mut memory, mut made) = (Vec::new(), Vec::new(), 1);
    for step in STEPS {
        let more = (made..step).map(|i| pod(&format!("pod-{i}"), &SLEEP)).collect();
        times.extend(inside(machine, |client: Client| async move { run_pods(&client, more).await }));
        made = step;
        memory.push(settled_pss(machine));
    }
    let total = |i: usize| memory[i]["total"].as_f64().unwrap_or_default();
    let each = |from: usize, to: usize| {
        let kib = (total(to) - total(from)) / (STEPS[to] - STEPS[from]) as f64;
        (kib * 10.0).round() / 10.0
    };
    let pss: Value = STEPS.iter().zip(&memory).map(|(step, pss)| (step.to_string(), pss.clone())).collect();
    json!({
        "pod_create_to_running_ms": spread(times),
        "pss_kib": pss,
        "pss_kib_each": {"from_10_to_100": each(0, 2), "from_20_to_100": each(1, 2)},
    })
}

fn exec(machine: &Machine) -> Value {
    let transport = transport(machine);
    let thread = machine.inside.on_thread(move || {
        let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("tokio");
        tokio.block_on(async move {
            let (transport, mut times) = (transport(), Vec::new());
            for _ in 0..EXECS {
                let began = Instant::now();
                exec_true(&transport, "first").await;
                times.push(ms(began.elapsed()));
            }
            times
        })
    });
    spread(thread.join().expect("the measurement does not panic"))
}

/// `true` in a pod, over a WebSocket.
async fn exec_true(transport: &HttpTransport, pod: &str) {
    let path = format!("/api/v1/namespaces/default/pods/{pod}/exec?command=true&stdout=true&stderr=true");
    let request = http::Request::get(path)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "c2tpZmYgbWVhc3VyZXMgIQ==")
        .header("sec-websocket-protocol", "v5.channel.k8s.io")
        .body(())
        .expect("a request");
    let mut stream = match transport.upgrade(request).await.expect("an answer") {
        Upgraded::Switched(_, stream) => stream,
        Upgraded::Refused(answer) => panic!("{}: {}", answer.status(), String::from_utf8_lossy(answer.body())),
    };
    // The channel of the result is the fourth.
    loop {
        let frame = frame(&mut stream).await;
        if frame.first() == Some(&3) {
            let result: Value = serde_json::from_slice(&frame[1..]).expect("a Status");
            assert_eq!(result["status"], "Success", "{result}");
            return;
        }
    }
}

/// The payload of a server's next frame (RFC 6455, 5.2).
async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.expect("a frame");
    let length = match head[1] {
        126 => stream.read_u16().await.expect("a length").into(),
        127 => stream.read_u64().await.expect("a length"),
        length => length.into(),
    };
    let mut payload = vec![0; usize::try_from(length).expect("small")];
    stream.read_exact(&mut payload).await.expect("a payload");
    payload
}

fn logs(machine: &Machine) -> Value {
    let pipes = machine.directory.path().join("pipes");
    fs::create_dir(&pipes).expect("a directory");
    let pipe = pipes.join("lines");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let quiet = json!({"metadata": {"name": "quiet"}, "spec": {"terminationGracePeriodSeconds": 0,
        "volumes": [{"name": "pipes", "hostPath": {"path": pipes}}],
        "containers": [{"name": "main", "image": "busybox:1.36", "command": ["/bin/cat", "/pipes/lines"],
            "volumeMounts": [{"name": "pipes", "mountPath": "/pipes"}]}]}});
    let quiet: Pod = serde_json::from_value(quiet).expect("a pod");
    inside(machine, |client| async move { run_pods(&client, vec![quiet]).await });
    let mut lines = Lines::new(machine, &pipe);
    let alone = lines.measure();
    // A kilobyte a line.
    let text = "x".repeat(1023);
    inside(machine, move |client| async move { run_pods(&client, vec![pod("noisy", &["/bin/yes", &text])]).await });
    let (before, began) = (io(machine, "wchar"), Instant::now());
    std::thread::sleep(NOISY_FOR);
    let noise = (io(machine, "wchar") - before) as f64 / began.elapsed().as_secs_f64() / 1e6;
    json!({"alone": alone, "beside_noise": lines.measure(), "noise_mb_per_s": noise.round()})
}

/// The way of lines through a container.
struct Lines {
    pipe: File,
    log: BufReader<File>,
    followed: mpsc::Receiver<(String, Instant)>,
    follower: std::process::Child,
    sent: usize,
}

impl Lines {
    fn new(machine: &Machine, pipe: &Path) -> Self {
        let pipe = File::options().write(true).open(pipe).expect("the container reads");
        let log = log_of(machine, "quiet");
        let mut follower = machine.command(skiff());
        follower.args(["kubectl", "logs", "-f", "quiet"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut follower = follower.spawn().expect("kubectl logs");
        let output = BufReader::new(follower.stdout.take().expect("piped"));
        let (tell, followed) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if tell.send((line, Instant::now())).is_err() {
                    return;
                }
            }
        });
        Self { pipe, log: BufReader::new(File::open(log).expect("a log")), followed, follower, sent: 0 }
    }

    fn measure(&mut self) -> Value {
        let (mut written, mut followed) = (Vec::new(), Vec::new());
        for _ in 0..LINES {
            let line = format!("line {}", self.sent);
            self.sent += 1;
            let began = Instant::now();
            writeln!(self.pipe, "{line}").expect("the container reads");
            self.wait_in_log(&line, began);
            written.push(ms(began.elapsed()));
            loop {
                let (seen, at) = self.followed.recv_timeout(LOST).expect("a followed line");
                if seen == line {
                    followed.push(ms(at - began));
                    break;
                }
            }
            std::thread::sleep(BETWEEN_LINES);
        }
        json!({"in_the_file": spread(written), "at_a_client": spread(followed)})
    }

    fn wait_in_log(&mut self, line: &str, began: Instant) {
        let mut held = String::new();
        loop {
            self.log.read_line(&mut held).expect("the log");
            if held.ends_with('\n') {
                if held.trim_end().ends_with(line) {
                    return;
                }
                held.clear();
            } else {
                assert!(began.elapsed() < LOST, "{line:?} does not come");
                std::thread::sleep(Duration::from_micros(500));
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        drop(self.follower.kill());
        drop(self.follower.wait());
    }
}

/// As seen from here: the machine has `/var/log` for itself.
fn log_of(machine: &Machine, pod: &str) -> PathBuf {
    let mut find = Command::new("find");
    find.arg(format!("/proc/{}/root/var/log/pods/", machine.inside.pid()));
    let found = find.args(["-path", &format!("*/default_{pod}_*/main/0.log")]).output().expect("find");
    PathBuf::from(String::from_utf8_lossy(&found.stdout).trim_end())
}
