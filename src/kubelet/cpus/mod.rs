//! CPUs that containers have for themselves (`--kubelet-arg=cpu-manager-policy=static`): a container of a Guaranteed pod that
//! asks for whole CPUs gets such as no other container runs on; the others share the rest. As upstream's static policy;
//! without it nothing here does anything.
//!
//! `plan` chooses, `keep` moves; who has what is in a file (`cpu_manager_state`), so that it outlives the agent. Containers that share
//! are moved as soon as what they share changes.

pub(crate) mod keep;
mod plan;
mod set;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Map, Value, json};
use skiff_runtime::Resources;
use tokio::sync::{Notify, Semaphore};

use crate::pod::{self, PodUid, Role};
use crate::quantity;
use crate::resources::{self, Qos};
use plan::Place;
pub(crate) use set::CpuSet;

const FILE: &str = "cpu_manager_state";
const SYSTEM: &str = "/sys/devices/system/cpu";

type Given = BTreeMap<PodUid, BTreeMap<String, CpuSet>>;

/// What the machine has.
struct Machine {
    all: CpuSet,
    /// Nobody gets these for itself.
    reserved: CpuSet,
    places: BTreeMap<u32, Place>,
}

pub(crate) struct Cpus {
    /// `None`: all share all.
    machine: Option<Machine>,
    path: PathBuf,
    given: Mutex<Given>,
    /// The file does not tell it yet.
    unwritten: AtomicBool,
    writing: Semaphore,
    /// Containers may run on others than they are to.
    changed: Notify,
}

impl Machine {
    fn read(reserved: CpuSet) -> io::Result<Self> {
        let all = fs::read_to_string(format!("{SYSTEM}/online"))?;
        let all: CpuSet = all.parse().map_err(io::Error::other)?;
        let number = |cpu: u32, name: &str| -> Option<u32> {
            fs::read_to_string(format!("{SYSTEM}/cpu{cpu}/topology/{name}")).ok()?.trim().parse().ok()
        };
        let place = |cpu: &u32| Some((*cpu, (number(*cpu, "physical_package_id")?, number(*cpu, "core_id")?)));
        let places = all.0.iter().filter_map(place).collect();
        Ok(Self { all, reserved, places })
    }
}

impl Cpus {
    /// With the CPUs that are reserved, where containers are to have some for themselves.
    pub(crate) fn open(root: &Path, reserved: Option<&CpuSet>) -> io::Result<Arc<Self>> {
        let path = root.join(FILE);
        let machine = reserved.map(|reserved| Machine::read(reserved.clone())).transpose()?;
        let given = match &machine {
            Some(_) => read(&path)?,
            None => Given::new(),
        };
        let given = Mutex::new(given);
        let (unwritten, writing) = (AtomicBool::new(false), Semaphore::new(1));
        Ok(Arc::new(Self { machine, path, given, unwritten, writing, changed: Notify::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, Given> {
        self.given.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn is_static(&self) -> bool {
        self.machine.is_some()
    }

    /// What those run on that have none for themselves.
    fn shared(&self, machine: &Machine) -> CpuSet {
        shared_of(machine, &self.lock())
    }

    /// Whether a container of the pod is to have CPUs for itself.
    pub(crate) fn are_wanted(&self, pod: &Pod) -> bool {
        self.is_static() && pod::containers(pod).any(|(_, container)| wanted(pod, container) > 0)
    }

    /// Gives the containers of a pod their CPUs; idempotent.
    pub(crate) async fn allocate(&self, pod: &Pod) -> Result<(), String> {
        let Some(machine) = &self.machine else { return Ok(()) };
        give(machine, &mut self.lock(), pod)?;
        self.changed.notify_one();
        self.write().await.map_err(|e| format!("failed to write checkpoint file {FILE:?}: {e}"))
    }

    pub(crate) fn release(&self, uid: &PodUid) {
        if self.lock().remove(uid).is_some() {
            self.unwritten.store(true, Ordering::Relaxed);
            self.changed.notify_one();
        }
    }

    /// Takes back what pods have that are no more.
    pub(crate) fn retain(&self, is_known: impl Fn(&PodUid) -> bool) {
        self.lock().retain(|uid, _| is_known(uid));
        self.unwritten.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// A container has been made: what it was told may be old by now.
    pub(crate) fn look_again(&self) {
        self.changed.notify_one();
    }

    /// On which CPUs a container runs; one that has some for itself needs no other limit of them.
    pub(crate) fn limit(&self, uid: &PodUid, container: &str, resources: &mut Resources) {
        let Some(machine) = &self.machine else { return };
        let own = self.lock().get(uid).and_then(|containers| containers.get(container)).cloned();
        if own.is_some() {
            (resources.cpu_quota_us, resources.cpu_period_us) = (None, None);
        }
        resources.cpus = Some(own.unwrap_or_else(|| self.shared(machine)).to_string());
    }

    /// The same for the pod's group.
    pub(crate) fn limit_pod(&self, uid: &PodUid, resources: &mut Resources) {
        if self.lock().contains_key(uid) {
            (resources.cpu_quota_us, resources.cpu_period_us) = (None, None);
        }
    }

    async fn write(&self) -> io::Result<()> {
        let Some(machine) = &self.machine else { return Ok(()) };
        let _turn = self.writing.acquire().await.expect("it is never closed");
        self.unwritten.store(false, Ordering::Relaxed);
        let shared = self.shared(machine);
        let text = show(&self.lock(), &shared).to_string();
        let path = self.path.clone();
        let write = move || skiff_base::file::replace(&path, text.as_bytes(), 0o600);
        tokio::task::spawn_blocking(write).await.unwrap_or_else(|e| Err(io::Error::other(e)))
    }
}

fn shared_of(machine: &Machine, given: &Given) -> CpuSet {
    let taken = given.values().flat_map(BTreeMap::values).flat_map(|set| set.0.clone());
    machine.all.without(&CpuSet(taken.collect()))
}

/// Chooses for a pod what nobody has yet. Under one lock from the first look to the last entry: other pods choose at the
/// same time.
fn give(machine: &Machine, given: &mut Given, pod: &Pod) -> Result<(), String> {
    let uid = pod::uid(pod);
    let mut reusable = CpuSet::default();
    for (role, container) in pod::containers(pod) {
        let count = wanted(pod, container);
        if count == 0 {
            continue;
        }
        let had = given.get(&uid).and_then(|containers| containers.get(&container.name)).cloned();
        let set = match had {
            Some(set) => set,
            None => {
                let mut free = shared_of(machine, given).without(&machine.reserved);
                free.0.extend(&reusable.0);
                let set = plan::take(&free, count, &machine.places).ok_or_else(|| {
                    format!("not enough cpus available to satisfy request: requested={count}, available={}", free.len())
                })?;
                given.entry(uid.clone()).or_default().insert(container.name.clone(), set.clone());
                set
            }
        };
        match role {
            // It has ended when the next one begins.
            Role::Init => reusable.0.extend(&set.0),
            _ => reusable = reusable.without(&set),
        }
    }
    Ok(())
}

/// How many CPUs a container is to have for itself: none where the pod as a whole is what is limited, as upstream.
fn wanted(pod: &Pod, container: &Container) -> usize {
    if pod::spec(pod).resources.is_some() {
        return 0;
    }
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let asked = requests.and_then(|requests| requests.get("cpu"));
    let milli = asked.map_or(0, quantity::milli);
    match resources::qos(pod) {
        Qos::Guaranteed if milli % 1000 == 0 => usize::try_from(milli / 1000).unwrap_or(0),
        _ => 0,
    }
}

/// The file, in upstream's form.
fn show(given: &Given, shared: &CpuSet) -> Value {
    let of = |containers: &BTreeMap<String, CpuSet>| -> Map<String, Value> {
        containers.iter().map(|(name, set)| (name.clone(), set.to_string().into())).collect()
    };
    let entries: Map<String, Value> = given.iter().map(|(uid, of_pod)| (uid.0.clone(), of(of_pod).into())).collect();
    json!({"policyName": "static", "defaultCpuSet": shared.to_string(), "entries": entries})
}

fn read(path: &Path) -> io::Result<Given> {
    let file: Value = match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Given::new()),
        Err(error) => return Err(error),
    };
    let mut given = Given::new();
    for (uid, containers) in file["entries"].as_object().into_iter().flatten() {
        for (name, set) in containers.as_object().into_iter().flatten() {
            let set = set.as_str().unwrap_or_default().parse().map_err(io::Error::other)?;
            given.entry(PodUid(uid.clone())).or_default().insert(name.clone(), set);
        }
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(directory: &Path, all: &str) -> Cpus {
        let machine = Machine {
            all: all.parse().expect("a set"),
            reserved: "0".parse().expect("a set"),
            places: BTreeMap::new(),
        };
        let path = directory.join(FILE);
        let given = Mutex::new(read(&path).expect("a good file"));
        let (unwritten, writing) = (AtomicBool::new(false), Semaphore::new(1));
        Cpus { machine: Some(machine), path, given, unwritten, writing, changed: Notify::new() }
    }

    fn pod(uid: &str, init: &str, main: &str) -> Pod {
        let container = |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}, "limits": {"cpu": cpu, "memory": "1Mi"}}});
        let spec = json!({"initContainers": [container("init", init)], "containers": [container("main", main)]});
        serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "spec": spec})).expect("a pod")
    }

    fn of(cpus: &Cpus, uid: &str, container: &str) -> String {
        let mut resources = Resources { cpu_quota_us: Some(1), ..Resources::default() };
        cpus.limit(&PodUid(uid.to_owned()), container, &mut resources);
        let quota = if resources.cpu_quota_us.is_some() { " with a quota" } else { "" };
        format!("{}{quota}", resources.cpus.unwrap_or_default())
    }

    #[tokio::test]
    async fn containers_get_cpus_for_themselves() {
        let directory = tempfile::tempdir().expect("a directory");
        let all = cpus(directory.path(), "0-3");
        assert_eq!(of(&all, "other", "c"), "0-3 with a quota");
        assert!(!all.are_wanted(&pod("a", "500m", "1500m")));
        let one = pod("a", "2", "1");
        assert!(all.are_wanted(&one));
        all.allocate(&one).await.expect("given");
        assert_eq!((of(&all, "a", "init"), of(&all, "a", "main")), ("1-2".to_owned(), "1".to_owned()));
        assert_eq!(of(&all, "other", "c"), "0,3 with a quota");
        let why = all.allocate(&pod("b", "1", "2")).await.expect_err("too many");
        assert_eq!(why, "not enough cpus available to satisfy request: requested=2, available=1");
        all.release(&PodUid("b".to_owned()));
        // The next agent knows it; what is given back is shared again.
        all.write().await.expect("written");
        let next = cpus(directory.path(), "0-3");
        assert_eq!(of(&next, "a", "main"), "1");
        next.retain(|uid| uid.0 != "a");
        assert_eq!(of(&next, "a", "main"), "0-3 with a quota");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 8)]
    async fn no_two_pods_get_the_same() {
        const PODS: usize = 40;
        let directory = tempfile::tempdir().expect("a directory");
        let all = Arc::new(cpus(directory.path(), &format!("0-{PODS}")));
        let start = Arc::new(tokio::sync::Barrier::new(PODS));
        let pods = (0..PODS).map(|number| {
            let (all, start, pod) = (all.clone(), start.clone(), pod(&number.to_string(), "1", "1"));
            tokio::spawn(async move {
                start.wait().await;
                all.allocate(&pod).await
            })
        });
        for given in futures::future::join_all(pods).await {
            assert_eq!(given.expect("it ends"), Ok(()));
        }
        assert_eq!(of(&all, "other", "c"), "0 with a quota");
        let different: std::collections::BTreeSet<String> =
            (0..PODS).map(|number| of(&all, &number.to_string(), "main")).collect();
        assert_eq!(different.len(), PODS);
    }
}
