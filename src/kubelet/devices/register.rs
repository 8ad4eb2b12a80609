//! How plugins make themselves known: they call the kubelet's socket, or have one of their own where it looks.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use skiff_api::names;

use crate::context::Context;
use crate::grpc::proto::{Fields, Message};
use crate::grpc::server::Service;
use crate::grpc::{self, Failure, UNKNOWN};
use crate::volume::tree;

const VERSION: &str = "v1beta1";
const SOCKET: &str = "kubelet.sock";

struct Registration(Arc<Context>);

#[async_trait]
impl Service for Registration {
    async fn call(&self, method: &str, request: &[u8]) -> Option<Result<Message, Failure>> {
        if method != "/v1beta1.Registration/Register" {
            return None;
        }
        let outcome = register(&self.0, request).await;
        if let Err(failure) = &outcome {
            tracing::warn!(%failure, "a device plugin is not registered");
        }
        Some(outcome.map(|()| Message::new()))
    }
}

async fn register(ctx: &Arc<Context>, request: &[u8]) -> Result<(), Failure> {
    let fields = Fields::parse(request).unwrap_or_default();
    let (version, endpoint, resource) = (fields.text(1), fields.text(2), fields.text(3));
    let refused = |message: String| Failure { code: UNKNOWN, message };
    if version != VERSION {
        return Err(refused(format!(
            "requested API version {version:?} is not supported by kubelet. Supported version is [{VERSION:?}]"
        )));
    }
    check_name(&resource).map_err(refused)?;
    // A name beside the kubelet's socket, or a path.
    ctx.devices.connect(&ctx.scope, &resource, ctx.devices.directory.join(endpoint)).await
}

fn check_name(resource: &str) -> Result<(), String> {
    match names::is_extended_resource(resource) {
        true => Ok(()),
        false => Err(format!("the ResourceName {resource:?} is invalid")),
    }
}

/// Listens where plugins register. They notice the new socket, and register again.
pub(crate) async fn serve(ctx: &Arc<Context>) {
    let directory = ctx.devices.directory.clone();
    let clean = tokio::task::spawn_blocking(move || clean(&directory)).await;
    let served = clean.unwrap_or_else(|e| Err(io::Error::other(e))).and_then(|()| {
        let socket = ctx.devices.directory.join(SOCKET);
        grpc::server::serve(&ctx.scope, &socket, Arc::new(Registration(ctx.clone())))
    });
    if let Err(error) = served {
        tracing::error!(directory = %ctx.devices.directory.display(), %error, "device plugins can't register");
        return;
    }
    // From now on the node's devices are this machine's.
    if ctx.devices.are_fresh() {
        ctx.devices.write_or_warn().await;
    }
}

/// Sockets of before the agent started are dead, or their owners take the hint.
fn clean(directory: &Path) -> io::Result<()> {
    tree::ensure_directory(directory, 0o750)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_socket() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Registers a plugin that was found by its socket in `plugins_registry`.
pub(crate) async fn begin(ctx: &Arc<Context>, name: &str, socket: PathBuf, versions: &[String]) -> Result<(), String> {
    if !versions.iter().any(|version| version == VERSION) {
        let versions = versions.join(" ");
        return Err(format!("manager version, {VERSION}, is not among plugin supported versions [{versions}]"));
    }
    check_name(name).map_err(|why| format!("invalid name of device plugin socket: {why}"))?;
    ctx.devices.connect(&ctx.scope, name, socket).await.map_err(|failure| failure.to_string())
}

pub(crate) fn end(ctx: &Context, name: &str, socket: &Path) {
    ctx.devices.disconnect(name, socket);
}
