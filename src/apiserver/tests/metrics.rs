//! What can be scraped, and by whom.

use serde_json::{Value, json};

use super::{Cluster, config_map};

fn value(text: &str, start: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(start))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_objects_are_counted() {
    let cluster = Cluster::start().await;
    cluster.create(super::CONFIG_MAPS, config_map("a")).await;
    cluster.get(super::CONFIG_MAPS).await;
    cluster.get(super::CONFIG_MAPS).await;
    let answer = cluster.ask_with("GET", "/metrics", Value::Null, &[]).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.value().as_str().expect("text").to_owned();
    let of = |verb: &str, scope: &str| {
        format!(
            "{{verb=\"{verb}\",dry_run=\"\",group=\"\",version=\"v1\",resource=\"configmaps\",subresource=\"\",\
             scope=\"{scope}\",component=\"apiserver\""
        )
    };
    assert_eq!(value(&text, &format!("apiserver_request_total{},code=\"200\"", of("LIST", "namespace"))), Some(2.0));
    let count = format!("apiserver_request_duration_seconds_count{}", of("LIST", "namespace"));
    assert_eq!(value(&text, &count), Some(2.0));
    assert!(value(&text, &format!("apiserver_request_total{},code=\"201\"", of("POST", "resource"))) >= Some(1.0));
    assert!(value(&text, "apiserver_storage_objects{resource=\"configmaps\"}") >= Some(1.0));
    assert_eq!(value(&text, "apiserver_resource_objects{group=\"apps\",resource=\"deployments\"}"), Some(0.0));
    // This one, and those that the server makes itself after its start.
    assert!(value(&text, "apiserver_current_inflight_requests{request_kind=\"readOnly\"}") >= Some(1.0));
    assert!(value(&text, "process_resident_memory_bytes") > Some(1e6));
    assert!(text.contains("git_version=\"v1.36"));
    // Every line is a comment or a name with a number.
    for line in text.lines() {
        let number = line.rsplit(' ').next().expect("a word");
        assert!(line.starts_with("# ") || number.parse::<f64>().is_ok(), "{line}");
    }
    let text = cluster.get("/metrics/slis").await;
    assert!(
        text.as_str().is_some_and(|t| t.contains("kubernetes_healthcheck{name=\"ping\",type=\"livez\"} 1")),
        "{text}"
    );
    let stranger = [("impersonate-user", "stranger")];
    assert_eq!(cluster.ask_with("GET", "/metrics", Value::Null, &stranger).await.status, 403);
    let scraper = [("impersonate-user", "scraper"), ("impersonate-group", "system:monitoring")];
    assert_eq!(cluster.ask_with("GET", "/metrics", Value::Null, &scraper).await.status, 200);
    assert_eq!(cluster.ask("POST", "/metrics", json!({})).await.0, 405);
    cluster.stop().await;
}
