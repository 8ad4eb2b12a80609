//! EndpointSlice.

use k8s_openapi::api::discovery::v1 as discovery;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::{self, Kind};
use crate::kinds::checks::{
    PROTOCOLS, dns_label, dns_subdomain, immutable, is_ipv4, is_ipv6, non_special_ip, one_of, port_number,
    qualified_name, required, text,
};
use crate::kinds::facts::{self, AGE, Facts, NAME};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::Row;

/// How many entries a cell shows.
const SHOWN: usize = 3;
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;

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

    /// Labels count as content here: they say whose slice it is.
    fn prepare_update(object: &mut Value, old: &Value) {
        if object.at("metadata.labels") != old.at("metadata.labels") {
            adapter::bump_generation(object, old);
        }
    }

    fn validate(slice: &discovery::EndpointSlice, errors: &mut Errors) {
        one_of(&slice.address_type, &["FQDN", "IPv4", "IPv6"], &Path::new("addressType"), errors);
        let list = Path::new("endpoints");
        let endpoints = slice.endpoints.as_deref().unwrap_or_default();
        if endpoints.len() > ENDPOINTS_MAX {
            errors.too_many(&list, endpoints.len(), ENDPOINTS_MAX);
        } else {
            for (i, endpoint) in endpoints.iter().enumerate() {
                self::endpoint(endpoint, &slice.address_type, &list.index(i), errors);
            }
        }
        ports(slice.ports.as_deref().unwrap_or_default(), errors);
    }

    fn validate_update(slice: &discovery::EndpointSlice, old: &discovery::EndpointSlice, errors: &mut Errors) {
        Self::validate(slice, errors);
        immutable(&slice.address_type, &old.address_type, &Path::new("addressType"), errors);
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

fn endpoint(endpoint: &discovery::Endpoint, address_type: &str, path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("addresses");
    match endpoint.addresses.len() {
        0 => errors.required(&list, "must contain at least 1 address"),
        n if n > ADDRESSES_MAX => errors.too_many(&list, n, ADDRESSES_MAX),
        _ => {}
    }
    for (i, address) in endpoint.addresses.iter().enumerate() {
        let path = list.index(i);
        match address_type {
            "IPv4" if !is_ipv4(address) => errors.invalid(&path, address, "must be a valid IPv4 address"),
            "IPv6" if !is_ipv6(address) => errors.invalid(&path, address, "must be a valid IPv6 address"),
            "IPv4" | "IPv6" => non_special_ip(address, &path, errors),
            _ => {
                let name = address.strip_suffix('.').unwrap_or(address);
                dns_subdomain(name, &path, errors);
                if !name.contains('.') {
                    let message = "should be a domain with at least two segments separated by dots";
                    errors.invalid(&path, address, message);
                }
            }
        }
    }
    if let Some(node) = &endpoint.node_name {
        dns_subdomain(node, &path.child("nodeName"), errors);
    }
    for (key, _) in endpoint.deprecated_topology.iter().flatten() {
        qualified_name(key, &path.child("deprecatedTopology"), errors);
    }
    if let Some(name) = &endpoint.hostname {
        dns_label(name, &path.child("hostname"), errors);
    }
    let Some(hints) = &endpoint.hints else { return };
    let list = path.child("hints.forZones");
    let zones = hints.for_zones.as_deref().unwrap_or_default();
    if zones.len() > HINTS_MAX {
        return errors.too_many(&list, zones.len(), HINTS_MAX);
    }
    for (i, zone) in zones.iter().enumerate() {
        required(&zone.name, &list.index(i).child("name"), errors);
        if zones[..i].contains(zone) {
            errors.duplicate(&list.index(i), &zone.name);
        }
    }
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
        one_of(text(&port.protocol), PROTOCOLS, &path.child("protocol"), errors);
        if let Some(number) = port.port {
            port_number(number, &path.child("port"), errors);
        }
        if let Some(protocol) = &port.app_protocol {
            qualified_name(protocol, &path.child("appProtocol"), errors);
        }
    }
}
