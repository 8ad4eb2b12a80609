//! Constraints that only prefer, and the system's own for pods without any.

use std::collections::HashMap;

use super::PodTopologySpread;
use super::constraint::{Constraint, HOSTNAME, SCHEDULE_ANYWAY};
use crate::framework::{MAX_SCORE, Score};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// One constraint with the number of equal pods by domain; of hosts each is looked at by itself.
struct Domains {
    constraint: Constraint,
    pods: HashMap<String, i64>,
    weight: f64,
}

impl Domains {
    fn of(&self, pod: &PodInfo, node: &NodeInfo) -> f64 {
        let key = &self.constraint.key;
        let Some(value) = node.label(key) else { return 0.0 };
        let equals =
            if key == HOSTNAME { self.constraint.count(pod, node) } else { self.pods.get(value).copied().unwrap_or(0) };
        // With a greater skew, differences matter less.
        equals as f64 * self.weight + (self.constraint.max_skew - 1) as f64
    }
}

impl Score for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, all: &Snapshot) -> i64 {
        self.scores(pod, &[node], all)[0]
    }

    /// Already from 0 to [`MAX_SCORE`]: nodes that lack a label stay out of the comparison.
    fn scores(&self, pod: &PodInfo, nodes: &[&NodeInfo], all: &Snapshot) -> Vec<i64> {
        let own = pod.spec().topology_spread_constraints.as_ref().is_some_and(|c| !c.is_empty());
        let constraints = if own { Constraint::of(pod, SCHEDULE_ANYWAY) } else { Constraint::defaults(all) };
        if constraints.is_empty() {
            return vec![0; nodes.len()];
        }
        // The system's constraints spread over hosts where there are no zones.
        let takes_part = |node: &NodeInfo| !own || constraints.iter().all(|c| node.label(&c.key).is_some());
        let known: Vec<bool> = nodes.iter().map(|node| takes_part(node)).collect();
        let candidates: Vec<&NodeInfo> =
            nodes.iter().zip(&known).filter(|(_, known)| **known).map(|(node, _)| *node).collect();
        let counting: Vec<&NodeInfo> = all.nodes.iter().map(|node| &**node).filter(|node| takes_part(node)).collect();
        let domains: Vec<Domains> =
            constraints.iter().map(|constraint| count(constraint, pod, &candidates, &counting)).collect();
        let score = |node: &NodeInfo| domains.iter().map(|domain| domain.of(pod, node)).sum::<f64>().round() as i64;
        let raw: Vec<Option<i64>> = nodes.iter().zip(&known).map(|(node, known)| known.then(|| score(node))).collect();
        normalized(&raw)
    }
}

fn count(constraint: &Constraint, pod: &PodInfo, candidates: &[&NodeInfo], counting: &[&NodeInfo]) -> Domains {
    let mut pods = HashMap::new();
    let mut size = candidates.len();
    if constraint.key != HOSTNAME {
        let value = |node: &NodeInfo| node.label(&constraint.key).unwrap_or_default().to_owned();
        pods.extend(candidates.iter().map(|node| (value(node), 0)));
        size = pods.len();
        for node in counting.iter().filter(|node| constraint.includes(pod, node)) {
            if let Some(equals) = pods.get_mut(&value(node)) {
                *equals += constraint.count(pod, node);
            }
        }
    }
    Domains { constraint: constraint.clone(), pods, weight: ((size + 2) as f64).ln() }
}

/// Fewer is better; `None` takes no part, and is the worst.
fn normalized(raw: &[Option<i64>]) -> Vec<i64> {
    let least = raw.iter().flatten().copied().min().unwrap_or(0);
    let most = raw.iter().flatten().copied().max().unwrap_or(0);
    let one = |score: &Option<i64>| match score {
        None => 0,
        Some(_) if most == 0 => MAX_SCORE,
        Some(score) => MAX_SCORE * (most + least - score) / most,
    };
    raw.iter().map(one).collect()
}
