//! `kubectl rollout`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use skiff_client::PatchKind;

use crate::apply::LAST_APPLIED;
use crate::logs::selector_of;
use crate::server::Server;
use crate::targets::{Found, Selection, list};
use crate::wait::{duration, each_state};
use crate::writing::{DryRun, Writing};
use crate::{Failure, Result};

mod status;

const REVISION: &str = "deployment.kubernetes.io/revision";
const CAUSE: &str = "kubernetes.io/change-cause";
const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";
const HASH: &str = "pod-template-hash";

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Which {
    /// TYPE NAME or TYPE/NAME
    words: Vec<String>,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Args)]
struct Change {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    writing: Writing,
}

#[derive(Subcommand)]
enum Command {
    /// Show the status of the rollout
    Status {
        #[command(flatten)]
        which: Which,
        /// Watch until it is done
        #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true")]
        watch: String,
        /// Give up after this time; zero is never
        #[arg(long, default_value = "0s")]
        timeout: String,
        /// Only of this revision of a deployment; 0 is the last one
        #[arg(long, default_value = "0", allow_negative_numbers = true)]
        revision: i64,
    },
    /// View rollout history
    History {
        #[command(flatten)]
        which: Which,
        /// The details of this revision
        #[arg(long, default_value = "0")]
        revision: i64,
    },
    /// Undo a previous rollout
    Undo {
        #[command(flatten)]
        change: Change,
        /// The revision to go back to; 0 is the last one
        #[arg(long, default_value = "0")]
        to_revision: i64,
    },
    /// Restart a resource
    Restart(Change),
    /// Mark the provided resource as paused
    Pause(Change),
    /// Resume a paused resource
    Resume(Change),
}

impl Which {
    async fn find(&self, server: &Server) -> Result<Vec<Found>> {
        // A type alone means all of it, as upstream.
        let mut selection = self.selection.clone();
        selection.all |= self.words.len() == 1 && !self.words[0].contains('/');
        selection.find(server, &self.words, Some(&server.namespace)).await
    }
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    match arguments.command {
        Command::Status { which, watch, timeout, revision } => {
            if revision < 0 {
                return Err(Failure::text(format!("revision must be a positive integer: {revision}")));
            }
            for found in which.find(server).await? {
                let limit = duration(&timeout)?.filter(|limit| !limit.is_zero());
                let watching = watch_status(server, &found, watch == "true", revision);
                match limit {
                    Some(limit) => tokio::time::timeout(limit, watching)
                        .await
                        .unwrap_or_else(|_| Err(Failure::text("timed out waiting for the condition")))?,
                    None => watching.await?,
                }
            }
            Ok(())
        }
        Command::History { which, revision } => {
            for found in which.find(server).await? {
                history(server, &found, revision).await?;
            }
            Ok(())
        }
        Command::Undo { change, to_revision } => {
            for found in change.which.find(server).await? {
                undo(server, &found, to_revision, &change.writing).await?;
            }
            Ok(())
        }
        Command::Restart(change) => {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            for found in change.which.find(server).await? {
                if !matches!(found.resource.kind.as_str(), "Deployment" | "DaemonSet" | "StatefulSet") {
                    return Err(Failure::text(format!("{} restarting is not supported", found.label())));
                }
                if found.object["spec"]["paused"] == true {
                    return Err(Failure::text(format!(
                        "{} can't restart paused deployment (run rollout resume first)",
                        found.label()
                    )));
                }
                let mut after = found.object.clone();
                after["spec"]["template"]["metadata"]["annotations"][RESTARTED] = now.as_str().into();
                let after = change.writing.change(server, &found, &after, "kubectl-rollout").await?;
                change.writing.tell(&found.resource, &after, "restarted")?;
            }
            Ok(())
        }
        Command::Pause(change) => pause(server, &change, true).await,
        Command::Resume(change) => pause(server, &change, false).await,
    }
}

async fn watch_status(server: &Server, found: &Found, watch: bool, revision: i64) -> Result {
    let mut last = String::new();
    let mut once = |object: &Value| {
        let running = object["metadata"]["annotations"][REVISION].as_str().and_then(|text| text.parse().ok());
        if revision > 0 && found.resource.kind == "Deployment" && running != Some(revision) {
            let running = running.unwrap_or(0);
            return Err(Failure::text(format!(
                "desired revision ({revision}) is different from the running revision ({running})"
            )));
        }
        let (text, done) = status::of(&found.resource.kind, object).map_err(Failure::text)?;
        if text != last {
            println!("{text}");
            last = text;
        }
        Ok(done || !watch)
    };
    each_state(server, found, &mut once).await
}

async fn pause(server: &Server, change: &Change, paused: bool) -> Result {
    let (word, verb) = if paused { ("paused", "pausing") } else { ("resumed", "resuming") };
    let mut failed = None;
    for found in change.which.find(server).await? {
        let refused = if found.resource.kind != "Deployment" {
            Some(Failure::text(format!("{} {verb} is not supported", found.label())))
        } else if (found.object["spec"]["paused"] == true) == paused {
            let state = if paused { "is already paused" } else { "is not paused" };
            Some(Failure::text(format!("{} {:?} {state}", found.resource.qualified(), found.name())))
        } else {
            None
        };
        if let Some(refused) = refused {
            if let Some(previous) = failed.replace(refused) {
                eprintln!("{}", crate::failure::sentence(&previous));
            }
            continue;
        }
        let mut after = found.object.clone();
        match (paused, after["spec"].as_object_mut()) {
            (false, Some(spec)) => drop(spec.remove("paused")),
            _ => after["spec"]["paused"] = true.into(),
        }
        let after = change.writing.change(server, &found, &after, "kubectl-rollout").await?;
        change.writing.tell(&found.resource, &after, word)?;
    }
    failed.map_or(Ok(()), Err)
}

/// What a workload was: a number, why it changed, and its pods' template.
struct Revision {
    number: i64,
    cause: String,
    template: Value,
}

/// All revisions that are kept, the oldest first: a deployment's in its ReplicaSets, others' in ControllerRevisions.
async fn revisions(server: &Server, found: &Found) -> Result<Vec<Revision>> {
    let kept_in = match found.resource.kind.as_str() {
        "Deployment" => "replicasets.apps",
        "DaemonSet" | "StatefulSet" => "controllerrevisions.apps",
        _ => {
            return Err(Failure::text(format!(
                "no history viewer has been implemented for {:?}",
                format!("{}.{}", found.resource.kind, found.resource.group)
            )));
        }
    };
    let resource = server.discovery().await?.find(kept_in)?.clone();
    let selector = selector_of(&found.object).unwrap_or_default();
    let uid = &found.object["metadata"]["uid"];
    let owned = |object: &Value| {
        let mut owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        owners.any(|owner| owner["uid"] == *uid && owner["controller"] == true)
    };
    let objects = list(server, &resource, found.namespace(), &selector, "").await?;
    let mut revisions: Vec<Revision> = objects.iter().filter(|object| owned(object)).filter_map(revision).collect();
    revisions.sort_by_key(|revision| revision.number);
    Ok(revisions)
}

fn revision(object: &Value) -> Option<Revision> {
    let cause = object["metadata"]["annotations"][CAUSE].as_str().filter(|cause| !cause.is_empty()).unwrap_or("<none>");
    let (number, mut template) = match object["revision"].as_i64() {
        Some(number) => (number, object["data"]["spec"]["template"].clone()),
        None => {
            let number = object["metadata"]["annotations"][REVISION].as_str()?.parse().ok()?;
            (number, object["spec"]["template"].clone())
        }
    };
    if let Some(template) = template.as_object_mut() {
        template.remove("$patch");
    }
    Some(Revision { number, cause: cause.to_owned(), template })
}

async fn history(server: &Server, found: &Found, revision: i64) -> Result {
    let revisions = revisions(server, found).await?;
    if revision > 0 {
        let revision_found = revisions.iter().find(|known| known.number == revision);
        let shown = revision_found.ok_or_else(|| Failure::text("unable to find the specified revision"))?;
        println!("{} with revision #{revision}", found.label());
        println!("{}", crate::describe::template(&shown.template));
        return Ok(());
    }
    println!("{} ", found.label());
    if revisions.is_empty() {
        println!("No rollout history found.");
        return Ok(());
    }
    let mut lines = String::from("REVISION\tCHANGE-CAUSE\n");
    for revision in &revisions {
        lines += &format!("{}\t{}\n", revision.number, revision.cause);
    }
    println!("{}", crate::describe::aligned(&lines));
    Ok(())
}

async fn undo(server: &Server, found: &Found, to_revision: i64, writing: &Writing) -> Result {
    let revisions = revisions(server, found).await?;
    let is_deployment = found.resource.kind == "Deployment";
    if found.object["metadata"]["annotations"].get(LAST_APPLIED).is_some() {
        eprintln!(
            "Warning: resource {}/{} was previously managed with 'kubectl apply'. Rolling back will not update the {LAST_APPLIED} annotation, which may cause unexpected behavior on future 'kubectl apply' operations. Consider using 'kubectl apply' with your previous configuration file instead.",
            found.resource.name,
            found.name()
        );
    }
    if found.object["spec"]["paused"] == true {
        return Err(Failure::text(format!(
            "you cannot rollback a paused deployment; resume it first with 'kubectl rollout resume' and try again: {}",
            found.name()
        )));
    }
    let wanted = match to_revision {
        // The last but one.
        0 => revisions.len().checked_sub(2).map(|nth| &revisions[nth]),
        _ => revisions.iter().find(|revision| revision.number == to_revision),
    };
    let Some(wanted) = wanted else {
        return Err(match (to_revision, is_deployment) {
            (0, true) => Failure::text(format!("no rollout history found for deployment {:?}", found.name())),
            (0, false) => Failure::text("no last revision to roll back to"),
            _ => Failure::text(format!("unable to find specified revision {to_revision} in history")),
        });
    };
    let mut template = wanted.template.clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut().filter(|_| is_deployment) {
        labels.remove(HASH);
    }
    if writing.dry_run()? == DryRun::Client {
        println!("{} will roll back to {}", found.label(), crate::describe::template(&template));
        return Ok(());
    }
    if template == found.object["spec"]["template"] {
        let number = if is_deployment { wanted.number } else { to_revision };
        println!("{} skipped rollback (current template already matches revision {number})", found.label());
        return Ok(());
    }
    let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
    let after = writing.patch(server, found, PatchKind::Json, &patch, "kubectl-rollout").await?;
    writing.tell(&found.resource, &after, "rolled back")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_read_from_both_kinds() {
        let set = json!({"metadata": {"annotations": {REVISION: "3", CAUSE: "x"}}, "spec": {"template": {"a": 1}}});
        let kept =
            json!({"metadata": {}, "revision": 2, "data": {"spec": {"template": {"$patch": "replace", "a": 1}}}});
        for (object, number, cause) in [(set, 3, "x"), (kept, 2, "<none>")] {
            let revision = revision(&object).expect("a revision");
            assert_eq!(
                (revision.number, revision.cause.as_str(), &revision.template),
                (number, cause, &json!({"a": 1}))
            );
        }
        assert!(revision(&json!({"metadata": {}})).is_none());
    }
}
