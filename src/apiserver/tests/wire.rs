//! What is on the wire: TLS, garbage, limits, discovery documents.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{CONFIG_MAPS, Cluster, config_map};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_hurts_nobody() {
    let cluster = Cluster::start().await;
    for (bytes, expect) in [
        (
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
        ),
        (&b"\0\0garbage"[..], ""),
        (&b"\x16\x03\x01\xff\xffgarbage that is no hello"[..], ""),
    ] {
        let mut stream = TcpStream::connect(cluster.server.local_addr()).await.expect("connects");
        stream.write_all(bytes).await.expect("writes");
        stream.shutdown().await.expect("half closed");
        let mut answer = Vec::new();
        // A reset is an answer too.
        drop(stream.read_to_end(&mut answer).await);
        if !expect.is_empty() {
            assert_eq!(String::from_utf8_lossy(&answer), expect);
        }
    }
    assert_eq!(cluster.get("/readyz").await, "ok");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_and_media_types() {
    let cluster = Cluster::start().await;
    let mut big = config_map("big");
    big["data"]["k"] = "x".repeat(4 << 20).into();
    let (status, error) = cluster.ask("POST", CONFIG_MAPS, big).await;
    assert_eq!((status, &error["reason"]), (413, &json!("RequestEntityTooLarge")), "{error}");
    assert_eq!(error["message"], "Request entity too large: limit is 3145728");
    for (headers, status) in [
        (("accept", "application/vnd.kubernetes.protobuf"), 406),
        (("accept", "text/html"), 406),
        (("accept", "application/vnd.kubernetes.protobuf, application/json"), 201),
        (("content-type", "text/plain"), 415),
    ] {
        let path = format!("{CONFIG_MAPS}?dryRun=All");
        let answer = cluster.ask_with("POST", &path, config_map("m"), &[headers]).await;
        assert_eq!(answer.status, status, "{headers:?}: {}", answer.value());
    }
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: why\ndata:\n  k: \"1\"\n";
    let created =
        super::ask(cluster.admin(), "POST", CONFIG_MAPS, yaml.into(), &[("content-type", "application/yaml")]).await;
    assert_eq!(created.status, 201, "{}", created.value());
    let text =
        cluster.ask_with("GET", &format!("{CONFIG_MAPS}/why"), Value::Null, &[("accept", "application/yaml")]).await;
    assert_eq!(text.header("content-type"), "application/yaml");
    assert!(String::from_utf8_lossy(&text.body).contains("name: why\n"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovery_in_every_form() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.get("/api").await["versions"], json!(["v1"]));
    let groups = cluster.get("/apis").await;
    let apps = groups["groups"].as_array().and_then(|g| g.iter().find(|g| g["name"] == "apps").cloned());
    assert_eq!(apps.expect("apps")["preferredVersion"]["groupVersion"], "apps/v1");
    assert_eq!(cluster.get("/apis/apps").await["kind"], "APIGroup");
    let core = cluster.get("/api/v1").await;
    let find = |name: &str| core["resources"].as_array().and_then(|r| r.iter().find(|r| r["name"] == name).cloned());
    let pods = find("pods").expect("pods");
    assert_eq!(
        (&pods["kind"], &pods["namespaced"], &pods["shortNames"]),
        (&json!("Pod"), &json!(true), &json!(["po"]))
    );
    let eviction = find("pods/eviction").expect("eviction");
    assert_eq!((&eviction["group"], &eviction["version"]), (&json!("policy"), &json!("v1")));
    assert!(find("pods/log").is_some() && find("pods/status").is_some() && find("serviceaccounts/token").is_some());

    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let whole = cluster.ask_with("GET", "/apis", Value::Null, &[("accept", accept)]).await;
    assert_eq!(whole.header("content-type"), "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let list = whole.value();
    let apps = list["items"]
        .as_array()
        .and_then(|i| i.iter().find(|i| i["metadata"]["name"] == "apps").cloned())
        .expect("apps");
    let resources = apps["versions"][0]["resources"].as_array().expect("resources");
    let deployments = resources.iter().find(|r| r["resource"] == "deployments").expect("deployments");
    assert_eq!(
        (&deployments["scope"], &deployments["responseKind"]["kind"]),
        (&json!("Namespaced"), &json!("Deployment"))
    );
    assert!(
        deployments["subresources"].as_array().is_some_and(|s| s.iter().any(|s| s["responseKind"]["kind"] == "Scale"))
    );
    let tag = whole.header("etag").to_owned();
    let again = cluster.ask_with("GET", "/apis", Value::Null, &[("accept", accept), ("if-none-match", &tag)]).await;
    assert_eq!(again.status, 304);
    let older =
        cluster.ask_with("GET", "/api", Value::Null, &[("accept", &accept.replace("v=v2;", "v=v2beta1;"))]).await;
    assert_eq!(older.value()["apiVersion"], "apidiscovery.k8s.io/v2beta1");

    let index = cluster.get("/openapi/v3").await;
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("a URL").to_owned();
    assert_eq!(cluster.get(&url).await["openapi"], "3.0.0");
    assert_eq!(cluster.get("/openapi/v2").await["swagger"], "2.0");
    let protobuf = [("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")];
    let answer = cluster.ask_with("GET", "/openapi/v2", Value::Null, &protobuf).await;
    assert!(answer.status == 200 && answer.body.len() > 10_000);
    // Go's clients can't read the type that they ask for.
    assert_eq!(answer.header("content-type"), "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    let version = cluster.get("/version").await;
    assert!(version["gitVersion"].as_str().is_some_and(|v| v.starts_with("v1.36.0+skiff")), "{version}");
    assert_eq!(cluster.get("/openid/v1/jwks").await["keys"][0]["alg"], "ES256");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_paths_and_peoples_eyes() {
    let cluster = Cluster::start().await;
    for name in ["m", "n"] {
        cluster.create(CONFIG_MAPS, config_map(name)).await;
    }
    let watched = async |path: &str| -> Vec<String> {
        let answer = cluster.ask_with("GET", &format!("{path}?timeoutSeconds=1"), Value::Null, &[]).await;
        assert_eq!(answer.status, 200, "{path}");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event"));
        events.map(|event| event["object"]["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(watched("/api/v1/watch/namespaces/default/configmaps").await, ["m", "n"]);
    assert_eq!(watched("/api/v1/watch/namespaces/default/configmaps/n").await, ["n"]);
    assert_eq!(watched("/api/v1/watch/configmaps").await[..2], ["m", "n"]);
    assert_eq!(watched("/api/v1/watch/namespaces/default").await, ["default"]);
    assert_eq!(watched("/apis/apps/v1/watch/deployments").await, Vec::<String>::new());

    let text = async |path: &str, agent: &str| {
        let answer = cluster.ask_with("GET", path, Value::Null, &[("user-agent", agent)]).await;
        String::from_utf8(answer.body.to_vec()).expect("UTF-8")
    };
    for path in [CONFIG_MAPS, &format!("{CONFIG_MAPS}/m"), &format!("{CONFIG_MAPS}/none"), "/apis"] {
        let (compact, indented) = (text(path, "x").await, text(path, "curl/8.0").await);
        assert!(!compact.trim_end().contains('\n') && indented.starts_with("{\n  \""), "{path}: {indented}");
        let value = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        assert_eq!(value(&compact), value(&indented), "{path}");
    }
    assert!(text(&format!("{CONFIG_MAPS}/m?pretty=true"), "x").await.contains("\n    \"name\": \"m\""));

    // A document under the name of another is none to keep.
    let index = cluster.get("/openapi/v3").await;
    let own = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("a path").to_owned();
    let answer = cluster.ask_with("GET", "/openapi/v3/apis/apps/v1?hash=0", Value::Null, &[]).await;
    assert_eq!((answer.status, answer.header("location")), (301, own.as_str()));
    let answer = cluster.ask_with("GET", &own, Value::Null, &[]).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, "public, immutable"));
    cluster.stop().await;
}
