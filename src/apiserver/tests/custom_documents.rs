//! What is published of custom resources: discovery, OpenAPI; and definitions as large as operators bring.

use serde_json::{Map, Value, json};

use super::Cluster;
use super::customs::{DEFINITIONS, crd, tab};

const V3: &str = "/openapi/v3/apis/stable.example.com/v1";
const NAME: &str = "com.example.stable.v1.CronTab";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_come_and_go_with_the_definition() {
    let cluster = Cluster::start().await;
    let before = cluster.get("/openapi/v3").await;
    let tag = |answer: &super::Answer| answer.header("etag").to_owned();
    let v2_before = tag(&cluster.ask_with("GET", "/openapi/v2", Value::Null, &[]).await);
    let definition = cluster
        .define(crd(|crd| {
            let version = &mut crd["spec"]["versions"][0];
            version["selectableFields"] = json!([{"jsonPath": ".spec.image"}]);
            version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["any"] =
                json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
            version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["port"] =
                json!({"x-kubernetes-int-or-string": true});
        }))
        .await;
    let index = cluster.get("/openapi/v3").await;
    assert_eq!(before["paths"].get("apis/stable.example.com/v1"), None);
    let url = index["paths"]["apis/stable.example.com/v1"]["serverRelativeURL"].as_str().expect("a URL").to_owned();
    assert!(url.starts_with(&format!("{V3}?hash=")), "{url}");
    let document = cluster.get(&url).await;
    let schema = &document["components"]["schemas"][NAME];
    assert_eq!(schema["description"], "A cron job.");
    assert_eq!(
        schema["x-kubernetes-group-version-kind"],
        json!([{"group": "stable.example.com", "version": "v1", "kind": "CronTab"}])
    );
    assert_eq!(schema["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec.image"}]));
    let spec = &schema["properties"]["spec"];
    assert_eq!((&spec["description"], &spec["required"]), (&json!("What shall be."), &json!(["cronSpec"])));
    assert_eq!(spec["properties"]["port"]["anyOf"], json!([{"type": "integer"}, {"type": "string"}]));
    let meta = &schema["properties"]["metadata"]["allOf"][0]["$ref"];
    assert_eq!(meta, "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    assert!(document["components"]["schemas"]["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"].is_object());
    assert!(document["components"]["schemas"]["com.example.stable.v1.CronTabList"].is_object());
    let path = "/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}";
    let patch = &document["paths"][path]["patch"];
    assert_eq!(patch["operationId"], "patchStableExampleComV1NamespacedCronTab");
    let types: Vec<&String> = patch["requestBody"]["content"].as_object().expect("types").keys().collect();
    assert_eq!(types, ["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"]);

    let v2 = cluster.ask_with("GET", "/openapi/v2", Value::Null, &[]).await;
    assert_ne!(tag(&v2), v2_before);
    let old_form = &v2.value()["definitions"][NAME];
    assert_eq!(
        old_form["properties"]["spec"]["properties"]["any"],
        json!({"x-kubernetes-preserve-unknown-fields": true})
    );
    assert_eq!(old_form["properties"]["spec"]["properties"]["port"], json!({"x-kubernetes-int-or-string": true}));
    let binary = [("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")];
    let gnostic = cluster.ask_with("GET", "/openapi/v2", Value::Null, &binary).await;
    assert!(gnostic.body.windows(NAME.len()).any(|part| part == NAME.as_bytes()), "the old clients' form has it, too");

    // Another schema is another document.
    let mut changed = definition;
    changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = "Another.".into();
    let (status, _) = cluster.ask("PUT", &format!("{DEFINITIONS}/crontabs.stable.example.com"), changed).await;
    assert_eq!(status, 200);
    let document = cluster.eventually("the new text", V3, |document| {
        document["components"]["schemas"][NAME]["description"] == "Another."
    });
    document.await;
    assert_ne!(cluster.get("/openapi/v3").await["paths"]["apis/stable.example.com/v1"]["serverRelativeURL"], url);
    cluster.ask("DELETE", &format!("{DEFINITIONS}/crontabs.stable.example.com"), Value::Null).await;
    cluster.eventually("withdrawn", V3, |answer| answer["code"] == 404).await;
    assert_eq!(cluster.get("/openapi/v3").await, before);
    assert_eq!(tag(&cluster.ask_with("GET", "/openapi/v2", Value::Null, &[]).await), v2_before);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovery_tells_of_it_in_all_forms() {
    let cluster = Cluster::start().await;
    cluster.define(crd(|_| {})).await;
    let list = cluster.get("/apis/stable.example.com/v1").await;
    let line = &list["resources"][0];
    assert_eq!(
        (&line["name"], &line["singularName"], &line["shortNames"], &line["categories"], &line["kind"]),
        (&json!("crontabs"), &json!("crontab"), &json!(["ct"]), &json!(["all"]), &json!("CronTab"))
    );
    assert_eq!(
        line["verbs"],
        json!(["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"])
    );
    assert_eq!(list["resources"][1]["name"], "crontabs/status");
    let groups = cluster.get("/apis").await;
    let names: Vec<&Value> = groups["groups"].as_array().expect("groups").iter().map(|g| &g["name"]).collect();
    let place = |group: &str| names.iter().position(|name| **name == *group);
    assert!(place("stable.example.com") > place("flowcontrol.apiserver.k8s.io"), "{names:?}");
    let accept = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let aggregated = cluster.ask_with("GET", "/apis", Value::Null, &accept).await.value();
    let mut items = aggregated["items"].as_array().expect("items").iter();
    let group = items.find(|item| item["metadata"]["name"] == "stable.example.com").expect("a group");
    let resource = &group["versions"][0]["resources"][0];
    assert_eq!(
        (&group["metadata"]["name"], &resource["resource"], &resource["scope"], &resource["responseKind"]["kind"]),
        (&json!("stable.example.com"), &json!("crontabs"), &json!("Namespaced"), &json!("CronTab"))
    );
    assert_eq!(resource["subresources"][0]["subresource"], "status");
    cluster.stop().await;
}

/// A definition as operators generate them: pods' specs, described field by field, many times over.
fn large(plural: &str, kind: &str, bytes: usize) -> Value {
    let text =
        "What this is for, at which times it is looked at, and what becomes of it when it is not given. ".repeat(3);
    let container = || {
        let mut fields = Map::new();
        for n in 0..25 {
            fields.insert(
                format!("option{n}"),
                json!({"type": "string", "description": text, "pattern": "^[a-z0-9-]*$"}),
            );
        }
        fields.insert("name".into(), json!({"type": "string", "description": text}));
        fields.insert("port".into(), json!({"x-kubernetes-int-or-string": true, "description": text}));
        fields.insert(
            "limits".into(),
            json!({"type": "object", "additionalProperties": {"x-kubernetes-int-or-string": true}}),
        );
        fields.insert("policy".into(), json!({"type": "string", "enum": ["Always", "Never"], "default": "Always"}));
        json!({"type": "object", "required": ["name"], "properties": fields})
    };
    let mut fields = Map::new();
    let mut size = 0;
    while size < bytes {
        let list = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "description": text, "items": container()});
        size += list.to_string().len();
        fields.insert(format!("containers{}", fields.len()), list);
    }
    let group = "large.example.com";
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}"), "annotations": {"controller-gen.kubebuilder.io/version": "v0.16.1"}},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
                    "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
                    "spec": {"type": "object", "properties": fields},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_definitions_are_usable_at_once() {
    let cluster = Cluster::start().await;
    for (plural, kind, bytes) in [
        ("certificates", "Certificate", 60 << 10),
        ("applications", "Application", 300 << 10),
        ("proms", "Prom", 700 << 10),
    ] {
        let definition = large(plural, kind, bytes);
        assert!(definition.to_string().len() > bytes);
        cluster.define(definition).await;
        let path = format!("/apis/large.example.com/v1/namespaces/default/{plural}");
        let object = json!({"apiVersion": "large.example.com/v1", "kind": kind, "metadata": {"name": "a"},
            "spec": {"containers0": [{"name": "x", "port": "http", "odd": 1}]}});
        let created = cluster.create(&path, object.clone()).await;
        assert_eq!(created["spec"]["containers0"], json!([{"name": "x", "port": "http", "policy": "Always"}]));
        let mut wrong = object;
        wrong["metadata"]["name"] = "b".into();
        wrong["spec"]["containers0"][0]["option0"] = "A".into();
        let (status, error) = cluster.ask("POST", &path, wrong).await;
        assert_eq!((status, &error["details"]["causes"][0]["field"]), (422, &json!("spec.containers0[0].option0")));
    }
    let listed = cluster.get(DEFINITIONS).await;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(3));
    // A table of them is small all the same.
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = cluster.ask_with("GET", DEFINITIONS, Value::Null, &accept).await;
    assert!(table.body.len() < 20_000, "{}", table.body.len());
    assert_eq!(table.value()["rows"][0]["cells"].as_array().map(Vec::len), Some(2), "a name and a time");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_nobody_enforces_are_warned_of() {
    let cluster = Cluster::start().await;
    let with_rules = crd(|crd| {
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
            json!([{"rule": "self.replicas < 5", "message": "too many"}]);
    });
    let answer = cluster.ask_with("POST", DEFINITIONS, with_rules, &[]).await;
    assert_eq!(answer.status, 201);
    assert_eq!(
        answer.header("warning"),
        r#"299 - "spec.versions[v1]: x-kubernetes-validations are stored and published, but not enforced by this server""#
    );
    cluster.until_condition("crontabs.stable.example.com", "Established", "True").await;
    let path = "/apis/stable.example.com/v1/namespaces/default/crontabs";
    let mut many = tab("a");
    many["spec"]["replicas"] = 9.into();
    cluster.create(path, many).await;
    let document = cluster.get(V3).await;
    let spec = &document["components"]["schemas"][NAME]["properties"]["spec"];
    assert_eq!(spec["x-kubernetes-validations"][0]["rule"], "self.replicas < 5");
    cluster.stop().await;
}
