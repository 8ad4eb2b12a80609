//! The downward API: what a container may ask about its own pod.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skiff_api::downward;

use crate::{pod, quantity};

/// What is known of a pod besides its object.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) host_ip: IpAddr,
    /// The node's own address with host networking.
    pub(crate) pod_ips: Vec<IpAddr>,
    /// What the node can give: `cpu`, `memory`, `ephemeral-storage`.
    pub(crate) allocatable: BTreeMap<String, Quantity>,
}

/// The value of a `fieldRef`; the error is upstream's sentence.
pub(crate) fn field(pod: &Pod, facts: &Facts, selector: &ObjectFieldSelector) -> Result<String, String> {
    let path = selector.field_path.as_str();
    let ips = || facts.pod_ips.iter().map(ToString::to_string).collect::<Vec<_>>();
    if let Some(found) = downward::metadata_field(&pod.metadata, path) {
        return found;
    }
    Ok(match path {
        "spec.nodeName" => pod::spec(pod).node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => pod::spec(pod).service_account_name.clone().unwrap_or_default(),
        "status.hostIP" | "status.hostIPs" => facts.host_ip.to_string(),
        "status.podIP" => ips().into_iter().next().unwrap_or_default(),
        "status.podIPs" => ips().join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// The value of a `resourceFieldRef`, for `own` unless another container is named.
pub(crate) fn resource(
    pod: &Pod,
    facts: &Facts,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let container = match selector.container_name.as_deref().filter(|n| !n.is_empty()) {
        Some(name) => pod::container(pod, name).map(|(_, c)| c).ok_or_else(|| format!("container {name} not found"))?,
        None => own.ok_or("container name is required")?,
    };
    // What has no limit may use what the pod as a whole may, or else the node's.
    let mut allocatable = Cow::Borrowed(&facts.allocatable);
    let limits = pod::spec(pod).resources.as_ref().and_then(|whole| whole.limits.as_ref());
    for (name, limit) in limits.into_iter().flatten().filter(|(_, limit)| !quantity::is_zero(limit)) {
        if allocatable.contains_key(name) {
            allocatable.to_mut().insert(name.clone(), limit.clone());
        }
    }
    downward::container_resource(container, selector, &allocatable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn facts() -> Facts {
        Facts {
            host_ip: "192.0.2.1".parse().expect("an address"),
            pod_ips: vec!["10.42.0.7".parse().expect("an address")],
            allocatable: [("cpu".to_owned(), Quantity("2".into())), ("memory".to_owned(), Quantity("1Gi".into()))]
                .into(),
        }
    }

    fn sample() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"b": "2", "a": "say \"hi\"\n"}, "annotations": {"x/y": "z"}},
            "spec": {"nodeName": "node-1", "serviceAccountName": "sa", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "100Mi"}}}]}}))
        .expect("a pod")
    }

    #[test]
    fn field_paths() {
        for (path, expected) in [
            ("metadata.name", Ok("p")),
            ("metadata.namespace", Ok("n")),
            ("metadata.uid", Ok("u")),
            ("metadata.labels", Ok("a=\"say \\\"hi\\\"\\n\"\nb=\"2\"")),
            ("metadata.labels['b']", Ok("2")),
            ("metadata.labels['none']", Ok("")),
            ("metadata.annotations['x/y']", Ok("z")),
            ("spec.nodeName", Ok("node-1")),
            ("spec.serviceAccountName", Ok("sa")),
            ("status.hostIP", Ok("192.0.2.1")),
            ("status.podIP", Ok("10.42.0.7")),
            ("status.podIPs", Ok("10.42.0.7")),
            ("spec.containers", Err("unsupported fieldPath: spec.containers")),
        ] {
            let selector = ObjectFieldSelector { field_path: path.to_owned(), api_version: None };
            let found = field(&sample(), &facts(), &selector);
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{path}");
        }
    }

    #[test]
    fn resource_paths() {
        let pod = sample();
        for (path, divisor, expected) in [
            ("limits.cpu", None, "2"),
            ("limits.cpu", Some("1m"), "1500"),
            ("requests.cpu", Some("1m"), "1500"),
            ("requests.memory", Some("1Mi"), "100"),
            ("limits.memory", Some("1Mi"), "1024"),
            ("requests.memory", None, "104857600"),
            ("limits.memory", Some("0"), "1073741824"),
        ] {
            let selector = ResourceFieldSelector {
                resource: path.to_owned(),
                divisor: divisor.map(|d| Quantity(d.to_owned())),
                container_name: None,
            };
            let found = resource(&pod, &facts(), Some(&pod::spec(&pod).containers[0]), &selector);
            assert_eq!(found.as_deref(), Ok(expected), "{path} / {divisor:?}");
        }
    }
}
