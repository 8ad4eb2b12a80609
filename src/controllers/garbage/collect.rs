use std::collections::HashSet;
use std::sync::Mutex;

use http::Method;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::Deserialize;
use serde_json::{Value, json};
use skiff_api::ObjectKey;
use skiff_client::{DeleteOptions, Error, Next, PatchKind, Reconciler, Result};

use super::Collector;
use super::graph::{FOREGROUND, Node, ORPHAN, Work};
use crate::discovery::Served;

/// Uids of owners that are gone for good: they never come back, so there is no need to ask again.
#[derive(Default)]
pub struct Absent {
    uids: Mutex<HashSet<String>>,
}

/// More are forgotten, all at once.
const REMEMBERED: usize = 1000;

impl Absent {
    fn contains(&self, uid: &str) -> bool {
        self.uids.lock().expect("nothing panics while it holds the uids").contains(uid)
    }

    fn insert(&self, uid: &str) {
        let mut uids = self.uids.lock().expect("nothing panics while it holds the uids");
        if uids.len() >= REMEMBERED {
            uids.clear();
        }
        uids.insert(uid.to_owned());
    }
}

/// An object as the API server shows it now.
#[derive(Debug, Clone, Deserialize)]
struct Live {
    metadata: LiveMeta,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LiveMeta {
    uid: String,
    resource_version: String,
    owner_references: Vec<OwnerReference>,
    finalizers: Vec<String>,
    deletion_timestamp: Option<String>,
}

impl LiveMeta {
    fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|has| has == finalizer)
    }

    fn is_foreground(&self) -> bool {
        self.deletion_timestamp.is_some() && self.has(FOREGROUND)
    }
}

/// What an owner means for its dependent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It is there, and stays.
    Solid,
    /// It is gone.
    Gone,
    /// It is being deleted, after its dependents.
    Waiting,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// Take away the references to these owners (by uid), since others remain.
    Unlink(Vec<String>),
    /// With this propagation policy.
    Delete(&'static str),
}

/// `has_dependents`: there are objects that the dependent in turn owns.
fn plan_verdict(meta: &LiveMeta, standings: &[Standing], has_dependents: bool) -> Verdict {
    let of = |standing: Standing| -> Vec<String> {
        let pairs = meta.owner_references.iter().zip(standings);
        pairs.filter(|(_, has)| **has == standing).map(|(owner, _)| owner.uid.clone()).collect()
    };
    let mut leaving = of(Standing::Gone);
    let waiting = of(Standing::Waiting);
    if standings.contains(&Standing::Solid) {
        leaving.extend(waiting);
        return if leaving.is_empty() { Verdict::Keep } else { Verdict::Unlink(leaving) };
    }
    if standings.is_empty() {
        return Verdict::Keep;
    }
    if !waiting.is_empty() && has_dependents {
        // What is to go before the owner must itself wait for what it owns.
        return Verdict::Delete("Foreground");
    }
    Verdict::Delete(if meta.has(ORPHAN) {
        "Orphan"
    } else if meta.has(FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    })
}

impl Reconciler for Collector {
    const NAME: &'static str = "garbage-collector-controller";
    type Key = Work;

    async fn reconcile(&self, work: &Work) -> Result<Next> {
        match work {
            Work::Collect(uid) => self.collect(uid).await?,
            Work::Orphan(uid) => self.orphan(uid).await?,
        }
        Ok(Next::Done)
    }
}

impl Collector {
    async fn collect(&self, uid: &str) -> Result<()> {
        let (node, dependents) = {
            let graph = self.graph();
            let Some(node) = graph.node(uid).cloned() else { return Ok(()) };
            (node, graph.dependents(uid))
        };
        let Some(served) = self.resource(node.resource) else { return Ok(()) };
        let Some(meta) = self.live(&served, &node.key, uid).await? else { return Ok(()) };
        if meta.is_foreground() {
            return self.finish_foreground(uid, &served, &node.key, &meta).await;
        }
        if meta.deletion_timestamp.is_some() {
            return Ok(());
        }
        let mut standings = Vec::with_capacity(meta.owner_references.len());
        for owner in &meta.owner_references {
            standings.push(self.standing(owner, &served, &node.key).await?);
        }
        match plan_verdict(&meta, &standings, !dependents.is_empty()) {
            Verdict::Keep => Ok(()),
            Verdict::Unlink(uids) => self.unlink(&served, &node.key, &meta, &uids).await,
            Verdict::Delete(policy) => {
                if standings.contains(&Standing::Waiting) && dependents.iter().any(|dependent| dependent.foreground) {
                    // Owners in a circle would wait for each other for ever.
                    self.unblock(&served, &node.key, &meta).await?;
                }
                tracing::debug!(resource = %served.gvr, object = %node.key, policy, "collected");
                self.delete(&served, &node.key, uid, policy).await
            }
        }
    }

    /// The object's metadata now; none, if it is gone (another one may have its name).
    async fn live(&self, served: &Served, key: &ObjectKey, uid: &str) -> Result<Option<LiveMeta>> {
        let path = served.path(&key.namespace, &key.name);
        match self.client.call::<Live>(Method::GET, &path, None).await {
            Ok(live) => Ok(Some(live.metadata).filter(|meta| meta.uid == uid)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn standing(&self, owner: &OwnerReference, dependent: &Served, key: &ObjectKey) -> Result<Standing> {
        if self.absent.contains(&owner.uid) {
            return Ok(Standing::Gone);
        }
        let Some(served) = self.resource_of(&owner.api_version, &owner.kind) else {
            // Its kind may be away for a while with its server.
            return Err(Error::Config(format!("the kind {} {} of an owner is unknown", owner.api_version, owner.kind)));
        };
        if served.namespaced && !dependent.namespaced {
            tracing::warn!(object = %key, owner = owner.name, "a namespaced owner of a cluster-scoped object is no owner");
            return Ok(Standing::Solid);
        }
        let owner_key = ObjectKey::new(if served.namespaced { &key.namespace } else { "" }, &owner.name);
        Ok(match self.live(&served, &owner_key, &owner.uid).await? {
            None => {
                self.absent.insert(&owner.uid);
                Standing::Gone
            }
            Some(meta) if meta.is_foreground() => Standing::Waiting,
            Some(_) => Standing::Solid,
        })
    }

    /// Ends the wait of an owner whose blocking dependents are gone; else sees to it that they go.
    async fn finish_foreground(&self, uid: &str, served: &Served, key: &ObjectKey, meta: &LiveMeta) -> Result<()> {
        let blocking = self.graph().blocking(uid);
        if blocking.is_empty() {
            return self.remove_finalizer(served, key, meta, FOREGROUND).await;
        }
        let waiting: Vec<_> = {
            let graph = self.graph();
            blocking.into_iter().filter(|uid| graph.node(uid).is_some_and(|node| !node.foreground)).collect()
        };
        waiting.into_iter().for_each(|uid| self.queue.add(Work::Collect(uid)));
        Ok(())
    }

    async fn orphan(&self, uid: &str) -> Result<()> {
        let (node, dependents) = {
            let graph = self.graph();
            let Some(node) = graph.node(uid).cloned() else { return Ok(()) };
            (node, graph.dependents(uid))
        };
        let Some(served) = self.resource(node.resource) else { return Ok(()) };
        for Node { resource, key, .. } in dependents {
            let Some(of) = self.resource(resource) else { continue };
            let path = of.path(&key.namespace, &key.name);
            match self.client.call::<Live>(Method::GET, &path, None).await {
                Ok(live) => self.unlink(&of, &key, &live.metadata, &[uid.to_owned()]).await?,
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        match self.live(&served, &node.key, uid).await? {
            Some(meta) if meta.deletion_timestamp.is_some() => {
                self.remove_finalizer(&served, &node.key, &meta, ORPHAN).await
            }
            _ => Ok(()),
        }
    }

    async fn unlink(&self, served: &Served, key: &ObjectKey, meta: &LiveMeta, uids: &[String]) -> Result<()> {
        let kept: Vec<&OwnerReference> =
            meta.owner_references.iter().filter(|owner| !uids.contains(&owner.uid)).collect();
        if kept.len() == meta.owner_references.len() {
            return Ok(());
        }
        self.patch(served, key, meta, json!({"ownerReferences": kept})).await
    }

    /// Its owners no longer wait for it.
    async fn unblock(&self, served: &Served, key: &ObjectKey, meta: &LiveMeta) -> Result<()> {
        let mut owners = meta.owner_references.clone();
        owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
        self.patch(served, key, meta, json!({"ownerReferences": owners})).await
    }

    async fn remove_finalizer(&self, served: &Served, key: &ObjectKey, meta: &LiveMeta, name: &str) -> Result<()> {
        if !meta.has(name) {
            return Ok(());
        }
        let kept: Vec<&String> = meta.finalizers.iter().filter(|finalizer| *finalizer != name).collect();
        self.patch(served, key, meta, json!({"finalizers": kept})).await
    }

    /// Only if it is still as it was read: the lists are written whole.
    async fn patch(&self, served: &Served, key: &ObjectKey, meta: &LiveMeta, mut change: Value) -> Result<()> {
        change["uid"] = json!(meta.uid);
        change["resourceVersion"] = json!(meta.resource_version);
        let body = serde_json::to_vec(&json!({"metadata": change})).expect("a JSON value always encodes");
        let path = served.path(&key.namespace, &key.name);
        let content_type = PatchKind::Merge.content_type();
        match self.client.call_raw::<Value>(Method::PATCH, &path, content_type, Some(body.into())).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, served: &Served, key: &ObjectKey, uid: &str, policy: &'static str) -> Result<()> {
        let options =
            DeleteOptions { propagation: Some(policy), uid: Some(uid.to_owned()), ..DeleteOptions::default() };
        let path = served.path(&key.namespace, &key.name);
        match self.client.call::<Value>(Method::DELETE, &path, Some(&options.to_value())).await {
            Ok(_) => Ok(()),
            // It is gone, or another has its name.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Stage;
    use skiff_client::fake::{FakeTransport, Served as Offered};

    #[test]
    fn verdicts() {
        use Standing::{Gone, Solid, Waiting};
        let check = |finalizers: &[&str], standings: &[Standing], has_dependents: bool, expect: Verdict| {
            let owner = |n: usize| OwnerReference { uid: n.to_string(), ..OwnerReference::default() };
            let meta = LiveMeta {
                finalizers: finalizers.iter().map(|name| (*name).to_owned()).collect(),
                owner_references: (0..standings.len()).map(owner).collect(),
                ..LiveMeta::default()
            };
            assert_eq!(plan_verdict(&meta, standings, has_dependents), expect, "{standings:?}");
        };
        check(&[], &[], true, Verdict::Keep);
        check(&[], &[Solid], true, Verdict::Keep);
        check(&[], &[Solid, Gone, Waiting], true, Verdict::Unlink(vec!["1".into(), "2".into()]));
        check(&[], &[Gone], true, Verdict::Delete("Background"));
        check(&[ORPHAN], &[Gone], true, Verdict::Delete("Orphan"));
        check(&[FOREGROUND], &[Gone], false, Verdict::Delete("Foreground"));
        check(&[], &[Waiting], false, Verdict::Delete("Background"));
        check(&[], &[Waiting, Gone], true, Verdict::Delete("Foreground"));
    }

    const OFFERED: [Offered; 2] = [
        Offered { group: "", version: "v1", resource: "configmaps", kind: "ConfigMap", namespaced: true },
        Offered { group: "", version: "v1", resource: "secrets", kind: "Secret", namespaced: true },
    ];

    fn object(kind: &str, name: &str, owners: &[(&str, &str)]) -> Value {
        let owners: Vec<Value> = owners
            .iter()
            .map(|(kind, name)| {
                json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": format!("uid-of-{name}"), "blockOwnerDeletion": true})
            })
            .collect();
        json!({"apiVersion": "v1", "kind": kind,
            "metadata": {"name": name, "namespace": "x", "uid": format!("uid-of-{name}"), "ownerReferences": owners}})
    }

    fn names(fake: &FakeTransport) -> Vec<String> {
        let all = [fake.objects("/api/v1/configmaps"), fake.objects("/api/v1/secrets")].concat();
        all.iter().filter_map(|object| object["metadata"]["name"].as_str().map(str::to_owned)).collect()
    }

    async fn stage() -> Stage {
        let stage = Stage::new();
        stage.fake.serve(&OFFERED);
        stage.put(object("ConfigMap", "owner", &[]));
        stage.put(object("ConfigMap", "child", &[("ConfigMap", "owner")]));
        stage.put(object("Secret", "grandchild", &[("ConfigMap", "child")]));
        stage.put(object("Secret", "shared", &[("ConfigMap", "owner"), ("ConfigMap", "other")]));
        stage.put(object("ConfigMap", "other", &[]));
        stage.put(object("Secret", "lost", &[("ConfigMap", "never-there")]));
        super::super::start(&stage.context());
        stage.until("the lost one is gone", |fake| !names(fake).contains(&"lost".to_owned())).await;
        assert_eq!(names(&stage.fake), ["child", "other", "owner", "grandchild", "shared"]);
        stage
    }

    #[tokio::test]
    async fn deletes_in_the_background() {
        let stage = stage().await;
        stage.delete("/api/v1/namespaces/x/configmaps/owner").await;
        stage.until("all dependents are gone", |fake| names(fake) == ["other", "shared"]).await;
        stage
            .until("the shared one has one owner", |fake| {
                fake.objects("/api/v1/secrets")[0]["metadata"]["ownerReferences"].as_array().map(Vec::len) == Some(1)
            })
            .await;
        stage.end().await;
    }

    #[tokio::test]
    async fn deletes_dependents_before_their_owner() {
        let stage = stage().await;
        stage.delete_as("/api/v1/namespaces/x/configmaps/owner", "Foreground").await;
        stage
            .until("all are gone, the owner last", |fake| {
                let names = names(fake);
                let owner = names.contains(&"owner".to_owned());
                let child = names.contains(&"child".to_owned());
                let grandchild = names.contains(&"grandchild".to_owned());
                assert!((owner || !child) && (child || !grandchild), "{names:?}");
                names == ["other", "shared"]
            })
            .await;
        stage.end().await;
    }

    #[tokio::test]
    async fn lets_dependents_go() {
        let stage = stage().await;
        stage.delete_as("/api/v1/namespaces/x/configmaps/owner", "Orphan").await;
        stage.until("only the owner is gone", |fake| names(fake) == ["child", "other", "grandchild", "shared"]).await;
        assert_eq!(stage.fake.objects("/api/v1/configmaps")[0]["metadata"]["ownerReferences"], json!([]));
        stage.end().await;
    }
}
