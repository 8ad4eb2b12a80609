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
    /// A pod has come onto a node.
    pub const POD_ADDED: Self = Self(1 << 5);
    /// Of a pod on a node.
    pub const POD_LABELS: Self = Self(1 << 6);
    pub const NODE_GONE: Self = Self(1 << 7);
    /// A namespace has come, or has other labels.
    pub const NAMESPACE_LABELS: Self = Self(1 << 8);
    /// Claims, volumes and storage classes that came, changed or went.
    pub const CLAIMS: Self = Self(1 << 9);
    pub const VOLUMES: Self = Self(1 << 10);
    pub const CLASSES: Self = Self(1 << 11);

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

/// Says whether any node will do at all.
pub trait PreFilter: Sync {
    fn name(&self) -> &'static str;
    /// The error says why none will, in upstream's words.
    fn check(&self, pod: &PodInfo, all: &Snapshot) -> Result<(), String>;
    /// What may change a refusal.
    fn wakes(&self) -> Happening;
}

/// Says which nodes will do.
pub trait Filter: Sync {
    fn name(&self) -> &'static str;
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal>;
    /// What may change a refusal.
    fn wakes(&self) -> Happening;
}

/// Says which nodes will do, by what is on other nodes too.
pub trait ClusterFilter: Sync {
    fn name(&self) -> &'static str;
    /// Counts once for all nodes; `None` where it has nothing to say about the pod.
    fn count(&self, pod: &PodInfo, all: &Snapshot) -> Option<Box<dyn Counted>>;
    /// What may change a refusal.
    fn wakes(&self) -> Happening;
}

/// What a [`ClusterFilter`] has counted for one pod.
pub trait Counted {
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal>;
    /// As if `other` had come onto the node (`by` 1) or gone from it (-1).
    fn shift(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, by: i64);
    fn copy(&self) -> Box<dyn Counted>;
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
    /// Why none was looked at.
    hopeless: Option<String>,
    /// The nodes that might do if pods went away, in the order in which they were looked at.
    pub resolvable: Vec<String>,
    /// What may let the pod in.
    pub wakes: Happening,
    /// Why no pods were sent away for it.
    pub preemption: Option<String>,
}

impl NoFit {
    pub fn new(nodes: usize) -> Self {
        // A new node is always worth a look.
        Self { nodes, wakes: Happening::NODE_ADDED, ..Self::default() }
    }

    pub fn refuse(&mut self, node: &str, refusal: Refusal, wakes: Happening) {
        for reason in refusal.reasons {
            *self.reasons.entry(reason).or_insert(0) += 1;
        }
        if refusal.resolvable {
            self.resolvable.push(node.to_owned());
        }
        self.wakes = self.wakes.or(wakes);
    }

    /// No node will do, whichever.
    pub fn refuse_all(mut self, why: String, wakes: Happening) -> Self {
        self.hopeless = Some(why);
        self.wakes = self.wakes.or(wakes);
        self
    }

    /// The message of the condition and the event.
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        let mut message = match &self.hopeless {
            Some(why) => format!("0/{} nodes are available: {why}.", self.nodes),
            None => none_of(self.nodes, &self.reasons),
        };
        if let Some(preemption) = &self.preemption {
            message.push_str(" preemption: ");
            message.push_str(preemption);
        }
        message
    }
}

/// `0/3 nodes are available: 1 too small, 2 too far.`
pub fn none_of(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    format!("0/{nodes} nodes are available: {}.", histogram(reasons))
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
        none.refuse("a", Refusal::until_pods_go("Insufficient cpu"), Happening::POD_GONE);
        none.refuse("b", Refusal::until_pods_go("Insufficient cpu"), Happening::POD_GONE);
        none.refuse("c", Refusal::final_("node(s) were unschedulable"), Happening::NODE_TAINTS);
        let why = "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.";
        assert_eq!(none.message(), why);
        assert_eq!(none.resolvable, ["a", "b"]);
        none.preemption = Some("not eligible due to preemptionPolicy=Never.".into());
        assert_eq!(none.message(), format!("{why} preemption: not eligible due to preemptionPolicy=Never."));
        assert!(none.wakes.meets(Happening::NODE_TAINTS) && !none.wakes.meets(Happening::NODE_LABELS));
        let none = NoFit::new(3).refuse_all("pod has no claim".into(), Happening::CLAIMS);
        assert_eq!(none.message(), "0/3 nodes are available: pod has no claim.");
        assert!(none.wakes.meets(Happening::CLAIMS) && none.resolvable.is_empty());
        assert_eq!(NoFit::new(0).message(), "no nodes available to schedule pods");
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
