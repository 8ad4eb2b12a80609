//! What is left to do when all containers of a pod have ended.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use skiff_base::chain;
use skiff_client::DeleteOptions;
use skiff_runtime::Sandbox;

use crate::context::Context;
use crate::leftovers::PodPlaces;
use crate::options::message_file;
use crate::pod::{self, PodUid};
use crate::slot::Run;
use crate::{sandbox, volume};

/// Takes down sandboxes and volumes; with `whole`, the records of the containers too. True where all of it worked.
pub(crate) async fn clean(ctx: &Arc<Context>, uid: &PodUid, sandboxes: &[Sandbox], whole: bool) -> bool {
    let mut good = take_down(ctx, uid, sandboxes, whole).await;
    if let Err(e) = volume::remove(ctx, uid).await {
        tracing::warn!(pod = %uid, error = %e, "the directory of a pod can't be removed");
        good = false;
    }
    if good {
        // Nothing has its ids any more.
        ctx.user_namespaces.release(uid);
    }
    ctx.tokens.forget(uid);
    ctx.counters.forget(uid);
    good
}

/// Everything but the volumes.
pub(super) async fn take_down(ctx: &Arc<Context>, uid: &PodUid, sandboxes: &[Sandbox], whole: bool) -> bool {
    let mut good = true;
    ctx.cpus.release(uid);
    ctx.devices.release(uid);
    ctx.devices.write_changes().await;
    let mut all = sandboxes.to_vec();
    // One that could not be made is known to the runtime alone.
    good &= sandbox::of_runtime(ctx, uid, &mut all).await.is_ok();
    for one in &all {
        let down = if whole { sandbox::discard(ctx, one).await } else { sandbox::stop(ctx, one).await };
        good &= down.is_ok();
    }
    good
}

/// Confirms to the API server that the pod is gone from this node.
pub(super) async fn delete(ctx: &Context, pod: &Pod) -> Result<(), skiff_client::Error> {
    let options = DeleteOptions {
        grace_period_s: Some(0),
        uid: Some(pod::uid(pod).0),
        propagation: None,
        resource_version: None,
    };
    match ctx.client.namespaced::<Pod>(pod::namespace(pod)).delete(pod::name(pod), &options).await {
        // Somebody was faster, or has made a new pod of that name.
        Err(e) if e.is_not_found() || e.is_conflict() => Ok(()),
        done => done,
    }
}

/// `/var/log/containers/<pod>_<namespace>_<container>-<id>.log`.
fn log_link(ctx: &Context, pod: &Pod, container: &str, run: &Run) -> PathBuf {
    let name = format!("{}_{}_{container}-{}.log", pod::name(pod), pod::namespace(pod), run.id.0);
    ctx.options.containers_log_directory.join(name)
}

fn log_file(ctx: &Context, pod: &Pod, container: &str, attempt: u32) -> PathBuf {
    ctx.options.pod_log_directory(pod).join(container).join(format!("{attempt}.log"))
}

/// Links the log of a run where log collectors look for it.
pub(super) fn link_log(ctx: &Context, pod: &Pod, container: &str, run: &Run) {
    let link = log_link(ctx, pod, container, run);
    let made = std::os::unix::fs::symlink(log_file(ctx, pod, container, run.attempt), &link);
    if let Err(e) = made.or_else(|e| if e.kind() == std::io::ErrorKind::AlreadyExists { Ok(()) } else { Err(e) }) {
        tracing::warn!(link = %link.display(), error = %e, "the log can't be linked");
    }
}

/// Removes a run that is too old to be asked for: its record, its log, its message.
pub(super) async fn forget(ctx: &Context, pod: &Pod, container: &str, run: &Run) {
    ctx.unroute(&run.id);
    if let Err(e) = ctx.engine.remove_container(&run.id).await {
        tracing::warn!(container = run.id.0, error = %chain(&e), "an old container can't be removed");
    }
    let log = log_file(ctx, pod, container, run.attempt);
    let message = message_file(&ctx.options.pod_directory(&pod::uid(pod)), container, run.attempt);
    let link = log_link(ctx, pod, container, run);
    let work = move || {
        let rotated = log.file_name().map(|n| format!("{}.", n.to_string_lossy())).unwrap_or_default();
        for entry in log.parent().and_then(|d| d.read_dir().ok()).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&rotated) {
                remove_file(&entry.path());
            }
        }
        for file in [log, message, link] {
            remove_file(&file);
        }
    };
    if let Err(e) = tokio::task::spawn_blocking(work).await {
        tracing::warn!(error = %e, "the files of an old container were not removed");
    }
}

/// Removes all logs of a pod that is gone, and the links to them: also those of containers that nobody knows any more.
pub(super) async fn remove_logs(ctx: &Context, pod: &Pod) {
    let (places, directory) = (PodPlaces::of(&ctx.options), ctx.options.pod_log_directory(pod));
    let work = move || {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        if let Err(e) = places.remove_logs(&name) {
            tracing::warn!(directory = %directory.display(), error = %e, "logs can't be removed");
        }
    };
    if let Err(e) = tokio::task::spawn_blocking(work).await {
        tracing::warn!(error = %e, "the logs of a pod were not removed");
    }
}

fn remove_file(path: &Path) {
    if let Err(e) = std::fs::remove_file(path)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), error = %e, "a file can't be removed");
    }
}
