//! A machine of its own for each test: private network, mounts and host name, made of namespaces, with
//! Skiff at its default paths; and beside it an outside world with a real image registry.
//!
//! Everything is driven through the built executable. Needs root, and Debian's `docker-registry` and
//! `busybox-static` (`tests/run` installs them).

#![allow(dead_code, reason = "each test program uses a part of the harness")]

pub mod http;
pub mod images;
mod namespaces;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use namespaces::Namespaces;

/// The outside world's end of the link, where the registry listens.
pub const OUTSIDE: &str = "192.168.77.1";
/// The machine's end of the link: the node's address.
pub const NODE: &str = "192.168.77.2";
/// The registry that `registries.yaml` puts before docker.io, so that the examples pull from it.
pub const REGISTRY: &str = "docker.io";

/// How many machines run at a time, over all test processes.
const SLOTS: usize = 2;

/// A limit on this machine: `SKIFF_TEST_SLOWER` says how much slower it is than those that the limits were made for.
pub fn patience(limit: Duration) -> Duration {
    let slower = std::env::var("SKIFF_TEST_SLOWER").map_or(1, |times| times.parse().expect("a number of times"));
    limit * slower
}

/// Waits until `look` gives a value; fails with what it saw last.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let limit = patience(limit);
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(value) => return value,
            Err(last) if Instant::now() > deadline => panic!("{what}: not within {limit:?}; last seen: {last}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

pub struct Machine {
    pub directory: tempfile::TempDir,
    pub inside: Namespaces,
    pub outside: Namespaces,
    cgroup: String,
    registries: Vec<Child>,
    server: Option<Child>,
    _slot: File,
}

impl Machine {
    /// A machine without a server, and the registry running outside.
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "the cluster tests need root: run them with sudo");
        let slot = take_slot();
        let directory = tempfile::Builder::new().prefix("skiff-test-").tempdir().expect("a temporary directory");
        let id = directory.path().file_name().expect("a name").to_string_lossy().into_owned();
        let outside = Namespaces::new("unshare --net", "ip link set lo up");
        let inside = Namespaces::new(
            "unshare --net --mount --uts --propagation private",
            &inside_script(directory.path(), outside.pid()),
        );
        outside.must(&["sh", "-c", &format!("ip addr add {OUTSIDE}/24 dev uplink && ip link set uplink up")]);
        let registry = start_registry(&outside, directory.path(), 5000);
        let machine = Self {
            directory,
            inside,
            outside,
            cgroup: format!("/{id}"),
            registries: vec![registry],
            server: None,
            _slot: slot,
        };
        // The tags that the examples use.
        let busybox = images::Image::busybox(&["/bin/sh"], &[]);
        busybox.push(&machine, "library/busybox", "1.36");
        machine
    }

    /// A machine with a server whose node is Ready.
    pub fn with_server() -> Self {
        let mut machine = Self::new();
        machine.start(&[]);
        machine.wait_ready();
        machine
    }

    /// What was pushed to the registry is also in another one, `private.test`, which wants to know who asks.
    pub fn add_private_registry(&mut self) {
        self.registries.push(start_registry(&self.outside, self.directory.path(), PRIVATE_PORT));
        let lines = format!("  private.test:\\n    endpoint: [\"http://{OUTSIDE}:{PRIVATE_PORT}\"]\\n");
        self.inside.must(&["sh", "-c", &format!("printf '{lines}' >> /etc/skiff/registries.yaml")]);
    }

    pub fn log_path(&self) -> PathBuf {
        self.directory.path().join("server.log")
    }

    /// Starts `skiff server` in the background.
    pub fn start(&mut self, arguments: &[&str]) {
        self.start_build(&skiff(), arguments);
    }

    pub fn start_build(&mut self, executable: &Path, arguments: &[&str]) {
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the log");
        let mut command = self.command(executable);
        command.arg("server").args(arguments).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("dup")).stderr(log);
        self.server = Some(command.spawn().expect("start skiff server"));
    }

    pub fn wait_ready(&self) {
        let limit = format!("{}s", patience(Duration::from_secs(60)).as_secs());
        let output = self.command(skiff()).args(["wait", "--timeout", &limit]).output().expect("run skiff wait");
        assert!(output.status.success(), "{}\nserver log:\n{}", text(&output), self.log());
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The pid of the server (not of nsenter, which becomes it).
    pub fn server_pid(&self) -> Pid {
        let child = self.server.as_ref().expect("the server was started");
        Pid::from_raw(i32::try_from(child.id()).expect("a pid"))
    }

    /// Ends the server with a signal and waits for its end.
    pub fn end_server(&mut self, signal: Signal) -> std::process::ExitStatus {
        kill(self.server_pid(), signal).expect("signal the server");
        self.server.take().expect("the server was started").wait().expect("wait for the server")
    }

    /// Whether the server still runs.
    pub fn server_runs(&mut self) -> bool {
        self.server.as_mut().is_some_and(|child| child.try_wait().expect("look at the server").is_none())
    }

    /// A command inside of the machine.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.inside.command(program);
        command
            .env("SKIFF_CGROUP_ROOT", &self.cgroup)
            .env("KUBECONFIG", "/etc/skiff/skiff.yaml")
            .env("HOME", self.directory.path());
        command
    }

    /// Standard output of `skiff kubectl`, or both outputs where it failed.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        result(&self.command(skiff()).arg("kubectl").args(arguments).output().expect("run skiff kubectl"))
    }

    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments)
            .unwrap_or_else(|said| panic!("skiff kubectl {arguments:?}: {said}\n{}", self.last_log()))
    }

    /// `kubectl apply` of a manifest.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        let file = self.directory.path().join("manifest.yaml");
        fs::write(&file, manifest).expect("write the manifest");
        self.kubectl(&["apply", "-f", &file.to_string_lossy()])
    }

    /// One value by JSONPath; empty where there is none.
    pub fn jsonpath(&self, what: &[&str], path: &str) -> Result<String, String> {
        let output = format!("jsonpath={path}");
        let mut arguments = vec!["get"];
        arguments.extend(what);
        arguments.extend(["-o", &output]);
        self.try_kubectl(&arguments)
    }

    /// Waits until a JSONPath shows a value.
    #[track_caller]
    pub fn until(&self, what: &[&str], path: &str, expect: &str) {
        let limit = patience(Duration::from_secs(60));
        let deadline = Instant::now() + limit;
        loop {
            let seen = self.jsonpath(what, path);
            if seen.as_deref() == Ok(expect) {
                return;
            }
            if Instant::now() > deadline {
                let state = self.try_kubectl(&["get", "pods,deployments,events", "-A", "-o", "wide"]);
                panic!("{what:?} {path}: expected {expect:?}, got {seen:?}\n{state:?}\n{}", self.last_log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The directories of the cgroup below which this machine's server keeps everything, as far as they exist.
    pub fn cgroup_directories(&self) -> Vec<PathBuf> {
        cgroup_mounts()
            .into_iter()
            .map(|point| point.join(self.cgroup.trim_start_matches('/')))
            .filter(|d| d.exists())
            .collect()
    }

    pub fn last_log(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().rev().take(60).collect();
        format!("end of the server's log:\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.last_log());
        }
        // Best effort on the way out; what a test asserts about teardown it asserts itself.
        drop(self.command(skiff()).arg("killall").output());
        if let Some(mut server) = self.server.take() {
            drop(server.kill());
            drop(server.wait());
        }
        for registry in &mut self.registries {
            drop(registry.kill());
            drop(registry.wait());
        }
        end_cgroups(&self.cgroup);
    }
}

/// The executable under test; `SKIFF_TEST_BINARY` names another build of it.
pub fn skiff() -> PathBuf {
    std::env::var_os("SKIFF_TEST_BINARY").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_skiff")), PathBuf::from)
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub fn result(output: &Output) -> Result<String, String> {
    if output.status.success() { Ok(String::from_utf8_lossy(&output.stdout).into_owned()) } else { Err(text(output)) }
}

/// What makes the machine: default paths on private mounts, one link to the outside.
fn inside_script(directory: &Path, outside: Pid) -> String {
    let directory = directory.display();
    format!(
        "set -e
        hostname node-1
        ip link set lo up
        ip link add eth0 type veth peer name uplink netns {outside}
        ip addr add {NODE}/24 dev eth0
        ip link set eth0 up
        ip route add default via {OUTSIDE}
        mount -t tmpfs tmpfs /run
        mount -t tmpfs tmpfs /var/log
        for d in etc usr/local var/lib; do
            mkdir -p {directory}/overlay/$d/upper {directory}/overlay/$d/work
            mount -t overlay overlay -o lowerdir=/$d,upperdir={directory}/overlay/$d/upper,workdir={directory}/overlay/$d/work /$d
        done
        for d in skiff kubelet; do
            mkdir -p {directory}/$d /var/lib/$d
            mount --bind {directory}/$d /var/lib/$d
        done
        rm -f /etc/resolv.conf
        echo nameserver {OUTSIDE} > /etc/resolv.conf
        mkdir -p /etc/skiff/config.yaml.d
        # The disk is the host's, and how full that is is none of the tests' business.
        echo 'kubelet-arg: [eviction-hard=, image-gc-high-threshold=100]' > /etc/skiff/config.yaml.d/disk.yaml
        printf 'mirrors:\\n  \"{REGISTRY}\":\\n    endpoint: [\"http://{OUTSIDE}:5000\"]\\n' > /etc/skiff/registries.yaml"
    )
}

/// A name and password for which `docker-registry` has a hash (one of crypt_blowfish's examples).
pub const PRIVATE_USER: (&str, &str) = ("somebody", "U*U");
const PRIVATE_HASH: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
const PRIVATE_PORT: u16 = 5001;

fn start_registry(outside: &Namespaces, directory: &Path, port: u16) -> Child {
    let config = directory.join(format!("registry-{port}.yml"));
    let storage = directory.join("registry");
    let mut text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: \"{OUTSIDE}:{port}\"}}\n",
        storage.display()
    );
    let private = port == PRIVATE_PORT;
    if private {
        let users = directory.join("registry-users");
        fs::write(&users, format!("{}:{PRIVATE_HASH}\n", PRIVATE_USER.0)).expect("write the registry's users");
        text.push_str(&format!("auth: {{htpasswd: {{realm: private, path: {}}}}}\n", users.display()));
    }
    fs::write(&config, text).expect("write the registry's configuration");
    let mut command = outside.command("docker-registry");
    command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("start docker-registry (tests/run installs it)");
    eventually("the registry answers", Duration::from_secs(20), || {
        match outside.get(&format!("http://{OUTSIDE}:{port}/v2/")) {
            Ok(answer) if answer.status == if private { 401 } else { 200 } => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    child
}

/// Ends what is left in the test's cgroups, and removes them.
fn end_cgroups(cgroup: &str) {
    for point in cgroup_mounts() {
        let root = point.join(cgroup.trim_start_matches('/'));
        let deadline = Instant::now() + Duration::from_secs(5);
        while root.exists() && Instant::now() < deadline {
            remove_cgroup(&root);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn cgroup_mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter(|l| l.contains(" - cgroup")).filter_map(|l| l.split(' ').nth(4));
    points.map(PathBuf::from).collect()
}

fn remove_cgroup(path: &Path) {
    for pid in fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines().filter_map(|p| p.parse().ok())
    {
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    drop(fs::remove_dir(path));
}

/// Locks one of the slots; the lock goes with the file.
fn take_slot() -> File {
    loop {
        for slot in 0..SLOTS {
            let path = std::env::temp_dir().join(format!("skiff-test-slot-{slot}"));
            let file = File::options().create(true).append(true).open(path).expect("open the slot");
            if file.try_lock().is_ok() {
                return file;
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
