//! DefaultPreemption: which less important pods go so that a pod finds a node.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use skiff_api::selector::LabelSelector;

use crate::checks::Checks;
use crate::framework::{NoFit, none_of};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
/// Of many nodes not more than a tenth are tried, but so many at least.
const ENOUGH_CANDIDATES: usize = 100;

/// What comes of it.
#[derive(Debug)]
pub enum Outcome {
    /// The victims go, then the node is the pod's.
    Nominate { node: String, victims: Vec<Arc<PodInfo>> },
    /// Not now; what the pod was promised stays promised.
    Wait(&'static str),
    /// No pod's going would help.
    Hopeless(String),
}

/// How many of its pods a PodDisruptionBudget lets go, as far as a preemption cares.
#[derive(Debug, Clone)]
pub struct Budget {
    namespace: String,
    selector: LabelSelector,
    /// By name: they are on their way out, and counted already.
    disrupted: BTreeSet<String>,
    allowed: i32,
}

impl Budget {
    pub fn of(budget: &PodDisruptionBudget) -> Self {
        let status = budget.status.as_ref();
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        Self {
            namespace: budget.metadata.namespace.clone().unwrap_or_default(),
            // The API server lets no selector through that can't be read.
            selector: LabelSelector::from_typed(selector).unwrap_or_else(|_| LabelSelector::nothing()),
            disrupted: status.iter().flat_map(|s| s.disrupted_pods.iter().flatten()).map(|(n, _)| n.clone()).collect(),
            allowed: status.and_then(|status| status.disruptions_allowed).unwrap_or(0),
        }
    }

    fn guards(&self, pod: &PodInfo) -> bool {
        self.namespace == *pod.key.namespace
            && !self.selector.is_everything()
            && !pod.labels().is_empty()
            && self.selector.matches(pod.labels())
            && !self.disrupted.contains(&*pod.key.name)
    }
}

/// A node with the pods that would go from it.
#[derive(Debug)]
struct Candidate {
    node: String,
    /// The most important first.
    victims: Vec<Arc<PodInfo>>,
    /// How many of them a budget would keep.
    violations: usize,
}

/// What to do for a pod that no node takes. `going` are the uids of pods that are being preempted already,
/// `offset` where the look at the nodes starts.
pub fn preempt(
    pod: &PodInfo,
    all: &Snapshot,
    none: &NoFit,
    budgets: &[Budget],
    going: &HashSet<String>,
    offset: usize,
) -> Outcome {
    if let Some(why) = ineligible(pod, all, none, going) {
        return Outcome::Wait(why);
    }
    let enough = none.resolvable.len().div_ceil(10).max(ENOUGH_CANDIDATES);
    let (mut candidates, mut reasons, mut seen) = (Vec::new(), BTreeMap::new(), 0);
    let checks = Checks::new(pod, all);
    let nodes = none.resolvable.iter().cycle().skip(offset % none.resolvable.len().max(1)).take(none.resolvable.len());
    for node in nodes.filter_map(|name| all.node(name)) {
        match victims_on(node, pod, &checks, budgets) {
            Ok(candidate) => candidates.push(candidate),
            Err(whys) => {
                seen += 1;
                whys.into_iter().for_each(|why| *reasons.entry(why).or_insert(0) += 1);
            }
        }
        if candidates.len() >= enough {
            break;
        }
    }
    match best(candidates) {
        Some(candidate) => Outcome::Nominate { node: candidate.node, victims: candidate.victims },
        None => {
            if none.nodes > seen {
                reasons.insert(NOT_HELPFUL.to_owned(), none.nodes - seen);
            }
            Outcome::Hopeless(none_of(none.nodes, &reasons))
        }
    }
}

/// Why the pod may send no others away.
fn ineligible(pod: &PodInfo, all: &Snapshot, none: &NoFit, going: &HashSet<String>) -> Option<&'static str> {
    if pod.spec().preemption_policy.as_deref() == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let node = all.nomination_of(&pod.uid)?;
    // That node won't do whoever goes from it: the pod may look for another.
    if !none.resolvable.iter().any(|name| name == node) {
        return None;
    }
    let makes_room =
        |other: &Arc<PodInfo>| other.priority < pod.priority && (going.contains(&other.uid) || other.is_preempted());
    let waits = all.node(node)?.pods.values().any(makes_room);
    waits.then_some("not eligible due to a terminating pod on the nominated node.")
}

/// The least that must go from the node, or why that would not help.
fn victims_on(
    node: &NodeInfo,
    pod: &PodInfo,
    checks: &Checks<'_>,
    budgets: &[Budget],
) -> Result<Candidate, Vec<String>> {
    let mut possible: Vec<Arc<PodInfo>> =
        node.pods.values().filter(|other| other.priority < pod.priority).cloned().collect();
    if possible.is_empty() {
        return Err(vec![NO_VICTIMS.to_owned()]);
    }
    let (mut checks, mut node) = (checks.clone(), node.clone());
    possible.iter().for_each(|other| checks.remove(&mut node, other));
    checks.check(&node).map_err(|refused| refused.refusal.reasons)?;
    possible.sort_by_key(|other| importance(other));
    let (guarded, free) = split(possible, budgets);
    let mut stays = |other: &Arc<PodInfo>| {
        checks.add(&mut node, other);
        let fits = checks.check(&node).is_ok();
        if !fits {
            checks.remove(&mut node, other);
        }
        fits
    };
    let mut victims: Vec<_> = guarded.into_iter().filter(|other| !stays(other)).collect();
    let violations = victims.len();
    victims.extend(free.into_iter().filter(|other| !stays(other)));
    victims.sort_by_key(|other| importance(other));
    Ok(Candidate { node: node.name().to_owned(), victims, violations })
}

/// The more important the smaller: of the higher priority, then longer at work.
fn importance(pod: &PodInfo) -> (Reverse<i32>, Timestamp, String) {
    (Reverse(pod.priority), started(pod), pod.uid.clone())
}

/// A pod that has not started counts as the youngest.
fn started(pod: &PodInfo) -> Timestamp {
    pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map_or(Timestamp::MAX, |time| time.0)
}

/// Those whose going would break a budget, and the others, in their order.
fn split(pods: Vec<Arc<PodInfo>>, budgets: &[Budget]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut left: Vec<i32> = budgets.iter().map(|budget| budget.allowed).collect();
    pods.into_iter().partition(|pod| {
        let mut breaks = false;
        for (_, left) in budgets.iter().zip(&mut left).filter(|(budget, _)| budget.guards(pod)) {
            *left -= 1;
            breaks |= *left < 0;
        }
        breaks
    })
}

/// Fewest broken budgets; least important greatest victim; least sum of priorities; fewest victims; the one
/// whose most important victim started last; the first.
fn best(candidates: Vec<Candidate>) -> Option<Candidate> {
    let rank = |candidate: &Candidate| {
        let highest = candidate.victims.first().map_or(i32::MIN, |victim| victim.priority);
        // Shifted, so that two victims are worse than one of the same priority below zero.
        let sum: i64 = candidate.victims.iter().map(|v| i64::from(v.priority) + i64::from(i32::MAX) + 1).sum();
        let foremost = candidate.victims.iter().filter(|victim| victim.priority == highest);
        let since = foremost.map(|victim| started(victim)).min().unwrap_or(Timestamp::MAX);
        (candidate.violations, highest, sum, candidate.victims.len(), Reverse(since))
    };
    // Of equals the first.
    candidates.into_iter().min_by_key(rank)
}

#[cfg(test)]
mod tests;
