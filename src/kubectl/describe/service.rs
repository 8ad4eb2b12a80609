use serde_json::Value;

use super::page::Page;
use super::pod::items;
use crate::Result;
use crate::server::{Server, with_query};
use crate::targets::Found;

pub async fn write(server: &Server, page: &mut Page, found: &Found) -> Result {
    let (metadata, spec) = (&found.object["metadata"], &found.object["spec"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let joined = |value: &Value| items(value).filter_map(Value::as_str).collect::<Vec<_>>().join(",");
    page.field("Name", text(&metadata["name"]));
    page.field("Namespace", text(&metadata["namespace"]));
    page.map("Labels", &metadata["labels"]);
    page.annotations("Annotations", &metadata["annotations"]);
    page.field("Selector", crate::print::pairs(&spec["selector"]));
    page.field("Type", text(&spec["type"]));
    if let Some(policy) = spec["ipFamilyPolicy"].as_str() {
        page.field("IP Family Policy", policy);
    }
    let or_none =
        |value: &Value| Some(joined(value)).filter(|text| !text.is_empty()).unwrap_or_else(|| "<none>".to_owned());
    page.field("IP Families", or_none(&spec["ipFamilies"]));
    page.field("IP", text(&spec["clusterIP"]));
    page.field("IPs", or_none(&spec["clusterIPs"]));
    if items(&spec["externalIPs"]).next().is_some() {
        page.field("External IPs", joined(&spec["externalIPs"]));
    }
    if let Some(address) = spec["loadBalancerIP"].as_str().filter(|address| !address.is_empty()) {
        page.field("Desired LoadBalancer IP", address);
    }
    if let Some(name) = spec["externalName"].as_str() {
        page.field("External Name", name);
    }
    let ingress: Vec<String> = items(&found.object["status"]["loadBalancer"]["ingress"])
        .map(|entry| entry["ip"].as_str().or_else(|| entry["hostname"].as_str()).unwrap_or_default().to_owned())
        .collect();
    if !ingress.is_empty() {
        page.field("LoadBalancer Ingress", ingress.join(", "));
    }
    let slices = slices(server, found.namespace().unwrap_or_default(), found.name()).await?;
    for port in items(&spec["ports"]) {
        let name = port["name"].as_str().filter(|name| !name.is_empty());
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        page.field("Port", format!("{}\t{}/{protocol}", name.unwrap_or("<unset>"), port["port"]));
        page.field("TargetPort", format!("{}/{protocol}", crate::print::cell(&port["targetPort"])));
        if let Some(protocol) = port["appProtocol"].as_str() {
            page.field("AppProtocol", protocol);
        }
        if let Some(node_port) = port["nodePort"].as_i64().filter(|port| *port > 0) {
            page.field("NodePort", format!("{}\t{node_port}/{protocol}", name.unwrap_or("<unset>")));
        }
        page.field("Endpoints", endpoints(&slices, name.unwrap_or_default()));
    }
    page.field("Session Affinity", text(&spec["sessionAffinity"]));
    for (label, field) in
        [("External Traffic Policy", "externalTrafficPolicy"), ("Internal Traffic Policy", "internalTrafficPolicy")]
    {
        if let Some(policy) = spec[field].as_str() {
            page.field(label, policy);
        }
    }
    if let Some(port) = spec["healthCheckNodePort"].as_i64().filter(|port| *port != 0) {
        page.field("HealthCheck NodePort", port);
    }
    if items(&spec["loadBalancerSourceRanges"]).next().is_some() {
        page.field("LoadBalancer Source Ranges", joined(&spec["loadBalancerSourceRanges"]));
    }
    if let Some(distribution) = spec["trafficDistribution"].as_str() {
        page.field("Traffic Distribution", distribution);
    }
    Ok(())
}

/// The EndpointSlices of a service.
pub async fn slices(server: &Server, namespace: &str, service: &str) -> Result<Vec<Value>> {
    let base = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
    let selector = format!("kubernetes.io/service-name={service}");
    let list = server.get(&with_query(&base, &[("labelSelector", &selector)])).await?;
    Ok(items(&list["items"]).cloned().collect())
}

/// The first three ready addresses of a port, and how many more; nothing where none is ready.
pub fn endpoints(slices: &[Value], port: &str) -> String {
    if slices.is_empty() {
        return "<none>".to_owned();
    }
    let mut found = Vec::new();
    for slice in slices {
        let numbers: Vec<i64> = items(&slice["ports"])
            .filter(|entry| entry["name"].as_str().unwrap_or_default() == port)
            .filter_map(|entry| entry["port"].as_i64())
            .collect();
        for endpoint in items(&slice["endpoints"]).filter(|endpoint| endpoint["conditions"]["ready"] != false) {
            for address in items(&endpoint["addresses"]).filter_map(Value::as_str) {
                let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
                found.extend(numbers.iter().map(|number| format!("{host}:{number}")));
            }
        }
    }
    found.sort();
    let more = found.len().saturating_sub(3);
    found.truncate(3);
    match more {
        0 => found.join(","),
        _ => format!("{} + {more} more...", found.join(",")),
    }
}
