//! Preferences: of the pod for others, and of the pods on nodes for one such as this.

use std::collections::HashMap;

use super::InterPodAffinity;
use crate::framework::{MAX_SCORE, Score};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};
use crate::terms::Term;

/// What a pod that must be near others counts for these, once it is there.
const HARD_AFFINITY_WEIGHT: i64 = 1;

/// Weight by topology key and value.
type Weights<'a> = HashMap<&'a str, HashMap<&'a str, i64>>;

/// Adds a weight for the domain of the node that holds the matching pod.
fn add<'a>(weights: &mut Weights<'a>, term: &'a Term, node: &'a NodeInfo, weight: i64) {
    if let Some(value) = node.label(&term.topology_key) {
        *weights.entry(&term.topology_key).or_default().entry(value).or_insert(0) += weight;
    }
}

fn weigh<'a>(weights: &mut Weights<'a>, pod: &'a PodInfo, other: &'a PodInfo, node: &'a NodeInfo, all: &Snapshot) {
    let (mine, theirs) = (&pod.terms, &other.terms);
    for (weight, term) in mine.preferred_affinity.iter().filter(|(_, term)| term.matches(other, &all.namespaces)) {
        add(weights, term, node, *weight);
    }
    for (weight, term) in mine.preferred_anti_affinity.iter().filter(|(_, term)| term.matches(other, &all.namespaces)) {
        add(weights, term, node, -weight);
    }
    for term in theirs.required_affinity.iter().filter(|term| term.matches(pod, &all.namespaces)) {
        add(weights, term, node, HARD_AFFINITY_WEIGHT);
    }
    for (weight, term) in theirs.preferred_affinity.iter().filter(|(_, term)| term.matches(pod, &all.namespaces)) {
        add(weights, term, node, *weight);
    }
    for (weight, term) in theirs.preferred_anti_affinity.iter().filter(|(_, t)| t.matches(pod, &all.namespaces)) {
        add(weights, term, node, -weight);
    }
}

impl Score for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, all: &Snapshot) -> i64 {
        self.scores(pod, &[node], all)[0]
    }

    fn scores(&self, pod: &PodInfo, nodes: &[&NodeInfo], all: &Snapshot) -> Vec<i64> {
        let prefers = !pod.terms.preferred_affinity.is_empty() || !pod.terms.preferred_anti_affinity.is_empty();
        let mut weights = Weights::new();
        for node in all.nodes.iter().filter(|node| prefers || node.with_terms > 0) {
            let others = node.pods.values().filter(|other| prefers || !other.terms.are_none());
            others.for_each(|other| weigh(&mut weights, pod, other, node, all));
        }
        let of = |node: &&NodeInfo| {
            let domain = |(key, values): (&&str, &HashMap<&str, i64>)| values.get(node.label(key)?).copied();
            weights.iter().filter_map(domain).sum()
        };
        nodes.iter().map(of).collect()
    }

    /// From the worst, 0, to the best.
    fn normalize(&self, scores: &mut [i64]) {
        let (Some(least), Some(most)) = (scores.iter().copied().min(), scores.iter().copied().max()) else { return };
        for score in scores {
            *score = if most > least {
                (MAX_SCORE as f64 * ((*score - least) as f64 / (most - least) as f64)) as i64
            } else {
                0
            };
        }
    }
}
