//! What a pod asks for and may have: containers, sidecars, the greediest moment of its start.

use serde_json::Value;

use super::amounts::{Amounts, add, amounts, at_least};

/// Which of a container's two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    Requests,
    Limits,
}

impl List {
    pub fn of(self, resources: &Value) -> Amounts {
        amounts(match self {
            Self::Requests => &resources["requests"],
            Self::Limits => &resources["limits"],
        })
    }
}

pub fn containers<'a>(pod: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    pod["spec"][field].as_array().into_iter().flatten()
}

/// The sum over the pod without its overhead.
pub fn total(pod: &Value, list: List) -> Amounts {
    let mut all = of_containers(pod, list);
    // What is said of the pod as a whole stands for the sum of its containers.
    all.extend(list.of(&pod["spec"]["resources"]).into_iter().filter(|(name, _)| is_pod_level(name)));
    all
}

/// Whether a pod may have so much of it as a whole.
pub fn is_pod_level(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

/// The sum over the containers: of those that run together, and at least of the greediest moment before.
pub fn of_containers(pod: &Value, list: List) -> Amounts {
    let mut running = Amounts::new();
    for container in containers(pod, "containers") {
        add(&mut running, &list.of(&container["resources"]));
    }
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in containers(pod, "initContainers") {
        let mut moment = list.of(&container["resources"]);
        if container["restartPolicy"] == "Always" {
            add(&mut sidecars, &moment);
            moment = sidecars.clone();
        } else {
            add(&mut moment, &sidecars);
        }
        at_least(&mut starting, &moment);
    }
    add(&mut running, &sidecars);
    at_least(&mut running, &starting);
    running
}

/// The sum with what the pod's runtime class takes for itself.
pub fn total_with_overhead(pod: &Value, list: List) -> Amounts {
    let mut all = total(pod, list);
    let mut overhead = amounts(&pod["spec"]["overhead"]);
    if list == List::Limits {
        // No limit is none, however much comes on top.
        overhead.retain(|name, _| all.get(name).is_some_and(|limit| !limit.is_zero()));
    }
    add(&mut all, &overhead);
    all
}
