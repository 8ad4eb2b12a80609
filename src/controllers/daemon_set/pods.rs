//! The pods of daemon sets: what they are made of, and which node they are for.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};

use crate::history::REVISION_LABEL;
use crate::pod_control;

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";
const NAME_FIELD: &str = "metadata.name";

/// What these pods put up with: key, effect.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// The spec of the set's pods, with the tolerations that they get.
pub fn spec_of(set: &DaemonSet) -> PodSpec {
    let mut spec = set.spec.as_ref().and_then(|spec| spec.template.spec.clone()).unwrap_or_default();
    let network = ("node.kubernetes.io/network-unavailable", "NoSchedule");
    let on_host = spec.host_network == Some(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(on_host.then_some(network)) {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    spec
}

/// The generation of the set's template.
pub fn template_generation(set: &DaemonSet) -> Option<&String> {
    set.metadata.annotations.as_ref()?.get(TEMPLATE_GENERATION)
}

/// Whether the pod has the set's newest template.
pub fn is_updated(pod: &Pod, hash: &str) -> bool {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_LABEL)).is_some_and(|label| label == hash)
}

/// A pod for the node.
pub fn plan_pod(set: &DaemonSet, hash: &str, node: &str) -> Pod {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = pod_control::plan_pod(set, &template);
    pod.metadata.generate_name = Some(format!("{}-", set.metadata.name.as_deref().unwrap_or_default()));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(REVISION_LABEL.to_owned(), hash.to_owned());
    if let Some(generation) = template_generation(set) {
        labels.insert(GENERATION_LABEL.to_owned(), generation.clone());
    }
    let mut spec = spec_of(set);
    spec.affinity = Some(only_on(spec.affinity.take(), node));
    pod.spec = Some(spec);
    pod
}

/// The affinity with this node as the only one.
fn only_on(affinity: Option<Affinity>, node: &str) -> Affinity {
    let mut affinity = affinity.unwrap_or_default();
    let field = NodeSelectorRequirement {
        key: NAME_FIELD.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_expressions: None, match_fields: Some(vec![field]) };
    let nodes = affinity.node_affinity.get_or_insert_default();
    *nodes = NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector { node_selector_terms: vec![term] }),
        preferred_during_scheduling_ignored_during_execution: nodes
            .preferred_during_scheduling_ignored_during_execution
            .take(),
    };
    affinity
}

/// The node that a pod is on, or is for.
pub fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let nodes = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &nodes.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.first()?.match_fields.as_ref()?;
    fields.iter().find(|f| f.key == NAME_FIELD && f.operator == "In")?.values.as_ref()?.first().map(String::as_str)
}
