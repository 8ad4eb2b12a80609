//! What pods do on a real node, behaviour by behaviour: the tables in `tests/behaviours/`, each row a pod and what
//! is to be seen of it from outside: by the API, in files, in cgroups, in `/proc`.
//!
//! One server, a few rows at a time; a row that fails does not keep the others from being looked at. One row or a
//! topic alone, or some: `SKIFF_BEHAVIOUR=part-of-the-name,another cargo test --test behaviours`.

mod harness;

use std::collections::{BTreeMap, VecDeque};
use std::io::BufReader;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use harness::{Machine, patience, skiff};
use serde::Deserialize;
use serde_json::{Value, json};
use skiff_api::jsonpath::JsonPath;

/// How long any one thing may take to be seen. Generous: the machines are shared.
const LIMIT: Duration = Duration::from_secs(60);
/// Rows under way at a time.
const WORKERS: usize = 6;

/// One row: a pod, and the steps that show its behaviour, in order.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Behaviour {
    /// Also the pod's name.
    name: String,
    /// A shell script on the node before all else.
    #[serde(default)]
    before: String,
    /// Objects that are applied before the pod.
    #[serde(default)]
    with: Vec<Value>,
    /// Labels, annotations and the like.
    #[serde(default)]
    metadata: serde_json::Map<String, Value>,
    /// As in a manifest; left out: names of containers (c, c2, ...), the image, `restartPolicy: Never`, a short grace.
    spec: Value,
    #[serde(default)]
    steps: Vec<Step>,
    /// The API takes no such pod, and says this.
    refused: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Step {
    /// JSONPaths of the pod that come to show these values, all at once.
    Until(BTreeMap<String, Value>),
    /// The same, in any state that the pod has been in.
    Saw(BTreeMap<String, Value>),
    /// A container's log comes to be this.
    Log(Log),
    /// `Reason: part of the message` of an event about the pod.
    Event(String),
    /// A command in a container, by exec.
    Exec(Exec),
    /// A file of the container's (or the pod's) cgroup: names on v1 and v2 and what it holds.
    Group(Group),
    /// Fields of `/proc/PID/status` of the container's first process.
    Process(BTreeMap<String, String>),
    /// A shell script on the node. `$UID` is the pod's, `$ID` the container's, `$PID` that of its first process.
    Node(Script),
    /// `skiff kubectl` with these words.
    Kubectl(Script<Vec<String>>),
    /// The pod is gone from the API, and nothing of it is left on the node.
    Gone {},
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Log {
    Of {
        container: String,
        #[serde(default)]
        previous: bool,
        says: String,
    },
    First(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exec {
    run: String,
    container: Option<String>,
    /// The whole output, or its beginning where the command is to fail.
    #[serde(default)]
    says: String,
    #[serde(default)]
    fails: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    v1: String,
    v2: String,
    /// What the file holds in each world; the second is left out where it is the same.
    is: Value,
    is_v2: Option<Value>,
    #[serde(default)]
    of_pod: bool,
    /// Of the first init container.
    #[serde(default)]
    of_init: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Script<T = String> {
    run: T,
    /// The whole output, or a part of it where it is to fail.
    #[serde(default)]
    says: String,
    #[serde(default)]
    fails: bool,
}

/// All states that pods and events have been in, as the API told them.
#[derive(Default)]
struct Seen {
    state: Mutex<(Vec<Value>, Vec<Value>)>,
    more: Condvar,
}

impl Seen {
    /// Looks again with each change until there is a value; `Err` is what was seen last.
    fn wait<T>(&self, mut look: impl FnMut(&[Value], &[Value]) -> Result<T, String>) -> Result<T, String> {
        let limit = patience(LIMIT);
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let last = match look(&state.0, &state.1) {
                Ok(value) => return Ok(value),
                Err(last) => last,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("not within {limit:?}; last seen: {last}"));
            }
            state = self.more.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn push(&self, object: Value) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if object["kind"] == "Event" {
            state.1.push(object)
        } else {
            state.0.push(object)
        }
        self.more.notify_all();
    }
}

/// A watch by kubectl whose objects go to `seen`.
fn watch(machine: &Machine, seen: &Arc<Seen>, what: &str) -> Child {
    let mut command = machine.command(skiff());
    command.args(["kubectl", "get", what, "--watch", "-o", "json"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("start a watch");
    let output = child.stdout.take().expect("its output");
    let seen = Arc::clone(seen);
    std::thread::spawn(move || {
        for object in
            serde_json::Deserializer::from_reader(BufReader::new(output)).into_iter::<Value>().map_while(Result::ok)
        {
            seen.push(object);
        }
    });
    child
}

/// A row under way.
struct Run<'a> {
    machine: &'a Machine,
    seen: &'a Seen,
    row: &'a Behaviour,
    uid: String,
}

impl Run<'_> {
    fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        self.machine.try_kubectl(arguments)
    }

    /// The pod's states, the first first.
    fn states<'v>(&self, pods: &'v [Value]) -> Vec<&'v Value> {
        pods.iter().filter(|pod| pod["metadata"]["uid"] == *self.uid).collect()
    }

    fn step(&self, step: &Step) -> Result<(), String> {
        match step {
            Step::Until(wanted) => self.seen.wait(|pods, _| {
                let states = self.states(pods);
                holds(states.last().copied().unwrap_or(&Value::Null), wanted)
            }),
            Step::Saw(wanted) => self.seen.wait(|pods, _| {
                let states = self.states(pods);
                let last = states.last().map_or(Err("nothing".to_owned()), |state| holds(state, wanted));
                if states.iter().any(|state| holds(state, wanted).is_ok()) { Ok(()) } else { last }
            }),
            Step::Event(wanted) => {
                let (reason, message) = wanted.split_once(": ").unwrap_or((wanted, ""));
                self.seen.wait(|_, events| {
                    let own = events.iter().filter(|e| e["involvedObject"]["uid"] == *self.uid);
                    let told: Vec<String> =
                        own.map(|e| format!("{}: {}", show(&e["reason"]), show(&e["message"]))).collect();
                    let found = told.iter().any(|t| t.starts_with(&format!("{reason}: ")) && t.contains(message));
                    if found { Ok(()) } else { Err(told.join("\n")) }
                })
            }
            Step::Log(log) => self.log(log),
            Step::Exec(exec) => {
                let container = exec.container.as_deref().unwrap_or("c");
                let output = self.kubectl(&["exec", &self.row.name, "-c", container, "--", "sh", "-c", &exec.run]);
                compare(output, &exec.says, exec.fails)
            }
            Step::Group(group) => self.group(group),
            Step::Process(fields) => retried(|| {
                let file = format!("/proc/{}/status", self.pid()?);
                let status = std::fs::read_to_string(&file).map_err(|e| e.to_string())?;
                let field = |name: &str| {
                    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
                    line.unwrap_or("no such line").split_whitespace().collect::<Vec<_>>().join(" ")
                };
                let differs = fields.iter().find(|(name, wanted)| field(name) != **wanted);
                differs.map_or(Ok(()), |(name, wanted)| Err(format!("{name} is {:?}, not {wanted:?}", field(name))))
            }),
            Step::Node(script) => {
                let (id, pid) = (self.container_id().unwrap_or_default(), self.pid().unwrap_or_default());
                let mut command = self.machine.command("sh");
                command.args(["-ec", &script.run]).env("UID", &self.uid).env("ID", id).env("PID", pid);
                compare(harness::result(&command.output().map_err(|e| e.to_string())?), &script.says, script.fails)
            }
            Step::Kubectl(script) => {
                let words: Vec<&str> = script.run.iter().map(String::as_str).collect();
                let output = self.kubectl(&words);
                if script.says.is_empty() && !script.fails {
                    output.map(|_| ())
                } else {
                    compare(output, &script.says, script.fails)
                }
            }
            Step::Gone {} => self.gone(),
        }
    }

    fn log(&self, log: &Log) -> Result<(), String> {
        let (container, previous, says) = match log {
            Log::Of { container, previous, says } => (container.as_str(), *previous, says),
            Log::First(says) => ("c", false, says),
        };
        let mut arguments = vec!["logs", &self.row.name, "-c", container];
        if previous {
            arguments.push("--previous");
        }
        retried(|| compare(self.kubectl(&arguments), says, false))
    }

    fn container_id(&self) -> Result<String, String> {
        self.id_of("containerStatuses")
    }

    fn id_of(&self, list: &str) -> Result<String, String> {
        self.seen.wait(|pods, _| {
            let states = self.states(pods);
            let id = states.last().and_then(|pod| pod["status"][list][0]["containerID"].as_str());
            id.map(|id| id.trim_start_matches("skiff://").to_owned()).ok_or_else(|| "no container yet".to_owned())
        })
    }

    /// The pod's cgroup in each hierarchy.
    fn groups(&self) -> Vec<std::path::PathBuf> {
        let roots = self.machine.cgroup_directories();
        let classes = ["kubepods", "kubepods/burstable", "kubepods/besteffort", "kubepods/guaranteed"];
        let all = roots.iter().flat_map(|root| classes.map(|class| root.join(class).join(format!("pod{}", self.uid))));
        all.filter(|directory| directory.exists()).collect()
    }

    fn pid(&self) -> Result<String, String> {
        let id = self.container_id()?;
        let procs = self.groups().into_iter().map(|group| group.join(&id).join("cgroup.procs"));
        let found =
            procs.filter_map(|file| std::fs::read_to_string(file).ok()?.lines().next().map(str::to_owned)).next();
        found.ok_or_else(|| format!("no process of the container {id}"))
    }

    fn group(&self, group: &Group) -> Result<(), String> {
        let id = match group {
            Group { of_pod: true, .. } => String::new(),
            Group { of_init: true, .. } => self.id_of("initContainerStatuses")?,
            _ => self.container_id()?,
        };
        retried(|| {
            for directory in self.groups() {
                let v2 = directory.join("cgroup.controllers").exists();
                let file = directory.join(&id).join(if v2 { &group.v2 } else { &group.v1 });
                let Ok(text) = std::fs::read_to_string(&file) else { continue };
                let wanted = show(if v2 { group.is_v2.as_ref().unwrap_or(&group.is) } else { &group.is });
                let found = text.trim();
                return if found == wanted {
                    Ok(())
                } else {
                    Err(format!("{}: {found:?}, not {wanted:?}", file.display()))
                };
            }
            Err(format!("no file {} or {}", group.v1, group.v2))
        })
    }

    /// Nothing with the pod's uid is mounted, in a cgroup or in a directory.
    fn gone(&self) -> Result<(), String> {
        retried(|| {
            let listed = self.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"])?;
            if listed.contains(&self.uid) {
                return Err("the API still has the pod".to_owned());
            }
            let script = format!(
                "grep -c {uid} /proc/self/mountinfo || :; ls -d /var/lib/skiff/agent/pods/{uid} /var/lib/kubelet/pods/{uid} /var/log/pods/*{uid} 2>/dev/null || :",
                uid = self.uid
            );
            let output = self.machine.command("sh").args(["-ec", &script]).output().map_err(|e| e.to_string())?;
            let left = harness::result(&output)?;
            if left.trim() == "0" && self.groups().is_empty() {
                Ok(())
            } else {
                Err(format!("left: {left} {:?}", self.groups()))
            }
        })
    }
}

/// A few looks, for what the API does not tell of.
fn retried(mut look: impl FnMut() -> Result<(), String>) -> Result<(), String> {
    let deadline = Instant::now() + patience(LIMIT);
    loop {
        match look() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(200)),
            result => return result,
        }
    }
}

fn compare(output: Result<String, String>, says: &str, fails: bool) -> Result<(), String> {
    match output {
        Ok(text) if fails => Err(format!("it should have failed, and says {text:?}")),
        Ok(text) if text.trim_end() == says.trim_end() => Ok(()),
        Err(text) if fails && text.contains(says.trim_end()) => Ok(()),
        Ok(text) | Err(text) => Err(format!("it says\n{text}\nand not\n{says}")),
    }
}

fn show(value: &Value) -> String {
    value.as_str().map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned)
}

fn holds(object: &Value, wanted: &BTreeMap<String, Value>) -> Result<(), String> {
    for (path, value) in wanted {
        let template = JsonPath::parse(&format!("{{.{path}}}")).map_err(|e| e.to_string())?;
        // What is not there yet is empty.
        let found = template.evaluate(object).unwrap_or_default();
        if found != show(value) {
            return Err(format!("{path} is {found:?}, not {:?}; the status: {}", show(value), object["status"]));
        }
    }
    Ok(())
}

/// The manifest of a row, with what the tables leave out.
fn manifest(row: &Behaviour) -> Value {
    let mut spec = row.spec.clone();
    let defaults = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1});
    for (field, value) in defaults.as_object().into_iter().flatten() {
        if spec.get(field).is_none() {
            spec[field] = value.clone();
        }
    }
    for (list, prefix) in [("containers", "c"), ("initContainers", "i")] {
        for (index, container) in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
            let name = if index == 0 { prefix.to_owned() } else { format!("{prefix}{}", index + 1) };
            for (field, value) in [("name", name.as_str()), ("image", "busybox:1.36")] {
                if container.get(field).is_none() {
                    container[field] = json!(value);
                }
            }
            // A script is shorter to write than a command.
            if let Some(script) = container.as_object_mut().and_then(|c| c.remove("sh")) {
                container["command"] = json!(["/bin/sh", "-c", script]);
            }
        }
    }
    let mut metadata = row.metadata.clone();
    metadata.insert("name".to_owned(), json!(row.name));
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

fn run(machine: &Machine, seen: &Seen, row: &Behaviour) -> Result<(), String> {
    let file = machine.directory.path().join(format!("{}.json", row.name));
    let create = |object: &Value, verb: &str| {
        std::fs::write(&file, object.to_string()).map_err(|e| e.to_string())?;
        machine.try_kubectl(&[verb, "-f", &file.to_string_lossy(), "-o", "jsonpath={.metadata.uid}"])
    };
    if !row.before.is_empty() {
        let output = machine.command("sh").args(["-ec", &row.before]).output().map_err(|e| e.to_string())?;
        harness::result(&output)?;
    }
    for object in &row.with {
        create(object, "apply")?;
    }
    let made = create(&manifest(row), "create");
    if let Some(message) = &row.refused {
        return compare(made, message, true);
    }
    let run = Run { machine, seen, row, uid: made? };
    if row.steps.is_empty() {
        return Err("the row says nothing".to_owned());
    }
    for (index, step) in row.steps.iter().enumerate() {
        run.step(step).map_err(|why| format!("step {}: {why}", index + 1))?;
    }
    Ok(())
}

fn table() -> Vec<(String, Behaviour)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/behaviours");
    let mut files: Vec<_> =
        directory.read_dir().expect("the tables").map(|entry| entry.expect("a table").path()).collect();
    files.sort();
    let mut rows = Vec::new();
    for file in files {
        let topic = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).expect("read a table");
        let values: Vec<Value> = serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{topic}: {e}"));
        for value in values {
            let name = show(&value["name"]);
            let row = serde_json::from_value(value).unwrap_or_else(|e| panic!("{topic}, {name}: {e}"));
            rows.push((topic.clone(), row));
        }
    }
    rows
}

#[test]
fn pods_behave() {
    let mut rows = table();
    let mut names: Vec<String> = rows.iter().map(|(_, row)| row.name.clone()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), rows.len(), "each row has a name of its own");
    if let Ok(wanted) = std::env::var("SKIFF_BEHAVIOUR") {
        let wanted: Vec<&str> = wanted.split(',').collect();
        let has = |(topic, row): &(String, Behaviour), part: &str| format!("{topic}/{}", row.name).contains(part);
        rows.retain(|row| wanted.iter().any(|part| has(row, part)));
        assert_eq!(wanted.iter().find(|part| !rows.iter().any(|row| has(row, part))), None, "no such row");
    }
    let machine = Machine::with_server();
    let seen = Arc::new(Seen::default());
    let mut watches = [watch(&machine, &seen, "pods"), watch(&machine, &seen, "events")];
    let total = rows.len();
    let queue = Mutex::new(VecDeque::from(rows));
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((topic, row)) = next else { break };
                    let begin = Instant::now();
                    let result = run(&machine, &seen, &row);
                    let took_s = begin.elapsed().as_secs_f32();
                    println!("{topic}/{}: {} ({took_s:.1} s)", row.name, if result.is_ok() { "ok" } else { "FAILED" });
                    if let Err(why) = result {
                        failed
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(format!("{topic}/{}: {why}", row.name));
                    }
                    // The node has room for the next; a row that is about the end has seen to it itself.
                    drop(machine.try_kubectl(&["delete", "pod", &row.name, "--ignore-not-found", "--wait=false"]));
                }
            });
        }
    });
    for watch in &mut watches {
        watch.kill().expect("end the watch");
        watch.wait().expect("its end");
    }
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(failed.is_empty(), "{} of {total} behaviours failed:\n\n{}", failed.len(), failed.join("\n\n"));
}
