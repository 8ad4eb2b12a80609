//! Priority and fairness on a real server: its objects, what requests are told of them, and who is refused.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use super::Cluster;

const BASE: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, Value>) -> T {
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        match look().await {
            Ok(value) => return value,
            Err(last) => assert!(Instant::now() < limit, "{what}; last seen: {last}"),
        }
        tokio::task::yield_now().await;
    }
}

fn schema(name: &str, level: &str, user: &str) -> Value {
    json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name},
        "spec": {"matchingPrecedence": 50, "priorityLevelConfiguration": {"name": level},
            "distinguisherMethod": {"type": "ByUser"}, "rules": [{"subjects": [{"kind": "User", "user": {"name": user}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}})
}

async fn dangling(cluster: &Cluster, name: &str, status: &str) -> Value {
    until("the schema is told of its level", async || {
        let schema = cluster.get(&format!("{BASE}/flowschemas/{name}")).await;
        let condition = schema["status"]["conditions"][0].clone();
        if condition["type"] == "Dangling" && condition["status"] == status { Ok(condition) } else { Err(schema) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_objects_are_there_and_told_to_requests() {
    let cluster = Cluster::start().await;
    let count = |list: &Value| list["items"].as_array().map_or(0, Vec::len);
    let levels = until("the levels", async || {
        let levels = cluster.get(&format!("{BASE}/prioritylevelconfigurations")).await;
        let schemas = cluster.get(&format!("{BASE}/flowschemas")).await;
        if (count(&levels), count(&schemas)) == (8, 11) { Ok(levels) } else { Err(schemas) }
    })
    .await;
    let found = dangling(&cluster, "exempt", "False").await;
    assert_eq!(found["reason"], "Found");
    let uid = levels["items"].as_array().into_iter().flatten().find(|l| l["metadata"]["name"] == "exempt");
    let uid = uid.expect("the level is there")["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let answer = until("the header", async || {
        let answer = cluster.ask_with("GET", "/api/v1/pods", Value::Null, &[]).await;
        let level = answer.header("x-kubernetes-pf-prioritylevel-uid");
        if level == uid { Ok(answer) } else { Err(json!(level)) }
    })
    .await;
    let schema = cluster.get(&format!("{BASE}/flowschemas/exempt")).await;
    assert_eq!(schema["metadata"]["uid"], answer.header("x-kubernetes-pf-flowschema-uid"));
    let default = cluster.get(&format!("{BASE}/prioritylevelconfigurations/global-default")).await;
    // Levels come to be known one after the other.
    until("what is refused is told, too", async || {
        let refused = cluster.ask_with("GET", "/api/v1/nodes/none", Value::Null, &[("impersonate-user", "u")]).await;
        let level = json!(refused.header("x-kubernetes-pf-prioritylevel-uid"));
        if (refused.status, &level) == (403, &default["metadata"]["uid"]) { Ok(()) } else { Err(level) }
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemas_live_with_their_conditions() {
    let cluster = Cluster::start().await;
    let list = format!("{BASE}/flowschemas");
    for name in ["a", "b"] {
        let mut schema = schema(name, "catch-all", "nobody");
        schema["metadata"]["labels"] = json!({"mine": "yes"});
        cluster.create(&list, schema).await;
    }
    until("the level is there", async || {
        let (status, level) =
            cluster.ask("GET", &format!("{BASE}/prioritylevelconfigurations/catch-all"), Value::Null).await;
        if status == 200 { Ok(()) } else { Err(level) }
    })
    .await;
    dangling(&cluster, "a", "False").await;
    let one = format!("{list}/a");
    let (status, patched) = cluster.patch(&one, "merge", json!({"spec": {"matchingPrecedence": 9000}})).await;
    assert_eq!((status, &patched["metadata"]["generation"]), (200, &json!(2)));
    until("an update of what is there", async || {
        let mut object = cluster.get(&one).await;
        object["metadata"]["annotations"] = json!({"updated": "yes"});
        let (status, answer) = cluster.ask("PUT", &one, object).await;
        if status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    // What others say of it stays beside what the server says.
    let other = json!({"type": "Other", "status": "True", "reason": "R", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let (status, _) =
        cluster.patch(&format!("{one}/status"), "merge", json!({"status": {"conditions": [other]}})).await;
    assert_eq!(status, 200);
    let kept = until("both conditions", async || {
        let object = cluster.get(&one).await;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let has = |kind: &str| conditions.iter().any(|condition| condition["type"] == kind);
        if has("Other") && has("Dangling") { Ok(object) } else { Err(object) }
    })
    .await;
    assert_eq!(
        (&kept["metadata"]["annotations"]["updated"], &kept["metadata"]["generation"]),
        (&json!("yes"), &json!(2)),
        "conditions are no change of the content"
    );
    let (status, _) = cluster.ask("DELETE", &format!("{list}?labelSelector=mine%3Dyes"), Value::Null).await;
    assert_eq!(status, 200);
    let left = cluster.get(&format!("{list}?labelSelector=mine%3Dyes")).await;
    assert_eq!(left["items"], json!([]));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_level_without_seats_refuses_and_others_do_not() {
    let cluster = Cluster::start().await;
    cluster.create(&format!("{BASE}/flowschemas"), schema("narrow", "narrow", "flood")).await;
    let condition = dangling(&cluster, "narrow", "True").await;
    assert_eq!(
        condition["message"],
        "This FlowSchema references the PriorityLevelConfiguration object named \"narrow\" but there is no such object"
    );
    let level = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "narrow"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 0,
            "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}});
    cluster.create(&format!("{BASE}/prioritylevelconfigurations"), level).await;
    dangling(&cluster, "narrow", "False").await;
    let ask = async |user: &'static str, path: &str| {
        cluster.ask_with("GET", path, Value::Null, &[("impersonate-user", user)]).await
    };
    until("the flood is refused", async || match ask("flood", "/version").await.status {
        429 => Ok(()),
        other => Err(json!(other)),
    })
    .await;
    for path in ["/version", "/api/v1/pods?watch=1"] {
        let answer = ask("flood", path).await;
        assert_eq!((answer.status, answer.header("retry-after")), (429, "1"), "{path}");
        assert_eq!(&answer.body[..], b"Too many requests, please try again later.\n");
        assert!(!answer.header("x-kubernetes-pf-flowschema-uid").is_empty());
    }
    assert_eq!(ask("polite", "/version").await.status, 200);
    let (status, _) = cluster.ask("DELETE", &format!("{BASE}/flowschemas/narrow"), Value::Null).await;
    assert_eq!(status, 200);
    until("the flood is let in", async || match ask("flood", "/version").await.status {
        200 => Ok(()),
        other => Err(json!(other)),
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seats_come_back() {
    let cluster = Cluster::start().await;
    let server = cluster.inside();
    let call = |user: &str| {
        let user = std::sync::Arc::new(crate::auth::User::new(user, &["system:authenticated"]));
        let uri = "/api/v1/pods".parse().expect("a path");
        crate::call::Call::new(Method::GET, &uri, http::HeaderMap::new(), bytes::Bytes::new(), user)
    };
    until("the objects are taken", async || {
        let (_, level) =
            cluster.ask("GET", &format!("{BASE}/prioritylevelconfigurations/global-default"), Value::Null).await;
        let mut headers = http::HeaderMap::new();
        server.flow.classify(&call("u")).mark(&mut headers);
        let told = headers["x-kubernetes-pf-prioritylevel-uid"].to_str().unwrap_or_default().to_owned();
        if level["metadata"]["uid"] == told.as_str() { Ok(()) } else { Err(level) }
    })
    .await;
    let class = server.flow.classify(&call("u"));
    let mut permits = Vec::new();
    // More than its own 49: what others lend comes to it.
    let waits = loop {
        let mut next = Box::pin(server.flow.admit(&class));
        match futures::poll!(&mut next) {
            std::task::Poll::Ready(seated) => permits.push(seated.ok().flatten().expect("a seat")),
            std::task::Poll::Pending => break next,
        }
    };
    assert!(permits.len() > 49, "{}", permits.len());
    drop(permits.pop());
    let seated = waits.await.ok().flatten();
    assert!(seated.is_some(), "the seat goes to who waits");
    drop((seated, permits));
    assert!(server.flow.admit(&class).await.is_ok());
    cluster.stop().await;
}
