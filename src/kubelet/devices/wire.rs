//! What device plugins are asked and tell, by the numbers of `deviceplugin/v1beta1/api.proto`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use skiff_runtime::GivenDevice;

use crate::grpc::proto::{Fields, Message};

/// What a plugin can do beside the necessary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Abilities {
    /// It is to be called before each start of a container.
    pub(super) pre_start: bool,
    /// It has a say in which devices go together.
    pub(super) preferred: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) healthy: bool,
    /// The NUMA nodes that it is near to.
    pub(super) nodes: Vec<i64>,
}

pub(super) fn abilities(answer: &[u8]) -> Abilities {
    let fields = Fields::parse(answer).unwrap_or_default();
    Abilities { pre_start: fields.number(1) != 0, preferred: fields.number(2) != 0 }
}

/// One answer of `ListAndWatch`: all devices that there are.
pub(super) fn devices(answer: &[u8]) -> Option<BTreeMap<String, Device>> {
    let one = |device: &Fields<'_>| {
        let nodes = device.messages(3).iter().flat_map(|topology| topology.messages(1)).collect::<Vec<_>>();
        let nodes = nodes.iter().map(|node| node.number(1).cast_signed()).collect();
        (device.text(1), Device { healthy: device.text(2) == "Healthy", nodes })
    };
    Some(Fields::parse(answer)?.messages(1).iter().map(one).collect())
}

fn ids(ids: &BTreeSet<String>) -> impl Iterator<Item = &str> {
    ids.iter().map(String::as_str)
}

/// Asks for a preference, or for devices, for one container.
pub(super) fn preference(available: &BTreeSet<String>, taken: &BTreeSet<String>, size: usize) -> Message {
    let wanted = Message::new().texts(1, ids(available)).texts(2, ids(taken)).number(3, size as u64);
    Message::new().message(1, &wanted)
}

pub(super) fn preferred(answer: &[u8]) -> Vec<String> {
    let answers = Fields::parse(answer).unwrap_or_default().messages(1);
    answers.first().map(|answer| answer.texts(1)).unwrap_or_default()
}

pub(super) fn allocate(given: &BTreeSet<String>) -> Message {
    Message::new().message(1, &pre_start(given))
}

/// What one container gets: a `ContainerAllocateResponse`, to be kept as it is.
pub(super) fn allocation(answer: &[u8]) -> Option<Vec<u8>> {
    Fields::parse(answer)?.bytes(1).map(<[u8]>::to_vec)
}

pub(super) fn pre_start(given: &BTreeSet<String>) -> Message {
    Message::new().texts(1, ids(given))
}

/// The devices of the Container Device Interface that an allocation names.
pub(super) fn cdi_devices(allocation: &[u8]) -> Vec<String> {
    let named = Fields::parse(allocation).unwrap_or_default().messages(5);
    named.iter().map(|device| device.text(1)).collect()
}

/// A file or directory of the host that comes with a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GivenMount {
    pub(crate) host: PathBuf,
    pub(crate) container: PathBuf,
    pub(crate) read_only: bool,
}

/// What becomes part of a container for the devices that it was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Edits {
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) mounts: Vec<GivenMount>,
    pub(crate) devices: Vec<GivenDevice>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Edits {
    /// What is there already stays: two plugins can't both have their way.
    pub(super) fn add(&mut self, allocation: &[u8]) {
        let fields = Fields::parse(allocation).unwrap_or_default();
        for (name, value) in fields.map(1) {
            self.env.entry(name).or_insert(value);
        }
        for mount in fields.messages(2) {
            let container = PathBuf::from(mount.text(1));
            if !self.mounts.iter().any(|other| other.container == container) {
                let host = PathBuf::from(mount.text(2));
                self.mounts.push(GivenMount { host, container, read_only: mount.number(3) != 0 });
            }
        }
        for device in fields.messages(3) {
            let path = PathBuf::from(device.text(1));
            let same = |other: &GivenDevice| matches!(other, GivenDevice::At { container, .. } if *container == path);
            if !self.devices.iter().any(same) {
                let read_only = !device.text(3).contains('w');
                self.devices.push(GivenDevice::At { host: device.text(2).into(), container: path, read_only });
            }
        }
        for (name, value) in fields.map(4) {
            self.annotations.entry(name).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_plugins_tell() {
        assert_eq!(
            abilities(&Message::new().number(2, 1).into_bytes()),
            Abilities { pre_start: false, preferred: true }
        );
        let node = Message::new().message(1, &Message::new().number(1, 1)).message(1, &Message::new());
        let list = Message::new()
            .message(1, &Message::new().text(1, "a").text(2, "Healthy").message(3, &node))
            .message(1, &Message::new().text(1, "b").text(2, "Unhealthy"));
        let found = devices(&list.into_bytes()).expect("a list");
        assert_eq!(found["a"], Device { healthy: true, nodes: vec![1, 0] });
        assert_eq!(found["b"], Device { healthy: false, nodes: Vec::new() });
        let chosen = Message::new().message(1, &Message::new().texts(1, ["b", "a"]));
        assert_eq!(preferred(&chosen.into_bytes()), ["b", "a"]);
        assert_eq!((preferred(&[]), allocation(&[])), (Vec::<String>::new(), None));
    }

    #[test]
    fn what_becomes_of_an_allocation() {
        let map = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let mount = Message::new().text(1, "/lib/x").text(2, "/host/x").number(3, 1);
        let device = |at: &str, permissions: &str| Message::new().text(1, at).text(2, "/dev/host").text(3, permissions);
        let one = Message::new()
            .map(1, &map("A", "1"))
            .message(2, &mount)
            .message(3, &device("/dev/a", "rw"))
            .message(3, &device("/dev/b", "r"))
            .map(4, &map("note", "first"))
            .message(5, &Message::new().text(1, "vendor.com/gpu=0"));
        let whole = Message::new().message(1, &one).into_bytes();
        let allocation = allocation(&whole).expect("an allocation");
        assert_eq!(cdi_devices(&allocation), ["vendor.com/gpu=0"]);
        let mut edits = Edits::default();
        edits.add(&allocation);
        let other = Message::new().map(1, &map("A", "2")).message(3, &device("/dev/a", "r")).map(4, &map("note", "x"));
        edits.add(&other.into_bytes());
        let at = |path: &str, read_only: bool| GivenDevice::At {
            host: "/dev/host".into(),
            container: path.into(),
            read_only,
        };
        let expect = Edits {
            env: map("A", "1"),
            mounts: vec![GivenMount { host: "/host/x".into(), container: "/lib/x".into(), read_only: true }],
            devices: vec![at("/dev/a", false), at("/dev/b", true)],
            annotations: map("note", "first"),
        };
        assert_eq!(edits, expect);
    }
}
