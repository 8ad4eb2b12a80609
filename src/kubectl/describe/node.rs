use jiff::Timestamp;
use serde_json::Value;
use skiff_api::duration::human_since;
use skiff_api::quantity::{Format, Quantity};

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
    let columns = [
        ("requests", "cpu"),
        ("limits", "cpu"),
        ("requests", "memory"),
        ("limits", "memory"),
        ("requests", "ephemeral-storage"),
        ("limits", "ephemeral-storage"),
    ];
    let mut totals = columns.map(|(_, resource)| zero(resource));
    for pod in &running {
        let amounts = columns.map(|(which, resource)| sum(pod, which, resource));
        for (total, amount) in totals.iter_mut().zip(amounts) {
            *total = total.plus(amount);
        }
        let shown: Vec<String> = amounts
            .iter()
            .zip(columns)
            .take(4)
            .map(|(amount, (_, resource))| with_percent(*amount, &allocatable[resource], resource))
            .collect();
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
    for (nth, resource) in [(0, "cpu"), (2, "memory"), (4, "ephemeral-storage")] {
        let shown = |at: usize| with_percent(totals[at], &allocatable[resource], resource);
        page.line(format!("  {resource}\t{}\t{}", shown(nth), shown(nth + 1)));
    }
    let total = |which: &str, resource: &str| {
        running.iter().map(|pod| sum(pod, which, resource)).fold(zero(resource), Quantity::plus)
    };
    for resource in allocatable.as_object().into_iter().flatten().map(|(name, _)| name.as_str()) {
        let [asked, most] = ["requests", "limits"].map(|which| total(which, resource));
        if resource.starts_with("hugepages-") {
            let shown = |amount: Quantity| with_percent(amount, &allocatable[resource], resource);
            page.line(format!("  {resource}\t{}\t{}", shown(asked), shown(most)));
        } else if resource.contains('/') {
            page.line(format!("  {resource}\t{asked}\t{most}"));
        }
    }
    Ok(())
}

fn zero(resource: &str) -> Quantity {
    Quantity::from_int(0, if resource == "memory" { Format::BinarySi } else { Format::DecimalSi })
}

/// What the pod asks for as a whole; else its containers and sidecars together, or an init container and the sidecars
/// before it where that is more. Its overhead comes on top (of a limit, where there is one).
fn sum(pod: &Value, which: &str, resource: &str) -> Quantity {
    let parse = |amount: &Value| amount.as_str().and_then(|text| text.parse::<Quantity>().ok());
    let amount = |container: &Value| parse(&container["resources"][which][resource]);
    let spec = &pod["spec"];
    let (mut sidecars, mut most) = (zero(resource), zero(resource));
    for init in items(&spec["initContainers"]) {
        let own = amount(init).unwrap_or(zero(resource));
        let together = sidecars.plus(own);
        if init["restartPolicy"] == "Always" {
            sidecars = together;
        }
        most = most.max(together);
    }
    let main = items(&spec["containers"]).filter_map(amount).fold(sidecars, Quantity::plus);
    let all = parse(&spec["resources"][which][resource]).unwrap_or_else(|| main.max(most));
    match parse(&spec["overhead"][resource]) {
        Some(overhead) if which == "requests" || !all.is_zero() => all.plus(overhead),
        _ => all,
    }
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
    fn pods_add_up() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let pod =
            json!({"spec": {"containers": [container("100m"), container("0.4")], "initContainers": [container("1")]}});
        assert_eq!(sum(&pod, "requests", "cpu").to_string(), "1");
        assert_eq!(with_percent(sum(&pod, "requests", "cpu"), &json!("4"), "cpu"), "1 (25%)");
        assert_eq!(sum(&pod, "limits", "cpu").to_string(), "0");
        let mut sidecar = container("0.3");
        sidecar["restartPolicy"] = json!("Always");
        let mut pod = json!({"spec": {"containers": [container("100m")], "overhead": {"cpu": "50m"},
            "initContainers": [sidecar, container("200m")]}});
        assert_eq!(sum(&pod, "requests", "cpu").to_string(), "550m");
        assert_eq!(sum(&pod, "limits", "cpu").to_string(), "0");
        pod["spec"]["resources"] = json!({"requests": {"cpu": "2"}, "limits": {"cpu": "3"}});
        assert_eq!(sum(&pod, "requests", "cpu").to_string(), "2050m");
        assert_eq!(sum(&pod, "limits", "cpu").to_string(), "3050m");
        assert_eq!(roles(&json!({"node-role.kubernetes.io/control-plane": "true"})), "control-plane");
    }
}
