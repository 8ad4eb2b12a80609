//! Which pods do the same as a given one: those of its services and its controller. They are spread by
//! default.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use skiff_api::ObjectKey;
use skiff_api::selector::LabelSelector;
use skiff_client::{Informers, Lister};

use crate::snapshot::PodInfo;

pub struct Groups {
    services: Lister<Service>,
    replication_controllers: Lister<ReplicationController>,
    replica_sets: Lister<ReplicaSet>,
    stateful_sets: Lister<StatefulSet>,
}

impl Groups {
    pub fn new(informers: &Informers) -> Self {
        Self {
            services: informers.lister(),
            replication_controllers: informers.lister(),
            replica_sets: informers.lister(),
            stateful_sets: informers.lister(),
        }
    }

    pub async fn synced(&self) {
        self.services.synced().await;
        self.replication_controllers.synced().await;
        self.replica_sets.synced().await;
        self.stateful_sets.synced().await;
    }

    pub fn equals(&self, pod: &PodInfo) -> LabelSelector {
        let services = self.services.in_namespace(&pod.key.namespace);
        let selectors = services.iter().filter_map(|service| service.spec.as_ref()?.selector.as_ref());
        plan_equals(pod.labels(), selectors, self.controller(&pod.pod))
    }

    /// The selector of the pod's controller, of the kinds that upstream asks.
    fn controller(&self, pod: &Pod) -> Option<meta::LabelSelector> {
        let owners = pod.metadata.owner_references.iter().flatten();
        let owner = owners.into_iter().find(|owner| owner.controller == Some(true))?;
        let key = ObjectKey::new(pod.metadata.namespace.as_deref().unwrap_or_default(), &owner.name);
        match (owner.api_version.as_str(), owner.kind.as_str()) {
            ("v1", "ReplicationController") => {
                let match_labels = self.replication_controllers.get(&key)?.spec.as_ref()?.selector.clone();
                Some(meta::LabelSelector { match_labels, match_expressions: None })
            }
            ("apps/v1", "ReplicaSet") => Some(self.replica_sets.get(&key)?.spec.as_ref()?.selector.clone()),
            ("apps/v1", "StatefulSet") => Some(self.stateful_sets.get(&key)?.spec.as_ref()?.selector.clone()),
            _ => None,
        }
    }
}

/// What all the services that select the pod and its controller say together; without any, nothing.
fn plan_equals<'a>(
    labels: &BTreeMap<String, String>,
    services: impl Iterator<Item = &'a BTreeMap<String, String>>,
    controller: Option<meta::LabelSelector>,
) -> LabelSelector {
    let mut all = controller.unwrap_or_default();
    for selector in services {
        let selects = !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        if selects {
            all.match_labels.get_or_insert_default().extend(selector.clone());
        }
    }
    match LabelSelector::from_typed(Some(&all)) {
        Ok(selector) if !selector.is_everything() => selector,
        _ => LabelSelector::nothing(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn services_and_the_controller_select_together() {
        let check = |services: Value, controller: Value, expect: Option<&str>| {
            let labels = BTreeMap::from([("app".to_owned(), "web".to_owned()), ("tier".to_owned(), "x".to_owned())]);
            let services: Vec<BTreeMap<String, String>> = serde_json::from_value(services).expect("selectors");
            let controller: Option<meta::LabelSelector> = serde_json::from_value(controller).expect("a selector");
            let equals = plan_equals(&labels, services.iter(), controller);
            assert_eq!((equals != LabelSelector::nothing()).then(|| equals.to_string()).as_deref(), expect);
        };
        check(json!([]), json!(null), None);
        check(json!([{}, {"app": "db"}]), json!(null), None);
        check(json!([{"app": "web"}, {"tier": "x"}]), json!(null), Some("app=web,tier=x"));
        check(json!([]), json!({"matchLabels": {"app": "web"}}), Some("app=web"));
        let more = json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]});
        check(json!([{"app": "web"}]), more, Some("app=web,tier"));
    }
}
