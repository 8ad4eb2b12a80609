//! `kubectl apply`: three-way with the last applied configuration, or on the server.

use clap::Args;
use serde_json::{Value, json};
use skiff_api::selector::LabelSelector;
use skiff_api::{ApiError, patch, schema};
use skiff_client::PatchKind;

use crate::delete::Deleting;
use crate::discovery::Resource;
use crate::failure::{api_error, is_not_found};
use crate::manifest::{Files, Manifest};
use crate::print::compact;
use crate::server::{MANAGER, Server, path, with_query};
use crate::targets::Found;
use crate::writing::{DryRun, Writing, local, patched};
use crate::{Failure, Result};

mod last;
mod migrate;
mod prune;

pub use last::{last_applied, remember};

pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const CLIENT_SIDE: &str = "kubectl-client-side-apply";
const RETRIES: usize = 5;

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    last: Option<last::Command>,
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
    /// Apply to this subresource (status, scale, resize) of the objects, with --server-side
    #[arg(long, default_value = "")]
    subresource: String,
    #[command(flatten)]
    deleting: Deleting,
    /// Selector (label query): which of the objects are applied, and may be pruned
    #[arg(short = 'l', long, default_value = "")]
    selector: String,
    /// Prune whatever was applied before and is not among the objects any more
    #[arg(long)]
    all: bool,
    /// Delete what was applied before, is selected, and is not among the objects any more
    #[arg(long)]
    prune: bool,
    /// The kinds that may be pruned, as <group/version/kind>; may be repeated
    #[arg(long, alias = "prune-whitelist", value_name = "KIND", value_delimiter = ',')]
    prune_allowlist: Vec<String>,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    if let Some(command) = arguments.last {
        return last::run(server, command).await;
    }
    if arguments.files.is_empty() {
        return Err(Failure::text("must specify one of -f and -k"));
    }
    if arguments.force_conflicts && !arguments.server_side {
        return Err(Failure::text("--force-conflicts only works with --server-side"));
    }
    if arguments.writing.dry_run()? == DryRun::Client && arguments.server_side {
        return Err(Failure::text(
            "--dry-run=client doesn't work with --server-side (did you mean --dry-run=server instead?)",
        ));
    }
    if arguments.deleting.force && arguments.server_side {
        return Err(Failure::text("--force cannot be used with --server-side"));
    }
    if arguments.deleting.force && arguments.writing.dry_run()? == DryRun::Server {
        return Err(Failure::text("--dry-run=server cannot be used with --force"));
    }
    if arguments.prune && arguments.all && !arguments.selector.is_empty() {
        return Err(Failure::text("cannot set --all and --selector at the same time"));
    }
    if arguments.prune && !arguments.all && arguments.selector.is_empty() {
        return Err(Failure::text(
            "all resources selected for prune without explicitly passing --all. To prune all resources, pass the --all flag. If you did not mean to prune all resources, specify a label selector",
        ));
    }
    if !arguments.subresource.is_empty() && !arguments.server_side {
        return Err(Failure::text("--subresource can only be specified for --server-side"));
    }
    // Read before anything is changed.
    arguments.deleting.timeout()?;
    let deletion = arguments.deleting.options(arguments.writing.dry_run()?)?;
    let prunable = if arguments.prune { prune::kinds(server, &arguments.prune_allowlist).await? } else { Vec::new() };
    let selector = LabelSelector::parse(&arguments.selector).map_err(|e| Failure::text(e.to_string()))?;
    let mut manifests = arguments.files.read()?;
    manifests.retain(|manifest| selector.matches_with(|key| manifest.object["metadata"]["labels"][key].as_str()));
    if manifests.is_empty() {
        return Err(Failure::text("no objects passed to apply"));
    }
    // One object that can't be applied doesn't keep the others from it.
    let mut failed = None;
    let mut seen = prune::Seen::default();
    for mut manifest in manifests {
        let applied = match manifest.place(server).await {
            Ok(resource) => apply(server, &arguments, &deletion, &manifest, resource).await,
            Err(e) => Err(e),
        };
        match applied {
            Ok(object) => seen.note(&object),
            Err(e) => {
                if let Some(previous) = failed.replace(e) {
                    eprintln!("{}", crate::failure::sentence(&previous));
                }
            }
        }
    }
    if let Some(failed) = failed {
        return Err(failed);
    }
    if arguments.prune {
        prune::prune(server, &prunable, &arguments.selector, &seen, &deletion, &arguments.writing).await?;
    }
    Ok(())
}

/// The object as it is then.
async fn apply(
    server: &Server,
    arguments: &Arguments,
    deletion: &Value,
    manifest: &Manifest,
    resource: &Resource,
) -> Result<Value> {
    let (object, what) = match arguments.server_side {
        true => (on_server(server, arguments, manifest, resource).await?, "serverside-applied"),
        false => three_way(server, arguments, deletion, manifest, resource).await?,
    };
    arguments.writing.tell(resource, &object, what)?;
    Ok(object)
}

async fn on_server(server: &Server, arguments: &Arguments, manifest: &Manifest, resource: &Resource) -> Result<Value> {
    let writing = &arguments.writing;
    let force = if arguments.force_conflicts { "true" } else { "false" };
    let base = path(resource, Some(manifest.namespace()), manifest.name(), &arguments.subresource);
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
    Ok(object)
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
    let text = remembered(&plain);
    plain["metadata"]["annotations"][LAST_APPLIED] = text.into();
    plain
}

/// The text of the annotation.
fn remembered(plain: &Value) -> String {
    compact(plain) + "\n"
}

async fn three_way(
    server: &Server,
    arguments: &Arguments,
    deletion: &Value,
    manifest: &Manifest,
    resource: &Resource,
) -> Result<(Value, &'static str)> {
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
        Err(e) if is_not_found(&e) => {
            return Ok((create(server, arguments, manifest, resource, &modified).await?, "created"));
        }
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
            return Ok((current, "unchanged"));
        }
        if current["metadata"]["deletionTimestamp"].is_string() {
            let what = resource.label(manifest.name());
            eprintln!("Warning: Detected changes to resource {what} which is currently being deleted.");
        }
        let kind = if schema.is_some() { PatchKind::Strategic } else { PatchKind::Merge };
        if writing.dry_run()? == DryRun::Client {
            return Ok((patched(resource, &current, kind, &patch)?, "configured"));
        }
        match server.patch(&writing.query(&object_path, CLIENT_SIDE)?, kind, &patch).await {
            Ok(object) => return Ok((object, "configured")),
            Err(e) if tries < RETRIES && api_error(&e).is_some_and(ApiError::is_conflict) => {
                tries += 1;
                current = server.get(&object_path).await.map_err(retrieving)?;
            }
            Err(e) if arguments.deleting.force && api_error(&e).is_some_and(cannot_be_changed) => {
                let found = Found { resource: resource.clone(), object: current };
                return Ok((anew(server, arguments, deletion, found, &modified).await?, "configured"));
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

fn cannot_be_changed(refused: &ApiError) -> bool {
    refused.is_conflict() || refused.reason == "Invalid"
}

/// Deletes an object and creates what it shall be; creates what it was where that is refused.
async fn anew(
    server: &Server,
    arguments: &Arguments,
    deletion: &Value,
    found: Found,
    modified: &Value,
) -> Result<Value> {
    server.delete(&found.path(""), deletion).await?;
    let collection = path(&found.resource, found.namespace(), "", "");
    let collection = arguments.writing.query(&collection, CLIENT_SIDE)?;
    let found = [found];
    arguments.deleting.until_gone(server, &found).await?;
    let refused = match server.post(&collection, modified).await {
        Ok(created) => return Ok(created),
        Err(refused) => refused,
    };
    let [Found { object: mut before, .. }] = found;
    if let Some(metadata) = before["metadata"].as_object_mut() {
        metadata.retain(|field, _| !matches!(field.as_str(), "resourceVersion" | "uid" | "creationTimestamp"));
    }
    match server.post(&collection, &before).await {
        Ok(_) => Err(refused),
        Err(e) => Err(Failure::text(format!(
            "An error occurred force-replacing the existing object with the newly provided one:\n\n{refused}.\n\nAdditionally, an error occurred attempting to restore the original object:\n\n{e}"
        ))),
    }
}

async fn create(
    server: &Server,
    arguments: &Arguments,
    manifest: &Manifest,
    resource: &Resource,
    object: &Value,
) -> Result<Value> {
    let writing = &arguments.writing;
    if writing.dry_run()? == DryRun::Client {
        return Ok(object.clone());
    }
    let collection = path(resource, Some(manifest.namespace()), "", "");
    server.post(&writing.query(&collection, CLIENT_SIDE)?, object).await.map_err(|e| creating(e, &manifest.source))
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
