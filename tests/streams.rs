//! Exec, attach, cp, port-forward and proxies on a real cluster, with upstream's kubectl of both generations: Debian's
//! (1.20) speaks SPDY, the one of this machine (where there is one) WebSocket; and with our own.

mod harness;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use harness::{Machine, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

/// Upstream's kubectls and ours; the test fails where not even Debian's is there.
fn programs() -> Vec<Vec<String>> {
    let debian = std::env::var_os("SKIFF_TEST_KUBECTL").map(PathBuf::from);
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/kubectl-debian/usr/bin/kubectl");
    let debian = debian.unwrap_or(unpacked);
    assert!(debian.exists(), "{} is missing: tests/run unpacks Debian's kubernetes-client there", debian.display());
    let installed = PathBuf::from("/usr/bin/kubectl");
    let upstream = installed.exists() && {
        let version = Command::new(&installed).args(["version", "--client"]).output().expect("run kubectl");
        harness::text(&version).contains("Client Version")
    };
    let word = |path: PathBuf| path.to_string_lossy().into_owned();
    let theirs = std::iter::once(debian).chain(upstream.then_some(installed)).map(|path| vec![word(path)]);
    theirs.chain([vec![word(harness::skiff()), "kubectl".to_owned()]]).collect()
}

/// A machine with a pod `p` that runs a script.
fn with_pod(script: &str, more: &str) -> Machine {
    let machine = Machine::with_server();
    machine.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
         - {{name: c, image: 'busybox:1.36', command: [sh, -c, '{script}']{more}}}\n"
    ));
    machine.until(&["pod", "p"], "{.status.containerStatuses[0].ready}", "true");
    machine
}

struct Kubectl<'a> {
    words: Vec<String>,
    machine: &'a Machine,
}

impl Kubectl<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.machine.command(&self.words[0]);
        command.args(&self.words[1..]).args(arguments);
        command
    }

    /// Runs to the end, with something to read.
    fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("run kubectl");
        let (mut stdin, input) = (child.stdin.take().expect("piped"), input.to_vec());
        // Who does not read all of it is no failure.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().expect("wait for kubectl");
        writer.join().expect("written");
        output
    }

    #[track_caller]
    fn must(&self, arguments: &[&str], input: &[u8]) -> String {
        let output = self.run(arguments, input);
        assert!(output.status.success(), "{arguments:?}: {}\n{}", harness::text(&output), self.machine.last_log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn each(machine: &Machine, mut check: impl FnMut(&Kubectl<'_>)) {
    for words in programs() {
        eprintln!("with {}", words.join(" "));
        check(&Kubectl { words, machine });
    }
}

#[test]
fn exec_has_output_exit_code_and_input() {
    let machine = with_pod("exec sleep 100000", "");
    let random: Vec<u8> = {
        let mut bytes = vec![0; 50 * MIB];
        std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("random bytes");
        bytes
    };
    let digest: String = Sha256::digest(&random).iter().map(|byte| format!("{byte:02x}")).collect();
    each(&machine, |kubectl| {
        let ended = kubectl.run(&["exec", "p", "--", "sh", "-c", "echo out; echo err >&2; exit 3"], b"");
        assert_eq!(ended.status.code(), Some(3), "{ended:?}");
        assert_eq!(ended.stdout, b"out\n");
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "err\ncommand terminated with exit code 3\n");
        assert_eq!(kubectl.must(&["exec", "-i", "p", "--", "cat"], b"typed"), "typed");
        let ended = kubectl.run(&["exec", "p", "--", "nope"], b"");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(
            !ended.status.success() && said.contains("exec: \"nope\": executable file not found in $PATH"),
            "{said}"
        );
        let ended = kubectl.run(&["exec", "p", "-c", "x", "--", "true"], b"");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(said.contains("container x is not valid for pod p"), "{said}");
        // What is big comes through whole, both ways.
        let sum = kubectl.must(&["exec", "-i", "p", "--", "sha256sum"], &random);
        assert_eq!(sum.split(' ').next(), Some(digest.as_str()));
        let back = kubectl.run(&["exec", "-i", "p", "--", "cat"], &random);
        assert!(back.stdout == random, "{} bytes came back", back.stdout.len());
        // Daemons are not waited for.
        assert_eq!(kubectl.must(&["exec", "p", "--", "sh", "-c", "sleep 1000 & echo hi"], b""), "hi\n");
        // Who has read enough ends what is endless.
        let script = format!("{} exec p -- yes | head -n 1000 | wc -l", kubectl.words.join(" "));
        let counted = machine.command("sh").args(["-c", &script]).output().expect("run a pipeline");
        assert_eq!(String::from_utf8_lossy(&counted.stdout).trim(), "1000");
    });
    eventually("nothing that has lost its reader goes on", LIMIT, || {
        let processes = processes(&machine);
        if processes.contains("yes") { Err(processes) } else { Ok(()) }
    });
}

/// The command lines of what runs in the pod.
fn processes(machine: &Machine) -> String {
    let kubectl = Kubectl { words: programs().remove(0), machine };
    kubectl.must(&["exec", "p", "--", "ps", "-o", "args"], b"")
}

/// Runs a command on a terminal of 100x30: what it shows, and its exit code. `typed` are what to wait for and what to
/// type then.
fn on_terminal(kubectl: &Kubectl<'_>, words: &[&str], typed: &[(&str, &str)]) -> (String, i32) {
    const SCRIPT: &str = r#"
import fcntl, json, os, pty, select, struct, sys, termios, time
words, typed = sys.argv[2:], json.loads(sys.argv[1])
pid, fd = pty.fork()
if pid == 0:
    os.execvp(words[0], words)
fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
seen, until = b"", time.time() + 60
while time.time() < until:
    if not select.select([fd], [], [], 1)[0]:
        continue
    try:
        data = os.read(fd, 65536)
    except OSError:
        break
    if not data:
        break
    seen += data
    while typed and typed[0][0].encode() in seen:
        os.write(fd, typed[0][1].encode())
        typed = typed[1:]
else:
    os.kill(pid, 9)
_, status = os.waitpid(pid, 0)
sys.stdout.buffer.write(seen)
sys.exit(os.waitstatus_to_exitcode(status))
"#;
    let typed = serde_json::json!(typed).to_string();
    let mut command = kubectl.machine.command("python3");
    command.args(["-c", SCRIPT, &typed]).args(&kubectl.words).args(words);
    let output = command.output().expect("run python3");
    let code = output.status.code().unwrap_or(-1);
    (format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)), code)
}

#[test]
fn exec_on_a_terminal() {
    let machine = with_pod("exec sleep 100000", "");
    each(&machine, |kubectl| {
        let (seen, code) = on_terminal(
            kubectl,
            &["exec", "-it", "p", "--", "sh", "-c", "echo ready; read line; stty size; tty; exit 7"],
            &[("ready", "go\n")],
        );
        assert_eq!(code, 7, "{seen}");
        assert!(seen.contains("30 100") && seen.contains("/dev/pts/"), "{seen}");
        // Ctrl-C goes to the program, Ctrl-D ends the shell.
        let (seen, code) = on_terminal(
            kubectl,
            &["exec", "-it", "p", "--", "sh"],
            &[
                // One process: a shell that is about to start another one may miss the key.
                ("# ", "sh -c \"echo be''gun; exec sleep 1000\"\n"),
                ("begun\r\n", "\x03"),
                ("^C", "echo $?-$((2+3))\n"),
                // With its prompt: before that the terminal makes another thing of the key.
                ("\r\n130-5\r\n~ # ", "\x04"),
            ],
        );
        assert_eq!(code, 0, "{seen}");
        // A client that vanishes hangs up.
        const VANISH: &str = r#"
import os, pty, signal, sys
pid, fd = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:] + ["exec", "-it", "p", "--", "sh", "-c", "echo be''gun; exec sleep 4321"])
seen = b""
while b"begun" not in seen:
    seen += os.read(fd, 1000)
os.kill(pid, signal.SIGKILL)
"#;
        let output = machine.command("python3").args(["-c", VANISH]).args(&kubectl.words).output();
        let output = output.expect("run python3");
        assert!(output.status.success(), "{}", harness::text(&output));
        eventually("what was on the terminal ends", LIMIT, || {
            let processes = processes(&machine);
            if processes.contains("sleep 4321") { Err(processes) } else { Ok(()) }
        });
    });
}

#[test]
fn clients_and_containers_that_vanish() {
    let machine = with_pod("exec sleep 100000", "");
    each(&machine, |kubectl| {
        // Input that ends without its client's word is at its end.
        let mut command = kubectl.command(&["exec", "-i", "p", "--", "sh", "-c", "echo ready; cat; sleep 0"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run kubectl");
        let mut ready = [0; 6];
        child.stdout.as_mut().expect("piped").read_exact(&mut ready).expect("ready");
        assert!(processes(&machine).contains("cat"));
        kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL).expect("killed");
        child.wait().expect("ended");
        eventually("the command ends", LIMIT, || {
            let processes = processes(&machine);
            if processes.contains("cat") { Err(processes) } else { Ok(()) }
        });
    });
    // A container that ends takes its commands with it; the client hears of it.
    each(&machine, |kubectl| {
        let started = machine.jsonpath(&["pod", "p"], "{.status.containerStatuses[0].restartCount}").expect("a count");
        let mut command = kubectl.command(&["exec", "p", "--", "sh", "-c", "echo ready; sleep 1000"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run kubectl");
        let mut ready = [0; 6];
        child.stdout.as_mut().expect("piped").read_exact(&mut ready).expect("ready");
        end_container(&machine);
        let output = child.wait_with_output().expect("wait for kubectl");
        assert_eq!(output.status.code(), Some(137), "{}", harness::text(&output));
        eventually("the container runs again", LIMIT, || {
            let count = machine.jsonpath(&["pod", "p"], "{.status.containerStatuses[0].restartCount}")?;
            let ready = machine.jsonpath(&["pod", "p"], "{.status.containerStatuses[0].ready}")?;
            if count != started && ready == "true" { Ok(()) } else { Err(format!("{count} {ready}")) }
        });
    });
}

/// Kills the first process of the container from outside: from inside nobody can.
fn end_container(machine: &Machine) {
    let name = machine.cgroup_directories().first().and_then(|path| path.file_name()).map(|name| name.to_owned());
    let name = name.expect("the machine's cgroup").to_string_lossy().into_owned();
    let read = |pid: i32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let all = std::fs::read_dir("/proc").expect("processes").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    let ours: Vec<i32> = pids
        .filter(|pid| read(*pid, "cmdline") == "sleep\u{0}100000\u{0}" && read(*pid, "cgroup").contains(&name))
        .collect();
    assert_eq!(ours.len(), 1, "the container's first process");
    kill(Pid::from_raw(ours[0]), Signal::SIGKILL).expect("killed");
}

/// A port-forward that listens.
struct Forward {
    child: Child,
    port: u16,
}

impl Forward {
    fn start(kubectl: &Kubectl<'_>, what: &str, port: &str) -> Self {
        let mut command = kubectl.command(&["port-forward", what, &format!(":{port}")]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("run kubectl");
        let stdout = child.stdout.as_mut().expect("piped");
        let mut line = String::new();
        let mut byte = [0];
        while !line.ends_with('\n') && stdout.read(&mut byte).expect("a line") == 1 {
            line.push(char::from(byte[0]));
        }
        let port = line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split(' ').next());
        let port = port.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no port: {line:?}"));
        // What it says of each connection must not stop it.
        let mut rest = child.stdout.take().expect("piped");
        std::thread::spawn(move || drop(std::io::copy(&mut rest, &mut std::io::sink())));
        Self { child, port }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn port_forward_carries_many_connections_and_half_closed_ones() {
    // Counts what comes until its end, and only then answers.
    let machine = with_pod(
        "mkdir /www; head -c 3000000 /dev/zero > /www/big; httpd -p 8080 -h /www; exec nc -ll -p 9090 -e wc -c",
        "",
    );
    each(&machine, |kubectl| {
        let forward = Forward::start(kubectl, "pod/p", "8080");
        let port = forward.port;
        let all: Vec<_> = (0..40)
            .map(|_| {
                machine.inside.on_thread(move || {
                    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
                    stream.write_all(b"GET /big HTTP/1.0\r\n\r\n").expect("asked");
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).expect("an answer");
                    all.len()
                })
            })
            .collect();
        for one in all {
            let length = one.join().expect("no panic");
            assert!(length > 3_000_000, "{length}");
        }
        drop(forward);
        let forward = Forward::start(kubectl, "pod/p", "9090");
        let port = forward.port;
        let counted = machine.inside.on_thread(move || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
            stream.write_all(&vec![b'x'; 2 * MIB]).expect("sent");
            stream.shutdown(Shutdown::Write).expect("half closed");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            answer
        });
        assert_eq!(counted.join().expect("no panic").trim(), (2 * MIB).to_string());
    });
}

#[test]
fn attach_and_cp() {
    let script = "echo begun; while read line; do echo \"got $line\"; done; echo end; exec sleep 100000";
    let machine = with_pod(script, ", stdin: true");
    each(&machine, |kubectl| {
        let mut command = kubectl.command(&["attach", "-i", "p"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run kubectl");
        let (mut stdin, mut stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        // It may be that its container writes before it is attached to: it is spoken to until it answers.
        let speaker = std::thread::spawn(move || {
            while stdin.write_all(b"hello\n").is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let mut seen = String::new();
        let mut byte = [0];
        while !seen.contains("got hello\n") && stdout.read(&mut byte).expect("output") == 1 {
            seen.push(char::from(byte[0]));
        }
        assert!(seen.contains("got hello\n"), "{seen}");
        kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL).expect("killed");
        child.wait().expect("ended");
        speaker.join().expect("no panic");

        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("tree")).expect("made");
        std::fs::write(directory.path().join("tree/a"), vec![b'a'; 3 * MIB]).expect("written");
        std::fs::write(directory.path().join("tree/b c"), "b").expect("written");
        let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
        kubectl.must(&["cp", &path("tree"), "p:/tmp/tree"], b"");
        assert_eq!(
            kubectl.must(&["exec", "p", "--", "sh", "-c", "wc -c < /tmp/tree/a; cat \"/tmp/tree/b c\""], b""),
            format!("{}\nb", 3 * MIB)
        );
        kubectl.must(&["cp", "p:/tmp/tree", &path("back")], b"");
        assert_eq!(std::fs::read(directory.path().join("back/a")).expect("copied").len(), 3 * MIB);
        assert_eq!(std::fs::read_to_string(directory.path().join("back/b c")).expect("copied"), "b");
        kubectl.must(&["exec", "p", "--", "rm", "-r", "/tmp/tree"], b"");
    });
}

#[test]
fn run_stays_with_its_pod() {
    let machine = Machine::with_server();
    each(&machine, |kubectl| {
        let run = ["run", "r", "-i", "--rm", "--restart=Never", "--image=busybox:1.36", "--quiet", "--command", "--"];
        let ended = kubectl.run(&[&run[..], &["sha256sum"]].concat(), b"typed");
        let expect: String = Sha256::digest(b"typed").iter().map(|byte| format!("{byte:02x}")).collect();
        let out = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(ended.status.success() && out.contains(&expect), "{}", harness::text(&ended));
        let ended = kubectl.run(&[&run[..], &["sh", "-c", "read x; exit 5"]].concat(), b"go\n");
        assert_eq!(ended.status.code(), Some(5), "{}", harness::text(&ended));
        // Whether it ends before or while one attaches: what it said is not lost.
        for _ in 0..3 {
            let ended = kubectl.run(&[&run[..], &["echo", "hello"]].concat(), b"");
            assert!(ended.status.success(), "{}", harness::text(&ended));
            assert!(String::from_utf8_lossy(&ended.stdout).contains("hello"), "{}", harness::text(&ended));
        }
        assert_eq!(machine.jsonpath(&["pods"], "{.items[*].metadata.name}").expect("a list"), "");
    });
}

#[test]
fn who_does_not_read_costs_little() {
    const CLIENTS: usize = 25;
    const MOST_KIB: u64 = 200 << 10;
    let machine = with_pod("exec sleep 100000", "");
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", machine.server_pid())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory").to_owned();
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    let before = resident();
    let kubectl = Kubectl { words: programs().remove(0), machine: &machine };
    let mut clients: Vec<Child> = (0..CLIENTS)
        .map(|_| {
            let mut command = kubectl.command(&["exec", "p", "--", "yes"]);
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("run kubectl")
        })
        .collect();
    for client in &mut clients {
        client.stdout.as_mut().expect("piped").read_exact(&mut [0; 2]).expect("output");
    }
    // Meanwhile others are served.
    for _ in 0..10 {
        assert_eq!(kubectl.must(&["exec", "p", "--", "echo", "hi"], b""), "hi\n");
    }
    let grown = resident().saturating_sub(before);
    for client in &mut clients {
        client.kill().expect("killed");
        client.wait().expect("ended");
    }
    assert!(grown < MOST_KIB, "{CLIENTS} clients that do not read took {grown} KiB");
    eventually("their commands end", LIMIT, || {
        let processes = processes(&machine);
        if processes.contains("yes") { Err(processes) } else { Ok(()) }
    });
}

#[test]
fn proxies_of_pods_services_and_nodes() {
    let page = "<a href=/x>x</a>";
    let script = format!("mkdir -p /www/sub; echo \"{page}\" > /www/sub/index.html; exec httpd -f -p 8080 -h /www");
    let machine = with_pod(&script, "");
    machine.kubectl(&["label", "pod", "p", "app=p"]);
    machine.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {selector: {app: p}, ports: [{name: web, port: 80, targetPort: 8080}]}\n",
    );
    let kubectl = Kubectl { words: programs().remove(0), machine: &machine };
    let base = "/api/v1/namespaces/default";
    let get = |path: &str| {
        let output = kubectl.run(&["get", "--raw", path], b"");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(harness::text(&output))
        }
    };
    for target in ["pods/p:8080", "pods/http:p:8080", "services/s:web", "services/s:80"] {
        let path = format!("{base}/{target}/proxy");
        let expect = format!("<a href={path}/x>x</a>\n");
        eventually("the page behind the proxy", LIMIT, || match get(&format!("{path}/sub/")) {
            Ok(page) if page == expect => Ok(()),
            other => Err(format!("{other:?}")),
        });
        // Redirects lead back to the proxy.
        assert_eq!(get(&format!("{path}/sub")).as_deref(), Ok(expect.as_str()));
    }
    for (path, expect) in [
        ("pods/p:81/proxy/", "error trying to reach service: dial tcp"),
        ("pods/ftp:p:80/proxy/", "invalid pod request \"ftp:p:80\""),
        ("services/s:81/proxy/", "no service port 81 found for service \"s\""),
        ("services/none:80/proxy/", "services \"none\" not found"),
    ] {
        let said = get(&format!("{base}/{path}")).expect_err(path);
        assert!(said.contains(expect), "{path}: {said}");
    }
    assert_eq!(get("/api/v1/nodes/node-1/proxy/healthz").as_deref(), Ok("ok"));
}
