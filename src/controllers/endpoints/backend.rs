//! What a pod is to a service.

use k8s_openapi::api::core::v1::{ContainerPort, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pod::{is_over, is_ready};

/// A port on which pods answer: the name is the service's, the number the pod's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    pub name: Option<String>,
    pub protocol: String,
    pub number: i32,
    pub app_protocol: Option<String>,
}

/// The ports of a service on a pod. A port that the pod does not name is left out.
pub fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let service_ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let mut ports: Vec<Port> = service_ports
        .filter_map(|port| {
            Some(Port {
                // A single port may go without a name; an empty one is that of EndpointSlices.
                name: port.name.clone(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                number: target(port, pod)?,
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let spec = pod.spec.as_ref()?;
            let sidecars =
                spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let is_meant = |candidate: &&ContainerPort| {
                candidate.name.as_ref() == Some(name) && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
            };
            let mut ports =
                spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
            ports.find(is_meant).map(|port| port.container_port)
        }
    }
}

/// The addresses of a pod, of one family or the other.
pub fn addresses(pod: &Pod, ipv6: bool) -> Vec<String> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
    let one = status.pod_ip.iter().filter(|_| status.pod_ips.as_ref().is_none_or(Vec::is_empty));
    all.chain(one).filter(|ip| !ip.is_empty() && ip.contains(':') == ipv6).take(1).cloned().collect()
}

/// Whether a pod is among the endpoints at all; those that are being deleted are, where `terminating`.
pub fn is_endpoint(pod: &Pod, terminating: bool) -> bool {
    !is_over(pod) && (terminating || pod.metadata.deletion_timestamp.is_none())
}

/// The name under which a pod is known within its headless service.
pub fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let in_service = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|hostname| !hostname.is_empty() && in_service)
}

pub fn node_name(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone().filter(|name| !name.is_empty())
}

pub fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// Whether two states of a pod are different endpoints.
pub fn differs(old: &Pod, new: &Pod) -> bool {
    let facts = |pod: &Pod| {
        let spec = pod.spec.as_ref();
        (
            addresses(pod, false),
            addresses(pod, true),
            is_ready(pod),
            is_over(pod),
            pod.metadata.deletion_timestamp.is_some(),
            node_name(pod),
            spec.and_then(|spec| spec.hostname.clone()),
            spec.and_then(|spec| spec.subdomain.clone()),
        )
    };
    old.metadata.labels != new.metadata.labels || facts(old) != facts(new)
}

/// Whether the controllers make the endpoints of a service, or its owner does.
pub fn is_selecting(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    spec.selector.as_ref().is_some_and(|selector| !selector.is_empty()) && spec.type_.as_deref() != Some("ExternalName")
}

pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

pub fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"hostname": "h", "subdomain": "s", "containers": [
            {"name": "c", "ports": [{"name": "web", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}]},
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}}))
        .expect("a pod")
    }

    fn service(ports: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": {"selector": {"a": "b"}, "ports": ports}}))
            .expect("a service")
    }

    #[test]
    fn ports_are_found_by_number_and_by_name() {
        let check = |port: Value, expect: Option<i32>| {
            let found = ports(&service(json!([port])), &pod());
            assert_eq!(found.first().map(|port| port.number), expect, "{port}");
        };
        check(json!({"port": 80}), Some(80));
        check(json!({"port": 80, "targetPort": 8000}), Some(8000));
        check(json!({"port": 80, "targetPort": "web"}), Some(8080));
        check(json!({"port": 80, "targetPort": "dns"}), None);
        check(json!({"port": 53, "targetPort": "dns", "protocol": "UDP"}), Some(53));
        check(json!({"port": 80, "targetPort": "gone"}), None);
    }

    #[test]
    fn addresses_and_names() {
        assert_eq!(addresses(&pod(), false), ["10.0.0.1"]);
        assert_eq!(addresses(&pod(), true), ["fd00::1"]);
        assert_eq!(hostname(&service(json!([])), &pod()).as_deref(), Some("h"));
        let mut other = service(json!([]));
        other.metadata.name = Some("other".into());
        assert_eq!(hostname(&other, &pod()), None);
    }

    #[test]
    fn only_what_endpoints_show_makes_a_difference() {
        let mut changed = pod();
        changed.metadata.resource_version = Some("9".into());
        changed.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
        assert!(!differs(&pod(), &changed));
        changed.status.get_or_insert_default().phase = Some("Failed".into());
        assert!(differs(&pod(), &changed));
    }
}
