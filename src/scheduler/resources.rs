//! Amounts of resources: what a pod asks for, what a node has.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What a container that asks for nothing counts as where nodes are compared (not where they are refused),
/// lest a node be filled with pods that say nothing.
const SILENT_CPU_MILLI: i64 = 100;
const SILENT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts of everything that pods ask for and nodes have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_milli: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// Extended resources and huge pages.
    pub others: BTreeMap<String, i64>,
}

type Amounts = BTreeMap<String, Quantity>;

impl Resources {
    pub fn from_amounts(amounts: Option<&Amounts>) -> Self {
        let mut all = Self::default();
        for (name, amount) in amounts.into_iter().flatten() {
            all.set(name, amount);
        }
        all
    }

    fn set(&mut self, name: &str, amount: &Quantity) {
        match name {
            "cpu" => self.cpu_milli = milli(&amount.0),
            "memory" => self.memory = whole(&amount.0),
            "ephemeral-storage" => self.ephemeral_storage = whole(&amount.0),
            "pods" => {}
            _ => {
                self.others.insert(name.to_owned(), whole(&amount.0));
            }
        }
    }

    pub fn add(&mut self, more: &Self) {
        self.combine(more, i64::saturating_add);
    }

    pub fn subtract(&mut self, less: &Self) {
        self.combine(less, i64::saturating_sub);
    }

    fn at_least(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, how: fn(i64, i64) -> i64) {
        self.cpu_milli = how(self.cpu_milli, other.cpu_milli);
        self.memory = how(self.memory, other.memory);
        self.ephemeral_storage = how(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.others {
            let mine = self.others.entry(name.clone()).or_insert(0);
            *mine = how(*mine, *amount);
        }
    }
}

/// What a pod asks for: all containers and sidecars together, or the greediest moment of its start.
pub fn requests(pod: &Pod) -> Resources {
    total(pod, &|container| asked(container.resources.as_ref()))
}

/// The same with a modest claim for containers that ask for no processor or memory.
pub fn requests_or_modest(pod: &Pod) -> Resources {
    total(pod, &|container| {
        let amounts = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        let says = |name: &str| amounts.is_some_and(|amounts| amounts.contains_key(name));
        let mut asked = asked(container.resources.as_ref());
        if !says("cpu") {
            asked.cpu_milli = SILENT_CPU_MILLI;
        }
        if !says("memory") {
            asked.memory = SILENT_MEMORY;
        }
        asked
    })
}

fn asked(resources: Option<&ResourceRequirements>) -> Resources {
    Resources::from_amounts(resources.and_then(|r| r.requests.as_ref()))
}

fn total(pod: &Pod, of: &dyn Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut moment = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&moment);
            moment = sidecars.clone();
        } else {
            moment.add(&sidecars);
        }
        starting.at_least(&moment);
    }
    running.add(&sidecars);
    running.at_least(&starting);
    // What is asked for the pod as a whole stands for the sum of its containers.
    for (name, amount) in spec.resources.iter().filter_map(|r| r.requests.as_ref()).flatten() {
        if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
            running.set(name, amount);
        }
    }
    running.add(&Resources::from_amounts(spec.overhead.as_ref()));
    running
}

/// In units, rounded up. What the API server has accepted is a quantity; anything else counts as nothing.
pub fn whole(text: &str) -> i64 {
    text.parse::<skiff_api::quantity::Quantity>().map_or(0, |quantity| quantity.value())
}

/// In thousandths, rounded up.
fn milli(text: &str) -> i64 {
    text.parse::<skiff_api::quantity::Quantity>().map_or(0, |quantity| quantity.milli_value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_quantities() {
        for (text, expect) in [
            ("100m", 100),
            ("2", 2000),
            ("0.5", 500),
            ("1.5k", 1_500_000),
            ("1e3", 1_000_000),
            ("1u", 1),
            ("0", 0),
            ("-1", -1000),
            ("nonsense", 0),
            ("", 0),
            ("9999E", i64::MAX),
        ] {
            assert_eq!(milli(text), expect, "{text}");
        }
        for (text, expect) in
            [("1Ki", 1024), ("1.5Gi", 1_610_612_736), ("1500m", 2), ("128974848", 128_974_848), ("1M", 1_000_000)]
        {
            assert_eq!(whole(text), expect, "{text}");
        }
    }

    #[test]
    fn a_pod_asks_for_its_greediest_moment() {
        let check = |spec: serde_json::Value, cpu: i64, modest: i64| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a pod");
            assert_eq!((requests(&pod).cpu_milli, requests_or_modest(&pod).cpu_milli), (cpu, modest));
        };
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let sidecar =
            |cpu: &str| json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        check(json!({"containers": [container("1"), container("500m")]}), 1500, 1500);
        check(json!({"containers": [{"name": "a"}, container("1")]}), 1000, 1100);
        check(json!({"containers": [container("1")], "initContainers": [container("3"), container("2")]}), 3000, 3000);
        check(json!({"containers": [container("1")], "initContainers": [sidecar("1"), container("3")]}), 4000, 4000);
        check(json!({"containers": [container("1")], "initContainers": [container("2"), sidecar("2")]}), 3000, 3000);
        check(json!({"containers": [container("1")], "overhead": {"cpu": "250m"}}), 1250, 1250);
        check(json!({"containers": [container("1")], "resources": {"requests": {"cpu": "4"}}}), 4000, 4000);
    }
}
