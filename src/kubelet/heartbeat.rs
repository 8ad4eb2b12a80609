//! The node's heartbeat, and its status whenever that changes.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use serde_json::json;
use skiff_base::{Backoff, chain, time};
use skiff_client::PatchKind;
use skiff_linux::inotify::Inotify;
use tokio::io::unix::AsyncFd;

use crate::context::Context;
use crate::machine::MachineFacts;
use crate::node::{Seen, write_status};

const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_DURATION_S: i32 = 40;
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The status is looked at this often, whatever has been told, and written where it differs: the lease is the heartbeat, and
/// who is idle writes nothing.
const LOOK: Duration = Duration::from_secs(5 * 60);
/// Images that come one after the other are told of together.
const SETTLE: Duration = Duration::from_secs(1);

fn lease(node: &Node, now: Timestamp) -> Lease {
    let name = node.metadata.name.clone().unwrap_or_default();
    Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: name.clone(),
                uid: node.metadata.uid.clone().unwrap_or_default(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name),
            lease_duration_seconds: Some(LEASE_DURATION_S),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}

/// Renews the node's lease until the agent stops.
pub(crate) async fn heartbeat(ctx: Arc<Context>, node: Node) {
    let api = ctx.client.namespaced::<Lease>(LEASE_NAMESPACE);
    let name = ctx.options.node_name.clone();
    let stop = ctx.scope.token().clone();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(7));
    loop {
        let now = time::now();
        let patch = json!({"spec": {"renewTime": time::rfc3339_micro(now), "holderIdentity": name, "leaseDurationSeconds": LEASE_DURATION_S}});
        let renewed = match api.patch(&name, PatchKind::Merge, &patch).await {
            Err(e) if e.is_not_found() => api.create(&lease(&node, now)).await,
            done => done,
        };
        let wait = match renewed {
            Ok(_) => {
                backoff.reset();
                HEARTBEAT
            }
            Err(e) => {
                tracing::warn!(error = %chain(&e), "the node's lease can't be renewed, trying again");
                backoff.next_wait()
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Brings the status up to date whenever something has changed that it tells, images that came past the agent too, and from
/// time to time. Until the agent stops.
pub(crate) async fn follow_status(ctx: Arc<Context>, facts: MachineFacts) {
    let stop = ctx.scope.token().clone();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let images = Inotify::follow(&ctx.engine.image_records())
        .inspect_err(|error| tracing::warn!(%error, "images that are imported are told of from time to time only"))
        .ok();
    // Some may have come since the node was registered.
    ctx.status_changed.notify_one();
    let follow = async {
        loop {
            tokio::select! {
                () = ctx.status_changed.notified() => {}
                () = imported(images.as_ref()) => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            // Nobody may say again that it has changed.
            while let Err(error) = tell_status(&ctx, &facts).await {
                tracing::warn!(error, "the node's status can't be written, trying again");
                tokio::time::sleep(backoff.next_wait()).await;
            }
            backoff.reset();
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = follow => {}
    }
}

/// Waits until images have come or gone, and for those that come with them.
async fn imported(images: Option<&AsyncFd<Inotify>>) {
    match images.map(Inotify::changed) {
        None => std::future::pending().await,
        Some(changed) => match changed.await {
            Ok(()) => tokio::time::sleep(SETTLE).await,
            Err(error) => {
                tracing::warn!(%error, "images can't be followed");
                std::future::pending().await
            }
        },
    }
}

async fn tell_status(ctx: &Context, facts: &MachineFacts) -> Result<(), String> {
    let moment = ctx.pulled.moment();
    let images = ctx.engine.images().await.map_err(|e| chain(&e).to_string())?;
    ctx.pulled.prune(moment, &images).await;
    let node = ctx.client.all::<Node>().get(&ctx.options.node_name).await.map_err(|e| chain(&e).to_string())?;
    let (pressure, devices) = (ctx.pressure.now(), ctx.devices.counts());
    let seen = Seen { facts, images: &images, ready: ctx.ready(), pressure: &pressure, devices: &devices };
    let told = write_status(&ctx.client, &ctx.options, &node, &seen).await;
    told.map(drop).map_err(|e| chain(&e).to_string())
}
