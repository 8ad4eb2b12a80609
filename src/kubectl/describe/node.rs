use jiff::Timestamp;
use serde_json::Value;
use skiff_api::duration::human_since;
use skiff_api::quantity::{Format, Quantity};
use skiff_api::quota::Amounts;
use skiff_api::quota::pod::{List, total_with_overhead};

use super::page::Page;
use super::pod::items;
use super::{date, time};
use crate::Result;
use crate::server::Server;
use crate::targets::{Found, list};

pub async fn write(server: &Server, page: &mut Page, found: &Found) -> Result {
    let (metadata, spec, status) = (&found.object["metadata"], &found.object["spec"], &found.object["status"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    page.field("Name", text(&metadata["name"]));
    page.field("Roles", roles(&metadata["labels"]));
    page.map("Labels", &metadata["labels"]);
    page.annotations("Annotations", &metadata["annotations"]);
    page.field("CreationTimestamp", date(&metadata["creationTimestamp"]));
    let taint = |taint: &Value| {
        let value = taint["value"].as_str().map(|value| format!("={value}")).unwrap_or_default();
        format!("{}{value}:{}", text(&taint["key"]), text(&taint["effect"]))
    };
    page.several("Taints", items(&spec["taints"]).map(taint));
    page.field("Unschedulable", spec["unschedulable"] == true);
    lease(server, page, found).await?;
    if items(&status["conditions"]).next().is_some() {
        page.line("Conditions:\n  Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage");
        page.line("  ----\t------\t-----------------\t------------------\t------\t-------");
        for condition in items(&status["conditions"]) {
            page.line(format!(
                "  {} \t{} \t{} \t{} \t{} \t{}",
                text(&condition["type"]),
                text(&condition["status"]),
                date(&condition["lastHeartbeatTime"]),
                date(&condition["lastTransitionTime"]),
                text(&condition["reason"]),
                text(&condition["message"])
            ));
        }
    }
    page.line("Addresses:");
    items(&status["addresses"])
        .for_each(|address| page.line(format!("  {}:\t{}", text(&address["type"]), text(&address["address"]))));
    for (title, field) in [("Capacity", "capacity"), ("Allocatable", "allocatable")] {
        if status[field].as_object().is_none_or(serde_json::Map::is_empty) {
            continue;
        }
        page.line(format!("{title}:"));
        status[field]
            .as_object()
            .into_iter()
            .flatten()
            .for_each(|(what, amount)| page.line(format!("  {what}:\t{}", text(amount))));
    }
    page.line("System Info:");
    for (label, field) in [
        ("Machine ID", "machineID"),
        ("System UUID", "systemUUID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
    ] {
        page.line(format!("  {label}:\t{}", text(&status["nodeInfo"][field])));
    }
    if let Some(network) = spec["podCIDR"].as_str() {
        page.field("PodCIDR", network);
    }
    let networks: Vec<&str> = spec["podCIDRs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !networks.is_empty() {
        page.field("PodCIDRs", networks.join(","));
    }
    if let Some(id) = spec["providerID"].as_str() {
        page.field("ProviderID", id);
    }
    pods(server, page, found).await
}

fn roles(labels: &Value) -> String {
    let roles: Vec<&str> = labels
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .collect();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

async fn lease(server: &Server, page: &mut Page, found: &Found) -> Result {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}", found.name());
    let lease = match server.get(&path).await {
        Ok(lease) => lease,
        // Who may see the node may still not see its lease.
        Err(e) => {
            page.field("Lease", format!("Failed to get lease: {e}"));
            return Ok(());
        }
    };
    page.line("Lease:");
    page.field("  HolderIdentity", lease["spec"]["holderIdentity"].as_str().unwrap_or("<unset>"));
    page.field("  AcquireTime", date(&lease["spec"]["acquireTime"]));
    page.field("  RenewTime", date(&lease["spec"]["renewTime"]));
    Ok(())
}

async fn pods(server: &Server, page: &mut Page, found: &Found) -> Result {
    let resource = server.discovery().await?.find("pods")?.clone();
    let selector = format!("spec.nodeName={}", found.name());
    let all = list(server, &resource, None, "", &selector).await?;
    let running: Vec<&Value> =
        all.iter().filter(|pod| !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))).collect();
    page.field("Non-terminated Pods", format!("({} in total)", running.len()));
    page.line("  Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge");
    page.line("  ---------\t----\t\t------------\t----------\t---------------\t-------------\t---");
    let allocatable = &found.object["status"]["allocatable"];
    let now = Timestamp::now();
    let columns = [(0, "cpu"), (1, "cpu"), (0, "memory"), (1, "memory")];
    // What each asks for, and what it may have.
    let lists = |pod: &&Value| [List::Requests, List::Limits].map(|list| total_with_overhead(pod, list));
    let amounts: Vec<[Amounts; 2]> = running.iter().map(lists).collect();
    let one = |of: &[Amounts; 2], which: usize, name: &str| of[which].get(name).copied().unwrap_or(zero(name));
    let total =
        |which: usize, name: &str| amounts.iter().map(|of| one(of, which, name)).fold(zero(name), Quantity::plus);
    for (pod, of) in running.iter().zip(&amounts) {
        let shown = columns.map(|(which, name)| with_percent(one(of, which, name), &allocatable[name], name));
        let metadata = &pod["metadata"];
        let age = time(&metadata["creationTimestamp"]).map(|at| human_since(at, now)).unwrap_or_default();
        page.line(format!(
            "  {}\t{}\t\t{}\t{age}",
            metadata["namespace"].as_str().unwrap_or_default(),
            metadata["name"].as_str().unwrap_or_default(),
            shown.join("\t")
        ));
    }
    page.line("Allocated resources:\n  (Total limits may be over 100 percent, i.e., overcommitted.)");
    page.line("  Resource\tRequests\tLimits\n  --------\t--------\t------");
    let totals = |name: &str| [0, 1].map(|which| total(which, name));
    let line = |page: &mut Page, name: &str| {
        let [asked, most] = totals(name).map(|amount| with_percent(amount, &allocatable[name], name));
        page.line(format!("  {name}\t{asked}\t{most}"));
    };
    for name in ["cpu", "memory", "ephemeral-storage"] {
        line(page, name);
    }
    for name in allocatable.as_object().into_iter().flatten().map(|(name, _)| name.as_str()) {
        if name.starts_with("hugepages-") {
            line(page, name);
        } else if name.contains('/') {
            let [asked, most] = totals(name);
            page.line(format!("  {name}\t{asked}\t{most}"));
        }
    }
    Ok(())
}

fn zero(resource: &str) -> Quantity {
    Quantity::from_int(0, if resource == "memory" { Format::BinarySi } else { Format::DecimalSi })
}

fn with_percent(amount: Quantity, of: &Value, resource: &str) -> String {
    let whole = of.as_str().and_then(|text| text.parse::<Quantity>().ok()).map_or(0.0, |whole| whole.as_f64());
    let percent = if whole > 0.0 { amount.as_f64() / whole * 100.0 } else { 0.0 };
    let shown = if amount.is_zero() && resource == "memory" { "0".to_owned() } else { amount.to_string() };
    format!("{shown} ({percent:.0}%)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shares_and_roles() {
        let amount = "0.1".parse::<Quantity>().expect("a quantity");
        assert_eq!(with_percent(amount, &json!("4"), "cpu"), "100m (2%)");
        assert_eq!(with_percent(zero("memory"), &json!("1Gi"), "memory"), "0 (0%)");
        assert_eq!(roles(&json!({"node-role.kubernetes.io/control-plane": "true"})), "control-plane");
    }
}
