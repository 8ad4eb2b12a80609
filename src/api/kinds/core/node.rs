//! Node.

use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::{FieldOf, Kind};
use crate::kinds::checks::{cidr, qualified_name, text};
use crate::kinds::core::pod::defaults::resource_list;
use crate::kinds::core::pod::validate::{resource_value, taint_effect};
use crate::kinds::facts::{self, AGE, Facts, NAME, wide};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::Row;
use crate::kinds::warnings;
use crate::names;
use crate::strategy::Subresource;

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

pub(super) struct Nodes;

impl Kind for Nodes {
    type Typed = core::Node;
    const FACTS: Facts = Facts {
        short_names: &["no"],
        namespaced: false,
        subresources: &[Subresource::Special("proxy"), Subresource::Status],
        status_on_create: true,
        columns: &[
            NAME,
            facts::text("Status", "Whether the node takes pods."),
            facts::text("Roles", "The roles that its labels give it."),
            AGE,
            facts::text("Version", "The version of its node agent."),
            wide("Internal-IP", "Its address inside the cluster."),
            wide("External-IP", "Its address for the outside."),
            wide("OS-Image", "Its operating system."),
            wide("Kernel-Version", "Its kernel."),
            wide("Container-Runtime", "Its container runtime and version."),
        ],
        ..Facts::new("", "v1", "nodes", "Node")
    };
    const FIELDS: &'static [(&'static str, FieldOf)] =
        &[("spec.unschedulable", |o| o.flag("spec.unschedulable").to_string())];
    const FIELD_LABELS: &'static [&'static str] = &["spec.unschedulable"];

    /// All that the node has can be given to pods, where it does not say otherwise.
    fn default(object: &mut Value) {
        let Some(status) = object.as_object_mut().and_then(|o| o.existing("status")) else { return };
        if let (true, Some(capacity)) = (status.lacks("allocatable"), status.get("capacity").cloned()) {
            status.insert("allocatable".to_owned(), capacity);
        }
        for list in ["capacity", "allocatable"] {
            if let Some(list) = status.existing(list) {
                resource_list(list);
            }
        }
    }

    fn validate(node: &core::Node, errors: &mut Errors) {
        let Some(spec) = &node.spec else { return };
        taints(spec, errors);
        let path = Path::new("spec");
        let list = path.child("podCIDRs");
        let cidrs = spec.pod_cidrs.as_deref().unwrap_or_default();
        for (i, range) in cidrs.iter().enumerate() {
            cidr(range, &list.index(i), errors);
        }
        let sixes = cidrs.iter().filter(|c| c.contains(':')).count();
        if cidrs.len() > 1 && !(cidrs.len() == 2 && sixes == 1) {
            errors.invalid(&list, cidrs, "may specify no more than one CIDR for each IP family");
        }
        resources(node, errors);
        declared_features(node, errors);
    }

    fn validate_update(node: &core::Node, old: &core::Node, errors: &mut Errors) {
        let empty = core::NodeSpec::default();
        let (spec, old) = (node.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
        let path = Path::new("spec");
        let cidrs = |s: &core::NodeSpec| s.pod_cidrs.clone().unwrap_or_default();
        if !cidrs(old).is_empty() && cidrs(spec) != cidrs(old) {
            let message = "node updates may not change podCIDR except from \"\" to valid";
            errors.forbidden(&path.child("podCIDRs"), message);
        }
        if !text(&old.provider_id).is_empty() && spec.provider_id != old.provider_id {
            let message = "node updates may not change providerID except from \"\" to valid";
            errors.forbidden(&path.child("providerID"), message);
        }
        if text(&spec.external_id) != text(&old.external_id) {
            errors.forbidden(&path.child("externalID"), "may not be updated");
        }
        Self::validate(node, errors);
    }

    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(node: &core::Node, _old: &core::Node, errors: &mut Errors) {
        resources(node, errors);
        declared_features(node, errors);
        let path = Path::new("status");
        let addresses = node.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
        for (i, address) in addresses.iter().enumerate() {
            if addresses[..i].contains(address) {
                errors.duplicate(&path.child("addresses").index(i), address);
            }
        }
    }

    fn warnings(node: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        if !node.at("spec.configSource").is_null() {
            out.push("spec.configSource: the feature is removed".to_owned());
        }
        if !node.text("spec.externalID").is_empty() {
            out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        for (i, range) in node.list("spec.podCIDRs").iter().enumerate() {
            warnings::cidr(range.as_str().unwrap_or_default(), &format!("spec.podCIDRs[{i}]"), &mut out);
        }
        out
    }

    fn cells(node: &Value, row: &mut Row) {
        row.name(node);
        row.push(status(node));
        row.or(&roles(node).join(","), "<none>");
        row.age(node);
        row.push(node.text("status.nodeInfo.kubeletVersion"));
        row.or(address(node, "InternalIP"), "<none>");
        row.or(address(node, "ExternalIP"), "<none>");
        row.or(node.text("status.nodeInfo.osImage"), "<unknown>");
        row.or(node.text("status.nodeInfo.kernelVersion"), "<unknown>");
        row.or(node.text("status.nodeInfo.containerRuntimeVersion"), "<unknown>");
    }
}

fn taints(spec: &core::NodeSpec, errors: &mut Errors) {
    let taints = spec.taints.as_deref().unwrap_or_default();
    // Upstream reports them below the metadata, for they once were an annotation.
    let path = Path::new("metadata");
    let list = path.child("taints");
    for (i, taint) in taints.iter().enumerate() {
        let path = list.index(i);
        qualified_name(&taint.key, &path.child("key"), errors);
        let wrong = names::label_value(text(&taint.value));
        if !wrong.is_empty() {
            errors.invalid(&path.child("value"), text(&taint.value), &wrong.join(";"));
        }
        if taint.effect.is_empty() {
            errors.required(&path.child("effect"), "");
        } else {
            taint_effect(&taint.effect, &path.child("effect"), errors);
        }
        if taints[..i].iter().any(|t| t.key == taint.key && t.effect == taint.effect) {
            errors.duplicate_because(&path, taint, "taints must be unique by key and effect pair");
        }
    }
}

/// `UpperCamelCase`, with more parts behind slashes; each once and in order.
fn declared_features(node: &core::Node, errors: &mut Errors) {
    let features = node.status.as_ref().and_then(|s| s.declared_features.as_deref()).unwrap_or_default();
    let list = Path::new("status.declaredFeatures");
    for (i, feature) in features.iter().enumerate() {
        if feature.len() > names::SUBDOMAIN_MAX {
            let max = names::SUBDOMAIN_MAX;
            let message = format!("invalid feature name {feature:?}: must be no more than {max} characters");
            errors.invalid(&list.index(i), feature, &message);
        } else if !is_feature(feature) {
            let message = format!(
                "invalid feature name {feature:?}: must start with an UpperCamelCase segment, with subsequent segments \
                 separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and \
                 slashes"
            );
            errors.invalid(&list.index(i), feature, &message);
        }
        let Some(next) = features.get(i + 1) else { break };
        if feature == next {
            errors.duplicate(&list.index(i + 1), next);
        } else if feature > next {
            errors.invalid(&list.index(i + 1), next, "list must be sorted alphabetically");
        }
    }
}

fn is_feature(name: &str) -> bool {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(word)
}

fn resources(node: &core::Node, errors: &mut Errors) {
    let Some(status) = &node.status else { return };
    for (list, amounts) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
        let path = Path::new("status");
        for (name, amount) in amounts.iter().flatten() {
            resource_value(name, amount, &path.child(list).child(name), errors);
        }
    }
}

fn status(node: &Value) -> String {
    let ready = node.list("status.conditions").iter().find(|c| c.text("type") == "Ready");
    let status = match ready.map(|c| c.text("status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if node.flag("spec.unschedulable") { format!("{status},SchedulingDisabled") } else { status.to_owned() }
}

fn roles(node: &Value) -> Vec<&str> {
    let labels = node.map("metadata.labels").into_iter().flatten();
    let role = |(key, value): (&'_ String, &'_ Value)| -> Option<(bool, usize)> {
        let long = key.strip_prefix(ROLE_PREFIX).is_some_and(|r| !r.is_empty());
        (long || key == ROLE_LABEL && value.as_str().is_some_and(|v| !v.is_empty()))
            .then_some((long, ROLE_PREFIX.len()))
    };
    let mut roles: Vec<&str> = labels
        .filter_map(|(key, value)| match role((key, value)) {
            Some((true, at)) => Some(&key[at..]),
            Some((false, _)) => value.as_str(),
            None => None,
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    roles
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    node.list("status.addresses").iter().find(|a| a.text("type") == kind).map_or("", |a| a.text("address"))
}
