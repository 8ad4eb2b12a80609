//! `kubectl auth`: who am I, may I, and roles brought to what files say.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::print::{Printing, Table};
use crate::server::Server;
use crate::{Failure, Result};

mod reconcile;

/// What may be asked about although no server lists it.
const VIRTUAL: [&str; 3] = ["users", "groups", "userextras"];
const VERBS: [&str; 14] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "use",
    "bind",
    "impersonate",
    "*",
    "approve",
    "sign",
];
const PATH_VERBS: [&str; 8] = ["get", "put", "post", "head", "options", "delete", "patch", "*"];

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check whether an action is allowed: VERB TYPE[/NAME] or VERB /path
    CanI(CanI),
    /// Print who the server takes you for
    Whoami(Printing),
    /// Bring roles and bindings to what files say
    Reconcile(reconcile::Arguments),
}

#[derive(Args)]
struct CanI {
    /// VERB TYPE[/NAME] or VERB /path
    words: Vec<String>,
    /// Check in all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// status, log ...
    #[arg(long, default_value = "")]
    subresource: String,
    /// Print nothing; the exit code tells
    #[arg(short, long)]
    quiet: bool,
    /// List all that is allowed
    #[arg(long)]
    list: bool,
    /// With --list, don't print headers
    #[arg(long)]
    no_headers: bool,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    match arguments.command {
        Command::CanI(arguments) if arguments.list => arguments.list(server).await,
        Command::CanI(arguments) => arguments.check(server).await,
        Command::Whoami(printing) => whoami(server, &printing).await,
        Command::Reconcile(arguments) => reconcile::run(server, arguments).await,
    }
}

impl CanI {
    async fn check(&self, server: &Server) -> Result {
        if self.no_headers {
            return Err(Failure::text("--no-headers cannot be set without --list specified"));
        }
        let [verb, what] = self.words.as_slice() else {
            return Err(Failure::text(
                "you must specify two arguments: verb resource or verb resource/resourceName.\nSee 'kubectl auth can-i -h' for help and examples.",
            ));
        };
        let warn = |text: String| {
            if !self.quiet {
                eprintln!("Warning: {text}\n");
            }
        };
        let spec = if what.starts_with('/') {
            if !self.subresource.is_empty() {
                return Err(Failure::text("--subresource can not be used with NonResourceURL"));
            }
            if !PATH_VERBS.contains(&verb.as_str()) {
                warn(format!("verb '{verb}' is not a known verb"));
            }
            json!({"nonResourceAttributes": {"verb": verb, "path": what}})
        } else {
            let (ty, inner) =
                what.split_once('/').map_or((what.as_str(), None), |(ty, name)| (ty, Some(name.to_owned())));
            let namespace = if self.all_namespaces { "" } else { server.namespace.as_str() };
            let (group, resource) = self.resource(server, ty, warn).await?;
            if !VERBS.contains(&verb.as_str()) {
                warn(format!("verb '{verb}' is not a known verb"));
            }
            json!({"resourceAttributes": {"verb": verb, "group": group, "resource": resource, "namespace": namespace,
                "name": inner.unwrap_or_default(), "subresource": self.subresource}})
        };
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec});
        let answer = server.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await?;
        let allowed = answer["status"]["allowed"] == true;
        if !self.quiet {
            let why = ["reason", "evaluationError"].map(|field| answer["status"][field].as_str().unwrap_or_default());
            let why: String =
                why.iter().filter(|why| !why.is_empty() && !allowed).map(|why| format!(" - {why}")).collect();
            println!("{}{why}", if allowed { "yes" } else { "no" });
        }
        if allowed { Ok(()) } else { Err(Failure::Silent.into()) }
    }

    /// A type that the server doesn't have may be asked about, too, and so may all.
    async fn resource(&self, server: &Server, word: &str, warn: impl Fn(String)) -> Result<(String, String)> {
        if word == "*" {
            return Ok((String::new(), "*".to_owned()));
        }
        let Ok(found) = server.discovery().await?.find(word) else {
            let (name, group) = word.split_once('.').unwrap_or((word, ""));
            if !VIRTUAL.contains(&name) {
                let place = if group.is_empty() { String::new() } else { format!(" in group '{group}'") };
                warn(format!("the server doesn't have a resource type '{name}'{place}"));
            }
            return Ok((String::new(), word.to_owned()));
        };
        if !found.namespaced && !self.all_namespaces {
            let place = if found.group.is_empty() { String::new() } else { format!(" in group '{}'", found.group) };
            warn(format!("resource '{}' is not namespace scoped{place}", found.name));
        }
        Ok((found.group.clone(), found.name.clone()))
    }

    async fn list(&self, server: &Server) -> Result {
        if self.quiet || self.all_namespaces || !self.subresource.is_empty() {
            return Err(Failure::text(
                "list option can't be specified with neither quiet, all-namespaces nor subresource options",
            ));
        }
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": server.namespace}});
        let answer = server.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &review).await?;
        let status = &answer["status"];
        if status["incomplete"] == true {
            eprintln!(
                "Warning: the list may be incomplete: {}",
                status["evaluationError"].as_str().unwrap_or_default()
            );
        }
        let rules = ["resourceRules", "nonResourceRules"].iter().filter_map(|list| status[*list].as_array()).flatten();
        let mut table = Table::default();
        if !self.no_headers {
            table.row(["Resources", "Non-Resource URLs", "Resource Names", "Verbs"].map(str::to_owned));
        }
        for row in crate::describe::rules(&rules.cloned().collect()) {
            table.row(row.cells());
        }
        print!("{table}");
        Ok(())
    }
}

async fn whoami(server: &Server, printing: &Printing) -> Result {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer = server.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await?;
    let resource = crate::discovery::Resource::of_object(&answer);
    printing.print(&answer, &resource, || whoami_table(&answer["status"]["userInfo"]).to_string().trim_end().to_owned())
}

fn whoami_table(user: &Value) -> Table {
    let list = |value: &Value| {
        let texts: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        format!("[{}]", texts.join(" "))
    };
    let mut table = Table::new(&["ATTRIBUTE", "VALUE"]);
    for (name, field) in [("Username", "username"), ("UID", "uid")] {
        if let Some(text) = user[field].as_str().filter(|text| !text.is_empty()) {
            table.row([name.to_owned(), text.to_owned()]);
        }
    }
    if user["groups"].as_array().is_some_and(|groups| !groups.is_empty()) {
        table.row(["Groups".to_owned(), list(&user["groups"])]);
    }
    for (key, values) in user["extra"].as_object().into_iter().flatten() {
        table.row([format!("Extra: {key}"), list(values)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_tells_who_one_is() {
        let user = json!({"username": "u", "groups": ["a", "b"], "extra": {"k": ["v"]}});
        assert_eq!(
            whoami_table(&user).to_string(),
            "ATTRIBUTE   VALUE\nUsername    u\nGroups      [a b]\nExtra: k    [v]\n"
        );
    }
}
