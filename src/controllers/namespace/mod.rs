//! Deletes what is in a namespace that is being deleted, then the namespace.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use serde::Deserialize;
use serde_json::{Value, json};
use skiff_api::ObjectKey;
use skiff_base::{chain, time};
use skiff_client::{Change, Client, Lister, Next, Queue, Reconciler, Result};

use self::plan::{Leftover, Outcome, plan_conditions};
use crate::discovery::{Discovered, Served, discover};
use crate::{Context, drive};

/// Namespaces that are emptied at once.
const WORKERS: usize = 10;
/// What still has finalizers is looked at again after this time, if nothing is heard of it.
const FINALIZERS_WAIT: Duration = Duration::from_secs(5);
const FINALIZER: &str = "kubernetes";

pub fn start(context: &Context) {
    let namespaces = context.informers.lister::<Namespace>();
    let pods = context.informers.lister::<Pod>();
    let queue = Queue::new(Namespaces::NAME);
    let adding = queue.clone();
    namespaces.subscribe(move |change| {
        let namespace = change.object();
        if namespace.metadata.deletion_timestamp.is_some() && !matches!(change, Change::Deleted(_)) {
            adding.add(ObjectKey::of(&**namespace));
        }
    });
    // Pods take the longest; the last one to go is what is waited for.
    let (adding, all) = (queue.clone(), namespaces.clone());
    pods.subscribe(move |change| {
        let Change::Deleted(pod) = change else { return };
        let key = ObjectKey::cluster(pod.metadata.namespace.as_deref().unwrap_or_default());
        if all.get(&key).is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
            adding.add(key);
        }
    });
    let controller =
        Arc::new(Namespaces { client: context.client("namespace-controller"), namespaces: namespaces.clone() });
    drive(context, controller, queue, WORKERS, async move {
        namespaces.synced().await;
    });
}

struct Namespaces {
    client: Client,
    namespaces: Lister<Namespace>,
}

impl Reconciler for Namespaces {
    const NAME: &'static str = "namespace-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(cached) = self.namespaces.get(key) else { return Ok(Next::Done) };
        let api = self.client.all::<Namespace>();
        // The cache may lag, and what follows can't be undone.
        let mut namespace = match api.get(&key.name).await {
            Ok(namespace) => namespace,
            Err(error) if error.is_not_found() => return Ok(Next::Done),
            Err(error) => return Err(error),
        };
        if namespace.metadata.deletion_timestamp.is_none() || namespace.metadata.uid != cached.metadata.uid {
            return Ok(Next::Done);
        }
        let status = namespace.status.get_or_insert_default();
        if status.phase.as_deref() != Some("Terminating") {
            status.phase = Some("Terminating".into());
            namespace = api.update_status(&namespace).await?;
        }
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(Next::Done);
        }
        let outcome = self.empty(&key.name).await?;
        let conditions = plan_conditions(&namespace, &outcome, time::now());
        let told = namespace.status.as_ref().and_then(|status| status.conditions.as_ref());
        if !outcome.is_done() {
            if told != Some(&conditions) {
                namespace.status.get_or_insert_default().conditions = Some(conditions);
                api.update_status(&namespace).await?;
            }
            tracing::debug!(namespace = %key, ?outcome, "namespace not empty yet");
            return Ok(Next::After(outcome.wait().unwrap_or(FINALIZERS_WAIT)));
        }
        let rest: Vec<&String> = finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        let body = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": &*key.name, "uid": namespace.metadata.uid}, "spec": {"finalizers": rest}});
        let path = format!("/api/v1/namespaces/{}/finalize", key.name);
        match self.client.call::<Value>(Method::PUT, &path, Some(&body)).await {
            Ok(_) => Ok(Next::Done),
            Err(error) if error.is_not_found() => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }
}

/// The part of a list that tells what is left.
#[derive(Deserialize)]
struct Left {
    #[serde(default)]
    items: Vec<LeftObject>,
}

#[derive(Deserialize)]
struct LeftObject {
    metadata: LeftMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LeftMeta {
    #[serde(default)]
    finalizers: Vec<String>,
    #[serde(default)]
    deletion_grace_period_seconds: Option<i64>,
}

impl Namespaces {
    /// Deletes everything, pods first: what they mount and ask must outlive them.
    async fn empty(&self, namespace: &str) -> Result<Outcome> {
        let Discovered { resources, failed } = discover(&self.client).await?;
        let mut outcome = Outcome { undiscovered: failed, ..Outcome::default() };
        let deletable =
            resources.into_iter().filter(|resource| resource.namespaced && resource.can(&["delete", "list"]));
        let (pods, others): (Vec<Served>, Vec<Served>) =
            deletable.partition(|resource| resource.gvr.group.is_empty() && &*resource.gvr.resource == "pods");
        for resource in &pods {
            self.empty_of(namespace, resource, &mut outcome).await;
        }
        if outcome.left.is_empty() && outcome.errors.is_empty() {
            for resource in &others {
                self.empty_of(namespace, resource, &mut outcome).await;
            }
        }
        Ok(outcome)
    }

    async fn empty_of(&self, namespace: &str, resource: &Served, outcome: &mut Outcome) {
        if let Err(error) = self.try_empty_of(namespace, resource, outcome).await {
            // Gone with its kind.
            if !error.is_not_found() {
                outcome.errors.push(format!("{}: {}", resource.gvr, chain(&error)));
            }
        }
    }

    async fn try_empty_of(&self, namespace: &str, resource: &Served, outcome: &mut Outcome) -> Result<()> {
        let path = resource.path(namespace, "");
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
        if resource.can(&["deletecollection"]) {
            self.client.call::<Value>(Method::DELETE, &path, Some(&options)).await?;
        } else {
            let all: Named = self.client.call(Method::GET, &path, None).await?;
            for object in all.items {
                let path = resource.path(namespace, &object.metadata.name);
                match self.client.call::<Value>(Method::DELETE, &path, Some(&options)).await {
                    Ok(_) => {}
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let left: Left = self.client.call(Method::GET, &path, None).await?;
        if !left.items.is_empty() {
            let grace = left.items.iter().filter_map(|object| object.metadata.deletion_grace_period_seconds).max();
            outcome.left.push(Leftover {
                resource: format!("{}.{}", resource.gvr.resource, resource.gvr.group),
                finalizers: left.items.iter().flat_map(|object| object.metadata.finalizers.clone()).collect(),
                count: left.items.len(),
                grace_s: grace.unwrap_or(0),
            });
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    items: Vec<NamedObject>,
}

#[derive(Deserialize)]
struct NamedObject {
    metadata: NamedMeta,
}

#[derive(Deserialize)]
struct NamedMeta {
    name: String,
}

#[cfg(test)]
mod tests {
    use crate::testing::Stage;
    use serde_json::json;
    use skiff_client::fake::Served;

    const SERVED: [Served; 3] = [
        Served { group: "", version: "v1", resource: "pods", kind: "Pod", namespaced: true },
        Served { group: "", version: "v1", resource: "configmaps", kind: "ConfigMap", namespaced: true },
        Served { group: "", version: "v1", resource: "namespaces", kind: "Namespace", namespaced: false },
    ];

    #[tokio::test]
    async fn empties_and_removes_a_namespace_pods_first() {
        let stage = Stage::new();
        stage.fake.serve(&SERVED);
        for namespace in ["gone", "kept"] {
            stage.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace},
                "spec": {"finalizers": ["kubernetes"]}}));
            stage.put(
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": namespace}}),
            );
        }
        stage.put(json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": []},
            "metadata": {"name": "p", "namespace": "gone", "finalizers": ["x.io/slow"]}}));
        super::start(&stage.context());
        stage.delete("/api/v1/namespaces/gone").await;
        stage
            .until("it tells what is left", |fake| {
                let namespaces = fake.objects("/api/v1/namespaces");
                let conditions = namespaces[0]["status"]["conditions"].as_array().cloned().unwrap_or_default();
                conditions.iter().any(|c| {
                    c["type"] == "NamespaceFinalizersRemaining"
                        && c["status"] == "True"
                        && c["message"] == "Some content in the namespace has finalizers remaining: x.io/slow in 1 resource instances"
                })
            })
            .await;
        assert_eq!(stage.fake.objects("/api/v1/configmaps").len(), 2, "not before the pods");
        let mut pod = stage.fake.objects("/api/v1/pods")[0].clone();
        pod["metadata"]["finalizers"] = json!([]);
        stage.update("/api/v1/namespaces/gone/pods/p", &pod).await;
        stage.until("it is gone", |fake| fake.objects("/api/v1/namespaces").len() == 1).await;
        let left = stage.fake.objects("/api/v1/configmaps");
        assert_eq!((left.len(), &left[0]["metadata"]["namespace"]), (1, &json!("kept")));
        stage.end().await;
    }
}
