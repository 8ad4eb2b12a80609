//! `kubectl label` and `kubectl annotate`.

use clap::Args;
use serde_json::{Map, Value, json};
use skiff_client::PatchKind;

use crate::apply::{DryRun, Writing};
use crate::patch::same;
use crate::server::Server;
use crate::targets::Selection;
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
    if arguments.writing.dry_run()? == DryRun::Client {
        return Err(Failure::text(
            "--dry-run=client is not part of this kubectl's label and annotate; use --dry-run=server",
        ));
    }
    let namespace = (!arguments.all_namespaces).then_some(server.namespace.as_str());
    for found in arguments.selection.find(server, &words, namespace).await? {
        let current = &found.object["metadata"][which.field()];
        if arguments.list {
            for (key, value) in current.as_object().into_iter().flatten() {
                println!("{key}={}", value.as_str().unwrap_or_default());
            }
            continue;
        }
        let patch = changed(&changes, current, arguments.overwrite, which)?;
        let path = arguments.writing.query_change(&found.path(""), "kubectl-label")?;
        let body = json!({"metadata": {(which.field()): patch}});
        let after = server.patch(&path, PatchKind::Merge, &body).await?;
        let unset = changes.iter().all(|change| change.ends_with('-') && !change.contains('='));
        let what = match (which, same(&found.object, &after), unset) {
            (Which::Labels, true, _) => "not labeled",
            (Which::Labels, false, true) => "unlabeled",
            (Which::Labels, false, false) => "labeled",
            (Which::Annotations, ..) => "annotated",
        };
        arguments.writing.tell(&found.resource, &after, what)?;
    }
    Ok(())
}

/// The merge patch of the labels or annotations.
fn changed(changes: &[String], current: &Value, overwrite: bool, which: Which) -> Result<Value> {
    let mut patch = Map::new();
    for change in changes {
        match change.split_once('=') {
            Some((key, value)) => {
                let there = current.get(key).and_then(Value::as_str);
                if let Some(there) = there.filter(|there| *there != value && !overwrite) {
                    let what = if which == Which::Labels { "label" } else { "annotation" };
                    return Err(Failure::text(match which {
                        Which::Labels => format!("'{key}' already has a value ({there}), and --overwrite is false"),
                        Which::Annotations => {
                            format!(
                                "--overwrite is false but found the following declared {what}(s): '{key}' already has a value ({there})"
                            )
                        }
                    }));
                }
                patch.insert(key.to_owned(), value.into());
            }
            None => drop(patch.insert(change.trim_end_matches('-').to_owned(), Value::Null)),
        }
    }
    Ok(Value::Object(patch))
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
    }
}
