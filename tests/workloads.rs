//! Jobs, cron jobs, daemon sets and stateful sets on a real cluster with real containers, by upstream's kubectl.

mod harness;

use std::time::Duration;

use harness::{Machine, NODE, eventually, result};

const LIMIT: Duration = Duration::from_secs(90);

/// Upstream's kubectl.
fn try_kubectl(machine: &Machine, arguments: &[&str]) -> Result<String, String> {
    result(&machine.command("kubectl").args(arguments).output().expect("run kubectl (Debian: kubernetes-client)"))
}

#[track_caller]
fn kubectl(machine: &Machine, arguments: &[&str]) -> String {
    try_kubectl(machine, arguments)
        .unwrap_or_else(|said| panic!("kubectl {arguments:?}: {said}\n{}", machine.last_log()))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A manifest of a set whose pods only wait.
fn set(kind: &str, name: &str, more: &str, image: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: {kind}
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
{more}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: {image}
        command: [sh, -c, "exec sleep 3600"]
        env: [{{name: VERSION, value: "1"}}]
"#
    )
}

#[test]
fn jobs_run_to_their_end() {
    let machine = Machine::with_server();
    kubectl(&machine, &["create", "job", "hello", "--image=busybox:1.36", "--", "sh", "-c", "echo hello"]);
    kubectl(&machine, &["wait", "--for=condition=complete", "job/hello", "--timeout=60s"]);
    assert_eq!(kubectl(&machine, &["logs", "job/hello"]).trim(), "hello");
    let row = words(kubectl(&machine, &["get", "job", "hello", "--no-headers"]).trim());
    assert_eq!(row[..3], ["hello", "Complete", "1/1"], "{row:?}");
    machine.until(&["pods", "-l", "job-name=hello"], "{.items[*].metadata.finalizers}", "");

    machine.apply(
        r#"
apiVersion: batch/v1
kind: Job
metadata: {name: broken}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: 'busybox:1.36', command: [sh, -c, "exit 3"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: indexed}
spec:
  completions: 3
  parallelism: 2
  completionMode: Indexed
  ttlSecondsAfterFinished: 3600
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: 'busybox:1.36', command: [sh, -c, "echo index $JOB_COMPLETION_INDEX"]}]
"#,
    );
    kubectl(&machine, &["wait", "--for=condition=failed", "job/broken", "--timeout=60s"]);
    let reason = machine.jsonpath(&["job", "broken"], "{.status.conditions[?(@.type=='Failed')].reason}");
    assert_eq!(reason.expect("a reason"), "BackoffLimitExceeded");
    kubectl(&machine, &["wait", "--for=condition=complete", "job/indexed", "--timeout=60s"]);
    assert_eq!(machine.jsonpath(&["job", "indexed"], "{.status.completedIndexes}").expect("indexes"), "0-2");
    let logs = kubectl(&machine, &["logs", "-l", "batch.kubernetes.io/job-completion-index=2"]);
    assert_eq!(logs.trim(), "index 2");

    kubectl(&machine, &["create", "cronjob", "often", "--image=busybox:1.36", "--schedule=* * * * *", "--", "true"]);
    kubectl(&machine, &["create", "job", "now", "--from=cronjob/often"]);
    kubectl(&machine, &["wait", "--for=condition=complete", "job/now", "--timeout=60s"]);
    eventually("the schedule makes a job", LIMIT, || {
        let last = machine.jsonpath(&["cronjob", "often"], "{.status.lastSuccessfulTime}")?;
        if last.is_empty() { Err(kubectl(&machine, &["get", "cronjobs,jobs"])) } else { Ok(()) }
    });
}

#[test]
fn sets_keep_their_pods_and_roll() {
    let machine = Machine::with_server();
    let agent = set("DaemonSet", "agent", "", "busybox:1.36");
    let web = set("StatefulSet", "web", "  serviceName: web\n  replicas: 2", "busybox:1.36");
    machine.apply(&agent);
    machine.apply(&web);
    for one in ["daemonset/agent", "statefulset/web"] {
        kubectl(&machine, &["rollout", "status", one, "--timeout=60s"]);
    }
    let names = machine.jsonpath(&["pods", "-l", "app=web"], "{.items[*].metadata.name}").expect("names");
    assert_eq!(words(&names), ["web-0", "web-1"]);
    let on = machine.jsonpath(&["pods", "-l", "app=agent"], "{.items[*].spec.nodeName}").expect("a node");
    assert_eq!(words(&on).len(), 1, "{on} on {NODE}");
    let row = words(kubectl(&machine, &["get", "daemonset", "agent", "--no-headers"]).trim());
    assert_eq!(row[..7], ["agent", "1", "1", "1", "1", "1", "<none>"], "{row:?}");

    for (kind, name, manifest) in [("daemonset", "agent", &agent), ("statefulset", "web", &web)] {
        // Made anew without its pods: they are its own again, and stay.
        let label = format!("app={name}");
        let pods = || machine.jsonpath(&["pods", "-l", &label], "{.items[*].metadata.uid}").expect("pods");
        let before = pods();
        kubectl(&machine, &["delete", kind, name, "--cascade=orphan"]);
        machine.apply(manifest);
        kubectl(&machine, &["rollout", "status", &format!("{kind}/{name}"), "--timeout=60s"]);
        assert_eq!(pods(), before, "{kind}");
        let revisions = machine.jsonpath(&["controllerrevisions", "-l", &label], "{.items[*].metadata.name}");
        assert_eq!(words(&revisions.expect("revisions")).len(), 1, "{kind}");
    }

    for one in ["daemonset/agent", "statefulset/web"] {
        kubectl(&machine, &["set", "env", one, "VERSION=2"]);
        kubectl(&machine, &["rollout", "status", one, "--timeout=60s"]);
    }
    for app in ["agent", "web"] {
        let path = "{.items[*].spec.containers[0].env[0].value}";
        let versions = machine.jsonpath(&["pods", "-l", &format!("app={app}")], path).expect("versions");
        assert!(words(&versions).iter().all(|version| version == "2"), "{app}: {versions}");
    }
    let history = kubectl(&machine, &["rollout", "history", "statefulset/web"]);
    assert!(history.lines().filter(|line| line.starts_with(['1', '2'])).count() == 2, "{history}");
    kubectl(&machine, &["rollout", "undo", "statefulset/web"]);
    kubectl(&machine, &["rollout", "status", "statefulset/web", "--timeout=60s"]);

    kubectl(&machine, &["create", "pdb", "web", "--selector=app=web", "--min-available=2"]);
    machine.until(&["pdb", "web"], "{.status.currentHealthy}", "2");
    let body = r#"{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"web-1","namespace":"default"}}"#;
    let file = std::env::temp_dir().join(format!("eviction-{}.json", std::process::id()));
    std::fs::write(&file, body).expect("a file for the request");
    let path = "/api/v1/namespaces/default/pods/web-1/eviction";
    let refused = try_kubectl(&machine, &["create", "--raw", path, "-f", file.to_str().expect("a plain path")]);
    std::fs::remove_file(&file).expect("it was written above");
    let why = refused.expect_err("the budget allows none");
    assert!(why.contains("Cannot evict pod as it would violate the pod's disruption budget."), "{why}");
    kubectl(&machine, &["scale", "statefulset/web", "--replicas=1"]);
    machine.until(&["pods", "-l", "app=web"], "{.items[*].metadata.name}", "web-0");
}
