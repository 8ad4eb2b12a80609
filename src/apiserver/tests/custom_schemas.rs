//! What a schema does to objects: unknown fields, defaults, what is refused and in which words.

use serde_json::{Value, json};

use super::Cluster;
use super::customs::{DEFINITIONS, crd, tab};
use super::watches::Frames;

const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

fn with_schema(spec: Value) -> Value {
    crd(|crd| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = spec)
}

fn object(name: &str, spec: Value) -> Value {
    let mut object = tab(name);
    object["spec"] = spec;
    object
}

async fn refused(cluster: &Cluster, body: Value) -> String {
    let (status, answer) = cluster.ask("POST", TABS, body.clone()).await;
    assert_eq!(status, 422, "{body}: {answer}");
    answer["message"].as_str().expect("a message").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_validated() {
    let cluster = Cluster::start().await;
    cluster.define(crd(|_| {})).await;
    assert_eq!(
        refused(&cluster, object("a", json!({"cronSpec": "* *", "replicas": 15}))).await,
        "CronTab.stable.example.com \"a\" is invalid: [spec.cronSpec: Invalid value: \"* *\": spec.cronSpec in body should \
         match '^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$', spec.replicas: Invalid value: 15: spec.replicas in body should \
         be less than or equal to 10]"
    );
    assert_eq!(
        refused(&cluster, object("a", json!({"replicas": "x"}))).await,
        "CronTab.stable.example.com \"a\" is invalid: [spec.replicas: Invalid value: \"string\": spec.replicas in body must \
         be of type integer: \"string\", spec.cronSpec: Required value]"
    );
    assert_eq!(
        refused(&cluster, json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "A"}}))
            .await,
        "CronTab.stable.example.com \"A\" is invalid: metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain \
         must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric \
         character (e.g. 'example.com', regex used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
    );
    let mut labels = tab("a");
    labels["metadata"]["labels"] = json!({"a": 1});
    let (status, answer) = cluster.ask("POST", TABS, labels).await;
    assert_eq!(
        (status, answer["message"].as_str().is_some_and(|m| m.contains("cannot unmarshal number"))),
        (400, true)
    );
    let mut bare = cluster.create(TABS, tab("b")).await;
    bare["metadata"].as_object_mut().expect("a map").remove("resourceVersion");
    let (status, answer) = cluster.ask("PUT", &format!("{TABS}/b"), bare).await;
    assert_eq!(status, 422, "{answer}");
    assert_eq!(
        answer["message"],
        "crontabs.stable.example.com \"b\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an \
         update"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_and_duplicate_fields() {
    let cluster = Cluster::start().await;
    let spec = json!({"type": "object", "properties": {
        "known": {"type": "string"},
        "loose": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
            "tight": {"type": "object", "properties": {"in": {"type": "string"}}}}},
        "template": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "string"}}}},
        "gone": {"type": "string"}, "kept": {"type": "string", "nullable": true}}});
    cluster.define(with_schema(spec)).await;
    let body = json!({"known": "x", "unknown": 1, "gone": null, "kept": null,
        "loose": {"any": {"thing": 1}, "tight": {"in": "x", "out": "y"}},
        "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "n", "odd": 1}, "spec": {"x": 1}},
        "list": [{"a": "x", "b": "y"}], "map": {"k": {"a": "x", "b": "y"}}});
    let mut sent = object("a", body);
    sent["metadata"]["strange"] = 1.into();
    let answer = cluster.ask_with("POST", TABS, sent.clone(), &[]).await;
    assert_eq!(answer.status, 201, "{}", answer.value());
    let warnings: Vec<&str> = answer.headers.get_all("warning").iter().filter_map(|v| v.to_str().ok()).collect();
    assert_eq!(
        warnings,
        [
            r#"299 - "unknown field \"metadata.strange\"""#,
            r#"299 - "unknown field \"spec.list[0].b\"""#,
            r#"299 - "unknown field \"spec.loose.tight.out\"""#,
            r#"299 - "unknown field \"spec.map.k.b\"""#,
            r#"299 - "unknown field \"spec.unknown\"""#,
            r#"299 - "unknown field \"spec.template.metadata.odd\"""#,
        ]
    );
    assert_eq!(
        answer.value()["spec"],
        json!({"known": "x", "kept": null, "loose": {"any": {"thing": 1}, "tight": {"in": "x"}},
            "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "n"}, "spec": {"x": 1}},
            "list": [{"a": "x"}], "map": {"k": {"a": "x"}}})
    );
    let (status, answer) = cluster.ask("POST", &format!("{TABS}?fieldValidation=Strict"), sent.clone()).await;
    assert_eq!(status, 400);
    assert_eq!(
        answer["message"],
        "CronTab in version \"v1\" cannot be handled as a CronTab: strict decoding error: unknown field \"metadata.strange\", \
         unknown field \"spec.list[0].b\", unknown field \"spec.loose.tight.out\", unknown field \"spec.map.k.b\", unknown \
         field \"spec.unknown\", unknown field \"spec.template.metadata.odd\""
    );
    let ignored = cluster
        .ask_with(
            "POST",
            &format!("{TABS}?fieldValidation=Ignore&dryRun=All"),
            {
                sent["metadata"]["name"] = "b".into();
                sent
            },
            &[],
        )
        .await;
    assert_eq!((ignored.status, ignored.headers.contains_key("warning")), (201, false));
    let twice = r#"{"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "c"},
        "spec": {"loose": {"a": 1, "a": 2}, "odd": 1}}"#;
    let strict = format!("{TABS}?fieldValidation=Strict");
    let answer = super::ask(cluster.admin(), "POST", &strict, twice.into(), &[]).await;
    assert_eq!(
        answer.value()["message"],
        "CronTab in version \"v1\" cannot be handled as a CronTab: strict decoding error: duplicate field \"spec.loose.a\", \
         unknown field \"spec.odd\""
    );
    // A patch is read the same way.
    let (status, answer) =
        cluster.patch(&format!("{TABS}/a?fieldValidation=Strict"), "merge", json!({"spec": {"unknown": 2}})).await;
    assert_eq!(
        (status, answer["message"].as_str().is_some_and(|m| m.ends_with("unknown field \"spec.unknown\""))),
        (422, true)
    );
    let (status, answer) = cluster.patch(&format!("{TABS}/a"), "strategic-merge", json!({"spec": {}})).await;
    assert_eq!(status, 415);
    assert!(
        answer["message"].as_str().is_some_and(|m| m.starts_with("the body of the request was in an unknown format")),
        "{answer}"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_embedded_objects_keep_their_rules() {
    let cluster = Cluster::start().await;
    let spec = json!({"type": "object", "properties": {
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "template": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        "port": {"x-kubernetes-int-or-string": true}}});
    cluster.define(with_schema(spec)).await;
    assert_eq!(
        refused(&cluster, object("a", json!({"set": ["x", "x"], "template": {"kind": "Pod"}, "port": true}))).await,
        "CronTab.stable.example.com \"a\" is invalid: [spec.port: Invalid value: \"boolean\": spec.port in body must be of type \
         integer,string: \"boolean\", spec.template.apiVersion: Required value, spec.set[1]: Duplicate value: \"x\"]"
    );
    for port in [json!(80), json!("http")] {
        let name = format!("p{}", port.to_string().trim_matches('"'));
        cluster.create(TABS, object(&name, json!({"port": port}))).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defaults_come_with_requests_and_from_the_store() {
    let cluster = Cluster::start().await;
    let definition =
        cluster.define(with_schema(json!({"type": "object", "properties": {"a": {"type": "string"}}}))).await;
    let old = cluster.create(TABS, object("old", json!({"a": "x", "later": "y"}))).await;
    assert_eq!(old["spec"], json!({"a": "x"}));
    let mut changed = definition.clone();
    changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
        json!({"type": "object", "properties": {"b": {"type": "string", "default": "B"}}});
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let watch = format!("{TABS}?watch=true&timeoutSeconds=20");
    let mut watching = Frames::open(&cluster, &watch, "").await;
    assert_eq!(watching.next().await.expect("a frame")["object"]["spec"], json!({"a": "x"}));
    assert_eq!(cluster.ask("PUT", &path, changed).await.0, 200);
    assert!(watching.next().await.is_none(), "a watch of the old shape ends");
    // What was stored is shown as it is defined now, in all forms.
    let now = cluster.get(&format!("{TABS}/old")).await;
    assert_eq!((&now["spec"], &now["metadata"]), (&json!({"b": "B"}), &old["metadata"]));
    assert_eq!(cluster.get(TABS).await["items"][0], now);
    let mut watching = Frames::open(&cluster, &watch, "").await;
    assert_eq!(watching.next().await.expect("a frame")["object"], now);
    let new = cluster.create(TABS, object("new", json!({}))).await;
    assert_eq!(new["spec"], json!({"b": "B"}));
    assert_eq!(watching.next().await.expect("a frame")["object"], new);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configurations_are_merged_by_the_schema() {
    let cluster = Cluster::start().await;
    let spec = json!({"type": "object", "properties": {
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
            "items": {"type": "object", "required": ["port"], "properties": {
                "port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}, "name": {"type": "string"}}}},
        "replicas": {"type": "integer"}, "labels": {"type": "object", "additionalProperties": {"type": "string"}}}});
    cluster.define(with_schema(spec)).await;
    let apply = async |manager: &str, more: &str, spec: Value| {
        let path = format!("{TABS}/a?fieldManager={manager}{more}");
        let body = object("a", spec);
        cluster.ask_with("PATCH", &path, body, &[("content-type", "application/apply-patch+yaml")]).await
    };
    let first = apply("one", "", json!({"replicas": 1, "ports": [{"port": 80, "name": "web"}]})).await;
    assert_eq!((first.status, &first.value()["spec"]["ports"][0]["protocol"]), (201, &json!("TCP")));
    let second = apply("two", "", json!({"ports": [{"port": 81}], "labels": {"a": "b"}})).await;
    assert_eq!(second.status, 200, "{}", second.value());
    let ports: Vec<Value> =
        second.value()["spec"]["ports"].as_array().expect("ports").iter().map(|p| p["port"].clone()).collect();
    assert_eq!(ports, [json!(80), json!(81)], "each has its own");
    let conflict = apply("two", "", json!({"ports": [{"port": 81}], "replicas": 2})).await;
    assert_eq!(conflict.status, 409);
    assert_eq!(conflict.value()["message"], "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas");
    let forced = apply("two", "&force=true", json!({"ports": [{"port": 81}], "replicas": 2})).await;
    assert_eq!((forced.status, &forced.value()["spec"]["replicas"]), (200, &json!(2)));
    assert_eq!(forced.value()["spec"].get("labels"), None, "nobody says them any more");
    let managers: Vec<Value> = forced.value()["metadata"]["managedFields"]
        .as_array()
        .expect("owners")
        .iter()
        .map(|o| o["manager"].clone())
        .collect();
    assert_eq!(managers, [json!("one"), json!("two")]);
    let unknown = apply("one", "", json!({"odd": 1})).await;
    let message = unknown.value()["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.ends_with(".spec.odd: field not declared in schema"), "{message}");
    cluster.stop().await;
}
