//! Who owns whom, as far as the observations tell.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use skiff_api::{Meta, ObjectKey};

/// The uid of an object.
pub type Uid = Arc<str>;
/// Which of the observed resources an object is of.
pub type ResourceId = usize;

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

/// Something to be done about an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Work {
    /// See whether its owners still want it, or whether what it waits for is gone.
    Collect(Uid),
    /// Let its dependents go.
    Orphan(Uid),
}

/// An object that has owners, or is being deleted in a way that concerns its dependents.
#[derive(Debug, Clone)]
pub struct Node {
    pub resource: ResourceId,
    pub key: ObjectKey,
    pub owners: Vec<OwnerReference>,
    /// It waits until its blocking dependents are gone.
    pub foreground: bool,
}

/// Most objects have neither owners nor dependents: of those only the uid is kept.
#[derive(Default)]
pub struct Graph {
    present: HashMap<Uid, ResourceId>,
    nodes: HashMap<Uid, Node>,
    /// By the uid of the owner, which need not be present.
    dependents: HashMap<Uid, HashSet<Uid>>,
}

impl Graph {
    pub fn node(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub fn dependents(&self, uid: &str) -> Vec<Node> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.nodes.get(uid)).cloned().collect()
    }

    /// The uids of the dependents that hold back their owner's foreground deletion.
    pub fn blocking(&self, uid: &str) -> Vec<Uid> {
        let blocks = |node: &Node| {
            let mut owners = node.owners.iter();
            owners.any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
        };
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter(|uid| self.nodes.get(*uid).is_some_and(blocks)).cloned().collect()
    }

    /// An object was created or changed. Work is found only in what changed, so that nothing is looked
    /// at again and again.
    pub fn put(&mut self, resource: ResourceId, meta: &Meta, work: &mut Vec<Work>) {
        let uid = meta.uid.clone();
        self.present.insert(uid.clone(), resource);
        let deleting = meta.deletion_timestamp.is_some();
        let has = |name: &str| meta.finalizers.iter().any(|finalizer| finalizer == name);
        let foreground = deleting && has(FOREGROUND);
        let old = self.nodes.get(&uid);
        let was_foreground = old.is_some_and(|old| old.foreground);
        let old_owners: Vec<OwnerReference> = old.map(|old| old.owners.clone()).unwrap_or_default();

        for gone in old_owners.iter().filter(|old| meta.owner_references.iter().all(|new| new.uid != old.uid)) {
            self.unlink(&gone.uid, &uid);
            self.look_at_waiting(&gone.uid, work);
        }
        for owner in &meta.owner_references {
            let before = old_owners.iter().find(|old| old.uid == owner.uid);
            if before.is_none() {
                self.dependents.entry(owner.uid.as_str().into()).or_default().insert(uid.clone());
                if !self.present.contains_key(owner.uid.as_str()) {
                    // It may come yet, or be gone for good.
                    work.push(Work::Collect(uid.clone()));
                }
            }
            if before != Some(owner) && self.nodes.get(owner.uid.as_str()).is_some_and(|owner| owner.foreground) {
                // The owner waits for this one, or does no longer.
                work.push(Work::Collect(uid.clone()));
                work.push(Work::Collect(owner.uid.as_str().into()));
            }
        }
        if foreground && !was_foreground {
            work.push(Work::Collect(uid.clone()));
            work.extend(self.dependents.get(&uid).into_iter().flatten().cloned().map(Work::Collect));
        }
        if deleting && has(ORPHAN) {
            work.push(Work::Orphan(uid.clone()));
        }
        let owners = meta.owner_references.clone();
        if owners.is_empty() && !(deleting && (has(ORPHAN) || foreground)) {
            self.nodes.remove(&uid);
        } else {
            let key = ObjectKey { namespace: meta.namespace.clone(), name: meta.name.clone() };
            self.nodes.insert(uid, Node { resource, key, owners, foreground });
        }
    }

    /// An object is gone.
    pub fn remove(&mut self, uid: &str, work: &mut Vec<Work>) {
        self.present.remove(uid);
        if let Some(node) = self.nodes.remove(uid) {
            for owner in node.owners {
                self.unlink(&owner.uid, uid);
                self.look_at_waiting(&owner.uid, work);
            }
        }
        work.extend(self.dependents.get(uid).into_iter().flatten().cloned().map(Work::Collect));
    }

    /// All objects of a resource: those that are not among them are gone.
    pub fn replace<'a>(&mut self, resource: ResourceId, all: impl Iterator<Item = &'a Meta>, work: &mut Vec<Work>) {
        let mut here = HashSet::new();
        for meta in all {
            here.insert(meta.uid.clone());
            self.put(resource, meta, work);
        }
        let gone: Vec<Uid> = self
            .present
            .iter()
            .filter(|(uid, of)| **of == resource && !here.contains(*uid))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in gone {
            self.remove(&uid, work);
        }
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    /// An owner that waits for its dependents has one less.
    fn look_at_waiting(&self, owner: &str, work: &mut Vec<Work>) {
        if let Some((uid, node)) = self.nodes.get_key_value(owner)
            && node.foreground
        {
            work.push(Work::Collect(uid.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn meta(uid: &str, owners: &[&str], more: Value) -> Meta {
        let references: Vec<Value> = owners
            .iter()
            .map(|owner| json!({"apiVersion": "v1", "kind": "K", "name": owner, "uid": owner, "blockOwnerDeletion": true}))
            .collect();
        let mut meta = json!({"name": uid, "namespace": "x", "uid": uid, "ownerReferences": references});
        meta.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        serde_json::from_value(meta).expect("metadata")
    }

    fn collect(uids: &[&str]) -> Vec<Work> {
        uids.iter().map(|uid| Work::Collect((*uid).into())).collect()
    }

    fn sorted(mut work: Vec<Work>) -> Vec<Work> {
        work.sort();
        work.dedup();
        work
    }

    #[test]
    fn finds_work_in_what_changes() {
        let mut graph = Graph::default();
        let deleting =
            |finalizer: &str| json!({"deletionTimestamp": "2024-01-01T00:00:00Z", "finalizers": [finalizer]});
        let put = |graph: &mut Graph, meta: Meta| {
            let mut work = Vec::new();
            graph.put(0, &meta, &mut work);
            sorted(work)
        };
        assert_eq!(put(&mut graph, meta("d", &["o"], json!({}))), collect(&["d"]), "its owner is unknown");
        assert_eq!(put(&mut graph, meta("o", &[], json!({}))), []);
        assert_eq!(put(&mut graph, meta("e", &["o"], json!({}))), []);
        assert_eq!(put(&mut graph, meta("e", &["o"], json!({}))), [], "nothing changed");
        assert_eq!(graph.blocking("o").len(), 2);
        assert_eq!(put(&mut graph, meta("o", &[], deleting(FOREGROUND))), collect(&["d", "e", "o"]));
        assert_eq!(put(&mut graph, meta("o", &[], deleting(FOREGROUND))), [], "it is known already");
        let mut work = Vec::new();
        graph.remove("d", &mut work);
        assert_eq!(sorted(work), collect(&["o"]), "one less to wait for");
        assert_eq!(put(&mut graph, meta("e", &[], json!({}))), collect(&["o"]), "and another");
        assert!(graph.blocking("o").is_empty());
        assert_eq!(put(&mut graph, meta("p", &[], deleting(ORPHAN))), [Work::Orphan("p".into())]);
    }

    #[test]
    fn an_owner_that_goes_leaves_work() {
        let mut graph = Graph::default();
        let mut work = Vec::new();
        graph.put(0, &meta("o", &[], json!({})), &mut work);
        graph.put(1, &meta("d", &["o"], json!({})), &mut work);
        assert!(work.is_empty());
        graph.remove("o", &mut work);
        assert_eq!(work, collect(&["d"]));
        work.clear();
        // The same by a list that no longer has it.
        graph.put(0, &meta("o", &[], json!({})), &mut work);
        graph.replace(0, [meta("q", &[], json!({}))].iter(), &mut work);
        assert_eq!(work, collect(&["d"]));
        assert!(graph.node("d").is_some() && graph.node("q").is_none(), "only what matters is kept");
    }
}
