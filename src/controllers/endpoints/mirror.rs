//! The EndpointSlices of Endpoints that somebody made by hand, for a service without a selector: proxies and names are
//! made from slices alone.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::backend::Port;
use super::slices::{Changes, Groups, MANAGED_BY, SERVICE_NAME, annotations, of_family, plan_family};
use crate::owner;

/// Addresses of one subset that are told of.
pub const MOST: usize = 1000;
pub const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";

#[derive(Debug, Default, PartialEq)]
pub struct Mirrored {
    pub changes: Changes,
    /// Addresses that are none.
    pub invalid: usize,
    /// Addresses that are too many.
    pub left_out: usize,
}

/// Whether Endpoints are to be told as slices at all.
pub fn is_mirrored(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    let skips = labels.and_then(|labels| labels.get("endpointslice.kubernetes.io/skip-mirror"));
    skips.is_none_or(|skips| skips != "true") && !super::is_lease(endpoints)
}

pub fn plan_mirror(endpoints: &Endpoints, existing: &[Arc<EndpointSlice>]) -> Mirrored {
    let mut mirrored = Mirrored::default();
    let (mut ipv4, mut ipv6) = (Groups::new(), Groups::new());
    for (ports, addresses) in subsets(endpoints) {
        let (total, mut told) = (addresses.len(), 0);
        let invalid = mirrored.invalid;
        // The ready ones first: they are wanted most.
        for ready in [true, false] {
            for (address, _) in addresses.iter().filter(|(_, is)| *is == ready) {
                if told == MOST {
                    break;
                }
                let Some(ip) = parse(&address.ip) else {
                    mirrored.invalid += 1;
                    continue;
                };
                told += 1;
                let groups = if ip.is_ipv6() { &mut ipv6 } else { &mut ipv4 };
                groups.entry(ports.clone()).or_default().push(endpoint(address, ip, ready));
            }
        }
        mirrored.left_out += total - told - (mirrored.invalid - invalid);
    }
    let template = template(endpoints);
    for (family, groups) in [("IPv4", ipv4), ("IPv6", ipv6)] {
        plan_family(&template, family, groups, MOST, &of_family(existing, family), &mut mirrored.changes);
    }
    if endpoints.metadata.deletion_timestamp.is_some() {
        mirrored.changes.create.clear();
    }
    mirrored
}

/// Leading zeros mean nothing, as in all old objects.
fn parse(text: &str) -> Option<IpAddr> {
    skiff_api::kinds::sloppy_ip(text).map(|ip| ip.to_canonical())
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

/// What makes an address another one: pods of one node's network share theirs.
type Host<'a> = (&'a str, Option<&'a str>);
/// Addresses, and whether they are ready.
type Addresses<'a> = Vec<(&'a EndpointAddress, bool)>;

/// In the form that says each port once, with all its addresses, upstream's `RepackSubsets`.
fn subsets(endpoints: &Endpoints) -> Vec<(Vec<Port>, Addresses<'_>)> {
    let mut known: HashMap<Host<'_>, &EndpointAddress> = HashMap::new();
    let mut by_port: BTreeMap<Option<Port>, BTreeMap<Host<'_>, bool>> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = subset.ports.iter().flatten().map(|port| Port {
            name: port.name.clone().filter(|name| !name.is_empty()),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            number: port.port,
            app_protocol: port.app_protocol.clone(),
        });
        let mut ports: Vec<Option<Port>> = ports.map(Some).collect();
        if ports.is_empty() {
            ports.push(None);
        }
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let others = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(others) {
            let uid = address.target_ref.as_ref().and_then(|reference| reference.uid.as_deref());
            let host = (address.ip.as_str(), uid);
            known.entry(host).or_insert(address);
            for port in &ports {
                // Who says that it is not ready is believed.
                *by_port.entry(port.clone()).or_default().entry(host).or_insert(ready) &= ready;
            }
        }
    }
    let mut by_hosts: BTreeMap<Vec<(Host<'_>, bool)>, Vec<Port>> = BTreeMap::new();
    for (port, hosts) in by_port {
        by_hosts.entry(hosts.into_iter().collect()).or_default().extend(port);
    }
    let addresses = |hosts: Vec<(Host<'_>, bool)>| hosts.iter().map(|(host, ready)| (known[host], *ready)).collect();
    by_hosts.into_iter().map(|(hosts, ports)| (ports, addresses(hosts))).collect()
}

fn template(endpoints: &Endpoints) -> ObjectMeta {
    let meta = &endpoints.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), name.clone());
    labels.insert(MANAGED_BY.into(), MIRROR.into());
    ObjectMeta {
        generate_name: Some(format!("{name}-")),
        namespace: meta.namespace.clone(),
        owner_references: Some(vec![owner::reference_to(endpoints)]),
        labels: Some(labels),
        annotations: annotations(meta),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn endpoints(subsets: Value) -> Endpoints {
        serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "x", "uid": "u", "labels": {"a": "b"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "t", "c": "d"}}, "subsets": subsets}))
        .expect("endpoints")
    }

    /// Family, ports, and addresses (`-` before those that are not ready) of each slice; the slices as they are stored.
    fn told(endpoints: &Endpoints, slices: &mut Vec<Arc<EndpointSlice>>) -> Vec<String> {
        let Changes { create, update, delete } = plan_mirror(endpoints, slices).changes;
        slices.retain(|slice| !delete.iter().any(|gone| gone.metadata.name == slice.metadata.name));
        for mut next in create.into_iter().chain(update) {
            let name = next.metadata.name.clone().unwrap_or_else(|| format!("s-{}", slices.len()));
            slices.retain(|slice| slice.metadata.name.as_ref() != Some(&name));
            next.metadata.name = Some(name);
            slices.push(Arc::new(next));
        }
        assert_eq!(plan_mirror(endpoints, slices).changes, Changes::default(), "it is settled");
        let mut lines: Vec<String> = slices
            .iter()
            .map(|slice| {
                let ports = slice.ports.iter().flatten().map(|port| port.port.unwrap_or(0).to_string());
                let mut endpoints = slice.endpoints.clone().unwrap_or_default();
                endpoints.sort_by_key(|endpoint| endpoint.addresses.clone());
                let addresses = endpoints.iter().map(|endpoint| {
                    let ready = endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true));
                    format!("{}{}", if ready { "" } else { "-" }, endpoint.addresses[0])
                });
                let (ports, addresses): (Vec<_>, Vec<_>) = (ports.collect(), addresses.collect());
                format!("{} {} {}", slice.address_type, ports.join(","), addresses.join(","))
            })
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn one_slice_for_each_family_and_set_of_ports() {
        let ports = |ports: &[i32]| ports.iter().map(|port| json!({"port": port})).collect::<Value>();
        let ips = |ips: &[&str]| ips.iter().map(|ip| json!({"ip": ip})).collect::<Value>();
        let mut slices = Vec::new();
        for (subsets, expect) in [
            (json!([{"ports": ports(&[80]), "addresses": ips(&["10.0.0.1"])}]), vec!["IPv4 80 10.0.0.1"]),
            (
                json!([{"ports": ports(&[80]), "addresses": ips(&["10.0.0.2", "::ffff:10.0.0.1"])}]),
                vec!["IPv4 80 10.0.0.1,10.0.0.2"],
            ),
            (
                json!([{"ports": ports(&[81, 80]), "addresses": ips(&["fd00::1", "010.0.0.2"]),
                    "notReadyAddresses": ips(&["10.0.0.1"])}]),
                vec!["IPv4 80,81 -10.0.0.1,10.0.0.2", "IPv6 80,81 fd00::1"],
            ),
            // The same addresses, said port by port.
            (
                json!([{"ports": ports(&[80]), "addresses": ips(&["10.0.0.1"])},
                    {"ports": ports(&[81]), "addresses": ips(&["10.0.0.1"])}]),
                vec!["IPv4 80,81 10.0.0.1"],
            ),
            // Different ones; not ready wins.
            (
                json!([{"ports": ports(&[80]), "addresses": ips(&["10.0.0.1", "10.0.0.2"])},
                    {"ports": ports(&[80, 81]), "notReadyAddresses": ips(&["10.0.0.2"])}]),
                vec!["IPv4 80 10.0.0.1,-10.0.0.2", "IPv4 81 -10.0.0.2"],
            ),
            (json!([{"addresses": ips(&["10.0.0.1"])}]), vec!["IPv4  10.0.0.1"]),
            (json!([{"ports": ports(&[80])}]), vec![]),
            (json!(null), vec![]),
        ] {
            let had = slices.len();
            assert_eq!(told(&endpoints(subsets.clone()), &mut slices), expect, "{subsets} after {had} slices");
        }
    }

    #[test]
    fn a_slice_tells_all_that_the_endpoints_do() {
        let endpoints = endpoints(
            json!([{"ports": [{"name": "web", "port": 80, "protocol": "UDP", "appProtocol": "x"}],
            "addresses": [{"ip": "10.0.0.1", "hostname": "h", "nodeName": "n", "targetRef": {"kind": "Pod", "name": "p"}}]}]),
        );
        let slice = json!(plan_mirror(&endpoints, &[]).changes.create[0]);
        assert_eq!(
            slice,
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"generateName": "s-", "namespace": "x", "annotations": {"c": "d"},
                    "labels": {"a": "b", SERVICE_NAME: "s", MANAGED_BY: MIRROR},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Endpoints", "name": "s", "uid": "u",
                        "controller": true, "blockOwnerDeletion": true}]},
                "ports": [{"name": "web", "port": 80, "protocol": "UDP", "appProtocol": "x"}],
                "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "hostname": "h",
                    "nodeName": "n", "targetRef": {"kind": "Pod", "name": "p"}}]})
        );
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let many: Value = (0..1010).map(|n| json!({"ip": format!("10.0.{}.{}", n / 200, n % 200)})).collect();
        let mirrored = plan_mirror(
            &endpoints(json!([{"ports": [{"port": 80}], "addresses": [{"ip": "boat"}], "notReadyAddresses": many}])),
            &[],
        );
        assert_eq!((mirrored.invalid, mirrored.left_out), (1, 10));
        assert_eq!(mirrored.changes.create[0].endpoints.as_ref().map(Vec::len), Some(MOST));
    }

    #[test]
    fn endpoints_of_the_same_name_are_not_the_same() {
        let subsets = json!([{"ports": [{"port": 80}], "addresses": [{"ip": "10.0.0.1"}]}]);
        let mut slices = Vec::new();
        told(&endpoints(subsets.clone()), &mut slices);
        let mut again = endpoints(subsets);
        again.metadata.uid = Some("another".into());
        told(&again, &mut slices);
        let owners = slices[0].metadata.owner_references.clone().unwrap_or_default();
        assert_eq!(owners.iter().map(|owner| owner.uid.as_str()).collect::<Vec<_>>(), ["another"]);
        again.metadata.deletion_timestamp = serde_json::from_value(json!("2024-01-01T00:00:00Z")).expect("a time");
        assert!(plan_mirror(&again, &[]).changes.create.is_empty(), "nothing is made for what goes");
    }

    #[test]
    fn some_are_passed_over() {
        let mut endpoints = endpoints(json!([]));
        assert!(is_mirrored(&endpoints));
        let skip = "endpointslice.kubernetes.io/skip-mirror".to_owned();
        for (value, expect) in [("false", true), ("true", false)] {
            endpoints.metadata.labels = Some([(skip.clone(), value.to_owned())].into());
            assert_eq!(is_mirrored(&endpoints), expect, "{value}");
        }
        endpoints.metadata.labels = None;
        endpoints.metadata.annotations =
            Some([("control-plane.alpha.kubernetes.io/leader".into(), "me".into())].into());
        assert!(!is_mirrored(&endpoints));
    }
}
