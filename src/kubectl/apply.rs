//! `kubectl apply`: three-way with the last applied configuration, or on the server.

use clap::Args;
use serde_json::{Value, json};
use skiff_api::{ApiError, patch, schema};
use skiff_client::PatchKind;

use crate::discovery::Resource;
use crate::failure::{api_error, is_not_found};
use crate::manifest::{Files, Manifest};
use crate::print::compact;
use crate::server::{MANAGER, Server, path, with_query};
use crate::writing::{DryRun, Writing, local, patched};
use crate::{Failure, Result};

mod migrate;

pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const CLIENT_SIDE: &str = "kubectl-client-side-apply";
const RETRIES: usize = 5;

#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    writing: Writing,
    /// Let the server merge
    #[arg(long)]
    server_side: bool,
    /// Take over fields that others own
    #[arg(long)]
    force_conflicts: bool,
    /// Delete and create again what can't be changed
    #[arg(long)]
    force: bool,
    /// Pruning is not supported
    #[arg(long, hide = true)]
    prune: bool,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    if arguments.prune {
        return Err(Failure::text(
            "--prune is not part of this kubectl; delete what is no longer wanted by name or label",
        ));
    }
    if arguments.force {
        return Err(Failure::text("apply --force is not part of this kubectl; use `kubectl replace --force -f`"));
    }
    if arguments.files.is_empty() {
        return Err(Failure::text("must specify one of -f and -k"));
    }
    if arguments.force_conflicts && !arguments.server_side {
        return Err(Failure::text("--force-conflicts only works with --server-side"));
    }
    if arguments.server_side && arguments.writing.dry_run()? == DryRun::Client {
        return Err(Failure::text(
            "--dry-run=client doesn't work with --server-side (did you mean --dry-run=server instead?)",
        ));
    }
    let manifests = arguments.files.read()?;
    if manifests.is_empty() {
        return Err(Failure::text("no objects passed to apply"));
    }
    // One object that can't be applied doesn't keep the others from it.
    let mut failed = None;
    for mut manifest in manifests {
        let applied = match manifest.place(server).await {
            Ok(resource) if arguments.server_side => on_server(server, &arguments, &manifest, resource).await,
            Ok(resource) => three_way(server, &arguments, &manifest, resource).await,
            Err(e) => Err(e),
        };
        if let Err(e) = applied
            && let Some(previous) = failed.replace(e)
        {
            eprintln!("{}", crate::failure::sentence(&previous));
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn on_server(server: &Server, arguments: &Arguments, manifest: &Manifest, resource: &Resource) -> Result {
    let writing = &arguments.writing;
    let force = if arguments.force_conflicts { "true" } else { "false" };
    let base = path(resource, Some(manifest.namespace()), manifest.name(), "");
    let path = with_query(&writing.query(&base, MANAGER)?, &[("force", force)]);
    let mut object = server.patch(&path, PatchKind::Apply, &manifest.object).await.map_err(of_server_side)?;
    if writing.dry_run()? == DryRun::No && writing.field_manager.is_empty() {
        match migrate::migrate(server, &base, &object).await {
            Ok(true) => {
                object = server.patch(&path, PatchKind::Apply, &manifest.object).await.map_err(of_server_side)?
            }
            Ok(false) => {}
            // What was asked for is done; the next apply tries this again.
            Err(e) => eprintln!(
                "Warning: server rejected managed fields migration to Server-Side Apply. This is non-fatal and will be retried next time you apply. Error: {e}"
            ),
        }
    }
    writing.tell(resource, &object, "serverside-applied")
}

/// What a refused server-side apply means, and what to do about it.
fn of_server_side(error: anyhow::Error) -> anyhow::Error {
    match api_error(&error) {
        Some(refused) if refused.code == 415 => {
            Failure::Unreachable(format!("Server-side apply not available on the server: ({})", refused.message)).into()
        }
        Some(refused) if refused.is_conflict() => Failure::text(format!("{}\n{CONFLICTS}", refused.message)),
        _ => error,
    }
}

const CONFLICTS: &str = "Please review the fields above--they currently have other managers. Here
are the ways you can resolve this warning:
* If you intend to manage all of these fields, please re-run the apply
  command with the `--force-conflicts` flag.
* If you do not intend to manage all of the fields, please edit your
  manifest to remove references to the fields that should keep their
  current managers.
* You may co-own fields by updating your manifest to match the existing
  value; in this case, you'll become the manager if the other manager(s)
  stop managing the field (remove it from their configuration).
See https://kubernetes.io/docs/reference/using-api/server-side-apply/#conflicts";

/// The object with the annotation that remembers it.
pub fn remembering(object: &Value) -> Value {
    let mut plain = object.clone();
    if let Some(annotations) = plain["metadata"].get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    // The annotation always holds the field, as upstream's does.
    if plain["metadata"].get("annotations").is_none() {
        plain["metadata"]["annotations"] = json!({});
    }
    let text = compact(&plain) + "\n";
    plain["metadata"]["annotations"][LAST_APPLIED] = text.into();
    plain
}

async fn three_way(server: &Server, arguments: &Arguments, manifest: &Manifest, resource: &Resource) -> Result {
    let writing = &arguments.writing;
    if manifest.name().is_empty() {
        return Err(Failure::text(format!(
            "error when applying {:?}: resource name may not be empty",
            manifest.source
        )));
    }
    let modified = remembering(&manifest.object);
    let object_path = path(resource, Some(manifest.namespace()), manifest.name(), "");
    let retrieving =
        |e| Failure::while_doing(e, format!("error when retrieving current configuration of {:?}", manifest.source));
    let mut current = match server.get(&object_path).await {
        Ok(current) => current,
        Err(e) if is_not_found(&e) => return create(server, arguments, manifest, resource, &modified).await,
        Err(e) => return Err(retrieving(e)),
    };
    if current["metadata"]["annotations"].get(LAST_APPLIED).is_none() {
        eprintln!(
            "Warning: resource {}/{} is missing the {LAST_APPLIED} annotation which is required by kubectl apply. kubectl apply should only be used on resources created declaratively by either kubectl create --save-config or kubectl apply. The missing annotation will be patched automatically.",
            resource.name,
            manifest.name()
        );
    }
    let schema = schema::lookup(&resource.gvk());
    let mut tries = 0;
    loop {
        let original =
            current["metadata"]["annotations"][LAST_APPLIED].as_str().and_then(|text| serde_json::from_str(text).ok());
        let patch = patch::three_way(original.as_ref(), &modified, &current, schema.as_ref()).map_err(local)?;
        if patch.as_object().is_some_and(serde_json::Map::is_empty) {
            return writing.tell(resource, &current, "unchanged");
        }
        if current["metadata"]["deletionTimestamp"].is_string() {
            let what = resource.label(manifest.name());
            eprintln!("Warning: Detected changes to resource {what} which is currently being deleted.");
        }
        if writing.dry_run()? == DryRun::Client {
            let kind = if schema.is_some() { PatchKind::Strategic } else { PatchKind::Merge };
            return writing.tell(resource, &patched(resource, &current, kind, &patch)?, "configured");
        }
        let kind = if schema.is_some() { PatchKind::Strategic } else { PatchKind::Merge };
        match server.patch(&writing.query(&object_path, CLIENT_SIDE)?, kind, &patch).await {
            Ok(object) => return writing.tell(resource, &object, "configured"),
            Err(e) if tries < RETRIES && api_error(&e).is_some_and(ApiError::is_conflict) => {
                tries += 1;
                current = server.get(&object_path).await.map_err(retrieving)?;
            }
            Err(e) => {
                let what = format!(
                    "error when applying patch:\n{patch}\nto:\nResource: {:?}, GroupVersionKind: {:?}\nName: {:?}, Namespace: {:?}\nfor: {:?}",
                    format!("{}/{}, Resource={}", resource.group, resource.version, resource.name),
                    format!("{}/{}, Kind={}", resource.group, resource.version, resource.kind),
                    manifest.name(),
                    manifest.namespace(),
                    manifest.source
                );
                let what = format!("{what}: error when patching {:?}", manifest.source);
                // Validation errors read better alone.
                return Err(if api_error(&e).is_some_and(|e| e.reason == "Invalid") {
                    e
                } else {
                    Failure::while_doing(e, what)
                });
            }
        }
    }
}

async fn create(
    server: &Server,
    arguments: &Arguments,
    manifest: &Manifest,
    resource: &Resource,
    object: &Value,
) -> Result {
    let writing = &arguments.writing;
    if writing.dry_run()? == DryRun::Client {
        return writing.tell(resource, object, "created");
    }
    let collection = path(resource, Some(manifest.namespace()), "", "");
    let created = server
        .post(&writing.query(&collection, CLIENT_SIDE)?, object)
        .await
        .map_err(|e| creating(e, &manifest.source))?;
    writing.tell(resource, &created, "created")
}

/// Upstream's clause; validation errors stand without it.
pub fn creating(error: anyhow::Error, source: &str) -> anyhow::Error {
    if api_error(&error).is_some_and(|e| e.reason == "Invalid") {
        return error;
    }
    Failure::while_doing(error, format!("error when creating {source:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_applied_is_remembered_without_what_was_remembered() {
        let object = json!({"metadata": {"name": "x", "annotations": {"a": "1", LAST_APPLIED: "old"}}});
        let remembered = remembering(&object);
        let text = remembered["metadata"]["annotations"][LAST_APPLIED].as_str().expect("a text");
        assert_eq!(
            serde_json::from_str::<Value>(text).expect("JSON"),
            json!({"metadata": {"name": "x", "annotations": {"a": "1"}}})
        );
        assert!(text.ends_with('\n'));
        assert_eq!(remembering(&remembered), remembered);
        // Byte by byte as upstream, so that both clients tell the same annotation.
        let shell = remembering(&json!({"metadata": {"name": "x"}, "spec": {"command": ["a && b > c"]}}));
        assert_eq!(
            shell["metadata"]["annotations"][LAST_APPLIED],
            "{\"metadata\":{\"annotations\":{},\"name\":\"x\"},\"spec\":{\"command\":[\"a \\u0026\\u0026 b \\u003e c\"]}}\n"
        );
    }
}
