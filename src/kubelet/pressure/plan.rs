//! What a node does about resources that run out: a pure function of the thresholds, of what was seen, and of the clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use skiff_api::quantity::{Format, Quantity};

use super::condition::Condition;
use crate::settings::{Signal, Threshold};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    Memory,
    EphemeralStorage,
    Inodes,
    Pids,
}

impl Resource {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::EphemeralStorage => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }

    /// As upstream prints an amount of it.
    pub(crate) fn show(self, amount: i64) -> String {
        let format = match self {
            Self::Memory | Self::EphemeralStorage => Format::BinarySi,
            Self::Inodes | Self::Pids => Format::DecimalSi,
        };
        Quantity::from_int(amount, format).to_string()
    }
}

pub(crate) fn condition(signal: Signal) -> Condition {
    match signal {
        Signal::MemoryAvailable => Condition::Memory,
        Signal::PidAvailable => Condition::Pid,
        _ => Condition::Disk,
    }
}

pub(crate) fn resource(signal: Signal) -> Resource {
    match signal {
        Signal::MemoryAvailable => Resource::Memory,
        Signal::PidAvailable => Resource::Pids,
        Signal::NodefsAvailable | Signal::ImagefsAvailable => Resource::EphemeralStorage,
        Signal::NodefsInodesFree | Signal::ImagefsInodesFree => Resource::Inodes,
    }
}

/// What there is of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) available: i64,
    pub(crate) capacity: i64,
}

pub(crate) type Observations = BTreeMap<Signal, Observed>;

/// What is remembered from one look to the next; thresholds go by their places in the settings.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Memory {
    /// Since when a threshold is crossed.
    since: BTreeMap<usize, Timestamp>,
    /// Those that pods went for, until the least that is to be reclaimed is.
    met: BTreeSet<usize>,
    /// When a condition held last.
    held: BTreeMap<Condition, Timestamp>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decision {
    pub(crate) conditions: BTreeSet<Condition>,
    /// Places of the thresholds that have something reclaimed; the first one's resource is reclaimed.
    pub(crate) reclaim: Vec<usize>,
}

fn is_crossed(threshold: &Threshold, seen: &Observations, with_reclaim: bool) -> bool {
    let Some(observed) = seen.get(&threshold.signal) else { return false };
    let more = threshold.min_reclaim.filter(|_| with_reclaim).map_or(0, |amount| amount.of(observed.capacity));
    observed.available < threshold.value.of(observed.capacity).saturating_add(more)
}

/// Whether nothing is short any more, the least that is to be reclaimed included.
pub(crate) fn is_relieved(thresholds: &[Threshold], seen: &Observations) -> bool {
    !thresholds.iter().any(|threshold| is_crossed(threshold, seen, true))
}

pub(crate) fn decide(
    thresholds: &[Threshold],
    seen: &Observations,
    memory: &mut Memory,
    transition: std::time::Duration,
    now: Timestamp,
) -> Decision {
    let span = |time: std::time::Duration| SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
    let crossed: BTreeSet<usize> =
        (0..thresholds.len()).filter(|at| is_crossed(&thresholds[*at], seen, memory.met.contains(at))).collect();
    memory.since.retain(|at, _| crossed.contains(at));
    for at in &crossed {
        memory.since.entry(*at).or_insert(now);
        memory.held.insert(condition(thresholds[*at].signal), now);
    }
    let holds = |at: &Timestamp| *at == now || now.duration_since(*at) < span(transition);
    memory.held.retain(|_, at| holds(at));
    let lasting = |at: &usize| now.duration_since(memory.since[at]) >= span(thresholds[*at].grace);
    memory.met = crossed.into_iter().filter(lasting).collect();
    let mut reclaim: Vec<usize> = memory.met.iter().copied().collect();
    // Memory first; of one signal the hard threshold.
    reclaim.sort_by_key(|at| {
        let threshold = &thresholds[*at];
        (threshold.signal != Signal::MemoryAvailable, !threshold.is_hard, *at)
    });
    Decision { conditions: memory.held.keys().copied().collect(), reclaim }
}

/// What a container uses and was promised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ContainerFacts {
    pub(crate) name: String,
    pub(crate) memory: Option<i64>,
    pub(crate) memory_request: i64,
    /// Its writable layer and its logs.
    pub(crate) disk: Option<i64>,
    pub(crate) disk_request: i64,
}

/// What is asked of a pod when some have to go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PodFacts {
    pub(crate) uid: String,
    pub(crate) name: String,
    /// Of memory, for the pod as a whole.
    pub(crate) whole_request: Option<i64>,
    pub(crate) priority: i32,
    pub(crate) memory: Option<i64>,
    pub(crate) memory_request: i64,
    pub(crate) disk: Option<i64>,
    pub(crate) disk_request: i64,
    pub(crate) inodes: Option<i64>,
    pub(crate) processes: Option<i64>,
    pub(crate) containers: Vec<ContainerFacts>,
}

/// Who goes first: who uses more than requested, then the less important, then who uses most of it. Of whom nothing is
/// known goes before all.
pub(crate) fn rank(pods: &mut [PodFacts], resource: Resource) {
    let of = |pod: &PodFacts| match resource {
        Resource::Memory => (pod.memory, pod.memory_request),
        Resource::EphemeralStorage => (pod.disk, pod.disk_request),
        Resource::Inodes => (pod.inodes, 0),
        Resource::Pids => (pod.processes, 0),
    };
    pods.sort_by_key(|pod| {
        let (used, request) = of(pod);
        let beyond = used.map(|used| used - request);
        let exceeds = resource == Resource::Pids || beyond.is_some_and(|beyond| beyond > 0);
        (used.is_some(), !exceeds, pod.priority, Reverse(beyond))
    });
}

/// Upstream's words for a pod that goes.
pub(crate) fn message(pod: &PodFacts, resource: Resource, short: Option<(i64, i64)>) -> String {
    let name = resource.name();
    let mut message = format!("The node was low on resource: {name}. ");
    if let Some((quantity, available)) = short {
        let (quantity, available) = (resource.show(quantity), resource.show(available));
        message.push_str(&format!("Threshold quantity: {quantity}, available: {available}. "));
    }
    if let (Resource::Memory, Some(request), Some(used)) = (resource, pod.whole_request, pod.memory) {
        let (used, request) = (resource.show(used), resource.show(request));
        message.push_str(&format!(
            "Pod {} was using {used}, request is {request}, has larger consumption of {name}. ",
            pod.name
        ));
    }
    for container in &pod.containers {
        let (used, request) = match resource {
            Resource::Memory => (container.memory, container.memory_request),
            Resource::EphemeralStorage => (container.disk, container.disk_request),
            Resource::Inodes | Resource::Pids => (None, 0),
        };
        if let Some(used) = used.filter(|used| *used > request) {
            let (used, request) = (resource.show(used), resource.show(request));
            message.push_str(&format!(
                "Container {} was using {used}, request is {request}, has larger consumption of {name}. ",
                container.name
            ));
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::settings::Amount;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn seen(signal: Signal, available: i64) -> Observations {
        [(signal, Observed { available, capacity: 1000 })].into()
    }

    #[test]
    fn conditions_begin_at_once_and_end_late() {
        let thresholds = [Threshold::hard(Signal::MemoryAvailable, Amount::Absolute(100))];
        let mut memory = Memory::default();
        // Second, what is available, whether the condition holds, whether something is reclaimed.
        for (second, available, holds, reclaims) in [
            (0, 100, false, false),
            (10, 99, true, true),
            (20, 500, true, false),
            (309, 500, true, false),
            (310, 500, false, false),
        ] {
            let seen = seen(Signal::MemoryAvailable, available);
            let decision = decide(&thresholds, &seen, &mut memory, Duration::from_secs(300), at(second));
            assert_eq!(decision.conditions.contains(&Condition::Memory), holds, "at {second}");
            assert_eq!(!decision.reclaim.is_empty(), reclaims, "at {second}");
        }
    }

    #[test]
    fn soft_thresholds_wait_and_reclaim_more() {
        let soft = Threshold {
            grace: Duration::from_secs(60),
            is_hard: false,
            min_reclaim: Some(Amount::Absolute(50)),
            ..Threshold::hard(Signal::NodefsAvailable, Amount::Share(0.1))
        };
        let mut memory = Memory::default();
        for (second, available, reclaims) in [
            (0, 90, false),
            (59, 90, false),
            (60, 90, true),
            // Above the threshold, but not by as much as is to be reclaimed.
            (70, 149, true),
            (80, 150, false),
            (90, 149, false),
            (100, 99, false),
            (160, 99, true),
        ] {
            let seen = seen(Signal::NodefsAvailable, available);
            let decision = decide(std::slice::from_ref(&soft), &seen, &mut memory, Duration::ZERO, at(second));
            assert_eq!(!decision.reclaim.is_empty(), reclaims, "at {second}");
        }
        assert!(!is_relieved(std::slice::from_ref(&soft), &seen(Signal::NodefsAvailable, 149)));
        assert!(is_relieved(std::slice::from_ref(&soft), &seen(Signal::NodefsAvailable, 150)));
    }

    #[test]
    fn memory_goes_first() {
        let thresholds = [Signal::NodefsAvailable, Signal::PidAvailable, Signal::MemoryAvailable]
            .map(|signal| Threshold::hard(signal, Amount::Absolute(10)));
        let seen = thresholds.iter().map(|t| (t.signal, Observed { available: 1, capacity: 100 })).collect();
        let decision = decide(&thresholds, &seen, &mut Memory::default(), Duration::ZERO, at(0));
        assert_eq!(decision.reclaim, [2, 0, 1]);
        assert_eq!(decision.conditions, Condition::ALL.into());
    }

    #[test]
    fn who_goes() {
        let pod = |uid: &str, priority, used: Option<i64>, request| PodFacts {
            uid: uid.into(),
            priority,
            memory: used,
            memory_request: request,
            disk: used,
            disk_request: request,
            inodes: used,
            processes: used,
            ..PodFacts::default()
        };
        let pods = [
            pod("within", 0, Some(50), 100),
            pod("important", 10, Some(500), 100),
            pod("little", 0, Some(110), 100),
            pod("much", 0, Some(90), 0),
            pod("unknown", 100, None, 0),
        ];
        for (resource, expected) in [
            (Resource::Memory, ["unknown", "much", "little", "important", "within"]),
            (Resource::EphemeralStorage, ["unknown", "much", "little", "important", "within"]),
            (Resource::Inodes, ["unknown", "little", "much", "within", "important"]),
            (Resource::Pids, ["unknown", "little", "much", "within", "important"]),
        ] {
            let mut pods = pods.clone();
            rank(&mut pods, resource);
            assert_eq!(pods.map(|p| p.uid), expected, "{resource:?}");
        }
    }

    #[test]
    fn words() {
        let container = |name: &str, memory, memory_request| ContainerFacts {
            name: name.into(),
            memory: Some(memory),
            memory_request,
            ..ContainerFacts::default()
        };
        let pod = PodFacts {
            containers: vec![container("a", 20 << 20, 10 << 20), container("b", 1, 2)],
            ..PodFacts::default()
        };
        assert_eq!(
            message(&pod, Resource::Memory, Some((100 << 20, 5 << 20))),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 5Mi. \
             Container a was using 20Mi, request is 10Mi, has larger consumption of memory. "
        );
        assert_eq!(message(&pod, Resource::Pids, None), "The node was low on resource: pids. ");
        let whole = PodFacts {
            name: "p".into(),
            whole_request: Some(15 << 20),
            memory: Some(20 << 20),
            containers: Vec::new(),
            ..pod
        };
        assert_eq!(
            message(&whole, Resource::Memory, None),
            "The node was low on resource: memory. \
             Pod p was using 20Mi, request is 15Mi, has larger consumption of memory. "
        );
        assert_eq!(
            message(&whole, Resource::EphemeralStorage, None),
            "The node was low on resource: ephemeral-storage. "
        );
    }
}
