//! Clients that others wrote, against the real server: the official Python and JavaScript clients, kube-rs with a reflector
//! and a controller, Helm, and upstream's kubectl of the target version, whose output ours has to have.
//!
//! `tests/clients/install` puts them below `target/clients`; a client that is missing fails its test.

mod harness;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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

    /// What upstream's kubectl and ours make of a line, as a shell splits it. Variables may stand before it.
    fn run(&self, line: &str) -> [Output; 2] {
        let is_variable = |word: &str| word.starts_with(|c: char| c.is_ascii_uppercase()) && word.contains('=');
        let (variables, line) = line.split_once(' ').filter(|(word, _)| is_variable(word)).unwrap_or(("", line));
        let ours = format!("{} kubectl", skiff().display());
        [self.upstream.display().to_string(), ours].map(|program| {
            let mut command = self.machine.command("sh");
            command.args(["-c", &format!("{variables} {program} {line}")]).output().expect("run a kubectl")
        })
    }

    /// Runs a table of lines through both; says what differs, and what upstream's kubectl printed.
    fn compare(&self, table: &str) -> (Vec<String>, String) {
        let here = root().join("tests/clients");
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let places = [
            ("HERE", path(&here)),
            ("OBJECTS", path(&here.join("objects.yaml"))),
            ("KUSTOMIZATIONS", path(&root().join("tests/golden/kustomize"))),
        ];
        let table = fs::read_to_string(here.join(table)).expect("the table");
        let (mut differ, mut printed) = (Vec::new(), String::new());
        for written in table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut line = written.to_owned();
            places.iter().for_each(|(name, path)| line = line.replace(name, path));
            let [upstream, ours] = self.run(&line);
            let shown = |output: &Output| {
                let code = output.status.code().unwrap_or(-1);
                let text = format!("{}-- {code}\n{}", unchanging(&output.stdout), unchanging(&output.stderr));
                places.iter().fold(text, |text, (name, path)| text.replace(path, name))
            };
            if shown(&upstream) != shown(&ours) {
                differ.push(format!("{line}\n--- upstream\n{}--- ours\n{}", text(&upstream), text(&ours)));
            }
            printed.push_str(&format!("$ {written}\n{}\n", shown(&upstream)));
        }
        (differ, printed)
    }
}

/// A word that is another one each time: ages, times, tokens, identities, names of temporary files.
fn unchanging_word(word: &str) -> &str {
    let bare = word.trim_matches(['(', ')', ',', '"']);
    let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    let is_age = bare.ends_with(['s', 'm', 'h', 'd'])
        && bare.starts_with(|c: char| c.is_ascii_digit())
        && bare.chars().all(|c| c.is_ascii_digit() || "smhd".contains(c));
    let is_clock = |text: &str| text.len() >= 8 && text.get(2..3) == Some(":") && text.get(5..6) == Some(":");
    let is_date = |text: &str| text.get(4..5) == Some("-") && text.get(7..8) == Some("-") && digits(&text[..4]);
    let is_uid = bare.len() == 36 && bare.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    match bare {
        _ if is_age => "AGE",
        _ if is_date(bare) || is_clock(bare) => "TIME",
        _ if is_uid => "UID",
        _ if bare.starts_with("eyJ") && bare.matches('.').count() == 2 => "TOKEN",
        _ if bare.starts_with("/tmp/") && bare.contains("-edit-") => "DRAFT",
        _ => word,
    }
}

/// Text without what is another each time, and without the widths of columns, which ages shift.
fn unchanging(bytes: &[u8]) -> String {
    let line = |line: &str| {
        // Upstream's diff compares files in directories of its own, and tells when they were written.
        let mut line = line.to_owned();
        for side in ["LIVE", "MERGED"] {
            while let Some(at) = line.find(&format!("/tmp/{side}-")) {
                let end = line[at + 5..].find('/').map_or(line.len(), |end| at + 5 + end);
                line.replace_range(at..end, side);
            }
        }
        if line.starts_with("--- LIVE/") || line.starts_with("+++ MERGED/") {
            line.truncate(line.find('\t').unwrap_or(line.len()));
        }
        let counted = ["resourceVersion:", "generation:"]
            .iter()
            .any(|field| line.trim_start_matches(['+', '-', ' ']).starts_with(field));
        let indent = line.len() - line.trim_start().len();
        let words = line.split_whitespace().map(|word| {
            if counted && word.contains(|c: char| c.is_ascii_digit()) { "N" } else { unchanging_word(word) }
        });
        format!("{}{}\n", " ".repeat(indent), words.collect::<Vec<_>>().join(" "))
    };
    String::from_utf8_lossy(bytes).lines().map(line).collect()
}

#[test]
fn our_kubectl_says_what_upstreams_says() {
    let both = Both::new();
    let here = root().join("tests/clients");
    let apply = |file: &str| both.machine.kubectl(&["apply", "-f", &here.join(file).to_string_lossy()]);
    apply("objects.yaml");
    both.machine.until(&["deployment", "web", "-n", "same"], "{.status.observedGeneration}", "2");
    both.machine.until(
        &["deployment", "web", "-n", "same"],
        "{.status.conditions[?(@.type==\"Available\")].status}",
        "True",
    );
    let (mut differ, printed) = both.compare("golden_output.txt");
    let golden = root().join("tests/golden/output.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &printed).expect("write the golden file");
    }
    apply("objects.yaml");
    apply("described.yaml");
    both.machine.until(
        &["crd", "boats.example.com"],
        "{.status.conditions[?(@.type==\"Established\")].status}",
        "True",
    );
    apply("boat.yaml");
    differ.extend(both.compare("same_output.txt").0);
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
    assert_eq!(printed, fs::read_to_string(&golden).expect("the golden file"), "{}", golden.display());
}

/// What can't be changed is made anew, and what is no longer wanted goes, but nothing that others made.
#[test]
fn apply_makes_anew_and_prunes() {
    let machine = Machine::with_server();
    let file = machine.directory.path().join("maps.yaml");
    let apply = |maps: &[(&str, &str)], flags: &[&str]| {
        let map = |(name, value): &(&str, &str)| {
            format!(
                "{{apiVersion: v1, kind: ConfigMap, immutable: true, metadata: {{name: {name}, labels: {{of: x}}}}, data: {{k: {value}}}}}\n---\n"
            )
        };
        fs::write(&file, maps.iter().map(map).collect::<String>()).expect("written");
        let mut command = machine.command(skiff());
        command.args(["kubectl", "apply", "-f"]).arg(&file).args(flags);
        let output = command.output().expect("run kubectl");
        (output.status.code(), text(&output))
    };
    let done = |said: &str| (Some(0), said.to_owned());
    assert_eq!(apply(&[("a", "one"), ("b", "one")], &[]), done("configmap/a created\nconfigmap/b created\n"));
    let (code, said) = apply(&[("a", "two")], &[]);
    assert!(code == Some(1) && said.contains("field is immutable when `immutable` is set"), "{said}");
    assert_eq!(apply(&[("a", "two")], &["--force"]), done("configmap/a configured\n"));
    assert_eq!(machine.jsonpath(&["configmap", "a"], "{.data.k}").expect("there"), "two");
    machine.kubectl(&["create", "configmap", "others"]);
    machine.kubectl(&["label", "configmap", "others", "of=x"]);
    let kinds = "--prune-allowlist=core/v1/ConfigMap";
    let pruned = done("configmap/a unchanged\nconfigmap/b pruned\n");
    assert_eq!(apply(&[("a", "two")], &["--prune", "-l", "of=x", kinds]), pruned);
    assert_eq!(
        machine.jsonpath(&["configmaps"], "{.items[*].metadata.name}").expect("a list"),
        "a kube-root-ca.crt others"
    );
    // A server that does not answer in time.
    let mut command = machine.command(skiff());
    let watch = ["kubectl", "get", "configmaps", "--watch", "--request-timeout=1s", "-v=6"];
    let said = text(&command.args(watch).output().expect("run kubectl"));
    assert!(said.contains("context deadline exceeded") && said.contains("\"Response\" verb=\"GET\""), "{said}");
}

/// A container beside those of a pod, a copy of a pod, and a pod in the node's namespaces.
#[test]
fn debugging_containers_see_what_they_are_for() {
    let machine = Machine::with_server();
    machine.kubectl(&["run", "victim", "--image=busybox:1.36", "--labels=a=b", "--command", "--", "sleep", "3600"]);
    machine.kubectl(&["wait", "--for=condition=Ready", "pod/victim", "--timeout=60s"]);
    // What a container prints before somebody is there goes to its log only, so each waits for a line.
    let debug = |arguments: &[&str], script: &str| {
        let mut command = machine.command(skiff());
        command.args(["kubectl", "debug", "-q", "-i", "--image=busybox:1.36"]).args(arguments);
        command.args(["--", "sh", "-c", &format!("read line; {script}")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("run kubectl");
        child.stdin.take().expect("piped").write_all(b"go\n").expect("written");
        text(&child.wait_with_output().expect("wait for kubectl"))
    };
    let said = debug(&["victim", "--target=victim"], "ps -o args");
    assert!(said.lines().any(|line| line == "sleep 3600"), "{said}");
    let copied = debug(&["victim", "--copy-to=copy", "-c", "new"], "ps -o args; echo seen");
    assert!(copied.lines().any(|line| line == "sleep 3600") && copied.contains("seen"), "{copied}");
    machine.until(&["pod", "copy"], "{.spec.shareProcessNamespace} {.metadata.labels}", "true ");
    let node = debug(&["node/node-1"], "ls /host/etc/skiff");
    assert!(node.contains("skiff.yaml"), "{node}");
}

#[test]
fn the_proxy_lets_through_what_it_may() {
    let machine = Machine::with_server();
    let socket = machine.directory.path().join("proxy.sock");
    let mut proxy = machine.command(skiff());
    proxy.args(["kubectl", "proxy", "--port=8009", "--api-prefix=/ours"]);
    let mut proxy = proxy.spawn().expect("start the proxy");
    let mut at_socket = machine.command(skiff());
    let mut at_socket =
        at_socket.args(["kubectl", "proxy", "--unix-socket"]).arg(&socket).spawn().expect("start the proxy");
    let answer = harness::eventually("the proxy answers", std::time::Duration::from_secs(20), || {
        machine.inside.get("http://127.0.0.1:8009/ours/api/v1/namespaces/default").map_err(|e| e.to_string())
    });
    assert_eq!(answer.status, 200, "{}", answer.text());
    let status = |path: &str| machine.inside.get(&format!("http://127.0.0.1:8009{path}")).expect("an answer").status;
    assert_eq!(status("/api/v1/namespaces/default"), 404, "without the prefix");
    assert_eq!(status("/ours/api/v1/namespaces/default/pods/x/exec"), 403, "a path that is rejected");
    harness::eventually("the socket answers", std::time::Duration::from_secs(20), || {
        let mut curl = machine.command("curl");
        curl.args(["-s", "--unix-socket"]).arg(&socket).arg("http://localhost/version");
        let said = text(&curl.output().expect("run curl"));
        if said.contains("gitVersion") { Ok(()) } else { Err(said) }
    });
    for child in [&mut proxy, &mut at_socket] {
        child.kill().expect("end the proxy");
        child.wait().expect("wait for the proxy");
    }
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

/// Directories below `tests/golden/kustomize`; what ours makes of them is tested beside its code.
#[test]
fn kustomizations_are_upstreams() {
    let golden = root().join("tests/golden/kustomize");
    for entry in fs::read_dir(&golden).expect("the golden directories") {
        let directory = entry.expect("an entry").path();
        if !directory.is_dir() {
            continue;
        }
        let output =
            Command::new(client("kubectl-1.36")).arg("kustomize").arg(&directory).output().expect("run kubectl");
        assert!(output.status.success(), "{}: {}", directory.display(), text(&output));
        let file = directory.with_extension("yaml");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&file, &output.stdout).expect("write the golden file");
        }
        let expect = fs::read_to_string(&file).expect("the golden file");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expect, "{}", file.display());
    }
}
