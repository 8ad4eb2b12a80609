//! EndpointSlice.

use k8s_openapi::api::discovery::v1 as discovery;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::{self, Kind};
use crate::kinds::checks::{
    PROTOCOLS, canonical_ip, dns_label, dns_subdomain, immutable, ip, is_ipv4, labels_of, non_special_ip, one_of,
    qualified_name, text,
};
use crate::kinds::facts::{self, AGE, Facts, NAME};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::Row;
use crate::kinds::warnings;
use crate::names;

/// How many entries a cell shows.
const SHOWN: usize = 3;
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;
const TOPOLOGY_MAX: usize = 16;
/// Whose slice it is; those of the controllers are in good form.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLERS: &[&str] = &["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];

pub(super) struct EndpointSlices;

impl Kind for EndpointSlices {
    type Typed = discovery::EndpointSlice;
    const FACTS: Facts = Facts {
        columns: &[
            NAME,
            facts::text("AddressType", "What kind of addresses it holds."),
            facts::text("Ports", "The ports of all its endpoints."),
            facts::text("Endpoints", "The addresses of its endpoints."),
            AGE,
        ],
        generation: true,
        ..Facts::new("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
    };

    fn default(object: &mut Value) {
        let Some(map) = object.as_object_mut() else { return };
        for port in map.items("ports") {
            if port.lacks("name") {
                port.insert("name".to_owned(), "".into());
            }
            port.fill("protocol", "TCP");
        }
    }

    fn prepare_create(object: &mut Value) {
        drop_topology(object, None);
    }

    /// Labels count as content here: they say whose slice it is.
    fn prepare_update(object: &mut Value, old: &Value) {
        if object.get("endpoints") != old.get("endpoints") {
            drop_topology(object, Some(old));
        }
        if object.at("metadata.labels") != old.at("metadata.labels") {
            adapter::bump_generation(object, old);
        }
    }

    fn validate(slice: &discovery::EndpointSlice, errors: &mut Errors) {
        address_type(slice, errors);
        ports(slice.ports.as_deref().unwrap_or_default(), errors);
        endpoints(slice, errors);
    }

    fn validate_update(slice: &discovery::EndpointSlice, old: &discovery::EndpointSlice, errors: &mut Errors) {
        address_type(slice, errors);
        ports(slice.ports.as_deref().unwrap_or_default(), errors);
        if slice.endpoints != old.endpoints {
            endpoints(slice, errors);
        }
        immutable(&slice.address_type, &old.address_type, &Path::new("addressType"), errors);
    }

    fn warnings(slice: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        if old.is_none() && slice.text("addressType") == "FQDN" {
            out.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        let by = slice.at("metadata.labels").get(MANAGED_BY).and_then(Value::as_str);
        if by.is_some_and(|by| CONTROLLERS.contains(&by)) {
            return out;
        }
        for (i, endpoint) in slice.list("endpoints").iter().enumerate() {
            for (j, address) in endpoint.list("addresses").iter().enumerate() {
                let path = format!("endpoints[{i}].addresses[{j}]");
                warnings::ip(address.as_str().unwrap_or_default(), &path, &mut out);
            }
        }
        out
    }

    fn cells(slice: &Value, row: &mut Row) {
        let port = |port: &Value| match (port.at("port").as_i64(), port.at("name").as_str()) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => "*".to_owned(),
        };
        let addresses = slice.list("endpoints").iter().flat_map(|e| e.list("addresses"));
        row.name(slice);
        row.push(slice.text("addressType"));
        row.push(some_of(slice.list("ports").iter().map(port).collect()));
        row.push(some_of(addresses.filter_map(Value::as_str).map(str::to_owned).collect()));
        row.age(slice);
    }
}

fn some_of(all: Vec<String>) -> String {
    match all.len() {
        0 => "<unset>".to_owned(),
        n if n > SHOWN => format!("{} + {} more...", all[..SHOWN].join(","), n - SHOWN),
        _ => all.join(","),
    }
}

/// The topology of old is read only; the node that it names is kept where it was the only place that did.
fn drop_topology(object: &mut Value, old: Option<&Value>) {
    let host = |topology: &Value| topology.get("kubernetes.io/hostname").and_then(Value::as_str).map(str::to_owned);
    let before: Vec<String> = old
        .into_iter()
        .flat_map(|old| old.list("endpoints"))
        .filter_map(|endpoint| host(endpoint.at("deprecatedTopology")))
        .collect();
    for endpoint in object.as_object_mut().into_iter().flat_map(|object| object.items("endpoints")) {
        let node = endpoint.remove("deprecatedTopology").and_then(|topology| host(&topology));
        if let Some(node) = node.filter(|node| before.contains(node) && names::dns_subdomain(node).is_empty()) {
            endpoint.fill("nodeName", node);
        }
    }
}

fn address_type(slice: &discovery::EndpointSlice, errors: &mut Errors) {
    let path = Path::new("addressType");
    match slice.address_type.as_str() {
        "" => errors.required(&path, ""),
        kind => one_of(kind, &["FQDN", "IPv4", "IPv6"], &path, errors),
    }
}

fn endpoints(slice: &discovery::EndpointSlice, errors: &mut Errors) {
    let list = Path::new("endpoints");
    let endpoints = slice.endpoints.as_deref().unwrap_or_default();
    if endpoints.len() > ENDPOINTS_MAX {
        return errors.too_many(&list, endpoints.len(), ENDPOINTS_MAX);
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        self::endpoint(endpoint, &slice.address_type, &list.index(i), errors);
    }
}

fn endpoint(endpoint: &discovery::Endpoint, address_type: &str, path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("addresses");
    match endpoint.addresses.len() {
        0 => errors.required(&list, "must contain at least 1 address"),
        n if n > ADDRESSES_MAX => errors.too_many(&list, n, ADDRESSES_MAX),
        _ => {}
    }
    for (i, address) in endpoint.addresses.iter().enumerate() {
        let path = list.index(i);
        let (valid, other) = match address_type {
            "IPv4" => (ip(address, &path, errors), "must be an IPv4 address"),
            "IPv6" => (canonical_ip(address, &path, errors), "must be an IPv6 address"),
            "FQDN" => {
                domain(address, &path, errors);
                continue;
            }
            _ => continue,
        };
        if !valid {
            continue;
        }
        if is_ipv4(address) != (address_type == "IPv4") {
            errors.invalid(&list, address, other);
        }
        non_special_ip(address, &path, errors);
    }
    if let Some(node) = &endpoint.node_name {
        dns_subdomain(node, &path.child("nodeName"), errors);
    }
    let topology_path = path.child("deprecatedTopology");
    let topology = endpoint.deprecated_topology.iter().flatten();
    if topology.clone().count() > TOPOLOGY_MAX {
        errors.too_many(&topology_path, topology.clone().count(), TOPOLOGY_MAX);
    }
    labels_of(topology, &topology_path, errors);
    if let Some(name) = &endpoint.hostname {
        dns_label(name, &path.child("hostname"), errors);
    }
    if let Some(hints) = &endpoint.hints {
        self::hints(hints, &path.child("hints"), errors);
    }
}

/// A domain that says where it ends: with two labels at least.
fn domain(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let wrong = names::dns_subdomain(name);
    if !wrong.is_empty() {
        return errors.invalid(path, name, &wrong.join(","));
    }
    if !name.contains('.') {
        return errors.invalid(path, name, "should be a domain with at least two segments separated by dots");
    }
    for label in name.split('.') {
        let wrong = names::dns_label(label);
        if !wrong.is_empty() {
            return errors.invalid(path, label, &wrong.join(","));
        }
    }
}

fn hints(hints: &discovery::EndpointHints, path: &Path<'_>, errors: &mut Errors) {
    let zones: Vec<&str> = hints.for_zones.iter().flatten().map(|zone| zone.name.as_str()).collect();
    let nodes: Vec<&str> = hints.for_nodes.iter().flatten().map(|node| node.name.as_str()).collect();
    if hinted(&zones, &path.child("forZones"), names::label_value, errors) {
        hinted(&nodes, &path.child("forNodes"), names::dns_subdomain, errors);
    }
}

/// Whether they are few enough to look at.
fn hinted(all: &[&str], list: &Path<'_>, check: fn(&str) -> Vec<String>, errors: &mut Errors) -> bool {
    if all.len() > HINTS_MAX {
        errors.too_many(list, all.len(), HINTS_MAX);
        return false;
    }
    for (i, name) in all.iter().enumerate() {
        let item = list.index(i);
        let path = item.child("name");
        if all[..i].contains(name) {
            errors.duplicate(&path, name);
        }
        errors.invalid_each(&path, *name, check(name));
    }
    true
}

fn ports(ports: &[discovery::EndpointPort], errors: &mut Errors) {
    let list = Path::new("ports");
    if ports.len() > PORTS_MAX {
        return errors.too_many(&list, ports.len(), PORTS_MAX);
    }
    let mut names = std::collections::BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = list.index(i);
        let name = text(&port.name);
        if !name.is_empty() {
            dns_label(name, &path.child("name"), errors);
        }
        if !names.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        match &port.protocol {
            None => errors.required(&path.child("protocol"), ""),
            Some(protocol) => one_of(protocol, PROTOCOLS, &path.child("protocol"), errors),
        }
        if let Some(protocol) = &port.app_protocol {
            qualified_name(protocol, &path.child("appProtocol"), errors);
        }
    }
}
