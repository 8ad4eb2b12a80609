//! Keeps as many pods as asked for: ReplicaSet and ReplicationController, by one engine.

mod kind;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use skiff_api::ObjectKey;
use skiff_base::chain;
use skiff_client::{Change, Client, Error, Lister, Next, Queue, Reconciler, Result};

use self::kind::{Replicated, Status};
use self::plan::{Failure, Plan, plan_replicas, plan_status, plan_victims};
use crate::pod_control::{self, BY_CONTROLLER, PodControl};
use crate::{Context, drive, owner, pod};

/// Keys that are worked on at once.
const WORKERS: usize = 5;

pub fn start(context: &Context) {
    start_kind::<ReplicaSet>(context);
    start_kind::<ReplicationController>(context);
}

struct Replicas<K> {
    client: Client,
    control: PodControl,
    owners: Lister<K>,
    pods: Lister<Pod>,
}

/// The owners of one kind that share a controller (the replica sets of one deployment).
const BY_OWNER: &str = "owner-uid";

fn start_kind<K: Replicated>(context: &Context) {
    let owners = context.informers.lister::<K>();
    let pods = context.informers.lister::<Pod>();
    owners.add_index(BY_OWNER, owner::controller_uid::<K>);
    pod_control::index(&pods);
    let queue = Queue::new(K::CONTROLLER);
    let controller = Arc::new(Replicas {
        client: context.client(K::CONTROLLER),
        control: PodControl::new(context.client(K::CONTROLLER), context.events(K::CONTROLLER, K::CONTROLLER)),
        owners: owners.clone(),
        pods: pods.clone(),
    });
    let (adding, seeing) = (queue.clone(), controller.clone());
    owners.subscribe(move |change| {
        let key = ObjectKey::of(&**change.object());
        if matches!(change, Change::Deleted(_)) {
            // One of the same name that is made later starts without a memory.
            seeing.control.expectations.forget(&key);
        }
        adding.add(key);
    });
    let (adding, seeing) = (queue.clone(), controller.clone());
    pods.subscribe(move |change| seeing.control.see::<K>(change, &adding, |pod| seeing.adopters(pod)));
    drive(context, controller, queue, WORKERS, async move {
        owners.synced().await;
        pods.synced().await;
    });
}

impl<K: Replicated> Replicas<K> {
    /// Those that a pod of nobody's matches.
    fn adopters(&self, pod: &Pod) -> Vec<ObjectKey> {
        let Some(labels) = &pod.metadata.labels else { return Vec::new() };
        let owners = self.owners.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default());
        let matching = owners.iter().filter(|o| o.selector().is_some_and(|selector| selector.matches(labels)));
        matching.map(|owner| ObjectKey::of(&**owner)).collect()
    }

    /// Makes up for the difference between the active pods and what is asked for.
    async fn manage(&self, key: &ObjectKey, owner: &Arc<K>, active: &[Arc<Pod>]) -> Option<Failure> {
        match plan_replicas(active.len(), owner.replicas()) {
            Plan::Nothing => None,
            Plan::Create(count) => self.create(key, owner, count).await,
            Plan::Delete(count) => {
                let related = self.related(owner);
                let now = skiff_base::time::now();
                self.delete(key, owner, plan_victims(active.to_vec(), &related, count, now)).await
            }
        }
    }

    /// The active pods of all owners with the same controller.
    fn related(&self, owner: &Arc<K>) -> Vec<Arc<Pod>> {
        let owners = match owner::controller(owner.metadata()) {
            Some(reference) => self.owners.indexed(BY_OWNER, &reference.uid),
            None => vec![owner.clone()],
        };
        let uids = owners.iter().filter_map(|owner| owner.metadata().uid.clone());
        uids.flat_map(|uid| self.pods.indexed(BY_CONTROLLER, &uid)).filter(|pod| pod::is_active(pod)).collect()
    }

    async fn create(&self, key: &ObjectKey, owner: &K, count: usize) -> Option<Failure> {
        let mut pod = pod_control::plan_pod(owner, owner.template()?);
        pod.metadata.generate_name = Some(format!("{}-", key.name));
        self.control.expectations.expect_creations(key, count);
        let (_, failed) = self.control.create(key, owner, vec![pod; count]).await;
        failed.map(|error| Failure { reason: "FailedCreate", message: chain(&error).to_string() })
    }

    async fn delete(&self, key: &ObjectKey, owner: &K, victims: Vec<Arc<Pod>>) -> Option<Failure> {
        let uids = victims.iter().filter_map(|pod| pod.metadata.uid.clone());
        self.control.expectations.expect_deletions(key, uids);
        let failed = self.control.delete(key, owner, victims).await;
        failed.map(|error| Failure { reason: "FailedDelete", message: chain(&error).to_string() })
    }

    async fn write_status(&self, owner: &K, status: Status) -> Result<()> {
        if owner.status() == status {
            return Ok(());
        }
        let mut fresh = owner.clone();
        fresh.set_status(status);
        match pod_control::write_status(&self.client, &fresh).await {
            // The cache lags behind the last write. What comes from there wakes the key, with no need to back off.
            Err(error) if error.is_conflict() => Ok(()),
            other => other,
        }
    }
}

impl<K: Replicated> Reconciler for Replicas<K> {
    const NAME: &'static str = K::CONTROLLER;
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        // What is seen after this shows in the lists below, or wakes the key again.
        let settled = self.control.expectations.are_met(key);
        let Some(owner) = self.owners.get(key) else {
            self.control.expectations.forget(key);
            return Ok(Next::Done);
        };
        let Some(selector) = owner.selector() else { return Ok(Next::Done) };
        let mut candidates = pod_control::candidates(&self.pods, &*owner);
        candidates.retain(|pod| !pod::is_over(pod));
        let mut active = owner::claim(&self.client, &*owner, &selector, candidates).await?;
        active.retain(|pod| pod::is_active(pod));

        let leaving = owner.metadata().deletion_timestamp.is_some();
        let failure = if settled && !leaving { self.manage(key, &owner, &active).await } else { None };
        let (status, wait) = plan_status(
            &owner.status(),
            &active,
            owner.template(),
            owner.min_ready_s(),
            owner.metadata().generation.unwrap_or(0),
            failure.as_ref(),
            skiff_base::time::now(),
        );
        self.write_status(&owner, status).await?;
        if let Some(failure) = failure {
            // Tried again with back-off, as after any error.
            return Err(Error::Config(format!("{}: {}", failure.reason, failure.message)));
        }
        // A little later than it is due, lest it be looked at a moment too early.
        Ok(wait.map_or(Next::Done, |wait| Next::After(wait + Duration::from_millis(10))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Stage;
    use serde_json::{Value, json};
    use skiff_api::ApiError;
    use skiff_client::fake::FakeTransport;

    fn replica_set(replicas: i32) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": "r", "namespace": "x", "uid": "r-uid", "generation": 1},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "a"}},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c"}]}}}})
    }

    fn pods(fake: &FakeTransport) -> Vec<Value> {
        fake.objects("/api/v1/pods")
    }

    fn status(fake: &FakeTransport) -> Value {
        fake.objects("/apis/apps/v1/replicasets")[0]["status"].clone()
    }

    #[tokio::test]
    async fn makes_replaces_and_deletes_pods() {
        let stage = Stage::new();
        stage.put(replica_set(20));
        super::start(&stage.context());
        stage.until("20 pods", |fake| pods(fake).len() == 20 && status(fake)["replicas"] == 20).await;
        let pod = pods(&stage.fake)[0].clone();
        assert_eq!(pod["metadata"]["labels"], json!({"app": "a"}));
        assert_eq!(
            pod["metadata"]["ownerReferences"],
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r-uid", "controller": true,
                "blockOwnerDeletion": true}])
        );
        let name = pod["metadata"]["name"].as_str().expect("named");
        stage.delete(&format!("/api/v1/namespaces/x/pods/{name}")).await;
        stage.until("20 pods again", |fake| pods(fake).len() == 20).await;
        let mut smaller = stage.fake.objects("/apis/apps/v1/replicasets")[0].clone();
        smaller["spec"]["replicas"] = json!(2);
        smaller["metadata"]["generation"] = json!(2);
        stage.put(smaller);
        stage
            .until("2 pods", |fake| {
                pods(fake).len() == 2 && status(fake)["replicas"] == 2 && status(fake)["observedGeneration"] == 2
            })
            .await;
        let creations = stage.fake.requests().iter().filter(|r| *r == "POST /api/v1/namespaces/x/pods").count();
        assert_eq!(creations, 21, "never one too many");
        stage.end().await;
    }

    #[tokio::test]
    async fn adopts_and_releases() {
        let stage = Stage::new();
        stage.put(replica_set(1));
        stage.put(json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": []},
            "metadata": {"name": "orphan", "namespace": "x", "labels": {"app": "a"}}}));
        super::start(&stage.context());
        let owned = |pod: &Value| pod["metadata"]["ownerReferences"][0]["uid"] == "r-uid";
        stage.until("it is adopted", |fake| owned(&pods(fake)[0]) && status(fake)["replicas"] == 1).await;
        let mut strange = pods(&stage.fake)[0].clone();
        strange["metadata"]["labels"]["app"] = json!("b");
        stage.put(strange);
        stage
            .until("it is replaced", |fake| pods(fake).iter().any(|pod| pod["metadata"]["labels"]["app"] == "a"))
            .await;
        stage.end().await;
    }

    #[tokio::test]
    async fn tells_when_pods_are_refused_and_tries_again() {
        let stage = Stage::new();
        stage.put(replica_set(2));
        stage.fake.fail_next("POST /api/v1/namespaces/x/pods", ApiError::forbidden("", "pods", "r-", "exceeded quota"));
        super::start(&stage.context());
        stage
            .until("an event", |fake| {
                fake.objects("/api/v1/events").iter().any(|event| {
                    event["reason"] == "FailedCreate"
                        && event["message"] == "Error creating: pods \"r-\" is forbidden: exceeded quota"
                })
            })
            .await;
        stage
            .until("2 pods and no failure", |fake| pods(fake).len() == 2 && status(fake)["conditions"].is_null())
            .await;
        stage.end().await;
    }

    #[tokio::test]
    async fn a_cache_that_lags_is_no_failure() {
        let stage = Stage::new();
        stage.put(replica_set(0));
        let context = stage.context();
        let owners = context.informers.lister::<ReplicaSet>();
        let pods = context.informers.lister::<Pod>();
        pod_control::index(&pods);
        owners.synced().await;
        pods.synced().await;
        let (client, events) = (context.client("test"), context.events("test", "test"));
        let control = PodControl::new(client.clone(), events);
        let controller = Replicas { client, control, owners, pods };
        let stale = ApiError::conflict("apps", "replicasets", "r", "the object has been modified");
        stage.fake.fail_next("PUT /apis/apps/v1/namespaces/x/replicasets/r/status", stale);
        let key = ObjectKey::new("x", "r");
        for written in [Value::Null, json!(1)] {
            assert_eq!(controller.reconcile(&key).await.expect("no failure"), Next::Done);
            assert_eq!(status(&stage.fake)["observedGeneration"], written);
        }
        stage.end().await;
    }

    #[tokio::test]
    async fn replication_controllers_are_the_same() {
        let stage = Stage::new();
        stage.put(json!({"apiVersion": "v1", "kind": "ReplicationController",
            "metadata": {"name": "r", "namespace": "x", "uid": "r-uid", "generation": 1},
            "spec": {"replicas": 3, "selector": {"app": "a"},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c"}]}}}}));
        super::start(&stage.context());
        stage.until("3 pods", |fake| pods(fake).len() == 3).await;
        assert_eq!(pods(&stage.fake)[0]["metadata"]["ownerReferences"][0]["kind"], "ReplicationController");
        stage.end().await;
    }
}
