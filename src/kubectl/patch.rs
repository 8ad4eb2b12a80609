//! `kubectl patch`.

use clap::Args;
use serde_json::Value;
use skiff_api::yaml;
use skiff_client::PatchKind;

use crate::apply::{DryRun, Writing};
use crate::server::Server;
use crate::targets::Selection;
use crate::{Failure, Result};

#[derive(Args, Debug)]
pub struct Arguments {
    /// TYPE NAME or TYPE/NAME
    words: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// The patch to be applied, JSON or YAML
    #[arg(short, long)]
    patch: Option<String>,
    /// A file with the patch
    #[arg(long)]
    patch_file: Option<String>,
    /// One of json, merge, strategic
    #[arg(long = "type", default_value = "strategic")]
    ty: String,
    /// status, scale ...
    #[arg(long, default_value = "")]
    subresource: String,
    #[command(flatten)]
    writing: Writing,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    let text = match (&arguments.patch, &arguments.patch_file) {
        (Some(patch), None) => patch.clone(),
        (None, Some(file)) => {
            std::fs::read_to_string(file).map_err(|e| Failure::text(format!("unable to read patch file: {e}")))?
        }
        _ => return Err(Failure::text("must specify --patch or --patch-file containing the contents of the patch")),
    };
    let patch = yaml::document(&text).map_err(|e| Failure::text(format!("unable to parse {text:?}: {e}")))?.value;
    let kind = match arguments.ty.as_str() {
        "json" => PatchKind::Json,
        "merge" => PatchKind::Merge,
        "strategic" => PatchKind::Strategic,
        other => {
            return Err(Failure::text(format!("--type must be one of [json merge strategic], not {other:?}")));
        }
    };
    if arguments.writing.dry_run()? == DryRun::Client {
        return Err(Failure::text("--dry-run=client is not part of this kubectl's patch; use --dry-run=server"));
    }
    for found in arguments.selection.find(server, &arguments.words, Some(&server.namespace)).await? {
        let path = arguments.writing.query_change(&found.path(&arguments.subresource), "kubectl-patch")?;
        let patched = server.patch(&path, kind, &patch).await?;
        let what = if same(&found.object, &patched) { "patched (no change)" } else { "patched" };
        arguments.writing.tell(&found.resource, &patched, what)?;
    }
    Ok(())
}

/// Whether a write changed nothing.
pub fn same(before: &Value, after: &Value) -> bool {
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    version(before) == version(after)
}
