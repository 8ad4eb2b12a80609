//! What the two kinds that keep replicas have in common.

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::{Metadata, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use skiff_api::selector::LabelSelector;

/// A ReplicaSet or a ReplicationController.
pub trait Replicated:
    Resource + Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + Clone + Send + Sync + 'static
{
    /// Upstream's name of the controller.
    const CONTROLLER: &'static str;

    fn replicas(&self) -> i32;
    fn min_ready_s(&self) -> i32;
    /// `None`: it can't be understood, or would select everything.
    fn selector(&self) -> Option<LabelSelector>;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn status(&self) -> Status;
    fn set_status(&mut self, status: Status);
}

/// The status of both kinds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Status {
    pub replicas: i32,
    pub fully_labeled: i32,
    pub ready: i32,
    pub available: i32,
    pub observed_generation: i64,
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    pub since: Option<Time>,
}

/// Selecting everything would claim every pod of the namespace; the API refuses it, and so do we.
fn some(selector: LabelSelector) -> Option<LabelSelector> {
    if selector.is_everything() { None } else { Some(selector) }
}

/// Counts of zero are left out, as Go does.
fn count(value: i32) -> Option<i32> {
    (value != 0).then_some(value)
}

macro_rules! status {
    ($status:ident, $condition:ident $(, keeps $kept:ident)?) => {
        fn status(&self) -> Status {
            let Some(status) = &self.status else { return Status::default() };
            let conditions = status.conditions.iter().flatten().map(|condition| Condition {
                kind: condition.type_.clone(),
                status: condition.status.clone(),
                reason: condition.reason.clone().unwrap_or_default(),
                message: condition.message.clone().unwrap_or_default(),
                since: condition.last_transition_time.clone(),
            });
            Status {
                replicas: status.replicas,
                fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
                ready: status.ready_replicas.unwrap_or(0),
                available: status.available_replicas.unwrap_or(0),
                observed_generation: status.observed_generation.unwrap_or(0),
                conditions: conditions.collect(),
            }
        }

        fn set_status(&mut self, new: Status) {
            let conditions: Vec<_> = new
                .conditions
                .into_iter()
                .map(|condition| $condition {
                    type_: condition.kind,
                    status: condition.status,
                    reason: Some(condition.reason).filter(|reason| !reason.is_empty()),
                    message: Some(condition.message).filter(|message| !message.is_empty()),
                    last_transition_time: condition.since,
                })
                .collect();
            // What this controller does not know, it keeps.
            $(let $kept = self.status.as_ref().and_then(|old| old.$kept);)?
            self.status = Some($status {
                replicas: new.replicas,
                fully_labeled_replicas: count(new.fully_labeled),
                ready_replicas: count(new.ready),
                available_replicas: count(new.available),
                observed_generation: Some(new.observed_generation).filter(|generation| *generation != 0),
                conditions: Some(conditions).filter(|conditions| !conditions.is_empty()),
                $($kept,)?
            });
        }
    };
}

impl Replicated for ReplicaSet {
    const CONTROLLER: &'static str = "replicaset-controller";

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_s(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn selector(&self) -> Option<LabelSelector> {
        LabelSelector::from_typed(Some(&self.spec.as_ref()?.selector)).ok().and_then(some)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    status!(ReplicaSetStatus, ReplicaSetCondition, keeps terminating_replicas);
}

impl Replicated for ReplicationController {
    const CONTROLLER: &'static str = "replication-controller";

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_s(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn selector(&self) -> Option<LabelSelector> {
        some(LabelSelector::from_labels(self.spec.as_ref()?.selector.as_ref()?))
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    status!(ReplicationControllerStatus, ReplicationControllerCondition);
}
