//! Whoever ends at whatever moment.

use skiff_linux::cgroup::Cgroups;
use skiff_runtime::{ContainerId, ContainerState, RuntimeEvent, SandboxState};

use crate::node::{Node, eventually};

crate::tests![
    the_agent_ends_and_comes_back,
    an_exit_without_an_agent,
    the_supervisor_is_killed,
    the_supervisor_is_killed_without_an_agent,
    a_sandbox_that_is_half_made,
    leftovers_are_swept,
    a_second_process_removes_nothing,
    another_runtime_with_the_same_groups_is_refused,
    nonsense_on_the_socket,
    a_supervisor_of_an_earlier_version,
    a_creator_is_killed_when_its_work_is_done,
    nothing_is_made_for_an_agent_that_is_gone,
    no_creator_outlives_its_supervisor,
];

async fn the_agent_ends_and_comes_back() {
    let mut node = Node::new().await;
    let (sandbox, running) = node.running("pod").await;
    let mut config = node.config("echo late");
    config.log_path = "created/0.log".into();
    let created = node.runtime().create_container(&sandbox.id, config).await.expect("created");
    let before = node.runtime().container(&running).await.expect("known");
    node.restart_agent().await;
    let after = node.runtime().container(&running).await.expect("known");
    assert_eq!((after.pid, &after.state), (before.pid, &before.state));
    assert!(matches!(after.state, ContainerState::Running { .. }));
    assert_eq!(node.runtime().sandboxes().await.expect("listed")[0].state, SandboxState::Ready);
    node.runtime().start_container(&created).await.expect("started");
    assert_eq!(node.wait(&created).await.code, 0);
    assert_eq!(node.log("pod", "created/0.log"), "late\n");
    let result = node.runtime().exec_sync(&running, &["echo".into(), "there".into()], None).await.expect("an exec");
    assert_eq!(result.stdout, b"there\n");
    node.end().await;
}

async fn an_exit_without_an_agent() {
    let mut node = Node::new().await;
    let sandbox = node.sandbox("pod").await;
    let id = node.start(&sandbox, node.config("until [ -e /tmp/go ]; do usleep 1000; done; echo done; exit 9")).await;
    node.runtime().exec_sync(&id, &["touch".into(), "/tmp/go".into()], None).await.expect("told");
    let exit_file = node.options.data_directory.join("containers").join(&id.0).join("exit.json");
    node.runtime = None;
    eventually("an exit", || async { exit_file.exists() }, |exists| *exists).await;
    node.restart_agent().await;
    let exit = node.wait(&id).await;
    assert_eq!((exit.code, exit.reason.as_str()), (9, "Error"));
    assert!(exit.started.is_some());
    assert_eq!(node.log("pod", "main/0.log"), "done\n");
    node.end().await;
}

pub fn supervisor_pid(node: &Node) -> i32 {
    let cgroups = Cgroups::detect().expect("cgroups");
    let group = format!("{}/skiff-supervisor", node.options.cgroup_root);
    cgroups.processes(&group).expect("processes").first().expect("the supervisor").as_raw()
}

fn kill_supervisor(node: &Node) {
    let pid = nix::unistd::Pid::from_raw(supervisor_pid(node));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
}

async fn check_after_supervisor(node: &Node, started: &ContainerId, pid: i32, created: &ContainerId) {
    let exit = node.wait(started).await;
    assert_eq!((exit.code, exit.reason.as_str()), (255, "Unknown"));
    assert!(exit.started.is_some());
    assert!(!std::path::Path::new(&format!("/proc/{pid}/root/bin/busybox")).exists(), "it still runs");
    let created = node.runtime().container(created).await.expect("known");
    assert_eq!((created.state, created.pid), (ContainerState::Unknown, None));
    let sandbox = node.runtime().sandboxes().await.expect("listed").remove(0);
    // Its namespaces are pinned, so they outlive everything.
    assert_eq!(sandbox.state, SandboxState::Ready);
    let mut config = node.config("echo again");
    config.log_path = "again/0.log".into();
    let again = node.start(&sandbox, config).await;
    assert_eq!(node.wait(&again).await.code, 0);
    assert_eq!(node.log("pod", "again/0.log"), "again\n");
    node.runtime().remove_sandbox(&sandbox.id).await.expect("removed");
    assert_eq!(node.runtime().containers().await.expect("listed").len(), 0);
}

/// Whatever of a sandbox was not made yet when everything ended: it is no ready one.
async fn a_sandbox_that_is_half_made() {
    let mut node = Node::new().await;
    for missing in ["shm", "ns/uts", "ns/ipc", "ns/net"] {
        let sandbox = node.sandbox("pod").await;
        node.runtime = None;
        kill_supervisor(&node);
        let path = node.options.run_directory.canonicalize().expect("it is there").join("sandboxes");
        skiff_linux::mount::ensure_unmounted(&path.join(&sandbox.id.0).join(missing)).expect("unmounted");
        node.restart_agent().await;
        let found = node.runtime().sandboxes().await.expect("listed").remove(0);
        assert_eq!(found.state, SandboxState::NotReady, "without {missing}");
        node.runtime().remove_sandbox(&sandbox.id).await.expect("removed");
    }
    node.end().await;
}

async fn the_supervisor_is_killed() {
    let node = Node::new().await;
    let (sandbox, running) = node.running("pod").await;
    let mut config = node.config("true");
    config.log_path = "created/0.log".into();
    let created = node.runtime().create_container(&sandbox.id, config).await.expect("created");
    let pid = node.runtime().container(&running).await.expect("known").pid.expect("a pid");
    let mut events = node.runtime().events();
    let waiting = {
        let (runtime, running) = (node.runtime().clone(), running.clone());
        tokio::spawn(async move { runtime.exec_sync(&running, &["sleep".into(), "1000".into()], None).await })
    };
    let busy =
        || async { Cgroups::detect().expect("cgroups").processes(&node.options.cgroup_root).expect("them").len() };
    eventually("the exec", busy, |count| *count >= 4).await;
    kill_supervisor(&node);
    loop {
        if matches!(events.recv().await.expect("an event"), RuntimeEvent::Resync) {
            break;
        }
    }
    drop(waiting.await.expect("it heard of the end"));
    check_after_supervisor(&node, &running, pid, &created).await;
    node.end().await;
}

async fn the_supervisor_is_killed_without_an_agent() {
    let mut node = Node::new().await;
    let (sandbox, running) = node.running("pod").await;
    let mut config = node.config("true");
    config.log_path = "created/0.log".into();
    let created = node.runtime().create_container(&sandbox.id, config).await.expect("created");
    let pid = node.runtime().container(&running).await.expect("known").pid.expect("a pid");
    node.runtime = None;
    kill_supervisor(&node);
    node.restart_agent().await;
    check_after_supervisor(&node, &running, pid, &created).await;
    node.end().await;
}

async fn leftovers_are_swept() {
    let mut node = Node::new().await;
    let (_, running) = node.running("pod").await;
    node.runtime = None;
    let cgroups = Cgroups::detect().expect("cgroups");
    // As crashes leave them: mounted namespaces, half a record, a group of nobody, a container without a record.
    let run = node.options.run_directory.clone();
    let shm = run.join("sandboxes/half/shm");
    std::fs::create_dir_all(&shm).expect("a directory");
    skiff_linux::mount::tmpfs(&shm, "size=64k").expect("mounted");
    let half = node.options.data_directory.join("containers/half");
    std::fs::create_dir_all(half.join("upper")).expect("a directory");
    std::fs::write(half.join("record.json"), b"{\"id\": \"ha").expect("half a record");
    let group = format!("{}/kubepods/burstable/podgone/{}", node.options.cgroup_root, "a".repeat(64));
    cgroups.ensure_ours(group.rsplit_once('/').expect("a pod").0).expect("a group");
    cgroups.ensure(&group).expect("a group");
    // What another kubelet has beside it.
    let foreign = format!("{}/kubepods/burstable/podforeign/{}", node.options.cgroup_root, "b".repeat(64));
    cgroups.ensure(&foreign).expect("a group");
    let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
    cgroups.add(&foreign, nix::unistd::Pid::from_raw(stranger.id() as i32)).expect("moved");
    let mut sleeper = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
    cgroups.add(&group, nix::unistd::Pid::from_raw(sleeper.id() as i32)).expect("moved");
    // Reaped as init would, so that the group can go.
    let reaper = std::thread::spawn(move || sleeper.wait());
    node.restart_agent().await;
    reaper.join().expect("joined").expect("killed");
    assert!(!run.join("sandboxes/half").exists() && !half.exists());
    assert!(cgroups.directories(&group).iter().all(|directory| !directory.exists()));
    assert!(matches!(node.runtime().container(&running).await.expect("known").state, ContainerState::Running { .. }));

    // Its record is gone: so is the container.
    let pid = node.runtime().container(&running).await.expect("known").pid.expect("a pid");
    node.runtime = None;
    std::fs::remove_dir_all(node.options.data_directory.join("containers").join(&running.0)).expect("removed");
    node.restart_agent().await;
    assert_eq!(node.runtime().containers().await.expect("listed").len(), 0);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());

    node.runtime = None;
    skiff_runtime::Runtime::kill_all(&node.options).await.expect("everything of ours ends");
    assert!(stranger.try_wait().expect("its state").is_none(), "a process of another kubelet was killed");
    assert_eq!(cgroups.processes(&foreign).expect("processes").len(), 1);
    stranger.kill().and_then(|()| stranger.wait()).expect("ended");
    cgroups.remove(&format!("{}/kubepods", node.options.cgroup_root)).expect("removed");
    node.end().await;
}

async fn another_runtime_with_the_same_groups_is_refused() {
    let node = Node::new().await;
    let (_, running) = node.running("pod").await;
    let mut options = node.options.clone();
    options.run_directory = node.directory.path().join("other-run");
    options.data_directory = node.directory.path().join("other-data");
    let refused = skiff_runtime::Runtime::open(options).await.map(drop).expect_err("refused");
    // The run directory of the other one has become a mount of its own.
    nix::mount::umount(&node.directory.path().join("other-run")).expect("unmounted");
    let text = skiff_base::chain(&refused).to_string();
    assert!(text.contains("containers of another Skiff") && text.contains("--cgroup-root"), "{text}");
    assert!(matches!(node.runtime().container(&running).await.expect("known").state, ContainerState::Running { .. }));
    node.end().await;
}

async fn a_second_process_removes_nothing() {
    let node = Node::new().await;
    let (sandbox, running) = node.running("pod").await;
    let stray = node.options.run_directory.join("containers/being-made");
    std::fs::create_dir_all(&stray).expect("a directory");
    let second = skiff_runtime::Runtime::open(node.options.clone()).await.expect("opened");
    assert!(stray.exists());
    assert_eq!(second.containers().await.expect("listed").len(), 1);
    let result = second.exec_sync(&running, &["echo".into(), "hi".into()], None).await.expect("an exec");
    assert_eq!(result.stdout, b"hi\n");
    // What it stops, its agent hears of before the containers' ends, and takes down.
    let mut events = node.runtime().events();
    second.stop_sandbox(&sandbox.id).await.expect("stopped");
    let first = events.recv().await.expect("an event");
    assert!(matches!(&first, RuntimeEvent::SandboxEnded(id) if *id == sandbox.id), "{first:?}");
    assert_eq!(node.wait(&running).await.signal, Some(9));
    let directory = node.options.run_directory.join("sandboxes").join(&sandbox.id.0);
    assert!(directory.exists());
    assert_eq!(node.runtime().sandboxes().await.expect("listed")[0].state, SandboxState::NotReady);
    // What another process has removed goes here too.
    second.remove_sandbox(&sandbox.id).await.expect("removed");
    assert!(!node.options.data_directory.join("sandboxes").join(&sandbox.id.0).exists());
    drop(second);
    node.runtime().remove_sandbox(&sandbox.id).await.expect("removed");
    assert!(!directory.exists());
    node.end().await;
}

async fn nonsense_on_the_socket() {
    use std::os::fd::{AsFd, AsRawFd};
    let node = Node::new().await;
    let (_, running) = node.running("pod").await;
    for message in [&b"nonsense"[..], b"{}", &[0xff; 60_000]] {
        let socket = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Unix,
            nix::sys::socket::SockType::SeqPacket,
            nix::sys::socket::SockFlag::empty(),
            None,
        )
        .expect("a socket");
        let path = node.options.run_directory.join("supervisor.sock");
        let address = nix::sys::socket::UnixAddr::new(&path).expect("an address");
        nix::sys::socket::connect(socket.as_raw_fd(), &address).expect("connected");
        skiff_linux::socket::send(socket.as_fd(), message, &[]).expect("sent");
        // It hangs up, and goes on.
        let mut buffer = [0; 16];
        assert_eq!(skiff_linux::socket::receive(socket.as_fd(), &mut buffer).map_or(0, |got| got.0), 0);
    }
    let result = node.runtime().exec_sync(&running, &["echo".into(), "hi".into()], None).await.expect("an exec");
    assert_eq!(result.stdout, b"hi\n");
    node.end().await;
}

/// Knows no containers and hangs up on every other call, until it is shut down.
fn earlier_supervisor(path: &std::path::Path) -> (std::os::fd::OwnedFd, std::thread::JoinHandle<()>) {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept, bind, listen, socket};
    use std::os::fd::{AsFd, AsRawFd, OwnedFd};
    drop(std::fs::remove_file(path));
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(listener.as_raw_fd(), &UnixAddr::new(path).expect("an address")).expect("bound");
    listen(&listener, Backlog::new(16).expect("a length")).expect("listens");
    let own = listener.try_clone().expect("a handle");
    let serve = |client: OwnedFd| {
        let mut buffer = [0; 4096];
        while let Ok((length @ 1.., _)) = skiff_linux::socket::receive(client.as_fd(), &mut buffer) {
            let request: serde_json::Value = serde_json::from_slice(&buffer[..length]).expect("a request");
            if request["call"] != "List" {
                return;
            }
            let result = serde_json::json!({"Ok": {"List": {"containers": [], "more": false}}});
            let reply = serde_json::json!({"Reply": {"id": request["id"], "result": result}});
            let sent = skiff_linux::socket::send(client.as_fd(), reply.to_string().as_bytes(), &[]);
            sent.expect("the agent listens");
        }
    };
    let accepting = std::thread::spawn(move || {
        while let Ok(number) = accept(own.as_raw_fd()) {
            let client = skiff_linux::process::inherited(number).expect("it was just made");
            std::thread::spawn(move || serve(client));
        }
    });
    (listener, accepting)
}

async fn a_supervisor_of_an_earlier_version() {
    use std::os::fd::AsRawFd;
    let mut node = Node::new().await;
    let cgroups = Cgroups::detect().expect("cgroups");
    let mut sandboxes = Vec::new();
    for name in ["lives", "ended"] {
        let mut config = node.sandbox_config(name);
        (config.host_network, config.host_ipc, config.share_process_namespace) = (true, true, true);
        sandboxes.push(node.runtime().run_sandbox(config).await.expect("a sandbox"));
    }
    node.runtime = None;
    kill_supervisor(&node);
    let pods = format!("{}/kubepods/burstable", node.options.cgroup_root);
    let left = || async { cgroups.kill(&pods).expect("killed") };
    eventually("the end of their processes", left, |count| *count == 0).await;
    // As the earlier version had process 1 of a pod.
    let group = format!("{pods}/poduid-lives/sandbox");
    cgroups.ensure(&group).expect("a group");
    let mut init = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
    cgroups.add(&group, nix::unistd::Pid::from_raw(init.id() as i32)).expect("moved");
    let reaper = std::thread::spawn(move || init.wait());
    let (listener, accepting) = earlier_supervisor(&node.options.run_directory.join("supervisor.sock"));
    node.restart_agent().await;
    let listed = node.runtime().sandboxes().await.expect("listed");
    let state = |sandbox: &skiff_runtime::Sandbox| {
        listed.iter().find(|other| other.id == sandbox.id).expect("it is known").state.clone()
    };
    assert_eq!(sandboxes.iter().map(state).collect::<Vec<_>>(), [SandboxState::Ready, SandboxState::NotReady]);
    assert!(!reaper.is_finished(), "its process 1 was ended");
    // The next one is of this version: what the earlier one made can be taken down.
    node.runtime = None;
    nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).expect("shut down");
    accepting.join().expect("it ended");
    drop(listener);
    node.restart_agent().await;
    node.runtime().stop_sandbox(&sandboxes[0].id).await.expect("stopped");
    reaper.join().expect("joined").expect("killed");
    node.end().await;
}

/// A child of the supervisor whose name begins so, once there is one.
fn child(supervisor: i32, name: &str) -> Option<nix::unistd::Pid> {
    let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).ok()?;
    let comm = |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let found = children.split_whitespace().find(|pid| comm(pid).starts_with(name))?;
    Some(nix::unistd::Pid::from_raw(found.parse().expect("a number")))
}

/// Lets sandboxes be made until the child that makes one is stopped in the midst of its work.
async fn half_made(
    node: &Node,
    process: bool,
) -> (tokio::task::JoinHandle<Result<(), skiff_runtime::Error>>, nix::unistd::Pid) {
    let supervisor = supervisor_pid(node);
    for attempt in 0..1000 {
        let (runtime, mut config) = (node.runtime().clone(), node.sandbox_config(&format!("pod-{attempt}")));
        config.share_process_namespace = process;
        let is_made = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let told = is_made.clone();
        let making = tokio::spawn(async move {
            let made = runtime.run_sandbox(config).await?;
            told.store(true, std::sync::atomic::Ordering::SeqCst);
            runtime.remove_sandbox(&made.id).await
        });
        while !making.is_finished() {
            if let Some(maker) = child(supervisor, "skiff-creator")
                && nix::sys::signal::kill(maker, nix::sys::signal::Signal::SIGSTOP).is_ok()
                && runs(maker)
            {
                // It may have said already that it is done, and was about to end. The supervisor has heard that when it
                // answers another one.
                drop(skiff_runtime::Runtime::open(node.options.clone()).await.expect("opened"));
                tokio::task::yield_now().await;
                if !is_made.load(std::sync::atomic::Ordering::SeqCst) {
                    return (making, maker);
                }
                // The stop may have come too late to it: then it has ended by now.
                let goes_on = nix::sys::signal::kill(maker, nix::sys::signal::Signal::SIGCONT);
                assert!(matches!(goes_on, Ok(()) | Err(nix::errno::Errno::ESRCH)), "{goes_on:?}");
                making.await.expect("no panic").expect("made and removed");
                break;
            }
            std::thread::yield_now();
        }
    }
    panic!("every child was faster");
}

fn runs(pid: nix::unistd::Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']) && !rest.is_empty())
}

/// What it has made waits for the start by then, with a copy of everything that the creator had.
async fn a_creator_is_killed_when_its_work_is_done() {
    let node = Node::new().await;
    let sandbox = node.sandbox("pod").await;
    let supervisor = supervisor_pid(&node);
    let mut seen = false;
    for _ in 0..100 {
        let (runtime, config) = (node.runtime().clone(), node.config("true"));
        let of = sandbox.id.clone();
        let creating = tokio::spawn(async move { runtime.create_container(&of, config).await });
        let waits = |pid: nix::unistd::Pid| {
            let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
            let number = call.split(' ').next().and_then(|number| number.parse().ok());
            number == Some(libc::SYS_accept4) || number == Some(libc::SYS_accept)
        };
        while !creating.is_finished() && !child(supervisor, "youki:[2:INIT]").is_some_and(waits) {
            std::thread::yield_now();
        }
        if let Some(creator) = child(supervisor, "skiff-creator") {
            seen |=
                nix::sys::signal::kill(creator, nix::sys::signal::Signal::SIGKILL).is_ok() && !creating.is_finished();
        }
        let created = tokio::time::timeout(crate::node::LIMIT, creating).await.expect("an answer").expect("no panic");
        match created {
            Ok(id) => node.runtime().remove_container(&id).await.expect("removed"),
            Err(error) => assert!(error.to_string().contains("ended without an answer"), "{error}"),
        }
        if seen {
            break;
        }
    }
    assert!(seen, "every creator was faster");
    assert_eq!(child(supervisor, ""), None, "a process is left");
    node.end().await;
}

async fn nothing_is_made_for_an_agent_that_is_gone() {
    let mut node = Node::new().await;
    let (making, maker) = half_made(&node, true).await;
    making.abort();
    assert!(making.await.expect_err("it did not end").is_cancelled());
    node.restart_agent().await;
    eventually("the end of the maker", || async { runs(maker) }, |runs| !runs).await;
    let sandboxes = node.runtime().sandboxes().await.expect("listed");
    assert_eq!(sandboxes.iter().map(|s| s.state.clone()).collect::<Vec<_>>(), [SandboxState::NotReady]);
    node.runtime().remove_sandbox(&sandboxes[0].id).await.expect("removed");

    // Of one that is there, somebody else may end what is not wanted any more.
    let (making, maker) = half_made(&node, false).await;
    making.abort();
    let record = node.options.data_directory.join("sandboxes");
    let id = std::fs::read_dir(&record).expect("records").next().expect("one").expect("read").file_name();
    let second = skiff_runtime::Runtime::open(node.options.clone()).await.expect("opened");
    second.stop_sandbox(&skiff_runtime::SandboxId(id.to_string_lossy().into_owned())).await.expect("stopped");
    eventually("the end of the maker", || async { runs(maker) }, |runs| !runs).await;
    drop(second);
    node.end().await;
}

async fn no_creator_outlives_its_supervisor() {
    let node = Node::new().await;
    let (making, maker) = half_made(&node, false).await;
    let mut events = node.runtime().events();
    kill_supervisor(&node);
    making.await.expect("no panic").expect_err("nobody made it");
    while !matches!(events.recv().await.expect("an event"), RuntimeEvent::Resync) {}
    // Nobody wakes it.
    eventually("the end of the maker", || async { runs(maker) }, |runs| !runs).await;
    node.end().await;
}
