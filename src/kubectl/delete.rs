//! `kubectl delete`, which waits until the objects are gone.

use std::io::Write as _;
use std::time::Duration;

use clap::Args;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::failure::is_not_found;
use crate::server::{JSON, Server, path, with_query};
use crate::targets::{Found, Selection, parse};
use crate::writing::DryRun;
use crate::{Failure, Result};

#[derive(Args, Debug)]
pub struct Arguments {
    /// TYPE[/NAME] [NAME ...]
    words: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Delete in all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    #[command(flatten)]
    how: Deleting,
    /// Signaled for immediate shutdown (same as --grace-period=1)
    #[arg(long)]
    now: bool,
    /// Ask before anything is deleted
    #[arg(short, long)]
    interactive: bool,
    /// Treat "resource not found" as a successful delete
    #[arg(long)]
    ignore_not_found: bool,
    /// Must be "none", "server", or "client"
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "client", default_value = "none")]
    dry_run: String,
    /// Output mode: name
    #[arg(short, long, default_value = "")]
    output: String,
}

/// What is asked for wherever something is deleted.
#[derive(Args, Debug)]
pub struct Deleting {
    /// Seconds given to the resource to terminate gracefully; negative: its own
    #[arg(long, default_value = "-1", allow_negative_numbers = true)]
    grace_period: i64,
    /// Remove without waiting for the node's confirmation; with apply: delete and create again what can't be changed
    #[arg(long)]
    pub force: bool,
    /// Wait until the resources are gone
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    wait: Option<String>,
    /// The length of time to wait before giving up; zero is for ever
    #[arg(long, default_value = "0s")]
    timeout: String,
    /// Must be "background", "orphan", or "foreground"
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "background", default_value = "background")]
    cascade: String,
}

impl Deleting {
    pub fn options(&self, dry_run: DryRun) -> Result<Value> {
        let policy = match self.cascade.as_str() {
            "background" | "true" => "Background",
            "foreground" => "Foreground",
            "orphan" | "false" => "Orphan",
            other => {
                return Err(Failure::text(format!(
                    "invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\""
                )));
            }
        };
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
        if self.grace_period >= 0 {
            options["gracePeriodSeconds"] = self.grace_period.into();
        }
        if dry_run == DryRun::Server {
            options["dryRun"] = json!(["All"]);
        }
        Ok(options)
    }

    /// `None`: for ever.
    pub fn timeout(&self) -> Result<Option<Duration>> {
        Ok(crate::wait::duration(&self.timeout)?.filter(|timeout| !timeout.is_zero()))
    }

    /// Until all of it is gone, or time is up.
    pub async fn until_gone(&self, server: &Server, gone: &[Found]) -> Result {
        let waiting = async {
            for found in gone {
                wait_until_gone(server, found).await?;
            }
            Ok(())
        };
        match self.timeout()? {
            Some(limit) => tokio::time::timeout(limit, waiting)
                .await
                .unwrap_or_else(|_| Err(Failure::text("timed out waiting for the condition"))),
            None => waiting.await,
        }
    }
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    let options = arguments.options()?;
    arguments.how.timeout()?;
    if arguments.how.force {
        eprintln!(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely."
        );
    }
    let mut found = arguments.find(server).await?;
    if found.is_empty() && arguments.selection.files.is_empty() {
        println!("No resources found");
        return Ok(());
    }
    if arguments.interactive && !confirmed(server, &arguments, &mut found).await? {
        return Ok(());
    }
    let mut gone = Vec::new();
    let mut failed = None;
    for found in found {
        match delete(server, &arguments, &found, &options).await {
            Ok(true) => gone.push(found),
            Ok(false) => {}
            Err(e) => {
                if let Some(previous) = failed.replace(e) {
                    eprintln!("{}", crate::failure::sentence(&previous));
                }
            }
        }
    }
    let waits = !arguments.how.force && arguments.how.wait.as_deref().unwrap_or("true") == "true";
    if waits && arguments.dry_run()? == DryRun::No {
        arguments.how.until_gone(server, &gone).await?;
    }
    failed.map_or(Ok(()), Err)
}

impl Arguments {
    fn options(&self) -> Result<Value> {
        let mut options = self.how.options(self.dry_run()?)?;
        if self.now && self.how.grace_period >= 0 {
            return Err(Failure::text("--now and --grace-period cannot be specified together"));
        }
        let grace = match (self.now, self.how.force, self.how.grace_period) {
            (true, _, _) => 1,
            (_, true, period) if period < 0 => 0,
            (_, false, 0) => 1,
            (_, _, period) => period,
        };
        if grace >= 0 {
            options["gracePeriodSeconds"] = grace.into();
        }
        Ok(options)
    }

    fn dry_run(&self) -> Result<DryRun> {
        DryRun::parse(&self.dry_run)
    }

    /// What to delete, in no more detail than its name where that was given.
    async fn find(&self, server: &Server) -> Result<Vec<Found>> {
        let namespace = (!self.all_namespaces).then_some(server.namespace.as_str());
        let named = |resource: &crate::discovery::Resource, name: &str, namespace: Option<&str>| {
            let mut object = json!({"metadata": {"name": name}});
            if let Some(namespace) = namespace.filter(|_| resource.namespaced) {
                object["metadata"]["namespace"] = namespace.into();
            }
            Found { resource: resource.clone(), object }
        };
        let mut found = Vec::new();
        if !self.selection.files.is_empty() {
            for mut manifest in self.selection.files.read()? {
                let resource = manifest.place(server).await?.clone();
                found.push(named(&resource, manifest.name(), Some(manifest.namespace())));
            }
            return Ok(found);
        }
        let targets = parse(server.discovery().await?, &self.words)?;
        if targets.is_empty() {
            return Err(Failure::text("You must provide one or more resources by argument or filename."));
        }
        for target in targets {
            if target.names.is_empty() {
                if self.selection.is_empty() {
                    return Err(Failure::text("resource(s) were provided, but no name was specified"));
                }
                for object in self.selection.list(server, &target.resource, namespace).await? {
                    found.push(Found { resource: target.resource.clone(), object });
                }
            }
            found.extend(target.names.iter().map(|name| named(&target.resource, name, Some(&server.namespace))));
        }
        Ok(found)
    }
}

/// Shows what is there of the objects, and asks.
async fn confirmed(server: &Server, arguments: &Arguments, all: &mut Vec<Found>) -> Result<bool> {
    let mut there = Vec::new();
    for found in all.drain(..) {
        match server.get(&found.path("")).await {
            Ok(_) => there.push(found),
            Err(e) if is_not_found(&e) && arguments.ignore_not_found => {}
            Err(e) => return Err(e),
        }
    }
    *all = there;
    if all.is_empty() {
        println!("No resources found");
        return Ok(false);
    }
    println!("You are about to delete the following {} resource(s):", all.len());
    for found in all.iter() {
        println!("{}/{}", found.resource.qualified_singular(), found.name());
    }
    print!("Do you want to continue? (y/N): ");
    let mut answer = String::new();
    let read = std::io::stdout().flush().and_then(|()| std::io::stdin().read_line(&mut answer));
    read.map_err(|e| Failure::text(format!("read the answer: {e}")))?;
    if answer.trim().eq_ignore_ascii_case("y") {
        return Ok(true);
    }
    println!("deletion is cancelled");
    Ok(false)
}

/// Whether there is something to wait for.
async fn delete(server: &Server, arguments: &Arguments, found: &Found, options: &Value) -> Result<bool> {
    let dry_run = arguments.dry_run()?;
    if dry_run == DryRun::Client {
        server.get(&found.path("")).await?;
    } else if let Err(e) = server.delete(&found.path(""), options).await {
        let forgiven = arguments.ignore_not_found || arguments.selection.all;
        return if is_not_found(&e) && forgiven { Ok(false) } else { Err(e) };
    }
    let how = if arguments.how.force { "force deleted" } else { "deleted" };
    let dry = dry_run.suffix();
    if arguments.output == "name" {
        println!("{}", found.label());
    } else {
        let place = found.namespace().map(|namespace| format!(" from {namespace} namespace")).unwrap_or_default();
        println!("{} {:?} {how}{place}{dry}", found.resource.qualified_singular(), found.name());
    }
    Ok(dry_run == DryRun::No)
}

/// Until there is no object of this name, or a new one.
pub async fn wait_until_gone(server: &Server, found: &Found) -> Result {
    let collection = path(&found.resource, found.namespace(), "", "");
    let selector = format!("metadata.name={}", found.name());
    let listing = with_query(&collection, &[("fieldSelector", &selector)]);
    let mut uid = found.object["metadata"]["uid"].as_str().map(str::to_owned);
    loop {
        let list = server.get(&listing).await?;
        let Some(object) = list["items"].as_array().and_then(|items| items.first()) else { return Ok(()) };
        let there = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        if *uid.get_or_insert_with(|| there.clone()) != there {
            return Ok(());
        }
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let watching = with_query(&listing, &[("watch", "true"), ("resourceVersion", version)]);
        let mut events = std::pin::pin!(server.watch(&watching, JSON).await?);
        while let Some(event) = events.next().await {
            // A watch that fails is begun again with a list.
            let Ok((kind, _)) = event else { break };
            if kind == "DELETED" {
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
