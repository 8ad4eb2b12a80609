//! How big which replica set becomes.

use std::collections::HashMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::spec::{
    DESIRED_REPLICAS, MAX_REPLICAS, Set, annotated_number, available, by_age, is_recreate, max_unavailable, name,
    replicas, size, surge_and_unavailable,
};

/// One replica set and the size it is to have.
#[derive(Debug, Clone, PartialEq)]
pub struct Resize {
    pub set: Set,
    pub to: i32,
}

pub fn total<'a>(sets: impl IntoIterator<Item = &'a Set>) -> i32 {
    sets.into_iter().map(|set| size(set)).sum()
}

/// The size of a new replica set now (`has` is its present one): as much as the surge allows.
pub fn plan_new_size(deployment: &Deployment, everything: i32, has: i32) -> i32 {
    let want = replicas(deployment);
    if is_recreate(deployment) {
        return want;
    }
    let most = want.saturating_add(surge_and_unavailable(deployment).0);
    if everything >= most { has } else { has + (most - everything).min(want - has) }
}

/// The next step of the new replica set in a rolling update, if there is one.
pub fn plan_grow(deployment: &Deployment, new: &Set, old: &[Set]) -> Option<Resize> {
    let (has, want) = (size(new), replicas(deployment));
    let to = match has.cmp(&want) {
        std::cmp::Ordering::Equal => return None,
        std::cmp::Ordering::Greater => want,
        std::cmp::Ordering::Less => plan_new_size(deployment, total(old) + has, has),
    };
    (to != has).then(|| Resize { set: new.clone(), to })
}

/// The next step of the old replica sets in a rolling update: first what is not available anyway, then as
/// many as can be spared.
pub fn plan_shrink(deployment: &Deployment, new: Option<&Set>, old: &[Set]) -> Vec<Resize> {
    let least_available = replicas(deployment) - max_unavailable(deployment);
    let everything = total(old) + total(new);
    let coming = new.map_or(0, |new| size(new) - available(new));
    let most_removed = everything - least_available - coming;
    let mut old: Vec<Set> = old.iter().filter(|set| size(set) > 0).cloned().collect();
    if old.is_empty() || most_removed <= 0 {
        return Vec::new();
    }
    old.sort_by(by_age);
    let mut sizes: HashMap<&str, i32> = old.iter().map(|set| (name(set), size(set))).collect();

    let mut removed = 0;
    for set in &old {
        let unhealthy = (size(set) - available(set)).clamp(0, most_removed - removed);
        *sizes.entry(name(set)).or_default() -= unhealthy;
        removed += unhealthy;
    }
    let mut spare = old.iter().chain(new).map(|set| available(set)).sum::<i32>() - least_available;
    for set in &old {
        let has = sizes.entry(name(set)).or_default();
        let step = spare.clamp(0, *has);
        *has -= step;
        spare -= step;
    }
    old.iter()
        .filter(|set| sizes[name(set)] != size(set))
        .map(|set| Resize { set: set.clone(), to: sizes[name(set)] })
        .collect()
}

/// Whether the new replica set does all the work.
fn is_saturated(deployment: &Deployment, new: Option<&Set>) -> bool {
    let want = replicas(deployment);
    new.is_some_and(|new| {
        size(new) == want && annotated_number(new, DESIRED_REPLICAS) == Some(want) && available(new) == want
    })
}

/// Someone has changed the deployment's size: the replica sets that have pods keep their shares.
pub fn plan_scale(deployment: &Deployment, new: Option<&Set>, old: &[Set]) -> Vec<Resize> {
    let want = replicas(deployment);
    if let Some(only) = only_active_or_latest(new, old) {
        return if size(&only) == want { Vec::new() } else { vec![Resize { set: only, to: want }] };
    }
    if is_saturated(deployment, new) {
        return old.iter().filter(|set| size(set) > 0).map(|set| Resize { set: set.clone(), to: 0 }).collect();
    }
    if is_recreate(deployment) {
        return Vec::new();
    }
    plan_proportional(deployment, new, old)
}

fn only_active_or_latest(new: Option<&Set>, old: &[Set]) -> Option<Set> {
    let active: Vec<&Set> = old.iter().chain(new).filter(|set| size(set) > 0).collect();
    match active.as_slice() {
        [] => new.cloned().or_else(|| old.iter().max_by(|a, b| by_age(a, b)).cloned()),
        [one] => Some((*one).clone()),
        _ => None,
    }
}

fn plan_proportional(deployment: &Deployment, new: Option<&Set>, old: &[Set]) -> Vec<Resize> {
    let want = replicas(deployment);
    let mut sets: Vec<&Set> = old.iter().chain(new).filter(|set| size(set) > 0).collect();
    let allowed = if want > 0 { want + surge_and_unavailable(deployment).0 } else { 0 };
    let to_add = allowed - total(sets.iter().copied());
    // The biggest first; of equals the newest when growing, the oldest when shrinking.
    sets.sort_by(|a, b| {
        let age = if to_add > 0 { by_age(b, a) } else { by_age(a, b) };
        size(b).cmp(&size(a)).then(age)
    });
    let mut added = 0;
    let mut sizes: Vec<i32> = Vec::with_capacity(sets.len());
    for set in &sets {
        let share = share(set, deployment, to_add, added);
        sizes.push(size(set) + share);
        added += share;
    }
    // What rounding has left goes to the biggest.
    if let Some(first) = sizes.first_mut()
        && to_add != 0
    {
        *first = (*first + to_add - added).max(0);
    }
    sets.into_iter().zip(sizes).map(|(set, to)| Resize { set: set.clone(), to }).collect()
}

/// The part of `to_add` that falls to one replica set, by its present size.
fn share(set: &ReplicaSet, deployment: &Deployment, to_add: i32, added: i32) -> i32 {
    if size(set) == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let fraction = fraction(set, deployment);
    let left = to_add - added;
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}

fn fraction(set: &ReplicaSet, deployment: &Deployment) -> i32 {
    let want = replicas(deployment);
    if want == 0 {
        return -size(set);
    }
    let most = want + surge_and_unavailable(deployment).0;
    let before = annotated_number(set, MAX_REPLICAS)
        .filter(|most| *most > 0)
        .or_else(|| deployment.status.as_ref().and_then(|status| status.replicas))
        .unwrap_or(0);
    if before == 0 {
        return 0;
    }
    (f64::from(size(set)) * f64::from(most) / f64::from(before)).round() as i32 - size(set)
}

/// The old replica sets that the history has no room for.
pub fn plan_cleanup(deployment: &Deployment, old: &[Set]) -> Vec<Set> {
    let Some(limit) = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit) else { return Vec::new() };
    let mut old: Vec<&Set> = old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
    let Some(surplus) = old.len().checked_sub(usize::try_from(limit).unwrap_or(usize::MAX)) else { return Vec::new() };
    old.sort_by(|a, b| super::spec::revision(a).cmp(&super::spec::revision(b)).then_with(|| by_age(a, b)));
    let is_idle = |set: &&Set| {
        let seen = set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
        size(set) == 0 && super::spec::actual(set) == 0 && set.metadata.generation.unwrap_or(0) <= seen
    };
    old.into_iter().take(surplus).filter(is_idle).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn deployment(replicas: i32, surge: i32, unavailable: i32) -> Deployment {
        serde_json::from_value(json!({"metadata": {}, "spec": {"replicas": replicas, "selector": {}, "template": {},
            "revisionHistoryLimit": 2, "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}}))
        .expect("a deployment")
    }

    /// Named by age: `a` is the oldest.
    fn set(name: &str, size: i32, available: i32, annotations: Value) -> Set {
        let value = json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"replicas": size, "selector": {}},
            "status": {"replicas": size, "availableReplicas": available}});
        Arc::new(serde_json::from_value(value).expect("a replica set"))
    }

    fn plain(name: &str, size: i32, available: i32) -> Set {
        set(name, size, available, json!({}))
    }

    fn sizes(plan: &[Resize]) -> Vec<(&str, i32)> {
        plan.iter().map(|resize| (name(&resize.set), resize.to)).collect()
    }

    #[test]
    fn the_new_one_grows_as_the_surge_allows() {
        let check = |surge: i32, new: i32, old: i32, expect: Option<i32>| {
            let plan = plan_grow(&deployment(10, surge, 0), &plain("b", new, 0), &[plain("a", old, old)]);
            assert_eq!(plan.map(|resize| resize.to), expect, "{surge} {new} {old}");
        };
        check(2, 0, 10, Some(2));
        check(2, 2, 10, None);
        check(2, 4, 8, None);
        check(2, 4, 7, Some(5));
        check(20, 0, 10, Some(10));
        check(2, 12, 0, Some(10));
        check(2, 10, 0, None);
    }

    #[test]
    fn old_ones_shrink_as_far_as_enough_stay_available() {
        let check = |unavailable: i32, new: (i32, i32), old: &[(i32, i32)], expect: &[(&str, i32)]| {
            let names = ["a", "b", "c"];
            let old: Vec<Set> = old.iter().zip(names).map(|((size, ok), name)| plain(name, *size, *ok)).collect();
            let plan = plan_shrink(&deployment(10, 1, unavailable), Some(&plain("n", new.0, new.1)), &old);
            assert_eq!(sizes(&plan), expect, "{unavailable} {new:?}");
        };
        check(0, (0, 0), &[(10, 10)], &[]);
        check(2, (0, 0), &[(10, 10)], &[("a", 8)]);
        check(2, (2, 0), &[(8, 8)], &[]);
        check(2, (2, 2), &[(8, 8)], &[("a", 6)]);
        // Sick ones go although not enough are available.
        check(2, (0, 0), &[(8, 8), (2, 0)], &[("b", 0)]);
        check(2, (4, 4), &[(1, 0), (8, 8)], &[("a", 0), ("b", 4)]);
        check(10, (0, 0), &[(0, 0)], &[]);
        check(2, (10, 10), &[(3, 3)], &[("a", 0)]);
    }

    #[test]
    fn scaling_keeps_shares() {
        let check = |want: i32, new: Set, old: &[Set], expect: &[(&str, i32)]| {
            assert_eq!(sizes(&plan_scale(&deployment(want, 2, 0), Some(&new), old)), expect, "{want}");
        };
        let sized = |name: &str, size: i32, most: i32| set(name, size, size, json!({MAX_REPLICAS: most.to_string()}));
        check(5, plain("b", 3, 3), &[plain("a", 0, 0)], &[("b", 5)]);
        check(3, plain("b", 3, 3), &[plain("a", 0, 0)], &[]);
        check(5, plain("b", 0, 0), &[plain("a", 0, 0)], &[("b", 5)]);
        // 12 of 10+2 become 22 of 20+2.
        check(20, sized("b", 4, 12), &[sized("a", 8, 12)], &[("a", 15), ("b", 7)]);
        check(5, sized("b", 4, 12), &[sized("a", 8, 12)], &[("a", 5), ("b", 2)]);
        check(0, sized("b", 4, 12), &[sized("a", 8, 12)], &[("a", 0), ("b", 0)]);
        let saturated = set("b", 4, 4, json!({DESIRED_REPLICAS: "4"}));
        check(4, saturated, &[plain("a", 1, 1)], &[("a", 0)]);
    }

    #[test]
    fn history_is_limited() {
        let old = |name: &str, revision: i32, size: i32| {
            set(name, size, size, json!({super::super::spec::REVISION: revision.to_string()}))
        };
        let sets = [old("a", 3, 0), old("b", 1, 0), old("c", 2, 0), old("d", 4, 0)];
        let gone: Vec<Set> = plan_cleanup(&deployment(1, 1, 0), &sets);
        assert_eq!(gone.iter().map(|set| name(set)).collect::<Vec<_>>(), ["b", "c"]);
        let busy = [old("a", 1, 1), old("b", 2, 0), old("c", 3, 0)];
        assert!(plan_cleanup(&deployment(1, 1, 0), &busy).is_empty());
        assert!(plan_cleanup(&deployment(1, 1, 0), &sets[..2]).is_empty());
    }
}
