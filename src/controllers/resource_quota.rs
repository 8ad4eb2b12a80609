//! Counts what the quotas of a namespace limit.
//!
//! The admission of new objects counts up; this controller sets the limits that it goes by (`status.hard`), and
//! counts anew whenever something has gone or ended. It counts what the API server holds at that moment.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceQuota;
use serde::Deserialize;
use serde_json::{Value, json};
use skiff_api::quantity::Quantity;
use skiff_api::quota::{Amounts, Scopes, add, amounts, concerns, resource_of, to_value, usage};
use skiff_api::{Object, ObjectKey};
use skiff_base::{Scope, chain};
use skiff_client::{Change, Client, Lister, Next, Queue, Reconciler, Result, Selector, Update};

use crate::discovery::{Served, discover};
use crate::{Context, drive};

const ACCOUNT: &str = "resourcequota-controller";
const WORKERS: usize = 5;
/// Less than before is believed when it is counted twice this long apart: an object that has been counted up may
/// not be committed yet.
const SECOND_LOOK: Duration = Duration::from_millis(100);
/// A limit was set or changed; what was admitted before it counted has arrived by then.
const SETTLED: Duration = Duration::from_secs(5);
/// How often it is asked for resources that a quota names and the server does not have (yet).
const UNKNOWN: Duration = Duration::from_secs(30);

pub fn start(context: &Context) {
    let quotas = context.informers.lister::<ResourceQuota>();
    let queue = Queue::new(Counter::NAME);
    let counter = Arc::new(Counter {
        client: context.client(ACCOUNT),
        quotas: quotas.clone(),
        queue: queue.clone(),
        scope: context.scope.clone(),
        observed: Mutex::default(),
        less: Mutex::default(),
    });
    let (adding, seeing) = (queue.clone(), counter.clone());
    quotas.subscribe(move |change| {
        let key = ObjectKey::of(&**change.object());
        match change {
            Change::Deleted(_) => drop(seeing.lock_less().remove(&key)),
            Change::Added(_) => adding.add(key),
            // What is used changes with every object; that is the admission's.
            Change::Modified { old, new } => {
                let hard = |quota: &ResourceQuota| quota.status.as_ref().and_then(|status| status.hard.clone());
                if old.spec != new.spec || hard(old) != hard(new) {
                    adding.add(key);
                }
            }
        }
    });
    drive(context, counter, queue, WORKERS, async move { quotas.synced().await });
}

type Name = (String, String);

struct Counter {
    client: Client,
    quotas: Lister<ResourceQuota>,
    queue: Queue<ObjectKey>,
    scope: Scope,
    /// By group and resource.
    observed: Mutex<HashMap<Name, Served>>,
    /// Counts that are less than what was used, with the revision of the quota they were made at.
    less: Mutex<HashMap<ObjectKey, (String, Amounts)>>,
}

#[derive(Deserialize)]
struct Items {
    #[serde(default)]
    items: Vec<Value>,
}

/// What to do with a count.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    /// Count again before it is believed.
    Again,
    Write,
}

impl Reconciler for Counter {
    const NAME: &'static str = "resourcequota-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        if self.quotas.get(key).is_none() {
            return Ok(Next::Done);
        }
        let Some(mut quota) = self.current(key).await? else { return Ok(Next::Done) };
        let hard = amounts(&quota["spec"]["hard"]);
        let names: BTreeSet<Name> = hard.keys().filter_map(|name| resource_of(name)).collect();
        let served = self.ensure_observed(&names).await?;
        let scopes = Scopes::of(&quota);
        let mut used: Amounts = hard.keys().map(|name| (name.clone(), Quantity::ZERO)).collect();
        for one in &served {
            let all: Items = self.client.call(Method::GET, &one.path(&key.namespace, ""), None).await?;
            count(&mut used, one, &scopes, &all.items, skiff_base::time::now());
        }
        let revision = quota["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let before = self.lock_less().remove(key).filter(|(at, _)| *at == revision).map(|(_, used)| used);
        match plan(&quota, &hard, &used, before.as_ref()) {
            Plan::Nothing => {}
            Plan::Again => {
                self.lock_less().insert(key.clone(), (revision, used));
                return Ok(Next::After(SECOND_LOOK));
            }
            Plan::Write => {
                let limits_changed = amounts(&quota["status"]["hard"]) != hard;
                // Items of a list need not say what they are.
                quota["apiVersion"] = "v1".into();
                quota["kind"] = "ResourceQuota".into();
                quota["status"] = json!({"hard": to_value(&hard), "used": to_value(&used)});
                let path = format!("/api/v1/namespaces/{}/resourcequotas/{}/status", key.namespace, key.name);
                let _: Value = self.client.call(Method::PUT, &path, Some(&quota)).await?;
                if limits_changed {
                    return Ok(Next::After(SETTLED));
                }
            }
        }
        Ok(if served.len() < names.len() { Next::After(UNKNOWN) } else { Next::Done })
    }
}

/// Adds what the objects of one resource use of what is limited.
fn count(used: &mut Amounts, served: &Served, scopes: &Scopes, objects: &[Value], now: Timestamp) {
    let (group, resource) = (&*served.gvr.group, &*served.gvr.resource);
    for object in objects.iter().filter(|object| scopes.match_(group, resource, object)) {
        let mut one = usage(group, resource, object, now);
        one.retain(|name, _| used.contains_key(name) && concerns(group, resource, name));
        add(used, &one);
    }
}

/// `before` is what was counted at the same revision of the quota, if it was less than what was used.
fn plan(quota: &Value, hard: &Amounts, used: &Amounts, before: Option<&Amounts>) -> Plan {
    let (old_hard, old_used) = (amounts(&quota["status"]["hard"]), amounts(&quota["status"]["used"]));
    if old_hard == *hard && old_used == *used {
        return Plan::Nothing;
    }
    let less = used.iter().any(|(name, amount)| old_used.get(name).is_some_and(|old| amount < old));
    if less && before != Some(used) { Plan::Again } else { Plan::Write }
}

impl Counter {
    fn lock_less(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, (String, Amounts)>> {
        self.less.lock().expect("nothing panics while it holds the counts")
    }

    /// The quota as it is now; upstream's role lets the controller list, not get.
    async fn current(&self, key: &ObjectKey) -> Result<Option<Value>> {
        let path =
            format!("/api/v1/namespaces/{}/resourcequotas?fieldSelector=metadata.name%3D{}", key.namespace, key.name);
        let all: Items = self.client.call(Method::GET, &path, None).await?;
        let mut named = all.items.into_iter().filter(|quota| quota["metadata"]["name"] == *key.name);
        Ok(named.next())
    }

    /// Those of the resources that the server has; each is observed from now on.
    async fn ensure_observed(&self, names: &BTreeSet<Name>) -> Result<Vec<Served>> {
        let known =
            |name: &Name| self.observed.lock().expect("nothing panics while it holds the resources").get(name).cloned();
        if names.iter().any(|name| known(name).is_none()) {
            let discovered = discover(&self.client).await?;
            for served in discovered.resources {
                let name = (served.gvr.group.to_string(), served.gvr.resource.to_string());
                if !names.contains(&name) || !served.namespaced || !served.can(&["list", "watch"]) {
                    continue;
                }
                let mut observed = self.observed.lock().expect("nothing panics while it holds the resources");
                if observed.insert(name, served.clone()).is_none() {
                    self.scope.spawn(observe(
                        self.client.clone(),
                        self.quotas.clone(),
                        self.queue.clone(),
                        served,
                        self.scope.clone(),
                    ));
                }
            }
        }
        Ok(names.iter().filter_map(known).collect())
    }
}

/// Has the quotas of a namespace counted anew when an object of it has gone or ended.
async fn observe(client: Client, quotas: Lister<ResourceQuota>, queue: Queue<ObjectKey>, served: Served, scope: Scope) {
    tracing::debug!(resource = %served.gvr, "counted by quotas");
    let mut feed = client.transport().observe(&served.gvr, &Selector::default());
    loop {
        let update = tokio::select! {
            () = scope.token().cancelled() => return,
            update = feed.next() => update,
        };
        let touched = |namespace: &str| {
            quotas.in_namespace(namespace).iter().for_each(|quota| queue.add(ObjectKey::of(&**quota)));
        };
        match update {
            None => return,
            Some(Update::Delete(object)) => touched(&object.meta.namespace),
            Some(Update::Put(object)) if frees(&served, &object) => touched(&object.meta.namespace),
            Some(Update::Put(_)) => {}
            // What has gone meanwhile nobody tells.
            Some(Update::Replace(_)) => quotas.list().iter().for_each(|quota| queue.add(ObjectKey::of(&**quota))),
        }
    }
}

/// Whether a change of an object gives something back without its end.
fn frees(served: &Served, object: &Object) -> bool {
    if !served.gvr.group.is_empty() || &*served.gvr.resource != "pods" {
        return false;
    }
    match object.typed::<k8s_openapi::api::core::v1::Pod>() {
        Ok(pod) => {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            matches!(phase, Some("Succeeded" | "Failed"))
        }
        Err(error) => {
            tracing::error!(object = %object.key(), error = %chain(&error), "not counted anew");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Stage;
    use skiff_client::fake::Served as Serving;

    #[test]
    fn less_is_believed_when_seen_twice() {
        let list = |pods: &str| amounts(&json!({"pods": pods}));
        let quota = |hard: &str, used: &str| json!({"status": {"hard": {"pods": hard}, "used": {"pods": used}}});
        let check = |quota: Value, used: &str, before: Option<&str>, expect: Plan| {
            assert_eq!(plan(&quota, &list("5"), &list(used), before.map(list).as_ref()), expect, "{quota}");
        };
        check(json!({}), "0", None, Plan::Write);
        check(quota("5", "2"), "2", None, Plan::Nothing);
        check(quota("4", "2"), "2", None, Plan::Write);
        check(quota("5", "2"), "3", None, Plan::Write);
        check(quota("5", "2"), "1", None, Plan::Again);
        check(quota("5", "2"), "1", Some("0"), Plan::Again);
        check(quota("5", "2"), "1", Some("1"), Plan::Write);
    }

    #[tokio::test]
    async fn counts_at_first_and_when_something_goes() {
        let stage = Stage::new();
        let served = |group, resource, kind| Serving { group, version: "v1", resource, kind, namespaced: true };
        stage.fake.serve(&[
            served("", "pods", "Pod"),
            served("", "configmaps", "ConfigMap"),
            served("apps", "replicasets", "ReplicaSet"),
        ]);
        let map = |name: &str, namespace: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}});
        [("a", "x"), ("b", "x"), ("c", "y")].into_iter().for_each(|(name, namespace)| stage.put(map(name, namespace)));
        stage.put(json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "x"},
            "spec": {"hard": {"configmaps": "5", "count/replicasets.apps": "1", "requests.cpu": "2"}}}));
        let pod = |phase: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "x"}, "status": {"phase": phase},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "300m"}}}]}})
        };
        stage.put(pod("Running"));
        super::start(&stage.context());
        let used = |fake: &skiff_client::fake::FakeTransport, expect: Value| {
            fake.objects("/api/v1/resourcequotas")[0]["status"]["used"] == expect
        };
        let first = json!({"configmaps": "2", "count/replicasets.apps": "0", "requests.cpu": "300m"});
        stage.until("the first count", |fake| used(fake, first.clone())).await;
        stage.delete("/api/v1/namespaces/x/configmaps/a").await;
        let second = json!({"configmaps": "1", "count/replicasets.apps": "0", "requests.cpu": "300m"});
        stage.until("the second count", |fake| used(fake, second.clone())).await;
        stage.put(pod("Succeeded"));
        let third = json!({"configmaps": "1", "count/replicasets.apps": "0", "requests.cpu": "0"});
        stage.until("the third count", |fake| used(fake, third.clone())).await;
        stage.end().await;
    }
}
