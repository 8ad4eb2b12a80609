//! What pods have on the disk: volumes, logs and writable layers, and which of their limits they exceed.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::pod;
use crate::quantity;

/// Bytes and inodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) bytes: i64,
    pub(crate) inodes: i64,
}

impl Space {
    pub(super) fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// Of one pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DiskUse {
    /// Writable layer and logs, by container.
    pub(crate) containers: BTreeMap<String, Space>,
    /// Those emptyDirs that are on the disk.
    pub(crate) volumes: BTreeMap<String, Space>,
}

impl DiskUse {
    pub(crate) fn total(&self) -> Space {
        let mut total = Space::default();
        self.containers.values().chain(self.volumes.values()).for_each(|space| total.add(*space));
        total
    }
}

/// Where to look for one pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    pub(crate) containers: Vec<(String, PathBuf)>,
    pub(crate) volumes: Vec<(String, PathBuf)>,
}

impl Places {
    pub(crate) fn measure(&self) -> DiskUse {
        let mut usage = DiskUse::default();
        for (into, places) in [(&mut usage.containers, &self.containers), (&mut usage.volumes, &self.volumes)] {
            for (name, path) in places {
                into.entry(name.clone()).or_default().add(measure(path));
            }
        }
        usage
    }
}

/// What a tree takes on its own file system; a hard link counts once. What vanishes meanwhile takes nothing.
pub(crate) fn measure(top: &Path) -> Space {
    let mut space = Space::default();
    let Ok(first) = fs::symlink_metadata(top) else { return space };
    let (device, mut linked) = (first.dev(), HashSet::new());
    let mut left = vec![(top.to_owned(), first)];
    while let Some((path, metadata)) = left.pop() {
        if metadata.dev() != device || (metadata.nlink() > 1 && !metadata.is_dir() && !linked.insert(metadata.ino())) {
            continue;
        }
        space.add(Space { bytes: i64::try_from(metadata.blocks() * 512).unwrap_or(i64::MAX), inodes: 1 });
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            left.extend(entries.filter_map(|e| Some((e.path(), fs::symlink_metadata(e.path()).ok()?))));
        }
    }
    space
}

/// Why a pod goes for what it has on the disk alone: the counted signal and upstream's words.
pub(crate) fn exceeded(pod: &Pod, usage: &DiskUse) -> Option<(&'static str, String)> {
    for volume in pod::spec(pod).volumes.iter().flatten() {
        let limit = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref());
        let Some(limit) = limit.filter(|limit| quantity::value(limit) > 0) else { continue };
        let used = usage.volumes.get(&volume.name).map_or(0, |space| space.bytes);
        if used > quantity::value(limit) {
            let message = format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, limit.0);
            return Some(("emptydirfs.limit", message));
        }
    }
    if let Some(limit) = pod_limit(pod).filter(|limit| usage.total().bytes > *limit) {
        let limit = super::plan::Resource::EphemeralStorage.show(limit);
        let message = format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ");
        return Some(("ephemeralpodfs.limit", message));
    }
    for (_, container) in pod::containers(pod) {
        let Some(limit) = limit_of(container).filter(|limit| quantity::value(limit) > 0) else { continue };
        let used = usage.containers.get(&container.name).map_or(0, |space| space.bytes);
        if used > quantity::value(limit) {
            let message =
                format!("Container {} exceeded its local ephemeral storage limit {:?}. ", container.name, limit.0);
            return Some(("ephemeralcontainerfs.limit", message));
        }
    }
    None
}

/// Whether anything of a pod has a limit on the disk.
pub(crate) fn has_limits(pod: &Pod) -> bool {
    let volumes = pod::spec(pod).volumes.iter().flatten();
    volumes.filter_map(|v| v.empty_dir.as_ref()).any(|e| e.size_limit.is_some())
        || pod::containers(pod).any(|(_, c)| limit_of(c).is_some())
}

const STORAGE: &str = "ephemeral-storage";
type Amount = k8s_openapi::apimachinery::pkg::api::resource::Quantity;

fn limit_of(container: &k8s_openapi::api::core::v1::Container) -> Option<&Amount> {
    container.resources.as_ref()?.limits.as_ref()?.get(STORAGE)
}

pub(crate) fn request_of(container: &k8s_openapi::api::core::v1::Container) -> i64 {
    let resources = container.resources.as_ref();
    let request = resources.and_then(|r| r.requests.as_ref()?.get(STORAGE)).or_else(|| limit_of(container));
    request.map_or(0, quantity::value)
}

/// Of all containers together; none where one of the main ones has none.
fn pod_limit(pod: &Pod) -> Option<i64> {
    crate::resources::aggregate(pod, |c| limit_of(c).map(quantity::value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn trees_are_measured() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("a/b");
        fs::create_dir(directory.path().join("a")).expect("made");
        let empty = measure(directory.path());
        fs::write(&file, vec![1; 1 << 20]).expect("written");
        fs::hard_link(&file, directory.path().join("again")).expect("linked");
        std::os::unix::fs::symlink("/", directory.path().join("out")).expect("linked");
        let full = measure(directory.path());
        let more = full.bytes - empty.bytes;
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&more), "{more}");
        assert_eq!(full.inodes - empty.inodes, 2, "a file with two names and a link");
        assert_eq!(measure(&directory.path().join("none")), Space::default());
    }

    #[test]
    fn limits() {
        let limited = |limit: &str| json!({"resources": {"limits": {"ephemeral-storage": limit}}});
        let check = |volume: Value, container: Value, used: [i64; 2], expected: &str| {
            let mut container = container;
            container["name"] = json!("c");
            let pod: Pod = serde_json::from_value(json!({"metadata": {},
                "spec": {"containers": [container], "volumes": [{"name": "v", "emptyDir": volume}]}}))
            .expect("a pod");
            let space = |bytes| Space { bytes, inodes: 1 };
            let usage = DiskUse {
                containers: [("c".to_owned(), space(used[0]))].into(),
                volumes: [("v".to_owned(), space(used[1]))].into(),
            };
            let found = exceeded(&pod, &usage).map(|(_, message)| message).unwrap_or_default();
            assert_eq!(found, expected);
        };
        check(json!({}), json!({}), [1 << 40, 1 << 40], "");
        check(json!({"sizeLimit": "1Ki"}), json!({}), [1 << 40, 1024], "");
        let volume = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". ";
        check(json!({"sizeLimit": "1Ki"}), json!({}), [0, 1025], volume);
        let whole = "Pod ephemeral local storage usage exceeds the total limit of containers 1Ki. ";
        check(json!({}), limited("1Ki"), [600, 600], whole);
        check(json!({}), limited("1Ki"), [600, 424], "");
    }
}
