//! Which pods a daemon set makes and deletes, and what its status says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pods::{is_updated, node_of, spec_of};
use crate::disruption::scaled;
use crate::node_fit::{is_meant_for, is_repelled};
use crate::pod::{self, Availability};

#[derive(Debug, Default)]
pub struct Plan {
    /// Names of nodes.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    /// Pods that ended, by node: they go too, but not too fast.
    pub ended: Vec<(String, Arc<Pod>)>,
}

/// A node with the set's pods on it.
pub struct Place {
    name: String,
    should_run: bool,
    may_stay: bool,
    pods: Vec<Arc<Pod>>,
}

pub fn places(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> Vec<Place> {
    let spec = spec_of(set);
    let mut by_node: BTreeMap<&str, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = node_of(pod) {
            by_node.entry(node).or_default().push(pod.clone());
        }
    }
    let place = |node: &Arc<Node>| {
        let name = node.metadata.name.clone().unwrap_or_default();
        let meant = is_meant_for(&spec, node);
        let evicted = is_repelled(&spec, node, &["NoExecute"]);
        Place {
            should_run: meant && !is_repelled(&spec, node, &["NoSchedule", "NoExecute"]),
            may_stay: meant && !evicted,
            pods: by_node.get(name.as_str()).cloned().unwrap_or_default(),
            name,
        }
    };
    nodes.iter().map(place).collect()
}

/// What of the set the plans need.
pub struct Rules<'a> {
    pub hash: &'a str,
    pub min_ready_s: i32,
    pub rolling: bool,
    pub max_unavailable: Option<&'a IntOrString>,
    pub max_surge: Option<&'a IntOrString>,
    pub now: Timestamp,
}

impl Rules<'_> {
    fn is_available(&self, pod: &Pod) -> bool {
        pod::availability(pod, self.min_ready_s, self.now) == Availability::Yes
    }

    fn surge(&self, desired: i32) -> i32 {
        self.max_surge.map_or(0, |surge| scaled(surge, desired))
    }
}

/// One pod on each node that should have one, and none elsewhere.
pub fn plan(places: &[Place], rules: &Rules<'_>) -> Plan {
    let mut plan = Plan::default();
    let desired = i32::try_from(places.iter().filter(|place| place.should_run).count()).unwrap_or(i32::MAX);
    let surging = rules.rolling && rules.surge(desired) > 0;
    for place in places {
        let staying = || place.pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        if place.should_run && place.pods.is_empty() {
            plan.create.push(place.name.clone());
        } else if !place.may_stay {
            plan.delete.extend(staying().cloned());
        } else {
            plan.ended.extend(staying().filter(|p| pod::is_over(p)).map(|pod| (place.name.clone(), pod.clone())));
            let mut running: Vec<Arc<Pod>> = staying().filter(|p| !pod::is_over(p)).cloned().collect();
            running.sort_by_key(|pod| (pod.metadata.creation_timestamp.clone(), pod.metadata.name.clone()));
            if running.len() > 1 {
                surplus(&mut plan, &running, surging, rules);
            }
        }
    }
    if rules.rolling {
        if surging {
            roll_with_surge(&mut plan, places, desired, rules);
        } else {
            roll(&mut plan, places, desired, rules);
        }
    }
    plan
}

/// All but the oldest go; while one is added before another goes, the oldest of each template.
fn surplus(plan: &mut Plan, running: &[Arc<Pod>], surging: bool, rules: &Rules<'_>) {
    if !surging {
        return plan.delete.extend(running[1..].iter().cloned());
    }
    let (new, old): (Vec<_>, Vec<_>) = running.iter().cloned().partition(|pod| is_updated(pod, rules.hash));
    for same in [&new, &old] {
        plan.delete.extend(same.iter().skip(1).cloned());
    }
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && rules.is_available(new)
    {
        plan.delete.push(old.clone());
    }
}

/// The pods of a node that stay: the new and the old one.
fn generations(place: &Place, hash: &str) -> (Option<Arc<Pod>>, Option<Arc<Pod>>) {
    let staying = || place.pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none() && !pod::is_over(pod));
    (staying().find(|pod| is_updated(pod, hash)).cloned(), staying().find(|pod| !is_updated(pod, hash)).cloned())
}

/// Old pods go: those that are not available at once, the others as long as few enough are missing.
fn roll(plan: &mut Plan, places: &[Place], desired: i32, rules: &Rules<'_>) {
    let one = IntOrString::Int(1);
    let max = scaled(rules.max_unavailable.unwrap_or(&one), desired);
    let (mut unavailable, mut broken, mut candidates) = (0, Vec::new(), Vec::new());
    for place in places.iter().filter(|place| place.should_run) {
        match generations(place, rules.hash) {
            (Some(_), Some(_)) => {}
            (None, None) => unavailable += 1,
            (Some(new), None) => unavailable += i32::from(!rules.is_available(&new)),
            (None, Some(old)) if rules.is_available(&old) => candidates.push(old),
            (None, Some(old)) => {
                unavailable += 1;
                broken.push(old);
            }
        }
    }
    let left = usize::try_from(max - unavailable).unwrap_or(0);
    plan.delete.extend(broken);
    plan.delete.extend(candidates.into_iter().take(left));
}

/// New pods come beside old ones; these go when the new ones are available.
fn roll_with_surge(plan: &mut Plan, places: &[Place], desired: i32, rules: &Rules<'_>) {
    let (mut surging, mut broken, mut candidates) = (0, Vec::new(), Vec::new());
    for place in places.iter().filter(|place| place.should_run) {
        match generations(place, rules.hash) {
            (Some(new), Some(_)) => surging += i32::from(!rules.is_available(&new)),
            (None, Some(old)) if rules.is_available(&old) => candidates.push(place.name.clone()),
            (None, Some(_)) => broken.push(place.name.clone()),
            _ => {}
        }
    }
    let left = usize::try_from(rules.surge(desired) - surging).unwrap_or(0);
    plan.create.extend(broken);
    plan.create.extend(candidates.into_iter().take(left));
}

/// The counts, and how long it takes until another pod is available.
pub fn plan_status(
    set: &DaemonSet,
    places: &[Place],
    rules: &Rules<'_>,
    collisions: i32,
) -> (DaemonSetStatus, Option<Duration>) {
    let mut status = DaemonSetStatus {
        observed_generation: Some(set.metadata.generation.unwrap_or(0)),
        // There are none of its own: others' are theirs.
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
        ..DaemonSetStatus::default()
    };
    let (mut updated, mut available, mut wait) = (0, 0, None::<Duration>);
    for place in places {
        if !place.should_run {
            status.number_misscheduled += i32::from(!place.pods.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        // The one that is furthest speaks for the node.
        let Some(best) = place.pods.iter().max_by_key(|pod| (pod::is_ready(pod), is_updated(pod, rules.hash))) else {
            continue;
        };
        status.current_number_scheduled += 1;
        updated += i32::from(is_updated(best, rules.hash));
        status.number_ready += i32::from(pod::is_ready(best));
        match pod::availability(best, rules.min_ready_s, rules.now) {
            Availability::Yes => available += 1,
            Availability::In(left) => wait = Some(wait.map_or(left, |wait| wait.min(left))),
            Availability::No => {}
        }
    }
    let count = |n: i32| (n != 0).then_some(n);
    status.updated_number_scheduled = count(updated);
    status.number_available = count(available);
    status.number_unavailable = count(status.desired_number_scheduled - available);
    status.collision_count = count(collisions);
    (status, wait)
}
