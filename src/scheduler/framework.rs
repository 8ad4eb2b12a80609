//! The points at which plugins take part in a decision.

use std::collections::BTreeMap;

use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// The best score that a plugin gives.
pub const MAX_SCORE: i64 = 100;

/// Why a plugin refuses a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In upstream's words; usually one.
    pub reasons: Vec<String>,
    /// Whether the node might do if pods went away.
    pub resolvable: bool,
}

impl Refusal {
    pub fn final_(reason: &str) -> Self {
        Self { reasons: vec![reason.to_owned()], resolvable: false }
    }

    pub fn until_pods_go(reason: &str) -> Self {
        Self { reasons: vec![reason.to_owned()], resolvable: true }
    }
}

/// What happens in the cluster and may let a refused pod in; a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Happening(u32);

impl Happening {
    pub const NONE: Self = Self(0);
    pub const NODE_ADDED: Self = Self(1);
    pub const NODE_ALLOCATABLE: Self = Self(1 << 1);
    pub const NODE_LABELS: Self = Self(1 << 2);
    /// Taints and `spec.unschedulable`.
    pub const NODE_TAINTS: Self = Self(1 << 3);
    /// A pod that was on a node has gone, or takes less.
    pub const POD_GONE: Self = Self(1 << 4);

    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Keeps pods out of the queue.
pub trait PreEnqueue: Sync {
    fn name(&self) -> &'static str;
    /// Whether the pod may be scheduled at all yet.
    fn admits(&self, pod: &PodInfo) -> bool;
}

/// Says which nodes will do.
pub trait Filter: Sync {
    fn name(&self) -> &'static str;
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal>;
    /// What may change a refusal.
    fn wakes(&self) -> Happening;
}

/// Says which nodes are better.
pub trait Score: Sync {
    fn name(&self) -> &'static str;
    fn weight(&self) -> i64;
    /// Whether it has anything to say about the pod.
    fn cares(&self, _pod: &PodInfo) -> bool {
        true
    }
    fn score(&self, pod: &PodInfo, node: &NodeInfo, all: &Snapshot) -> i64;
    /// Scores many nodes; for plugins that can share work between them.
    fn scores(&self, pod: &PodInfo, nodes: &[&NodeInfo], all: &Snapshot) -> Vec<i64> {
        nodes.iter().map(|node| self.score(pod, node, all)).collect()
    }
    /// Brings the scores of all nodes to 0..=[`MAX_SCORE`].
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// Stretches scores so that the highest becomes [`MAX_SCORE`]; `reverse` where less is better.
pub fn stretch(scores: &mut [i64], reverse: bool) {
    let highest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let stretched = if highest == 0 { 0 } else { *score * MAX_SCORE / highest };
        *score = if reverse { MAX_SCORE - stretched } else { stretched };
    }
}

/// Why no node will do.
#[derive(Debug, Clone, Default)]
pub struct NoFit {
    pub nodes: usize,
    /// How many nodes were refused for each reason.
    reasons: BTreeMap<String, usize>,
    resolvable: usize,
    /// What may let the pod in.
    pub wakes: Happening,
}

impl NoFit {
    pub fn new(nodes: usize) -> Self {
        // A new node is always worth a look.
        Self { nodes, wakes: Happening::NODE_ADDED, ..Self::default() }
    }

    pub fn refuse(&mut self, refusal: Refusal, wakes: Happening) {
        for reason in refusal.reasons {
            *self.reasons.entry(reason).or_insert(0) += 1;
        }
        self.resolvable += usize::from(refusal.resolvable);
        self.wakes = self.wakes.or(wakes);
    }

    /// The message of the condition and the event.
    pub fn message(&self, preempts: bool) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        let mut message = format!("0/{} nodes are available: {}.", self.nodes, histogram(&self.reasons));
        if !preempts {
            message.push_str(" preemption: not eligible due to preemptionPolicy=Never.");
            return message;
        }
        let mut why = BTreeMap::new();
        if self.resolvable > 0 {
            why.insert("No preemption victims found for incoming pod".to_owned(), self.resolvable);
        }
        if self.nodes > self.resolvable {
            why.insert("Preemption is not helpful for scheduling".to_owned(), self.nodes - self.resolvable);
        }
        message.push_str(&format!(" preemption: 0/{} nodes are available: {}.", self.nodes, histogram(&why)));
        message
    }
}

/// `1 too small, 2 too far`, in the order of the texts.
fn histogram(reasons: &BTreeMap<String, usize>) -> String {
    let mut parts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_it_in_upstreams_words() {
        let mut none = NoFit::new(3);
        none.refuse(Refusal::until_pods_go("Insufficient cpu"), Happening::POD_GONE);
        none.refuse(Refusal::until_pods_go("Insufficient cpu"), Happening::POD_GONE);
        none.refuse(Refusal::final_("node(s) were unschedulable"), Happening::NODE_TAINTS);
        assert_eq!(
            none.message(true),
            "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu. preemption: 0/3 nodes are \
             available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod."
        );
        assert!(none.message(false).ends_with("preemption: not eligible due to preemptionPolicy=Never."));
        assert!(none.wakes.meets(Happening::NODE_TAINTS) && !none.wakes.meets(Happening::NODE_LABELS));
        assert_eq!(NoFit::new(0).message(true), "no nodes available to schedule pods");
    }

    #[test]
    fn stretches() {
        let check = |scores: &[i64], reverse: bool, expect: &[i64]| {
            let mut scores = scores.to_vec();
            stretch(&mut scores, reverse);
            assert_eq!(scores, expect);
        };
        check(&[0, 5, 10], false, &[0, 50, 100]);
        check(&[0, 5, 10], true, &[100, 50, 0]);
        check(&[0, 0], true, &[100, 100]);
        check(&[], false, &[]);
    }
}
