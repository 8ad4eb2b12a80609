//! Pods whose root is nobody on the host.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use skiff_runtime::{ContainerConfig, ContainerId, ContainerUser, IdRange, Mount, Sandbox};

use crate::node::Node;

crate::tests![
    ids_inside_and_outside,
    an_exec_stays_inside,
    volumes_keep_their_ids,
    namespaces_belong_to_it,
    processes_are_shared_in_it,
    privileged_in_it,
    ids_that_it_does_not_have,
];

const IDS: IdRange = IdRange { first: 10 << 16, length: 1 << 16 };

async fn sandbox(node: &Node, name: &str) -> Sandbox {
    let config = skiff_runtime::SandboxConfig { ids: Some(IDS), ..node.sandbox_config(name) };
    node.runtime().run_sandbox(config).await.expect("a sandbox")
}

/// Runs a script to its end: its log.
async fn run(node: &Node, name: &str, change: impl FnOnce(&mut ContainerConfig), script: &str) -> String {
    let sandbox = sandbox(node, name).await;
    let mut config = node.config(&format!("exec 2>&1; {script}"));
    change(&mut config);
    let id = node.start(&sandbox, config).await;
    node.wait(&id).await;
    node.log(name, "main/0.log")
}

fn owner(path: &Path) -> (u32, u32) {
    let found = std::fs::symlink_metadata(path).expect("a file");
    (found.uid(), found.gid())
}

fn status(pid: i32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim_start_matches(':').split_whitespace().next().unwrap_or_default().to_owned()
}

async fn pid(node: &Node, id: &ContainerId) -> i32 {
    node.runtime().container(id).await.expect("known").pid.expect("a process")
}

async fn ids_inside_and_outside() {
    let node = Node::new().await;
    let sandbox = sandbox(&node, "pod").await;
    let script = "exec 2>&1; id -u; id -g; id -G; stat -c %u:%g / /etc/secret /etc/hostname /dev/shm /dev/pts /proc/1; cat /etc/secret; \
                  echo to stderr > /dev/stderr; echo mine > /new; chown web /new; mkdir -m 700 /dir; \
                  su web -c 'id -u; cat /etc/secret; touch /root/x'; stat -c %u:%g /made/by/image; echo done; exec sleep 1000";
    let id = node.start(&sandbox, node.config(script)).await;
    let log = || async { node.log("pod", "main/0.log") };
    let log = crate::node::eventually("done", log, |log| log.contains("done\n")).await;
    let owners = "0:0\n".repeat(6);
    let expect = format!(
        "0\n0\n0\n{owners}for root\nto stderr\n33\ncat: can't open '/etc/secret': Permission denied\n\
         touch: /root/x: Permission denied\n0:0\ndone\n"
    );
    assert_eq!(log, expect);
    let upper = node.runtime().writable_layer(&id);
    assert_eq!(owner(&upper.join("new")), (IDS.first + 33, IDS.first));
    assert_eq!(owner(&upper.join("dir")), (IDS.first, IDS.first));
    let pid = pid(&node, &id).await;
    assert_eq!(status(pid, "Uid"), IDS.first.to_string());
    for file in ["uid_map", "gid_map"] {
        let map = std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("a map");
        let words: Vec<&str> = map.split_whitespace().collect();
        assert_eq!(words, ["0", &IDS.first.to_string(), "65536"]);
    }
    let user = node.runtime().container(&id).await.expect("known").user;
    assert_eq!(user, Some(ContainerUser { uid: 0, gid: 0, groups: vec![0] }));
    node.end().await;
}

async fn an_exec_stays_inside() {
    let mut node = Node::new().await;
    let sandbox = sandbox(&node, "pod").await;
    let id = node.start(&sandbox, node.config("exec sleep 1000")).await;
    // One that finds it in the supervisor's list.
    node.restart_agent().await;
    let script = "id -u; cat /proc/self/uid_map; grep CapEff /proc/self/status; readlink /proc/self/ns/user; readlink /proc/1/ns/user; \
                  echo mine > /of-exec && stat -c %u /of-exec; echo error > /dev/stderr; cat /proc/1/environ > /dev/null && echo reads";
    let command = ["sh", "-c", script].map(str::to_owned);
    let found = node.runtime().exec_sync(&id, &command, Some(Duration::from_secs(20))).await.expect("an exec");
    let text = String::from_utf8_lossy(&found.stdout);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let [uid, map, capabilities, own, first, made, reads] = lines[..] else { panic!("{lines:?}") };
    assert_eq!((uid, made, reads), ("0", "0", "reads"));
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", &IDS.first.to_string(), "65536"]);
    assert_eq!(capabilities, "CapEff:\t00000000a80425fb");
    assert_eq!(own, first);
    let host = std::fs::read_link("/proc/self/ns/user").expect("a link");
    assert_ne!(Path::new(own), host);
    assert_eq!(String::from_utf8_lossy(&found.stderr), "error\n");
    assert_eq!(owner(&node.runtime().writable_layer(&id).join("of-exec")), (IDS.first, IDS.first));

    // With a terminal, and seen from outside.
    let command = ["sh", "-c", "tty; sleep 500"].map(str::to_owned);
    let streams = node.runtime().exec(&id, &command, true, true).await.expect("an exec");
    let first = pid(&node, &id).await;
    let group = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let of_container = || async {
        let all = std::fs::read_dir("/proc")
            .expect("listed")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        all.filter(|pid| *pid != first && group(*pid) == group(first)).collect::<Vec<i32>>()
    };
    let inside = crate::node::eventually("processes of the exec", of_container, |found| !found.is_empty()).await;
    for pid in inside {
        assert_eq!(status(pid, "Uid"), IDS.first.to_string());
    }
    drop(streams);
    node.end().await;
}

async fn volumes_keep_their_ids() {
    let node = Node::new().await;
    let image = node.image.as_ref().expect("imported").id.clone();
    // Out of reach of everybody but the host's root, as the kubelet's directories are.
    let host = node.directory.path().join("volumes");
    std::fs::create_dir_all(host.join("disk/sub")).expect("a directory");
    std::fs::create_dir_all(host.join("memory")).expect("a directory");
    std::fs::set_permissions(&host, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("closed");
    skiff_linux::mount::tmpfs(&host.join("memory"), "size=64k").expect("mounted");
    std::fs::write(host.join("disk/file"), "of root\n").expect("a file");
    std::os::unix::fs::chown(host.join("disk/sub"), Some(33), Some(34)).expect("an owner");
    let mount = |path: &str, at: &str, read_only| Mount {
        host_path: host.join(path),
        container_path: at.into(),
        read_only,
        ..Mount::default()
    };
    let change = |config: &mut ContainerConfig| {
        config.mounts = vec![
            mount("disk", "/disk", false),
            mount("memory", "/memory", false),
            mount("disk/file", "/etc/one", true),
            mount("disk", "/disk/sub/again", true),
            Mount {
                image: Some(image.clone()),
                host_path: "etc".into(),
                container_path: "/image".into(),
                read_only: true,
                ..Mount::default()
            },
        ];
        config.images = vec![image.clone()];
        config.security.read_only_root = true;
    };
    let script = "cat /etc/one; stat -c %u:%g /disk/file /disk/sub /image/secret; cat /image/secret; echo x > /disk/new; echo x > /memory/new; \
                  su web -c 'touch /disk/sub/webs /disk/no'; touch /etc/one; touch /disk/sub/again/no; touch /no; touch /image/no";
    let log = run(&node, "pod", change, script).await;
    let refused = |path: &str| format!("touch: {path}: Read-only file system\n");
    let mut expect = "of root\n0:0\n33:34\n0:0\nfor root\ntouch: /disk/no: Permission denied\n".to_owned();
    expect.extend(["/etc/one", "/disk/sub/again/no", "/no", "/image/no"].map(refused));
    assert_eq!(log, expect);
    for (path, expect) in
        [("disk/new", (0, 0)), ("memory/new", (0, 0)), ("disk/sub/webs", (33, 34)), ("disk/sub/again", (33, 34))]
    {
        // The place of the inner mount is made by root, in a directory of another.
        let expect = if path.ends_with("again") { (0, 0) } else { expect };
        assert_eq!(owner(&host.join(path)), expect, "{path}");
    }
    skiff_linux::mount::ensure_unmounted_below(&host).expect("unmounted");
    // What no ids can be given to is refused, not shown with wrong ones.
    let proc = Mount { host_path: "/proc".into(), container_path: "/host".into(), ..Mount::default() };
    let sandbox = sandbox(&node, "proc").await;
    let config = ContainerConfig { mounts: vec![proc], ..node.config("true") };
    let error = node.runtime().create_container(&sandbox.id, config).await.expect_err("refused").to_string();
    assert!(error.contains("/proc: its file system does not support idmapped mounts"), "{error}");
    node.end().await;
}

async fn namespaces_belong_to_it() {
    let node = Node::new().await;
    let mut config = node.sandbox_config("pod");
    config.ids = Some(IDS);
    for (name, value) in [
        ("net.ipv4.ip_unprivileged_port_start", "0"),
        ("net.ipv4.ping_group_range", "0 2147483647"),
        ("kernel.shm_rmid_forced", "1"),
    ] {
        config.sysctls.insert(name.into(), value.into());
    }
    let sandbox = node.runtime().run_sandbox(config).await.expect("a sandbox");
    let mut config = node.config(
        "exec 2>&1; cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start; ip addr add 127.0.0.9/8 dev lo && \
         echo net; ping -c 1 -W 5 127.0.0.1 > /dev/null && echo pinged; ip link set lo down && ip link set lo up && echo lo; \
         su web -c 'nc -l -p 80 127.0.0.1 & sleep 0.1; kill $! && echo port'; ls /sys/class/net/lo > /dev/null && echo sys; \
         mknod /n c 1 3; mount -t tmpfs t /tmp && echo mounts",
    );
    config.security.add_capabilities = vec!["NET_ADMIN".into(), "SYS_ADMIN".into()];
    let id = node.start(&sandbox, config).await;
    node.wait(&id).await;
    let expect = "1\n0\nnet\npinged\nlo\nport\nsys\nmknod: /n: Operation not permitted\nmounts\n";
    assert_eq!(node.log("pod", "main/0.log"), expect);
    node.end().await;
}

async fn processes_are_shared_in_it() {
    let node = Node::new().await;
    let mut config = node.sandbox_config("pod");
    (config.ids, config.share_process_namespace) = (Some(IDS), true);
    let shared = node.runtime().run_sandbox(config).await.expect("a sandbox");
    let first = node.start(&shared, node.config("exec sleep 4321")).await;
    let mut config = node.config("ps -o args | grep -c '[s]leep 4321'; kill -0 1 && echo may");
    (config.name, config.log_path) = ("second".into(), "second/0.log".into());
    let id = node.start(&shared, config).await;
    node.wait(&id).await;
    assert_eq!(node.log("pod", "second/0.log"), "1\nmay\n");
    let _ = first;

    // And one that joins another's.
    let alone = sandbox(&node, "alone").await;
    let target = node.start(&alone, node.config("exec sleep 4321")).await;
    let mut config = node.config("ps -o args | head -2 | tail -1");
    (config.name, config.log_path, config.target) = ("second".into(), "second/0.log".into(), Some(target));
    let id = node.start(&alone, config).await;
    node.wait(&id).await;
    assert_eq!(node.log("alone", "second/0.log"), "sleep 4321\n");
    node.end().await;
}

async fn privileged_in_it() {
    let node = Node::new().await;
    let change = |config: &mut ContainerConfig| {
        config.security.privileged = true;
        config.security.seccomp = skiff_runtime::Seccomp::Unconfined;
    };
    let script = "grep CapEff /proc/self/status | cut -f2; echo 1 > /proc/sys/kernel/panic; dmesg > /dev/null; \
                  mount -t tmpfs t /tmp && umount /tmp && echo mounts; echo ok > /dev/null && echo null; date -s 2030-01-01 > /dev/null";
    let log = run(&node, "pod", change, script).await;
    let last: u32 =
        std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").expect("a number").trim().parse().expect("a number");
    let all = format!("{:016x}", (1_u64 << (last + 1)) - 1);
    assert!(log.starts_with(&format!("{all}\n")), "{log}");
    assert!(log.contains("/proc/sys/kernel/panic: Permission denied"), "{log}");
    assert!(log.contains("mounts\nnull\n") && log.contains("date: can't set date: Operation not permitted"), "{log}");
    node.end().await;
}

async fn ids_that_it_does_not_have() {
    let node = Node::new().await;
    let sandbox = sandbox(&node, "pod").await;
    let mut config = node.config("true");
    config.security.run_as_user = Some(70_000);
    let error = node.runtime().create_container(&sandbox.id, config).await.expect_err("refused").to_string();
    assert!(error.contains("the id 70000 is not in the pod's user namespace"), "{error}");
    node.end().await;
}
