//! Node.

use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use crate::kinds::adapter::{FieldOf, Kind};
use crate::kinds::core::pod::defaults::resource_list;
use crate::kinds::facts::{AGE, Facts, NAME, text, wide};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::Row;
use crate::strategy::Subresource;

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

pub(super) struct Nodes;

impl Kind for Nodes {
    type Typed = core::Node;
    const FACTS: Facts = Facts {
        short_names: &["no"],
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: &[
            NAME,
            text("Status", "Whether the node takes pods."),
            text("Roles", "The roles that its labels give it."),
            AGE,
            text("Version", "The version of its node agent."),
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
