//! What a replica set is told of its deployment: revisions and annotations.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::hash::template_hash;
use super::spec::{
    DESIRED_REPLICAS, HASH_LABEL, MAX_REPLICAS, REVISION, REVISION_HISTORY, Set, replicas, revision,
    surge_and_unavailable,
};
use crate::owner;

/// Longer histories lose their oldest entries.
const LONGEST_HISTORY: usize = 2000;

/// The revision of the next rollout.
pub fn next_revision(old: &[Set]) -> i64 {
    old.iter().map(|set| revision(set)).max().unwrap_or(0) + 1
}

/// Annotations that are the deployment's own.
fn stays_behind(key: &str) -> bool {
    key == "kubectl.kubernetes.io/last-applied-configuration"
        || key == "deprecated.deployment.rollback.to"
        || [REVISION, REVISION_HISTORY, DESIRED_REPLICAS, MAX_REPLICAS].contains(&key)
}

/// The annotations of a replica set that becomes, or stays, the deployment's new one.
pub fn plan_annotations(deployment: &Deployment, set: &ReplicaSet, next: i64) -> BTreeMap<String, String> {
    let mut annotations = set.metadata.annotations.clone().unwrap_or_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten().filter(|(key, _)| !stays_behind(key)) {
        annotations.insert(key.clone(), value.clone());
    }
    let old = revision(set);
    if old < next {
        annotations.insert(REVISION.to_owned(), next.to_string());
        // A rollback gives an old set a new number; the old one is kept for those who look for it.
        if old != 0 {
            let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
            let mut entries: Vec<String> =
                history.split(',').filter(|entry| !entry.is_empty()).map(str::to_owned).collect();
            entries.push(old.to_string());
            while entries.join(",").len() > LONGEST_HISTORY {
                entries.remove(0);
            }
            *history = entries.join(",");
        }
    }
    annotations
}

/// Adds the sizes that proportional scaling starts from.
pub fn size_annotations(deployment: &Deployment, annotations: &mut BTreeMap<String, String>) {
    let want = replicas(deployment);
    annotations.insert(DESIRED_REPLICAS.to_owned(), want.to_string());
    annotations.insert(MAX_REPLICAS.to_owned(), (want + surge_and_unavailable(deployment).0).to_string());
}

/// The replica set of the deployment's present template.
pub fn plan_set(deployment: &Deployment, size: i32, next: i64) -> Option<ReplicaSet> {
    let spec = deployment.spec.as_ref()?;
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or_default())),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![owner::reference_to(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    let mut annotations = plan_annotations(deployment, &set, next);
    size_annotations(deployment, &mut annotations);
    set.metadata.annotations = Some(annotations);
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn deployment(annotations: Value) -> Deployment {
        serde_json::from_value(json!({"metadata": {"name": "d", "namespace": "x", "uid": "u", "annotations": annotations},
            "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "a"}}, "template": {"metadata": {"labels": {"app": "a"}}},
                "strategy": {"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}}}}))
        .expect("a deployment")
    }

    fn set(annotations: Value) -> ReplicaSet {
        serde_json::from_value(json!({"metadata": {"annotations": annotations}})).expect("a replica set")
    }

    #[test]
    fn annotations_follow_the_deployment() {
        let check = |of_deployment: Value, of_set: Value, next: i64, expect: Value| {
            let annotations = plan_annotations(&deployment(of_deployment), &set(of_set), next);
            assert_eq!(json!(annotations), expect);
        };
        check(
            json!({"kubernetes.io/change-cause": "because", REVISION: "9",
                "kubectl.kubernetes.io/last-applied-configuration": "{}"}),
            json!({}),
            1,
            json!({"kubernetes.io/change-cause": "because", REVISION: "1"}),
        );
        check(json!({}), json!({REVISION: "2"}), 5, json!({REVISION: "5", REVISION_HISTORY: "2"}));
        check(
            json!({}),
            json!({REVISION: "5", REVISION_HISTORY: "2"}),
            6,
            json!({REVISION: "6", REVISION_HISTORY: "2,5"}),
        );
        check(json!({}), json!({REVISION: "5"}), 3, json!({REVISION: "5"}));
    }

    #[test]
    fn a_new_set_carries_the_hash_everywhere() {
        let set = plan_set(&deployment(json!({})), 2, 3).expect("a spec");
        let value = json!(set);
        let hash = value["metadata"]["labels"][HASH_LABEL].as_str().expect("a hash");
        assert_eq!(value["metadata"]["name"], format!("d-{hash}"));
        assert_eq!(value["spec"]["selector"]["matchLabels"], json!({"app": "a", HASH_LABEL: hash}));
        assert_eq!(value["spec"]["template"]["metadata"]["labels"], json!({"app": "a", HASH_LABEL: hash}));
        assert_eq!(value["metadata"]["annotations"], json!({REVISION: "3", DESIRED_REPLICAS: "4", MAX_REPLICAS: "6"}));
        assert_eq!(value["spec"]["replicas"], 2);
    }
}
