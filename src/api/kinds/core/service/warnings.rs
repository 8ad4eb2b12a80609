//! What is allowed in a service and still hardly meant: texts for `Warning` headers.

use serde_json::Value;

use crate::field::go_quote;
use crate::kinds::peek::Peek;
use crate::kinds::warnings::{cidr, ip};

pub(super) fn service(service: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let (spec, kind) = (service.at("spec"), service.text("spec.type"));
    let hints = "service.kubernetes.io/topology-aware-hints";
    if service.at("metadata.annotations").get(hints).is_some() {
        out.push(format!("annotation {hints} is deprecated, please use service.kubernetes.io/topology-mode instead"));
    }
    let headless = kind == "ClusterIP" && spec.text("clusterIP") == "None";
    let (external, balancer) = (spec.list("externalIPs"), spec.text("loadBalancerIP"));
    if headless {
        let ignored = [
            ("loadBalancerIP", !balancer.is_empty()),
            ("externalIPs", !external.is_empty()),
            ("SessionAffinity", spec.text("sessionAffinity") != "None"),
        ];
        for (field, _) in ignored.into_iter().filter(|(_, set)| *set) {
            out.push(format!("spec.{field} is ignored for headless services"));
        }
    } else if !matches!(spec.text("clusterIP"), "" | "None") {
        for (i, address) in spec.list("clusterIPs").iter().enumerate() {
            ip(address.as_str().unwrap_or_default(), &format!("spec.clusterIPs[{i}]"), &mut out);
        }
    }
    for (i, address) in external.iter().enumerate() {
        ip(address.as_str().unwrap_or_default(), &format!("spec.externalIPs[{i}]"), &mut out);
    }
    if !external.is_empty() && !headless && kind != "ExternalName" {
        out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    ip(balancer, "spec.loadBalancerIP", &mut out);
    for (i, range) in spec.list("loadBalancerSourceRanges").iter().enumerate() {
        cidr(range.as_str().unwrap_or_default(), &format!("spec.loadBalancerSourceRanges[{i}]"), &mut out);
    }
    if kind == "ExternalName" && !external.is_empty() {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if kind != "ExternalName" && !spec.text("externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.text("trafficDistribution") == "PreferClose" {
        let (old, new) = (go_quote("PreferClose"), go_quote("PreferSameZone"));
        out.push(format!("spec.trafficDistribution: {old} is deprecated; use {new}"));
    }
    out
}
