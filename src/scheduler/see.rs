//! What the informers tell, counted and passed on to those who wait for it.

use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use skiff_client::Change;

use crate::cycle::happenings;
use crate::framework::Happening;
use crate::scheduler::{NAME, Scheduler, State};
use crate::snapshot::{PodInfo, nominated_node};

impl Scheduler {
    pub fn see_namespace(&self, change: &Change<Namespace>) {
        let meta = &change.object().metadata;
        let name = meta.name.as_deref().unwrap_or_default();
        let mut state = self.lock();
        if matches!(change, Change::Deleted(_)) {
            state.cache.remove_namespace(name);
        } else if state.cache.put_namespace(name, meta.labels.clone().unwrap_or_default()) {
            self.wake(&mut state, Happening::NAMESPACE_LABELS);
        }
    }

    pub fn see_node(&self, change: &Change<Node>) {
        let mut state = self.lock();
        let happened = match change {
            Change::Added(node) => {
                state.cache.put_node(node.clone());
                Happening::NODE_ADDED
            }
            Change::Modified { old, new } => {
                state.cache.put_node(new.clone());
                happenings(old, new)
            }
            Change::Deleted(node) => {
                state.cache.remove_node(node.metadata.name.as_deref().unwrap_or_default());
                Happening::NODE_GONE
            }
        };
        self.wake(&mut state, happened);
    }

    pub fn see_pod(&self, change: &Change<Pod>) {
        let pod = change.object();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut state = self.lock();
        if matches!(change, Change::Deleted(_)) || is_over(pod) {
            self.see_end(&mut state, uid);
        } else if let Some(node) = node_of(pod) {
            state.queue.remove(uid);
            state.nominations.remove(uid);
            self.see_placed(&mut state, change, node);
        } else if pod.metadata.deletion_timestamp.is_some() {
            self.see_end(&mut state, uid);
        } else if is_ours(pod) && !state.cache.is_placed(uid) {
            let info = Arc::new(PodInfo::new(pod.clone()));
            let before = match change {
                Change::Modified { old, .. } => nominated_node(old),
                _ => None,
            };
            state.nominations.see(before, &info);
            state.queue.put(info, Instant::now());
            drop(state);
            self.notify();
        }
    }

    /// The pod takes no room any more, nor keeps any free.
    fn see_end(&self, state: &mut State, uid: &str) {
        state.queue.remove(uid);
        state.going.remove(uid);
        // Who waits for its volumes has to look.
        self.storage().poke();
        let was_promised = state.nominations.remove(uid);
        if state.cache.remove_pod(uid) || was_promised {
            self.wake(state, Happening::POD_GONE);
        }
    }

    fn see_placed(&self, state: &mut State, change: &Change<Pod>, node: &str) {
        let new = change.object();
        let happened = match change {
            Change::Modified { old, new } if node_of(old) == Some(node) => changes(old, new),
            _ => Some(Happening::POD_ADDED),
        };
        // Most changes of a running pod change nothing here.
        let Some(happened) = happened else { return };
        state.cache.put_pod(node, Arc::new(PodInfo::new(new.clone())));
        self.wake(state, happened);
    }
}

/// What an update of a pod on a node may change for others; `None`: nothing that anyone looks at.
fn changes(old: &Pod, new: &Pod) -> Option<Happening> {
    let started = |pod: &Pod| pod.status.as_ref().and_then(|status| status.start_time.clone());
    let going = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    if (&old.spec, &old.metadata.labels, going(old), started(old))
        == (&new.spec, &new.metadata.labels, going(new), started(new))
    {
        return None;
    }
    let mut happened = Happening::NONE;
    if old.spec != new.spec {
        // It may ask for less than before.
        happened = happened.or(Happening::POD_GONE);
    }
    if old.metadata.labels != new.metadata.labels || going(old) != going(new) {
        // Who spreads pods counts a terminating one no more.
        happened = happened.or(Happening::POD_LABELS);
    }
    Some(happened)
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn is_ours(pod: &Pod) -> bool {
    let name = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or_default();
    name.is_empty() || name == NAME
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::whole;
    use serde_json::{Value, json};

    #[test]
    fn few_changes_of_a_running_pod_matter() {
        let old = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [], "nodeName": "n"}});
        let check = |path: &str, value: Value, expect: Option<Happening>| {
            let mut new = old.clone();
            let (parent, field) = path.rsplit_once('/').expect("a path");
            let mut at = &mut new;
            for part in parent.split('/').skip(1) {
                at = &mut at[part];
            }
            at[field] = value;
            assert_eq!(changes(&whole(old.clone()).pod, &whole(new).pod), expect, "{path}");
        };
        check("/status/phase", json!("Running"), None);
        check("/metadata/annotations", json!({"a": "b"}), None);
        check("/status/startTime", json!("2024-01-01T00:00:00Z"), Some(Happening::NONE));
        check("/metadata/labels", json!({"a": "c"}), Some(Happening::POD_LABELS));
        check("/metadata/deletionTimestamp", json!("2024-01-01T00:00:00Z"), Some(Happening::POD_LABELS));
        check("/spec/containers", json!([{"name": "c"}]), Some(Happening::POD_GONE));
    }
}
