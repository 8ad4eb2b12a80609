//! NetworkPolicy.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{PROTOCOLS, cidr, label_selector, one_of_if_set, port_number, port_number_or_name};
use crate::kinds::facts::{AGE, Facts, NAME, text};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::{self, Row};
use crate::kinds::warnings;

const TYPES: &[&str] = &["Egress", "Ingress"];
const SPEC: Path<'static> = Path::new("spec");

pub(super) struct NetworkPolicies;

impl Kind for NetworkPolicies {
    type Typed = networking::NetworkPolicy;
    const FACTS: Facts = Facts {
        short_names: &["netpol"],
        columns: &[NAME, text("Pod-Selector", "The pods that it is for."), AGE],
        generation: true,
        ..Facts::new("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
    };

    fn default(policy: &mut Value) {
        let Some(spec) = spec_of(policy) else { return };
        spec.object("podSelector");
        for rules in ["ingress", "egress"] {
            for rule in spec.items(rules) {
                for port in rule.items("ports") {
                    port.fill("protocol", "TCP");
                }
            }
        }
        let is_empty = |list: Option<&Value>| list.and_then(Value::as_array).is_none_or(Vec::is_empty);
        if is_empty(spec.get("policyTypes")) {
            let types = if is_empty(spec.get("egress")) { json!(["Ingress"]) } else { json!(["Ingress", "Egress"]) };
            spec.insert("policyTypes".to_owned(), types);
        }
    }

    fn validate(policy: &networking::NetworkPolicy, errors: &mut Errors) {
        let Some(spec) = &policy.spec else { return };
        if let Some(selector) = &spec.pod_selector {
            label_selector(selector, &SPEC.child("podSelector"), errors);
        }
        for (i, rule) in spec.ingress.iter().flatten().enumerate() {
            let (ports, from) = (rule.ports.as_deref().unwrap_or_default(), rule.from.as_deref().unwrap_or_default());
            self::rule(ports, ("from", from), &SPEC.child("ingress").index(i), errors);
        }
        for (i, rule) in spec.egress.iter().flatten().enumerate() {
            let (ports, to) = (rule.ports.as_deref().unwrap_or_default(), rule.to.as_deref().unwrap_or_default());
            self::rule(ports, ("to", to), &SPEC.child("egress").index(i), errors);
        }
        let list = SPEC.child("policyTypes");
        let types = spec.policy_types.as_deref().unwrap_or_default();
        if types.len() > TYPES.len() {
            return errors.invalid(&list, types, "may not specify more than two policyTypes");
        }
        for (i, kind) in types.iter().enumerate().filter(|(_, kind)| !TYPES.contains(&kind.as_str())) {
            errors.not_supported(&list.index(i), kind, TYPES);
        }
    }

    fn warnings(policy: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
            for (i, rule) in policy.at("spec").list(rules).iter().enumerate() {
                for (j, peer) in rule.list(peers).iter().enumerate() {
                    let path = format!("spec.{rules}[{i}].{peers}[{j}].ipBlock");
                    warnings::cidr(peer.text("ipBlock.cidr"), &format!("{path}.cidr"), &mut out);
                    for (k, except) in peer.list("ipBlock.except").iter().enumerate() {
                        let path = format!("{path}.except[{k}]");
                        warnings::cidr(except.as_str().unwrap_or_default(), &path, &mut out);
                    }
                }
            }
        }
        out
    }

    fn cells(policy: &Value, row: &mut Row) {
        row.name(policy);
        row.push(row::selector(policy.at("spec.podSelector")));
        row.age(policy);
    }
}

fn rule(
    ports: &[networking::NetworkPolicyPort],
    (field, peers): (&str, &[networking::NetworkPolicyPeer]),
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (i, one) in ports.iter().enumerate() {
        port(one, &path.child("ports").index(i), errors);
    }
    for (i, one) in peers.iter().enumerate() {
        peer(one, &path.child(field).index(i), errors);
    }
}

fn port(port: &networking::NetworkPolicyPort, path: &Path<'_>, errors: &mut Errors) {
    one_of_if_set(&port.protocol, PROTOCOLS, &path.child("protocol"), errors);
    let end = path.child("endPort");
    match (&port.port, port.end_port) {
        (Some(number), None) => port_number_or_name(number, &path.child("port"), errors),
        (Some(IntOrString::Int(first)), Some(last)) => {
            port_number(*first, &path.child("port"), errors);
            if last < *first {
                errors.invalid(&end, last, "must be greater than or equal to `port`");
            }
            port_number(last, &end, errors);
        }
        (Some(name @ IntOrString::String(_)), Some(last)) => {
            errors.invalid(&end, last, "may not be specified when `port` is non-numeric");
            port_number_or_name(name, &path.child("port"), errors);
        }
        (None, Some(last)) => errors.invalid(&end, last, "may not be specified when `port` is not specified"),
        (None, None) => {}
    }
}

fn peer(peer: &networking::NetworkPolicyPeer, path: &Path<'_>, errors: &mut Errors) {
    for (field, selector) in [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)] {
        if let Some(selector) = selector {
            label_selector(selector, &path.child(field), errors);
        }
    }
    if let Some(block) = &peer.ip_block {
        ip_block(block, &path.child("ipBlock"), errors);
    }
    let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
    match (selects, peer.ip_block.is_some()) {
        (false, false) => errors.required(path, "must specify a peer"),
        (true, true) => errors.forbidden(path, "may not specify both ipBlock and another peer"),
        _ => {}
    }
}

fn ip_block(block: &networking::IPBlock, path: &Path<'_>, errors: &mut Errors) {
    if block.cidr.is_empty() {
        return errors.required(&path.child("cidr"), "");
    }
    cidr(&block.cidr, &path.child("cidr"), errors);
    let Some(whole) = network(&block.cidr) else { return };
    for (i, text) in block.except.iter().flatten().enumerate() {
        let list = path.child("except");
        let path = list.index(i);
        cidr(text, &path, errors);
        let Some(part) = network(text) else { continue };
        if !contains(whole, part.0) || whole.1 >= part.1 {
            errors.invalid(&path, text, "must be a strict subset of `cidr`");
        }
    }
}

/// The address as bits from the left, whether it is one of IPv6, and the length of the prefix.
fn network(text: &str) -> Option<((u128, bool), u32)> {
    let (address, length) = text.split_once('/')?;
    let bits = match address.parse().ok()? {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, false),
        IpAddr::V6(ip) => (u128::from(ip), true),
    };
    let most = if bits.1 { 128 } else { 32 };
    Some((bits, length.parse().ok().filter(|length| *length <= most)?))
}

fn contains((network, length): ((u128, bool), u32), address: (u128, bool)) -> bool {
    let differs = network.0 ^ address.0;
    network.1 == address.1 && (length == 0 || differs >> (128 - length) == 0)
}
