//! What a namespace that is being deleted tells of it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// How far the deletion of a namespace's contents has come.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Groups whose resources are unknown.
    pub undiscovered: Vec<String>,
    pub errors: Vec<String>,
    pub left: Vec<Leftover>,
}

/// Objects of one resource that are still there.
#[derive(Debug)]
pub struct Leftover {
    /// `pods.`, `deployments.apps`.
    pub resource: String,
    pub count: usize,
    /// Of all of them.
    pub finalizers: Vec<String>,
    /// The longest that any of them is given.
    pub grace_s: i64,
}

impl Outcome {
    pub fn is_done(&self) -> bool {
        self.undiscovered.is_empty() && self.errors.is_empty() && self.left.is_empty()
    }

    /// When it is worth a look again, as far as that is known: after half of the longest grace period.
    pub fn wait(&self) -> Option<Duration> {
        let longest = self.left.iter().map(|left| left.grace_s).max().filter(|seconds| *seconds > 0)?;
        Some(Duration::from_secs(u64::try_from(longest / 2 + 1).unwrap_or(1)))
    }
}

/// The five conditions, in upstream's words.
pub fn plan_conditions(namespace: &Namespace, outcome: &Outcome, now: Timestamp) -> Vec<NamespaceCondition> {
    let old = namespace.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut conditions = old.clone();
    let mut set = |kind: &str, failing: Option<(&str, String)>, fine: (&str, &str)| {
        let (status, reason, message) = match failing {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", fine.0, fine.1.to_owned()),
        };
        let before = old.iter().find(|condition| condition.type_ == kind);
        let same = before.filter(|condition| condition.status == status);
        let condition = NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: same.and_then(|same| same.last_transition_time.clone()).or(Some(Time(now))),
        };
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(slot) => *slot = condition,
            None => conditions.push(condition),
        }
    };
    let some = |texts: &[String], start: &str| (!texts.is_empty()).then(|| format!("{start}{}", texts.join(", ")));
    set(
        "NamespaceDeletionDiscoveryFailure",
        some(&outcome.undiscovered, "Discovery failed for some groups: ").map(|message| ("DiscoveryFailed", message)),
        ("ResourcesDiscovered", "All resources successfully discovered"),
    );
    set(
        "NamespaceDeletionGroupVersionParsingFailure",
        None,
        ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
    );
    set(
        "NamespaceDeletionContentFailure",
        some(&outcome.errors, "Failed to delete all resource types, some remaining: ")
            .map(|message| ("ContentDeletionFailed", message)),
        ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
    );
    let left: Vec<String> =
        outcome.left.iter().map(|left| format!("{} has {} resource instances", left.resource, left.count)).collect();
    set(
        "NamespaceContentRemaining",
        some(&left, "Some resources are remaining: ").map(|message| ("SomeResourcesRemain", message)),
        ("ContentRemoved", "All content successfully removed"),
    );
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    outcome.left.iter().flat_map(|left| &left.finalizers).for_each(|name| *counts.entry(name).or_default() += 1);
    let finalizers: Vec<String> =
        counts.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
    set(
        "NamespaceFinalizersRemaining",
        some(&finalizers, "Some content in the namespace has finalizers remaining: ")
            .map(|message| ("SomeFinalizersRemain", message)),
        ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
    );
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_is_left() {
        let left = |resource: &str, count, finalizers: &[&str], grace_s| Leftover {
            resource: resource.into(),
            count,
            finalizers: finalizers.iter().map(|name| (*name).to_owned()).collect(),
            grace_s,
        };
        let check = |outcome: &Outcome, expect: &[(&str, &str)], wait: Option<u64>| {
            let conditions = plan_conditions(&Namespace::default(), outcome, Timestamp::UNIX_EPOCH);
            assert_eq!(conditions.len(), 5);
            let told: Vec<(&str, &str)> = conditions
                .iter()
                .filter(|condition| condition.status == "True")
                .map(|c| (c.reason.as_deref().unwrap_or_default(), c.message.as_deref().unwrap_or_default()))
                .collect();
            assert_eq!(told, expect);
            assert_eq!(outcome.wait().map(|wait| wait.as_secs()), wait);
            assert_eq!(outcome.is_done(), expect.is_empty());
        };
        check(&Outcome::default(), &[], None);
        check(
            &Outcome {
                left: vec![left("pods.", 3, &["a", "b", "a"], 30), left("deployments.apps", 1, &[], 0)],
                ..Outcome::default()
            },
            &[
                (
                    "SomeResourcesRemain",
                    "Some resources are remaining: pods. has 3 resource instances, deployments.apps has 1 resource instances",
                ),
                (
                    "SomeFinalizersRemain",
                    "Some content in the namespace has finalizers remaining: a in 2 resource instances, b in 1 resource instances",
                ),
            ],
            Some(16),
        );
        check(
            &Outcome { errors: vec!["no".into()], undiscovered: vec!["x.io/v1".into()], ..Outcome::default() },
            &[
                ("DiscoveryFailed", "Discovery failed for some groups: x.io/v1"),
                ("ContentDeletionFailed", "Failed to delete all resource types, some remaining: no"),
            ],
            None,
        );
    }

    #[test]
    fn a_condition_that_stays_keeps_its_time() {
        let mut namespace = Namespace::default();
        let first = plan_conditions(&namespace, &Outcome::default(), Timestamp::UNIX_EPOCH);
        namespace.status.get_or_insert_default().conditions = Some(first.clone());
        assert_eq!(plan_conditions(&namespace, &Outcome::default(), Timestamp::MAX), first);
    }
}
