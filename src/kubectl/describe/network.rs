//! Endpoints, slices of them, ingresses and their classes.

use serde_json::Value;

use super::page::Page;
use super::pod::items;
use super::service;
use crate::Result;
use crate::server::{Server, path};
use crate::targets::Found;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn unset(value: &Value) -> String {
    match value {
        Value::Null => "<unset>".to_owned(),
        Value::String(text) if text.is_empty() => "<unset>".to_owned(),
        other => crate::print::cell(other),
    }
}

pub fn endpoints(page: &mut Page, object: &Value) {
    super::generic::head(page, object);
    page.line("Subsets:");
    for subset in items(&object["subsets"]) {
        for (label, field) in [("Addresses", "addresses"), ("NotReadyAddresses", "notReadyAddresses")] {
            let addresses: Vec<String> = items(&subset[field]).map(|address| text(&address["ip"])).collect();
            page.field(
                &format!("  {label}"),
                if addresses.is_empty() { "<none>".to_owned() } else { addresses.join(",") },
            );
        }
        if items(&subset["ports"]).next().is_some() {
            page.line("  Ports:\n    Name\tPort\tProtocol\n    ----\t----\t--------");
            for port in items(&subset["ports"]) {
                page.line(format!("    {}\t{}\t{}", unset(&port["name"]), port["port"], text(&port["protocol"])));
            }
        }
        page.line("");
    }
}

pub fn slice(page: &mut Page, object: &Value) {
    super::generic::head(page, object);
    page.field("AddressType", text(&object["addressType"]));
    if items(&object["ports"]).next().is_none() {
        page.line("Ports: <unset>");
    } else {
        page.line("Ports:\n  Name\tPort\tProtocol\n  ----\t----\t--------");
        for port in items(&object["ports"]) {
            page.line(format!("  {}\t{}\t{}", unset(&port["name"]), unset(&port["port"]), text(&port["protocol"])));
        }
    }
    if items(&object["endpoints"]).next().is_none() {
        page.line("Endpoints: <none>");
        return;
    }
    page.line("Endpoints:");
    for endpoint in items(&object["endpoints"]) {
        let addresses: Vec<String> = items(&endpoint["addresses"]).map(text).collect();
        page.field("  - Addresses", if addresses.is_empty() { "<none>".to_owned() } else { addresses.join(", ") });
        page.line("    Conditions:");
        page.field("      Ready", unset(&endpoint["conditions"]["ready"]));
        page.field("    Hostname", unset(&endpoint["hostname"]));
        if let Some(target) = endpoint.get("targetRef") {
            page.field("    TargetRef", format!("{}/{}", text(&target["kind"]), text(&target["name"])));
        }
        page.field("    NodeName", unset(&endpoint["nodeName"]));
        page.field("    Zone", unset(&endpoint["zone"]));
    }
}

pub async fn ingress(server: &Server, page: &mut Page, found: &Found) -> Result {
    let (metadata, spec) = (&found.object["metadata"], &found.object["spec"]);
    page.field("Name", text(&metadata["name"]));
    page.map("Labels", &metadata["labels"]);
    page.field("Namespace", text(&metadata["namespace"]));
    let addresses = items(&found.object["status"]["loadBalancer"]["ingress"]);
    let addresses: Vec<String> =
        addresses.map(|a| text(if a["ip"].is_string() { &a["ip"] } else { &a["hostname"] })).collect();
    page.field("Address", addresses.join(","));
    page.field("Ingress Class", spec["ingressClassName"].as_str().unwrap_or("<none>"));
    let default = match spec.get("defaultBackend") {
        Some(default) => backend(server, found, default).await?,
        None => "<default>".to_owned(),
    };
    page.field("Default backend", &default);
    if items(&spec["tls"]).next().is_some() {
        page.line("TLS:");
        for tls in items(&spec["tls"]) {
            let hosts: Vec<String> = items(&tls["hosts"]).map(text).collect();
            page.line(match tls["secretName"].as_str().filter(|name| !name.is_empty()) {
                Some(secret) => format!("  {secret} terminates {}", hosts.join(",")),
                None => format!("  SNI routes {}", hosts.join(",")),
            });
        }
    }
    page.line("Rules:\n  Host\tPath\tBackends\n  ----\t----\t--------");
    let mut any = false;
    for rule in items(&spec["rules"]).filter(|rule| rule["http"].is_object()) {
        any = true;
        page.line(format!("  {}\t", rule["host"].as_str().filter(|host| !host.is_empty()).unwrap_or("*")));
        for entry in items(&rule["http"]["paths"]) {
            page.line(format!("    \t{} \t{}", text(&entry["path"]), backend(server, found, &entry["backend"]).await?));
        }
    }
    if !any {
        page.line(format!("  *\t*\t{default}"));
    }
    page.annotations("Annotations", &metadata["annotations"]);
    Ok(())
}

async fn backend(server: &Server, found: &Found, backend: &Value) -> Result<String> {
    if let Some(resource) = backend.get("resource") {
        return Ok(format!(
            "APIGroup: {}, Kind: {}, Name: {}",
            resource["apiGroup"].as_str().unwrap_or("<none>"),
            text(&resource["kind"]),
            text(&resource["name"])
        ));
    }
    let wanted = &backend["service"];
    let name = text(&wanted["name"]);
    let shown = match wanted["port"]["name"].as_str() {
        Some(port) => format!("{name}:{port}"),
        None => format!("{name}:{}", wanted["port"]["number"].as_i64().unwrap_or_default()),
    };
    let services = server.discovery().await?.find("services")?;
    let service = match server.get(&path(services, found.namespace(), &name, "")).await {
        Ok(service) => service,
        Err(e) => return Ok(format!("{shown} (<error: {e}>)")),
    };
    let fits = |port: &&Value| {
        wanted["port"]["number"].as_i64().is_some_and(|number| port["port"] == number)
            || wanted["port"]["name"].is_string() && wanted["port"]["name"] == port["name"]
    };
    let port = items(&service["spec"]["ports"]).find(fits).and_then(|port| port["name"].as_str()).unwrap_or_default();
    let slices = service::slices(server, found.namespace().unwrap_or_default(), &name).await?;
    Ok(format!("{shown} ({})", service::endpoints(&slices, port)))
}

pub fn ingress_class(page: &mut Page, object: &Value) {
    page.field("Name", text(&object["metadata"]["name"]));
    page.map("Labels", &object["metadata"]["labels"]);
    page.annotations("Annotations", &object["metadata"]["annotations"]);
    page.field("Controller", text(&object["spec"]["controller"]));
    if let Some(parameters) = object["spec"].get("parameters") {
        page.line("Parameters:");
        if let Some(group) = parameters["apiGroup"].as_str() {
            page.field("  APIGroup", group);
        }
        page.field("  Kind", text(&parameters["kind"]));
        page.field("  Name", text(&parameters["name"]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn slices_are_shown_endpoint_by_endpoint() {
        let mut page = Page::default();
        slice(
            &mut page,
            &json!({"metadata": {"name": "s", "namespace": "d"}, "addressType": "IPv4", "ports": [{"port": 80, "protocol": "TCP", "name": ""}],
                "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": "p"}}]}),
        );
        let expect = "Name:         s\nNamespace:    d\nLabels:       <none>\nAnnotations:  <none>\nAddressType:  IPv4\nPorts:\n  \
            Name     Port  Protocol\n  ----     ----  --------\n  <unset>  80    TCP\nEndpoints:\n  - Addresses:  10.0.0.1\n    \
            Conditions:\n      Ready:    true\n    Hostname:   <unset>\n    TargetRef:  Pod/p\n    NodeName:   <unset>\n    Zone:       <unset>\n";
        assert_eq!(page.text(), expect);
    }
}
