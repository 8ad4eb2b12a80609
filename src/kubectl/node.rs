//! `kubectl cordon`, `uncordon`, `drain`.

use std::time::Duration;

use clap::Args;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::delete::wait_until_gone;
use crate::discovery::Resource;
use crate::failure::{api_error, is_not_found};
use crate::server::{Server, path};
use crate::targets::{Found, Selection, list};
use crate::wait::duration;
use crate::writing::{DryRun, Writing};
use crate::{Failure, Result};

/// The mirror of a pod that the node itself runs.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Between attempts to evict a pod that a budget keeps.
const RETRY_EVICTION: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
pub struct Cordon {
    /// NODE ...
    nodes: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    writing: Writing,
}

async fn nodes(server: &Server, names: &[String], selection: &Selection) -> Result<Vec<Found>> {
    if names.is_empty() && selection.is_empty() {
        return Err(Failure::text("USAGE: name a node, or select nodes by --selector"));
    }
    let names = names.iter().map(|name| name.strip_prefix("node/").unwrap_or(name).to_owned());
    let words: Vec<String> = std::iter::once("nodes".to_owned()).chain(names).collect();
    selection.find(server, &words, None).await
}

pub async fn cordon(server: &Server, arguments: &Cordon, on: bool) -> Result {
    for node in nodes(server, &arguments.nodes, &arguments.selection).await? {
        set_unschedulable(server, &node, on, &arguments.writing).await?;
    }
    Ok(())
}

async fn set_unschedulable(server: &Server, node: &Found, on: bool, writing: &Writing) -> Result {
    let word = if on { "cordoned" } else { "uncordoned" };
    if (node.object["spec"]["unschedulable"] == true) == on {
        return writing.tell(&node.resource, &node.object, &format!("already {word}"));
    }
    let mut after = node.object.clone();
    match (on, after["spec"].as_object_mut()) {
        (false, Some(spec)) => drop(spec.remove("unschedulable")),
        _ => after["spec"]["unschedulable"] = true.into(),
    }
    let after = writing.change(server, node, &after, "kubectl-cordon").await?;
    writing.tell(&node.resource, &after, word)
}

#[derive(Args, Debug)]
pub struct Drain {
    /// NODE ...
    nodes: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Ignore pods managed by a DaemonSet
    #[arg(long)]
    ignore_daemonsets: bool,
    /// Go on even if there are pods with emptyDir volumes, whose data goes with them
    #[arg(long)]
    delete_emptydir_data: bool,
    /// Also pods that no controller brings back
    #[arg(long)]
    force: bool,
    /// Seconds given to each pod; negative: its own
    #[arg(long, default_value = "-1", allow_negative_numbers = true)]
    grace_period: i64,
    /// Only these pods
    #[arg(long, default_value = "")]
    pod_selector: String,
    /// Delete pods even where eviction is supported; this passes over disruption budgets
    #[arg(long)]
    disable_eviction: bool,
    /// The length of time to wait before giving up; zero is for ever
    #[arg(long, default_value = "0s")]
    timeout: String,
    #[command(flatten)]
    writing: Writing,
}

pub async fn drain(server: &Server, arguments: Drain) -> Result {
    if !arguments.nodes.is_empty() && !arguments.selection.selector.is_empty() {
        return Err(Failure::text("error: cannot specify both a node name and a --selector option"));
    }
    let nodes = nodes(server, &arguments.nodes, &arguments.selection).await?;
    for node in &nodes {
        set_unschedulable(server, node, true, &arguments.writing).await?;
    }
    let (mut pending, mut failed) = (Vec::new(), None);
    for node in &nodes {
        match arguments.empty(server, node).await {
            Ok(()) => arguments.writing.tell(&node.resource, &node.object, "drained")?,
            Err(e) => {
                eprintln!("error: unable to drain node {:?} due to error: {e}, continuing command...", node.name());
                pending.push(node.name());
                failed.get_or_insert(e);
            }
        }
    }
    if !pending.is_empty() {
        eprintln!("There are pending nodes to be drained:");
        pending.iter().for_each(|name| eprintln!(" {name}"));
    }
    failed.map_or(Ok(()), Err)
}

/// What becomes of the pods of a node.
struct Plan<'a> {
    evict: Vec<&'a Value>,
    warnings: Vec<String>,
    errors: Vec<String>,
}

impl Drain {
    fn plan<'a>(&self, pods: &'a [Value]) -> Plan<'a> {
        let mut evict = Vec::new();
        let (mut daemons, mut unmanaged, mut local) = (Vec::new(), Vec::new(), Vec::new());
        for pod in pods {
            let metadata = &pod["metadata"];
            let name = format!(
                "{}/{}",
                metadata["namespace"].as_str().unwrap_or_default(),
                metadata["name"].as_str().unwrap_or_default()
            );
            if metadata["annotations"].get(MIRROR).is_some() {
                continue;
            }
            let finished = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
            let mut owners = metadata["ownerReferences"].as_array().into_iter().flatten();
            match owners.find(|owner| owner["controller"] == true) {
                Some(owner) if owner["kind"] == "DaemonSet" && !finished => {
                    daemons.push(name);
                    continue;
                }
                Some(_) => {}
                None if !finished => unmanaged.push(name.clone()),
                None => {}
            }
            let volumes = pod["spec"]["volumes"].as_array();
            if !finished && volumes.into_iter().flatten().any(|volume| volume.get("emptyDir").is_some()) {
                local.push(name);
            }
            evict.push(pod);
        }
        let (mut warnings, mut errors) = (Vec::new(), Vec::new());
        let mut judge = |names: Vec<String>, allowed: bool, warning: &str, error: &str| {
            if !names.is_empty() {
                let names = names.join(", ");
                if allowed {
                    warnings.push(format!("{warning}: {names}"))
                } else {
                    errors.push(format!("{error}: {names}"))
                }
            }
        };
        judge(
            daemons,
            self.ignore_daemonsets,
            "ignoring DaemonSet-managed Pods",
            "cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore)",
        );
        judge(
            unmanaged,
            self.force,
            "deleting Pods that declare no controller",
            "cannot delete Pods that declare no controller (use --force to override)",
        );
        judge(
            local,
            self.delete_emptydir_data,
            "deleting Pods with local storage",
            "cannot delete Pods with local storage (use --delete-emptydir-data to override)",
        );
        warnings.retain(|warning| !warning.starts_with("deleting Pods with local storage"));
        Plan { evict, warnings, errors }
    }

    /// Evicts the pods of a node, all at once: budgets let some go only when others are back elsewhere.
    async fn empty(&self, server: &Server, node: &Found) -> Result {
        let pods = server.discovery().await?.find("pods")?.clone();
        let selector = format!("spec.nodeName={}", node.name());
        let all = list(server, &pods, None, &self.pod_selector, &selector).await?;
        let Plan { evict, warnings, errors } = self.plan(&all);
        if !errors.is_empty() {
            return Err(Failure::text(match errors.as_slice() {
                [one] => one.clone(),
                many => format!("[{}]", many.join(", ")),
            }));
        }
        if !warnings.is_empty() {
            eprintln!("Warning: {}", warnings.join("; "));
        }
        if self.writing.dry_run()? == DryRun::Client {
            for pod in evict {
                let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
                println!("evicting pod {}/{} (dry run)", text("namespace"), text("name"));
            }
            return Ok(());
        }
        let limit = duration(&self.timeout)?.filter(|limit| !limit.is_zero());
        let evicting = join_all(evict.into_iter().map(|pod| self.evict(server, &pods, pod)));
        let done = match limit {
            Some(limit) => tokio::time::timeout(limit, evicting).await.map_err(|_| {
                Failure::text(format!(
                    "error when evicting pods from node {:?}: global timeout reached: {}",
                    node.name(),
                    self.timeout
                ))
            })?,
            None => evicting.await,
        };
        done.into_iter().collect()
    }

    async fn evict(&self, server: &Server, pods: &Resource, pod: &Value) -> Result {
        let found = Found { resource: pods.clone(), object: pod.clone() };
        let (namespace, name) = (found.namespace().unwrap_or_default().to_owned(), found.name().to_owned());
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if self.grace_period >= 0 {
            options["gracePeriodSeconds"] = self.grace_period.into();
        }
        let by_deletion =
            self.disable_eviction || !pods.subresources.iter().any(|subresource| subresource == "eviction");
        let server_dry_run = self.writing.dry_run()? == DryRun::Server;
        if server_dry_run {
            options["dryRun"] = json!(["All"]);
        }
        loop {
            println!("evicting pod {namespace}/{name}{}", self.writing.dry_run()?.suffix());
            let asked = if by_deletion {
                server.delete(&found.path(""), &options).await
            } else {
                let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
                    "metadata": {"name": name, "namespace": namespace}, "deleteOptions": options});
                server.post(&path(pods, Some(&namespace), &name, "eviction"), &eviction).await
            };
            match asked {
                Ok(_) => break,
                Err(e) if is_not_found(&e) => return Ok(()),
                Err(e) if api_error(&e).is_some_and(|e| e.code == 429) => {
                    eprintln!("error when evicting pods/{name:?} -n {namespace:?} (will retry after 5s): {e}");
                    tokio::time::sleep(RETRY_EVICTION).await;
                }
                Err(e) => {
                    return Err(Failure::while_doing(e, format!("error when evicting pods/{name:?} -n {namespace:?}")));
                }
            }
        }
        if server_dry_run {
            return Ok(());
        }
        wait_until_gone(server, &found).await?;
        println!("pod/{name} {}", if by_deletion { "deleted" } else { "evicted" });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_asks_before_it_destroys() {
        let pod = |name: &str, owner: Option<&str>, empty_dir: bool| {
            let mut pod =
                json!({"metadata": {"namespace": "d", "name": name}, "spec": {}, "status": {"phase": "Running"}});
            if let Some(kind) = owner {
                pod["metadata"]["ownerReferences"] = json!([{"kind": kind, "controller": true}]);
            }
            if empty_dir {
                pod["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
            }
            pod
        };
        let pods = [pod("a", Some("ReplicaSet"), false), pod("b", Some("DaemonSet"), false), pod("c", None, true)];
        let drain = |ignore_daemonsets, force, delete_emptydir_data| Drain {
            nodes: vec![],
            selection: Selection::default(),
            ignore_daemonsets,
            delete_emptydir_data,
            force,
            grace_period: -1,
            pod_selector: String::new(),
            disable_eviction: false,
            timeout: "0s".into(),
            writing: Writing::default(),
        };
        assert_eq!(drain(false, false, false).plan(&pods).errors.len(), 3);
        let bold = drain(true, true, true);
        let plan = bold.plan(&pods);
        assert!(plan.errors.is_empty());
        assert_eq!(plan.evict.len(), 2, "the DaemonSet's pod stays");
        assert_eq!(plan.warnings.len(), 2);
    }
}
