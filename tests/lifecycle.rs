//! Starts, crashes, stops and the end: what a server leaves behind, and what it must not.

mod harness;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::{Machine, NODE, eventually, http, skiff};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(60);

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: busybox:1.36
        command: ["/bin/sh", "-c", "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www"]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, nodePort: 30080}]
"#;

/// `name restarts id` of every container, and their pids.
fn containers(machine: &Machine) -> (BTreeSet<String>, BTreeSet<String>) {
    let path = "{range .items[*]}{.metadata.name} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].containerID}{\"\\n\"}{end}";
    let states = machine.jsonpath(&["pods"], path).expect("pods");
    let ps = harness::result(&machine.command(skiff()).args(["ctr", "ps"]).output().expect("run skiff ctr ps"))
        .expect("ctr ps");
    let running = ps.lines().filter(|l| l.contains("Running")).filter_map(|l| l.split_whitespace().last());
    (states.lines().map(str::to_owned).collect(), running.map(str::to_owned).collect())
}

#[test]
fn a_killed_server_stops_no_container_and_forgets_nothing() {
    let mut machine = Machine::with_server();
    machine.apply(WEB);
    machine.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let url = format!("http://{NODE}:30080/");
    eventually("the service answers", LIMIT, || machine.outside.get(&url).map_err(|e| e.to_string()));
    let before = containers(&machine);
    assert_eq!(before.1.len(), 3, "{before:?}");

    // One client asks all the time, another writes all the time and remembers what was acknowledged.
    let stop = Arc::new(AtomicBool::new(false));
    let (told, asked) = (stop.clone(), url.clone());
    let client = machine.outside.on_thread(move || {
        let (mut answered, mut failures) = (0, Vec::new());
        while !told.load(Ordering::Relaxed) {
            match http::request("GET", &asked, &[], &[]) {
                Ok(answer) if answer.status == 200 => answered += 1,
                other => failures.push(format!("{other:?}")),
            }
        }
        (answered, failures)
    });
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        for i in 0..20 {
            let name = format!("c{round}-{i}");
            if machine.try_kubectl(&["create", "configmap", &name, "--from-literal=a=b"]).is_ok() {
                acknowledged.push(name);
            }
            if i == 15 {
                machine.end_server(Signal::SIGKILL);
            }
        }
        machine.start(&[]);
        machine.wait_ready();
    }
    assert!(acknowledged.len() >= 45, "{acknowledged:?}");
    let listed = machine.kubectl(&["get", "configmaps", "-o", "name"]);
    for name in &acknowledged {
        assert!(listed.contains(&format!("configmap/{name}\n")), "{name} was acknowledged, and is missing");
    }
    machine.until(&["deployment", "web"], "{.status.readyReplicas}", "3");
    stop.store(true, Ordering::Relaxed);
    let (answered, failures) = client.join().expect("the client does not panic");
    assert!(
        failures.is_empty() && answered > 0,
        "{answered} answered, {} failed: {:?}",
        failures.len(),
        failures.first()
    );
    assert_eq!(containers(&machine), before, "nothing was restarted");
}

#[test]
fn another_build_takes_over_what_runs() {
    let mut machine = Machine::with_server();
    machine.apply(WEB);
    machine.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let before = containers(&machine);
    let build = machine.directory.path().join("other-build");
    std::fs::copy(skiff(), &build).expect("copied");
    machine.end_server(Signal::SIGTERM);
    machine.start_build(&build, &[]);
    machine.wait_ready();
    assert_eq!(containers(&machine), before, "nothing was restarted");
    let log = machine.inside.must(&["cat", "/run/skiff/supervisor.log"]);
    assert!(log.contains("this build has taken over, with 3 containers"), "{log}");
    machine.kubectl(&["scale", "deployment/web", "--replicas=4"]);
    machine.until(&["deployment", "web"], "{.status.readyReplicas}", "4");
}

#[test]
fn nothing_is_executed_but_skiff_and_containers() {
    let machine = Machine::new();
    let trace = machine.directory.path().join("trace");
    let mut command = machine.command("strace");
    command.args(["-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o"]).arg(&trace).arg(skiff()).arg("server");
    let log = std::fs::File::create(machine.log_path()).expect("the log");
    let mut server = command.stdout(log.try_clone().expect("dup")).stderr(log).spawn().expect("start strace");
    machine.wait_ready();
    machine.apply(&WEB.replace("replicas: 3", "replicas: 10"));
    machine.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    machine.kubectl(&["delete", "deployment", "web"]);
    machine.until(&["pods"], "{.items[*].metadata.name}", "");
    let text = std::fs::read_to_string(&trace).expect("the trace");
    drop(machine.command(skiff()).arg("killall").output().expect("killall"));
    server.wait().expect("strace ends with the server");
    let mut entry_points = 0;
    // What a line begins may be finished by another; attempts that failed executed nothing.
    for line in text.lines().filter(|line| line.contains("execve(\"") && !line.contains(") = -1 ")) {
        let program = line.split('"').nth(1).unwrap_or(line);
        if ["/bin/sh", "/bin/httpd", "/bin/mkdir", "/bin/hostname"].contains(&program) {
            entry_points += 1;
        } else {
            let own = program == skiff().to_string_lossy() || program.starts_with("/proc/self/");
            assert!(own, "executed: {line}");
        }
    }
    assert!(entry_points >= 10, "the trace shows the containers' own programs\n{text}");
    let readelf = std::process::Command::new("readelf").arg("-d").arg(skiff()).output().expect("run readelf");
    assert!(!harness::text(&readelf).contains("NEEDED"), "{}", harness::text(&readelf));
}

/// As after a power cut: what ran has ended, and only what is to run again does.
#[test]
fn after_killall_it_goes_on_from_the_records() {
    let mut machine = Machine::with_server();
    machine.apply(
        r#"
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: "busybox:1.36", command: ["/bin/sleep", "1000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: always}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "busybox:1.36", command: ["/bin/sh", "-c", "echo run $HOSTNAME; exec sleep 1000"]}]
"#,
    );
    machine.until(&["job", "once"], "{.status.ready}", "1");
    machine.until(&["pod", "always"], "{.status.phase}", "Running");
    let output = machine.command(skiff()).arg("killall").output().expect("run skiff killall");
    assert!(output.status.success(), "{}", harness::text(&output));
    assert_eq!(machine.cgroup_directories(), Vec::<std::path::PathBuf>::new());
    eventually(
        "the server has ended",
        LIMIT,
        || if machine.server_runs() { Err("it runs".to_owned()) } else { Ok(()) },
    );
    machine.start(&[]);
    machine.wait_ready();
    machine.until(&["job", "once"], "{.status.conditions[?(@.type=='Failed')].status}", "True");
    let of_job = ["pods", "-l", "job-name=once"];
    let ended = "{.items[*].status.phase} {.items[*].status.containerStatuses[0].state.terminated.exitCode}";
    machine.until(&of_job, ended, "Failed 137");
    let last =
        "{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].lastState.terminated.exitCode}";
    machine.until(&["pod", "always"], last, "1 137");
    machine.until(&["pod", "always"], "{.status.containerStatuses[0].ready}", "true");
    eventually("what the earlier run said", LIMIT, || {
        match machine.try_kubectl(&["logs", "always", "--previous"])? {
            said if said == "run always\n" => Ok(()),
            other => Err(other),
        }
    });
}

#[test]
fn uninstalling_leaves_nothing() {
    let mut machine = Machine::new();
    let state = |machine: &Machine| {
        let mounts = machine.inside.must(&["sh", "-c", "cut -d' ' -f5 /proc/self/mountinfo | sort"]);
        let links = machine.inside.must(&["sh", "-c", "ip -o link | cut -d: -f2 | cut -d@ -f1 | sort"]);
        let routes = machine.inside.must(&["ip", "-4", "route", "show", "table", "all"]);
        let rules = machine.inside.must(&["nft", "list", "ruleset"]);
        [mounts, links, routes, rules]
    };
    let before = state(&machine);
    machine.start(&[]);
    machine.wait_ready();
    machine.apply(WEB);
    machine.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert_ne!(state(&machine), before);
    // What another kubelet of the machine has.
    let foreign = "mkdir -p /var/lib/kubelet/pods/other/volumes /var/log/pods/default_other_other/c
        echo precious > /var/log/pods/default_other_other/c/0.log
        ln -s /var/log/pods/default_other_other/c/0.log /var/log/containers/other.log";
    machine.inside.must(&["sh", "-ec", foreign]);
    assert!(!machine.cgroup_directories().is_empty(), "the server keeps to its cgroup");
    let output = machine.command(skiff()).arg("uninstall").output().expect("run skiff uninstall");
    assert!(output.status.success(), "{}", harness::text(&output));
    eventually("everything is gone", Duration::from_secs(5), || {
        let after = state(&machine);
        if after == before { Ok(()) } else { Err(format!("before: {before:?}\nafter: {after:?}")) }
    });
    for path in ["/etc/skiff/skiff.yaml", "/run/skiff", "/var/lib/skiff/server", "/var/lib/skiff/agent"] {
        let found = machine.inside.command("test").args(["-e", path]).status().expect("run test");
        assert!(!found.success(), "{path} is left");
    }
    let left = machine.inside.must(&[
        "sh",
        "-c",
        "ls /var/lib/kubelet/pods /var/log/pods /var/log/containers; cat /var/log/containers/*",
    ]);
    let expect = "/var/lib/kubelet/pods:\nother\n\n/var/log/containers:\nother.log\n\n/var/log/pods:\ndefault_other_other\nprecious\n";
    assert_eq!(left, expect);
    assert_eq!(machine.cgroup_directories(), Vec::<std::path::PathBuf>::new());
    eventually("the server has ended", Duration::from_secs(5), || {
        if machine.server_runs() { Err("it runs".to_owned()) } else { Ok(()) }
    });
}
