//! The `apps` group.

mod controller_revision;
mod deployment;
mod replica_set;

use serde_json::{Value, json};

use crate::kinds::adapter::describe;
use crate::strategy::Descriptor;

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![
        describe::<controller_revision::ControllerRevisions>(),
        describe::<deployment::Deployments>(),
        describe::<replica_set::ReplicaSets>(),
    ]
}

/// The first status of ReplicaSets and ReplicationControllers: upstream always writes the number.
pub(super) fn zero_replicas(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert("status".to_owned(), json!({"replicas": 0}));
    }
}
