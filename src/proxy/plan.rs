use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointPort, EndpointSlice};
use skiff_network::{Cidr, Endpoint, Protocol, ServicePort};

/// Of `sessionAffinityConfig`, where it is not given.
const DEFAULT_AFFINITY_S: u32 = 10_800;

/// What each port of a service asks of the node `node_name`, by `namespace/name:port-name`. Nothing for services
/// that have no address of their own (headless, ExternalName), and for the one at `dns_ip`: every node answers
/// there itself.
pub(crate) fn plan_service(
    service: &Service,
    slices: &[Arc<EndpointSlice>],
    node_name: &str,
    dns_ip: Ipv4Addr,
) -> Vec<(String, ServicePort)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let cluster_ips = cluster_ips(spec);
    if cluster_ips.is_empty()
        || cluster_ips.contains(&IpAddr::V4(dns_ip))
        || spec.type_.as_deref() == Some("ExternalName")
    {
        return Vec::new();
    }
    let external_ips = external_ips(service, spec);
    let meta = &service.metadata;
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let name = port.name.as_deref().unwrap_or_default();
        let protocol = Protocol::from_name(port.protocol.as_deref().unwrap_or("TCP"))?;
        let key = format!(
            "{}/{}:{name}",
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default()
        );
        let candidates = candidates(slices, name, protocol, node_name);
        let planned = ServicePort {
            protocol,
            cluster_ips: cluster_ips.clone(),
            external_ips: external_ips.clone(),
            port: port_number(port.port)?,
            node_port: port.node_port.and_then(port_number),
            endpoints: usable(&candidates, |_| true),
            local_endpoints: usable(&candidates, |candidate| candidate.local),
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            affinity_s: affinity_s(spec),
            source_ranges: source_ranges(spec),
        };
        Some((key, planned))
    });
    ports.collect()
}

fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let many = spec.cluster_ips.iter().flatten();
    let mut ips: Vec<IpAddr> = many.chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok()).collect();
    ips.sort();
    ips.dedup();
    ips
}

fn external_ips(service: &Service, spec: &ServiceSpec) -> Vec<IpAddr> {
    let ingress =
        service.status.iter().filter_map(|s| s.load_balancer.as_ref()).flat_map(|l| l.ingress.iter().flatten());
    // Packets to a load balancer in mode Proxy have left for it, and come back with another address.
    let balanced = ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.as_ref());
    let balanced = balanced.filter(|_| spec.type_.as_deref() == Some("LoadBalancer"));
    let mut ips: Vec<IpAddr> =
        spec.external_ips.iter().flatten().chain(balanced).filter_map(|ip| ip.parse().ok()).collect();
    ips.sort();
    ips.dedup();
    ips
}

fn affinity_s(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).and_then(|s| u32::try_from(s).ok());
    Some(seconds.unwrap_or(DEFAULT_AFFINITY_S))
}

fn source_ranges(spec: &ServiceSpec) -> Vec<Cidr> {
    let texts = spec.load_balancer_source_ranges.iter().flatten();
    texts.filter_map(|text| text.trim().parse().ok()).collect()
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    ready: bool,
    /// Terminating, but still willing.
    draining: bool,
    local: bool,
}

/// The IPv4 endpoints of a port in all slices. Slices may name one twice while it moves between them.
fn candidates(
    slices: &[Arc<EndpointSlice>],
    port_name: &str,
    protocol: Protocol,
    node_name: &str,
) -> BTreeMap<Endpoint, Candidate> {
    let mut found: BTreeMap<Endpoint, Candidate> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let is_it = |port: &&EndpointPort| {
            port.name.as_deref().unwrap_or_default() == port_name
                && Protocol::from_name(port.protocol.as_deref().unwrap_or("TCP")) == Some(protocol)
        };
        for port in slice.ports.iter().flatten().filter(is_it).filter_map(|p| p.port.and_then(port_number)) {
            for (ip, candidate) in slice.endpoints.iter().flatten().filter_map(|e| read(e, node_name)) {
                let known = found.entry(Endpoint { ip, port }).or_insert(candidate);
                known.ready |= candidate.ready;
                known.draining |= candidate.draining;
            }
        }
    }
    found
}

fn read(endpoint: &SliceEndpoint, node_name: &str) -> Option<(Ipv4Addr, Candidate)> {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    let local = endpoint.node_name.as_deref() == Some(node_name);
    // All addresses of one endpoint are the same to a client; upstream takes the first.
    let ip = endpoint.addresses.first()?.parse().ok()?;
    Some((ip, Candidate { ready, draining: serving && terminating, local }))
}

/// The ready ones; where there is none, those that are on their way out but still serve (KEP-1669).
fn usable(candidates: &BTreeMap<Endpoint, Candidate>, is_wanted: impl Fn(&Candidate) -> bool) -> Vec<Endpoint> {
    let wanted = || candidates.iter().filter(|(_, candidate)| is_wanted(candidate));
    let ready: Vec<Endpoint> = wanted().filter(|(_, c)| c.ready).map(|(endpoint, _)| *endpoint).collect();
    if !ready.is_empty() {
        return ready;
    }
    wanted().filter(|(_, c)| c.draining).map(|(endpoint, _)| *endpoint).collect()
}

fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const DNS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);

    fn service(spec: Value) -> Service {
        let object = json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec,
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}]}}});
        serde_json::from_value(object).expect("a service")
    }

    fn slice(ports: Value, endpoints: Value) -> Arc<EndpointSlice> {
        let object =
            json!({"metadata": {"name": "web-1"}, "addressType": "IPv4", "ports": ports, "endpoints": endpoints});
        Arc::new(serde_json::from_value(object).expect("a slice"))
    }

    fn endpoint(ip: &str, node: &str, conditions: Value) -> Value {
        json!({"addresses": [ip], "nodeName": node, "conditions": conditions})
    }

    fn ips(endpoints: &[Endpoint]) -> Vec<String> {
        endpoints.iter().map(|e| format!("{}:{}", e.ip, e.port)).collect()
    }

    #[test]
    fn services_without_an_address_are_left_out() {
        for spec in [
            json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}),
            json!({"type": "ExternalName", "externalName": "example.org", "ports": [{"port": 80}]}),
            json!({"ports": [{"port": 80}]}),
            json!({"clusterIP": "10.43.0.10", "clusterIPs": ["10.43.0.10"], "ports": [{"port": 53}]}),
        ] {
            assert_eq!(plan_service(&service(spec.clone()), &[], "n1", DNS), [], "{spec}");
        }
    }

    #[test]
    fn every_field_has_its_place() {
        let spec = json!({
            "type": "LoadBalancer", "clusterIP": "10.43.0.20", "clusterIPs": ["10.43.0.20", "fd00::20"],
            "externalIPs": ["198.51.100.7"], "loadBalancerSourceRanges": ["192.0.2.0/24"],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local",
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        });
        let ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}]);
        let slices = [slice(ports, json!([endpoint("10.42.0.5", "n1", json!({}))]))];
        let planned = plan_service(&service(spec), &slices, "n1", DNS);
        let keys: Vec<&str> = planned.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["default/web:http", "default/web:dns"]);
        let ips = |texts: &[&str]| texts.iter().map(|t| t.parse().expect("an address")).collect::<Vec<IpAddr>>();
        let at = |port| vec![Endpoint { ip: Ipv4Addr::new(10, 42, 0, 5), port }];
        let http = ServicePort {
            protocol: Protocol::Tcp,
            cluster_ips: ips(&["10.43.0.20", "fd00::20"]),
            external_ips: ips(&["198.51.100.7", "203.0.113.1"]),
            port: 80,
            node_port: Some(30080),
            endpoints: at(8080),
            local_endpoints: at(8080),
            internal_local: true,
            external_local: true,
            affinity_s: Some(60),
            source_ranges: vec!["192.0.2.0/24".parse().expect("a network")],
        };
        let dns = ServicePort {
            protocol: Protocol::Udp,
            port: 53,
            node_port: None,
            endpoints: at(5353),
            local_endpoints: at(5353),
            ..http.clone()
        };
        assert_eq!(planned[0].1, http);
        assert_eq!(planned[1].1, dns);
    }

    #[test]
    fn which_endpoints_are_used() {
        let (ready, unready) = (json!({"ready": true}), json!({"ready": false}));
        let draining = json!({"ready": false, "serving": true, "terminating": true});
        let dead = json!({"ready": false, "serving": false, "terminating": true});
        type Told<'a> = (&'a str, &'a str, &'a Value);
        let cases: [(&[Told<'_>], &[&str], &[&str]); 6] = [
            (
                &[("10.0.0.1", "n1", &ready), ("10.0.0.2", "n2", &ready)],
                &["10.0.0.1:80", "10.0.0.2:80"],
                &["10.0.0.1:80"],
            ),
            (&[("10.0.0.1", "n1", &unready), ("10.0.0.2", "n2", &ready)], &["10.0.0.2:80"], &[]),
            (&[("10.0.0.1", "n1", &draining), ("10.0.0.2", "n2", &ready)], &["10.0.0.2:80"], &["10.0.0.1:80"]),
            (&[("10.0.0.1", "n1", &draining), ("10.0.0.2", "n2", &dead)], &["10.0.0.1:80"], &["10.0.0.1:80"]),
            (&[("10.0.0.1", "n1", &unready), ("10.0.0.2", "n2", &dead)], &[], &[]),
            (&[("10.0.0.1", "n1", &unready), ("10.0.0.1", "n1", &ready)], &["10.0.0.1:80"], &["10.0.0.1:80"]),
        ];
        for (endpoints, all, local) in cases {
            let list: Vec<Value> = endpoints.iter().map(|(ip, node, c)| endpoint(ip, node, (*c).clone())).collect();
            let slices = [slice(json!([{"name": "", "port": 80}]), json!(list))];
            let spec = json!({"clusterIP": "10.43.0.20", "ports": [{"port": 80, "protocol": "TCP"}]});
            let planned = plan_service(&service(spec), &slices, "n1", DNS);
            assert_eq!(ips(&planned[0].1.endpoints), all, "{endpoints:?}");
            assert_eq!(ips(&planned[0].1.local_endpoints), local, "{endpoints:?}");
        }
    }

    #[test]
    fn other_families_and_ports_are_left_out() {
        let six = json!({"metadata": {}, "addressType": "IPv6", "ports": [{"port": 80}], "endpoints": [{"addresses": ["fd00::1"]}]});
        let slices = [
            Arc::new(serde_json::from_value(six).expect("a slice")),
            slice(json!([{"name": "other", "port": 80}]), json!([endpoint("10.0.0.1", "n1", json!({}))])),
            slice(json!([{"port": 80, "protocol": "UDP"}]), json!([endpoint("10.0.0.2", "n1", json!({}))])),
            slice(json!([{"name": ""}]), json!([endpoint("10.0.0.3", "n1", json!({}))])),
            slice(Value::Null, json!([endpoint("not an address", "n1", json!({}))])),
        ];
        let spec = json!({"clusterIP": "10.43.0.20", "ports": [{"port": 80}]});
        let planned = plan_service(&service(spec), &slices, "n1", DNS);
        assert_eq!(planned[0].1.endpoints, []);
    }
}
