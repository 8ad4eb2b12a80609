//! Counts the pods of disruption budgets, so that evictions know how many may go.

mod plan;

pub use plan::scaled;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use skiff_api::ObjectKey;
use skiff_api::selector::LabelSelector;
use skiff_base::time;
use skiff_client::{Change, Client, EventKind, EventRecorder, Lister, Next, Queue, Reconciler, Result};

use crate::{Context, drive, owner, pod_control};

const WORKERS: usize = 2;

pub fn start(context: &Context) {
    let budgets = context.informers.lister::<PodDisruptionBudget>();
    let pods = context.informers.lister::<Pod>();
    let queue = Queue::new(Disruption::NAME);
    let adding = queue.clone();
    budgets.subscribe(move |change| adding.add(ObjectKey::of(&**change.object())));
    let (adding, all) = (queue.clone(), budgets.clone());
    pods.subscribe(move |change| {
        let pod = change.object();
        let before = match change {
            Change::Modified { old, .. } if old.metadata.labels != pod.metadata.labels => Some(old),
            _ => None,
        };
        for budget in all.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default()) {
            if std::iter::once(pod).chain(before).any(|pod| selects(&budget, pod)) {
                adding.add(ObjectKey::of(&*budget));
            }
        }
    });
    let controller = Arc::new(Disruption {
        client: context.client(Disruption::NAME),
        events: context.events(Disruption::NAME, "controllermanager"),
        budgets: budgets.clone(),
        pods: pods.clone(),
        deployments: context.informers.lister(),
        replica_sets: context.informers.lister(),
        controllers: context.informers.lister(),
        stateful_sets: context.informers.lister(),
    });
    let owners = controller.clone();
    drive(context, controller, queue, WORKERS, async move {
        budgets.synced().await;
        pods.synced().await;
        owners.deployments.synced().await;
        owners.replica_sets.synced().await;
        owners.controllers.synced().await;
        owners.stateful_sets.synced().await;
    });
}

struct Disruption {
    client: Client,
    events: EventRecorder,
    budgets: Lister<PodDisruptionBudget>,
    pods: Lister<Pod>,
    deployments: Lister<Deployment>,
    replica_sets: Lister<ReplicaSet>,
    controllers: Lister<ReplicationController>,
    stateful_sets: Lister<StatefulSet>,
}

/// Whether the pod is under the budget. Without a selector it is for none.
fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let Some(Ok(selector)) = selector.map(|s| LabelSelector::from_typed(Some(s))) else { return false };
    selector.matches(pod.metadata.labels.as_ref().unwrap_or(&std::collections::BTreeMap::new()))
}

impl Disruption {
    /// What the controllers of the pods are asked for, all together.
    fn scale_of(&self, pods: &[Arc<Pod>]) -> std::result::Result<i32, String> {
        let mut seen = BTreeSet::new();
        let mut total = 0;
        for pod in pods {
            let Some(reference) = owner::controller(&pod.metadata) else { continue };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let key = ObjectKey::new(namespace, &reference.name);
            let found = match reference.kind.as_str() {
                "ReplicaSet" => self.scale_of_set(&key),
                "ReplicationController" => self
                    .controllers
                    .get(&key)
                    .map(|c| (reference.uid.clone(), c.spec.as_ref().and_then(|s| s.replicas))),
                "StatefulSet" => self
                    .stateful_sets
                    .get(&key)
                    .map(|s| (reference.uid.clone(), s.spec.as_ref().and_then(|s| s.replicas))),
                kind => {
                    let resource = format!("{}s.{}", kind.to_lowercase(), group_of(&reference.api_version));
                    return Err(format!("{resource} does not implement the scale subresource"));
                }
            };
            let Some((uid, replicas)) = found else { continue };
            if seen.insert(uid) {
                total += replicas.unwrap_or(1);
            }
        }
        Ok(total)
    }

    /// Of the deployment that a replica set belongs to, where it belongs to one.
    fn scale_of_set(&self, key: &ObjectKey) -> Option<(String, Option<i32>)> {
        let set = self.replica_sets.get(key)?;
        if let Some(key) = pod_control::key_of::<Deployment>(&set.metadata)
            && let Some(deployment) = self.deployments.get(&key)
        {
            let uid = deployment.metadata.uid.clone().unwrap_or_default();
            return Some((uid, deployment.spec.as_ref().and_then(|s| s.replicas)));
        }
        Some((set.metadata.uid.clone().unwrap_or_default(), set.spec.as_ref().and_then(|s| s.replicas)))
    }

    fn plan(&self, budget: &PodDisruptionBudget) -> (PodDisruptionBudgetStatus, Option<Duration>) {
        let now = time::now();
        let generation = budget.metadata.generation.unwrap_or(0);
        let old = budget.status.as_ref();
        let namespace = budget.metadata.namespace.as_deref().unwrap_or_default();
        let pods: Vec<Arc<Pod>> =
            self.pods.in_namespace(namespace).into_iter().filter(|pod| selects(budget, pod)).collect();
        if pods.is_empty() {
            self.tell(budget, EventKind::Normal, "NoPods", "No matching pods found");
        }
        let spec = budget.spec.clone().unwrap_or_default();
        let scale = match plan::needs_scale(&spec).then(|| self.scale_of(&pods)) {
            None => 0,
            Some(Ok(scale)) => scale,
            Some(Err(why)) => {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                self.tell(budget, EventKind::Warning, "CalculateExpectedPodCountFailed", &message);
                return (plan::plan_failure(old, &why, generation, now), None);
            }
        };
        let (expected, desired) = plan::plan_desired(&spec, pods.len(), scale);
        let before = old.and_then(|status| status.disrupted_pods.clone()).unwrap_or_default();
        let (disrupted, wait) = plan::plan_disrupted(&before, &pods, now);
        let healthy = plan::count_healthy(&pods, &disrupted);
        (plan::plan_status(old, [expected, desired, healthy], disrupted, generation, now), wait)
    }

    fn tell(&self, budget: &PodDisruptionBudget, kind: EventKind, reason: &str, message: &str) {
        self.events.record(EventRecorder::reference(budget), kind, reason, message);
    }
}

fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

impl Reconciler for Disruption {
    const NAME: &'static str = "disruption-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Next::Done) };
        let (status, wait) = self.plan(&budget);
        if budget.status.as_ref() != Some(&status) {
            let mut fresh = (*budget).clone();
            fresh.status = Some(status);
            pod_control::write_status(&self.client, &fresh).await?;
        }
        Ok(wait.map_or(Next::Done, |wait| Next::After(wait + Duration::from_millis(10))))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::Stage;

    fn pod(name: &str, ready: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "x", "uid": name, "labels": {"a": "b"}},
            "spec": {"containers": []}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}})
    }

    #[tokio::test]
    async fn budgets_follow_their_pods() {
        let stage = Stage::new();
        stage.put(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "b", "namespace": "x", "uid": "b", "generation": 1},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}}));
        stage.put(pod("p", "True"));
        super::start(&stage.context());
        let status = |fake: &skiff_client::fake::FakeTransport| {
            fake.objects("/apis/policy/v1/poddisruptionbudgets")[0]["status"].clone()
        };
        stage.until("one healthy pod", |fake| status(fake)["currentHealthy"] == 1).await;
        assert_eq!(status(&stage.fake)["disruptionsAllowed"].as_i64().unwrap_or(0), 0);
        stage.put(pod("q", "True"));
        stage.until("one too many", |fake| status(fake)["disruptionsAllowed"] == 1).await;
        assert_eq!(status(&stage.fake)["expectedPods"], 2);
        stage.end().await;
    }
}
