//! `metrics.k8s.io`: what nodes and pods use, as their kubelets say it when asked. Nothing is stored, and nothing asks
//! on its own. Another server for the group (an APIService, as metrics-server brings one) goes before this.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use http::{HeaderName, Method, Request, header};
use http_body_util::{BodyExt, Either, Full, Limited};
use serde_json::{Value, json};
use skiff_api::{ApiError, Object};

use crate::call::{Call, Target};
use crate::error::{method_not_allowed, path_not_found};
use crate::negotiate::negotiate;
use crate::path::list::filter;
use crate::reply::Reply;
use crate::server::Server;

pub(crate) const GROUP: &str = "metrics.k8s.io";
pub(crate) const VERSION: &str = "v1beta1";
/// The window of rates, as our kubelets tell it beside their summary.
const WINDOW: HeaderName = HeaderName::from_static("x-window-ms");
/// Kubelets that were not asked before measure for a second.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const SUMMARY_LIMIT: usize = 16 << 20;

/// One line of discovery.
pub(crate) struct Measured {
    pub resource: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
}

pub(crate) const ALL: [Measured; 2] = [
    Measured { resource: "nodes", kind: "NodeMetrics", namespaced: false },
    Measured { resource: "pods", kind: "PodMetrics", namespaced: true },
];
pub(crate) fn of(group: &str, version: &str) -> impl Iterator<Item = &'static Measured> {
    let own = group == GROUP && version == VERSION;
    ALL.iter().filter(move |_| own)
}

pub(crate) const VERBS: [&str; 2] = ["get", "list"];

/// A kubelet's summary, and what its rates are measured over.
struct Summary {
    value: Value,
    window: String,
}

impl Server {
    /// `None` where the target is something else.
    pub(crate) async fn measured(&self, call: &Call, target: &Target, verb: &str) -> Option<Result<Reply, ApiError>> {
        let named = |m: &&Measured| m.resource == target.resource && target.subresource.is_empty();
        let measured = of(&target.group, &target.version).find(named)?;
        Some(self.metrics(call, target, verb, measured).await)
    }

    async fn metrics(&self, call: &Call, target: &Target, verb: &str, of: &Measured) -> Result<Reply, ApiError> {
        if !VERBS.contains(&verb) {
            return Err(method_not_allowed());
        }
        let single = !target.name.is_empty();
        let across_namespaces = of.namespaced && !single;
        if of.namespaced == target.namespace.is_empty() && !across_namespaces {
            return Err(path_not_found());
        }
        negotiate(call.header(header::ACCEPT), true)?;
        self.cache.fresh().await?;
        let registry = self.registry.load();
        let row = registry.find("", "v1", of.resource).cloned().ok_or_else(path_not_found)?;
        drop(registry);
        let filter = filter(&call.query, target, &row)?;
        let found = row.cache.snapshot(&filter, None, None);
        let objects: Vec<Arc<Object>> = found.entries.iter().map(|entry| entry.object.clone()).collect();
        let items = if of.namespaced { self.pods_use(&objects).await } else { self.nodes_use(&objects).await };
        if !single {
            let list = json!({"kind": format!("{}List", of.kind), "apiVersion": format!("{GROUP}/{VERSION}"),
                "metadata": {}, "items": items});
            return Ok(Reply::value(200, &list));
        }
        let whole = match of.namespaced {
            true => format!("{}/{}", target.namespace, target.name),
            false => target.name.clone(),
        };
        let mut item = items.into_iter().next().ok_or_else(|| ApiError::not_found(GROUP, of.resource, &whole))?;
        item["kind"] = of.kind.into();
        item["apiVersion"] = format!("{GROUP}/{VERSION}").into();
        Ok(Reply::value(200, &item))
    }

    async fn nodes_use(&self, nodes: &[Arc<Object>]) -> Vec<Value> {
        let asked = nodes.iter().map(|node| async move { (node, self.summary(&node.meta.name).await) });
        let found = join_all(asked).await.into_iter();
        found.filter_map(|(node, summary)| node_metrics(node, &summary?)).collect()
    }

    async fn pods_use(&self, pods: &[Arc<Object>]) -> Vec<Value> {
        let mut on_nodes: Vec<(String, &Arc<Object>)> = Vec::new();
        for pod in pods {
            let value = pod.value();
            let node = value["spec"]["nodeName"].as_str().unwrap_or_default();
            if !node.is_empty() && value["status"]["phase"] == "Running" {
                on_nodes.push((node.to_owned(), pod));
            }
        }
        let names: BTreeSet<&String> = on_nodes.iter().map(|(node, _)| node).collect();
        let asked = names.into_iter().map(|node| async move { (node.clone(), self.summary(node).await) });
        let summaries: Vec<(String, Option<Summary>)> = join_all(asked).await;
        let of = |node: &String| summaries.iter().find(|(name, _)| name == node)?.1.as_ref();
        on_nodes.iter().filter_map(|(node, pod)| pod_metrics(pod, of(node)?)).collect()
    }

    /// Of a node that does not answer there is none.
    async fn summary(&self, node: &str) -> Option<Summary> {
        match tokio::time::timeout(ANSWER_LIMIT, self.ask_for_summary(node)).await {
            Ok(Ok(summary)) => Some(summary),
            Ok(Err(error)) => {
                tracing::debug!(node, error, "no usage of a node");
                None
            }
            Err(_) => {
                tracing::debug!(node, "a node tells its usage too slowly");
                None
            }
        }
    }

    async fn ask_for_summary(&self, node: &str) -> Result<Summary, String> {
        let kubelet = self.kubelet(node).map_err(|e| e.message)?;
        let request = Request::builder()
            .method(Method::GET)
            .uri("/stats/summary?only_cpu_and_memory=true")
            .header(header::HOST, kubelet.address())
            .body(Either::Right(Full::default()))
            .map_err(|e| e.to_string())?;
        let sent = self.send_upstream(&kubelet, request).await;
        // The connection lasts as long as its sender.
        let (response, _sender) = sent.map_err(|e| skiff_base::chain(&e).to_string())?;
        if !response.status().is_success() {
            return Err(format!("the kubelet answered {}", response.status()));
        }
        let window = response.headers().get(WINDOW).and_then(|ms| ms.to_str().ok()?.parse::<u64>().ok());
        let window = window.map_or_else(|| "0s".to_owned(), |ms| format!("{}s", ms as f64 / 1e3));
        let body = Limited::new(response.into_body(), SUMMARY_LIMIT).collect().await.map_err(|e| e.to_string())?;
        let value = serde_json::from_slice(&body.to_bytes()).map_err(|e| e.to_string())?;
        Ok(Summary { value, window })
    }
}

/// As metrics-server writes it: cores in billionths, bytes in units of 1024. Nothing where one is unknown.
fn usage(of: &Value) -> Option<Value> {
    let cpu = of["cpu"]["usageNanoCores"].as_u64()?;
    let memory = of["memory"]["workingSetBytes"].as_u64()?;
    Some(json!({"cpu": format!("{cpu}n"), "memory": format!("{}Ki", memory / 1024)}))
}

fn metrics(object: &Object, of: &Value, summary: &Summary, mut own: Value) -> Value {
    let mut metadata = json!({"name": &*object.meta.name, "creationTimestamp": skiff_base::time::now_rfc3339()});
    if !object.meta.namespace.is_empty() {
        metadata["namespace"] = json!(&*object.meta.namespace);
    }
    let labels = &object.value()["metadata"]["labels"];
    if labels.is_object() {
        metadata["labels"] = labels.clone();
    }
    own["metadata"] = metadata;
    own["timestamp"] = of["cpu"]["time"].clone();
    own["window"] = summary.window.as_str().into();
    own
}

fn node_metrics(node: &Object, summary: &Summary) -> Option<Value> {
    let of = &summary.value["node"];
    Some(metrics(node, of, summary, json!({"usage": usage(of)?})))
}

fn pod_metrics(pod: &Object, summary: &Summary) -> Option<Value> {
    let pods = summary.value["pods"].as_array()?;
    // By name: a static pod's mirror has a uid of its own.
    let own = |p: &&Value| p["podRef"]["name"] == *pod.meta.name && p["podRef"]["namespace"] == *pod.meta.namespace;
    let of = pods.iter().find(own)?;
    // Of a pod that is only half known nothing is told: its sum would be wrong.
    let containers = of["containers"].as_array().filter(|all| !all.is_empty())?;
    let containers = containers.iter().map(|c| Some(json!({"name": c["name"], "usage": usage(c)?})));
    Some(metrics(pod, of, summary, json!({"containers": containers.collect::<Option<Vec<_>>>()?})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_a_summary() {
        let used = |cpu: Value| json!({"name": "c", "cpu": {"time": "t", "usageNanoCores": cpu}, "memory": {"workingSetBytes": 2048}});
        let pod = |uid: &str, containers: Vec<Value>| json!({"podRef": {"name": uid, "namespace": "n"}, "cpu": {"time": "t"}, "containers": containers});
        let value = json!({"node": used(json!(5)), "pods": [
            pod("a", vec![used(json!(7))]), pod("half", vec![used(json!(7)), used(Value::Null)]), pod("none", vec![])]});
        let summary = Summary { value, window: "1.5s".into() };
        let object = |uid: &str| {
            let value = json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": uid, "namespace": "n", "uid": "u", "resourceVersion": "1", "labels": {"a": "b"}}});
            Object::from_wire(value).expect("an object")
        };
        let of_pod = pod_metrics(&object("a"), &summary).expect("known");
        assert_eq!(of_pod["containers"], json!([{"name": "c", "usage": {"cpu": "7n", "memory": "2Ki"}}]));
        assert_eq!((&of_pod["window"], &of_pod["timestamp"]), (&json!("1.5s"), &json!("t")));
        assert_eq!(of_pod["metadata"]["labels"], json!({"a": "b"}));
        for unknown in ["half", "none", "other"] {
            assert_eq!(pod_metrics(&object(unknown), &summary), None, "{unknown}");
        }
        let of_node = node_metrics(&object("a"), &summary).expect("known");
        assert_eq!(of_node["usage"], json!({"cpu": "5n", "memory": "2Ki"}));
    }
}
