//! What is known of devices: which there are, and who has them. In memory, and as the file that outlives the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{ResourceHealth, ResourceStatus};
use serde_json::{Map, Value, json};
use skiff_base::CancellationToken;

use super::wire::{Abilities, Device};
use crate::pod::PodUid;

type Ids = BTreeSet<String>;

/// The plugin behind a resource.
#[derive(Debug, Clone)]
pub(super) struct Plugin {
    pub(super) socket: PathBuf,
    pub(super) abilities: Abilities,
    /// Another one has come in its place.
    pub(super) replaced: CancellationToken,
    /// It was taken away.
    pub(super) removed: CancellationToken,
}

/// ```text
///   (in the file) -> Absent -> Present <-> Lost -> Absent
///                              plugin      5 min
/// ```
#[derive(Debug, Default)]
pub(super) enum Presence {
    /// There was a plugin once: nodes say that they have none of it, and what asks for it is refused.
    #[default]
    Absent,
    Present(Plugin),
    /// It may come back: its devices still count as the node's, but nobody gets them.
    Lost(Plugin),
}

#[derive(Debug, Default)]
pub(super) struct Resource {
    pub(super) presence: Presence,
    pub(super) devices: BTreeMap<String, Device>,
    /// Counts the plugins that it had.
    pub(super) generation: u64,
    /// It was known to an earlier agent, and no plugin has come since.
    pub(super) unseen: bool,
}

impl Resource {
    pub(super) fn healthy(&self) -> Ids {
        let present = matches!(self.presence, Presence::Present(_));
        self.devices.iter().filter(|(_, device)| present && device.healthy).map(|(id, _)| id.clone()).collect()
    }

    pub(super) fn plugin(&self) -> Option<&Plugin> {
        match &self.presence {
            Presence::Present(plugin) | Presence::Lost(plugin) => Some(plugin),
            Presence::Absent => None,
        }
    }

    /// What the node has, and what of it pods may have.
    pub(super) fn counts(&self) -> [usize; 2] {
        [self.plugin().map_or(0, |_| self.devices.len()), self.healthy().len()]
    }
}

/// What a container was given of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gift {
    /// With the NUMA nodes of each.
    pub(super) devices: BTreeMap<String, Vec<i64>>,
    /// The plugin's `ContainerAllocateResponse`.
    pub(super) answer: Vec<u8>,
}

impl Gift {
    pub(super) fn ids(&self) -> Ids {
        self.devices.keys().cloned().collect()
    }
}

/// By resource.
pub(super) type Gifts = BTreeMap<String, Gift>;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) resources: BTreeMap<String, Resource>,
    /// By pod and container.
    pub(super) given: BTreeMap<PodUid, BTreeMap<String, Gifts>>,
    /// The file does not tell it yet.
    pub(super) unwritten: bool,
}

/// The key of devices without a NUMA node.
const NO_NODE: i64 = -1;

impl State {
    pub(super) fn gifts(&self, uid: &PodUid, container: &str) -> Option<&Gifts> {
        self.given.get(uid)?.get(container)
    }

    fn all_gifts(&self) -> impl Iterator<Item = (&String, &Gift)> {
        self.given.values().flat_map(|containers| containers.values().flatten())
    }

    /// Whether a plugin gives it, or gave it.
    pub(super) fn knows(&self, resource: &str) -> bool {
        self.resources.contains_key(resource) || self.all_gifts().any(|(name, _)| name == resource)
    }

    pub(super) fn used(&self, resource: &str) -> Ids {
        self.all_gifts().filter(|(name, _)| *name == resource).flat_map(|(_, gift)| gift.ids()).collect()
    }

    /// Takes what a plugin tells; true where that changes the health of what somebody was given.
    pub(super) fn take_devices(&mut self, resource: &str, devices: BTreeMap<String, Device>) -> bool {
        let used = self.used(resource);
        let Some(entry) = self.resources.get_mut(resource) else { return false };
        let health = |known: &BTreeMap<String, Device>, id: &String| known.get(id).map(|device| device.healthy);
        let changed = used.iter().any(|id| health(&entry.devices, id) != health(&devices, id));
        entry.devices = devices;
        changed
    }

    /// As a container's status tells it.
    pub(super) fn health(&self, uid: &PodUid, container: &str) -> Option<Vec<ResourceStatus>> {
        let of = |(name, gift): (&String, &Gift)| {
            let known = self.resources.get(name).map(|resource| &resource.devices);
            let one = |id: &String| {
                let healthy = known.and_then(|known| known.get(id)).is_none_or(|device| device.healthy);
                let health = if healthy { "Healthy" } else { "Unhealthy" };
                ResourceHealth { resource_id: id.clone(), health: Some(health.to_owned()), ..ResourceHealth::default() }
            };
            ResourceStatus { name: name.clone(), resources: Some(gift.devices.keys().map(one).collect()) }
        };
        Some(self.gifts(uid, container)?.iter().map(of).collect())
    }

    /// The file, in upstream's form: exporters of GPU metrics read it.
    pub(super) fn show(&self) -> Value {
        let mut entries = Vec::new();
        for (uid, containers) in &self.given {
            for (container, gifts) in containers {
                entries.extend(gifts.iter().map(|(resource, gift)| show_gift(uid, container, resource, gift)));
            }
        }
        let of = |(name, resource): (&String, &Resource)| (name.clone(), json!(resource.healthy()));
        let registered: Map<String, Value> = self.resources.iter().map(of).collect();
        json!({"Data": {"PodDeviceEntries": entries, "RegisteredDevices": registered}})
    }

    /// What an earlier agent knew; its plugins are to come again.
    pub(super) fn read(file: &Value) -> Option<Self> {
        let data = &file["Data"];
        let mut state = Self::default();
        for entry in data["PodDeviceEntries"].as_array().into_iter().flatten() {
            let text = |name: &str| entry[name].as_str().map(str::to_owned);
            let gift =
                Gift { devices: read_devices(&entry["DeviceIDs"])?, answer: STANDARD.decode(text("AllocResp")?).ok()? };
            let containers = state.given.entry(PodUid(text("PodUID")?)).or_default();
            containers.entry(text("ContainerName")?).or_default().insert(text("ResourceName")?, gift);
        }
        for name in data["RegisteredDevices"].as_object()?.keys() {
            state.resources.insert(name.clone(), Resource { unseen: true, ..Resource::default() });
        }
        Some(state)
    }
}

fn show_gift(uid: &PodUid, container: &str, resource: &str, gift: &Gift) -> Value {
    let mut by_node: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
    for (id, nodes) in &gift.devices {
        let nodes = if nodes.is_empty() { &[NO_NODE][..] } else { nodes };
        nodes.iter().for_each(|node| by_node.entry(*node).or_default().push(id));
    }
    json!({"PodUID": uid.0, "ContainerName": container, "ResourceName": resource, "DeviceIDs": by_node,
        "AllocResp": STANDARD.encode(&gift.answer)})
}

fn read_devices(by_node: &Value) -> Option<BTreeMap<String, Vec<i64>>> {
    let mut devices: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for (node, ids) in by_node.as_object()? {
        let node: i64 = node.parse().ok()?;
        for id in ids.as_array().into_iter().flatten().filter_map(Value::as_str) {
            devices.entry(id.to_owned()).or_default().extend((node != NO_NODE).then_some(node));
        }
    }
    Some(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(healthy: bool) -> Device {
        Device { healthy, nodes: Vec::new() }
    }

    fn state() -> State {
        let devices = BTreeMap::from([("a".to_owned(), vec![0, 1]), ("b".to_owned(), Vec::new())]);
        let gifts = Gifts::from([("x.io/d".to_owned(), Gift { devices, answer: vec![1, 2] })]);
        let mut state = State::default();
        state.given.insert(PodUid("u".into()), BTreeMap::from([("c".to_owned(), gifts)]));
        state.resources.insert("x.io/d".to_owned(), Resource::default());
        state
    }

    #[test]
    fn the_file_is_read_again() {
        let state = state();
        let file = state.show();
        let entry = json!({"PodUID": "u", "ContainerName": "c", "ResourceName": "x.io/d", "AllocResp": "AQI=",
            "DeviceIDs": {"-1": ["b"], "0": ["a"], "1": ["a"]}});
        assert_eq!(file, json!({"Data": {"PodDeviceEntries": [entry], "RegisteredDevices": {"x.io/d": []}}}));
        let read = State::read(&file).expect("a good file");
        assert_eq!(read.given, state.given);
        assert!(read.resources["x.io/d"].unseen && read.knows("x.io/d") && !read.knows("x.io/e"));
        assert_eq!(read.resources["x.io/d"].counts(), [0, 0]);
        assert!(State::read(&json!({})).is_none());
    }

    #[test]
    fn who_hears_of_health() {
        let mut state = state();
        let list = |ids: &[(&str, bool)]| ids.iter().map(|(id, good)| ((*id).to_owned(), device(*good))).collect();
        assert!(state.take_devices("x.io/d", list(&[("a", true), ("b", true), ("z", true)])), "they are known again");
        assert!(!state.take_devices("x.io/d", list(&[("a", true), ("b", true), ("z", false)])), "nobody has that one");
        assert!(state.take_devices("x.io/d", list(&[("a", false), ("b", true)])));
        let told = state.health(&PodUid("u".into()), "c").expect("it has some");
        let one = |id: &str, health: &str| json!({"resourceID": id, "health": health});
        let expect = json!([{"name": "x.io/d", "resources": [one("a", "Unhealthy"), one("b", "Healthy")]}]);
        assert_eq!(serde_json::to_value(told).expect("a value"), expect);
        assert_eq!(state.health(&PodUid("u".into()), "d"), None);
        assert_eq!(state.used("x.io/d").len(), 2);
    }
}
