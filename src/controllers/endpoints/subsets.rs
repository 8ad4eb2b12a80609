//! The Endpoints object of a service: the older form of EndpointSlices.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::backend::{
    Port, addresses, hostname, is_endpoint, is_headless, node_name, ports, publishes_not_ready, reference,
};
use super::slices::annotations;
use crate::pod::is_ready;

/// Addresses in one object; more are left out, and that is told.
const MOST: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const HEADLESS: &str = "service.kubernetes.io/headless";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

/// The object as it should be, if it is not.
pub fn plan_endpoints(service: &Service, pods: &[Arc<Pod>], old: Option<&Endpoints>) -> Option<Endpoints> {
    let mut subsets = subsets(service, pods);
    let truncated = truncate(&mut subsets);
    let mut next = old.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        ..Endpoints::default()
    });
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    next.metadata.labels = Some(labels);
    let mut annotations = annotations(&service.metadata).unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    }
    next.metadata.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
    if next.subsets.clone().unwrap_or_default() != subsets {
        next.subsets = Some(subsets);
    }
    if old == Some(&next) { None } else { Some(next) }
}

/// Addresses with the same ports together, in the order of addresses.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let publish = publishes_not_ready(service);
    let ipv6 = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref()?.first()).is_some_and(|f| f == "IPv6");
    let mut groups: BTreeMap<Vec<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    let mut seen = HashSet::new();
    for pod in pods.iter().filter(|pod| is_endpoint(pod, publish)) {
        let ports = ports(service, pod);
        if ports.is_empty() && !is_headless(service) {
            continue;
        }
        let Some(ip) = addresses(pod, ipv6).into_iter().next() else { continue };
        if !seen.insert((ip.clone(), ports.clone())) {
            continue;
        }
        let address = EndpointAddress {
            ip,
            hostname: hostname(service, pod),
            node_name: node_name(pod),
            target_ref: Some(reference(pod)),
        };
        let (ready, not_ready) = groups.entry(ports).or_default();
        if publish || is_ready(pod) { ready.push(address) } else { not_ready.push(address) }
    }
    let some = |mut addresses: Vec<EndpointAddress>| {
        addresses.sort_by(|a, b| a.ip.cmp(&b.ip));
        Some(addresses).filter(|addresses| !addresses.is_empty())
    };
    let shaped = |port: Port| EndpointPort {
        name: port.name.filter(|name| !name.is_empty()),
        port: port.number,
        protocol: Some(port.protocol),
        app_protocol: port.app_protocol,
    };
    groups
        .into_iter()
        .map(|(ports, (ready, not_ready))| EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(not_ready),
            ports: Some(ports.into_iter().map(shaped).collect::<Vec<_>>()).filter(|ports| !ports.is_empty()),
        })
        .collect()
}

/// Cuts to what one object may hold, ready ones last; says whether it had to.
fn truncate(subsets: &mut Vec<EndpointSubset>) -> bool {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|subset| count(&subset.addresses)).sum();
    let not_ready: usize = subsets.iter().map(|subset| count(&subset.not_ready_addresses)).sum();
    if ready + not_ready <= MOST {
        return false;
    }
    let mut room = (ready.min(MOST), MOST.saturating_sub(ready));
    for subset in subsets.iter_mut() {
        let cut = |list: &mut Option<Vec<EndpointAddress>>, room: &mut usize| {
            if let Some(addresses) = list {
                addresses.truncate(*room);
                *room -= addresses.len();
            }
            *list = list.take().filter(|addresses| !addresses.is_empty());
        };
        cut(&mut subset.addresses, &mut room.0);
        cut(&mut subset.not_ready_addresses, &mut room.1);
    }
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(more: Value) -> Service {
        let mut service = json!({"metadata": {"name": "s", "namespace": "x"},
            "spec": {"selector": {"app": "a"}, "ports": [{"name": "web", "port": 80, "targetPort": 8080}]}});
        service["spec"].as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        serde_json::from_value(service).expect("a service")
    }

    fn pod(number: usize, ready: &str) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": format!("p{number}"), "namespace": "x"}, "spec": {"containers": []},
            "status": {"podIP": format!("10.0.{}.{}", number / 200, number % 200), "conditions": [{"type": "Ready", "status": ready}]}});
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn ready_and_other_addresses_are_apart() {
        let pods = [pod(2, "True"), pod(1, "True"), pod(3, "False")];
        let endpoints = plan_endpoints(&service(json!({})), &pods, None).expect("there is none");
        let ips = |addresses: &Value| -> Vec<String> {
            addresses.as_array().map(|all| all.iter().map(|a| a["ip"].to_string()).collect()).unwrap_or_default()
        };
        let subsets = json!(endpoints)["subsets"].clone();
        assert_eq!(ips(&subsets[0]["addresses"]), ["\"10.0.0.1\"", "\"10.0.0.2\""]);
        assert_eq!(ips(&subsets[0]["notReadyAddresses"]), ["\"10.0.0.3\""]);
        assert_eq!(subsets[0]["ports"], json!([{"name": "web", "port": 8080, "protocol": "TCP"}]));
        assert_eq!(plan_endpoints(&service(json!({})), &pods, Some(&endpoints)), None, "nothing to do");
        let published = plan_endpoints(&service(json!({"publishNotReadyAddresses": true})), &pods, None).expect("none");
        assert_eq!(ips(&json!(published)["subsets"][0]["addresses"]).len(), 3);
        let empty = plan_endpoints(&service(json!({})), &[], Some(&endpoints)).expect("they are gone");
        assert_eq!(empty.subsets, Some(Vec::new()));
    }

    #[test]
    fn too_many_are_cut_and_told() {
        let pods: Vec<_> = (0..1100).map(|n| pod(n, if n < 50 { "False" } else { "True" })).collect();
        let endpoints = plan_endpoints(&service(json!({})), &pods, None).expect("there is none");
        let subset = &endpoints.subsets.as_ref().expect("one")[0];
        assert_eq!((subset.addresses.as_ref().map(Vec::len), &subset.not_ready_addresses), (Some(MOST), &None));
        assert_eq!(endpoints.metadata.annotations.as_ref().map(|a| a[OVER_CAPACITY].as_str()), Some("truncated"));
    }
}
