//! `kubectl set image` and `kubectl set env`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use skiff_client::PatchKind;

use crate::apply::{DryRun, Writing};
use crate::patch::same;
use crate::server::Server;
use crate::targets::{Found, Selection};
use crate::{Failure, Result};

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Update the image of a pod template: TYPE/NAME CONTAINER=IMAGE ...
    Image(Common),
    /// Update the environment of a pod template: TYPE/NAME NAME=VALUE ... NAME- ...
    Env(Common),
}

#[derive(Args)]
struct Common {
    words: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Only these containers; `*` is all
    #[arg(short, long, default_value = "*")]
    containers: String,
    #[command(flatten)]
    writing: Writing,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    let (common, told) = match &arguments.what {
        What::Image(common) => (common, "image updated"),
        What::Env(common) => (common, "env updated"),
    };
    let (changes, words): (Vec<String>, Vec<String>) = common
        .words
        .iter()
        .cloned()
        .partition(|word| word.contains('=') || (word.ends_with('-') && matches!(arguments.what, What::Env(_))));
    if changes.is_empty() {
        return Err(Failure::text("at least one NAME=VALUE is required"));
    }
    if common.writing.dry_run()? == DryRun::Client {
        return Err(Failure::text("--dry-run=client is not part of this kubectl's set; use --dry-run=server"));
    }
    for found in common.selection.find(server, &words, Some(&server.namespace)).await? {
        let patch = match &arguments.what {
            What::Image(_) => images(&found, &changes)?,
            What::Env(_) => environment(&found, &changes, &common.containers)?,
        };
        let path = common.writing.query_change(&found.path(""), "kubectl-set")?;
        let after = server.patch(&path, PatchKind::Strategic, &patch).await?;
        if !same(&found.object, &after) {
            common.writing.tell(&found.resource, &after, told)?;
        }
    }
    Ok(())
}

/// Where the pod's spec is, and a patch around one.
fn pod_spec(found: &Found) -> (&'static str, fn(Value) -> Value) {
    match found.resource.kind.as_str() {
        "Pod" => ("/spec", |spec| json!({ "spec": spec })),
        "CronJob" => (
            "/spec/jobTemplate/spec/template/spec",
            |spec| json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}}}),
        ),
        _ => ("/spec/template/spec", |spec| json!({"spec": {"template": {"spec": spec}}})),
    }
}

fn names<'a>(found: &'a Found, list: &str) -> Vec<&'a str> {
    let spec = found.object.pointer(pod_spec(found).0);
    let containers = spec.and_then(|spec| spec.get(list)).and_then(Value::as_array);
    containers.into_iter().flatten().filter_map(|container| container["name"].as_str()).collect()
}

fn images(found: &Found, changes: &[String]) -> Result<Value> {
    let mut spec = json!({});
    for change in changes {
        let (name, image) = change.split_once('=').unwrap_or((change, ""));
        let mut any = false;
        for list in ["containers", "initContainers"] {
            let mut entries = spec.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
            for container in names(found, list).into_iter().filter(|container| name == "*" || *container == name) {
                entries.push(json!({"name": container, "image": image}));
                any = true;
            }
            if !entries.is_empty() {
                spec[list] = Value::Array(entries);
            }
        }
        if !any {
            return Err(Failure::text(format!("unable to find container named {name:?}")));
        }
    }
    Ok(pod_spec(found).1(spec))
}

fn environment(found: &Found, changes: &[String], which: &str) -> Result<Value> {
    let entries: Vec<Value> = changes
        .iter()
        .map(|change| match change.split_once('=') {
            Some((name, value)) => json!({"name": name, "value": value}),
            None => json!({"name": change.trim_end_matches('-'), "$patch": "delete"}),
        })
        .collect();
    let chosen: Vec<Value> = names(found, "containers")
        .into_iter()
        .filter(|name| which == "*" || *name == which)
        .map(|name| json!({"name": name, "env": entries}))
        .collect();
    if chosen.is_empty() {
        return Err(Failure::text(format!("{} does not have any containers matching {which:?}", found.label())));
    }
    Ok(pod_spec(found).1(json!({ "containers": chosen })))
}
