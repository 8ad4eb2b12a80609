//! From creation to removal.

use std::time::{Duration, Instant};

use skiff_runtime::{ContainerState, Error, Mount, Propagation, RuntimeEvent, SandboxState};

use crate::node::Node;

crate::tests![
    exit_codes_and_signals,
    events_are_told,
    a_command_that_cannot_run,
    environment_and_directories,
    a_large_environment,
    namespaces_of_a_pod,
    host_namespaces,
    a_shared_process_namespace,
    a_shared_process_namespace_is_lost,
    a_container_joins_the_processes_of_another,
    read_only_with_all_below,
    images_as_volumes,
    mounts_and_propagation,
    mounts_of_a_container_reach_the_host_where_they_may,
    stop_with_grace,
    stop_without_mercy,
    removal_leaves_nothing,
    many_pods_at_once,
    sysctls_of_a_pod,
];

async fn exit_codes_and_signals() {
    let node = Node::new().await;
    for (name, script, code, signal, reason) in [
        ("zero", "exit 0", 0, None, "Completed"),
        ("seven", "exit 7", 7, None, "Error"),
        ("killed", "kill -9 $$", 137, None, "Error"),
        ("sub", "sh -c 'kill -TERM $$'; exit $?", 143, None, "Error"),
    ] {
        let (exit, _) = node.run(name, |_| {}, script).await;
        // Process 1 can't kill itself: the shell goes on and ends well.
        let code = if name == "killed" { 0 } else { code };
        let reason = if name == "killed" { "Completed" } else { reason };
        assert_eq!((exit.code, exit.signal, exit.reason.as_str()), (code, signal, reason), "{name}");
        assert!(exit.started.expect("started") <= exit.finished);
    }
    let (_, id) = node.running("outside").await;
    node.runtime().signal_container(&id, 9).await.expect("signalled");
    let exit = node.wait(&id).await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    assert!(node.runtime().signal_container(&id, 9).await.is_err());
    node.end().await;
}

async fn events_are_told() {
    let node = Node::new().await;
    let mut events = node.runtime().events();
    let sandbox = node.sandbox("pod").await;
    let id = node.runtime().create_container(&sandbox.id, node.config("exit 3")).await.expect("created");
    let created = node.runtime().container(&id).await.expect("known");
    assert_eq!(created.state, ContainerState::Created);
    assert!(created.pid.is_some());
    assert_eq!(created.image_ref, "skiff.test/busybox:1");
    node.runtime().start_container(&id).await.expect("started");
    assert!(matches!(events.recv().await, Ok(RuntimeEvent::ContainerStarted(started)) if started == id));
    match events.recv().await {
        Ok(RuntimeEvent::ContainerExited(exited, exit)) => assert_eq!((exited, exit.code), (id, 3)),
        other => panic!("{other:?}"),
    }
    node.end().await;
}

async fn a_command_that_cannot_run() {
    let node = Node::new().await;
    let sandbox = node.sandbox("pod").await;
    for (command, expect) in [
        ("nope", "exec: \"nope\": executable file not found in $PATH"),
        ("/nope", "exec: \"/nope\": stat /nope: no such file or directory"),
        ("/etc/passwd", "exec /etc/passwd: permission denied"),
        // No shell steps in.
        ("notelf", "exec format error"),
    ] {
        let mut config = node.config("");
        config.command = Some(vec![command.to_owned()]);
        config.log_path = format!("{}/0.log", command.replace('/', "_")).into();
        let id = node.runtime().create_container(&sandbox.id, config).await.expect("created");
        let error = node.runtime().start_container(&id).await.expect_err("not started");
        assert!(error.to_string().contains(expect), "{error}");
        let exit = node.wait(&id).await;
        assert_eq!((exit.code, exit.reason.as_str()), (128, "StartError"));
        assert!(exit.message.contains(expect));
    }
    let mut config = node.config("");
    config.mounts =
        vec![Mount { host_path: "/no/such/path".into(), container_path: "/mnt".into(), ..Mount::default() }];
    let error = node.runtime().create_container(&sandbox.id, config).await.expect_err("not created");
    assert!(error.to_string().contains("/no/such/path"), "{error}");
    assert_eq!(node.runtime().containers().await.expect("listed").len(), 4);
    node.end().await;
}

async fn environment_and_directories() {
    let node = Node::new().await;
    let change = |config: &mut skiff_runtime::ContainerConfig| {
        config.env = vec![("A".into(), "1".into()), ("FROM".into(), "pod".into())];
    };
    let (_, log) = node.run("pod", change, "echo $A $FROM $HOSTNAME $HOME; pwd; hostname; cat /etc/hostname").await;
    assert_eq!(log, "1 pod pod /root\n/made/by/image\npod\npod\n");
    let change = |config: &mut skiff_runtime::ContainerConfig| config.working_dir = Some("/made/by/pod".into());
    let (_, log) = node
        .run("pod2", change, "pwd; umask; cat /proc/self/oom_score_adj; ls /dev; tr '\\0' ' ' </proc/1/cmdline")
        .await;
    let mut lines = log.lines();
    assert_eq!((lines.next(), lines.next(), lines.next()), (Some("/made/by/pod"), Some("0022"), Some("0")));
    for device in ["null", "zero", "full", "random", "urandom", "tty", "shm", "pts", "ptmx", "fd", "stdin", "mqueue"] {
        assert!(log.lines().any(|line| line == device), "no /dev/{device} in {log}");
    }
    node.end().await;
}

/// More than one message of a socket holds.
async fn a_large_environment() {
    let node = Node::new().await;
    let sandbox = node.sandbox("pod").await;
    let script = "echo ${#A0} ${#A1} ${#A2} ${#A3} $HOME";
    let mut config = node.config(&format!("{script}; exec sleep 1000"));
    config.env = (0..4).map(|number| (format!("A{number}"), "x".repeat(100 << 10))).collect();
    let id = node.start(&sandbox, config).await;
    let expect = "102400 102400 102400 102400 /root\n";
    let log = || async { node.log("pod", "main/0.log") };
    crate::node::eventually("its words", log, |log| log == expect).await;
    let result = node.runtime().exec_sync(&id, &["sh", "-c", script].map(str::to_owned), None).await.expect("an exec");
    assert_eq!(String::from_utf8_lossy(&result.stdout), expect);
    node.end().await;
}

async fn namespaces_of_a_pod() {
    let node = Node::new().await;
    let sandbox = node.sandbox("pod").await;
    let show = "for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done; ip link show lo | grep -c UP; \
                echo here > /dev/shm/$NAME; ls /dev/shm | wc -l; echo end; sleep 1000";
    let mut logs = Vec::new();
    for name in ["one", "two"] {
        let mut config = node.config(show);
        config.env = vec![("NAME".into(), name.into())];
        config.log_path = format!("{name}/0.log").into();
        let id = node.start(&sandbox, config).await;
        assert!(node.runtime().container(&id).await.expect("known").pid.is_some());
        let log = || async { node.log("pod", &format!("{name}/0.log")) };
        logs.push(crate::node::eventually("an end", log, |log| log.ends_with("end\n")).await);
    }
    let lines: Vec<Vec<&str>> = logs.iter().map(|log| log.lines().collect()).collect();
    let host = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).expect("a namespace");
    for (index, name) in ["net", "ipc", "uts", "pid", "mnt"].into_iter().enumerate() {
        let shared = index < 3;
        assert_eq!(lines[0][index] == lines[1][index], shared, "{name}");
        assert_ne!(lines[0][index], host(name).to_string_lossy(), "{name}");
    }
    assert_eq!((lines[0][5], lines[0][6], lines[1][6]), ("1", "1", "2"));
    let netns = sandbox.netns.expect("a network namespace");
    assert!(skiff_linux::mount::mounts_below(&netns).expect("mounts").contains(&netns));
    node.end().await;
}

async fn host_namespaces() {
    let node = Node::new().await;
    let mut config = node.sandbox_config("host");
    (config.host_network, config.host_ipc, config.host_pid) = (true, true, true);
    let sandbox = node.runtime().run_sandbox(config).await.expect("a sandbox");
    assert_eq!(sandbox.netns, None);
    let script = "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; (sleep 1000 & ); \
                  until [ -e /tmp/go ]; do usleep 1000; done";
    let id = node.start(&sandbox, node.config(script)).await;
    // It may be killed with all the rest when the first process has seen the file.
    node.runtime().exec_sync(&id, &["touch".into(), "/tmp/go".into()], None).await.expect("an exec");
    let exit = node.wait(&id).await;
    assert_eq!(exit.code, 0);
    let log = node.log("host", "main/0.log");
    let host =
        ["net", "ipc", "uts", "pid"].map(|name| std::fs::read_link(format!("/proc/self/ns/{name}")).expect("it"));
    let host: Vec<String> = host.iter().map(|link| link.to_string_lossy().into_owned()).collect();
    assert_eq!(log.lines().collect::<Vec<_>>(), host);
    // What its first process left behind was ended, since no process namespace did it.
    node.runtime().remove_sandbox(&sandbox.id).await.expect("removed");
    node.end().await;
}

async fn a_shared_process_namespace() {
    let node = Node::new().await;
    let mut config = node.sandbox_config("pod");
    config.share_process_namespace = true;
    let sandbox = node.runtime().run_sandbox(config).await.expect("a sandbox");
    let sleeper = node.start(&sandbox, node.config("exec sleep 4321")).await;
    let mut config = node.config("ps -o pid,args; (sleep 1234 &) ; echo $$");
    config.log_path = "other/0.log".into();
    let other = node.start(&sandbox, config).await;
    assert_eq!(node.wait(&other).await.code, 0);
    let log = node.log("pod", "other/0.log");
    assert!(log.contains("sleep 4321"), "{log}");
    let result = node.runtime().exec_sync(&sleeper, &["ps".into()], None).await.expect("an exec");
    assert!(String::from_utf8_lossy(&result.stdout).contains("sleep 4321"));
    assert_ne!(log.lines().last(), Some("1"));
    node.runtime().stop_sandbox(&sandbox.id).await.expect("stopped");
    assert_eq!(node.wait(&sleeper).await.signal, Some(9));
    node.end().await;
}

async fn a_shared_process_namespace_is_lost() {
    let mut node = Node::new().await;
    let mut config = node.sandbox_config("pod");
    config.share_process_namespace = true;
    let lost = node.runtime().run_sandbox(config.clone()).await.expect("a sandbox");
    let id = node.start(&lost, node.config("exec sleep 1000")).await;
    let init = |node: &Node, sandbox: &skiff_runtime::SandboxId| {
        let group = format!("{}/kubepods/burstable/poduid-pod/sandbox-{}", node.options.cgroup_root, sandbox.0);
        skiff_linux::cgroup::Cgroups::detect().expect("cgroups").processes(&group).expect("processes")
    };
    let mut events = node.runtime().events();
    nix::sys::signal::kill(init(&node, &lost.id)[0], nix::sys::signal::Signal::SIGKILL).expect("killed");
    loop {
        if let RuntimeEvent::SandboxEnded(ended) = events.recv().await.expect("an event") {
            assert_eq!(ended, lost.id);
            break;
        }
    }
    assert_eq!(node.wait(&id).await.signal, Some(9));
    assert_eq!(node.runtime().sandboxes().await.expect("listed")[0].state, SandboxState::NotReady);
    // A second one of the same pod, beside what is left of the first.
    config.attempt = 1;
    let second = node.runtime().run_sandbox(config).await.expect("a second sandbox");
    let id = node.start(&second, node.config("exec sleep 1000")).await;
    node.runtime().remove_sandbox(&lost.id).await.expect("removed");
    assert_eq!(init(&node, &second.id).len(), 1);
    assert!(matches!(node.runtime().container(&id).await.expect("known").state, ContainerState::Running { .. }));
    // It ends while nobody listens.
    let pid = init(&node, &second.id)[0];
    node.runtime = None;
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
    let gone = || async { init(&node, &second.id).is_empty() };
    crate::node::eventually("its end", gone, |gone| *gone).await;
    node.restart_agent().await;
    let state = || async { node.runtime().sandboxes().await.expect("listed")[0].state.clone() };
    crate::node::eventually("word of it", state, |state| *state == SandboxState::NotReady).await;
    node.end().await;
}

async fn a_container_joins_the_processes_of_another() {
    let node = Node::new().await;
    let (sandbox, target) = node.running("pod").await;
    let mut config = node.config("ps -o pid,args; ls /proc/1/root/bin/busybox; (sleep 4321 &)");
    config.log_path = "debug/0.log".into();
    config.target = Some(target.clone());
    let debug = node.start(&sandbox, config.clone()).await;
    assert_eq!(node.wait(&debug).await.code, 0);
    let log = node.log("pod", "debug/0.log");
    assert!(log.contains("1 sleep 1000") && log.ends_with("/proc/1/root/bin/busybox\n"), "{log}");
    // What it left goes with it, its neighbour goes on.
    let processes =
        node.runtime().exec_sync(&target, &["ps".into(), "-o".into(), "args".into()], None).await.expect("an exec");
    assert!(!String::from_utf8_lossy(&processes.stdout).contains("sleep 4321"));
    node.runtime().stop_container(&target, Duration::ZERO).await.expect("stopped");
    let error = node.runtime().create_container(&sandbox.id, config).await.expect_err("nothing to join");
    assert!(error.to_string().contains("is not running"), "{error}");
    node.end().await;
}

async fn read_only_with_all_below() {
    let node = Node::new().await;
    let host = node.directory.path().join("volume");
    std::fs::create_dir_all(host.join("sub")).expect("a directory");
    skiff_linux::mount::tmpfs(&host.join("sub"), "size=64k").expect("a mount below");
    for (recursive, expect) in [(false, "wrote\n"), (true, "touch: /mnt/sub/x: Read-only file system\n")] {
        let change = |config: &mut skiff_runtime::ContainerConfig| {
            config.mounts = vec![Mount {
                host_path: host.clone(),
                container_path: "/mnt".into(),
                read_only: true,
                recursive,
                ..Mount::default()
            }];
        };
        let name = format!("pod{recursive}");
        let (_, log) = node.run(&name, change, "exec 2>&1; touch /mnt/sub/x && echo wrote").await;
        assert_eq!(log, expect);
    }
    std::fs::write(host.join("sub/y"), "").expect("the host's own view is as it was");
    skiff_linux::mount::ensure_unmounted_below(&host).expect("unmounted");
    node.end().await;
}

async fn images_as_volumes() {
    let node = Node::new().await;
    let image = node.image.as_ref().expect("imported").id.clone();
    let view = node.directory.path().join("view");
    node.runtime().mount_image(&image, &view).await.expect("mounted");
    node.runtime().mount_image(&image, &view).await.expect("mounted already");
    assert_eq!(skiff_linux::mount::mounts_below(&view).expect("mounts").len(), 1);
    // It stays for the volume alone, whatever container is still to come.
    assert_eq!(node.runtime().mounted_image(&view).await.expect("asked"), Some(image.clone()));
    let error = node.runtime().remove_image(&image.0).await.expect_err("in use").to_string();
    assert!(error.contains("used by a container or a volume"), "{error}");
    let change = |config: &mut skiff_runtime::ContainerConfig| {
        config.images = vec![image.clone()];
        config.mounts =
            vec![Mount { host_path: view.clone(), container_path: "/mnt".into(), read_only: true, ..Mount::default() }];
    };
    let (_, log) = node.run("pod", change, "exec 2>&1; cat /mnt/etc/secret; touch /mnt/x; /mnt/bin/busybox true").await;
    let expect = "for root\ntouch: /mnt/x: Read-only file system\nsh: /mnt/bin/busybox: Permission denied\n";
    assert_eq!(log, expect);
    skiff_linux::mount::ensure_unmounted_below(&view).expect("unmounted");
    assert_eq!(node.runtime().mounted_image(&view).await.expect("asked"), None);
    let notes = || std::fs::read_dir(node.options.data_directory.join("mounted")).map_or(0, Iterator::count);
    assert_eq!(notes(), 1);
    node.runtime().forget_images_below(node.directory.path()).await.expect("forgotten");
    assert_eq!(notes(), 0);
    assert!(node.runtime().remove_image(&image.0).await.is_err(), "a container that has ended needs it");
    let sandbox = node.runtime().sandboxes().await.expect("listed").remove(0);
    node.runtime().remove_sandbox(&sandbox.id).await.expect("removed");
    node.runtime().remove_image(&image.0).await.expect("nobody needs it");
    node.end().await;
}

async fn mounts_and_propagation() {
    let node = Node::new().await;
    let host = node.directory.path().join("volumes");
    let mut mounts = Vec::new();
    for (name, read_only, propagation) in [
        ("rw", false, Propagation::Private),
        ("ro", true, Propagation::Private),
        ("slave", false, Propagation::HostToContainer),
    ] {
        let path = host.join(name);
        std::fs::create_dir_all(&path).expect("a directory");
        std::fs::write(path.join("file"), name).expect("a file");
        let container_path = format!("/mnt/{name}").into();
        mounts.push(Mount { host_path: path, container_path, read_only, propagation, ..Mount::default() });
    }
    mounts.push(Mount {
        host_path: host.join("ro/file"),
        container_path: "/etc/resolv.conf".into(),
        read_only: true,
        ..Mount::default()
    });
    skiff_linux::mount::bind(&host, &host).expect("a mount");
    skiff_linux::mount::set_propagation(&host, nix::mount::MsFlags::MS_SHARED).expect("shared");
    let sandbox = node.sandbox("pod").await;
    let mut config = node.config(
        "exec 2>&1; cat /mnt/*/file /etc/resolv.conf; echo; echo w > /mnt/rw/new; echo w > /mnt/ro/new; echo ready; \
         until [ -e /mnt/slave/sub/late ]; do usleep 5000; done; ls /mnt/rw/sub",
    );
    config.mounts = mounts;
    let id = node.start(&sandbox, config).await;
    let log = || async { node.log("pod", "main/0.log") };
    crate::node::eventually("ready", log, |log| log.contains("ready")).await;
    // What the container waits for comes last.
    for name in ["rw", "slave"] {
        let sub = host.join(name).join("sub");
        std::fs::create_dir_all(&sub).expect("a directory");
        skiff_linux::mount::tmpfs(&sub, "size=64k").expect("mounted");
        std::fs::write(sub.join("late"), "").expect("a file");
    }
    let exit = node.wait(&id).await;
    let log = node.log("pod", "main/0.log");
    skiff_linux::mount::ensure_unmounted_below(&host).expect("unmounted");
    assert_eq!(exit.code, 0);
    assert!(log.starts_with("rorwslavero\n"), "{log}");
    assert!(log.contains("/mnt/ro/new: Read-only file system"), "{log}");
    assert!(host.join("rw/new").exists());
    // A private mount sees no later mount of the host.
    assert!(log.ends_with("ready\n"), "{log}");
    node.end().await;
}

async fn mounts_of_a_container_reach_the_host_where_they_may() {
    let node = Node::new().await;
    let host = node.directory.path().join("volume");
    std::fs::create_dir_all(&host).expect("a directory");
    skiff_linux::mount::bind(&host, &host).expect("a mount");
    skiff_linux::mount::set_propagation(&host, nix::mount::MsFlags::MS_SHARED).expect("shared");
    let everything = || skiff_linux::mount::mounts_below(node.directory.path()).expect("mounts");
    let sandbox = node.sandbox("pod").await;
    let before = everything();
    let mut config = node.config(
        "mkdir /mnt/sub /m && mount -t tmpfs none /mnt/sub && mount -t tmpfs none /m; ls /proc/self/fd | wc -l",
    );
    config.security.privileged = true;
    config.mounts = vec![Mount {
        host_path: host.clone(),
        container_path: "/mnt".into(),
        propagation: Propagation::Bidirectional,
        ..Mount::default()
    }];
    let id = node.start(&sandbox, config).await;
    assert_eq!(node.wait(&id).await.code, 0);
    let mut expect = before.clone();
    expect.push(host.join("sub"));
    let sorted = |mut mounts: Vec<std::path::PathBuf>| {
        mounts.sort();
        mounts
    };
    assert_eq!(sorted(everything()), sorted(expect));
    skiff_linux::mount::ensure_unmounted_below(&host).expect("unmounted");
    node.end().await;
}

async fn stop_with_grace() {
    let node = Node::new().await;
    let sandbox = node.sandbox("pod").await;
    let script = "trap 'echo bye; exit 5' TERM; echo ready; while true; do usleep 1000; done";
    let id = node.start(&sandbox, node.config(script)).await;
    let log = || async { node.log("pod", "main/0.log") };
    crate::node::eventually("ready", log, |log| log.contains("ready")).await;
    node.runtime().stop_container(&id, Duration::from_secs(50)).await.expect("stopped");
    let exit = node.wait(&id).await;
    assert_eq!((exit.code, exit.signal), (5, None));
    assert_eq!(node.log("pod", "main/0.log"), "ready\nbye\n");
    node.runtime().stop_container(&id, Duration::from_secs(50)).await.expect("stopped already");
    node.end().await;
}

async fn stop_without_mercy() {
    let node = Node::new().await;
    // Process 1 of a namespace ignores what it does not handle.
    let (_, id) = node.running("pod").await;
    let before = Instant::now();
    node.runtime().stop_container(&id, Duration::from_millis(50)).await.expect("stopped");
    assert!(before.elapsed() >= Duration::from_millis(50));
    let exit = node.wait(&id).await;
    assert_eq!((exit.code, exit.signal, exit.reason.as_str()), (137, Some(9), "Error"));
    node.end().await;
}

async fn removal_leaves_nothing() {
    let node = Node::new().await;
    let (sandbox, id) = node.running("pod").await;
    node.runtime().remove_container(&id).await.expect("removed while it runs");
    node.runtime().remove_container(&id).await.expect("removed again");
    assert!(matches!(node.runtime().container(&id).await, Err(Error::ContainerNotFound(_))));
    let second = node.start(&sandbox, node.config("exec sleep 1000")).await;
    node.runtime().stop_sandbox(&sandbox.id).await.expect("stopped");
    assert_eq!(node.wait(&second).await.signal, Some(9));
    node.runtime().stop_sandbox(&sandbox.id).await.expect("stopped again");
    assert_eq!(node.runtime().sandboxes().await.expect("listed")[0].state, SandboxState::NotReady);
    assert!(node.runtime().create_container(&sandbox.id, node.config("true")).await.is_err());
    node.runtime().remove_sandbox(&sandbox.id).await.expect("removed");
    node.runtime().remove_sandbox(&sandbox.id).await.expect("removed again");
    assert_eq!(node.runtime().containers().await.expect("listed").len(), 0);
    for directory in ["sandboxes", "containers"] {
        for parent in [&node.options.run_directory, &node.options.data_directory] {
            assert_eq!(std::fs::read_dir(parent.join(directory)).expect("a directory").count(), 0);
        }
    }
    let mounts = skiff_linux::mount::mounts_below(&node.options.run_directory).expect("mounts");
    assert_eq!(mounts, std::slice::from_ref(&node.options.run_directory));
    let cgroups = skiff_linux::cgroup::Cgroups::detect().expect("cgroups");
    let group = format!("{}/kubepods/burstable/poduid-pod", node.options.cgroup_root);
    assert!(cgroups.directories(&group).iter().all(|directory| !directory.exists()));
    // Logs stay for whoever reads them.
    assert!(node.directory.path().join("logs/pod/main/0.log").exists());
    node.end().await;
}

async fn many_pods_at_once() {
    let node = Node::new().await;
    let pods = (0..25).map(|number| {
        let node = &node;
        async move {
            let sandbox = node.sandbox(&format!("pod{number}")).await;
            // Some end while others are made, some at once.
            let script =
                if number % 2 == 0 { format!("echo {number}; exit {number}") } else { "exec sleep 1000".into() };
            let id = node.start(&sandbox, node.config(&script)).await;
            if number % 2 == 0 {
                assert_eq!(node.wait(&id).await.code, number);
                assert_eq!(node.log(&format!("pod{number}"), "main/0.log"), format!("{number}\n"));
            } else {
                let result = node.runtime().exec_sync(&id, &["hostname".into()], None).await.expect("an exec");
                assert_eq!(result.stdout, format!("pod{number}\n").into_bytes());
            }
            node.runtime().remove_sandbox(&sandbox.id).await.expect("removed");
        }
    });
    futures::future::join_all(pods).await;
    assert_eq!(node.runtime().containers().await.expect("listed").len(), 0);
    let mounts = skiff_linux::mount::mounts_below(&node.options.run_directory).expect("mounts");
    assert_eq!(mounts, std::slice::from_ref(&node.options.run_directory));
    node.end().await;
}

async fn sysctls_of_a_pod() {
    let node = Node::new().await;
    let mut config = node.sandbox_config("pod");
    config.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "7".into());
    config.sysctls.insert("kernel.shmmax".into(), "123456".into());
    let sandbox = node.runtime().run_sandbox(config).await.expect("a sandbox");
    let id = node
        .start(&sandbox, node.config("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmax"))
        .await;
    node.wait(&id).await;
    assert_eq!(node.log("pod", "main/0.log"), "7\n123456\n");
    let mut config = node.sandbox_config("bad");
    config.sysctls.insert("vm.swappiness".into(), "1".into());
    let error = node.runtime().run_sandbox(config).await.expect_err("refused");
    assert!(error.to_string().contains("vm.swappiness"), "{error}");
    assert_eq!(node.runtime().sandboxes().await.expect("listed").len(), 1);
    // One that fails beside another of the same pod leaves nothing but the other.
    let mut config = node.sandbox_config("pod");
    config.sysctls.insert("vm.swappiness".into(), "1".into());
    node.runtime().run_sandbox(config).await.expect_err("refused");
    for parent in [&node.options.run_directory, &node.options.data_directory] {
        assert_eq!(std::fs::read_dir(parent.join("sandboxes")).expect("a directory").count(), 1);
    }
    let mut again = node.config("true");
    again.log_path = "again/0.log".into();
    let again = node.start(&sandbox, again).await;
    assert_eq!(node.wait(&again).await.code, 0);
    node.end().await;
}
