//! Plugins come and go by their sockets in `plugins_registry`: each is asked what it is, and handed to those who use such.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use skiff_linux::inotify::Inotify;
use tokio::io::unix::AsyncFd;

use crate::context::Context;
use crate::grpc::proto::{Fields, Message};
use crate::grpc::{self, Failure};
use crate::volume::tree;
use crate::{csi, devices};

const REGISTRATION: &str = "/pluginregistration.Registration";
/// A plugin that does not answer yet is asked again.
const AGAIN: Duration = Duration::from_secs(2);
const REGISTRATION_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Csi,
    Device,
}

/// One that was registered.
struct Plugin {
    identity: Identity,
    kind: Kind,
    name: String,
    endpoint: PathBuf,
}

/// What tells one socket from another of the same name.
type Identity = (u64, i64, i64);

/// Follows the directory until the agent stops.
pub(crate) async fn follow(ctx: Arc<Context>) {
    let directory = ctx.options.root_directory.join("plugins_registry");
    let watched = match watch(&directory) {
        Ok(watched) => watched,
        Err(error) => {
            tracing::error!(directory = %directory.display(), %error, "plugins can't be found");
            return;
        }
    };
    csi::register::prepare(&ctx).await;
    let stop = ctx.scope.token().clone();
    let mut registered: HashMap<PathBuf, Plugin> = HashMap::new();
    // Each by itself: one that hangs holds up no other.
    let mut begins = FuturesUnordered::new();
    let mut under_way: HashSet<(PathBuf, Identity)> = HashSet::new();
    loop {
        let found = sockets(&directory).unwrap_or_else(|error| {
            tracing::warn!(directory = %directory.display(), %error, "plugins are not looked for");
            HashMap::new()
        });
        let gone: Vec<PathBuf> = registered
            .iter()
            .filter(|(path, plugin)| found.get(*path) != Some(&plugin.identity))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            let Some(plugin) = registered.remove(&path) else { continue };
            // One that comes back at once is not told of as gone.
            if !found.contains_key(&path) {
                end(&ctx, &plugin, &path).await;
                // Another one of the same name had to stand back, or was replaced: it may come again.
                registered.retain(|_, other| (other.kind, &other.name) != (plugin.kind, &plugin.name));
            }
        }
        for (path, identity) in found {
            if !registered.contains_key(&path) && under_way.insert((path.clone(), identity)) {
                begins.push(begin_or_wait(&ctx, path, identity));
            }
        }
        let changed = async {
            if let Err(error) = Inotify::changed(&watched).await {
                tracing::warn!(%error, "plugins are looked for from time to time only");
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed => {}
            Some((path, identity, begun)) = begins.next() => {
                under_way.remove(&(path.clone(), identity));
                if let Some(plugin) = begun {
                    // Whether it is still there is seen next.
                    registered.insert(path, plugin);
                }
            }
        }
    }
}

/// Where it can't be registered that is known after a while, and it may be asked again.
async fn begin_or_wait(ctx: &Arc<Context>, path: PathBuf, identity: Identity) -> (PathBuf, Identity, Option<Plugin>) {
    let plugin = match begin(ctx, &path, identity).await {
        Ok(plugin) => {
            tracing::info!(name = plugin.name, kind = ?plugin.kind, "a plugin is registered");
            Some(plugin)
        }
        Err(error) => {
            tracing::warn!(socket = %path.display(), error, "a plugin is not registered");
            tokio::time::sleep(AGAIN).await;
            None
        }
    };
    (path, identity, plugin)
}

fn watch(directory: &Path) -> io::Result<AsyncFd<Inotify>> {
    tree::ensure_directory(directory, 0o750)?;
    Inotify::follow(directory)
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

async fn end(ctx: &Context, plugin: &Plugin, socket: &Path) {
    match plugin.kind {
        Kind::Csi => csi::register::end(ctx, &plugin.name, socket).await,
        Kind::Device => devices::end(ctx, &plugin.name, &plugin.endpoint),
    }
}

/// Registers what is behind a socket, and tells it.
async fn begin(ctx: &Arc<Context>, socket: &Path, identity: Identity) -> Result<Plugin, String> {
    let said = |failure: Failure| failure.to_string();
    let answer = grpc::unix(socket, &format!("{REGISTRATION}/GetInfo"), Message::new(), REGISTRATION_LIMIT).await;
    let answer = answer.map_err(said)?;
    let info = Fields::parse(&answer).ok_or("the plugin's answer is no message")?;
    let (kind, name, endpoint, versions) = (info.text(1), info.text(2), info.text(3), info.texts(4));
    let endpoint = if endpoint.is_empty() { socket.to_owned() } else { PathBuf::from(endpoint) };
    let outcome = match kind.as_str() {
        "CSIPlugin" => {
            let begun = csi::register::begin(ctx, &name, endpoint.clone(), &versions, socket).await;
            begun.map(|()| Kind::Csi)
        }
        "DevicePlugin" => devices::begin(ctx, &name, endpoint.clone(), &versions).await.map(|()| Kind::Device),
        other => Err(format!("plugins of type {other:?} are not supported by this node")),
    };
    let status = match &outcome {
        Ok(_) => Message::new().number(1, 1),
        Err(why) => Message::new().text(2, why),
    };
    let told =
        grpc::unix(socket, &format!("{REGISTRATION}/NotifyRegistrationStatus"), status, REGISTRATION_LIMIT).await;
    let kind = outcome?;
    told.map_err(said)?;
    Ok(Plugin { identity, kind, name, endpoint })
}
