//! Volumes, claims, and the classes of both.

use serde_json::Value;

use super::page::Page;
use super::pod::items;
use super::policy::boolean;
use super::{date, generic};
use crate::Result;
use crate::print::{cell, pairs};
use crate::server::Server;
use crate::targets::{Found, list};

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// `[a b]`, as Go shows a list.
fn words(value: &Value) -> String {
    let all: Vec<String> = items(value).map(text).collect();
    format!("[{}]", all.join(" "))
}

fn access_modes(value: &Value) -> String {
    let short = |mode: &Value| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "",
    };
    items(value).map(short).filter(|mode| !mode.is_empty()).collect::<Vec<_>>().join(",")
}

fn class(object: &Value) -> String {
    let old = object["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    old.map_or_else(|| text(&object["spec"]["storageClassName"]), str::to_owned)
}

fn phase(object: &Value) -> String {
    match super::time(&object["metadata"]["deletionTimestamp"]) {
        Some(at) => {
            let since = skiff_api::duration::human_since(at, jiff::Timestamp::now());
            format!("Terminating (lasts {since})")
        }
        None => text(&object["status"]["phase"]),
    }
}

/// Field and title of a kind of source, and the labels and fields below it.
type Source = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const SOURCES: [Source; 8] = [
    ("hostPath", "HostPath (bare host directory volume)", &[("Path", "path"), ("HostPathType", "type")]),
    (
        "nfs",
        "NFS (an NFS mount that lasts the lifetime of a pod)",
        &[("Server", "server"), ("Path", "path"), ("ReadOnly", "readOnly")],
    ),
    (
        "iscsi",
        "ISCSI (an ISCSI Disk resource that is attached to a kubelet's host machine and then exposed to the pod)",
        &[
            ("TargetPortal", "targetPortal"),
            ("IQN", "iqn"),
            ("Lun", "lun"),
            ("FSType", "fsType"),
            ("ReadOnly", "readOnly"),
            ("InitiatorName", "initiatorName"),
        ],
    ),
    ("local", "LocalVolume (a persistent volume backed by local storage on a node)", &[("Path", "path")]),
    ("fc", "FC (a Fibre Channel disk)", &[("LUN", "lun"), ("FSType", "fsType"), ("ReadOnly", "readOnly")]),
    (
        "azureFile",
        "AzureFile (an Azure File Service mount on the host and bind mount to the pod)",
        &[("SecretName", "secretName"), ("ShareName", "shareName"), ("ReadOnly", "readOnly")],
    ),
    (
        "cephfs",
        "CephFS (a CephFS mount on the host that shares a pod's lifetime)",
        &[("Path", "path"), ("User", "user"), ("SecretFile", "secretFile"), ("ReadOnly", "readOnly")],
    ),
    (
        "csi",
        "CSI (a Container Storage Interface (CSI) volume source)",
        &[("Driver", "driver"), ("FSType", "fsType"), ("VolumeHandle", "volumeHandle"), ("ReadOnly", "readOnly")],
    ),
];

pub fn volume(page: &mut Page, object: &Value) {
    let (metadata, spec) = (&object["metadata"], &object["spec"]);
    page.field("Name", text(&metadata["name"]));
    page.map("Labels", &metadata["labels"]);
    page.annotations("Annotations", &metadata["annotations"]);
    page.field("Finalizers", words(&metadata["finalizers"]));
    page.field("StorageClass", class(object));
    page.field("Status", phase(object));
    let claim = spec.get("claimRef").map(|claim| format!("{}/{}", text(&claim["namespace"]), text(&claim["name"])));
    page.field("Claim", claim.unwrap_or_default());
    page.field("Reclaim Policy", text(&spec["persistentVolumeReclaimPolicy"]));
    page.field("Access Modes", access_modes(&spec["accessModes"]));
    if let Some(mode) = spec["volumeMode"].as_str() {
        page.field("VolumeMode", mode);
    }
    page.field("Capacity", spec["capacity"]["storage"].as_str().unwrap_or("0"));
    affinity(page, &spec["nodeAffinity"]["required"]);
    page.field("Message", text(&object["status"]["message"]));
    page.line("Source:");
    let known = SOURCES.iter().find_map(|(field, title, fields)| Some((spec.get(*field)?, *title, *fields)));
    let Some((source, title, fields)) = known else {
        let other = spec.as_object().into_iter().flatten().find(|(_, value)| value.is_object());
        page.line(if other.is_none() { "  <unknown>" } else { "  <unknown source>" });
        return;
    };
    page.field("    Type", title);
    for (label, field) in fields {
        let missing = match *field {
            "readOnly" => "false",
            "type" | "lun" | "initiatorName" => "<none>",
            _ => "",
        };
        let value = source.get(*field).filter(|value| !value.is_null()).map_or_else(|| missing.to_owned(), cell);
        page.field(&format!("    {label}"), value);
    }
    if title.starts_with("CSI") {
        attributes(page, &source["volumeAttributes"]);
    }
}

fn attributes(page: &mut Page, attributes: &Value) {
    let lines = attributes.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", text(value)));
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() {
        page.line("    VolumeAttributes:\t<none>");
    }
    for (nth, line) in lines.iter().enumerate() {
        page.line(format!("    {}\t    {line}", if nth == 0 { "VolumeAttributes:" } else { "    " }));
    }
}

fn affinity(page: &mut Page, required: &Value) {
    if required.is_null() {
        page.line("Node Affinity:\t<none>");
        return;
    }
    page.line("Node Affinity:\t");
    if items(&required["nodeSelectorTerms"]).next().is_none() {
        page.line("  Required Terms:\t<none>");
        return;
    }
    page.line("  Required Terms:\t");
    for (nth, term) in items(&required["nodeSelectorTerms"]).enumerate() {
        let lines = items(&term["matchExpressions"]).map(|rule| {
            let values: Vec<String> = items(&rule["values"]).map(text).collect();
            let values = if values.is_empty() { String::new() } else { format!(" [{}]", values.join(", ")) };
            format!("{} {}{values}", text(&rule["key"]), text(&rule["operator"]).to_lowercase())
        });
        terms(page, "    ", nth, lines);
    }
}

/// A numbered term, a rule in each line.
fn terms(page: &mut Page, indent: &str, nth: usize, lines: impl Iterator<Item = String>) {
    let mut any = false;
    for line in lines {
        let head = if any { String::new() } else { format!("Term {nth}:") };
        page.line(format!("{indent}{head}\t{line}"));
        any = true;
    }
    if !any {
        page.line(format!("{indent}Term {nth}:\t<none>"));
    }
}

pub async fn claim(server: &Server, page: &mut Page, found: &Found) -> Result {
    let object = &found.object;
    let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    page.field("Name", text(&metadata["name"]));
    page.field("Namespace", text(&metadata["namespace"]));
    page.field("StorageClass", class(object));
    page.field("Status", phase(object));
    page.field("Volume", text(&spec["volumeName"]));
    page.map("Labels", &metadata["labels"]);
    page.annotations("Annotations", &metadata["annotations"]);
    page.field("Finalizers", words(&metadata["finalizers"]));
    let bound = spec["volumeName"].as_str().is_some_and(|name| !name.is_empty());
    page.field("Capacity", if bound { status["capacity"]["storage"].as_str().unwrap_or("0") } else { "" });
    page.field("Access Modes", if bound { access_modes(&status["accessModes"]) } else { String::new() });
    if let Some(mode) = spec["volumeMode"].as_str() {
        page.field("VolumeMode", mode);
    }
    if let Some(source) = spec.get("dataSource") {
        page.line("DataSource:");
        if let Some(group) = source["apiGroup"].as_str() {
            page.field("  APIGroup", group);
        }
        page.field("  Kind", text(&source["kind"]));
        page.field("  Name", text(&source["name"]));
    }
    let pods = server.discovery().await?.find("pods")?.clone();
    let uses = |pod: &Value| {
        items(&pod["spec"]["volumes"]).any(|volume| {
            volume["persistentVolumeClaim"]["claimName"] == metadata["name"]
                || volume["ephemeral"].is_object()
                    && metadata["name"] == format!("{}-{}", text(&pod["metadata"]["name"]), text(&volume["name"]))
        })
    };
    let users = list(server, &pods, found.namespace(), "", "").await?.into_iter().filter(uses);
    page.several("Used By", users.map(|pod| text(&pod["metadata"]["name"])));
    if items(&status["conditions"]).next().is_some() {
        page.line("Conditions:\n  Type\tStatus\tLastProbeTime\tLastTransitionTime\tReason\tMessage");
        page.line("  ----\t------\t-----------------\t------------------\t------\t-------");
        for condition in items(&status["conditions"]) {
            let [ty, state, reason, message] =
                ["type", "status", "reason", "message"].map(|field| text(&condition[field]));
            let [probe, change] = ["lastProbeTime", "lastTransitionTime"].map(|field| {
                if condition[field].is_null() {
                    "Mon, 01 Jan 0001 00:00:00 +0000".to_owned()
                } else {
                    date(&condition[field])
                }
            });
            page.line(format!("  {ty} \t{state} \t{probe} \t{change} \t{reason} \t{message}"));
        }
    }
    Ok(())
}

pub fn storage_class(page: &mut Page, object: &Value) {
    let annotations = &object["metadata"]["annotations"];
    let is_default =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
            .iter()
            .any(|name| annotations[*name] == "true");
    page.field("Name", text(&object["metadata"]["name"]));
    page.field("IsDefaultClass", if is_default { "Yes" } else { "No" });
    page.field("Annotations", pairs(annotations));
    page.field("Provisioner", text(&object["provisioner"]));
    page.field("Parameters", pairs(&object["parameters"]));
    page.field("AllowVolumeExpansion", boolean(&object["allowVolumeExpansion"]));
    if items(&object["mountOptions"]).next().is_none() {
        page.line("MountOptions:\t<none>");
    } else {
        page.line("MountOptions:");
        items(&object["mountOptions"]).for_each(|option| page.line(format!("  {}", text(option))));
    }
    for (label, field) in [("ReclaimPolicy", "reclaimPolicy"), ("VolumeBindingMode", "volumeBindingMode")] {
        if let Some(value) = object[field].as_str() {
            page.field(label, value);
        }
    }
    if items(&object["allowedTopologies"]).next().is_some() {
        page.line("AllowedTopologies:\t");
        for (nth, term) in items(&object["allowedTopologies"]).enumerate() {
            let lines = items(&term["matchLabelExpressions"]).map(|rule| {
                let values: Vec<String> = items(&rule["values"]).map(text).collect();
                format!("{} in [{}]", text(&rule["key"]), values.join(", "))
            });
            terms(page, "  ", nth, lines);
        }
    }
}

pub fn attributes_class(page: &mut Page, object: &Value) {
    page.field("Name", text(&object["metadata"]["name"]));
    page.field("Annotations", pairs(&object["metadata"]["annotations"]));
    page.field("DriverName", text(&object["driverName"]));
    page.field("Parameters", pairs(&object["parameters"]));
}

pub fn csi_node(page: &mut Page, object: &Value) {
    generic::head(page, object);
    page.field("CreationTimestamp", date(&object["metadata"]["creationTimestamp"]));
    page.line("Spec:");
    if object["spec"]["drivers"].is_array() {
        page.line("  Drivers:");
    }
    for driver in items(&object["spec"]["drivers"]) {
        page.line(format!("    {}:", text(&driver["name"])));
        page.field("      Node ID", text(&driver["nodeID"]));
        if let Some(count) = driver["allocatable"]["count"].as_i64() {
            page.line("      Allocatables:");
            page.field("        Count", count);
        }
        if driver["topologyKeys"].is_array() {
            page.field("      Topology Keys", words(&driver["topologyKeys"]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn volumes_say_where_they_may_be_and_what_they_are() {
        let mut page = Page::default();
        volume(
            &mut page,
            &json!({"metadata": {"name": "v"}, "status": {"phase": "Bound"}, "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "hostPath": {"path": "/x"},
                "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "n", "name": "c"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "a", "operator": "In", "values": ["b", "c"]}, {"key": "d", "operator": "Exists"}]}]}}}}),
        );
        let expect = "Name:              v\nLabels:            <none>\nAnnotations:       <none>\nFinalizers:        []\n\
            StorageClass:      \nStatus:            Bound\nClaim:             n/c\nReclaim Policy:    Retain\n\
            Access Modes:      RWO,ROX\nCapacity:          1Gi\nNode Affinity:     \n  Required Terms:  \n    \
            Term 0:        a in [b, c]\n                   d exists\nMessage:           \nSource:\n    \
            Type:          HostPath (bare host directory volume)\n    Path:          /x\n    HostPathType:  <none>\n";
        assert_eq!(page.text(), expect);
    }
}
