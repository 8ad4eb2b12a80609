//! Clients that others wrote, against the real server: the official Python and JavaScript clients, kube-rs with a reflector
//! and a controller, Helm, and upstream's kubectl of the target version, whose output ours has to have.
//!
//! `tests/clients/install` puts them below `target/clients`; a client that is missing fails its test.

mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use harness::{Machine, skiff, text};

/// Kinds whose documentation is held against files.
const EXPLAINED: [&str; 10] = [
    "pods",
    "deployments",
    "services",
    "configmaps",
    "secrets",
    "nodes",
    "namespaces",
    "endpointslices",
    "leases",
    "serviceaccounts",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn client(name: &str) -> PathBuf {
    let path = root().join("target/clients").join(name);
    assert!(path.exists(), "{} is missing: tests/clients/install puts it there", path.display());
    path
}

#[track_caller]
fn must_succeed(machine: &Machine, command: &mut Command) {
    let output = command.output().expect("run the client");
    assert!(output.status.success(), "{command:?}: {}\n{}", text(&output), machine.last_log());
}

#[test]
fn the_official_python_client() {
    let machine = Machine::with_server();
    let script = root().join("tests/clients/python_client.py");
    must_succeed(&machine, machine.command(client("python/bin/python")).arg(script));
}

#[test]
fn the_official_javascript_client() {
    let machine = Machine::with_server();
    // Node.js looks for modules beside the script.
    let script = client("javascript/node_modules").with_file_name("client.mjs");
    fs::copy(root().join("tests/clients/javascript_client.mjs"), &script).expect("copy the script");
    must_succeed(&machine, machine.command(client("python/bin/node")).arg(script));
}

/// `tests/clients/install` builds it; where cargo puts it depends on the machine's target.
#[test]
fn a_controller_written_with_kube_rs() {
    let machine = Machine::with_server();
    let built = fs::read_dir(client("kube-rs")).expect("the directory of builds").flatten();
    let programs = built.map(|target| target.path().join("debug/kube-rs-client")).filter(|path| path.exists());
    let program = programs.last().expect("kube-rs-client: tests/clients/install builds it");
    must_succeed(&machine, &mut machine.command(program));
}

fn helm(version: &str) {
    let machine = Machine::with_server();
    let chart = root().join("tests/clients/chart");
    let helm = |arguments: &[&str]| must_succeed(&machine, machine.command(client(version)).args(arguments));
    let greeting = || machine.jsonpath(&["configmap", "boat"], "{.data.greeting}");
    helm(&["install", "boat", &chart.to_string_lossy(), "--wait", "--timeout", "60s"]);
    assert_eq!(greeting().as_deref(), Ok("ahoy"));
    helm(&["upgrade", "boat", &chart.to_string_lossy(), "--set", "greeting=land", "--wait", "--timeout", "60s"]);
    assert_eq!(greeting().as_deref(), Ok("land"));
    helm(&["rollback", "boat", "1", "--wait", "--timeout", "60s"]);
    assert_eq!(greeting().as_deref(), Ok("ahoy"));
    helm(&["uninstall", "boat", "--wait", "--timeout", "60s"]);
    assert!(greeting().expect_err("it is gone").contains("NotFound"));
}

/// It merges in the client.
#[test]
fn helm_3_installs_upgrades_rolls_back_and_uninstalls() {
    helm("helm-3");
}

/// It lets the server merge.
#[test]
fn helm_4_installs_upgrades_rolls_back_and_uninstalls() {
    helm("helm-4");
}

struct Both {
    machine: Machine,
    upstream: PathBuf,
}

impl Both {
    fn new() -> Self {
        Self { machine: Machine::with_server(), upstream: client("kubectl-1.36") }
    }

    /// What upstream's kubectl and ours make of a line, as a shell splits it.
    fn run(&self, line: &str) -> [Output; 2] {
        let ours = format!("{} kubectl", skiff().display());
        [self.upstream.display().to_string(), ours].map(|program| {
            let mut command = self.machine.command("sh");
            command.args(["-c", &format!("{program} {line}")]).output().expect("run a kubectl")
        })
    }
}

/// Text in which ages and the columns that they shift are alike.
fn without_ages(bytes: &[u8]) -> String {
    let is_age = |word: &str| {
        word.ends_with(['s', 'm', 'h', 'd'])
            && word.starts_with(|c: char| c.is_ascii_digit())
            && word.chars().all(|c| c.is_ascii_digit() || "smhd".contains(c))
    };
    let line = |line: &str| {
        let indent = line.len() - line.trim_start().len();
        let words = line.split_whitespace().map(|word| if is_age(word) { "AGE" } else { word });
        format!("{}{}\n", " ".repeat(indent), words.collect::<Vec<_>>().join(" "))
    };
    String::from_utf8_lossy(bytes).lines().map(line).collect()
}

#[test]
fn our_kubectl_says_what_upstreams_says() {
    let both = Both::new();
    let objects = root().join("tests/clients/objects.yaml");
    both.machine.kubectl(&["apply", "-f", &objects.to_string_lossy()]);
    both.machine.until(&["deployment", "web", "-n", "same"], "{.status.observedGeneration}", "2");
    let table = fs::read_to_string(root().join("tests/clients/same_output.txt")).expect("the table");
    let mut differ = Vec::new();
    for line in table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let line = line.replace("OBJECTS", &objects.to_string_lossy());
        let [upstream, ours] = both.run(&line);
        let same = |a: &[u8], b: &[u8]| without_ages(a) == without_ages(b);
        if !same(&upstream.stdout, &ours.stdout)
            || !same(&upstream.stderr, &ours.stderr)
            || upstream.status.code() != ours.status.code()
        {
            differ.push(format!("{line}\n--- upstream\n{}--- ours\n{}", text(&upstream), text(&ours)));
        }
    }
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
}

/// `UPDATE_GOLDEN=1` writes the files anew, from upstream's kubectl.
#[test]
fn explanations_are_upstreams() {
    let both = Both::new();
    for kind in EXPLAINED {
        let [upstream, ours] = both.run(&format!("explain {kind} --recursive")).map(|output| {
            assert!(output.status.success(), "explain {kind}: {}", text(&output));
            String::from_utf8(output.stdout).expect("UTF-8")
        });
        let golden = root().join(format!("tests/golden/explain/{kind}.txt"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &upstream).expect("write the golden file");
        }
        let expect = fs::read_to_string(&golden).expect("the golden file");
        assert_eq!(upstream, expect, "upstream's kubectl explains {kind} otherwise than {}", golden.display());
        assert_eq!(ours, expect, "our kubectl explains {kind} otherwise than {}", golden.display());
    }
}
