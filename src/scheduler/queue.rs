//! Pods that wait for a node.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::framework::Happening;
use crate::plugins::PRE_ENQUEUE;
use crate::snapshot::PodInfo;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// A refused pod is tried again after this time even if nothing happened that its refusals named.
const LONGEST_REFUSAL: Duration = Duration::from_secs(300);

/// ```text
///            admitted            pop                  bound
///   Gated ─────────────> Active ─────> InFlight ─────────────────> (gone)
///                          ^             │  │ refused
///                     due  │       error │  └────────> Refused
///                          └── Backoff <─┴────────────────┘
///                                          woken (or straight to Active, if the back-off is over)
/// ```
#[derive(Default)]
pub struct Queue {
    pods: HashMap<String, Waiting>,
    /// Highest priority first, then the one that waits longest.
    active: BTreeSet<(Reverse<i32>, u64, String)>,
    /// When pods in back-off and refused ones become active.
    timers: BTreeSet<(Instant, String)>,
    /// Refused ones and those in flight: what happens matters to them.
    attentive: HashSet<String>,
    sequence: u64,
}

struct Waiting {
    pod: Arc<PodInfo>,
    /// The order of arrival.
    sequence: u64,
    attempts: u32,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Gated,
    Active,
    /// Until then.
    Backoff(Instant),
    Refused {
        wakes: Happening,
        at: Instant,
        retry: Instant,
    },
    /// With what happened meanwhile.
    InFlight(Happening),
}

impl Queue {
    /// A pod that was created or changed.
    pub fn put(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let uid = pod.uid.clone();
        let place = if PRE_ENQUEUE.iter().all(|plugin| plugin.admits(&pod)) { Place::Active } else { Place::Gated };
        let Some(waiting) = self.pods.get_mut(&uid) else {
            self.sequence += 1;
            let waiting = Waiting { pod, sequence: self.sequence, attempts: 0, place: Place::Gated };
            self.pods.insert(uid.clone(), waiting);
            return self.move_to(&uid, place);
        };
        let changed =
            waiting.pod.pod.spec != pod.pod.spec || waiting.pod.pod.metadata.labels != pod.pod.metadata.labels;
        // The old place is left before the pod changes, since its priority orders the active ones.
        let old = waiting.place;
        self.leave(&uid);
        let waiting = self.pods.get_mut(&uid).expect("it was found above");
        waiting.pod = pod;
        let place = match (old, place) {
            (Place::Gated, place) => place,
            (Place::Refused { at, .. }, _) if changed => backoff_from(at, waiting.attempts, now),
            (old, _) => old,
        };
        self.move_to(&uid, place);
    }

    pub fn remove(&mut self, uid: &str) {
        self.leave(uid);
        self.pods.remove(uid);
    }

    /// Whether the pod was popped, and neither bound nor removed since.
    pub fn is_in_flight(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|waiting| matches!(waiting.place, Place::InFlight(_)))
    }

    /// The next pod to schedule.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        while let Some((at, uid)) = self.timers.first()
            && *at <= now
        {
            let uid = uid.clone();
            self.move_to(&uid, Place::Active);
        }
        let uid = self.active.first()?.2.clone();
        self.move_to(&uid, Place::InFlight(Happening::NONE));
        let waiting = self.pods.get_mut(&uid)?;
        waiting.attempts += 1;
        Some(waiting.pod.clone())
    }

    /// When [`Queue::pop`] may give something that it does not give now.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// No node will do, until one of `wakes` happens.
    pub fn refused(&mut self, uid: &str, wakes: Happening, now: Instant) {
        let Some(waiting) = self.pods.get(uid) else { return };
        let Place::InFlight(happened) = waiting.place else { return };
        let place = if happened.meets(wakes) {
            backoff_from(now, waiting.attempts, now)
        } else {
            Place::Refused { wakes, at: now, retry: now + LONGEST_REFUSAL }
        };
        self.move_to(uid, place);
    }

    /// The pod could not be bound; it is tried again after its back-off.
    pub fn failed(&mut self, uid: &str, now: Instant) {
        let Some(waiting) = self.pods.get(uid) else { return };
        let place = backoff_from(now, waiting.attempts, now);
        self.move_to(uid, place);
    }

    /// A refused pod may look again, whatever it waits for.
    pub fn wake(&mut self, uid: &str, now: Instant) {
        let Some(waiting) = self.pods.get(uid) else { return };
        if let Place::Refused { at, .. } = waiting.place {
            let place = backoff_from(at, waiting.attempts, now);
            self.move_to(uid, place);
        }
    }

    /// Wakes the pods that this may let in; says whether there are any.
    pub fn happened(&mut self, happening: Happening, now: Instant) -> bool {
        let mut woken = Vec::new();
        for uid in &self.attentive {
            let Some(waiting) = self.pods.get_mut(uid) else { continue };
            match &mut waiting.place {
                Place::InFlight(happened) => *happened = happened.or(happening),
                Place::Refused { wakes, at, .. } if wakes.meets(happening) => {
                    woken.push((uid.clone(), backoff_from(*at, waiting.attempts, now)));
                }
                _ => {}
            }
        }
        let any = !woken.is_empty();
        for (uid, place) in woken {
            self.move_to(&uid, place);
        }
        any
    }

    fn leave(&mut self, uid: &str) {
        self.attentive.remove(uid);
        let Some(waiting) = self.pods.get(uid) else { return };
        match waiting.place {
            Place::Active => {
                self.active.remove(&(Reverse(waiting.pod.priority), waiting.sequence, uid.to_owned()));
            }
            Place::Backoff(at) | Place::Refused { retry: at, .. } => {
                self.timers.remove(&(at, uid.to_owned()));
            }
            Place::Gated | Place::InFlight(_) => {}
        }
    }

    fn move_to(&mut self, uid: &str, place: Place) {
        self.leave(uid);
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.place = place;
        match place {
            Place::Active => {
                self.active.insert((Reverse(waiting.pod.priority), waiting.sequence, uid.to_owned()));
            }
            Place::Backoff(at) | Place::Refused { retry: at, .. } => {
                self.timers.insert((at, uid.to_owned()));
            }
            Place::Gated | Place::InFlight(_) => {}
        }
        if matches!(place, Place::Refused { .. } | Place::InFlight(_)) {
            self.attentive.insert(uid.to_owned());
        }
    }
}

/// In back-off since `at`, or active if that is over.
fn backoff_from(at: Instant, attempts: u32, now: Instant) -> Place {
    let doubled = FIRST_BACKOFF.saturating_mul(2u32.saturating_pow(attempts.saturating_sub(1)));
    let until = at + doubled.min(LONGEST_BACKOFF);
    if until <= now { Place::Active } else { Place::Backoff(until) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;
    use serde_json::json;

    fn plain(name: &str) -> Arc<PodInfo> {
        pod(name, json!({"containers": []}))
    }

    fn pop(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.pop(now).map(|pod| pod.uid.clone())
    }

    #[test]
    fn priority_goes_first_then_age() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(plain("a"), now);
        queue.put(plain("b"), now);
        queue.put(pod("c", json!({"containers": [], "priority": 5})), now);
        queue.put(plain("a"), now);
        queue.remove("d");
        let order: Vec<_> = std::iter::from_fn(|| pop(&mut queue, now)).collect();
        assert_eq!(order, ["c", "a", "b"]);
        assert!(queue.is_in_flight("a"));
        queue.remove("a");
        assert!(!queue.is_in_flight("a"));
    }

    #[test]
    fn gated_pods_wait_for_their_gates() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(pod("a", json!({"containers": [], "schedulingGates": [{"name": "g"}]})), now);
        assert_eq!(pop(&mut queue, now), None);
        queue.put(plain("a"), now);
        assert_eq!(pop(&mut queue, now).as_deref(), Some("a"));
    }

    #[test]
    fn refused_pods_are_woken_by_what_they_named_after_their_backoff() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(plain("a"), now);
        assert!(pop(&mut queue, now).is_some());
        queue.refused("a", Happening::POD_GONE, now);
        assert!(!queue.happened(Happening::NODE_LABELS, now));
        assert_eq!(queue.next_timer(), Some(now + LONGEST_REFUSAL));
        assert!(queue.happened(Happening::POD_GONE, now));
        assert_eq!(pop(&mut queue, now), None, "its back-off is not over");
        assert_eq!(queue.next_timer(), Some(now + FIRST_BACKOFF));
        assert!(pop(&mut queue, now + FIRST_BACKOFF).is_some());
        // Woken by name, whatever it waits for.
        queue.refused("a", Happening::NONE, now);
        queue.wake("a", now + LONGEST_BACKOFF);
        assert!(pop(&mut queue, now + LONGEST_BACKOFF).is_some());
        // Woken long after: at once.
        queue.refused("a", Happening::POD_GONE, now);
        assert!(queue.happened(Happening::POD_GONE, now + LONGEST_BACKOFF));
        assert!(pop(&mut queue, now + LONGEST_BACKOFF).is_some());
        // Nothing happens: in the end by itself.
        queue.refused("a", Happening::POD_GONE, now);
        assert!(pop(&mut queue, now + LONGEST_REFUSAL).is_some());
    }

    #[test]
    fn what_happens_during_a_decision_is_not_missed() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(plain("a"), now);
        assert!(pop(&mut queue, now).is_some());
        queue.happened(Happening::POD_GONE, now);
        queue.refused("a", Happening::POD_GONE, now);
        assert_eq!(queue.next_timer(), Some(now + FIRST_BACKOFF));
    }

    #[test]
    fn failures_back_off_longer_and_a_changed_pod_is_tried_again() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.put(plain("a"), now);
        for seconds in [1, 2, 4, 8, 10, 10] {
            assert!(pop(&mut queue, now).is_some());
            queue.failed("a", now);
            assert_eq!(queue.next_timer(), Some(now + Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
        }
        assert!(pop(&mut queue, now).is_some());
        queue.refused("a", Happening::NONE, now);
        queue.put(plain("a"), now);
        assert_eq!(queue.next_timer(), Some(now + LONGEST_REFUSAL), "it did not change");
        queue.put(pod("a", json!({"containers": [], "priority": 7})), now);
        assert_eq!(queue.next_timer(), Some(now + LONGEST_BACKOFF));
    }
}
