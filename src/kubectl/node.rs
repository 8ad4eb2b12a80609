//! `kubectl cordon`, `uncordon`, `drain`, `taint`.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use skiff_client::PatchKind;

use crate::delete::wait_until_gone;
use crate::discovery::Resource;
use crate::failure::{api_error, is_not_found};
use crate::server::{Server, path};
use crate::targets::{Found, Selection, list};
use crate::wait::duration;
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
        set_unschedulable(server, &node, on).await?;
    }
    Ok(())
}

async fn set_unschedulable(server: &Server, node: &Found, on: bool) -> Result {
    let word = if on { "cordoned" } else { "uncordoned" };
    if (node.object["spec"]["unschedulable"] == true) == on {
        println!("{} already {word}", node.label());
        return Ok(());
    }
    let value = if on { json!(true) } else { Value::Null };
    server.patch(&node.path(""), PatchKind::Strategic, &json!({"spec": {"unschedulable": value}})).await?;
    println!("{} {word}", node.label());
    Ok(())
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
}

pub async fn drain(server: &Server, arguments: Drain) -> Result {
    let limit = duration(&arguments.timeout)?.filter(|limit| !limit.is_zero());
    let pods = server.discovery().await?.find("pods")?.clone();
    for node in nodes(server, &arguments.nodes, &arguments.selection).await? {
        set_unschedulable(server, &node, true).await?;
        let selector = format!("spec.nodeName={}", node.name());
        let all = list(server, &pods, None, &arguments.pod_selector, &selector).await?;
        let Plan { evict, warnings, errors } = arguments.plan(&all);
        for warning in &warnings {
            eprintln!("Warning: {warning}");
        }
        if !errors.is_empty() {
            return Err(Failure::text(format!(
                "unable to drain node {:?} due to error: [{}]",
                node.name(),
                errors.join(", ")
            )));
        }
        let evicting = async {
            for pod in evict {
                arguments.evict(server, &pods, pod).await?;
            }
            Ok(())
        };
        match limit {
            Some(limit) => tokio::time::timeout(limit, evicting).await.unwrap_or_else(|_| {
                Err(Failure::text(format!(
                    "unable to drain node {:?}: drain did not complete within {}",
                    node.name(),
                    arguments.timeout
                )))
            })?,
            None => evicting.await?,
        }
        println!("{} drained", node.label());
    }
    Ok(())
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

    async fn evict(&self, server: &Server, pods: &Resource, pod: &Value) -> Result {
        let found = Found { resource: pods.clone(), object: pod.clone() };
        let (namespace, name) = (found.namespace().unwrap_or_default().to_owned(), found.name().to_owned());
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if self.grace_period >= 0 {
            options["gracePeriodSeconds"] = self.grace_period.into();
        }
        let by_deletion =
            self.disable_eviction || !pods.subresources.iter().any(|subresource| subresource == "eviction");
        println!("evicting pod {namespace}/{name}");
        loop {
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
        wait_until_gone(server, &found).await?;
        println!("pod/{name} evicted");
        Ok(())
    }
}

#[derive(Args, Debug)]
pub struct Taint {
    /// NODE NAME KEY=VALUE:EFFECT ... KEY[:EFFECT]- ...
    words: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Let existing taints be overwritten
    #[arg(long)]
    overwrite: bool,
}

pub async fn taint(server: &Server, arguments: Taint) -> Result {
    let (changes, words): (Vec<String>, Vec<String>) = arguments
        .words
        .iter()
        .cloned()
        .partition(|word| word.contains(':') || word.contains('=') || word.ends_with('-'));
    if changes.is_empty() {
        return Err(Failure::text("at least one taint update is required"));
    }
    for node in arguments.selection.find(server, &words, None).await? {
        if node.resource.kind != "Node" {
            return Err(Failure::text(format!(
                "invalid resource type {}, only node types are supported",
                node.resource.name
            )));
        }
        let before = node.object["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let (taints, word) = changed_taints(before, &changes, arguments.overwrite, node.name())?;
        let version = &node.object["metadata"]["resourceVersion"];
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
        server.patch(&node.path(""), PatchKind::Merge, &patch).await?;
        println!("{} {word}", node.label());
    }
    Ok(())
}

fn changed_taints(
    mut taints: Vec<Value>,
    changes: &[String],
    overwrite: bool,
    node: &str,
) -> Result<(Vec<Value>, &'static str)> {
    let (mut added, mut removed) = (false, false);
    for change in changes {
        if let Some(gone) = change.strip_suffix('-') {
            let (key, effect) = gone.split_once(':').map_or((gone, None), |(key, effect)| (key, Some(effect)));
            let key = key.split('=').next().unwrap_or(key);
            let length = taints.len();
            taints.retain(|taint| taint["key"] != key || effect.is_some_and(|effect| taint["effect"] != effect));
            if taints.len() == length {
                return Err(Failure::text(format!("taint {gone:?} not found")));
            }
            removed = true;
            continue;
        }
        let (pair, effect) = change
            .split_once(':')
            .filter(|(_, effect)| ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(effect))
            .ok_or_else(|| {
                Failure::text(format!(
                    "invalid taint spec: {change}, the effect is NoSchedule, PreferNoSchedule or NoExecute"
                ))
            })?;
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let is_same = |taint: &Value| taint["key"] == key && taint["effect"] == effect;
        if taints.iter().any(is_same) && !overwrite {
            return Err(Failure::text(format!(
                "node {node} already has {key} taint(s) with same effect(s) and --overwrite is false"
            )));
        }
        taints.retain(|taint| !is_same(taint));
        let mut taint = json!({"key": key, "effect": effect});
        if !value.is_empty() {
            taint["value"] = value.into();
        }
        taints.push(taint);
        added = true;
    }
    let word = match (added, removed) {
        (true, true) => "modified",
        (false, _) => "untainted",
        _ => "tainted",
    };
    Ok((taints, word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_come_and_go() {
        let changes = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let before = vec![json!({"key": "a", "effect": "NoSchedule"})];
        let (taints, word) = changed_taints(before.clone(), &changes(&["b=1:NoExecute"]), false, "n").expect("added");
        assert_eq!((taints.len(), word), (2, "tainted"));
        let (taints, word) = changed_taints(before.clone(), &changes(&["a:NoSchedule-"]), false, "n").expect("removed");
        assert_eq!((taints.len(), word), (0, "untainted"));
        assert!(changed_taints(before.clone(), &changes(&["a=1:NoSchedule"]), false, "n").is_err());
        assert!(changed_taints(before.clone(), &changes(&["x-"]), false, "n").is_err());
        assert!(changed_taints(before, &changes(&["a=1:Nope"]), true, "n").is_err());
    }

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
        };
        assert_eq!(drain(false, false, false).plan(&pods).errors.len(), 3);
        let bold = drain(true, true, true);
        let plan = bold.plan(&pods);
        assert!(plan.errors.is_empty());
        assert_eq!(plan.evict.len(), 2, "the DaemonSet's pod stays");
        assert_eq!(plan.warnings.len(), 2);
    }
}
