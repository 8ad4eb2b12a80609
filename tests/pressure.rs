//! What a node keeps for itself and from others: private images, usage, pressure, pods of its own.

mod harness;

use std::time::Duration;

use harness::images::Image;
use harness::{Machine, PRIVATE_USER, eventually};

const LIMIT: Duration = Duration::from_secs(90);

fn pod(name: &str, spec: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec: {{terminationGracePeriodSeconds: 0, {spec}\n  \
         containers: [{{name: c, {container}}}]}}\n---\n"
    )
}

fn phase(machine: &Machine, name: &str, expect: &str) {
    machine.until(&["pod", name], "{.status.phase}", expect);
}

fn reason(machine: &Machine, name: &str, expect: &str) {
    machine.until(&["pod", name], "{.status.containerStatuses[0].state.waiting.reason}", expect);
}

#[test]
fn private_images_are_for_those_who_show_credentials() {
    let mut machine = Machine::new();
    machine.add_private_registry();
    Image::busybox(&["/bin/sleep", "3600"], &[]).push(&machine, "team/app", "1");
    machine.start(&[]);
    machine.wait_ready();
    let (user, password) = PRIVATE_USER;
    let secret = |name: &str, password: &str| {
        let auth = format!("--docker-password={password}");
        let user = format!("--docker-username={user}");
        machine.kubectl(&["create", "secret", "docker-registry", name, "--docker-server=private.test", &user, &auth]);
    };
    secret("good", password);
    secret("copy", password);
    secret("wrong", "wrong");
    let image = "image: 'private.test/team/app:1', imagePullPolicy:";
    let with = |secret: &str| format!("imagePullSecrets: [{{name: {secret}}}],");
    let apply = |name: &str, spec: &str, policy: &str| {
        machine.apply(&pod(name, spec, &format!("{image} {policy}")));
    };
    apply("nobody", "", "IfNotPresent");
    machine.until(
        &["events", "--field-selector=involvedObject.name=nobody,reason=Failed"],
        "{.items[0].reason}",
        "Failed",
    );
    apply("owner", &with("good"), "IfNotPresent");
    phase(&machine, "owner", "Running");
    // It is here now: that is no reason to give it to anybody.
    apply("thief", "", "IfNotPresent");
    eventually("the image is kept from who shows nothing", LIMIT, || {
        let said = machine.kubectl(&["describe", "pod", "thief"]);
        if said.contains("ErrImagePull") || said.contains("ImagePullBackOff") { Ok(()) } else { Err(said) }
    });
    apply("liar", &with("wrong"), "IfNotPresent");
    eventually("and from who shows others", LIMIT, || {
        let said = machine.kubectl(&["describe", "pod", "liar"]);
        if said.contains("ErrImagePull") || said.contains("ImagePullBackOff") { Ok(()) } else { Err(said) }
    });
    apply("never", "", "Never");
    reason(&machine, "never", "ErrImageNeverPull");
    apply("same", &with("good"), "Never");
    phase(&machine, "same", "Running");
    apply("copy", &with("copy"), "Never");
    phase(&machine, "copy", "Running");
    // The agent remembers.
    machine.end_server(nix::sys::signal::Signal::SIGKILL);
    machine.start(&[]);
    machine.wait_ready();
    let apply = |name: &str, spec: &str| {
        machine.apply(&pod(name, spec, &format!("{image} Never")));
    };
    apply("later", "");
    reason(&machine, "later", "ErrImageNeverPull");
    apply("again", &with("good"));
    phase(&machine, "again", "Running");
}

#[test]
fn usage_is_told_and_scales() {
    let machine = Machine::with_server();
    machine.apply(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: busy}\nspec:\n  replicas: 1\n  selector: {matchLabels: {app: busy}}\n  \
         template:\n    metadata: {labels: {app: busy}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      containers:\n      - name: c\n        \
         image: busybox:1.36\n        command: [/bin/sh, -c, 'while :; do :; done']\n        resources: {requests: {cpu: 10m}, limits: {cpu: 100m}}\n",
    );
    machine.kubectl(&["rollout", "status", "deployment/busy", "--timeout=60s"]);
    eventually("nodes and pods tell what they use", LIMIT, || {
        let nodes = machine.try_kubectl(&["top", "nodes"])?;
        let pods = machine.try_kubectl(&["top", "pods", "--containers"])?;
        let told = nodes.contains("node-1") && pods.contains("busy-") && pods.contains("Mi");
        if told { Ok(()) } else { Err(format!("{nodes}{pods}")) }
    });
    let raw = machine.kubectl(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes/node-1"]);
    assert!(raw.contains("\"kind\":\"NodeMetrics\"") && raw.contains("\"window\":\""), "{raw}");
    let groups = machine.kubectl(&["api-resources", "--api-group=metrics.k8s.io"]);
    assert!(groups.contains("PodMetrics") && groups.contains("NodeMetrics"), "{groups}");

    machine.kubectl(&["autoscale", "deployment", "busy", "--min=1", "--max=3", "--cpu-percent=100"]);
    machine.until(&["deployment", "busy"], "{.spec.replicas}", "3");
    let condition = |type_: &str| format!("{{.status.conditions[?(@.type==\"{type_}\")].reason}}");
    machine.until(&["hpa", "busy"], &condition("ScalingActive"), "ValidMetricFound");
    machine.until(&["hpa", "busy"], &condition("ScalingLimited"), "TooManyReplicas");
    let events = machine.kubectl(&[
        "get",
        "events",
        "--field-selector=reason=SuccessfulRescale",
        "-o",
        "jsonpath={.items[*].message}",
    ]);
    assert!(events.contains("reason: cpu resource utilization (percentage of request) above target"), "{events}");
    machine.apply(
        "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: other}\nspec: {maxReplicas: 5, scaleTargetRef: {apiVersion: apps/v1, \
         kind: Deployment, name: busy}, metrics: [{type: Pods, pods: {metric: {name: queue}, target: {type: AverageValue, averageValue: 1}}}]}\n",
    );
    machine.until(&["hpa", "other"], &condition("ScalingActive"), "FailedGetPodsMetric");

    // A monitor in a pod: a token, and no more than it may.
    machine.kubectl(&["create", "serviceaccount", "monitor"]);
    machine.kubectl(&["create", "clusterrole", "monitor", "--verb=get", "--resource=nodes/metrics"]);
    machine.kubectl(&[
        "create",
        "clusterrolebinding",
        "monitor",
        "--clusterrole=monitor",
        "--serviceaccount=default:monitor",
    ]);
    let token = machine.kubectl(&["create", "token", "monitor"]);
    let get = |path: &str, token: &str| {
        let header = format!("Authorization: Bearer {}", token.trim());
        let url = format!("https://127.0.0.1:10250{path}");
        let output = machine.command("curl").args(["-sk", "-w", "\n%{http_code}", "-H", &header, &url]).output();
        String::from_utf8_lossy(&output.expect("run curl").stdout).into_owned()
    };
    eventually("the monitor is let in", LIMIT, || {
        let said = get("/metrics/resource", &token);
        if said.ends_with("\n200") && said.contains("node_cpu_usage_seconds_total") { Ok(()) } else { Err(said) }
    });
    let said = get("/pods", &token);
    let words =
        "Forbidden (user=system:serviceaccount:default:monitor, verb=get, resource=nodes, subresource(s)=[pods proxy])";
    assert!(said.contains(words) && said.ends_with("\n403"), "{said}");
    assert!(get("/metrics", "nonsense").ends_with("Unauthorized\n401"));
}

#[test]
fn pods_go_before_the_node_does() {
    let mut machine = Machine::new();
    Image::busybox(&["/bin/sleep", "3600"], &["UNUSED=1"]).push(&machine, "library/unused", "1");
    let often = "--kubelet-arg=housekeeping-interval=1s";
    machine.start(&[often, "--kubelet-arg=eviction-hard="]);
    machine.wait_ready();
    let busybox = "image: 'busybox:1.36', command: [/bin/sh, -c,";
    let fill = "'head -c 4000000 /dev/zero > /v/f; sleep 3600'], volumeMounts: [{name: v, mountPath: /v}]";
    machine.apply(&pod("full", "volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}],", &format!("{busybox} {fill}")));
    machine.apply(&pod(
        "fat",
        "",
        &format!(
            "{busybox} 'head -c 4000000 /dev/zero > /f; sleep 3600'], resources: {{limits: {{ephemeral-storage: 1Mi}}}}"
        ),
    ));
    machine.apply(&pod(
        "lean",
        "",
        &format!("{busybox} 'sleep 3600'], resources: {{limits: {{ephemeral-storage: 1Mi}}}}"),
    ));
    for (name, message) in [
        ("full", "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "),
        ("fat", "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "),
    ] {
        machine.until(&["pod", name], "{.status.reason}", "Evicted");
        machine.until(&["pod", name], "{.status.message}", message);
        phase(&machine, name, "Failed");
    }
    phase(&machine, "lean", "Running");

    // Images that nobody uses, as if the disk were always full.
    machine.apply(&pod("once", "restartPolicy: Never,", "image: 'unused:1', command: [/bin/true]"));
    phase(&machine, "once", "Succeeded");
    machine.kubectl(&["delete", "pod", "once"]);
    machine.end_server(nix::sys::signal::Signal::SIGTERM);
    let collect = ["image-gc-high-threshold=1", "image-gc-low-threshold=0", "minimum-image-ttl-duration=1s"];
    let collect = collect.map(|flag| format!("--kubelet-arg={flag}"));
    let mut arguments = vec![often, "--kubelet-arg=eviction-hard="];
    arguments.extend(collect.iter().map(String::as_str));
    machine.start(&arguments);
    machine.wait_ready();
    eventually("the image is collected, those in use are not", LIMIT, || {
        let names = machine.jsonpath(&["node", "node-1"], "{.status.images[*].names}")?;
        if !names.contains("unused") && names.contains("busybox") { Ok(()) } else { Err(names) }
    });

    // Static pods stay, whatever the node lacks.
    let manifests = machine.directory.path().join("skiff/agent/pod-manifests");
    let own = pod("own", "", &format!("{busybox} 'sleep 3600']")).replace("---\n", "");
    std::fs::write(manifests.join("own.yaml"), &own).expect("write the manifest");
    phase(&machine, "own-node-1", "Running");
    let uid = machine.jsonpath(&["pod", "own-node-1"], "{.metadata.uid}").expect("a mirror");
    machine.kubectl(&["delete", "pod", "own-node-1", "--wait=false"]);
    eventually("it is mirrored again", LIMIT, || {
        let seen = machine.jsonpath(&["pod", "own-node-1"], "{.metadata.uid} {.status.phase}")?;
        if !seen.starts_with(&uid) && seen.ends_with("Running") { Ok(()) } else { Err(seen) }
    });
    assert!(machine.kubectl(&["exec", "own-node-1", "--", "echo", "hello"]).contains("hello"));

    machine.end_server(nix::sys::signal::Signal::SIGTERM);
    machine.start(&[
        often,
        "--kubelet-arg=eviction-hard=memory.available<100%",
        "--kubelet-arg=eviction-pressure-transition-period=1s",
    ]);
    machine.wait_ready();
    machine.until(&["pod", "lean"], "{.status.reason}", "Evicted");
    let message = machine.jsonpath(&["pod", "lean"], "{.status.message}").expect("a message");
    assert!(message.starts_with("The node was low on resource: memory. Threshold quantity: "), "{message}");
    let pressure = "{.status.conditions[?(@.type==\"MemoryPressure\")].status}";
    machine.until(&["node", "node-1"], pressure, "True");
    machine.until(&["node", "node-1"], "{.spec.taints[0].key}", "node.kubernetes.io/memory-pressure");
    machine.apply(&pod("late", "nodeName: node-1,", &format!("{busybox} 'sleep 3600']")));
    machine.until(
        &["pod", "late"],
        "{.status.message}",
        "Pod was rejected: The node had condition: [MemoryPressure]. ",
    );
    phase(&machine, "own-node-1", "Running");
    std::fs::remove_file(manifests.join("own.yaml")).expect("remove the manifest");
    eventually("the pod goes with its file", LIMIT, || match machine.try_kubectl(&["get", "pod", "own-node-1"]) {
        Err(why) if why.contains("not found") => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Says, as systemd does on its own socket, in which state the machine is.
const SYSTEMD: &str = "
import os, socket, sys
os.makedirs('/run/systemd', exist_ok=True)
server = socket.socket(socket.AF_UNIX)
server.bind('/run/systemd/private')
server.listen()
print('listening', flush=True)
client, _ = server.accept()
seen = b''
while b'\\r\\n' not in seen: seen += client.recv(4096)
client.sendall(b'OK 00\\r\\n')
while b'NEGOTIATE_UNIX_FD\\r\\n' not in seen: seen += client.recv(4096)
client.sendall(b'AGREE_UNIX_FD\\r\\n')
while b'SystemState\\0' not in seen: seen += client.recv(4096)
body = bytes([1, 115, 0, 0, 8, 0, 0, 0]) + b'stopping\\0'
head = bytes([108, 2, 1, 1, len(body), 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 5, 1, 117, 0, 1, 0, 0, 0])
client.sendall(head + body)
client.recv(1)
";

#[test]
fn containers_end_with_the_machine() {
    let mut machine = Machine::with_server();
    let stubborn = "image: 'busybox:1.36', command: [/bin/sh, -c, 'trap : TERM; while :; do sleep 3600; done']";
    machine.apply(
        &pod("stubborn", "", stubborn).replace("terminationGracePeriodSeconds: 0", "terminationGracePeriodSeconds: 1"),
    );
    phase(&machine, "stubborn", "Running");
    let processes = |machine: &Machine| -> usize {
        let pods = machine.cgroup_directories().into_iter().map(|root| root.join("kubepods/besteffort"));
        pods.flat_map(|group| std::fs::read_dir(group).into_iter().flatten().flatten())
            .flat_map(|pod| std::fs::read_dir(pod.path()).into_iter().flatten().flatten())
            .filter_map(|container| std::fs::read_to_string(container.path().join("cgroup.procs")).ok())
            .map(|pids| pids.lines().count())
            .sum()
    };
    assert!(processes(&machine) > 0, "it runs");
    // A restart of the server is none of the containers' business.
    machine.end_server(nix::sys::signal::Signal::SIGTERM);
    assert!(processes(&machine) > 0, "it still runs");
    machine.start(&[]);
    machine.wait_ready();
    let mut systemd = machine
        .command("python3")
        .args(["-c", SYSTEMD])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("start python");
    let mut line = String::new();
    let out = systemd.stdout.take().expect("its output");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("it listens");
    machine.end_server(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(processes(&machine), 0, "all have ended");
    systemd.wait().expect("it was asked");
    machine.start(&[]);
    machine.wait_ready();
    machine.until(&["pod", "stubborn"], "{.status.containerStatuses[0].restartCount} {.status.phase}", "1 Running");
}
