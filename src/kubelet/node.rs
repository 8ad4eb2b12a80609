//! The node's own object: registration, and what its status tells.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo, ObjectReference,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use skiff_api::names;
use skiff_base::time;
use skiff_client::{Client, Error, EventKind, EventRecorder, PatchKind};
use skiff_runtime::Image;

use crate::devices::Counts;
use crate::machine::MachineFacts;
use crate::options::Options;
use crate::pressure::condition::Condition;
use crate::{reserved, resources};

/// The version of Kubernetes that is spoken, and whose it is.
pub const VERSION: &str = concat!("v1.36.0+skiff", env!("CARGO_PKG_VERSION"));
/// Why the node is not ready, if it is not.
pub(crate) type Readiness = Result<(), &'static str>;
/// Before anything can run.
pub(crate) const BEGINS: Readiness =
    Err("[container runtime status check may not have completed yet, network is not ready]");
/// While pods end since the machine goes down.
pub(crate) const GOES_DOWN: Readiness = Err("node is shutting down");

/// Names that RuntimeClasses may have for the one runtime that is there.
pub(crate) const HANDLERS: [&str; 2] = ["runc", "skiff"];
/// The largest images that the status lists.
const MAX_IMAGES: usize = 50;

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) fn plan_labels(options: &Options) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [
        ("beta.kubernetes.io/arch", arch()),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch()),
        ("kubernetes.io/hostname", &options.node_name),
        ("kubernetes.io/os", "linux"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    labels.extend(options.labels.clone());
    labels
}

fn conditions(
    ready: Readiness,
    pressure: &BTreeSet<Condition>,
    old: &[NodeCondition],
    now: Timestamp,
) -> Vec<NodeCondition> {
    let (status, reason, message) = match ready {
        Ok(()) => ("True", "KubeletReady", "kubelet is posting ready status"),
        Err(why) => ("False", "KubeletNotReady", why),
    };
    let now = crate::pod::time(now);
    let short = |condition: Condition| {
        let (status, [reason, message]) = match (condition, pressure.contains(&condition)) {
            (Condition::Memory, false) => {
                ("False", ["KubeletHasSufficientMemory", "kubelet has sufficient memory available"])
            }
            (Condition::Memory, true) => {
                ("True", ["KubeletHasInsufficientMemory", "kubelet has insufficient memory available"])
            }
            (Condition::Disk, false) => ("False", ["KubeletHasNoDiskPressure", "kubelet has no disk pressure"]),
            (Condition::Disk, true) => ("True", ["KubeletHasDiskPressure", "kubelet has disk pressure"]),
            (Condition::Pid, false) => ("False", ["KubeletHasSufficientPID", "kubelet has sufficient PID available"]),
            (Condition::Pid, true) => ("True", ["KubeletHasInsufficientPID", "kubelet has insufficient PID available"]),
        };
        (condition.name(), status, reason, message)
    };
    [short(Condition::Memory), short(Condition::Disk), short(Condition::Pid), ("Ready", status, reason, message)]
        .map(|(type_, status, reason, message)| {
            let same = old.iter().find(|c| c.type_ == type_ && c.status == status);
            NodeCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_heartbeat_time: Some(now.clone()),
                last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(now.clone())),
            }
        })
        .into()
}

/// What the node's status tells.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) facts: &'a MachineFacts,
    pub(crate) images: &'a [Image],
    pub(crate) ready: Readiness,
    pub(crate) pressure: &'a BTreeSet<Condition>,
    /// What plugins give to pods.
    pub(crate) devices: &'a Counts,
}

pub(crate) fn plan_status(options: &Options, seen: &Seen<'_>, old: &NodeStatus, now: Timestamp) -> NodeStatus {
    let Seen { facts, images, ready, pressure, devices } = *seen;
    let mut capacity = facts.capacity(options.settings.max_pods);
    let mut allocatable = reserved::allocatable(facts, &options.settings);
    for (name, [all, free]) in devices {
        capacity.insert(name.clone(), Quantity(all.to_string()));
        allocatable.insert(name.clone(), Quantity(free.to_string()));
    }
    // What somebody has told of by hand is there for pods, all of it.
    for (name, amount) in told_by_others(old, |name| devices.contains_key(name)) {
        capacity.insert(name.clone(), amount.clone());
        allocatable.insert(name.clone(), amount.clone());
    }
    let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    NodeStatus {
        addresses: Some(vec![
            address("InternalIP", options.node_ip.to_string()),
            address("Hostname", options.node_name.clone()),
        ]),
        allocatable: Some(allocatable),
        capacity: Some(capacity),
        conditions: Some(conditions(ready, pressure, old.conditions.as_deref().unwrap_or_default(), now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(options.listen.port()) }),
        }),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
        images: Some(plan_images(images)),
        node_info: Some(NodeSystemInfo {
            architecture: arch().to_owned(),
            boot_id: facts.boot_id.clone(),
            container_runtime_version: concat!("skiff://", env!("CARGO_PKG_VERSION")).to_owned(),
            kernel_version: facts.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: VERSION.to_owned(),
            machine_id: facts.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: facts.os_image.clone(),
            system_uuid: facts.system_uuid.clone(),
            swap: None,
        }),
        runtime_handlers: Some(plan_handlers(facts.user_namespaces)),
        ..NodeStatus::default()
    }
}

/// The names of the runtime: none, and those that RuntimeClasses may have.
fn plan_handlers(user_namespaces: bool) -> Vec<NodeRuntimeHandler> {
    let features =
        NodeRuntimeHandlerFeatures { recursive_read_only_mounts: Some(true), user_namespaces: Some(user_namespaces) };
    let handler = |name: &str| NodeRuntimeHandler { name: Some(name.to_owned()), features: Some(features.clone()) };
    [""].iter().chain(&HANDLERS).map(|name| handler(name)).collect()
}

fn plan_images(images: &[Image]) -> Vec<ContainerImage> {
    let mut listed: Vec<ContainerImage> = images
        .iter()
        .map(|image| ContainerImage {
            names: Some(image.digests.iter().chain(&image.tags).cloned().collect()),
            size_bytes: i64::try_from(image.size_bytes).ok(),
        })
        .collect();
    listed.sort_by_key(|i| std::cmp::Reverse(i.size_bytes));
    listed.truncate(MAX_IMAGES);
    listed
}

/// Creates the node, or brings labels and status of an earlier registration up to date. Tells of a reboot.
pub(crate) async fn ensure(
    client: &Client,
    recorder: &EventRecorder,
    options: &Options,
    seen: &Seen<'_>,
    fresh_devices: bool,
) -> Result<Node, Error> {
    let api = client.all::<Node>();
    let labels = plan_labels(options);
    let now = time::now();
    let fresh = Node {
        metadata: ObjectMeta {
            name: Some(options.node_name.clone()),
            labels: Some(labels.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!options.taints.is_empty()).then(|| options.taints.clone()),
            ..NodeSpec::default()
        }),
        status: Some(plan_status(options, seen, &NodeStatus::default(), now)),
    };
    match api.create(&fresh).await {
        Ok(node) => {
            // The server may take no status at creation.
            let told = node.status.as_ref().is_some_and(|s| s.node_info.is_some());
            return if told { Ok(node) } else { write_status(client, options, &node, seen).await };
        }
        Err(e) if e.is_already_exists() => {}
        Err(e) => return Err(e),
    }
    let mut node = api.get(&options.node_name).await?;
    if is_rebooted(&node, seen.facts) {
        let message = format!("Node {} has been rebooted, boot id: {}", options.node_name, seen.facts.boot_id);
        recorder.record(reference(&options.node_name), EventKind::Warning, "Rebooted", message);
    }
    let old = node.metadata.labels.clone().unwrap_or_default();
    if labels.iter().any(|(k, v)| old.get(k) != Some(v)) {
        let patch = json!({"metadata": {"labels": labels}});
        node = api.patch(&options.node_name, PatchKind::Strategic, &patch).await?;
    }
    // A restart of the agent is no reason to send everyone away.
    let ready = if is_ready(&node) { Ok(()) } else { seen.ready };
    let mut devices = seen.devices.clone();
    if fresh_devices {
        let told = node.status.iter().flat_map(|status| told_by_others(status, |_| false));
        let zero: Vec<(String, [usize; 2])> = told.map(|(name, _)| (name.clone(), [0, 0])).collect();
        devices.extend(zero);
    }
    write_status(client, options, &node, &Seen { ready, devices: &devices, ..*seen }).await
}

/// Whether the node's status was written before the machine was started.
fn is_rebooted(node: &Node, facts: &MachineFacts) -> bool {
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    info.is_some_and(|info| !info.boot_id.is_empty() && info.boot_id != facts.boot_id)
}

/// Resources of the node that the API has, and neither the machine nor a plugin.
fn told_by_others(status: &NodeStatus, is_given: impl Fn(&str) -> bool) -> impl Iterator<Item = (&String, &Quantity)> {
    let capacity = status.capacity.iter().flatten();
    capacity.filter(move |(name, _)| names::is_extended_resource(name) && !is_given(name))
}

/// What pods may have of the node by an earlier word, and the node has no more.
fn outdated<'a>(
    list: Option<&'a BTreeMap<String, Quantity>>,
    capacity: &BTreeMap<String, Quantity>,
) -> impl Iterator<Item = &'a String> {
    let is_counted = |name: &str| names::is_extended_resource(name) || resources::page_size(name).is_some();
    let gone = move |name: &&String| is_counted(name) && !capacity.contains_key(*name);
    list.into_iter().flatten().map(|(name, _)| name).filter(gone)
}

/// Whether somebody has told of resources, or of their end, and pods do not have that yet.
pub(crate) fn is_unsettled(status: &NodeStatus, is_given: impl Fn(&str) -> bool) -> bool {
    let (none, allocatable) = (BTreeMap::new(), status.allocatable.as_ref());
    let capacity = status.capacity.as_ref().unwrap_or(&none);
    let differs = |(name, amount)| allocatable.and_then(|list| list.get(name)) != Some(amount);
    let gone = |name: &String| names::is_extended_resource(name) && !is_given(name);
    outdated(allocatable, capacity).any(gone) || told_by_others(status, &is_given).any(differs)
}

pub(crate) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The node as the object of an event; its uid there is its name, as upstream has it.
pub(crate) fn reference(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".to_owned()),
        name: Some(name.to_owned()),
        uid: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

/// Writes the status where it differs from what `node` says.
pub(crate) async fn write_status(
    client: &Client,
    options: &Options,
    node: &Node,
    seen: &Seen<'_>,
) -> Result<Node, Error> {
    let old = node.status.clone().unwrap_or_default();
    let new = plan_status(options, seen, &old, time::now());
    if is_same(&old, &new) {
        return Ok(node.clone());
    }
    client.all::<Node>().patch_status(&options.node_name, PatchKind::Strategic, &plan_patch(&old, &new)).await
}

/// What is gone is named: amounts that are not told stay.
fn plan_patch(old: &NodeStatus, new: &NodeStatus) -> Value {
    let (none, mut patch) = (BTreeMap::new(), json!({"status": new}));
    let capacity = new.capacity.as_ref().unwrap_or(&none);
    for (field, list) in [("capacity", &old.capacity), ("allocatable", &old.allocatable)] {
        for name in outdated(list.as_ref(), capacity) {
            patch["status"][field][name] = Value::Null;
        }
    }
    patch
}

/// Equal but for the times of heartbeats, and for what others write.
fn is_same(old: &NodeStatus, new: &NodeStatus) -> bool {
    let conditions = |status: &NodeStatus| {
        let list = status.conditions.iter().flatten();
        list.filter(|c| new.conditions.iter().flatten().any(|n| n.type_ == c.type_))
            .map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone()))
            .collect::<std::collections::BTreeSet<_>>()
    };
    let images = |status: &NodeStatus| status.images.clone().unwrap_or_default();
    // Others may have added resources of their own.
    let amounts = |old: &Option<BTreeMap<String, Quantity>>, new: &Option<BTreeMap<String, Quantity>>| {
        new.iter().flatten().all(|(name, amount)| old.as_ref().and_then(|old| old.get(name)) == Some(amount))
            && new.as_ref().is_none_or(|new| outdated(old.as_ref(), new).next().is_none())
    };
    conditions(old) == conditions(new)
        && images(old) == images(new)
        && old.addresses == new.addresses
        && amounts(&old.capacity, &new.capacity)
        && amounts(&old.allocatable, &new.allocatable)
        && old.daemon_endpoints == new.daemon_endpoints
        && old.node_info == new.node_info
        && old.features == new.features
        && old.runtime_handlers == new.runtime_handlers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_that_are_told_of_by_hand() {
        let status = |capacity: Value, allocatable: Value| -> NodeStatus {
            serde_json::from_value(json!({"capacity": capacity, "allocatable": allocatable})).expect("a status")
        };
        let dongles = |count: &str| json!({"example.com/dongle": count});
        let gpu = json!({"example.com/gpu": "9"});
        for (capacity, allocatable, unsettled) in [
            (json!({"cpu": "1"}), json!({}), false),
            (dongles("4"), json!({}), true),
            (dongles("4"), dongles("3"), true),
            (dongles("4"), dongles("4"), false),
            (json!({}), dongles("4"), true),
            // A plugin's.
            (gpu.clone(), json!({}), false),
            (json!({}), gpu.clone(), false),
        ] {
            let told = status(capacity.clone(), allocatable.clone());
            assert_eq!(is_unsettled(&told, |name| name == "example.com/gpu"), unsettled, "{capacity} {allocatable}");
        }
        let new =
            status(json!({"cpu": "2", "example.com/dongle": "4"}), json!({"cpu": "2", "example.com/dongle": "4"}));
        let old = status(
            json!({"cpu": "2", "example.com/dongle": "4", "hugepages-2Mi": "0"}),
            json!({"cpu": "2", "hugepages-2Mi": "0", "example.com/gone": "1"}),
        );
        assert!(!is_same(&old, &new) && is_same(&new, &new));
        let patch = plan_patch(&old, &new);
        let capacity = json!({"cpu": "2", "example.com/dongle": "4", "hugepages-2Mi": null});
        let mut allocatable = capacity.clone();
        allocatable["example.com/gone"] = Value::Null;
        assert_eq!((&patch["status"]["capacity"], &patch["status"]["allocatable"]), (&capacity, &allocatable));
    }

    #[test]
    fn transition_times_stay_while_nothing_changes() {
        let early = Timestamp::from_second(1_000).expect("in range");
        let late = Timestamp::from_second(2_000).expect("in range");
        let first = conditions(BEGINS, &BTreeSet::new(), &[], early);
        let second = conditions(Ok(()), &BTreeSet::new(), &first, late);
        for (condition, since) in second.iter().zip([1_000, 1_000, 1_000, 2_000]) {
            let at = condition.last_transition_time.as_ref().map(|t| t.0.as_second());
            assert_eq!(at, Some(since), "{}", condition.type_);
        }
        let status = |conditions| NodeStatus { conditions: Some(conditions), ..NodeStatus::default() };
        assert!(!is_same(&status(first), &status(second.clone())));
        assert!(is_same(&status(second.clone()), &status(conditions(Ok(()), &BTreeSet::new(), &second, late))));
    }
}
