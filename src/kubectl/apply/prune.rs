//! What was applied once and is not among the objects any more.
//!
//! Only what carries the annotation of `kubectl apply` goes, only in namespaces of objects that were applied, and only of
//! kinds that are named: a selector that is too wide must not take what others made.

use std::collections::{BTreeSet, HashSet};

use serde_json::Value;

use super::LAST_APPLIED;
use crate::discovery::Resource;
use crate::server::{Server, path, with_query};
use crate::targets::Found;
use crate::writing::{DryRun, Writing};
use crate::{Failure, Result};

/// Upstream's default: the kinds of a plain application.
const KINDS: [&str; 16] = [
    "core/v1/ConfigMap",
    "core/v1/Endpoints",
    "core/v1/PersistentVolumeClaim",
    "core/v1/Pod",
    "core/v1/ReplicationController",
    "core/v1/Secret",
    "core/v1/Service",
    "batch/v1/Job",
    "batch/v1/CronJob",
    "networking.k8s.io/v1/Ingress",
    "apps/v1/DaemonSet",
    "apps/v1/Deployment",
    "apps/v1/ReplicaSet",
    "apps/v1/StatefulSet",
    "core/v1/Namespace",
    "core/v1/PersistentVolume",
];

/// What was applied this time.
#[derive(Default)]
pub struct Seen {
    uids: HashSet<String>,
    namespaces: BTreeSet<String>,
}

impl Seen {
    pub fn note(&mut self, object: &Value) {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        self.uids.insert(text("uid"));
        let namespace = text("namespace");
        if !namespace.is_empty() {
            self.namespaces.insert(namespace);
        }
    }

    /// Whether an object was applied before, but not this time.
    fn misses(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        metadata["annotations"].get(LAST_APPLIED).is_some()
            && !self.uids.contains(metadata["uid"].as_str().unwrap_or_default())
    }
}

/// The resource types that may be pruned.
pub async fn kinds(server: &Server, allowed: &[String]) -> Result<Vec<Resource>> {
    if allowed.is_empty() && server.namespace_given {
        eprintln!(
            "Warning: Deprecated: kubectl apply will no longer prune non-namespaced resources by default when used with the --namespace flag in a future release. To preserve the current behaviour, list the resources you want to target explicitly in the --prune-allowlist flag."
        );
    }
    let discovery = server.discovery().await?;
    let find = |text: &str| {
        let [group, version, kind] = text.split('/').collect::<Vec<_>>()[..] else {
            return Err(Failure::text(format!(
                "invalid GroupVersionKind format: {text}, please follow <group/version/kind>"
            )));
        };
        let api_version = if group == "core" { version.to_owned() } else { format!("{group}/{version}") };
        let found = discovery.of_kind(&api_version, kind).cloned();
        found.ok_or_else(|| Failure::text(format!("no matches for kind {kind:?} in version {api_version:?}")))
    };
    match allowed {
        [] => KINDS.iter().map(|text| find(text)).collect(),
        allowed => allowed.iter().map(|text| find(text)).collect(),
    }
}

pub async fn prune(
    server: &Server,
    kinds: &[Resource],
    selector: &str,
    seen: &Seen,
    deletion: &Value,
    writing: &Writing,
) -> Result {
    let (inside, outside): (Vec<&Resource>, Vec<&Resource>) = kinds.iter().partition(|kind| kind.namespaced);
    let inside =
        seen.namespaces.iter().flat_map(|namespace| inside.iter().map(move |kind| (Some(&**namespace), *kind)));
    for (namespace, resource) in inside.chain(outside.into_iter().map(|kind| (None, kind))) {
        let list = with_query(&path(resource, namespace, "", ""), &[("labelSelector", selector)]);
        let list = server.get(&list).await?;
        for object in list["items"].as_array().into_iter().flatten().filter(|object| seen.misses(object)) {
            let mut object = object.clone();
            object["apiVersion"] = resource.api_version().into();
            object["kind"] = resource.kind.as_str().into();
            let found = Found { resource: resource.clone(), object };
            if writing.dry_run()? != DryRun::Client {
                server.delete(&found.path(""), deletion).await?;
            }
            writing.tell(resource, &found.object, "pruned")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_was_applied_and_is_gone_goes() {
        let mut seen = Seen::default();
        seen.note(&json!({"metadata": {"uid": "1", "namespace": "a"}}));
        seen.note(&json!({"metadata": {"uid": "2"}}));
        assert_eq!(seen.namespaces, BTreeSet::from(["a".to_owned()]));
        let object = |uid: &str, applied: bool| {
            let annotations = if applied { json!({LAST_APPLIED: "{}"}) } else { json!({}) };
            json!({"metadata": {"uid": uid, "annotations": annotations}})
        };
        let missed: Vec<bool> =
            [("1", true), ("3", true), ("3", false)].map(|(uid, applied)| seen.misses(&object(uid, applied))).into();
        assert_eq!(missed, [false, true, false]);
    }
}
