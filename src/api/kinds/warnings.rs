//! Texts for `Warning` headers that more than one kind has.

use std::net::IpAddr;

use serde_json::Value;

use crate::field::go_quote;
use crate::kinds::checks::{self, masked, sloppy_cidr, sloppy_ip};
use crate::kinds::peek::Peek;
use crate::quantity::Quantity;

/// Labels of nodes that have got other names, and what is said of them.
const OLD_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// What is said of a label of nodes on its way out.
pub(crate) fn old_label(key: &str) -> Option<&'static str> {
    OLD_LABELS.iter().find(|(old, _)| *old == key).map(|(_, what)| *what)
}

/// Expressions at `list` over labels of nodes; `values` too where a bad one is let through.
pub(crate) fn expressions(holder: &Value, list: &str, values: bool, path: &str, out: &mut Vec<String>) {
    for (i, expression) in holder.list(list).iter().enumerate() {
        let (key, path) = (expression.text("key"), format!("{path}.{list}[{i}]"));
        if let Some(what) = old_label(key) {
            out.push(format!("{path}.key: {key} is {what}"));
        }
        if !values {
            continue;
        }
        for (j, value) in expression.list("values").iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            for wrong in crate::names::label_value(value) {
                out.push(format!("{path}.values[{j}]: {value} is invalid, {wrong}"));
            }
        }
    }
}

/// An address that others may read otherwise, or that has a better form.
pub(crate) fn ip(value: &str, path: &str, out: &mut Vec<String>) {
    let Some(ip) = sloppy_ip(value) else { return };
    let plain = ip.to_canonical();
    if value.parse::<IpAddr>().is_err() || checks::is_mapped(ip) {
        out.push(format!("{path}: non-standard IP address {} is invalid: use \"{plain}\"", go_quote(value)));
    } else if ip.is_ipv6() && ip.to_string() != value {
        out.push(format!("{path}: IPv6 address {} should be in RFC 5952 canonical format (\"{ip}\")", go_quote(value)));
    }
}

/// The same of a network.
pub(crate) fn cidr(value: &str, path: &str, out: &mut Vec<String>) {
    let Some((ip, bits)) = sloppy_cidr(value) else { return };
    let (shown, before) = (go_quote(value), out.len());
    let network = masked((ip, bits));
    let (plain, plain_bits) = match network.to_canonical() {
        plain if plain.is_ipv4() && network.is_ipv6() && bits >= 96 => (plain, bits - 96),
        _ => (network, bits),
    };
    if network != ip {
        let all = if plain.is_ipv4() { 32 } else { 128 };
        out.push(format!(
            "{path}: CIDR value {shown} is ambiguous in this context (should be \"{plain}/{plain_bits}\" or \
             \"{}/{all}\"?)",
            ip.to_canonical()
        ));
    }
    let (address, length) = value.split_once('/').unwrap_or((value, ""));
    let zeros = length.len() > 1 && length.starts_with('0');
    if address.parse::<IpAddr>().is_err() || zeros || checks::is_mapped(ip) {
        out.push(format!("{path}: non-standard CIDR value {shown} is invalid: use \"{plain}/{plain_bits}\""));
    }
    let canonical = format!("{ip}/{bits}");
    if out.len() == before && ip.is_ipv6() && canonical != value {
        out.push(format!("{path}: IPv6 CIDR value {shown} should be in RFC 5952 canonical format (\"{canonical}\")"));
    }
}

/// The addresses that a load balancer gave.
pub(crate) fn balancer(object: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for (i, one) in object.list("status.loadBalancer.ingress").iter().enumerate() {
        ip(one.text("ip"), &format!("status.loadBalancer.ingress[{i}]"), &mut out);
    }
    out
}

/// Amounts of bytes at `list` that no number of bytes is.
pub(crate) fn fractions(holder: &Value, list: &str, names: &[&str], path: &str, out: &mut Vec<String>) {
    for name in names {
        let Some(Ok(amount)) = holder.at(list).get(name).and_then(Value::as_str).map(str::parse::<Quantity>) else {
            continue;
        };
        if !amount.is_integer() {
            out.push(format!(
                "{path}.{list}[{name}]: fractional byte value \"{amount}\" is invalid, must be an integer"
            ));
        }
    }
}

/// Of the specification of a claim.
pub(crate) fn claim(spec: &Value, path: &str, out: &mut Vec<String>) {
    for list in ["resources.requests", "resources.limits"] {
        fractions(spec, list, &["storage"], path, out);
    }
}

/// Annotations that have become fields.
pub(crate) fn annotations(object: &Value, old: &[(&str, &str)], prefix: &str, out: &mut Vec<String>) {
    let Some(annotations) = object.map("metadata.annotations") else { return };
    for (key, what) in old.iter().filter(|(key, _)| annotations.contains_key(*key)) {
        out.push(format!("{prefix}metadata.annotations[{key}]: {what}"));
    }
}
