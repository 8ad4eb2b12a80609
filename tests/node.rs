//! What a pod may ask of its node, seen from outside of a real one.

mod harness;

use std::process::Stdio;
use std::time::Duration;

use harness::{Machine, eventually, skiff};

const LIMIT: Duration = Duration::from_secs(60);

/// A pod of one busybox container: `more` goes beside the container, `container` into it (both YAML in flow style).
fn pod(name: &str, more: &str, container: &str, script: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
{}
  containers:
  - name: c
    image: busybox:1.36
{}
    command: [/bin/sh, -c, {:?}]
---
",
        indented(more, 2),
        indented(container, 4),
        // One stream, so that lines come in order.
        format!("exec 2>&1; {script}")
    )
}

fn indented(lines: &str, by: usize) -> String {
    lines.lines().map(|line| format!("{:by$}{line}", "")).collect::<Vec<_>>().join("\n")
}

fn value(machine: &Machine, group: &str, v1: (&str, &str), v2: &str) -> Option<String> {
    machine.cgroup_directories().iter().find_map(|root| {
        let file = if root.join("cgroup.controllers").exists() { v2 } else { v1.1 };
        std::fs::read_to_string(root.join(group).join(file)).ok().map(|text| text.trim().to_owned())
    })
}

#[test]
fn what_pods_ask_for_is_what_they_get() {
    let machine = Machine::with_server();
    let image = "volumes: [{name: v, image: {reference: busybox:1.36}}]";
    let shared = "volumes: [{name: v, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]";
    let mount = "volumeMounts: [{name: v, mountPath: /v}]";
    // Name, the spec, the container, its script, and what it says.
    let table = [
        (
            "image",
            image,
            mount,
            "ls /v/bin/busybox; touch /v/x; /v/bin/busybox true",
            vec!["/v/bin/busybox", "touch: /v/x: Read-only file system", "/bin/sh: /v/bin/busybox: Permission denied"],
        ),
        (
            "image-part",
            image,
            "volumeMounts: [{name: v, mountPath: /v, subPath: bin}]",
            "ls /v | grep -x busybox",
            vec!["busybox"],
        ),
        ("memory", shared, mount, "dd if=/dev/zero of=/v/big bs=1M count=2 2>&1 | grep -c 'No space'", vec!["1"]),
        (
            "read-only",
            "volumes: [{name: v, hostPath: {path: /run/tree}}]",
            "volumeMounts: [{name: v, mountPath: /v, readOnly: true, recursiveReadOnly: Enabled}]",
            "touch /v/sub/x",
            vec!["touch: /v/sub/x: Read-only file system"],
        ),
        (
            "sysctl",
            "securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: \"1\"}]}",
            "",
            "cat /proc/sys/kernel/shm_rmid_forced",
            vec!["1"],
        ),
    ];
    machine.inside.must(&["sh", "-ec", "mkdir -p /run/tree/sub; mount -t tmpfs none /run/tree/sub"]);
    machine.apply(&table.iter().map(|(name, more, own, script, _)| pod(name, more, own, script)).collect::<String>());
    for (name, _, _, _, expected) in &table {
        eventually(name, LIMIT, || {
            let phase = machine.jsonpath(&["pod", name], "{.status.phase}")?;
            if ["Succeeded", "Failed"].contains(&phase.as_str()) { Ok(()) } else { Err(phase) }
        });
        let log = machine.kubectl(&["logs", name]);
        assert_eq!(log.lines().collect::<Vec<_>>(), *expected, "{name}");
    }
    // What can't be had is said, and nothing runs.
    machine.apply(&format!(
        "{}{}",
        pod("unsafe", "securityContext: {sysctls: [{name: kernel.msgmax, value: \"1\"}]}", "", "true"),
        pod("armored", "securityContext: {appArmorProfile: {type: RuntimeDefault}}", "", "true")
    ));
    machine.until(&["pod", "unsafe"], "{.status.phase} {.status.reason}", "Failed SysctlForbidden");
    if !std::path::Path::new("/sys/module/apparmor").exists() {
        let message = "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host";
        machine.until(&["pod", "armored"], "{.status.reason}: {.status.message}", &format!("AppArmor: {message}"));
    }
    machine.inside.must(&["umount", "/run/tree/sub"]);
}

#[test]
fn a_running_pod_takes_more_containers_and_other_resources() {
    let machine = Machine::with_server();
    let resources = "resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}";
    machine.apply(&pod("p", "", resources, "exec sleep 4321"));
    machine.until(&["pod", "p"], "{.status.phase}", "Running");

    let debug = "{\"spec\": {\"ephemeralContainers\": [{\"name\": \"debug\", \"image\": \"busybox:1.36\",
        \"targetContainerName\": \"c\", \"command\": [\"/bin/sh\", \"-c\", \"ps -o pid,args\"]}]}}";
    machine.kubectl(&["patch", "pod", "p", "--subresource=ephemeralcontainers", "-p", debug]);
    let ended = "{.status.ephemeralContainerStatuses[0].state.terminated.exitCode}";
    machine.until(&["pod", "p"], ended, "0");
    let log = machine.kubectl(&["logs", "p", "-c", "debug"]);
    assert!(log.lines().any(|line| line.trim() == "1 sleep 4321"), "{log}");
    let refused = machine.try_kubectl(&[
        "patch",
        "pod",
        "p",
        "--type=json",
        "--subresource=ephemeralcontainers",
        "-p",
        "[{\"op\": \"remove\", \"path\": \"/spec/ephemeralContainers/0\"}]",
    ]);
    assert!(refused.expect_err("refused").contains("may not be removed"));

    let id = machine.jsonpath(&["pod", "p"], "{.status.containerStatuses[0].containerID}").expect("its id");
    let uid = machine.jsonpath(&["pod", "p"], "{.metadata.uid}").expect("its uid");
    let group = format!("kubepods/burstable/pod{uid}/{}", id.trim_start_matches("skiff://"));
    let memory = || value(&machine, &group, ("memory", "memory.limit_in_bytes"), "memory.max");
    assert_eq!(memory(), Some((64 << 20).to_string()));
    let resize = |cpu: &str, memory: &str| {
        let patch = format!(
            "{{\"spec\": {{\"containers\": [{{\"name\": \"c\", \"resources\": {{\"requests\": {{\"cpu\": \"{cpu}\"}}, \"limits\": {{\"cpu\": \"{cpu}\", \"memory\": \"{memory}\"}}}}}}]}}}}"
        );
        machine.try_kubectl(&["patch", "pod", "p", "--subresource=resize", "-p", &patch])
    };
    resize("150m", "128Mi").expect("resized");
    machine.until(&["pod", "p"], "{.status.containerStatuses[0].resources.limits.memory}", "128Mi");
    assert_eq!(memory(), Some((128 << 20).to_string()));
    assert_eq!(
        value(&machine, &group, ("cpu", "cpu.cfs_quota_us"), "cpu.max").map(|v| v.split(' ').next() == Some("15000")),
        Some(true)
    );
    let status = machine.jsonpath(
        &["pod", "p"],
        "{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].containerID}",
    );
    assert_eq!(status, Ok(format!("0 {id}")));
    resize("1000", "128Mi").expect("taken, and not given");
    let pending = "{.status.conditions[?(@.type==\"PodResizePending\")].reason}";
    machine.until(&["pod", "p"], pending, "Infeasible");
    resize("150m", "128Mi").expect("resized");
    machine.until(&["pod", "p"], pending, "");
    let refused = machine.try_kubectl(&[
        "patch",
        "pod",
        "p",
        "--type=json",
        "--subresource=resize",
        "-p",
        "[{\"op\": \"remove\", \"path\": \"/spec/containers/0/resources/limits/memory\"}]",
    ]);
    assert!(refused.expect_err("refused").contains("resource limits cannot be removed"));
}

/// "Advertise Extended Resources for a Node", as the documentation has it.
#[test]
fn resources_that_are_told_of_by_hand_are_given_to_pods() {
    let mut machine = Machine::with_server();
    let patch = |machine: &Machine, patch: &str| {
        machine.kubectl(&["patch", "node", "node-1", "--subresource=status", "--type=json", "-p", patch]);
    };
    let add = r#"[{"op": "add", "path": "/status/capacity/example.com~1dongle", "value": "4"}]"#;
    let dongles = r"{.status.capacity.example\.com/dongle} {.status.allocatable.example\.com/dongle}";
    patch(&machine, add);
    machine.until(&["node", "node-1"], dongles, "4 4");
    let asks = |name: &str, count: u32, more: &str| {
        let resources = format!("resources: {{limits: {{example.com/dongle: {count}}}}}");
        pod(name, more, &resources, "exec sleep 3600")
    };
    machine.apply(&asks("first", 3, ""));
    machine.until(&["pod", "first"], "{.status.phase}", "Running");
    machine.apply(&(asks("second", 2, "") + &asks("bound", 2, "nodeName: node-1")));
    let message = "{.status.conditions[?(@.type==\"PodScheduled\")].message}";
    eventually("the second has to wait", LIMIT, || {
        let told = machine.jsonpath(&["pod", "second"], message)?;
        if told.contains("1 Insufficient example.com/dongle.") { Ok(()) } else { Err(told) }
    });
    machine.until(&["pod", "bound"], "{.status.reason}", "OutOfexample.com/dongle");
    let message =
        "Pod was rejected: Node didn't have enough resource: example.com/dongle, requested: 2, used: 3, capacity: 4";
    assert_eq!(machine.jsonpath(&["pod", "bound"], "{.status.message}").as_deref(), Ok(message));
    // They outlive the agent, and an end of the pod.
    machine.end_server(nix::sys::signal::Signal::SIGKILL);
    machine.start(&[]);
    machine.wait_ready();
    machine.until(&["node", "node-1"], dongles, "4 4");
    machine.kubectl(&["delete", "pod", "first"]);
    machine.until(&["pod", "second"], "{.status.phase}", "Running");
    patch(&machine, r#"[{"op": "remove", "path": "/status/capacity/example.com~1dongle"}]"#);
    machine.until(&["node", "node-1"], dongles, " ");
}

#[test]
fn a_lost_process_1_begins_the_pod_anew() {
    let machine = Machine::with_server();
    let shared = "shareProcessNamespace: true";
    machine.apply(&pod("p", shared, "", "exec sleep 4321").replace("restartPolicy: Never", "restartPolicy: Always"));
    machine.until(&["pod", "p"], "{.status.phase}", "Running");
    let inits = machine.cgroup_directories().into_iter().find_map(|root| {
        let uid = machine.jsonpath(&["pod", "p"], "{.metadata.uid}").ok()?;
        let pod = root.join(format!("kubepods/besteffort/pod{uid}"));
        let group = pod.read_dir().ok()?.flatten().find(|e| e.file_name().to_string_lossy().starts_with("sandbox-"))?;
        std::fs::read_to_string(group.path().join("cgroup.procs")).ok()
    });
    let init = inits.expect("process 1 of the namespace").trim().parse().expect("a number");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(init), nix::sys::signal::Signal::SIGKILL).expect("killed");
    machine.until(&["pod", "p"], "{.status.containerStatuses[0].restartCount}", "1");
    machine.until(&["pod", "p"], "{.status.containerStatuses[0].ready}", "true");
    let ps = harness::result(&machine.command(skiff()).args(["ctr", "ps"]).output().expect("run skiff ctr ps"));
    assert_eq!(ps.expect("ctr ps").lines().filter(|line| line.contains("Running")).count(), 1);
}

#[test]
fn ids_of_a_pod_stay_its_own() {
    let mut machine = Machine::with_server();
    let sleeps = |name: &str| {
        pod(name, "hostUsers: false\nrestartPolicy: Always", "", "until test -e /stop; do usleep 50000; done")
            .replace("  restartPolicy: Never\n", "")
    };
    machine.apply(&(sleeps("a") + &sleeps("b")));
    let map = |machine: &Machine, name: &str| {
        machine.until(&["pod", name], "{.status.containerStatuses[0].ready}", "true");
        let text = machine.kubectl(&["exec", name, "--", "cat", "/proc/self/uid_map"]);
        text.split_whitespace().nth(1).and_then(|first| first.parse::<u32>().ok()).expect("a map")
    };
    let (a, b) = (map(&machine, "a"), map(&machine, "b"));
    assert!(a != b && a % 65536 == 0 && b % 65536 == 0 && a > 0 && b > 0, "{a} {b}");

    machine.end_server(nix::sys::signal::Signal::SIGKILL);
    machine.start(&[]);
    machine.wait_ready();
    assert_eq!((map(&machine, "a"), map(&machine, "b")), (a, b));
    // A container that is begun anew, and a pod of which the new server has to find ids.
    // (The container's end may come before the command's.)
    drop(machine.try_kubectl(&["exec", "a", "--", "touch", "/stop"]));
    machine.until(&["pod", "a"], "{.status.containerStatuses[0].restartCount}", "1");
    machine.apply(&sleeps("c"));
    assert_eq!(map(&machine, "a"), a);
    let c = map(&machine, "c");
    assert!(c != a && c != b, "{a} {b} {c}");
}

#[test]
fn a_sandbox_that_crictl_stops_is_made_anew() {
    let machine = Machine::with_server();
    for (at, shared) in ["", "shareProcessNamespace: true"].iter().enumerate() {
        let manifest = pod(&format!("p{at}"), shared, "", "exec sleep 4321");
        machine.apply(&manifest.replace("restartPolicy: Never", "restartPolicy: Always"));
    }
    let crictl = |words: &[&str]| {
        let output = machine.command(skiff()).arg("crictl").args(words).output().expect("run skiff crictl");
        harness::result(&output).unwrap_or_else(|why| panic!("crictl {words:?}: {why}")).trim().to_owned()
    };
    for (restarts, verb) in [("1", &["stopp"][..]), ("2", &["rmp", "-f"])] {
        for name in ["p0", "p1"] {
            machine.until(&["pod", name], "{.status.containerStatuses[0].ready}", "true");
            let sandbox = crictl(&["pods", "-q", "--state", "ready", "--name", name]);
            let said = crictl(&[verb, &[&sandbox]].concat());
            assert!(said.starts_with(&format!("Stopped sandbox {sandbox}")), "{said}");
            machine.until(&["pod", name], "{.status.containerStatuses[0].restartCount}", restarts);
            machine.until(&["pod", name], "{.status.containerStatuses[0].ready}", "true");
            let now = crictl(&["pods", "-q", "--name", name]);
            assert!(now != sandbox && now.lines().count() == 1, "{sandbox}, then {now}");
        }
    }
    let address = |name: &str| machine.jsonpath(&["pod", name], "{.status.podIP}").expect("an address");
    let reached = machine.kubectl(&["exec", "p0", "--", "ping", "-c1", "-w10", &address("p1")]);
    assert!(reached.contains("1 packets received"), "{reached}");
}

#[test]
fn crictl_shows_what_runs() {
    let machine = Machine::with_server();
    let script = "echo one; echo two; until [ -e /tmp/end ]; do usleep 10000; done; exit 3";
    machine.apply(&pod("p", "", "", script));
    machine.until(&["pod", "p"], "{.status.phase}", "Running");
    let crictl = |words: &[&str]| {
        let output = machine.command(skiff()).arg("crictl").args(words).output().expect("run skiff crictl");
        harness::result(&output)
    };
    let say = |words: &[&str]| crictl(words).unwrap_or_else(|why| panic!("crictl {words:?}: {why}"));
    let id = machine.jsonpath(&["pod", "p"], "{.status.containerStatuses[0].containerID}").expect("an id");
    let id = id.trim().trim_start_matches("skiff://").to_owned();
    let ps = say(&["ps"]);
    let head: Vec<&str> = ps.lines().next().expect("a head").split("  ").filter(|word| !word.is_empty()).collect();
    let columns = ["CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID", "POD", "NAMESPACE"];
    assert_eq!(head.iter().map(|word| word.trim()).collect::<Vec<_>>(), columns);
    let row: Vec<&str> = ps.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!((row[0], &row[row.len() - 5..][..2]), (&id[..13], &["c", "0"][..]), "{ps}");
    assert!(ps.contains(" ago ") && row.ends_with(&["p", "default"]), "{ps}");
    assert_eq!(say(&["ps", "-q", "--name", "^c$"]).trim(), id);
    assert_eq!(say(&["ps", "-q", "--state", "exited"]), "");
    let pods = say(&["pods", "--namespace", "default"]);
    assert!(pods.starts_with("POD ID ") && pods.contains("Ready") && pods.contains("(default)"), "{pods}");
    let status: serde_json::Value = serde_json::from_str(&say(&["inspect", &id[..8]])).expect("JSON");
    assert_eq!(
        (&status["status"]["state"], &status["status"]["id"]),
        (&"CONTAINER_RUNNING".into(), &id.as_str().into())
    );
    let pod: serde_json::Value = serde_json::from_str(&say(&["inspectp", row[row.len() - 3]])).expect("JSON");
    assert_eq!((&pod["status"]["metadata"]["name"], &pod["status"]["state"]), (&"p".into(), &"SANDBOX_READY".into()));
    let name = say(&["inspectp", "-o", "go-template", "--template", "{{.status.metadata.name}}", row[row.len() - 3]]);
    assert_eq!(name, "p\n");
    let verbose = say(&["images", "-v", "busybox"]);
    assert!(
        verbose.contains("RepoTags: docker.io/library/busybox:1.36\n") && verbose.contains("\nSize: "),
        "{verbose}"
    );
    let images = say(&["images"]);
    let has = |line: &str| line.starts_with("docker.io/library/busybox") && line.contains(" 1.36 ");
    assert!(images.starts_with("IMAGE ") && images.lines().any(has), "{images}");
    assert!(say(&["inspecti", "busybox:1.36"]).contains("\"repoTags\""));
    let image = say(&["images", "-q", "busybox"]);
    assert_eq!(say(&["images", "-q", &image.trim()["sha256:".len()..][..12]]), image);
    // What is brought by hand is told of.
    let archive = machine.directory.path().join("by-hand.tar");
    harness::images::Image::busybox(&["/bin/true"], &["BY=hand"]).save(&archive, "example.com/by-hand:1");
    let imported = machine.command(skiff()).args(["ctr", "images", "import"]).arg(&archive).output();
    harness::result(&imported.expect("run skiff ctr")).expect("imported");
    eventually("the node tells of it", Duration::from_secs(30), || {
        let names = machine.jsonpath(&["nodes"], "{.items[*].status.images[*].names[*]}")?;
        names.contains("example.com/by-hand:1").then_some(()).ok_or(names)
    });
    // Nobody reads it any more.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let unread =
        machine.command(skiff()).args(["crictl", "ps", "-q"]).stdout(writer).output().expect("run skiff crictl");
    assert!(unread.status.success() && unread.stderr.is_empty(), "{unread:?}");
    assert_eq!(say(&["logs", "--tail", "1", &id]), "two\n");
    assert_eq!(say(&["exec", &id, "sh", "-c", "echo $((6 * 7))"]), "42\n");
    let failed = machine.command(skiff()).args(["crictl", "exec", "-s", &id, "sh", "-c", "exit 9"]).status();
    assert_eq!(failed.expect("it ran").code(), Some(9));
    let stats = say(&["stats", &id]);
    assert!(stats.starts_with("CONTAINER ") && stats.contains("CPU %") && stats.contains(&id[..13]), "{stats}");
    assert!(say(&["version"]).contains("RuntimeName:  skiff"));
    assert!(say(&["info"]).contains("RuntimeReady"));
    machine.apply(&self::pod("asks", "", "stdin: true", "read word; echo it was $word"));
    machine.until(&["pod", "asks"], "{.status.phase}", "Running");
    let asks = say(&["ps", "-q", "--label", "io.kubernetes.pod.name=asks"]);
    let mut attach = machine.command(skiff());
    attach.args(["crictl", "attach", "-i", asks.trim()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut attached = attach.spawn().expect("run skiff crictl attach");
    std::io::Write::write_all(&mut attached.stdin.take().expect("its stdin"), b"this\n").expect("written");
    let said = attached.wait_with_output().expect("it ends with the container");
    assert_eq!(harness::result(&said).expect("attached"), "it was this\n");
    let error = crictl(&["attach", asks.trim()]).expect_err("it has ended");
    assert!(error.contains("is in CONTAINER_EXITED state"), "{error}");
    let used: serde_json::Value = serde_json::from_str(&say(&["imagefsinfo"])).expect("JSON");
    let bytes = used["status"]["imageFilesystems"][0]["usedBytes"]["value"].as_str().expect("bytes");
    assert!(bytes.parse::<u64>().expect("a number") > 100_000, "{used}");
    assert!(say(&["imagefsinfo", "-o", "table"]).starts_with("Container Filesystem \nTimeStamp[0]: "));
    for (words, expect) in [
        (&["runp", "x"][..], "not here"),
        (&["attach"], "attach: 1 word is needed"),
        (&["nosuch"], "no such command"),
        (&["rm", &id], "is running"),
        (&["rmi", "busybox:1.36"], "is used by a container"),
        (&["logs", "nosuch"], "not found"),
    ] {
        let error = crictl(words).expect_err("refused");
        assert!(error.contains(expect), "{words:?}: {error}");
    }
    assert_eq!(say(&["stop", "--timeout", "1", &id]).trim(), id);
    machine.until(&["pod", "p"], "{.status.phase}", "Failed");
    assert!(say(&["ps", "-a"]).contains("Exited"));
    let roles = machine.kubectl(&["get", "nodes", "--no-headers"]);
    assert!(roles.split_whitespace().nth(2) == Some("control-plane"), "{roles}");
}
