//! The checks that the level `restricted` adds.

use std::collections::BTreeSet;

use serde_json::Value;

use super::baseline::{has_user_namespace, is_seccomp};
use super::finding::{Finding, bad_values, containers, finding, name, named, plural, quoted, setters, text_in, those};

const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// From 1.25 on, pods for Windows need not say what their system does not know.
fn is_exempt(pod: &Value, minor: u32) -> bool {
    minor >= 25 && pod["spec"]["os"]["name"] == "windows"
}

pub(super) fn privilege_escalation(pod: &Value, minor: u32) -> Option<Finding> {
    let bad = those(pod, |container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    if bad.is_empty() || is_exempt(pod, minor) {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&bad));
    finding("allowPrivilegeEscalation != false", detail)
}

pub(super) fn capabilities(pod: &Value, minor: u32) -> Option<Finding> {
    let list = |container: &Value, list: &str| -> Vec<String> {
        let list = container["securityContext"]["capabilities"][list].as_array();
        list.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let added = |container: &Value| list(container, "add").into_iter().filter(|name| name != "NET_BIND_SERVICE");
    let keeping = those(pod, |container| !list(container, "drop").iter().any(|name| name == "ALL"));
    let adding = those(pod, |container| added(container).next().is_some());
    let all: BTreeSet<String> = containers(pod).flat_map(added).collect();
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!(r#"{} must set securityContext.capabilities.drop=["ALL"]"#, named(&keeping)));
    }
    if !adding.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            named(&adding),
            quoted(&all)
        ));
    }
    if details.is_empty() || is_exempt(pod, minor) {
        return None;
    }
    finding("unrestricted capabilities", details.join("; "))
}

pub(super) fn volumes(pod: &Value, _minor: u32) -> Option<Finding> {
    let (mut bad, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        let Some(fields) = volume.as_object() else { continue };
        if VOLUMES.iter().any(|kind| fields.contains_key(*kind)) {
            continue;
        }
        bad.push(name(volume));
        let kind = fields.keys().find(|field| *field != "name");
        kinds.insert(kind.cloned().unwrap_or_else(|| "unknown".to_owned()));
    }
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", bad.len()),
        quoted(&bad),
        plural("uses", "use", bad.len()),
        plural("restricted volume type", "restricted volume types", kinds.len()),
        quoted(&kinds)
    );
    finding("restricted volume types", detail)
}

pub(super) fn run_as_non_root(pod: &Value, minor: u32) -> Option<Finding> {
    if minor >= 35 && has_user_namespace(pod) {
        return None;
    }
    let of_pod = &pod["spec"]["securityContext"]["runAsNonRoot"];
    let set = |container: &Value| container["securityContext"]["runAsNonRoot"].as_bool();
    if let Some(who) = setters(*of_pod == false, &those(pod, |c| set(c) == Some(false))) {
        return finding("runAsNonRoot != true", format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = those(pod, |container| set(container).is_none());
    if *of_pod == true || silent.is_empty() {
        return None;
    }
    finding("runAsNonRoot != true", format!("pod or {} must set securityContext.runAsNonRoot=true", named(&silent)))
}

pub(super) fn run_as_user(pod: &Value, minor: u32) -> Option<Finding> {
    if minor >= 35 && has_user_namespace(pod) {
        return None;
    }
    let is_root = |holder: &Value| holder["securityContext"]["runAsUser"] == 0;
    let who = setters(is_root(&pod["spec"]), &those(pod, is_root))?;
    finding("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

pub(super) fn seccomp(pod: &Value, minor: u32) -> Option<Finding> {
    if is_exempt(pod, minor) {
        return None;
    }
    let (of_pod, bad, values) = bad_values(pod, |c| text_in(c, "seccompProfile", "type"), is_seccomp);
    if let Some(who) = setters(of_pod, &bad) {
        let detail = format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&values));
        return finding("seccompProfile", detail);
    }
    let says = |holder: &Value| holder["securityContext"]["seccompProfile"].is_object();
    let silent = those(pod, |container| !says(container));
    if says(&pod["spec"]) || silent.is_empty() {
        return None;
    }
    let who = named(&silent);
    let detail =
        format!(r#"pod or {who} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost""#);
    finding("seccompProfile", detail)
}
