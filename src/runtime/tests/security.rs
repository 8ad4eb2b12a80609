//! What a container may not.

use skiff_runtime::{ContainerConfig, Mount, Seccomp};

use crate::node::Node;

crate::tests![
    users_and_groups,
    capabilities,
    no_new_privileges,
    read_only_root,
    masked_and_read_only_paths,
    devices_are_out_of_reach,
    given_devices,
    privileged,
    seccomp_profiles,
    the_runtime_is_out_of_reach,
    files_of_the_image_cannot_lead_out,
    session_keys_are_its_own,
    a_working_directory_leads_nowhere,
    what_is_said_in_proc_is_true,
    what_is_on_disk_is_for_root,
    mounts_stay_inside,
];

async fn users_and_groups() {
    let node = Node::new().await;
    let script = "exec 2>&1; id -u; id -g; id -G; echo $HOME; cat /etc/secret; echo to stderr > /dev/stderr; grep CapEff /proc/self/status";
    let change = |config: &mut ContainerConfig| {
        config.security.run_as_user = Some(33);
        config.security.supplemental_groups = vec![1234];
    };
    let (_, log) = node.run("web", change, script).await;
    let expect = "33\n34\n34 50 1234\n/home\ncat: can't open '/etc/secret': Permission denied\nto stderr\nCapEff:\t0000000000000000\n";
    assert_eq!(log, expect);
    let change = |config: &mut ContainerConfig| {
        (config.security.run_as_user, config.security.run_as_group) = (Some(4000), Some(5000));
    };
    let (_, log) = node.run("unknown", change, "id -u; id -G; echo $HOME").await;
    assert_eq!(log, "4000\n5000\n/\n");
    node.end().await;
}

async fn capabilities() {
    let node = Node::new().await;
    let show = "grep Cap /proc/self/status | cut -f2 | tr '\\n' ' '";
    let default = "00000000a80425fb";
    let (_, log) = node.run("default", |_| {}, show).await;
    assert_eq!(log, format!("0000000000000000 {default} {default} {default} 0000000000000000 "));
    let change = |config: &mut ContainerConfig| {
        config.security.drop_capabilities = vec!["ALL".into()];
        config.security.add_capabilities = vec!["NET_BIND_SERVICE".into()];
    };
    let (_, log) = node.run("one", change, &format!("{show}; chown web /tmp 2>&1")).await;
    let one = "0000000000000400";
    let expect = format!("0000000000000000 {one} {one} {one} 0000000000000000 chown: /tmp: Operation not permitted\n");
    assert_eq!(log, expect);
    node.end().await;
}

async fn no_new_privileges() {
    let node = Node::new().await;
    for (wanted, name) in [(true, "on"), (false, "off")] {
        let change = |config: &mut ContainerConfig| config.security.no_new_privileges = wanted;
        let (exit, log) = node.run(name, change, "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | cut -f2").await;
        assert_eq!((exit.code, log), (0, format!("{}\n2\n", i32::from(wanted))));
    }
    node.end().await;
}

async fn read_only_root() {
    let node = Node::new().await;
    let change = |config: &mut ContainerConfig| config.security.read_only_root = true;
    let (_, log) =
        node.run("pod", change, "exec 2>&1; touch /file; touch /dev/shm/file && echo shm; mount -o remount,rw /").await;
    let expect = "touch: /file: Read-only file system\nshm\nmount: permission denied (are you root?)\n";
    assert_eq!(log, expect);
    node.end().await;
}

async fn masked_and_read_only_paths() {
    let node = Node::new().await;
    let script = "exec 2>&1; wc -c < /proc/keys; ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/panic; \
                  echo x > /sys/kernel/uevent_helper; touch /sys/x";
    let (_, log) = node.run("pod", |_| {}, script).await;
    assert!(log.starts_with("0\n0\n"), "{log}");
    assert_eq!(log.matches("Read-only file system").count(), 3, "{log}");
    let change = |config: &mut ContainerConfig| {
        (config.security.masked_paths, config.security.readonly_paths) = (Some(Vec::new()), Some(Vec::new()));
    };
    let (_, log) = node.run("open", change, "mount | grep -c /proc/; ls /proc/keys").await;
    assert_eq!(log, "0\n/proc/keys\n");
    node.end().await;
}

/// The disk that the root file system is on, or any.
fn disk() -> Option<(u64, u64)> {
    let entries = std::fs::read_dir("/sys/block").ok()?;
    let numbers = entries.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("dev")).ok());
    let mut parsed = numbers.filter_map(|text| {
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    parsed.next()
}

async fn devices_are_out_of_reach() {
    let node = Node::new().await;
    let (major, minor) = disk().expect("a block device");
    let script = format!(
        "exec 2>&1; mknod /disk b {major} {minor} && head -c 16 /disk | wc -c; mknod /mem c 1 1; head -c 1 /mem | wc -c; \
         head -c 4 /dev/zero | wc -c; echo ok > /dev/null && echo null"
    );
    let (_, log) = node.run("pod", |_| {}, &script).await;
    let expect = "head: /disk: Operation not permitted\n0\nhead: /mem: Operation not permitted\n0\n4\nnull\n";
    assert_eq!(log, expect);
    node.end().await;
}

async fn given_devices() {
    let node = Node::new().await;
    let Some(device) =
        ["/dev/fuse", "/dev/kmsg", "/dev/net/tun"].into_iter().find(|path| std::path::Path::new(path).exists())
    else {
        panic!("no device to give");
    };
    let change = |config: &mut ContainerConfig| config.devices = vec![device.into()];
    let (exit, log) = node.run("pod", change, &format!("exec 3<>{device} && echo open")).await;
    assert_eq!((exit.code, log.as_str()), (0, "open\n"));
    node.end().await;
}

async fn privileged() {
    let node = Node::new().await;
    let change = |config: &mut ContainerConfig| config.security.privileged = true;
    let script = "exec 2>&1; grep -E '^Seccomp:' /proc/self/status | cut -f2; mkdir /m; mount -t tmpfs none /m && echo mounted; \
                  ls /dev | wc -l; unshare -n true && echo unshared; [ -w /proc/sys/kernel ] && echo proc";
    let (_, log) = node.run("pod", change, script).await;
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!((lines[0], lines[1], lines[3], lines[4]), ("0", "mounted", "unshared", "proc"), "{log}");
    assert!(lines[2].parse::<u32>().expect("a number") > 15, "{log}");
    node.end().await;
}

async fn seccomp_profiles() {
    let node = Node::new().await;
    let profile = node.directory.path().join("profile.json");
    std::fs::write(
        &profile,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmodat"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#,
    )
    .expect("a profile");
    let script = "exec 2>&1; chmod 700 /tmp; unshare -u true && echo unshared; true";
    for (name, seccomp, expect) in [
        ("local", Seccomp::Localhost(profile), "chmod: /tmp: Function not implemented\n"),
        ("default", Seccomp::RuntimeDefault, ""),
        ("none", Seccomp::Unconfined, ""),
    ] {
        let (_, log) = node.run(name, |config| config.security.seccomp = seccomp, script).await;
        let log = log.replace("unshare: unshare(0x4000000): Operation not permitted\n", "");
        assert_eq!(log, expect, "{name}");
    }
    let sandbox = node.sandbox("missing").await;
    let mut config = node.config("true");
    config.security.seccomp = Seccomp::Localhost("/no/such/profile.json".into());
    let error = node.runtime().create_container(&sandbox.id, config).await.expect_err("no profile");
    assert!(error.to_string().contains("/no/such/profile.json"), "{error}");
    node.end().await;
}

/// CVE-2019-5736, CVE-2024-21626 and their kin: no descriptor, no executable, no environment of the runtime inside.
async fn the_runtime_is_out_of_reach() {
    let node = Node::new().await;
    let sandbox = node.sandbox("pod").await;
    let mut config = node.config("");
    config.command = Some(vec!["sleep".into(), "1000".into()]);
    let id = node.start(&sandbox, config).await;
    // Seen from beside: a shell that looked at itself would hold what it looks with.
    let script = "ls -l /proc/1/fd | grep -vcE 'pipe|null|total'; readlink /proc/1/exe; \
                  tr '\\0' '\\n' < /proc/1/environ | cut -d= -f1 | sort | tr '\\n' ' '";
    let command = ["sh", "-c", script].map(str::to_owned);
    let seen = node.runtime().exec_sync(&id, &command, None).await.expect("an exec");
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "0\n/bin/busybox\nFROM HOME HOSTNAME PATH ");
    // 0, 1, 2 and the directory itself.
    let result = node.runtime().exec_sync(&id, &["ls".into(), "/proc/self/fd".into()], None).await.expect("an exec");
    assert_eq!(result.stdout, b"0\n1\n2\n3\n");
    // The executable that waits for the start is a read-only view.
    let mut config = node.config("true");
    config.log_path = "waiting/0.log".into();
    let waiting = node.runtime().create_container(&sandbox.id, config).await.expect("created");
    let pid = node.runtime().container(&waiting).await.expect("known").pid.expect("a pid");
    let program = std::fs::File::open(format!("/proc/{pid}/exe")).expect("opened");
    let flags = nix::sys::statvfs::fstatvfs(&program).expect("flags").flags();
    assert!(flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY), "{flags:?}");
    node.end().await;
}

async fn files_of_the_image_cannot_lead_out() {
    let node = Node::new().await;
    let outside = node.directory.path().join("outside");
    std::fs::create_dir(&outside).expect("a directory");
    let sandbox = node.sandbox("pod").await;
    let mut config = node.config("pwd");
    config.working_dir = Some(format!("/proc/1/root{}", outside.join("made").display()));
    let made = node.runtime().create_container(&sandbox.id, config).await;
    drop(made);
    let mut config = node.config("pwd");
    config.working_dir = Some(format!("/../../../..{}", outside.join("made").display()));
    let id = node.start(&sandbox, config).await;
    assert_eq!(node.wait(&id).await.code, 0);
    assert!(!outside.join("made").exists());
    node.end().await;
}

/// Else it would have those of whoever started the agent.
async fn session_keys_are_its_own() {
    let node = Node::new().await;
    let sandbox = node.sandbox("pod").await;
    let own = skiff_linux::process::session_keys().expect("a ring").to_string();
    let tool = std::env::current_exe().expect("a path");
    let mut seen = vec![own];
    for name in ["one", "other"] {
        let mut config = node.config("/tool session-keys; exec sleep 1000");
        config.security.seccomp = Seccomp::Unconfined;
        config.mounts = vec![Mount {
            host_path: tool.clone(),
            container_path: "/tool".into(),
            read_only: true,
            ..Mount::default()
        }];
        config.log_path = format!("{name}/0.log").into();
        let id = node.start(&sandbox, config).await;
        let said = || async { node.log("pod", &format!("{name}/0.log")) };
        seen.push(crate::node::eventually("its ring", said, |log| log.ends_with('\n')).await);
        let command = ["/tool", "session-keys"].map(str::to_owned);
        let result = node.runtime().exec_sync(&id, &command, None).await.expect("an exec");
        seen.push(String::from_utf8_lossy(&result.stdout).into_owned());
    }
    let mut rings: Vec<&str> = seen.iter().map(|text| text.trim()).collect();
    rings.sort_unstable();
    rings.dedup();
    assert_eq!(rings.len(), 5, "{seen:?}");
    node.end().await;
}

/// CVE-2024-21626: a directory that one of our descriptors leads to.
async fn a_working_directory_leads_nowhere() {
    let node = Node::new().await;
    let marker = node.directory.path().join("marker");
    std::fs::write(&marker, "outside").expect("a file");
    let sandbox = node.sandbox("pod").await;
    let script = format!(
        "up=.; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do cat $up{}; up=$up/..; done 2>/dev/null; echo end; exec sleep 1000",
        marker.display()
    );
    for number in 0..32 {
        let mut config = node.config(&script);
        config.working_dir = Some(format!("/proc/self/fd/{number}"));
        config.log_path = format!("{number}/0.log").into();
        let Ok(id) = node.runtime().create_container(&sandbox.id, config).await else { continue };
        if node.runtime().start_container(&id).await.is_err() {
            continue;
        }
        let said = || async { node.log("pod", &format!("{number}/0.log")) };
        let log = crate::node::eventually("the end", said, |log| log.ends_with("end\n")).await;
        assert_eq!(log, "end\n", "descriptor {number}");
        let command = ["sh", "-c", &script.replace("; exec sleep 1000", "")].map(str::to_owned);
        let result = node.runtime().exec_sync(&id, &command, None).await.expect("an exec");
        assert_eq!(result.stdout, b"end\n", "descriptor {number}");
    }
    node.end().await;
}

async fn what_is_said_in_proc_is_true() {
    let node = Node::new().await;
    let source = node.directory.path().join("source");
    std::fs::create_dir(&source).expect("a directory");
    let sandbox = node.sandbox("pod").await;
    for path in ["/proc", "/proc/self/attr", "/proc/sys/kernel", "/bin/../proc/sys", "/to-proc/sys/kernel"] {
        let mut config = node.config("true");
        config.mounts = vec![Mount { host_path: source.clone(), container_path: path.into(), ..Mount::default() }];
        let made = node.runtime().create_container(&sandbox.id, config).await;
        let error = made.expect_err(path).to_string();
        assert!(error.ends_with("cannot be mounted because it is inside /proc"), "{path}: {error}");
    }
    // Nor by a link in another volume, which no look at the image tells.
    let links = node.directory.path().join("links");
    std::fs::create_dir(&links).expect("a directory");
    for (name, to) in [("self", "/proc/thread-self/attr"), ("sys", "/proc/sys/kernel"), ("all", "/proc")] {
        std::os::unix::fs::symlink(to, links.join(name)).expect("a link");
        let mut config = node.config("true");
        config.log_path = format!("{name}/0.log").into();
        config.mounts = [(&links, "/links".to_owned()), (&source, format!("/links/{name}"))]
            .map(|(host, path)| Mount { host_path: host.clone(), container_path: path.into(), ..Mount::default() })
            .to_vec();
        let made = node.runtime().create_container(&sandbox.id, config).await;
        let error = made.expect_err(name).to_string();
        // Without any /proc nothing gets as far as to say so.
        assert!(name == "all" || error.contains("cannot be mounted because it is inside /proc"), "{name}: {error}");
    }
    let mut config = node.config("cat /proc/uptime");
    std::fs::write(source.join("uptime"), "1.00 1.00\n").expect("a file");
    let container_path = "/proc/uptime".into();
    config.mounts = vec![Mount { host_path: source.join("uptime"), container_path, ..Mount::default() }];
    let id = node.start(&sandbox, config).await;
    assert_eq!(node.wait(&id).await.code, 0);
    assert_eq!(node.log("pod", "main/0.log"), "1.00 1.00\n");
    node.end().await;
}

/// Secrets in the environment, set-user-id programs of images, memory that containers share.
async fn what_is_on_disk_is_for_root() {
    use std::os::unix::fs::PermissionsExt;
    let node = Node::new().await;
    let (_, id) = node.running("pod").await;
    let (data, run) = (&node.options.data_directory, &node.options.run_directory);
    for (path, expect) in [
        (data.clone(), 0o700),
        (data.join("snapshots"), 0o700),
        (data.join("containers").join(&id.0).join("record.json"), 0o600),
        (run.join("containers"), 0o700),
        (run.join("sandboxes"), 0o700),
    ] {
        let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, expect, "{}", path.display());
    }
    node.end().await;
}

/// Links of the image on the way to a mount lead into the image.
async fn mounts_stay_inside() {
    let node = Node::new().await;
    let [source, outside] = ["source", "outside"].map(|name| node.directory.path().join(name));
    for directory in [&source, &outside] {
        std::fs::create_dir(directory).expect("a directory");
    }
    std::fs::write(source.join("file"), "mounted\n").expect("a file");
    let inside = outside.join("made");
    let sandbox = node.sandbox("pod").await;
    let mut config = node.config(&format!("cat {}/file", inside.display()));
    let container_path = format!("/out{}", inside.display()).into();
    config.mounts = vec![Mount { host_path: source, container_path, ..Mount::default() }];
    let id = node.start(&sandbox, config).await;
    assert_eq!(node.wait(&id).await.code, 0);
    assert_eq!(node.log("pod", "main/0.log"), "mounted\n");
    assert!(!inside.exists());
    node.end().await;
}
