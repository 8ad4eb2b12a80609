use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use skiff_api::ObjectKey;
use skiff_base::{chain, time};
use skiff_client::{Client, DeleteOptions, Error, EventKind, EventRecorder, Lister, Next, Reconciler, Result};

use super::plan::{Resize, plan_cleanup, plan_grow, plan_new_size, plan_scale, plan_shrink, total};
use super::revision::{next_revision, plan_annotations, plan_set, size_annotations};
use super::selector;
use super::spec::{
    DESIRED_REPLICAS, REVISION, Set, annotated_number, annotation, condition, is_paused, is_recreate, is_same_template,
    name, progress_deadline_s, replicas, size, split,
};
use super::status::{
    PROGRESSING, is_complete, new_condition, plan_counts, plan_deadline, plan_pause, plan_rollout, set_condition,
};
use crate::pod_control::{self, BY_CONTROLLER};
use crate::service_account::is_closing;
use crate::{owner, pod};

pub struct Deployments {
    pub client: Client,
    pub events: EventRecorder,
    pub deployments: Lister<Deployment>,
    pub sets: Lister<ReplicaSet>,
    pub pods: Lister<Pod>,
}

/// One look at a deployment.
struct Rollout {
    /// With the conditions that this look has added.
    deployment: Deployment,
    /// As it was written last.
    written: Option<DeploymentStatus>,
    new: Option<Set>,
    /// Oldest first.
    old: Vec<Set>,
}

impl Reconciler for Deployments {
    const NAME: &'static str = "deployment-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(Next::Done) };
        let Some(selector) = selector(&deployment) else {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.events.record(EventRecorder::reference(&*deployment), EventKind::Warning, "SelectingAll", message);
            return Ok(Next::Done);
        };
        let candidates = pod_control::candidates(&self.sets, &*deployment);
        let sets = owner::claim(&self.client, &*deployment, &selector, candidates).await?;

        let (new, old) = split(&deployment, &sets);
        let written = deployment.status.clone();
        let mut rollout = Rollout { deployment: (*deployment).clone(), written, new, old };
        if deployment.metadata.deletion_timestamp.is_some() {
            return self.write_counts(&rollout).await;
        }
        let paused = is_paused(&deployment);
        if let Some(condition) = plan_pause(&deployment, paused, time::now()) {
            set_condition(rollout.deployment.status.get_or_insert_default(), condition);
        }
        if paused {
            self.take_revision(&mut rollout).await?;
            self.resize(&mut rollout, plan_scale).await?;
            self.clean_up(&rollout).await?;
            return self.write_counts(&rollout).await;
        }
        if is_scaled(&rollout) {
            self.take_revision(&mut rollout).await?;
            self.resize(&mut rollout, plan_scale).await?;
            return self.write_rollout(&rollout).await;
        }
        if is_recreate(&deployment) { self.recreate(&mut rollout).await } else { self.roll(&mut rollout).await }
    }
}

/// Whether the deployment's size was changed since its sets got theirs.
fn is_scaled(rollout: &Rollout) -> bool {
    let want = replicas(&rollout.deployment);
    rollout
        .old
        .iter()
        .chain(&rollout.new)
        .filter(|set| size(set) > 0)
        .any(|set| annotated_number(set, DESIRED_REPLICAS).is_some_and(|desired| desired != want))
}

impl Deployments {
    async fn roll(&self, rollout: &mut Rollout) -> Result<Next> {
        self.ensure_new(rollout).await?;
        let grow = |deployment: &Deployment, new: Option<&Set>, old: &[Set]| -> Vec<Resize> {
            new.and_then(|new| plan_grow(deployment, new, old)).into_iter().collect()
        };
        if self.resize(rollout, grow).await? || self.resize(rollout, plan_shrink).await? {
            // What follows is seen when the sets have followed.
            return self.write_rollout(rollout).await;
        }
        self.finish(rollout).await
    }

    async fn recreate(&self, rollout: &mut Rollout) -> Result<Next> {
        self.take_revision(rollout).await?;
        let empty = |_: &Deployment, _: Option<&Set>, old: &[Set]| -> Vec<Resize> {
            old.iter().filter(|set| size(set) > 0).map(|set| Resize { set: set.clone(), to: 0 }).collect()
        };
        if self.resize(rollout, empty).await? || self.has_old_pods(rollout) {
            return self.write_rollout(rollout).await;
        }
        self.ensure_new(rollout).await?;
        let fill = |deployment: &Deployment, new: Option<&Set>, _: &[Set]| -> Vec<Resize> {
            let want = replicas(deployment);
            new.filter(|new| size(new) != want).map(|new| Resize { set: new.clone(), to: want }).into_iter().collect()
        };
        self.resize(rollout, fill).await?;
        self.finish(rollout).await
    }

    async fn finish(&self, rollout: &Rollout) -> Result<Next> {
        if is_complete(&rollout.deployment, &rollout.deployment.status.clone().unwrap_or_default()) {
            self.clean_up(rollout).await?;
        }
        self.write_rollout(rollout).await
    }

    /// Whether pods of old sets still run, even if they are being deleted.
    fn has_old_pods(&self, rollout: &Rollout) -> bool {
        let uids = rollout.old.iter().filter_map(|set| set.metadata.uid.as_deref());
        uids.flat_map(|uid| self.pods.indexed(BY_CONTROLLER, uid)).any(|pod| !pod::is_over(&pod))
    }

    /// Makes the set of the present template, if there is none.
    async fn ensure_new(&self, rollout: &mut Rollout) -> Result<()> {
        self.take_revision(rollout).await?;
        if rollout.new.is_some() {
            return Ok(());
        }
        let next = next_revision(&rollout.old);
        let size = plan_new_size(&rollout.deployment, total(&rollout.old), 0);
        let Some(set) = plan_set(&rollout.deployment, size, next) else { return Ok(()) };
        let name = set.metadata.name.clone().unwrap_or_default();
        let set = match self.client.all::<ReplicaSet>().create(&set).await {
            Ok(created) => {
                if size > 0 {
                    self.tell(rollout, EventKind::Normal, format!("Scaled up replica set {name} from 0 to {size}"));
                }
                created
            }
            Err(error) if error.is_already_exists() => self.take_existing(rollout, &set).await?,
            Err(error) => return self.not_created(rollout, &name, error).await,
        };
        rollout.new = Some(Arc::new(set));
        if progress_deadline_s(&rollout.deployment).is_some() {
            let message = format!("Created new replica set {name:?}");
            let condition = new_condition(PROGRESSING, "True", "NewReplicaSetCreated", message, time::now());
            set_condition(rollout.deployment.status.get_or_insert_default(), condition);
        }
        self.write_revision(rollout, next.to_string()).await
    }

    /// A set with the hash's name is there: the cache lags, or another template has the same hash.
    async fn take_existing(&self, rollout: &mut Rollout, wanted: &ReplicaSet) -> Result<ReplicaSet> {
        let sets = self.client.namespaced::<ReplicaSet>(wanted.metadata.namespace.as_deref().unwrap_or_default());
        let existing = sets.get(name(wanted)).await?;
        let ours =
            owner::controller_uid(&existing) == rollout.deployment.metadata.uid.clone().into_iter().collect::<Vec<_>>();
        let template = |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
        if ours && is_same_template(&template(&existing), &template(wanted)) {
            return Ok(existing);
        }
        let mut status = rollout.deployment.status.clone().unwrap_or_default();
        let collisions = status.collision_count.unwrap_or(0) + 1;
        status.collision_count = Some(collisions);
        self.write_status(rollout, status).await?;
        Err(Error::Config(format!("the name {:?} is taken by another replica set: try the next", name(wanted))))
    }

    async fn not_created(&self, rollout: &mut Rollout, name: &str, error: Error) -> Result<()> {
        if !is_closing(&error) {
            let message = format!("Failed to create new replica set {name:?}: {}", chain(&error));
            if progress_deadline_s(&rollout.deployment).is_some() {
                let mut status = rollout.deployment.status.clone().unwrap_or_default();
                let reason = "ReplicaSetCreateError";
                set_condition(&mut status, new_condition(PROGRESSING, "False", reason, message.clone(), time::now()));
                self.write_status(rollout, status).await?;
            }
            let reference = EventRecorder::reference(&rollout.deployment);
            self.events.record(reference, EventKind::Warning, "ReplicaSetCreateError", message);
        }
        Err(error)
    }

    /// Gives the new set, if there is one, the newest revision, and the deployment's annotations.
    async fn take_revision(&self, rollout: &mut Rollout) -> Result<()> {
        let Some(new) = rollout.new.clone() else { return Ok(()) };
        let annotations = plan_annotations(&rollout.deployment, &new, next_revision(&rollout.old));
        let min_ready_s = rollout.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        let has_min_ready_s = new.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        let differs = new.metadata.annotations.as_ref().is_none_or(|has| *has != annotations);
        if differs || has_min_ready_s.unwrap_or(0) != min_ready_s.unwrap_or(0) {
            let mut changed = (*new).clone();
            changed.metadata.annotations = Some(annotations);
            if let Some(spec) = &mut changed.spec {
                spec.min_ready_seconds = min_ready_s;
            }
            rollout.new = Some(Arc::new(self.client.all::<ReplicaSet>().update(&changed).await?));
        }
        let deployment = &mut rollout.deployment;
        if progress_deadline_s(deployment).is_some() && condition(deployment, PROGRESSING).is_none() {
            let message = format!("Found new replica set {:?}", name(&new));
            let condition = new_condition(PROGRESSING, "True", "FoundNewReplicaSet", message, time::now());
            set_condition(deployment.status.get_or_insert_default(), condition);
        }
        let revision = rollout.new.as_deref().and_then(|new| annotation(new, REVISION)).map(str::to_owned);
        match revision {
            Some(revision) => self.write_revision(rollout, revision).await,
            None => Ok(()),
        }
    }

    async fn write_revision(&self, rollout: &mut Rollout, revision: String) -> Result<()> {
        let meta = &rollout.deployment.metadata;
        if meta.annotations.as_ref().and_then(|annotations| annotations.get(REVISION)) == Some(&revision) {
            return Ok(());
        }
        // Upstream's controller may update deployments, not patch them.
        let mut changed = rollout.deployment.clone();
        changed.metadata.annotations.get_or_insert_default().insert(REVISION.to_owned(), revision);
        let updated = self.client.all::<Deployment>().update(&changed).await?;
        // The status is written on top of this.
        rollout.deployment.metadata = updated.metadata;
        Ok(())
    }

    /// Carries out a plan; says whether a size has changed.
    async fn resize(
        &self,
        rollout: &mut Rollout,
        plan: impl Fn(&Deployment, Option<&Set>, &[Set]) -> Vec<Resize>,
    ) -> Result<bool> {
        let resizes = plan(&rollout.deployment, rollout.new.as_ref(), &rollout.old);
        let mut resized = false;
        for Resize { set, to } in resizes {
            let from = size(&set);
            let mut annotations = set.metadata.annotations.clone().unwrap_or_default();
            size_annotations(&rollout.deployment, &mut annotations);
            if from == to && set.metadata.annotations.as_ref() == Some(&annotations) {
                continue;
            }
            let mut changed = (*set).clone();
            changed.metadata.annotations = Some(annotations);
            if let Some(spec) = &mut changed.spec {
                spec.replicas = Some(to);
            }
            let changed = Arc::new(self.client.all::<ReplicaSet>().update(&changed).await?);
            if from != to {
                let way = if to > from { "up" } else { "down" };
                let message = format!("Scaled {way} replica set {} from {from} to {to}", name(&set));
                self.tell(rollout, EventKind::Normal, message);
                resized = true;
            }
            for slot in rollout.new.iter_mut().chain(&mut rollout.old) {
                if name(slot) == name(&changed) {
                    *slot = changed.clone();
                }
            }
        }
        // The sizes that scaling starts from must be right even where the plan leaves the size alone.
        self.note_sizes(rollout).await?;
        Ok(resized)
    }

    /// Tells the sets that have pods what size the deployment has now.
    async fn note_sizes(&self, rollout: &mut Rollout) -> Result<()> {
        let Rollout { deployment, new, old, .. } = rollout;
        for slot in new.iter_mut().chain(old).filter(|set| size(set) > 0) {
            let mut annotations = slot.metadata.annotations.clone().unwrap_or_default();
            size_annotations(deployment, &mut annotations);
            if slot.metadata.annotations.as_ref() != Some(&annotations) {
                let mut changed = (**slot).clone();
                changed.metadata.annotations = Some(annotations);
                *slot = Arc::new(self.client.all::<ReplicaSet>().update(&changed).await?);
            }
        }
        Ok(())
    }

    async fn clean_up(&self, rollout: &Rollout) -> Result<()> {
        for set in plan_cleanup(&rollout.deployment, &rollout.old) {
            let sets = self.client.namespaced::<ReplicaSet>(set.metadata.namespace.as_deref().unwrap_or_default());
            let options = DeleteOptions {
                uid: set.metadata.uid.clone(),
                propagation: Some("Background"),
                ..DeleteOptions::default()
            };
            match sets.delete(name(&set), &options).await {
                Ok(()) => {}
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn write_counts(&self, rollout: &Rollout) -> Result<Next> {
        let status = plan_counts(&rollout.deployment, rollout.new.as_ref(), &rollout.old, time::now());
        self.write_status(rollout, status).await?;
        Ok(Next::Done)
    }

    async fn write_rollout(&self, rollout: &Rollout) -> Result<Next> {
        let now = time::now();
        let status = plan_rollout(&rollout.deployment, rollout.new.as_ref(), &rollout.old, now);
        self.write_status(rollout, status.clone()).await?;
        let mut told = rollout.deployment.clone();
        told.status = Some(status.clone());
        Ok(plan_deadline(&told, &status, now).map_or(Next::Done, Next::After))
    }

    async fn write_status(&self, rollout: &Rollout, status: DeploymentStatus) -> Result<()> {
        if rollout.written.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut deployment = rollout.deployment.clone();
        deployment.status = Some(status);
        match self.client.all::<Deployment>().update_status(&deployment).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn tell(&self, rollout: &Rollout, kind: EventKind, message: String) {
        self.events.record(EventRecorder::reference(&rollout.deployment), kind, "ScalingReplicaSet", message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Stage;
    use serde_json::{Value, json};
    use skiff_client::fake::FakeTransport;

    const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";
    const SETS: &str = "/apis/apps/v1/replicasets";

    fn deployment(replicas: i32, image: &str, strategy: Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "d", "namespace": "x", "uid": "d-uid", "generation": 1},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "a"}}, "strategy": strategy,
                "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}})
    }

    fn rolling() -> Value {
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})
    }

    /// Both controllers, and a node that makes every pod ready.
    fn start(stage: &Stage) {
        crate::replicas::start(&stage.context());
        super::super::start(&stage.context());
    }

    fn make_ready(fake: &FakeTransport) {
        for mut pod in fake.objects("/api/v1/pods") {
            if pod["status"].is_null() {
                pod["status"] = json!({"phase": "Running", "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z"}]});
                fake.put(pod);
            }
        }
    }

    fn status(fake: &FakeTransport) -> Value {
        fake.objects(DEPLOYMENTS)[0]["status"].clone()
    }

    fn reason(fake: &FakeTransport, kind: &str) -> Value {
        let conditions = status(fake)["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().find(|c| c["type"] == kind).map(|c| c["reason"].clone()).unwrap_or_default()
    }

    fn change(stage: &Stage, change: impl FnOnce(&mut Value)) {
        let mut deployment = stage.fake.objects(DEPLOYMENTS)[0].clone();
        change(&mut deployment);
        deployment["metadata"]["generation"] =
            json!(deployment["metadata"]["generation"].as_i64().expect("a number") + 1);
        stage.put(deployment);
    }

    fn done(fake: &FakeTransport, replicas: i32, image: &str) -> bool {
        make_ready(fake);
        let deployment = &fake.objects(DEPLOYMENTS)[0];
        let pods = fake.objects("/api/v1/pods");
        reason(fake, "Progressing") == "NewReplicaSetAvailable"
            && deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"]
            && deployment["status"]["availableReplicas"] == replicas
            && deployment["status"]["replicas"] == replicas
            && pods.len() == usize::try_from(replicas).expect("not negative")
            && pods.iter().all(|pod| pod["spec"]["containers"][0]["image"] == image)
    }

    #[tokio::test]
    async fn rolls_out_updates_scales_and_rolls_back() {
        let stage = Stage::new();
        stage.put(deployment(3, "1", rolling()));
        start(&stage);
        stage.until("the first rollout", |fake| done(fake, 3, "1")).await;
        let deployment = stage.fake.objects(DEPLOYMENTS)[0].clone();
        assert_eq!(deployment["metadata"]["annotations"][REVISION], "1");
        assert_eq!(reason(&stage.fake, "Available"), "MinimumReplicasAvailable");

        change(&stage, |deployment| deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!("2"));
        let mut fewest = i64::MAX;
        let mut most = 0;
        stage
            .until("the update", |fake| {
                let pods = fake.objects("/api/v1/pods");
                let ready = pods.iter().filter(|pod| !pod["status"].is_null()).count();
                fewest = fewest.min(i64::try_from(ready).expect("few"));
                most = most.max(pods.len());
                done(fake, 3, "2")
            })
            .await;
        assert!(fewest >= 3 && most <= 4, "{fewest} {most}");
        let sets = stage.fake.objects(SETS);
        assert_eq!(sets.len(), 2);
        assert_eq!(stage.fake.objects(DEPLOYMENTS)[0]["metadata"]["annotations"][REVISION], "2");

        change(&stage, |deployment| deployment["spec"]["replicas"] = json!(6));
        stage.until("6 of them", |fake| done(fake, 6, "2")).await;

        change(&stage, |deployment| deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!("1"));
        stage.until("the way back", |fake| done(fake, 6, "1")).await;
        let sets = stage.fake.objects(SETS);
        assert_eq!(sets.len(), 2, "the old set serves again");
        let active = sets.iter().find(|set| set["spec"]["replicas"] == 6).expect("one has all");
        assert_eq!(active["metadata"]["annotations"][REVISION], "3");
        assert_eq!(active["metadata"]["annotations"][super::super::spec::REVISION_HISTORY], "1");
        stage.end().await;
    }

    #[tokio::test]
    async fn recreate_starts_new_pods_after_the_last_old_one() {
        let stage = Stage::new();
        stage.put(deployment(2, "1", json!({"type": "Recreate"})));
        start(&stage);
        stage.until("the first rollout", |fake| done(fake, 2, "1")).await;
        change(&stage, |deployment| deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!("2"));
        stage
            .until("the update", |fake| {
                let pods = fake.objects("/api/v1/pods");
                let new = pods.iter().filter(|pod| pod["spec"]["containers"][0]["image"] == "2").count();
                assert!(new == 0 || new == pods.len(), "old and new at once");
                done(fake, 2, "2")
            })
            .await;
        stage.end().await;
    }

    #[tokio::test]
    async fn a_paused_deployment_scales_but_does_not_roll() {
        let stage = Stage::new();
        stage.put(deployment(1, "1", rolling()));
        start(&stage);
        stage.until("the first rollout", |fake| done(fake, 1, "1")).await;
        change(&stage, |deployment| {
            deployment["spec"]["paused"] = json!(true);
            deployment["spec"]["replicas"] = json!(2);
            deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!("2");
        });
        stage
            .until("2 old ones", |fake| {
                make_ready(fake);
                status(fake)["availableReplicas"] == 2 && reason(fake, "Progressing") == "DeploymentPaused"
            })
            .await;
        assert_eq!(stage.fake.objects(SETS).len(), 1);
        change(&stage, |deployment| deployment["spec"]["paused"] = json!(false));
        stage.until("the update", |fake| done(fake, 2, "2")).await;
        stage.end().await;
    }

    #[tokio::test]
    async fn a_taken_name_counts_as_a_collision() {
        let stage = Stage::new();
        let wanted = deployment(1, "1", rolling());
        let typed: Deployment = serde_json::from_value(wanted.clone()).expect("a deployment");
        let taken = plan_set(&typed, 1, 1).expect("a spec").metadata.name;
        stage.put(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": taken, "namespace": "x"},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "other"}}, "template": {}}}));
        stage.put(wanted);
        start(&stage);
        stage.until("the rollout", |fake| done(fake, 1, "1")).await;
        assert_eq!(status(&stage.fake)["collisionCount"], 1);
        stage.end().await;
    }

    #[test]
    fn sizes_are_noted_where_the_plan_leaves_them() {
        let rollout = |desired: &str, size: i32| {
            let set = json!({"metadata": {"name": "s", "annotations": {DESIRED_REPLICAS: desired}}, "spec": {"replicas": size, "selector": {}}});
            Rollout {
                deployment: serde_json::from_value(deployment(3, "1", rolling())).expect("a deployment"),
                written: None,
                new: Some(Arc::new(serde_json::from_value(set).expect("a set"))),
                old: Vec::new(),
            }
        };
        for (desired, size, expect) in [("3", 3, false), ("2", 2, true), ("2", 0, false), ("nonsense", 2, false)] {
            assert_eq!(is_scaled(&rollout(desired, size)), expect, "{desired} {size}");
        }
        assert_eq!(replicas(&rollout("3", 3).deployment), 3);
    }
}
