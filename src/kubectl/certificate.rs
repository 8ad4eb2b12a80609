//! `kubectl certificate approve` and `deny`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::failure::api_error;
use crate::server::Server;
use crate::targets::{Found, Selection};
use crate::writing::Writing;
use crate::{Failure, Result};

const RETRIES: usize = 10;

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Approve a certificate signing request
    Approve(Which),
    /// Deny a certificate signing request
    Deny(Which),
}

#[derive(Args)]
struct Which {
    /// Names of certificate signing requests
    names: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Update the request even if it is already approved or denied
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    writing: Writing,
}

/// A verdict, and the one that it can't stand beside.
struct Verdict {
    condition: &'static str,
    opposite: &'static str,
    reason: &'static str,
    message: &'static str,
    told: &'static str,
}

const APPROVED: Verdict = Verdict {
    condition: "Approved",
    opposite: "Denied",
    reason: "KubectlApprove",
    message: "This CSR was approved by kubectl certificate approve.",
    told: "approved",
};
const DENIED: Verdict = Verdict {
    condition: "Denied",
    opposite: "Approved",
    reason: "KubectlDeny",
    message: "This CSR was denied by kubectl certificate deny.",
    told: "denied",
};

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    let (which, verdict) = match arguments.command {
        Command::Approve(which) => (which, APPROVED),
        Command::Deny(which) => (which, DENIED),
    };
    if which.names.is_empty() && which.selection.files.is_empty() {
        return Err(Failure::text("one or more CSRs must be specified as <name> or -f <filename>"));
    }
    let names = which.names.iter().map(|name| name.trim_start_matches("csr/").to_owned());
    let words: Vec<String> = std::iter::once("certificatesigningrequests".to_owned()).chain(names).collect();
    for found in which.selection.find(server, &words, None).await? {
        decide(server, &which, found, &verdict).await?;
    }
    Ok(())
}

async fn decide(server: &Server, which: &Which, mut found: Found, verdict: &Verdict) -> Result {
    let mut tries = 0;
    loop {
        let Some(judged) = judged(&found.object, verdict, which.force)? else {
            return which.writing.tell(&found.resource, &found.object, verdict.told);
        };
        let path = which.writing.query_change(&found.path("approval"), "kubectl")?;
        match server.put(&path, &judged).await {
            Ok(object) => return which.writing.tell(&found.resource, &object, verdict.told),
            Err(e) if tries < RETRIES && api_error(&e).is_some_and(skiff_api::ApiError::is_conflict) => {
                tries += 1;
                found.object = server.get(&found.path("")).await?;
            }
            Err(e) => return Err(e),
        }
    }
}

/// The request with the verdict; nothing if it stands there already.
fn judged(object: &Value, verdict: &Verdict, force: bool) -> Result<Option<Value>> {
    let mut conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if conditions.iter().any(|condition| condition["type"] == verdict.opposite) {
        return Err(Failure::text(format!("certificate signing request {name:?} is already {}", verdict.opposite)));
    }
    if conditions.iter().any(|condition| condition["type"] == verdict.condition) {
        return Ok(force.then(|| object.clone()));
    }
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    conditions.push(json!({"type": verdict.condition, "status": "True", "reason": verdict.reason,
        "message": verdict.message, "lastUpdateTime": now}));
    let mut object = object.clone();
    object["status"]["conditions"] = Value::Array(conditions);
    Ok(Some(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_final() {
        let fresh = json!({"metadata": {"name": "c"}, "status": {}});
        let approved = judged(&fresh, &APPROVED, false).expect("judged").expect("changed");
        assert_eq!(approved["status"]["conditions"][0]["reason"], "KubectlApprove");
        assert!(judged(&approved, &APPROVED, false).expect("judged").is_none());
        let error = judged(&approved, &DENIED, false).expect_err("refused").to_string();
        assert_eq!(error, "certificate signing request \"c\" is already Approved");
    }
}
