//! `kubectl label` and `kubectl annotate`.

use clap::Args;
use serde_json::{Map, Value, json};
use skiff_client::PatchKind;

use crate::print::compact;
use crate::server::Server;
use crate::targets::{Found, Selection};
use crate::writing::{DryRun, Writing, patched};
use crate::{Failure, Result};

#[derive(Args, Debug)]
pub struct Arguments {
    /// TYPE NAME KEY=VALUE ... KEY- ...
    #[arg(allow_hyphen_values = false)]
    words: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Let existing values be overwritten
    #[arg(long)]
    overwrite: bool,
    /// Print what is there instead of changing it
    #[arg(long)]
    list: bool,
    /// Don't ask the server: change what the files hold
    #[arg(long)]
    local: bool,
    /// Only if this is the object's version
    #[arg(long, default_value = "")]
    resource_version: String,
    /// Select in all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    #[command(flatten)]
    writing: Writing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Labels,
    Annotations,
}

impl Which {
    fn field(self) -> &'static str {
        if self == Self::Labels { "labels" } else { "annotations" }
    }
}

pub async fn run(server: &Server, arguments: Arguments, which: Which) -> Result {
    let (changes, words): (Vec<String>, Vec<String>) =
        arguments.words.iter().cloned().partition(|word| word.contains('=') || word.ends_with('-'));
    if changes.is_empty() && !arguments.list {
        let one = which.field().trim_end_matches('s');
        return Err(Failure::text(format!("at least one {one} update is required")));
    }
    let namespace = (!arguments.all_namespaces).then_some(server.namespace.as_str());
    let found = if arguments.local {
        arguments.selection.files.found()?
    } else {
        arguments.selection.find(server, &words, namespace).await?
    };
    let single = found.len() == 1;
    for found in &found {
        if arguments.list {
            list(found, which, single);
        } else {
            change(server, &arguments, found, &changes, which).await?;
        }
    }
    Ok(())
}

fn list(found: &Found, which: Which, single: bool) {
    let indent = if single { "" } else { " " };
    if !single {
        let resource = &found.resource;
        println!("Listing {} for {}.{}/{}:", which.field(), resource.kind, resource.group, found.name());
    }
    for (key, value) in found.object["metadata"][which.field()].as_object().into_iter().flatten() {
        println!("{indent}{key}={}", value.as_str().unwrap_or_default());
    }
}

async fn change(server: &Server, arguments: &Arguments, found: &Found, changes: &[String], which: Which) -> Result {
    let current = &found.object["metadata"][which.field()];
    let mut patch = changed(changes, current, arguments.overwrite, which)?;
    // What isn't there needs no removal.
    if let Some(patch) = patch.as_object_mut() {
        patch.retain(|key, value| !value.is_null() || current.get(key).is_some());
    }
    let empty = patch.as_object().is_some_and(Map::is_empty);
    let mut body = json!({"metadata": {}});
    if !empty {
        body["metadata"][which.field()] = patch;
    }
    if !arguments.resource_version.is_empty() {
        body["metadata"]["resourceVersion"] = arguments.resource_version.as_str().into();
    }
    let expected = patched(&found.resource, &found.object, PatchKind::Merge, &body)?;
    let what = match which {
        Which::Annotations => "annotated",
        Which::Labels => labeled(&found.object, &expected, arguments.overwrite),
    };
    let writing = &arguments.writing;
    if arguments.local || writing.dry_run()? == DryRun::Client {
        return writing.tell(&found.resource, &expected, what);
    }
    for gone in changes.iter().filter(|change| which == Which::Labels && !change.contains('=')) {
        let key = gone.trim_end_matches('-');
        if current.get(key).is_none() {
            println!("label {key:?} not found.");
        }
    }
    let manager = if which == Which::Labels { "kubectl-label" } else { "kubectl-annotate" };
    let after = writing.patch(server, found, PatchKind::Merge, &body, manager).await?;
    writing.tell(&found.resource, &after, what)
}

/// Upstream's word; an object that got shorter lost a label.
fn labeled(before: &Value, after: &Value, overwrite: bool) -> &'static str {
    if before == after {
        "not labeled"
    } else if !overwrite && compact(after).len() < compact(before).len() {
        "unlabeled"
    } else {
        "labeled"
    }
}

/// The merge patch of the labels or annotations.
fn changed(changes: &[String], current: &Value, overwrite: bool, which: Which) -> Result<Value> {
    let mut patch = Map::new();
    let mut kept = Vec::new();
    for change in changes {
        match change.split_once('=') {
            Some((key, value)) => {
                let there = current.get(key).and_then(Value::as_str);
                if let Some(there) = there.filter(|there| *there != value && !overwrite) {
                    kept.push(format!("'{key}' already has a value ({there})"));
                }
                patch.insert(key.to_owned(), value.into());
            }
            None => drop(patch.insert(change.trim_end_matches('-').to_owned(), Value::Null)),
        }
    }
    for (key, value) in &patch {
        let clash = changes.iter().any(|change| change.strip_suffix('-') == Some(key)) && !value.is_null()
            || value.is_null()
                && changes.iter().any(|change| change.split('=').next() == Some(key) && change.contains('='));
        if clash {
            let one = which.field().trim_end_matches('s');
            return Err(Failure::text(format!(
                "can not both modify and remove the following {one}(s) in the same command: {key}"
            )));
        }
    }
    match (kept.is_empty(), which) {
        (true, _) => Ok(Value::Object(patch)),
        (false, Which::Labels) => {
            let kept: Vec<String> = kept.iter().map(|text| format!("{text}, and --overwrite is false")).collect();
            Err(Failure::text(match kept.as_slice() {
                [one] => one.clone(),
                many => format!("[{}]", many.join(", ")),
            }))
        }
        (false, Which::Annotations) => Err(Failure::text(format!(
            "--overwrite is false but found the following declared annotation(s): {}",
            kept.join("; ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_only_overwritten_when_asked() {
        let current = json!({"a": "1"});
        let changes = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            changed(&changes(&["b=2", "c-"]), &current, false, Which::Labels).expect("fine"),
            json!({"b": "2", "c": null})
        );
        assert_eq!(changed(&changes(&["a=1"]), &current, false, Which::Labels).expect("the same"), json!({"a": "1"}));
        let error = changed(&changes(&["a=2"]), &current, false, Which::Labels).expect_err("refused");
        assert_eq!(error.to_string(), "'a' already has a value (1), and --overwrite is false");
        assert!(changed(&changes(&["a=2"]), &current, true, Which::Labels).is_ok());
        assert!(changed(&changes(&["a=2", "a-"]), &current, true, Which::Labels).is_err());
    }

    #[test]
    fn words_about_labels() {
        let object = |labels: Value| json!({"metadata": {"labels": labels}});
        for (before, after, overwrite, expect) in [
            (json!({"a": "1"}), json!({"a": "1"}), false, "not labeled"),
            (json!({}), json!({"a": "1"}), false, "labeled"),
            (json!({"a": "1"}), json!({}), false, "unlabeled"),
            (json!({"a": "11"}), json!({"a": "1"}), true, "labeled"),
        ] {
            assert_eq!(labeled(&object(before), &object(after), overwrite), expect);
        }
    }
}
