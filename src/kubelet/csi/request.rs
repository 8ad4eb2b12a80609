//! What drivers are asked, by the numbers of `csi.proto`.

use std::collections::BTreeMap;
use std::path::Path;

use super::Driver;
use super::volume::Wanted;
use crate::grpc::proto::{Fields, Message};

/// Of `NodeServiceCapability.RPC.Type`.
const STAGE_UNSTAGE_VOLUME: u64 = 1;
const EXPAND_VOLUME: u64 = 3;
const SINGLE_NODE_MULTI_WRITER: u64 = 5;
const VOLUME_MOUNT_GROUP: u64 = 6;

/// What `NodeGetInfo` tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NodeInfo {
    pub(super) id: String,
    pub(super) max_volumes: i32,
    pub(super) topology: BTreeMap<String, String>,
}

pub(super) fn node_info(answer: &[u8]) -> Option<NodeInfo> {
    let fields = Fields::parse(answer)?;
    let topology = fields.messages(3).first().map(|topology| topology.map(1)).unwrap_or_default();
    Some(NodeInfo { id: fields.text(1), max_volumes: i32::try_from(fields.number(2)).unwrap_or(i32::MAX), topology })
}

/// What `NodeGetCapabilities` tells: stages, gives to groups, knows the modes of a single node, expands.
pub(super) fn capabilities(answer: &[u8]) -> [bool; 4] {
    let fields = Fields::parse(answer).unwrap_or_default();
    let has = |kind: u64| fields.messages(1).iter().any(|one| one.messages(1).iter().any(|rpc| rpc.number(1) == kind));
    [STAGE_UNSTAGE_VOLUME, VOLUME_MOUNT_GROUP, SINGLE_NODE_MULTI_WRITER, EXPAND_VOLUME].map(has)
}

/// `VolumeCapability`.
fn capability(driver: &Driver, wanted: &Wanted, group: Option<u32>) -> Message {
    let mode = Message::new().number(1, access_mode(wanted.access_modes.as_slice(), driver.single_node_modes));
    let message = Message::new();
    let message = if wanted.block {
        message.message(1, &Message::new())
    } else {
        let group = group.filter(|_| driver.mount_group).map(|group| group.to_string()).unwrap_or_default();
        let flags = wanted.mount_options.iter().map(String::as_str);
        message.message(2, &Message::new().text(1, &wanted.fs_type).texts(2, flags).text(3, &group))
    };
    message.message(3, &mode)
}

/// Upstream's translation to `VolumeCapability.AccessMode.Mode`.
fn access_mode(modes: &[String], single_node_modes: bool) -> u64 {
    let has = |mode: &str| modes.iter().any(|one| one == mode);
    let once = has("ReadWriteOnce");
    match () {
        () if has("ReadWriteMany") => 5,
        () if has("ReadOnlyMany") && once => 4,
        () if has("ReadOnlyMany") => 3,
        () if has("ReadWriteOncePod") && single_node_modes => 6,
        () if once && single_node_modes => 7,
        () => 1,
    }
}

pub(super) fn stage(
    driver: &Driver,
    wanted: &Wanted,
    at: &Path,
    context: &BTreeMap<String, String>,
    secrets: &BTreeMap<String, String>,
    group: Option<u32>,
) -> Message {
    Message::new()
        .text(1, &wanted.handle)
        .map(2, context)
        .text(3, &at.to_string_lossy())
        .message(4, &capability(driver, wanted, group))
        .map(5, secrets)
        .map(6, &wanted.attributes)
}

/// Where a volume is published, and from where.
pub(super) struct Places<'a> {
    pub(super) staging: Option<&'a Path>,
    pub(super) target: &'a Path,
}

pub(super) fn publish(
    driver: &Driver,
    wanted: &Wanted,
    places: &Places<'_>,
    context: &BTreeMap<String, String>,
    secrets: &BTreeMap<String, String>,
    attributes: &BTreeMap<String, String>,
    group: Option<u32>,
) -> Message {
    let staging = places.staging.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    Message::new()
        .text(1, &wanted.handle)
        .map(2, context)
        .text(3, &staging)
        .text(4, &places.target.to_string_lossy())
        .message(5, &capability(driver, wanted, group))
        .number(6, u64::from(wanted.read_only))
        .map(7, secrets)
        .map(8, attributes)
}

/// `NodeExpandVolume`: at least so many bytes.
pub(super) fn expand(
    driver: &Driver,
    wanted: &Wanted,
    places: &Places<'_>,
    size: i64,
    secrets: &BTreeMap<String, String>,
) -> Message {
    let staging = places.staging.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    Message::new()
        .text(1, &wanted.handle)
        .text(2, &places.target.to_string_lossy())
        .message(3, &Message::new().number(1, u64::try_from(size).unwrap_or(0)))
        .text(4, &staging)
        .message(5, &capability(driver, wanted, None))
        .map(6, secrets)
}

/// `NodeUnpublishVolume` and `NodeUnstageVolume` alike.
pub(super) fn undo(handle: &str, path: &Path) -> Message {
    Message::new().text(1, handle).text(2, &path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drivers_tell() {
        let topology = Message::new().map(1, &BTreeMap::from([("zone".to_owned(), "z".to_owned())]));
        let answer = Message::new().text(1, "id").number(2, 9).message(3, &topology).into_bytes();
        let info = node_info(&answer).expect("an answer");
        assert_eq!((info.id.as_str(), info.max_volumes, info.topology["zone"].as_str()), ("id", 9, "z"));
        let rpc = |kind: u64| Message::new().message(1, &Message::new().number(1, kind));
        let answer = Message::new().message(1, &rpc(1)).message(1, &rpc(6)).into_bytes();
        assert_eq!(capabilities(&answer), [true, true, false, false]);
        assert_eq!(capabilities(&[]), [false; 4]);
    }

    #[test]
    fn access_modes() {
        let check = |modes: &[&str], single: bool, expect: u64| {
            let modes: Vec<String> = modes.iter().map(|mode| (*mode).to_owned()).collect();
            assert_eq!(access_mode(&modes, single), expect, "{modes:?}");
        };
        check(&["ReadWriteOnce"], false, 1);
        check(&["ReadWriteOnce"], true, 7);
        check(&["ReadWriteOncePod"], true, 6);
        check(&["ReadWriteOnce", "ReadWriteMany"], false, 5);
        check(&["ReadOnlyMany"], false, 3);
        check(&["ReadOnlyMany", "ReadWriteOnce"], false, 4);
        check(&[], false, 1);
    }
}
