//! InterPodAffinity: pods near other pods, or away from them.

mod score;

use std::collections::HashMap;
use std::sync::Arc;

use crate::framework::{ClusterFilter, Counted, Happening, Refusal};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};
use crate::terms::{Namespaces, Term};

const AFFINITY: &str = "node(s) didn't match pod affinity rules";
const ANTI_AFFINITY: &str = "node(s) didn't match pod anti-affinity rules";
const EXISTING: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

pub struct InterPodAffinity;

/// How many pods count for a domain: a topology key and the value that its nodes have.
type Domains = HashMap<(String, String), i64>;

fn count(domains: &mut Domains, term: &Term, node: &NodeInfo, by: i64) {
    let Some(value) = node.label(&term.topology_key) else { return };
    let domain = (term.topology_key.clone(), value.to_owned());
    let pods = domains.entry(domain).or_insert(0);
    *pods += by;
    if *pods == 0 {
        domains.remove(&(term.topology_key.clone(), value.to_owned()));
    }
}

fn pods(domains: &Domains, key: &str, value: &str) -> i64 {
    if domains.is_empty() { 0 } else { domains.get(&(key.to_owned(), value.to_owned())).copied().unwrap_or(0) }
}

#[derive(Clone)]
struct Counts {
    namespaces: Arc<Namespaces>,
    /// Pods that want no pod such as this one near them.
    existing: Domains,
    /// Pods that this one wants near it; those that match all its terms.
    near: Domains,
    /// Pods that this one wants none of near it.
    far: Domains,
}

impl Counts {
    fn count(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, by: i64) {
        for term in other.terms.required_anti_affinity.iter().filter(|term| term.matches(pod, &self.namespaces)) {
            count(&mut self.existing, term, node, by);
        }
        let near = &pod.terms.required_affinity;
        if !near.is_empty() && near.iter().all(|term| term.matches(other, &self.namespaces)) {
            near.iter().for_each(|term| count(&mut self.near, term, node, by));
        }
        for term in pod.terms.required_anti_affinity.iter().filter(|term| term.matches(other, &self.namespaces)) {
            count(&mut self.far, term, node, by);
        }
    }

    /// The first pod of a group that wants to be together would wait for itself; it is let in where its
    /// terms match it and no other pod anywhere.
    fn is_near(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let mut all_there = true;
        for term in &pod.terms.required_affinity {
            let Some(value) = node.label(&term.topology_key) else { return false };
            all_there &= pods(&self.near, &term.topology_key, value) > 0;
        }
        all_there
            || (self.near.is_empty() && pod.terms.required_affinity.iter().all(|t| t.matches(pod, &self.namespaces)))
    }

    fn is_far(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let crowded = |term: &Term| {
            node.label(&term.topology_key).is_some_and(|value| pods(&self.far, &term.topology_key, value) > 0)
        };
        !pod.terms.required_anti_affinity.iter().any(crowded)
    }

    fn is_welcome(&self, node: &NodeInfo) -> bool {
        let labels = node.node().metadata.labels.iter().flatten();
        self.existing.is_empty() || labels.into_iter().all(|(key, value)| pods(&self.existing, key, value) == 0)
    }
}

impl ClusterFilter for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn count(&self, pod: &PodInfo, all: &Snapshot) -> Option<Box<dyn Counted>> {
        let wants = !pod.terms.required_affinity.is_empty() || !pod.terms.required_anti_affinity.is_empty();
        let unwanted = all.nodes.iter().any(|node| node.with_required_anti_affinity > 0)
            || all.nominated.iter().any(|nominated| !nominated.pod.terms.required_anti_affinity.is_empty());
        if !wants && !unwanted {
            return None;
        }
        let mut counts = Counts {
            namespaces: all.namespaces.clone(),
            existing: Domains::new(),
            near: Domains::new(),
            far: Domains::new(),
        };
        for node in all.nodes.iter().filter(|node| wants || node.with_required_anti_affinity > 0) {
            node.pods.values().for_each(|other| counts.count(pod, other, node, 1));
        }
        Some(Box::new(counts))
    }

    fn wakes(&self) -> Happening {
        Happening::NODE_ADDED
            .or(Happening::NODE_LABELS)
            .or(Happening::POD_ADDED)
            .or(Happening::POD_LABELS)
            .or(Happening::POD_GONE)
            .or(Happening::NAMESPACE_LABELS)
    }
}

impl Counted for Counts {
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        if !self.is_near(pod, node) {
            return Err(Refusal::final_(AFFINITY));
        }
        if !self.is_far(pod, node) {
            return Err(Refusal::until_pods_go(ANTI_AFFINITY));
        }
        if self.is_welcome(node) { Ok(()) } else { Err(Refusal::until_pods_go(EXISTING)) }
    }

    fn shift(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, by: i64) {
        self.count(pod, other, node, by);
    }

    fn copy(&self) -> Box<dyn Counted> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests;
