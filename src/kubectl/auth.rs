//! `kubectl auth`: who am I, and may I.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::print::{Table, structured};
use crate::server::Server;
use crate::{Failure, Result};

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check whether an action is allowed: VERB TYPE[/NAME] or VERB /path
    CanI {
        verb: String,
        what: String,
        name: Option<String>,
        /// Check in all namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        /// status, log ...
        #[arg(long, default_value = "")]
        subresource: String,
        /// Print nothing; the exit code tells
        #[arg(short, long)]
        quiet: bool,
    },
    /// Print who the server takes you for
    Whoami {
        /// yaml or json
        #[arg(short, long, default_value = "")]
        output: String,
    },
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    match arguments.command {
        Command::CanI { verb, what, name, all_namespaces, subresource, quiet } => {
            let spec = if what.starts_with('/') {
                json!({"nonResourceAttributes": {"verb": verb, "path": what}})
            } else {
                let (ty, inner) =
                    what.split_once('/').map_or((what.as_str(), None), |(ty, name)| (ty, Some(name.to_owned())));
                let namespace = if all_namespaces { "" } else { server.namespace.as_str() };
                let (group, resource) = resource(server, ty).await?;
                json!({"resourceAttributes": {"verb": verb, "group": group, "resource": resource, "namespace": namespace,
                    "name": inner.or(name).unwrap_or_default(), "subresource": subresource}})
            };
            let review =
                json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec});
            let answer = server.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await?;
            let allowed = answer["status"]["allowed"] == true;
            if !quiet {
                let reason = answer["status"]["reason"].as_str().filter(|reason| !reason.is_empty() && !allowed);
                println!(
                    "{}{}",
                    if allowed { "yes" } else { "no" },
                    reason.map(|r| format!(" - {r}")).unwrap_or_default()
                );
            }
            if allowed { Ok(()) } else { Err(Failure::Silent.into()) }
        }
        Command::Whoami { output } => {
            let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
            let answer = server.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await?;
            if !output.is_empty() {
                print!("{}", structured(&answer, &output)?);
                return Ok(());
            }
            let user = &answer["status"]["userInfo"];
            let mut table = Table::new(&["ATTRIBUTE", "VALUE"]);
            let groups: Vec<&str> = user["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            table.row(["Username".to_owned(), user["username"].as_str().unwrap_or_default().to_owned()]);
            table.row(["Groups".to_owned(), format!("[{}]", groups.join(" "))]);
            print!("{table}");
            Ok(())
        }
    }
}

/// A type that the server doesn't have may be asked about, too, and so may all.
async fn resource(server: &Server, word: &str) -> Result<(String, String)> {
    if word == "*" {
        return Ok(("*".to_owned(), "*".to_owned()));
    }
    match server.discovery().await?.find(word) {
        Ok(resource) => Ok((resource.group.clone(), resource.name.clone())),
        Err(_) => {
            eprintln!("Warning: the server doesn't have a resource type '{word}'\n");
            let (name, group) = word.split_once('.').unwrap_or((word, ""));
            Ok((group.to_owned(), name.to_owned()))
        }
    }
}
