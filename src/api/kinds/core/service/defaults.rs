//! What a Service means where it says nothing, and which of the values that were allocated for it
//! stay when it changes. Allocation itself is the API server's.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::kinds::peek::{Fill, Peek, spec_of};

const AFFINITY_TIMEOUT_S: i64 = 10_800;

pub(super) fn service(object: &mut Value) {
    let Some(spec) = spec_of(object) else { return };
    spec.fill("type", "ClusterIP");
    spec.fill("sessionAffinity", "None");
    match spec.get("sessionAffinity").and_then(Value::as_str) {
        Some("None") => {
            spec.remove("sessionAffinityConfig");
        }
        Some("ClientIP") => {
            if let Some(client) = spec.object("sessionAffinityConfig").and_then(|c| c.object("clientIP")) {
                client.fill("timeoutSeconds", AFFINITY_TIMEOUT_S);
            }
        }
        _ => {}
    }
    for port in spec.items("ports") {
        port.fill("protocol", "TCP");
        let unset = port.lacks("targetPort") || port.get("targetPort").and_then(Value::as_i64) == Some(0);
        if unset && let Some(number) = port.get("port").cloned() {
            port.insert("targetPort".to_owned(), number);
        }
    }
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or("").to_owned();
    let has_external_ips = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || kind == "ClusterIP" && has_external_ips {
        spec.fill("externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        spec.fill("internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        spec.fill("allocateLoadBalancerNodePorts", true);
    }
}

/// A service without a cluster address list gets it from the one address.
pub(super) fn prepare_create(object: &mut Value) {
    let ip = object.text("spec.clusterIP").to_owned();
    let empty = object.count("spec.clusterIPs") == 0;
    if let Some(map) = object.as_object_mut() {
        map.insert("status".to_owned(), json!({"loadBalancer": {}}));
        if let (false, true, Some(spec)) = (ip.is_empty(), empty, map.existing("spec")) {
            spec.insert("clusterIPs".to_owned(), json!([ip]));
        }
    }
}

pub(super) fn prepare_update(object: &mut Value, old: &Value) {
    follow_cluster_ip(object, old);
    patch_allocated(object, old);
    drop_of_other_type(object, old);
}

fn needs_cluster_ip(service: &Value) -> bool {
    matches!(service.text("spec.type"), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_port(service: &Value) -> bool {
    match service.text("spec.type") {
        "NodePort" => true,
        "LoadBalancer" => service.at("spec.allocateLoadBalancerNodePorts").as_bool() != Some(false),
        _ => false,
    }
}

fn needs_health_check_port(service: &Value) -> bool {
    service.text("spec.type") == "LoadBalancer" && service.text("spec.externalTrafficPolicy") == "Local"
}

/// The list follows the one address where a client changed only that.
fn follow_cluster_ip(object: &mut Value, old: &Value) {
    let (new_ip, old_ip) = (object.text("spec.clusterIP").to_owned(), old.text("spec.clusterIP"));
    let same_list = object.at("spec.clusterIPs") == old.at("spec.clusterIPs");
    let Some(spec) = object.as_object_mut().and_then(|o| o.existing("spec")) else { return };
    if new_ip == old_ip || !same_list {
        return;
    }
    if new_ip.is_empty() {
        spec.remove("clusterIPs");
    } else {
        spec.insert("clusterIPs".to_owned(), json!([new_ip]));
    }
}

fn node_ports(service: &Value) -> BTreeSet<i64> {
    service.list("spec.ports").iter().map(|p| p.int("nodePort")).filter(|p| *p != 0).collect()
}

/// What the client left out and was allocated before comes back.
fn patch_allocated(object: &mut Value, old: &Value) {
    let (cluster, node, health) = (
        needs_cluster_ip(old) && needs_cluster_ip(object),
        needs_node_port(old) && needs_node_port(object),
        needs_health_check_port(old) && needs_health_check_port(object),
    );
    let mut taken: BTreeSet<i64> = node_ports(old).intersection(&node_ports(object)).copied().collect();
    let Some(spec) = object.as_object_mut().and_then(|o| o.existing("spec")) else { return };
    if cluster {
        if spec.lacks("clusterIP") {
            copy(spec, old, "clusterIP");
        }
        let unset = spec.get("clusterIPs").and_then(Value::as_array).is_none_or(Vec::is_empty);
        if unset && spec.get("clusterIP") == old.at("spec").get("clusterIP") {
            copy(spec, old, "clusterIPs");
        }
    }
    if node {
        for port in spec.items("ports") {
            if port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0 {
                continue;
            }
            let name = port.get("name").and_then(Value::as_str).unwrap_or("");
            let before =
                old.list("spec.ports").iter().find(|p| p.text("name") == name).map_or(0, |p| p.int("nodePort"));
            if before != 0 && taken.insert(before) {
                port.insert("nodePort".to_owned(), before.into());
            }
        }
    }
    if health && spec.get("healthCheckNodePort").and_then(Value::as_i64).unwrap_or(0) == 0 {
        copy(spec, old, "healthCheckNodePort");
    }
}

fn copy(spec: &mut Map<String, Value>, old: &Value, key: &str) {
    if let Some(value) = old.at("spec").get(key) {
        spec.insert(key.to_owned(), value.clone());
    }
}

/// Values that the new type has no use for go, unless the client changed them on purpose.
fn drop_of_other_type(object: &mut Value, old: &Value) {
    let cluster = needs_cluster_ip(old) && !needs_cluster_ip(object);
    let node = needs_node_port(old) && !needs_node_port(object) && node_ports(old) == node_ports(object);
    let health = needs_health_check_port(old) && !needs_health_check_port(object);
    let balancer = old.text("spec.type") == "LoadBalancer" && object.text("spec.type") != "LoadBalancer";
    let external = |s: &Value| {
        matches!(s.text("spec.type"), "NodePort" | "LoadBalancer")
            || s.text("spec.type") == "ClusterIP" && s.count("spec.externalIPs") > 0
    };
    let no_longer_external = external(old) && !external(object);
    let Some(map) = object.as_object_mut() else { return };
    if balancer {
        map.insert("status".to_owned(), json!({"loadBalancer": {}}));
    }
    let Some(spec) = map.existing("spec") else { return };
    let mut drop_same = |keys: &[&str]| {
        for key in keys {
            if spec.get(*key) == old.at("spec").get(*key) {
                spec.remove(*key);
            }
        }
    };
    if cluster {
        drop_same(&["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]);
    }
    if health {
        drop_same(&["healthCheckNodePort"]);
    }
    if balancer {
        drop_same(&["loadBalancerClass", "allocateLoadBalancerNodePorts"]);
    }
    if no_longer_external {
        drop_same(&["externalTrafficPolicy"]);
    }
    if node {
        for port in spec.items("ports") {
            port.remove("nodePort");
        }
    }
}
