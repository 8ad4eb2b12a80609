//! `kubectl scale`.

use clap::Args;
use serde_json::json;
use skiff_client::PatchKind;

use crate::server::Server;
use crate::targets::Selection;
use crate::writing::{DryRun, Writing};
use crate::{Failure, Result};

#[derive(Args, Debug)]
pub struct Arguments {
    /// TYPE NAME or TYPE/NAME
    words: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// The new desired number of replicas
    #[arg(long)]
    replicas: i32,
    /// Only where this is the current number
    #[arg(long)]
    current_replicas: Option<i64>,
    #[command(flatten)]
    writing: Writing,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    if arguments.replicas < 0 {
        return Err(Failure::text(
            "The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0",
        ));
    }
    // What is there is scaled, whatever else is not.
    let (found, missing) = arguments.selection.find_each(server, &arguments.words, Some(&server.namespace)).await?;
    for mut found in found {
        let here = arguments.writing.dry_run()? == DryRun::Client;
        let mut patch = json!({"spec": {"replicas": arguments.replicas}});
        if let Some(expected) = arguments.current_replicas.filter(|_| !here) {
            let scale = server.get(&found.path("scale")).await?;
            let current = scale["spec"]["replicas"].as_i64().unwrap_or_default();
            if current != expected {
                return Err(Failure::text(format!("Expected replicas to be {expected}, was {current}")));
            }
            patch["metadata"]["resourceVersion"] = scale["metadata"]["resourceVersion"].clone();
        }
        if !here {
            let path = arguments.writing.query_change(&found.path("scale"), "kubectl")?;
            server.patch(&path, PatchKind::Merge, &patch).await?;
        }
        // Only of these kinds it is known where the number is.
        if matches!(found.resource.group.as_str(), "apps" | "") {
            found.object["spec"]["replicas"] = arguments.replicas.into();
        }
        arguments.writing.tell(&found.resource, &found.object, "scaled")?;
    }
    missing.map_or(Ok(()), Err)
}
