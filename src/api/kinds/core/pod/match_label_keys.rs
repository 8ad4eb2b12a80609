//! `matchLabelKeys` of pod affinity (KEP-3633) and topology spread (KEP-3243): at its creation, a pod's own values
//! of those labels go into the selectors, so that whoever reads them needs to know nothing else.

use serde_json::{Map, Value, json};

use crate::kinds::peek::{Fill, Peek};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn merge(pod: &mut Value) {
    let Some(labels) = pod.map("metadata.labels").cloned() else { return };
    let Some(spec) = pod.as_object_mut().and_then(|o| o.existing("spec")) else { return };
    for constraint in spec.items("topologySpreadConstraints") {
        into_selector(constraint, "matchLabelKeys", "In", &labels);
    }
    let Some(affinity) = spec.existing("affinity") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(kind) = affinity.existing(kind) else { continue };
        for term in kind.items(REQUIRED) {
            into_selector(term, "matchLabelKeys", "In", &labels);
            into_selector(term, "mismatchLabelKeys", "NotIn", &labels);
        }
        for weighted in kind.items(PREFERRED) {
            if let Some(term) = weighted.existing("podAffinityTerm") {
                into_selector(term, "matchLabelKeys", "In", &labels);
                into_selector(term, "mismatchLabelKeys", "NotIn", &labels);
            }
        }
    }
}

fn into_selector(term: &mut Map<String, Value>, keys: &str, operator: &str, labels: &Map<String, Value>) {
    let keys: Vec<String> = term
        .get(keys)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|k| Some(k.as_str()?.to_owned()))
        .collect();
    let Some(selector) = term.existing("labelSelector") else { return };
    for key in keys {
        let Some(value) = labels.get(&key) else { continue };
        let expressions = selector.entry("matchExpressions").or_insert_with(|| json!([]));
        if let Some(list) = expressions.as_array_mut() {
            list.push(json!({"key": key, "operator": operator, "values": [value]}));
        }
    }
}
