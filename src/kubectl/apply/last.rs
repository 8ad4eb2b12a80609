//! `kubectl apply view-last-applied`, `set-last-applied`, `edit-last-applied`: the annotation that a three-way apply
//! goes by.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use skiff_api::yaml;
use skiff_client::PatchKind;

use super::{LAST_APPLIED, remembered};
use crate::edit;
use crate::print::indented_by;
use crate::server::{JSON, Server};
use crate::targets::{Found, Selection};
use crate::writing::Writing;
use crate::{Failure, Result};

#[derive(Subcommand, Debug)]
pub enum Command {
    /// View the latest last-applied-configuration annotations of a resource/object
    #[command(name = "view-last-applied")]
    View(View),
    /// Set the last-applied-configuration annotation on a live object to match the contents of a file
    #[command(name = "set-last-applied")]
    Set(Set),
    /// Edit latest last-applied-configuration annotations of a resource/object
    #[command(name = "edit-last-applied")]
    Edit(edit::Arguments),
}

#[derive(Args, Debug)]
pub struct View {
    /// TYPE NAME or TYPE/NAME
    words: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Output format. Must be one of (yaml, json)
    #[arg(short, long, default_value = "yaml")]
    output: String,
}

#[derive(Args, Debug)]
pub struct Set {
    #[command(flatten)]
    files: crate::manifest::Files,
    /// Will create 'last-applied-configuration' annotations if current objects doesn't have one
    #[arg(long)]
    create_annotation: bool,
    #[command(flatten)]
    writing: Writing,
}

pub async fn run(server: &Server, command: Command) -> Result {
    match command {
        Command::View(arguments) => view(server, &arguments).await,
        Command::Set(arguments) => set(server, &arguments).await,
        Command::Edit(arguments) => edit::run(server, arguments, edit::What::LastApplied).await,
    }
}

/// What the annotation holds.
pub fn last_applied(object: &Value) -> Option<Result<Value>> {
    let text = object["metadata"]["annotations"][LAST_APPLIED].as_str()?;
    let read = serde_json::from_str(text);
    Some(read.map_err(|e| Failure::text(format!("the annotation {LAST_APPLIED} is no JSON: {e}"))))
}

/// The patch that has the annotation hold an object.
pub fn remember(plain: &Value) -> Value {
    json!({"metadata": {"annotations": {LAST_APPLIED: remembered(plain)}}})
}

async fn view(server: &Server, arguments: &View) -> Result {
    let format: fn(&Value) -> String = match arguments.output.as_str() {
        "yaml" => yaml::to_string,
        "json" => |object| indented_by(b"  ", object) + "\n",
        other => {
            return Err(Failure::text(format!(
                "Unexpected -o output mode: {other}, the flag 'output' must be one of yaml|json"
            )));
        }
    };
    let found = arguments.selection.find(server, &arguments.words, Some(&server.namespace)).await?;
    let texts = found.iter().map(|found| match last_applied(&found.object) {
        Some(object) => Ok(format(&object?)),
        None => Err(Failure::text(format!(
            "no last-applied-configuration annotation found on resource: {}\n",
            found.name()
        ))),
    });
    let texts: Vec<String> = texts.collect::<Result<_>>()?;
    print!("{}", texts.concat());
    Ok(())
}

async fn set(server: &Server, arguments: &Set) -> Result {
    if arguments.files.is_empty() {
        return Err(Failure::text("must specify one of -f and -k"));
    }
    // All are looked at before one is changed.
    let mut changes = Vec::new();
    for mut manifest in arguments.files.read()? {
        let resource = manifest.place(server).await?.clone();
        let object = server.object(&resource, Some(manifest.namespace()), manifest.name(), JSON).await?;
        let patch = remember(&manifest.object);
        let live = object["metadata"]["annotations"].get(LAST_APPLIED);
        if live.is_none() && !arguments.create_annotation {
            return Err(Failure::text(format!(
                "no last-applied-configuration annotation found on resource: {}, to create the annotation, run the command with --create-annotation",
                manifest.name()
            )));
        }
        if live == Some(&patch["metadata"]["annotations"][LAST_APPLIED]) {
            println!("set-last-applied {}: no changes required.", manifest.name());
            continue;
        }
        changes.push((Found { resource, object }, patch));
    }
    for (found, patch) in changes {
        let object = arguments.writing.patch(server, &found, PatchKind::Merge, &patch, "kubectl").await?;
        arguments.writing.tell(&found.resource, &object, "configured")?;
    }
    Ok(())
}
