//! What a check finds, and the words that all of them use.

use std::collections::BTreeSet;

use serde_json::Value;

/// Why a pod is not of the level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub reason: String,
    pub detail: String,
}

pub(super) fn finding(reason: &str, detail: String) -> Option<Finding> {
    Some(Finding { reason: reason.to_owned(), detail })
}

/// All containers in upstream's order.
pub(super) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|list| pod["spec"][list].as_array().into_iter().flatten())
}

pub(super) fn name(container: &Value) -> String {
    container["name"].as_str().unwrap_or_default().to_owned()
}

/// The names of the containers that are so.
pub(super) fn those(pod: &Value, are: impl Fn(&Value) -> bool) -> Vec<String> {
    containers(pod).filter(|container| are(container)).map(name).collect()
}

pub(super) fn quoted<'a>(items: impl IntoIterator<Item = &'a String>) -> String {
    items.into_iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(", ")
}

pub(super) fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `container "a"`, `containers "a", "b"`.
pub(super) fn named(containers: &[String]) -> String {
    format!("{} {}", plural("container", "containers", containers.len()), quoted(containers))
}

/// Who of pod and containers it is, if anyone.
pub(super) fn setters(pod: bool, containers: &[String]) -> Option<String> {
    let mut who = Vec::new();
    if pod {
        who.push("pod".to_owned());
    }
    if !containers.is_empty() {
        who.push(named(containers));
    }
    (!who.is_empty()).then(|| who.join(" and "))
}

/// Pod and containers that set something to a value that is not allowed, with these values.
pub(super) fn bad_values(
    pod: &Value,
    field: impl Fn(&Value) -> Option<String>,
    allowed: impl Fn(&str) -> bool,
) -> (bool, Vec<String>, BTreeSet<String>) {
    let mut values = BTreeSet::new();
    let mut is_bad = |context: &Value| match field(context).filter(|value| !allowed(value)) {
        Some(value) => {
            values.insert(value);
            true
        }
        None => false,
    };
    let pod_is = is_bad(&pod["spec"]["securityContext"]);
    let bad: Vec<String> = containers(pod).filter(|c| is_bad(&c["securityContext"])).map(name).collect();
    (pod_is, bad, values)
}

/// The text at a path of a security context; a field of an object that is there but without the text is empty.
pub(super) fn text_in(context: &Value, object: &str, field: &str) -> Option<String> {
    context[object].is_object().then(|| context[object][field].as_str().unwrap_or_default().to_owned())
}
