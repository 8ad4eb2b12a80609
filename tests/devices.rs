//! Devices of plugins on a real node: from the registration to the container's `/dev`, and over an end of the agent. The
//! plugin is played by the test; its devices are nodes that it makes for itself.

#[path = "harness/grpc.rs"]
mod grpc;
mod harness;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use grpc::{Answer, Listening, all, block, number, text};
use harness::{Machine, eventually};
use nix::sys::signal::Signal;
use skiff_api::quantity::Quantity;
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(60);
const LOOP: &str = "test.skiff.dev/loop";
const FOUND: &str = "test.skiff.dev/found";
/// As the machine sees it.
const DIRECTORY: &str = "/var/lib/kubelet/test-devices";

#[derive(Clone, Default)]
struct Plugin {
    /// What is to be known of its devices next.
    told: Arc<Mutex<Option<mpsc::UnboundedSender<Vec<u8>>>>>,
    list: Arc<Mutex<Vec<u8>>>,
    /// Methods and ids, in order.
    asked: Arc<Mutex<Vec<String>>>,
}

/// `ListAndWatchResponse`: the ids, those that are ill with an exclamation mark.
fn list(ids: &[&str]) -> Vec<u8> {
    let one = |id: &&str| {
        let health: &[u8] = if id.ends_with('!') { b"Unhealthy" } else { b"Healthy" };
        block(1, &[block(1, id.trim_end_matches('!').as_bytes()), block(2, health)].concat())
    };
    ids.iter().flat_map(one).collect()
}

impl Plugin {
    fn tell(&self, ids: &[&str]) {
        *self.list.lock().expect("unpoisoned") = list(ids);
        if let Some(told) = &*self.told.lock().expect("unpoisoned") {
            // One that does not listen any more is told when it asks again.
            drop(told.send(list(ids)));
        }
    }

    fn answer(&self, method: &str, request: &[u8]) -> Answer {
        let ids = |message: &[u8]| -> Vec<String> {
            all(message, 1).iter().map(|id| String::from_utf8_lossy(id).into_owned()).collect()
        };
        let note = |ids: &[String]| self.asked.lock().expect("unpoisoned").push(format!("{method} {}", ids.join(" ")));
        let message = match method {
            "GetInfo" => {
                let socket = format!("{DIRECTORY}/found.sock");
                [
                    block(1, b"DevicePlugin"),
                    block(2, FOUND.as_bytes()),
                    block(3, socket.as_bytes()),
                    block(4, b"v1beta1"),
                ]
                .concat()
            }
            "NotifyRegistrationStatus" => Vec::new(),
            // It wants a word before each start.
            "GetDevicePluginOptions" => number(1, 1),
            "ListAndWatch" => {
                let (tell, told) = mpsc::unbounded_channel();
                tell.send(self.list.lock().expect("unpoisoned").clone()).expect("listened to");
                *self.told.lock().expect("unpoisoned") = Some(tell);
                return Answer::Messages(told);
            }
            "Allocate" => {
                let wanted = ids(&all(request, 1)[0]);
                note(&wanted);
                let device = |id: &String| {
                    let (at, from) = (format!("/dev/given-{id}"), format!("{DIRECTORY}/{id}"));
                    block(3, &[block(1, at.as_bytes()), block(2, from.as_bytes()), block(3, b"rw")].concat())
                };
                let env = block(1, &[block(1, b"GIVEN"), block(2, wanted.join(",").as_bytes())].concat());
                let library =
                    [block(1, b"/opt/library"), block(2, b"/var/lib/kubelet/test-devices/library"), number(3, 1)];
                let devices: Vec<u8> = wanted.iter().flat_map(device).collect();
                block(1, &[env, block(2, &library.concat()), devices].concat())
            }
            "PreStartContainer" => {
                note(&ids(request));
                Vec::new()
            }
            other => return Answer::Failure(format!("no {other}")),
        };
        Answer::Message(message)
    }

    fn listen(&self, socket: PathBuf) -> Listening {
        let plugin = self.clone();
        grpc::listen(socket, Arc::new(move |method, request| plugin.answer(method, request)))
    }

    fn count(&self, what: &str) -> usize {
        self.asked.lock().expect("unpoisoned").iter().filter(|asked| asked.starts_with(what)).count()
    }
}

fn register(kubelet: &Path) -> Result<(), String> {
    let message = [block(1, b"v1beta1"), block(2, b"loop.sock"), block(3, LOOP.as_bytes())].concat();
    grpc::call(&kubelet.join("device-plugins/kubelet.sock"), "/v1beta1.Registration/Register", &message).map(drop)
}

fn pod(name: &str, more: &str, resource: &str, count: u32, script: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  {more}
  containers:
  - name: c
    image: busybox:1.36
    command: [/bin/sh, -c, {script:?}]
    resources: {{limits: {{{resource}: {count}}}}}
---
"
    )
}

const OPENS: &str =
    "exec 3<>/dev/given-$GIVEN && echo $GIVEN $(cat /opt/library/f) && until test -e /end; do sleep 0.1; done";

#[test]
fn plugins_give_devices_to_containers() {
    let mut machine = Machine::with_server();
    let kubelet = machine.directory.path().join("kubelet");
    let own = kubelet.join("test-devices");
    std::fs::create_dir_all(own.join("library")).expect("a directory");
    std::fs::write(own.join("library/f"), "with-it\n").expect("a file");
    // One that containers may not open but by leave, and that does nothing when it is merely opened.
    // (The module that has it is loaded when somebody opens it.)
    drop(std::fs::File::open("/dev/loop-control"));
    let misc = std::fs::read_to_string("/proc/misc").expect("the kernel's devices");
    let minor = misc.lines().find_map(|line| line.trim().strip_suffix(" loop-control")).expect("loop-control").trim();
    for id in ["a", "b", "c"] {
        let node = own.join(id);
        let made = Command::new("mknod").arg(&node).args(["c", "10", minor]).status().expect("mknod");
        assert!(made.success());
    }
    let plugin = Plugin::default();
    plugin.tell(&["a", "b", "c!"]);
    let at = kubelet.join("device-plugins/loop.sock");
    let listening = plugin.listen(at.clone());
    register(&kubelet).expect("registered");
    let amounts = format!("{{.status.capacity.{0}}} {{.status.allocatable.{0}}}", LOOP.replace('.', "\\."));
    machine.until(&["node", "node-1"], &amounts, "3 2");
    let refused = [block(1, b"v9"), block(2, b"loop.sock"), block(3, LOOP.as_bytes())].concat();
    let why = grpc::call(&kubelet.join("device-plugins/kubelet.sock"), "/v1beta1.Registration/Register", &refused);
    assert!(why.as_ref().is_err_and(|why| why.contains("is not supported by kubelet")), "{why:?}");

    machine.apply(&pod("first", "", LOOP, 1, OPENS));
    eventually("the device is there", LIMIT, || match machine.try_kubectl(&["logs", "first"]) {
        Ok(log) if ["a with-it\n", "b with-it\n"].contains(&log.as_str()) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!((plugin.count("Allocate"), plugin.count("PreStartContainer")), (1, 1));
    // Who was given none may make a node, but not open it.
    let steals = format!("mknod /tmp/x c 10 {minor}; (: <>/tmp/x) 2>&1 | grep -o 'not permitted'; exec sleep 3600");
    machine.apply(&pod("thief", "", "cpu", 1, &steals));
    eventually("it is refused", LIMIT, || match machine.try_kubectl(&["logs", "thief"]) {
        Ok(log) if log == "not permitted\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    machine.kubectl(&["delete", "pod", "thief"]);
    // More than is left: by the scheduler's word, and past it by the node's.
    machine.apply(&pod("waits", "", LOOP, 2, OPENS));
    let message = "{.status.conditions[?(@.type==\"PodScheduled\")].message}";
    eventually("it is not scheduled", LIMIT, || {
        let told = machine.jsonpath(&["pod", "waits"], message)?;
        if told.contains(&format!("1 Insufficient {LOOP}")) { Ok(()) } else { Err(told) }
    });
    machine.kubectl(&["delete", "pod", "waits"]);
    machine.apply(&pod("forced", "nodeName: node-1", LOOP, 2, OPENS));
    machine.until(&["pod", "forced"], "{.status.phase} {.status.reason}", "Failed UnexpectedAdmissionError");
    let why = format!(
        "Pod was rejected: Allocate failed due to requested number of devices unavailable for {LOOP}. Requested: 2, \
         Available: 1, which is unexpected"
    );
    machine.until(&["pod", "forced"], "{.status.message}", &why);
    // What it tells of a device's health is the container's status, and the node's.
    let given = machine.kubectl(&["exec", "first", "--", "sh", "-c", "echo -n $GIVEN"]);
    let health = "{.status.containerStatuses[0].allocatedResourcesStatus[0]['name','resources']}";
    let status = |health: &str| format!("{LOOP} [{{\"health\":\"{health}\",\"resourceID\":\"{given}\"}}]");
    machine.until(&["pod", "first"], health, &status("Healthy"));
    plugin.tell(if given == "a" { &["a!", "b", "c"] } else { &["a", "b!", "c"] });
    machine.until(&["pod", "first"], health, &status("Unhealthy"));
    plugin.tell(&["a", "b", "c"]);
    machine.until(&["node", "node-1"], &amounts, "3 3");

    // The agent ends and comes back; the plugin registers again, as the new socket bids it.
    let container = "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
    let before = machine.jsonpath(&["pod", "first"], container).expect("a container");
    machine.end_server(Signal::SIGKILL);
    machine.start(&[]);
    machine.wait_ready();
    eventually("its socket is gone", LIMIT, || if at.exists() { Err(format!("{}", at.display())) } else { Ok(()) });
    drop(listening);
    machine.until(&["node", "node-1"], &amounts, "0 0");
    let listening = plugin.listen(at.clone());
    eventually("it is registered again", LIMIT, || register(&kubelet));
    machine.until(&["node", "node-1"], &amounts, "3 3");
    assert_eq!(machine.jsonpath(&["pod", "first"], container).as_deref(), Ok(&*before));
    machine.apply(&pod("second", "", LOOP, 2, "echo $GIVEN; exec sleep 3600"));
    let left = ["a", "b", "c"].into_iter().filter(|id| *id != given).collect::<Vec<_>>().join(",");
    eventually("it has the others", LIMIT, || match machine.try_kubectl(&["logs", "second"]) {
        Ok(log) if log.trim() == left => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // Others are told who has what.
    let listed = grpc::call(&kubelet.join("pod-resources/kubelet.sock"), "/v1.PodResourcesLister/List", b"");
    let listed = all(&listed.expect("a list"), 1);
    let first = listed.iter().find(|pod| text(pod, 1) == "first").expect("the pod");
    let devices = all(&all(first, 3)[0], 2);
    assert_eq!((text(first, 2).as_str(), text(&devices[0], 1).as_str()), ("default", LOOP));
    assert_eq!((devices.len(), text(&devices[0], 2)), (1, given.clone()));
    // A container that begins anew keeps its device. (Its end may come before the command's.)
    drop(machine.try_kubectl(&["exec", "first", "--", "touch", "/end"]));
    machine.until(&["pod", "first"], "{.status.containerStatuses[0].restartCount}", "1");
    machine.until(&["pod", "first"], "{.status.containerStatuses[0].ready}", "true");
    assert_eq!(machine.kubectl(&["exec", "first", "--", "sh", "-c", "echo -n $GIVEN"]), given);
    // What is given back is given again.
    machine.kubectl(&["delete", "pod", "first", "second"]);
    machine.apply(&pod("third", "", LOOP, 3, "echo $GIVEN; exec sleep 3600"));
    eventually("it has all", LIMIT, || match machine.try_kubectl(&["logs", "third"]) {
        Ok(log) if log == "a,b,c\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // A plugin that goes leaves devices that nobody gets.
    drop(listening);
    machine.until(&["node", "node-1"], &amounts, "3 0");

    // One that is found by its socket.
    let found = Plugin::default();
    found.tell(&["a"]);
    let _serving = found.listen(own.join("found.sock"));
    let _registering = found.listen(kubelet.join("plugins_registry/found.sock"));
    let amounts = format!("{{.status.allocatable.{}}}", FOUND.replace('.', "\\."));
    machine.until(&["node", "node-1"], &amounts, "1");
    machine.apply(&pod("of-found", "", FOUND, 1, OPENS));
    machine.until(&["pod", "of-found"], "{.status.phase}", "Running");
    std::fs::remove_file(kubelet.join("plugins_registry/found.sock")).expect("removed");
    machine.until(&["node", "node-1"], &amounts, "0");
}

fn runs_on(machine: &Machine, pod: &str, expect: &str) {
    let asks = ["exec", pod, "--", "sed", "-n", "s/^Cpus_allowed_list:.//p", "/proc/self/status"];
    eventually(&format!("{pod} runs on {expect}"), LIMIT, || match machine.try_kubectl(&asks) {
        Ok(list) if list.trim() == expect => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// A limit of all pods together, by its names on v1 and v2.
fn of_all_pods(machine: &Machine, names: [&str; 2]) -> String {
    let groups = machine.cgroup_directories();
    let files = groups.iter().flat_map(|group| names.map(|name| group.join("kubepods").join(name)));
    files.map(std::fs::read_to_string).find_map(Result::ok).expect("the limit").trim().to_owned()
}

#[test]
fn what_is_reserved_is_not_for_pods() {
    let mut machine = Machine::new();
    // Disks of the building machine may be fuller than nodes like.
    let disk = "--kubelet-arg=eviction-hard=";
    machine.start(&[disk, "--kubelet-arg=system-reserved=cpu=250m,memory=1Gi", "--kubelet-arg=kube-reserved=pid=1000"]);
    machine.wait_ready();
    let amounts = |resource: &str| -> [Quantity; 2] {
        ["capacity", "allocatable"].map(|list| {
            let text = machine.jsonpath(&["node", "node-1"], &format!("{{.status.{list}.{resource}}}"));
            text.expect("an amount").parse().expect("a quantity")
        })
    };
    let [all, left] = amounts("cpu");
    assert_eq!(all.milli_value() - left.milli_value(), 250);
    let [all, left] = amounts("memory");
    assert_eq!(all.value() - left.value(), 1 << 30);
    let memory = ["memory.limit_in_bytes", "memory.max"];
    assert_eq!(of_all_pods(&machine, memory).parse(), Ok(left.value()));
    let limit = |name: &str| -> u64 {
        std::fs::read_to_string(Path::new("/proc/sys/kernel").join(name))
            .expect("a limit")
            .trim()
            .parse()
            .expect("a number")
    };
    let processes = limit("pid_max").min(limit("threads-max"));
    assert_eq!(of_all_pods(&machine, ["pids.max"; 2]).parse(), Ok(processes - 1000));
    // What is no longer reserved is given back.
    machine.end_server(Signal::SIGTERM);
    machine.start(&[disk]);
    machine.wait_ready();
    assert!(of_all_pods(&machine, memory).parse::<i64>().map_or(true, |bytes| bytes > all.value()));
    assert_eq!(of_all_pods(&machine, ["pids.max"; 2]), "max");
    machine.end_server(Signal::SIGTERM);
    let mut server = machine.command(harness::skiff());
    let output = server.args(["server", "--kubelet-arg=kube-reserved=memory=100Ti"]).output().expect("run skiff");
    let told = harness::text(&output);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("Resource \"memory\" has a reservation of 100Ti but capacity of"), "{told}");
}

#[test]
fn containers_have_cpus_for_themselves() {
    let mut machine = Machine::new();
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").expect("CPUs");
    assert!(online.trim() != "0", "the test needs two CPUs");
    let flags =
        ["--kubelet-arg=cpu-manager-policy=static", "--kubelet-arg=reserved-cpus=0", "--kubelet-arg=eviction-hard="];
    machine.start(&flags);
    machine.wait_ready();
    let cpus = machine.jsonpath(&["node", "node-1"], "{.status.capacity.cpu} {.status.allocatable.cpu}");
    let cpus = cpus.expect("a node");
    let (all, free) = cpus.split_once(' ').expect("two");
    assert_eq!(all.parse::<u32>().ok(), free.parse::<u32>().ok().map(|free| free + 1), "{cpus}");
    machine.apply(&pod("shares", "", "memory", 100 << 20, "exec sleep 3600"));
    runs_on(&machine, "shares", online.trim());
    // Guaranteed, and whole CPUs: all that are not reserved.
    let own =
        pod("own", "", "memory", 100 << 20, "exec sleep 3600").replace("memory: ", &format!("cpu: {free}, memory: "));
    machine.apply(&own);
    machine.until(&["pod", "own"], "{.status.qosClass} {.status.phase}", "Guaranteed Running");
    let others: Vec<u32> = (1..=free.parse().expect("a number")).collect();
    let exclusive = if others.len() == 1 { "1".to_owned() } else { format!("1-{}", others.len()) };
    runs_on(&machine, "own", &exclusive);
    runs_on(&machine, "shares", "0");
    machine.apply(&pod("late", "", "memory", 100 << 20, "exec sleep 3600"));
    runs_on(&machine, "late", "0");
    machine.end_server(Signal::SIGKILL);
    machine.start(&flags);
    machine.wait_ready();
    runs_on(&machine, "own", &exclusive);
    runs_on(&machine, "late", "0");
    machine.kubectl(&["delete", "pod", "own"]);
    runs_on(&machine, "late", online.trim());
}
