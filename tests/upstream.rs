//! The scenario with upstream's own kubectl, from Debian's (1.20) to the target version's.

mod harness;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::{Machine, NODE, eventually, result};

const LIMIT: Duration = Duration::from_secs(60);

struct Kubectl<'a> {
    program: PathBuf,
    machine: &'a Machine,
}

impl Kubectl<'_> {
    fn attempt(&self, arguments: &[&str]) -> Result<String, String> {
        result(&self.machine.command(&self.program).args(arguments).output().expect("run kubectl"))
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        self.attempt(arguments)
            .unwrap_or_else(|said| panic!("kubectl {arguments:?}: {said}\n{}", self.machine.last_log()))
    }
}

/// Upstream's kubectl of a version; the test fails where it is not there.
fn program(version: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let (path, script) = match version {
        "1.20" => (root.join("kubectl-debian/usr/bin/kubectl"), "tests/run"),
        _ => (root.join(format!("clients/kubectl-{version}")), "tests/clients/install"),
    };
    assert!(path.exists(), "{} is missing: {script} puts it there", path.display());
    path
}

fn example(name: &str) -> String {
    format!("{}/docs/examples/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn scenario(kubectl: &Kubectl<'_>) {
    let machine = kubectl.machine;
    assert!(kubectl.run(&["get", "nodes"]).contains(" Ready "));
    assert!(kubectl.run(&["apply", "-f", &example("deployment.yaml")]).contains("deployment.apps/httpd created"));
    kubectl.run(&["rollout", "status", "deployment/httpd", "--timeout=60s"]);
    assert!(kubectl.run(&["apply", "-f", &example("deployment.yaml")]).contains("deployment.apps/httpd unchanged"));
    assert!(kubectl.run(&["apply", "-f", &example("nodeport.yaml")]).contains("service/httpd-svc configured"));
    let url = format!("http://{NODE}:30008/");
    eventually("all three pods answer at the node port", LIMIT, || {
        let mut seen = BTreeSet::new();
        for _ in 0..40 {
            seen.insert(machine.outside.get(&url).map_err(|e| e.to_string())?.text());
        }
        if seen.len() == 3 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    let table = kubectl.run(&["get", "pods", "-o", "wide"]);
    assert!(table.starts_with("NAME ") && table.matches("Running").count() == 3 && table.contains("node-1"), "{table}");
    let described = kubectl.run(&["describe", "deployment", "httpd"]);
    assert!(
        described.contains("3 desired | 3 updated | 3 total | 3 available") && described.contains("ScalingReplicaSet"),
        "{described}"
    );
    assert!(kubectl.run(&["describe", "node", "node-1"]).contains("KubeletReady"));
    assert!(kubectl.run(&["logs", "-l", "app=httpd", "--tail=5"]).is_empty());

    kubectl.run(&["scale", "deployment/httpd", "--replicas=2"]);
    kubectl.run(&["wait", "--for=condition=Available", "deployment/httpd", "--timeout=60s"]);
    kubectl.run(&["set", "image", "deployment/httpd", "httpd=busybox:no-such-tag"]);
    eventually("the broken image shows", LIMIT, || {
        let pods = kubectl.run(&["get", "pods"]);
        if pods.contains("ImagePullBackOff") { Ok(()) } else { Err(pods) }
    });
    kubectl.run(&["rollout", "undo", "deployment/httpd"]);
    kubectl.run(&["rollout", "status", "deployment/httpd", "--timeout=60s"]);
    kubectl.run(&[
        "patch",
        "deployment",
        "httpd",
        "--type=json",
        "-p",
        r#"[{"op":"replace","path":"/spec/replicas","value":1}]"#,
    ]);
    kubectl.run(&["label", "deployment", "httpd", "tier=front"]);
    kubectl.run(&["annotate", "deployment", "httpd", "note=a"]);
    assert!(kubectl.run(&["get", "deployments", "-l", "tier=front", "-o", "name"]).contains("deployment.apps/httpd"));
    kubectl.run(&["create", "deployment", "second", "--image=busybox:1.36", "--", "sleep", "3600"]);
    kubectl.run(&["wait", "--for=condition=Available", "deployment/second", "--timeout=60s"]);
    assert_eq!(kubectl.run(&["exec", "deployment/second", "--", "echo", "hello"]), "hello\n");
    kubectl.run(&["create", "configmap", "settings", "--from-literal=a=b"]);
    let refused = kubectl.attempt(&["create", "configmap", "settings", "--from-literal=a=b"]).expect_err("it exists");
    assert!(refused.contains(r#"configmaps "settings" already exists"#), "{refused}");
    let explained = kubectl.run(&["explain", "deployment.spec.replicas"]);
    assert!(explained.contains("replicas"), "{explained}");
    assert!(kubectl.run(&["api-resources"]).contains("deployments"));
    kubectl.run(&["delete", "deployment", "httpd", "second"]);
    kubectl.run(&["delete", "service", "httpd-svc"]);
    kubectl.run(&["delete", "configmap", "settings"]);
    machine.until(&["pods"], "{.items[*].metadata.name}", "");
}

fn scenarios(versions: &[&str]) {
    let machine = Machine::with_server();
    for version in versions {
        let kubectl = Kubectl { program: program(version), machine: &machine };
        eprintln!("{}: {}", kubectl.program.display(), kubectl.run(&["version", "--client", "-o", "yaml"]));
        scenario(&kubectl);
    }
}

/// Between the versions lie other discovery documents, other validation, other bodies.
#[test]
fn the_scenario_with_old_kubectls() {
    scenarios(&["1.20", "1.24"]);
}

#[test]
fn the_scenario_with_new_kubectls() {
    scenarios(&["1.29", "1.36"]);
}
