//! Drivers come and go by their sockets in `plugins_registry`: each is asked who it is, and the cluster is told in the
//! node's CSINode.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;
use skiff_base::chain;
use skiff_client::PatchKind;
use skiff_linux::inotify::Inotify;
use tokio::io::unix::AsyncFd;

use super::request::{self, NodeInfo};
use super::{Driver, LIMIT};
use crate::context::Context;
use crate::grpc::proto::{Fields, Message};
use crate::grpc::{self, Failure};
use crate::volume::tree;

const REGISTRATION: &str = "/pluginregistration.Registration";
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// A driver that does not answer yet is asked again.
const AGAIN: Duration = Duration::from_secs(2);
const REGISTRATION_LIMIT: Duration = Duration::from_secs(10);
/// Writes of one object that others write, too.
const TRIES: u32 = 5;

/// What tells one socket from another of the same name.
type Identity = (u64, i64, i64);

/// Follows the directory until the agent stops.
pub(crate) async fn follow(ctx: Arc<Context>) {
    let directory = ctx.options.root_directory.join("plugins_registry");
    let watched = match watch(&directory) {
        Ok(watched) => watched,
        Err(error) => {
            tracing::error!(directory = %directory.display(), %error, "CSI drivers can't be found");
            return;
        }
    };
    if let Err(error) = write_csi_node(&ctx, |_| {}).await {
        tracing::warn!(error, "the node's CSINode is not written");
    }
    if let Err(error) = super::volume::tell_in_use(&ctx).await {
        tracing::warn!(error, "the node's status may name volumes that it has not");
    }
    let stop = ctx.scope.token().clone();
    // Those that were registered, with the driver's name.
    let mut registered: HashMap<PathBuf, (Identity, String)> = HashMap::new();
    loop {
        let mut complete = true;
        let found = sockets(&directory).unwrap_or_else(|error| {
            tracing::warn!(directory = %directory.display(), %error, "CSI drivers are not looked for");
            HashMap::new()
        });
        let gone: Vec<PathBuf> = registered
            .iter()
            .filter(|(path, (identity, _))| found.get(*path) != Some(identity))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            let Some((_, name)) = registered.remove(&path) else { continue };
            // One that comes back at once is not told of as gone.
            if !found.contains_key(&path) {
                end(&ctx, &name).await;
            }
        }
        for (path, identity) in found {
            if registered.contains_key(&path) {
                continue;
            }
            match begin(&ctx, &path).await {
                Ok(name) => {
                    tracing::info!(driver = name, "a CSI driver is registered");
                    registered.insert(path, (identity, name));
                }
                Err(error) => {
                    tracing::warn!(socket = %path.display(), error, "a plugin is not registered");
                    complete = false;
                }
            }
        }
        let changed = async {
            match watched.readable().await {
                Ok(mut ready) => {
                    ready.clear_ready();
                    // What has come is read, else there would be no next word.
                    drop(watched.get_ref().drain());
                }
                Err(error) => {
                    tracing::warn!(%error, "CSI drivers are looked for from time to time only");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed => {}
            () = tokio::time::sleep(AGAIN), if !complete => {}
        }
    }
}

fn watch(directory: &Path) -> io::Result<AsyncFd<Inotify>> {
    tree::ensure_directory(directory, 0o750)?;
    let inotify = Inotify::new()?;
    inotify.watch_directory(directory)?;
    inotify.into_async()
}

fn sockets(directory: &Path) -> io::Result<HashMap<PathBuf, Identity>> {
    let mut found = HashMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // One that goes while we look has gone.
        let Ok(meta) = entry.metadata() else { continue };
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if meta.file_type().is_socket() && !hidden {
            found.insert(entry.path(), (meta.ino(), meta.ctime(), meta.ctime_nsec()));
        }
    }
    Ok(found)
}

/// Registers what is behind a socket; gives the driver's name.
async fn begin(ctx: &Context, socket: &Path) -> Result<String, String> {
    let said = |failure: Failure| failure.to_string();
    let answer = grpc::unix(socket, &format!("{REGISTRATION}/GetInfo"), Message::new(), REGISTRATION_LIMIT).await;
    let answer = answer.map_err(said)?;
    let info = Fields::parse(&answer).ok_or("the plugin's answer is no message")?;
    let (kind, name, endpoint, versions) = (info.text(1), info.text(2), info.text(3), info.texts(4));
    let outcome = match kind.as_str() {
        "CSIPlugin" => {
            let endpoint = if endpoint.is_empty() { socket.to_owned() } else { PathBuf::from(endpoint) };
            begin_csi(ctx, &name, endpoint, &versions).await
        }
        other => Err(format!("plugins of type {other:?} are not supported by this node")),
    };
    let status = match &outcome {
        Ok(()) => Message::new().number(1, 1),
        Err(why) => Message::new().text(2, why),
    };
    let told =
        grpc::unix(socket, &format!("{REGISTRATION}/NotifyRegistrationStatus"), status, REGISTRATION_LIMIT).await;
    outcome?;
    told.map_err(said)?;
    Ok(name)
}

async fn begin_csi(ctx: &Context, name: &str, socket: PathBuf, versions: &[String]) -> Result<(), String> {
    if !versions.iter().any(|version| version.trim_start_matches('v').split('.').next() == Some("1")) {
        return Err(format!("the driver {name:?} speaks CSI {versions:?}, and this node 1.x"));
    }
    let mut driver = Driver { socket, stages: false, mount_group: false, single_node_modes: false };
    let call = async |method: &str| {
        let answer = grpc::unix(&driver.socket, &format!("/csi.v1.Node/{method}"), Message::new(), LIMIT).await;
        answer.map_err(|failure| format!("{method}: {failure}"))
    };
    let info = request::node_info(&call("NodeGetInfo").await?).ok_or("NodeGetInfo: the answer is no message")?;
    let capabilities = request::capabilities(&call("NodeGetCapabilities").await?);
    (driver.stages, driver.mount_group, driver.single_node_modes) = capabilities;
    tell(ctx, name, &info).await?;
    ctx.csi.put(name, driver);
    Ok(())
}

async fn end(ctx: &Context, name: &str) {
    ctx.csi.remove(name);
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
