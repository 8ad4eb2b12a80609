//! `kubectl diff`: what an apply would change, told by the server.

use std::process::Command;

use clap::Args;
use serde_json::Value;
use skiff_api::{patch, schema, yaml};
use skiff_client::PatchKind;

use crate::apply::remembering;
use crate::discovery::Resource;
use crate::failure::is_not_found;
use crate::manifest::{Files, Manifest};
use crate::print::without_managed_fields;
use crate::server::{MANAGER, Server, path, with_query};
use crate::writing::local;
use crate::{Failure, Result};

mod unified;

/// The program that compares two directories, where somebody wants another one than ours.
const PROGRAM: &str = "KUBECTL_EXTERNAL_DIFF";

#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    files: Files,
    /// Let the server merge
    #[arg(long)]
    server_side: bool,
    /// Take over fields that others own
    #[arg(long)]
    force_conflicts: bool,
    /// Name of the manager used to track field ownership
    #[arg(long, default_value = "")]
    field_manager: String,
    /// Show managedFields
    #[arg(long)]
    show_managed_fields: bool,
    /// Only objects with these labels
    #[arg(short = 'l', long, default_value = "")]
    selector: String,
    /// Pruning is not supported
    #[arg(long, hide = true)]
    prune: bool,
}

/// An object as it is and as it would be, as texts under a name.
struct Pair {
    name: String,
    live: String,
    merged: String,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    if arguments.prune {
        return Err(Failure::text("--prune is not part of this kubectl"));
    }
    if arguments.files.is_empty() {
        return Err(Failure::text("must specify one of -f and -k"));
    }
    if arguments.force_conflicts && !arguments.server_side {
        return Err(Failure::text("--force-conflicts only works with --server-side"));
    }
    let selector =
        skiff_api::selector::LabelSelector::parse(&arguments.selector).map_err(|e| Failure::text(e.to_string()))?;
    let mut pairs = Vec::new();
    for mut manifest in arguments.files.read()? {
        let labels = &manifest.object["metadata"]["labels"];
        if !selector.matches_with(|key| labels.get(key).and_then(Value::as_str)) {
            continue;
        }
        let resource = manifest.place(server).await?.clone();
        pairs.push(arguments.compare(server, &manifest, &resource).await?);
    }
    let differs = match std::env::var(PROGRAM).ok().filter(|program| !program.is_empty()) {
        Some(program) => external(&program, &pairs)?,
        None => {
            let texts: Vec<String> = pairs.iter().filter_map(shown).collect();
            print!("{}", texts.concat());
            !texts.is_empty()
        }
    };
    // Exit code 1 tells scripts that something differs.
    if differs { Err(Failure::Silent.into()) } else { Ok(()) }
}

impl Arguments {
    async fn compare(&self, server: &Server, manifest: &Manifest, resource: &Resource) -> Result<Pair> {
        let at = path(resource, Some(manifest.namespace()), manifest.name(), "");
        let live = match server.get(&at).await {
            Ok(live) => Some(live),
            Err(e) if is_not_found(&e) => None,
            Err(e) => return Err(e),
        };
        let merged = self.merged(server, manifest, resource, &at, live.as_ref()).await?;
        let (mut live, mut merged) = (live.unwrap_or(Value::Null), merged);
        if !self.show_managed_fields {
            (live, merged) = (without_managed_fields(live), without_managed_fields(merged));
        }
        if resource.kind == "Secret" && resource.group.is_empty() {
            mask(&mut live, &mut merged);
        }
        let text = |object: &Value| if object.is_null() { String::new() } else { yaml::to_string(object) };
        let group = if resource.group.is_empty() { String::new() } else { format!("{}.", resource.group) };
        let name =
            format!("{group}{}.{}.{}.{}", resource.version, resource.kind, manifest.namespace(), manifest.name());
        Ok(Pair { name, live: text(&live), merged: text(&merged) })
    }

    /// What the server would make of it.
    async fn merged(
        &self,
        server: &Server,
        manifest: &Manifest,
        resource: &Resource,
        at: &str,
        live: Option<&Value>,
    ) -> Result<Value> {
        let default = if self.server_side { MANAGER } else { "kubectl-client-side-apply" };
        let manager = if self.field_manager.is_empty() { default } else { &self.field_manager };
        let query = |path: &str| with_query(path, &[("fieldManager", manager), ("dryRun", "All")]);
        if self.server_side {
            let force = if self.force_conflicts { "true" } else { "false" };
            return server
                .patch(&with_query(&query(at), &[("force", force)]), PatchKind::Apply, &manifest.object)
                .await;
        }
        let Some(live) = live else {
            return server.post(&query(&path(resource, Some(manifest.namespace()), "", "")), &manifest.object).await;
        };
        // The annotation of an apply is no part of what is compared; the map that it is in is.
        let mut modified = remembering(&manifest.object);
        if let Some(annotations) = modified["metadata"]["annotations"].as_object_mut() {
            annotations.remove(crate::apply::LAST_APPLIED);
        }
        let schema = schema::lookup(&resource.gvk());
        let original = live["metadata"]["annotations"][crate::apply::LAST_APPLIED].as_str();
        let original: Option<Value> = original.and_then(|text| serde_json::from_str(text).ok());
        let body = patch::three_way(original.as_ref(), &modified, live, schema.as_ref()).map_err(local)?;
        if body.as_object().is_some_and(serde_json::Map::is_empty) {
            return Ok(live.clone());
        }
        let kind = if schema.is_some() { PatchKind::Strategic } else { PatchKind::Merge };
        server.patch(&query(at), kind, &body).await
    }
}

/// Hides a secret's data, but not that it differs.
fn mask(live: &mut Value, merged: &mut Value) {
    let before = live["data"].as_object().cloned().unwrap_or_default();
    let after = merged["data"].as_object().cloned().unwrap_or_default();
    for (object, own, other, mark) in [(live, &before, &after, "before"), (merged, &after, &before, "after")] {
        for (key, value) in own {
            let hidden = match other.get(key) {
                Some(theirs) if theirs != value => format!("*** ({mark})"),
                _ => "***".to_owned(),
            };
            object["data"][key] = hidden.into();
        }
        // The annotation of an apply holds the data, too.
        let annotations = object.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"));
        if let Some(text) = annotations.and_then(|annotations| annotations.get_mut(crate::apply::LAST_APPLIED)) {
            *text = "***".into();
        }
    }
}

fn shown(pair: &Pair) -> Option<String> {
    let hunks = unified::hunks(&pair.live, &pair.merged)?;
    let (live, merged) = (format!("LIVE/{}", pair.name), format!("MERGED/{}", pair.name));
    Some(format!("diff -u -N {live} {merged}\n--- {live}\n+++ {merged}\n{hunks}"))
}

/// Whether the program, which gets two directories, found a difference.
fn external(program: &str, pairs: &[Pair]) -> Result<bool> {
    let base = std::env::temp_dir().join(format!("kubectl-diff-{}", std::process::id()));
    let failed = |e: std::io::Error| Failure::text(format!("write below {}: {e}", base.display()));
    let write = || -> std::io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().mode(0o700).create(&base)?;
        for side in ["LIVE", "MERGED"] {
            std::fs::create_dir(base.join(side))?;
        }
        for pair in pairs {
            for (side, text) in [("LIVE", &pair.live), ("MERGED", &pair.merged)] {
                if !text.is_empty() {
                    std::fs::write(base.join(side).join(&pair.name), text)?;
                }
            }
        }
        Ok(())
    };
    let written = write().map_err(failed);
    let mut words = program.split_whitespace();
    let status = written.and_then(|()| {
        Command::new(words.next().unwrap_or_default())
            .args(words)
            .args(["LIVE", "MERGED"].map(|side| base.join(side)))
            .status()
            .map_err(|e| Failure::text(format!("failed to run {program:?}: {e}")))
    });
    let removed = std::fs::remove_dir_all(&base).map_err(failed);
    let code = status?.code();
    removed?;
    match code {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => Err(Failure::text(format!("failed to run {program:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_differ_without_being_told() {
        let mut live = json!({"data": {"same": "eA==", "other": "eA=="}});
        let mut merged = json!({"data": {"same": "eA==", "other": "eQ==", "new": "eg=="}});
        mask(&mut live, &mut merged);
        assert_eq!(live, json!({"data": {"same": "***", "other": "*** (before)"}}));
        assert_eq!(merged["data"], json!({"same": "***", "other": "*** (after)", "new": "***"}));
    }
}
