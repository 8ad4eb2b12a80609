//! What is measured, asked of the metrics APIs: `metrics.k8s.io` is always there, the others where somebody serves them.

use http::Method;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier};
use serde_json::Value;
use skiff_api::quantity::Quantity;
use skiff_api::selector::LabelSelector;
use skiff_base::{chain, time};
use skiff_client::{Client, percent_encoded};

use super::calculate::{Sample, Samples};
use crate::discovery::Discovered;

const CUSTOM: &str = "custom.metrics.k8s.io";

fn milli(text: &Value) -> Option<i64> {
    text.as_str()?.parse::<Quantity>().ok().map(|quantity| quantity.milli_value())
}

fn moment(item: &Value) -> Timestamp {
    item["timestamp"].as_str().and_then(|text| text.parse().ok()).unwrap_or_else(time::now)
}

async fn get(client: &Client, path: &str, api: &str) -> Result<Vec<Value>, String> {
    let list: Value = client
        .call(Method::GET, path, None)
        .await
        .map_err(|e| format!("unable to fetch metrics from {api} metrics API: {}", chain(&e)))?;
    match list["items"].as_array() {
        Some(items) if !items.is_empty() => Ok(items.clone()),
        _ => Err(format!("no metrics returned from {api} metrics API")),
    }
}

/// What the selected pods use of a resource, in one container or in all.
pub async fn resource(
    client: &Client,
    namespace: &str,
    selector: &str,
    name: &str,
    container: Option<&str>,
) -> Result<Samples, String> {
    let selector = percent_encoded(selector);
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={selector}");
    let items = get(client, &path, "resource").await;
    let items = items.map_err(|why| format!("unable to get metrics for resource {name}: {why}"))?;
    of_resource(&items, namespace, name, container)
}

fn of_resource(items: &[Value], namespace: &str, name: &str, container: Option<&str>) -> Result<Samples, String> {
    let mut samples = Samples::new();
    for item in items {
        let pod = item["metadata"]["name"].as_str().unwrap_or_default();
        let all = item["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let own: Vec<&Value> = all.iter().filter(|c| container.is_none_or(|wanted| c["name"] == wanted)).collect();
        if let Some(wanted) = container.filter(|_| own.is_empty()) {
            return Err(format!(
                "failed to get container metrics: container {wanted} not present in metrics for pod {namespace}/{pod}"
            ));
        }
        // A pod that is known by halves counts as not known.
        let used: Option<i64> = own.iter().map(|c| milli(&c["usage"][name])).sum();
        let window = item["window"].as_str().and_then(|w| skiff_api::duration::parse_ns(w).ok());
        if let Some(milli) = used.filter(|_| !own.is_empty()) {
            let window = SignedDuration::from_nanos(window.unwrap_or(0));
            samples.insert(pod.to_owned(), Sample { milli, at: moment(item), window });
        }
    }
    Ok(samples)
}

/// The version that custom metrics are served in.
fn custom(discovered: &Discovered) -> Result<String, String> {
    let own = discovered.resources.iter().find(|r| *r.gvr.group == *CUSTOM).map(|r| r.gvr.version.to_string());
    let failed = discovered.failed.iter().find_map(|version| version.strip_prefix("custom.metrics.k8s.io/"));
    own.or_else(|| failed.map(str::to_owned))
        .ok_or_else(|| format!("no custom metrics API ({CUSTOM}) registered"))
        .map_err(|why| format!("unable to fetch metrics from custom metrics API: {why}"))
}

fn metric_selector(metric: &MetricIdentifier) -> Result<String, String> {
    let selector = metric.selector.as_ref().map(|s| LabelSelector::from_typed(Some(s)));
    match selector {
        None => Ok(String::new()),
        Some(Ok(selector)) => Ok(selector.to_string()),
        Some(Err(error)) => Err(error.to_string()),
    }
}

/// A metric of each of the selected pods.
pub async fn pods(
    client: &Client,
    discovered: &Discovered,
    namespace: &str,
    selector: &str,
    metric: &MetricIdentifier,
) -> Result<Samples, String> {
    let about = |why: String| format!("unable to get metric {}: {why}", metric.name);
    let version = custom(discovered).map_err(about)?;
    let narrowed = metric_selector(metric).map_err(about)?;
    let path = format!(
        "/apis/{CUSTOM}/{version}/namespaces/{namespace}/pods/%2A/{}?labelSelector={}&metricLabelSelector={}",
        percent_encoded(&metric.name),
        percent_encoded(selector),
        percent_encoded(&narrowed)
    );
    let items = get(client, &path, "custom").await.map_err(about)?;
    let of = |item: &Value| {
        let pod = item["describedObject"]["name"].as_str()?.to_owned();
        let window = SignedDuration::from_secs(item["windowSeconds"].as_i64().unwrap_or(60));
        Some((pod, Sample { milli: milli(&item["value"])?, at: moment(item), window }))
    };
    Ok(items.iter().filter_map(of).collect())
}

/// A metric of one object, in thousandths.
pub async fn object(
    client: &Client,
    discovered: &Discovered,
    namespace: &str,
    described: &CrossVersionObjectReference,
    metric: &MetricIdentifier,
) -> Result<i64, String> {
    let about = |why: String| {
        format!("unable to get metric {}: {} on {namespace} {}/{why}", metric.name, described.kind, described.name)
    };
    let version = custom(discovered).map_err(about)?;
    let narrowed = percent_encoded(&metric_selector(metric).map_err(about)?);
    let name = percent_encoded(&metric.name);
    let at = match described.kind.as_str() {
        "Namespace" => format!("namespaces/{}/metrics/{name}", percent_encoded(&described.name)),
        kind => {
            let group = described.api_version.as_deref().and_then(|v| Some(v.split_once('/')?.0)).unwrap_or_default();
            let served = discovered.resources.iter().find(|r| *r.gvk.kind == *kind && *r.gvk.group == *group);
            let served = served.ok_or_else(|| about(format!("no matches for kind {kind:?} in group {group:?}")))?;
            let resource = match group {
                "" => served.gvr.resource.to_string(),
                group => format!("{}.{group}", served.gvr.resource),
            };
            let whose = if served.namespaced { format!("namespaces/{namespace}/") } else { String::new() };
            format!("{whose}{resource}/{}/{name}", percent_encoded(&described.name))
        }
    };
    let path = format!("/apis/{CUSTOM}/{version}/{at}?metricLabelSelector={narrowed}");
    let items = get(client, &path, "custom").await.map_err(about)?;
    milli(&items[0]["value"]).ok_or_else(|| about("the value is no quantity".to_owned()))
}

/// A metric from elsewhere, in thousandths: the sum of its series.
pub async fn external(client: &Client, namespace: &str, metric: &MetricIdentifier) -> Result<i64, String> {
    let narrowed = metric_selector(metric)?;
    let about = |why: String| format!("unable to get external metric {namespace}/{}/{narrowed}: {why}", metric.name);
    let path = format!(
        "/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{}?labelSelector={}",
        percent_encoded(&metric.name),
        percent_encoded(&narrowed)
    );
    let items = get(client, &path, "external").await.map_err(about)?;
    Ok(items.iter().filter_map(|item| milli(&item["value"])).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_that_are_known_whole() {
        let pod = |name: &str, containers: Value| {
            json!({"metadata": {"name": name}, "timestamp": "2024-01-01T00:00:00Z",
            "window": "1.5s", "containers": containers})
        };
        let items = [
            pod("a", json!([{"name": "c", "usage": {"cpu": "250000000n"}}, {"name": "d", "usage": {"cpu": "1"}}])),
            pod("half", json!([{"name": "c", "usage": {"cpu": "1"}}, {"name": "d", "usage": {"memory": "1Ki"}}])),
        ];
        let found = of_resource(&items, "n", "cpu", None).expect("known");
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!((found["a"].milli, found["a"].window), (1250, SignedDuration::from_millis(1500)));
        let found = of_resource(&items, "n", "cpu", Some("c")).expect("known");
        assert_eq!((found["a"].milli, found["half"].milli), (250, 1000));
        let error = of_resource(&items, "n", "cpu", Some("e")).expect_err("no such container");
        assert!(error.ends_with("container e not present in metrics for pod n/a"), "{error}");
    }
}
