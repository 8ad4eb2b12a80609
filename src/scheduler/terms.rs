//! What a pod says about other pods: its affinity and anti-affinity, with selectors ready to match.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, WeightedPodAffinityTerm};
use skiff_api::selector::LabelSelector;

use crate::snapshot::PodInfo;

pub type Labels = BTreeMap<String, String>;
/// The labels of all namespaces, by name.
pub type Namespaces = HashMap<String, Labels>;

/// One term: pods that it matches count for the domain that their node's label names.
#[derive(Debug)]
pub struct Term {
    namespaces: Vec<String>,
    namespace_selector: LabelSelector,
    selector: LabelSelector,
    pub topology_key: String,
}

impl Term {
    /// A selector that can't be read selects nothing; the API server lets none through.
    fn new(term: &PodAffinityTerm, own_namespace: &str) -> Self {
        let selector = |s| LabelSelector::from_typed(s).unwrap_or_else(|_| LabelSelector::nothing());
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(own_namespace.to_owned());
        }
        Self {
            namespaces,
            namespace_selector: selector(term.namespace_selector.as_ref()),
            selector: selector(term.label_selector.as_ref()),
            topology_key: term.topology_key.clone(),
        }
    }

    pub fn matches(&self, pod: &PodInfo, namespaces: &Namespaces) -> bool {
        let namespace = &*pod.key.namespace;
        let of_namespace = |key: &str| namespaces.get(namespace)?.get(key).map(String::as_str);
        (self.namespaces.iter().any(|name| name == namespace) || self.namespace_selector.matches_with(of_namespace))
            && self.selector.matches(pod.labels())
    }
}

/// All terms of a pod; preferred ones with their weights.
#[derive(Debug, Default)]
pub struct Terms {
    pub required_affinity: Vec<Term>,
    pub required_anti_affinity: Vec<Term>,
    pub preferred_affinity: Vec<(i64, Term)>,
    pub preferred_anti_affinity: Vec<(i64, Term)>,
}

impl Terms {
    pub fn of(pod: &Pod) -> Self {
        let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else { return Self::default() };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let required = |terms: &Option<Vec<PodAffinityTerm>>| -> Vec<Term> {
            terms.iter().flatten().map(|term| Term::new(term, namespace)).collect()
        };
        let preferred = |terms: &Option<Vec<WeightedPodAffinityTerm>>| -> Vec<(i64, Term)> {
            let weighed =
                |term: &WeightedPodAffinityTerm| (term.weight.into(), Term::new(&term.pod_affinity_term, namespace));
            terms.iter().flatten().map(weighed).collect()
        };
        let (to, from) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
        let none = (Vec::new(), Vec::new());
        let (required_affinity, preferred_affinity) = to.map_or(none, |a| {
            let (hard, soft) = (
                &a.required_during_scheduling_ignored_during_execution,
                &a.preferred_during_scheduling_ignored_during_execution,
            );
            (required(hard), preferred(soft))
        });
        let none = (Vec::new(), Vec::new());
        let (required_anti_affinity, preferred_anti_affinity) = from.map_or(none, |a| {
            let (hard, soft) = (
                &a.required_during_scheduling_ignored_during_execution,
                &a.preferred_during_scheduling_ignored_during_execution,
            );
            (required(hard), preferred(soft))
        });
        Self { required_affinity, required_anti_affinity, preferred_affinity, preferred_anti_affinity }
    }

    pub fn are_none(&self) -> bool {
        self.required_affinity.is_empty()
            && self.required_anti_affinity.is_empty()
            && self.preferred_affinity.is_empty()
            && self.preferred_anti_affinity.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::labelled;
    use serde_json::{Value, json};

    #[test]
    fn terms_match_pods_by_namespace_and_labels() {
        let namespaces = Namespaces::from([
            ("red".to_owned(), Labels::from([("team".to_owned(), "r".to_owned())])),
            ("blue".to_owned(), Labels::new()),
        ]);
        let check = |term: Value, namespace: &str, expect: bool| {
            let typed: PodAffinityTerm = serde_json::from_value(term.clone()).expect("a term");
            let pod = labelled("a", namespace, json!({"app": "web"}), json!({"containers": []}));
            assert_eq!(Term::new(&typed, "red").matches(&pod, &namespaces), expect, "{term} {namespace}");
        };
        let web = json!({"matchLabels": {"app": "web"}});
        check(json!({"topologyKey": "h", "labelSelector": web}), "red", true);
        check(json!({"topologyKey": "h", "labelSelector": web}), "blue", false);
        check(json!({"topologyKey": "h", "labelSelector": web, "namespaces": ["blue"]}), "blue", true);
        check(json!({"topologyKey": "h", "labelSelector": web, "namespaces": ["blue"]}), "red", false);
        check(json!({"topologyKey": "h", "labelSelector": web, "namespaceSelector": {}}), "blue", true);
        let team = json!({"matchLabels": {"team": "r"}});
        check(json!({"topologyKey": "h", "labelSelector": web, "namespaceSelector": team}), "red", true);
        check(json!({"topologyKey": "h", "labelSelector": web, "namespaceSelector": team}), "blue", false);
        check(
            json!({"topologyKey": "h", "labelSelector": web, "namespaces": ["blue"], "namespaceSelector": team}),
            "blue",
            true,
        );
        check(json!({"topologyKey": "h", "labelSelector": {}}), "red", true);
        check(json!({"topologyKey": "h"}), "red", false);
        check(json!({"topologyKey": "h", "labelSelector": {"matchLabels": {"app": "db"}}}), "red", false);
    }
}
