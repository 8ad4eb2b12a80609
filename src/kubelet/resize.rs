//! Other resources for a pod that runs: whether the node has them, and what has to be done for them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde::Serialize;
use tokio::sync::watch;

use crate::pod::{self, PodUid, Role};
use crate::{quantity, resources};

/// What containers were given, by their names; the pod as a whole by [`WHOLE`].
pub(crate) type Allocation = BTreeMap<String, ResourceRequirements>;

/// No container has this name.
pub(crate) const WHOLE: &str = "";

/// Thousandths of CPUs, bytes of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) cpu_milli: i64,
    pub(crate) memory_bytes: i64,
}

/// What the pods of the node have been promised.
pub(crate) struct Shares {
    promised: Mutex<HashMap<PodUid, Share>>,
    freed: watch::Sender<()>,
}

impl Default for Shares {
    fn default() -> Self {
        Self { promised: Mutex::default(), freed: watch::channel(()).0 }
    }
}

impl Shares {
    pub(crate) fn promise(&self, uid: &PodUid, share: Share) {
        let old = self.promised.lock().expect("no holder of this lock panics").insert(uid.clone(), share);
        if old.is_some_and(|old| old.cpu_milli > share.cpu_milli || old.memory_bytes > share.memory_bytes) {
            self.freed.send_replace(());
        }
    }

    pub(crate) fn release(&self, uid: &PodUid) {
        if self.promised.lock().expect("no holder of this lock panics").remove(uid).is_some() {
            self.freed.send_replace(());
        }
    }

    /// Told whenever something was given back.
    pub(crate) fn freed(&self) -> watch::Receiver<()> {
        self.freed.subscribe()
    }

    /// What all others have been promised.
    fn others(&self, uid: &PodUid) -> Share {
        let promised = self.promised.lock().expect("no holder of this lock panics");
        promised.iter().filter(|(other, _)| *other != uid).fold(Share::default(), |sum, (_, share)| Share {
            cpu_milli: sum.cpu_milli + share.cpu_milli,
            memory_bytes: sum.memory_bytes + share.memory_bytes,
        })
    }
}

/// Whether the node can give it; the messages are upstream's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fit {
    Yes,
    /// Not now.
    Deferred(String),
    /// Never.
    Infeasible(String),
}

impl Shares {
    pub(crate) fn fit(&self, uid: &PodUid, wanted: Share, capacity: Share) -> Fit {
        let lines =
            [("cpu", wanted.cpu_milli, capacity.cpu_milli), ("memory", wanted.memory_bytes, capacity.memory_bytes)];
        for (name, wanted, capacity) in lines {
            if wanted > capacity {
                return Fit::Infeasible(format!(
                    "Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {capacity}"
                ));
            }
        }
        match lack(self.others(uid), wanted, capacity) {
            Some(lack) => Fit::Deferred(lack.to_string()),
            None => Fit::Yes,
        }
    }

    /// Promises a new pod what it asks for, where the node has that.
    pub(crate) fn take(&self, uid: &PodUid, wanted: Share, capacity: Share) -> Result<(), Lack> {
        match lack(self.others(uid), wanted, capacity) {
            Some(lack) => Err(lack),
            None => {
                self.promise(uid, wanted);
                Ok(())
            }
        }
    }
}

/// What the node has too little of; `Display` is upstream's sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Node didn't have enough resource: {resource}, requested: {wanted}, used: {used}, capacity: {capacity}")]
pub(crate) struct Lack {
    pub(crate) resource: &'static str,
    wanted: i64,
    used: i64,
    capacity: i64,
}

/// The first resource that does not suffice; what nobody asks for is not looked at.
fn lack(others: Share, wanted: Share, capacity: Share) -> Option<Lack> {
    let lines = [
        ("cpu", wanted.cpu_milli, others.cpu_milli, capacity.cpu_milli),
        ("memory", wanted.memory_bytes, others.memory_bytes, capacity.memory_bytes),
    ];
    lines.into_iter().find_map(|(resource, wanted, used, capacity)| {
        (wanted > 0 && wanted + used > capacity).then_some(Lack { resource, wanted, used, capacity })
    })
}

pub(crate) fn capacity(
    allocatable: &BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
) -> Share {
    Share {
        cpu_milli: allocatable.get("cpu").map_or(i64::MAX, quantity::milli),
        memory_bytes: allocatable.get("memory").map_or(i64::MAX, quantity::value),
    }
}

/// Main containers and sidecars: those whose resources may change.
fn is_resizable(role: Role) -> bool {
    matches!(role, Role::Main | Role::Sidecar)
}

/// What a pod asks for its containers.
pub(crate) fn asked(pod: &Pod) -> Allocation {
    let of = |(_, c): (Role, &Container)| (c.name.clone(), c.resources.clone().unwrap_or_default());
    let containers = pod::containers(pod).filter(|(role, _)| is_resizable(*role)).map(of);
    let whole = pod::spec(pod).resources.clone().map(|whole| (WHOLE.to_owned(), whole));
    containers.chain(whole).collect()
}

/// What its containers got from an earlier agent, as far as the API tells, else what it asks.
pub(crate) fn known(pod: &Pod) -> Allocation {
    let mut allocation = asked(pod);
    let status = pod.status.as_ref();
    let lists = status.into_iter().flat_map(|s| s.container_statuses.iter().chain(&s.init_container_statuses));
    for status in lists.flatten() {
        let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
        if let (true, Some(given), Some(entry)) = (running, &status.resources, allocation.get_mut(&status.name)) {
            entry.clone_from(given);
        }
    }
    let whole = status.and_then(|status| status.resources.as_ref());
    if let (Some(given), Some(entry)) = (whole, allocation.get_mut(WHOLE)) {
        entry.clone_from(given);
    }
    allocation
}

/// The pod with the resources that it was given in place of those that it asks for.
pub(crate) fn with(pod: &Pod, allocation: &Allocation) -> Pod {
    let mut pod = pod.clone();
    let Some(spec) = &mut pod.spec else { return pod };
    if let Some(given) = allocation.get(WHOLE) {
        spec.resources = Some(given.clone());
    }
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        if let Some(given) = allocation.get(&container.name) {
            // No resources and empty ones are the same.
            if container.resources.clone().unwrap_or_default() != *given {
                container.resources = Some(given.clone());
            }
        }
    }
    pod
}

/// Whether a container has to be started anew for a change from `before` to `after`.
pub(crate) fn restarts(container: &Container, before: &ResourceRequirements, after: &ResourceRequirements) -> bool {
    let changed = |name: &str| {
        let one = |list: &Option<BTreeMap<_, _>>| list.as_ref().and_then(|list| list.get(name).cloned());
        one(&before.limits) != one(&after.limits) || one(&before.requests) != one(&after.requests)
    };
    let policies = container.resize_policy.iter().flatten();
    policies.into_iter().any(|policy| policy.restart_policy == "RestartContainer" && changed(&policy.resource_name))
}

/// The message of an event about a resize, in upstream's form: `what`, and what the pod's containers are to have.
pub(crate) fn message(what: &str, pod: &Pod, generation: i64, error: &str) -> String {
    fn of(container: &Container) -> One<'_> {
        One { name: &container.name, resources: container.resources.clone().unwrap_or_default() }
    }
    let spec = pod::spec(pod);
    let told = Told {
        init_containers: spec.init_containers.iter().flatten().map(of).collect(),
        containers: spec.containers.iter().map(of).collect(),
        generation,
        error,
    };
    format!("{what}: {}", serde_json::to_string(&told).expect("names and amounts always encode"))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<One<'a>>,
    containers: Vec<One<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

#[derive(Serialize)]
struct One<'a> {
    name: &'a str,
    resources: ResourceRequirements,
}

/// What a pod is promised.
pub(crate) fn share(pod: &Pod) -> Share {
    resources::requests(pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_fits() {
        let shares = Shares::default();
        let share = |cpu_milli, memory_bytes| Share { cpu_milli, memory_bytes };
        let uid = |name: &str| PodUid(name.to_owned());
        let freed = shares.freed();
        shares.promise(&uid("other"), share(1500, 100));
        assert!(!freed.has_changed().expect("open"));
        let capacity = share(2000, 1000);
        for (wanted, expected) in [
            (share(500, 900), Fit::Yes),
            (
                share(600, 10),
                Fit::Deferred(
                    "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000".to_owned(),
                ),
            ),
            (
                share(1, 1001),
                Fit::Infeasible("Node didn't have enough capacity: memory, requested: 1001, capacity: 1000".to_owned()),
            ),
        ] {
            assert_eq!(shares.fit(&uid("own"), wanted, capacity), expected);
        }
        let lack = shares.take(&uid("own"), share(600, 10), capacity).expect_err("too much");
        assert_eq!((lack.resource, shares.take(&uid("own"), share(0, 10), capacity)), ("cpu", Ok(())));
        assert!(shares.take(&uid("third"), share(0, 900), capacity).is_err());
        shares.release(&uid("other"));
        assert!(freed.has_changed().expect("open"));
        assert_eq!(shares.fit(&uid("own"), share(600, 10), capacity), Fit::Yes);
    }

    #[test]
    fn messages_are_upstreams() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"initContainers": [{"name": "i"}],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "1Gi"}}}]}}))
        .expect("a pod");
        let containers =
            r#""containers":[{"name":"a","resources":{"limits":{"memory":"1Gi"},"requests":{"cpu":"2"}}}]"#;
        let expected = format!(
            r#"Pod resize Deferred: {{"initContainers":[{{"name":"i","resources":{{}}}}],{containers},"generation":3,"error":"no \"room\""}}"#
        );
        assert_eq!(message("Pod resize Deferred", &pod, 3, "no \"room\""), expected);
        let bare = Pod {
            spec: Some(k8s_openapi::api::core::v1::PodSpec { init_containers: None, ..pod::spec(&pod).clone() }),
            ..pod
        };
        let expected = format!(r#"Pod resize started: {{{containers},"generation":1}}"#);
        assert_eq!(message("Pod resize started", &bare, 1, ""), expected);
    }

    #[test]
    fn allocations() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "2"}}, "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]},
            {"name": "b"}]},
            "status": {"containerStatuses": [{"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {}}, "resources": {"requests": {"cpu": "1"}}}]}}))
        .expect("a pod");
        let allocation = known(&pod);
        let given = with(&pod, &allocation);
        let cpu = |pod: &Pod| {
            let resources = pod::spec(pod).containers[0].resources.clone().unwrap_or_default();
            resources.requests.and_then(|r| r.get("cpu").cloned()).map(|q| q.0)
        };
        assert_eq!((cpu(&pod).as_deref(), cpu(&given).as_deref()), (Some("2"), Some("1")));
        assert_eq!(pod::spec(&given).containers[1], pod::spec(&pod).containers[1]);
        let a = &pod::spec(&pod).containers[0];
        let memory: ResourceRequirements = serde_json::from_value(json!({"limits": {"memory": "1Gi"}})).expect("it");
        assert!(!restarts(a, &allocation["a"], &asked(&pod)["a"]));
        assert!(restarts(a, &allocation["a"], &memory));
    }
}
