//! `kubectl patch`.

use clap::Args;
use serde_json::Value;
use skiff_api::yaml;
use skiff_client::PatchKind;

use crate::server::Server;
use crate::targets::Selection;
use crate::writing::{DryRun, Writing, patched};
use crate::{Failure, Result};

#[derive(Args, Debug)]
pub struct Arguments {
    /// TYPE NAME or TYPE/NAME
    words: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// The patch to be applied, JSON or YAML
    #[arg(short, long, default_value = "")]
    patch: String,
    /// A file with the patch
    #[arg(long, default_value = "")]
    patch_file: String,
    /// One of json, merge, strategic
    #[arg(long = "type", default_value = "strategic")]
    ty: String,
    /// Patch this subresource (status, scale, resize) of the object
    #[arg(long, default_value = "")]
    subresource: String,
    /// Don't ask the server: patch what the file holds
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    writing: Writing,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    let (kind, patch) = (arguments.kind()?, arguments.patch()?);
    let writing = &arguments.writing;
    let here = arguments.local || writing.dry_run()? == DryRun::Client;
    let found = if arguments.local {
        arguments.selection.files.found()?
    } else {
        let namespace = Some(server.namespace.as_str());
        arguments.selection.find_subresource(server, &arguments.words, namespace, &arguments.subresource).await?
    };
    if found.is_empty() {
        return Err(Failure::text("no objects passed to patch"));
    }
    for found in found {
        let after = if here {
            patched(&found.resource, &found.object, kind, &patch)?
        } else {
            writing
                .patch_subresource(server, &found, &arguments.subresource, kind, &patch, "kubectl-patch")
                .await
                .map_err(|e| unsupported(e, kind, &found.resource.gvk_text()))?
        };
        let changed = after != found.object;
        writing.tell(&found.resource, &after, if changed { "patched" } else { "patched (no change)" })?;
    }
    Ok(())
}

/// Custom resources take no strategic patches, which is worth more words than the server's.
fn unsupported(error: anyhow::Error, kind: PatchKind, gvk: &str) -> anyhow::Error {
    match crate::failure::api_error(&error) {
        Some(refused) if refused.code == 415 => {
            Failure::text(format!("{} is not supported by {gvk}: {}", kind.content_type(), refused.message))
        }
        _ => error,
    }
}

impl Arguments {
    fn kind(&self) -> Result<PatchKind> {
        match self.ty.to_ascii_lowercase().as_str() {
            "json" => Ok(PatchKind::Json),
            "merge" => Ok(PatchKind::Merge),
            "strategic" | "" => Ok(PatchKind::Strategic),
            _ => Err(Failure::text(format!("--type must be one of [json merge strategic], not {:?}", self.ty))),
        }
    }

    fn patch(&self) -> Result<Value> {
        let text = match (self.patch.is_empty(), self.patch_file.is_empty()) {
            (false, true) => self.patch.clone(),
            (true, false) => std::fs::read_to_string(&self.patch_file)
                .map_err(|e| Failure::text(format!("unable to read patch file: {e}")))?,
            (false, false) => return Err(Failure::text("cannot specify --patch and --patch-file together")),
            (true, true) => {
                return Err(Failure::text("must specify --patch or --patch-file containing the contents of the patch"));
            }
        };
        Ok(yaml::document(&text).map_err(|e| Failure::text(format!("unable to parse {text:?}: {e}")))?.value)
    }
}
