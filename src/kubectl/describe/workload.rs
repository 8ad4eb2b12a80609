//! Deployments and what stands between them and their pods.

use serde_json::Value;

use super::date;
use super::page::Page;
use super::pod::{container, items, toleration, volumes};
use crate::Result;
use crate::logs::selector_of;
use crate::server::Server;
use crate::targets::{Found, list};

const REVISION: &str = "deployment.kubernetes.io/revision";

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

pub async fn deployment(server: &Server, page: &mut Page, found: &Found) -> Result {
    let (metadata, spec, status) = (&found.object["metadata"], &found.object["spec"], &found.object["status"]);
    page.field("Name", text(&metadata["name"]));
    page.field("Namespace", text(&metadata["namespace"]));
    page.field("CreationTimestamp", date(&metadata["creationTimestamp"]));
    page.map("Labels", &metadata["labels"]);
    page.annotations("Annotations", &metadata["annotations"]);
    page.field("Selector", selector_of(&found.object).unwrap_or_default());
    page.field(
        "Replicas",
        format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            number(&spec["replicas"]),
            number(&status["updatedReplicas"]),
            number(&status["replicas"]),
            number(&status["availableReplicas"]),
            number(&status["unavailableReplicas"])
        ),
    );
    page.field("StrategyType", text(&spec["strategy"]["type"]));
    page.field("MinReadySeconds", number(&spec["minReadySeconds"]));
    if let Some(rolling) = spec["strategy"].get("rollingUpdate") {
        let shown = |field: &str| crate::print::cell(&rolling[field]);
        page.field(
            "RollingUpdateStrategy",
            format!("{} max unavailable, {} max surge", shown("maxUnavailable"), shown("maxSurge")),
        );
    }
    template(page, &spec["template"]);
    conditions(page, status);
    let (new, old) = replica_sets(server, found).await?;
    page.field("OldReplicaSets", sets(&old));
    page.field("NewReplicaSet", sets(&new));
    Ok(())
}

fn conditions(page: &mut Page, status: &Value) {
    if items(&status["conditions"]).next().is_none() {
        return;
    }
    page.line("Conditions:\n  Type\tStatus\tReason\n  ----\t------\t------");
    for condition in items(&status["conditions"]) {
        let [ty, state, reason] = ["type", "status", "reason"].map(|field| text(&condition[field]));
        page.line(format!("  {ty} \t{state}\t{reason}"));
    }
}

fn sets(sets: &[Value]) -> String {
    let shown: Vec<String> = sets
        .iter()
        .map(|set| {
            format!(
                "{} ({}/{} replicas created)",
                text(&set["metadata"]["name"]),
                number(&set["status"]["replicas"]),
                number(&set["spec"]["replicas"])
            )
        })
        .collect();
    if shown.is_empty() { "<none>".to_owned() } else { shown.join(", ") }
}

/// The ReplicaSets of the current template, and the older ones.
async fn replica_sets(server: &Server, found: &Found) -> Result<(Vec<Value>, Vec<Value>)> {
    let resource = server.discovery().await?.find("replicasets.apps")?.clone();
    let selector = selector_of(&found.object).unwrap_or_default();
    let uid = &found.object["metadata"]["uid"];
    let all = list(server, &resource, found.namespace(), &selector, "").await?;
    let revision = &found.object["metadata"]["annotations"][REVISION];
    Ok(all
        .into_iter()
        .filter(|set| items(&set["metadata"]["ownerReferences"]).any(|owner| owner["uid"] == *uid))
        .partition(|set| set["metadata"]["annotations"][REVISION] == *revision))
}

pub async fn replicas(server: &Server, page: &mut Page, found: &Found) -> Result {
    let (metadata, spec, status) = (&found.object["metadata"], &found.object["spec"], &found.object["status"]);
    let selector = selector_of(&found.object).unwrap_or_default();
    page.field("Name", text(&metadata["name"]));
    page.field("Namespace", text(&metadata["namespace"]));
    page.field("Selector", &selector);
    page.map("Labels", &metadata["labels"]);
    page.annotations("Annotations", &metadata["annotations"]);
    if let Some(owner) = items(&metadata["ownerReferences"]).find(|owner| owner["controller"] == true) {
        page.field("Controlled By", format!("{}/{}", text(&owner["kind"]), text(&owner["name"])));
    }
    page.field("Replicas", format!("{} current / {} desired", number(&status["replicas"]), number(&spec["replicas"])));
    pods_status(server, page, found, &selector).await?;
    template(page, &spec["template"]);
    conditions(page, status);
    Ok(())
}

/// How many pods of a controller are in which phase.
async fn pods_status(server: &Server, page: &mut Page, found: &Found, selector: &str) -> Result {
    let pods = server.discovery().await?.find("pods")?.clone();
    let uid = &found.object["metadata"]["uid"];
    let mut phases = [0; 4];
    for pod in list(server, &pods, found.namespace(), selector, "").await? {
        let owner = items(&pod["metadata"]["ownerReferences"]).find(|owner| owner["controller"] == true);
        if owner.is_none_or(|owner| owner["uid"] != *uid) {
            continue;
        }
        let phase = match pod["status"]["phase"].as_str() {
            Some("Running") => 0,
            Some("Succeeded") => 2,
            Some("Failed") => 3,
            _ => 1,
        };
        phases[phase] += 1;
    }
    let [running, waiting, succeeded, failed] = phases;
    page.field(
        "Pods Status",
        format!("{running} Running / {waiting} Waiting / {succeeded} Succeeded / {failed} Failed"),
    );
    Ok(())
}

pub async fn daemon_set(server: &Server, page: &mut Page, found: &Found) -> Result {
    let (metadata, spec, status) = (&found.object["metadata"], &found.object["spec"], &found.object["status"]);
    let selector = selector_of(&found.object).unwrap_or_default();
    page.field("Name", text(&metadata["name"]));
    page.field("Namespace", text(&metadata["namespace"]));
    page.field("Selector", &selector);
    page.field("Node-Selector", crate::print::pairs(&spec["template"]["spec"]["nodeSelector"]));
    page.map("Labels", &metadata["labels"]);
    page.annotations("Annotations", &metadata["annotations"]);
    for (label, field) in [
        ("Desired Number of Nodes Scheduled", "desiredNumberScheduled"),
        ("Current Number of Nodes Scheduled", "currentNumberScheduled"),
        ("Number of Nodes Scheduled with Up-to-date Pods", "updatedNumberScheduled"),
        ("Number of Nodes Scheduled with Available Pods", "numberAvailable"),
        ("Number of Nodes Misscheduled", "numberMisscheduled"),
    ] {
        page.line(format!("{label}: {}", number(&status[field])));
    }
    pods_status(server, page, found, &selector).await?;
    template(page, &spec["template"]);
    Ok(())
}

pub async fn stateful_set(server: &Server, page: &mut Page, found: &Found) -> Result {
    let (metadata, spec, status) = (&found.object["metadata"], &found.object["spec"], &found.object["status"]);
    let selector = selector_of(&found.object).unwrap_or_default();
    page.field("Name", text(&metadata["name"]));
    page.field("Namespace", text(&metadata["namespace"]));
    page.field("CreationTimestamp", date(&metadata["creationTimestamp"]));
    page.field("Selector", &selector);
    page.map("Labels", &metadata["labels"]);
    page.annotations("Annotations", &metadata["annotations"]);
    page.field("Replicas", format!("{} desired | {} total", number(&spec["replicas"]), number(&status["replicas"])));
    page.field("Update Strategy", text(&spec["updateStrategy"]["type"]));
    let rolling = &spec["updateStrategy"]["rollingUpdate"];
    if let Some(partition) = rolling["partition"].as_i64() {
        page.field("  Partition", partition);
        if !rolling["maxUnavailable"].is_null() {
            page.field("  MaxUnavailable", crate::print::cell(&rolling["maxUnavailable"]));
        }
    }
    pods_status(server, page, found, &selector).await?;
    template(page, &spec["template"]);
    claim_templates(page, &spec["volumeClaimTemplates"]);
    Ok(())
}

fn claim_templates(page: &mut Page, claims: &Value) {
    if items(claims).next().is_none() {
        page.line("Volume Claims:\t<none>");
        return;
    }
    page.line("Volume Claims:");
    for claim in items(claims) {
        page.field("  Name", text(&claim["metadata"]["name"]));
        page.field("  StorageClass", text(&claim["spec"]["storageClassName"]));
        page.map("  Labels", &claim["metadata"]["labels"]);
        page.annotations("  Annotations", &claim["metadata"]["annotations"]);
        page.field("  Capacity", claim["spec"]["resources"]["requests"]["storage"].as_str().unwrap_or("<default>"));
        let modes: Vec<String> = items(&claim["spec"]["accessModes"]).map(text).collect();
        page.field("  Access Modes", format!("[{}]", modes.join(" ")));
    }
}

pub fn template(page: &mut Page, template: &Value) {
    let spec = &template["spec"];
    page.line("Pod Template:");
    page.map("  Labels", &template["metadata"]["labels"]);
    if template["metadata"]["annotations"].is_object() {
        page.annotations("  Annotations", &template["metadata"]["annotations"]);
    }
    if let Some(account) = spec["serviceAccountName"].as_str() {
        page.field("  Service Account", account);
    }
    for (title, field) in [("Init Containers", "initContainers"), ("Containers", "containers")] {
        if items(&spec[field]).next().is_some() {
            page.line(format!("  {title}:"));
            items(&spec[field]).for_each(|entry| container(page, entry, None, None, "   "));
        }
    }
    volumes(page, spec, "  ");
    page.map("  Node-Selectors", &spec["nodeSelector"]);
    page.several("  Tolerations", items(&spec["tolerations"]).map(toleration));
}
