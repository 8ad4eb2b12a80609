//! What a pod, or the pod template of a workload, means where it says nothing.

use serde_json::{Map, Value, json};

use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::quantity::Quantity;
use crate::quota::pod::{self, List};

const FILE_MODE: i64 = 0o644;
const GRACE_PERIOD_S: i64 = 30;
const TOKEN_EXPIRATION_S: i64 = 3600;
const HUGE_PAGES: &str = "hugepages-";
/// Lists of containers, and whether resize and requests rules hold for them.
const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// The pod template below `spec` of a workload.
pub(in crate::kinds) fn template(workload: &mut Value) {
    if let Some(template) = spec_of(workload).and_then(|s| s.object("template")) {
        pod_template(template);
    }
}

/// A pod template by itself.
pub(in crate::kinds) fn pod_template(template: &mut Map<String, Value>) {
    if let Some(spec) = template.object("spec") {
        pod_spec(spec);
    }
}

/// A pod: what templates have, and what is only sure once it is a pod.
pub(super) fn pod(object: &mut Value) {
    let Some(spec) = object.as_object_mut().and_then(|o| o.object("spec")) else { return };
    pod_spec(spec);
    spec.fill("enableServiceLinks", true);
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool) == Some(true);
    for list in ["containers", "initContainers"] {
        for container in spec.items(list) {
            requests_from_limits(container);
            if host_network {
                for port in container.items("ports") {
                    if port.get("hostPort").and_then(Value::as_i64).unwrap_or(0) == 0 {
                        let number = port.get("containerPort").cloned().unwrap_or(Value::Null);
                        port.insert("hostPort".to_owned(), number);
                    }
                }
            }
        }
    }
    pod_level(object);
}

fn pod_spec(spec: &mut Map<String, Value>) {
    spec.fill("dnsPolicy", "ClusterFirst");
    spec.fill("restartPolicy", "Always");
    spec.object("securityContext");
    spec.fill("terminationGracePeriodSeconds", GRACE_PERIOD_S);
    spec.fill("schedulerName", "default-scheduler");
    service_account(spec);
    for volume in spec.items("volumes") {
        self::volume(volume);
    }
    for list in CONTAINER_LISTS {
        for container in spec.items(list) {
            self::container(container);
        }
    }
    if let Some(overhead) = spec.existing("overhead") {
        resource_list(overhead);
    }
    if let Some(resources) = spec.existing("resources") {
        resource_lists(resources);
    }
}

/// Two names of one field: the old one follows the new one.
fn service_account(spec: &mut Map<String, Value>) {
    let name =
        if spec.lacks("serviceAccountName") { spec.get("serviceAccount") } else { spec.get("serviceAccountName") };
    match name.and_then(Value::as_str).filter(|n| !n.is_empty()).map(str::to_owned) {
        Some(name) => {
            spec.insert("serviceAccountName".to_owned(), name.clone().into());
            spec.insert("serviceAccount".to_owned(), name.into());
        }
        None => {
            spec.remove("serviceAccountName");
            spec.remove("serviceAccount");
        }
    }
}

fn container(container: &mut Map<String, Value>) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or("");
    let pull_policy = pull_policy(image);
    container.fill("imagePullPolicy", pull_policy);
    container.fill("terminationMessagePath", "/dev/termination-log");
    container.fill("terminationMessagePolicy", "File");
    if let Some(resources) = container.object("resources") {
        resource_lists(resources);
    }
    for port in container.items("ports") {
        port.fill("protocol", "TCP");
    }
    for env in container.items("env") {
        let Some(from) = env.existing("valueFrom") else { continue };
        field_refs(from);
        if let Some(file) = from.existing("fileKeyRef") {
            file.fill("optional", false);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.existing(probe) {
            self::probe(probe);
        }
    }
    if let Some(lifecycle) = container.existing("lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = lifecycle.existing(hook) {
                http_get(hook);
            }
        }
    }
}

fn probe(probe: &mut Map<String, Value>) {
    // Zero means unset too.
    for (key, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe.get(key).and_then(Value::as_i64).unwrap_or(0) == 0 {
            probe.insert(key.to_owned(), value.into());
        }
    }
    http_get(probe);
    if let Some(grpc) = probe.existing("grpc")
        && grpc.lacks("service")
    {
        grpc.insert("service".to_owned(), "".into());
    }
}

fn http_get(handler: &mut Map<String, Value>) {
    if let Some(get) = handler.existing("httpGet") {
        get.fill("path", "/");
        get.fill("scheme", "HTTP");
    }
}

fn field_refs(holder: &mut Map<String, Value>) {
    if let Some(field) = holder.existing("fieldRef") {
        field.fill("apiVersion", "v1");
    }
    if let Some(resource) = holder.existing("resourceFieldRef") {
        canonical_quantity(resource, "divisor");
        resource.fill("divisor", "0");
    }
}

fn volume(volume: &mut Map<String, Value>) {
    if volume.iter().all(|(key, value)| key == "name" || value.is_null()) {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.existing(source) {
            source.fill("defaultMode", FILE_MODE);
            for item in source.items("items") {
                field_refs(item);
            }
        }
    }
    if let Some(projected) = volume.existing("projected") {
        for source in projected.items("sources") {
            if let Some(token) = source.existing("serviceAccountToken") {
                token.fill("expirationSeconds", TOKEN_EXPIRATION_S);
            }
            if let Some(downward) = source.existing("downwardAPI") {
                for item in downward.items("items") {
                    field_refs(item);
                }
            }
        }
    }
    if let Some(empty_dir) = volume.existing("emptyDir") {
        canonical_quantity(empty_dir, "sizeLimit");
    }
    if let Some(image) = volume.existing("image") {
        let pull_policy = pull_policy(image.get("reference").and_then(Value::as_str).unwrap_or(""));
        image.fill("pullPolicy", pull_policy);
    }
    let claim = volume.existing("ephemeral").and_then(|e| e.existing("volumeClaimTemplate"));
    if let Some(claim) = claim.and_then(|c| c.object("spec")) {
        claim_spec(claim);
    }
    source(volume);
}

/// What a claim means where it says nothing.
pub(in crate::kinds) fn claim_spec(claim: &mut Map<String, Value>) {
    claim.fill("volumeMode", "Filesystem");
    if let Some(resources) = claim.object("resources") {
        resource_lists(resources);
    }
}

/// The sources that volumes of pods and persistent volumes share.
pub(in crate::kinds) fn source(volume: &mut Map<String, Value>) {
    if let Some(host_path) = volume.existing("hostPath")
        && host_path.lacks("type")
    {
        host_path.insert("type".to_owned(), "".into());
    }
    for (source, key, value) in OLD_SOURCES {
        if let Some(source) = volume.existing(source) {
            source.fill(key, *value);
        }
    }
    if let Some(disk) = volume.existing("azureDisk") {
        disk.fill("readOnly", false);
    }
}

/// Defaults of volume sources that are only kept for compatibility: (source, field, value).
const OLD_SOURCES: &[(&str, &str, &str)] = &[
    ("iscsi", "iscsiInterface", "default"),
    ("rbd", "pool", "rbd"),
    ("rbd", "user", "admin"),
    ("rbd", "keyring", "/etc/ceph/keyring"),
    ("azureDisk", "cachingMode", "ReadWrite"),
    ("azureDisk", "kind", "Shared"),
    ("azureDisk", "fsType", "ext4"),
    ("scaleIO", "storageMode", "ThinProvisioned"),
    ("scaleIO", "fsType", "xfs"),
];

/// `latest`, said or meant, is pulled always.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let tag = name.rsplit_once(':').map(|(_, tag)| tag).filter(|tag| !tag.contains('/'));
    match tag {
        Some("latest") => "Always",
        Some(_) => "IfNotPresent",
        None if digest => "IfNotPresent",
        None => "Always",
    }
}

fn resource_lists(resources: &mut Map<String, Value>) {
    for list in ["limits", "requests"] {
        if let Some(list) = resources.existing(list) {
            resource_list(list);
        }
    }
}

/// Quantities in canonical form, rounded to thousandths. A wrong one is left to validation.
pub(in crate::kinds) fn resource_list(list: &mut Map<String, Value>) {
    for value in list.values_mut() {
        if let Some(quantity) = parse_quantity(value) {
            put(value, &quantity.rounded_to_milli().to_string());
        }
    }
}

pub(in crate::kinds) fn canonical_quantity(holder: &mut Map<String, Value>, key: &str) {
    if let Some(value) = holder.get_mut(key)
        && let Some(quantity) = parse_quantity(value)
    {
        put(value, &quantity.to_string());
    }
}

fn put(value: &mut Value, text: &str) {
    if value.as_str() != Some(text) {
        *value = text.into();
    }
}

/// Upstream takes a bare number for a quantity too.
fn parse_quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

fn requests_from_limits(container: &mut Map<String, Value>) {
    let Some(resources) = container.existing("resources") else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    if let Some(requests) = resources.object("requests") {
        for (name, value) in limits {
            requests.entry(name).or_insert(value);
        }
    }
}

/// What the pod as a whole may have of huge pages and asks for, where it says something, but not that: what its
/// containers do together, else its limits.
fn pod_level(object: &mut Value) {
    let of = |list: &str| object.map(&format!("spec.resources.{list}")).cloned().unwrap_or_default();
    let (mut limits, mut requests) = (of("limits"), of("requests"));
    if limits.is_empty() && requests.is_empty() {
        return;
    }
    for (name, amount) in pod::of_containers(object, List::Limits) {
        if name.starts_with(HUGE_PAGES) && !requests.contains_key(&name) {
            limits.entry(name).or_insert_with(|| amount.to_string().into());
        }
    }
    if !limits.is_empty() {
        for (name, amount) in pod::of_containers(object, List::Requests) {
            if pod::is_pod_level(&name) && !name.starts_with(HUGE_PAGES) {
                requests.entry(name).or_insert_with(|| amount.to_string().into());
            }
        }
        for (name, limit) in limits.iter().filter(|(name, _)| pod::is_pod_level(name)) {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
    let Some(resources) = spec_of(object).and_then(|spec| spec.existing("resources")) else { return };
    for (list, amounts) in [("limits", limits), ("requests", requests)] {
        if !amounts.is_empty() {
            resources.insert(list.to_owned(), amounts.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("host:5000/nginx", "Always"),
            ("host:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
            ("nginx:latest@sha256:00", "Always"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
