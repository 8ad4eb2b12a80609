//! Creating and starting a container: this runtime beside runc and crun on the same bundle, as one JSON object:
//!
//! ```text
//! sudo cargo bench --bench runtime
//! ```
//!
//! All of them in one sandbox with the configuration that ours writes. Ours is called as the kubelet does it: it mounts
//! the image's layers for each container, and installs a seccomp filter. The others are executed as a shim does it, find
//! a root directory that is there already, and are given no filter: what they do is less. Where the machine has none of
//! them, Debian's packages are unpacked beside, never installed.

#[path = "../tests/harness/mod.rs"]
mod harness;
mod measure;
#[allow(dead_code, reason = "made for tests, of which this is none")]
#[path = "../src/runtime/tests/node.rs"]
mod node;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use measure::{ms, spread};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use node::Node;
use serde_json::{Value, json};

const ROUNDS: usize = 40;
/// What every container may have by default.
const CAPABILITIES: [&str; 11] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // The runtime starts the executable that it is in.
    if arguments.first().is_some_and(|first| first == "supervisor") {
        return skiff_runtime::supervisor_main(&arguments[1..]);
    }
    // Under `cargo test --benches` nothing is to be measured.
    if arguments.iter().any(|a| a == "--test") {
        return ExitCode::SUCCESS;
    }
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("tokio");
    let report = tokio.block_on(async {
        let node = Node::new().await;
        let mut report = json!({"rounds": ROUNDS, "skiff": ours(&node).await});
        let bundle = bundle(&node).await;
        for name in ["runc", "crun"] {
            report[name] = match find(name, node.directory.path()) {
                Ok(program) => {
                    let (bundle, directory) = (bundle.clone(), node.directory.path().to_owned());
                    // Its mounts are its own.
                    let thread = std::thread::spawn(move || {
                        hide_second_hierarchy().map_or_else(
                            |why| json!({"not_measured": why.to_string()}),
                            |()| other(&program, &bundle, &directory),
                        )
                    });
                    thread.join().expect("the measurement does not panic")
                }
                Err(why) => json!({"not_measured": why}),
            };
        }
        node.end().await;
        report
    });
    println!("{}", serde_json::to_string_pretty(&report).expect("JSON"));
    ExitCode::SUCCESS
}

async fn ours(node: &Node) -> Value {
    let (mut creates, mut starts, mut both) = (Vec::new(), Vec::new(), Vec::new());
    let sandbox = node.sandbox("ours").await;
    for round in 0..=ROUNDS {
        let mut config = node.config("exec sleep 1000");
        config.name = format!("main-{round}");
        let began = Instant::now();
        let id = node.runtime().create_container(&sandbox.id, config).await.expect("created");
        let created = began.elapsed();
        node.runtime().start_container(&id).await.expect("started");
        let started = began.elapsed();
        node.runtime().stop_container(&id, std::time::Duration::ZERO).await.expect("stopped");
        node.runtime().remove_container(&id).await.expect("removed");
        // The first one reads what the others find in memory.
        if round > 0 {
            creates.push(ms(created));
            starts.push(ms(started - created));
            both.push(ms(started));
        }
    }
    json!({"create_ms": spread(creates), "start_ms": spread(starts), "create_and_start_ms": spread(both)})
}

/// The configuration of one of our containers, completed by what others take from there, and its files.
async fn bundle(node: &Node) -> PathBuf {
    let (sandbox, id) = node.running("bundle").await;
    let pid = node.runtime().container(&id).await.expect("known").pid.expect("it runs");
    let bundle = node.directory.path().join("bundle");
    fs::create_dir(&bundle).expect("a directory");
    let copied = Command::new("cp").arg("-ax").arg(format!("/proc/{pid}/root/.")).arg(bundle.join("rootfs")).status();
    assert!(copied.expect("cp").success(), "the root directory could not be copied");
    let own = node.options.run_directory.join("containers").join(&id.0).join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(own).expect("a configuration")).expect("JSON");
    config["root"]["path"] = "rootfs".into();
    // Ours are handed over as descriptors; others find the same by their names.
    let pins = node.options.run_directory.join("sandboxes").join(&sandbox.id.0).join("ns");
    for namespace in config["linux"]["namespaces"].as_array_mut().expect("namespaces") {
        let name = namespace["type"].as_str().expect("a type").replace("network", "net");
        if namespace.get("path").is_some() {
            namespace["path"] = pins.join(name).to_string_lossy().into_owned().into();
        }
    }
    config["linux"]["cgroupsPath"] = format!("{}/others", node.options.cgroup_root).into();
    config["process"]["env"] = json!(["PATH=/bin", "HOME=/root"]);
    let sets = ["bounding", "effective", "permitted"].map(|set| (set.to_owned(), json!(CAPABILITIES)));
    config["process"]["capabilities"] = Value::Object(sets.into_iter().collect());
    fs::write(bundle.join("config.json"), config.to_string()).expect("written");
    bundle
}

/// What the machine has, or Debian's package unpacked.
fn find(name: &str, directory: &Path) -> Result<PathBuf, String> {
    let mut places: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    places.extend(["/usr/sbin".into(), "/usr/bin".into()]);
    if let Some(found) = places.into_iter().map(|place| place.join(name)).find(|path| works(path).is_ok()) {
        return Ok(found);
    }
    let place = directory.join(name);
    fs::create_dir_all(&place).map_err(|e| e.to_string())?;
    let script = format!("apt-get download {name} >&2 && dpkg -x {name}_*.deb .");
    let unpacked = Command::new("sh").args(["-c", &script]).current_dir(&place).output().map_err(|e| e.to_string())?;
    if !unpacked.status.success() {
        return Err(format!("{name} can't be had: {}", String::from_utf8_lossy(&unpacked.stderr).trim()));
    }
    let found =
        ["usr/sbin", "usr/bin"].map(|below| place.join(below).join(name)).into_iter().find(|path| path.exists());
    let found = found.ok_or_else(|| format!("Debian's package {name} has no program of this name"))?;
    works(&found).map(|()| found)
}

fn works(program: &Path) -> Result<(), String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Crun refuses machines with cgroups of both versions; this thread, and what it starts, see those of the first alone.
fn hide_second_hierarchy() -> nix::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    match nix::mount::umount2("/sys/fs/cgroup/unified", MntFlags::MNT_DETACH) {
        // There is none.
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        other => other,
    }
}

fn other(program: &Path, bundle: &Path, directory: &Path) -> Value {
    let state = directory.join("others");
    let run = |words: &[&str]| -> Result<(), String> {
        let mut command = Command::new(program);
        command.arg("--root").arg(&state).args(words).stdin(Stdio::null()).stdout(Stdio::null());
        // The container keeps what it inherits, so nobody could wait for the end of a pipe.
        let errors = directory.join("errors");
        let status = command.stderr(fs::File::create(&errors).expect("a file")).status().map_err(|e| e.to_string())?;
        let said = || fs::read_to_string(&errors).unwrap_or_default();
        if status.success() { Ok(()) } else { Err(format!("{words:?}: {}", said().trim())) }
    };
    let bundle = bundle.to_string_lossy();
    let (mut creates, mut starts, mut both) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let id = format!("c{round}");
        let began = Instant::now();
        let created = run(&["create", "--bundle", &bundle, &id]).map(|()| began.elapsed());
        let started = created.and_then(|created| run(&["start", &id]).map(|()| (created, began.elapsed())));
        let deleted = run(&["delete", "--force", &id]);
        match started.and_then(|times| deleted.map(|()| times)) {
            Ok((created, started)) if round > 0 => {
                creates.push(ms(created));
                starts.push(ms(started - created));
                both.push(ms(started));
            }
            Ok(_) => {}
            Err(why) => return json!({"not_measured": why}),
        }
    }
    let version = Command::new(program).arg("--version").output().map(|o| o.stdout).unwrap_or_default();
    let version = String::from_utf8_lossy(&version).lines().next().unwrap_or_default().to_owned();
    json!({"version": version, "create_ms": spread(creates), "start_ms": spread(starts),
        "create_and_start_ms": spread(both)})
}
