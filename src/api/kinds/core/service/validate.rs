//! What is wrong with a Service.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use crate::field::{Errors, Path};
use crate::kinds::checks::{
    IMMUTABLE, PROTOCOLS, cidr, dns_label, dns_subdomain, ip, is_ipv6, labels_of, non_special_ip, one_of,
    one_of_if_set, port_number, port_number_or_name, qualified_name, required, text,
};

const SPEC: Path<'static> = Path::new("spec");
const AFFINITY_MAX_S: i32 = 86_400;
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const FAMILIES: &[&str] = &["IPv4", "IPv6"];
const FAMILY_POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameNode", "PreferSameZone"];
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const ONLY_LOAD_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";
const NOT_EXTERNAL_NAME: &str = "may not be set for ExternalName services";
const SET_ONCE: &str = "may not change once set";

fn kind(spec: &core::ServiceSpec) -> &str {
    text(&spec.type_)
}

fn cluster_ips(spec: &core::ServiceSpec) -> &[String] {
    spec.cluster_ips.as_deref().unwrap_or_default()
}

fn ports(spec: &core::ServiceSpec) -> &[core::ServicePort] {
    spec.ports.as_deref().unwrap_or_default()
}

fn is_headless(spec: &core::ServiceSpec) -> bool {
    cluster_ips(spec) == ["None"] || cluster_ips(spec).is_empty() && text(&spec.cluster_ip) == "None"
}

pub(super) fn service(service: &core::Service, errors: &mut Errors) {
    let empty = core::ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let annotation = |key: &str| service.metadata.annotations.as_ref().and_then(|a| a.get(key));
    if let (Some(mode), Some(hints)) = (annotation(TOPOLOGY_MODE), annotation(TOPOLOGY_HINTS))
        && mode != hints
    {
        let meta = Path::new("metadata.annotations");
        let message = format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified");
        errors.invalid(&meta.key(TOPOLOGY_MODE), mode, &message);
    }
    of_type(spec, errors);
    all_ports(spec, errors);
    if let Some(selector) = &spec.selector {
        labels_of(selector, &SPEC.child("selector"), errors);
    }
    session_affinity(spec, errors);
    addresses(spec, errors);
    for (i, address) in spec.external_ips.iter().flatten().enumerate() {
        let list = SPEC.child("externalIPs");
        if ip(address, &list.index(i), errors) {
            non_special_ip(address, &list.index(i), errors);
        }
    }
    one_of(kind(spec), TYPES, &SPEC.child("type"), errors);
    source_ranges(service, spec, errors);
    load_balancer(spec, errors);
    traffic(spec, errors);
}

fn of_type(spec: &core::ServiceSpec, errors: &mut Errors) {
    let headless = is_headless(spec);
    if ports(spec).is_empty() && !headless && kind(spec) != "ExternalName" {
        errors.required(&SPEC.child("ports"), "");
    }
    let ips = SPEC.child("clusterIPs");
    match kind(spec) {
        "LoadBalancer" if headless => {
            errors.invalid(&ips.index(0), "None", "may not be set to 'None' for LoadBalancer services");
        }
        "NodePort" if headless => {
            errors.invalid(&ips.index(0), "None", "may not be set to 'None' for NodePort services");
        }
        "ExternalName" => {
            if !cluster_ips(spec).is_empty() {
                errors.forbidden(&ips, NOT_EXTERNAL_NAME);
            }
            if spec.ip_families.as_ref().is_some_and(|f| !f.is_empty()) {
                errors.forbidden(&SPEC.child("ipFamilies"), NOT_EXTERNAL_NAME);
            }
            if spec.ip_family_policy.is_some() {
                errors.forbidden(&SPEC.child("ipFamilyPolicy"), NOT_EXTERNAL_NAME);
            }
            let name = text(&spec.external_name);
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.is_empty() {
                errors.required(&SPEC.child("externalName"), "");
            } else {
                dns_subdomain(name, &SPEC.child("externalName"), errors);
            }
        }
        _ => {}
    }
}

fn all_ports(spec: &core::ServiceSpec, errors: &mut Errors) {
    let list = SPEC.child("ports");
    let (mut names, mut node_ports, mut pairs) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (i, port) in ports(spec).iter().enumerate() {
        let path = list.index(i);
        let name = text(&port.name);
        if ports(spec).len() > 1 && name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !name.is_empty() {
            dns_label(name, &path.child("name"), errors);
            if !names.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
        port_number(port.port, &path.child("port"), errors);
        one_of(text(&port.protocol), PROTOCOLS, &path.child("protocol"), errors);
        let target = port.target_port.clone().unwrap_or(IntOrString::Int(0));
        port_number_or_name(&target, &path.child("targetPort"), errors);
        if let Some(protocol) = &port.app_protocol {
            qualified_name(protocol, &path.child("appProtocol"), errors);
        }
        let node_port = port.node_port.unwrap_or(0);
        if node_port != 0 {
            if kind(spec) == "ClusterIP" {
                errors.forbidden(&path.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
            }
            if !node_ports.insert((text(&port.protocol), node_port)) {
                errors.duplicate(&path.child("nodePort"), node_port);
            }
        }
        if !pairs.insert((text(&port.protocol), port.port)) {
            errors.duplicate(&path, json!({"protocol": port.protocol, "port": port.port}));
        }
    }
}

fn session_affinity(spec: &core::ServiceSpec, errors: &mut Errors) {
    let affinity = text(&spec.session_affinity);
    one_of(affinity, &["ClientIP", "None"], &SPEC.child("sessionAffinity"), errors);
    let path = SPEC.child("sessionAffinityConfig");
    match affinity {
        "ClientIP" => {
            const WHEN: &str = "when session affinity type is ClientIP";
            let Some(config) = &spec.session_affinity_config else { return errors.required(&path, WHEN) };
            let path = path.child("clientIP");
            let Some(client) = &config.client_ip else { return errors.required(&path, WHEN) };
            let path = path.child("timeoutSeconds");
            let Some(seconds) = client.timeout_seconds else { return errors.required(&path, WHEN) };
            if !(1..=AFFINITY_MAX_S).contains(&seconds) {
                let message = format!("must be greater than 0 and less than {AFFINITY_MAX_S}");
                errors.invalid(&path, seconds, &message);
            }
        }
        "None" if spec.session_affinity_config.is_some() => {
            errors.forbidden(&path, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

/// The cluster's addresses of the service, and their families.
fn addresses(spec: &core::ServiceSpec, errors: &mut Errors) {
    if kind(spec) == "ExternalName" {
        return;
    }
    let (list, ips, first) = (SPEC.child("clusterIPs"), cluster_ips(spec), text(&spec.cluster_ip));
    match (first.is_empty(), ips.first()) {
        (false, None) => errors.required(&list, ""),
        (false, Some(ip)) if ip != first => errors.invalid(&list, ips, "first value must match `clusterIP`"),
        (true, Some(_)) => errors.invalid(&list, ips, "must be empty when `clusterIP` is not specified"),
        _ => {}
    }
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let mut seen = BTreeSet::new();
    for (i, family) in families.iter().enumerate() {
        let list = SPEC.child("ipFamilies");
        if !FAMILIES.contains(&family.as_str()) {
            errors.not_supported(&list.index(i), family, FAMILIES);
        }
        if !seen.insert(family) {
            errors.duplicate(&list.index(i), family);
        }
    }
    one_of_if_set(&spec.ip_family_policy, FAMILY_POLICIES, &SPEC.child("ipFamilyPolicy"), errors);
    let before = errors.len();
    for (i, address) in ips.iter().enumerate() {
        if i == 0 && address == "None" {
            if ips.len() > 1 {
                errors.invalid(&list, ips, "'None' must be the first and only value");
            }
            continue;
        }
        ip(address, &list.index(i), errors);
    }
    let well_formed = errors.len() == before;
    if ips.len() > 2 {
        errors.invalid(&list, ips, "may only hold up to 2 values");
    }
    if !well_formed {
        return;
    }
    let sixes = ips.iter().filter(|ip| is_ipv6(ip)).count();
    if ips.len() > 1 && !(sixes == 1 && ips.len() == 2) {
        errors.invalid(&list, ips, "may specify no more than one IP for each IP family");
    }
    if is_headless(spec) {
        return;
    }
    for (i, (address, family)) in ips.iter().zip(families).enumerate() {
        if is_ipv6(address) != (family == "IPv6") {
            let message = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.invalid(&list.index(i), address, &message);
        }
    }
}

fn source_ranges(service: &core::Service, spec: &core::ServiceSpec, errors: &mut Errors) {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let annotation = service.metadata.annotations.as_ref().and_then(|a| a.get(ANNOTATION));
    if !ranges.is_empty() {
        let path = SPEC.child("LoadBalancerSourceRanges");
        if kind(spec) != "LoadBalancer" {
            errors.forbidden(&path, ONLY_LOAD_BALANCER);
        }
        for (i, range) in ranges.iter().enumerate() {
            cidr(range.trim(), &path.index(i), errors);
        }
    } else if let Some(value) = annotation {
        let meta = Path::new("metadata");
        let annotations = meta.child("annotations");
        let path = annotations.key(ANNOTATION);
        if kind(spec) != "LoadBalancer" {
            errors.forbidden(&path, ONLY_LOAD_BALANCER);
        }
        for range in value.trim().split(',').map(str::trim).filter(|_| !value.trim().is_empty()) {
            cidr(range, &path, errors);
        }
    }
}

fn load_balancer(spec: &core::ServiceSpec, errors: &mut Errors) {
    let balanced = kind(spec) == "LoadBalancer";
    match (&spec.allocate_load_balancer_node_ports, balanced) {
        (Some(_), false) => errors.forbidden(&SPEC.child("allocateLoadBalancerNodePorts"), ONLY_LOAD_BALANCER),
        (None, true) => errors.required(&Path::new("allocateLoadBalancerNodePorts"), ""),
        _ => {}
    }
    if let Some(class) = &spec.load_balancer_class {
        let path = SPEC.child("loadBalancerClass");
        if balanced {
            qualified_name(class, &path, errors);
        } else {
            errors.forbidden(&path, ONLY_LOAD_BALANCER);
        }
    }
}

fn traffic(spec: &core::ServiceSpec, errors: &mut Errors) {
    let external = matches!(kind(spec), "LoadBalancer" | "NodePort")
        || kind(spec) == "ClusterIP" && spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    let path = SPEC.child("externalTrafficPolicy");
    let policy = text(&spec.external_traffic_policy);
    if external {
        one_of(policy, &["Cluster", "Local"], &path, errors);
    } else if !policy.is_empty() {
        errors.invalid(&path, policy, "may only be set for externally-accessible services");
    }
    let path = SPEC.child("healthCheckNodePort");
    let port = spec.health_check_node_port.unwrap_or(0);
    if kind(spec) == "LoadBalancer" && policy == "Local" {
        if port != 0 {
            port_number(port, &path, errors);
        }
    } else if port != 0 {
        let message = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid(&path, port, message);
    }
    let path = SPEC.child("internalTrafficPolicy");
    match &spec.internal_traffic_policy {
        None if matches!(kind(spec), "ClusterIP" | "NodePort" | "LoadBalancer") => required("", &path, errors),
        policy => one_of_if_set(policy, &["Cluster", "Local"], &path, errors),
    }
    one_of_if_set(&spec.traffic_distribution, DISTRIBUTIONS, &SPEC.child("trafficDistribution"), errors);
}

/// What may not change while the type stays one with an address.
pub(super) fn update(new: &core::Service, old: &core::Service, errors: &mut Errors) {
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return };
    if kind(new) != "ExternalName" && kind(old) != "ExternalName" {
        cluster_ips_update(new, old, errors);
        families_update(new, old, errors);
    }
    let both = |kind_: &str| kind(new) == kind_ && kind(old) == kind_;
    if both("LoadBalancer") {
        if new.load_balancer_class != old.load_balancer_class {
            errors.invalid(&SPEC.child("loadBalancerClass"), &new.load_balancer_class, SET_ONCE);
        }
        let local = |s: &core::ServiceSpec| text(&s.external_traffic_policy) == "Local";
        if local(new) && local(old) && new.health_check_node_port != old.health_check_node_port {
            errors.forbidden(&SPEC.child("healthCheckNodePort"), IMMUTABLE);
        }
    }
}

fn cluster_ips_update(new: &core::ServiceSpec, old: &core::ServiceSpec, errors: &mut Errors) {
    if is_headless(new) && is_headless(old) {
        return;
    }
    let list = SPEC.child("clusterIPs");
    let (new_ips, old_ips) = (cluster_ips(new), cluster_ips(old));
    if new_ips.len() == old_ips.len() {
        for (i, _) in old_ips.iter().zip(new_ips).enumerate().filter(|(_, (old, new))| old != new) {
            errors.invalid(&list.index(i), new_ips, SET_ONCE);
        }
        return;
    }
    if let (Some(new), Some(old)) = (new_ips.first(), old_ips.first())
        && new != old
    {
        errors.invalid(&list.index(0), new_ips, SET_ONCE);
    }
    if old_ips.len() < new_ips.len() {
        return;
    }
    if new_ips.is_empty() {
        errors.invalid(&list.index(0), new_ips, "primary clusterIP can not be unset");
    } else if text(&new.ip_family_policy) != "SingleStack" {
        let message = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        errors.invalid(&SPEC.child("ipFamilyPolicy"), &new.ip_family_policy, message);
    }
}

fn families_update(new: &core::ServiceSpec, old: &core::ServiceSpec, errors: &mut Errors) {
    if is_headless(new) || is_headless(old) {
        return;
    }
    let families = |s: &core::ServiceSpec| s.ip_families.clone().unwrap_or_default();
    let (new_families, old_families) = (families(new), families(old));
    let list = SPEC.child("ipFamilies");
    match (new_families.first(), old_families.first()) {
        (Some(new), Some(old)) if new != old => errors.invalid(&list.index(0), &new_families, SET_ONCE),
        (None, Some(_)) if cluster_ips(new).is_empty() => {
            errors.invalid(&list.index(0), &new_families, "primary ipFamily can not be unset");
        }
        _ => {}
    }
    if old_families.len() > new_families.len()
        && new_families.len() == 1
        && text(&new.ip_family_policy) != "SingleStack"
    {
        let message = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        errors.invalid(&SPEC.child("ipFamilyPolicy"), &new.ip_family_policy, message);
    }
}

/// The addresses that a load balancer reports.
pub(super) fn status(service: &core::Service, errors: &mut Errors) {
    let path = Path::new("status");
    let list = path.child("loadBalancer.ingress");
    let ingress =
        service.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_deref()).unwrap_or_default();
    if !ingress.is_empty() && service.spec.as_ref().is_none_or(|s| kind(s) != "LoadBalancer") {
        return errors.forbidden(&list, "may only be used when `spec.type` is 'LoadBalancer'");
    }
    for (i, one) in ingress.iter().enumerate() {
        let path = list.index(i);
        let (address, host) = (text(&one.ip), text(&one.hostname));
        if !address.is_empty() {
            ip(address, &path.child("ip"), errors);
        }
        match &one.ip_mode {
            None if !address.is_empty() => {
                errors.required(&path.child("ipMode"), "must be specified when `ip` is set");
            }
            Some(_) if address.is_empty() => {
                errors.forbidden(&path.child("ipMode"), "may not be specified when `ip` is not set");
            }
            mode => one_of_if_set(mode, &["Proxy", "VIP"], &path.child("ipMode"), errors),
        }
        if !host.is_empty() {
            dns_subdomain(host, &path.child("hostname"), errors);
            if host.parse::<std::net::IpAddr>().is_ok() {
                errors.invalid(&path.child("hostname"), host, "must be a DNS name, not an IP address");
            }
        }
    }
}
