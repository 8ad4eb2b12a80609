//! Who may talk to whom, and addresses.

use serde_json::Value;

use super::page::Page;
use super::pod::items;
use super::policy::selector;
use super::{date, generic, time};
use crate::print::cell;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub fn policy(page: &mut Page, object: &Value) {
    let (metadata, spec) = (&object["metadata"], &object["spec"]);
    page.field("Name", text(&metadata["name"]));
    page.field("Namespace", text(&metadata["namespace"]));
    let at = time(&metadata["creationTimestamp"]);
    page.field("Created on", at.map(|at| at.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()).unwrap_or_default());
    page.map("Labels", &metadata["labels"]);
    page.annotations("Annotations", &metadata["annotations"]);
    page.line("Spec:");
    let pods = match selector(&spec["podSelector"], "<none>").as_str() {
        "<none>" => "    <none> (Allowing the specific traffic to all pods in this namespace)".to_owned(),
        selector => format!("    {selector}"),
    };
    page.line(format!("  PodSelector: {pods}"));
    let types: Vec<String> = items(&spec["policyTypes"]).map(text).collect();
    for (ty, word, rules) in [("Ingress", "ingress", "ingress"), ("Egress", "egress", "egress")] {
        if types.iter().any(|known| known == ty) {
            page.line(format!("  Allowing {word} traffic:"));
            traffic(page, &spec[rules], ty == "Ingress");
        } else {
            page.line(format!("  Not affecting {word} traffic"));
        }
    }
    page.line(format!("  Policy Types: {}", types.join(", ")));
}

fn traffic(page: &mut Page, rules: &Value, ingress: bool) {
    let (word, peers, all) = match ingress {
        true => ("ingress", "from", "From: <any> (traffic not restricted by source)"),
        false => ("egress", "to", "To: <any> (traffic not restricted by destination)"),
    };
    let count = items(rules).count();
    if count == 0 {
        page.line(format!("    <none> (Selected pods are isolated for {word} connectivity)"));
    }
    for (nth, rule) in items(rules).enumerate() {
        if items(&rule["ports"]).next().is_none() {
            page.line("    To Port: <any> (traffic allowed to all ports)");
        }
        for port in items(&rule["ports"]) {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            let from = if port["port"].is_null() { "<nil>".to_owned() } else { cell(&port["port"]) };
            match port["endPort"].as_i64() {
                Some(to) => page.line(format!("    To Port Range: {from}-{to}/{protocol}")),
                None => page.line(format!("    To Port: {from}/{protocol}")),
            }
        }
        if items(&rule[peers]).next().is_none() {
            page.line(format!("    {all}"));
        }
        for peer in items(&rule[peers]) {
            page.line(if ingress { "    From:" } else { "    To:" });
            for (label, field) in [("NamespaceSelector", "namespaceSelector"), ("PodSelector", "podSelector")] {
                if !peer[field].is_null() {
                    page.line(format!("      {label}: {}", selector(&peer[field], "<none>")));
                }
            }
            if let Some(block) = peer.get("ipBlock") {
                let except: Vec<String> = items(&block["except"]).map(text).collect();
                page.line("      IPBlock:");
                page.line(format!("        CIDR: {}\n        Except: {}", text(&block["cidr"]), except.join(", ")));
            }
        }
        if nth + 1 < count {
            page.line("    ----------");
        }
    }
}

pub fn ip_address(page: &mut Page, object: &Value) {
    generic::head(page, object);
    let Some(parent) = object["spec"].get("parentRef") else { return };
    page.line("Parent Reference:");
    for (label, field) in [("Group", "group"), ("Resource", "resource"), ("Namespace", "namespace"), ("Name", "name")] {
        page.field(&format!("  {label}"), text(&parent[field]));
    }
}

pub fn service_cidr(page: &mut Page, object: &Value) {
    generic::head(page, object);
    let cidrs: Vec<String> = items(&object["spec"]["cidrs"]).map(text).collect();
    page.field("CIDRs", cidrs.join(", "));
    if items(&object["status"]["conditions"]).next().is_some() {
        page.line("Status:\nConditions:\n  Type\tStatus\tLastTransitionTime\tReason\tMessage");
        page.line("  ----\t------\t------------------\t------\t-------");
        for condition in items(&object["status"]["conditions"]) {
            let [ty, status, reason, message] =
                ["type", "status", "reason", "message"].map(|field| text(&condition[field]));
            page.line(format!("  {ty}\t{status}\t{}\t{reason}\t{message}", date(&condition["lastTransitionTime"])));
        }
    }
}
