//! What is to be done next with the pods of a stateful set, and what its status says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::pods::{ordinal_of, plan_repair, revision_of};
use crate::disruption::scaled;
use crate::pod::{self, Availability};

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// The pod of this number, of the newest revision or of the one before.
    Create {
        ordinal: i32,
        updated: bool,
    },
    Delete(Arc<Pod>),
    /// What a pod is to look like that was taken over from somebody.
    Repair(Box<Pod>),
}

/// What the plan is made from.
pub struct Observed<'a> {
    pub set: &'a StatefulSet,
    pub pods: &'a [Arc<Pod>],
    /// Names of revisions.
    pub current: &'a str,
    pub update: &'a str,
    pub now: Timestamp,
}

#[derive(Debug, Default)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub wait: Option<Duration>,
    /// Those that are one too many have their turn: their claims go with them, where the set says so.
    pub scales_down: bool,
}

impl Observed<'_> {
    fn min_ready_s(&self) -> i32 {
        self.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn availability(&self, pod: &Pod) -> Availability {
        pod::availability(pod, self.min_ready_s(), self.now)
    }

    /// Running, ready for long enough, and staying.
    fn is_healthy(&self, pod: &Pod) -> bool {
        is_running(pod) && pod.metadata.deletion_timestamp.is_none() && self.availability(pod) == Availability::Yes
    }
}

fn is_running(pod: &Pod) -> bool {
    pod::phase(pod) == "Running" && pod::is_ready(pod)
}

fn range(spec: &StatefulSetSpec) -> std::ops::Range<i32> {
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    start..start + spec.replicas.unwrap_or(1).max(0)
}

/// Whether the set is to have a pod of that number.
pub fn is_wanted(set: &StatefulSet, ordinal: i32) -> bool {
    set.spec.as_ref().is_some_and(|spec| range(spec).contains(&ordinal))
}

pub fn plan(observed: &Observed<'_>) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &observed.set.spec else { return plan };
    let wanted = range(spec);
    let one_by_one = spec.pod_management_policy.as_deref() != Some("Parallel");
    let mut replicas: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
    let mut condemned: Vec<(i32, Arc<Pod>)> = Vec::new();
    for pod in observed.pods {
        match ordinal_of(observed.set, pod) {
            Some(ordinal) if wanted.contains(&ordinal) => drop(replicas.insert(ordinal, pod.clone())),
            Some(ordinal) => condemned.push((ordinal, pod.clone())),
            None => {}
        }
    }
    condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
    if !fill(&mut plan, observed, spec, &replicas, one_by_one) {
        return plan;
    }
    plan.scales_down = true;
    let unhealthy = first_unhealthy(observed, &replicas, &condemned);
    for (_, pod) in &condemned {
        if pod.metadata.deletion_timestamp.is_some() {
            if one_by_one {
                return plan;
            }
            continue;
        }
        // One that does not work may go, if it is the first of them; else all others are waited for.
        if one_by_one && !is_running(pod) && unhealthy.as_deref() != pod.metadata.name.as_deref() {
            return plan;
        }
        plan.steps.push(Step::Delete(pod.clone()));
        if one_by_one {
            return plan;
        }
    }
    if plan.steps.iter().all(|step| matches!(step, Step::Repair(_))) {
        roll(&mut plan, observed, spec, &replicas);
    }
    plan
}

/// The name of the pod with the lowest number that does not work.
fn first_unhealthy(
    observed: &Observed<'_>,
    replicas: &BTreeMap<i32, Arc<Pod>>,
    condemned: &[(i32, Arc<Pod>)],
) -> Option<String> {
    let all = replicas.values().chain(condemned.iter().rev().map(|(_, pod)| pod));
    all.into_iter().find(|pod| !observed.is_healthy(pod)).and_then(|pod| pod.metadata.name.clone())
}

/// Makes what is missing, the lowest number first. False: all the rest has to wait for it.
fn fill(
    plan: &mut Plan,
    observed: &Observed<'_>,
    spec: &StatefulSetSpec,
    replicas: &BTreeMap<i32, Arc<Pod>>,
    one_by_one: bool,
) -> bool {
    for ordinal in range(spec) {
        let Some(pod) = replicas.get(&ordinal) else {
            plan.steps.push(Step::Create { ordinal, updated: is_updated(spec, ordinal) });
            if one_by_one {
                return false;
            }
            continue;
        };
        if pod::is_over(pod) && pod.metadata.deletion_timestamp.is_none() {
            plan.steps.push(Step::Delete(pod.clone()));
            if one_by_one {
                return false;
            }
            continue;
        }
        if !one_by_one {
            plan.steps.extend(repair(observed, pod, ordinal));
            continue;
        }
        // Even one that will never work is waited for, as upstream: its owner has to delete it.
        if pod.metadata.deletion_timestamp.is_some() || !is_running(pod) {
            return false;
        }
        match observed.availability(pod) {
            Availability::Yes => plan.steps.extend(repair(observed, pod, ordinal)),
            Availability::In(left) => {
                plan.wait = Some(left);
                return false;
            }
            Availability::No => return false,
        }
    }
    true
}

fn repair(observed: &Observed<'_>, pod: &Pod, ordinal: i32) -> Option<Step> {
    plan_repair(observed.set, pod, ordinal).map(|pod| Step::Repair(Box::new(pod)))
}

fn partition(spec: &StatefulSetSpec) -> Option<i32> {
    let strategy = spec.update_strategy.as_ref()?;
    (strategy.type_.as_deref() == Some("RollingUpdate"))
        .then(|| strategy.rolling_update.as_ref().and_then(|rolling| rolling.partition).unwrap_or(0))
}

/// Of which revision a new pod is: below the partition of the one before.
fn is_updated(spec: &StatefulSetSpec, ordinal: i32) -> bool {
    partition(spec).is_none_or(|partition| ordinal >= range(spec).start + partition)
}

/// Old pods go, the highest number first, as long as few enough are unavailable.
fn roll(plan: &mut Plan, observed: &Observed<'_>, spec: &StatefulSetSpec, replicas: &BTreeMap<i32, Arc<Pod>>) {
    let Some(partition) = partition(spec) else { return };
    let rolling = spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let total = spec.replicas.unwrap_or(1);
    // Rounded up, so at least one.
    let max = rolling.and_then(|r| r.max_unavailable.as_ref()).map_or(1, |max| scaled(max, total)).max(1);
    let first = range(spec).start + partition;
    let missing = range(spec).filter(|ordinal| !replicas.contains_key(ordinal)).count();
    let broken = replicas.values().filter(|pod| !observed.is_healthy(pod)).count();
    let unavailable = i32::try_from(missing + broken).unwrap_or(i32::MAX);
    let mut left = (max - unavailable).max(0);
    for (_, pod) in replicas.range(first..).rev() {
        if pod.metadata.deletion_timestamp.is_some() || revision_of(pod) == observed.update {
            if !observed.is_healthy(pod) && max == 1 {
                return;
            }
            continue;
        }
        if max == 1 {
            // Whatever the others are like, as upstream: a template that works replaces one that does not.
            plan.steps.push(Step::Delete(pod.clone()));
            return;
        }
        // One that is not available anyway takes nothing away.
        let costs = i32::from(observed.is_healthy(pod));
        if left < costs {
            return;
        }
        left -= costs;
        plan.steps.push(Step::Delete(pod.clone()));
    }
}

/// The counts, before the steps are carried out.
pub fn plan_status(observed: &Observed<'_>, collisions: i32) -> StatefulSetStatus {
    let old = observed.set.status.clone().unwrap_or_default();
    let spec = observed.set.spec.clone().unwrap_or_default();
    let mut status = StatefulSetStatus {
        observed_generation: observed.set.metadata.generation,
        current_revision: Some(observed.current.to_owned()),
        update_revision: Some(observed.update.to_owned()),
        collision_count: Some(collisions),
        conditions: old.conditions,
        ..StatefulSetStatus::default()
    };
    let (mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0);
    for pod in observed.pods.iter().filter(|pod| ordinal_of(observed.set, pod).is_some()) {
        status.replicas += 1;
        let staying = pod.metadata.deletion_timestamp.is_none();
        if is_running(pod) {
            ready += 1;
            available += i32::from(observed.availability(pod) == Availability::Yes);
        }
        if staying && !pod::is_over(pod) {
            current += i32::from(revision_of(pod) == observed.current);
            updated += i32::from(revision_of(pod) == observed.update);
        }
    }
    let rolled = partition(&spec).is_some() && updated == status.replicas && ready == status.replicas;
    if rolled && Some(status.replicas) == spec.replicas {
        status.current_revision.clone_from(&status.update_revision);
        current = updated;
    }
    let count = |n: i32| (n != 0).then_some(n);
    status.ready_replicas = count(ready);
    status.available_replicas = Some(available);
    status.current_replicas = count(current);
    status.updated_replicas = count(updated);
    status
}
