//! What objects count for a ResourceQuota: how much of what each uses, and which scopes it is in.
//!
//! Shared by the admission of new objects and by the controller that counts anew.

mod amounts;
pub mod pod;
mod scope;
#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

pub use amounts::{Amounts, add, amounts, minus, shown, to_value};
use amounts::{count, quantity};
use pod::List;
pub use scope::Scopes;

/// Resources of the core group that are also counted by their plain name.
const PLAIN: [&str; 6] =
    ["configmaps", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas", "secrets", "services"];
/// What all containers must say where a quota limits it.
const COMPUTE: [&str; 6] = ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";

/// The name under which any object of a resource is counted.
pub fn count_name(group: &str, resource: &str) -> String {
    if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") }
}

/// What one object uses, whatever quotas there are.
pub fn usage(group: &str, resource: &str, object: &Value, now: Timestamp) -> Amounts {
    let mut used = Amounts::from([(count_name(group, resource), count(1))]);
    if !group.is_empty() {
        return used;
    }
    match resource {
        "pods" if is_alive(object, now) => {
            let (requests, limits) =
                (pod::total_with_overhead(object, List::Requests), pod::total_with_overhead(object, List::Limits));
            add(&mut used, &compute(&requests, &limits));
        }
        "services" => add(&mut used, &service(object)),
        "persistentvolumeclaims" => add(&mut used, &claim(object)),
        _ => {}
    }
    if PLAIN.contains(&resource) {
        used.insert(resource.to_owned(), count(1));
    }
    used
}

/// A pod that has ended, or should have, uses nothing but its place in the store.
fn is_alive(pod: &Value, now: Timestamp) -> bool {
    if matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded")) {
        return false;
    }
    let deleted: Option<Timestamp> = pod["metadata"]["deletionTimestamp"].as_str().and_then(|text| text.parse().ok());
    match (deleted, pod["metadata"]["deletionGracePeriodSeconds"].as_i64()) {
        (Some(at), Some(grace_s)) => at.saturating_add(SignedDuration::from_secs(grace_s)).is_ok_and(|end| now <= end),
        _ => true,
    }
}

/// What a pod or a container with these counts for.
fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut used = Amounts::from([("pods".to_owned(), count(1))]);
    for (name, amount) in requests {
        match name.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => {
                used.insert(name.clone(), *amount);
            }
            _ if name.starts_with("hugepages-") => {
                used.insert(name.clone(), *amount);
            }
            // Extended resources, by their qualified names.
            _ if name.contains('/') => {}
            _ => continue,
        }
        used.insert(format!("requests.{name}"), *amount);
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = limits.get(name) {
            used.insert(format!("limits.{name}"), *amount);
        }
    }
    used
}

fn service(service: &Value) -> Amounts {
    let spec = &service["spec"];
    let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let balanced = spec["type"] == "LoadBalancer";
    let on_nodes = match spec["type"].as_str() {
        Some("NodePort") => ports.len(),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => {
            ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count()
        }
        Some("LoadBalancer") => ports.len(),
        _ => 0,
    };
    Amounts::from([
        ("services.nodeports".to_owned(), count(on_nodes)),
        ("services.loadbalancers".to_owned(), count(usize::from(balanced))),
    ])
}

fn claim(claim: &Value) -> Amounts {
    let mut used = Amounts::new();
    let storage = quantity(&claim["spec"]["resources"]["requests"]["storage"]);
    let old = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    let class = old.or(claim["spec"]["storageClassName"].as_str()).unwrap_or_default();
    if !class.is_empty() {
        used.insert(format!("{class}{STORAGE_CLASS}persistentvolumeclaims"), count(1));
    }
    if let Some(storage) = storage {
        used.insert("requests.storage".to_owned(), storage);
        if !class.is_empty() {
            used.insert(format!("{class}{STORAGE_CLASS}requests.storage"), storage);
        }
    }
    used
}

/// Whether objects of a resource can use what is called so.
pub fn concerns(group: &str, resource: &str, name: &str) -> bool {
    if name == count_name(group, resource) {
        return true;
    }
    if !group.is_empty() {
        return false;
    }
    match resource {
        "pods" => {
            let base = name.strip_prefix("requests.").unwrap_or(name);
            matches!(name, "pods" | "limits.cpu" | "limits.memory" | "limits.ephemeral-storage")
                || matches!(base, "cpu" | "memory" | "ephemeral-storage")
                || base.starts_with("hugepages-")
                || (name.starts_with("requests.") && base.contains('/'))
        }
        "services" => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
        "persistentvolumeclaims" => {
            matches!(name, "persistentvolumeclaims" | "requests.storage") || name.contains(STORAGE_CLASS)
        }
        _ => PLAIN.contains(&resource) && name == resource,
    }
}

/// The resource (group, resource) whose objects use what is called so, and nothing else.
pub fn resource_of(name: &str) -> Option<(String, String)> {
    if let Some(counted) = name.strip_prefix("count/") {
        let (resource, group) = counted.split_once('.').unwrap_or((counted, ""));
        return Some((group.to_owned(), resource.to_owned()));
    }
    let core = ["pods", "services", "persistentvolumeclaims"].into_iter().chain(PLAIN);
    core.into_iter().find(|resource| concerns("", resource, name)).map(|resource| (String::new(), resource.to_owned()))
}

/// Why a new object can't be counted for a quota on these: a container says nothing of what is limited.
pub fn unsaid<'a>(resource: &str, object: &Value, limited: impl Iterator<Item = &'a String>) -> Option<String> {
    if resource != "pods" {
        return None;
    }
    let whole = &object["spec"]["resources"];
    let of = |resources: &Value| compute(&List::Requests.of(resources), &List::Limits.of(resources));
    let said_of_all = of(whole);
    let mut missing = Vec::new();
    for name in limited.filter(|name| COMPUTE.contains(&name.as_str()) && !said_of_all.contains_key(*name)) {
        let silent = |container: &&Value| !of(&container["resources"]).contains_key(name);
        let all = pod::containers(object, "containers").chain(pod::containers(object, "initContainers"));
        let mut names: Vec<&str> = all.filter(silent).filter_map(|container| container["name"].as_str()).collect();
        names.sort_unstable();
        if !names.is_empty() {
            missing.push(format!("{name} for: {}", names.join(",")));
        }
    }
    (!missing.is_empty()).then(|| format!("must specify {}", missing.join("; ")))
}
