//! What upstream's conformance asks of custom resources and the validation of fields, case by case, where no test of ours
//! asks it already.

use super::customs::DEFINITIONS;
use super::*;

/// As the conformance tests make it: two versions, `spec` of that schema in both (or none at all).
fn noxus(spec: Option<Value>) -> Value {
    let schema = match spec {
        Some(spec) => json!({"type": "object", "properties": {"spec": spec}}),
        None => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
    };
    let version = |name: &str, served: bool, storage: bool| json!({"name": name, "served": served, "storage": storage, "schema": {"openAPIV3Schema": schema}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "noxus.mygroup.example.com"},
        "spec": {"group": "mygroup.example.com", "scope": "Cluster",
            "names": {"plural": "noxus", "singular": "noxu", "kind": "Noxu", "listKind": "NoxuList"},
            "versions": [version("v1beta1", true, false), version("v1beta2", true, true), version("v0", false, false)]}})
}

fn ports() -> Value {
    let text = || json!({"type": "string"});
    let number = || json!({"type": "integer", "format": "int32"});
    json!({"type": "object", "properties": {
        "foo": text(), "cronSpec": {"type": "string", "pattern": r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$"},
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["containerPort", "protocol"],
            "items": {"type": "object", "required": ["containerPort", "protocol"], "properties": {
                "containerPort": number(), "hostPort": number(), "hostIP": text(), "name": text(), "protocol": text()}}}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_of_custom_resources_are_validated() {
    let mut preserving = ports();
    preserving["x-kubernetes-preserve-unknown-fields"] = true.into();
    let mut embedding = preserving.clone();
    embedding["properties"]["template"] = json!({"type": "object", "x-kubernetes-embedded-resource": true, "properties": {
        "metadata": {"type": "object", "properties": {"name": {"type": "string"}}}, "spec": {"type": "object"}}});
    let body = |meta: &str, spec: &str| {
        format!(
            "\napiVersion: mygroup.example.com/v1beta1\nkind: Noxu\nmetadata:\n  name: mytest\n{meta}  finalizers:\n  - test-finalizer\n\
             spec:\n{spec}  foo: foo1\n  cronSpec: \"* * * * */5\"\n  ports:\n  - name: x\n    containerPort: 80\n    protocol: TCP"
        )
    };
    let embedded = "  template:\n    apiversion: foo/v1\n    kind: Sub\n    metadata:\n        unknownSubMeta: unknown\n        name: subobject\n        namespace: default\n";
    let outside = body("", "").replace("spec:", "unknownField: unknown\nspec:");
    for (spec, body, expect) in [
        (Some(ports()), body("", ""), Ok(())),
        (None, body("", "  unknown: uk1\n"), Ok(())),
        (Some(ports()), outside, Err(".unknownField: field not declared in schema")),
        (
            Some(embedding),
            body("  unknownMeta: unknown\n", embedded),
            Err(".metadata.unknownMeta: field not declared in schema"),
        ),
        (
            Some(preserving),
            body("", "  unknown: uk1\n  foo: foo1\n").replacen("foo: foo1\n  cron", "foo: foo2\n  cron", 1),
            Err(r#"line 11: key \"foo\" already set in map"#),
        ),
    ] {
        let cluster = Cluster::start().await;
        cluster.define(noxus(spec)).await;
        let path =
            "/apis/mygroup.example.com/v1beta1/noxus/mytest?fieldManager=field_validation_mgr&fieldValidation=Strict";
        let headers = [("content-type", "application/apply-patch+yaml")];
        let answer = ask(cluster.admin(), "PATCH", path, body.clone().into(), &headers).await;
        let said = String::from_utf8_lossy(&answer.body);
        match expect {
            Ok(()) => assert_eq!(answer.status, 201, "{body}\n{said}"),
            Err(expect) => assert!(answer.status >= 400 && said.contains(expect), "{body}\n{said}"),
        }
        cluster.stop().await;
    }
}

/// Conditions without a type and a state: they are kept as they come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_of_a_definition_is_updated_and_patched() {
    let cluster = Cluster::start().await;
    cluster.define(noxus(None)).await;
    let path = format!("{DEFINITIONS}/noxus.mygroup.example.com/status");
    let mut definition = cluster.get(&path).await;
    let updated = json!({"type": "", "status": "", "lastTransitionTime": null, "reason": "", "message": "updated"});
    definition["status"]["conditions"].as_array_mut().expect("a list").push(updated);
    let (status, updated) = cluster.ask("PUT", &path, definition.clone()).await;
    let has = |definition: &Value, message: &str| {
        let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
        conditions.filter(|condition| condition["message"] == message).count() == 1
    };
    assert!(status == 200 && has(&updated, "updated"), "{updated}");
    assert_eq!(updated["spec"], definition["spec"]);
    let patch = json!([{"op": "add", "path": "/status/conditions", "value": [{"message": "patched"}]}]);
    let (status, patched) = cluster.patch(&path, "json", patch).await;
    assert!(status == 200 && has(&patched, "patched"), "{patched}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_are_listed_and_deleted_by_label() {
    let cluster = Cluster::start().await;
    for n in 0..5 {
        let mut definition = noxus(None);
        let plural = format!("noxus{n}");
        definition["metadata"]["name"] = format!("{plural}.mygroup.example.com").into();
        definition["spec"]["names"] = json!({"plural": plural, "kind": format!("Noxu{n}")});
        if n > 0 {
            definition["metadata"]["labels"] = json!({"suite": "list"});
        }
        cluster.define(definition).await;
    }
    let selected = format!("{DEFINITIONS}?labelSelector=suite%3Dlist");
    assert_eq!(cluster.get(&selected).await["items"].as_array().map(Vec::len), Some(4));
    assert_eq!(cluster.ask("DELETE", &selected, Value::Null).await.0, 200);
    let gone = |list: &Value| list["items"].as_array().is_some_and(Vec::is_empty);
    cluster.eventually("they are gone", &selected, gone).await;
    let left = cluster.get(DEFINITIONS).await;
    assert_eq!(left["items"][0]["metadata"]["name"], "noxus0.mygroup.example.com");
    assert_eq!(cluster.ask("GET", "/apis/mygroup.example.com/v1beta1/noxus0", Value::Null).await.0, 200);
    assert_eq!(cluster.ask("GET", "/apis/mygroup.example.com/v1beta1/noxus1", Value::Null).await.0, 404);
    cluster.stop().await;
}

/// More unknown fields than headers can hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_mistakes_is_survived() {
    let cluster = Cluster::start().await;
    cluster.define(noxus(Some(ports()))).await;
    let spec: serde_json::Map<String, Value> = (0..40_000).map(|n| (format!("strange{n}"), n.into())).collect();
    let object =
        json!({"apiVersion": "mygroup.example.com/v1beta1", "kind": "Noxu", "metadata": {"name": "a"}, "spec": spec});
    let path = "/apis/mygroup.example.com/v1beta1/noxus";
    let answer = cluster.ask_with("POST", path, object, &[]).await;
    assert_eq!(answer.status, 201, "{}", answer.value());
    let warnings = answer.headers.get_all("warning").iter().count();
    assert!((100..400).contains(&warnings), "{warnings}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_custom_resource_says_what_it_is() {
    let cluster = Cluster::start().await;
    cluster.define(noxus(None)).await;
    let nameless = json!({"metadata": {"name": "n"}});
    let (status, error) = cluster.ask("POST", "/apis/mygroup.example.com/v1beta1/noxus", nameless).await;
    assert_eq!(
        (status, &error["message"]),
        (400, &json!("Object 'Kind' is missing in '{\"metadata\":{\"name\":\"n\"}}'"))
    );
    // The path of a built-in kind says enough.
    assert_eq!(cluster.ask("POST", CONFIG_MAPS, json!({"metadata": {"name": "n"}})).await.0, 201);
    cluster.stop().await;
}
