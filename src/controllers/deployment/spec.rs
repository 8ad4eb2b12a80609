//! Reading deployments and their replica sets.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
pub const HASH_LABEL: &str = "pod-template-hash";

/// A replica set as a deployment looks at it.
pub type Set = Arc<ReplicaSet>;

pub fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

pub fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false)
}

/// In seconds; `None`: it may take for ever.
pub fn progress_deadline_s(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref()?.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)
}

/// How many pods more than asked for there may be during a rollout, and how many fewer available ones.
pub fn surge_and_unavailable(deployment: &Deployment) -> (i32, i32) {
    if is_recreate(deployment) {
        return (0, 0);
    }
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let total = replicas(deployment);
    let surge = resolve(rolling.and_then(|rolling| rolling.max_surge.as_ref()), total, true);
    let unavailable = resolve(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), total, false);
    // With neither nothing could ever move.
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// Absent is what the API's default says: a quarter.
fn resolve(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    let percent = match value {
        Some(IntOrString::Int(number)) => return (*number).max(0),
        Some(IntOrString::String(text)) => {
            text.strip_suffix('%').and_then(|text| text.parse::<i64>().ok()).unwrap_or(0)
        }
        None => 25,
    };
    let hundredths = percent.max(0).saturating_mul(i64::from(total));
    let rounded = if round_up { (hundredths + 99) / 100 } else { hundredths / 100 };
    i32::try_from(rounded).unwrap_or(i32::MAX)
}

/// How many of the pods asked for may be unavailable, of those that are asked for at all.
pub fn max_unavailable(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) || replicas(deployment) == 0 {
        return 0;
    }
    surge_and_unavailable(deployment).1.min(replicas(deployment))
}

pub fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

pub fn ready(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
}

/// How many pods there are.
pub fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

pub fn name(set: &ReplicaSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

pub fn created(set: &ReplicaSet) -> Option<Timestamp> {
    set.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// Oldest first; of one moment by name.
pub fn by_age(a: &Set, b: &Set) -> std::cmp::Ordering {
    created(a).cmp(&created(b)).then_with(|| name(a).cmp(name(b)))
}

pub fn annotation<'a>(set: &'a ReplicaSet, key: &str) -> Option<&'a str> {
    set.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

pub fn annotated_number(set: &ReplicaSet, key: &str) -> Option<i32> {
    annotation(set, key)?.parse().ok()
}

/// 0 where it has none.
pub fn revision(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub fn condition<'a>(deployment: &'a Deployment, kind: &str) -> Option<&'a DeploymentCondition> {
    deployment.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Whether two templates make the same pods: all but the hash that tells replica sets apart.
pub fn is_same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    a.spec == b.spec && without_hash(a) == without_hash(b)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut metadata = template.metadata.clone().unwrap_or_default();
    let tidy = |map: Option<BTreeMap<String, String>>| map.filter(|map| !map.is_empty());
    if let Some(labels) = &mut metadata.labels {
        labels.remove(HASH_LABEL);
    }
    metadata.labels = tidy(metadata.labels);
    metadata.annotations = tidy(metadata.annotations);
    metadata.creation_timestamp = None;
    PodTemplateSpec { metadata: Some(metadata), spec: None }
}

/// The replica set of the deployment's present template (the oldest, if there are several), and all others,
/// oldest first.
pub fn split(deployment: &Deployment, sets: &[Set]) -> (Option<Set>, Vec<Set>) {
    let mut sets = sets.to_vec();
    sets.sort_by(by_age);
    let template = deployment.spec.as_ref().map(|spec| &spec.template);
    let is_new = |set: &Set| {
        let of_set = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        template.zip(of_set).is_some_and(|(wanted, has)| is_same_template(wanted, has))
    };
    let new = sets.iter().position(is_new).map(|at| sets.remove(at));
    (new, sets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn deployment(replicas: i32, surge: Value, unavailable: Value) -> Deployment {
        serde_json::from_value(json!({"metadata": {}, "spec": {"replicas": replicas, "selector": {}, "template": {},
            "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}}))
        .expect("a deployment")
    }

    #[test]
    fn fence_posts() {
        let check = |replicas: i32, surge: Value, unavailable: Value, expect: (i32, i32)| {
            let resolved = surge_and_unavailable(&deployment(replicas, surge.clone(), unavailable.clone()));
            assert_eq!(resolved, expect, "{replicas} {surge} {unavailable}");
        };
        check(10, json!("25%"), json!("25%"), (3, 2));
        check(3, json!("25%"), json!("25%"), (1, 0));
        check(3, json!(2), json!(1), (2, 1));
        check(3, json!(0), json!("10%"), (0, 1));
        check(0, json!("25%"), json!("25%"), (0, 1));
        check(10, json!("150%"), json!("100%"), (15, 10));
        assert_eq!(max_unavailable(&deployment(2, json!(0), json!(5))), 2);
        assert_eq!(max_unavailable(&deployment(0, json!(0), json!(5))), 0);
    }

    #[test]
    fn finds_the_set_of_the_present_template() {
        let set = |name: &str, image: &str, at: &str| -> Set {
            Arc::new(
                serde_json::from_value(
                    json!({"metadata": {"name": name, "creationTimestamp": at}, "spec": {"selector": {},
                "template": {"metadata": {"labels": {"app": "a", HASH_LABEL: name}},
                    "spec": {"containers": [{"name": "c", "image": image}]}}}}),
                )
                .expect("a replica set"),
            )
        };
        let deployment: Deployment = serde_json::from_value(json!({"metadata": {}, "spec": {"selector": {},
            "template": {"metadata": {"labels": {"app": "a"}, "annotations": {}, "creationTimestamp": null},
                "spec": {"containers": [{"name": "c", "image": "2"}]}}}}))
        .expect("a deployment");
        let sets = [
            set("c", "2", "2024-01-03T00:00:00Z"),
            set("b", "2", "2024-01-02T00:00:00Z"),
            set("a", "1", "2024-01-01T00:00:00Z"),
        ];
        let (new, old) = split(&deployment, &sets);
        assert_eq!(new.as_deref().map(name), Some("b"));
        assert_eq!(old.iter().map(|set| name(set)).collect::<Vec<_>>(), ["a", "c"]);
        assert!(split(&deployment, &sets[2..]).0.is_none());
    }
}
