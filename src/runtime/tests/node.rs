//! One node's runtime with directories and cgroups of its own, and an image.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use skiff_linux::cgroup::Cgroups;
use skiff_runtime::{
    Container, ContainerConfig, ContainerId, ContainerState, Exit, Image, Resources, Runtime, RuntimeOptions, Sandbox,
    SandboxConfig, Security,
};

/// Far longer than anything takes: only a hang reaches it.
pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Node {
    pub directory: tempfile::TempDir,
    pub options: RuntimeOptions,
    pub runtime: Option<Runtime>,
    pub image: Option<Image>,
}

impl Node {
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let options = RuntimeOptions {
            data_directory: directory.path().join("data"),
            run_directory: directory.path().join("run"),
            cgroup_root: format!("/skiff-test-{}", directory.path().file_name().expect("a name").to_string_lossy()),
            registries_file: None,
            kill_timeout: LIMIT,
        };
        let runtime = Runtime::open(options.clone()).await.expect("opened");
        // Whole before anything can fail, so that it is cleaned up.
        let mut node = Self { directory, options, runtime: Some(runtime), image: None };
        let archive = node.directory.path().join("image.tar");
        write_image(&archive);
        node.image = Some(node.runtime().import(&archive).await.expect("imported").remove(0));
        node
    }

    pub fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("the runtime is open")
    }

    /// As after the end of the agent, however it came: nothing is told to anybody.
    pub async fn restart_agent(&mut self) {
        self.runtime = None;
        self.runtime = Some(Runtime::open(self.options.clone()).await.expect("opened again"));
    }

    pub fn sandbox_config(&self, name: &str) -> SandboxConfig {
        SandboxConfig {
            pod_name: name.to_owned(),
            pod_namespace: "default".to_owned(),
            pod_uid: format!("uid-{name}"),
            attempt: 0,
            hostname: name.to_owned(),
            cgroup_parent: format!("/kubepods/burstable/poduid-{name}"),
            resources: Resources::default(),
            log_directory: self.directory.path().join("logs").join(name),
            host_network: false,
            host_ipc: false,
            host_pid: false,
            share_process_namespace: false,
            ids: None,
            sysctls: BTreeMap::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }

    pub async fn sandbox(&self, name: &str) -> Sandbox {
        self.runtime().run_sandbox(self.sandbox_config(name)).await.expect("a sandbox")
    }

    /// A shell script as a container.
    pub fn config(&self, script: &str) -> ContainerConfig {
        ContainerConfig {
            name: "main".to_owned(),
            attempt: 0,
            image: self.image.as_ref().expect("imported").id.clone(),
            command: Some(["sh", "-c", script].map(str::to_owned).to_vec()),
            args: None,
            working_dir: None,
            env: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            resources: Resources::default(),
            security: Security { seccomp: skiff_runtime::Seccomp::RuntimeDefault, ..Security::default() },
            tty: false,
            stdin: false,
            stdin_once: false,
            stop_signal: None,
            log_path: PathBuf::from("main/0.log"),
            target: None,
            images: Vec::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }

    pub async fn start(&self, sandbox: &Sandbox, config: ContainerConfig) -> ContainerId {
        let id = self.runtime().create_container(&sandbox.id, config).await.expect("created");
        self.runtime().start_container(&id).await.expect("started");
        id
    }

    pub async fn wait(&self, id: &ContainerId) -> Exit {
        let state =
            self.eventually(id, "an exit", |container| matches!(container.state, ContainerState::Exited(_))).await;
        match state.state {
            ContainerState::Exited(exit) => exit,
            other => panic!("{other:?}"),
        }
    }

    pub async fn eventually(&self, id: &ContainerId, what: &str, is: impl Fn(&Container) -> bool) -> Container {
        let probe = || async { self.runtime().container(id).await.expect("known") };
        eventually(what, probe, is).await
    }

    /// The log without times, joined as `kubectl logs` does.
    pub fn log(&self, sandbox: &str, path: &str) -> String {
        log_text(&self.directory.path().join("logs").join(sandbox).join(path))
    }

    /// Runs a script in a container of its own to its end: exit and log.
    pub async fn run(&self, name: &str, change: impl FnOnce(&mut ContainerConfig), script: &str) -> (Exit, String) {
        let sandbox = self.sandbox(name).await;
        let mut config = self.config(script);
        change(&mut config);
        let id = self.start(&sandbox, config).await;
        let exit = self.wait(&id).await;
        (exit, self.log(name, "main/0.log"))
    }

    pub async fn running(&self, name: &str) -> (Sandbox, ContainerId) {
        let sandbox = self.sandbox(name).await;
        let id = self.start(&sandbox, self.config("exec sleep 1000")).await;
        (sandbox, id)
    }

    /// Ends it, and finds nothing left.
    pub async fn end(mut self) {
        self.runtime = None;
        Runtime::kill_all(&self.options).await.expect("killed");
        let mounts = skiff_linux::mount::mounts_below(self.directory.path()).expect("mounts");
        assert_eq!(mounts, Vec::<PathBuf>::new());
        assert!(!self.options.run_directory.exists(), "the run directory stays");
        let cgroups = Cgroups::detect().expect("cgroups");
        cgroups.remove(&self.options.cgroup_root).expect("no group has processes");
    }
}

impl Drop for Node {
    /// For tests that fail: what `end` does, as far as it goes.
    fn drop(&mut self) {
        self.runtime = None;
        let options = self.options.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            drop(runtime.block_on(Runtime::kill_all(&options)));
            let cgroups = Cgroups::detect().expect("cgroups");
            drop(cgroups.kill(&options.cgroup_root));
            drop(cgroups.remove(&options.cgroup_root));
        });
        drop(thread.join());
    }
}

/// Waits for something that no event tells.
pub async fn eventually<T: Debug, F: Future<Output = T>>(
    what: &str,
    probe: impl Fn() -> F,
    is: impl Fn(&T) -> bool,
) -> T {
    let until = Instant::now() + LIMIT;
    loop {
        let last = probe().await;
        if is(&last) {
            return last;
        }
        assert!(Instant::now() < until, "no {what}; last seen: {last:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn log_text(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a log");
    let mut out = String::new();
    // What has no end yet is still being written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole.lines() {
        let mut parts = line.splitn(4, ' ');
        let tag = parts.nth(2).expect("a tag");
        out.push_str(parts.next().expect("content"));
        if tag == "F" {
            out.push('\n');
        }
    }
    out
}

/// What `docker save` would write of an image with busybox in it.
fn write_image(archive: &Path) {
    let mut layer = tar::Builder::new(Vec::new());
    let mut directory = |path: &str, mode: u32| {
        let mut header = tar::Header::new_gnu();
        plain(&mut header);
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        layer.append_data(&mut header, path, std::io::empty()).expect("a directory");
    };
    for path in ["bin/", "etc/", "proc/", "sys/", "dev/", "home/", "root/"] {
        directory(path, 0o755);
    }
    directory("tmp/", 0o1777);
    let busybox = std::fs::read("/bin/busybox").expect("Debian's busybox-static is needed");
    for (path, content, mode) in [
        ("bin/busybox", busybox.as_slice(), 0o755),
        ("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home:/bin/sh\n", 0o644),
        ("etc/group", b"root:x:0:\nweb:x:34:\nextra:x:50:web\n", 0o644),
        ("etc/secret", b"for root\n", 0o600),
        ("bin/notelf", b"no program\n", 0o755),
    ] {
        file(&mut layer, path, content, mode);
    }
    let applets = std::process::Command::new("/bin/busybox").arg("--list").output().expect("busybox runs").stdout;
    for applet in applets.split(|byte| *byte == b'\n').filter(|name| !name.is_empty() && *name != b"busybox") {
        let mut header = tar::Header::new_gnu();
        plain(&mut header);
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        let path = Path::new("bin").join(std::ffi::OsStr::from_bytes(applet));
        layer.append_link(&mut header, path, "busybox").expect("a link");
    }
    for (path, target) in [("to-proc", "/proc"), ("out", "/../../../..")] {
        let mut header = tar::Header::new_gnu();
        plain(&mut header);
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, path, target).expect("a link");
    }
    let layer = layer.into_inner().expect("a layer");
    let hex = |bytes: &[u8]| -> String { Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect() };
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": arch, "os": "linux",
        "config": { "Env": ["FROM=image", "PATH=/bin"], "Cmd": ["sh"], "WorkingDir": "/made/by/image" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))] },
    }))
    .expect("a configuration");
    let manifest = serde_json::to_vec(&serde_json::json!([{
        "Config": format!("{}.json", hex(&config)), "RepoTags": ["skiff.test/busybox:1"], "Layers": ["layer.tar"],
    }]))
    .expect("a manifest");
    let mut tar = tar::Builder::new(std::fs::File::create(archive).expect("an archive"));
    file(&mut tar, "layer.tar", &layer, 0o644);
    file(&mut tar, &format!("{}.json", hex(&config)), &config, 0o644);
    file(&mut tar, "manifest.json", &manifest, 0o644);
    tar.finish().expect("written");
}

fn plain(header: &mut tar::Header) {
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_mode(0o777);
}

fn file<W: std::io::Write>(tar: &mut tar::Builder<W>, path: &str, content: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    plain(&mut header);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content).expect("a file");
}
