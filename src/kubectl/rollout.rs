//! `kubectl rollout`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use skiff_client::PatchKind;

use crate::logs::selector_of;
use crate::server::Server;
use crate::targets::{Found, Selection, list};
use crate::wait::{duration, each_state};
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
        which: Which,
        /// The revision to go back to; 0 is the last one
        #[arg(long, default_value = "0")]
        to_revision: i64,
    },
    /// Restart a resource
    Restart(Which),
    /// Mark the provided resource as paused
    Pause(Which),
    /// Resume a paused resource
    Resume(Which),
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
        Command::Status { which, watch, timeout } => {
            for found in which.find(server).await? {
                let limit = duration(&timeout)?.filter(|limit| !limit.is_zero());
                let watching = watch_status(server, &found, watch == "true");
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
        Command::Undo { which, to_revision } => {
            for found in which.find(server).await? {
                undo(server, &found, to_revision).await?;
            }
            Ok(())
        }
        Command::Restart(which) => {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let patch = json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED: now}}}}});
            for found in which.find(server).await? {
                if !matches!(found.resource.kind.as_str(), "Deployment" | "DaemonSet" | "StatefulSet") {
                    return Err(Failure::text(format!("{} restarting is not supported", found.label())));
                }
                if found.object["spec"]["paused"] == true {
                    return Err(Failure::text(format!(
                        "can't restart paused deployment (run rollout resume first): {}",
                        found.name()
                    )));
                }
                server.patch(&found.path(""), PatchKind::Strategic, &patch).await?;
                println!("{} restarted", found.label());
            }
            Ok(())
        }
        Command::Pause(which) => pause(server, &which, true).await,
        Command::Resume(which) => pause(server, &which, false).await,
    }
}

async fn watch_status(server: &Server, found: &Found, watch: bool) -> Result {
    let mut last = String::new();
    let mut once = |object: &Value| {
        let (text, done) = status::of(&found.resource.kind, object).map_err(Failure::text)?;
        if text != last {
            println!("{text}");
            last = text;
        }
        Ok(done || !watch)
    };
    each_state(server, found, &mut once).await
}

async fn pause(server: &Server, which: &Which, paused: bool) -> Result {
    let (patch, word) = if paused { (json!(true), "paused") } else { (Value::Null, "resumed") };
    for found in which.find(server).await? {
        if found.resource.kind != "Deployment" {
            return Err(Failure::text(format!("{} pausing is not supported", found.label())));
        }
        let already = (found.object["spec"]["paused"] == true) == paused;
        if already {
            let state = if paused { "already paused" } else { "not paused" };
            return Err(Failure::text(format!("{} {:?} is {state}", found.resource.qualified(), found.name())));
        }
        server.patch(&found.path(""), PatchKind::Strategic, &json!({"spec": {"paused": patch}})).await?;
        println!("{} {word}", found.label());
    }
    Ok(())
}

/// A revision of a deployment: its number and its ReplicaSet.
async fn revisions(server: &Server, found: &Found) -> Result<Vec<(i64, Value)>> {
    if found.resource.kind != "Deployment" {
        return Err(Failure::text(format!(
            "no history viewer has been implemented for {:?}; this kubectl has the one of Deployment",
            found.resource.kind
        )));
    }
    let replicasets = server.discovery().await?.find("replicasets.apps")?.clone();
    let selector = selector_of(&found.object).unwrap_or_default();
    let uid = &found.object["metadata"]["uid"];
    let owned = |set: &Value| {
        set["metadata"]["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|o| o["uid"] == *uid && o["controller"] == true)
    };
    let sets = list(server, &replicasets, found.namespace(), &selector, "").await?;
    let mut revisions: Vec<(i64, Value)> = sets
        .into_iter()
        .filter(owned)
        .filter_map(|set| Some((set["metadata"]["annotations"][REVISION].as_str()?.parse().ok()?, set)))
        .collect();
    revisions.sort_by_key(|(revision, _)| *revision);
    Ok(revisions)
}

async fn history(server: &Server, found: &Found, revision: i64) -> Result {
    let revisions = revisions(server, found).await?;
    if revision > 0 {
        let (_, set) = revisions
            .iter()
            .find(|(number, _)| *number == revision)
            .ok_or_else(|| Failure::text("unable to find the specified revision"))?;
        println!("{} with revision #{revision}", found.label());
        print!("{}", crate::describe::template(&set["spec"]["template"]));
        return Ok(());
    }
    println!("{} ", found.label());
    if revisions.is_empty() {
        println!("No rollout history found.");
        return Ok(());
    }
    let mut lines = String::from("REVISION\tCHANGE-CAUSE\n");
    for (number, set) in &revisions {
        let cause = set["metadata"]["annotations"][CAUSE].as_str().unwrap_or("<none>");
        lines += &format!("{number}\t{cause}\n");
    }
    println!("{}", crate::describe::aligned(&lines));
    Ok(())
}

async fn undo(server: &Server, found: &Found, to_revision: i64) -> Result {
    let revisions = revisions(server, found).await?;
    if found.object["spec"]["paused"] == true {
        return Err(Failure::text(format!(
            "you cannot rollback a paused deployment; resume it first with 'kubectl rollout resume' and try again: {}",
            found.name()
        )));
    }
    let current: i64 =
        found.object["metadata"]["annotations"][REVISION].as_str().and_then(|r| r.parse().ok()).unwrap_or_default();
    let wanted = match to_revision {
        0 => revisions.iter().rev().find(|(number, _)| *number < current || current == 0 && *number > 0),
        _ => revisions.iter().find(|(number, _)| *number == to_revision),
    };
    let Some((number, set)) = wanted else {
        return Err(match to_revision {
            0 => Failure::text(format!("no rollout history found for deployment {:?}", found.name())),
            _ => Failure::text(format!("unable to find specified revision {to_revision} in history")),
        });
    };
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove(HASH);
    }
    if template == found.object["spec"]["template"] {
        println!("{} skipped rollback (current template already matches revision {number})", found.label());
        return Ok(());
    }
    let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
    server.patch(&found.path(""), PatchKind::Json, &patch).await?;
    println!("{} rolled back", found.label());
    Ok(())
}
