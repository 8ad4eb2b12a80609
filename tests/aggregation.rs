//! An API server of somebody else behind ours, on a real cluster: found, asked with kubectl, told who asks, and away.

mod harness;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use harness::{Machine, NODE, eventually};

const PORT: &str = "9443";
const NAME: &str = "v1.harbour.example.org";

/// Ends with the test.
struct Extension(Child);

impl Drop for Extension {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts it on the node, with what the cluster says to extension servers.
fn start(machine: &Machine) -> Extension {
    let directory = machine.directory.path();
    let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let (certificate, key, front) = (path("boats.crt"), path("boats.key"), path("front.crt"));
    let made = machine
        .command("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=boats"])
        .args(["-addext", "subjectAltName=DNS:boats.default.svc", "-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", &key, "-out", &certificate])
        .output()
        .expect("run openssl");
    assert!(made.status.success(), "{}", harness::text(&made));
    let map = ["configmap", "extension-apiserver-authentication", "-n", "kube-system"];
    let data = |field: &str| machine.jsonpath(&map, &format!("{{.data.{field}}}")).expect("the config map");
    fs::write(&front, data("requestheader-client-ca-file")).expect("write the authority");
    let allowed = data("requestheader-allowed-names");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/extension/server.py");
    let child = machine
        .command("python3")
        .arg(script)
        .args([&certificate, &key, &front, allowed.trim_matches(['[', ']', '"']), PORT])
        .stdin(Stdio::null())
        .spawn()
        .expect("start python3");
    Extension(child)
}

#[test]
fn an_extension_server_behind_a_service() {
    let machine = Machine::with_server();
    let _extension = start(&machine);
    machine.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: boats}}\nspec:\n  \
         ports: [{{name: https, port: 443, targetPort: {PORT}}}]\n"
    ));
    let encoded = {
        let mut command = machine.command("sh");
        command.args(["-c", "base64 -w0 < \"$0\""]).arg(machine.directory.path().join("boats.crt"));
        harness::result(&command.output().expect("run base64")).expect("encoded")
    };
    machine.apply(&format!(
        "apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {{name: {NAME}}}\nspec:\n  group: harbour.example.org\n  \
         version: v1\n  groupPriorityMinimum: 2000\n  versionPriority: 10\n  caBundle: {encoded}\n  \
         service: {{namespace: default, name: boats}}\n"
    ));
    let reason = "{.status.conditions[?(@.type==\"Available\")].reason}";
    machine.until(&["apiservice", NAME], reason, "EndpointsNotFound");
    machine.apply(&format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: boats-1\n  \
         labels: {{kubernetes.io/service-name: boats}}\naddressType: IPv4\nports: [{{name: https, port: {PORT}}}]\n\
         endpoints: [{{addresses: [{NODE}], conditions: {{ready: true}}}}]\n"
    ));
    machine.until(&["apiservice", NAME], reason, "Passed");

    let installed = Path::new("/usr/bin/kubectl");
    let mut programs = vec![vec![harness::skiff().to_string_lossy().into_owned(), "kubectl".to_owned()]];
    if installed.exists() {
        programs.push(vec!["/usr/bin/kubectl".to_owned()]);
    }
    for program in programs {
        let run = |arguments: &[&str]| {
            let mut command = machine.command(&program[0]);
            harness::result(&command.args(&program[1..]).args(arguments).output().expect("run kubectl"))
        };
        let told = eventually("the kind is found", Duration::from_secs(20), || {
            let told = run(&["api-resources", "--api-group=harbour.example.org", "--no-headers"])?;
            if told.contains("boats") { Ok(told) } else { Err(told) }
        });
        let words: Vec<&str> = told.split_whitespace().collect();
        assert_eq!(words, ["boats", "bo", "harbour.example.org/v1", "false", "Boat"], "{program:?}");
        let list = run(&["get", "bo"]).expect("listed");
        assert!(list.contains("NAME") && list.contains("skiff"), "{program:?}: {list}");
        let asked_by = ["get", "boats.harbour.example.org", "skiff", "-o", "jsonpath={.spec.askedBy}"];
        if program.len() > 1 {
            // Ours asks as nobody else.
            assert_eq!(run(&asked_by).as_deref(), Ok("system:admin"));
            continue;
        }
        let as_jane = [&asked_by[..], &["--as=jane", "--as-group=system:masters"]].concat();
        assert_eq!(run(&as_jane).as_deref(), Ok("jane"), "{program:?}");
        let refused = run(&["get", "boats", "--as=nobody"]).expect_err("nobody may");
        assert!(refused.contains("boats.harbour.example.org is forbidden: User \"nobody\" cannot list"), "{refused}");
    }
    let table = machine.kubectl(&["get", "apiservice", NAME, "v1.apps", "--no-headers"]);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    assert_eq!(lines, [[NAME, "default/boats", "True"], ["v1.apps", "Local", "True"]]);

    // Its endpoints go, and with them what it served; everything else stays.
    machine.kubectl(&["delete", "endpointslice", "boats-1"]);
    machine.until(&["apiservice", NAME], reason, "EndpointsNotFound");
    let away = machine.try_kubectl(&["get", "--raw", "/apis/harbour.example.org/v1/boats"]).expect_err("it is away");
    assert!(away.contains("unable to handle the request") || away.contains("service unavailable"), "{away}");
    assert!(machine.kubectl(&["get", "nodes", "-o", "name"]).starts_with("node/"));
    machine.kubectl(&["delete", "apiservice", NAME]);
}
