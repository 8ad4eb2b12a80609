//! A driver is asked who it is, and the cluster is told in the node's CSINode.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;
use skiff_base::chain;
use skiff_client::PatchKind;

use super::request::{self, NodeInfo};
use super::{Driver, LIMIT, Registered, Version};
use crate::context::Context;
use crate::grpc;
use crate::grpc::proto::Message;

const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// Writes of one object that others write, too.
const TRIES: u32 = 5;

/// Tells what is known before the first driver comes.
pub(crate) async fn prepare(ctx: &Context) {
    if let Err(error) = write_csi_node(ctx, |_| {}).await {
        tracing::warn!(error, "the node's CSINode is not written");
    }
    if let Err(error) = super::volume::tell_in_use(ctx).await {
        tracing::warn!(error, "the node's status may name volumes that it has not");
    }
}

/// The highest version that this node speaks, too.
fn highest(versions: &[String]) -> Option<Version> {
    let parse = |version: &String| {
        let mut parts = version.trim_start_matches('v').split('.').map(|part| part.parse::<u32>().ok());
        let mut next = || parts.next().unwrap_or(Some(0));
        Some([next()?, next()?, next()?])
    };
    versions.iter().filter_map(parse).filter(|version| version[0] == 1).max()
}

/// Registers the driver behind a socket, which `by` tells of.
pub(crate) async fn begin(
    ctx: &Context,
    name: &str,
    socket: PathBuf,
    versions: &[String],
    by: &Path,
) -> Result<(), String> {
    let Some(version) = highest(versions) else {
        return Err(format!("the driver {name:?} speaks CSI {versions:?}, and this node 1.x"));
    };
    ctx.csi.check_turn(name, version, by)?;
    let mut driver = Driver { socket, stages: false, mount_group: false, single_node_modes: false, expands: false };
    let call = async |method: &str| {
        let answer = grpc::unix(&driver.socket, &format!("/csi.v1.Node/{method}"), Message::new(), LIMIT).await;
        answer.map_err(|failure| format!("{method}: {failure}"))
    };
    let info = request::node_info(&call("NodeGetInfo").await?).ok_or("NodeGetInfo: the answer is no message")?;
    let capabilities = request::capabilities(&call("NodeGetCapabilities").await?);
    [driver.stages, driver.mount_group, driver.single_node_modes, driver.expands] = capabilities;
    ctx.csi.check_turn(name, version, by)?;
    tell(ctx, name, &info).await?;
    ctx.csi.put(name, Registered { driver: driver.into(), version, by: by.to_owned() })
}

/// The socket that told of a driver is gone; nothing happens where another one has told of it since.
pub(crate) async fn end(ctx: &Context, name: &str, by: &Path) {
    if !ctx.csi.remove(name, by) {
        return;
    }
    tracing::info!(driver = name, "a CSI driver is gone");
    if let Err(error) = write_csi_node(ctx, |drivers| drivers.retain(|driver| driver.name != name)).await {
        tracing::warn!(driver = name, error, "the node's CSINode still has a driver that is gone");
    }
}

/// Writes what the driver says of the node: labels and an id on the Node, and the CSINode.
async fn tell(ctx: &Context, name: &str, info: &NodeInfo) -> Result<(), String> {
    let nodes = ctx.client.all::<Node>();
    let node = nodes.get(&ctx.options.node_name).await.map_err(|e| chain(&e).to_string())?;
    let ids = node.metadata.annotations.as_ref().and_then(|a| a.get(NODE_IDS)).map(String::as_str);
    let mut ids: BTreeMap<String, String> = ids.and_then(|ids| serde_json::from_str(ids).ok()).unwrap_or_default();
    ids.insert(name.to_owned(), info.id.clone());
    let ids = serde_json::to_string(&ids).map_err(|e| e.to_string())?;
    let patch = json!({"metadata": {"annotations": {NODE_IDS: ids}, "labels": info.topology}});
    nodes
        .patch(&ctx.options.node_name, PatchKind::Strategic, &patch)
        .await
        .map_err(|e| format!("label the node: {}", chain(&e)))?;
    write_csi_node(ctx, |drivers| {
        drivers.retain(|driver| driver.name != name);
        drivers.push(CSINodeDriver {
            name: name.to_owned(),
            node_id: info.id.clone(),
            topology_keys: Some(info.topology.keys().cloned().collect()),
            allocatable: (info.max_volumes > 0).then_some(VolumeNodeResources { count: Some(info.max_volumes) }),
        });
    })
    .await
}

/// Changes the drivers of the node's CSINode, which is made if there is none.
async fn write_csi_node(ctx: &Context, change: impl Fn(&mut Vec<CSINodeDriver>)) -> Result<(), String> {
    let (api, name) = (ctx.client.all::<CSINode>(), &ctx.options.node_name);
    let mut last = String::new();
    for _ in 0..TRIES {
        let written = match api.get(name).await {
            Ok(mut found) => {
                let before = found.spec.drivers.clone();
                change(&mut found.spec.drivers);
                if found.spec.drivers == before {
                    return Ok(());
                }
                api.update(&found).await
            }
            Err(error) if error.is_not_found() => match new_csi_node(ctx).await {
                Ok(mut fresh) => {
                    change(&mut fresh.spec.drivers);
                    api.create(&fresh).await
                }
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match written {
            Ok(_) => return Ok(()),
            Err(error) if error.is_conflict() || error.is_already_exists() => last = chain(&error).to_string(),
            Err(error) => return Err(format!("write the CSINode: {}", chain(&error))),
        }
    }
    Err(format!("write the CSINode: {last}"))
}

/// It goes with the node.
async fn new_csi_node(ctx: &Context) -> Result<CSINode, skiff_client::Error> {
    let node = ctx.client.all::<Node>().get(&ctx.options.node_name).await?;
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: ctx.options.node_name.clone(),
        uid: node.metadata.uid.unwrap_or_default(),
        controller: None,
        block_owner_deletion: None,
    };
    Ok(CSINode {
        metadata: ObjectMeta {
            name: Some(ctx.options.node_name.clone()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: CSINodeSpec { drivers: Vec::new() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (versions, expect) in [
            (&["1.0.0"][..], Some([1, 0, 0])),
            (&["v1.2", "1.10.1", "0.3.0", "2.0.0"][..], Some([1, 10, 1])),
            (&["0.3.0"][..], None),
            (&["one"][..], None),
            (&[][..], None),
        ] {
            let versions: Vec<String> = versions.iter().map(|version| (*version).to_owned()).collect();
            assert_eq!(highest(&versions), expect, "{versions:?}");
        }
    }
}
