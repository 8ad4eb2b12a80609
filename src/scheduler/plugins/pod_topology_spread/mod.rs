//! PodTopologySpread: equal pods in all domains alike.

mod constraint;
mod score;

use std::collections::{BTreeMap, HashMap};

use constraint::{Constraint, DO_NOT_SCHEDULE};

use crate::framework::{ClusterFilter, Counted, Happening, Refusal};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

const UNEVEN: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

pub struct PodTopologySpread;

/// One constraint with what there is.
#[derive(Clone)]
struct Spread {
    constraint: Constraint,
    /// Equal pods by domain, for the domains that count.
    domains: HashMap<String, i64>,
    /// How many domains have so many pods; its first is the least.
    numbers: BTreeMap<i64, usize>,
}

impl Spread {
    fn new(constraint: Constraint) -> Self {
        Self { constraint, domains: HashMap::new(), numbers: BTreeMap::new() }
    }

    fn shift(&mut self, value: &str, by: i64) {
        let old = self.domains.get(value).copied();
        let new = old.unwrap_or(0) + by;
        if let Some(old) = old
            && let Some(domains) = self.numbers.get_mut(&old)
        {
            *domains -= 1;
            if *domains == 0 {
                self.numbers.remove(&old);
            }
        }
        self.domains.insert(value.to_owned(), new);
        *self.numbers.entry(new).or_insert(0) += 1;
    }

    /// `None`: there is no domain at all.
    fn least(&self) -> Option<i64> {
        let least = self.numbers.first_key_value().map(|(number, _)| *number)?;
        Some(if self.domains.len() < self.constraint.min_domains { 0 } else { least })
    }
}

#[derive(Clone)]
struct Spreads(Vec<Spread>);

impl Spreads {
    /// Nodes that lack one of the labels are no part of it.
    fn includes(&self, node: &NodeInfo) -> bool {
        self.0.iter().all(|spread| node.label(&spread.constraint.key).is_some())
    }
}

impl ClusterFilter for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn count(&self, pod: &PodInfo, all: &Snapshot) -> Option<Box<dyn Counted>> {
        let mut spreads = Spreads(Constraint::of(pod, DO_NOT_SCHEDULE).into_iter().map(Spread::new).collect());
        if spreads.0.is_empty() {
            return None;
        }
        for node in &all.nodes {
            if !spreads.includes(node) {
                continue;
            }
            for spread in spreads.0.iter_mut().filter(|spread| spread.constraint.includes(pod, node)) {
                let value = node.label(&spread.constraint.key).unwrap_or_default();
                let equals = spread.constraint.count(pod, node);
                spread.shift(value, equals);
            }
        }
        Some(Box::new(spreads))
    }

    fn wakes(&self) -> Happening {
        Happening::NODE_ADDED
            .or(Happening::NODE_GONE)
            .or(Happening::NODE_LABELS)
            .or(Happening::NODE_TAINTS)
            .or(Happening::POD_ADDED)
            .or(Happening::POD_LABELS)
            .or(Happening::POD_GONE)
    }
}

impl Counted for Spreads {
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        for spread in &self.0 {
            let constraint = &spread.constraint;
            let Some(value) = node.label(&constraint.key) else { return Err(Refusal::final_(NO_LABEL)) };
            let Some(least) = spread.least() else { continue };
            let itself = i64::from(constraint.selector.matches(pod.labels()));
            let there = spread.domains.get(value).copied().unwrap_or(0);
            if there + itself - least > constraint.max_skew {
                return Err(Refusal::until_pods_go(UNEVEN));
            }
        }
        Ok(())
    }

    fn shift(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, by: i64) {
        if !self.includes(node) {
            return;
        }
        for spread in &mut self.0 {
            if spread.constraint.counts(pod, other) && spread.constraint.includes(pod, node) {
                let value = node.label(&spread.constraint.key).unwrap_or_default();
                spread.shift(value, by);
            }
        }
    }

    fn copy(&self) -> Box<dyn Counted> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests;
