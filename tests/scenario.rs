//! The scenario of `docs/examples/` on a real cluster with real containers and real packets.

mod harness;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::{Machine, NODE, eventually, http};

const LIMIT: Duration = Duration::from_secs(60);

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples").join(name);
    path.to_str().expect("the checkout's path is text").to_owned()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Which servers answer at a URL, and how often, from a namespace's view.
fn answers(space: &harness::Namespaces, url: &str, requests: usize) -> Result<BTreeMap<String, usize>, String> {
    let mut seen = BTreeMap::new();
    for _ in 0..requests {
        let answer = space.get(url).map_err(|e| format!("{url}: {e}"))?;
        if answer.status != 200 {
            return Err(format!("{url}: {}", answer.status));
        }
        *seen.entry(answer.text().trim().to_owned()).or_insert(0) += 1;
    }
    Ok(seen)
}

#[test]
fn a_deployment_serves_heals_and_scales() {
    let machine = Machine::with_server();
    machine.kubectl(&["apply", "-f", &example("deployment.yaml")]);
    machine.kubectl(&["rollout", "status", "deployment/httpd", "--timeout=60s"]);

    for ip in words(&machine.jsonpath(&["pods", "-l", "app=httpd"], "{.items[*].status.podIP}").expect("pod addresses"))
    {
        let seen = answers(&machine.inside, &format!("http://{ip}:80/"), 1).expect("a pod answers at its own address");
        assert!(seen.keys().all(|answer| answer.starts_with("v1 httpd-")), "{seen:?}");
    }
    let service = machine.jsonpath(&["service", "httpd-svc"], "{.spec.clusterIP}").expect("the cluster IP");
    eventually("requests to the cluster IP reach all three pods", LIMIT, || {
        match answers(&machine.inside, &format!("http://{service}/"), 40) {
            Ok(seen) if seen.len() == 3 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });

    machine.kubectl(&["apply", "-f", &example("nodeport.yaml")]);
    eventually("requests from outside to the node port reach all three pods", LIMIT, || {
        match answers(&machine.outside, &format!("http://{NODE}:30008/"), 40) {
            Ok(seen) if seen.len() == 3 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });

    machine.kubectl(&["apply", "-f", &example("pod.yaml")]);
    machine.until(&["pod", "shell"], "{.status.phase}", "Running");
    eventually("the service's name resolves inside of a pod", LIMIT, || {
        let log = machine.kubectl(&["logs", "shell"]);
        if log.contains(&format!("Address: {service}")) { Ok(()) } else { Err(log) }
    });

    let pods = words(&machine.jsonpath(&["pods", "-l", "app=httpd"], "{.items[*].metadata.name}").expect("pod names"));
    machine.kubectl(&["delete", "pod", &pods[0]]);
    machine.until(&["deployment", "httpd"], "{.status.readyReplicas}", "3");
    let after = words(&machine.jsonpath(&["pods", "-l", "app=httpd"], "{.items[*].metadata.name}").expect("pod names"));
    assert!(!after.contains(&pods[0]), "{after:?}");

    machine.kubectl(&["scale", "deployment/httpd", "--replicas=6"]);
    machine.until(&["deployment", "httpd"], "{.status.readyReplicas}", "6");
    machine.kubectl(&["scale", "deployment/httpd", "--replicas=0"]);
    machine.until(&["pods", "-l", "app=httpd"], "{.items[*].metadata.name}", "");
    machine.inside.get(&format!("http://{service}/")).expect_err("a service without endpoints refuses");
}

#[test]
fn a_rolling_update_loses_no_request_and_a_broken_one_is_undone() {
    let machine = Machine::with_server();
    machine.kubectl(&["apply", "-f", &example("deployment.yaml")]);
    machine.kubectl(&["rollout", "status", "deployment/httpd", "--timeout=60s"]);
    let service = machine.jsonpath(&["service", "httpd-svc"], "{.spec.clusterIP}").expect("the cluster IP");
    let url = format!("http://{service}/");
    eventually("the service answers", LIMIT, || answers(&machine.inside, &url, 1));

    let stop = Arc::new(AtomicBool::new(false));
    let (told, asked) = (stop.clone(), url.clone());
    let client = machine.inside.on_thread(move || {
        let (mut answered, mut failures) = (BTreeMap::<String, usize>::new(), Vec::new());
        while !told.load(Ordering::Relaxed) {
            match http::request("GET", &asked, &[], &[]) {
                Ok(answer) if answer.status == 200 => {
                    *answered.entry(answer.text().split(' ').next().unwrap_or("").to_owned()).or_default() += 1;
                }
                other => failures.push(format!("{other:?}")),
            }
        }
        (answered, failures)
    });
    machine.kubectl(&["set", "env", "deployment/httpd", "VERSION=v2"]);
    machine.kubectl(&["rollout", "status", "deployment/httpd", "--timeout=60s"]);
    eventually("only the new version answers", LIMIT, || match answers(&machine.inside, &url, 20) {
        Ok(seen) if seen.keys().all(|answer| answer.starts_with("v2 ")) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    stop.store(true, Ordering::Relaxed);
    let (answered, failures) = client.join().expect("the client does not panic");
    assert!(
        failures.is_empty(),
        "{} requests failed, the first: {}; answered: {answered:?}",
        failures.len(),
        failures[0]
    );
    assert!(answered["v1"] > 0 && answered["v2"] > 0, "{answered:?}");

    machine.kubectl(&["set", "image", "deployment/httpd", "httpd=busybox:no-such-tag"]);
    eventually("the broken image shows", LIMIT, || {
        let pods = machine.kubectl(&["get", "pods"]);
        if pods.contains("ImagePullBackOff") { Ok(()) } else { Err(pods) }
    });
    answers(&machine.inside, &url, 20).expect("the old pods go on answering");
    machine.kubectl(&["rollout", "undo", "deployment/httpd"]);
    machine.kubectl(&["rollout", "status", "deployment/httpd", "--timeout=60s"]);
    eventually("the pods of the broken update are gone", LIMIT, || {
        let pods = machine.kubectl(&["get", "pods"]);
        if pods.contains("ImagePull") || pods.lines().count() != 4 { Err(pods) } else { Ok(()) }
    });
}

#[test]
fn init_containers_sidecars_settings_and_secrets() {
    let machine = Machine::with_server();
    machine.kubectl(&["apply", "-f", &example("sidecar.yaml"), "-f", &example("config.yaml")]);
    machine.until(&["pod", "sidecar"], "{.status.phase}", "Running");
    machine.until(&["pod", "sidecar"], "{.status.containerStatuses[0].ready}", "true");
    let ip = machine.jsonpath(&["pod", "sidecar"], "{.status.podIP}").expect("the address");
    eventually("the file of the init container is served", LIMIT, || {
        match answers(&machine.inside, &format!("http://{ip}/"), 1) {
            Ok(seen) if seen.contains_key("prepared") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let log = machine.kubectl(&["logs", "sidecar", "-c", "watcher"]);
    assert!(log.contains("sidecar saw prepared"), "{log}");

    eventually("settings and secrets arrive both ways", LIMIT, || {
        let log = machine.try_kubectl(&["logs", "configured"])?;
        if log.contains("env=blue,opensesame file=blue,opensesame") { Ok(()) } else { Err(log) }
    });
    machine.kubectl(&["patch", "configmap", "settings", "-p", r#"{"data":{"colour":"green"}}"#]);
    eventually("a change of the ConfigMap reaches the file", LIMIT, || {
        let log = machine.kubectl(&["logs", "configured", "--tail=1"]);
        if log.contains("env=blue,opensesame file=green,opensesame") { Ok(()) } else { Err(log) }
    });
    machine.kubectl(&["delete", "-f", &example("sidecar.yaml"), "-f", &example("config.yaml")]);
    machine.until(&["pods"], "{.items[*].metadata.name}", "");
}

#[test]
fn a_replication_controller_and_a_namespace_that_goes_with_everything() {
    let machine = Machine::with_server();
    machine.kubectl(&["apply", "-f", &example("replicationcontroller.yaml"), "-f", &example("namespace.yaml")]);
    machine.until(&["rc", "elder"], "{.status.readyReplicas}", "2");
    machine.until(&["deployment", "books", "-n", "shelf"], "{.status.readyReplicas}", "2");
    machine.kubectl(&["delete", "namespace", "shelf"]);
    let gone = machine.try_kubectl(&["get", "namespace", "shelf"]).expect_err("the namespace is gone");
    assert!(gone.contains("namespaces \"shelf\" not found"), "{gone}");
    for kind in ["pods", "deployments", "replicasets", "configmaps", "serviceaccounts"] {
        let left = machine.kubectl(&["get", kind, "-n", "shelf", "-o", "name"]);
        assert_eq!(left, "", "{kind}");
    }
    machine.kubectl(&["delete", "rc", "elder"]);
    machine.until(&["pods"], "{.items[*].metadata.name}", "");
}

/// A pod that only waits, with more of its spec and metadata as flow YAML.
fn waiting_pod(name: &str, metadata: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, {metadata}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         {spec}\n  containers:\n  - {{name: c, image: 'busybox:1.36', command: [sleep, '3600'], \
         resources: {{requests: {{example.org/seat: 1}}, limits: {{example.org/seat: 1}}}}}}\n"
    )
}

#[test]
fn pods_keep_away_from_each_other_and_important_ones_take_room() {
    let machine = Machine::with_server();
    let node = machine.jsonpath(&["nodes"], "{.items[0].metadata.name}").expect("the node's name");
    let seats = r#"{"status":{"capacity":{"example.org/seat":"3"},"allocatable":{"example.org/seat":"3"}}}"#;
    machine.kubectl(&["patch", "node", &node, "--subresource=status", "--type=merge", "-p", seats]);
    machine.until(&["node", &node], "{.status.allocatable.example\\.org/seat}", "3");

    let alone = "affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: \
                 kubernetes.io/hostname, labelSelector: {matchLabels: {app: alone}}}]}}";
    machine.apply(&waiting_pod("one", "labels: {app: alone}", alone));
    machine.until(&["pod", "one"], "{.status.phase}", "Running");
    machine.apply(&waiting_pod("two", "labels: {app: alone}", alone));
    machine.until(
        &["pod", "two"],
        "{.status.conditions[?(@.type=='PodScheduled')].message}",
        "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules. preemption: 0/1 nodes are available: \
         1 No preemption victims found for incoming pod.",
    );
    machine.kubectl(&["delete", "pod", "one"]);
    machine.until(&["pod", "two"], "{.status.phase}", "Running");

    let spread = "topologySpreadConstraints: [{maxSkew: 1, minDomains: 2, topologyKey: kubernetes.io/hostname, \
                  whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: even}}}]";
    machine.apply(&waiting_pod("three", "labels: {app: even}", spread));
    machine.until(&["pod", "three"], "{.status.phase}", "Running");
    machine.apply(&waiting_pod("four", "labels: {app: even}", spread));
    eventually("there is no second host to spread over", LIMIT, || {
        let path = "{.status.conditions[?(@.type=='PodScheduled')].message}";
        let message = machine.jsonpath(&["pod", "four"], path)?;
        if message.contains("1 node(s) didn't match pod topology spread constraints") { Ok(()) } else { Err(message) }
    });
    machine.kubectl(&["delete", "pod", "four"]);

    machine.kubectl(&["create", "priorityclass", "low", "--value=-1"]);
    let gated = "priorityClassName: low\n  schedulingGates: [{name: example.org/wait}]";
    machine.apply(&waiting_pod("gated", "labels: {app: gated}", gated));
    machine.until(&["pod", "gated"], "{.status.conditions[?(@.type=='PodScheduled')].reason}", "SchedulingGated");
    machine.kubectl(&[
        "patch",
        "pod",
        "gated",
        "--type=json",
        "-p",
        r#"[{"op":"remove","path":"/spec/schedulingGates"}]"#,
    ]);
    machine.until(&["pod", "gated"], "{.status.phase}", "Running");

    // Three seats, three pods: one of them has to go, the least important.
    machine.apply(&waiting_pod("vip", "namespace: kube-system", "priorityClassName: system-cluster-critical"));
    machine.until(&["pod", "vip", "-n", "kube-system"], "{.status.phase}", "Running");
    machine.until(&["pods"], "{.items[*].metadata.name}", "three two");
    let uid = machine.jsonpath(&["pod", "vip", "-n", "kube-system"], "{.metadata.uid}").expect("the uid");
    eventually("the event tells for whom it went", LIMIT, || {
        let events =
            machine.kubectl(&["get", "events", "--field-selector=reason=Preempted", "-o", "jsonpath={..message}"]);
        if events == format!("Preempted by pod {uid} on node {node}") { Ok(()) } else { Err(events) }
    });
}

#[test]
fn a_namespace_has_limits_quotas_and_a_level_of_security() {
    let machine = Machine::with_server();
    machine.kubectl(&["create", "namespace", "small"]);
    machine.kubectl(&[
        "create",
        "quota",
        "few",
        "-n",
        "small",
        "--hard=pods=1,requests.cpu=500m,count/replicasets.apps=1",
    ]);
    machine.until(&["quota", "few", "-n", "small"], "{.status.used.pods}", "0");
    let refused =
        machine.try_kubectl(&["run", "silent", "-n", "small", "--image=busybox:1.36"]).expect_err("no request");
    assert!(refused.contains("failed quota: few: must specify requests.cpu for: silent"), "{refused}");
    machine.apply(
        "apiVersion: v1\nkind: LimitRange\nmetadata: {name: usual, namespace: small}\nspec:\n  limits:\n  \
         - {type: Container, defaultRequest: {cpu: 100m}, default: {cpu: 200m}}\n",
    );
    let run = |name: &str| {
        let command = ["--restart=Never", "--", "sleep", "3600"];
        let mut words = vec!["run", name, "-n", "small", "--image=busybox:1.36"];
        words.extend(command);
        machine.try_kubectl(&words)
    };
    run("one").expect("there is room for one");
    machine.until(&["pod", "one", "-n", "small"], "{.spec.containers[0].resources.requests.cpu}", "100m");
    machine.until(&["quota", "few", "-n", "small"], "{.status.used.requests\\.cpu}", "100m");
    let refused = run("two").expect_err("there is room for one");
    assert!(
        refused.contains(
            "pods \"two\" is forbidden: exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1"
        ),
        "{refused}"
    );
    machine.kubectl(&["delete", "pod", "one", "-n", "small", "--now"]);
    machine.until(&["quota", "few", "-n", "small"], "{.status.used.pods}", "0");
    run("two").expect("what has gone is given back");

    machine.kubectl(&["label", "namespace", "small", "pod-security.kubernetes.io/enforce=restricted"]);
    machine.kubectl(&["delete", "pod", "two", "-n", "small", "--now"]);
    machine.until(&["quota", "few", "-n", "small"], "{.status.used.pods}", "0");
    let refused = run("three").expect_err("it could become root");
    assert!(
        refused.contains(
            "violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"three\""
        ),
        "{refused}"
    );
    machine.until(&["priorityclass", "system-node-critical"], "{.value}", "2000001000");
}
