//! Faults at random moments. While pods start and stop all the time, the server, the supervisor and the short-lived
//! children that make containers are killed; afterwards every pod is what the API says, and of pods that are gone
//! nothing is left on the node.
//!
//! `SKIFF_FAULTS=200` sets the number of kills, `SKIFF_FAULTS_SEED` repeats a choice of victims and moments. What the
//! server said stays in `target/tmp/faults.log`.

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use harness::{Machine, NODE, eventually, skiff};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const KILLS: u64 = 40;
/// After so many everything has to come to rest, and then to nothing.
const KILLS_PER_ROUND: u64 = 20;
/// Pods that each client has at a time.
const MOST_PODS: usize = 5;
const CLIENTS: u64 = 2;
/// Generous: a pod that fell twice waits for 20 s before its next start.
const LIMIT: Duration = Duration::from_secs(150);
/// How long one looks for a child at work.
const HUNT: Duration = Duration::from_secs(5);
/// Replicas of the Deployment in `faults/pods.yaml`.
const CREW: usize = 2;
const FIRST_PORT: u64 = 20_000;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn wait_up_to_ms(&mut self, limit: u64) {
        std::thread::sleep(Duration::from_micros(self.below(limit * 1000)));
    }

    fn one_of<T>(&mut self, choices: &mut Vec<T>) -> Option<T> {
        if choices.is_empty() { None } else { Some(choices.swap_remove(self.below(choices.len() as u64) as usize)) }
    }
}

/// The table's pods, with what it leaves out, and its other objects.
fn table() -> (Vec<Value>, Vec<Value>) {
    let all: Vec<Value> = serde_yaml::from_str(include_str!("faults/pods.yaml")).expect("the table");
    let (mut pods, others): (Vec<Value>, Vec<Value>) = all.into_iter().partition(|object| object["kind"] == "Pod");
    for spec in pods.iter_mut().map(|pod| &mut pod["spec"]) {
        spec["terminationGracePeriodSeconds"] = json!(1);
        for (list, prefix) in [("containers", "c"), ("initContainers", "i")] {
            let containers = spec.get_mut(list).and_then(Value::as_array_mut);
            for (index, container) in containers.into_iter().flatten().enumerate() {
                let script = container.as_object_mut().and_then(|fields| fields.remove("sh")).expect("a script");
                container["name"] = json!(format!("{prefix}{index}"));
                container["image"] = json!("busybox:1.36");
                container["command"] = json!(["/bin/sh", "-c", script]);
            }
        }
    }
    (pods, others)
}

/// Who starts, stops and uses pods without a pause. What fails while the server is away is tried again, or forgotten:
/// the API alone knows which pods there are.
struct Client<'a> {
    machine: &'a Machine,
    dice: Dice,
    shapes: &'a [Value],
    next: &'a AtomicU64,
    pods: Vec<String>,
    execs: Vec<Child>,
}

impl Client<'_> {
    fn work(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            match self.dice.below(10) {
                0..5 if self.pods.len() < MOST_PODS => self.create(),
                5..8 => self.delete(),
                8 => self.exec(),
                _ => self.dice.wait_up_to_ms(200),
            }
        }
        for mut exec in self.execs.drain(..) {
            exec.kill().expect("end an exec");
            exec.wait().expect("its end");
        }
    }

    fn create(&mut self) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let shape = &self.shapes[self.dice.below(self.shapes.len() as u64) as usize];
        let name = format!("{}-{number}", shape["metadata"]["name"].as_str().expect("a name"));
        let mut pod = shape.clone();
        pod["metadata"]["name"] = json!(name);
        let port = (FIRST_PORT + number).to_string();
        let file = self.machine.directory.path().join(format!("{name}.json"));
        fs::write(&file, pod.to_string().replace("\"PORT\"", &port)).expect("write a manifest");
        // A write that nobody acknowledged may have been done.
        drop(self.machine.try_kubectl(&["create", "-f", &file.to_string_lossy()]));
        self.pods.push(name);
    }

    fn delete(&mut self) {
        let Some(name) = self.dice.one_of(&mut self.pods) else { return };
        let how: &[&str] = match self.dice.below(4) {
            0 => &["--force", "--grace-period=0"],
            1 => &["--grace-period=1"],
            _ => &[],
        };
        let words = [&["delete", "pod", &name, "--ignore-not-found", "--wait=false"], how].concat();
        if self.machine.try_kubectl(&words).is_err() {
            self.pods.push(name);
        }
    }

    /// Left under way when its pod, the server or the supervisor ends.
    fn exec(&mut self) {
        let Some(name) = self.pods.last() else { return };
        let mut command = self.machine.command(skiff());
        command.args(["kubectl", "exec", name, "--", "sh", "-c", "echo here; sleep 3"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.execs.push(command.spawn().expect("start an exec"));
    }
}

/// `skiff server`, ended with the test.
struct Server<'a> {
    machine: &'a Machine,
    child: Child,
}

impl<'a> Server<'a> {
    fn start(machine: &'a Machine) -> Self {
        Self { machine, child: launch(machine) }
    }

    fn kill_and_start(&mut self, dice: &mut Dice) {
        self.child.kill().expect("kill the server");
        self.child.wait().expect("its end");
        dice.wait_up_to_ms(100);
        self.child = launch(self.machine);
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        // Best effort on the way out.
        if std::thread::panicking() {
            drop(fs::copy(self.machine.log_path(), concat!(env!("CARGO_TARGET_TMPDIR"), "/faults.log")));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn launch(machine: &Machine) -> Child {
    let log = File::options().create(true).append(true).open(machine.log_path()).expect("the log");
    let mut command = machine.command(skiff());
    command.arg("server").stdin(Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log);
    command.spawn().expect("start skiff server")
}

fn name_of(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

fn pids(list: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(list).unwrap_or_default();
    text.split_whitespace().map(|pid| Pid::from_raw(pid.parse().expect("a number"))).collect()
}

fn supervisor(machine: &Machine) -> Option<Pid> {
    let groups = machine.cgroup_directories().into_iter().map(|root| root.join("skiff-supervisor/cgroup.procs"));
    groups.flat_map(|group| pids(&group)).find(|pid| name_of(*pid) == "skiff-superviso")
}

/// Those children of the supervisor that are ours still: what makes sandboxes and containers, and what becomes them.
fn makers(supervisor: Pid) -> Vec<Pid> {
    let children = pids(Path::new(&format!("/proc/{supervisor}/task/{supervisor}/children")));
    let ours = |pid: &Pid| ["skiff-creator", "youki:"].iter().any(|name| name_of(*pid).starts_with(name));
    children.into_iter().filter(ours).collect()
}

/// Kills one of the children that make something, a moment after it was found. False where none was at work.
fn kill_maker(machine: &Machine, dice: &mut Dice) -> bool {
    let until = Instant::now() + HUNT;
    while Instant::now() < until {
        let mut found = supervisor(machine).map(makers).unwrap_or_default();
        if let Some(pid) = dice.one_of(&mut found) {
            dice.wait_up_to_ms(4);
            // It may be done; a container that it has become meanwhile is as good a victim.
            return kill(pid, Signal::SIGKILL).is_ok();
        }
        std::thread::yield_now();
    }
    false
}

/// One kill; what was killed.
fn strike(machine: &Machine, server: &mut Server<'_>, dice: &mut Dice) -> Option<&'static str> {
    match dice.below(10) {
        0..6 => {
            // At times before the server that was started last is ready.
            if dice.below(3) > 0 {
                machine.wait_ready();
            }
            dice.wait_up_to_ms(600);
            server.kill_and_start(dice);
            Some("server")
        }
        6..9 => kill_maker(machine, dice).then_some("maker"),
        _ => {
            dice.wait_up_to_ms(300);
            kill(supervisor(machine)?, Signal::SIGKILL).ok().map(|()| "supervisor")
        }
    }
}

/// Every pod is where it is to be, and the runtime has the containers that the API shows.
fn settled(machine: &Machine) -> Result<Vec<Value>, String> {
    let list = machine.try_kubectl(&["get", "pods", "-o", "json"])?;
    let list: Value = serde_json::from_str(&list).map_err(|e| e.to_string())?;
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    let mut running = BTreeSet::new();
    for pod in &pods {
        let status = &pod["status"];
        let lists = ["containerStatuses", "initContainerStatuses"].map(|list| status[list].as_array());
        let containers: Vec<&Value> = lists.into_iter().flatten().flatten().collect();
        let phase = status["phase"].as_str().unwrap_or_default();
        let good = match pod["metadata"]["labels"]["expect"].as_str() {
            Some("runs") => phase == "Running" && containers.iter().all(|c| c["ready"] == true),
            _ => ["Succeeded", "Failed"].contains(&phase),
        };
        if !good || !pod["metadata"]["deletionTimestamp"].is_null() {
            return Err(format!("{}: {status}", pod["metadata"]["name"]));
        }
        let alive = containers.iter().filter(|c| !c["state"]["running"].is_null());
        running.extend(
            alive.filter_map(|c| c["containerID"].as_str()?.strip_prefix("skiff://")?.get(..12)).map(str::to_owned),
        );
    }
    let listed = harness::result(&machine.command(skiff()).args(["ctr", "ps"]).output().map_err(|e| e.to_string())?)?;
    let known: BTreeSet<String> = listed
        .lines()
        .filter(|line| line.contains(" Running "))
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect();
    if known != running {
        return Err(format!("the API shows {running:?} as running, the runtime has\n{listed}"));
    }
    Ok(pods)
}

/// Where the ids of a pod with a user namespace begin on the host.
fn first_id(machine: &Machine, name: &str) -> Option<u64> {
    let map = machine.kubectl(&["exec", name, "--", "cat", "/proc/self/uid_map"]);
    map.split_whitespace().nth(1)?.parse().ok()
}

/// What runs can be used, and no pod has the ids of another.
fn use_all(machine: &Machine, pods: &[Value]) {
    let mut ids = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod["metadata"]["labels"]["expect"] == "runs") {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        machine.kubectl(&["exec", name, "--", "true"]);
        if pod["spec"]["hostUsers"] == false {
            let first = first_id(machine, name).filter(|first| *first > 0).expect("ids of the host");
            assert_eq!(ids.insert(first, name), None, "{name} has the ids from {first} on, which another pod has");
        }
        if let Some(port) = pod["spec"]["containers"][0]["ports"][0]["hostPort"].as_u64().filter(|port| *port < 30_000)
        {
            let url = format!("http://{NODE}:{port}/");
            let text = eventually(&url, LIMIT, || machine.outside.get(&url).map_err(|e| e.to_string())).text();
            assert_eq!(text.trim_end(), name, "{url}");
        }
    }
}

/// Everything that pods have on their node, line by line, sorted.
fn traces(machine: &Machine) -> Vec<String> {
    let script = "cut -d' ' -f5 /proc/self/mountinfo | grep -v ^/tmp/ | sed 's/^/mount /'
        ip -o link | sed 's/^[0-9]*: \\([^:@]*\\).*/link \\1/'
        ip -o address | sed '/ eth0 /!s/ tentative//; s/^[0-9]*: */address /'
        ip route show table all | sed 's/^/route /'
        nft list ruleset | grep -v '^[[:space:]]*[{}]*$' | sed 's/counter packets.*bytes [0-9]*//; s/^/rule /'
        find /run/skiff /var/lib/skiff/agent /var/lib/skiff/storage/* /var/lib/kubelet /var/log/pods /var/log/containers \
            2>/dev/null | sed 's/^/file /'";
    let mut lines: Vec<String> = machine.inside.must(&["sh", "-c", script]).lines().map(str::to_owned).collect();
    for root in machine.cgroup_directories() {
        groups(&root, &root, &mut lines);
    }
    // Of what it has for pods, and not for those who ask it.
    let pid = supervisor(machine).expect("the supervisor runs");
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default().to_string_lossy().into_owned();
        let kind = target.split(':').next().unwrap_or_default();
        if kind != "socket" {
            lines.push(format!("descriptor {}", if kind == "pipe" { kind } else { &target }));
        }
    }
    lines.sort();
    lines
}

fn groups(root: &Path, directory: &Path, lines: &mut Vec<String>) {
    let name = directory.strip_prefix(root).unwrap_or(directory).display();
    // Classes of pods stay.
    if !["kubepods/besteffort", "kubepods/burstable", "kubepods/guaranteed"]
        .iter()
        .any(|class| directory.ends_with(class))
    {
        lines.push(format!("cgroup {name}"));
    }
    lines.extend(
        pids(&directory.join("cgroup.procs")).into_iter().map(|pid| format!("process {} in {name}", name_of(pid))),
    );
    for entry in fs::read_dir(directory).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        groups(root, &entry.path(), lines);
    }
}

/// What is in one and not in the other, however often.
fn difference(before: &[String], after: &[String]) -> Vec<String> {
    let mut count: BTreeMap<&str, i32> = BTreeMap::new();
    after.iter().for_each(|line| *count.entry(line).or_default() += 1);
    before.iter().for_each(|line| *count.entry(line).or_default() -= 1);
    count.into_iter().filter(|(_, n)| *n != 0).map(|(line, n)| format!("{n:+} {line}")).collect()
}

fn delete_all(machine: &Machine) {
    machine.kubectl(&["delete", "deployment", "crew", "--ignore-not-found"]);
    machine.kubectl(&["delete", "pods", "--all", "--wait=false"]);
    eventually("all pods are gone", LIMIT, || {
        match machine.jsonpath(&["pods,pvc,pv"], "{.items[*].metadata.name}")? {
            none if none.is_empty() => Ok(()),
            some => Err(some),
        }
    });
}

/// Tells the clients to end when it goes.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_node_that_is_hurt_at_any_moment_heals() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970");
    let seed = number("SKIFF_FAULTS_SEED").unwrap_or(since_1970.as_millis() as u64);
    let kills = number("SKIFF_FAULTS").unwrap_or(KILLS);
    println!("SKIFF_FAULTS={kills} SKIFF_FAULTS_SEED={seed}");
    let mut dice = Dice(seed);
    let (shapes, others) = table();
    let others = others.iter().map(|object| format!("---\n{object}\n")).collect::<String>();
    let machine = Machine::new();
    let mut server = Server::start(&machine);
    machine.wait_ready();
    // Also brings the image, and shows that each shape is a pod that the API takes.
    machine.apply(&others);
    for (shape, port) in shapes.iter().zip(FIRST_PORT - 1_000..) {
        machine.apply(&shape.to_string().replace("\"PORT\"", &port.to_string()));
    }
    eventually("the first pods", LIMIT, || match settled(&machine)?.len() {
        all if all == CREW + shapes.len() => Ok(()),
        other => Err(format!("{other} pods")),
    });
    delete_all(&machine);
    // The API forgets pods before the node has put all of theirs away.
    let mut last = Vec::new();
    let before = eventually("the node is at rest", LIMIT, || {
        let now = traces(&machine);
        // The machine's own link: the kernel makes the route of its address when it found nobody else that has it. (The
        // node's link is a bridge without ports: what is tentative there may stay so.)
        let passing: Vec<&String> = now
            .iter()
            .filter(|trace| {
                trace.starts_with("link skf")
                    || trace.contains(" tentative ")
                    || ["/kubelet/pods/", "/log/pods/", "/log/containers/"].iter().any(|part| trace.contains(part))
            })
            .collect();
        let at_rest = passing.is_empty() && now == last;
        let told = format!("{passing:?}");
        last.clone_from(&now);
        if at_rest { Ok(now) } else { Err(told) }
    });
    let next = AtomicU64::new(0);
    let mut done = 0;
    while done < kills {
        let begin = Instant::now();
        machine.apply(&others);
        let stop = AtomicBool::new(false);
        let mut struck = Vec::new();
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                let dice = Dice(dice.below(u64::MAX));
                let (machine, shapes, next, stop) = (&machine, &shapes, &next, &stop);
                scope.spawn(move || {
                    Client { machine, dice, shapes, next, pods: Vec::new(), execs: Vec::new() }.work(stop);
                });
            }
            // Also where this thread panics: they would be waited for.
            let _stop = Stop(&stop);
            while (struck.len() as u64) < KILLS_PER_ROUND.min(kills - done) {
                struck.extend(strike(&machine, &mut server, &mut dice));
            }
            machine.wait_ready();
        });
        done += struck.len() as u64;
        let pods = eventually("every pod is what the API says", LIMIT, || {
            let pods = settled(&machine)?;
            let crew = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == "crew").count();
            if crew == CREW { Ok(pods) } else { Err(format!("{crew} pods of the Deployment")) }
        });
        use_all(&machine, &pods);
        let healed = begin.elapsed();
        delete_all(&machine);
        eventually("nothing is left of pods", Duration::from_secs(30), || {
            let left = difference(&before, &traces(&machine));
            if left.is_empty() { Ok(()) } else { Err(format!("{struck:?}\n{}", left.join("\n"))) }
        });
        let of = |what| struck.iter().filter(|victim| **victim == what).count();
        println!(
            "{done} of {kills} kills: {} of the server, {} of makers, {} of the supervisor; {} pods at rest after {:.1} s, gone after {:.1} s",
            of("server"),
            of("maker"),
            of("supervisor"),
            pods.len(),
            healed.as_secs_f32(),
            begin.elapsed().as_secs_f32()
        );
    }
}
