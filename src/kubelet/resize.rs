//! What pods are promised of the node, and other resources for a pod that runs: whether the node has them, and what has to be
//! done for them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde::Serialize;
use skiff_api::names;
use tokio::sync::watch;

use crate::pod::{self, PodUid, Role};
use crate::{quantity, resources};

/// What containers were given, by their names; the pod as a whole by [`WHOLE`].
pub(crate) type Allocation = BTreeMap<String, ResourceRequirements>;

/// No container has this name.
pub(crate) const WHOLE: &str = "";

/// What a pod asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) cpu_milli: i64,
    pub(crate) memory_bytes: i64,
    /// Whole units of whatever else: disk, huge pages, devices.
    pub(crate) others: BTreeMap<String, i64>,
}

impl Share {
    /// One pod takes one pod's place.
    pub(crate) fn of(&self, resource: &str) -> i64 {
        match resource {
            "pods" => 1,
            "cpu" => self.cpu_milli,
            "memory" => self.memory_bytes,
            other => self.others.get(other).copied().unwrap_or(0),
        }
    }

    /// What is asked for, in the order in which the first lack is told.
    fn names(&self) -> impl Iterator<Item = &str> {
        ["pods", "cpu", "memory"].into_iter().chain(self.others.keys().map(String::as_str))
    }
}

/// What the node has for pods: thousandths of CPUs, else whole units. Of what it does not name it has none to count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Capacity(pub(crate) BTreeMap<String, i64>);

impl Capacity {
    /// `None`: nobody counts it.
    fn of(&self, resource: &str) -> Option<i64> {
        self.0.get(resource).copied().or_else(|| resources::page_size(resource).map(|_| 0))
    }
}

type Promised = HashMap<PodUid, Share>;

/// What the pods of the node have been promised.
#[derive(Default)]
pub(crate) struct Shares {
    promised: Mutex<Promised>,
    freed: watch::Sender<()>,
}

impl Shares {
    fn lock(&self) -> std::sync::MutexGuard<'_, Promised> {
        self.promised.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn promise(&self, uid: &PodUid, share: Share) {
        let mut promised = self.lock();
        let less = promised.get(uid).is_some_and(|old| old.names().any(|name| old.of(name) > share.of(name)));
        promised.insert(uid.clone(), share);
        drop(promised);
        if less {
            self.freed.send_replace(());
        }
    }

    pub(crate) fn release(&self, uid: &PodUid) {
        let released = self.lock().remove(uid);
        if released.is_some() {
            self.freed.send_replace(());
        }
    }

    /// Told whenever something was given back.
    pub(crate) fn freed(&self) -> watch::Receiver<()> {
        self.freed.subscribe()
    }

    /// What a pod has been promised.
    pub(crate) fn of(&self, uid: &PodUid) -> Option<Share> {
        self.lock().get(uid).cloned()
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
    /// For what may be resized.
    pub(crate) fn fit(&self, uid: &PodUid, wanted: &Share, capacity: &Capacity) -> Fit {
        for name in RESIZABLE {
            let (wanted, capacity) = (wanted.of(name), capacity.of(name).unwrap_or(i64::MAX));
            if wanted > capacity {
                return Fit::Infeasible(format!(
                    "Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {capacity}"
                ));
            }
        }
        let lacks = lacks(&self.lock(), uid, wanted, capacity);
        match lacks.into_iter().find(|lack| RESIZABLE.contains(&lack.resource.as_str())) {
            Some(lack) => Fit::Deferred(lack.to_string()),
            None => Fit::Yes,
        }
    }

    /// Promises a new pod what it asks for, where the node has that; else all that it lacks.
    pub(crate) fn take(&self, uid: &PodUid, wanted: Share, capacity: &Capacity) -> Result<(), Vec<Lack>> {
        let mut promised = self.lock();
        let lacks = lacks(&promised, uid, &wanted, capacity);
        if lacks.is_empty() {
            promised.insert(uid.clone(), wanted);
            Ok(())
        } else {
            Err(lacks)
        }
    }

    /// What the node has too little of for a pod and all others.
    pub(crate) fn lacks(&self, uid: &PodUid, wanted: &Share, capacity: &Capacity) -> Vec<Lack> {
        lacks(&self.lock(), uid, wanted, capacity)
    }
}

/// What the node has too little of; `Display` is upstream's sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Node didn't have enough resource: {resource}, requested: {wanted}, used: {used}, capacity: {capacity}")]
pub(crate) struct Lack {
    pub(crate) resource: String,
    pub(crate) wanted: i64,
    pub(crate) used: i64,
    pub(crate) capacity: i64,
}

/// What nobody asks for is not looked at.
fn lacks(promised: &Promised, uid: &PodUid, wanted: &Share, capacity: &Capacity) -> Vec<Lack> {
    let lack = |resource: &str| {
        let (wanted, capacity) = (wanted.of(resource), capacity.of(resource)?);
        let others = promised.iter().filter(|(other, _)| *other != uid);
        let used = others.fold(0_i64, |sum, (_, share)| sum.saturating_add(share.of(resource)));
        let lack = Lack { resource: resource.to_owned(), wanted, used, capacity };
        (wanted > 0 && wanted.saturating_add(used) > capacity).then_some(lack)
    };
    wanted.names().filter_map(lack).collect()
}

type Amounts = BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

/// Of what the node has by itself, and of what is told of it by the API: resources that somebody else has told of, but for
/// those that `is_given` out one by one.
pub(crate) fn capacity(own: &Amounts, told: Option<&Amounts>, is_given: impl Fn(&str) -> bool) -> Capacity {
    let told = told.into_iter().flatten().filter(|(name, _)| names::is_extended_resource(name) && !is_given(name));
    let amount = |name: &str, amount| if name == "cpu" { quantity::milli(amount) } else { quantity::value(amount) };
    Capacity(own.iter().chain(told).map(|(name, of)| (name.clone(), amount(name, of))).collect())
}

/// What may be resized.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// What a pod asks for its containers.
pub(crate) fn asked(pod: &Pod) -> Allocation {
    let of = |(_, c): (Role, &Container)| (c.name.clone(), c.resources.clone().unwrap_or_default());
    let containers = pod::containers(pod).map(of);
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
    let whole = status.filter(|status| status.phase.as_deref() == Some("Running")).and_then(|s| s.resources.as_ref());
    if let (Some(told), Some(entry)) = (whole, allocation.get_mut(WHOLE)) {
        *entry = resources::given_as_whole(pod, entry, told);
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

    fn capacity_of(amounts: &[(&str, i64)]) -> Capacity {
        Capacity(amounts.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect())
    }

    fn uid(name: &str) -> PodUid {
        PodUid(name.to_owned())
    }

    #[test]
    fn what_fits() {
        let shares = Shares::default();
        let share = |cpu_milli, memory_bytes| Share { cpu_milli, memory_bytes, ..Share::default() };
        let freed = shares.freed();
        shares.promise(&uid("other"), share(1500, 100));
        assert!(!freed.has_changed().expect("open"));
        let capacity = capacity_of(&[("cpu", 2000), ("memory", 1000)]);
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
            assert_eq!(shares.fit(&uid("own"), &wanted, &capacity), expected);
        }
        let lacks = shares.take(&uid("own"), share(600, 10), &capacity).expect_err("too much");
        assert_eq!(lacks.iter().map(|lack| lack.resource.as_str()).collect::<Vec<_>>(), ["cpu"]);
        assert_eq!(shares.take(&uid("own"), share(0, 10), &capacity), Ok(()));
        assert!(shares.take(&uid("third"), share(0, 900), &capacity).is_err());
        shares.release(&uid("other"));
        assert!(freed.has_changed().expect("open"));
        assert_eq!(shares.fit(&uid("own"), &share(600, 10), &capacity), Fit::Yes);
    }

    #[test]
    fn whatever_else_is_counted() {
        let quantity = |name: &str, amount: &str| {
            (name.to_owned(), k8s_openapi::apimachinery::pkg::api::resource::Quantity(amount.to_owned()))
        };
        let own = [("cpu", "2"), ("pods", "2"), ("ephemeral-storage", "1Ki"), ("hugepages-2Mi", "4Mi")];
        let own: Amounts = own.map(|(name, amount)| quantity(name, amount)).into();
        let told = [("cpu", "9"), ("example.com/dongle", "2"), ("example.com/gpu", "1")];
        let told: Amounts = told.map(|(name, amount)| quantity(name, amount)).into();
        // One that a plugin gives is the plugin's to count.
        let capacity = capacity(&own, Some(&told), |name| name == "example.com/gpu");
        let mut expected = capacity_of(&[("cpu", 2000), ("pods", 2), ("ephemeral-storage", 1024)]);
        expected.0.extend(capacity_of(&[("hugepages-2Mi", 4 << 20), ("example.com/dongle", 2)]).0);
        assert_eq!(capacity, expected);
        let share = |name: &str, amount| Share { others: [(name.to_owned(), amount)].into(), ..Share::default() };
        let shares = Shares::default();
        shares.promise(&uid("other"), share("example.com/dongle", 1));
        for (wanted, expected) in [
            (share("example.com/dongle", 1), ""),
            (share("example.com/dongle", 2), "example.com/dongle, requested: 2, used: 1, capacity: 2"),
            (share("hugepages-2Mi", 8 << 20), "hugepages-2Mi, requested: 8388608, used: 0, capacity: 4194304"),
            (share("hugepages-1Gi", 1 << 30), "hugepages-1Gi, requested: 1073741824, used: 0, capacity: 0"),
            (share("ephemeral-storage", 2048), "ephemeral-storage, requested: 2048, used: 0, capacity: 1024"),
            // Nobody on the node counts these.
            (share("example.com/gpu", 5), ""),
            (share("example.com/elsewhere", 5), ""),
        ] {
            let lacks = shares.lacks(&uid("own"), &wanted, &capacity);
            let told = lacks.first().map(Lack::to_string).unwrap_or_default();
            let expected = if expected.is_empty() {
                String::new()
            } else {
                format!("Node didn't have enough resource: {expected}")
            };
            assert_eq!(told, expected);
        }
        shares.promise(&uid("third"), Share::default());
        let lacks = shares.take(&uid("own"), share("hugepages-2Mi", 8 << 20), &capacity).expect_err("full");
        assert_eq!(lacks.iter().map(|lack| lack.resource.as_str()).collect::<Vec<_>>(), ["pods", "hugepages-2Mi"]);
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
        let inits: Pod = serde_json::from_value(
            json!({"metadata": {}, "spec": {"initContainers": [{"name": "i"}], "containers": []}}),
        )
        .expect("a pod");
        assert!(asked(&inits).contains_key("i"));
        let a = &pod::spec(&pod).containers[0];
        let memory: ResourceRequirements = serde_json::from_value(json!({"limits": {"memory": "1Gi"}})).expect("it");
        assert!(!restarts(a, &allocation["a"], &asked(&pod)["a"]));
        assert!(restarts(a, &allocation["a"], &memory));
    }
}
