//! Endpoints.

use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{
    PROTOCOLS, dns_label, dns_subdomain, ip, non_special_ip, one_of, port_number, qualified_name, text,
};
use crate::kinds::facts::{self, AGE, Facts, NAME};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::Row;
use crate::kinds::warnings;

/// How many endpoints a row shows.
const SHOWN: usize = 3;
/// Whose endpoints they are; those of the controller are in good form.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";

pub(super) struct EndpointsKind;

impl Kind for EndpointsKind {
    type Typed = core::Endpoints;
    const FACTS: Facts = Facts {
        short_names: &["ep"],
        columns: &[NAME, facts::text("Endpoints", "Addresses and ports that are ready to serve."), AGE],
        create_on_update: true,
        ..Facts::new("", "v1", "endpoints", "Endpoints")
    };

    fn default(object: &mut Value) {
        let Some(map) = object.as_object_mut() else { return };
        for subset in map.items("subsets") {
            for port in subset.items("ports") {
                port.fill("protocol", "TCP");
            }
        }
    }

    fn validate(endpoints: &core::Endpoints, errors: &mut Errors) {
        for (i, subset) in endpoints.subsets.iter().flatten().enumerate() {
            self::subset(subset, &Path::new("subsets").index(i), errors);
        }
    }

    fn deprecation() -> Option<&'static str> {
        Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
    }

    fn warnings(object: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        if object.at("metadata.labels").get(MANAGED_BY).is_some_and(|by| by == "endpoint-controller") {
            return out;
        }
        for (i, subset) in object.list("subsets").iter().enumerate() {
            for list in ["addresses", "notReadyAddresses"] {
                for (j, address) in subset.list(list).iter().enumerate() {
                    warnings::ip(address.text("ip"), &format!("subsets[{i}].{list}[{j}].ip"), &mut out);
                }
            }
        }
        out
    }

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.push(endpoints(object.list("subsets")));
        row.age(object);
    }
}

fn subset(subset: &core::EndpointSubset, path: &Path<'_>, errors: &mut Errors) {
    let ready = subset.addresses.as_deref().unwrap_or_default();
    let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
    if ready.is_empty() && not_ready.is_empty() {
        errors.required(path, "must specify `addresses` or `notReadyAddresses`");
    }
    for (list, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
        for (i, address) in addresses.iter().enumerate() {
            let list = path.child(list);
            let path = list.index(i);
            ip(&address.ip, &path.child("ip"), errors);
            if !text(&address.hostname).is_empty() {
                dns_label(text(&address.hostname), &path.child("hostname"), errors);
            }
            if let Some(node) = &address.node_name {
                dns_subdomain(node, &path.child("nodeName"), errors);
            }
            non_special_ip(&address.ip, &path.child("ip"), errors);
        }
    }
    let ports = subset.ports.as_deref().unwrap_or_default();
    for (i, port) in ports.iter().enumerate() {
        let list = path.child("ports");
        let path = list.index(i);
        let name = text(&port.name);
        if ports.len() > 1 && name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !name.is_empty() {
            dns_label(name, &path.child("name"), errors);
        }
        port_number(port.port, &path.child("port"), errors);
        one_of(text(&port.protocol), PROTOCOLS, &path.child("protocol"), errors);
        if let Some(protocol) = &port.app_protocol {
            qualified_name(protocol, &path.child("appProtocol"), errors);
        }
    }
}

fn endpoints(subsets: &[Value]) -> String {
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let ips = || subset.list("addresses").iter().map(|a| a.text("ip"));
        if subset.list("ports").is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for port in subset.list("ports") {
            let number = port.int("port");
            all.extend(
                ips().map(|ip| if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }),
            );
        }
    }
    match all.len() {
        n if n > SHOWN => format!("{} + {} more...", all[..SHOWN].join(","), n - SHOWN),
        _ => all.join(","),
    }
}
