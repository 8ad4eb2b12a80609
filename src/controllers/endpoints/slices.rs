//! Which EndpointSlices a service should have.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::backend::{
    Port, addresses, hostname, is_endpoint, is_headless, node_name, ports, publishes_not_ready, reference,
};
use crate::owner;
use crate::pod::is_ready;

/// Endpoints in one slice.
const MOST: usize = 100;
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// `zone` gives the zone of a node.
pub fn plan_slices(
    service: &Service,
    pods: &[Arc<Pod>],
    existing: &[Arc<EndpointSlice>],
    zone: impl Fn(&str) -> Option<String>,
) -> Changes {
    let mut changes = Changes::default();
    let (families, template) = (families(service), template(service));
    for ipv6 in [false, true] {
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        let mine = of_family(existing, family);
        if families.contains(&family) {
            let mut groups = groups(service, pods, ipv6, &zone);
            if groups.is_empty() {
                // One slice tells that there is nothing; without any, nothing would be known.
                groups.insert(Vec::new(), Vec::new());
            }
            plan_family(&template, family, groups, MOST, &mine, &mut changes);
        } else {
            changes.delete.extend(mine.into_iter().cloned());
        }
    }
    changes
}

pub fn of_family<'a>(slices: &'a [Arc<EndpointSlice>], family: &str) -> Vec<&'a Arc<EndpointSlice>> {
    slices.iter().filter(|slice| slice.address_type == family).collect()
}

fn families(service: &Service) -> Vec<&str> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref());
    match families {
        Some(families) if !families.is_empty() => families.iter().map(String::as_str).collect(),
        _ => {
            let ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
            if ip.contains(':') { vec!["IPv6"] } else { vec!["IPv4"] }
        }
    }
}

/// The endpoints, by the ports that they answer on (which differ where a port is named), in the order of pods.
pub type Groups = BTreeMap<Vec<Port>, Vec<Endpoint>>;

fn groups(service: &Service, pods: &[Arc<Pod>], ipv6: bool, zone: &impl Fn(&str) -> Option<String>) -> Groups {
    let mut groups = Groups::new();
    for pod in pods.iter().filter(|pod| is_endpoint(pod, true)) {
        let addresses = addresses(pod, ipv6);
        if addresses.is_empty() {
            continue;
        }
        let serving = is_ready(pod);
        let terminating = pod.metadata.deletion_timestamp.is_some();
        let node_name = node_name(pod);
        let endpoint = Endpoint {
            addresses,
            conditions: Some(EndpointConditions {
                ready: Some(publishes_not_ready(service) || (serving && !terminating)),
                serving: Some(serving),
                terminating: Some(terminating),
            }),
            hostname: hostname(service, pod),
            zone: node_name.as_deref().and_then(zone),
            node_name,
            target_ref: Some(reference(pod)),
            ..Endpoint::default()
        };
        groups.entry(ports(service, pod)).or_default().push(endpoint);
    }
    groups
}

/// `template` is what a new slice's metadata is, `most` how many endpoints a slice holds.
pub fn plan_family(
    template: &ObjectMeta,
    family: &str,
    groups: Groups,
    most: usize,
    existing: &[&Arc<EndpointSlice>],
    changes: &mut Changes,
) {
    let mut by_ports: HashMap<Vec<Port>, Vec<&Arc<EndpointSlice>>> = HashMap::new();
    for slice in existing {
        by_ports.entry(slice_ports(slice)).or_default().push(slice);
    }
    let mut drafts = Vec::new();
    let mut spare = Vec::new();
    for (ports, endpoints) in groups {
        let slices = by_ports.remove(&ports).unwrap_or_default();
        for draft in distribute(ports, endpoints, most, slices) {
            match draft.slice {
                Some(slice) if draft.is_surplus => spare.push(slice),
                _ => drafts.push(draft),
            }
        }
    }
    spare.extend(by_ports.into_values().flatten());
    spare.sort_by(|a, b| b.metadata.name.cmp(&a.metadata.name));
    for draft in drafts {
        // A slice that is no longer needed is better used again than deleted.
        match draft.slice.or_else(|| spare.pop()) {
            Some(slice) => {
                let next = shape(template, family, draft.ports, draft.endpoints, Some(slice));
                if next != **slice {
                    changes.update.push(next);
                }
            }
            None => changes.create.push(shape(template, family, draft.ports, draft.endpoints, None)),
        }
    }
    changes.delete.extend(spare.into_iter().cloned());
}

/// What a slice is to hold.
struct Draft<'a> {
    slice: Option<&'a Arc<EndpointSlice>>,
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
    /// It holds something else than before.
    is_touched: bool,
    /// It is empty, and there are others.
    is_surplus: bool,
}

/// Endpoints stay in their slices; new ones go where something changes anyway, then where there is room.
fn distribute<'a>(
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
    most: usize,
    mut slices: Vec<&'a Arc<EndpointSlice>>,
) -> Vec<Draft<'a>> {
    slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let key = |endpoint: &Endpoint| {
        let uid = endpoint.target_ref.as_ref().and_then(|reference| reference.uid.as_deref());
        format!("{} {}", uid.unwrap_or_default(), endpoint.addresses.join(","))
    };
    let order: Vec<String> = endpoints.iter().map(key).collect();
    let mut wanted: HashMap<String, Endpoint> =
        endpoints.into_iter().map(|endpoint| (key(&endpoint), endpoint)).collect();
    let mut drafts: Vec<Draft<'a>> = Vec::new();
    for slice in slices {
        let old = slice.endpoints.as_deref().unwrap_or_default();
        let kept: Vec<Endpoint> = old.iter().filter_map(|endpoint| wanted.remove(&key(endpoint))).take(most).collect();
        let is_touched = kept != old;
        drafts.push(Draft { slice: Some(slice), ports: ports.clone(), endpoints: kept, is_touched, is_surplus: false });
    }
    let mut rest = order.iter().filter_map(|key| wanted.remove(key)).peekable();
    for touched in [true, false] {
        for draft in drafts.iter_mut().filter(|draft| draft.is_touched == touched) {
            while draft.endpoints.len() < most
                && let Some(endpoint) = rest.next()
            {
                draft.endpoints.push(endpoint);
            }
        }
    }
    while rest.peek().is_some() || drafts.is_empty() {
        let endpoints: Vec<Endpoint> = rest.by_ref().take(most).collect();
        drafts.push(Draft { slice: None, ports: ports.clone(), endpoints, is_touched: true, is_surplus: false });
    }
    let some = drafts.iter().any(|draft| !draft.endpoints.is_empty());
    for (at, draft) in drafts.iter_mut().enumerate() {
        draft.is_surplus = draft.endpoints.is_empty() && (some || at > 0);
    }
    drafts
}

fn slice_ports(slice: &EndpointSlice) -> Vec<Port> {
    let ports = slice.ports.iter().flatten().map(|port| Port {
        name: port.name.clone().filter(|name| !name.is_empty()),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
        number: port.port.unwrap_or(0),
        app_protocol: port.app_protocol.clone(),
    });
    let mut ports: Vec<Port> = ports.collect();
    ports.sort();
    ports
}

fn shape(
    template: &ObjectMeta,
    family: &str,
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
    old: Option<&Arc<EndpointSlice>>,
) -> EndpointSlice {
    let mut slice = match old {
        Some(old) => (**old).clone(),
        None => EndpointSlice { metadata: template.clone(), ..EndpointSlice::default() },
    };
    family.clone_into(&mut slice.address_type);
    slice.metadata.labels.clone_from(&template.labels);
    slice.metadata.annotations.clone_from(&template.annotations);
    let owners = slice.metadata.owner_references.as_deref().unwrap_or_default();
    if !template.owner_references.iter().flatten().all(|owner| owners.contains(owner)) {
        // What it is made from was made anew.
        slice.metadata.owner_references.clone_from(&template.owner_references);
    }
    let shaped = |port: Port| EndpointPort {
        // The API's default: there is no port without a name here.
        name: Some(port.name.unwrap_or_default()),
        protocol: Some(port.protocol),
        port: Some(port.number),
        app_protocol: port.app_protocol,
    };
    let ports: Vec<EndpointPort> = ports.into_iter().map(shaped).collect();
    let same = |old: Option<&Vec<EndpointPort>>| {
        let mut old = old.cloned().unwrap_or_default();
        old.iter_mut().for_each(|port| {
            port.name.get_or_insert_default();
        });
        old == ports
    };
    // Absent and empty are the same, and no reason to write.
    if !same(slice.ports.as_ref()) || old.is_none() {
        slice.ports = Some(ports);
    }
    if slice.endpoints.clone().unwrap_or_default() != endpoints || old.is_none() {
        slice.endpoints = Some(endpoints);
    }
    slice
}

fn template(service: &Service) -> ObjectMeta {
    ObjectMeta {
        generate_name: Some(format!("{}-", service.metadata.name.as_deref().unwrap_or_default())),
        namespace: service.metadata.namespace.clone(),
        owner_references: Some(vec![owner::reference_to(service)]),
        labels: Some(labels(service)),
        annotations: annotations(&service.metadata),
        ..ObjectMeta::default()
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

/// Those of what a slice is made from, but for what is about its manifest.
pub fn annotations(meta: &ObjectMeta) -> Option<BTreeMap<String, String>> {
    let mut annotations = meta.annotations.clone()?;
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    annotations.remove("endpoints.kubernetes.io/last-change-trigger-time");
    if annotations.is_empty() { None } else { Some(annotations) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(more: Value) -> Service {
        let mut service = json!({"metadata": {"name": "s", "namespace": "x", "uid": "s-uid", "labels": {"app": "a"}},
            "spec": {"selector": {"app": "a"}, "ports": [{"name": "web", "port": 80, "targetPort": "http"}]}});
        service["spec"].as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        serde_json::from_value(service).expect("a service")
    }

    fn pod(number: usize, port: i32, more: Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": format!("p{number}"), "namespace": "x", "uid": format!("u{number}")},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIP": format!("10.0.{}.{}", number / 200, number % 200),
                "conditions": [{"type": "Ready", "status": "True"}]}});
        for (section, fields) in more.as_object().expect("an object") {
            pod[section].as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        }
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    /// Plans as often as it takes, as the API server would store it.
    fn settle(service: &Service, pods: &[Arc<Pod>], slices: &mut Vec<Arc<EndpointSlice>>) -> (usize, usize, usize) {
        let changes = plan_slices(service, pods, slices, |node| Some(format!("zone-of-{node}")));
        let counts = (changes.create.len(), changes.update.len(), changes.delete.len());
        slices.retain(|slice| !changes.delete.iter().any(|gone| gone.metadata.name == slice.metadata.name));
        for next in changes.update {
            slices.retain(|slice| slice.metadata.name != next.metadata.name);
            slices.push(Arc::new(next));
        }
        for mut new in changes.create {
            new.metadata.name = Some(format!("s-{}", slices.len()));
            slices.push(Arc::new(new));
        }
        assert_eq!(plan_slices(service, pods, slices, |node| Some(format!("zone-of-{node}"))), Changes::default());
        counts
    }

    #[test]
    fn a_slice_tells_all_about_its_endpoints() {
        let mut slices = Vec::new();
        assert_eq!(settle(&service(json!({})), &[pod(1, 8080, json!({}))], &mut slices), (1, 0, 0));
        let mut slice = json!(*slices[0]);
        slice["metadata"]["ownerReferences"] = json!(null);
        assert_eq!(
            slice,
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": "s-0", "generateName": "s-", "namespace": "x", "ownerReferences": null,
                    "labels": {"app": "a", SERVICE_NAME: "s", MANAGED_BY: MANAGER}},
                "ports": [{"name": "web", "protocol": "TCP", "port": 8080}],
                "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "n", "zone": "zone-of-n",
                    "conditions": {"ready": true, "serving": true, "terminating": false},
                    "targetRef": {"kind": "Pod", "name": "p1", "namespace": "x", "uid": "u1"}}]})
        );
    }

    #[test]
    fn conditions_follow_the_pod() {
        let check = |of_service: Value, of_pod: Value, expect: Option<(bool, bool, bool)>| {
            let changes = plan_slices(&service(of_service), &[pod(1, 80, of_pod.clone())], &[], |_| None);
            let endpoints = changes.create[0].endpoints.clone().unwrap_or_default();
            let told = endpoints.first().and_then(|endpoint| endpoint.conditions.clone());
            let told = told.map(|c| (c.ready == Some(true), c.serving == Some(true), c.terminating == Some(true)));
            assert_eq!(told, expect, "{of_pod}");
        };
        let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        let going = json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}});
        check(json!({}), json!({}), Some((true, true, false)));
        check(json!({}), not_ready.clone(), Some((false, false, false)));
        check(json!({"publishNotReadyAddresses": true}), not_ready, Some((true, false, false)));
        check(json!({}), going, Some((false, true, true)));
        check(json!({}), json!({"status": {"phase": "Succeeded"}}), None);
        check(json!({}), json!({"status": {"podIP": ""}}), None);
    }

    #[test]
    fn slices_are_filled_kept_and_used_again() {
        let service = service(json!({}));
        let pods =
            |numbers: std::ops::Range<usize>| -> Vec<Arc<Pod>> { numbers.map(|n| pod(n, 80, json!({}))).collect() };
        let mut slices = Vec::new();
        assert_eq!(settle(&service, &[], &mut slices), (1, 0, 0), "one tells that there is nothing");
        assert_eq!(settle(&service, &pods(0..250), &mut slices), (2, 1, 0));
        assert!(slices.iter().all(|slice| slice.endpoints.as_ref().is_some_and(|all| all.len() <= MOST)));
        assert_eq!(settle(&service, &pods(0..251), &mut slices), (0, 1, 0));
        assert_eq!(settle(&service, &pods(0..250), &mut slices), (0, 1, 0));
        assert_eq!(settle(&service, &pods(0..20), &mut slices).2, 2);
        assert_eq!(settle(&service, &[], &mut slices), (0, 1, 0));
        assert_eq!(slices.len(), 1);
    }

    #[test]
    fn pods_with_other_ports_go_into_other_slices() {
        let mut slices = Vec::new();
        let both = [pod(1, 80, json!({})), pod(2, 81, json!({}))];
        assert_eq!(settle(&service(json!({})), &both, &mut slices), (2, 0, 0));
        assert_eq!(settle(&service(json!({})), &both[..1], &mut slices), (0, 0, 1));
    }

    #[test]
    fn families_have_their_own_slices() {
        let both = json!({"status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}});
        let dual = service(json!({"ipFamilies": ["IPv4", "IPv6"]}));
        let mut slices = Vec::new();
        assert_eq!(settle(&dual, &[pod(1, 80, both.clone())], &mut slices), (2, 0, 0));
        assert_eq!(settle(&service(json!({"ipFamilies": ["IPv6"]})), &[pod(1, 80, both)], &mut slices), (0, 0, 1));
        assert_eq!(slices[0].address_type, "IPv6");
        let headless = plan_slices(&service(json!({"clusterIP": "None"})), &[], &[], |_| None);
        assert_eq!(headless.create[0].metadata.labels.as_ref().map(|labels| labels[HEADLESS].as_str()), Some(""));
    }
}
