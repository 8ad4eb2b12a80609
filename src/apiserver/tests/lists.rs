//! Lists: selectors, chunks, revisions, tables.

use serde_json::{Value, json};

use super::{CONFIG_MAPS, Cluster, config_map, labelled};

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items.iter().map(|i| i["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn selects() {
    let cluster = Cluster::start().await;
    for (name, labels) in [("a", json!({"x": "1", "y": "1"})), ("b", json!({"x": "2"})), ("c", json!({}))] {
        cluster.create(CONFIG_MAPS, labelled(name, labels)).await;
    }
    for (query, expect) in [
        ("", vec!["a", "b", "c"]),
        ("labelSelector=x", vec!["a", "b"]),
        ("labelSelector=x%3D1", vec!["a"]),
        ("labelSelector=x+in+(1,2),!y", vec!["b"]),
        ("labelSelector=!x", vec!["c"]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=metadata.name!%3Db", vec!["a", "c"]),
        ("fieldSelector=metadata.name%3Dnope", vec![]),
        ("fieldSelector=metadata.namespace%3Ddefault&labelSelector=x", vec!["a", "b"]),
    ] {
        for path in [CONFIG_MAPS, "/api/v1/configmaps"] {
            let mut found = names(&cluster.get(&format!("{path}?{query}")).await);
            // The server's own.
            found.retain(|name| name != "extension-apiserver-authentication");
            assert_eq!(found, expect, "{path}?{query}");
        }
    }
    let (status, _) = cluster.ask("GET", &format!("{CONFIG_MAPS}?labelSelector=a%3D%3D%3Db"), Value::Null).await;
    assert_eq!(status, 400);
    let (status, deleted) = cluster.ask("DELETE", &format!("{CONFIG_MAPS}?labelSelector=x&limit=1"), Value::Null).await;
    assert_eq!((status, names(&deleted)), (200, vec!["a".to_owned()]));
    let token = deleted["metadata"]["continue"].as_str().expect("more to come");
    // What is new is not of that list.
    cluster.create(CONFIG_MAPS, labelled("bb", json!({"x": "3"}))).await;
    let rest = format!("{CONFIG_MAPS}?labelSelector=x&continue={token}");
    let (status, deleted) = cluster.ask("DELETE", &rest, Value::Null).await;
    assert_eq!((status, names(&deleted)), (200, vec!["b".to_owned()]));
    let (status, deleted) = cluster.ask("DELETE", &format!("{CONFIG_MAPS}?labelSelector=x"), Value::Null).await;
    assert_eq!((status, names(&deleted)), (200, vec!["bb".to_owned()]));
    let (status, _) = cluster.ask("DELETE", &format!("{CONFIG_MAPS}?resourceVersionMatch=Exact"), Value::Null).await;
    assert_eq!(status, 422);
    assert_eq!(names(&cluster.get(CONFIG_MAPS).await), ["c"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_show_one_moment() {
    let cluster = Cluster::start().await;
    for i in 0..7 {
        cluster.create(CONFIG_MAPS, config_map(&format!("c{i}"))).await;
    }
    let first = cluster.get(&format!("{CONFIG_MAPS}?limit=3")).await;
    assert_eq!(names(&first), ["c0", "c1", "c2"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    // What happens meanwhile is not part of the list.
    cluster.ask("DELETE", &format!("{CONFIG_MAPS}/c4"), Value::Null).await;
    cluster.create(CONFIG_MAPS, config_map("c5a")).await;
    let token = first["metadata"]["continue"].as_str().expect("more to come").to_owned();
    let second = cluster.get(&format!("{CONFIG_MAPS}?limit=3&continue={token}")).await;
    assert_eq!(names(&second), ["c3", "c4", "c5"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().expect("more to come");
    let third = cluster.get(&format!("{CONFIG_MAPS}?limit=3&continue={token}")).await;
    assert_eq!(names(&third), ["c6"]);
    assert!(third["metadata"].get("continue").is_none());

    let revision = first["metadata"]["resourceVersion"].as_str().expect("a revision");
    let exact = format!("{CONFIG_MAPS}?resourceVersionMatch=Exact&resourceVersion={revision}");
    assert_eq!(names(&cluster.get(&exact).await), ["c0", "c1", "c2", "c3", "c4", "c5", "c6"]);
    let newer = format!("{CONFIG_MAPS}?resourceVersionMatch=NotOlderThan&resourceVersion={revision}");
    assert_eq!(names(&cluster.get(&newer).await), ["c0", "c1", "c2", "c3", "c5", "c5a", "c6"]);

    // With selectors nobody counts what remains.
    let some = cluster.get(&format!("{CONFIG_MAPS}?limit=2&fieldSelector=metadata.name!%3Dc0")).await;
    assert_eq!(names(&some), ["c1", "c2"]);
    assert!(some["metadata"].get("remainingItemCount").is_none() && some["metadata"]["continue"].is_string());

    // History that is gone: 410, and a way to go on.
    cluster.store.compact(cluster.store.revision());
    let (status, error) = cluster.ask("GET", &format!("{CONFIG_MAPS}?limit=3&continue={token}"), Value::Null).await;
    assert_eq!((status, &error["reason"]), (410, &json!("Expired")), "{error}");
    let token = error["metadata"]["continue"].as_str().expect("a token without consistency");
    assert_eq!(names(&cluster.get(&format!("{CONFIG_MAPS}?continue={token}")).await), ["c5a", "c6"]);
    cluster.stop().await;
}

/// Namespaces of which one's name begins with the other's: the order of the first chunk is that of the next ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_of_all_namespaces_lose_and_double_nothing() {
    let cluster = Cluster::start().await;
    let mut expect = Vec::new();
    for namespace in ["team", "team-a", "team-b", "team0"] {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        cluster.create("/api/v1/namespaces", object).await;
        for name in ["x", "y"] {
            let mut object = labelled(name, json!({"test": "chunks"}));
            object["metadata"]["name"] = format!("{namespace}.{name}").into();
            expect.push(format!("{namespace}.{name}"));
            cluster.create(&format!("/api/v1/namespaces/{namespace}/configmaps"), object).await;
        }
    }
    expect.sort();
    for limit in [1, 2, 3, 5] {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let path = format!("/api/v1/configmaps?labelSelector=test%3Dchunks&limit={limit}&continue={token}");
            let chunk = cluster.get(&path).await;
            seen.extend(names(&chunk));
            match chunk["metadata"]["continue"].as_str() {
                Some(next) => token = next.to_owned(),
                None => break,
            }
        }
        seen.sort();
        assert_eq!(seen, expect, "limit {limit}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_and_metadata() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, config_map("a")).await;
    let accept = |form: &str| format!("application/json;as={form};v=v1;g=meta.k8s.io,application/json");
    let ask = |path: String, form: &'static str| {
        let cluster = &cluster;
        async move {
            let answer = cluster.ask_with("GET", &path, Value::Null, &[("accept", &accept(form))]).await;
            assert_eq!(answer.status, 200);
            answer.value()
        }
    };
    for path in [CONFIG_MAPS.to_owned(), format!("{CONFIG_MAPS}/a")] {
        let table = ask(path, "Table").await;
        assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
        let columns = table["columnDefinitions"].as_array().expect("columns");
        assert_eq!(columns[0]["name"], "Name");
        let row = &table["rows"][0];
        assert_eq!(row["cells"].as_array().map(Vec::len), Some(columns.len()));
        assert_eq!((&row["cells"][0], &row["cells"][1]), (&json!("a"), &json!(1)));
        assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
        assert!(row["object"]["metadata"]["resourceVersion"].is_string() && row["object"].get("data").is_none());
    }
    // What is no object has no table.
    let review = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let only_table = accept("Table").replace(",application/json", "");
    for (accept, status) in [(only_table, 406), (accept("Table"), 201)] {
        let answer = cluster.ask_with("POST", path, review.clone(), &[("accept", &accept)]).await;
        assert_eq!(answer.status, status, "{accept}");
    }
    let table = ask(format!("{CONFIG_MAPS}?includeObject=Object"), "Table").await;
    assert_eq!(table["rows"][0]["object"]["data"]["k"], "v");
    let list = ask(CONFIG_MAPS.to_owned(), "PartialObjectMetadataList").await;
    assert_eq!(
        (&list["kind"], &list["items"][0]["kind"]),
        (&json!("PartialObjectMetadataList"), &json!("PartialObjectMetadata"))
    );
    assert!(list["items"][0].get("data").is_none());
    let one = ask(format!("{CONFIG_MAPS}/a"), "PartialObjectMetadata").await;
    assert_eq!((&one["kind"], &one["metadata"]["name"]), (&json!("PartialObjectMetadata"), &json!("a")));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lists_come_in_pieces_and_whole() {
    let cluster = Cluster::start().await;
    let mut object = config_map("");
    object["data"]["k"] = "x".repeat(50_000).into();
    for i in 0..20 {
        object["metadata"]["name"] = format!("l{i:02}").into();
        cluster.create(CONFIG_MAPS, object.clone()).await;
    }
    let plain = cluster.ask_with("GET", CONFIG_MAPS, Value::Null, &[]).await;
    assert!(plain.body.len() > 1_000_000 && names(&plain.value()).len() == 20);
    let zipped = cluster.ask_with("GET", CONFIG_MAPS, Value::Null, &[("accept-encoding", "gzip")]).await;
    assert_eq!(zipped.header("content-encoding"), "gzip");
    assert!(zipped.body.len() < 100_000, "{}", zipped.body.len());
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&zipped.body[..]), &mut text).expect("gzip");
    assert_eq!(serde_json::from_slice::<Value>(&text).expect("JSON"), plain.value());
    let small =
        cluster.ask_with("GET", &format!("{CONFIG_MAPS}/l01"), Value::Null, &[("accept-encoding", "gzip")]).await;
    assert_eq!(small.header("content-encoding"), "");
    cluster.stop().await;
}

/// As upstream's conformance test of chunks: of any size, in tables too, all of one moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_of_any_size_and_form() {
    let cluster = Cluster::start().await;
    const TOTAL: usize = 40;
    for i in 0..TOTAL {
        cluster.create(CONFIG_MAPS, config_map(&format!("chunk-{i:02}"))).await;
    }
    for (limit, accept) in
        [(3, ""), (17, ""), (40, ""), (41, ""), (7, super::watches::TABLE), (9, super::watches::METADATA)]
    {
        let (mut found, mut token, mut revision) = (0, String::new(), Value::Null);
        loop {
            let path = format!("{CONFIG_MAPS}?limit={limit}&continue={token}");
            let answer = cluster.ask_with("GET", &path, Value::Null, &[("accept", accept)]).await;
            let list = answer.value();
            let items = if list["kind"] == "Table" { &list["rows"] } else { &list["items"] };
            for item in items.as_array().expect("items") {
                let object = if list["kind"] == "Table" { &item["object"] } else { item };
                assert_eq!(object["metadata"]["name"], format!("chunk-{found:02}"), "{limit} {accept}");
                found += 1;
            }
            let meta = &list["metadata"];
            if !revision.is_null() {
                assert_eq!(meta["resourceVersion"], revision);
            }
            revision = meta["resourceVersion"].clone();
            let Some(next) = meta["continue"].as_str() else {
                assert!(meta.get("remainingItemCount").is_none());
                break;
            };
            assert_eq!(meta["remainingItemCount"], TOTAL - found);
            token = next.to_owned();
            // Meanwhile the collection changes.
            let name = format!("chunk-{found:02}");
            cluster.ask("DELETE", &format!("{CONFIG_MAPS}/{name}"), Value::Null).await;
            cluster.create(CONFIG_MAPS, config_map(&name)).await;
        }
        assert_eq!(found, TOTAL, "{limit} {accept}");
    }
    // Who takes anything gets it whole.
    let any = cluster.get(&format!("{CONFIG_MAPS}?resourceVersion=0&limit=3")).await;
    assert!(names(&any).len() == TOTAL && any["metadata"].get("continue").is_none());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_wrongly() {
    let cluster = Cluster::start().await;
    let token = crate::path::continuation::Continuation::behind(&skiff_api::ObjectKey::new("default", "a"), Some(1));
    let token = token.encode("default");
    for (query, status, message) in [
        ("limit=x".to_owned(), 400, r#"strconv.ParseInt: parsing "x": invalid syntax"#),
        ("resourceVersion=x".to_owned(), 400, "invalid resource version: resourceVersion: Invalid value: \"x\""),
        ("continue=x".to_owned(), 400, "invalid continue token: continue key is not valid: "),
        (format!("continue={token}&resourceVersion=1"), 400, "not allowed when using continue"),
        ("sendInitialEvents=true".to_owned(), 422, "sendInitialEvents is forbidden for list"),
        ("resourceVersionMatch=Exact".to_owned(), 422, "forbidden unless resourceVersion is provided"),
        ("fieldSelector=spec.x%3D1".to_owned(), 400, "is not a known field selector"),
        ("labelSelector=a%3D%3D%3Db".to_owned(), 400, ""),
    ] {
        for method in ["GET", "DELETE"] {
            let (got, error) = cluster.ask(method, &format!("{CONFIG_MAPS}?{query}"), Value::Null).await;
            assert_eq!(got, status, "{method} {query}: {error}");
            assert!(error["message"].as_str().is_some_and(|m| m.contains(message)), "{query}: {error}");
        }
    }
    let (status, error) = cluster.ask("GET", &format!("{CONFIG_MAPS}/a?resourceVersion=x"), Value::Null).await;
    assert_eq!((status, &error["reason"]), (400, &json!("BadRequest")));
    cluster.stop().await;
}
